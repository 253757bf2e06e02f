//! A loop on the voxel edges → fewer corners, never farther from the edges than asked, with the same area.
//!
//! Stairs have their mean line through the middles of their steps, so that is where new corners are sought first: a chord from
//! middle to middle leaves equal areas on both sides, where one from corner to corner would shrink or swell the organ. What
//! little area is lost is put back by moving every corner outwards alike; the distance is measured after that.
//!
//! Nothing goes farther than half a voxel, so any reader that asks for voxel centres finds the very same mask. Stairs need nearly
//! that much: below 0.45 of a voxel next to nothing can be left out, at half a voxel more than half of the corners.

use crate::results::contour::{Corner, Polygon};

/// Voxel edges stay within this share of a voxel: then no voxel centre changes sides, whoever fills the polygon.
const MOST_OF_A_VOXEL: f64 = 0.499;
/// Loops with fewer corners are small: nothing is gained, and a lens is not to become a diamond.
const SMALLEST: usize = 12;
/// The search for the next corner ends after so many chords that do not fit.
const PATIENCE: usize = 6;
/// Steps towards the exact area, and the error that may be left.
const STEPS: usize = 5;
const AREA_ERROR: f64 = 1e-9;

/// How far contours may leave the voxel edges, on one plane.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Voxels.
    deviation: f64,
    /// The longer side of a voxel, millimetres: no distance in voxels is longer than so many of these.
    side_mm: f64,
}

impl Tolerance {
    /// From a distance in millimetres, and the width of a column and the height of a row. `None` when every corner is to be kept.
    pub fn new(wanted_mm: f64, [width_mm, height_mm]: [f64; 2]) -> Option<Self> {
        let side_mm = width_mm.max(height_mm);
        (wanted_mm > 0.0).then_some(Self {
            deviation: (wanted_mm / side_mm).min(MOST_OF_A_VOXEL),
            side_mm,
        })
    }
}

/// A polygon with fewer corners, and a distance in millimetres that it nowhere leaves the loop by; `None` where there is none.
pub fn simplify(exact: &[Corner], tolerance: &Tolerance) -> Option<(Polygon, f64)> {
    if exact.len() < SMALLEST {
        return None;
    }
    // Some of the distance is needed to put the area back.
    let shares = [0.995, 0.99, 0.985, 0.98, 0.97, 0.95, 0.9, 0.8];
    let found = shares
        .iter()
        .find_map(|share| chords(exact, share * tolerance.deviation, tolerance.deviation));
    found.map(|(polygon, deviation)| (polygon, deviation * tolerance.side_mm))
}

/// Chooses corners so that every chord passes within `near` of the corners it skips, restores the area, and measures.
fn chords(exact: &[Corner], near: f64, most: f64) -> Option<(Polygon, f64)> {
    let (kept, places) = choose(exact, near);
    if kept.len() < 4 || kept.len() >= exact.len() {
        return None;
    }
    let moved = restore_area(kept.clone(), area(exact))?;
    let count = exact.len();
    let mut deviation = 0.0f64;
    for n in 0..moved.len() {
        let next = (n + 1) % moved.len();
        deviation = deviation.max(distance(moved[n], kept[n]));
        let end = places[next] + if next == 0 { 2 * count } else { 0 };
        for place in (places[n]..=end).filter(|place| place % 2 == 0) {
            deviation = deviation.max(from_segment(exact[place / 2 % count], moved[n], moved[next]));
        }
    }
    (deviation <= most).then_some((moved, deviation))
}

/// Corners of the chords, and their places along the loop: 2n is its nth corner, 2n + 1 the middle of the edge behind it.
fn choose(exact: &[Corner], near: f64) -> (Polygon, Vec<usize>) {
    let count = exact.len();
    let point = |place: usize| {
        let (a, b) = (exact[place / 2 % count], exact[(place / 2 + 1) % count]);
        if place.is_multiple_of(2) {
            a
        } else {
            [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0]
        }
    };
    let fits = |from: usize, to: usize| {
        let skipped = (from + 1..to).filter(|place| place % 2 == 0);
        let (a, b) = (point(from), point(to));
        skipped
            .map(|place| from_segment(point(place), a, b))
            .all(|distance| distance <= near)
    };
    let (first, end) = (1, 1 + 2 * count);
    let mut places = vec![first];
    let mut from = first;
    while from < end {
        // The next place always fits: nothing is skipped. A middle is better than a corner that reaches farther.
        let (mut corner, mut middle, mut failed) = (from + 1, None, 0);
        for to in from + 1..=end {
            match (fits(from, to), to % 2) {
                (true, 0) => corner = to,
                (true, _) => middle = Some(to),
                (false, _) => failed += 1,
            }
            if failed > PATIENCE {
                break;
            }
        }
        from = middle.unwrap_or(corner);
        places.push(from);
    }
    places.pop();
    (places.iter().map(|place| point(*place)).collect(), places)
}

/// Moves every corner along the direction in which the area grows fastest, by the same distance.
fn restore_area(mut polygon: Polygon, wanted: f64) -> Option<Polygon> {
    for _ in 0..STEPS {
        let missing = wanted - area(&polygon);
        if missing.abs() <= AREA_ERROR * wanted.abs() {
            return Some(polygon);
        }
        let count = polygon.len();
        let across = |n: usize| {
            let (before, after) = (polygon[(n + count - 1) % count], polygon[(n + 1) % count]);
            [after[1] - before[1], before[0] - after[0]]
        };
        let directions: Vec<Corner> = (0..count).map(across).collect();
        let lengths: Vec<f64> = directions.iter().map(|[x, y]| x.hypot(*y)).collect();
        let step = 2.0 * missing / lengths.iter().sum::<f64>();
        for (n, corner) in polygon.iter_mut().enumerate().filter(|(n, _)| lengths[*n] > 0.0) {
            let scale = step / lengths[n];
            *corner = [
                corner[0] + scale * directions[n][0],
                corner[1] + scale * directions[n][1],
            ];
        }
    }
    None
}

fn area(polygon: &[Corner]) -> f64 {
    crate::results::contour::area(polygon)
}

fn distance(a: Corner, b: Corner) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn from_segment(point: Corner, a: Corner, b: Corner) -> f64 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let length = along[0] * along[0] + along[1] * along[1];
    let dot = (point[0] - a[0]) * along[0] + (point[1] - a[1]) * along[1];
    let share = if length > 0.0 {
        (dot / length).clamp(0.0, 1.0)
    } else {
        0.0
    };
    distance(point, [a[0] + share * along[0], a[1] + share * along[1]])
}

/// Whether edges of the loops meet anywhere but at the corner they share.
pub fn cross<'a>(loops: impl Iterator<Item = &'a Polygon>) -> bool {
    struct Edge {
        ends: [Corner; 2],
        /// Loop, number in it, and how many that has.
        place: (usize, usize, usize),
    }
    let edges_of = |(l, polygon): (usize, &'a Polygon)| {
        let count = polygon.len();
        (0..count).map(move |n| Edge {
            ends: [polygon[n], polygon[(n + 1) % count]],
            place: (l, n, count),
        })
    };
    let mut edges: Vec<Edge> = loops.enumerate().flat_map(edges_of).collect();
    let left = |edge: &Edge| edge.ends[0][0].min(edge.ends[1][0]);
    let right = |edge: &Edge| edge.ends[0][0].max(edge.ends[1][0]);
    edges.sort_by(|a, b| left(a).total_cmp(&left(b)));
    edges.iter().enumerate().any(|(n, edge)| {
        let near = edges[n + 1..].iter().take_while(|other| left(other) <= right(edge));
        let neighbours = |other: &Edge| {
            let ((l, a, count), (m, b, _)) = (edge.place, other.place);
            l == m && ((a + 1) % count == b || (b + 1) % count == a)
        };
        near.filter(|other| !neighbours(other))
            .any(|other| meet(edge.ends, other.ends))
    })
}

fn meet([a, b]: [Corner; 2], [c, d]: [Corner; 2]) -> bool {
    let turn = |p: Corner, q: Corner, r: Corner| (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]);
    let apart = |axis: usize| {
        let (low, high) = (a[axis].min(b[axis]), a[axis].max(b[axis]));
        high < c[axis].min(d[axis]) || c[axis].max(d[axis]) < low
    };
    !apart(0) && !apart(1) && turn(a, b, c) * turn(a, b, d) <= 0.0 && turn(c, d, a) * turn(c, d, b) <= 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    /// A blob of voxels around the middle of a square, as one slice.
    fn blob(size: usize, waves: &[(f64, f64)]) -> ndarray::Array2<bool> {
        let middle = size as f64 / 2.0;
        ndarray::Array2::from_shape_fn((size, size), |(r, c)| {
            let (x, y) = (c as f64 + 0.5 - middle, r as f64 + 0.5 - middle);
            let angle = y.atan2(x);
            let waves = waves.iter().enumerate();
            let radius = waves.fold(0.6, |radius, (n, (size, phase))| {
                radius + size * ((n + 1) as f64 * angle + phase * TAU).cos()
            });
            x.hypot(y) < radius.max(0.1) * middle
        })
    }

    /// The greatest distance from points spread over `from` to the edges of `to`, millimetres, by trying all.
    fn hausdorff(from: &[Corner], to: &[Corner], spacing: [f64; 2]) -> f64 {
        let mm = |p: Corner| [p[0] * spacing[0], p[1] * spacing[1]];
        let edges = |polygon: &[Corner]| -> Vec<[Corner; 2]> {
            (0..polygon.len())
                .map(|n| [mm(polygon[n]), mm(polygon[(n + 1) % polygon.len()])])
                .collect()
        };
        let (from, to) = (edges(from), edges(to));
        let spread = from.iter().flat_map(|[a, b]| {
            (0..8)
                .map(|n| n as f64 / 8.0)
                .map(|t| [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])])
        });
        let nearest = |p: Corner| to.iter().map(|[a, b]| from_segment(p, *a, *b)).fold(f64::MAX, f64::min);
        spread.map(nearest).fold(0.0, f64::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn no_contour_leaves_the_edges_farther_than_said(
            size in 20usize..70,
            waves in prop::collection::vec((-0.15f64..0.15, 0.0f64..1.0), 1..6),
            wanted_mm in 0.05f64..1.0,
            width in 0.5f64..1.5,
            height in 0.5f64..1.5,
        ) {
            let slice = blob(size, &waves);
            let spacing = [width, height];
            let tolerance = Tolerance::new(wanted_mm, spacing).unwrap();
            let exact = crate::results::contour::loops(slice.view());
            for polygon in exact.iter().flatten() {
                let Some((simple, said)) = simplify(polygon, &tolerance) else { continue };
                prop_assert!(simple.len() < polygon.len());
                let found = hausdorff(&simple, polygon, spacing).max(hausdorff(polygon, &simple, spacing));
                prop_assert!(found <= said + 1e-9, "{found} {said}");
                prop_assert!(said <= wanted_mm + 1e-12);
                let voxels = hausdorff(&simple, polygon, [1.0; 2]).max(hausdorff(polygon, &simple, [1.0; 2]));
                prop_assert!(voxels < 0.5, "{voxels} voxels");
                prop_assert!((area(&simple) / area(polygon) - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_disc_needs_half_the_corners() {
        let slice = blob(100, &[]);
        let exact = crate::results::contour::loops(slice.view());
        let tolerance = Tolerance::new(0.5, [1.0, 1.0]).unwrap();
        let (simple, said) = simplify(&exact[0][0], &tolerance).unwrap();
        assert!(
            simple.len() * 2 < exact[0][0].len(),
            "{} of {}",
            simple.len(),
            exact[0][0].len()
        );
        assert!(said > 0.2 && said < 0.5, "{said}");
    }

    #[test]
    fn crossings_are_found_and_neighbours_are_none() {
        let square: Polygon = vec![[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]];
        let bow: Polygon = vec![[0.0, 0.0], [4.0, 4.0], [4.0, 0.0], [0.0, 4.0]];
        let inner: Polygon = vec![[1.0, 1.0], [1.0, 3.0], [3.0, 3.0], [3.0, 1.0]];
        let poking: Polygon = vec![[1.0, 1.0], [1.0, 3.0], [5.0, 2.0]];
        assert!(!cross([&square, &inner].into_iter()));
        assert!(cross([&bow].into_iter()));
        assert!(cross([&square, &poking].into_iter()));
    }
}
