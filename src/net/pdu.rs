//! The association PDUs of PS3.8 section 9.3: bounded decoding, exact encoding. P-DATA-TF is read by `association`.

/// PDU type and PDU length.
pub const HEADER_BYTES: usize = 6;
/// Longest A-ASSOCIATE PDU taken: 128 presentation contexts with 30 transfer syntaxes each need about 100 KB.
pub const MAX_ASSOCIATE_BYTES: usize = 131_072;
/// The only application context (PS3.7 A.2.1).
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";

pub const ASSOCIATE_RQ: u8 = 1;
pub const ASSOCIATE_AC: u8 = 2;
pub const ASSOCIATE_RJ: u8 = 3;
pub const P_DATA_TF: u8 = 4;
pub const RELEASE_RQ: u8 = 5;
pub const RELEASE_RP: u8 = 6;
pub const ABORT: u8 = 7;

/// The variable part of A-ASSOCIATE-RQ and -AC starts here (PS3.8 table 9-11).
const FIXED_BYTES: usize = 68;

/// A presentation context as proposed (PS3.8 9.3.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    pub id: u8,
    pub abstract_syntax: String,
    pub transfer_syntaxes: Vec<String>,
}

/// The answer to a proposed presentation context (PS3.8 9.3.3.2): `result` 0 accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub id: u8,
    pub result: u8,
    pub transfer_syntax: String,
}

/// SCP/SCU role selection for a SOP class (PS3.7 D.3.3.4), as proposed by the requestor or granted to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub sop_class_uid: String,
    pub scu: bool,
    pub scp: bool,
}

/// SOP class extended negotiation (PS3.7 D.3.3.5): the meaning of the bytes is the service's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extended {
    pub sop_class_uid: String,
    pub information: Vec<u8>,
}

/// A-ASSOCIATE-RQ. Items and sub-items we do not know are ignored, as PS3.8 9.3.1 asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssociateRequest {
    pub protocol_version: u16,
    pub called_ae: String,
    pub calling_ae: String,
    pub application_context: String,
    pub contexts: Vec<Proposed>,
    /// Longest P-DATA-TF the requestor takes; 0 means no limit (PS3.8 D.1).
    pub max_pdu: u32,
    pub implementation_version_name: String,
    pub roles: Vec<Role>,
    pub extended: Vec<Extended>,
}

/// A-ASSOCIATE-AC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssociateAccept {
    /// Echoed from the request, never tested (PS3.8 table 9-17).
    pub called_ae: String,
    pub calling_ae: String,
    pub contexts: Vec<Answered>,
    pub max_pdu: u32,
    pub roles: Vec<Role>,
    pub extended: Vec<Extended>,
}

/// A-ASSOCIATE-RJ (PS3.8 table 9-21): result 1 permanent, 2 transient; source 1 user, 2 provider (ACSE), 3 provider (presentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    pub result: u8,
    pub source: u8,
    pub reason: u8,
}

impl Reject {
    pub const APPLICATION_CONTEXT_NOT_SUPPORTED: Self = Self::new([1, 1, 2]);
    pub const CALLING_AE_NOT_RECOGNIZED: Self = Self::new([1, 1, 3]);
    pub const CALLED_AE_NOT_RECOGNIZED: Self = Self::new([1, 1, 7]);
    pub const PROTOCOL_VERSION_NOT_SUPPORTED: Self = Self::new([1, 2, 2]);
    pub const LOCAL_LIMIT_EXCEEDED: Self = Self::new([2, 3, 2]);

    const fn new([result, source, reason]: [u8; 3]) -> Self {
        Self { result, source, reason }
    }

    pub fn encode(self) -> Vec<u8> {
        vec![ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, self.result, self.source, self.reason]
    }

    pub fn is_transient(self) -> bool {
        self.result == 2
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.is_transient() { "transient" } else { "permanent" };
        let why = match (self.source, self.reason) {
            (1, 2) => "application context not supported",
            (1, 3) => "calling AE title not recognised",
            (1, 7) => "called AE title not recognised",
            (2, 2) => "protocol version not supported",
            (3, 1) => "temporary congestion",
            (3, 2) => "local limit exceeded",
            (_, 1) => "no reason given",
            _ => return write!(f, "{how}, source {} reason {}", self.source, self.reason),
        };
        write!(f, "{how}, {why}")
    }
}

/// Reasons of an A-ABORT by the service provider (PS3.8 table 9-26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    NotSpecified = 0,
    UnrecognizedPdu = 1,
    UnexpectedPdu = 2,
    InvalidParameter = 6,
}

/// A-ABORT by the service provider.
pub fn abort(reason: AbortReason) -> [u8; 10] {
    [ABORT, 0, 0, 0, 0, 4, 0, 0, 2, reason as u8]
}

pub const RELEASE_RQ_BYTES: [u8; 10] = [RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0];
pub const RELEASE_RP_BYTES: [u8; 10] = [RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0];

/// What is wrong with an association PDU.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Takes bytes from the front, never past the end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Malformed("an item is longer than what holds it"))?;
        self.0 = rest;
        Ok(front)
    }
    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
    /// Item type and its content (PS3.8: type, reserved byte, 16-bit length); `None` at the end.
    fn item(&mut self) -> Result<Option<(u8, Cursor<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let kind = self.byte()?;
        self.byte()?;
        let length = self.u16()?;
        Ok(Some((kind, Cursor(self.take(length.into())?))))
    }
}

/// UIDs and AE titles lose their padding; bytes outside ASCII become replacement characters and so match nothing.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_owned()
}

impl AssociateRequest {
    /// `body` is what follows the PDU header.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(body);
        let fixed = cursor.take(FIXED_BYTES)?;
        let mut request = Self {
            protocol_version: u16::from_be_bytes([fixed[0], fixed[1]]),
            called_ae: text(&fixed[4..20]),
            calling_ae: text(&fixed[20..36]),
            ..Self::default()
        };
        while let Some((kind, mut item)) = cursor.item()? {
            match kind {
                0x10 => request.application_context = text(item.0),
                0x20 => request.contexts.push(proposed(&mut item)?),
                0x50 => {
                    let user = user_information(&mut item)?;
                    (request.max_pdu, request.implementation_version_name) = (user.max_pdu, user.version);
                    (request.roles, request.extended) = (user.roles, user.extended);
                }
                _ => {}
            }
        }
        let mut seen = [false; 256];
        for context in &request.contexts {
            if std::mem::replace(&mut seen[usize::from(context.id)], true) {
                return Err(Malformed("a presentation context id is proposed twice"));
            }
        }
        Ok(request)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = fixed_part(ASSOCIATE_RQ, &self.called_ae, &self.calling_ae);
        for context in &self.contexts {
            let mut item = vec![context.id, 0, 0, 0];
            push_item(&mut item, 0x30, context.abstract_syntax.as_bytes());
            for syntax in &context.transfer_syntaxes {
                push_item(&mut item, 0x40, syntax.as_bytes());
            }
            push_item(&mut out, 0x20, &item);
        }
        push_user_information(&mut out, self.max_pdu, &self.roles, &self.extended);
        with_length(out)
    }
}

impl AssociateAccept {
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(body);
        cursor.take(FIXED_BYTES)?;
        let mut accept = Self::default();
        while let Some((kind, mut item)) = cursor.item()? {
            match kind {
                0x21 => accept.contexts.push(answered(&mut item)?),
                0x50 => {
                    let user = user_information(&mut item)?;
                    (accept.max_pdu, accept.roles, accept.extended) = (user.max_pdu, user.roles, user.extended);
                }
                _ => {}
            }
        }
        Ok(accept)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = fixed_part(ASSOCIATE_AC, &self.called_ae, &self.calling_ae);
        for context in &self.contexts {
            let mut item = vec![context.id, 0, context.result, 0];
            push_item(&mut item, 0x40, context.transfer_syntax.as_bytes());
            push_item(&mut out, 0x21, &item);
        }
        push_user_information(&mut out, self.max_pdu, &self.roles, &self.extended);
        with_length(out)
    }
}

fn proposed(item: &mut Cursor) -> Result<Proposed, Malformed> {
    let id = item.take(4)?[0];
    let mut context = Proposed {
        id,
        abstract_syntax: String::new(),
        transfer_syntaxes: Vec::new(),
    };
    while let Some((kind, sub)) = item.item()? {
        match kind {
            0x30 => context.abstract_syntax = text(sub.0),
            0x40 => context.transfer_syntaxes.push(text(sub.0)),
            _ => {}
        }
    }
    Ok(context)
}

fn answered(item: &mut Cursor) -> Result<Answered, Malformed> {
    let front = item.take(4)?;
    let mut context = Answered {
        id: front[0],
        result: front[2],
        transfer_syntax: String::new(),
    };
    // Not significant unless accepted (PS3.8 table 9-18), and some peers leave it out then.
    while let Some((kind, sub)) = item.item()? {
        if kind == 0x40 {
            context.transfer_syntax = text(sub.0);
        }
    }
    Ok(context)
}

/// What we read of the user information item.
#[derive(Default)]
struct UserInformation {
    max_pdu: u32,
    version: String,
    roles: Vec<Role>,
    extended: Vec<Extended>,
}

/// Maximum length (PS3.8 D.1), implementation version name, roles and extended negotiation (PS3.7 D.3.3).
fn user_information(item: &mut Cursor) -> Result<UserInformation, Malformed> {
    let mut user = UserInformation::default();
    while let Some((kind, mut sub)) = item.item()? {
        match kind {
            0x51 => {
                user.max_pdu = u32::from_be_bytes(sub.take(4)?.try_into().map_err(|_| Malformed("maximum length"))?);
            }
            0x54 => {
                let sop_class_uid = counted_text(&mut sub)?;
                let (scu, scp) = (sub.byte()? != 0, sub.byte()? != 0);
                user.roles.push(Role {
                    sop_class_uid,
                    scu,
                    scp,
                });
            }
            0x55 => user.version = text(sub.0).chars().take(16).collect(),
            0x56 => {
                let sop_class_uid = counted_text(&mut sub)?;
                let information = sub.0.to_vec();
                user.extended.push(Extended {
                    sop_class_uid,
                    information,
                });
            }
            _ => {}
        }
    }
    Ok(user)
}

/// A UID behind its 16-bit length.
fn counted_text(item: &mut Cursor) -> Result<String, Malformed> {
    let count = item.u16()?;
    Ok(text(item.take(count.into())?))
}

fn fixed_part(kind: u8, called_ae: &str, calling_ae: &str) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    for title in [called_ae, calling_ae] {
        let mut field = [b' '; 16];
        let count = title.len().min(16);
        field[..count].copy_from_slice(&title.as_bytes()[..count]);
        out.extend_from_slice(&field);
    }
    out.extend_from_slice(&[0; 32]);
    push_item(&mut out, 0x10, APPLICATION_CONTEXT.as_bytes());
    out
}

fn push_user_information(out: &mut Vec<u8>, max_pdu: u32, roles: &[Role], extended: &[Extended]) {
    let mut item = Vec::new();
    push_item(&mut item, 0x51, &max_pdu.to_be_bytes());
    push_item(
        &mut item,
        0x52,
        crate::dicom::part10::IMPLEMENTATION_CLASS_UID.as_bytes(),
    );
    for role in roles {
        let content = [
            &counted(&role.sop_class_uid)[..],
            &[u8::from(role.scu), u8::from(role.scp)],
        ]
        .concat();
        push_item(&mut item, 0x54, &content);
    }
    push_item(
        &mut item,
        0x55,
        crate::dicom::part10::IMPLEMENTATION_VERSION_NAME.as_bytes(),
    );
    for extended in extended {
        let content = [&counted(&extended.sop_class_uid)[..], &extended.information].concat();
        push_item(&mut item, 0x56, &content);
    }
    push_item(out, 0x50, &item);
}

fn counted(uid: &str) -> Vec<u8> {
    let count = u16::try_from(uid.len()).expect("UIDs are short");
    [&count.to_be_bytes()[..], uid.as_bytes()].concat()
}

/// Callers hold every content far below 64 KiB: UIDs, and contexts with a bounded list of them.
fn push_item(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let length = u16::try_from(content.len()).expect("association items are short");
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(content);
}

fn with_length(mut pdu: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(pdu.len() - HEADER_BYTES).expect("association PDUs are short");
    pdu[2..6].copy_from_slice(&length.to_be_bytes());
    pdu
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AssociateRequest {
        AssociateRequest {
            protocol_version: 1,
            called_ae: "MEDLSAM".into(),
            calling_ae: "CT_SCANNER_0001X".into(),
            application_context: APPLICATION_CONTEXT.into(),
            contexts: vec![
                Proposed {
                    id: 1,
                    abstract_syntax: "1.2.840.10008.1.1".into(),
                    transfer_syntaxes: vec!["1.2.840.10008.1.2".into()],
                },
                Proposed {
                    id: 3,
                    abstract_syntax: "1.2.840.10008.5.1.4.1.1.2".into(),
                    transfer_syntaxes: vec!["1.2.840.10008.1.2.1".into(), "1.2.840.10008.1.2".into()],
                },
            ],
            max_pdu: 16_384,
            implementation_version_name: crate::dicom::part10::IMPLEMENTATION_VERSION_NAME.into(),
            roles: vec![Role {
                sop_class_uid: "1.2.840.10008.1.20.1".into(),
                scu: false,
                scp: true,
            }],
            extended: vec![Extended {
                sop_class_uid: "1.2.840.10008.5.1.4.1.2.2.1".into(),
                information: vec![1, 1],
            }],
        }
    }

    #[test]
    fn a_request_round_trips() {
        let bytes = request().encode();
        assert_eq!(bytes[0], ASSOCIATE_RQ);
        assert_eq!(
            u32::from_be_bytes(bytes[2..6].try_into().unwrap()) as usize,
            bytes.len() - HEADER_BYTES
        );
        assert_eq!(AssociateRequest::decode(&bytes[HEADER_BYTES..]).unwrap(), request());
    }

    #[test]
    fn an_accept_round_trips() {
        let accept = AssociateAccept {
            contexts: vec![
                Answered {
                    id: 1,
                    result: 0,
                    transfer_syntax: "1.2.840.10008.1.2".into(),
                },
                Answered {
                    id: 3,
                    result: 4,
                    transfer_syntax: String::new(),
                },
            ],
            max_pdu: 0,
            roles: request().roles,
            extended: request().extended,
            ..AssociateAccept::default()
        };
        assert_eq!(
            AssociateAccept::decode(&accept.encode()[HEADER_BYTES..]).unwrap(),
            accept
        );
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_survived() {
        let bytes = request().encode();
        let body = &bytes[HEADER_BYTES..];
        for end in 0..body.len() {
            // A cut between two items leaves a valid shorter request; anywhere else is an error. Neither may panic.
            let _ = AssociateRequest::decode(&body[..end]);
            let _ = AssociateAccept::decode(&body[..end]);
        }
        assert!(AssociateRequest::decode(&body[..FIXED_BYTES - 1]).is_err());
        assert!(AssociateRequest::decode(&body[..body.len() - 1]).is_err());
        for position in 0..body.len() {
            let mut broken = body.to_vec();
            broken[position] ^= 0xff;
            let _ = AssociateRequest::decode(&broken);
            let _ = AssociateAccept::decode(&broken);
        }
    }

    #[test]
    fn unknown_items_are_ignored_and_a_repeated_context_id_is_not() {
        let mut bytes = request().encode();
        push_item(&mut bytes, 0x77, b"whatever");
        assert_eq!(AssociateRequest::decode(&bytes[HEADER_BYTES..]).unwrap(), request());
        let mut twice = request();
        twice.contexts[1].id = 1;
        assert!(AssociateRequest::decode(&twice.encode()[HEADER_BYTES..]).is_err());
    }

    #[test]
    fn the_version_name_fits_its_field() {
        assert!(crate::dicom::part10::IMPLEMENTATION_VERSION_NAME.len() <= 16);
        assert!(crate::dicom::uid::Uid::parse(crate::dicom::part10::IMPLEMENTATION_CLASS_UID).is_ok());
    }
}
