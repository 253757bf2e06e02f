#!/usr/bin/env python3
"""Makes what no public file shows, out of a series of single frames, by software that is not ours.

    make_odd.py legacy CT_DIR OUT     Legacy Converted Enhanced CT by highdicom
    make_odd.py enhanced CT_DIR OUT   the same as a true Enhanced CT: groups per frame, every second frame with its own rescale
    make_odd.py sums FILE...          of each file: pixels × slope + intercept by pydicom, as one JSON line of sums per frame
"""

import copy
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom

warnings.simplefilter("ignore")


def headers(folder):
    found = [pydicom.dcmread(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return sorted(found, key=lambda h: float(h.ImagePositionPatient[2]))


def legacy(folder, out):
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    made = LegacyConvertedEnhancedCTImage(
        legacy_datasets=headers(folder),
        series_instance_uid="2.25.7001",
        series_number=7,
        sop_instance_uid="2.25.7002",
        instance_number=1,
    )
    made.save_as(out)


def enhanced(folder, out):
    """Orientation, measures, rescale and type move to the frames, whose order is shuffled; pixels move with them."""
    legacy(folder, out)
    made = pydicom.dcmread(out)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    shared = made.SharedFunctionalGroupsSequence[0]
    frames = list(made.PerFrameFunctionalGroupsSequence)
    pixels = made.pixel_array
    order = np.random.default_rng(7).permutation(len(frames))
    for n in order:
        for group in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"):
            frames[n][group] = copy.deepcopy(shared[group])
    pixels = pixels.copy()
    for n in order[::2]:
        rescale = frames[n].PixelValueTransformationSequence[0]
        rescale.RescaleSlope, rescale.RescaleIntercept = "0.5", str(float(rescale.RescaleIntercept) + 50)
        # The same HU: 1 × v + b is 0.5 × (2 v − 100) + b + 50.
        pixels[n] = (pixels[n].astype(np.int64) * 2 - 100).astype(pixels.dtype)
    for group in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"):
        del shared[group]
    made.PerFrameFunctionalGroupsSequence = pydicom.Sequence([frames[n] for n in order])
    made.PixelData = pixels[order].tobytes()
    made.save_as(out)


def sums(paths):
    for path in paths:
        header = pydicom.dcmread(path)
        pixels = header.pixel_array.astype(np.float64)
        pixels = pixels.reshape((-1, header.Rows, header.Columns))
        hu = np.rint(pixels * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0)))
        print(json.dumps([int(frame.sum()) for frame in np.clip(hu, -1024, 32767)]))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    {"legacy": legacy, "enhanced": enhanced, "sums": lambda *paths: sums(paths)}[what](*rest)
