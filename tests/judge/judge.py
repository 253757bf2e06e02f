#!/usr/bin/env python3
"""Reads a CT series with its SEG and RTSTRUCT and says whether they hold the same masks, in the right place.

Shares no code with the writer: SEG through highdicom and, a second time, through pydicom and the frames' own positions;
RTSTRUCT by a scan-line fill of its contours in the pixels of the slice each contour refers to.

    judge.py --ct DIR [--seg FILE] [--rtstruct FILE] [--masks FILE] [--truth seg.nii.gz labels.json]

--masks   the masks as computed (`process --masks`): every voxel must agree
--truth   reference labels on the grid of the CT, for Dice per structure
Prints JSON. Exit status 0 when all that must agree agrees, 1 otherwise.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pydicom


def frame_headers(header):
    """Each frame of a multi-frame object as the header of a single one; Instance Number is the frame's."""
    shared = header.SharedFunctionalGroupsSequence[0]
    found = []
    for n, own in enumerate(header.PerFrameFunctionalGroupsSequence):
        frame = pydicom.Dataset()
        for keyword in ("SOPInstanceUID", "Rows", "Columns", "NumberOfFrames"):
            frame[keyword] = header[keyword]
        for group, keyword in (
            ("PlanePositionSequence", "ImagePositionPatient"),
            ("PlaneOrientationSequence", "ImageOrientationPatient"),
            ("PixelMeasuresSequence", "PixelSpacing"),
        ):
            frame[keyword] = (own if group in own else shared)[group][0][keyword]
        frame.InstanceNumber = n + 1
        found.append(frame)
    return found


def by_source(seg, slices, **options):
    """highdicom's pixels of every slice, whether slices are objects or frames of one."""
    if slices.frames[0] is None:
        return seg.get_pixels_by_source_instance(source_sop_instance_uids=slices.uids, **options)
    assert len(set(slices.uids)) == 1, "one multi-frame object"
    return seg.get_pixels_by_source_frame(slices.uids[0], [int(n) for n in slices.frames], **options)


def referred(item, slices):
    """The slice that an image reference means."""
    frame = item.get("ReferencedFrameNumber")
    return slices.index[(item.ReferencedSOPInstanceUID, int(frame)) if frame else item.ReferencedSOPInstanceUID]


class Slices:
    """The CT's planes, sorted along their normal, and where each instance stands among them."""

    def __init__(self, folder):
        headers = []
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
                if "PerFrameFunctionalGroupsSequence" in header:
                    headers += frame_headers(header)
                elif header.get("Modality") == "CT" and "ImagePositionPatient" in header:
                    headers.append(header)
        orientation = np.array(headers[0].ImageOrientationPatient, float)
        self.row, self.column = orientation[:3], orientation[3:]
        self.normal = np.cross(self.row, self.column)
        headers.sort(key=lambda h: float(np.dot(self.normal, np.array(h.ImagePositionPatient, float))))
        self.headers = headers
        self.rows, self.columns = int(headers[0].Rows), int(headers[0].Columns)
        self.uids = [h.SOPInstanceUID for h in headers]
        self.frames = [h.get("InstanceNumber") if h.get("NumberOfFrames") else None for h in headers]
        # By object, and by object and frame where there are frames.
        self.index = {(uid, frame) if frame else uid: k for k, (uid, frame) in enumerate(zip(self.uids, self.frames))}
        self.positions = np.array([np.array(h.ImagePositionPatient, float) for h in headers])
        self.shape = (len(headers), self.rows, self.columns)

    def to_pixels(self, points, k):
        """Patient points to (column, row, millimetres off the plane) on slice k."""
        header = self.headers[k]
        between_rows, between_columns = (float(v) for v in header.PixelSpacing)
        orientation = np.array(header.ImageOrientationPatient, float)
        offset = points - np.array(header.ImagePositionPatient, float)
        off_plane = offset @ np.cross(orientation[:3], orientation[3:])
        return np.c_[offset @ orientation[:3] / between_columns, offset @ orientation[3:] / between_rows, off_plane]


def fill(polygon, rows, columns):
    """Even-odd fill: True where a pixel's centre lies inside the polygon of (column, row) corners."""
    crossings = np.zeros((rows, columns + 1), bool)
    following = np.roll(polygon, -1, axis=0)
    for (x0, y0), (x1, y1) in zip(polygon, following):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        lines = np.arange(max(0, int(np.ceil(y0))), min(rows, int(np.ceil(y1))))
        at = x0 + (lines - y0) / (y1 - y0) * (x1 - x0)
        starts = np.clip(np.ceil(at).astype(int), 0, columns)
        np.logical_xor.at(crossings, (lines, starts), True)
    return np.logical_xor.accumulate(crossings, axis=1)[:, :columns]


def polygon_area(polygon):
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def read_seg_by_highdicom(path, slices):
    import highdicom

    seg = highdicom.seg.segread(path)
    masks = {}
    if seg.SegmentationType == "LABELMAP":
        # Segment by segment, highdicom 0.28.2 casts 16-bit labels to 8 bits before it compares them.
        labels = by_source(
            seg,
            slices,
            combine_segments=True,
            assert_missing_frames_are_empty=True,
            dtype=np.uint16,
        )
        numbers = {number: seg.get_segment_description(number).tracking_id for number in seg.segment_numbers}
        return seg, {name: labels == number for number, name in numbers.items()}
    for number in seg.segment_numbers:
        description = seg.get_segment_description(number)
        pixels = by_source(
            seg,
            slices,
            segment_numbers=[number],
            assert_missing_frames_are_empty=True,
        )
        masks[description.tracking_id] = pixels[..., 0].astype(bool)
    return seg, masks


def unpack_rle(fragment, pixels, planes):
    """PS3.5 annex G, without pydicom's decoder: little-endian numbers of one byte per plane."""
    head = np.frombuffer(fragment, "<u4", 16)
    assert head[0] == planes and not head[planes + 1 :].any(), f"RLE header {head}"
    ends = [*head[2 : planes + 1], len(fragment)]
    whole = np.zeros((pixels, planes), np.uint8)
    for n, (at, end) in enumerate(zip(head[1:], ends)):
        at, parts, length = int(at), [], 0
        while length < pixels:
            count = fragment[at]
            assert count != 128 and at < end, "RLE segment"
            if count < 128:
                parts.append(fragment[at + 1 : at + 2 + count])
                at += 2 + count
            else:
                parts.append(fragment[at + 1 : at + 2] * (257 - count))
                at += 2
            length += len(parts[-1])
        assert length == pixels and int(end) - at in (0, 1), "RLE segment ends elsewhere"
        whole[:, planes - 1 - n] = np.frombuffer(b"".join(parts), np.uint8)
    return whole.view("<u2" if planes == 2 else np.uint8)[:, 0]


def read_label_frames(seg, slices):
    """Label of every pixel, frame by frame, from the bytes as they stand."""
    from pydicom.encaps import generate_frames, parse_basic_offsets

    pixels, planes = slices.rows * slices.columns, int(seg.BitsAllocated) // 8
    if seg.file_meta.TransferSyntaxUID.is_encapsulated:
        table = parse_basic_offsets(seg.PixelData)
        fragments = list(generate_frames(seg.PixelData, number_of_frames=int(seg.NumberOfFrames)))
        starts = np.cumsum([0] + [len(fragment) + 8 for fragment in fragments])
        assert table == starts[:-1].tolist(), "Basic Offset Table"
        for fragment in fragments:
            yield unpack_rle(fragment, pixels, planes).reshape(slices.rows, slices.columns)
    else:
        stored = np.frombuffer(seg.PixelData, "<u2" if planes == 2 else np.uint8)
        for n in range(int(seg.NumberOfFrames)):
            yield stored[n * pixels : (n + 1) * pixels].reshape(slices.rows, slices.columns)


def read_bit_frames(seg, slices):
    """The segment's number where its bit is set, frame by frame."""
    pixels_per_frame = slices.rows * slices.columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    for n, groups in enumerate(seg.PerFrameFunctionalGroupsSequence):
        frame = bits[n * pixels_per_frame : (n + 1) * pixels_per_frame].reshape(slices.rows, slices.columns)
        yield frame * int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def read_seg_by_positions(seg, slices):
    """The pixels as they stand, put where each frame's own Image Position says."""
    labelmap = seg.SegmentationType == "LABELMAP"
    names = {s.SegmentNumber: s.TrackingID for s in seg.SegmentSequence if s.SegmentNumber}
    masks = {name: np.zeros(slices.shape, bool) for name in names.values()}
    unequal_text, seen = 0, []
    frames = (read_label_frames if labelmap else read_bit_frames)(seg, slices)
    for n, (groups, frame) in enumerate(zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True)):
        text = groups.PlanePositionSequence[0].ImagePositionPatient
        position = np.array(text, float)
        k = int(np.argmin(np.linalg.norm(slices.positions - position, axis=1)))
        source = slices.headers[k].ImagePositionPatient
        assert referred(groups.DerivationImageSequence[0].SourceImageSequence[0], slices) == k, f"source of frame {n + 1}"
        unequal_text += [v.original_string for v in text] != [v.original_string for v in source]
        assert ("SegmentIdentificationSequence" in groups) != labelmap
        assert frame.any(), f"frame {n + 1} is empty"
        for number in np.unique(frame[frame > 0]):
            masks[names[number]][k] |= frame == number
        seen.append(k)
    overlap = (sum(mask.astype(np.uint8) for mask in masks.values()) > 1).any()
    assert seg.SegmentsOverlap == ("YES" if overlap else "NO"), "Segments Overlap"
    if labelmap:
        assert seen == sorted(seen) and seg.PixelPaddingValue == 0
    return masks, unequal_text


def depth(polygon, others):
    """How many of the other polygons a polygon lies in, by its first corner."""
    x, y = polygon[0]
    count = 0
    for other in others:
        x0, y0 = other.T
        x1, y1 = np.roll(other, -1, axis=0).T
        with np.errstate(divide="ignore", invalid="ignore"):
            right = x < x0 + (y - y0) / (y1 - y0) * (x1 - x0)
        count += int((((y0 > y) != (y1 > y)) & right).sum() % 2)
    return count


def read_rtstruct(path, slices):
    structure_set = pydicom.dcmread(path)
    rois = structure_set.StructureSetROISequence
    names = {roi.ROINumber: roi.ROIName for roi in rois}
    assert len({name.lower() for name in names.values()}) == len(names), "ROI names"
    masks, facts = {}, {}
    for roi in structure_set.ROIContourSequence:
        union = np.zeros(slices.shape, bool)
        parity = np.zeros(slices.shape, bool)
        off_plane, points, longest, longest_value = 0.0, 0, 0, 0
        fewest = 1 << 30
        drawn = {}
        for contour in roi.ContourSequence:
            k = referred(contour.ContourImageSequence[0], slices)
            longest = max(longest, sum(len(v.original_string) + 1 for v in contour.ContourData) - 1)
            longest_value = max(longest_value, max(len(v.original_string) for v in contour.ContourData))
            corners = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(corners) == int(contour.NumberOfContourPoints)
            fewest = min(fewest, len(corners))
            placed = slices.to_pixels(corners, k)
            off_plane = max(off_plane, float(np.abs(placed[:, 2]).max()))
            points += len(corners)
            inside = fill(placed[:, :2], slices.rows, slices.columns)
            union[k] |= inside
            parity[k] ^= inside
            drawn.setdefault(k, []).append(placed[:, :2])
        types = {contour.ContourGeometricType for contour in roi.ContourSequence}
        assert types in ({"CLOSED_PLANAR"}, {"CLOSEDPLANAR_XOR"}), types
        exclusive = types == {"CLOSEDPLANAR_XOR"}
        area = 0.0
        for polygons in drawn.values():
            for n, polygon in enumerate(polygons):
                inner = exclusive and depth(polygon, polygons[:n] + polygons[n + 1 :]) % 2
                area += polygon_area(polygon) * (-1 if inner else 1)
        name = names[roi.ReferencedROINumber]
        masks[name] = parity if exclusive else union
        facts[name] = {
            "contours": len(roi.ContourSequence),
            "points": points,
            "fewest_points": fewest,
            "longest_bytes": longest,
            "longest_value": longest_value,
            "exclusive_or": exclusive,
            "area_ratio": area / max(1, int(masks[name].sum())),
            "off_plane_mm": off_plane,
            "union_equals_parity": exclusive or bool((union == parity).all()),
            "colour": [int(c) for c in roi.ROIDisplayColor],
        }
    return masks, facts


def read_masks(path, slices):
    data = Path(path).read_bytes()
    line = data.index(b"\n")
    head = json.loads(data[:line])
    shape = (len(head["sop_instance_uids"]), head["rows"], head["columns"])
    size = -(-int(np.prod(shape)) // 8)
    named = zip(head["sop_instance_uids"], head["frame_numbers"])
    order = [slices.index[(uid, frame) if frame else uid] for uid, frame in named]
    masks = {}
    for n, name in enumerate(head["structures"]):
        raw = np.frombuffer(data, np.uint8, size, line + 1 + n * size)
        stored = np.unpackbits(raw, bitorder="little")[: int(np.prod(shape))].reshape(shape).astype(bool)
        mask = np.zeros(slices.shape, bool)
        mask[order] = stored
        masks[name] = mask
    return masks


UNITED = {
    "lung_left": ["lung_upper_lobe_left", "lung_lower_lobe_left"],
    "lung_right": ["lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"],
}


def read_truth(volume, labels, slices):
    """Reference masks on the CT's grid, through the affine alone; a grid that does not coincide is refused."""
    import nibabel

    image = nibabel.load(volume)
    to_index = np.linalg.inv(image.affine) @ np.diag([-1, -1, 1, 1])  # RAS to LPS
    header = slices.headers[0]
    between_rows, between_columns = (float(v) for v in header.PixelSpacing)
    grid = np.eye(4)
    grid[:3, 0], grid[:3, 1] = slices.row * between_columns, slices.column * between_rows
    grid[:3, 2] = (slices.positions[-1] - slices.positions[0]) / (len(slices.headers) - 1)
    grid[:3, 3] = slices.positions[0]
    mapping = to_index @ grid
    whole = np.rint(mapping)
    assert np.abs(mapping - whole)[:3].max() < 0.05, f"the labels are not on the grid of the CT:\n{mapping}"
    size = np.array(slices.shape)[::-1]
    ijk = [np.arange(n) for n in size]
    taken = []
    for axis in range(3):
        along = int(np.flatnonzero(whole[axis, :3])[0])
        taken.append((along, (whole[axis, along] * ijk[along] + whole[axis, 3]).astype(int)))
    stored = np.asarray(image.dataobj)
    picked = stored[np.ix_(*[index for _, index in taken])]
    picked = np.transpose(picked, [[along for along, _ in taken].index(axis) for axis in (2, 1, 0)])
    values = {name: int(value) for value, name in json.loads(Path(labels).read_text())["labels"].items()}

    def mask(name):
        parts = UNITED.get(name, [name, name.replace("vertebra_", "vertebrae_")])
        wanted = [values[part] for part in parts if part in values]
        return np.isin(picked, wanted) if wanted else None

    return mask


def dice(a, b):
    both = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", required=True)
    parser.add_argument("--seg")
    parser.add_argument("--rtstruct")
    parser.add_argument("--masks")
    parser.add_argument("--truth", nargs=2)
    arguments = parser.parse_args()

    slices = Slices(arguments.ct)
    report = {"slices": len(slices.headers), "structures": {}, "wrong": []}
    wrong = report["wrong"]
    computed = read_masks(arguments.masks, slices) if arguments.masks else {}
    seg_masks, roi_names = {}, {}
    if arguments.seg:
        seg, seg_masks = read_seg_by_highdicom(arguments.seg, slices)
        by_position, unequal_text = read_seg_by_positions(seg, slices)
        report["frames"] = int(seg.NumberOfFrames)
        if unequal_text:
            wrong.append(f"{unequal_text} frames write another position than their slice")
        for segment in seg.SegmentSequence[int(seg.SegmentationType == "LABELMAP") :]:
            roi_names[segment.TrackingID] = segment.SegmentLabel
        for name, mask in seg_masks.items():
            entry = report["structures"].setdefault(name, {})
            entry["voxels"] = int(mask.sum())
            if (by_position[name] != mask).any():
                wrong.append(f"{name}: highdicom and the frames' positions disagree")
            if name in computed:
                entry["seg_unequal_voxels"] = int((mask != computed[name]).sum())
                if entry["seg_unequal_voxels"]:
                    wrong.append(f"{name}: SEG differs from the mask in {entry['seg_unequal_voxels']} voxels")
        for name in computed.keys() - seg_masks.keys():
            wrong.append(f"{name}: missing in SEG")
    if arguments.rtstruct:
        roi_masks, facts = read_rtstruct(arguments.rtstruct, slices)
        reference = computed or seg_masks
        by_roi_name = {roi_names.get(name, name): name for name in reference}
        for roi_name, fact in facts.items():
            name = by_roi_name.get(roi_name, roi_name)
            entry = report["structures"].setdefault(name, {})
            entry.update(fact)
            if name in reference:
                entry["rtstruct_dice"] = dice(roi_masks[roi_name], reference[name])
                entry["area_ratio"] *= int(roi_masks[roi_name].sum()) / max(1, int(reference[name].sum()))
                if entry["rtstruct_dice"] < 0.999 or abs(entry["area_ratio"] - 1) > 0.005:
                    wrong.append(f"{name}: RTSTRUCT Dice {entry['rtstruct_dice']}, area ratio {entry['area_ratio']}")
            if fact["fewest_points"] < 3:
                wrong.append(f"{name}: a contour of {fact['fewest_points']} points")
            if fact["longest_value"] > 16:
                wrong.append(f"{name}: a decimal string of {fact['longest_value']} bytes")
            if fact["off_plane_mm"] > 0.01 or not fact["union_equals_parity"]:
                wrong.append(f"{name}: off plane by {fact['off_plane_mm']} mm, or contours overlap")
        for name in reference.keys() - {by_roi_name.get(n, n) for n in facts}:
            wrong.append(f"{name}: missing in RTSTRUCT")
    if arguments.truth:
        truth = read_truth(*arguments.truth, slices)
        for name, mask in (computed or seg_masks).items():
            expected = truth(name)
            if expected is not None and expected.any():
                entry = report["structures"].setdefault(name, {})
                entry["truth_dice"] = round(dice(mask, expected), 4)
                entry["truth_in_view"] = not bool(expected[0].any() or expected[-1].any())
    json.dump(report, sys.stdout, indent=1)
    print()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
