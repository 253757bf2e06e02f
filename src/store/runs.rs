//! The work itself: claiming a job, keeping its results, breaking off, and what is left after a crash.

use crate::job::{Event, Job, JobId, KeptResult, MAX_ATTEMPTS, Outcome, Parcel, State, Summary};
use crate::store::{Change, Store, StoreError};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// What [`Store::recover`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Jobs that were running when the process ended and are queued again.
    pub queued_again: Vec<JobId>,
    /// Jobs that were running and have no attempt left.
    pub failed: Vec<JobId>,
}

impl Store {
    /// Takes the next job: highest priority, then longest queued; not before its retry time, and not before the job it supersedes
    /// has ended. The attempt is counted here, before the work, so that a crash counts too.
    pub fn claim(&self, now: Timestamp) -> Result<Option<Job>, StoreError> {
        self.write(|change| {
            let next = change.first(
                "SELECT id FROM jobs WHERE state = 'queued' AND coalesce(retry_at, 0) <= ?1
                    AND NOT EXISTS (SELECT 1 FROM jobs old WHERE old.id = jobs.supersedes AND old.state IN ('queued', 'running'))
                  ORDER BY priority DESC, queued_at, id LIMIT 1",
                [now.as_millisecond()],
                |row| Ok(JobId(row.get(0)?)),
            )?;
            let Some(job) = next else { return Ok(None) };
            change.run(
                "UPDATE jobs SET attempts = attempts + 1, retry_at = NULL, started_at = ?2,
                        supersedes_sop_uid = coalesce(supersedes_sop_uid,
                            (SELECT r.sop_instance_uid FROM results r JOIN jobs old ON old.id = r.job
                              WHERE old.study_uid = jobs.study_uid AND old.series_uid = jobs.series_uid AND old.revision < jobs.revision
                                AND r.kind NOT LIKE 'notice-%'
                              ORDER BY old.revision DESC, r.kind = 'seg' DESC, r.kind LIMIT 1))
                  WHERE id = ?1",
                (job.0, now.as_millisecond()),
            )?;
            let attempt = change.job(job)?.attempts;
            change.step(job, Event::Claimed, now, &format!("attempt {attempt} of {MAX_ATTEMPTS} begins"))?;
            change.job(job).map(Some)
        })
    }

    /// The results lie durably on disk: makes them known, with a pending delivery per destination, in one transaction.
    /// Returns the new state. Repeating it with the same results changes nothing.
    pub fn keep(
        &self,
        job: &Job,
        results: &[KeptResult],
        summary: &Summary,
        parcels: &[Parcel],
        now: Timestamp,
    ) -> Result<State, StoreError> {
        self.write(|change| {
            let current = change.job(job.id)?;
            let known = change.results(job.id)?;
            if matches!(current.state, State::Sending | State::Done) && results.iter().all(|r| known.contains(r)) {
                return Ok(current.state);
            }
            let (event, text) = match parcels {
                [] if results.is_empty() => (Event::KeptUnsent, "nothing is to be sent".to_owned()),
                [] => (
                    Event::KeptUnsent,
                    "results kept; the protocol names no destination".to_owned(),
                ),
                some => {
                    let names: Vec<&str> = some.iter().map(|parcel| parcel.destination.as_str()).collect();
                    (Event::Kept, format!("results kept; to be sent to {}", names.join(", ")))
                }
            };
            check_claim(job, &current, event)?;
            change.step(job.id, event, now, &text)?;
            keep_all(change, job.id, results, parcels, now)?;
            save_summary(change, job.id, summary)?;
            change.job_state(job.id)
        })
    }

    /// The run ended without results. A stumble on the last attempt fails the job. Returns the new state.
    pub fn end(&self, job: &Job, outcome: &Outcome, now: Timestamp) -> Result<State, StoreError> {
        self.end_with(job, outcome, None, now)
    }

    /// [`end`](Self::end), and tells the destinations so by an object that lies durably on disk.
    pub fn end_with(
        &self,
        job: &Job,
        outcome: &Outcome,
        notice: Option<(&KeptResult, &[Parcel])>,
        now: Timestamp,
    ) -> Result<State, StoreError> {
        self.write(|change| {
            let current = change.job(job.id)?;
            let used_up = format!("attempt {} of {MAX_ATTEMPTS} failed", current.attempts);
            let (event, text) = match outcome {
                Outcome::Refused(reason) => (Event::Refused, reason.clone()),
                Outcome::GaveUp(reason) => (Event::GaveUp, reason.clone()),
                Outcome::Refunded => (
                    Event::Refunded,
                    "the daemon was stopped: queued again, the attempt does not count".to_owned(),
                ),
                Outcome::Stumbled { reason, .. } if current.attempts >= MAX_ATTEMPTS => {
                    (Event::GaveUp, format!("{used_up}, none is left: {reason}"))
                }
                Outcome::Stumbled { reason, .. } => (Event::Stumbled, format!("{used_up}: {reason}")),
            };
            check_claim(job, &current, event)?;
            change.step(job.id, event, now, &text)?;
            match outcome {
                Outcome::Stumbled { retry_at, .. } => {
                    change.run(
                        "UPDATE jobs SET retry_at = ?2 WHERE id = ?1",
                        (job.id.0, retry_at.as_millisecond()),
                    )?;
                }
                Outcome::Refunded => {
                    change.run(
                        "UPDATE jobs SET attempts = max(attempts - 1, 0) WHERE id = ?1",
                        [job.id.0],
                    )?;
                }
                Outcome::Refused(_) | Outcome::GaveUp(_) => {}
            }
            if let Some((notice, parcels)) = notice {
                keep_all(change, job.id, std::slice::from_ref(notice), parcels, now)?;
            }
            change.job_state(job.id)
        })
    }

    /// [`end`](Self::end) with what the run can report all the same: structures missing, provider, models.
    pub fn save_summary(&self, job: JobId, summary: &Summary) -> Result<(), StoreError> {
        self.write(|change| save_summary(change, job, summary))
    }

    /// True once an operator cancelled the job; the worker asks between steps.
    pub fn is_cancelled(&self, job: JobId) -> Result<bool, StoreError> {
        self.read(|change| Ok(change.job_state(job)? == State::Cancelled))
    }

    /// The kept results of a job, by kind.
    pub fn results(&self, job: JobId) -> Result<Vec<KeptResult>, StoreError> {
        self.read(|change| change.results(job))
    }

    /// To be called once at start, before anything is claimed: what ran when the process ended is queued again, or fails when
    /// that was its last attempt.
    pub fn recover(&self, now: Timestamp) -> Result<Recovered, StoreError> {
        self.write(|change| {
            let mut recovered = Recovered::default();
            for job in change.jobs("state = 'running' ORDER BY id", [])? {
                let broken = format!(
                    "attempt {} of {MAX_ATTEMPTS} was cut off: the daemon ended while the job was running",
                    job.attempts
                );
                if job.attempts < MAX_ATTEMPTS {
                    change.step(job.id, Event::Stumbled, now, &broken)?;
                    recovered.queued_again.push(job.id);
                } else {
                    change.step(job.id, Event::GaveUp, now, &format!("{broken}; none is left"))?;
                    recovered.failed.push(job.id);
                }
            }
            Ok(recovered)
        })
    }
}

/// The worker's claim must still be the newest one; else a slow worker could end a run that is not its own.
fn check_claim(claimed: &Job, current: &Job, event: Event) -> Result<(), StoreError> {
    if current.state == State::Running && current.attempts != claimed.attempts {
        let problem = format!(
            "{event:?} comes from attempt {}, running is attempt {}",
            claimed.attempts, current.attempts
        );
        return Err(StoreError::Unfit {
            job: claimed.id,
            problem,
        });
    }
    Ok(())
}

/// Result rows, and a pending delivery for each parcel. A delivery that an earlier attempt left (a notice, say) begins anew.
fn keep_all(
    change: &Change<'_>,
    job: JobId,
    results: &[KeptResult],
    parcels: &[Parcel],
    now: Timestamp,
) -> Result<(), StoreError> {
    for result in results {
        insert_result(change, job, result)?;
    }
    for parcel in parcels {
        let items = serde_json::to_string(&parcel.items).map_err(|bad| change.store.corrupt(bad.to_string()))?;
        change.run(
            "INSERT INTO deliveries (job, destination, state, next_at, items) VALUES (?1, ?2, 'pending', ?3, ?4)
             ON CONFLICT (job, destination) DO UPDATE
                SET state = 'pending', attempts = 0, next_at = ?3, items = ?4, last_error = NULL, acknowledged_at = NULL",
            (job.0, &parcel.destination, now.as_millisecond(), items),
        )?;
    }
    Ok(())
}

fn insert_result(change: &Change<'_>, job: JobId, result: &KeptResult) -> Result<(), StoreError> {
    let path = result.path.strip_prefix(change.store.dir()).unwrap_or(&result.path);
    let path = path
        .to_str()
        .ok_or_else(|| change.store.corrupt(format!("path {path:?} is not UTF-8")))?;
    change.run(
        "INSERT INTO results (job, kind, sop_class_uid, sop_instance_uid, transfer_syntax_uid, path, sha256)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            job.0,
            &result.kind,
            result.sop_class_uid.as_str(),
            result.sop_instance_uid.as_str(),
            result.transfer_syntax_uid.as_str(),
            path,
            &result.sha256,
        ),
    )?;
    Ok(())
}

fn save_summary(change: &Change<'_>, job: JobId, summary: &Summary) -> Result<(), StoreError> {
    let json = |value: serde_json::Result<String>| value.map_err(|source| change.store.corrupt(source.to_string()));
    change.run(
        "UPDATE jobs SET provider = ?2, models = ?3, structures_found = ?4, structures_missing = ?5, report = ?6 WHERE id = ?1",
        (
            job.0,
            &summary.provider,
            json(serde_json::to_string(&summary.models))?,
            json(serde_json::to_string(&summary.structures_found))?,
            json(serde_json::to_string(&summary.structures_missing))?,
            &summary.report_json,
        ),
    )?;
    Ok(())
}

impl Change<'_> {
    pub(crate) fn results(&self, job: JobId) -> Result<Vec<KeptResult>, StoreError> {
        let rows = self.rows(
            "SELECT kind, sop_class_uid, sop_instance_uid, transfer_syntax_uid, path, sha256 FROM results WHERE job = ?1 ORDER BY kind",
            [job.0],
            |row| {
                let uids: [String; 3] = [row.get(1)?, row.get(2)?, row.get(3)?];
                Ok((row.get::<_, String>(0)?, uids, row.get::<_, String>(4)?, row.get::<_, String>(5)?))
            },
        )?;
        let result = |(kind, uids, path, sha256): (String, [String; 3], String, String)| {
            let [sop_class_uid, sop_instance_uid, transfer_syntax_uid] = uids;
            Ok(KeptResult {
                kind,
                sop_class_uid: self.uid(&sop_class_uid)?,
                sop_instance_uid: self.uid(&sop_instance_uid)?,
                transfer_syntax_uid: self.uid(&transfer_syntax_uid)?,
                // Joining keeps a path that is absolute.
                path: Path::join(self.store.dir(), PathBuf::from(path)),
                sha256,
            })
        };
        rows.into_iter().map(result).collect()
    }
}
