//! An open association in either role: messages out of P-DATA fragments, and back.

use crate::dicom::uid::Uid;
use crate::net::dimse::{Command, MAX_COMMAND_BYTES};
use crate::net::negotiation::Context;
use crate::net::pdu::{self, AbortReason, AssociateRequest};
use crate::net::transport::{Broken, Transport};
use bytes::Bytes;
use tokio::time::Instant;

/// Item length, context id and message control header before each fragment (PS3.8 9.3.5.1).
const PDV_HEADER_BYTES: usize = 6;
/// We send no longer P-DATA than this, whatever the peer would take.
const MAX_SENT_PDU: usize = 131_072;
/// The least a peer's maximum length may be: below it there is no room to speak.
const MIN_PEER_PDU: usize = 128;

/// The first byte of a TLS connection (RFC 8446 5.1), where a PDU type was due.
const TLS_HANDSHAKE: u8 = 0x16;

/// An accepted association. Dropping it closes the socket; say [`abort`](Self::abort) or [`release`](Self::answer_release) first.
pub struct Association {
    transport: Transport,
    contexts: Vec<Context>,
    /// Longest P-DATA-TF we take, as we told the peer.
    max_pdu: usize,
    /// Longest P-DATA-TF the peer takes.
    peer_max_pdu: usize,
    /// Bytes of the current P-DATA-TF not yet taken.
    pdu_left: usize,
    /// The presentation data value that is not yet taken whole.
    pdv: Option<Pdv>,
}

/// A command and the presentation context it came in.
#[derive(Debug)]
pub struct Message {
    pub context: Context,
    pub command: Command,
}

/// A data set beyond what is taken: its bytes.
#[derive(Debug, thiserror::Error)]
#[error("a data set of {0} bytes is more than is taken here")]
pub struct TooLong(pub usize);

/// A presentation data value on its way in.
struct Pdv {
    context_id: u8,
    is_command: bool,
    /// Of its message.
    is_last: bool,
    /// Bytes not yet taken.
    left: usize,
    /// When it must be here.
    deadline: Instant,
}

/// What is there of a presentation data value: all of it, or less.
struct Piece {
    context_id: u8,
    is_command: bool,
    /// Nothing more of this message follows.
    is_last: bool,
    bytes: Bytes,
}

/// Waits for the A-ASSOCIATE-RQ that opens every connection.
pub async fn read_request(transport: &mut Transport) -> Result<AssociateRequest, Broken> {
    let (kind, length) = transport.header().await?;
    match kind {
        pdu::ASSOCIATE_RQ if length <= pdu::MAX_ASSOCIATE_BYTES => {}
        pdu::ASSOCIATE_RQ => {
            let what = format!(
                "A-ASSOCIATE-RQ of {length} bytes, more than {}",
                pdu::MAX_ASSOCIATE_BYTES
            );
            return Err(Broken::violation(AbortReason::InvalidParameter, what));
        }
        pdu::ABORT => return Err(transport.aborted(length).await),
        pdu::ASSOCIATE_AC..=pdu::RELEASE_RP => {
            return Err(Broken::violation(
                AbortReason::UnexpectedPdu,
                format!("PDU type {kind} before an association"),
            ));
        }
        TLS_HANDSHAKE => {
            let what = "a TLS handshake on the port without TLS";
            return Err(Broken::violation(AbortReason::UnrecognizedPdu, what));
        }
        _ => {
            return Err(Broken::violation(
                AbortReason::UnrecognizedPdu,
                format!("PDU type {kind:02X}H"),
            ));
        }
    }
    let body = transport.take(length, "the rest of A-ASSOCIATE-RQ").await?;
    AssociateRequest::decode(&body).map_err(|bad| Broken::violation(AbortReason::InvalidParameter, bad.to_string()))
}

impl Association {
    /// `peer_max_pdu` as negotiated: 0 means no limit.
    pub fn new(transport: Transport, contexts: Vec<Context>, max_pdu: u32, peer_max_pdu: u32) -> Self {
        let peer_max_pdu = match peer_max_pdu as usize {
            0 => MAX_SENT_PDU,
            length => length.clamp(MIN_PEER_PDU, MAX_SENT_PDU),
        };
        Self {
            transport,
            contexts,
            max_pdu: max_pdu as usize,
            peer_max_pdu,
            pdu_left: 0,
            pdv: None,
        }
    }

    /// The accepted context for these syntaxes.
    pub fn context(&self, abstract_syntax: &Uid, transfer_syntax: &str) -> Option<&Context> {
        self.contexts
            .iter()
            .find(|c| c.abstract_syntax == *abstract_syntax && c.transfer_syntax.as_str() == transfer_syntax)
    }

    /// The next command; `None` when the peer asks for release instead.
    pub async fn next_message(&mut self) -> Result<Option<Message>, Broken> {
        let mut context: Option<Context> = None;
        let mut command = Vec::new();
        loop {
            let Some(piece) = self.next_piece().await? else {
                return match context {
                    None => Ok(None),
                    Some(_) => Err(Broken::violation(
                        AbortReason::UnexpectedPdu,
                        "A-RELEASE-RQ inside a command",
                    )),
                };
            };
            if !piece.is_command {
                let what = "a data set fragment where a command was due";
                return Err(Broken::violation(AbortReason::UnexpectedPdu, what));
            }
            let context = match &context {
                Some(context) => context,
                None => context.insert(self.accepted(piece.context_id)?.clone()),
            };
            if context.id != piece.context_id {
                return Err(changed_context(context.id, piece.context_id));
            }
            if command.len() + piece.bytes.len() > MAX_COMMAND_BYTES {
                let what = format!("a command set longer than {MAX_COMMAND_BYTES} bytes");
                return Err(Broken::violation(AbortReason::InvalidParameter, what));
            }
            command.extend_from_slice(&piece.bytes);
            if piece.is_last {
                let command = Command::decode(&command)
                    .map_err(|bad| Broken::violation(AbortReason::InvalidParameter, bad.to_string()))?;
                return Ok(Some(Message {
                    context: context.clone(),
                    command,
                }));
            }
        }
    }

    /// The next bytes of the data set that follows a command in context `context_id`, and whether they are the last. They are
    /// handed on as they come, not gathered: what is held in memory does not depend on the length of the PDUs.
    pub async fn next_fragment(&mut self, context_id: u8) -> Result<(Bytes, bool), Broken> {
        let piece = self
            .next_piece()
            .await?
            .ok_or_else(|| Broken::violation(AbortReason::UnexpectedPdu, "A-RELEASE-RQ inside a data set"))?;
        if piece.is_command {
            return Err(Broken::violation(
                AbortReason::UnexpectedPdu,
                "a command fragment inside a data set",
            ));
        }
        if piece.context_id != context_id {
            return Err(changed_context(context_id, piece.context_id));
        }
        Ok((piece.bytes, piece.is_last))
    }

    /// Waits until the peer says something more. Takes nothing, so it may be dropped at any time, unlike
    /// [`next_message`](Self::next_message).
    pub async fn readable(&mut self) -> Result<(), Broken> {
        match self.pdu_left {
            0 => self.transport.readable().await,
            _ => Ok(()),
        }
    }

    /// The whole data set that follows a command in context `context_id`; `Err` inside when it is longer than `max_bytes`, which are
    /// then read to their end and thrown away.
    pub async fn data_set(&mut self, context_id: u8, max_bytes: usize) -> Result<Result<Vec<u8>, TooLong>, Broken> {
        let (mut data, mut count, mut is_last) = (Vec::new(), 0usize, false);
        while !is_last {
            let fragment;
            (fragment, is_last) = self.next_fragment(context_id).await?;
            count += fragment.len();
            if count <= max_bytes {
                data.extend_from_slice(&fragment);
            } else if count / 16 > max_bytes {
                let what = format!("a data set that does not end after {count} bytes");
                return Err(Broken::violation(AbortReason::NotSpecified, what));
            }
        }
        Ok(if count <= max_bytes {
            Ok(data)
        } else {
            Err(TooLong(count))
        })
    }

    async fn next_piece(&mut self) -> Result<Option<Piece>, Broken> {
        if self.pdv.is_none() {
            if self.pdu_left == 0 && !self.next_pdata().await? {
                return Ok(None);
            }
            self.pdv = Some(self.begin_pdv().await?);
        }
        let pdv = self.pdv.as_mut().expect("just begun");
        let bytes = self.transport.take_some(pdv.left, pdv.deadline).await?;
        pdv.left -= bytes.len();
        self.pdu_left -= bytes.len();
        let whole = pdv.left == 0;
        let piece = Piece {
            context_id: pdv.context_id,
            is_command: pdv.is_command,
            is_last: pdv.is_last && whole,
            bytes,
        };
        if whole {
            self.pdv = None;
        }
        Ok(Some(piece))
    }

    async fn begin_pdv(&mut self) -> Result<Pdv, Broken> {
        if self.pdu_left < PDV_HEADER_BYTES {
            let what = format!("{} bytes left over in a P-DATA-TF", self.pdu_left);
            return Err(Broken::violation(AbortReason::InvalidParameter, what));
        }
        let header = self
            .transport
            .take(PDV_HEADER_BYTES, "a presentation data value")
            .await?;
        self.pdu_left -= PDV_HEADER_BYTES;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(left) = length.checked_sub(2).filter(|&length| length <= self.pdu_left) else {
            let what = format!(
                "a presentation data value of {length} bytes in a P-DATA-TF with {}",
                self.pdu_left + 2
            );
            return Err(Broken::violation(AbortReason::InvalidParameter, what));
        };
        Ok(Pdv {
            context_id: header[4],
            is_command: header[5] & 1 != 0,
            is_last: header[5] & 2 != 0,
            left,
            deadline: self.transport.deadline(),
        })
    }

    /// Reads up to the content of the next P-DATA-TF. False: the peer asks for release.
    async fn next_pdata(&mut self) -> Result<bool, Broken> {
        let (kind, length) = self.transport.header().await?;
        match kind {
            pdu::P_DATA_TF if length > self.max_pdu => {
                let what = format!("a P-DATA-TF of {length} bytes, more than the {} agreed", self.max_pdu);
                Err(Broken::violation(AbortReason::InvalidParameter, what))
            }
            pdu::P_DATA_TF if length < PDV_HEADER_BYTES => Err(Broken::violation(
                AbortReason::InvalidParameter,
                format!("a P-DATA-TF of {length} bytes"),
            )),
            pdu::P_DATA_TF => {
                self.pdu_left = length;
                Ok(true)
            }
            pdu::RELEASE_RQ if length == 4 => {
                self.transport.take(length, "the rest of A-RELEASE-RQ").await?;
                Ok(false)
            }
            pdu::ABORT => Err(self.transport.aborted(length).await),
            pdu::ASSOCIATE_RQ..=pdu::RELEASE_RP => Err(Broken::violation(
                AbortReason::UnexpectedPdu,
                format!("PDU type {kind} inside an association"),
            )),
            _ => Err(Broken::violation(
                AbortReason::UnrecognizedPdu,
                format!("PDU type {kind:02X}H"),
            )),
        }
    }

    fn accepted(&self, context_id: u8) -> Result<&Context, Broken> {
        self.contexts
            .iter()
            .find(|context| context.id == context_id)
            .ok_or_else(|| {
                let what = format!("presentation context {context_id} was not accepted");
                Broken::violation(AbortReason::InvalidParameter, what)
            })
    }

    /// Most data set bytes that fit one P-DATA-TF to this peer; even.
    pub fn fragment_bytes(&self) -> usize {
        (self.peer_max_pdu - PDV_HEADER_BYTES) & !1
    }

    /// Sends a command set and, in the same write, what is already `prepared` of its data set (by [`push_fragment`]).
    pub async fn send(&mut self, context_id: u8, command: &[u8], prepared: &[u8]) -> Result<(), Broken> {
        let mut out = Vec::with_capacity(command.len() + prepared.len() + 64);
        let chunks = command.chunks(self.fragment_bytes());
        let count = chunks.len();
        for (index, chunk) in chunks.enumerate() {
            push_fragment(&mut out, context_id, true, index + 1 == count, chunk);
        }
        out.extend_from_slice(prepared);
        self.transport.write(&out).await
    }

    /// Sends a command set with the whole data set that belongs to it.
    pub async fn send_with_data(&mut self, context_id: u8, command: &[u8], data: &[u8]) -> Result<(), Broken> {
        let mut prepared = Vec::with_capacity(data.len() + 64);
        let chunks = data.chunks(self.fragment_bytes());
        let count = chunks.len();
        for (index, chunk) in chunks.enumerate() {
            push_fragment(&mut prepared, context_id, false, index + 1 == count, chunk);
        }
        if count == 0 {
            push_fragment(&mut prepared, context_id, false, true, &[]);
        }
        self.send(context_id, command, &prepared).await
    }

    /// Sends P-DATA made by [`push_fragment`].
    pub async fn send_prepared(&mut self, prepared: &[u8]) -> Result<(), Broken> {
        self.transport.write(prepared).await
    }

    /// Asks for release and waits for the answer.
    pub async fn release(mut self) -> Result<(), Broken> {
        self.transport.write(&pdu::RELEASE_RQ_BYTES).await?;
        let (kind, length) = self.transport.header().await?;
        match kind {
            pdu::RELEASE_RP => Ok(()),
            pdu::ABORT => Err(self.transport.aborted(length).await),
            _ => Err(Broken::violation(
                AbortReason::UnexpectedPdu,
                format!("PDU type {kind:02X}H for A-RELEASE-RP"),
            )),
        }
    }

    /// Grants the release the peer asked for.
    pub async fn answer_release(self) {
        self.transport.farewell(&pdu::RELEASE_RP_BYTES).await;
    }

    pub async fn abort(self, reason: AbortReason) {
        self.transport.farewell(&pdu::abort(reason)).await;
    }
}

fn changed_context(expected: u8, got: u8) -> Broken {
    let what = format!("a message began in presentation context {expected} and goes on in {got}");
    Broken::violation(AbortReason::InvalidParameter, what)
}

/// Appends one P-DATA-TF with one presentation data value.
pub fn push_fragment(out: &mut Vec<u8>, context_id: u8, is_command: bool, is_last: bool, bytes: &[u8]) {
    out.extend_from_slice(&fragment_header(context_id, is_command, is_last, bytes.len()));
    out.extend_from_slice(bytes);
}

fn fragment_header(context_id: u8, is_command: bool, is_last: bool, count: usize) -> [u8; 12] {
    let item = u32::try_from(count + 2)
        .expect("fragments are bounded by the PDU length")
        .to_be_bytes();
    let whole = u32::try_from(count + PDV_HEADER_BYTES)
        .expect("fragments are bounded by the PDU length")
        .to_be_bytes();
    let control = u8::from(is_command) | (u8::from(is_last) << 1);
    [
        pdu::P_DATA_TF,
        0,
        whole[0],
        whole[1],
        whole[2],
        whole[3],
        item[0],
        item[1],
        item[2],
        item[3],
        context_id,
        control,
    ]
}
