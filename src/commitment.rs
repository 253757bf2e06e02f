//! Storage commitment, the data sets of its messages (PS3.4 J.3): what is to be kept for good, and what is.

use crate::dicom::fields::{Fields, HeaderError};
use crate::dicom::scan::{Encoding, Tag};
use crate::dicom::uid::Uid;
use crate::results::dataset::DataSet;
use dicom::dictionary_std::tags;

/// Storage Commitment Push Model SOP Class, and its well-known instance.
pub const PUSH_MODEL: &str = "1.2.840.10008.1.20.1";
pub const PUSH_MODEL_INSTANCE: &str = "1.2.840.10008.1.20.1.1";
/// Action Type ID of a request (PS3.4 J.3.2.1).
pub const REQUEST_COMMITMENT: u16 = 1;

const TRANSACTION_UID: Tag = 0x0008_1195;
const FAILURE_REASON: Tag = 0x0008_1197;
const FAILED_SOP_SEQUENCE: Tag = 0x0008_1198;
const REFERENCED_SOP_SEQUENCE: Tag = 0x0008_1199;
const REFERENCED_SOP_CLASS_UID: Tag = 0x0008_1150;
const REFERENCED_SOP_INSTANCE_UID: Tag = 0x0008_1155;

/// An object somebody names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
}

/// What an N-ACTION asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub transaction_uid: Uid,
    pub objects: Vec<Reference>,
}

/// What an N-EVENT-REPORT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub transaction_uid: Uid,
    pub kept: Vec<Reference>,
    /// With the Failure Reason (0008,1197), a DIMSE status (PS3.3 C.14.1.1).
    pub failed: Vec<(Reference, u16)>,
}

/// Why a data set is neither.
#[derive(Debug, thiserror::Error)]
pub enum BadCommitment {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] HeaderError),
    #[error("it has no valid {0}")]
    Missing(&'static str),
}

fn uid(fields: &Fields<'_>, tag: Tag, name: &'static str) -> Result<Uid, BadCommitment> {
    fields.uid(tag).map_err(|_| BadCommitment::Missing(name))
}

fn reference(item: &Fields<'_>) -> Result<Reference, BadCommitment> {
    Ok(Reference {
        sop_class_uid: uid(item, REFERENCED_SOP_CLASS_UID, "Referenced SOP Class UID (0008,1150)")?,
        sop_instance_uid: uid(
            item,
            REFERENCED_SOP_INSTANCE_UID,
            "Referenced SOP Instance UID (0008,1155)",
        )?,
    })
}

fn item_of(reference: &Reference) -> DataSet {
    let mut item = DataSet::default();
    item.put_reference(&reference.sop_class_uid, &reference.sop_instance_uid);
    item
}

fn encoded(data: &DataSet) -> Vec<u8> {
    let mut out = Vec::new();
    data.encode(&mut out);
    out
}

impl Request {
    pub fn decode(data: &[u8], encoding: Encoding) -> Result<Self, BadCommitment> {
        let fields = Fields::whole(data, encoding)?;
        let objects: Vec<Reference> = fields
            .items(REFERENCED_SOP_SEQUENCE)?
            .iter()
            .map(reference)
            .collect::<Result<_, _>>()?;
        if objects.is_empty() {
            return Err(BadCommitment::Missing("Referenced SOP Sequence (0008,1199)"));
        }
        Ok(Self {
            transaction_uid: uid(&fields, TRANSACTION_UID, "Transaction UID (0008,1195)")?,
            objects,
        })
    }

    /// In Explicit VR Little Endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = DataSet::default();
        data.uid(tags::TRANSACTION_UID, &self.transaction_uid);
        data.items(
            tags::REFERENCED_SOP_SEQUENCE,
            self.objects.iter().map(item_of).collect(),
        );
        encoded(&data)
    }
}

impl Report {
    pub fn decode(data: &[u8], encoding: Encoding) -> Result<Self, BadCommitment> {
        let fields = Fields::whole(data, encoding)?;
        let kept = fields.items(REFERENCED_SOP_SEQUENCE)?;
        let failed = fields.items(FAILED_SOP_SEQUENCE)?;
        let failure = |item: &Fields<'_>| Ok((reference(item)?, item.short(FAILURE_REASON).unwrap_or_default()));
        Ok(Self {
            transaction_uid: uid(&fields, TRANSACTION_UID, "Transaction UID (0008,1195)")?,
            kept: kept.iter().map(reference).collect::<Result<_, BadCommitment>>()?,
            failed: failed.iter().map(failure).collect::<Result<_, BadCommitment>>()?,
        })
    }

    /// Event Type ID: 1 when everything is kept, else 2 (PS3.4 J.3.3.1).
    pub fn event_type(&self) -> u16 {
        if self.failed.is_empty() { 1 } else { 2 }
    }

    /// In Explicit VR Little Endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = DataSet::default();
        data.uid(tags::TRANSACTION_UID, &self.transaction_uid);
        if !self.kept.is_empty() {
            data.items(tags::REFERENCED_SOP_SEQUENCE, self.kept.iter().map(item_of).collect());
        }
        if !self.failed.is_empty() {
            let item = |(object, reason): &(Reference, u16)| {
                let mut item = item_of(object);
                item.shorts(tags::FAILURE_REASON, &[*reason]);
                item
            };
            data.items(tags::FAILED_SOP_SEQUENCE, self.failed.iter().map(item).collect());
        }
        encoded(&data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(number: u32) -> Reference {
        Reference {
            sop_class_uid: Uid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
            sop_instance_uid: Uid::parse(&format!("1.2.{number}")).unwrap(),
        }
    }

    #[test]
    fn requests_and_reports_round_trip() {
        let transaction_uid = Uid::parse("1.2.3").unwrap();
        let request = Request {
            transaction_uid: transaction_uid.clone(),
            objects: vec![object(1), object(2)],
        };
        let decoded = Request::decode(&request.encode(), Encoding::EXPLICIT_LE).unwrap();
        assert_eq!(decoded, request);
        let mut report = Report {
            transaction_uid,
            kept: vec![object(1)],
            failed: vec![(object(2), 0x0112)],
        };
        assert_eq!(report.event_type(), 2);
        assert_eq!(Report::decode(&report.encode(), Encoding::EXPLICIT_LE).unwrap(), report);
        report.failed.clear();
        assert_eq!(report.event_type(), 1);
    }

    #[test]
    fn a_request_for_nothing_or_of_nobody_is_none() {
        let empty = Request {
            transaction_uid: Uid::parse("1.2.3").unwrap(),
            objects: Vec::new(),
        };
        assert!(Request::decode(&empty.encode(), Encoding::EXPLICIT_LE).is_err());
        assert!(Request::decode(b"nonsense", Encoding::EXPLICIT_LE).is_err());
    }
}
