//! Polygons → voxels by the even-odd rule at voxel centres.

use ndarray::ArrayViewMut2;

/// Coordinates are rounded to this fraction of a voxel: decimal text and rounding errors then cannot decide about a centre that
/// lies exactly on an edge.
const FRACTION: f64 = 65536.0;
/// Crossings of edges with rows on one slice. A body outline has a few thousand.
const MAX_CROSSINGS: usize = 1 << 24;

/// Sets the voxels of `slice` `[j, i]` whose centres the polygons, in voxels (i, j) of the slice, enclose an odd number of times.
/// `offset` is the index (i, j) of the slice's first voxel. A centre on a left or upper edge is inside, on a right or lower one not.
/// False when the polygons are too intricate to be real.
pub fn fill(mut slice: ArrayViewMut2<'_, bool>, offset: [usize; 2], polygons: &[&[[f64; 2]]]) -> bool {
    let (rows, columns) = slice.dim();
    let mut crossings: Vec<Vec<f64>> = vec![Vec::new(); rows];
    let mut count = 0;
    for polygon in polygons {
        let last = polygon.last().copied().unwrap_or_default();
        let starts = std::iter::once(last).chain(polygon.iter().copied());
        for (a, b) in starts.zip(polygon.iter().copied()) {
            let place = |p: [f64; 2]| [0, 1].map(|x| (p[x] * FRACTION).round() / FRACTION - offset[x] as f64);
            let (mut a, mut b) = (place(a), place(b));
            // One direction for the two ways of a keyhole, so that they cross a row at the same number.
            if (b[1], b[0]) < (a[1], a[0]) {
                std::mem::swap(&mut a, &mut b);
            }
            let first = a[1].ceil().clamp(0.0, rows as f64) as usize;
            let end = b[1].ceil().clamp(0.0, rows as f64) as usize;
            count += end.saturating_sub(first);
            if count > MAX_CROSSINGS {
                return false;
            }
            for (j, row) in crossings.iter_mut().enumerate().take(end).skip(first) {
                row.push(a[0] + (j as f64 - a[1]) * (b[0] - a[0]) / (b[1] - a[1]));
            }
        }
    }
    for (mut row, mut at) in slice.outer_iter_mut().zip(crossings) {
        at.sort_by(f64::total_cmp);
        for pair in at.chunks_exact(2) {
            let index = |x: f64| x.ceil().clamp(0.0, columns as f64) as usize;
            let (from, to) = (index(pair[0]), index(pair[1]));
            row.slice_mut(ndarray::s![from..to.max(from)]).fill(true);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    fn filled(polygons: &[&[[f64; 2]]]) -> Vec<String> {
        let mut slice = Array2::from_elem((5, 8), false);
        assert!(fill(slice.view_mut(), [0, 0], polygons));
        let line = |row: ndarray::ArrayView1<'_, bool>| row.iter().map(|v| if *v { '#' } else { '.' }).collect();
        slice.outer_iter().map(line).collect()
    }

    #[test]
    fn edges_on_centres_count_on_the_left_and_above() {
        let square: &[[f64; 2]] = &[[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]];
        let expected = ["........", ".###....", ".###....", "........", "........"];
        assert_eq!(filled(&[square]), expected);
        let mut turned = square.to_vec();
        turned.reverse();
        assert_eq!(filled(&[&turned]), expected);
        let shaken: Vec<_> = square.iter().map(|p| p.map(|x| x + 1e-9)).collect();
        assert_eq!(filled(&[&shaken]), expected);
        let neighbour: &[[f64; 2]] = &[[4.0, 1.0], [6.0, 1.0], [6.0, 3.0], [4.0, 3.0]];
        assert_eq!(filled(&[square, neighbour])[1], ".#####..");
    }

    #[test]
    fn a_hole_is_the_same_as_an_inner_contour_and_as_a_keyhole() {
        let expected = [".######.", ".#...##.", ".#...##.", ".######.", "........"];
        let outer: &[[f64; 2]] = &[[0.5, -0.5], [6.5, -0.5], [6.5, 3.5], [0.5, 3.5]];
        let inner: &[[f64; 2]] = &[[1.5, 0.5], [4.5, 0.5], [4.5, 2.5], [1.5, 2.5]];
        assert_eq!(filled(&[outer, inner]), expected);
        // The way in and out runs through centres and lies askew.
        let mut keyhole = outer.to_vec();
        keyhole.push([0.5, -0.5]);
        keyhole.extend(inner.iter().rev().cycle().skip(3).take(5));
        assert_eq!(filled(&[&keyhole]), expected);
    }

    #[test]
    fn what_lies_outside_is_cut_off_and_what_is_wild_does_not_harm() {
        let large: &[[f64; 2]] = &[[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]];
        assert!(filled(&[large]).iter().all(|row| row == "########"));
        let wild: &[[f64; 2]] = &[[1e300, 1e300], [-1e300, 2.0], [0.0, -1e300]];
        filled(&[wild, &[], &[[1.0, 1.0]]]);
        let mut slice = Array2::from_elem((512, 4), false);
        let zigzag: Vec<_> = (0..40000)
            .map(|n| [f64::from(n), if n % 2 == 0 { -1.0 } else { 600.0 }])
            .collect();
        assert!(!fill(slice.view_mut(), [0, 0], &[&zigzag]));
    }
}
