//! Slices that do not lie evenly → the even stack that organs are found on ([`Uneven`]).
//!
//! Both stacks lie on one line with the same rows and columns, so a voxel moves along k only.

use crate::series::Uneven;
use ndarray::{Array3, Axis, Zip};

/// HU of the even stack, linear between the slices at hand `[k, j, i]`.
pub fn to_even(slices: &Array3<i16>, uneven: &Uneven) -> Array3<i16> {
    let mut even = Array3::from_elem(uneven.grid.shape(), 0);
    for (n, mut out) in even.outer_iter_mut().enumerate() {
        let height = n as f64;
        let above = uneven
            .at
            .partition_point(|at| *at < height)
            .clamp(1, uneven.at.len() - 1);
        let (low, high) = (uneven.at[above - 1], uneven.at[above]);
        let part = ((height - low) / (high - low)).clamp(0.0, 1.0) as f32;
        let pair = [above - 1, above].map(|k| slices.index_axis(Axis(0), k));
        Zip::from(&mut out).and(&pair[0]).and(&pair[1]).for_each(|out, a, b| {
            let (a, b) = (f32::from(*a), f32::from(*b));
            *out = (a + (b - a) * part).round() as i16;
        });
    }
    even
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_slice_is_interpolated_and_the_others_are_themselves() {
        let slices = Array3::from_shape_fn((3, 2, 2), |(k, j, i)| [0, 100, 300][k] + (j * 2 + i) as i16);
        let even = to_even(&slices, &Uneven::at_steps(&[0.0, 1.0, 3.0], [2, 2, 4]));
        assert_eq!(even.slice(ndarray::s![.., 1, 1]).to_vec(), [3, 103, 203, 303]);
    }
}
