//! Masks → DICOM objects. [`KINDS`] is the table of what can be written; adding a kind is one file and one row.

pub mod common;
pub mod seg;
pub mod rtstruct;
pub mod sr;
pub mod sc;
pub mod notice;
pub mod contour;
pub mod picture;
pub mod dump;
pub mod style;
pub mod profile;
mod content;
mod simplify;
mod names;
pub(crate) mod dataset;
pub(crate) mod header;
mod origin;
mod reference;

use crate::dicom::uid::Uid;
use crate::mask::Mask;
use crate::results::picture::Sheet;
use crate::results::style::Style;
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

/// What was measured of one outlined structure, for the objects that hold numbers.
#[derive(Clone, Debug)]
pub struct Measure {
    pub volume_ml: f64,
    pub mean_hu: f64,
    /// In words why the outline is doubtful or cut; empty when it is neither.
    pub remarks: Vec<String>,
}

/// What a writer needs.
pub struct Source<'a> {
    pub series: &'a Series,
    pub masks: &'a [Mask],
    /// One per mask, in their order.
    pub measures: &'a [Measure],
    /// The contact sheet of the run.
    pub sheet: &'a Sheet,
    pub identity: &'a Identity,
    pub models: &'a [ModelUsed],
    /// `generic` or a destination profile's: part of every UID, because another style makes another object.
    pub profile: &'a str,
    pub style: &'a Style,
    /// The kinds written of this run for this profile: an object may refer to another one only where that is written too.
    pub kinds: &'a [&'static str],
}

/// A finished Part 10 object.
#[derive(Clone, Debug)]
pub struct ResultObject {
    /// `seg`, `rtstruct`, …: the name in [`KINDS`], or in [`notice::KINDS`].
    pub kind: &'static str,
    /// The name it is kept under: the kind, and the profile it was written for unless that is `generic`.
    pub key: String,
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
    /// A label map holds one structure per voxel; the same masks can be written as `seg`.
    #[error(
        "{first} and {second} both claim {voxels} voxels, and a label map holds one structure per voxel: write `seg` (BINARY) instead"
    )]
    Overlap {
        first: &'static str,
        second: &'static str,
        voxels: usize,
    },
}

/// One kind of result object.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    pub sop_class_uid: &'static str,
    /// The kind that says the same in another encoding, or beside another one; a destination's profile chooses between them.
    pub form_of: Option<&'static str>,
    pub proven: Proven,
    pub write: fn(&Source<'_>) -> Result<ResultObject, ResultError>,
}

/// What the placement proof asks of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proven {
    /// It holds every voxel of every mask.
    Exactly,
    /// Contours, which a reader fills by its own rule.
    Nearly,
    /// It holds no voxels.
    Nothing,
}

/// Every kind of result we can write; the configuration's `results`, the SCU's presentation contexts and `check` read this table.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "seg",
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.66.4",
        form_of: None,
        proven: Proven::Exactly,
        write: seg::binary::write,
    },
    Kind {
        name: "labelmap",
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.66.7",
        form_of: Some("seg"),
        proven: Proven::Exactly,
        write: seg::labelmap::write,
    },
    Kind {
        name: "rtstruct",
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.481.3",
        form_of: None,
        proven: Proven::Nearly,
        write: rtstruct::write,
    },
    Kind {
        name: "sr",
        sop_class_uid: sr::ENHANCED_SR_STORAGE,
        form_of: None,
        proven: Proven::Nothing,
        write: sr::write,
    },
    Kind {
        name: "sr_labelmap",
        sop_class_uid: sr::ENHANCED_SR_STORAGE,
        form_of: Some("sr"),
        proven: Proven::Nothing,
        write: sr::write_beside_labelmap,
    },
    Kind {
        name: "sr_slices",
        sop_class_uid: sr::ENHANCED_SR_STORAGE,
        form_of: Some("sr"),
        proven: Proven::Nothing,
        write: sr::write_of_slices,
    },
    Kind {
        name: "sc",
        sop_class_uid: sc::SECONDARY_CAPTURE_STORAGE,
        form_of: None,
        proven: Proven::Nothing,
        write: sc::write,
    },
];

/// The name a notice is kept under: it stands for no result.
pub fn notice_key(kind: &str) -> String {
    format!("{NOTICE}{kind}")
}

pub const NOTICE: &str = "notice-";

/// What a protocol and a profile may name: every kind but those that are another encoding of one.
pub fn names() -> Vec<&'static str> {
    KINDS
        .iter()
        .filter(|kind| kind.form_of.is_none())
        .map(|kind| kind.name)
        .collect()
}

/// The profile everything is written in when nobody asks for another.
pub const GENERIC: &str = "generic";

/// The name an object of a kind is kept under when it was written for a profile.
pub fn key(kind: &str, profile: &str) -> String {
    match profile {
        GENERIC => kind.to_owned(),
        other => format!("{kind}-{other}"),
    }
}

/// Looks a kind up by its name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
