//! One row per volume and structure: what was said, what is true, how far apart they are.

use crate::evaluate::surface::{self, MaskScore};
use crate::evaluate::truth::Truth;
use crate::evaluate::{box_iou, landmark_error_mm, wall_distance_mm};
use crate::geometry::PatientPoint;
use crate::inference::runtime::InferenceError;
use crate::localise::bank::Bank;
use crate::localise::canonical::Observation;
use crate::localise::search::{self, Search, Steps};
use crate::localise::verdict::Thresholds;
use crate::localise::{self, Face, Finding, Located};
use crate::mask::Mask;
use crate::progress::Progress;
use crate::segment::{Outline, Segmenter};
use crate::structure::Structure;
use crate::teach::{PlacedStructure, Presence};
use crate::volume::Volume;
use serde::Serialize;

/// What the localiser says of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Found,
    LowConfidence,
    NotFound,
}

/// What the volume shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    Whole,
    /// Cut by the field of view, or its end could not be seen with certainty: scored as far as it is seen.
    Cut,
    Absent,
    Unknown,
}

/// Whether the answer fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    Right,
    /// Located though absent.
    FalseFind,
    /// Not found though whole, or though a substantial part is in view ([`Truth::substantial`]).
    Miss,
    /// Nothing is known of it, or too little of it is in view to demand either answer.
    Unjudged,
}

/// The scores of one structure in one volume.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which measurement the volume belongs to.
    pub group: &'static str,
    pub case: String,
    pub structure: &'static str,
    pub view: View,
    /// By eye or by labels; `None` where nobody could say.
    pub present: Option<bool>,
    pub answer: Answer,
    pub judgement: Judgement,
    pub reason: String,
    pub confidence: Option<f64>,
    pub volume_ml: Option<f64>,
    /// 0 when a structure with a true box is not found.
    pub box_iou: Option<f64>,
    /// `None` when not found.
    pub wall_distance_mm: Option<f64>,
    /// `None` when not found.
    pub landmark_error_mm: Option<f64>,
    /// Outlined in the located box.
    pub located: Option<MaskScore>,
    /// Outlined in the true box with its parts.
    pub true_box: Option<MaskScore>,
    /// Outlined in the located box without parts (WPL).
    pub whole_box: Option<MaskScore>,
}

/// A volume as the network saw it, and the truth of it.
pub struct Case<'a> {
    pub group: &'static str,
    pub truth: &'a Truth,
    pub observation: &'a Observation,
    /// Without the templates of this patient.
    pub bank: &'a Bank,
    /// Structures to judge; those that no template of the bank shows are passed over.
    pub wanted: &'a [&'static Structure],
    pub thresholds: &'a Thresholds,
}

impl Case<'_> {
    /// Structures that can be judged at all.
    pub fn judged(&self) -> Vec<&'static Structure> {
        let known = self.bank.structures();
        self.wanted.iter().copied().filter(|s| known.contains(s)).collect()
    }

    /// Looks for every wanted structure; `None` when cancelled.
    pub fn localise(&self, progress: &dyn Progress) -> Option<(Vec<Row>, Vec<Finding>)> {
        let (searches, alignment) = search::search(self.observation, self.bank, Steps::All, progress)?;
        let wanted = self.judged();
        let findings = localise::judge(self.observation, &searches, &alignment, &wanted, self.thresholds);
        let row = |finding: &Finding| {
            let search = searches.iter().find(|s| s.structure == finding.structure());
            self.row(finding, search)
        };
        Some((findings.iter().map(row).collect(), findings))
    }

    fn row(&self, finding: &Finding, search: Option<&Search<'_>>) -> Row {
        let structure = finding.structure();
        let (truth, located) = (self.truth, finding.located());
        let presence = truth.presence.get(structure.name).copied();
        let placed = truth.placed.get(structure.name);
        let bounds = placed.and_then(PlacedStructure::bounds);
        let view = match (placed.filter(|_| bounds.is_some()), presence) {
            (Some(placed), _) if placed.cut.is_empty() => View::Whole,
            (Some(_), _) | (None, Some(Presence::Cut)) => View::Cut,
            (None, Some(Presence::Whole)) => View::Whole,
            (None, Some(Presence::Absent)) => View::Absent,
            (None, None) => View::Unknown,
        };
        let (answer, reason) = match finding {
            Finding::Located(l) if l.low_confidence => (Answer::LowConfidence, l.reasons.join("; ")),
            Finding::Located(l) => (Answer::Found, l.reasons.join("; ")),
            Finding::NotFound { reason, .. } => (Answer::NotFound, reason.clone()),
        };
        let near = placed.zip(search).filter(|_| located.is_some());
        Row {
            group: self.group,
            case: truth.id.clone(),
            structure: structure.name,
            view,
            present: presence.map(|p| p != Presence::Absent),
            answer,
            judgement: self.judgement(structure, presence, answer),
            reason,
            confidence: located.map(|l| f64::from(l.confidence)),
            volume_ml: None,
            box_iou: bounds.map(|b| located.map_or(0.0, |l| box_iou(&l.bounds, &b))),
            wall_distance_mm: bounds.and_then(|b| Some(wall_distance_mm(&located?.bounds, &b))),
            landmark_error_mm: near.and_then(|(placed, search)| landmark_error(placed, search)),
            located: None,
            true_box: None,
            whole_box: None,
        }
    }

    fn judgement(&self, structure: &Structure, presence: Option<Presence>, answer: Answer) -> Judgement {
        let found = answer != Answer::NotFound;
        match presence {
            None => Judgement::Unjudged,
            Some(Presence::Absent) if found => Judgement::FalseFind,
            Some(Presence::Absent) => Judgement::Right,
            Some(_) if found => Judgement::Right,
            Some(Presence::Whole) => Judgement::Miss,
            Some(Presence::Cut) if self.truth.substantial(structure, self.bank, self.thresholds) => Judgement::Miss,
            Some(Presence::Cut) => Judgement::Unjudged,
        }
    }
}

/// Mean distance of the points placed and found; where a face was not recognised, of its expected place.
pub fn landmark_error(placed: &PlacedStructure, search: &Search<'_>) -> Option<f64> {
    let pair = |face: &Face| {
        let point = placed.extremes.get(face).filter(|_| !placed.cut.contains(face))?;
        let sighting = search.faces[*face as usize].as_ref()?;
        let at = sighting.found.map_or(sighting.expected, |hit| hit.at);
        Some((PatientPoint::from(at), PatientPoint::from(*point)))
    };
    landmark_error_mm(&Face::ALL.iter().filter_map(pair).collect::<Vec<_>>())
}

/// Outlines the structures in the located and in the true boxes and fills in the scores of the masks. Returns the masks of the
/// located ones. `whole_boxes` outlines them once more without parts.
pub fn outline(
    rows: &mut [Row],
    findings: &[Finding],
    truth: &Truth,
    volume: &Volume,
    segmenter: &mut Segmenter,
    whole_boxes: bool,
    progress: &dyn Progress,
) -> Result<Vec<Mask>, InferenceError> {
    let located: Vec<Located> = findings.iter().filter_map(Finding::located).cloned().collect();
    let true_boxes: Vec<Located> = findings.iter().filter_map(|f| truth.located(f.structure())).collect();
    let undivided = |l: &Located| Located {
        sections: Vec::new(),
        ..l.clone()
    };
    let whole: Vec<Located> = if whole_boxes {
        located.iter().map(undivided).collect()
    } else {
        Vec::new()
    };
    let mut sets = segmenter
        .segment_sets(volume, &[&located, &true_boxes, &whole], progress)?
        .into_iter()
        .map(masks);
    let [located, true_boxes, whole] = [(); 3].map(|()| sets.next().unwrap_or_default());
    let spacing_mm = volume.grid.spacing_mm;
    for row in rows {
        let own = |masks: &[Mask]| masks.iter().position(|m| m.structure.name == row.structure);
        let Some(real) = own(&truth.masks).map(|n| &truth.masks[n]) else {
            continue;
        };
        let score = |masks: &[Mask]| Some(surface::compare(own(masks).map(|n| &masks[n]), real, spacing_mm));
        row.volume_ml = Some(real.voxel_count() as f64 * volume.grid.voxel_volume_ml());
        if row.box_iou.is_some() {
            row.located = score(&located);
            row.true_box = score(&true_boxes);
            row.whole_box = score(&whole).filter(|_| whole_boxes);
        }
    }
    Ok(located)
}

fn masks(outlines: Vec<Outline>) -> Vec<Mask> {
    let mask = |outline| match outline {
        Outline::Outlined(outlined) => Some(outlined.mask),
        Outline::Empty { .. } => None,
    };
    outlines.into_iter().filter_map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::localise::fine::Features;
    use crate::structure::by_name;
    use std::collections::BTreeMap;

    fn placed(size: f64, cut: &[Face]) -> PlacedStructure {
        let point = |face: Face| {
            let mut at = [size / 2.0; 3];
            at[face.axis()] = if face.is_max() { size } else { 0.0 };
            (face, at)
        };
        PlacedStructure {
            cut: cut.to_vec(),
            extremes: Face::ALL.into_iter().map(point).collect::<BTreeMap<_, _>>(),
            sections: Vec::new(),
        }
    }

    fn row(truth: &Truth, finding: &Finding) -> Row {
        let empty = || Features::new(ndarray::Array4::zeros((1, 1, 1, 1)), [0.0; 3], 6.0, 1);
        let observation = Observation {
            bounds: crate::geometry::Box3::EMPTY,
            seen: Vec::new(),
            coarse: empty(),
            fine: empty(),
            range_mm: None,
        };
        let case = Case {
            group: "test",
            truth,
            observation: &observation,
            bank: &Bank::default(),
            wanted: &[],
            thresholds: &Thresholds::default(),
        };
        case.row(finding, None)
    }

    fn located(size: f64) -> Finding {
        Finding::Located(Located {
            structure: by_name("kidney_left").unwrap(),
            bounds: placed(size, &[]).bounds().unwrap(),
            sections: Vec::new(),
            truncated: Vec::new(),
            confidence: 0.9,
            low_confidence: false,
            reasons: Vec::new(),
        })
    }

    fn not_found() -> Finding {
        Finding::NotFound {
            structure: by_name("kidney_left").unwrap(),
            reason: "nowhere".into(),
        }
    }

    fn truth(presence: Presence, points: Option<PlacedStructure>) -> Truth {
        Truth {
            presence: BTreeMap::from([("kidney_left", presence)]),
            placed: points.map(|p| ("kidney_left".to_owned(), p)).into_iter().collect(),
            ..Truth::default()
        }
    }

    #[test]
    fn a_miss_counts_with_nothing_and_a_find_with_its_box() {
        let whole = truth(Presence::Whole, Some(placed(100.0, &[])));
        let found = row(&whole, &located(50.0));
        assert_eq!((found.view, found.judgement), (View::Whole, Judgement::Right));
        assert_eq!((found.box_iou, found.wall_distance_mm), (Some(0.125), Some(25.0)));
        let missed = row(&whole, &not_found());
        assert_eq!((missed.judgement, missed.box_iou), (Judgement::Miss, Some(0.0)));
        assert_eq!((missed.wall_distance_mm, missed.confidence), (None, None));
    }

    #[test]
    fn what_is_absent_must_not_be_found_and_a_remnant_may_go_either_way() {
        let absent = truth(Presence::Absent, None);
        assert_eq!(row(&absent, &located(50.0)).judgement, Judgement::FalseFind);
        assert_eq!(row(&absent, &not_found()).judgement, Judgement::Right);
        assert_eq!(row(&absent, &located(50.0)).box_iou, None);
        // no template says how large a kidney is, so nobody can say whether what is left of it is much
        let cut = truth(Presence::Cut, Some(placed(100.0, &[Face::ZMin])));
        assert_eq!(row(&cut, &not_found()).judgement, Judgement::Unjudged);
        assert_eq!(row(&cut, &located(50.0)).judgement, Judgement::Right);
        assert_eq!(row(&cut, &located(50.0)).view, View::Cut);
        // cut at the feet only, but by eye it is whole: the point was not certain
        let doubtful = truth(Presence::Whole, Some(placed(100.0, &[Face::ZMin])));
        assert_eq!(row(&doubtful, &not_found()).judgement, Judgement::Miss);
    }
}
