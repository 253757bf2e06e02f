//! A scripted peer with bad manners: says exactly the bytes it is told to.

use medlsamd::dicom::status::Status;
use medlsamd::net::association::push_fragment;
use medlsamd::net::dimse::{Command, Operation, Request, Response};
use medlsamd::net::pdu::{APPLICATION_CONTEXT, AssociateAccept, AssociateRequest, Proposed};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const VERIFICATION: &str = "1.2.840.10008.1.1";
pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
pub const IMPLICIT: &str = "1.2.840.10008.1.2";
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
/// Context ids that [`Rude::associate`] proposes.
pub const ECHO_CONTEXT: u8 = 1;
pub const CT_CONTEXT: u8 = 3;

pub struct Rude(TcpStream);

/// For an answer, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

impl From<TcpStream> for Rude {
    fn from(stream: TcpStream) -> Self {
        Self(stream)
    }
}

pub fn request(calling: &str, called: &str) -> AssociateRequest {
    let proposed = |id, class: &str| Proposed {
        id,
        abstract_syntax: class.into(),
        transfer_syntaxes: vec![IMPLICIT.into(), EXPLICIT.into()],
    };
    AssociateRequest {
        protocol_version: 1,
        called_ae: called.into(),
        calling_ae: calling.into(),
        application_context: APPLICATION_CONTEXT.into(),
        contexts: vec![proposed(ECHO_CONTEXT, VERIFICATION), proposed(CT_CONTEXT, CT)],
        max_pdu: 16_384,
        ..AssociateRequest::default()
    }
}

pub fn echo() -> Request {
    Request {
        operation: Operation::Echo,
        message_id: 1,
        sop_class_uid: VERIFICATION.into(),
        has_data: false,
    }
}

pub fn store(sop_instance_uid: &str) -> Request {
    let operation = Operation::Store {
        sop_instance_uid: sop_instance_uid.into(),
    };
    Request {
        operation,
        message_id: 9,
        sop_class_uid: CT.into(),
        has_data: true,
    }
}

/// P-DATA-TF PDUs: a command, then a data set in one fragment.
pub fn message(context: u8, request: &Request, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_fragment(&mut bytes, context, true, true, &request.encode());
    if request.has_data {
        push_fragment(&mut bytes, context, false, true, data);
    }
    bytes
}

impl Rude {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub async fn associate(address: SocketAddr) -> Self {
        Self::associate_with(address, &request("SENDER", "MEDLSAM")).await
    }

    /// Expects to be accepted with every context.
    pub async fn associate_with(address: SocketAddr, request: &AssociateRequest) -> Self {
        let mut peer = Self::connect(address).await;
        peer.send(&request.encode()).await;
        let (kind, body) = peer.hear().await.expect("an answer");
        assert_eq!(kind, 2, "A-ASSOCIATE-AC");
        assert!(
            AssociateAccept::decode(&body)
                .unwrap()
                .contexts
                .iter()
                .all(|c| c.result == 0)
        );
        peer
    }

    /// Errors count as sent: we may have been hung up on by then.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// The next PDU; `None` when the connection is closed.
    pub async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let mut header = [0; 6];
            self.0.read_exact(&mut header).await.ok()?;
            let length = u32::from_be_bytes(header[2..].try_into().unwrap());
            let mut body = vec![0; length as usize];
            self.0.read_exact(&mut body).await.ok()?;
            Some((header[0], body))
        };
        timeout(PATIENCE, read).await.expect("an answer or a hang-up in time")
    }

    /// The next bytes; `None` when the connection is closed before.
    pub async fn hear_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = timeout(PATIENCE, self.0.read_exact(&mut bytes)).await;
        read.expect("an answer or a hang-up in time").ok()?;
        Some(bytes)
    }

    /// The response to what was sent.
    pub async fn response(&mut self) -> Response {
        let (kind, body) = self.hear().await.expect("a response");
        assert_eq!(kind, 4, "P-DATA-TF, got {body:?}");
        match Command::decode(&body[6..]).unwrap() {
            Command::Response(response) => response,
            Command::Request(request) => panic!("not a response: {request:?}"),
        }
    }

    /// Expects A-ABORT by the provider with this reason, then the end.
    pub async fn must_abort(&mut self, reason: u8) {
        let (kind, body) = self.hear().await.expect("an A-ABORT");
        assert_eq!((kind, body), (7, vec![0, 0, 2, reason]));
        assert!(self.hear().await.is_none(), "hung up after A-ABORT");
    }

    /// An echo that works shows that the association is in order.
    pub async fn must_echo(&mut self) {
        self.send(&message(ECHO_CONTEXT, &echo(), &[])).await;
        let response = self.response().await;
        assert_eq!(
            (response.command_field, response.responded_to, response.status),
            (0x8030, 1, Status::SUCCESS)
        );
    }

    pub async fn must_release(mut self) {
        self.send(&medlsamd::net::pdu::RELEASE_RQ_BYTES).await;
        assert_eq!(self.hear().await, Some((6, vec![0; 4])), "A-RELEASE-RP");
    }
}
