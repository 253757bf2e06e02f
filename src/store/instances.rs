//! Rows of accepted instances, and how an arrival opens, extends or supersedes a job.

use crate::dicom::uid::Uid;
use crate::job::{Event, JobId, Purpose, SeriesKey, State};
use crate::store::{Change, Store, StoreError};
use jiff::Timestamp;
use std::collections::HashSet;
use std::path::PathBuf;

/// An instance that lies durably under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInstance {
    pub series: SeriesKey,
    pub sop_instance_uid: Uid,
    pub sop_class_uid: Uid,
    pub transfer_syntax_uid: Uid,
    pub patient_id: String,
    /// AE title that sent it; empty for drop folders.
    pub source_ae: String,
    pub purpose: Purpose,
    pub received_at: Timestamp,
}

/// One instance of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredInstance {
    pub sop_instance_uid: Uid,
    pub sop_class_uid: Uid,
    pub transfer_syntax_uid: Uid,
    pub path: PathBuf,
}

impl Store {
    /// Makes instances known, in one transaction, and moves their jobs. Those already known change nothing. Returns how many
    /// were new.
    pub fn record_instances(&self, instances: &[NewInstance]) -> Result<usize, StoreError> {
        if instances.is_empty() {
            return Ok(0);
        }
        self.write(|change| {
            let mut new = 0;
            for instance in instances {
                if insert(change, instance)? {
                    arrived(change, instance)?;
                    new += 1;
                } else if instance.purpose == Purpose::Outline && was_only_taught(change, &instance.series)? {
                    arrived(change, instance)?;
                }
            }
            Ok(new)
        })
    }

    /// The instances a job is about, in order of arrival: all of the series while the job is open, those known when it was
    /// closed afterwards, so that a run repeated after a late slice still sees what the first one saw.
    pub fn job_instances(&self, job: JobId) -> Result<Vec<StoredInstance>, StoreError> {
        self.read(|change| {
            let job = change.job(job)?;
            let rows = change.rows(
                "SELECT i.sop_instance_uid, i.sop_class_uid, i.transfer_syntax_uid
                   FROM instances i JOIN jobs j ON i.study_uid = j.study_uid AND i.series_uid = j.series_uid
                  WHERE j.id = ?1 AND i.id <= coalesce(j.upto_instance, i.id) ORDER BY i.id",
                [job.id.0],
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, String>(2)?,
                    ))
                },
            )?;
            let stored = |(sop_instance_uid, sop_class_uid, transfer_syntax_uid): (String, String, String)| {
                let sop_instance_uid = change.uid(&sop_instance_uid)?;
                Ok(StoredInstance {
                    path: self.instance_path(&job.series, &sop_instance_uid),
                    sop_instance_uid,
                    sop_class_uid: change.uid(&sop_class_uid)?,
                    transfer_syntax_uid: change.uid(&transfer_syntax_uid)?,
                })
            };
            rows.into_iter().map(stored).collect()
        })
    }

    /// SOP Instance UIDs the database knows in a series.
    pub fn known_instances(&self, series: &SeriesKey) -> Result<HashSet<String>, StoreError> {
        self.read(|change| {
            let key = (series.study_instance_uid.as_str(), series.series_instance_uid.as_str());
            let sql = "SELECT sop_instance_uid FROM instances WHERE study_uid = ?1 AND series_uid = ?2";
            Ok(change.rows(sql, key, |row| row.get(0))?.into_iter().collect())
        })
    }
}

/// True when the row was not there before.
fn insert(change: &Change<'_>, new: &NewInstance) -> Result<bool, StoreError> {
    let rows = change.run(
        "INSERT OR IGNORE INTO instances
             (study_uid, series_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, source_ae, received_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            new.series.study_instance_uid.as_str(),
            new.series.series_instance_uid.as_str(),
            new.sop_instance_uid.as_str(),
            new.sop_class_uid.as_str(),
            new.transfer_syntax_uid.as_str(),
            &new.source_ae,
            new.received_at.as_millisecond(),
        ),
    )?;
    Ok(rows == 1)
}

/// Whether nothing but teaching has been asked of a series: then even an instance that is here already is news when it comes to be
/// outlined.
fn was_only_taught(change: &Change<'_>, series: &SeriesKey) -> Result<bool, StoreError> {
    let key = (series.study_instance_uid.as_str(), series.series_instance_uid.as_str());
    let sql = "SELECT count(*) > 0 AND min(purpose = 'teach') FROM jobs WHERE study_uid = ?1 AND series_uid = ?2";
    Ok(change.first(sql, key, |row| row.get(0))?.unwrap_or(false))
}

fn arrived(change: &Change<'_>, new: &NewInstance) -> Result<(), StoreError> {
    let key = (
        new.series.study_instance_uid.as_str(),
        new.series.series_instance_uid.as_str(),
    );
    let newest = change.first(
        "SELECT id, state, revision, purpose FROM jobs WHERE study_uid = ?1 AND series_uid = ?2 ORDER BY revision DESC LIMIT 1",
        key,
        |row| {
            let (state, purpose): (String, String) = (row.get(1)?, row.get(3)?);
            Ok((JobId(row.get(0)?), state, row.get::<_, u32>(2)?, purpose))
        },
    )?;
    let job = match newest {
        None => open_job(change, new, 1, None)?,
        Some((id, state, revision, purpose)) => match change.state(&state)? {
            _ if change.purpose(&purpose)? != new.purpose => other_purpose(change, new, id, revision)?,
            State::Receiving => id,
            State::Waiting => {
                change.step(id, Event::Arrived, new.received_at, "another instance arrived")?;
                id
            }
            // Not begun yet, so nothing needs to be superseded: the job takes the late instance in and is closed anew.
            State::Queued => {
                change.step(
                    id,
                    Event::Arrived,
                    new.received_at,
                    "an instance arrived after the series was closed",
                )?;
                let sql = "UPDATE jobs SET upto_instance = NULL, retry_at = NULL, gathering_since = ?2 WHERE id = ?1";
                change.run(sql, (id.0, new.received_at.as_millisecond()))?;
                id
            }
            state => {
                let next = open_job(change, new, revision + 1, Some(id))?;
                let text = format!(
                    "an instance arrived when the job was {state}: job {next} begins, its result supersedes this one's"
                );
                change.note(id, new.received_at, &text)?;
                next
            }
        },
    };
    // Counted anew, not added up: the new job of a late slice is about the earlier ones too.
    change.run(
        "UPDATE jobs SET last_instance_at = max(last_instance_at, ?2),
                instances = (SELECT count(*) FROM instances WHERE study_uid = jobs.study_uid AND series_uid = jobs.series_uid)
          WHERE id = ?1",
        (job.0, new.received_at.as_millisecond()),
    )?;
    Ok(())
}

/// A series that is being taught comes to be outlined: an open job changes its purpose, one that is over is left as it is. What comes
/// for teaching to a series that is outlined needs no job: it lies here.
fn other_purpose(change: &Change<'_>, new: &NewInstance, newest: JobId, revision: u32) -> Result<JobId, StoreError> {
    if new.purpose == Purpose::Teach {
        return Ok(newest);
    }
    if !change.job_state(newest)?.is_open() {
        return open_job(change, new, revision + 1, None);
    }
    change.step(
        newest,
        Event::Arrived,
        new.received_at,
        "an instance arrived to be outlined, not only taught",
    )?;
    let sql = "UPDATE jobs SET purpose = 'outline', upto_instance = NULL, retry_at = NULL, gathering_since = ?2 WHERE id = ?1";
    change.run(sql, (newest.0, new.received_at.as_millisecond()))?;
    Ok(newest)
}

fn open_job(
    change: &Change<'_>,
    new: &NewInstance,
    revision: u32,
    supersedes: Option<JobId>,
) -> Result<JobId, StoreError> {
    let made = new.received_at.to_zoned(change.store.shared.time_zone.clone());
    // The seed is drawn, not derived: were the database lost and rebuilt, a derived one would give old UIDs to new objects.
    change.run(
        "INSERT INTO jobs (study_uid, series_uid, revision, patient_id, purpose, state, supersedes, uid_seed, content_date, content_time,
                           received_at, gathering_since, last_instance_at)
         VALUES (?1, ?2, ?3, ?4, ?9, 'receiving', ?5, lower(hex(randomblob(16))), ?6, ?7, ?8, ?8, ?8)",
        (
            new.series.study_instance_uid.as_str(),
            new.series.series_instance_uid.as_str(),
            revision,
            &new.patient_id,
            supersedes.map(|job| job.0),
            made.strftime("%Y%m%d").to_string(),
            made.strftime("%H%M%S").to_string(),
            new.received_at.as_millisecond(),
            new.purpose.as_str(),
        ),
    )?;
    let id = JobId(change.sql.last_insert_rowid());
    let text = match (supersedes, new.source_ae.as_str()) {
        (Some(old), _) => format!("a late instance arrived: this job supersedes job {old}"),
        (None, "") => "first instance, from a drop folder".to_owned(),
        (None, sender) if new.purpose == Purpose::Teach => format!("first instance to be taught from, from {sender}"),
        (None, sender) => format!("first instance, from {sender}"),
    };
    change.note(id, new.received_at, &text)?;
    Ok(id)
}
