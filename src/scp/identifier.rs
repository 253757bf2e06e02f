//! What a query or retrieval asks, read from the wire, and what was agreed about its meaning.

use crate::archive::{Archive, ArchiveError};
use crate::dicom::scan::Encoding;
use crate::dicom::status::Status;
use crate::net::dimse::{Command, Operation};
use crate::net::pdu::{AbortReason, Extended};
use crate::net::transport::Broken;
use crate::query::{BadIdentifier, Identifier, Level};
use crate::scp::session::{Dialogue, End, Session};
use crate::scp::{Answer, Receiver, Root, SERVICES};

/// Longest identifier taken: room for 10,000 UIDs.
const MAX_IDENTIFIER_BYTES: usize = 1 << 20;

/// A refusal: the status and, for people, why.
pub type Refused = (Status, String);

/// Answers to extended negotiation (PS3.4 C.5.1.1): relational queries always, date and time as one moment when asked for; neither
/// fuzzy matching nor time zones.
pub fn agree(asked: &[Extended]) -> Vec<Extended> {
    let answer = |extended: &Extended| {
        let class = extended.sop_class_uid.as_str();
        let service = SERVICES
            .iter()
            .find(|service| service.abstract_syntaxes.contains(&class))?;
        let most: &[u8] = match service.answer {
            Answer::Find(_) => &[1, 1, 0, 0],
            Answer::Move(_) | Answer::Get(_) => &[1],
            _ => return None,
        };
        let information = most.iter().zip(&extended.information).map(|(most, asked)| most & asked);
        Some(Extended {
            sop_class_uid: extended.sop_class_uid.clone(),
            information: information.collect(),
        })
    };
    asked.iter().filter_map(answer).collect()
}

/// Whether combined date and time matching was agreed on.
pub fn is_combined(agreed: &[Extended]) -> bool {
    agreed.iter().any(|extended| extended.information.get(1) == Some(&1))
}

/// What a peer is told when the archive cannot answer.
pub fn refusal(error: &ArchiveError) -> Refused {
    let status = match error {
        ArchiveError::TooWide(_) => Status::DATA_SET_MISMATCH,
        ArchiveError::Store(_) | ArchiveError::Intake(_) | ArchiveError::Catalogue(_) => Status::OUT_OF_RESOURCES,
    };
    (status, error.to_string())
}

impl<R: Receiver> Session<R> {
    /// Reads the identifier of a request; inside, why it is refused. The data set is read in any case.
    pub(in crate::scp) async fn identifier(
        &self,
        dialogue: &mut Dialogue<'_>,
        root: Root,
    ) -> Result<Result<(Archive, Identifier), Refused>, End> {
        let Dialogue {
            association,
            context,
            request,
            partner,
        } = dialogue;
        if !request.has_data {
            return Ok(Err((
                Status::DATA_SET_MISMATCH,
                "a request without an identifier".into(),
            )));
        }
        let data = association.data_set(context.id, MAX_IDENTIFIER_BYTES).await?;
        if request.sop_class_uid != context.abstract_syntax.as_str() {
            let comment = format!("SOP class is not the one of presentation context {}", context.id);
            return Ok(Err((Status::SOP_CLASS_NOT_SUPPORTED, comment)));
        }
        let parsed = data
            .map_err(|too_long| (Status::OUT_OF_RESOURCES, too_long.to_string()))
            .and_then(|data| {
                let identifier = Identifier::parse(&data, Encoding::of(&context.transfer_syntax));
                identifier.map_err(|bad| match bad {
                    BadIdentifier::Unreadable(_) => (Status::CANNOT_UNDERSTAND, bad.to_string()),
                    _ => (Status::DATA_SET_MISMATCH, bad.to_string()),
                })
            });
        let mut identifier = match parsed {
            Ok(identifier) => identifier,
            Err(refused) => return Ok(Err(refused)),
        };
        if root == Root::Study && identifier.level == Level::Patient {
            let comment = "the Study Root model has no level PATIENT".to_owned();
            return Ok(Err((Status::DATA_SET_MISMATCH, comment)));
        }
        identifier.combined_date_time = partner.combined_date_time;
        Ok(match &self.settings.archive {
            Some(archive) => Ok((archive.clone(), identifier)),
            None => Err((Status::OUT_OF_RESOURCES, "nothing is kept here".into())),
        })
    }
}

impl Dialogue<'_> {
    /// Takes what the peer says while its request is being answered. True: it cancels the request. Only that may come then, because
    /// we agree to one operation at a time (PS3.7 D.3.3.3).
    pub async fn hear_cancel(&mut self) -> Result<bool, Broken> {
        let message = self.association.next_message().await?;
        match message.map(|message| message.command) {
            Some(Command::Request(heard)) if heard.operation == Operation::Cancel => {
                Ok(heard.message_id == self.request.message_id)
            }
            None => Err(Broken::violation(
                AbortReason::UnexpectedPdu,
                "A-RELEASE-RQ before the last answer",
            )),
            Some(_) => Err(Broken::violation(
                AbortReason::UnexpectedPdu,
                "another message before the last answer",
            )),
        }
    }
}
