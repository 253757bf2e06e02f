//! One association from the first byte to the last.

use crate::dicom::ae::AeTitle;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::intake::{AssociationId, Claim, IntakeError};
use crate::net;
use crate::net::association::{self, Association, Message};
use crate::net::dimse::{Command, Operation, Request, Response};
use crate::net::negotiation::{Context, negotiate};
use crate::net::pdu::{AbortReason, AssociateAccept, AssociateRequest, Role};
use crate::net::printable;
use crate::net::transport::{Broken, Transport};
use crate::scp::admission::{Admitted, admit};
use crate::scp::places::Place;
use crate::scp::server::Caller;
use crate::scp::spooler::{Dead, Spooler};
use crate::scp::{Answer, Parting, Receiver, SERVICES, Settings, identifier, offers, part, roles};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, info, warn};

/// What an association needs to know of the server.
pub struct Session<R> {
    pub id: AssociationId,
    pub settings: Arc<Settings>,
    pub receiver: R,
    pub place: Place,
    /// True once the server is to stop.
    pub stopping: watch::Receiver<bool>,
}

/// Whom we talk to, and what was agreed.
pub(in crate::scp) struct Partner {
    pub calling: AeTitle,
    /// Which of our titles it called.
    pub called: AeTitle,
    /// Roles granted beyond the usual one, which is SCU.
    pub roles: Vec<Role>,
    /// Study date and time are matched as one moment.
    pub combined_date_time: bool,
}

impl Partner {
    /// False for a SOP class of which it gave up the role of user.
    fn may_use(&self, sop_class_uid: &str) -> bool {
        !self
            .roles
            .iter()
            .any(|role| role.sop_class_uid == sop_class_uid && !role.scu)
    }

    /// True for a SOP class of which it provides the service to us.
    pub fn provides(&self, sop_class_uid: &str) -> bool {
        self.roles
            .iter()
            .any(|role| role.sop_class_uid == sop_class_uid && role.scp)
    }
}

/// Why the message loop ended.
pub(in crate::scp) enum End {
    Released,
    /// The server is stopping.
    Stopped,
    Broken(Broken),
    /// Our side failed.
    Failed(String),
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<Dead> for End {
    fn from(dead: Dead) -> Self {
        Self::Failed(dead.to_string())
    }
}

/// A request to be answered.
pub(in crate::scp) struct Dialogue<'a> {
    pub association: &'a mut Association,
    pub partner: &'a Partner,
    pub context: &'a Context,
    pub request: &'a Request,
}

/// What was done, for the closing log line.
#[derive(Default)]
struct Tally {
    stored: u64,
    refused: u64,
}

impl<R: Receiver> Session<R> {
    pub(in crate::scp) async fn run(mut self, caller: Caller) {
        let dicom = &self.settings.dicom;
        let artim = Duration::from_secs(dicom.artim_timeout_s);
        let idle = Duration::from_secs(dicom.idle_timeout_s);
        let write_timeout = Duration::from_secs(dicom.write_timeout_s);
        // The ARTIM timer: encryption and request together.
        let deadline = Instant::now() + artim;
        let address = caller.address;
        let opened = tokio::select! {
            opened = timeout_at(deadline, caller.open(artim, write_timeout)) => opened,
            _ = self.stopping.wait_for(|&stop| stop) => return,
        };
        let mut transport = match opened {
            Ok(Ok(transport)) => transport,
            Ok(Err(error)) => return warn!(cause = %error, "cannot set up a connection"),
            Err(_) => {
                return warn!(
                    after_s = artim.as_secs(),
                    "no TLS handshake in time, dropped the caller"
                );
            }
        };
        let request = tokio::select! {
            request = timeout_at(deadline, association::read_request(&mut transport)) => request,
            _ = self.stopping.wait_for(|&stop| stop) => return,
        };
        let late = |_| Broken::TimedOut {
            what: "A-ASSOCIATE-RQ",
            after: artim,
        };
        let request = match request.map_err(late).and_then(|request| request) {
            Ok(request) => request,
            Err(broken) => return part(Parting::Transport(transport), broken).await,
        };
        let calling = printable(&request.calling_ae);
        match admit(&self.settings, &request, address).await {
            Ok(admitted) => {
                transport.set_read_timeout(idle);
                self.associate(transport, &request, admitted).await;
            }
            Err(refusal) => {
                warn!(calling, cause = refusal.cause, told = %refusal.reject, "refused association");
                transport.farewell(&refusal.reject.encode()).await;
            }
        }
    }

    async fn associate(mut self, mut transport: Transport, request: &AssociateRequest, admitted: Admitted) {
        let Admitted {
            calling_ae: calling,
            called_ae: called,
            permissions,
        } = admitted;
        let (answers, contexts) = negotiate(&request.contexts, &offers(&permissions, &request.roles));
        info!(
            %calling, software = printable(&request.implementation_version_name),
            proposed = answers.len(), accepted = contexts.len(), "association opened"
        );
        let max_pdu = self.settings.dicom.max_pdu;
        let accept = AssociateAccept {
            called_ae: called.to_string(),
            calling_ae: calling.to_string(),
            contexts: answers,
            max_pdu,
            roles: roles::grant(&permissions, &request.roles),
            extended: identifier::agree(&request.extended),
        };
        if let Err(broken) = transport.write(&accept.encode()).await {
            return part(Parting::Transport(transport), broken).await;
        }
        let mut association = Association::new(transport, contexts, max_pdu, request.max_pdu);
        let partner = Partner {
            calling,
            called,
            combined_date_time: identifier::is_combined(&accept.extended),
            roles: accept.roles,
        };
        let mut spooler = match Spooler::start(self.receiver.clone(), self.id) {
            Ok(spooler) => spooler,
            Err(dead) => {
                error!(cause = %dead, "aborted association: our side failed");
                return association.abort(AbortReason::NotSpecified).await;
            }
        };
        let mut tally = Tally::default();
        let end = self
            .converse(&mut association, &mut spooler, &partner, &mut tally)
            .await;
        self.end(association, spooler, end, &tally).await;
    }

    /// The intake knows of the end before the peer does: its answer to a release means that everything is synced.
    async fn end(self, association: Association, spooler: Spooler<R>, end: End, tally: &Tally) {
        let Tally { stored, refused } = *tally;
        let cause = match end {
            End::Released => match spooler.close() {
                Ok(Ok(())) => {
                    info!(stored, refused, "association released");
                    // Before the peer hears of it: it may open the next one at once.
                    drop(self.place);
                    return association.answer_release().await;
                }
                Ok(Err(error)) => error.to_string(),
                Err(dead) => dead.to_string(),
            },
            End::Broken(broken) => {
                drop(spooler);
                info!(stored, refused, "association ends without release");
                return part(Parting::Association(association), broken).await;
            }
            End::Stopped => {
                drop(spooler);
                info!(stored, refused, "aborted association: we are stopping");
                return association.abort(AbortReason::NotSpecified).await;
            }
            End::Failed(cause) => {
                drop(spooler);
                cause
            }
        };
        error!(stored, refused, cause, "aborted association: our side failed");
        association.abort(AbortReason::NotSpecified).await;
    }

    async fn converse(
        &mut self,
        association: &mut Association,
        spooler: &mut Spooler<R>,
        partner: &Partner,
        tally: &mut Tally,
    ) -> End {
        loop {
            // Only between messages: one that has begun is finished and answered.
            let message = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|&stop| stop) => return End::Stopped,
                message = association.next_message() => message,
            };
            let outcome = match message {
                Ok(None) => return End::Released,
                Ok(Some(Message {
                    context,
                    command: Command::Request(request),
                })) => {
                    self.answer(association, spooler, partner, &context, &request, tally)
                        .await
                }
                Ok(Some(Message {
                    command: Command::Response(_),
                    ..
                })) => {
                    let what = "a response where a request was due";
                    Err(Broken::violation(AbortReason::UnexpectedPdu, what).into())
                }
                Err(broken) => Err(broken.into()),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// Dispatches by the service that owns the presentation context.
    async fn answer(
        &mut self,
        association: &mut Association,
        spooler: &mut Spooler<R>,
        partner: &Partner,
        context: &Context,
        request: &Request,
        tally: &mut Tally,
    ) -> Result<(), End> {
        let service = SERVICES
            .iter()
            .find(|s| s.abstract_syntaxes.contains(&context.abstract_syntax.as_str()));
        let dialogue = Dialogue {
            association,
            partner,
            context,
            request,
        };
        match (&request.operation, service.map(|service| service.answer)) {
            // Of something that has been answered meanwhile.
            (Operation::Cancel, _) => Ok(()),
            (Operation::Echo, Some(Answer::Echo)) if request.sop_class_uid == context.abstract_syntax.as_str() => {
                self.echo(dialogue).await
            }
            (Operation::Store { sop_instance_uid }, Some(Answer::Store)) if partner.may_use(&request.sop_class_uid) => {
                self.take(dialogue, spooler, sop_instance_uid, tally).await
            }
            (Operation::Find, Some(Answer::Find(root))) => self.find(dialogue, root).await,
            (Operation::Move { destination }, Some(Answer::Move(root))) => {
                self.move_to(dialogue, root, destination).await
            }
            (Operation::Get, Some(Answer::Get(root))) => self.get(dialogue, root).await,
            (
                Operation::Action {
                    sop_instance_uid,
                    action_type,
                },
                Some(Answer::Commit),
            ) if partner.may_use(&request.sop_class_uid) => self.commit(dialogue, sop_instance_uid, *action_type).await,
            (Operation::EventReport { event_type, .. }, Some(Answer::Commit))
                if partner.provides(&request.sop_class_uid) =>
            {
                self.hear_report(dialogue, *event_type).await
            }
            _ => {
                let comment = format!("not provided in presentation context {}", context.id);
                self.refuse(dialogue, Status::UNRECOGNIZED_OPERATION, &comment).await
            }
        }
    }

    async fn echo(&self, mut dialogue: Dialogue<'_>) -> Result<(), End> {
        dialogue.skip(self.max_bytes()).await?;
        debug!("echoed");
        dialogue.end(Status::SUCCESS, "").await
    }

    /// Reads the data set to its end, so that the peer hears why it is refused.
    pub(in crate::scp) async fn refuse(
        &self,
        mut dialogue: Dialogue<'_>,
        status: Status,
        comment: &str,
    ) -> Result<(), End> {
        dialogue.skip(self.max_bytes()).await?;
        dialogue.end(status, comment).await
    }

    /// C-STORE.
    async fn take(
        &self,
        dialogue: Dialogue<'_>,
        spooler: &mut Spooler<R>,
        sop_instance_uid: &str,
        tally: &mut Tally,
    ) -> Result<(), End> {
        let Dialogue {
            association,
            partner,
            context,
            request,
        } = dialogue;
        let claim = self.claim(partner, context, request, sop_instance_uid);
        let response = match claim {
            Ok(claim) if request.has_data => self.store(association, spooler, context, request, claim).await?,
            Ok(_) => refuse(request, Status::CANNOT_UNDERSTAND, "C-STORE-RQ without a data set"),
            Err((status, comment)) => {
                skip(association, context, request, self.max_bytes()).await?;
                refuse(request, status, &comment)
            }
        };
        match response.status {
            Status::SUCCESS => tally.stored += 1,
            _ => tally.refused += 1,
        }
        Ok(association.send(context.id, &response.encode(), &[]).await?)
    }

    fn max_bytes(&self) -> u64 {
        self.settings.dicom.max_object_mb.saturating_mul(1 << 20)
    }

    /// What the peer says it will send, if it may be believed so far.
    fn claim(
        &self,
        partner: &Partner,
        context: &Context,
        request: &Request,
        sop_instance_uid: &str,
    ) -> Result<Claim, (Status, String)> {
        if request.sop_class_uid != context.abstract_syntax.as_str() {
            let comment = format!("SOP class is not the one of presentation context {}", context.id);
            return Err((Status::SOP_CLASS_NOT_SUPPORTED, comment));
        }
        let Ok(sop_instance_uid) = Uid::parse(sop_instance_uid) else {
            let refusal = IntakeError::CannotUnderstand("Affected SOP Instance UID is not a UID".into());
            return Err((refusal.status(), refusal.to_string()));
        };
        Ok(Claim {
            sop_class_uid: context.abstract_syntax.clone(),
            sop_instance_uid,
            transfer_syntax_uid: context.transfer_syntax.clone(),
            calling_ae: partner.calling.clone(),
            called_ae: partner.called.clone(),
            association: self.id,
        })
    }

    /// Carries a data set into the intake. Whatever goes wrong there, the rest of the data set is read and thrown away, so that the
    /// peer gets its status and the association goes on.
    async fn store(
        &self,
        association: &mut Association,
        spooler: &mut Spooler<R>,
        context: &Context,
        request: &Request,
        claim: Claim,
    ) -> Result<Response, End> {
        let max_bytes = self.max_bytes();
        let (mut count, mut is_last) = (0u64, false);
        spooler.begin(claim)?;
        while !is_last {
            let fragment;
            (fragment, is_last) = association.next_fragment(context.id).await?;
            let before = count;
            count += fragment.len() as u64;
            if count <= max_bytes {
                spooler.write(&fragment)?;
            } else if before <= max_bytes {
                let cause = format!("object larger than {} MiB", self.settings.dicom.max_object_mb);
                spooler.spoil(IntakeError::OutOfResources(cause));
            }
            check_endless(count, max_bytes)?;
        }
        Ok(match spooler.finish()? {
            Ok(_receipt) => request.answer(Status::SUCCESS, ""),
            Err(error) => refuse(request, error.status(), &error.to_string()),
        })
    }
}

/// Runs what blocks.
pub(in crate::scp) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, End> {
    net::off_thread(work).await.map_err(End::Failed)
}

/// A failure status with its reason, in the log too.
pub(in crate::scp) fn refuse(request: &Request, status: Status, comment: &str) -> Response {
    let instance = match &request.operation {
        Operation::Store { sop_instance_uid } => sop_instance_uid.as_str(),
        _ => "",
    };
    let (sop_class, instance) = (printable(&request.sop_class_uid), printable(instance));
    warn!(%status, cause = comment, operation = request.operation.name(), sop_class, instance, "refused request");
    request.answer(status, comment)
}

impl Dialogue<'_> {
    async fn skip(&mut self, max_bytes: u64) -> Result<(), Broken> {
        skip(self.association, self.context, self.request, max_bytes).await
    }
}

/// Reads and throws away the data set of a request that is refused anyway.
async fn skip(
    association: &mut Association,
    context: &Context,
    request: &Request,
    max_bytes: u64,
) -> Result<(), Broken> {
    let (mut count, mut is_last) = (0, !request.has_data);
    while !is_last {
        let fragment;
        (fragment, is_last) = association.next_fragment(context.id).await?;
        count += fragment.len() as u64;
        check_endless(count, max_bytes)?;
    }
    Ok(())
}

/// What we refuse we still read to its end, so that the peer hears why; but not for ever.
fn check_endless(count: u64, max_bytes: u64) -> Result<(), Broken> {
    if count / 2 <= max_bytes {
        return Ok(());
    }
    let what = format!("a data set that does not end after {count} bytes");
    Err(Broken::violation(AbortReason::NotSpecified, what))
}
