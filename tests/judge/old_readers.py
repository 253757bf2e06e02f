#!/usr/bin/env python3
"""Our SEG by pydicom-seg and our RTSTRUCT by platipy, voxel by voxel against the masks as computed (`process --masks`).

    old_readers.py CT_DIR SEG RTSTRUCT MASKS

Both need pydicom 2, which the other judges do not: `pip install pydicom-seg==0.4.1 platipy==0.7.2` into an environment of their own.
Prints JSON: per reader and structure the Dice, the volume ratio and the distance of the centroids; or what the reader says instead.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from judge import Slices, dice, read_masks

warnings.simplefilter("ignore")
# Under this distance a plane of a reader's volume is the slice.
SAME_PLANE_MM = 0.1


def on_slices(image, slices):
    """A reader's volume on our slices, each plane where the reader says it lies; and how many planes lie on none of them."""
    voxels = sitk.GetArrayFromImage(image).astype(bool)
    mask, astray = np.zeros(slices.shape, bool), 0
    for k, plane in enumerate(voxels):
        at = np.array(image.TransformIndexToPhysicalPoint((0, 0, k)))
        away = np.linalg.norm(slices.positions - at, axis=1)
        nearest = int(np.argmin(away))
        if away[nearest] < SAME_PLANE_MM and plane.shape == slices.shape[1:]:
            mask[nearest] = plane
        else:
            astray += int(plane.any())
    return mask, astray


def compared(found, slices, wanted):
    said = {}
    for name, image in found.items():
        mask, astray = on_slices(image, slices)
        entry = {"dice": round(dice(mask, wanted[name]), 4), "volume_ratio": round(float(mask.sum() / wanted[name].sum()), 4)}
        if mask.any():
            spacing = [*map(float, slices.headers[0].PixelSpacing)]
            scale = np.array([np.linalg.norm(slices.positions[1] - slices.positions[0]), *spacing])
            apart = (np.argwhere(mask).mean(axis=0) - np.argwhere(wanted[name]).mean(axis=0)) * scale
            entry["centroid_mm"] = round(float(np.linalg.norm(apart)), 3)
        if astray:
            entry["planes_on_no_slice"] = astray
        said[name] = entry
    said["missing"] = sorted(wanted.keys() - found.keys())
    return said


def by_pydicom_seg(path):
    import pydicom_seg

    data = pydicom.dcmread(path)
    result = pydicom_seg.SegmentReader().read(data)
    names = {s.SegmentNumber: s.TrackingID for s in data.SegmentSequence}
    return {names[number]: result.segment_image(number) for number in result.available_segments}


def by_platipy(ct, path, seg):
    from platipy.dicom.io.rtstruct_to_nifti import convert_rtstruct

    labels = {s.SegmentLabel: s.TrackingID for s in pydicom.dcmread(seg, stop_before_pixels=True).SegmentSequence}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        convert_rtstruct(str(ct), str(path), prefix="", output_dir=folder, spacing=None)
        for file in Path(folder).glob("*.nii.gz"):
            found[labels[file.name.removesuffix(".nii.gz")]] = sitk.ReadImage(str(file))
    return found


def main(ct, seg, rtstruct, masks):
    slices = Slices(ct)
    wanted = read_masks(masks, slices)
    readers = {"pydicom-seg": lambda: by_pydicom_seg(seg), "platipy": lambda: by_platipy(ct, rtstruct, seg)}
    said = {}
    for reader, read in readers.items():
        try:
            said[reader] = compared(read(), slices, wanted)
        except Exception as problem:  # what it says is the finding
            said[reader] = f"{type(problem).__name__}: {problem}"
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
