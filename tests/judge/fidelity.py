#!/usr/bin/env python3
"""How true contours are: the same masks written by us and by rt-utils, read back by three readers.

    fidelity.py CT_DIR MASKS RTSTRUCT...

Prints a table: for every structure the area of the polygons over that of the mask, and the Dice of what a reader makes of them:
judge.py's scan lines (voxel centres), rt-utils, and plastimatch where it is installed. A reader that fails has a dash.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from judge import Slices, dice, read_masks, read_rtstruct
from labelmap import placed, read_nrrd


def by_scan_lines(path, slices):
    masks, facts = read_rtstruct(path, slices)
    areas = {name: facts[name]["area_ratio"] * max(1, int(masks[name].sum())) for name in masks}
    return masks, areas, {name: facts[name]["points"] for name in masks}


def by_rt_utils(path, ct):
    from rt_utils import RTStructBuilder

    structure_set = RTStructBuilder.create_from(dicom_series_path=str(ct), rt_struct_path=str(path))
    # rt-utils sorts slices along their normal, as we do.
    return {name: np.moveaxis(structure_set.get_roi_mask_by_name(name), 2, 0) for name in structure_set.get_roi_names()}


def write_grid(slices, path):
    """An empty image on the grid of the CT, which plastimatch rasterises on; without it, it invents a grid."""
    header = slices.headers[0]
    between_rows, between_columns = (float(v) for v in header.PixelSpacing)
    step = (slices.positions[-1] - slices.positions[0]) / (len(slices.headers) - 1)
    axes = np.array([slices.row, slices.column, step / np.linalg.norm(step)])
    numbers = lambda values: " ".join(f"{v:.9g}" for v in np.ravel(values))
    head = f"""ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
TransformMatrix = {numbers(axes)}
Offset = {numbers(slices.positions[0])}
ElementSpacing = {numbers([between_columns, between_rows, np.linalg.norm(step)])}
DimSize = {numbers(slices.shape[::-1])}
ElementType = MET_UCHAR
ElementDataFile = LOCAL
"""
    path.write_bytes(head.encode() + bytes(int(np.prod(slices.shape))))
    return path


def by_plastimatch(path, slices):
    if shutil.which("plastimatch") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        grid = write_grid(slices, Path(folder) / "grid.mha")
        command = ["plastimatch", "convert", "--input", str(path), "--fixed", str(grid)]
        command += ["--output-prefix", folder, "--prefix-format", "nrrd"]
        subprocess.run(command, capture_output=True, check=False)
        return {file.stem: placed(read_nrrd(file), slices) > 0 for file in Path(folder).glob("*.nrrd")}


def write_by_rt_utils(ct, masks, out, pin_hole):
    from rt_utils import RTStructBuilder

    structure_set = RTStructBuilder.create_new(dicom_series_path=str(ct))
    for name, mask in masks.items():
        structure_set.add_roi(mask=np.moveaxis(mask, 0, 2), name=name, use_pin_hole=pin_hole)
    structure_set.save(str(out))


def guarded(read, *arguments):
    try:
        return read(*arguments)
    except Exception as error:  # a foreign reader that gives up is a row with dashes, not an end
        print(f"{read.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        return {}


def main():
    ct, masks_path, *objects = sys.argv[1:]
    slices = Slices(ct)
    masks = read_masks(masks_path, slices)
    with tempfile.TemporaryDirectory() as folder:
        for pin_hole in (False, True):
            out = Path(folder) / f"rt-utils{' pin hole' if pin_hole else ''}.dcm"
            write_by_rt_utils(ct, masks, out, pin_hole)
            objects.append(str(out))
        print(f"{'written by':18} {'structure':12} voxels points   area  scan   rt-utils plastimatch")
        for path in objects:
            scan, areas, points = by_scan_lines(path, slices)
            utils = guarded(by_rt_utils, path, ct)
            plastimatch = guarded(by_plastimatch, path, slices)
            for name, mask in masks.items():
                show = lambda found: f"{dice(found[name], mask):.4f}" if name in found else "-"
                ratio = areas[name] / int(mask.sum()) if name in areas else float("nan")
                print(
                    f"{Path(path).stem:18} {name:12} {int(mask.sum()):6} {points.get(name, 0):6} {ratio:.4f} {show(scan)}"
                    f" {show(utils):8} {show(plastimatch)}"
                )


if __name__ == "__main__":
    main()
