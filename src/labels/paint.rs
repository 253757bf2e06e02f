//! Pixels of a frame → pixels of a slice, and the windows they take.

use crate::labels::frames::Run;
use crate::labels::plane::Plane;
use ndarray::{Array2, ArrayViewMut2, s};

/// Columns and rows, each from and to.
pub type Window = [[usize; 2]; 2];

/// The pixels within `size` whose centres may lie within the points' bounds.
pub fn bounds(points: impl Iterator<Item = [f64; 2]>, size: [usize; 2]) -> Option<Window> {
    let mut range = [[f64::INFINITY, f64::NEG_INFINITY]; 2];
    for point in points {
        for (range, x) in range.iter_mut().zip(point) {
            *range = [range[0].min(x), range[1].max(x)];
        }
    }
    let clip = |axis: usize| {
        let [from, to] = range[axis];
        let last = size[axis] as f64;
        [
            from.floor().clamp(0.0, last) as usize,
            (to + 1.0).ceil().clamp(0.0, last) as usize,
        ]
    };
    let window = [clip(0), clip(1)];
    window.iter().all(|[from, to]| from < to).then_some(window)
}

/// Columns and rows of the runs.
pub fn window_of(runs: &[Run]) -> Option<Window> {
    let rows = runs.iter().map(|run| usize::from(run.row));
    let columns = [
        runs.iter().map(|run| run.from).min()?,
        runs.iter().map(|run| run.to).max()?,
    ];
    Some([columns.map(usize::from), [rows.clone().min()?, rows.max()? + 1]])
}

/// Sets the pixels of the runs; `(i0, j0)` is the index of the slice's first pixel.
pub fn copy(runs: &[Run], mut slice: ArrayViewMut2<'_, bool>, [i0, j0]: [usize; 2]) {
    for run in runs {
        let [row, from, to] = [run.row, run.from, run.to].map(usize::from);
        slice.slice_mut(s![row - j0, from - i0..to - i0]).fill(true);
    }
}

/// Each pixel of the slice takes the value of the frame's pixel nearest to it.
pub fn resample(
    runs: &[Run],
    frame: &Plane,
    slice_plane: &Plane,
    mut slice: ArrayViewMut2<'_, bool>,
    [i0, j0]: [usize; 2],
) {
    let Some([[column, to], [row, end]]) = window_of(runs) else {
        return;
    };
    let mut picture = Array2::from_elem((end - row, to - column), false);
    copy(runs, picture.view_mut(), [column, row]);
    for ((j, i), voxel) in slice.indexed_iter_mut() {
        let at = frame.pixel(slice_plane.point([(i + i0) as f64, (j + j0) as f64]));
        let index = |x: f64, from: usize| {
            let place = (x + 0.5).floor() - from as f64;
            (place >= 0.0).then_some(place as usize)
        };
        let pixel = index(at[1], row).zip(index(at[0], column));
        *voxel |= pixel.is_some_and(|pixel| picture.get(pixel).copied().unwrap_or(false));
    }
}
