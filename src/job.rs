//! The life of a job as one pure function, and what a job remembers.
//!
//! ```text
//!                arrived          claimed            kept             settled
//! receiving ⇄ waiting ─► queued ───────► running ────────► sending ────────► done
//!      ▲         closed    │  ▲             │ stumbled, refunded
//!      └───── arrived ─────┘  └─────────────┘
//! ```
//! Every state before the last row can also end in `refused` (the input is not eligible: a fact), `failed` (a person must
//! look) or `cancelled`. Only an operator leads out of an end state, with [`Event::Retried`].

use crate::dicom::uid::Uid;
use crate::results::{Identity, ModelUsed};
use jiff::Timestamp;
use std::fmt;

/// How often the work of one job is begun before it fails for good. Counted when the job is claimed, before the work, so
/// that a crash of the whole process counts as well.
pub const MAX_ATTEMPTS: u32 = 3;

/// Where a job stands. The names are stable: the database, the command line and the page show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Instances are coming in.
    Receiving,
    /// Silence: waiting for evidence that the series is whole, or for the quiet period to end.
    Waiting,
    /// Closed; to be computed when the lane is free.
    Queued,
    Running,
    /// Results are kept on disk and on their way to the destinations.
    Sending,
    Done,
    /// Not eligible. The reason says which slice and number, or which protocol clause.
    Refused,
    /// A person must look.
    Failed,
    Cancelled,
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new instance of the series.
    Arrived,
    /// Nothing came for the settle time.
    FellSilent,
    /// The series is taken as it is now.
    Closed,
    /// The worker takes the job and counts an attempt.
    Claimed,
    /// A clean stop of the daemon gives the attempt back.
    Refunded,
    /// The work broke off and may be begun again.
    Stumbled,
    /// The work broke off and trying again can not help, or all attempts are used.
    GaveUp,
    /// Not eligible.
    Refused,
    /// Results are on disk; there are destinations.
    Kept,
    /// Results are on disk; nobody is to get them.
    KeptUnsent,
    /// Every destination acknowledged.
    Delivered,
    /// Every destination is settled, but not all acknowledged.
    Undeliverable,
    /// An operator's wish.
    Cancelled,
    /// An operator's wish: compute again. For jobs without kept results.
    Retried,
    /// An operator's wish: send the kept results again.
    Resent,
}

/// An event that the state does not know: a bug or a lost race, never carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {from} can not take the step {event:?}")]
pub struct IllegalMove {
    pub from: State,
    pub event: Event,
}

impl State {
    pub const ALL: [Self; 9] = [
        Self::Receiving,
        Self::Waiting,
        Self::Queued,
        Self::Running,
        Self::Sending,
        Self::Done,
        Self::Refused,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The only place where a job's next state is decided.
    pub fn after(self, event: Event) -> Result<Self, IllegalMove> {
        use Event as E;
        match (self, event) {
            (Self::Receiving | Self::Waiting | Self::Queued, E::Arrived) => Ok(Self::Receiving),
            (Self::Receiving | Self::Waiting, E::FellSilent) => Ok(Self::Waiting),
            // From Receiving too: a series that never falls silent is closed after the longest wait.
            (Self::Receiving | Self::Waiting, E::Closed) => Ok(Self::Queued),
            (Self::Receiving | Self::Waiting | Self::Queued | Self::Running, E::Refused) => Ok(Self::Refused),
            (Self::Queued, E::Claimed) => Ok(Self::Running),
            (Self::Running, E::Refunded | E::Stumbled) => Ok(Self::Queued),
            (Self::Queued | Self::Running, E::GaveUp) => Ok(Self::Failed),
            (Self::Running, E::Kept) => Ok(Self::Sending),
            (Self::Running, E::KeptUnsent) => Ok(Self::Done),
            (Self::Sending, E::Delivered) => Ok(Self::Done),
            (Self::Sending, E::Undeliverable) => Ok(Self::Failed),
            (from, E::Cancelled) if !from.is_end() => Ok(Self::Cancelled),
            // Back to Waiting, so that the protocol is matched anew: the configuration may be what was mended.
            (Self::Refused | Self::Failed | Self::Cancelled, E::Retried) => Ok(Self::Waiting),
            (Self::Done | Self::Failed | Self::Cancelled, E::Resent) => Ok(Self::Sending),
            (from, event) => Err(IllegalMove { from, event }),
        }
    }

    /// Nothing but an operator leads out of it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Refused | Self::Failed | Self::Cancelled)
    }

    /// Not computed yet: a new instance of the series still belongs to this job.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Receiving | Self::Waiting | Self::Queued)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Sending => "sending",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a series was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To have its structures outlined.
    Outline,
    /// To learn from: a CT and the structures that somebody drew on it.
    Teach,
}

impl Purpose {
    pub const ALL: [Self; 2] = [Self::Outline, Self::Teach];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outline => "outline",
            Self::Teach => "teach",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == text)
    }
}

/// A series as the sender filed it. The study belongs to it: broken senders reuse a series UID in another study.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    pub study_instance_uid: Uid,
    pub series_instance_uid: Uid,
}

/// One computation of one series, as the database knows it.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub series: SeriesKey,
    /// Empty when the instances name no patient. Never logged.
    pub patient_id: String,
    /// Name of the matched protocol; set when the series is closed.
    pub protocol: Option<String>,
    pub purpose: Purpose,
    pub state: State,
    pub priority: i64,
    pub attempts: u32,
    /// The earlier job of the same series whose result this one replaces. `identity.supersedes` names that job's SEG (or
    /// first result) when there is one.
    pub supersedes: Option<JobId>,
    /// Fixed when the job is made, so that a run that is repeated after a crash makes the same objects.
    pub identity: Identity,
    /// Number of instances the job is about: all so far while it is open, those at closing time afterwards.
    pub instances: u32,
    /// Why it is where it is: why refused, failed, cancelled, or what it waits for.
    pub reason: Option<String>,
    /// Not claimed before.
    pub retry_at: Option<Timestamp>,
    pub received_at: Timestamp,
    /// When it began to take instances, for the longest wait; anew when a late one reopens it.
    pub gathering_since: Timestamp,
    pub last_instance_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub summary: Summary,
}

/// What a run reports besides its objects.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub structures_found: Vec<String>,
    /// Structure and why it is not in the result.
    pub structures_missing: Vec<(String, String)>,
    /// The execution providers that ran the models, e.g. `cpu`.
    pub provider: String,
    pub models: Vec<ModelUsed>,
    /// The whole report as JSON text, as `process` would write it.
    pub report_json: String,
}

/// A result object kept on disk, ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptResult {
    /// Its name within the job: [`crate::results::key`].
    pub kind: String,
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub transfer_syntax_uid: Uid,
    pub path: std::path::PathBuf,
    /// Lower-case hex of the file.
    pub sha256: String,
}

/// What one destination is to get of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    pub destination: String,
    /// Keys of kept results. Each item is sent as the first of its alternatives that the destination takes.
    pub items: Vec<Vec<String>>,
}

/// How a run ended that kept no results. (One that did ends in `Store::keep`.)
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Not eligible: a fact, shown plainly.
    Refused(String),
    /// Broke off; try again at the time, as long as attempts are left.
    Stumbled { reason: String, retry_at: Timestamp },
    /// A person must look.
    GaveUp(String),
    /// The daemon stops cleanly: the attempt does not count.
    Refunded,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 15] = [
        Event::Arrived,
        Event::FellSilent,
        Event::Closed,
        Event::Claimed,
        Event::Refunded,
        Event::Stumbled,
        Event::GaveUp,
        Event::Refused,
        Event::Kept,
        Event::KeptUnsent,
        Event::Delivered,
        Event::Undeliverable,
        Event::Cancelled,
        Event::Retried,
        Event::Resent,
    ];

    /// What the outside world may still do in a walk; everything else is bounded by the job itself.
    #[derive(Clone, Copy)]
    struct Budget {
        arrivals: u32,
        clean_stops: u32,
        wishes: u32,
        attempts: u32,
    }

    /// The budget after an event, or `None` when the event can not happen any more. This is the counting that `store` does.
    fn spend(state: State, event: Event, budget: Budget) -> Option<Budget> {
        let mut left = budget;
        match event {
            Event::Arrived => left.arrivals = left.arrivals.checked_sub(1)?,
            Event::Refunded => {
                left.clean_stops = left.clean_stops.checked_sub(1)?;
                left.attempts -= 1;
            }
            Event::Claimed if budget.attempts == MAX_ATTEMPTS => return None,
            Event::Claimed => left.attempts += 1,
            // The last stumble is turned into giving up.
            Event::Stumbled if budget.attempts == MAX_ATTEMPTS => return None,
            Event::Retried | Event::Resent => {
                left.wishes = left.wishes.checked_sub(1)?;
                left.attempts = 0;
            }
            // Waiting on with another reason is no move.
            Event::FellSilent if state == State::Waiting => return None,
            _ => {}
        }
        Some(left)
    }

    /// Length of the longest walk; panics when one gets stuck outside an end state.
    fn longest(state: State, budget: Budget, depth: usize) -> usize {
        assert!(depth < 100, "a walk without end");
        let step = |event: &Event| Some((state.after(*event).ok()?, spend(state, *event, budget)?));
        let walks = EVENTS
            .iter()
            .filter_map(step)
            .map(|(next, left)| 1 + longest(next, left, depth + 1));
        let longest = walks.max().unwrap_or(0);
        assert!(longest > 0 || state.is_end(), "stuck in {state}");
        longest
    }

    #[test]
    fn every_path_ends_and_is_bounded() {
        let budget = Budget {
            arrivals: 0,
            clean_stops: 0,
            wishes: 0,
            attempts: 0,
        };
        // silent, closed, three times claimed and broken off but for the last, which is kept and delivered.
        assert_eq!(longest(State::Receiving, budget, 0), 9);
        let busy = Budget {
            arrivals: 1,
            clean_stops: 1,
            wishes: 1,
            attempts: 0,
        };
        assert!(longest(State::Receiving, busy, 0) < 40);
    }

    #[test]
    fn only_an_operator_leads_out_of_an_end_and_an_end_is_always_near() {
        for state in State::ALL {
            for event in EVENTS {
                let wish = matches!(event, Event::Retried | Event::Resent);
                assert!(
                    !state.is_end() || wish || state.after(event).is_err(),
                    "{state} {event:?}"
                );
                assert!(
                    state.is_end() || !wish || state.after(event).is_err(),
                    "{state} {event:?}"
                );
            }
            assert_eq!(state.after(Event::Cancelled).is_ok(), !state.is_end(), "{state}");
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
    }
}
