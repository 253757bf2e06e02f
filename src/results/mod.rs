//! Masks → DICOM objects. [`KINDS`] is the table of what can be written; adding a kind is one file and one row.

pub mod common;
pub mod seg;
pub mod rtstruct;
pub mod contour;
pub mod picture;
pub mod dump;
mod dataset;
mod header;

use crate::dicom::uid::Uid;
use crate::mask::Mask;
use crate::series::Series;

/// Everything about a run that must not change when it is repeated. Fixed in the job row when the job is made.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Seeds every UID of the run's objects.
    pub uid_seed: String,
    /// DA, e.g. `20261121`.
    pub content_date: String,
    /// TM, e.g. `093000`.
    pub content_time: String,
    /// 1 for the first result of a series, 2 for the one that supersedes it, …
    pub revision: u32,
    /// Said in the series description when this result replaces an earlier one.
    pub supersedes: Option<Uid>,
}

/// A model that took part, for the algorithm identification.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ModelUsed {
    pub name: String,
    pub version: String,
    pub sha256: String,
}

/// What a writer needs.
pub struct Source<'a> {
    pub series: &'a Series,
    pub masks: &'a [Mask],
    pub identity: &'a Identity,
    pub models: &'a [ModelUsed],
}

/// A finished Part 10 object.
#[derive(Clone, Debug)]
pub struct ResultObject {
    /// `seg`, `rtstruct`: the name in [`KINDS`].
    pub kind: &'static str,
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub series_instance_uid: Uid,
    pub transfer_syntax_uid: Uid,
    pub part10: Vec<u8>,
}

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    #[error("cannot read the attributes of the source series: {0}")]
    Source(String),
    #[error("{0}")]
    Content(String),
}

/// One kind of result object.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    pub sop_class_uid: &'static str,
    pub write: fn(&Source<'_>) -> Result<ResultObject, ResultError>,
}

/// Every kind of result we can write; the configuration's `results`, the SCU's presentation contexts and `check` read this table.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "seg",
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.66.4",
        write: seg::write,
    },
    Kind {
        name: "rtstruct",
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.481.3",
        write: rtstruct::write,
    },
];

/// Looks a kind up by its name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
