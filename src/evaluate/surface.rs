//! How far two masks on one grid are apart: overlap and distances of their surfaces.
//!
//! A surface voxel belongs to the mask and has a face neighbour that does not; what lies outside the grid does not. Distances
//! are exact Euclidean ones between voxel centres, by the lower envelope of parabolas along each axis (Felzenszwalb and
//! Huttenlocher 2012), voxel sizes respected.

use crate::geometry::Vec3;
use crate::mask::Mask;
use ndarray::{Array3, Axis, Zip, s};
use serde::Serialize;

/// Surface voxels this close together count as agreeing.
pub const TOLERANCE_MM: f64 = 2.0;

/// A predicted mask against the true one. An empty prediction has 0 everywhere and no distance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MaskScore {
    /// Dice: twice the shared voxels over the sum of both.
    pub dsc: f64,
    /// 95th percentile (linear) of the distances of all surface voxels of either mask to the other's surface.
    pub hd95_mm: Option<f64>,
    /// Share of all surface voxels of either mask within [`TOLERANCE_MM`] of the other's surface.
    pub surface_dsc: f64,
}

/// Compares two masks of one grid with the given distances between voxel centres (i, j, k).
pub fn compare(predicted: Option<&Mask>, truth: &Mask, spacing_mm: Vec3) -> MaskScore {
    let Some(predicted) = predicted else {
        return MaskScore {
            dsc: 0.0,
            hd95_mm: None,
            surface_dsc: 0.0,
        };
    };
    let [a, b] = in_one_block(predicted, truth);
    let count = |mask: &Array3<bool>| mask.iter().filter(|v| **v).count() as f64;
    let shared = Zip::from(&a).and(&b).fold(0usize, |n, a, b| n + usize::from(*a && *b));
    let dsc = 2.0 * shared as f64 / (count(&a) + count(&b));
    let [a, b] = [surface(&a), surface(&b)];
    let mut distances = distances(&a, &b, spacing_mm);
    distances.extend(self::distances(&b, &a, spacing_mm));
    let near = distances.iter().filter(|d| **d <= TOLERANCE_MM).count();
    MaskScore {
        dsc,
        hd95_mm: percentile(&mut distances, 0.95),
        surface_dsc: near as f64 / distances.len().max(1) as f64,
    }
}

/// Both masks in the smallest block that holds both.
fn in_one_block(a: &Mask, b: &Mask) -> [Array3<bool>; 2] {
    let end = |mask: &Mask| {
        let (k, j, i) = mask.voxels.dim();
        [mask.offset[0] + i, mask.offset[1] + j, mask.offset[2] + k]
    };
    let (ends, low) = ([end(a), end(b)], [0, 1, 2].map(|n| a.offset[n].min(b.offset[n])));
    let [i, j, k] = [0, 1, 2].map(|n| ends[0][n].max(ends[1][n]) - low[n]);
    [a, b].map(|mask| {
        let mut block = Array3::from_elem((k, j, i), false);
        let [i, j, k] = [0, 1, 2].map(|n| mask.offset[n] - low[n]);
        let (nk, nj, ni) = mask.voxels.dim();
        block
            .slice_mut(s![k..k + nk, j..j + nj, i..i + ni])
            .assign(&mask.voxels);
        block
    })
}

fn surface(mask: &Array3<bool>) -> Array3<bool> {
    let inside = |at: [usize; 3]| mask.get(at).copied().unwrap_or(false);
    Array3::from_shape_fn(mask.dim(), |(k, j, i)| {
        // one below 0 wraps to a place far outside, which is background as it should be
        let [below, above] = [-1isize, 1].map(|step| [k, j, i].map(|n| n.wrapping_add_signed(step)));
        mask[[k, j, i]]
            && [below, above]
                .iter()
                .any(|n| !(inside([n[0], j, i]) && inside([k, n[1], i]) && inside([k, j, n[2]])))
    })
}

/// From every voxel of `from` to the nearest of `to`, millimetres.
fn distances(from: &Array3<bool>, to: &Array3<bool>, spacing_mm: Vec3) -> Vec<f64> {
    let squared = squared_distances(to, spacing_mm);
    let here = from.iter().zip(&squared).filter(|(here, _)| **here);
    here.map(|(_, squared)| squared.sqrt()).collect()
}

/// The squared distance of every voxel to the nearest of the set; infinite when the set is empty.
fn squared_distances(set: &Array3<bool>, [i, j, k]: Vec3) -> Array3<f64> {
    let mut squared = set.mapv(|v| if v { 0.0 } else { f64::INFINITY });
    let mut envelope = Envelope::default();
    for (axis, step_mm) in [k, j, i].into_iter().enumerate() {
        let mut line = vec![0.0; set.len_of(Axis(axis))];
        for mut lane in squared.lanes_mut(Axis(axis)) {
            line.iter_mut().zip(&lane).for_each(|(to, from)| *to = *from);
            envelope.lower(&line, step_mm);
            lane.iter_mut().enumerate().for_each(|(x, to)| {
                *to = envelope.at(&line, x, step_mm);
            });
        }
    }
    squared
}

/// The lowest of the parabolas `step²(x − q)² + f(q)`: which one holds from where on.
#[derive(Default)]
struct Envelope {
    roots: Vec<usize>,
    starts: Vec<f64>,
    holds: usize,
}

impl Envelope {
    fn lower(&mut self, f: &[f64], step_mm: f64) {
        self.roots.clear();
        self.starts.clear();
        self.holds = 0;
        let square = step_mm * step_mm;
        for (q, height) in f.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let mut start = f64::NEG_INFINITY;
            while let Some(p) = self.roots.last().copied() {
                let (a, b) = (p as f64, q as f64);
                start = ((height - f[p]) / square + b * b - a * a) / (2.0 * (b - a));
                if start > self.starts[self.starts.len() - 1] {
                    break;
                }
                self.roots.pop();
                self.starts.pop();
                start = f64::NEG_INFINITY;
            }
            self.roots.push(q);
            self.starts.push(start);
        }
    }

    /// The envelope at x; to be asked for ascending x.
    fn at(&mut self, f: &[f64], x: usize, step_mm: f64) -> f64 {
        while self.starts.get(self.holds + 1).is_some_and(|start| *start < x as f64) {
            self.holds += 1;
        }
        self.roots
            .get(self.holds)
            .map_or(f64::INFINITY, |q| f[*q] + (step_mm * (x as f64 - *q as f64)).powi(2))
    }
}

/// Between the two nearest ranks linearly; `None` of nothing.
fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = share * (values.len().checked_sub(1)?) as f64;
    let (low, high) = (values[rank.floor() as usize], values[rank.ceil() as usize]);
    Some(low + (high - low) * rank.fract())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::STRUCTURES;

    const SPACING_MM: Vec3 = [1.0, 2.0, 5.0];

    fn mask(inside: impl Fn([usize; 3]) -> bool) -> Mask {
        let full = Array3::from_shape_fn((12, 20, 30), |(k, j, i)| inside([i, j, k]));
        Mask::from_full(&STRUCTURES[0], full.view()).unwrap()
    }

    #[test]
    fn distances_are_those_of_trying_every_pair() {
        // scattered without pattern, but the same each time
        let scattered = |seed: usize| {
            Array3::from_shape_fn((7, 9, 11), |(k, j, i)| {
                (seed + 7 * k + 13 * j + 29 * i + k * j * i).wrapping_mul(2_654_435_761) >> 7 & 63 == 0
            })
        };
        let (a, b) = (scattered(1), scattered(1000));
        let mm = |(k, j, i): (usize, usize, usize)| [i as f64 * 1.0, j as f64 * 2.0, k as f64 * 5.0];
        let places = |set: &Array3<bool>| -> Vec<Vec3> {
            let inside = set.indexed_iter().filter(|(_, v)| **v);
            inside.map(|(at, _)| mm(at)).collect()
        };
        let (from, to) = (places(&a), places(&b));
        assert!(from.len() > 3 && to.len() > 3);
        let nearest = |p: &Vec3| {
            let d2 = |q: &Vec3| (0..3).map(|n| (p[n] - q[n]).powi(2)).sum::<f64>();
            to.iter().map(d2).fold(f64::INFINITY, f64::min).sqrt()
        };
        for (fast, slow) in distances(&a, &b, SPACING_MM).iter().zip(from.iter().map(nearest)) {
            assert!((fast - slow).abs() < 1e-9, "{fast} {slow}");
        }
    }

    #[test]
    fn equal_masks_agree_and_an_empty_one_counts_as_nothing() {
        let cube = mask(|at| at.iter().all(|v| (3..8).contains(v)));
        let same = compare(Some(&cube), &cube, SPACING_MM);
        assert_eq!((same.dsc, same.hd95_mm, same.surface_dsc), (1.0, Some(0.0), 1.0));
        let empty = compare(None, &cube, SPACING_MM);
        assert_eq!((empty.dsc, empty.hd95_mm, empty.surface_dsc), (0.0, None, 0.0));
    }

    #[test]
    fn a_box_moved_along_an_axis_is_that_far_off() {
        // full slabs across the grid in k, so that only their two faces and their rims count
        let slab = |from: usize| mask(move |[_, _, k]| (from..from + 2).contains(&k));
        let moved = compare(Some(&slab(5)), &slab(4), SPACING_MM);
        assert!((moved.dsc - 0.5).abs() < 1e-12);
        assert_eq!(moved.hd95_mm, Some(5.0));
        // every voxel of a slab two thick is surface: half of each lies on the other
        assert!((moved.surface_dsc - 0.5).abs() < 1e-12);
        let aside = compare(
            Some(&mask(|[i, _, _]| (10..20).contains(&i))),
            &mask(|[i, _, _]| (11..21).contains(&i)),
            SPACING_MM,
        );
        assert!(aside.surface_dsc == 1.0 && (aside.dsc - 0.9).abs() < 1e-12);
    }

    #[test]
    fn percentiles_lie_between_ranks() {
        assert_eq!(percentile(&mut [3.0, 1.0], 0.95), Some(2.9));
        assert_eq!(percentile(&mut [], 0.95), None);
    }
}
