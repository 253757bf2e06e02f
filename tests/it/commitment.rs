//! Storage commitment: others ask us, we ask others, and promises outlive the process.

use crate::support::asking::{BUC_CT, YAMADA_CT, filled, get, off_thread, post, pynetdicom, with_orthanc};
use crate::support::daemon::free_port;
use crate::support::node::{BUC, CT, Node, SEG, YAMADA};
use crate::support::orthanc::Orthanc;
use crate::support::shelf::dial;
use medlsamd::commitment::{Reference, Request};
use medlsamd::config::{Config, Written};
use medlsamd::delivery::pledges;
use medlsamd::job::JobId;
use medlsamd::net::scu::Dial;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For an answer, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

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

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_asks_for_storage_commitment_and_is_called_back() {
    let Some((node, orthanc)) = with_orthanc().await else {
        return;
    };
    for (uid, expected) in [("1.2.826.10.1.1", "Success"), ("1.2.3.4", "Failure")] {
        let report = commitment_of(&orthanc, uid).await;
        assert_eq!(report["Status"], expected, "{report}");
    }
    node.stop().await;
}

/// Has Orthanc ask for storage commitment of a CT and waits until it is called back; the report.
pub async fn commitment_of(orthanc: &Arc<Orthanc>, uid: &str) -> Value {
    let objects = json!({ "DicomInstances": [{ "SOPClassUID": CT, "SOPInstanceUID": uid }] });
    let asked = post(orthanc, "/modalities/medlsam/storage-commitment", objects).await;
    let path = asked["Path"].as_str().unwrap().to_owned();
    let begin = Instant::now();
    loop {
        let report = get(orthanc, &path).await;
        if report["Status"] != "Pending" {
            return report;
        }
        assert!(begin.elapsed() < PATIENCE, "{report}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Objects that a peer asks a node to keep, as the row that it becomes.
fn asked_of(node: &Node, peer: &str, request: &Request) {
    let now = jiff::Timestamp::now();
    node.archive.store.promise(peer, request, now).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_answer_keeps_no_other_waiting() {
    // Takes the call and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let hears = Node::start(&[]).await;
    hears.receive(&BUC, BUC_CT, 1);
    let (job, result) = hears.compute(&BUC, BUC_CT, &["PACS"]);
    let now = jiff::Timestamp::now();
    let request = pledges::request(job, "PACS", std::slice::from_ref(&result), now);
    hears.archive.store.pledge(job, "PACS", &request, now).unwrap();

    let patient = |title: &str, port: u16| Dial {
        timeout: 2 * PATIENCE,
        ..dial("ASKER", &format!("{title}@127.0.0.1:{port}"))
    };
    let node = Node::start_with(vec![patient("ASILENT", silent_port), patient("MEDLSAM", hears.port)]).await;
    for number in 1..=2 {
        let request = Request {
            transaction_uid: format!("1.2.3.{number}").parse().unwrap(),
            ..request.clone()
        };
        asked_of(&node, "ASILENT", &request);
    }
    let first = silent.accept().await.unwrap();
    // Asked after the other was called, and told before that one answers.
    asked_of(&node, "MEDLSAM", &request);
    let said = story(&hears, job).await;
    assert!(said.starts_with("PACS did not commit to keep"), "{said}");
    // One call at a time to one peer.
    let second = tokio::time::timeout(Duration::from_secs(3), silent.accept()).await;
    assert!(second.is_err(), "called again while it is silent");
    drop(first);
    let open = || {
        node.archive
            .store
            .open_commitments(now + jiff::SignedDuration::from_hours(1))
            .unwrap()
    };
    silent.accept().await.expect("the next one in its turn");
    assert_eq!(
        open().iter().map(|open| open.peer.as_str()).collect::<Vec<_>>(),
        ["ASILENT"; 2]
    );
    node.stop().await;
    hears.stop().await;
}

/// The line of a job's story that speaks of commitment, once there is one.
async fn story(node: &Node, job: JobId) -> String {
    let begin = Instant::now();
    loop {
        let events = node.archive.store.events(job).unwrap();
        if let Some(event) = events.iter().find(|event| event.text.contains("commit")) {
            return event.text.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "{events:#?}");
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
