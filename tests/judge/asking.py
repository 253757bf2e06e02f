"""pynetdicom as one who asks: a query, a get and a move that are cancelled, a storage commitment reported on the same association. Prints JSON."""

import json
import sys
import threading

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

INSTANCE = "1.2.840.10008.1.20.1.1"


def cancel(port, series):
    ae = AE("ASKER")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    assoc = ae.associate("127.0.0.1", port, ae_title="MEDLSAM")
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE"
    keys.SeriesInstanceUID = series
    keys.SOPInstanceUID = ""
    keys.InstanceNumber = ""
    statuses = []
    for status, _ in assoc.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind, msg_id=7):
        statuses.append(status.Status)
        if len(statuses) == 1:
            assoc.send_c_cancel(7, query_model=StudyRootQueryRetrieveInformationModelFind)
    # The association is in order after a cancel.
    again = [status.Status for status, _ in assoc.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind)]
    assoc.release()
    return {"pending": statuses.count(0xFF00), "last": statuses[-1], "again": len(again) - 1, "again_last": again[-1]}


def retrieve(port, series, model, send):
    """Cancels after the first sub-operation."""
    ae = AE("ASKER")
    ae.add_requested_context(model)
    ae.add_requested_context(Verification)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    role = build_role(CTImageStorage, scp_role=True)
    taken = [(evt.EVT_C_STORE, lambda event: 0x0000)]
    assoc = ae.associate("127.0.0.1", port, ae_title="MEDLSAM", ext_neg=[role], evt_handlers=taken)
    keys = Dataset()
    keys.QueryRetrieveLevel = "SERIES"
    keys.SeriesInstanceUID = series
    last = None
    for count, (status, _) in enumerate(send(assoc, keys)):
        last = status
        if count == 0:
            assoc.send_c_cancel(7, query_model=model)
    echo = assoc.send_c_echo()
    assoc.release()
    return {
        "last": last.Status,
        "completed": last.NumberOfCompletedSuboperations,
        "remaining": last.NumberOfRemainingSuboperations,
        "echo": echo.Status,
    }


def get(port, series):
    model = StudyRootQueryRetrieveInformationModelGet
    return retrieve(port, series, model, lambda assoc, keys: assoc.send_c_get(keys, model, msg_id=7))


def get_implicit(port, series, folder):
    """Takes nothing but Implicit VR Little Endian; writes down what comes as it comes."""
    model = StudyRootQueryRetrieveInformationModelGet
    taken = []

    def on_store(event):
        path = f"{folder}/{len(taken)}.dcm"
        with open(path, "wb") as file:
            file.write(event.encoded_dataset())
        taken.append(path)
        return 0x0000

    ae = AE("ASKER")
    ae.add_requested_context(model)
    ae.add_requested_context(CTImageStorage, ImplicitVRLittleEndian)
    role = build_role(CTImageStorage, scp_role=True)
    assoc = ae.associate("127.0.0.1", port, ae_title="MEDLSAM", ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, on_store)])
    keys = Dataset()
    keys.QueryRetrieveLevel = "SERIES"
    keys.SeriesInstanceUID = series
    last = [status.Status for status, _ in assoc.send_c_get(keys, model)][-1]
    assoc.release()
    return {"last": last, "taken": len(taken)}


def move(port, series):
    model = StudyRootQueryRetrieveInformationModelMove
    return retrieve(port, series, model, lambda assoc, keys: assoc.send_c_move(keys, "STORESCP", model, msg_id=7))


def commit(port, *objects):
    heard, reports = threading.Event(), []

    def on_report(event):
        said = event.event_information
        kept = [item.ReferencedSOPInstanceUID for item in said.get("ReferencedSOPSequence", [])]
        failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in said.get("FailedSOPSequence", [])}
        reports.append({"type": event.event_type, "kept": kept, "failed": failed, "transaction": said.TransactionUID})
        heard.set()
        return 0x0000, None

    ae = AE("ASKER")
    ae.add_requested_context(StorageCommitmentPushModel)
    assoc = ae.associate("127.0.0.1", port, ae_title="MEDLSAM", evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    asked = Dataset()
    asked.TransactionUID = generate_uid()
    asked.ReferencedSOPSequence = []
    for text in objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = text.split("/")
        asked.ReferencedSOPSequence.append(item)
    status, _ = assoc.send_n_action(asked, 1, StorageCommitmentPushModel, INSTANCE)
    heard.wait(20)
    wrong, _ = assoc.send_n_action(asked, 2, StorageCommitmentPushModel, INSTANCE)
    assoc.release()
    same = bool(reports) and reports[0].pop("transaction") == asked.TransactionUID
    return {"status": status.Status, "reports": reports, "same_transaction": same, "wrong_action": wrong.Status}


DEEDS = {"cancel": cancel, "get": get, "get_implicit": get_implicit, "move": move, "commit": commit}
print(json.dumps(DEEDS[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])))
