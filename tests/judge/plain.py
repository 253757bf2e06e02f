"""Compares objects that were decoded on the way with what others make of the originals: plain.py SYNTAX (ORIGINAL RECEIVED DECODED)...

Every attribute outside the Pixel Data group must be the original's byte for byte, nested ones too. Pixels must be those of DECODED, the same
original decoded by dcmtk, or, where that is "-", those that pydicom decodes from the original. Prints JSON: the largest difference of a pixel
by transfer syntax, and how many attributes were compared.
"""

import json
import sys
from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_sequence

PIXELS = 0x7FE0


def items(element, dataset, tag):
    """The items of a sequence, also of one that an implicit reader does not know for one."""
    if element.VR == "SQ":
        return element.value
    return read_sequence(BytesIO(element.value), True, True, len(element.value), "iso8859")


def raw(dataset, tag):
    element = dataset.get_item(tag)
    return element.value if isinstance(element, RawDataElement) else None


def compare(original, received, turned, path=""):
    """How many attributes are equal. Group lengths are retired and may be left out."""
    tags = [tag for tag in original.keys() if tag.group != PIXELS and tag.element != 0]
    theirs = [tag for tag in received.keys() if tag.group != PIXELS and tag.element != 0]
    assert tags == theirs, f"{path}: {set(tags) ^ set(theirs)}"
    count = 0
    for tag in tags:
        bytes_ours, bytes_theirs = raw(original, tag), raw(received, tag)
        # Of an unknown nobody can turn the bytes.
        turned_here = turned and original.get_item(tag).VR != "UN"
        ours, theirs = original[tag], received[tag]
        if ours.VR == "SQ":
            mine, yours = ours.value, items(theirs, received, tag)
            assert len(mine) == len(yours), f"{path}{tag}: {len(mine)} items became {len(yours)}"
            for n, (a, b) in enumerate(zip(mine, yours)):
                count += compare(a, b, turned, f"{path}{tag}[{n}].")
        elif turned_here or bytes_ours is None or bytes_theirs is None:
            # Numbers had other bytes; pydicom has read some already (the character set, what is nested or empty).
            assert ours.value == theirs.value, f"{path}{tag}: {ours.value!r} became {theirs.value!r}"
        else:
            assert bytes_ours == bytes_theirs, f"{path}{tag}: {bytes_ours!r} became {bytes_theirs!r}"
        count += 1
    return count


def main(syntax, *paths):
    attributes, worst = 0, {}
    for original_path, received_path, decoded_path in zip(paths[::3], paths[1::3], paths[2::3]):
        original, received = pydicom.dcmread(original_path), pydicom.dcmread(received_path)
        assert received.file_meta.TransferSyntaxUID == syntax, received.file_meta.TransferSyntaxUID
        own = original.file_meta.TransferSyntaxUID
        in_group = [tag for tag in received.keys() if tag.group == PIXELS and tag.element != 0]
        assert in_group == [0x7FE00010], in_group
        pixels = received["PixelData"]
        assert pixels.VR == "OW" and not pixels.is_undefined_length and len(pixels.value) % 2 == 0
        frames = int(original.get("NumberOfFrames") or 1)
        expected = frames * original.Rows * original.Columns * original.BitsAllocated // 8
        assert len(pixels.value) == expected + expected % 2, (len(pixels.value), expected)
        # pydicom takes native words as they are, so bits above those stored must be right.
        decoded = original if decoded_path == "-" else pydicom.dcmread(decoded_path)
        off = np.abs(received.pixel_array.astype(np.int64) - decoded.pixel_array.astype(np.int64)).max()
        worst[str(own)] = max(worst.get(str(own), 0), int(off))
        originals = pydicom.dcmread(original_path)
        attributes += compare(originals, pydicom.dcmread(received_path), own == "1.2.840.10008.1.2.2")
    print(json.dumps({"objects": len(paths) // 3, "attributes": attributes, "worst": worst}))


main(*sys.argv[1:])
