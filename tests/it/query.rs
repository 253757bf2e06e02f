//! Query and retrieval, asked by software that is not ours: dcmtk, Orthanc, pynetdicom.

use crate::support::asking::{BUC_CT, filled, get, post, pynetdicom, run, said, with_orthanc};
use crate::support::daemon::free_port;
use crate::support::data;
use crate::support::node::{BUC, CT, EXPLICIT, Made, Node, SEG};
use crate::support::peers::{Receiver, peer};
use crate::support::rude::{ECHO_CONTEXT, Rude, message, request};
use dicom::object::{DefaultDicomObject, OpenFileOptions};
use medlsamd::dicom::part10;
use medlsamd::dicom::status::Status;
use medlsamd::net::dimse::{Operation, Request};
use medlsamd::net::pdu::Proposed;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

const BUC_SEG: &str = "1.2.826.10.1.99";
const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";

/// The answers to dcmtk's findscu, each as it wrote it to a file.
async fn find(node: &Node, model: &str, keys: &[&str]) -> Option<(Vec<DefaultDicomObject>, String)> {
    let findscu = peer("findscu")?;
    let folder = tempfile::tempdir().unwrap();
    let (port, out) = (node.port.to_string(), folder.path().display().to_string());
    let mut args = vec!["-v", model, "-X", "-od", &out, "-aet", "ASKER", "-aec", "MEDLSAM"];
    keys.iter().for_each(|key| args.extend(["-k", key]));
    args.extend(["127.0.0.1", &port]);
    let output = run(&findscu, &args).await;
    let files = data::files(folder.path());
    let open = |path| OpenFileOptions::new().open_file(path).unwrap();
    Some((files.iter().map(open).collect(), said(&output)))
}

fn text(object: &DefaultDicomObject, name: &str) -> String {
    let value = object.element_by_name(name).unwrap().to_str().unwrap();
    value.trim_matches(['\0', ' ']).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn dcmtk_finds_studies_by_every_kind_of_key() {
    let node = filled(&[]).await;
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["A100", "A200"]),
        (&["PatientName=BUC*"], &["A100"]),
        (&["PatientName=yamada^t?rou"], &["A200"]),
        (&["PatientName=Nobody"], &[]),
        (&["StudyDate=20260101-20260131"], &["A100"]),
        (&["StudyDate=20260201-"], &["A200"]),
        (&["StudyTime=22-"], &["A200"]),
        (&["StudyTime=-12"], &["A100"]),
        (&["StudyInstanceUID=1.2.826.10\\1.2.826.20\\1.2.3"], &["A100", "A200"]),
        (&["ModalitiesInStudy=SEG"], &["A100"]),
        (&["AccessionNumber=A2*"], &["A200"]),
        (&["PatientID=P1", "StudyDate=2026.01.10"], &["A100"]),
        (&["PatientID=p1"], &[]),
    ];
    for (keys, expected) in cases {
        let mut all = vec!["QueryRetrieveLevel=STUDY"];
        all.extend(*keys);
        if !keys.iter().any(|key| key.starts_with("Accession")) {
            all.push("AccessionNumber");
        }
        for model in ["-S", "-P"] {
            let Some((found, log)) = find(&node, model, &all).await else {
                return;
            };
            let got: Vec<String> = found.iter().map(|answer| text(answer, "AccessionNumber")).collect();
            assert_eq!(got, *expected, "{model} {keys:?}\n{log}");
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_hold_what_a_planning_system_asks_in_the_senders_characters() {
    let node = filled(&[]).await;
    let keys = [
        "QueryRetrieveLevel=STUDY",
        "PatientID=P1",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "StudyDescription",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "RetrieveAETitle",
        "InstanceAvailability",
    ];
    let Some((found, log)) = find(&node, "-S", &keys).await else {
        return;
    };
    assert_eq!(found.len(), 1, "{log}");
    let expected = [
        ("SpecificCharacterSet", "ISO_IR 100"),
        ("PatientName", "Buc^Jérôme"),
        ("PatientBirthDate", "19700101"),
        ("PatientSex", "O"),
        ("StudyInstanceUID", "1.2.826.10"),
        ("StudyID", "S1"),
        ("StudyDescription", "Chest"),
        ("ModalitiesInStudy", "CT\\SEG"),
        ("NumberOfStudyRelatedSeries", "2"),
        ("NumberOfStudyRelatedInstances", "4"),
        ("RetrieveAETitle", "MEDLSAM"),
        ("InstanceAvailability", "ONLINE"),
    ];
    for (name, value) in expected {
        assert_eq!(text(&found[0], name), value, "{name}");
    }
    let series = [
        "QueryRetrieveLevel=SERIES",
        "StudyInstanceUID=1.2.826.10",
        "Modality",
        "SeriesInstanceUID",
        "NumberOfSeriesRelatedInstances",
    ];
    let (found, _) = find(&node, "-S", &series).await.unwrap();
    let got: BTreeSet<_> = found
        .iter()
        .map(|a| {
            (
                text(a, "Modality"),
                text(a, "SeriesInstanceUID"),
                text(a, "NumberOfSeriesRelatedInstances"),
            )
        })
        .collect();
    let row = |modality: &str, uid: &str, count: &str| (modality.to_owned(), uid.to_owned(), count.to_owned());
    assert_eq!(got, BTreeSet::from([row("CT", BUC_CT, "3"), row("SEG", BUC_SEG, "1")]));
    let image = [
        "QueryRetrieveLevel=IMAGE",
        "StudyInstanceUID=1.2.826.10",
        "SeriesInstanceUID=1.2.826.10.1.99",
        "SOPClassUID",
        "SOPInstanceUID",
        "ContentLabel",
        "InstanceNumber",
    ];
    let (found, _) = find(&node, "-S", &image).await.unwrap();
    assert_eq!((found.len(), text(&found[0], "ContentLabel").as_str()), (1, "ORGANS"));
    let patients = [
        "QueryRetrieveLevel=PATIENT",
        "PatientName",
        "PatientID",
        "NumberOfPatientRelatedInstances",
    ];
    let (found, _) = find(&node, "-P", &patients).await.unwrap();
    let counts: Vec<_> = found
        .iter()
        .map(|a| (text(a, "PatientID"), text(a, "NumberOfPatientRelatedInstances")))
        .collect();
    assert_eq!(
        counts,
        [("P1".to_owned(), "4".to_owned()), ("P2".to_owned(), "2".to_owned())]
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_or_is_not_allowed_is_refused_with_its_status() {
    let node = filled(&[]).await;
    let Some((_, log)) = find(&node, "-S", &["QueryRetrieveLevel=PATIENT", "PatientID"]).await else {
        return;
    };
    assert!(log.contains("Error: DataSetDoesNotMatchSOPClass"), "{log}");
    let (_, log) = find(&node, "-S", &["QueryRetrieveLevel=WORLD", "PatientID"])
        .await
        .unwrap();
    assert!(log.contains("Error: DataSetDoesNotMatchSOPClass"), "{log}");
    let everything = ["QueryRetrieveLevel=IMAGE", "PatientID=P1", "SOPInstanceUID"];
    let (_, log) = find(&node, "-S", &everything).await.unwrap();
    assert!(log.contains("Error: DataSetDoesNotMatchSOPClass"), "{log}");
    let findscu = peer("findscu").unwrap();
    let port = node.port.to_string();
    let args = [
        "-v",
        "-S",
        "-aet",
        "VISITOR",
        "-aec",
        "MEDLSAM",
        "-k",
        "QueryRetrieveLevel=STUDY",
        "127.0.0.1",
        &port,
    ];
    let output = run(&findscu, &args).await;
    assert!(
        said(&output).contains("No Acceptable Presentation Contexts"),
        "{}",
        said(&output)
    );
    node.stop().await;
}

/// A data set as it lies in a file.
fn data_set(path: &Path) -> Vec<u8> {
    let mut file = std::fs::File::open(path).unwrap();
    part10::read_meta(&mut file).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn dcmtk_moves_what_it_found_byte_by_byte_to_a_known_destination_only() {
    let (Some(movescu), Some(storescp)) = (peer("movescu"), Receiver::start(&[])) else {
        return;
    };
    let node = filled(&[format!("STORESCP@127.0.0.1:{}", storescp.port)]).await;
    let port = node.port.to_string();
    let args = |to, study| {
        let mut args = vec!["-v", "-S", "-aet", "ASKER", "-aec", "MEDLSAM", "-aem", to];
        args.extend(["-k", "QueryRetrieveLevel=STUDY", "-k", study, "127.0.0.1", &port]);
        args
    };
    let output = run(&movescu, &args("STORESCP", "StudyInstanceUID=1.2.826.10")).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("Received Final Move Response (Success)"),
        "{}",
        said(&output)
    );
    let received: BTreeSet<Vec<u8>> = storescp.files().iter().map(|path| data_set(path)).collect();
    let mut sent: BTreeSet<Vec<u8>> = (1..=3).map(|number| BUC.object(CT, BUC_CT, number).1).collect();
    sent.insert(BUC.object(SEG, BUC_SEG, 1).1);
    assert!(received == sent, "{} objects of {}", received.len(), sent.len());
    let output = run(&movescu, &args("NOBODY", "StudyInstanceUID=1.2.826.10")).await;
    assert!(
        said(&output).contains("Refused: MoveDestinationUnknown"),
        "{}",
        said(&output)
    );
    let output = run(&movescu, &args("STORESCP", "StudyInstanceUID=1.2.3")).await;
    assert!(
        said(&output).contains("Received Final Move Response (Success)"),
        "{}",
        said(&output)
    );
    let output = run(&movescu, &args("STORESCP", "StudyDescription=Chest")).await;
    assert!(
        said(&output).contains("DataSetDoesNotMatchSOPClass"),
        "everything is never moved: {}",
        said(&output)
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_counted_and_named() {
    let Some(movescu) = peer("movescu") else { return };
    let node = filled(&[format!("GONE@127.0.0.1:{}", free_port())]).await;
    let port = node.port.to_string();
    let mut args = vec!["-d", "-S", "-aet", "ASKER", "-aec", "MEDLSAM", "-aem", "GONE"];
    args.extend([
        "-k",
        "QueryRetrieveLevel=SERIES",
        "-k",
        "SeriesInstanceUID=1.2.826.10.1",
        "127.0.0.1",
        &port,
    ]);
    let output = run(&movescu, &args).await;
    let log = said(&output);
    assert!(
        log.contains("0xa702") && log.contains("Failed Suboperations          : 3"),
        "{log}"
    );
    assert!(
        log.contains("FailedSOPInstanceUIDList") && log.contains("1.2.826.10.1.2"),
        "{log}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dcmtk_gets_series_and_results_over_its_own_association() {
    let Some(getscu) = peer("getscu") else { return };
    let node = filled(&[]).await;
    let port = node.port.to_string();
    for (series, expected) in [(BUC_CT, 3), (BUC_SEG, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let (out, key) = (
            folder.path().display().to_string(),
            format!("SeriesInstanceUID={series}"),
        );
        let mut args = vec!["-v", "-S", "-aet", "ASKER", "-aec", "MEDLSAM", "-od", &out];
        args.extend(["-k", "QueryRetrieveLevel=SERIES", "-k", &key, "127.0.0.1", &port]);
        let output = run(&getscu, &args).await;
        assert!(output.status.success(), "{}", said(&output));
        let files = data::files(folder.path());
        assert_eq!(files.len(), expected, "{}", said(&output));
        for path in files {
            let got = OpenFileOptions::new().open_file(&path).unwrap();
            let number: u32 = text(&got, "InstanceNumber").parse().unwrap();
            let pixels = got.element_by_name("PixelData").unwrap().to_bytes().unwrap().to_vec();
            assert_eq!(pixels, vec![number as u8; 512]);
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pynetdicom_cancels_a_query_and_asks_on() {
    let node = Node::start(&[]).await;
    node.receive(&BUC, BUC_CT, 400);
    // A cancel that comes when the last answer is out is without effect, as the standard wants: then it asks again.
    for attempt in 1.. {
        let Some(said) = pynetdicom(&["cancel", &node.port.to_string(), BUC_CT]).await else {
            return;
        };
        assert_eq!(
            (&said["again"], &said["again_last"]),
            (&json!(400), &json!(0)),
            "{said}"
        );
        if said["last"] == 0xFE00 {
            assert!(said["pending"].as_u64().unwrap() < 400, "{said}");
            break;
        }
        assert_eq!((&said["pending"], &said["last"]), (&json!(400), &json!(0)), "{said}");
        assert!(attempt < 30, "no cancel is ever heard");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_right_behind_its_query_ends_it_before_any_answer() {
    let node = Node::start(&[]).await;
    node.receive(&BUC, BUC_CT, 50);
    let find = Request {
        operation: Operation::Find,
        message_id: 7,
        sop_class_uid: STUDY_ROOT_FIND.into(),
        has_data: true,
    };
    let cancel = |message_id| {
        let request = Request {
            operation: Operation::Cancel,
            message_id,
            sop_class_uid: String::new(),
            has_data: false,
        };
        message(ECHO_CONTEXT, &request, &[])
    };
    let keys = Made::default()
        .text(0x0008_0052, b"CS", "IMAGE")
        .text(0x0020_000E, b"UI", BUC_CT);
    let mut association = request("ASKER", "MEDLSAM");
    association.contexts = vec![Proposed {
        id: ECHO_CONTEXT,
        abstract_syntax: STUDY_ROOT_FIND.into(),
        transfer_syntaxes: vec![EXPLICIT.into()],
    }];
    let mut peer = Rude::associate_with(([127, 0, 0, 1], node.port).into(), &association).await;
    let asked = message(ECHO_CONTEXT, &find, &keys.0);
    peer.send(&[asked.clone(), cancel(7)].concat()).await;
    let response = peer.response().await;
    assert_eq!(
        (response.responded_to, response.status),
        (7, Status::CANCELLED),
        "{response:?}"
    );
    // Of another request: without effect.
    peer.send(&[asked, cancel(8)].concat()).await;
    assert_eq!(peer.response().await.status, Status::PENDING);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pynetdicom_cancels_a_get_and_a_move() {
    // Slow enough that the cancel comes while objects leave.
    let Some(storescp) = Receiver::start(&["--sleep-during", "1"]) else {
        return;
    };
    let node = Node::start(&[format!("STORESCP@127.0.0.1:{}", storescp.port)]).await;
    node.receive(&BUC, BUC_CT, 200);
    for operation in ["get", "move"] {
        let Some(said) = pynetdicom(&[operation, &node.port.to_string(), BUC_CT]).await else {
            return;
        };
        assert_eq!(said["last"], 0xFE00, "{operation} {said}");
        let (completed, remaining) = (said["completed"].as_u64().unwrap(), said["remaining"].as_u64().unwrap());
        assert!(remaining > 0 && completed + remaining == 200, "{operation} {said}");
        assert_eq!(said["echo"], 0, "the association is in order: {said}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_queries_and_retrieves_series_and_result() {
    let Some((node, orthanc)) = with_orthanc().await else {
        return;
    };
    let query = json!({ "Level": "Study", "Query": { "PatientName": "buc*", "ModalitiesInStudy": "SEG" } });
    let asked = post(&orthanc, "/modalities/medlsam/query", query).await;
    let path = asked["Path"].as_str().unwrap().to_owned();
    assert_eq!(get(&orthanc, &format!("{path}/answers")).await, json!(["0"]));
    let wish = json!({ "TargetAet": "ORTHANC", "Synchronous": true });
    post(&orthanc, &format!("{path}/retrieve"), wish).await;
    let instances = get(&orthanc, "/instances").await;
    assert_eq!(instances.as_array().unwrap().len(), 4, "{instances}");
    node.stop().await;
}
