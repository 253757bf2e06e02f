"""pynetdicom as one who asks: a query that is cancelled, a storage commitment reported on the same association. Prints JSON."""

import json
import sys
import threading

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind

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


print(json.dumps({"cancel": cancel, "commit": commit}[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])))
