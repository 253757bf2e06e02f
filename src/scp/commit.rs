//! Storage commitment, both ends of it: what peers ask us to keep (N-ACTION), and what destinations say they keep (N-EVENT-REPORT).
//!
//! A request is a row before it is answered. Its report goes to the peer's own port where the configuration knows one, again and again
//! until it is heard, restarts included; else on the association where it was asked for.

use crate::archive::Archive;
use crate::commitment::{self, PUSH_MODEL_INSTANCE, REQUEST_COMMITMENT, Report};
use crate::dicom::scan::Encoding;
use crate::dicom::status::Status;
use crate::net;
use crate::net::dimse::{Command, Response};
use crate::net::pdu::AbortReason;
use crate::net::printable;
use crate::net::requests::{self, MAX_ANSWER_BYTES, encoded, event_report};
use crate::net::scu::Dial;
use crate::net::transport::Broken;
use crate::scp::Receiver;
use crate::scp::identifier::Refused;
use crate::scp::session::{Dialogue, End, Session, blocking};
use crate::store::OpenCommitment;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};

/// How often the rows are looked at.
const POLL: Duration = Duration::from_secs(1);
/// Pause after a report that was not heard; doubles up to an hour.
const RETRY_S: f64 = 10.0;
const RETRY_MAX_S: f64 = 3600.0;
/// Some three days.
const ATTEMPTS: u32 = 80;

impl<R: Receiver> Session<R> {
    /// N-ACTION: a request becomes a row, then it is answered, then it is reported on.
    pub(in crate::scp) async fn commit(
        &mut self,
        mut dialogue: Dialogue<'_>,
        sop_instance_uid: &str,
        action_type: u16,
    ) -> Result<(), End> {
        let data = dialogue.data().await?;
        let asked =
            check(sop_instance_uid, action_type).and_then(|()| dialogue.decoded(data, commitment::Request::decode));
        let (archive, request) = match (&self.settings.archive, asked) {
            (Some(archive), Ok(request)) => (archive.clone(), request),
            (None, Ok(_)) => return dialogue.end(Status::PROCESSING_FAILURE, "nothing is kept here").await,
            (_, Err((status, comment))) => return dialogue.end(status, &comment).await,
        };
        let peer = dialogue.partner.calling.to_string();
        let row = {
            let (archive, peer, request) = (archive.clone(), peer.clone(), request.clone());
            blocking(move || archive.store.promise(&peer, &request, Timestamp::now())).await?
        };
        let id = match row {
            Ok(id) => id,
            Err(error) => return dialogue.end(Status::PROCESSING_FAILURE, &error.to_string()).await,
        };
        info!(objects = request.objects.len(), transaction = %request.transaction_uid, "asked for storage commitment");
        let response = dialogue.request.answer(Status::SUCCESS, "");
        dialogue
            .association
            .send(dialogue.context.id, &response.encode(), &[])
            .await?;
        match self.settings.target(&dialogue.partner.calling) {
            // Called back by `report_commitments`.
            Some(_) => Ok(()),
            None => {
                dialogue
                    .report_here(
                        archive,
                        OpenCommitment {
                            id,
                            peer,
                            request,
                            attempts: 0,
                        },
                    )
                    .await
            }
        }
    }

    /// N-EVENT-REPORT of a destination that we asked.
    pub(in crate::scp) async fn hear_report(&mut self, mut dialogue: Dialogue<'_>, event_type: u16) -> Result<(), End> {
        let data = dialogue.data().await?;
        let report = match event_type {
            1 | 2 => dialogue.decoded(data, Report::decode),
            other => Err((Status::NO_SUCH_EVENT_TYPE, format!("event type {other}"))),
        };
        let (archive, report) = match (&self.settings.archive, report) {
            (Some(archive), Ok(report)) => (archive.clone(), report),
            (None, Ok(_)) => return dialogue.end(Status::PROCESSING_FAILURE, "nobody asked").await,
            (_, Err((status, comment))) => return dialogue.end(status, &comment).await,
        };
        let transaction = report.transaction_uid.clone();
        match blocking(move || archive.store.pledge_answered(&report, Timestamp::now())).await? {
            Ok(Some((job, kept))) => {
                info!(job = job.0, %transaction, kept, "heard of storage commitment");
                dialogue.end(Status::SUCCESS, "").await
            }
            Ok(None) => {
                dialogue
                    .end(Status::INVALID_ARGUMENT, "no such transaction was asked for")
                    .await
            }
            Err(error) => dialogue.end(Status::PROCESSING_FAILURE, &error.to_string()).await,
        }
    }
}

fn check(sop_instance_uid: &str, action_type: u16) -> Result<(), Refused> {
    if sop_instance_uid != PUSH_MODEL_INSTANCE {
        return Err((Status::NO_SUCH_INSTANCE, "not the well-known instance".into()));
    }
    match action_type {
        REQUEST_COMMITMENT => Ok(()),
        other => Err((Status::NO_SUCH_ACTION, format!("action type {other}"))),
    }
}

impl Dialogue<'_> {
    /// The data set of the request; empty when it has none or it is too long.
    async fn data(&mut self) -> Result<Vec<u8>, End> {
        if !self.request.has_data {
            return Ok(Vec::new());
        }
        let data = self.association.data_set(self.context.id, MAX_ANSWER_BYTES).await?;
        Ok(data.unwrap_or_default())
    }

    fn decoded<T>(
        &self,
        data: Vec<u8>,
        decode: impl Fn(&[u8], Encoding) -> Result<T, commitment::BadCommitment>,
    ) -> Result<T, Refused> {
        if self.request.sop_class_uid != self.context.abstract_syntax.as_str() {
            return Err((Status::SOP_CLASS_NOT_SUPPORTED, "another SOP class".into()));
        }
        decode(&data, Encoding::of(&self.context.transfer_syntax))
            .map_err(|bad| (Status::INVALID_ARGUMENT, bad.to_string()))
    }

    /// Reports on the same association, for a peer that cannot be called back.
    async fn report_here(self, archive: Archive, open: OpenCommitment) -> Result<(), End> {
        let Dialogue {
            association, context, ..
        } = self;
        let report = match vouch(&archive, &open).await {
            Ok(report) => report,
            Err(cause) => return unheard(&archive, &open, &cause).await.map_err(End::Failed),
        };
        let request = event_report(&report, 1);
        let data = encoded(report.encode(), &context.transfer_syntax);
        association.send_with_data(context.id, &request.encode(), &data).await?;
        let heard = association.next_message().await;
        let cause = match &heard {
            Ok(Some(message)) => match &message.command {
                Command::Response(Response { status, .. }) if *status == Status::SUCCESS => {
                    return heard_by(&archive, &open, &report).await.map_err(End::Failed);
                }
                Command::Response(Response { status, .. }) => format!("it answered {status} to the report"),
                Command::Request(_) => "it asked something else instead of answering the report".into(),
            },
            Ok(None) => "it left before the report; give its [[peer]] a port".into(),
            Err(broken) => broken.to_string(),
        };
        unheard(&archive, &open, &cause).await.map_err(End::Failed)?;
        match heard {
            Ok(None) => Err(End::Released),
            Ok(Some(message)) => match message.command {
                Command::Response(_) => Ok(()),
                Command::Request(_) => Err(Broken::violation(AbortReason::UnexpectedPdu, cause).into()),
            },
            Err(broken) => Err(broken.into()),
        }
    }
}

/// Reports to peers that can be called back, until `stop` resolves: in order to each, and to all at once, so that one who does not answer
/// keeps nobody waiting.
pub async fn report_commitments(archive: Archive, targets: Vec<Dial>, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let mut calls = JoinSet::new();
    let mut called: BTreeMap<String, AbortHandle> = BTreeMap::new();
    loop {
        while let Some(ended) = calls.try_join_next() {
            if let Err(cause) = ended {
                error!(%cause, "a report of storage commitment broke off");
            }
        }
        called.retain(|_, call| !call.is_finished());
        match of_archive(&archive, |archive| archive.store.open_commitments(Timestamp::now())).await {
            Ok(due) => {
                for (peer, due) in by_peer(due) {
                    if called.contains_key(&peer) {
                        continue;
                    }
                    let dial = targets.iter().find(|dial| dial.address.ae_title.as_str() == peer);
                    match dial.cloned() {
                        Some(dial) => {
                            let call = calls.spawn(call_back_all(archive.clone(), dial, due));
                            called.insert(peer, call);
                        }
                        None => without_port(&archive, due).await,
                    }
                }
            }
            Err(cause) => error!(%cause, "cannot read which storage commitments are due"),
        }
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Those of each peer, in the order they came.
fn by_peer(due: Vec<OpenCommitment>) -> BTreeMap<String, Vec<OpenCommitment>> {
    let mut peers: BTreeMap<String, Vec<OpenCommitment>> = BTreeMap::new();
    for open in due {
        peers.entry(open.peer.clone()).or_default().push(open);
    }
    peers
}

async fn call_back_all(archive: Archive, dial: Dial, due: Vec<OpenCommitment>) {
    for open in due {
        tell_unrecorded(call_back(&archive, &dial, &open).await);
    }
}

async fn without_port(archive: &Archive, due: Vec<OpenCommitment>) {
    // The first report goes out on its own association.
    for open in due.iter().filter(|open| open.attempts > 0) {
        tell_unrecorded(unheard(archive, open, "its [[peer]] has no port to be called back at").await);
    }
}

fn tell_unrecorded(recorded: Result<(), String>) {
    if let Err(cause) = recorded {
        error!(%cause, "cannot record a report of storage commitment");
    }
}

async fn call_back(archive: &Archive, dial: &Dial, open: &OpenCommitment) -> Result<(), String> {
    let report = match vouch(archive, open).await {
        Ok(report) => report,
        Err(cause) => return unheard(archive, open, &cause).await,
    };
    match requests::report_commitment(dial, &report).await {
        Ok(Status::SUCCESS) => heard_by(archive, open, &report).await,
        Ok(status) => unheard(archive, open, &format!("it answered {status} to the report")).await,
        Err(error) => unheard(archive, open, &error.to_string()).await,
    }
}

async fn vouch(archive: &Archive, open: &OpenCommitment) -> Result<Report, String> {
    let request = open.request.clone();
    of_archive(archive, move |archive| archive.vouch(&request)).await
}

async fn heard_by(archive: &Archive, open: &OpenCommitment, report: &Report) -> Result<(), String> {
    let (kept, failed) = (report.kept.len(), report.failed.len());
    info!(peer = open.peer, transaction = %report.transaction_uid, kept, failed, "reported storage commitment");
    let id = open.id;
    of_archive(archive, move |archive| archive.store.commitment_reported(id)).await
}

async fn unheard(archive: &Archive, open: &OpenCommitment, cause: &str) -> Result<(), String> {
    let pause_s = (RETRY_S * 2f64.powi(open.attempts.min(30) as i32)).min(RETRY_MAX_S);
    let retry_at = (open.attempts + 1 < ATTEMPTS).then(|| {
        let now = Timestamp::now();
        now.saturating_add(SignedDuration::from_secs_f64(pause_s))
            .unwrap_or(now)
    });
    warn!(peer = open.peer, cause = printable(cause), again = ?retry_at, "a report of storage commitment was not heard");
    let (id, cause) = (open.id, cause.to_owned());
    of_archive(archive, move |archive| {
        archive.store.commitment_unheard(id, &cause, retry_at)
    })
    .await
}

/// Asks the archive, which is synchronous; every failure as a sentence.
async fn of_archive<T: Send + 'static, E: ToString + Send + 'static>(
    archive: &Archive,
    ask: impl FnOnce(&Archive) -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let archive = archive.clone();
    net::off_thread(move || ask(&archive))
        .await?
        .map_err(|error| error.to_string())
}
