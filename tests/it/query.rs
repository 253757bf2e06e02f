//! Query, retrieval and storage commitment, asked by software that is not ours: dcmtk, Orthanc, pynetdicom.

use crate::support::daemon::free_port;
use crate::support::data;
use crate::support::node::{BUC, CT, Node, SEG, YAMADA, file};
use crate::support::orthanc::Orthanc;
use crate::support::peers::{Receiver, peer, python};
use dicom::object::{DefaultDicomObject, OpenFileOptions};
use medlsamd::commitment::{Reference, Request};
use medlsamd::config::{Config, Written};
use medlsamd::delivery::pledges;
use medlsamd::dicom::part10;
use medlsamd::job::JobId;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    node.compute(&BUC, BUC_CT, &[]);
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

/// Runs the pynetdicom script; its JSON.
async fn pynetdicom(args: &[&str]) -> Option<Value> {
    let python = python()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/asking.py");
    let script = script.display().to_string();
    let output = run(&python, &[&[script.as_str()], args].concat()).await;
    assert!(output.status.success(), "{}", said(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn pynetdicom_cancels_a_query_and_asks_on() {
    let node = Node::start(&[]).await;
    node.receive(&BUC, BUC_CT, 400);
    let Some(said) = pynetdicom(&["cancel", &node.port.to_string(), BUC_CT]).await else {
        return;
    };
    assert_eq!(said["last"], 0xFE00, "{said}");
    assert!(said["pending"].as_u64().unwrap() < 400, "{said}");
    assert_eq!(
        (&said["again"], &said["again_last"]),
        (&json!(400), &json!(0)),
        "{said}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pynetdicom_cancels_a_get_and_a_move() {
    let Some(storescp) = Receiver::start(&[]) else { return };
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
async fn pynetdicom_is_told_what_is_kept_and_what_not_and_why() {
    let node = filled(&[]).await;
    let gone = node
        .archive
        .store
        .files_of(&"1.2.826.20.1.2".parse().unwrap())
        .unwrap()
        .remove(0)
        .1;
    std::fs::write(gone, b"cut off").unwrap();
    let object = |class: &str, uid: &str| format!("{class}/{uid}");
    let objects = [
        object(CT, "1.2.826.10.1.1"),
        object(SEG, "1.2.826.10.1.99.1"),
        object(CT, "1.2.826.10.1.77"),
        object(SEG, "1.2.826.10.1.2"),
        object(CT, "1.2.826.20.1.2"),
    ];
    let port = node.port.to_string();
    let mut args = vec!["commit", port.as_str()];
    args.extend(objects.iter().map(String::as_str));
    let Some(said) = pynetdicom(&args).await else { return };
    let failed = json!({ "1.2.826.10.1.77": 0x0112, "1.2.826.10.1.2": 0x0119, "1.2.826.20.1.2": 0x0110 });
    let report = json!({ "type": 2, "kept": ["1.2.826.10.1.1", "1.2.826.10.1.99.1"], "failed": failed });
    assert_eq!(said["reports"], json!([report]), "{said}");
    assert_eq!(
        (&said["status"], &said["wrong_action"]),
        (&json!(0), &json!(0x0123)),
        "{said}"
    );
    assert_eq!(said["same_transaction"], true);
    let all = pynetdicom(&["commit", &port, &objects[0]]).await.unwrap();
    assert_eq!(all["reports"][0]["type"], 1, "{all}");
    node.stop().await;
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A node and an Orthanc that know each other.
async fn with_orthanc() -> Option<(Node, Arc<Orthanc>)> {
    let dicom_port = free_port();
    let node = filled(&[format!("ORTHANC@127.0.0.1:{dicom_port}")]).await;
    let port = node.port;
    let orthanc = off_thread(move || Orthanc::start(port, dicom_port)).await?;
    Some((node, Arc::new(orthanc)))
}

async fn post(orthanc: &Arc<Orthanc>, path: &str, body: Value) -> Value {
    let (orthanc, path) = (orthanc.clone(), path.to_owned());
    let answer = off_thread(move || orthanc.request("POST", &path, body.to_string().as_bytes())).await;
    serde_json::from_slice(&answer).unwrap()
}

async fn get(orthanc: &Arc<Orthanc>, path: &str) -> Value {
    let (orthanc, path) = (orthanc.clone(), path.to_owned());
    off_thread(move || orthanc.get(&path)).await
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

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_asks_for_storage_commitment_and_is_called_back() {
    let Some((node, orthanc)) = with_orthanc().await else {
        return;
    };
    for (uid, expected) in [("1.2.826.10.1.1", "Success"), ("1.2.3.4", "Failure")] {
        let objects = json!({ "DicomInstances": [{ "SOPClassUID": CT, "SOPInstanceUID": uid }] });
        let asked = post(&orthanc, "/modalities/medlsam/storage-commitment", objects).await;
        let path = asked["Path"].as_str().unwrap().to_owned();
        let begin = Instant::now();
        let report = loop {
            let report = get(&orthanc, &path).await;
            if report["Status"] != "Pending" {
                break report;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{report}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        assert_eq!(report["Status"], expected, "{report}");
    }
    node.stop().await;
}

/// The line of a job's story that speaks of commitment, once there is one.
async fn story(node: &Node, job: JobId) -> String {
    let begin = Instant::now();
    loop {
        let events = node.archive.store.events(job).unwrap();
        if let Some(event) = events.iter().find(|event| event.text.contains("commit")) {
            return event.text.clone();
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{events:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_is_asked_to_keep_what_was_delivered_and_its_answer_is_in_the_story() {
    let dicom_port = free_port();
    let node = Node::start(&[]).await;
    let port = node.port;
    let Some(orthanc) = off_thread(move || Orthanc::start(port, dicom_port)).await else {
        return;
    };
    let mut written = Written::example();
    written.destination[0].address = format!("ORTHANC@127.0.0.1:{dicom_port}");
    written.destination[0].commit = true;
    written.peer[0].ae_title = "ORTHANC".into();
    let config = Arc::new(Config::resolve(written).unwrap());
    let asking = tokio::spawn(pledges::run(
        node.archive.store.clone(),
        config,
        None,
        std::future::pending(),
    ));
    for (case, series, arrives, expected) in [
        (BUC, BUC_CT, true, "PACS committed to keep 1 object(s)"),
        (
            YAMADA,
            YAMADA_CT,
            false,
            "PACS did not commit to keep 1.2.826.20.1.99.1 (0112H)",
        ),
    ] {
        node.receive(&case, series, 1);
        let (job, result) = node.compute(&case, series, &["PACS"]);
        if arrives {
            let path = result.path.clone();
            tokio::task::block_in_place(|| orthanc.upload(&path));
        }
        let now = jiff::Timestamp::now();
        let store = &node.archive.store;
        store
            .pledge(job, "PACS", &pledges::request(job, "PACS", &[result], now), now)
            .unwrap();
        store.delivery_succeeded(job, "PACS", "seg", now).unwrap();
        assert_eq!(story(&node, job).await, expected);
        let state = if arrives { "committed" } else { "refused" };
        assert_eq!(store.deliveries(job).unwrap()[0].commitment.as_deref(), Some(state));
    }
    asking.abort();
    node.stop().await;
}

#[test]
fn a_promise_survives_the_process_and_a_report_that_is_not_heard_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let object = |number: u32| Reference {
        sop_class_uid: CT.parse().unwrap(),
        sop_instance_uid: format!("1.2.{number}").parse().unwrap(),
    };
    let request = Request {
        transaction_uid: "1.2.3".parse().unwrap(),
        objects: vec![object(1), object(2)],
    };
    let now = jiff::Timestamp::UNIX_EPOCH;
    let later = now + jiff::SignedDuration::from_secs(10);
    let open = || crate::support::node::open(folder.path()).store;
    let id = open().promise("CT1", &request, now).unwrap();
    let store = open();
    let due = store.open_commitments(now).unwrap();
    assert_eq!(
        (due.len(), due[0].id, due[0].peer.as_str(), &due[0].request),
        (1, id, "CT1", &request)
    );
    store.commitment_unheard(id, "nobody there", Some(later)).unwrap();
    assert!(store.open_commitments(now).unwrap().is_empty());
    assert_eq!(store.open_commitments(later).unwrap()[0].attempts, 1);
    store.commitment_reported(id).unwrap();
    assert!(store.open_commitments(later).unwrap().is_empty());
    // Asked again under the same transaction: answered again.
    assert_eq!(store.promise("CT1", &request, now).unwrap(), id);
    assert_eq!(store.open_commitments(now).unwrap().len(), 1);
}

/// `medlsamd fetch` against an archive on a port, for the daemon that the node is.
async fn fetch(node: &Node, archive_port: u16, args: &[&str]) -> (i32, String) {
    let config = node.folder.path().join("medlsamd.toml");
    let storage = node.archive.store.dir().display();
    let text = format!(
        "[dicom]\nlisten = \"127.0.0.1:{}\"\n[storage]\ndir = \"{storage}\"\n\
         [[peer]]\nae_title = \"ORTHANC\"\nhost = \"127.0.0.1\"\nmay = [\"store\"]\n\
         [[protocol]]\nname = \"all\"\nstructures = [\"all\"]\n\
         [[destination]]\nname = \"PACS\"\naddress = \"ORTHANC@127.0.0.1:{archive_port}\"\n",
        node.port
    );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let all = [&["fetch", "--json", "--config", &config], args].concat();
    let output = run(Path::new(env!("CARGO_BIN_EXE_medlsamd")), &all).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.code().unwrap(),
        text + &String::from_utf8_lossy(&output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_fetched_from_orthanc_by_accession_number_study_and_series() {
    let dicom_port = free_port();
    let node = Node::start(&[]).await;
    let port = node.port;
    let Some(orthanc) = off_thread(move || Orthanc::start(port, dicom_port)).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (case, class, series, count) in [(BUC, CT, BUC_CT, 3), (BUC, SEG, BUC_SEG, 1), (YAMADA, CT, YAMADA_CT, 2)] {
        for number in 1..=count {
            let (uid, data_set) = case.object(class, series, number);
            let path = folder.path().join(format!("{uid}.dcm"));
            std::fs::write(&path, file(class, &uid, &data_set)).unwrap();
            tokio::task::block_in_place(|| orthanc.upload(&path));
        }
    }
    let list = folder.path().join("list");
    std::fs::write(&list, format!("# tonight\nA100\n1.2.826.20\n{BUC_CT} # again\n")).unwrap();
    let list = list.display().to_string();
    let (code, text) = fetch(&node, dicom_port, &["--list", &list]).await;
    assert_eq!(code, 0, "{text}");
    let said: Value = serde_json::from_str(&text[..=text.rfind(']').unwrap()]).unwrap_or_else(|_| panic!("{text}"));
    let rows: Vec<_> = said
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["wish"], row["series_uid"], row["instances"], row["outcome"]]))
        .collect();
    let expected = [
        json!(["A100", BUC_CT, 3, "sent"]),
        json!(["1.2.826.20", YAMADA_CT, 2, "sent"]),
        json!([BUC_CT, BUC_CT, 3, "already_here"]),
    ];
    assert_eq!(rows, expected, "{text}");
    let jobs = node.archive.store.jobs(None, 9).unwrap();
    let counts: BTreeSet<u32> = jobs.iter().map(|job| job.instances).collect();
    assert_eq!((jobs.len(), counts), (2, BTreeSet::from([2, 3])));

    let (code, text) = fetch(&node, dicom_port, &["NOSUCH"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("not_found"), "{text}");
    let (code, text) = fetch(&node, free_port(), &["A100"]).await;
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    for (args, code) in [
        (vec!["A*"], 2),
        (vec![], 2),
        (vec!["A1", "--from", "VNA"], 2),
        (vec!["--list", "/nowhere"], 3),
    ] {
        assert_eq!(fetch(&node, dicom_port, &args).await.0, code, "{args:?}");
    }
    node.stop().await;
}
