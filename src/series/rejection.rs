//! Why a set of instances is no series we compute on, in words an administrator can act on.

use crate::dicom::header::Instance;
use crate::dicom::uid::Uid;
use std::fmt;

/// Which slice is meant: the number the scanner's console shows, and the UID to search the archive for.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceName {
    pub instance_number: Option<i64>,
    /// Of a frame of a multi-frame object, from 1.
    pub frame_number: Option<u32>,
    pub sop_instance_uid: Uid,
}

impl SliceName {
    pub fn of(instance: &Instance) -> Self {
        Self {
            instance_number: instance.instance_number,
            frame_number: instance.frame_number,
            sop_instance_uid: instance.sop_instance_uid.clone(),
        }
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.frame_number, self.instance_number) {
            (Some(frame), _) => write!(f, "frame {frame} of {}", self.sop_instance_uid),
            (None, Some(number)) => write!(f, "slice {number} ({})", self.sop_instance_uid),
            (None, None) => write!(f, "unnumbered slice {}", self.sop_instance_uid),
        }
    }
}

/// Why a set of instances is no series we may compute on. A fact about the input, not a failure of ours.
/// Positions are millimetres along the slice normal.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Rejection {
    #[error("there is no instance")]
    Empty,
    #[error("instances of several series: {0} and {1}")]
    SeveralSeries(Uid, Uid),
    #[error("instances of several studies: {0} and {1}")]
    SeveralStudies(Uid, Uid),
    /// The identifiers stay out of the text: it is logged.
    #[error("two Patient IDs in one series: {first} and {second} differ")]
    SeveralPatients { first: SliceName, second: SliceName },
    #[error("none of the {count} instances is a CT slice; {example}")]
    NothingUsable { count: usize, example: String },
    #[error(
        "{slice} is a multi-frame object ({frames} frames) without functional groups that say where each frame lies"
    )]
    MultiFrame { slice: SliceName, frames: usize },
    #[error("{slice} has no usable {keyword}")]
    MissingAttribute { slice: SliceName, keyword: &'static str },
    #[error("{slice} holds {rescale_type}, not Hounsfield units (Rescale Type)")]
    NotHounsfield { slice: SliceName, rescale_type: String },
    #[error("several frames of reference: {first} has {first_uid}, {second} has {second_uid}")]
    MixedFrameOfReference {
        first: SliceName,
        first_uid: Uid,
        second: SliceName,
        second_uid: Uid,
    },
    #[error("{what} differs between {first} and {second}: {values}")]
    Mixed {
        what: &'static str,
        first: SliceName,
        second: SliceName,
        values: String,
    },
    #[error(
        "orientation differs: {odd} of {count} slices; {second} is turned by {angle_deg:.2} degrees against {first}, \
         cosines differ by up to {cosine_difference:.4}"
    )]
    MixedOrientation {
        first: SliceName,
        second: SliceName,
        angle_deg: f64,
        cosine_difference: f64,
        odd: usize,
        count: usize,
    },
    #[error(
        "{slice} has an impossible Image Orientation (Patient): lengths {row:.4} and {column:.4}, cosine between them {between:.4}"
    )]
    BadOrientation {
        slice: SliceName,
        row: f64,
        column: f64,
        between: f64,
    },
    #[error(
        "the slices are not axial: their normal is {angle_deg:.0} degrees from the patient's long axis, the limit is {limit_deg:.0}"
    )]
    NotAxial { angle_deg: f64, limit_deg: f64 },
    #[error("all {count} slices lie at the same position ({at_mm:.2} mm)")]
    SamePosition { count: usize, at_mm: f64 },
    #[error(
        "{extra} of {count} slices repeat a position, such as {first} and {second} at {at_mm:.2} mm: \
         several phases, acquisitions or reconstructions in one series"
    )]
    RepeatedPositions {
        extra: usize,
        count: usize,
        first: SliceName,
        second: SliceName,
        at_mm: f64,
    },
    #[error(
        "gap of {gap_mm:.2} mm where slices lie {spacing_mm:.2} mm apart: between {below} at {below_mm:.2} mm \
         and {above} at {above_mm:.2} mm; at most three steps and 10 mm are bridged"
    )]
    Gap {
        below: SliceName,
        below_mm: f64,
        above: SliceName,
        above_mm: f64,
        gap_mm: f64,
        spacing_mm: f64,
    },
    #[error(
        "uneven spacing: {step_mm:.3} mm between {below} at {below_mm:.2} mm and {above} at {above_mm:.2} mm, \
         but {spacing_mm:.3} mm elsewhere; at most 10 mm are bridged"
    )]
    Uneven {
        below: SliceName,
        below_mm: f64,
        above: SliceName,
        above_mm: f64,
        step_mm: f64,
        spacing_mm: f64,
    },
    #[error("{slice} lies {off_mm:.2} mm {direction} of its place in an even stack")]
    OffStack {
        slice: SliceName,
        off_mm: f64,
        direction: &'static str,
    },
    #[error("the stack leans by {tilt_deg:.1} degrees against the slice normal, the limit is {limit_deg:.0}")]
    Tilt { tilt_deg: f64, limit_deg: f64 },
    #[error("{count} slices, at least {min} are required")]
    TooFewSlices { count: usize, min: usize },
    #[error("the series covers {extent_mm:.1} mm, at least {min_mm:.1} mm are required")]
    TooShort { extent_mm: f64, min_mm: f64 },
    #[error("{columns} × {rows} × {slices} voxels are more than this version computes on")]
    TooLarge { columns: usize, rows: usize, slices: usize },
}

impl Rejection {
    /// Whether several stacks in one series may be the cause.
    pub(in crate::series) fn is_mixture(&self) -> bool {
        matches!(
            self,
            Self::Mixed { .. } | Self::MixedOrientation { .. } | Self::RepeatedPositions { .. }
        )
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty | Self::NothingUsable { .. } => {
                "route only reconstructed CT series here, not scouts, reports or screen captures"
            }
            Self::SeveralStudies(..) | Self::SeveralPatients { .. } => {
                "the sender reuses a Series Instance UID; nothing may be computed on a mixture, correct it at the source"
            }
            Self::SeveralSeries(..) => "a sender mixes series; this is a fault in what was sent or in medlsamd",
            Self::MultiFrame { .. } => {
                "let the scanner or PACS send Enhanced CT with functional groups, or single-frame CT images"
            }
            Self::MissingAttribute {
                keyword: "FrameOfReferenceUID",
                ..
            } => {
                "without a Frame of Reference results cannot be tied to the images; send the original, not a stripped copy"
            }
            Self::MissingAttribute { .. } => "send the original images, not a stripped or converted copy",
            Self::NotHounsfield { .. } => {
                "route the conventional CT reconstruction instead of a material or energy map"
            }
            Self::MixedFrameOfReference { .. } => {
                "the slices do not claim to share one space (often the work of an anonymiser); send the original series"
            }
            Self::Mixed { .. } | Self::MixedOrientation { .. } | Self::RepeatedPositions { .. } => {
                "let the scanner store each phase or reconstruction as a series of its own"
            }
            Self::BadOrientation { .. } => "the geometry of this image is damaged; send it again from the scanner",
            Self::NotAxial { .. } => "route the axial reconstruction of this study",
            Self::SamePosition { .. } => {
                "this is a monitoring or perfusion series, not a volume; exclude it in the protocol's match"
            }
            Self::Gap { .. } => "slices are missing: send the whole series again",
            Self::Uneven { .. } | Self::OffStack { .. } | Self::Tilt { .. } => {
                "reconstruct the series with even spacing, without a leaning stack"
            }
            Self::TooFewSlices { .. } | Self::TooShort { .. } => {
                "send the whole series again, or lower the protocol's requirements"
            }
            Self::TooLarge { .. } => "route a reconstruction with a smaller matrix or fewer slices",
        }
    }
}
