"""What readers of foreign make find in our reports and pictures, as JSON.

    reports.py report FILE     a TID 1500 report as highdicom reads it
    reports.py picture FILE    an RGB image as pydicom reads it
    reports.py text FILE       a text report as pydicom reads it
    reports.py names FILE...   the patients' names as pydicom decodes them
"""

import hashlib
import json
import sys

import highdicom as hd
import pydicom
from pydicom.sr.codedict import codes


def flags(data):
    return [data.CompletionFlag, data.VerificationFlag, data.PreliminaryFlag]


def group(item):
    site = item.finding_sites[0]
    volume = item.get_measurements(name=codes.SCT.Volume)
    mean = item.get_measurements(name=codes.DCM.AttenuationCoefficient)
    said = {
        "tracking_identifier": item.tracking_identifier,
        "tracking_uid": item.tracking_uid,
        "category": item.finding_category.meaning,
        "finding": item.finding_type.value,
        "site": site.value.value,
        "side": site.laterality.meaning if site.laterality else None,
        "volume_ml": [m.value for m in volume],
        "volume_unit": [m.unit.value for m in volume],
        "mean_hu": [m.value for m in mean],
        "mean_unit": [m.unit.value for m in mean],
        "mean_derivation": [m.derivation.meaning for m in mean],
        "algorithm": [i.value for i in item.find(codes.DCM.AlgorithmName)] if hasattr(item, "find") else None,
        "comments": [i.TextValue for i in item[0].ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121106"],
    }
    return said


def report(path):
    document = hd.sr.srread(path)
    content = document.content
    volumetric = content.get_volumetric_roi_measurement_groups()
    groups = []
    for item in volumetric:
        said = group(item)
        segment = item.referenced_segment
        said["seg"] = segment.referenced_sop_instance_uid
        said["segment_number"] = segment.referenced_segment_numbers
        groups.append(said)
    plain = []
    for item in content.get_image_measurement_groups():
        said = group(item)
        said["images"] = len(item.source_images) if hasattr(item, "source_images") else None
        plain.append(said)
    evidence = document.CurrentRequestedProcedureEvidenceSequence[0]
    series = {s.SeriesInstanceUID: len(s.ReferencedSOPSequence) for s in evidence.ReferencedSeriesSequence}
    observers = [c.observer_identifying_attributes.name for c in content.get_observer_contexts()]
    return {"volumetric": groups, "plain": plain, "flags": flags(document), "evidence": series, "observers": observers}


def picture(path):
    data = pydicom.dcmread(path)
    pixels = data.pixel_array
    return {
        "shape": list(pixels.shape),
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "burned_in": data.BurnedInAnnotation,
        "description": data.SeriesDescription,
        "derivation": data.DerivationDescription,
        "sources": len(data.SourceImageSequence),
    }


def text(path):
    data = pydicom.dcmread(path)
    said = [item.TextValue for item in data.ContentSequence if item.ValueType == "TEXT"]
    return {"text": said, "flags": flags(data), "series": data.SeriesDescription}


def names(*paths):
    # pydicom leaves the escape sequence of GB 2312 in the text that it decodes rightly
    return [str(pydicom.dcmread(path).PatientName).replace("\x1b$)A", "") for path in paths]


print(json.dumps({"report": report, "picture": picture, "text": text, "names": names}[sys.argv[1]](*sys.argv[2:])))
