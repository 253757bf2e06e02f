#!/usr/bin/env python3
"""A tilted acquisition out of a real one, and how its results agree with those of the real one.

    tilt.py make CT_DIR OUT_DIR DEGREES [SHIFT_MM]
        Samples the series along planes turned about the patient's left-right axis, as a tilted gantry scans: Image Orientation is
        tilted, Image Position moves along the table only. 0 degrees and half a slice of SHIFT_MM make the control: as much
        interpolation, no tilt. Slices whose body is not wholly inside of the source are left out.
    tilt.py compare CT_DIR SEG TILTED_CT_DIR TILTED_SEG
        Brings the masks of the first onto the planes of the second through patient space, and prints Dice, volume ratio and the
        distance of the centroids for every structure that both hold, as JSON.

SciPy and pydicom only: no code of the writer takes part.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
from judge import Slices, dice, read_seg_by_positions
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import map_coordinates

warnings.simplefilter("ignore")
AIR_HU = -1000
BODY_HU = -500


def headers(folder):
    found = [pydicom.dcmread(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return sorted(found, key=lambda h: float(h.ImagePositionPatient[2]))


def plane(header, row, column):
    """Patient coordinates of every pixel's centre, (rows, columns, 3)."""
    between_rows, between_columns = (float(v) for v in header.PixelSpacing)
    j, i = np.mgrid[: header.Rows, : header.Columns]
    steps = i[..., None] * between_columns * np.array(row) + j[..., None] * between_rows * np.array(column)
    return np.array(header.ImagePositionPatient, float) + steps


class Stack:
    """Voxels (slice, row, column) on an upright, evenly spaced grid, and where a patient point lies in it."""

    def __init__(self, positions, spacing, voxels):
        self.origin = positions[0]
        self.step_mm = (positions[-1] - positions[0])[2] / (len(positions) - 1)
        even = self.origin + np.arange(len(positions))[:, None] * [0, 0, self.step_mm]
        assert np.abs(positions - even).max() < 0.01, "an upright, even stack"
        self.between_rows, self.between_columns = spacing
        self.voxels = voxels

    def at(self, points, outside):
        x, y, z = np.moveaxis(points - self.origin, -1, 0)
        index = [z / self.step_mm, y / self.between_rows, x / self.between_columns]
        return map_coordinates(self.voxels, index, order=1, mode="constant", cval=outside, output=np.float32)


def make(ct, out, degrees, shift_mm=0.0):
    sources = headers(ct)
    first = sources[0]
    assert [round(float(v), 6) for v in first.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0], "an upright series"
    hu = np.array([h.pixel_array * float(h.RescaleSlope) + float(h.RescaleIntercept) for h in sources], np.float32)
    stack = Stack(np.array([h.ImagePositionPatient for h in sources], float), [float(v) for v in first.PixelSpacing], hu)
    angle = np.radians(degrees)
    row, column = [1.0, 0.0, 0.0], [0.0, float(np.cos(angle)), float(np.sin(angle))]
    # The planes turn about the middle of the field of view, as the gantry does about its isocentre.
    middle_mm = (first.Rows - 1) / 2 * stack.between_rows
    start = stack.origin + [0, middle_mm * (1 - np.cos(angle)), -middle_mm * np.sin(angle)]
    bottom, top = stack.origin[2], stack.origin[2] + stack.step_mm * (len(sources) - 1)
    Path(out).mkdir(parents=True)
    kept = 0
    for n, source in enumerate(sources):
        made = source
        position = start + [0, 0, n * stack.step_mm + shift_mm]
        made.ImagePositionPatient = [f"{v:.6f}".rstrip("0").rstrip(".") for v in position]
        points = plane(made, row, column)
        values = stack.at(points, AIR_HU)
        # Where the body lies on this plane, from the nearest source slices, whether or not they exist at that place.
        clipped = points.copy()
        clipped[..., 2] = np.clip(points[..., 2], bottom, top)
        body = stack.at(clipped, AIR_HU)[:, first.Columns // 4 : -first.Columns // 4] > BODY_HU
        z = points[:, first.Columns // 4 : -first.Columns // 4, 2][body]
        if z.size == 0 or z.min() < bottom or z.max() > top:
            continue
        kept += 1
        made.ImageOrientationPatient = [f"{v:.9f}".rstrip("0").rstrip(".") for v in [*row, *column]]
        made.GantryDetectorTilt = f"{degrees:g}"
        made.SeriesInstanceUID = f"2.25.7100{abs(int(degrees * 10)):04d}{int(shift_mm * 100):04d}"
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{made.SeriesInstanceUID}.{kept}"
        made.InstanceNumber = kept
        made.SeriesDescription = f"resampled, gantry tilt {degrees:g} degrees"
        made.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
        if "SliceLocation" in made:
            made.SliceLocation = f"{position[2]:.4f}"
        # Signed 16 bits of HU hold what any rescale of the source said.
        made.RescaleSlope, made.RescaleIntercept = "1", "0"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "LargestImagePixelValue"):
            if keyword in made:
                del made[keyword]
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.PixelData = np.rint(values).astype("<i2").tobytes()
        made["PixelData"].VR = "OW"
        made.save_as(Path(out) / f"{kept:04d}.dcm", enforce_file_format=True)
    print(json.dumps({"slices": kept, "of": len(sources), "step_mm": stack.step_mm}))


def masks_of(ct, seg):
    slices = Slices(ct)
    masks, unequal_text = read_seg_by_positions(pydicom.dcmread(seg), slices)
    assert not unequal_text, "every frame lies where its slice lies"
    return slices, masks


def centroid(mask, planes):
    return np.concatenate([points[m] for m, points in zip(mask, planes) if m.any()]).mean(axis=0)


def compare(ct, seg, tilted_ct, tilted_seg):
    slices, masks = masks_of(ct, seg)
    tilted, tilted_masks = masks_of(tilted_ct, tilted_seg)
    spacing = [float(v) for v in slices.headers[0].PixelSpacing]
    planes = [plane(h, h.ImageOrientationPatient[:3], h.ImageOrientationPatient[3:]) for h in tilted.headers]
    said = {}
    for name in sorted(masks.keys() & tilted_masks.keys()):
        stack = Stack(slices.positions, spacing, masks[name].astype(np.float32))
        expected = np.array([stack.at(points, 0) >= 0.5 for points in planes])
        mask = tilted_masks[name]
        apart = np.linalg.norm(centroid(mask, planes) - centroid(expected, planes))
        said[name] = {
            "dice": round(dice(mask, expected), 4),
            "volume_ratio": round(float(mask.sum() / expected.sum()), 4),
            "centroid_mm": round(float(apart), 2),
        }
    only = {"untilted": sorted(masks.keys() - tilted_masks.keys()), "tilted": sorted(tilted_masks.keys() - masks.keys())}
    print(json.dumps({"structures": said, "only": only}, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*sys.argv[2:4], *map(float, sys.argv[4:]))
    else:
        compare(*sys.argv[2:])
