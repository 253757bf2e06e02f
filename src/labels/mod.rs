//! RT Structure Sets and Segmentations of any maker → voxels of a CT.
//!
//! [`read`] understands the bytes, [`Labels::on`] holds them against a CT series, [`Placer::place`] gives one region's voxels;
//! [`take::take`] does so for every region that is one of our structures, as [`names`] tells.
//! Nothing here shares code with the writers in `results`: what they wrote is proven with what is read here.
//!
//! # Where a region lies
//!
//! A contour or frame belongs to the slice that it refers to by SOP Instance UID (and frame number); without such a reference, to the slice nearest
//! to its own position, at most half a slice away. A reference and a position that lie further apart than that are a
//! contradiction and an error. Every slice counts with its own position, orientation and spacing, so tilted and uneven stacks
//! are true. The frame of reference must be the CT's.
//!
//! # What is inside
//!
//! - **Contours**: a voxel belongs to a region when its centre does, by the even-odd rule over all contours that the region has on
//!   the slice. So a contour within another one is a hole, whether it is called CLOSED_PLANAR or CLOSEDPLANAR_XOR, and the two
//!   ways of a keyhole cancel out. Of edges on centres the left and upper ones count as inside, the others as outside. Points
//!   and open contours enclose nothing and are passed over with a note. Slices left out between contoured ones stay empty and are
//!   counted ([`Placed::gaps`]).
//! - **Segments**: BINARY as stored, FRACTIONAL from half of the maximum on, LABELMAP by value. On another grid of the same frame
//!   of reference, the CT's voxel takes the value of the nearest voxel ([`Placed::exact`] is false then); frames that are not
//!   parallel to the slices are refused.

mod rtstruct;
mod seg;
mod frames;
mod plane;
mod paint;
mod place;
mod raster;
mod moments;
pub mod names;
pub mod take;

pub use crate::labels::moments::Moments;
pub use crate::labels::place::{Placed, Placer};

use crate::dicom::fields::{Fields, HeaderError};
use crate::dicom::object::Object;
use crate::dicom::scan::Tag;
use crate::dicom::uid::Uid;
use crate::geometry::Vec3;
use crate::labels::frames::Run;
use crate::labels::plane::Plane;
use crate::series::Series;
use std::path::Path;

/// What [`read`] understands.
pub const SOP_CLASSES: [&str; 3] = [RT_STRUCTURE_SET, SEGMENTATION, LABEL_MAP_SEGMENTATION];
const RT_STRUCTURE_SET: &str = "1.2.840.10008.5.1.4.1.1.481.3";
const SEGMENTATION: &str = "1.2.840.10008.5.1.4.1.1.66.4";
const LABEL_MAP_SEGMENTATION: &str = "1.2.840.10008.5.1.4.1.1.66.7";

/// 104 segments on 500 slices of 512² take 1.7 GB in the worst case, but a planner's file 20 MB.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Why labels cannot be used. Each text says what was met, with its numbers, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// Another kind of object: give the right file.
    #[error("it is neither an RT Structure Set nor a Segmentation, but of SOP class {0}")]
    Kind(String),
    #[error("{0}")]
    Unreadable(String),
    /// Damaged or not DICOM: export it again.
    #[error("it cannot be read: {0}; export it again")]
    Malformed(String),
    /// Sound, but beyond what this version reads: export it in another way.
    #[error("{0}")]
    Unsupported(String),
    /// It does not say where it lies.
    #[error("{0}")]
    NoPlace(String),
    /// Made on another scan: give that CT.
    #[error("it lies in frame of reference {theirs}, the CT in {ours}; give the CT that it was drawn on")]
    OtherFrame { theirs: String, ours: Uid },
    /// Reference and position do not agree: the object, or the CT, is not what it says.
    #[error(
        "{what} refers to slice {referenced} (index {index}), but lies {distance_mm:.2} mm from it, nearest to index {nearest}; \
         at most {allowed_mm:.2} mm are allowed. Export it again from the system that drew it"
    )]
    Contradiction {
        what: String,
        referenced: Uid,
        index: usize,
        nearest: usize,
        distance_mm: f64,
        allowed_mm: f64,
    },
    /// Drawn across the slices.
    #[error("{what} stands {angle_deg:.1} degrees across the slices of the CT; export it on the CT's own slices")]
    Across { what: String, angle_deg: f64 },
}

impl From<HeaderError> for LabelsError {
    fn from(error: HeaderError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What the object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RtStruct,
    SegBinary,
    SegFractional,
    SegLabelMap,
}

/// A coded concept as somebody else wrote it (PS3.3 table 8.8-1).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Coded {
    pub value: String,
    pub scheme: String,
    pub meaning: String,
}

/// An object of labels, understood but not placed yet.
#[derive(Clone, Debug)]
pub struct Labels {
    pub kind: Kind,
    pub sop_instance_uid: Option<Uid>,
    pub study_instance_uid: Option<Uid>,
    pub series_instance_uid: Option<Uid>,
    /// Series whose images are referred to.
    pub referenced_series: Vec<Uid>,
    /// Frames of reference it lies in; empty when it names none.
    pub frames_of_reference: Vec<Uid>,
    pub manufacturer: String,
    /// ROIs or segments in the object's order, the background left out.
    pub regions: Vec<Region>,
    /// What was met and passed over.
    pub notes: Vec<String>,
    frames: Vec<Frame>,
    /// Spacing Between Slices of the frames.
    frame_step_mm: Option<f64>,
}

/// An ROI or a segment.
#[derive(Clone, Debug)]
pub struct Region {
    /// ROI Number or Segment Number.
    pub number: i64,
    /// ROI Name or Segment Label; may be empty, and need not be unique.
    pub name: String,
    pub category: Option<Coded>,
    /// Segmented Property Type, or RT ROI Identification Code.
    pub kind: Option<Coded>,
    pub laterality: Option<Coded>,
    /// ROI Generation Algorithm or Segment Algorithm Type: `AUTOMATIC`, `SEMIAUTOMATIC`, `MANUAL` or empty.
    pub made: String,
    /// RT ROI Interpreted Type, such as `ORGAN` or `PTV`; empty in segmentations.
    pub interpreted_type: String,
    frame_of_reference: Option<Uid>,
    shape: Shape,
    /// What of it was passed over.
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
enum Shape {
    Contours(Vec<Contour>),
    /// Of one frame each, in the order of the frames.
    Pieces(Vec<Piece>),
}

/// A closed outline.
#[derive(Clone, Debug)]
struct Contour {
    points: Vec<Vec3>,
    /// The images that it refers to.
    images: Vec<Image>,
}

/// An image that is referred to.
#[derive(Clone, Debug)]
struct Image {
    sop_instance_uid: Uid,
    /// Referenced Frame Number, from 1; empty when all frames, or the only one, are meant.
    frames: Vec<u32>,
}

/// What of a segment one frame shows.
#[derive(Clone, Debug)]
struct Piece {
    frame: usize,
    runs: Vec<Run>,
}

/// Where a frame lies; the pixels are in the pieces.
#[derive(Clone, Debug)]
struct Frame {
    plane: Option<Plane>,
    /// The images that it was derived from.
    images: Vec<Image>,
}

impl Region {
    /// Whether it has any closed contour or pixel at all.
    pub fn is_empty(&self) -> bool {
        match &self.shape {
            Shape::Contours(contours) => contours.is_empty(),
            Shape::Pieces(pieces) => pieces.is_empty(),
        }
    }

    /// Closed contours, or frames with pixels.
    pub fn pieces(&self) -> usize {
        match &self.shape {
            Shape::Contours(contours) => contours.len(),
            Shape::Pieces(pieces) => pieces.len(),
        }
    }

    /// Pixels of a segment over all its frames; `None` for an ROI.
    pub fn pixel_count(&self) -> Option<u64> {
        match &self.shape {
            Shape::Contours(_) => None,
            Shape::Pieces(pieces) => Some(pieces.iter().flat_map(|p| &p.runs).map(|run| run.length()).sum()),
        }
    }

    fn title(&self) -> String {
        format!("{:?} (number {})", self.name, self.number)
    }
}

impl Labels {
    /// Holds the labels against a CT.
    ///
    /// # Errors
    /// When none of them lies in the CT's frame of reference.
    pub fn on<'a>(&'a self, series: &'a Series) -> Result<Placer<'a>, LabelsError> {
        Placer::new(self, series)
    }
}

/// Reads a Part 10 object, or a bare data set.
///
/// # Errors
/// When it is no such object, damaged, or in an encoding that is not read.
pub fn read(part10: &[u8]) -> Result<Labels, LabelsError> {
    let object = Object::open(part10)?;
    let fields = object.fields()?;
    match fields.text(0x0008_0016).as_str() {
        RT_STRUCTURE_SET => rtstruct::read(&fields),
        SEGMENTATION | LABEL_MAP_SEGMENTATION => seg::read(&object, &fields),
        other => Err(LabelsError::Kind(other.chars().take(64).collect())),
    }
}

/// Reads a file.
///
/// # Errors
/// Those of [`read`], and when the file cannot be read or is beyond any such object.
pub fn read_file(path: &Path) -> Result<Labels, LabelsError> {
    let unreadable = |error: std::io::Error| LabelsError::Unreadable(error.to_string());
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        return Err(LabelsError::Unsupported(format!(
            "{length} bytes are more than this version reads"
        )));
    }
    read(&std::fs::read(path).map_err(unreadable)?)
}

/// What every object says of itself.
fn common(fields: &Fields<'_>, kind: Kind) -> Labels {
    Labels {
        kind,
        sop_instance_uid: fields.uid(0x0008_0018).ok(),
        study_instance_uid: fields.uid(0x0020_000D).ok(),
        series_instance_uid: fields.uid(0x0020_000E).ok(),
        referenced_series: Vec::new(),
        frames_of_reference: fields.uid(FRAME_OF_REFERENCE_UID).into_iter().collect(),
        manufacturer: fields.text(0x0008_0070),
        regions: Vec::new(),
        notes: Vec::new(),
        frames: Vec::new(),
        frame_step_mm: None,
    }
}

const FRAME_OF_REFERENCE_UID: Tag = 0x0020_0052;
const SERIES_INSTANCE_UID: Tag = 0x0020_000E;
const REFERENCED_SOP_INSTANCE_UID: Tag = 0x0008_1155;
const REFERENCED_FRAME_NUMBER: Tag = 0x0008_1160;

/// The images that a sequence's items refer to.
fn references(of: &Fields<'_>, sequence: Tag) -> Result<Vec<Image>, HeaderError> {
    let image = |item: &Fields<'_>| {
        let frames = item.all_decimals(REFERENCED_FRAME_NUMBER).unwrap_or_default();
        Some(Image {
            sop_instance_uid: item.uid(REFERENCED_SOP_INSTANCE_UID).ok()?,
            frames: frames.into_iter().map(|number| number as u32).collect(),
        })
    };
    Ok(of.items(sequence)?.iter().filter_map(image).collect())
}

/// The first concept of a code sequence, and the first of the modifier sequence within it.
fn coded(of: &Fields<'_>, sequence: Tag, modifiers: Tag) -> Result<[Option<Coded>; 2], HeaderError> {
    let concept = |item: &Fields<'_>| {
        let value = [0x0008_0100, 0x0008_0119, 0x0008_0120].map(|tag| item.text(tag));
        Coded {
            value: value.into_iter().find(|value| !value.is_empty()).unwrap_or_default(),
            scheme: item.text(0x0008_0102),
            meaning: item.text(0x0008_0104),
        }
    };
    let Some(item) = of.item(sequence)? else {
        return Ok([None, None]);
    };
    Ok([Some(concept(&item)), item.item(modifiers)?.as_ref().map(concept)])
}
