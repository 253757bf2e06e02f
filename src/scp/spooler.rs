//! The blocking side of an association: one thread that carries its objects into the intake, fed through a bounded channel.

use crate::intake::{AssociationId, Claim, IntakeError};
use crate::scp::Receiver;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::error;

/// Fragments are handed over in batches, because each hand-over wakes a thread, which on a machine busy with inference takes longer
/// than the write. A batch has at most one read more than this.
const BATCH_BYTES: usize = 1 << 18;
/// Tiny fragments cost more than their bytes.
const BATCH_FRAGMENTS: usize = 256;
/// Batches on their way to disk. Bounds the memory of an association; when the disk is slower than the network the peer is held
/// back by TCP.
const DEPTH: usize = 2;

enum Step<R: Receiver> {
    /// The next bytes; with a claim, the first of an object.
    Write(Option<Claim>, Vec<Bytes>),
    /// Drops what was written; the object is answered with this.
    Spoil(IntakeError),
    /// Writes the rest, or the whole of an object that is small, and makes it durable.
    Finish(
        Option<Claim>,
        Vec<Bytes>,
        oneshot::Sender<Result<R::Receipt, IntakeError>>,
    ),
    Close(oneshot::Sender<Result<(), IntakeError>>),
}

/// The spooling thread died: a panic in the intake. The association cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("the thread that spools to disk died")]
pub struct Dead;

/// Handle to the spooling thread of an association. Dropping it ends the thread, and the thread closes the association at the
/// intake on its way out, even when it panics.
pub struct Spooler<R: Receiver> {
    steps: mpsc::Sender<Step<R>>,
    thread: JoinHandle<()>,
    /// Not yet handed over: the claim of an object goes with its first batch.
    claim: Option<Claim>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
}

impl<R: Receiver> Spooler<R> {
    pub fn start(receiver: R, association: AssociationId) -> Self {
        let (steps, inbox) = mpsc::channel(DEPTH);
        let span = tracing::Span::current();
        let thread = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            spool(&receiver, association, inbox);
        });
        Self {
            steps,
            thread,
            claim: None,
            batch: Vec::new(),
            batch_bytes: 0,
        }
    }

    pub fn begin(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Dead> {
        self.batch_bytes += bytes.len();
        self.batch.push(bytes);
        if self.batch_bytes < BATCH_BYTES && self.batch.len() < BATCH_FRAGMENTS {
            return Ok(());
        }
        let (claim, batch) = self.take_batch();
        self.send(Step::Write(claim, batch)).await
    }

    pub async fn spoil(&mut self, cause: IntakeError) -> Result<(), Dead> {
        self.take_batch();
        self.send(Step::Spoil(cause)).await
    }

    /// Waits until the object is durable, or says why it was not taken: an error met at any step since `begin`.
    pub async fn finish(&mut self) -> Result<Result<R::Receipt, IntakeError>, Dead> {
        let (reply, answer) = oneshot::channel();
        let (claim, batch) = self.take_batch();
        self.send(Step::Finish(claim, batch, reply)).await?;
        answer.await.map_err(|_| Dead)
    }

    fn take_batch(&mut self) -> (Option<Claim>, Vec<Bytes>) {
        self.batch_bytes = 0;
        (self.claim.take(), std::mem::take(&mut self.batch))
    }

    /// Closes the association at the intake and waits for it.
    pub async fn close(self) -> Result<Result<(), IntakeError>, Dead> {
        let (reply, answer) = oneshot::channel();
        self.send(Step::Close(reply)).await?;
        answer.await.map_err(|_| Dead)
    }

    /// For an association that broke: drops an unfinished object and waits until the intake knows.
    pub async fn abandon(self) {
        drop(self.steps);
        if let Err(panic) = self.thread.await {
            error!(%panic, "the thread that spools to disk died");
        }
    }

    async fn send(&self, step: Step<R>) -> Result<(), Dead> {
        self.steps.send(step).await.map_err(|_| Dead)
    }
}

/// Tells the intake that the association ended, on every way out.
struct Closing<'a, R: Receiver> {
    receiver: &'a R,
    association: AssociationId,
    done: bool,
}

impl<R: Receiver> Closing<'_, R> {
    fn close(&mut self) -> Result<(), IntakeError> {
        self.done = true;
        self.receiver.association_closed(self.association)
    }
}

impl<R: Receiver> Drop for Closing<'_, R> {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.close()
        {
            error!(%error, "cannot close the association at the intake");
        }
    }
}

/// The object under way.
enum State<S> {
    Idle,
    Open(S),
    Failed(IntakeError),
}

fn spool<R: Receiver>(receiver: &R, association: AssociationId, mut inbox: mpsc::Receiver<Step<R>>) {
    // Before `opened`, so that a panic there is followed by `closed` too. Declared before `state`: an unfinished spool is dropped first.
    let mut closing = Closing {
        receiver,
        association,
        done: false,
    };
    receiver.association_opened(association);
    let mut state: State<R::Spool> = State::Idle;
    while let Some(step) = inbox.blocking_recv() {
        state = match (step, state) {
            (Step::Write(claim, batch), state) => write::<R>(begun(receiver, claim, state), &batch),
            (Step::Spoil(cause), _) => State::Failed(cause),
            (Step::Finish(claim, batch, reply), state) => {
                let outcome = match write::<R>(begun(receiver, claim, state), &batch) {
                    State::Open(spool) => R::finish(spool),
                    State::Failed(error) => Err(error),
                    State::Idle => Err(IntakeError::CannotUnderstand("no object was begun".into())),
                };
                // Nobody there to hear: the association broke meanwhile, and the sender will come again.
                let _ = reply.send(outcome);
                State::Idle
            }
            (Step::Close(reply), state) => {
                drop(state);
                let _ = reply.send(closing.close());
                return;
            }
        };
    }
}

/// A claim begins an object, whatever was before.
fn begun<R: Receiver>(receiver: &R, claim: Option<Claim>, state: State<R::Spool>) -> State<R::Spool> {
    match claim {
        Some(claim) => receiver.begin(claim).map_or_else(State::Failed, State::Open),
        None => state,
    }
}

fn write<R: Receiver>(state: State<R::Spool>, batch: &[Bytes]) -> State<R::Spool> {
    let State::Open(mut spool) = state else { return state };
    match batch.iter().try_for_each(|bytes| R::write(&mut spool, bytes)) {
        Ok(()) => State::Open(spool),
        Err(error) => State::Failed(error),
    }
}
