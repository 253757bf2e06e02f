"""Masks -> ../<volume>.json: six extreme points and ~15 mm sections per structure, never pixels.

  python points.py --data <ct3mm> --masks <masks> --out .. [volume ...]

faces.json: faces that are left out because they are not to be seen with certainty (added to those the field of view
cuts), ranges of z outside of which a mask is not used, and what was placed by eye where the outline stops short of the end:
extreme points, and boxes z0, z1, x0, x1, y0, y1 of the missing parts, millimetres LPS."""
import argparse
import json
import os

import numpy as np

from common import Volume, load_mask, mask_names, read_json

SOURCE = {"acrin_breast_001_a": ("ACRIN-FLT-Breast", "CC BY 3.0"), "acrin_breast_001_b": ("ACRIN-FLT-Breast", "CC BY 3.0"),
          "acrin_breast_013": ("ACRIN-FLT-Breast", "CC BY 3.0"), "acrin_nsclc_042": ("ACRIN-NSCLC-FDG-PET", "CC BY 3.0"),
          "cmb_crc_01068": ("CMB-CRC", "CC BY 4.0"), "cptac_gbm_01192": ("CPTAC-GBM", "CC BY 3.0"),
          "cptac_pda_00189": ("CPTAC-PDA", "CC BY 3.0"), "crlm_1004": ("Colorectal-Liver-Metastases", "CC BY 4.0"),
          "crlm_1006": ("Colorectal-Liver-Metastases", "CC BY 4.0"), "lidc_0314": ("LIDC-IDRI", "CC BY 3.0")}
# several volumes of one patient; the others' patient is the volume
PATIENT = {"acrin_breast_001_a": "acrin_breast_001", "acrin_breast_001_b": "acrin_breast_001"}
# outlined but not trusted
DROP = {"lidc_0314": ["lung_right"]}  # collapse and effusion
FACES = ("z_min", "y_min", "x_min", "z_max", "y_max", "x_max")


def point(v, m, face):
    """A voxel on that bound (the most central one), moved 1.2 mm outwards: still inside the voxel."""
    axis, low = "xyz".index(face[0]), face.endswith("min")
    q = np.array(np.where(m))
    c = q[:, q[2 - axis] == (q[2 - axis].min() if low else q[2 - axis].max())]
    i = c[:, ((c - c.mean(1, keepdims=True)) ** 2).sum(0).argmin()]
    p = v.world(i[::-1])
    p[axis] += (-.4 if low else .4) * v.s[axis]
    return [round(float(t), 1) for t in p]


def entry(v, m, cut):
    zs, cut = np.where(m.any((1, 2)))[0], set(cut)
    cut |= {"z_min"} if zs[0] <= 0 else set()
    cut |= {"z_max"} if zs[-1] >= m.shape[0] - 1 else set()
    e = {"complete": not cut}
    if cut:
        e["cut"] = sorted(cut)
    e["extremes"] = {f: point(v, m, f) for f in FACES if f not in cut}
    n = max(1, int(round((zs[-1] - zs[0] + 1) * 3 / 15)))
    edges, e["sections"] = np.linspace(zs[0], zs[-1] + 1, n + 1).round().astype(int), []
    for a, b in zip(edges[:-1], edges[1:]):
        s = np.zeros_like(m)
        s[a:b] = m[a:b]
        if s.sum() >= 4:
            e["sections"].append({"z_mm": [round(float(v.o[2] + 3 * t - 1.5), 1) for t in (a, b)],
                                  **{f: point(v, s, f) for f in ("y_min", "y_max", "x_min", "x_max")}})
    return e


def add_by_eye(e, extremes, boxes):
    e["extremes"] |= {f: [float(t) for t in q] for f, q in extremes.items()}
    e["cut"] = [f for f in e.get("cut", ()) if f not in extremes]
    for z0, z1, x0, x1, y0, y1 in boxes:
        x, y, z = (x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2
        e["sections"].append({"z_mm": [z0, z1], "y_min": [x, y0, z], "y_max": [x, y1, z], "x_min": [x0, y, z], "x_max": [x1, y, z]})
    e["sections"].sort(key=lambda s: s["z_mm"])
    e["complete"] = not e["cut"]
    if not e["cut"]:
        del e["cut"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--masks", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("only", nargs="*")
    a = p.parse_args()
    faces, presence = read_json("faces.json"), read_json("presence.json")
    for name in a.only or SOURCE:
        v, structures = Volume(a.data, name), {}
        have = mask_names(a.masks, name)
        for n in presence[name]:
            rule = faces.get(name, {}).get(n, {})
            if n in have and n not in DROP.get(name, ()):
                m = load_mask(a.masks, name, n)
                if "keep_z" in rule:
                    lo, hi = rule["keep_z"]
                    m &= ((v.axis(2) >= lo) & (v.axis(2) <= hi))[:, None, None]
                structures[n] = entry(v, m, rule.get("cut", ()))
                if "by_eye" in rule:
                    add_by_eye(structures[n], **rule["by_eye"])
        patient = {"patient": PATIENT[name]} if name in PATIENT else {}
        head = {"volume": name, **patient, "file": name + ".nii.gz", "source": SOURCE[name][0], "licence": SOURCE[name][1],
                "made_by": "model-assisted, reviewed by eye, not by a physician", "presence": presence[name]}
        with open(os.path.join(a.out, name + ".json"), "w") as f:
            f.write("{\n" + "".join(" %s: %s,\n" % (json.dumps(k), json.dumps(x)) for k, x in head.items()) + ' "structures": {\n')
            f.write(",\n".join('  "%s": {"complete": %s,%s\n   "extremes": %s,\n   "sections": [\n%s]}' % (
                n, json.dumps(e["complete"]), ' "cut": %s,' % json.dumps(e["cut"]) if "cut" in e else "", json.dumps(e["extremes"]),
                ",\n".join("    " + json.dumps(s) for s in e["sections"])) for n, e in structures.items()) + "\n }\n}\n")
        print(name, *structures)


if __name__ == "__main__":
    main()
