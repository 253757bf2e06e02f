//! Voxels that belong to a structure, on the stored grid of the series.

use crate::structure::Structure;
use ndarray::Array3;

/// A structure's voxels, kept as the smallest block that holds them.
#[derive(Clone, Debug)]
pub struct Mask {
    pub structure: &'static Structure,
    /// Grid index (i, j, k) of the block's first voxel.
    pub offset: [usize; 3],
    /// `[k, j, i]` relative to `offset`; never empty, and touches all six faces.
    pub voxels: Array3<bool>,
}

impl Mask {
    /// Crops a full-grid array `[k, j, i]` to its true voxels; `None` when there are none.
    pub fn from_full(structure: &'static Structure, full: ndarray::ArrayView3<'_, bool>) -> Option<Self> {
        let _ = (structure, full);
        todo!()
    }
    pub fn voxel_count(&self) -> usize {
        self.voxels.iter().filter(|v| **v).count()
    }
    pub fn contains(&self, [i, j, k]: [usize; 3]) -> bool {
        let at = |v: usize, axis: usize| v.checked_sub(self.offset[axis]);
        match (at(k, 2), at(j, 1), at(i, 0)) {
            (Some(k), Some(j), Some(i)) => self.voxels.get([k, j, i]).copied().unwrap_or(false),
            _ => false,
        }
    }
    /// Slices k that hold at least one voxel of the mask.
    pub fn slices(&self) -> impl Iterator<Item = usize> + '_ {
        self.voxels
            .outer_iter()
            .enumerate()
            .filter(|(_, s)| s.iter().any(|v| *v))
            .map(|(k, _)| k + self.offset[2])
    }
}
