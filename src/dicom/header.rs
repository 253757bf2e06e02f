//! The facts of one instance that we decide by, read from its header without touching the pixels.

use super::uid::Uid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One CT instance as received. Absent attributes are `None`; what they mean is for `series` to decide.
#[derive(Clone, Debug)]
pub struct Instance {
    pub path: PathBuf,
    pub transfer_syntax_uid: Uid,
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub study_instance_uid: Uid,
    pub series_instance_uid: Uid,
    pub frame_of_reference_uid: Option<Uid>,
    pub modality: String,
    /// Image Type (0008,0008), e.g. ORIGINAL, PRIMARY, AXIAL; LOCALIZER marks a scout.
    pub image_type: Vec<String>,
    pub instance_number: Option<i64>,
    pub acquisition_number: Option<i64>,
    pub rows: usize,
    pub columns: usize,
    /// Between rows, between columns: (0028,0030) in its own order, millimetres.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    pub image_position: Option<[f64; 3]>,
    /// Row cosine then column cosine, (0020,0037).
    pub image_orientation: Option<[f64; 6]>,
    pub slice_thickness_mm: Option<f64>,
    pub gantry_tilt_deg: Option<f64>,
    pub rescale_slope: Option<f64>,
    pub rescale_intercept: Option<f64>,
    pub samples_per_pixel: u16,
    pub photometric_interpretation: String,
    pub bits_allocated: u16,
    pub bits_stored: u16,
    pub pixel_signed: bool,
    pub pixel_padding_value: Option<i64>,
    pub number_of_frames: usize,
    /// Text of the attributes a protocol's `match` may name, by keyword (`Modality`, `StationName`, `StudyDescription`,
    /// `SeriesDescription`, `ProtocolName`, `BodyPartExamined`, `Manufacturer`, `ManufacturerModelName`, `ConvolutionKernel`, …).
    pub matchable: BTreeMap<&'static str, String>,
}

/// Why a header could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("not a readable DICOM object: {0}")]
    Malformed(String),
    #[error("attribute {keyword} {tag} is {problem}")]
    Attribute {
        keyword: &'static str,
        tag: &'static str,
        problem: String,
    },
}

impl Instance {
    /// Reads a Part 10 file up to Pixel Data. Memory, depth and lengths are bounded whatever the file claims.
    pub fn read(path: &Path) -> Result<Self, HeaderError> {
        let _ = path;
        todo!()
    }
}
