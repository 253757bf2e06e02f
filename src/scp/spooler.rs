//! Carries the objects of an association into the intake, on the association's own thread: between the socket and the disk nothing
//! is handed over, so no thread has to be woken, which on a machine busy with inference takes longer than the write. When the disk is
//! slower than the network the peer is held back by TCP.

use crate::intake::{AssociationId, Claim, IntakeError};
use crate::scp::Receiver;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tracing::error;

/// A panic in the intake. The association cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("taking objects in panicked")]
pub struct Dead;

/// An association as the intake sees it. Dropping it closes the association there, and before that drops an unfinished object.
/// Everything here blocks.
pub struct Spooler<R: Receiver> {
    // Dropped in this order.
    state: State<R::Spool>,
    closing: Closing<R>,
}

/// The object under way.
enum State<S> {
    Idle,
    Open(S),
    Failed(IntakeError),
}

/// Tells the intake that the association ended, on every way out.
struct Closing<R: Receiver> {
    receiver: R,
    association: AssociationId,
    done: bool,
}

impl<R: Receiver> Closing<R> {
    fn close(&mut self) -> Result<Result<(), IntakeError>, Dead> {
        self.done = true;
        contained(|| self.receiver.association_closed(self.association))
    }
}

impl<R: Receiver> Drop for Closing<R> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        match self.close() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(%error, "cannot close the association at the intake"),
            Err(dead) => error!(error = %dead, "cannot close the association at the intake"),
        }
    }
}

impl<R: Receiver> Spooler<R> {
    pub fn start(receiver: R, association: AssociationId) -> Result<Self, Dead> {
        // Before `opened`, so that a panic there is followed by `closed` too.
        let spooler = Self {
            state: State::Idle,
            closing: Closing {
                receiver,
                association,
                done: false,
            },
        };
        contained(|| spooler.closing.receiver.association_opened(association))?;
        Ok(spooler)
    }

    pub fn begin(&mut self, claim: Claim) -> Result<(), Dead> {
        self.state = State::Idle;
        let begun = contained(|| self.closing.receiver.begin(claim))?;
        self.state = begun.map_or_else(State::Failed, State::Open);
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Dead> {
        if let State::Open(spool) = &mut self.state
            && let Err(error) = contained(|| R::write(spool, bytes))?
        {
            self.state = State::Failed(error);
        }
        Ok(())
    }

    /// Drops what was written; the object is answered with this.
    pub fn spoil(&mut self, cause: IntakeError) {
        self.state = State::Failed(cause);
    }

    /// Returns when the object is durable, or says why it was not taken: an error met at any step since `begin`.
    pub fn finish(&mut self) -> Result<Result<R::Receipt, IntakeError>, Dead> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Open(spool) => contained(|| R::finish(spool)),
            State::Failed(error) => Ok(Err(error)),
            State::Idle => Ok(Err(IntakeError::CannotUnderstand("no object was begun".into()))),
        }
    }

    /// Closes the association at the intake.
    pub fn close(self) -> Result<Result<(), IntakeError>, Dead> {
        let Self { state, mut closing } = self;
        drop(state);
        closing.close()
    }
}

/// A panic ends the association in good order instead of tearing the connection.
fn contained<T>(call: impl FnOnce() -> T) -> Result<T, Dead> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Dead)
}
