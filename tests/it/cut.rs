//! The network dies in the middle of a send, in both directions: both sides get over it by themselves, and nothing that was
//! acknowledged is lost.

use crate::support::data::files;
use crate::support::dataset::{Slice, intake_options};
use crate::support::proxy::{Cut, broken_network};
use crate::support::shelf::{Server, dial, real_intake};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use medlsamd::config::{Config, Written};
use medlsamd::delivery;
use medlsamd::dicom::uid::Uid;
use medlsamd::intake::{AssociationId, Intake};
use medlsamd::job::{KeptResult, Parcel, State, Summary};
use medlsamd::net::scu::{self, Dial, Outgoing};
use medlsamd::store::Store;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

const COUNT: u32 = 12;

/// A slice of 512 × 512 as a file to send.
fn outgoing(dir: &Path, number: u32) -> Outgoing {
    let mut slice = Slice::new("1.2.826.2", number);
    slice.side = 512;
    let path = dir.join(format!("{number}.dcm"));
    std::fs::write(&path, slice.file()).unwrap();
    let claim = slice.claim(1);
    Outgoing {
        sop_class_uid: claim.sop_class_uid,
        sop_instance_uid: claim.sop_instance_uid,
        transfer_syntax_uid: claim.transfer_syntax_uid,
        path,
    }
}

fn impatient(port: u16) -> Dial {
    Dial {
        timeout: Duration::from_secs(2),
        ..dial("SENDER", &format!("MEDLSAM@127.0.0.1:{port}"))
    }
}

/// A scanner sends to us over a network that breaks three times, and goes on with what has no answer, as scanners do.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_comes_again_finds_us_ready_and_loses_nothing() {
    let (dir, address) = real_intake(|dicom| dicom.idle_timeout_s = 1).await;
    // In the middle of the fourth image, in the middle of the second of the rest, and between command and data.
    let cuts = [Cut::Reset(1_900_000), Cut::Silence(800_000), Cut::Reset(460)];
    let network = broken_network(address, &cuts).await;
    let folder = tempfile::tempdir().unwrap();
    let mut left: Vec<Outgoing> = (1..=COUNT).map(|number| outgoing(folder.path(), number)).collect();
    let stored = || files(&dir.path().join("series"));
    let (mut acknowledged, mut attempts) = (Vec::new(), 0);
    while !left.is_empty() {
        attempts += 1;
        assert!(attempts <= 5, "{} of {COUNT} are still to be sent", left.len());
        let answers = scu::store(&impatient(network.port()), &left).await.unwrap_or_default();
        let taken = answers
            .iter()
            .take_while(|a| matches!(a, Ok(status) if status.is_stored()))
            .count();
        acknowledged.extend(left.drain(..taken).map(|object| object.sop_instance_uid));
        let names: Vec<String> = stored()
            .iter()
            .map(|p| p.file_stem().unwrap().display().to_string())
            .collect();
        for uid in &acknowledged {
            assert!(
                names.iter().any(|name| name == uid.as_str()),
                "{uid} was acknowledged and is not there"
            );
        }
    }
    assert_eq!(attempts, 4, "each of the three breaks was felt");
    assert_eq!(stored().len(), COUNT as usize);
    for number in 1..=COUNT {
        let mut slice = Slice::new("1.2.826.2", number);
        slice.side = 512;
        let path = dir
            .path()
            .join(format!("series/1.2.826.1/1.2.826.2/1.2.826.2.{number}.dcm"));
        assert!(
            std::fs::read(path).unwrap().ends_with(&slice.data_set()),
            "slice {number}"
        );
    }
    // What broke off left nothing behind, and holds no place for longer than the idle timeout.
    let begin = Instant::now();
    while !files(&dir.path().join("incoming")).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60), "a temporary file is left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A finished job with two results to be sent to PACS.
fn finished_job(dir: &Path) -> Store {
    let store = Store::open(dir, TimeZone::UTC).unwrap();
    let (intake, _) = Intake::open(store.clone(), intake_options()).unwrap();
    intake.association_opened(AssociationId(1));
    let slice = Slice::new("1.2.826.7", 1);
    let mut spool = intake.begin(slice.claim(1)).unwrap();
    spool.write(&slice.data_set()).unwrap();
    spool.finish().unwrap();
    intake.association_closed(AssociationId(1)).unwrap();
    let now = Timestamp::now();
    for job in store.gathering_jobs().unwrap() {
        store.fell_silent(job.id, "waits", now).unwrap();
        store.close(&job, "chest", 0, "whole", now).unwrap();
    }
    let job = store.claim(now).unwrap().unwrap();
    let folder = store.results_dir(job.id);
    std::fs::create_dir_all(&folder).unwrap();
    let result = |kind: &str, number| {
        let object = outgoing(&folder, number);
        KeptResult {
            kind: kind.into(),
            sop_class_uid: object.sop_class_uid,
            sop_instance_uid: object.sop_instance_uid,
            transfer_syntax_uid: object.transfer_syntax_uid,
            path: object.path,
            sha256: "00".into(),
        }
    };
    let results = [result("seg", 1), result("rtstruct", 2)];
    let parcel = Parcel {
        destination: "PACS".into(),
        items: vec![vec!["seg".into()], vec!["rtstruct".into()]],
    };
    store.keep(&job, &results, &Summary::default(), &[parcel], now).unwrap();
    store
}

/// Our delivery over a network that breaks: tried again by itself until the destination has all.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_goes_on_until_the_destination_has_everything() {
    let server = Server::start(|dicom| dicom.idle_timeout_s = 1).await;
    let cuts = [Cut::Reset(300_000), Cut::Silence(700_000), Cut::Reset(100)];
    let network = broken_network(server.address, &cuts).await;
    let dir = tempfile::tempdir().unwrap();
    let store = finished_job(dir.path());
    let mut written = Written::example();
    written.dicom.ae_title = "SENDER".into();
    let pacs = &mut written.destination[0];
    pacs.address = format!("MEDLSAM@127.0.0.1:{}", network.port());
    (pacs.timeout_s, pacs.retry_s, pacs.retry_max_s) = (1, 0.1, 0.2);
    let config = Arc::new(Config::resolve(written).unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let delivering = tokio::spawn(delivery::run(
        store.clone(),
        config,
        None,
        Arc::new(Notify::new()),
        async {
            let _ = stopped.await;
        },
    ));
    let begin = Instant::now();
    while store.jobs(None, 9).unwrap()[0].state != State::Done {
        assert!(begin.elapsed() < Duration::from_secs(60), "not delivered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = stop.send(());
    delivering.await.unwrap();
    server.shelf.with(|c| {
        for number in 1..=2 {
            let mut slice = Slice::new("1.2.826.2", number);
            slice.side = 512;
            let (uid, data): (Uid, _) = (slice.sop_instance_uid(), slice.data_set());
            let copies: Vec<_> = c
                .stored
                .iter()
                .filter(|(claim, _)| claim.sop_instance_uid == uid)
                .collect();
            assert!(
                !copies.is_empty() && copies.iter().all(|(_, bytes)| *bytes == data),
                "object {number}"
            );
        }
        // Three associations broke, one came to its end.
        assert!(c.opened.len() >= 3, "{:?}", c.opened);
    });
    server.shelf.settled().await;
    server.stop().await;
}
