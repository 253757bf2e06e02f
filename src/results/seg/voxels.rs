//! The voxels of masks as rows, eight to a byte, and whether two masks claim the same one.

use crate::mask::Mask;
use crate::results::Source;
use ndarray::{CowArray, Ix3};

/// A mask's voxels row by row, in the coordinates of the grid.
pub(super) struct Rows<'a> {
    voxels: CowArray<'a, bool, Ix3>,
    /// Grid index (i, j, k) of the first voxel.
    offset: [usize; 3],
}

impl<'a> Rows<'a> {
    pub fn of(mask: &'a Mask) -> Self {
        Self {
            voxels: mask.voxels.as_standard_layout(),
            offset: mask.offset,
        }
    }

    /// The first column of every row.
    pub fn column(&self) -> usize {
        self.offset[0]
    }

    /// Row number and voxels of slice k; none where the mask does not reach.
    pub fn on(&self, k: usize) -> impl Iterator<Item = (usize, &[bool])> {
        let (slices, rows, columns) = self.voxels.dim();
        let voxels = self.voxels.as_slice().expect("standard layout");
        let slice = k.checked_sub(self.offset[2]).filter(|k| *k < slices);
        let slice = slice.map_or(&[][..], |k| &voxels[k * rows * columns..][..rows * columns]);
        let first = self.offset[1];
        slice
            .chunks_exact(columns)
            .enumerate()
            .map(move |(j, row)| (first + j, row))
    }
}

/// Eight voxels as a byte, the first in the least significant bit; fewer leave the upper bits clear.
pub(super) fn pack(voxels: &[bool]) -> u8 {
    // Each byte of 0 or 1 lands on its own bit of the product's top byte, and no two others meet there.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    match <[bool; 8]>::try_from(voxels) {
        Ok(eight) => (u64::from_le_bytes(eight.map(u8::from)).wrapping_mul(GATHER) >> 56) as u8,
        Err(_) => voxels
            .iter()
            .enumerate()
            .fold(0, |byte, (n, voxel)| byte | u8::from(*voxel) << n),
    }
}

/// ORs a row into a stream of bits at bit `first`, and says whether one of its bits was set already.
pub(super) fn put_bits(bits: &mut [u8], first: usize, row: &[bool]) -> bool {
    let (shift, mut at) = (first % 8, first / 8);
    let mut met = 0;
    for eight in row.chunks(8) {
        let [low, high] = (u16::from(pack(eight)) << shift).to_le_bytes();
        met |= bits[at] & low;
        bits[at] |= low;
        if high != 0 {
            met |= bits[at + 1] & high;
            bits[at + 1] |= high;
        }
        at += 1;
    }
    met != 0
}

/// Two masks that claim the same voxels.
pub(super) struct Overlap {
    pub masks: [usize; 2],
    pub voxels: usize,
}

/// The first two masks that overlap, from the lowest slice up and then in their order.
pub(super) fn overlap(source: &Source<'_>) -> Option<Overlap> {
    let [columns, rows, slices] = source.series.grid.size;
    let all: Vec<Rows<'_>> = source.masks.iter().map(Rows::of).collect();
    let mut claimed = vec![0u8; (columns * rows).div_ceil(8)];
    for k in 0..slices {
        claimed.fill(0);
        for (n, mask) in all.iter().enumerate() {
            for (j, row) in mask.on(k) {
                if put_bits(&mut claimed, j * columns + mask.column(), row) {
                    return first_shared(source.masks, n);
                }
            }
        }
    }
    None
}

fn first_shared(masks: &[Mask], later: usize) -> Option<Overlap> {
    let shared = |earlier: usize| {
        let [i0, j0, k0] = masks[later].offset;
        let inside = masks[later].voxels.indexed_iter().filter(|(_, inside)| **inside);
        inside
            .filter(|((k, j, i), _)| masks[earlier].contains([i0 + i, j0 + j, k0 + k]))
            .count()
    };
    (0..later)
        .map(|earlier| Overlap {
            masks: [earlier, later],
            voxels: shared(earlier),
        })
        .find(|overlap| overlap.voxels > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_stand_where_they_were_put(row in prop::collection::vec(any::<bool>(), 1..40), first in 0usize..30) {
            let mut bits = vec![0u8; 10];
            prop_assert!(!put_bits(&mut bits, first, &row));
            for at in 0..80usize {
                let wanted = at.checked_sub(first).is_some_and(|n| row.get(n) == Some(&true));
                prop_assert_eq!(bits[at / 8] >> (at % 8) & 1 == 1, wanted);
            }
            prop_assert_eq!(put_bits(&mut bits, first, &row), row.contains(&true));
        }
    }
}
