//! Rows of accepted instances on their way to the database, some at a time: a commit per instance would cost as much as its sync.

use crate::job::SeriesKey;
use crate::store::{NewInstance, Store, StoreError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A row waits for company this long at most.
pub const ROW_BATCH_WAIT: Duration = Duration::from_millis(100);
const ROW_BATCH: usize = 50;
/// Pause after a failed commit. Meanwhile nothing new is accepted.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The queue and the thread that empties it. Dropping it writes what is left.
pub(crate) struct Rows {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

struct Queue {
    store: Store,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Held from taking a batch to its commit, so that whoever flushes knows that no row is between queue and database.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    rows: Vec<NewInstance>,
    /// Why the last commit failed.
    problem: Option<String>,
    stop: bool,
}

impl Rows {
    pub(crate) fn start(store: Store) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            store,
            waiting: Mutex::new(Waiting::default()),
            changed: Condvar::new(),
            writing: Mutex::new(()),
        });
        let of_thread = queue.clone();
        let thread = std::thread::Builder::new()
            .name("intake-rows".into())
            .spawn(move || of_thread.run())?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    pub(crate) fn push(&self, row: NewInstance) {
        let mut waiting = self.queue.waiting();
        waiting.rows.push(row);
        if waiting.rows.len() == 1 || waiting.rows.len() == ROW_BATCH {
            self.queue.changed.notify_one();
        }
    }

    /// Commits what is waiting. On return, every row pushed before is in the database.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.queue.write()
    }

    /// The series of the rows that wait.
    pub(crate) fn waiting_series(&self) -> Vec<SeriesKey> {
        // Held, so that no batch is under way: each row is waiting or in the database.
        let _alone = self.queue.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.queue.waiting().rows.iter().map(|row| row.series.clone()).collect()
    }

    /// Why rows can not be written at present, if so.
    pub(crate) fn problem(&self) -> Option<String> {
        self.queue.waiting().problem.clone()
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut waiting = self.waiting();
            while waiting.rows.is_empty() && !waiting.stop {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let few = |waiting: &mut Waiting| waiting.rows.len() < ROW_BATCH && !waiting.stop;
            let (waiting, _) = self
                .changed
                .wait_timeout_while(waiting, ROW_BATCH_WAIT, few)
                .unwrap_or_else(PoisonError::into_inner);
            let stop = waiting.stop;
            drop(waiting);
            let result = self.write();
            if stop {
                return;
            }
            if let Err(error) = result {
                // Not lost: the rows wait, `begin` refuses with this reason until a commit works, and the files are rebuilt from.
                tracing::error!(%error, "cannot record accepted instances, refusing new ones until it works");
                std::thread::sleep(AFTER_FAILURE);
            }
        }
    }

    fn write(&self) -> Result<(), StoreError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = std::mem::take(&mut self.waiting().rows);
        let result = self.store.record_instances(&batch);
        let mut waiting = self.waiting();
        match result {
            Ok(_) => {
                waiting.problem = None;
                Ok(())
            }
            Err(error) => {
                waiting.problem = Some(error.to_string());
                waiting.rows.splice(0..0, batch);
                Err(error)
            }
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.queue.waiting().stop = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by the panic hook; the files are rebuilt from at the next start.
            let _ = thread.join();
        }
    }
}
