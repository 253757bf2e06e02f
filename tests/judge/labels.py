#!/usr/bin/env python3
"""Writes labels as others write them: Segmentations by highdicom, structure sets by pydicom, for the CT series in a folder.

    labels.py --ct DIR --out DIR                          several kinds, of balls and squares
    labels.py --ct DIR --out DIR --truth NIFTI LABELS     truth.dcm: every label, named as in LABELS, under a general code;
                                                         with --only NAME…, those as a BINARY Segmentation

Prints JSON: file → number of the region → flat indices (k, j, i order) of its voxels on the CT, as numpy computes them; for
truth.dcm the count of its voxels.
"""

import argparse
import json
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

ALGORITHM = hd.AlgorithmIdentificationSequence("maker", CodedConcept("123109", "DCM", "Manual Processing"), "1")


def slices_of(folder):
    slices = [pydicom.dcmread(path) for path in sorted(Path(folder).rglob("*.dcm"))]
    normal = np.cross(*np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3))
    slices.sort(key=lambda s: float(np.dot(normal, np.array(s.ImagePositionPatient, float))))
    return slices


def points(slices):
    """Patient position of every voxel, [k, j, i, 3]."""
    out = []
    for s in slices:
        row, column = np.array(s.ImageOrientationPatient, float).reshape(2, 3)
        i, j = np.meshgrid(np.arange(s.Columns), np.arange(s.Rows))
        at = np.array(s.ImagePositionPatient, float) + i[..., None] * row * float(s.PixelSpacing[1])
        out.append(at + j[..., None] * column * float(s.PixelSpacing[0]))
    return np.stack(out)


def ball(at, centre, radius):
    return ((at - centre) ** 2).sum(-1) < radius**2


def description(number, name, code, meaning):
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=CodedConcept("91723000", "SCT", "Anatomical Structure"),
        segmented_property_type=CodedConcept(code, "SCT", meaning),
        algorithm_type="MANUAL",
    )


def seg(slices, pixels, numbers, kind, syntax=ExplicitVRLittleEndian, described=None, **more):
    names = ["Liver", "Spleen"]
    codes = ["10200004", "78961009"]
    if described is None:
        described = [description(n, names[x], codes[x], names[x]) for x, n in enumerate(numbers)]
    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=syntax,
        **more,
    )


def coarse(slices, centre, radius):
    """A segment on pixels of twice the size that begin elsewhere; and what the nearest of them says of the CT's voxels."""
    first = slices[0]
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(x) for x in first.PixelSpacing)
    spacing = (2 * between_rows, 2 * between_columns)
    columns, rows = first.Columns // 2 - 2, first.Rows // 2 - 3
    pixels, positions, expected = [], [], []
    for s in slices:
        origin = np.array(s.ImagePositionPatient, float) + 1.3 * row * between_columns + 2.6 * column * between_rows
        i, j = np.meshgrid(np.arange(columns), np.arange(rows))
        at = origin + i[..., None] * row * spacing[1] + j[..., None] * column * spacing[0]
        inside = ball(at, centre, radius)
        pixels.append(inside)
        positions.append(PlanePositionSequence("PATIENT", [float(f"{x:.10g}") for x in origin]))
        i, j = np.meshgrid(np.arange(s.Columns), np.arange(s.Rows))
        i, j = np.floor((i - 1.3) / 2 + 0.5).astype(int), np.floor((j - 2.6) / 2 + 0.5).astype(int)
        within = (i >= 0) & (j >= 0) & (i < columns) & (j < rows)
        expected.append(within & inside[j.clip(0, rows - 1), i.clip(0, columns - 1)])
    made = seg(
        slices,
        np.stack(pixels).astype(np.uint8),
        [1],
        "BINARY",
        plane_positions=positions,
        plane_orientation=PlaneOrientationSequence("PATIENT", first.ImageOrientationPatient),
        pixel_measures=PixelMeasuresSequence(spacing, float(first.SliceThickness)),
    )
    return made, np.stack(expected)


def structure_set(slices, outlines, syntax):
    """`outlines`: (ROI number, name, geometric type, [(slice or None, points)])."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    data.SOPInstanceUID = generate_uid()
    data.Modality = "RTSTRUCT"
    data.StudyInstanceUID = slices[0].StudyInstanceUID
    data.SeriesInstanceUID = generate_uid()
    frame = Dataset()
    frame.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    data.ReferencedFrameOfReferenceSequence = Sequence([frame])
    rois, contours = [], []
    for number, name, kind, drawn in outlines:
        roi = Dataset()
        roi.ROINumber = number
        roi.ROIName = name
        rois.append(roi)
        item = Dataset()
        item.ReferencedROINumber = number
        item.ContourSequence = Sequence()
        for source, at in drawn:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(at)
            contour.ContourData = [f"{x:.4f}" for point in at for x in point]
            if source is not None:
                image = Dataset()
                image.ReferencedSOPClassUID = source.SOPClassUID
                image.ReferencedSOPInstanceUID = source.SOPInstanceUID
                contour.ContourImageSequence = Sequence([image])
            item.ContourSequence.append(contour)
        contours.append(item)
    data.StructureSetROISequence = Sequence(rois)
    data.ROIContourSequence = Sequence(contours)
    return data


def squares(slices):
    """ROIs of squares: with a hole, without reference and 0.4 slices off, a point, and one slice wrong."""
    step = np.array(slices[1].ImagePositionPatient, float) - np.array(slices[0].ImagePositionPatient, float)
    shape = (len(slices), slices[0].Rows, slices[0].Columns)

    def square(s, low, high, off=0.0):
        row, column = np.array(s.ImageOrientationPatient, float).reshape(2, 3)
        origin = np.array(s.ImagePositionPatient, float) + off * step
        corners = [(low, low), (high, low), (high, high), (low, high)]
        return [origin + x * row * float(s.PixelSpacing[1]) + y * column * float(s.PixelSpacing[0]) for x, y in corners]

    ring = np.zeros(shape, bool)
    ring[2:5, 5:15, 5:15] = True
    ring[2:5, 8:11, 8:11] = False
    rings = [(s, square(s, low, high)) for s in slices[2:5] for low, high in ((4.5, 14.5), (7.5, 10.5))]
    off = np.zeros(shape, bool)
    off[3:6, 2:9, 2:9] = True
    offs = [(None, square(s, 1.6, 8.4, 0.4)) for s in slices[3:6]]
    good = [
        (1, "Liver", "CLOSEDPLANAR_XOR", rings),
        (2, "Spleen", "CLOSED_PLANAR", offs),
        (3, "Isocentre", "POINT", [(None, square(slices[0], 1, 2)[:1])]),
    ]
    wrong = [(1, "Liver", "CLOSED_PLANAR", [(slices[5], square(slices[2], 4.5, 14.5))])]
    return good, wrong, {"1": ring, "2": off, "3": np.zeros(shape, bool)}


def of_truth(slices, nifti, names):
    """A label volume in RAS, which may lie the other way round, as a LABELMAP on the CT's slices."""
    import nibabel

    volume = nibabel.load(nifti)
    values, inverse = np.asarray(volume.dataobj), np.linalg.inv(volume.affine)
    ras = points(slices).reshape(-1, 3) * [-1, -1, 1]
    index = np.round(ras @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    within = ((index >= 0) & (index < values.shape)).all(1)
    pixels = np.zeros(len(index), np.uint8)
    pixels[within] = values[tuple(index[within].T)]
    names = {int(n): name for n, name in json.loads(Path(names).read_text())["labels"].items()}
    described = [description(n, name, "85756007", "Tissue") for n, name in sorted(names.items())]
    pixels = pixels.reshape(len(slices), slices[0].Rows, slices[0].Columns)
    return described, pixels


def some_of(slices, described, pixels, names, path):
    """A BINARY Segmentation of a few labels, which every archive takes."""
    chosen = [d for d in described if d.SegmentLabel in names]
    planes = [pixels == int(d.SegmentNumber) for d in chosen]
    for n, d in enumerate(chosen, 1):
        d.SegmentNumber = n
    numbers = list(range(1, len(chosen) + 1))
    made = seg(slices, np.stack(planes, -1).astype(np.uint8), numbers, "BINARY", described=chosen)
    made.save_as(path)
    json.dump({"truth": {str(n): [int(planes[n - 1].sum())] for n in numbers}}, sys.stdout)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--truth", nargs=2)
    arguments.add_argument("--only", nargs="+")
    arguments.add_argument("--ct", required=True)
    arguments.add_argument("--out", required=True)
    arguments = arguments.parse_args()
    slices, out = slices_of(arguments.ct), Path(arguments.out)
    if arguments.truth:
        described, pixels = of_truth(slices, *arguments.truth)
        if arguments.only:
            return some_of(slices, described, pixels, arguments.only, out / "truth.dcm")
        numbers = [int(d.SegmentNumber) for d in described]
        made = seg(slices, pixels, numbers, "LABELMAP", RLELossless, described=described)
        made.save_as(out / "truth.dcm")
        counts = np.bincount(pixels.ravel(), minlength=max(numbers) + 1)
        json.dump({"truth": {str(n): [int(counts[n])] for n in numbers}}, sys.stdout)
        return
    at = points(slices)
    middle = at.reshape(-1, 3).mean(0)
    size = np.ptp(at.reshape(-1, 3), axis=0).min()
    one, two = ball(at, middle + size * 0.1, size * 0.3), ball(at, middle - size * 0.15, size * 0.25)
    both = np.stack([one, two], -1).astype(np.uint8)
    apart = np.where(one, 1, np.where(two, 2, 0)).astype(np.uint8)
    wide = np.where(one, 1, np.where(two, 300, 0)).astype(np.uint16)
    fractions = np.stack([one * 0.5, two * 1.0 + (~two) * 0.49], -1)
    overlapping = {"1": one, "2": two}
    exclusive = {"1": one, "2": two & ~one}
    made = {
        "binary": (seg(slices, both, [1, 2], "BINARY"), overlapping),
        "fractional": (seg(slices, fractions, [1, 2], "FRACTIONAL", max_fractional_value=200), overlapping),
        "labelmap": (seg(slices, apart, [1, 2], "LABELMAP"), exclusive),
        "labelmap_rle": (seg(slices, apart, [1, 2], "LABELMAP", RLELossless), exclusive),
        "labelmap_jpegls": (seg(slices, apart, [1, 2], "LABELMAP", JPEGLSLossless), exclusive),
        "labelmap16": (seg(slices, wide, [1, 300], "LABELMAP"), {"1": one, "300": two & ~one}),
        "labelmap16_rle": (seg(slices, wide, [1, 300], "LABELMAP", RLELossless), {"1": one, "300": two & ~one}),
    }
    moved, expected = coarse(slices, middle, size * 0.35)
    made["coarse"] = (moved, {"1": expected})
    good, wrong, expected = squares(slices)
    made["squares"] = (structure_set(slices, good, ImplicitVRLittleEndian), expected)
    made["squares_big_endian"] = (structure_set(slices, good, ExplicitVRBigEndian), expected)
    made["squares_deflated"] = (structure_set(slices, good, DeflatedExplicitVRLittleEndian), expected)
    made["contradiction"] = (structure_set(slices, wrong, ExplicitVRLittleEndian), {})
    report = {}
    for name, (data, regions) in made.items():
        data.save_as(out / f"{name}.dcm", enforce_file_format=True)
        report[name] = {number: np.flatnonzero(voxels).tolist() for number, voxels in regions.items()}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
