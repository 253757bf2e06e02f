//! How far a result is from the truth: the measures of the MedLSAM papers, defined once.

use crate::geometry::{Box3, PatientPoint};
use crate::localise::Finding;
use crate::structure::Structure;
use crate::teach::PlacedStructure;
use std::collections::BTreeMap;

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

/// How the localisation of one structure compares with truth.
#[derive(Clone, Debug)]
pub struct BoxScore {
    pub structure: &'static Structure,
    /// The field of view cuts the true structure: its box is then compared inside the field of view.
    pub truncated: bool,
    pub iou: f64,
    pub wall_distance_mm: f64,
    pub confidence: f32,
    pub low_confidence: bool,
}

/// What was found against what is there.
#[derive(Clone, Debug, Default)]
pub struct Localisation {
    /// Structures that are there and were located.
    pub scores: Vec<BoxScore>,
    /// There, but reported not found, with the reason given.
    pub missed: Vec<(&'static Structure, String)>,
    /// Located, but not there.
    pub invented: Vec<&'static Structure>,
}

/// Compares findings with true points; `truth` holds every structure that is in view, cut or whole.
pub fn localisation(findings: &[Finding], truth: &BTreeMap<String, PlacedStructure>) -> Localisation {
    let mut result = Localisation::default();
    for finding in findings {
        match (finding, truth.get(finding.structure().name)) {
            (Finding::Located(located), Some(placed)) => {
                let Some(real) = placed.bounds() else { continue };
                result.scores.push(BoxScore {
                    structure: located.structure,
                    truncated: !placed.cut.is_empty(),
                    iou: box_iou(&located.bounds, &real),
                    wall_distance_mm: wall_distance_mm(&located.bounds, &real),
                    confidence: located.confidence,
                    low_confidence: located.low_confidence,
                });
            }
            (Finding::Located(located), None) => result.invented.push(located.structure),
            (Finding::NotFound { structure, reason }, Some(_)) => result.missed.push((structure, reason.clone())),
            (Finding::NotFound { .. }, None) => {}
        }
    }
    result
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
