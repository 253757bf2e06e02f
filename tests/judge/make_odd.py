#!/usr/bin/env python3
"""Makes what no public file shows, out of a series of single frames, by software that is not ours.

    make_odd.py legacy CT_DIR OUT     Legacy Converted Enhanced CT by highdicom
    make_odd.py enhanced CT_DIR OUT   the same as a true Enhanced CT: groups per frame, every second frame with its own rescale
    make_odd.py htj2k FILE OUT        one slice as HTJ2K lossless by OpenJPH (ojph_compress), which is not our decoder's library
"""

import copy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.encaps

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


def htj2k(file, out):
    made = pydicom.dcmread(file)
    # OpenJPH 0.9 reads raw signed pixels as unsigned ones: stored 2048 higher, with an intercept that much lower.
    stored = (made.pixel_array.astype(np.int32) + 2048).astype(np.uint16)
    made.PixelRepresentation, made.RescaleIntercept = 0, str(int(made.RescaleIntercept) - 2048)
    with tempfile.TemporaryDirectory() as folder:
        raw, stream = Path(folder) / "pixels.raw", Path(folder) / "pixels.j2c"
        raw.write_bytes(stored.tobytes())
        subprocess.run(
            ["ojph_compress", "-i", raw, "-o", stream, "-reversible", "true", "-num_comps", "1", "-downsamp", "{1,1}"]
            + ["-dims", f"{{{made.Columns},{made.Rows}}}", "-bit_depth", str(made.BitsStored)]
            + ["-signed", "false", "-prog_order", "RPCL"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        made.PixelData = pydicom.encaps.encapsulate([stream.read_bytes()])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.202"
    made.save_as(out)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    {"legacy": legacy, "enhanced": enhanced, "htj2k": htj2k}[what](*rest)
