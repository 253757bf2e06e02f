//! One row per job and destination, each with its own state; a job is done when all its rows are delivered.

use crate::dicom::uid::Uid;
use crate::job::{Event, JobId, KeptResult, State};
use crate::store::{Change, Store, StoreError};
use jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    Pending,
    Delivered,
    /// Given up: a person must look.
    Failed,
    Cancelled,
}

impl DeliveryState {
    const ALL: [Self; 4] = [Self::Pending, Self::Delivered, Self::Failed, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How it stands with one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub job: JobId,
    pub destination: String,
    pub state: DeliveryState,
    /// Sends that failed.
    pub attempts: u32,
    pub next_at: Timestamp,
    pub last_error: Option<String>,
    pub acknowledged_at: Option<Timestamp>,
    /// Storage commitment, where it was asked for: `due` (no answer yet), `committed`, `refused` or `given up`.
    pub commitment: Option<String>,
}

/// A delivery whose time has come, with what is to be sent. The paths hold kept bytes; nothing else is ever sent.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    pub job: JobId,
    pub destination: String,
    pub attempts: u32,
    /// Each with its alternatives, the preferred one first.
    pub items: Vec<Vec<KeptResult>>,
}

impl Store {
    pub fn deliveries(&self, job: JobId) -> Result<Vec<Delivery>, StoreError> {
        self.read(|change| change.deliveries("job = ?1 ORDER BY destination", [job.0]))
    }

    /// Deliveries to make now, oldest job first, so that a superseding result is not overtaken by the one it replaces.
    pub fn due_deliveries(&self, now: Timestamp) -> Result<Vec<DueDelivery>, StoreError> {
        self.read(|change| {
            let condition = "state = 'pending' AND next_at <= ?1 ORDER BY job, destination";
            let due = change.deliveries(condition, [now.as_millisecond()])?;
            let with_objects = |row: Delivery| {
                let items = change.items(&row)?;
                Ok(DueDelivery {
                    job: row.job,
                    destination: row.destination,
                    attempts: row.attempts,
                    items,
                })
            };
            due.into_iter().map(with_objects).collect()
        })
    }

    /// Remembers whether a destination takes a SOP class.
    pub fn remember_ability(
        &self,
        destination: &str,
        address: &str,
        sop_class_uid: &Uid,
        takes: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|change| {
            let sql = "INSERT OR REPLACE INTO abilities (destination, address, sop_class_uid, takes, seen_at) VALUES (?1, ?2, ?3, ?4, ?5)";
            let row = (destination, address, sop_class_uid.as_str(), takes, now.as_millisecond());
            change.run(sql, row).map(drop)
        })
    }

    /// SOP classes that a destination was seen to refuse since a time.
    pub fn refused_classes(&self, destination: &str, address: &str, since: Timestamp) -> Result<Vec<Uid>, StoreError> {
        self.read(|change| {
            let sql = "SELECT sop_class_uid FROM abilities WHERE destination = ?1 AND address = ?2 AND takes = 0 AND seen_at >= ?3";
            let uids = change.rows(sql, (destination, address, since.as_millisecond()), |row| row.get::<_, String>(0))?;
            uids.iter().map(|uid| change.uid(uid)).collect()
        })
    }

    /// When the next pending delivery is due, if any: how long the sender may sleep.
    pub fn next_delivery_at(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|change| {
            let sql = "SELECT min(next_at) FROM deliveries WHERE state = 'pending'";
            change.time_or_none(change.first(sql, [], |row| row.get::<_, Option<i64>>(0))?.flatten())
        })
    }

    /// The destination acknowledged every object; `sent` names them for people. Returns the job's state: done when this was the
    /// last one.
    pub fn delivery_succeeded(
        &self,
        job: JobId,
        destination: &str,
        sent: &str,
        now: Timestamp,
    ) -> Result<State, StoreError> {
        self.write(|change| {
            let rows = change.run(
                "UPDATE deliveries SET state = 'delivered', acknowledged_at = ?3, last_error = NULL
                  WHERE job = ?1 AND destination = ?2 AND state = 'pending'",
                (job.0, destination, now.as_millisecond()),
            )?;
            if rows == 1 {
                change.note(job, now, &format!("{destination} acknowledged {sent}"))?;
                settle(change, job, now)?;
            }
            change.job_state(job)
        })
    }

    /// A send failed: to be tried again at `retry_at`, or given up when `None`. Returns the job's state: failed when this was the
    /// last open one.
    pub fn delivery_failed(
        &self,
        job: JobId,
        destination: &str,
        error: &str,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<State, StoreError> {
        self.write(|change| {
            let state = if retry_at.is_some() { "pending" } else { "failed" };
            let rows = change.run(
                "UPDATE deliveries SET state = ?3, attempts = attempts + 1, last_error = ?4, next_at = coalesce(?5, next_at)
                  WHERE job = ?1 AND destination = ?2 AND state = 'pending'",
                (job.0, destination, state, error, retry_at.map(|at| at.as_millisecond())),
            )?;
            if rows == 1 {
                let then = if retry_at.is_some() { "will be tried again" } else { "given up" };
                change.note(job, now, &format!("sending to {destination} failed, {then}: {error}"))?;
                settle(change, job, now)?;
            }
            change.job_state(job)
        })
    }
}

/// Ends the job when no delivery is open any more.
fn settle(change: &Change<'_>, job: JobId, now: Timestamp) -> Result<(), StoreError> {
    let rows = change.deliveries("job = ?1 ORDER BY destination", [job.0])?;
    if change.job_state(job)? != State::Sending || rows.iter().any(|row| row.state == DeliveryState::Pending) {
        return Ok(());
    }
    let failed: Vec<&Delivery> = rows
        .iter()
        .filter(|row| row.state != DeliveryState::Delivered)
        .collect();
    if failed.is_empty() {
        return change.step(job, Event::Delivered, now, "every destination acknowledged the results");
    }
    let line = |row: &&Delivery| {
        let error = row.last_error.as_deref().unwrap_or("cancelled");
        format!("{} after {} attempts: {error}", row.destination, row.attempts)
    };
    let lines: Vec<String> = failed.iter().map(line).collect();
    let text = format!(
        "results are kept but were not acknowledged by {}; mend it, then retry the job",
        lines.join("; ")
    );
    change.step(job, Event::Undeliverable, now, &text)
}

impl Change<'_> {
    /// The objects of a delivery, by item; an item whose objects are all missing is empty, so that it stops no other delivery. A row
    /// of an older schema means every result.
    fn items(&self, delivery: &Delivery) -> Result<Vec<Vec<KeptResult>>, StoreError> {
        let key = (delivery.job.0, delivery.destination.as_str());
        let sql = "SELECT items FROM deliveries WHERE job = ?1 AND destination = ?2";
        let text = self.first(sql, key, |row| row.get::<_, String>(0))?.unwrap_or_default();
        let items: Vec<Vec<String>> = serde_json::from_str(&text).map_err(|bad| self.store.corrupt(bad.to_string()))?;
        let results = self.results(delivery.job)?;
        if items.is_empty() {
            return Ok(results.into_iter().map(|result| vec![result]).collect());
        }
        let kept = |key: &String| results.iter().find(|result| result.kind == *key).cloned();
        Ok(items
            .iter()
            .map(|keys| keys.iter().filter_map(kept).collect())
            .collect())
    }

    fn deliveries(&self, condition: &str, parameters: impl rusqlite::Params) -> Result<Vec<Delivery>, StoreError> {
        let sql = format!(
            "SELECT job, destination, state, attempts, next_at, last_error, acknowledged_at,
                    (SELECT p.state FROM pledges p WHERE p.job = deliveries.job AND p.destination = deliveries.destination)
               FROM deliveries WHERE {condition}"
        );
        let rows = self.rows(&sql, parameters, |row| {
            let delivery = Delivery {
                job: JobId(row.get(0)?),
                destination: row.get(1)?,
                state: DeliveryState::Pending,
                attempts: row.get(3)?,
                next_at: Timestamp::UNIX_EPOCH,
                last_error: row.get(5)?,
                acknowledged_at: None,
                commitment: row.get(7)?,
            };
            Ok((
                delivery,
                row.get::<_, String>(2)?,
                row.get::<_, i64>(4)?,
                row.get::<_, Option<i64>>(6)?,
            ))
        })?;
        let check = |(delivery, state, next_at, acknowledged_at): (Delivery, String, i64, Option<i64>)| {
            let known = DeliveryState::ALL.into_iter().find(|known| known.as_str() == state);
            Ok(Delivery {
                state: known.ok_or_else(|| self.store.corrupt(format!("delivery state {state:?}")))?,
                next_at: self.time(next_at)?,
                acknowledged_at: self.time_or_none(acknowledged_at)?,
                ..delivery
            })
        };
        rows.into_iter().map(check).collect()
    }
}
