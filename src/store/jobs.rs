//! Job rows: reading them, the moves before the work begins, and the operator's wishes.

use crate::dicom::uid::Uid;
use crate::job::{Event, Job, JobId, Purpose, SeriesKey, State, Summary};
use crate::results::{Identity, ModelUsed, NOTICE};
use crate::store::{Change, Store, StoreError};
use jiff::Timestamp;
use rusqlite::Row;

/// One line of a job's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    pub at: Timestamp,
    /// After the event.
    pub state: State,
    /// What happened and why, for people.
    pub text: String,
}

const COLUMNS: &str = "id, study_uid, series_uid, revision, patient_id, protocol, purpose, state, priority, attempts, supersedes, \
     supersedes_sop_uid, uid_seed, content_date, content_time, instances, reason, retry_at, received_at, gathering_since, last_instance_at, \
     started_at, finished_at, provider, models, structures_found, structures_missing, report";

impl Store {
    pub fn job(&self, job: JobId) -> Result<Job, StoreError> {
        self.read(|change| change.job(job))
    }

    /// The newest jobs first, at most `limit`, of one state or all.
    pub fn jobs(&self, state: Option<State>, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.read(|change| {
            let state = state.map(State::as_str);
            change.jobs("(?1 IS NULL OR state = ?1) ORDER BY id DESC LIMIT ?2", (state, limit))
        })
    }

    /// Every job of a series, oldest first, whatever study it was filed under.
    pub fn jobs_of_series(&self, series_instance_uid: &Uid) -> Result<Vec<Job>, StoreError> {
        self.read(|change| change.jobs("series_uid = ?1 ORDER BY id", [series_instance_uid.as_str()]))
    }

    /// Every job of a study, oldest first.
    pub fn jobs_of_study(&self, study_instance_uid: &Uid) -> Result<Vec<Job>, StoreError> {
        self.read(|change| change.jobs("study_uid = ?1 ORDER BY id", [study_instance_uid.as_str()]))
    }

    /// The jobs that still take instances: receiving or waiting, oldest first.
    pub fn gathering_jobs(&self) -> Result<Vec<Job>, StoreError> {
        self.read(|change| change.jobs("state IN ('receiving', 'waiting') ORDER BY id", []))
    }

    /// The story of a job, oldest line first.
    pub fn events(&self, job: JobId) -> Result<Vec<JobEvent>, StoreError> {
        self.read(|change| {
            let sql = "SELECT at, state, text FROM job_events WHERE job = ?1 ORDER BY id";
            let rows = change.rows(sql, [job.0], |row| {
                Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?))
            })?;
            let event = |(at, state, text): (i64, String, String)| {
                Ok(JobEvent {
                    at: change.time(at)?,
                    state: change.state(&state)?,
                    text,
                })
            };
            rows.into_iter().map(event).collect()
        })
    }

    /// Nothing has come for the settle time. A job that waits already only gets the new reason.
    pub fn fell_silent(&self, job: JobId, waits_for: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write(|change| {
            let job = change.job(job)?;
            if job.state == State::Waiting && job.reason.as_deref() == Some(waits_for) {
                return Ok(());
            }
            change.step(job.id, Event::FellSilent, now, waits_for)
        })
    }

    /// The series is taken as it is now, for a protocol. False when an instance came since `seen` were counted: decide again.
    pub fn close(
        &self,
        job: &Job,
        protocol: &str,
        priority: i64,
        why: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(|change| {
            let current = change.job(job.id)?;
            if current.state == State::Queued && current.protocol.as_deref() == Some(protocol) {
                return Ok(true);
            }
            if current.instances != job.instances {
                return Ok(false);
            }
            change.step(job.id, Event::Closed, now, why)?;
            change.run(
                "UPDATE jobs SET protocol = ?2, priority = ?3, queued_at = ?4, retry_at = NULL,
                        upto_instance = (SELECT max(id) FROM instances WHERE study_uid = jobs.study_uid AND series_uid = jobs.series_uid)
                  WHERE id = ?1",
                (job.id.0, protocol, priority, now.as_millisecond()),
            )?;
            Ok(true)
        })
    }

    /// Not eligible, before any work was begun on it.
    pub fn refuse(&self, job: JobId, reason: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write(|change| change.step_once(job, Event::Refused, State::Refused, reason, now))
    }

    /// An operator's wish. A running job is given up by the worker as soon as it looks; deliveries under way are not recalled.
    pub fn cancel(&self, job: JobId, reason: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write(|change| {
            change.step_once(job, Event::Cancelled, State::Cancelled, reason, now)?;
            change.run(
                "UPDATE deliveries SET state = 'cancelled' WHERE job = ?1 AND state = 'pending'",
                [job.0],
            )?;
            Ok(())
        })
    }

    /// An operator's wish. A job with kept results sends them again, the same bytes: to everybody when it was done, else to
    /// those that did not acknowledge. A job without is closed and computed anew. Returns the state it is in now.
    pub fn retry(&self, job: JobId, now: Timestamp) -> Result<State, StoreError> {
        self.write(|change| {
            let current = change.job(job)?;
            if let Some(later) = change.later_job(&current)? {
                return Err(StoreError::Unfit {
                    job,
                    problem: format!(
                        "superseded by job {later} of the same series, which has all its instances: retry that one"
                    ),
                });
            }
            let kept = change
                .first(
                    "SELECT 1 FROM results WHERE job = ?1 AND kind NOT LIKE ?2 || '%'",
                    (job.0, NOTICE),
                    |_| Ok(()),
                )?
                .is_some();
            if !kept {
                // A notice of the run before says what may no longer be so.
                change.run("DELETE FROM deliveries WHERE job = ?1", [job.0])?;
                change.run("DELETE FROM results WHERE job = ?1", [job.0])?;
                change.step(job, Event::Retried, now, "retried by an operator")?;
                change.run(
                    "UPDATE jobs SET attempts = 0, upto_instance = NULL, retry_at = NULL WHERE id = ?1",
                    [job.0],
                )?;
                return Ok(State::Waiting);
            }
            let pending = change.run(
                "UPDATE deliveries SET state = 'pending', attempts = 0, next_at = ?2, acknowledged_at = NULL
                  WHERE job = ?1 AND (?3 OR state IN ('failed', 'cancelled'))",
                (job.0, now.as_millisecond(), current.state == State::Done),
            )?;
            if pending == 0 {
                return Err(StoreError::Unfit {
                    job,
                    problem: "its results are kept and there is nobody to send them to".to_owned(),
                });
            }
            change.step(job, Event::Resent, now, "results sent again at an operator's wish")?;
            Ok(State::Sending)
        })
    }

    /// Adds a line to a job's story without moving it.
    pub fn note(&self, job: JobId, text: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write(|change| change.note(job, now, text))
    }
}

impl Change<'_> {
    /// Moves a job by one event, gives it the text as its reason, and writes the line in its story.
    pub(crate) fn step(&self, job: JobId, event: Event, at: Timestamp, text: &str) -> Result<(), StoreError> {
        let state = self.job_state(job)?.after(event)?;
        let finished = state.is_end().then(|| at.as_millisecond());
        let sql = "UPDATE jobs SET state = ?2, reason = ?3, finished_at = ?4 WHERE id = ?1";
        self.run(sql, (job.0, state.as_str(), text, finished))?;
        self.note(job, at, text)
    }

    /// [`step`](Self::step) unless the job already stands where the event leads: repeated requests are harmless.
    pub(crate) fn step_once(
        &self,
        job: JobId,
        event: Event,
        leads_to: State,
        text: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if self.job_state(job)? == leads_to {
            Ok(())
        } else {
            self.step(job, event, at, text)
        }
    }

    pub(crate) fn note(&self, job: JobId, at: Timestamp, text: &str) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO job_events (job, at, state, text) SELECT id, ?2, state, ?3 FROM jobs WHERE id = ?1",
            (job.0, at.as_millisecond(), text),
        )?;
        Ok(())
    }

    pub(crate) fn job(&self, job: JobId) -> Result<Job, StoreError> {
        self.jobs("id = ?1", [job.0])?.pop().ok_or(StoreError::NoSuchJob(job))
    }

    pub(crate) fn jobs(&self, condition: &str, parameters: impl rusqlite::Params) -> Result<Vec<Job>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE {condition}");
        let raw = self.rows(&sql, parameters, RawJob::read)?;
        raw.into_iter().map(|raw| raw.check(self)).collect()
    }

    pub(crate) fn job_state(&self, job: JobId) -> Result<State, StoreError> {
        let text = self.first("SELECT state FROM jobs WHERE id = ?1", [job.0], |row| {
            row.get::<_, String>(0)
        })?;
        self.state(&text.ok_or(StoreError::NoSuchJob(job))?)
    }

    pub(crate) fn state(&self, text: &str) -> Result<State, StoreError> {
        State::parse(text).ok_or_else(|| self.store.corrupt(format!("state {text:?}")))
    }

    pub(crate) fn purpose(&self, text: &str) -> Result<Purpose, StoreError> {
        Purpose::parse(text).ok_or_else(|| self.store.corrupt(format!("purpose {text:?}")))
    }

    fn later_job(&self, job: &Job) -> Result<Option<JobId>, StoreError> {
        let key = (
            job.series.study_instance_uid.as_str(),
            job.series.series_instance_uid.as_str(),
            job.identity.revision,
        );
        let sql = "SELECT max(id) FROM jobs WHERE study_uid = ?1 AND series_uid = ?2 AND revision > ?3";
        Ok(self
            .first(sql, key, |row| row.get::<_, Option<i64>>(0))?
            .flatten()
            .map(JobId))
    }
}

/// A row as SQLite gives it, before UIDs, times and names are checked.
struct RawJob {
    job: Job,
    study_uid: String,
    series_uid: String,
    purpose: String,
    state: String,
    supersedes_sop_uid: Option<String>,
    retry_at: Option<i64>,
    received_at: i64,
    gathering_since: i64,
    last_instance_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    models: String,
    structures_found: String,
    structures_missing: String,
}

impl RawJob {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let nobody = Uid::derived(&[]);
        Ok(Self {
            study_uid: row.get("study_uid")?,
            series_uid: row.get("series_uid")?,
            purpose: row.get("purpose")?,
            state: row.get("state")?,
            supersedes_sop_uid: row.get("supersedes_sop_uid")?,
            retry_at: row.get("retry_at")?,
            received_at: row.get("received_at")?,
            gathering_since: row.get("gathering_since")?,
            last_instance_at: row.get("last_instance_at")?,
            started_at: row.get("started_at")?,
            finished_at: row.get("finished_at")?,
            models: row.get("models")?,
            structures_found: row.get("structures_found")?,
            structures_missing: row.get("structures_missing")?,
            job: Job {
                id: JobId(row.get("id")?),
                series: SeriesKey {
                    study_instance_uid: nobody.clone(),
                    series_instance_uid: nobody,
                },
                patient_id: row.get("patient_id")?,
                protocol: row.get("protocol")?,
                purpose: Purpose::Outline,
                state: State::Receiving,
                priority: row.get("priority")?,
                attempts: row.get("attempts")?,
                supersedes: row.get::<_, Option<i64>>("supersedes")?.map(JobId),
                identity: Identity {
                    uid_seed: row.get("uid_seed")?,
                    content_date: row.get("content_date")?,
                    content_time: row.get("content_time")?,
                    revision: row.get("revision")?,
                    supersedes: None,
                },
                instances: row.get("instances")?,
                reason: row.get("reason")?,
                retry_at: None,
                received_at: Timestamp::UNIX_EPOCH,
                gathering_since: Timestamp::UNIX_EPOCH,
                last_instance_at: Timestamp::UNIX_EPOCH,
                started_at: None,
                finished_at: None,
                summary: Summary {
                    provider: row.get("provider")?,
                    report_json: row.get("report")?,
                    ..Summary::default()
                },
            },
        })
    }

    fn check(self, change: &Change<'_>) -> Result<Job, StoreError> {
        let mut job = self.job;
        job.series.study_instance_uid = change.uid(&self.study_uid)?;
        job.series.series_instance_uid = change.uid(&self.series_uid)?;
        job.purpose = change.purpose(&self.purpose)?;
        job.state = change.state(&self.state)?;
        job.identity.supersedes = self.supersedes_sop_uid.map(|uid| change.uid(&uid)).transpose()?;
        job.retry_at = change.time_or_none(self.retry_at)?;
        job.received_at = change.time(self.received_at)?;
        job.gathering_since = change.time(self.gathering_since)?;
        job.last_instance_at = change.time(self.last_instance_at)?;
        job.started_at = change.time_or_none(self.started_at)?;
        job.finished_at = change.time_or_none(self.finished_at)?;
        let bad = |source: serde_json::Error| change.store.corrupt(format!("job {}: {source}", job.id));
        job.summary.structures_found = serde_json::from_str(&self.structures_found).map_err(bad)?;
        job.summary.structures_missing = serde_json::from_str(&self.structures_missing).map_err(bad)?;
        let models: Vec<ModelRow> = serde_json::from_str(&self.models).map_err(bad)?;
        job.summary.models = models.into_iter().map(ModelRow::into_model).collect();
        Ok(job)
    }
}

/// [`ModelUsed`] as it is read back.
#[derive(serde::Deserialize)]
struct ModelRow {
    name: String,
    version: String,
    sha256: String,
}

impl ModelRow {
    fn into_model(self) -> ModelUsed {
        ModelUsed {
            name: self.name,
            version: self.version,
            sha256: self.sha256,
        }
    }
}
