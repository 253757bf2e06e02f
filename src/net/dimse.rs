//! Typed DIMSE commands (PS3.7 section 9.3 and annex E): the command set, always implicit VR little endian.

use crate::dicom::status::Status;

/// Longest command set taken. Real ones have some 200 bytes.
pub const MAX_COMMAND_BYTES: usize = 16_384;

const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
const REQUESTED_SOP_CLASS_UID: u16 = 0x0003;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
const MOVE_DESTINATION: u16 = 0x0600;
const PRIORITY: u16 = 0x0700;
const COMMAND_DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const ERROR_COMMENT: u16 = 0x0902;
const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
const REQUESTED_SOP_INSTANCE_UID: u16 = 0x1001;
const EVENT_TYPE_ID: u16 = 0x1002;
const ACTION_TYPE_ID: u16 = 0x1008;
/// Remaining, completed, failed and warning sub-operations.
const SUB_OPERATIONS: [u16; 4] = [0x1020, 0x1021, 0x1022, 0x1023];
const MOVE_ORIGINATOR_AE: u16 = 0x1030;
const MOVE_ORIGINATOR_MESSAGE_ID: u16 = 0x1031;

const C_STORE_RQ: u16 = 0x0001;
const C_GET_RQ: u16 = 0x0010;
const C_FIND_RQ: u16 = 0x0020;
const C_MOVE_RQ: u16 = 0x0021;
const C_ECHO_RQ: u16 = 0x0030;
const N_EVENT_REPORT_RQ: u16 = 0x0100;
const N_ACTION_RQ: u16 = 0x0130;
const C_CANCEL_RQ: u16 = 0x0FFF;
const RESPONSE: u16 = 0x8000;
/// Command Data Set Type when there is none (PS3.7 E.1).
const NO_DATA_SET: u16 = 0x0101;
/// Any other value says that one follows; this is what everybody sends.
const DATA_SET: u16 = 0x0000;

/// A request as it came. UIDs are the peer's text, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub operation: Operation,
    pub message_id: u16,
    pub sop_class_uid: String,
    pub has_data: bool,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Echo,
    Store {
        sop_instance_uid: String,
    },
    Find,
    Get,
    Move {
        /// AE title, not yet checked.
        destination: String,
    },
    /// N-EVENT-REPORT about an instance.
    EventReport {
        sop_instance_uid: String,
        event_type: u16,
    },
    /// N-ACTION on an instance.
    Action {
        sop_instance_uid: String,
        action_type: u16,
    },
    /// C-CANCEL-RQ: never answered (PS3.7 9.3.2.3).
    Cancel,
    /// Anything else; answered with 0211H.
    Other {
        command_field: u16,
    },
}

impl Operation {
    /// For a log line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Echo => "C-ECHO",
            Self::Store { .. } => "C-STORE",
            Self::Find => "C-FIND",
            Self::Get => "C-GET",
            Self::Move { .. } => "C-MOVE",
            Self::EventReport { .. } => "N-EVENT-REPORT",
            Self::Action { .. } => "N-ACTION",
            Self::Cancel => "C-CANCEL",
            Self::Other { .. } => "other",
        }
    }

    fn command_field(&self) -> u16 {
        match self {
            Self::Echo => C_ECHO_RQ,
            Self::Store { .. } => C_STORE_RQ,
            Self::Find => C_FIND_RQ,
            Self::Get => C_GET_RQ,
            Self::Move { .. } => C_MOVE_RQ,
            Self::EventReport { .. } => N_EVENT_REPORT_RQ,
            Self::Action { .. } => N_ACTION_RQ,
            Self::Cancel => C_CANCEL_RQ,
            Self::Other { command_field } => *command_field,
        }
    }

    fn sop_instance_uid(&self) -> &str {
        match self {
            Self::Store { sop_instance_uid }
            | Self::EventReport { sop_instance_uid, .. }
            | Self::Action { sop_instance_uid, .. } => sop_instance_uid,
            _ => "",
        }
    }
}

/// Who asked for the C-MOVE that a C-STORE is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Originator {
    pub ae_title: String,
    pub message_id: u16,
}

/// How far the sub-operations of a C-MOVE or C-GET have come (PS3.4 C.4.2.1.6 to .9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// `None` in a final response, unless it was cancelled.
    pub remaining: Option<u16>,
    pub completed: u16,
    pub failed: u16,
    pub warning: u16,
}

/// A response to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub command_field: u16,
    pub responded_to: u16,
    pub sop_class_uid: String,
    /// C-STORE, N-ACTION and N-EVENT-REPORT only.
    pub sop_instance_uid: String,
    pub status: Status,
    /// An identifier follows.
    pub has_data: bool,
    /// C-MOVE and C-GET only.
    pub progress: Option<Progress>,
    /// The Event or Action Type ID with its element, of N-EVENT-REPORT and N-ACTION.
    type_id: Option<(u16, u16)>,
    /// Error Comment (0000,0902), cut to 64 characters. Empty: left out.
    pub comment: String,
}

/// A command set, told apart by bit 15 of the command field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Request(Request),
    Response(Response),
}

/// Why a command set cannot be used. There is no way to answer it, so the association ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCommand {
    #[error("command set ends inside an element")]
    Truncated,
    #[error("command set holds an element of group {0:04X}H")]
    Group(u16),
    #[error("command set lacks {0}")]
    Missing(&'static str),
}

impl Request {
    /// The response to this request.
    pub fn answer(&self, status: Status, comment: impl Into<String>) -> Response {
        Response {
            command_field: self.operation.command_field() | RESPONSE,
            responded_to: self.message_id,
            sop_class_uid: echoable(&self.sop_class_uid),
            sop_instance_uid: echoable(self.operation.sop_instance_uid()),
            status,
            has_data: false,
            progress: None,
            type_id: match self.operation {
                Operation::EventReport { event_type, .. } => Some((EVENT_TYPE_ID, event_type)),
                Operation::Action { action_type, .. } => Some((ACTION_TYPE_ID, action_type)),
                _ => None,
            },
            comment: comment.into(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        self.encode_for(None)
    }

    /// The same as a part of somebody's C-MOVE.
    pub fn encode_for(&self, originator: Option<&Originator>) -> Vec<u8> {
        let operation = &self.operation;
        let mut set = Encoder::default();
        match operation {
            Operation::Action { .. } => set.text(REQUESTED_SOP_CLASS_UID, &self.sop_class_uid, 0),
            Operation::Cancel => {}
            _ => set.text(AFFECTED_SOP_CLASS_UID, &self.sop_class_uid, 0),
        }
        set.number(COMMAND_FIELD, operation.command_field());
        match operation {
            Operation::Cancel => set.number(MESSAGE_ID_RESPONDED_TO, self.message_id),
            _ => set.number(MESSAGE_ID, self.message_id),
        }
        if let Operation::Move { destination } = operation {
            set.text(MOVE_DESTINATION, destination, b' ');
        }
        if matches!(
            operation,
            Operation::Store { .. } | Operation::Find | Operation::Get | Operation::Move { .. }
        ) {
            let medium = 0;
            set.number(PRIORITY, medium);
        }
        set.number(
            COMMAND_DATA_SET_TYPE,
            if self.has_data { DATA_SET } else { NO_DATA_SET },
        );
        match operation {
            Operation::Store { sop_instance_uid } => set.text(AFFECTED_SOP_INSTANCE_UID, sop_instance_uid, 0),
            Operation::EventReport {
                sop_instance_uid,
                event_type,
            } => {
                set.text(AFFECTED_SOP_INSTANCE_UID, sop_instance_uid, 0);
                set.number(EVENT_TYPE_ID, *event_type);
            }
            Operation::Action {
                sop_instance_uid,
                action_type,
            } => {
                set.text(REQUESTED_SOP_INSTANCE_UID, sop_instance_uid, 0);
                set.number(ACTION_TYPE_ID, *action_type);
            }
            _ => {}
        }
        if let Some(originator) = originator {
            set.text(MOVE_ORIGINATOR_AE, &originator.ae_title, b' ');
            set.number(MOVE_ORIGINATOR_MESSAGE_ID, originator.message_id);
        }
        set.finish()
    }
}

impl Response {
    pub fn encode(&self) -> Vec<u8> {
        let mut set = Encoder::default();
        if !self.sop_class_uid.is_empty() {
            set.text(AFFECTED_SOP_CLASS_UID, &self.sop_class_uid, 0);
        }
        set.number(COMMAND_FIELD, self.command_field);
        set.number(MESSAGE_ID_RESPONDED_TO, self.responded_to);
        set.number(
            COMMAND_DATA_SET_TYPE,
            if self.has_data { DATA_SET } else { NO_DATA_SET },
        );
        set.number(STATUS, self.status.0);
        let comment: String = self
            .comment
            .chars()
            .map(|c| if (' '..='~').contains(&c) && c != '\\' { c } else { '?' })
            .take(64)
            .collect();
        if !comment.is_empty() {
            set.text(ERROR_COMMENT, &comment, b' ');
        }
        if !self.sop_instance_uid.is_empty() {
            set.text(AFFECTED_SOP_INSTANCE_UID, &self.sop_instance_uid, 0);
        }
        if let Some((element, type_id)) = self.type_id {
            set.number(element, type_id);
        }
        if let Some(progress) = self.progress {
            let counts = [
                progress.remaining,
                Some(progress.completed),
                Some(progress.failed),
                Some(progress.warning),
            ];
            for (element, count) in SUB_OPERATIONS.into_iter().zip(counts) {
                if let Some(count) = count {
                    set.number(element, count);
                }
            }
        }
        set.finish()
    }
}

/// A stranger's UID goes back only if it could be one.
fn echoable(text: &str) -> String {
    let fine = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if fine { text.to_owned() } else { String::new() }
}

/// Elements in ascending order, the group length put in front at the end.
#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn element(&mut self, element: u16, value: &[u8]) {
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&element.to_le_bytes());
        self.0
            .extend_from_slice(&u32::try_from(value.len()).expect("commands are short").to_le_bytes());
        self.0.extend_from_slice(value);
    }
    fn number(&mut self, element: u16, value: u16) {
        self.element(element, &value.to_le_bytes());
    }
    fn text(&mut self, element: u16, value: &str, padding: u8) {
        let mut bytes = value.as_bytes().to_vec();
        if bytes.len() % 2 == 1 {
            bytes.push(padding);
        }
        self.element(element, &bytes);
    }
    fn finish(self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(self.0.len() + 12));
        out.element(
            0,
            &u32::try_from(self.0.len()).expect("commands are short").to_le_bytes(),
        );
        out.0.extend_from_slice(&self.0);
        out.0
    }
}

/// The elements we read. The rest (priority, move originator, …) changes nothing for us.
#[derive(Default)]
struct Fields {
    command_field: Option<u16>,
    message_id: Option<u16>,
    responded_to: Option<u16>,
    data_set_type: Option<u16>,
    status: Option<u16>,
    sop_class_uid: String,
    sop_instance_uid: String,
    comment: String,
    destination: String,
    event_type: Option<u16>,
    action_type: Option<u16>,
    sub_operations: [Option<u16>; 4],
}

impl Fields {
    fn decode(mut bytes: &[u8]) -> Result<Self, BadCommand> {
        let mut fields = Self::default();
        while !bytes.is_empty() {
            let (header, rest) = bytes.split_at_checked(8).ok_or(BadCommand::Truncated)?;
            let group = u16::from_le_bytes([header[0], header[1]]);
            let element = u16::from_le_bytes([header[2], header[3]]);
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            if group != 0 {
                return Err(BadCommand::Group(group));
            }
            let (value, rest) = rest.split_at_checked(length as usize).ok_or(BadCommand::Truncated)?;
            bytes = rest;
            match element {
                AFFECTED_SOP_CLASS_UID | REQUESTED_SOP_CLASS_UID => fields.sop_class_uid = text(value),
                COMMAND_FIELD => fields.command_field = number(value),
                MESSAGE_ID => fields.message_id = number(value),
                MESSAGE_ID_RESPONDED_TO => fields.responded_to = number(value),
                COMMAND_DATA_SET_TYPE => fields.data_set_type = number(value),
                STATUS => fields.status = number(value),
                ERROR_COMMENT => fields.comment = text(value),
                AFFECTED_SOP_INSTANCE_UID | REQUESTED_SOP_INSTANCE_UID => fields.sop_instance_uid = text(value),
                MOVE_DESTINATION => fields.destination = text(value),
                EVENT_TYPE_ID => fields.event_type = number(value),
                ACTION_TYPE_ID => fields.action_type = number(value),
                0x1020..=0x1023 => fields.sub_operations[usize::from(element - 0x1020)] = number(value),
                _ => {}
            }
        }
        Ok(fields)
    }
}

impl Fields {
    fn progress(&self) -> Option<Progress> {
        let [remaining, completed, failed, warning] = self.sub_operations;
        self.sub_operations.iter().any(Option::is_some).then(|| Progress {
            remaining,
            completed: completed.unwrap_or(0),
            failed: failed.unwrap_or(0),
            warning: warning.unwrap_or(0),
        })
    }
}

fn number(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_le_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_matches([' ', '\0']).to_owned()
}

impl Command {
    pub fn decode(bytes: &[u8]) -> Result<Self, BadCommand> {
        let fields = Fields::decode(bytes)?;
        let command_field = fields
            .command_field
            .ok_or(BadCommand::Missing("Command Field (0000,0100)"))?;
        let data_set_type = fields
            .data_set_type
            .ok_or(BadCommand::Missing("Command Data Set Type (0000,0800)"))?;
        let missing_reference = BadCommand::Missing("Message ID Being Responded To (0000,0120)");
        if command_field & RESPONSE != 0 {
            let progress = fields.progress();
            return Ok(Self::Response(Response {
                command_field,
                responded_to: fields.responded_to.ok_or(missing_reference)?,
                sop_class_uid: fields.sop_class_uid,
                sop_instance_uid: fields.sop_instance_uid,
                status: Status(fields.status.ok_or(BadCommand::Missing("Status (0000,0900)"))?),
                has_data: data_set_type != NO_DATA_SET,
                progress,
                type_id: fields
                    .event_type
                    .map(|id| (EVENT_TYPE_ID, id))
                    .or(fields.action_type.map(|id| (ACTION_TYPE_ID, id))),
                comment: fields.comment,
            }));
        }
        let message_id = match command_field {
            C_CANCEL_RQ => fields.responded_to.ok_or(missing_reference)?,
            _ => fields.message_id.ok_or(BadCommand::Missing("Message ID (0000,0110)"))?,
        };
        let has_data = data_set_type != NO_DATA_SET;
        let sop_instance_uid = fields.sop_instance_uid;
        let operation = match command_field {
            C_ECHO_RQ => Operation::Echo,
            C_STORE_RQ => Operation::Store { sop_instance_uid },
            C_FIND_RQ => Operation::Find,
            C_GET_RQ => Operation::Get,
            C_MOVE_RQ => Operation::Move {
                destination: fields.destination,
            },
            N_EVENT_REPORT_RQ => Operation::EventReport {
                sop_instance_uid,
                event_type: fields
                    .event_type
                    .ok_or(BadCommand::Missing("Event Type ID (0000,1002)"))?,
            },
            N_ACTION_RQ => Operation::Action {
                sop_instance_uid,
                action_type: fields
                    .action_type
                    .ok_or(BadCommand::Missing("Action Type ID (0000,1008)"))?,
            },
            C_CANCEL_RQ => Operation::Cancel,
            command_field => Operation::Other { command_field },
        };
        Ok(Self::Request(Request {
            operation,
            message_id,
            sop_class_uid: fields.sop_class_uid,
            has_data,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Request {
        Request {
            operation: Operation::Store {
                sop_instance_uid: "1.2.3".into(),
            },
            message_id: 7,
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
            has_data: true,
        }
    }

    #[test]
    fn an_echo_is_encoded_as_the_standard_draws_it() {
        let echo = Request {
            operation: Operation::Echo,
            message_id: 1,
            sop_class_uid: "1.2.840.10008.1.1".into(),
            has_data: false,
        };
        let mut expected = vec![];
        expected.extend_from_slice(b"\x00\x00\x00\x00\x04\x00\x00\x00\x38\x00\x00\x00"); // group length 56
        expected.extend_from_slice(b"\x00\x00\x02\x00\x12\x00\x00\x001.2.840.10008.1.1\x00");
        expected.extend_from_slice(b"\x00\x00\x00\x01\x02\x00\x00\x00\x30\x00"); // C-ECHO-RQ
        expected.extend_from_slice(b"\x00\x00\x10\x01\x02\x00\x00\x00\x01\x00"); // message id 1
        expected.extend_from_slice(b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x01"); // no data set
        assert_eq!(echo.encode(), expected);
        assert_eq!(Command::decode(&expected).unwrap(), Command::Request(echo));
    }

    #[test]
    fn requests_and_responses_round_trip() {
        assert_eq!(Command::decode(&store().encode()).unwrap(), Command::Request(store()));
        let response = store().answer(Status::OUT_OF_RESOURCES, "disk full");
        assert_eq!((response.command_field, response.responded_to), (0x8001, 7));
        assert_eq!(
            Command::decode(&response.encode()).unwrap(),
            Command::Response(response)
        );
    }

    #[test]
    fn an_unknown_operation_is_answered_in_kind() {
        let find = Request {
            operation: Operation::Other { command_field: 0x0140 },
            ..store()
        };
        let response = find.answer(Status::UNRECOGNIZED_OPERATION, "");
        assert_eq!((response.command_field, response.responded_to), (0x8140, 7));
    }

    #[test]
    fn every_operation_and_its_answer_round_trips() {
        let instance = || "1.2.840.10008.1.20.1.1".to_owned();
        let operations = [
            Operation::Find,
            Operation::Get,
            Operation::Move {
                destination: "PACS".into(),
            },
            Operation::EventReport {
                sop_instance_uid: instance(),
                event_type: 2,
            },
            Operation::Action {
                sop_instance_uid: instance(),
                action_type: 1,
            },
        ];
        for operation in operations {
            let request = Request { operation, ..store() };
            assert_eq!(
                Command::decode(&request.encode()).unwrap(),
                Command::Request(request.clone())
            );
            let mut response = request.answer(Status::SUCCESS, "");
            response.has_data = true;
            response.progress = Some(Progress {
                remaining: Some(3),
                completed: 2,
                failed: 1,
                warning: 0,
            });
            assert_eq!(
                Command::decode(&response.encode()).unwrap(),
                Command::Response(response)
            );
        }
        let cancel = Request {
            operation: Operation::Cancel,
            sop_class_uid: String::new(),
            has_data: false,
            ..store()
        };
        assert_eq!(Command::decode(&cancel.encode()).unwrap(), Command::Request(cancel));
    }

    #[test]
    fn a_store_for_somebody_names_who_asked() {
        let originator = Originator {
            ae_title: "TPS".into(),
            message_id: 9,
        };
        let bytes = store().encode_for(Some(&originator));
        assert!(bytes.windows(12).any(|w| w == b"\x00\x00\x30\x10\x04\x00\x00\x00TPS "));
        assert_eq!(Command::decode(&bytes).unwrap(), Command::Request(store()));
    }

    #[test]
    fn comments_are_cut_and_cleaned_and_bad_uids_do_not_go_back() {
        let mut request = store();
        request.operation = Operation::Store {
            sop_instance_uid: "../../etc/passwd".into(),
        };
        let response = request.answer(Status::CANNOT_UNDERSTAND, "é\\\n".to_owned() + &"x".repeat(100));
        assert_eq!(response.sop_instance_uid, "");
        let Command::Response(read) = Command::decode(&response.encode()).unwrap() else {
            panic!("a response")
        };
        assert_eq!(read.comment, "???".to_owned() + &"x".repeat(61));
    }

    #[test]
    fn broken_command_sets_are_named() {
        let whole = store().encode();
        // Cut off whole, the last element (SOP instance UID, 14 bytes) is merely missing, and the empty UID is refused later.
        for end in (0..whole.len()).filter(|&end| end != whole.len() - 14) {
            assert!(Command::decode(&whole[..end]).is_err(), "cut at {end}");
        }
        let mut huge = whole.clone();
        huge[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Command::decode(&huge), Err(BadCommand::Truncated));
        let mut alien = whole.clone();
        alien[0] = 8;
        assert_eq!(Command::decode(&alien), Err(BadCommand::Group(8)));
    }
}
