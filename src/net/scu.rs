//! Asking others: C-ECHO and C-STORE as a service class user.

use crate::config::{Config, Route};
use crate::dicom::ae::{Address, AeTitle};
use crate::dicom::plain;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::net::association::{Association, Message};
use crate::net::dimse::{Command, Operation, Originator, Request, Response};
use crate::net::negotiation::{ACCEPTANCE, Context};
use crate::net::outgoing::{Data, open, prepare};
use crate::net::pdu::{self, AbortReason, AssociateAccept, AssociateRequest, Proposed, Reject, Role};
use crate::net::tls::Tls;
use crate::net::transport::{Broken, Stream, Transport};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const VERIFICATION: &str = "1.2.840.10008.1.1";
const IMPLICIT_VR_LE: &str = "1.2.840.10008.1.2";
/// Longest P-DATA-TF we take; answers are short.
const MAX_PDU: u32 = 16_384;
/// Odd ids from 1 to 255 (PS3.8 9.3.2.2).
const MAX_CONTEXTS: usize = 128;

/// An object to send, kept bytes on disk.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub transfer_syntax_uid: Uid,
    /// A Part 10 file.
    pub path: PathBuf,
}

/// How to talk to a peer.
#[derive(Clone, Debug)]
pub struct Dial {
    pub calling_ae: AeTitle,
    pub address: Address,
    pub connect_timeout: Duration,
    /// For each answer, and for each write that does not move.
    pub timeout: Duration,
    /// `None`: not encrypted.
    pub tls: Option<PeerTls>,
}

/// How to encrypt, and whom to expect.
#[derive(Clone, Debug)]
pub struct PeerTls {
    pub certificates: Arc<Tls>,
    /// Host name or address that the peer's certificate must hold.
    pub name: String,
}

impl PeerTls {
    /// For somebody who is called encrypted; an empty `name` is that of the host. `certificates` are those of [`Tls::of`] the
    /// configuration that says so.
    pub fn new(certificates: Option<&Arc<Tls>>, name: &str, host: &str) -> Self {
        Self {
            // Never in the clear for want of them.
            certificates: certificates
                .cloned()
                .expect("opened wherever anybody is called with tls"),
            name: if name.is_empty() { host } else { name }.to_owned(),
        }
    }
}

impl Dial {
    /// How to reach a destination. `certificates` are those of [`Tls::of`] the same configuration.
    pub fn to(config: &Config, route: &Route, certificates: Option<&Arc<Tls>>) -> Self {
        let timeout = Duration::from_secs(route.written.timeout_s);
        let tls = || PeerTls::new(certificates, &route.written.tls_name, &route.address.host);
        Self {
            calling_ae: config.ae_title.clone(),
            address: route.address.clone(),
            connect_timeout: timeout.min(Duration::from_secs(20)),
            timeout,
            tls: route.written.tls.then(tls),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ScuError {
    /// Retry: nobody there, network broke, transient rejection.
    #[error("cannot reach {address}: {cause}")]
    Unreachable { address: String, cause: String },
    /// The peer rejected the association for good.
    #[error("{address} rejected the association: {cause}")]
    Rejected { address: String, cause: String },
    /// No presentation context for this SOP class.
    #[error("{address} does not accept SOP class {sop_class_uid}")]
    NotAccepted { address: String, sop_class_uid: String },
    #[error("cannot read {path}: {cause}")]
    File { path: PathBuf, cause: String },
}

impl ScuError {
    pub(in crate::net) fn unreachable(dial: &Dial, cause: impl ToString) -> Self {
        Self::Unreachable {
            address: dial.address.to_string(),
            cause: cause.to_string(),
        }
    }
}

/// What the peer answered for each object, in order; the ones after a break are absent.
pub type Answers = Vec<Result<Status, ScuError>>;

/// C-STORE of all objects over one association. Each is sent in its own transfer syntax, or uncompressed to a peer that does not take
/// that ([`plain`]).
pub async fn store(dial: &Dial, objects: &[Outgoing]) -> Result<Answers, ScuError> {
    let items: Vec<Vec<&Outgoing>> = objects.iter().map(|object| vec![object]).collect();
    let answers = store_first_taken(dial, &items).await?;
    Ok(answers.into_iter().flatten().collect())
}

/// The same for objects that may go in one of several forms: each item's first alternative that the peer accepts and stores.
/// Answers are those to the alternatives tried, in order; the last one of an item decides.
pub async fn store_first_taken(dial: &Dial, items: &[Vec<&Outgoing>]) -> Result<Vec<Answers>, ScuError> {
    let all: Vec<&Outgoing> = items.iter().flatten().copied().collect();
    let mut association = associate(dial, contexts_for(&all), Vec::new()).await?;
    let mut answers = Vec::new();
    // Message ids may repeat once answered (PS3.7 9.1.1.1.1).
    let mut message_ids = (1..=u16::MAX).cycle();
    for alternatives in items {
        answers.push(Answers::new());
        let given = answers.last_mut().expect("just pushed");
        for object in alternatives {
            let message_id = message_ids.next().expect("it is endless");
            match store_one(dial, &mut association, object, message_id).await {
                Ok(answer) => given.push(answer),
                Err(broken) => {
                    given.push(Err(broken));
                    association.abort(AbortReason::NotSpecified).await;
                    return Ok(answers);
                }
            }
            if matches!(given.last(), Some(Ok(status)) if status.is_stored()) {
                break;
            }
        }
    }
    // Everything is answered: a peer that leaves without the last courtesy takes nothing back.
    if let Err(cause) = association.release().await {
        tracing::debug!(%cause, address = %dial.address, "no answer to our release");
    }
    Ok(answers)
}

/// The answer to one object; an error that ends the association is the outer one.
async fn store_one(
    dial: &Dial,
    association: &mut Association,
    object: &Outgoing,
    message_id: u16,
) -> Result<Result<Status, ScuError>, ScuError> {
    let Some(context) = choose(association, object) else {
        return Ok(Err(ScuError::NotAccepted {
            address: dial.address.to_string(),
            sop_class_uid: object.sop_class_uid.to_string(),
        }));
    };
    match open(object, &context.transfer_syntax).await {
        Ok(data) => send(dial, association, &context, object, message_id, data)
            .await
            .map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// C-ECHO.
pub async fn echo(dial: &Dial) -> Result<Status, ScuError> {
    let proposed = Proposed {
        id: 1,
        abstract_syntax: VERIFICATION.into(),
        transfer_syntaxes: vec![IMPLICIT_VR_LE.into()],
    };
    let mut association = associate(dial, vec![proposed], Vec::new()).await?;
    let verification = Uid::parse(VERIFICATION).expect("a UID");
    let Some(context) = association.context(&verification, IMPLICIT_VR_LE).cloned() else {
        association.abort(AbortReason::NotSpecified).await;
        return Err(ScuError::NotAccepted {
            address: dial.address.to_string(),
            sop_class_uid: VERIFICATION.into(),
        });
    };
    let request = Request {
        operation: Operation::Echo,
        message_id: 1,
        sop_class_uid: VERIFICATION.into(),
        has_data: false,
    };
    let answer = async {
        association.send(context.id, &request.encode(), &[]).await?;
        response(&mut association, &request).await
    };
    match answer.await {
        Ok(response) => {
            let _ = association.release().await;
            Ok(response.status)
        }
        Err(broken) => {
            association.abort(AbortReason::NotSpecified).await;
            Err(ScuError::unreachable(dial, broken))
        }
    }
}

/// One context for each SOP class and transfer syntax, so that the peer's choice is never ours to undo: the objects' own, and the
/// uncompressed ones that we can give them in.
pub(in crate::net) fn contexts_for(objects: &[&Outgoing]) -> Vec<Proposed> {
    let mut pairs = BTreeSet::new();
    for object in objects {
        let class = object.sop_class_uid.as_str();
        pairs.insert((class, object.transfer_syntax_uid.as_str()));
        let alternatives = plain::alternatives(object.transfer_syntax_uid.as_str());
        pairs.extend(alternatives.iter().map(|syntax| (class, *syntax)));
    }
    let context = |(index, (class, syntax)): (usize, (&str, &str))| Proposed {
        id: (2 * index + 1) as u8,
        abstract_syntax: class.to_owned(),
        transfer_syntaxes: vec![syntax.to_owned()],
    };
    pairs.into_iter().take(MAX_CONTEXTS).enumerate().map(context).collect()
}

/// The context in which an object can go: in its own transfer syntax, else in one that we can make of it.
pub fn choose(association: &Association, object: &Outgoing) -> Option<Context> {
    let own = object.transfer_syntax_uid.as_str();
    let mut syntaxes = std::iter::once(&own).chain(plain::alternatives(own));
    let context = syntaxes.find_map(|syntax| association.context(&object.sop_class_uid, syntax));
    context.cloned()
}

/// Opens an association; `roles` are those asked for beside the usual one, which is SCU.
pub(in crate::net) async fn associate(
    dial: &Dial,
    contexts: Vec<Proposed>,
    roles: Vec<Role>,
) -> Result<Association, ScuError> {
    let stream = connect(dial).await?;
    let mut transport =
        Transport::new(stream, dial.timeout, dial.timeout).map_err(|error| ScuError::unreachable(dial, error))?;
    let request = AssociateRequest {
        protocol_version: 1,
        called_ae: dial.address.ae_title.to_string(),
        calling_ae: dial.calling_ae.to_string(),
        application_context: pdu::APPLICATION_CONTEXT.into(),
        contexts,
        max_pdu: MAX_PDU,
        implementation_version_name: crate::dicom::part10::IMPLEMENTATION_VERSION_NAME.into(),
        roles,
        extended: Vec::new(),
    };
    match negotiate(&mut transport, &request).await {
        Ok(Ok(accept)) => {
            let contexts = accepted(&request.contexts, &accept);
            Ok(Association::new(transport, contexts, MAX_PDU, accept.max_pdu))
        }
        Ok(Err(reject)) if reject.is_transient() => Err(ScuError::unreachable(dial, format!("rejected: {reject}"))),
        Ok(Err(reject)) => Err(ScuError::Rejected {
            address: dial.address.to_string(),
            cause: reject.to_string(),
        }),
        Err(broken) => {
            transport.farewell(&pdu::abort(AbortReason::NotSpecified)).await;
            Err(ScuError::unreachable(dial, broken))
        }
    }
}

async fn connect(dial: &Dial) -> Result<Stream, ScuError> {
    let connecting = async {
        let stream = TcpStream::connect((dial.address.host.as_str(), dial.address.port)).await;
        let stream = stream.map_err(|error| ScuError::unreachable(dial, error))?;
        match &dial.tls {
            None => Ok(stream.into()),
            Some(tls) => {
                let handshake = tls.certificates.connect(stream, &tls.name).await;
                handshake.map_err(|error| ScuError::unreachable(dial, format!("TLS: {error}")))
            }
        }
    };
    let after = dial.connect_timeout;
    let expired = |_| ScuError::unreachable(dial, format!("no connection within {} s", after.as_secs_f64()));
    timeout(after, connecting).await.map_err(expired)?
}

/// The peer's answer to our A-ASSOCIATE-RQ.
async fn negotiate(
    transport: &mut Transport,
    request: &AssociateRequest,
) -> Result<Result<AssociateAccept, Reject>, Broken> {
    transport.write(&request.encode()).await?;
    let (kind, length) = transport.header().await?;
    let malformed = |what: &str| Broken::violation(AbortReason::InvalidParameter, what.to_owned());
    match kind {
        pdu::ASSOCIATE_AC if length <= pdu::MAX_ASSOCIATE_BYTES => {
            let body = transport.take(length, "the rest of A-ASSOCIATE-AC").await?;
            AssociateAccept::decode(&body).map(Ok).map_err(|bad| malformed(bad.0))
        }
        pdu::ASSOCIATE_RJ if length == 4 => {
            let body = transport.take(length, "the rest of A-ASSOCIATE-RJ").await?;
            Ok(Err(Reject {
                result: body[1],
                source: body[2],
                reason: body[3],
            }))
        }
        pdu::ABORT => Err(transport.aborted(length).await),
        _ => Err(malformed(&format!(
            "PDU type {kind:02X}H of {length} bytes for A-ASSOCIATE-AC"
        ))),
    }
}

/// Only what we proposed can have been accepted.
fn accepted(proposed: &[Proposed], accept: &AssociateAccept) -> Vec<Context> {
    let context = |proposed: &Proposed| {
        let answer = accept
            .contexts
            .iter()
            .find(|a| a.id == proposed.id && a.result == ACCEPTANCE)?;
        let syntax = proposed
            .transfer_syntaxes
            .iter()
            .find(|s| **s == answer.transfer_syntax)?;
        let (abstract_syntax, transfer_syntax) =
            (Uid::parse(&proposed.abstract_syntax).ok()?, Uid::parse(syntax).ok()?);
        Some(Context {
            id: proposed.id,
            abstract_syntax,
            transfer_syntax,
        })
    };
    proposed.iter().filter_map(context).collect()
}

/// Sends one object and waits for its status.
async fn send(
    dial: &Dial,
    association: &mut Association,
    context: &Context,
    object: &Outgoing,
    message_id: u16,
    data: Data,
) -> Result<Status, ScuError> {
    let request = transmit(association, context, object, message_id, data, None)
        .await
        .map_err(|failure| failure.of(dial, object))?;
    let response = response(association, &request)
        .await
        .map_err(|broken| ScuError::unreachable(dial, broken))?;
    if !response.status.is_stored() {
        let (status, comment) = (response.status, crate::net::printable(&response.comment));
        tracing::warn!(address = %dial.address, instance = %object.sop_instance_uid, %status, comment, "object not taken");
    }
    Ok(response.status)
}

/// Why an object was not sent to its end. The association cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum Untransmitted {
    #[error("cannot read the object: {0}")]
    File(String),
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Untransmitted {
    pub(in crate::net) fn of(self, dial: &Dial, object: &Outgoing) -> ScuError {
        match self {
            Self::File(cause) => ScuError::File {
                path: object.path.clone(),
                cause,
            },
            Self::Broken(broken) => ScuError::unreachable(dial, broken),
        }
    }
}

/// Sends one object; the response is still to come. `originator` is who asked for the C-MOVE that this is a part of.
pub async fn transmit(
    association: &mut Association,
    context: &Context,
    object: &Outgoing,
    message_id: u16,
    mut data: Data,
    originator: Option<&Originator>,
) -> Result<Request, Untransmitted> {
    let request = Request {
        operation: Operation::Store {
            sop_instance_uid: object.sop_instance_uid.to_string(),
        },
        message_id,
        sop_class_uid: object.sop_class_uid.to_string(),
        has_data: true,
    };
    let mut command = Some(request.encode_for(originator));
    let mut is_last = false;
    while !is_last {
        let prepared;
        (data, prepared, is_last) = prepare(data, association.fragment_bytes(), context.id)
            .await
            .map_err(Untransmitted::File)?;
        // Command and first data leave in one write: peers with delayed acknowledgements answer 40 ms sooner.
        match command.take() {
            Some(command) => association.send(context.id, &command, &prepared).await?,
            None => association.send_prepared(&prepared).await?,
        }
    }
    Ok(request)
}

/// Waits for the response to `request`.
pub(in crate::net) async fn response(association: &mut Association, request: &Request) -> Result<Response, Broken> {
    let expected = request.answer(Status::SUCCESS, "");
    match association.next_message().await? {
        Some(Message {
            command: Command::Response(response),
            ..
        }) if (response.command_field, response.responded_to) == (expected.command_field, expected.responded_to) => {
            Ok(response)
        }
        Some(_) => Err(Broken::violation(
            AbortReason::UnexpectedPdu,
            "an answer to something else",
        )),
        None => Err(Broken::violation(
            AbortReason::UnexpectedPdu,
            "A-RELEASE-RQ instead of an answer",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPLICIT_VR_LE: &str = "1.2.840.10008.1.2.1";

    fn object(class: &str, syntax: &str) -> Outgoing {
        let uid = |text| Uid::parse(text).unwrap();
        Outgoing {
            sop_class_uid: uid(class),
            sop_instance_uid: uid("1.2.3"),
            transfer_syntax_uid: uid(syntax),
            path: PathBuf::new(),
        }
    }

    #[test]
    fn every_class_is_proposed_once_in_each_syntax_that_we_can_give_it_in() {
        let (jpeg_ls, jpeg_extended) = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.51");
        let objects = [
            object("1.1", EXPLICIT_VR_LE),
            object("1.1", EXPLICIT_VR_LE),
            object("1.2", jpeg_ls),
            object("1.3", jpeg_extended),
            object("1.4", IMPLICIT_VR_LE),
        ];
        let contexts = contexts_for(&objects.iter().collect::<Vec<_>>());
        let got: Vec<_> = contexts
            .iter()
            .map(|c| (c.id, c.abstract_syntax.as_str(), c.transfer_syntaxes[0].as_str()))
            .collect();
        assert_eq!(
            got,
            [
                (1, "1.1", IMPLICIT_VR_LE),
                (3, "1.1", EXPLICIT_VR_LE),
                (5, "1.2", IMPLICIT_VR_LE),
                (7, "1.2", EXPLICIT_VR_LE),
                (9, "1.2", jpeg_ls),
                (11, "1.3", jpeg_extended),
                (13, "1.4", IMPLICIT_VR_LE)
            ]
        );
    }

    #[test]
    fn the_ids_stay_odd_and_within_a_byte() {
        let objects: Vec<_> = (0..200).map(|n| object(&format!("1.{n}"), EXPLICIT_VR_LE)).collect();
        let contexts = contexts_for(&objects.iter().collect::<Vec<_>>());
        assert_eq!((contexts.len(), contexts.last().unwrap().id), (128, 255));
    }

    #[test]
    fn only_what_was_proposed_counts_as_accepted() {
        let proposed = contexts_for(&[&object("1.1", EXPLICIT_VR_LE)]);
        let answer = |id, result, syntax: &str| pdu::Answered {
            id,
            result,
            transfer_syntax: syntax.into(),
        };
        let accept = |contexts| AssociateAccept {
            contexts,
            ..AssociateAccept::default()
        };
        let refused = accept(vec![
            answer(1, 3, IMPLICIT_VR_LE),
            answer(5, 0, EXPLICIT_VR_LE),
            answer(3, 0, "1.2.3"),
        ]);
        assert_eq!(accepted(&proposed, &refused), []);
        let taken = accepted(&proposed, &accept(vec![answer(3, 0, EXPLICIT_VR_LE)]));
        assert_eq!(taken.iter().map(|c| c.id).collect::<Vec<_>>(), [3]);
    }
}
