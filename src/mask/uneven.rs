//! A mask of an even stack → the uneven slices it was interpolated between ([`Uneven`]).

use crate::mask::Mask;
use crate::series::Uneven;
use ndarray::{Array2, Array3, ArrayView2, Axis, Zip, s};

/// A slice this near to an even one, in steps, is that one.
const SAME: f64 = 0.05;

/// A mask of the even stack on the slices themselves: between two even slices the shape half way from one to the other, by their
/// distances from its edge. `None` when no slice shows it.
pub fn onto_slices(mask: &Mask, uneven: &Uneven) -> Option<Mask> {
    let [i0, j0, k0] = mask.offset;
    let (deep, rows, columns) = mask.voxels.dim();
    let own = |n: usize| {
        n.checked_sub(k0)
            .filter(|n| *n < deep)
            .map(|n| mask.voxels.index_axis(Axis(0), n))
    };
    let mut voxels = Array3::from_elem((uneven.at.len(), rows, columns), false);
    for (at, mut out) in uneven.at.iter().zip(voxels.outer_iter_mut()) {
        let low = at.floor();
        let part = at - low;
        let pair = [own(low as usize), own(low as usize + 1)];
        let nearest = if part < 0.5 { pair[0] } else { pair[1] };
        match pair {
            [Some(a), Some(b)] if (SAME..=1.0 - SAME).contains(&part) && !is_empty(a) && !is_empty(b) => {
                out.assign(&between(a, b, part as f32));
            }
            _ => nearest.into_iter().for_each(|shape| out.assign(&shape)),
        }
    }
    Mask::from_block(mask.structure, [i0, j0, 0], voxels.view())
}

fn is_empty(shape: ArrayView2<'_, bool>) -> bool {
    !shape.iter().any(|inside| *inside)
}

/// The shape at `part` of the way from one to the other.
fn between(a: ArrayView2<'_, bool>, b: ArrayView2<'_, bool>, part: f32) -> Array2<bool> {
    let (a, b) = (depth(a), depth(b));
    Zip::from(&a).and(&b).map_collect(|a, b| a + (b - a) * part > 0.0)
}

/// Pixels from the nearest pixel of the other kind: positive inside, negative outside, from half a pixel on.
fn depth(shape: ArrayView2<'_, bool>) -> Array2<f32> {
    let (rows, columns) = shape.dim();
    // A rim of outside pixels, for the mask is cropped to what is inside.
    let mut framed = Array2::from_elem((rows + 2, columns + 2), false);
    framed.slice_mut(s![1..=rows, 1..=columns]).assign(&shape);
    let (inward, outward) = (squared_distance(&framed, false), squared_distance(&framed, true));
    let depth = Zip::from(&framed)
        .and(&inward)
        .and(&outward)
        .map_collect(|inside, inward, outward| match inside {
            true => inward.sqrt() - 0.5,
            false => 0.5 - outward.sqrt(),
        });
    depth.slice(s![1..=rows, 1..=columns]).to_owned()
}

/// Squared distance of every pixel to the nearest of this kind, exactly, by two passes of parabolas (Felzenszwalb and
/// Huttenlocher).
fn squared_distance(shape: &Array2<bool>, kind: bool) -> Array2<f32> {
    const FAR: f32 = 1e9;
    let mut distance = shape.map(|pixel| if *pixel == kind { 0.0 } else { FAR });
    for axis in [Axis(0), Axis(1)] {
        for mut lane in distance.lanes_mut(axis) {
            let values: Vec<f32> = lane.iter().copied().collect();
            // The parabolas that are lowest somewhere, and from where on each is.
            let mut lowest: Vec<(usize, f32)> = Vec::new();
            for (q, value) in values.iter().enumerate() {
                let meets = |p: usize| {
                    let (p_at, q_at) = (p as f32, q as f32);
                    ((value + q_at * q_at) - (values[p] + p_at * p_at)) / (2.0 * (q_at - p_at))
                };
                while lowest.last().is_some_and(|(p, from)| meets(*p) <= *from) {
                    lowest.pop();
                }
                let from = lowest.last().map_or(f32::NEG_INFINITY, |(p, _)| meets(*p));
                lowest.push((q, from));
            }
            let mut n = 0;
            for (x, out) in lane.iter_mut().enumerate() {
                while n + 1 < lowest.len() && lowest[n + 1].1 <= x as f32 {
                    n += 1;
                }
                let away = x as f32 - lowest[n].0 as f32;
                *out = away * away + values[lowest[n].0];
            }
        }
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure;

    #[test]
    fn distances_are_exact() {
        let shape = Array2::from_shape_fn((17, 23), |(j, i)| (j * 7 + i * 5) % 11 == 0 && (j + i) % 3 != 0);
        let found = squared_distance(&shape, true);
        for ((j, i), distance) in found.indexed_iter() {
            let all = shape.indexed_iter().filter(|(_, inside)| **inside);
            let nearest = all.map(|((y, x), _)| y.abs_diff(j).pow(2) + x.abs_diff(i).pow(2)).min();
            assert_eq!(Some(*distance as usize), nearest);
        }
    }

    #[test]
    fn a_cone_keeps_its_width_on_slices_between_the_even_ones() {
        let size = [64, 64, 20];
        // Its radius at height z is 4 + z.
        let inside = |z: f64, j: usize, i: usize| (j as f64 - 31.5).hypot(i as f64 - 31.5) <= 4.0 + z;
        let full = Array3::from_shape_fn((20, 64, 64), |(k, j, i)| inside(k as f64, j, i));
        let mask = Mask::from_full(structure::by_name("liver").unwrap(), full.view()).unwrap();
        let at = [0.0, 2.4, 5.5, 6.02, 9.7, 18.3];
        let back = onto_slices(&mask, &Uneven::at_steps(&at, size)).unwrap();
        for (k, z) in at.iter().enumerate() {
            let wanted = Array2::from_shape_fn((64, 64), |(j, i)| inside(*z, j, i));
            let (mut wrong, mut all) = (0, 0);
            for ((j, i), wanted) in wanted.indexed_iter() {
                wrong += usize::from(back.contains([i, j, k]) != *wanted);
                all += usize::from(*wanted);
            }
            assert!(wrong * 100 <= all * 6, "at {z}: {wrong} of {all}");
        }
    }
}
