"""Contact sheets for looking: outlines on axial slices, or anchors on coronal and sagittal crops.

  python review.py --data <ct3mm> --masks <masks> --out <folder> [--step 12] [--window soft] volume ...
  python review.py --data <ct3mm> --anchors anchors.json --out <folder> volume ..."""
import argparse
import json
import os

import numpy as np

from common import Volume, load_mask, mask_names, montage, picture


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--masks")
    p.add_argument("--anchors")
    p.add_argument("--out", required=True)
    p.add_argument("--step", type=float, default=12)
    p.add_argument("--window", default="soft")
    p.add_argument("volumes", nargs="+")
    a = p.parse_args()
    for name in a.volumes:
        v, images = Volume(a.data, name), []
        if a.masks:
            masks = {n: load_mask(a.masks, name, n) for n in mask_names(a.masks, name)}
            zs = v.axis(2)[np.any([m.any((1, 2)) for m in masks.values()], 0)]
            images = [picture(v, "a", z, a.window, masks=masks) for z in np.arange(zs[-1], zs[0] - 1, -a.step)]
            montage(images, 5, os.path.join(a.out, name + "_outlines.png"))
        if a.anchors:
            with open(a.anchors) as f:
                points = {n: q for n, q in json.load(f)[name].items() if not n.startswith("_")}
            for n, q in points.items():
                box = [t + d for t in q for d in (-54, 54)]
                window = "lung" if n.startswith(("lung", "carina")) else "bone" if n[0] in "CTLv" or n.startswith(("chin", "stern", "iliac", "fem")) else a.window
                images += [picture(v, ax, q[k], window, 4, 20, points={n: q}, box=box) for ax, k in (("c", 1), ("s", 0))]
            montage(images, 6, os.path.join(a.out, name + "_anchors.png"))


if __name__ == "__main__":
    main()
