//! Killed anywhere, nothing acknowledged is lost and every job ends. The children are this test binary itself, ended by abort at a
//! named point, which leaves as much behind as `kill -9`.

use crate::support::dataset::{Slice, intake_options};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use medlsamd::dicom::uid::Uid;
use medlsamd::intake::{AssociationId, Intake};
use medlsamd::job::{Job, KeptResult, Parcel, State, Summary};
use medlsamd::store::Store;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

const DIR: &str = "MEDLSAMD_TEST_CHILD_DIR";
const COUNT: u32 = 60;
const SERIES: &str = "1.2.826.2";

/// Runs one of the children below; true when it was aborted, false when it came to its end.
fn run(child: &str, dir: &Path, failpoint: Option<&str>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("recovery::{child}")])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match failpoint {
        Some(name) => command.env("MEDLSAMD_FAILPOINT", name),
        None => command.env_remove("MEDLSAMD_FAILPOINT"),
    };
    let status = command.status().unwrap();
    let aborted = status.signal() == Some(libc::SIGABRT);
    assert!(aborted || status.success(), "{child} at {failpoint:?}: {status}");
    aborted
}

fn open(dir: &Path) -> (Store, Intake) {
    let store = Store::open(dir, TimeZone::UTC).unwrap();
    let (intake, _) = Intake::open(store.clone(), intake_options()).unwrap();
    (store, intake)
}

/// Sends a series and notes each acknowledgement, as a scanner would; sends all of it again when started again.
#[test]
fn child_receives() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = Path::new(&dir);
    let (_, intake) = open(dir);
    let mut acknowledged = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("acknowledged"))
        .unwrap();
    intake.association_opened(AssociationId(1));
    for number in 1..=COUNT {
        let slice = Slice::new(SERIES, number);
        let mut spool = intake.begin(slice.claim(1)).unwrap();
        spool.write(&slice.data_set()).unwrap();
        spool.finish().unwrap();
        writeln!(acknowledged, "{}", slice.sop_instance_uid()).unwrap();
    }
    intake.association_closed(AssociationId(1)).unwrap();
}

#[test]
fn killed_while_receiving_nothing_acknowledged_is_lost() {
    let points = ["intake_written", "intake_renamed", "intake_synced"];
    let points = points
        .iter()
        .flat_map(|point| [format!("{point}:1"), format!("{point}:40")]);
    for point in points.chain(["store_before_commit:1".into(), "store_after_commit:1".into()]) {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            run("child_receives", dir.path(), Some(&point)),
            "{point} was not reached"
        );
        let acknowledged = fs::read_to_string(dir.path().join("acknowledged")).unwrap_or_default();
        {
            let (store, _intake) = open(dir.path());
            let known: Vec<String> = match store.jobs(None, 9).unwrap().as_slice() {
                [] => Vec::new(),
                [job] => store
                    .job_instances(job.id)
                    .unwrap()
                    .iter()
                    .map(|i| i.sop_instance_uid.to_string())
                    .collect(),
                more => panic!("{point}: {} jobs", more.len()),
            };
            for uid in acknowledged.lines() {
                assert!(
                    known.iter().any(|known| known == uid),
                    "{point}: {uid} was acknowledged and is lost"
                );
            }
            assert_eq!(fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0, "{point}");
        }
        assert!(!run("child_receives", dir.path(), None));
        let (store, _intake) = open(dir.path());
        let jobs = store.jobs(None, 9).unwrap();
        let found: Vec<(State, u32)> = jobs.iter().map(|job| (job.state, job.instances)).collect();
        assert_eq!(found, [(State::Receiving, COUNT)], "{point}");
    }
}

fn results(job: &Job, store: &Store) -> Vec<KeptResult> {
    let uid = |text| Uid::parse(text).unwrap();
    let result = |kind: &str| KeptResult {
        kind: kind.into(),
        sop_class_uid: uid("1.2.3"),
        sop_instance_uid: Uid::derived(&[&job.identity.uid_seed, kind]),
        transfer_syntax_uid: uid("1.2.840.10008.1.2.1"),
        path: store.results_dir(job.id).join(kind),
        sha256: "00".into(),
    };
    vec![result("rtstruct"), result("seg")]
}

/// Takes one job as far as it goes, from wherever it stands.
#[test]
fn child_computes_and_sends() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let (store, _intake) = open(Path::new(&dir));
    let now = Timestamp::now();
    store.recover(now).unwrap();
    for job in store.gathering_jobs().unwrap() {
        store.fell_silent(job.id, "waits", now).unwrap();
        store.close(&job, "chest", 0, "whole", now).unwrap();
    }
    if let Some(job) = store.claim(now).unwrap() {
        let parcel = |name: &str| Parcel {
            destination: name.to_owned(),
            items: vec![vec!["seg".to_owned()], vec!["rtstruct".to_owned()]],
        };
        let to = ["PACS", "TPS"].map(parcel);
        store
            .keep(&job, &results(&job, &store), &Summary::default(), &to, now)
            .unwrap();
    }
    for due in store.due_deliveries(now).unwrap() {
        // What a destination would see, in the order it would see it.
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(Path::new(&dir).join("sent"));
        let mut log = log.unwrap();
        for object in due.items.iter().flatten() {
            writeln!(log, "{} {} {}", due.destination, object.kind, object.sop_instance_uid).unwrap();
        }
        store.delivery_succeeded(due.job, &due.destination, "all", now).unwrap();
    }
}

#[test]
fn killed_at_any_commit_every_job_ends_and_one_uid_is_sent_per_object() {
    for point in ["store_before_commit", "store_after_commit"] {
        let mut passes = 0;
        loop {
            passes += 1;
            assert!(passes < 20, "the child has more commits than expected");
            let dir = tempfile::tempdir().unwrap();
            assert!(!run("child_receives", dir.path(), None));
            let killed = run(
                "child_computes_and_sends",
                dir.path(),
                Some(&format!("{point}:{passes}")),
            );
            assert!(!run("child_computes_and_sends", dir.path(), None));
            let (store, _intake) = open(dir.path());
            let jobs = store.jobs(None, 9).unwrap();
            let found: Vec<State> = jobs.iter().map(|job| job.state).collect();
            assert_eq!(found, [State::Done], "{point}:{passes}");
            assert!(jobs[0].attempts <= 2, "{point}:{passes}");
            let sent = fs::read_to_string(dir.path().join("sent")).unwrap();
            let mut sent: Vec<&str> = sent.lines().collect();
            sent.sort_unstable();
            sent.dedup();
            assert_eq!(
                sent.len(),
                4,
                "{point}:{passes}: two objects to two destinations: {sent:?}"
            );
            if !killed {
                break;
            }
        }
        assert!(passes > 5, "{point} was reached only {} times", passes - 1);
    }
}
