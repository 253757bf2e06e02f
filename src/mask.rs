//! Voxels that belong to a structure or region, on the stored grid of the series.

mod uneven;

pub use crate::mask::uneven::onto_slices;

use crate::geometry::Vec3;
use crate::structure::Structure;
use ndarray::{Array3, ArrayView3, ArrayViewMut2, s};

/// Voxels as the smallest block that holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Grid index (i, j, k) of the block's first voxel.
    pub offset: [usize; 3],
    /// `[k, j, i]` relative to `offset`; never empty, and touches all six faces.
    pub voxels: Array3<bool>,
}

impl Block {
    /// Crops an array `[k, j, i]` whose first voxel is grid index `offset` (i, j, k) to its true voxels; `None` when there are none.
    pub fn crop(offset: [usize; 3], whole: ArrayView3<'_, bool>) -> Option<Self> {
        let mut bounds: Option<[[usize; 2]; 3]> = None;
        for ((k, j, i), _) in whole.indexed_iter().filter(|(_, v)| **v) {
            let at = [i, j, k];
            let bounds = bounds.get_or_insert(at.map(|v| [v, v]));
            for (bound, at) in bounds.iter_mut().zip(at) {
                *bound = [bound[0].min(at), bound[1].max(at)];
            }
        }
        let [i, j, k] = bounds?;
        Some(Self {
            offset: [offset[0] + i[0], offset[1] + j[0], offset[2] + k[0]],
            voxels: whole.slice(s![k[0]..=k[1], j[0]..=j[1], i[0]..=i[1]]).to_owned(),
        })
    }

    /// Both together.
    pub fn union(&self, other: &Self) -> Self {
        let end = |block: &Self, axis: usize| block.offset[axis] + block.voxels.len_of(ndarray::Axis(2 - axis));
        let low = [0, 1, 2].map(|axis| self.offset[axis].min(other.offset[axis]));
        let size = [0, 1, 2].map(|axis| end(self, axis).max(end(other, axis)) - low[axis]);
        let mut voxels = Array3::from_elem((size[2], size[1], size[0]), false);
        for block in [self, other] {
            let at = |axis: usize| block.offset[axis] - low[axis]..end(block, axis) - low[axis];
            let mut part = voxels.slice_mut(s![at(2), at(1), at(0)]);
            part.zip_mut_with(&block.voxels, |v, own| *v |= *own);
        }
        Self { offset: low, voxels }
    }

    pub fn voxel_count(&self) -> usize {
        self.voxels.iter().filter(|v| **v).count()
    }

    /// Grid indices (i, j, k) of the true voxels.
    pub fn indices(&self) -> impl Iterator<Item = [usize; 3]> + '_ {
        indices(self.offset, &self.voxels)
    }
}

fn indices([i0, j0, k0]: [usize; 3], voxels: &Array3<bool>) -> impl Iterator<Item = [usize; 3]> + '_ {
    let inside = voxels.indexed_iter().filter(|(_, v)| **v);
    inside.map(move |((k, j, i), _)| [i0 + i, j0 + j, k0 + k])
}

/// The mean of grid indices (i, j, k); `None` of none.
pub fn centre(indices: impl Iterator<Item = [usize; 3]>) -> Option<Vec3> {
    let (mut sum, mut count) = ([0usize; 3], 0usize);
    for at in indices {
        sum = [0, 1, 2].map(|axis| sum[axis] + at[axis]);
        count += 1;
    }
    (count > 0).then(|| sum.map(|sum| sum as f64 / count as f64))
}

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
    pub fn from_full(structure: &'static Structure, full: ArrayView3<'_, bool>) -> Option<Self> {
        Self::from_block(structure, [0; 3], full)
    }

    /// The same for a block `[k, j, i]` whose first voxel is grid index `offset` (i, j, k).
    pub fn from_block(structure: &'static Structure, offset: [usize; 3], block: ArrayView3<'_, bool>) -> Option<Self> {
        Block::crop(offset, block).map(|block| Self::of(structure, block))
    }

    pub fn of(structure: &'static Structure, Block { offset, voxels }: Block) -> Self {
        Self {
            structure,
            offset,
            voxels,
        }
    }

    pub fn voxel_count(&self) -> usize {
        self.voxels.iter().filter(|v| **v).count()
    }

    /// Grid indices (i, j, k) of the true voxels.
    pub fn indices(&self) -> impl Iterator<Item = [usize; 3]> + '_ {
        indices(self.offset, &self.voxels)
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

/// Keeps the largest piece whose voxels touch by faces (6-connectivity) and clears the rest; of equals, the first in memory.
/// Returns how many voxels were cleared.
pub fn keep_largest_piece(voxels: &mut Array3<bool>) -> usize {
    let shape = voxels.dim();
    let mut unseen = voxels.clone();
    let mut best: Vec<[usize; 3]> = Vec::new();
    for k in 0..shape.0 {
        for j in 0..shape.1 {
            for i in 0..shape.2 {
                if unseen[[k, j, i]] {
                    let piece = flood(&mut unseen, [k, j, i]);
                    if piece.len() > best.len() {
                        best = piece;
                    }
                }
            }
        }
    }
    let before = voxels.iter().filter(|v| **v).count();
    voxels.fill(false);
    for at in &best {
        voxels[*at] = true;
    }
    before - best.len()
}

/// Takes the piece that holds `start` out of `unseen`.
fn flood(unseen: &mut Array3<bool>, start: [usize; 3]) -> Vec<[usize; 3]> {
    unseen[start] = false;
    let mut piece = vec![start];
    let mut next = 0;
    while let Some(at) = piece.get(next).copied() {
        next += 1;
        for axis in 0..3 {
            for step in [usize::MAX, 1] {
                let mut to = at;
                to[axis] = to[axis].wrapping_add(step);
                if let Some(free @ true) = unseen.get_mut(to) {
                    *free = false;
                    piece.push(to);
                }
            }
        }
    }
    piece
}

/// Fills the background of a slice that is cut off from its border (4-connectivity).
pub fn fill_holes(mut slice: ArrayViewMut2<'_, bool>) {
    let (rows, columns) = slice.dim();
    let mut outside = slice.map(|v| *v);
    let border = (0..columns)
        .flat_map(|i| [[0, i], [rows - 1, i]])
        .chain((0..rows).flat_map(|j| [[j, 0], [j, columns - 1]]));
    // `outside` starts as the mask itself, so a flood stops at it, and ends as mask plus all that the border reaches.
    let mut open: Vec<[usize; 2]> = Vec::new();
    let mut visit = |at: [usize; 2], open: &mut Vec<[usize; 2]>| {
        if let Some(seen @ false) = outside.get_mut(at) {
            *seen = true;
            open.push(at);
        }
    };
    border.for_each(|at| visit(at, &mut open));
    while let Some([j, i]) = open.pop() {
        for to in [[j.wrapping_sub(1), i], [j + 1, i], [j, i.wrapping_sub(1)], [j, i + 1]] {
            visit(to, &mut open);
        }
    }
    slice.zip_mut_with(&outside, |v, outside| *v |= !*outside);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::STRUCTURES;

    fn block(rows: &[&[&str]]) -> Array3<bool> {
        let (k, j, i) = (rows.len(), rows[0].len(), rows[0][0].len());
        Array3::from_shape_fn((k, j, i), |(k, j, i)| rows[k][j].as_bytes()[i] == b'#')
    }

    #[test]
    fn a_mask_is_cropped_and_still_knows_its_place() {
        let mut full = Array3::from_elem((5, 6, 7), false);
        for at in [[1, 2, 3], [3, 4, 3], [2, 2, 5]] {
            full[at] = true;
        }
        let mask = Mask::from_full(&STRUCTURES[0], full.view()).unwrap();
        assert_eq!((mask.offset, mask.voxels.dim()), ([3, 2, 1], (3, 3, 3)));
        for ((k, j, i), v) in full.indexed_iter() {
            assert_eq!(mask.contains([i, j, k]), *v);
        }
        assert_eq!(mask.slices().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(Mask::from_full(&STRUCTURES[0], Array3::from_elem((2, 2, 2), false).view()).is_none());
    }

    #[test]
    fn blocks_apart_are_joined_and_list_their_voxels() {
        let part = |offset, rows: &[&[&str]]| Block::crop(offset, block(rows).view()).unwrap();
        let [a, b] = [part([2, 0, 1], &[&["#.", "##"]]), part([0, 1, 0], &[&["#"]])];
        let both = a.union(&b);
        assert_eq!((both.offset, both.voxels.dim()), ([0, 0, 0], (2, 2, 4)));
        assert_eq!(
            both.indices().collect::<Vec<_>>(),
            [[0, 1, 0], [2, 0, 1], [2, 1, 1], [3, 1, 1]]
        );
        assert_eq!(both.voxel_count(), 4);
        assert_eq!(b.union(&a), both);
    }

    #[test]
    fn the_largest_piece_is_joined_by_faces_only() {
        let mut voxels = block(&[
            &["##..", "..#.", "...#"],
            &["....", "..#.", "...#"],
            &["....", "..#.", "...."],
        ]);
        assert_eq!(keep_largest_piece(&mut voxels), 4);
        assert_eq!(
            voxels,
            block(&[
                &["....", "..#.", "...."],
                &["....", "..#.", "...."],
                &["....", "..#.", "...."]
            ])
        );
        let mut empty = block(&[&["..", ".."]]);
        assert_eq!(keep_largest_piece(&mut empty), 0);
    }

    #[test]
    fn holes_are_filled_but_bays_and_diagonal_gaps_are_kept_right() {
        let mut voxels = block(&[&["#####", "#.#..", "#####", "#...#", "##.##"]]);
        fill_holes(voxels.index_axis_mut(ndarray::Axis(0), 0));
        assert_eq!(voxels, block(&[&["#####", "###..", "#####", "#...#", "##.##"]]));
    }
}
