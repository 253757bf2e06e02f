//! Instances → one closed, ordered, eligible series, or a [`Rejection`] that names the slice and the number.

use crate::dicom::header::Instance;
use crate::dicom::uid::Uid;
use crate::geometry::Grid;

/// What a protocol asks of a series before it is worth computing on.
#[derive(Clone, Debug)]
pub struct Requirements {
    pub min_slices: usize,
    pub min_extent_mm: f64,
}

/// The slices of one volume, ordered from grid k = 0 upwards, duplicates and scouts removed.
#[derive(Clone, Debug)]
pub struct Series {
    pub study_instance_uid: Uid,
    pub series_instance_uid: Uid,
    pub frame_of_reference_uid: Uid,
    /// `slices[k]` is the slice at grid index k. The SEG and RTSTRUCT copy their plane geometry from here.
    pub slices: Vec<Instance>,
    /// Directions are Image Orientation's; along k the direction from the first to the last slice, so that a tilted stack stays true.
    pub grid: Grid,
    /// Instances that were left out, with the reason (localizer, exact duplicate, …).
    pub set_aside: Vec<(Uid, String)>,
}

/// Why a set of instances is no series we may compute on. A fact about the input, not a failure of ours.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Rejection {
    #[error("{0}")]
    Todo(String),
}

/// Orders and checks the instances of one series instance UID. Independent of their order of arrival.
pub fn assemble(instances: Vec<Instance>, requirements: &Requirements) -> Result<Series, Rejection> {
    let _ = (instances, requirements);
    todo!()
}
