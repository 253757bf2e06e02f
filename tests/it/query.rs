//! Query, retrieval and storage commitment, asked by software that is not ours: dcmtk, Orthanc, pynetdicom.

use crate::support::data;
use crate::support::node::{BUC, Node, YAMADA};
use crate::support::peers::peer;
use dicom::object::{DefaultDicomObject, OpenFileOptions};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

const BUC_CT: &str = "1.2.826.10.1";
const BUC_SEG: &str = "1.2.826.10.1.99";
const YAMADA_CT: &str = "1.2.826.20.1";

/// Runs a tool off the test's thread.
async fn run(tool: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(tool);
    command.args(args).env("TCP_NODELAY", "1");
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Two patients; the first has a SEG made of its CT.
async fn filled(targets: &[String]) -> Node {
    let node = Node::start(targets).await;
    node.receive(&BUC, BUC_CT, 3);
    node.compute(&BUC, BUC_CT);
    node.receive(&YAMADA, YAMADA_CT, 2);
    node
}

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
