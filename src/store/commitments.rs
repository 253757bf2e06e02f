//! Storage commitment in both directions: what we promised to peers, what destinations promised to us.

use crate::commitment::{Reference, Report, Request};
use crate::dicom::uid::Uid;
use crate::job::JobId;
use crate::store::{Change, Store, StoreError};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// A report that a peer has not heard yet.
#[derive(Clone, Debug)]
pub struct OpenCommitment {
    pub id: i64,
    /// AE title.
    pub peer: String,
    pub request: Request,
    /// Reports that failed.
    pub attempts: u32,
}

/// A promise to be asked of a destination.
#[derive(Clone, Debug)]
pub struct Pledge {
    pub job: JobId,
    pub destination: String,
    pub request: Request,
    /// Times it was asked without an answer.
    pub attempts: u32,
}

impl Store {
    /// Makes a peer's request durable; one that is repeated is answered anew.
    pub fn promise(&self, peer: &str, request: &Request, now: Timestamp) -> Result<i64, StoreError> {
        self.write(|change| {
            let objects = change.objects_text(&request.objects)?;
            let sql = "INSERT INTO commitments (peer, transaction_uid, objects, state, next_at, asked_at)
                       VALUES (?1, ?2, ?3, 'open', ?4, ?4)
                       ON CONFLICT (peer, transaction_uid) DO UPDATE
                          SET objects = ?3, state = 'open', attempts = 0, next_at = ?4, last_error = NULL
                       RETURNING id";
            let row = (peer, request.transaction_uid.as_str(), objects, now.as_millisecond());
            let id = change.first(sql, row, |row| row.get(0))?;
            id.ok_or_else(|| change.store.corrupt("a commitment without an id".into()))
        })
    }

    /// Reports to give now, oldest first.
    pub fn open_commitments(&self, now: Timestamp) -> Result<Vec<OpenCommitment>, StoreError> {
        self.read(|change| {
            let sql = "SELECT id, peer, transaction_uid, objects, attempts FROM commitments
                        WHERE state = 'open' AND next_at <= ?1 ORDER BY id";
            let rows = change.rows(sql, [now.as_millisecond()], |row| {
                let texts: [String; 3] = [row.get(1)?, row.get(2)?, row.get(3)?];
                Ok((row.get(0)?, texts, row.get(4)?))
            })?;
            let open = |(id, [peer, transaction, objects], attempts): (i64, [String; 3], u32)| {
                Ok(OpenCommitment {
                    id,
                    peer,
                    request: change.request(&transaction, &objects)?,
                    attempts,
                })
            };
            rows.into_iter().map(open).collect()
        })
    }

    /// The peer heard the report.
    pub fn commitment_reported(&self, id: i64) -> Result<(), StoreError> {
        let sql = "UPDATE commitments SET state = 'reported', last_error = NULL WHERE id = ?1";
        self.write(|change| change.run(sql, [id]).map(drop))
    }

    /// It did not: to be tried again at `retry_at`, or given up.
    pub fn commitment_unheard(&self, id: i64, error: &str, retry_at: Option<Timestamp>) -> Result<(), StoreError> {
        self.write(|change| {
            let sql =
                "UPDATE commitments SET attempts = attempts + 1, last_error = ?2, next_at = coalesce(?3, next_at),
                              state = CASE WHEN ?3 IS NULL THEN 'given up' ELSE 'open' END WHERE id = ?1";
            let row = (id, error, retry_at.map(|at| at.as_millisecond()));
            change.run(sql, row).map(drop)
        })
    }

    /// SOP class and file of every object that was ever accepted or kept under a SOP Instance UID.
    pub fn files_of(&self, sop_instance_uid: &Uid) -> Result<Vec<(Uid, PathBuf)>, StoreError> {
        self.read(|change| {
            let sql = "SELECT study_uid, series_uid, sop_class_uid, NULL FROM instances WHERE sop_instance_uid = ?1
                        UNION ALL SELECT '', '', sop_class_uid, path FROM results WHERE sop_instance_uid = ?1";
            let rows = change.rows(sql, [sop_instance_uid.as_str()], |row| {
                let uids: [String; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
                Ok((uids, row.get::<_, Option<String>>(3)?))
            })?;
            let file = |([study, series, class], path): ([String; 3], Option<String>)| {
                let path = match path {
                    Some(path) => Path::join(self.dir(), path),
                    None => {
                        let key = crate::job::SeriesKey {
                            study_instance_uid: change.uid(&study)?,
                            series_instance_uid: change.uid(&series)?,
                        };
                        self.instance_path(&key, sop_instance_uid)
                    }
                };
                Ok((change.uid(&class)?, path))
            };
            rows.into_iter().map(file).collect()
        })
    }

    /// To be asked of a destination once it has acknowledged the delivery; replaces what was asked for an earlier one.
    pub fn pledge(&self, job: JobId, destination: &str, request: &Request, now: Timestamp) -> Result<(), StoreError> {
        self.write(|change| {
            let objects = change.objects_text(&request.objects)?;
            let sql = "INSERT INTO pledges (transaction_uid, job, destination, objects, state, next_at)
                       VALUES (?1, ?2, ?3, ?4, 'due', ?5)
                       ON CONFLICT (job, destination) DO UPDATE
                          SET transaction_uid = ?1, objects = ?4, state = 'due', attempts = 0, next_at = ?5, last_error = NULL";
            let transaction = request.transaction_uid.as_str();
            let row = (transaction, job.0, destination, objects, now.as_millisecond());
            change.run(sql, row).map(drop)
        })
    }

    /// Promises to ask for now: those whose delivery is acknowledged, oldest job first.
    pub fn due_pledges(&self, now: Timestamp) -> Result<Vec<Pledge>, StoreError> {
        self.read(|change| {
            let sql = "SELECT p.job, p.attempts, p.destination, p.transaction_uid, p.objects
                         FROM pledges p JOIN deliveries d ON d.job = p.job AND d.destination = p.destination
                        WHERE p.state = 'due' AND p.next_at <= ?1 AND d.state = 'delivered' ORDER BY p.job";
            let rows = change.rows(sql, [now.as_millisecond()], |row| {
                let texts: [String; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
                Ok((JobId(row.get(0)?), row.get(1)?, texts))
            })?;
            let pledge = |(job, attempts, [destination, transaction, objects]): (JobId, u32, [String; 3])| {
                Ok(Pledge {
                    job,
                    destination,
                    request: change.request(&transaction, &objects)?,
                    attempts,
                })
            };
            rows.into_iter().map(pledge).collect()
        })
    }

    /// Asked, or not to be asked: again at `retry_at` unless an answer comes before, or never.
    pub fn pledge_unanswered(
        &self,
        pledge: &Pledge,
        why: &str,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|change| {
            let sql = "UPDATE pledges SET attempts = attempts + 1, last_error = ?2, next_at = coalesce(?3, next_at),
                              state = CASE WHEN ?3 IS NULL THEN 'given up' ELSE 'due' END
                        WHERE transaction_uid = ?1 AND state = 'due'";
            let transaction = pledge.request.transaction_uid.as_str();
            let rows = change.run(sql, (transaction, why, retry_at.map(|at| at.as_millisecond())))?;
            if rows == 1 && retry_at.is_none() {
                let text = format!(
                    "{} gave no storage commitment, asked no more: {why}",
                    pledge.destination
                );
                change.note(pledge.job, now, &text)?;
            }
            Ok(())
        })
    }

    /// A destination's answer. `None`: nothing was asked under this transaction. An object that the report does not name is not
    /// committed. Returns the job, and whether all is kept.
    pub fn pledge_answered(&self, report: &Report, now: Timestamp) -> Result<Option<(JobId, bool)>, StoreError> {
        self.write(|change| {
            let transaction = report.transaction_uid.as_str();
            let sql = "SELECT job, destination, objects FROM pledges WHERE transaction_uid = ?1";
            let asked = change.first(sql, [transaction], |row| {
                Ok((JobId(row.get(0)?), row.get::<_, String>(1)?, row.get::<_, String>(2)?))
            })?;
            let Some((job, destination, objects)) = asked else {
                return Ok(None);
            };
            let asked = change.request(transaction, &objects)?.objects;
            let lacking: Vec<&Reference> = asked.iter().filter(|object| !report.kept.contains(object)).collect();
            let text = match lacking.as_slice() {
                [] => format!("{destination} committed to keep {} object(s)", asked.len()),
                some => {
                    let reason = |object: &&Reference| {
                        let failed = report.failed.iter().find(|(failed, _)| failed == *object);
                        let reason = failed.map_or("not named".to_owned(), |(_, reason)| format!("{reason:04X}H"));
                        format!("{} ({reason})", object.sop_instance_uid)
                    };
                    let list: Vec<String> = some.iter().map(reason).collect();
                    format!("{destination} did not commit to keep {}", list.join(", "))
                }
            };
            let state = if lacking.is_empty() { "committed" } else { "refused" };
            let sql = "UPDATE pledges SET state = ?2, last_error = NULL WHERE transaction_uid = ?1 AND state <> ?2";
            if change.run(sql, (transaction, state))? == 1 {
                change.note(job, now, &text)?;
            }
            Ok(Some((job, lacking.is_empty())))
        })
    }
}

impl Change<'_> {
    fn objects_text(&self, objects: &[Reference]) -> Result<String, StoreError> {
        let pairs: Vec<[&str; 2]> = objects
            .iter()
            .map(|object| [object.sop_class_uid.as_str(), object.sop_instance_uid.as_str()])
            .collect();
        serde_json::to_string(&pairs).map_err(|bad| self.store.corrupt(bad.to_string()))
    }

    fn request(&self, transaction_uid: &str, objects: &str) -> Result<Request, StoreError> {
        let pairs: Vec<[String; 2]> =
            serde_json::from_str(objects).map_err(|bad| self.store.corrupt(bad.to_string()))?;
        let reference = |[class, instance]: &[String; 2]| {
            Ok(Reference {
                sop_class_uid: self.uid(class)?,
                sop_instance_uid: self.uid(instance)?,
            })
        };
        Ok(Request {
            transaction_uid: self.uid(transaction_uid)?,
            objects: pairs.iter().map(reference).collect::<Result<_, StoreError>>()?,
        })
    }
}
