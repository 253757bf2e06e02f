//! A series as Hounsfield units on its grid, and resampling to other grids.

pub mod body;
mod bits;
mod pixels;
mod resample;
mod uneven;

pub use crate::volume::resample::to_patient_axes;

use crate::dicom::header::Instance;
use crate::geometry::Grid;
use crate::progress::Progress;
use crate::series::{Series, SliceName};
use crate::volume::pixels::Source;
use ndarray::Array3;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// Outside of the volume, outside of the scanner's field of view, and the lowest value kept: air.
pub const AIR_HU: i16 = -1024;
/// More threads only wait for the disk.
const MAX_THREADS: usize = 4;

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

/// Decodes every slice and applies its own rescale slope and intercept; padding becomes air (−1024 HU). Where the slices lie
/// unevenly the volume is an even one interpolated between them ([`crate::series::Uneven`]), so that its geometry is true.
///
/// # Errors
/// Names the first slice of the stack that is unreadable, cut short or of a kind that is not decoded.
pub fn reconstruct(series: &Series, progress: &dyn Progress) -> Result<Volume, VolumeError> {
    progress.stage("reconstruct", series.slices.len());
    let grid = series.grid.clone();
    let mut hu = Array3::from_elem(grid.shape(), AIR_HU);
    let plane = (grid.size[0] * grid.size[1]).max(1);
    let voxels = hu.as_slice_mut().expect("a new array is contiguous");
    let opened = opened(series);
    // Slices are handed out in order, so the failure with the lowest index is always among those met.
    let queue = Mutex::new(series.slices.iter().zip(voxels.chunks_mut(plane)).enumerate());
    let outcome = Mutex::new(Outcome {
        finished: 0,
        failure: None,
        cancelled: false,
    });
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics with the queue").next();
                    let Some((k, (instance, out))) = next else { return };
                    let result = if progress.cancelled() {
                        None
                    } else {
                        Some(read_hu(&opened, instance, out))
                    };
                    let mut outcome = outcome.lock().expect("no thread panics with the outcome");
                    match result {
                        None => outcome.cancelled = true,
                        Some(Ok(())) => {
                            outcome.finished += 1;
                            progress.step(outcome.finished);
                        }
                        Some(Err(problem)) => outcome.fail(k, SliceName::of(instance), problem),
                    }
                    if outcome.cancelled || outcome.failure.is_some() {
                        return;
                    }
                }
            });
        }
    });
    let outcome = outcome.into_inner().expect("no thread panics with the outcome");
    match outcome.failure {
        Some((_, error)) => Err(error),
        None if outcome.cancelled => Err(VolumeError::Cancelled),
        None => Ok(match &series.uneven {
            Some(uneven) => Volume {
                hu: uneven::to_even(&hu, uneven),
                grid: uneven.grid.clone(),
            },
            None => Volume { grid, hu },
        }),
    }
}

/// The files that hold several slices, by path; the others are opened when their turn comes.
type Opened<'a> = BTreeMap<&'a Path, Result<Source, String>>;

fn opened(series: &Series) -> Opened<'_> {
    let mut opened = Opened::new();
    for frame in series.slices.iter().filter(|slice| slice.frame_number.is_some()) {
        opened.entry(&frame.path).or_insert_with(|| Source::open(frame));
    }
    opened
}

fn read_hu(opened: &Opened<'_>, instance: &Instance, out: &mut [i16]) -> Result<(), String> {
    match opened.get(instance.path.as_path()) {
        Some(source) => source.as_ref().map_err(Clone::clone)?.read_hu(instance, out),
        None => Source::open(instance)?.read_hu(instance, out),
    }
}

struct Outcome {
    finished: usize,
    failure: Option<(usize, VolumeError)>,
    cancelled: bool,
}

impl Outcome {
    fn fail(&mut self, k: usize, slice: SliceName, problem: String) {
        if self.failure.as_ref().is_none_or(|(other, _)| k < *other) {
            let number = slice
                .instance_number
                .map(|number| format!("number {number}, "))
                .unwrap_or_default();
            let problem = format!("{number}at index {k}: {problem}");
            self.failure = Some((
                k,
                VolumeError::Slice {
                    sop_instance_uid: slice.sop_instance_uid.to_string(),
                    problem,
                },
            ));
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |n| n.get())
        .min(MAX_THREADS)
}
