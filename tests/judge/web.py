#!/usr/bin/env python3
"""Uses a DICOMweb service as others do, by dicomweb-client, and says what came of it.

    web.py URL TOKEN CT_DIR

Stores the CT by STOW-RS (twice, and a file of another study into this one), searches it at every level, retrieves it and its
metadata, and compares every byte and every attribute with pydicom. Prints JSON.
"""

import io
import json
import sys
from pathlib import Path

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session


def client(url, token):
    session = create_session()
    session.headers.update({"Authorization": f"Bearer {token}"})
    return DICOMwebClient(url=url, session=session)


def refused(url, headers):
    return requests.get(f"{url}/studies", headers=headers, timeout=60).status_code


def as_bytes(dataset):
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def text(dataset):
    """The metadata of a file as pydicom says them, without pixels and group lengths."""
    plain = json.loads(dataset.to_json(bulk_data_threshold=1, bulk_data_element_handler=lambda _: "elsewhere"))
    # Text is UTF-8 in JSON, whatever it was.
    plain["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return {tag: value for tag, value in plain.items() if tag < "7FE00010" and "BulkDataURI" not in value}


def main():
    url, token, folder = sys.argv[1:]
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    slices = [pydicom.dcmread(path) for path in files]
    study, series = slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID
    web = client(url, token)
    stored = web.store_instances(slices)
    again = web.store_instances(slices[:1])
    found = {
        "studies": web.search_for_studies(search_filters={"PatientID": slices[0].PatientID}),
        "nobody": web.search_for_studies(search_filters={"PatientID": "nobody"}),
        "by_name": web.search_for_studies(search_filters={"PatientName": str(slices[0].PatientName)[:3].lower() + "*"}),
        "series": web.search_for_series(study),
        "instances": web.search_for_instances(study, series),
        "page": web.search_for_instances(study, series, limit=7, offset=3),
    }
    got = web.retrieve_series(study, series)
    one = web.retrieve_instance(study, series, slices[0].SOPInstanceUID)
    metadata = {m["00080018"]["Value"][0]: m for m in web.retrieve_series_metadata(study, series)}
    differing = []
    for own in slices:
        ours = {t: v for t, v in metadata[own.SOPInstanceUID].items() if "BulkDataURI" not in v}
        theirs = text(own)
        differing += [t for t in set(ours) | set(theirs) if ours.get(t) != theirs.get(t)]
    pixels = {str(d.SOPInstanceUID): bytes(d.PixelData) for d in got}
    wrong_study = requests.post(
        f"{url}/studies/1.2.3",
        data=b"--b\r\nContent-Type: application/dicom\r\n\r\n" + files[0].read_bytes() + b"\r\n--b--\r\n",
        headers={"Authorization": f"Bearer {token}", "Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
        timeout=60,
    )
    json.dump(
        {
            "stored": len(stored.ReferencedSOPSequence),
            "again": len(again.ReferencedSOPSequence),
            "found": {name: len(rows) for name, rows in found.items()},
            "name": found["studies"][0]["00100010"]["Value"][0]["Alphabetic"],
            "instances_in_study": found["studies"][0]["00201208"]["Value"][0],
            "retrieved": len(got),
            "same_pixels": all(pixels.get(s.SOPInstanceUID) == bytes(s.PixelData) for s in slices),
            "one": one.SOPInstanceUID == slices[0].SOPInstanceUID,
            "differing": sorted(set(differing)),
            "wrong_study": wrong_study.status_code,
            "no_token": refused(url, {}),
            "wrong_token": refused(url, {"Authorization": "Bearer wrong"}),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
