//! Knowing when not: every doubt has a number, the worst number is the confidence.

use crate::geometry::Box3;
use crate::localise::Face;
use crate::localise::boxes::Framed;
use crate::localise::search::{Search, median};
use crate::structure::Linking;
use serde::Deserialize;

/// Where doubt begins and where it is complete, per signal. In the model's manifest under `[verdict]`, because they belong to
/// the network as its weights do; calibrated by leaving one template volume out at a time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Mean cosine of the matches: complete doubt, none.
    pub similarity: [f64; 2],
    /// Median disagreement of the templates' own matches: no doubt, complete, millimetres.
    pub spread_mm: [f64; 2],
    /// Median disagreement of the templates' body coordinates, likewise.
    pub expectation_spread_mm: [f64; 2],
    /// Distance of the wanted body coordinates from any the patient shows, likewise.
    pub residual_mm: [f64; 2],
    /// Share of the faces in view that were matched: complete doubt, none.
    pub matched: [f64; 2],
    /// Confidence below this is marked low.
    pub low_confidence: f64,
    /// Below this the structure is not there.
    pub not_found: f64,
    /// Least share of the expected box that must be in view.
    pub in_view: f64,
    /// Long structures (parts along z) need only this much of their length, millimetres.
    pub in_view_long_mm: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            similarity: [0.3, 0.7],
            spread_mm: [5.0, 30.0],
            expectation_spread_mm: [15.0, 80.0],
            residual_mm: [10.0, 45.0],
            matched: [0.0, 0.7],
            low_confidence: 0.4,
            not_found: 0.08,
            in_view: 0.3,
            in_view_long_mm: 20.0,
        }
    }
}

/// How sure we are, and what stands against it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub confidence: f64,
    pub doubts: Vec<String>,
}

/// Why the structure cannot be in the volume, if its box lies outside.
pub fn out_of_view(search: &Search<'_>, framed: &Framed, bounds: &Box3, thresholds: &Thresholds) -> Option<String> {
    let share: f64 = framed.shown.iter().product();
    if share >= thresholds.in_view {
        return None;
    }
    let (full, view) = (framed.full, bounds);
    let gaps = [
        (view.min.z - full.max.z, "below the lowest slice"),
        (full.min.z - view.max.z, "above the highest slice"),
        (
            view.min.x - full.max.x,
            "beyond the patient's right edge of the field of view",
        ),
        (
            full.min.x - view.max.x,
            "beyond the patient's left edge of the field of view",
        ),
        (view.min.y - full.max.y, "in front of the field of view"),
        (full.min.y - view.max.y, "behind the field of view"),
    ];
    if let Some((gap, side)) = gaps
        .iter()
        .filter(|(gap, _)| *gap >= 0.0)
        .max_by(|a, b| a.0.total_cmp(&b.0))
    {
        return Some(format!("expected {gap:.0} mm {side}"));
    }
    let [x, y, _] = framed.shown;
    let length_mm = framed.visible.max.z - framed.visible.min.z;
    let long = search.structure.linking == Linking::Sections;
    if long && x.min(y) >= thresholds.in_view && length_mm >= thresholds.in_view_long_mm {
        return None;
    }
    Some(format!(
        "only {:.0} % of it would be in the field of view",
        100.0 * share
    ))
}

/// Weighs the faces that are in view.
pub fn weigh(search: &Search<'_>, framed: &Framed, thresholds: &Thresholds) -> Verdict {
    let seen = Face::ALL.iter().filter(|f| !framed.truncated.contains(f));
    let seen: Vec<_> = seen
        .filter_map(|f| search.faces[*f as usize].as_ref())
        .filter(|s| !s.open)
        .collect();
    let hits: Vec<_> = seen.iter().filter_map(|s| s.found).collect();
    let mut doubts = Vec::new();
    let mut confidence = 1.0;
    let mut signal = |value: f64, [bad, good]: [f64; 2], text: String| {
        let trust = ((value - bad) / (good - bad)).clamp(0.0, 1.0);
        if trust < thresholds.low_confidence {
            doubts.push(text);
        }
        confidence = f64::min(confidence, trust);
    };
    let reversed = |[good, bad]: [f64; 2]| [bad, good];
    if !seen.is_empty() {
        let residual = median(seen.iter().map(|s| s.residual_mm));
        signal(
            residual,
            reversed(thresholds.residual_mm),
            format!("no tissue within {residual:.0} mm of its place"),
        );
        let spread = median(seen.iter().map(|s| s.spread_mm));
        let text = format!("the templates expect it at places {spread:.0} mm apart");
        signal(spread, reversed(thresholds.expectation_spread_mm), text);
        let matched = hits.len() as f64 / seen.len() as f64;
        signal(
            matched,
            thresholds.matched,
            format!("{} of {} faces in view were recognised", hits.len(), seen.len()),
        );
    }
    if !hits.is_empty() {
        let similarity = median(hits.iter().map(|h| f64::from(h.similarity)));
        signal(
            similarity,
            thresholds.similarity,
            format!("it resembles the templates by {similarity:.2} only"),
        );
        let spread = median(hits.iter().map(|h| h.spread_mm));
        signal(
            spread,
            reversed(thresholds.spread_mm),
            format!("the templates recognise it at places {spread:.0} mm apart"),
        );
    }
    let stray = strays(search, framed);
    if stray > 1 {
        doubts.push(format!("{stray} of its extreme points lie outside its box"));
        confidence *= 0.7;
    }
    for repair in &framed.repairs {
        doubts.push(format!("implausible size: {repair}"));
        confidence *= 0.6;
    }
    Verdict { confidence, doubts }
}

/// Extreme points whose other two coordinates do not lie in the box they span: free redundancy.
fn strays(search: &Search<'_>, framed: &Framed) -> usize {
    const TOLERANCE_MM: f64 = 12.0;
    let (low, high) = (framed.full.min.to_array(), framed.full.max.to_array());
    let stray = |face: &&Face| {
        let hit = search.faces[**face as usize].as_ref().and_then(|s| s.found);
        hit.is_some_and(|hit| (0..3).any(|a| hit.at[a] < low[a] - TOLERANCE_MM || hit.at[a] > high[a] + TOLERANCE_MM))
    };
    Face::ALL.iter().filter(stray).count()
}
