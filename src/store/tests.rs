//! Each transaction twice, and what a job's row says after each.

use crate::dicom::uid::Uid;
use crate::job::{Job, JobId, KeptResult, MAX_ATTEMPTS, Outcome, Parcel, Purpose, SeriesKey, State, Summary};
use crate::results::ModelUsed;
use crate::store::{DeliveryState, NewInstance, Store, StoreError};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

/// A fixed morning, plus seconds.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

fn instance(series: &str, number: u32, second: i64) -> NewInstance {
    NewInstance {
        series: SeriesKey {
            study_instance_uid: uid("1.2"),
            series_instance_uid: uid(series),
        },
        sop_instance_uid: uid(&format!("{series}.{number}")),
        sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.2"),
        transfer_syntax_uid: uid("1.2.840.10008.1.2.1"),
        patient_id: "P1".into(),
        purpose: Purpose::Outline,
        source_ae: "CT1".into(),
        received_at: at(second),
    }
}

fn results(job: &Job, store: &Store) -> Vec<KeptResult> {
    ["rtstruct", "seg"]
        .map(|kind| KeptResult {
            kind: kind.into(),
            sop_class_uid: uid("1.2.3"),
            sop_instance_uid: Uid::derived(&[&job.identity.uid_seed, kind]),
            transfer_syntax_uid: uid("1.2.840.10008.1.2.1"),
            path: store.results_dir(job.id).join(kind),
            sha256: "00".into(),
        })
        .to_vec()
}

/// Everything for each of the destinations.
fn parcels(destinations: &[&str]) -> Vec<Parcel> {
    let parcel = |name: &&str| Parcel {
        destination: name.to_string(),
        items: vec![vec!["rtstruct".into()], vec!["seg".into()]],
    };
    destinations.iter().map(parcel).collect()
}

fn summary() -> Summary {
    let model = ModelUsed {
        name: "lite_medsam".into(),
        version: "1".into(),
        sha256: "ab".into(),
    };
    Summary {
        structures_found: vec!["liver".into(), "spleen".into()],
        structures_missing: vec![("bladder".into(), "outside the field of view".into())],
        provider: "cpu".into(),
        models: vec![model],
        report_json: "{}".into(),
    }
}

struct Fixture {
    store: Store,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(dir.path(), TimeZone::UTC).unwrap(),
            dir,
        }
    }

    /// A series of `count` instances, its job closed.
    fn queued(&self, series: &str, count: u32, priority: i64, second: i64) -> JobId {
        let instances: Vec<_> = (1..=count).map(|number| instance(series, number, second)).collect();
        assert_eq!(self.store.record_instances(&instances).unwrap(), count as usize);
        let job = self.store.jobs_of_series(&uid(series)).unwrap().pop().unwrap();
        self.store.fell_silent(job.id, "waits", at(second)).unwrap();
        assert!(self.store.close(&job, "chest", priority, "whole", at(second)).unwrap());
        job.id
    }

    fn story(&self, job: JobId) -> Vec<String> {
        self.store
            .events(job)
            .unwrap()
            .into_iter()
            .map(|event| format!("{}: {}", event.state, event.text))
            .collect()
    }

    fn log(&self, column: &str, job: JobId) -> Option<String> {
        let sql = format!("SELECT CAST({column} AS TEXT) FROM job_log WHERE job_id = ?1");
        self.store
            .shared
            .connection
            .lock()
            .unwrap()
            .query_row(&sql, [job.0], |row| row.get(0))
            .unwrap()
    }
}

/// Taught first and outlined later, or asked for both while it arrives.
#[test]
fn a_series_that_was_taught_is_outlined_when_it_comes_again() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let taught = |number, second| NewInstance {
        purpose: Purpose::Teach,
        ..instance("1.2.7", number, second)
    };
    store.record_instances(&[taught(1, 0), taught(2, 1)]).unwrap();
    assert_eq!(store.jobs(None, 9).unwrap()[0].purpose, Purpose::Teach);
    let job = store.jobs(None, 9).unwrap().remove(0);
    store.refuse(job.id, "enough", at(2)).unwrap();
    // Sent for teaching again: nothing new. To be outlined: a job about both, though both are here.
    store.record_instances(&[taught(1, 3)]).unwrap();
    assert_eq!(store.jobs(None, 9).unwrap().len(), 1);
    store
        .record_instances(&[instance("1.2.7", 1, 4), instance("1.2.7", 2, 4)])
        .unwrap();
    let jobs = store.jobs(None, 9).unwrap();
    assert_eq!(
        (jobs.len(), jobs[0].purpose, jobs[0].instances),
        (2, Purpose::Outline, 2)
    );
    assert_eq!(jobs[0].supersedes, None);

    store
        .record_instances(&[NewInstance {
            purpose: Purpose::Teach,
            ..instance("1.2.8", 1, 5)
        }])
        .unwrap();
    store.record_instances(&[instance("1.2.8", 2, 6)]).unwrap();
    let jobs = store.jobs(None, 9).unwrap();
    assert_eq!(
        (jobs.len(), jobs[0].purpose, jobs[0].instances),
        (3, Purpose::Outline, 2)
    );
}

#[test]
fn the_way_of_a_job_each_step_twice() {
    let f = Fixture::new();
    let id = f.queued("1.5", 3, 0, 0);
    assert_eq!(
        f.store.record_instances(&[instance("1.5", 2, 9)]).unwrap(),
        0,
        "known instances move nothing"
    );
    assert_eq!(f.store.job(id).unwrap().state, State::Queued);
    let seen = f.store.job(id).unwrap();
    assert!(f.store.close(&seen, "chest", 0, "whole", at(1)).unwrap());

    let job = f.store.claim(at(2)).unwrap().unwrap();
    assert_eq!((job.id, job.attempts, job.state), (id, 1, State::Running));
    assert!(f.store.claim(at(2)).unwrap().is_none());
    assert_eq!(f.store.job_instances(id).unwrap().len(), 3);

    let to = parcels(&["PACS", "TPS"]);
    for _ in 0..2 {
        assert_eq!(
            f.store
                .keep(&job, &results(&job, &f.store), &summary(), &to, at(3))
                .unwrap(),
            State::Sending
        );
    }
    assert_eq!(f.store.results(id).unwrap(), results(&job, &f.store));
    let due = f.store.due_deliveries(at(3)).unwrap();
    assert_eq!(
        due.iter()
            .map(|d| (d.destination.as_str(), d.items.len()))
            .collect::<Vec<_>>(),
        [("PACS", 2), ("TPS", 2)]
    );

    for _ in 0..2 {
        assert_eq!(
            f.store.delivery_succeeded(id, "PACS", "all", at(4)).unwrap(),
            State::Sending
        );
    }
    assert_eq!(
        f.store
            .delivery_failed(id, "TPS", "nobody there", Some(at(60)), at(4))
            .unwrap(),
        State::Sending
    );
    assert!(f.store.due_deliveries(at(59)).unwrap().is_empty());
    assert_eq!(f.store.next_delivery_at().unwrap(), Some(at(60)));
    for _ in 0..2 {
        assert_eq!(
            f.store.delivery_succeeded(id, "TPS", "all", at(61)).unwrap(),
            State::Done
        );
    }
    let expected = [
        "receiving: first instance, from CT1",
        "waiting: waits",
        "queued: whole",
        "running: attempt 1 of 3 begins",
        "sending: results kept; to be sent to PACS, TPS",
        "sending: PACS acknowledged all",
        "sending: sending to TPS failed, will be tried again: nobody there",
        "sending: TPS acknowledged all",
        "done: every destination acknowledged the results",
    ];
    assert_eq!(f.story(id), expected);
}

#[test]
fn the_log_for_administrators_says_what_came_of_a_job() {
    let f = Fixture::new();
    let id = f.queued("1.5", 3, 0, 0);
    let job = f.store.claim(at(2)).unwrap().unwrap();
    f.store
        .keep(&job, &results(&job, &f.store), &summary(), &[], at(61))
        .unwrap();
    let done = f.store.job(id).unwrap();
    assert_eq!((done.summary.models.len(), done.finished_at), (1, Some(at(61))));
    assert_eq!(f.log("structures_found", id).unwrap(), "liver, spleen");
    assert_eq!(
        f.log("structures_missing", id).unwrap(),
        "bladder (outside the field of view)"
    );
    assert_eq!(f.log("model_versions", id).unwrap(), "lite_medsam 1");
    assert_eq!(
        f.log("received_at", id).unwrap(),
        at(0).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    );
    assert_eq!(
        (f.log("instances", id).unwrap().as_str(), f.log("error", id)),
        ("3", None)
    );
}

#[test]
fn a_late_slice_reopens_a_queued_job_and_supersedes_a_begun_one() {
    let f = Fixture::new();
    let first = f.queued("1.5", 2, 0, 0);
    let before = f.store.job(first).unwrap();
    f.store.record_instances(&[instance("1.5", 3, 10)]).unwrap();
    let reopened = f.store.job(first).unwrap();
    assert_eq!((reopened.state, reopened.instances), (State::Receiving, 3));
    assert!(
        !f.store.close(&before, "chest", 0, "whole", at(11)).unwrap(),
        "decided on two instances, there are three"
    );
    assert!(f.store.close(&reopened, "chest", 0, "whole", at(11)).unwrap());

    let running = f.store.claim(at(12)).unwrap().unwrap();
    f.store.record_instances(&[instance("1.5", 4, 13)]).unwrap();
    let [old, new] = f.store.jobs_of_series(&uid("1.5")).unwrap().try_into().unwrap();
    assert_eq!(
        (old.state, new.state, new.supersedes),
        (State::Running, State::Receiving, Some(first))
    );
    assert_eq!((new.identity.revision, new.instances), (2, 4));
    assert_eq!(
        f.store.job_instances(first).unwrap().len(),
        3,
        "the first run keeps to what it saw"
    );
    assert_eq!(f.store.job_instances(new.id).unwrap().len(), 4);
    assert_ne!(old.identity.uid_seed, new.identity.uid_seed);
    assert!(
        f.story(first)
            .last()
            .unwrap()
            .contains(&format!("job {} begins", new.id))
    );
    assert!(f.story(new.id)[0].contains(&format!("supersedes job {first}")));

    assert!(f.store.close(&new, "chest", 0, "whole", at(14)).unwrap());
    assert!(
        f.store.claim(at(15)).unwrap().is_none(),
        "not before the superseded job has ended"
    );
    f.store
        .keep(&running, &results(&running, &f.store), &summary(), &[], at(16))
        .unwrap();
    let next = f.store.claim(at(17)).unwrap().unwrap();
    let seg = Uid::derived(&[&running.identity.uid_seed, "seg"]);
    assert_eq!(next.identity.supersedes, Some(seg));
    assert!(
        matches!(f.store.retry(first, at(18)), Err(StoreError::Unfit { problem, .. }) if problem.contains("superseded"))
    );
}

#[test]
fn attempts_are_counted_before_the_work_and_a_clean_stop_gives_one_back() {
    let f = Fixture::new();
    let id = f.queued("1.5", 1, 0, 0);
    let job = f.store.claim(at(1)).unwrap().unwrap();
    assert_eq!(f.store.end(&job, &Outcome::Refunded, at(2)).unwrap(), State::Queued);
    assert_eq!(f.store.job(id).unwrap().attempts, 0);
    for attempt in 1..=MAX_ATTEMPTS {
        let claimed = f.store.claim(at(10)).unwrap().unwrap();
        assert_eq!(claimed.attempts, attempt);
        assert_eq!(claimed.identity.uid_seed, job.identity.uid_seed);
        // The process is killed here and starts again, twice.
        let recovered = f.store.recover(at(11)).unwrap();
        assert_eq!(recovered.failed.len(), usize::from(attempt == MAX_ATTEMPTS));
        assert_eq!(f.store.recover(at(11)).unwrap(), Default::default());
        // The worker that lost its claim can not end the run of another.
        assert!(f.store.keep(&claimed, &[], &summary(), &[], at(11)).is_err());
    }
    assert_eq!(f.store.job(id).unwrap().state, State::Failed);
    assert!(f.log("error", id).unwrap().contains("attempt 3 of 3"));
    assert_eq!(f.store.retry(id, at(20)).unwrap(), State::Waiting);
    assert_eq!(f.store.job(id).unwrap().attempts, 0);
}

#[test]
fn a_stumble_waits_and_a_stale_claim_is_refused() {
    let f = Fixture::new();
    let id = f.queued("1.5", 1, 0, 0);
    let stale = f.store.claim(at(1)).unwrap().unwrap();
    let stumble = Outcome::Stumbled {
        reason: "out of memory".into(),
        retry_at: at(50),
    };
    assert_eq!(f.store.end(&stale, &stumble, at(2)).unwrap(), State::Queued);
    assert!(f.store.claim(at(49)).unwrap().is_none());
    let fresh = f.store.claim(at(50)).unwrap().unwrap();
    assert!(matches!(
        f.store.keep(&stale, &[], &summary(), &[], at(51)),
        Err(StoreError::Unfit { .. })
    ));
    f.store.cancel(id, "cancelled by an operator", at(52)).unwrap();
    f.store.cancel(id, "cancelled by an operator", at(52)).unwrap();
    assert!(f.store.is_cancelled(id).unwrap());
    assert!(matches!(
        f.store.keep(&fresh, &[], &summary(), &[], at(53)),
        Err(StoreError::IllegalMove(_))
    ));
}

#[test]
fn priority_goes_first_then_age() {
    let f = Fixture::new();
    let [old, young, urgent] = [("1.5", 0, 0), ("1.6", 0, 1), ("1.7", 5, 2)]
        .map(|(series, priority, second)| f.queued(series, 1, priority, second));
    let order: Vec<JobId> = std::iter::from_fn(|| f.store.claim(at(9)).unwrap().map(|job| job.id)).collect();
    assert_eq!(order, [urgent, old, young]);
}

#[test]
fn a_destination_that_gives_up_fails_the_job_and_retry_sends_only_to_it() {
    let f = Fixture::new();
    let id = f.queued("1.5", 1, 0, 0);
    let job = f.store.claim(at(1)).unwrap().unwrap();
    f.store
        .keep(
            &job,
            &results(&job, &f.store),
            &summary(),
            &parcels(&["PACS", "TPS"]),
            at(2),
        )
        .unwrap();
    f.store.delivery_failed(id, "PACS", "A700H", None, at(3)).unwrap();
    assert_eq!(
        f.store.delivery_succeeded(id, "TPS", "all", at(4)).unwrap(),
        State::Failed
    );
    assert!(f.log("error", id).unwrap().contains("PACS after 1 attempts: A700H"));
    assert_eq!(f.store.retry(id, at(5)).unwrap(), State::Sending);
    let due: Vec<String> = f
        .store
        .due_deliveries(at(5))
        .unwrap()
        .into_iter()
        .map(|d| d.destination)
        .collect();
    assert_eq!(due, ["PACS"]);
    assert_eq!(
        f.store.delivery_succeeded(id, "PACS", "all", at(6)).unwrap(),
        State::Done
    );
    assert!(
        f.store
            .deliveries(id)
            .unwrap()
            .iter()
            .all(|d| d.state == DeliveryState::Delivered)
    );
}

#[test]
fn a_newer_schema_is_refused_and_a_known_one_opens_again() {
    let f = Fixture::new();
    f.queued("1.5", 1, 0, 0);
    let again = Store::open(f.dir.path(), TimeZone::UTC).unwrap();
    assert_eq!(again.jobs(None, 10).unwrap().len(), 1);
    f.store
        .shared
        .connection
        .lock()
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        Store::open(f.dir.path(), TimeZone::UTC),
        Err(StoreError::NewerSchema { found: 99, .. })
    ));
}

#[test]
fn content_date_and_time_are_those_of_the_hospital_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), TimeZone::fixed(jiff::tz::offset(2))).unwrap();
    store.record_instances(&[instance("1.5", 1, 0)]).unwrap();
    let job = store.jobs(None, 1).unwrap().remove(0);
    let local = at(0) + SignedDuration::from_hours(2);
    let expected = (
        local.strftime("%Y%m%d").to_string(),
        local.strftime("%H%M%S").to_string(),
    );
    assert_eq!((job.identity.content_date, job.identity.content_time), expected);
}

#[test]
fn a_notice_is_sent_and_is_no_result_when_the_job_is_tried_again() {
    let f = Fixture::new();
    let id = f.queued("1.2.9", 3, 0, 0);
    let job = f.store.claim(at(1)).unwrap().unwrap();
    let notice = KeptResult {
        kind: crate::results::notice_key("sc"),
        ..results(&job, &f.store).remove(0)
    };
    let to = [Parcel {
        destination: "PACS".into(),
        items: vec![vec![notice.kind.clone()]],
    }];
    let refused = Outcome::Refused("too few slices".into());
    let ended = f.store.end_with(&job, &refused, Some((&notice, &to)), at(2)).unwrap();
    assert_eq!(ended, State::Refused);
    let due = f.store.due_deliveries(at(2)).unwrap();
    assert_eq!(due[0].items, [[notice]]);
    assert_eq!(
        f.store.delivery_succeeded(id, "PACS", "notice", at(3)).unwrap(),
        State::Refused
    );
    // Computed again, not sent again.
    assert_eq!(f.store.retry(id, at(4)).unwrap(), State::Waiting);
    assert_eq!(
        (f.store.results(id).unwrap(), f.store.deliveries(id).unwrap()),
        (vec![], vec![])
    );
}

#[test]
fn what_a_destination_refuses_is_remembered_for_its_address() {
    let f = Fixture::new();
    let class = uid("1.2.840.10008.5.1.4.1.1.66.7");
    let refused = |address: &str, since| f.store.refused_classes("PACS", address, at(since)).unwrap();
    f.store
        .remember_ability("PACS", "A@h:104", &class, false, at(10))
        .unwrap();
    assert_eq!(refused("A@h:104", 10), std::slice::from_ref(&class));
    assert_eq!((refused("A@h:104", 11), refused("B@h:104", 0)), (vec![], vec![]));
    f.store
        .remember_ability("PACS", "A@h:104", &class, true, at(12))
        .unwrap();
    assert_eq!(refused("A@h:104", 0), []);
}
