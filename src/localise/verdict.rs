//! Knowing when not: every doubt has a number, the worst number is the confidence.

use crate::geometry::Box3;
use crate::localise::Face;
use crate::localise::boxes::Framed;
use crate::localise::search::{Hit, Search, in_view, median};
use crate::structure::Linking;
use serde::Deserialize;

/// Where doubt begins and where it is complete, per signal. In the model's manifest under `[verdict]`, because they belong to
/// the network as its weights do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Mean cosine of the matches: complete doubt at the first, none at the second.
    pub similarity: [f64; 2],
    /// Median disagreement of the templates' own matches: none at the first, complete at the
    /// second, millimetres.
    pub spread_mm: [f64; 2],
    /// Median disagreement of the templates' body coordinates, likewise.
    pub expectation_spread_mm: [f64; 2],
    /// Distance of the wanted body coordinates from any the patient shows, likewise.
    pub residual_mm: [f64; 2],
    /// Share of the faces in view that were matched: complete doubt, none.
    pub matched: [f64; 2],
    /// A structure that fewer patients teach is always marked low: their agreement says little.
    pub templates: usize,
    /// Confidence below this is marked low.
    pub low_confidence: f64,
    /// Below this the structure is not there.
    pub not_found: f64,
    /// Least share of the expected box that must be in view.
    pub in_view: f64,
    /// Long structures (parts along z) need only this much of their length, millimetres.
    pub in_view_long_mm: f64,
    /// Where the field of view cuts a structure, less of it than this may as well be none of it: its faces are located to
    /// about a centimetre.
    pub surely_in_view_mm: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            similarity: [0.3, 0.7],
            spread_mm: [5.0, 30.0],
            expectation_spread_mm: [15.0, 80.0],
            residual_mm: [10.0, 45.0],
            matched: [0.0, 0.7],
            templates: 3,
            low_confidence: 0.4,
            not_found: 0.08,
            in_view: 0.3,
            in_view_long_mm: 20.0,
            surely_in_view_mm: 40.0,
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

/// What the extreme points in view say, each number a kind of doubt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signals {
    pub residual_mm: f64,
    pub expectation_spread_mm: f64,
    pub matched: f64,
    /// Of the matched points; `None` when there are none.
    pub similarity: Option<f64>,
    pub spread_mm: Option<f64>,
    /// Points outside the box they span.
    pub strays: usize,
}

/// `None` when no extreme point is in view: a long structure may have its ends and widest places elsewhere.
pub fn signals(search: &Search<'_>, framed: &Framed, bounds: &Box3) -> Option<Signals> {
    let seen = search.faces.iter().flatten();
    let seen: Vec<_> = seen.filter(|s| !s.open && in_view(bounds, s.expected, 0.0)).collect();
    let hits: Vec<_> = seen.iter().filter_map(|s| s.found).collect();
    let of_hits = |value: fn(&Hit) -> f64| (!hits.is_empty()).then(|| median(hits.iter().map(value)));
    (!seen.is_empty()).then(|| Signals {
        residual_mm: median(seen.iter().map(|s| s.residual_mm)),
        expectation_spread_mm: median(seen.iter().map(|s| s.spread_mm)),
        matched: hits.len() as f64 / seen.len() as f64,
        similarity: of_hits(|h| f64::from(h.similarity)),
        spread_mm: of_hits(|h| h.spread_mm),
        strays: strays(search, framed),
    })
}

/// What is said of a structure by its search, its box and what the templates had to be repaired by.
pub fn judge(search: &Search<'_>, framed: &Framed, bounds: &Box3, thresholds: &Thresholds) -> Verdict {
    let low = 0.5 * (thresholds.low_confidence + thresholds.not_found);
    let mut verdict = match signals(search, framed, bounds) {
        Some(signals) => weigh(signals, &framed.repairs, thresholds),
        // a long structure may have its ends and its widest places elsewhere; of any other, some would be in view
        None => Verdict {
            confidence: if search.structure.linking == Linking::Sections {
                low
            } else {
                0.0
            },
            doubts: vec!["none of its extreme points is in view".into()],
        },
    };
    let length_mm = framed.visible.max.z - framed.visible.min.z;
    if framed.truncated.iter().any(|f| f.axis() == 2) && length_mm < thresholds.surely_in_view_mm {
        verdict.confidence = verdict.confidence.min(low);
        verdict
            .doubts
            .push(format!("only its last {length_mm:.0} mm would be in view, if at all"));
    }
    if search.patterns.len() < thresholds.templates {
        verdict.confidence = verdict.confidence.min(low);
        let count = search.patterns.len();
        verdict.doubts.push(format!(
            "taught by {count} of the {} templates it needs",
            thresholds.templates
        ));
    }
    verdict
}

/// The worst signal decides; repairs and stray points lower it further.
fn weigh(s: Signals, repairs: &[String], thresholds: &Thresholds) -> Verdict {
    let mut verdict = Verdict {
        confidence: 1.0,
        doubts: Vec::new(),
    };
    let mut weigh = |value: f64, [from, to]: [f64; 2], good: Good, text: String| {
        let share = ((value - from) / (to - from)).clamp(0.0, 1.0);
        let trust = if good == Good::Low { 1.0 - share } else { share };
        if trust < thresholds.low_confidence {
            verdict.doubts.push(text);
        }
        verdict.confidence = verdict.confidence.min(trust);
    };
    let text = format!("no tissue within {:.0} mm of its place", s.residual_mm);
    weigh(s.residual_mm, thresholds.residual_mm, Good::Low, text);
    let text = format!(
        "the templates expect it at places {:.0} mm apart",
        s.expectation_spread_mm
    );
    weigh(
        s.expectation_spread_mm,
        thresholds.expectation_spread_mm,
        Good::Low,
        text,
    );
    let text = format!("only {:.0} % of its points in view were recognised", 100.0 * s.matched);
    weigh(s.matched, thresholds.matched, Good::High, text);
    if let Some(similarity) = s.similarity {
        let text = format!("it resembles the templates by {similarity:.2} only");
        weigh(similarity, thresholds.similarity, Good::High, text);
    }
    if let Some(spread) = s.spread_mm {
        let text = format!("the templates recognise it at places {spread:.0} mm apart");
        weigh(spread, thresholds.spread_mm, Good::Low, text);
    }
    if s.strays > 1 {
        verdict
            .doubts
            .push(format!("{} of its extreme points lie outside its box", s.strays));
        verdict.confidence *= 0.7;
    }
    for repair in repairs {
        verdict.doubts.push(format!("implausible size: {repair}"));
        verdict.confidence *= 0.25;
    }
    verdict
}

#[derive(Clone, Copy, PartialEq)]
enum Good {
    Low,
    High,
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

#[cfg(test)]
mod tests {
    use super::*;

    const SURE: Signals = Signals {
        residual_mm: 4.0,
        expectation_spread_mm: 5.0,
        matched: 1.0,
        similarity: Some(0.9),
        spread_mm: Some(2.0),
        strays: 0,
    };

    #[test]
    fn the_worst_signal_decides_and_is_named() {
        let thresholds = Thresholds::default();
        assert_eq!(weigh(SURE, &[], &thresholds).confidence, 1.0);
        let [bad, good] = thresholds.similarity;
        let half = weigh(
            Signals {
                similarity: Some(0.5 * (bad + good)),
                ..SURE
            },
            &[],
            &thresholds,
        );
        assert!((half.confidence - 0.5).abs() < 1e-9 && half.doubts.is_empty());
        let far = weigh(
            Signals {
                residual_mm: 400.0,
                ..SURE
            },
            &[],
            &thresholds,
        );
        assert_eq!(far.confidence, 0.0);
        assert!(far.doubts[0].contains("400 mm"), "{:?}", far.doubts);
    }

    #[test]
    fn one_repaired_side_is_doubtful_and_two_are_too_many() {
        let thresholds = Thresholds::default();
        let repair = "2 mm along x, templates have 122 mm".to_owned();
        let once = weigh(SURE, std::slice::from_ref(&repair), &thresholds).confidence;
        assert!(once < thresholds.low_confidence && once >= thresholds.not_found);
        let twice = weigh(SURE, &[repair.clone(), repair], &thresholds).confidence;
        assert!(twice < thresholds.not_found);
    }

    #[test]
    fn a_manifest_may_set_some_thresholds_and_misspell_none() {
        let set: Thresholds = toml::from_str("in_view = 0.5").unwrap();
        assert_eq!(
            set,
            Thresholds {
                in_view: 0.5,
                ..Thresholds::default()
            }
        );
        assert!(toml::from_str::<Thresholds>("in_veiw = 0.5").is_err());
    }
}
