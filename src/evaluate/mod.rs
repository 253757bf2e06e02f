//! How far a result is from the truth: the measures of the MedLSAM papers, defined once.
//!
//! What is really there comes from labels or from points placed by eye ([`truth`]). Each structure of each volume is one row
//! ([`score`]): box IoU, wall distance and ALE of its localisation, and overlap and surface distances of its outlines
//! ([`surface`]), with the located boxes and with the true ones, so that the loss of each stage shows. A structure that is in
//! view and is not found, or is outlined by nothing, counts with 0. [`ablation`] says what each step is worth.

pub mod surface;
pub mod truth;
pub mod score;
pub mod ablation;
pub mod report;

use crate::geometry::{Box3, PatientPoint};

/// Volume of the intersection over volume of the union.
pub fn box_iou(a: &Box3, b: &Box3) -> f64 {
    let volume = |sides: [f64; 3]| sides.iter().map(|s| s.max(0.0)).product::<f64>();
    let (low, high) = (
        [a.min, b.min].map(PatientPoint::to_array),
        [a.max, b.max].map(PatientPoint::to_array),
    );
    let shared = volume([0, 1, 2].map(|n| high[0][n].min(high[1][n]) - low[0][n].max(low[1][n])));
    let union = volume(a.size_mm()) + volume(b.size_mm()) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

/// Mean distance of the six walls, millimetres (WD).
pub fn wall_distance_mm(a: &Box3, b: &Box3) -> f64 {
    let pairs = [(a.min, b.min), (a.max, b.max)].map(|(p, q)| (p.to_array(), q.to_array()));
    pairs
        .iter()
        .flat_map(|(p, q)| (0..3).map(move |n| (p[n] - q[n]).abs()))
        .sum::<f64>()
        / 6.0
}

/// Mean distance between located and true extreme points, millimetres (ALE); `None` of nothing.
pub fn landmark_error_mm(pairs: &[(PatientPoint, PatientPoint)]) -> Option<f64> {
    (!pairs.is_empty()).then(|| pairs.iter().map(|(p, q)| p.distance_mm(*q)).sum::<f64>() / pairs.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cube(from: f64, to: f64) -> Box3 {
        Box3 {
            min: PatientPoint::new(from, from, from),
            max: PatientPoint::new(to, to, to),
        }
    }

    #[test]
    fn iou_of_known_boxes() {
        assert!((box_iou(&cube(0.0, 2.0), &cube(0.0, 2.0)) - 1.0).abs() < 1e-12);
        assert!((box_iou(&cube(0.0, 2.0), &cube(1.0, 3.0)) - 1.0 / 15.0).abs() < 1e-12);
        assert_eq!(box_iou(&cube(0.0, 1.0), &cube(2.0, 3.0)), 0.0);
    }

    #[test]
    fn walls_and_landmarks() {
        assert!((wall_distance_mm(&cube(0.0, 10.0), &cube(1.0, 13.0)) - 2.0).abs() < 1e-12);
        let p = PatientPoint::new(0.0, 0.0, 0.0);
        assert_eq!(
            landmark_error_mm(&[(p, PatientPoint::new(3.0, 4.0, 0.0)), (p, p)]),
            Some(2.5)
        );
        assert_eq!(landmark_error_mm(&[]), None);
    }
}
