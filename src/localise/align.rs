//! One smooth correction per volume: whatever the body coordinates are off by here, they are off by together.
//!
//! Points found by similarity are compared with where the body coordinate expected them. A shift and a stretch per axis are
//! fitted robustly, then a local mean of what remains. A single false match can neither bend the fit nor survive it.

use crate::geometry::Vec3;
use crate::localise::Face;

/// Points disagreeing with the fit by more than this have no say, millimetres.
const TUKEY_MM: f64 = 40.0;
/// A stretch this large is as surprising as a shift of [`SHIFT_MM`]; ridge of the fit.
const STRETCH: f64 = 0.05;
const SHIFT_MM: f64 = 30.0;
/// Expected error of one point along the axis of its face.
const NOISE_MM: f64 = 10.0;
/// Reach of the local mean, and how many points' worth of "no correction" it starts from.
const LOCAL_MM: f64 = 60.0;
const LOCAL_PRIOR: f64 = 2.0;

/// Where a face was expected and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub face: Face,
    pub expected: Vec3,
    pub found: Vec3,
    /// 0 to 1.
    pub weight: f64,
}

/// The fitted correction.
#[derive(Clone, Debug, Default)]
pub struct Alignment {
    axes: [Axis; 3],
    /// What the lines leave: place, axis, millimetres, weight.
    rest: Vec<(Vec3, usize, f64, f64)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Axis {
    centre: f64,
    shift: f64,
    stretch: f64,
}

impl Axis {
    fn at(&self, v: f64) -> f64 {
        self.shift + self.stretch * (v - self.centre)
    }
}

impl Alignment {
    pub fn fit(pairs: &[Pair]) -> Self {
        let mut alignment = Self::default();
        for axis in 0..3 {
            // the other two coordinates of an extreme point say little: the top of the liver is flat
            let own: Vec<&Pair> = pairs.iter().filter(|p| p.face.axis() == axis).collect();
            let line = fit_line(&own, axis);
            alignment.axes[axis] = line;
            for p in own {
                let rest = p.found[axis] - p.expected[axis] - line.at(p.expected[axis]);
                let weight = p.weight * tukey(rest);
                if weight > 0.0 {
                    alignment.rest.push((p.expected, axis, rest, weight));
                }
            }
        }
        alignment
    }

    /// The expected place, corrected.
    pub fn apply(&self, expected: Vec3) -> Vec3 {
        let mut corrected = [0, 1, 2].map(|a| expected[a] + self.axes[a].at(expected[a]));
        let mut sums = [(0.0, LOCAL_PRIOR); 3];
        for (place, axis, rest, weight) in &self.rest {
            let d2: f64 = (0..3).map(|a| (place[a] - expected[a]).powi(2)).sum();
            let weight = weight * (-d2 / (2.0 * LOCAL_MM * LOCAL_MM)).exp();
            sums[*axis].0 += weight * rest;
            sums[*axis].1 += weight;
        }
        for (c, (sum, weight)) in corrected.iter_mut().zip(sums) {
            *c += sum / weight;
        }
        corrected
    }

    /// Growth of a length along each axis.
    pub fn scale(&self) -> Vec3 {
        self.axes.map(|a| 1.0 + a.stretch)
    }
}

fn tukey(rest: f64) -> f64 {
    let u = rest / TUKEY_MM;
    if u.abs() < 1.0 { (1.0 - u * u).powi(2) } else { 0.0 }
}

/// Shift and stretch by reweighted ridge regression, started at the median.
fn fit_line(pairs: &[&Pair], axis: usize) -> Axis {
    let mut offsets: Vec<f64> = pairs.iter().map(|p| p.found[axis] - p.expected[axis]).collect();
    if offsets.is_empty() {
        return Axis::default();
    }
    offsets.sort_by(f64::total_cmp);
    let mut line = Axis {
        centre: 0.0,
        shift: offsets[offsets.len() / 2],
        stretch: 0.0,
    };
    for _ in 0..20 {
        let weighted: Vec<(f64, f64, f64)> = pairs
            .iter()
            .map(|p| {
                let (x, d) = (p.expected[axis], p.found[axis] - p.expected[axis]);
                (x, d, p.weight * tukey(d - line.at(x)))
            })
            .collect();
        let total: f64 = weighted.iter().map(|w| w.2).sum();
        if total < 1e-6 {
            return line;
        }
        let centre = weighted.iter().map(|(x, _, w)| x * w).sum::<f64>() / total;
        let shift = weighted.iter().map(|(_, d, w)| d * w).sum::<f64>() / (total + (NOISE_MM / SHIFT_MM).powi(2));
        let xx = weighted.iter().map(|(x, _, w)| (x - centre).powi(2) * w).sum::<f64>();
        let xd = weighted
            .iter()
            .map(|(x, d, w)| (x - centre) * (d - shift) * w)
            .sum::<f64>();
        line = Axis {
            centre,
            shift,
            stretch: xd / (xx + (NOISE_MM / STRETCH).powi(2)),
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize, warp: impl Fn(f64) -> f64) -> Vec<Pair> {
        (0..count)
            .map(|n| {
                let z = -200.0 + 400.0 * n as f64 / count as f64;
                let expected = [z / 3.0, 20.0, z];
                Pair {
                    face: Face::ZMin,
                    expected,
                    found: [z / 3.0, 20.0, warp(z)],
                    weight: 1.0,
                }
            })
            .collect()
    }

    #[test]
    fn shift_and_stretch_are_recovered_in_spite_of_false_matches() {
        let mut given = pairs(60, |z| 1.06 * z + 18.0);
        for p in given.iter_mut().step_by(4) {
            p.found[2] -= 120.0;
        }
        let alignment = Alignment::fit(&given);
        for z in [-150.0, 0.0, 150.0] {
            let [x, y, aligned] = alignment.apply([0.0, 20.0, z]);
            assert!((aligned - (1.06 * z + 18.0)).abs() < 1.5, "{z}: {aligned}");
            assert_eq!([x, y], [0.0, 20.0]);
        }
        assert!((alignment.scale()[2] - 1.06).abs() < 0.01);
    }

    #[test]
    fn without_points_nothing_moves() {
        assert_eq!(Alignment::fit(&[]).apply([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
    }
}
