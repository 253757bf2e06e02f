//! A series as Hounsfield units on its grid, and resampling to other grids.

use crate::geometry::{Grid, PatientPoint};
use crate::progress::Progress;
use crate::series::Series;
use ndarray::Array3;

/// HU on a grid, indexed `[k, j, i]` = (slice, row, column).
#[derive(Clone, Debug)]
pub struct Volume {
    pub grid: Grid,
    pub hu: Array3<i16>,
}

/// A slice whose pixels cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("slice {sop_instance_uid}: {problem}")]
    Slice { sop_instance_uid: String, problem: String },
    #[error("cancelled")]
    Cancelled,
}

/// Decodes every slice and applies its own rescale slope and intercept; padding becomes air (−1024 HU).
pub fn reconstruct(series: &Series, progress: &dyn Progress) -> Result<Volume, VolumeError> {
    let _ = (series, progress);
    todo!()
}

/// The volume on a patient-axis-aligned grid (directions = LPS axes) of isotropic `spacing_mm` that covers it, HU as f32,
/// outside −1024. Averages over the source voxels where the source is finer, interpolates linearly where it is coarser.
/// Works for every orientation, oblique ones too.
pub fn to_patient_axes(volume: &Volume, spacing_mm: f64) -> (Grid, Array3<f32>) {
    let _ = (volume, spacing_mm, PatientPoint::new(0.0, 0.0, 0.0));
    todo!()
}
