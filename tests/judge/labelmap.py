#!/usr/bin/env python3
"""Reads a LABELMAP through dcmqi and pydicom's decoder, and writes highdicom's of the same masks beside it.

    labelmap.py CT_DIR LABELMAP MASKS HIGHDICOM_OUT

dcmqi's volume is compared by patient coordinates alone: every voxel of ours with the voxel of the NRRD that holds its centre.
Exit status 1 when a voxel differs. HIGHDICOM_OUT is there for validators: what they say of both, they do not know.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom

from judge import Slices, read_masks


def labels_of(masks, slices):
    labels = np.zeros(slices.shape, np.uint16)
    for n, mask in enumerate(masks.values()):
        labels[mask] = n + 1
    return labels


def by_pydicom(path, slices):
    """pydicom's decoder, frames put by their positions."""
    seg = pydicom.dcmread(path)
    pixels = seg.pixel_array.reshape(-1, slices.rows, slices.columns)
    labels = np.zeros(slices.shape, np.uint16)
    for groups, frame in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        labels[int(np.argmin(np.linalg.norm(slices.positions - position, axis=1)))] = frame
    return labels


def read_nrrd(path):
    import zlib

    head, _, data = Path(path).read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    if fields["encoding"] in ("gzip", "gz"):
        data = zlib.decompress(data, 31)
    kinds = {"unsigned char": "u1", "short": "<i2", "unsigned short": "<u2", "uint8": "u1", "uint16": "<u2", "int16": "<i2"}
    sizes = [int(v) for v in fields["sizes"].split()]
    kind = kinds[fields["type"]]
    voxels = np.frombuffer(data, kind, int(np.prod(sizes))).reshape(sizes[::-1])
    vector = lambda text: np.array(text.strip("()").split(","), float)
    directions = np.array([vector(v) for v in fields["space directions"].split()]).T
    assert fields["space"] == "left-posterior-superior"
    return voxels, directions, vector(fields["space origin"])


def placed(volume, slices):
    """A volume's values at the centres of the CT's voxels, by patient coordinates; 0 outside it."""
    voxels, directions, origin = volume
    found = np.zeros(slices.shape, voxels.dtype)
    j, i = np.mgrid[: slices.rows, : slices.columns]
    for k, header in enumerate(slices.headers):
        between_rows, between_columns = (float(v) for v in header.PixelSpacing)
        points = slices.positions[k] + np.outer(i.ravel() * between_columns, slices.row)
        points += np.outer(j.ravel() * between_rows, slices.column)
        at = (points - origin) @ np.linalg.inv(directions).T
        index = np.rint(at).astype(int)
        inside = ((index >= 0) & (index < np.array(voxels.shape)[::-1])).all(axis=1)
        # dcmqi spaces its slices evenly; those of the CT may be uneven by a fiftieth of a step.
        assert not inside.any() or np.abs(at - index)[inside].max() < 0.03, "the volume is not on the grid of the CT"
        x, y, z = index[inside].T
        found[k].reshape(-1)[inside] = voxels[z, y, x]
    return found


def dcmqi_tool():
    """The executable itself: pip's wrapper beside the interpreter."""
    beside = Path(sys.executable).with_name("segimage2itkimage")
    return str(beside) if beside.exists() else shutil.which("segimage2itkimage")


def by_dcmqi(path, slices):
    """None where dcmqi writes no volume (a tilted stack is none to it), with what it said."""
    with tempfile.TemporaryDirectory() as folder:
        command = [dcmqi_tool(), "--inputDICOM", str(path), "--outputDirectory", folder, "--mergeSegments"]
        done = subprocess.run(command, capture_output=True, text=True)
        found = sorted(Path(folder).glob("*.nrrd"))
        if done.returncode or len(found) != 1:
            return None, f"exit {done.returncode}: {(done.stderr + done.stdout).strip().splitlines()[-1:]}"
        volume = read_nrrd(found[0])
    return placed(volume, slices), "one volume"


def write_by_highdicom(path, masks, slices, out):
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    ours = [item for item in pydicom.dcmread(path, stop_before_pixels=True).SegmentSequence if item.SegmentNumber]
    descriptions = [
        hd.seg.SegmentDescription(
            n + 1,
            str(item.SegmentLabel),
            hd.sr.CodedConcept.from_dataset(item.SegmentedPropertyCategoryCodeSequence[0]),
            hd.sr.CodedConcept.from_dataset(item.SegmentedPropertyTypeCodeSequence[0]),
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
        )
        for n, item in enumerate(ours)
    ]
    for header in slices.headers:
        for keyword in ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
            if keyword not in header:
                setattr(header, keyword, "")
    stack = labels_of(masks, slices)
    seg = hd.seg.Segmentation(
        source_images=slices.headers,
        pixel_array=stack if stack.max() > 255 else stack.astype(np.uint8),
        segmentation_type="LABELMAP",
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(out)


def main():
    ct, path, masks_path, out = sys.argv[1:]
    slices = Slices(ct)
    masks = read_masks(masks_path, slices)
    expected = labels_of(masks, slices)
    unequal = int((by_pydicom(path, slices) != expected).sum())
    labels, said = by_dcmqi(path, slices)
    theirs = "refused" if labels is None else int((labels != expected).sum())
    steps = slices.positions[1:] - slices.positions[:-1]
    tilted = np.abs(steps - np.outer(steps @ slices.normal, slices.normal)).max() > 0.01
    print(f"{Path(ct).name}: voxels that differ: pydicom {unequal}, dcmqi {theirs} ({said})")
    write_by_highdicom(path, masks, slices, out)
    return int(bool(unequal) or theirs != ("refused" if tilted else 0))


if __name__ == "__main__":
    sys.exit(main())
