//! C-MOVE and C-GET: stored bytes to those who ask, over an association of our own or the one they asked on.

use crate::dicom::ae::AeTitle;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::net::dimse::{Command, Operation, Originator, Progress, Request};
use crate::net::negotiation::Context;
use crate::net::outgoing::{Data, open};
use crate::net::pdu::AbortReason;
use crate::net::printable;
use crate::net::requests::{self, encoded};
use crate::net::scu::{self, Outgoing, ScuError, Untransmitted};
use crate::net::transport::Broken;
use crate::results::dataset::DataSet;
use crate::scp::identifier::{Refused, refusal};
use crate::scp::session::{Dialogue, End, Session, blocking};
use crate::scp::{Receiver, Root};
use crate::store::Holding;
use dicom::dictionary_std::tags;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tracing::info;

/// Failed instances named in a response; a data set of this many UIDs is well below what peers take.
const MAX_NAMED: usize = 1000;

/// How the sub-operations stand.
struct Account {
    total: usize,
    completed: usize,
    warnings: usize,
    failed: Vec<Uid>,
    /// Why the first one failed, for people.
    first_problem: String,
}

impl Account {
    fn new(total: usize) -> Self {
        Self {
            total,
            completed: 0,
            warnings: 0,
            failed: Vec::new(),
            first_problem: String::new(),
        }
    }

    fn done(&self) -> usize {
        self.completed + self.warnings + self.failed.len()
    }

    fn count(&mut self, object: &Outgoing, outcome: Result<Status, String>) {
        let problem = match outcome {
            Ok(Status::SUCCESS | Status::DUPLICATE_SOP_INSTANCE) => return self.completed += 1,
            Ok(status) if status.is_stored() => return self.warnings += 1,
            Ok(status) => format!("the receiver answered {status}"),
            Err(problem) => problem,
        };
        tracing::warn!(instance = %object.sop_instance_uid, problem, "a sub-operation failed");
        self.failed.push(object.sop_instance_uid.clone());
        if self.first_problem.is_empty() {
            self.first_problem = problem;
        }
    }

    fn progress(&self, with_remaining: bool) -> Progress {
        let number = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        Progress {
            remaining: with_remaining.then(|| number(self.total - self.done())),
            completed: number(self.completed),
            failed: number(self.failed.len()),
            warning: number(self.warnings),
        }
    }

    fn status(&self, cancelled: bool) -> Status {
        match () {
            () if cancelled => Status::CANCELLED,
            () if self.failed.is_empty() && self.warnings == 0 => Status::SUCCESS,
            () if self.completed + self.warnings == 0 => Status::CANNOT_PERFORM,
            () => Status::SOME_FAILED,
        }
    }
}

impl<R: Receiver> Session<R> {
    pub(in crate::scp) async fn move_to(
        &mut self,
        mut dialogue: Dialogue<'_>,
        root: Root,
        destination: &str,
    ) -> Result<(), End> {
        let objects = match self.objects(&mut dialogue, root).await? {
            Ok(objects) => objects,
            Err((status, comment)) => return dialogue.end(status, &comment).await,
        };
        let target = AeTitle::parse(destination)
            .ok()
            .and_then(|title| self.settings.target(&title).cloned());
        let Some(dial) = target else {
            let comment = "no [[destination]] or [[peer]] with a port has this title";
            return dialogue.end(Status::DESTINATION_UNKNOWN, comment).await;
        };
        let mut account = Account::new(objects.len());
        if objects.is_empty() {
            return dialogue.close(&account, false).await;
        }
        let originator = Originator {
            ae_title: dialogue.partner.calling.to_string(),
            message_id: dialogue.request.message_id,
        };
        let flag = Arc::new(AtomicBool::new(false));
        let (outcomes, mut inbox) = mpsc::channel(1);
        let sending = {
            let (objects, flag) = (objects.clone(), flag.clone());
            tokio::spawn(async move { requests::forward(&dial, &objects, &originator, flag, outcomes).await })
        };
        let mut waiting = objects.iter();
        let mut cancelled = false;
        loop {
            tokio::select! {
                biased;
                heard = dialogue.association.readable() => {
                    heard?;
                    if dialogue.hear_cancel().await? {
                        cancelled = true;
                        flag.store(true, Ordering::Relaxed);
                    }
                }
                outcome = inbox.recv() => {
                    let Some(outcome) = outcome else { break };
                    let object = waiting.next().ok_or_else(|| End::Failed("more outcomes than objects".into()))?;
                    account.count(object, outcome.map_err(|error| error.to_string()));
                    dialogue.tell(&account).await?;
                }
            }
        }
        let ended = sending.await.map_err(|panic| End::Failed(panic.to_string()))?;
        if !cancelled {
            let cause = ended
                .err()
                .map_or_else(|| "the association broke off".to_owned(), |error| error.to_string());
            waiting.for_each(|object| account.count(object, Err(cause.clone())));
        }
        info!(
            destination = printable(destination),
            objects = account.total,
            completed = account.completed,
            failed = account.failed.len(),
            cancelled,
            "moved"
        );
        dialogue.close(&account, cancelled).await
    }

    pub(in crate::scp) async fn get(&mut self, mut dialogue: Dialogue<'_>, root: Root) -> Result<(), End> {
        let objects = match self.objects(&mut dialogue, root).await? {
            Ok(objects) => objects,
            Err((status, comment)) => return dialogue.end(status, &comment).await,
        };
        let mut account = Account::new(objects.len());
        let mut cancelled = false;
        for (object, message_id) in objects.iter().zip((1..=u16::MAX).cycle()) {
            let outcome = dialogue.give(object, message_id, &mut cancelled).await?;
            account.count(object, outcome);
            if cancelled {
                break;
            }
            dialogue.tell(&account).await?;
        }
        info!(
            objects = account.total,
            completed = account.completed,
            failed = account.failed.len(),
            cancelled,
            "got"
        );
        dialogue.close(&account, cancelled).await
    }

    /// What is to be sent; inside, why nothing is.
    async fn objects(&self, dialogue: &mut Dialogue<'_>, root: Root) -> Result<Result<Vec<Outgoing>, Refused>, End> {
        let (archive, identifier) = match self.identifier(dialogue, root).await? {
            Ok(asked) => asked,
            Err(refused) => return Ok(Err(refused)),
        };
        let found = blocking(move || archive.named(&identifier)).await?;
        let outgoing = |holding: Holding| Outgoing {
            sop_class_uid: holding.sop_class_uid,
            sop_instance_uid: holding.sop_instance_uid,
            transfer_syntax_uid: holding.transfer_syntax_uid,
            path: holding.path,
        };
        Ok(match found {
            Ok(found) => Ok(found.into_iter().map(outgoing).collect()),
            Err(error) => Err(match refusal(&error) {
                (Status::OUT_OF_RESOURCES, comment) => (Status::CANNOT_COUNT, comment),
                other => other,
            }),
        })
    }
}

impl Dialogue<'_> {
    /// One C-STORE sub-operation of a C-GET; inside, why it failed. Sets `cancelled` when that is asked for meanwhile.
    async fn give(
        &mut self,
        object: &Outgoing,
        message_id: u16,
        cancelled: &mut bool,
    ) -> Result<Result<Status, String>, End> {
        let class = object.sop_class_uid.as_str();
        let context = scu::choose(self.association, object).filter(|_| self.partner.provides(class));
        let Some(context) = context else {
            let syntax = &object.transfer_syntax_uid;
            return Ok(Err(format!(
                "no presentation context takes SOP class {class} in transfer syntax {syntax}"
            )));
        };
        let data = match open(object, &context.transfer_syntax).await {
            Ok(data) => data,
            Err(error @ ScuError::File { .. }) => return Ok(Err(error.to_string())),
            Err(error) => return Err(End::Failed(error.to_string())),
        };
        let sent = transmit(self, &context, object, message_id, data).await?;
        loop {
            let message = self.association.next_message().await?;
            match message.map(|message| message.command) {
                Some(Command::Response(response)) if response.responded_to == sent.message_id => {
                    return Ok(Ok(response.status));
                }
                Some(Command::Request(heard)) if heard.operation == Operation::Cancel => {
                    *cancelled |= heard.message_id == self.request.message_id;
                }
                _ => return Err(unexpected("neither the answer to a C-STORE nor a cancel")),
            }
        }
    }

    /// A pending response.
    async fn tell(&mut self, account: &Account) -> Result<(), End> {
        let mut response = self.request.answer(Status::PENDING, "");
        response.progress = Some(account.progress(true));
        Ok(self.association.send(self.context.id, &response.encode(), &[]).await?)
    }

    /// The final response, with the instances that failed.
    async fn close(self, account: &Account, cancelled: bool) -> Result<(), End> {
        let mut response = self
            .request
            .answer(account.status(cancelled), account.first_problem.clone());
        response.progress = Some(account.progress(cancelled));
        if account.failed.is_empty() {
            return Ok(self.association.send(self.context.id, &response.encode(), &[]).await?);
        }
        response.has_data = true;
        let named: Vec<&str> = account.failed.iter().take(MAX_NAMED).map(Uid::as_str).collect();
        let mut list = DataSet::default();
        list.text(tags::FAILED_SOP_INSTANCE_UID_LIST, named.join("\\"));
        let mut data = Vec::new();
        list.encode(&mut data);
        let data = encoded(data, &self.context.transfer_syntax);
        Ok(self
            .association
            .send_with_data(self.context.id, &response.encode(), &data)
            .await?)
    }
}

async fn transmit(
    dialogue: &mut Dialogue<'_>,
    context: &Context,
    object: &Outgoing,
    message_id: u16,
    data: Data,
) -> Result<Request, End> {
    let sent = scu::transmit(dialogue.association, context, object, message_id, data, None).await;
    sent.map_err(|failure| match failure {
        Untransmitted::Broken(broken) => End::Broken(broken),
        Untransmitted::File(cause) => End::Failed(cause),
    })
}

fn unexpected(what: &str) -> End {
    End::Broken(Broken::violation(AbortReason::UnexpectedPdu, what))
}
