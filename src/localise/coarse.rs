//! Body coordinates (UAM): where a template's point should be, judging by where the rest of the patient is.

use crate::geometry::Vec3;
#[cfg(doc)]
use crate::localise::canonical::Observation;
use crate::localise::canonical::Seen;

/// Voxels whose body coordinate is this much farther from the wanted one than the nearest voxel's still have a say.
const REACH_MM: f64 = 30.0;

/// Where a body coordinate lies in the patient, or would lie outside the field of view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub at: Vec3,
    /// Distance in body coordinates to the nearest voxel of the patient: about 0 in view, the distance to the border out of it.
    pub residual_mm: f64,
}

/// Each voxel v near the wanted coordinate P says `x_v + displacement(position(v), P)`; the mean of the half that lies closest to their
/// weighted median is the target. Outside the field of view the voxels of the nearest border speak. `None` without any voxel.
pub fn target(seen: &[Seen], range_mm: Option<Vec3>, wanted: Vec3) -> Option<Target> {
    let distance2 = |s: &Seen| {
        let [x, y, z] = displacement(range_mm, s.body, wanted);
        x * x + y * y + z * z
    };
    let residual_mm = seen.iter().map(distance2).fold(f64::INFINITY, f64::min).sqrt();
    if !residual_mm.is_finite() {
        return None;
    }
    let limit = residual_mm + REACH_MM;
    let mut votes: Vec<(Vec3, f64)> = Vec::new();
    for s in seen {
        let d2 = distance2(s);
        if d2 < limit * limit {
            let closeness = (limit - d2.sqrt()) / REACH_MM;
            let away = displacement(range_mm, s.body, wanted);
            votes.push(([0, 1, 2].map(|a| s.at[a] + away[a]), closeness * closeness));
        }
    }
    let first = weighted_median(&votes);
    let distance = |v: &Vec3| (0..3).map(|a| (v[a] - first[a]).powi(2)).sum::<f64>();
    votes.sort_by(|a, b| distance(&a.0).total_cmp(&distance(&b.0)));
    votes.truncate(votes.len().div_ceil(2));
    Some(Target {
        at: mean(&votes),
        residual_mm,
    })
}

/// Millimetres of patient between two body coordinates; see [`Observation::range_mm`].
pub fn displacement(range_mm: Option<Vec3>, from: Vec3, to: Vec3) -> Vec3 {
    let difference = [0, 1, 2].map(|a| to[a] - from[a]);
    range_mm.map_or(difference, |r| [0, 1, 2].map(|a| r[a] * (difference[a] / r[a]).tanh()))
}

fn weighted_median(votes: &[(Vec3, f64)]) -> Vec3 {
    let half = votes.iter().map(|v| v.1).sum::<f64>() / 2.0;
    [0, 1, 2].map(|a| {
        let mut along: Vec<(f64, f64)> = votes.iter().map(|v| (v.0[a], v.1)).collect();
        along.sort_by(|p, q| p.0.total_cmp(&q.0));
        let mut below = 0.0;
        let middle = along.iter().find(|(_, weight)| {
            below += weight;
            below >= half
        });
        middle.or(along.last()).map_or(f64::NAN, |m| m.0)
    })
}

fn mean(votes: &[(Vec3, f64)]) -> Vec3 {
    let total: f64 = votes.iter().map(|v| v.1).sum();
    [0, 1, 2].map(|a| votes.iter().map(|v| v.0[a] * v.1).sum::<f64>() / total)
}

/// The body coordinate at a patient position: the mean over the voxels around it, each carried there as if one millimetre of
/// patient were one of body. `None` far from every voxel of the patient.
pub fn body_coordinate(seen: &[Seen], at: Vec3) -> Option<Vec3> {
    const NEAR_MM: f64 = 20.0;
    const FAR_MM: f64 = 60.0;
    let distance = |s: &Seen| (0..3).map(|a| (at[a] - s.at[a]).powi(2)).sum::<f64>().sqrt();
    let nearest = seen.iter().map(distance).fold(f64::INFINITY, f64::min);
    if nearest > FAR_MM {
        return None;
    }
    let reach = NEAR_MM.max(nearest + NEAR_MM / 2.0);
    let vote = |s: &Seen| {
        let closeness = 1.0 - distance(s) / reach;
        (closeness > 0.0).then(|| ([0, 1, 2].map(|a| s.body[a] + at[a] - s.at[a]), closeness * closeness))
    };
    Some(mean(&seen.iter().filter_map(vote).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(body: impl Fn(Vec3) -> Vec3) -> Vec<Seen> {
        let place = |n: usize| [n % 20, n / 20 % 20, n / 400].map(|i| 12.0 * i as f64);
        (0..8000)
            .map(|n| Seen {
                at: place(n),
                body: body(place(n)),
            })
            .collect()
    }

    #[test]
    fn a_coordinate_in_view_is_found_in_spite_of_wild_voxels() {
        let mut voxels = seen(|[x, y, z]| [1.1 * x - 30.0, y + 5.0, 0.9 * z]);
        // Every ninth voxel believes it is somewhere else in the body, each in a place of its own.
        for (n, v) in voxels.iter_mut().enumerate().step_by(9) {
            v.body = [37, 53, 71].map(|stride| (n * stride % 240) as f64);
        }
        let wanted = [1.1 * 115.0 - 30.0, 110.0, 0.9 * 108.0];
        let found = target(&voxels, None, wanted).unwrap();
        let error = [115.0, 105.0, 108.0].map(f64::from);
        let error = (0..3).map(|a| (found.at[a] - error[a]).abs()).fold(0.0, f64::max);
        assert!(error < 3.0 && found.residual_mm < 10.0, "{found:?}");
    }

    #[test]
    fn a_coordinate_out_of_view_lies_outside_by_its_distance() {
        let voxels = seen(|p| p);
        let found = target(&voxels, None, [100.0, 100.0, -150.0]).unwrap();
        assert!(
            (found.at[2] + 150.0).abs() < 1e-6 && (found.residual_mm - 150.0).abs() < 6.0,
            "{found:?}"
        );
        assert!(target(&[], None, [0.0; 3]).is_none());
    }

    #[test]
    fn a_network_that_saturates_is_taken_at_its_word() {
        let range = Some([600.0, 600.0, 1500.0]);
        let there = displacement(range, [0.0; 3], [300.0, -300.0, 30.0]);
        for (found, wanted) in there.into_iter().zip([277.27, -277.27, 29.996]) {
            assert!((found - wanted).abs() < 0.01, "{found} for {wanted}");
        }
        let voxels = seen(|p| p);
        let found = target(&voxels, range, [100.0, 100.0, -600.0]).unwrap();
        assert!(
            (found.at[2] + 570.0).abs() < 3.0 && (found.residual_mm - 570.0).abs() < 6.0,
            "{found:?}"
        );
    }

    #[test]
    fn body_coordinates_are_read_between_voxels() {
        let voxels = seen(|p| p.map(|v| v + 7.0));
        let read = body_coordinate(&voxels, [31.0, 52.5, 77.7]).unwrap();
        assert!((read[1] - 59.5).abs() < 1e-9);
        assert!(body_coordinate(&voxels, [-100.0, 0.0, 0.0]).is_none());
    }
}
