#!/usr/bin/env python3
"""Writes the masks of a dump as SEGs with highdicom and says what that took.

    seg_bench.py CT_DIR MASKS {BINARY,LABELMAP,LABELMAP_RLE}

Prints a line of JSON: seconds and seconds of processor until the data set stands in memory as bytes, seconds to write the file, bytes, peak memory over what
stood before (MB). The masks come as labels, one number per voxel, which is the cheapest input highdicom takes.
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from judge import Slices

MEMORY = Path("/proc/self/status")


def memory(field):
    line = next(line for line in MEMORY.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


def read_labels(path, slices):
    """As judge.read_masks, one mask at a time: a hundred of them do not fit side by side."""
    data = Path(path).read_bytes()
    line = data.index(b"\n")
    head = json.loads(data[:line])
    shape = (len(head["sop_instance_uids"]), head["rows"], head["columns"])
    size = -(-int(np.prod(shape)) // 8)
    labels = np.zeros(shape, np.uint8)
    for n in range(len(head["structures"])):
        raw = np.frombuffer(data, np.uint8, size, line + 1 + n * size)
        stored = np.unpackbits(raw, bitorder="little")[: int(np.prod(shape))].reshape(shape)
        labels[stored > 0] = n + 1
    order = [slices.index[uid] for uid in head["sop_instance_uids"]]
    sorted_labels = np.zeros_like(labels)
    sorted_labels[order] = labels
    return sorted_labels, len(head["structures"])


def main():
    ct, masks, encoding = sys.argv[1:]
    slices = Slices(ct)
    for header in slices.headers:
        for keyword in ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
            if keyword not in header:
                setattr(header, keyword, "")
    labels, count = read_labels(masks, slices)
    algorithm = hd.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    descriptions = [
        hd.seg.SegmentDescription(
            n + 1,
            f"Organ {n + 1}",
            codes.SCT.AnatomicalStructure,
            codes.SCT.Organ,
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
        )
        for n in range(count)
    ]
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    begin, begin_cpu = time.perf_counter(), time.process_time()
    seg = hd.seg.Segmentation(
        source_images=slices.headers,
        pixel_array=labels,
        segmentation_type=encoding.split("_")[0],
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=RLELossless if encoding.endswith("RLE") else ExplicitVRLittleEndian,
    )
    buffer = io.BytesIO()
    seg.save_as(buffer)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    peak = memory("VmHWM") - before
    with tempfile.NamedTemporaryFile() as file:
        begin = time.perf_counter()
        file.write(buffer.getbuffer())
        file.flush()
        writing = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu, 2),
                "file_seconds": round(writing, 2),
                "frames": int(seg.NumberOfFrames),
                "megabytes": round(len(buffer.getbuffer()) / 1e6, 1),
                "peak_megabytes": round(peak),
            }
        )
    )


if __name__ == "__main__":
    main()
