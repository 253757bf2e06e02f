//! What a long computation tells its watcher, and asks of it.

/// Told where a job is; asked whether to stop. Implementations must be cheap.
pub trait Progress: Sync {
    /// A stage begins; `total` is the number of steps it will report, 0 when it has none.
    fn stage(&self, name: &'static str, total: usize);
    /// `done` of the stage's steps are finished.
    fn step(&self, done: usize);
    /// True once the job should be given up (cancelled, or the daemon stops).
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &'static str, _: usize) {}
    fn step(&self, _: usize) {}
}
