//! Area and centre of what polygons enclose, from the polygons themselves.
//!
//! Voxels alone do not show a contour that lies off by less than half a voxel, nor one that lies off by exactly that: its edges
//! then run through voxel centres, and any rule for those can give the right voxels back.

/// Polygons of one slice that are held against each other; an outline has a few.
const MAX_POLYGONS: usize = 512;

/// Voxels: more than coordinates are rounded by, less than any part of an outline is wide.
const JUST_WITHIN: f64 = 0.01;

/// What the contours of a region enclose, all slices together, in voxels of the CT.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Sum of the slices' areas, in voxels.
    pub volume: f64,
    /// Grid coordinates (i, j, k).
    pub centre: [f64; 3],
}

/// Adds up slices.
#[derive(Default)]
pub struct Sum {
    volume: f64,
    moment: [f64; 3],
    too_many: bool,
}

impl Sum {
    /// The polygons of slice `k`, in voxels (i, j): a polygon within an odd number of others is a hole.
    pub fn add(&mut self, k: usize, polygons: &[&[[f64; 2]]]) {
        if polygons.len() > MAX_POLYGONS {
            self.too_many = true;
            return;
        }
        for (n, polygon) in polygons.iter().enumerate() {
            let Some(inner) = inner_point(polygon) else { continue };
            let around = |(m, other): (usize, &&[[f64; 2]])| m != n && encloses(other, inner);
            let depth = polygons
                .iter()
                .enumerate()
                .filter(|other| around((other.0, other.1)))
                .count();
            let [area, x, y] = shoelace(polygon);
            // Either way round is right: the sign comes from the nesting.
            let sign = area.signum() * if depth % 2 == 0 { 1.0 } else { -1.0 };
            self.volume += sign * area;
            self.moment[0] += sign * x;
            self.moment[1] += sign * y;
            self.moment[2] += sign * area * k as f64;
        }
    }

    /// `None` when nothing is enclosed, or too much to be an outline.
    pub fn finish(self) -> Option<Moments> {
        (self.volume > 0.0 && !self.too_many).then(|| Moments {
            volume: self.volume,
            centre: self.moment.map(|m| m / self.volume),
        })
    }
}

fn edges(polygon: &[[f64; 2]]) -> impl Iterator<Item = ([f64; 2], [f64; 2])> + '_ {
    polygon.iter().copied().zip(polygon.iter().copied().cycle().skip(1))
}

/// Signed area, and its first moments.
fn shoelace(polygon: &[[f64; 2]]) -> [f64; 3] {
    edges(polygon).fold([0.0; 3], |[area, x, y], (a, b)| {
        let cross = a[0] * b[1] - b[0] * a[1];
        [
            area + cross / 2.0,
            x + (a[0] + b[0]) * cross / 6.0,
            y + (a[1] + b[1]) * cross / 6.0,
        ]
    })
}

/// Where a polygon crosses a height.
fn crossings(polygon: &[[f64; 2]], y: f64) -> Vec<f64> {
    let crossed = edges(polygon).filter(|(a, b)| (a[1] > y) != (b[1] > y));
    let mut at: Vec<f64> = crossed
        .map(|(a, b)| a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]))
        .collect();
    at.sort_by(f64::total_cmp);
    at
}

fn encloses(polygon: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
    crossings(polygon, y).iter().filter(|at| **at < x).count() % 2 == 1
}

/// A point just within the outline, at half the height between the two lowest corners: well inside it could lie in a hole.
fn inner_point(polygon: &[[f64; 2]]) -> Option<[f64; 2]> {
    let mut heights: Vec<f64> = polygon.iter().map(|p| p[1]).collect();
    heights.sort_by(f64::total_cmp);
    heights.dedup();
    let y = 0.5 * (heights.first()? + heights.get(1)?);
    let at = crossings(polygon, y);
    let (left, right) = (*at.first()?, *at.get(1)?);
    Some([left + (0.5 * (right - left)).min(JUST_WITHIN), y])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(from: f64, to: f64) -> Vec<[f64; 2]> {
        vec![[from, from], [to, from], [to, to], [from, to]]
    }

    #[test]
    fn holes_count_against_their_outline_whichever_way_round_they_run() {
        let (outer, mut hole, island) = (square(0.0, 10.0), square(2.0, 8.0), square(4.0, 5.0));
        hole.reverse();
        let mut sum = Sum::default();
        sum.add(3, &[&outer, &hole, &island]);
        sum.add(5, &[&square(0.0, 10.0), &square(2.0, 8.0)]);
        let moments = sum.finish().unwrap();
        assert!((moments.volume - (65.0 + 64.0)).abs() < 1e-9);
        let k = (65.0 * 3.0 + 64.0 * 5.0) / 129.0;
        assert!((moments.centre[2] - k).abs() < 1e-9);
        let i = (64.0 * 5.0 * 2.0 + 1.0 * 4.5) / 129.0;
        assert!((moments.centre[0] - i).abs() < 1e-9 && (moments.centre[1] - i).abs() < 1e-9);
    }

    #[test]
    fn a_keyhole_is_one_polygon_with_the_area_of_its_ring() {
        let ring = [
            [0.0, 0.0],
            [10.0, 0.0],
            [10.0, 10.0],
            [0.0, 10.0],
            [0.0, 5.25],
            [2.0, 5.25],
            [2.0, 8.0],
            [8.0, 8.0],
            [8.0, 2.0],
            [2.0, 2.0],
            [2.0, 5.25],
            [0.0, 5.25],
        ];
        let mut sum = Sum::default();
        sum.add(0, &[&ring]);
        let moments = sum.finish().unwrap();
        assert!((moments.volume - 64.0).abs() < 1e-9, "{moments:?}");
        assert_eq!(Sum::default().finish(), None);
    }
}
