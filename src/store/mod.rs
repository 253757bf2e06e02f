//! SQLite: the only SQL of the crate. Synchronous; called from blocking context.
//!
//! State is rows, files are content. Every change is one transaction that is safe to repeat, every state is reached through
//! [`State::after`](crate::job::State::after), and every move leaves a line in `job_events` that says what happened and why.
//! Times come in as parameters.

mod catalogue;
mod commitments;
mod deliveries;
mod instances;
mod jobs;
mod runs;
#[cfg(test)]
mod tests;

pub use catalogue::{Holding, ListedSeries, Listing, Narrowing, PatientCounts, Unlisted, UnlistedOrigin};
pub use commitments::{OpenCommitment, Pledge};
pub use deliveries::{Delivery, DeliveryState, DueDelivery};
pub use instances::{NewInstance, StoredInstance};
pub use jobs::JobEvent;
pub use runs::Recovered;

use crate::dicom::uid::Uid;
use crate::job::{IllegalMove, JobId};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Applied in order; `PRAGMA user_version` counts those applied. Never edit one that was released: append.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_jobs.sql"),
    include_str!("migrations/0002_parcels.sql"),
    include_str!("migrations/0003_teaching.sql"),
    include_str!("migrations/0004_catalogue.sql"),
    include_str!("migrations/0005_commitment.sql"),
];

/// Name of the database file in the storage directory.
pub const FILE_NAME: &str = "medlsamd.db";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Retry, or look at the disk: SQLite could not do it.
    #[error("database {path}: {source}")]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error(
        "database {path} has schema {found}, this program knows {known}: it was written by a newer medlsamd; \
         install that version again or restore the backup made before the upgrade"
    )]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    /// A lost race (cancelled meanwhile) or a bug. Nothing was changed.
    #[error(transparent)]
    IllegalMove(#[from] IllegalMove),
    /// The request makes no sense for this job; the text says why.
    #[error("job {job}: {problem}")]
    Unfit { job: JobId, problem: String },
    /// A row that this program can not have written.
    #[error("database {path} holds a value that makes no sense: {problem}")]
    Corrupt { path: PathBuf, problem: String },
}

/// The one writer connection. Cheap to clone; calls queue up behind a mutex.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    /// The storage directory, absolute.
    dir: PathBuf,
    time_zone: TimeZone,
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens, or makes, `<dir>/medlsamd.db` and brings it to the current schema. `time_zone` is the one that the dates in
    /// result objects are given in: the hospital's.
    pub fn open(dir: &Path, time_zone: TimeZone) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        let failed = |source| StoreError::Database {
            path: path.clone(),
            source,
        };
        let mut connection = Connection::open(&path).map_err(failed)?;
        configure(&connection).map_err(failed)?;
        migrate(&mut connection, &path)?;
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
        Ok(Self {
            shared: Arc::new(Shared {
                dir,
                time_zone,
                connection: Mutex::new(connection),
            }),
        })
    }

    /// The storage directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Where an accepted instance lies. The path follows from the UIDs, which can not hold a slash.
    pub fn instance_path(&self, series: &crate::job::SeriesKey, sop_instance_uid: &Uid) -> PathBuf {
        self.series_dir(series).join(format!("{sop_instance_uid}.dcm"))
    }

    pub fn series_dir(&self, series: &crate::job::SeriesKey) -> PathBuf {
        let study = series.study_instance_uid.as_str();
        self.shared
            .dir
            .join("series")
            .join(study)
            .join(series.series_instance_uid.as_str())
    }

    /// Where a job's result objects are kept.
    pub fn results_dir(&self, job: JobId) -> PathBuf {
        self.shared.dir.join("results").join(job.to_string())
    }

    /// All or nothing. Immediate, so that a second process (`medlsamd jobs retry`) waits at the start instead of failing in the middle.
    fn write<T>(&self, change: impl FnOnce(&Change<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut connection = self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|source| self.failed(source))?;
        let open = Change {
            store: self,
            sql: transaction,
        };
        let value = change(&open)?;
        crate::failpoint::hit("store_before_commit");
        open.sql.commit().map_err(|source| self.failed(source))?;
        crate::failpoint::hit("store_after_commit");
        Ok(value)
    }

    /// One consistent look; takes no lock that a writer waits for.
    fn read<T>(&self, look: impl FnOnce(&Change<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut connection = self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction().map_err(|source| self.failed(source))?;
        look(&Change {
            store: self,
            sql: transaction,
        })
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Database {
            path: self.shared.dir.join(FILE_NAME),
            source,
        }
    }

    fn corrupt(&self, problem: String) -> StoreError {
        StoreError::Corrupt {
            path: self.shared.dir.join(FILE_NAME),
            problem,
        }
    }
}

/// An open transaction.
struct Change<'a> {
    store: &'a Store,
    sql: Transaction<'a>,
}

impl Change<'_> {
    /// Runs one statement, returns the number of rows it changed.
    fn run(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, StoreError> {
        let mut statement = self
            .sql
            .prepare_cached(sql)
            .map_err(|source| self.store.failed(source))?;
        statement
            .execute(parameters)
            .map_err(|source| self.store.failed(source))
    }

    /// All rows of a query, each made by `row`.
    fn rows<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let query =
            || -> rusqlite::Result<Vec<T>> { self.sql.prepare_cached(sql)?.query_map(parameters, row)?.collect() };
        query().map_err(|source| self.store.failed(source))
    }

    /// The first row of a query.
    fn first<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, parameters, row)?.into_iter().next())
    }

    fn uid(&self, text: &str) -> Result<Uid, StoreError> {
        Uid::parse(text).map_err(|bad| self.store.corrupt(bad.to_string()))
    }

    fn time(&self, ms: i64) -> Result<Timestamp, StoreError> {
        Timestamp::from_millisecond(ms).map_err(|bad| self.store.corrupt(bad.to_string()))
    }

    fn time_or_none(&self, ms: Option<i64>) -> Result<Option<Timestamp>, StoreError> {
        ms.map(|ms| self.time(ms)).transpose()
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // Readers (the page, `jobs list`, an administrator's sqlite3) never block the writer, nor it them.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A committed job state survives a power cut; NORMAL would lose the last ones in WAL mode.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A result or delivery never hangs in the air. SQLite leaves this off unless asked, per connection.
    connection.pragma_update(None, "foreign_keys", true)?;
    // Another process may hold the write lock for a moment; longer than any of our transactions.
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Database {
        path: path.to_path_buf(),
        source,
    };
    let known = MIGRATIONS.len() as i64;
    // Immediate: two processes that start together do not both migrate.
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let found: i64 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if found > known {
        return Err(StoreError::NewerSchema {
            path: path.to_path_buf(),
            found,
            known,
        });
    }
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(found.max(0) as usize) {
        transaction.execute_batch(migration).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", number as i64 + 1)
            .map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}
