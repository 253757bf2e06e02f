"""landmarks_by_eye.json + the templates' points -> ../../train/anchors.json.

  python landmarks.py --data <ct3mm> --masks <masks> --templates .. --out ../../train/anchors.json

Lung apices and domes are moved to the surface near the point read off the picture (unless marked "fixed");
kidney poles, the tips of liver, spleen, shoulder blades and heart, the poles of the brain and the middles of the eyes come
from the outlines where these exist."""
import argparse
import json
import os

import numpy as np

from common import Volume, load_mask, mask_names, read_json

POLES = (("kidney_right", "z_max", "kidney_right_upper"), ("kidney_right", "z_min", "kidney_right_lower"),
         ("kidney_left", "z_max", "kidney_left_upper"), ("kidney_left", "z_min", "kidney_left_lower"),
         ("liver", "z_min", "liver_lower_tip"), ("spleen", "z_min", "spleen_lower_tip"),
         ("scapula_right", "z_min", "scapula_right_tip"), ("scapula_left", "z_min", "scapula_left_tip"),
         ("brain", "y_min", "frontal_pole"), ("brain", "y_max", "occipital_pole"))
# middles of small round structures
MIDDLES = ("eye_left", "eye_right")


def apex(v, p, r=8):
    x, y, z = (int(round(t)) if n < 2 else int(t) for n, t in enumerate(v.index(p)))
    x0, y0 = max(0, x - r), max(0, y - r)
    for k in range(min(v.a.shape[0] - 1, z + 6), z - 7, -1):
        q = v.a[k, y0:y + r + 1, x0:x + r + 1] < -400
        if q.sum() >= 4:
            j, i = np.where(q)
            return v.world((x0 + i.mean(), y0 + j.mean(), k))
    return np.array(p, float)


def dome(v, p, r=6):
    x, y, z = v.index(p)
    top, at = None, []
    for j in range(max(0, int(round(y)) - r), min(v.a.shape[1], int(round(y)) + r + 1)):
        for i in range(max(0, int(round(x)) - r), min(v.a.shape[2], int(round(x)) + r + 1)):
            for k in range(int(z) + 8, int(z) - 9, -1):
                if 6 <= k < v.a.shape[0] - 3 and v.a[k, j, i] > -150 and (v.a[k + 1:k + 4, j, i] < -150).all() and (v.a[k - 6:k, j, i] > -150).all():
                    if top is None or k > top:
                        top, at = k, []
                    if k == top:
                        at.append((i, j))
                    break
    return np.array(p, float) if top is None else v.world((*np.mean(at, 0), top))


def main():
    p = argparse.ArgumentParser()
    for o in ("--data", "--masks", "--templates", "--out"):
        p.add_argument(o, required=True)
    a = p.parse_args()
    presence, out = read_json("presence.json"), {}
    for name, points in read_json("landmarks_by_eye.json").items():
        v, out[name] = Volume(a.data, name), {}
        for n, q in points.items():
            fixed, q = "fixed" in q, q[:3]
            q = q if fixed else dome(v, q) if n.startswith("dome") else apex(v, q) if n.startswith("lung_apex") else q
            out[name][n] = [round(float(t), 1) for t in q]
        file = os.path.join(a.templates, name + ".json")
        if os.path.exists(file):
            with open(file) as f:
                structures = json.load(f)["structures"]
            for s, face, n in POLES:
                if s in structures:
                    out[name].pop(n, None)
                    if face in structures[s]["extremes"]:
                        out[name][n] = structures[s]["extremes"][face]
            for s in MIDDLES:
                if s in structures:
                    ends = structures[s]["extremes"]
                    out[name][s] = [round((ends[axis + "_min"][i] + ends[axis + "_max"][i]) / 2, 1) for i, axis in enumerate("xyz")]
        if "heart" in mask_names(a.masks, name):
            q = np.array(np.where(load_mask(a.masks, name, "heart")))
            score = q[2] * .6 - q[1] * .5 - q[0] * .62  # left, front, down
            out[name]["heart_apex"] = [round(float(t), 1) for t in v.world(q[:, score >= score.max() - 3].mean(1)[::-1])]
        out[name]["_presence"] = presence[name]
    with open(a.out, "w") as f:
        f.write("{\n" + ",\n".join(" %s: {\n" % json.dumps(n) + ",\n".join("  %s: %s" % (json.dumps(k), json.dumps(x)) for k, x in e.items()) + "\n }"
                                   for n, e in out.items()) + "\n}\n")


if __name__ == "__main__":
    main()
