//! What each step of the localisation and more templates are worth: boxes without a verdict, structures fully in view.

use crate::evaluate::report::{Mean, mean};
use crate::evaluate::score::{Case, landmark_error};
use crate::evaluate::{box_iou, wall_distance_mm};
use crate::localise::bank::Bank;
use crate::localise::boxes;
use crate::localise::search::{self, Steps};
use crate::progress::Progress;
use crate::structure::Structure;
use serde::Serialize;

/// How many choices of templates the mean is taken over where not all are used.
const CHOICES: usize = 3;

/// A way of localising that is less than ours.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub name: &'static str,
    steps: Steps,
    /// Templates per structure; all when `None`.
    templates: Option<usize>,
}

const fn variant(name: &'static str, steps: Steps, templates: Option<usize>) -> Variant {
    Variant { name, steps, templates }
}

/// In the order of the table.
pub const VARIANTS: [Variant; 6] = [
    variant("expected places only", Steps::Coarse, None),
    variant("+ similarity", Steps::Fine, None),
    variant("+ alignment: all of it", Steps::All, None),
    variant("1 template a structure", Steps::All, Some(1)),
    variant("3 templates a structure", Steps::All, Some(3)),
    variant("5 templates a structure", Steps::All, Some(5)),
];

/// What one variant made of the structures seen so far.
#[derive(Default)]
pub struct Tally {
    box_iou: Vec<f64>,
    wall_distance_mm: Vec<f64>,
    landmark_error_mm: Vec<f64>,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub struct Worth {
    pub group: &'static str,
    pub variant: &'static str,
    /// Structures, each as often as templates were chosen.
    pub boxes: usize,
    /// Structures without a box count with 0.
    pub box_iou: Option<Mean>,
    pub wall_distance_mm: Option<Mean>,
    pub landmark_error_mm: Option<Mean>,
}

impl Variant {
    /// Localises all structures of the volume in this way; `None` when cancelled.
    pub fn measure(&self, case: &Case<'_>, tally: &mut Tally, progress: &dyn Progress) -> Option<()> {
        let whole = |s: &&'static Structure| {
            let placed = case.truth.placed.get(s.name)?;
            let real = placed.bounds().filter(|_| placed.cut.is_empty())?;
            Some((*s, placed, real))
        };
        let judged = case.judged();
        let whole: Vec<_> = judged.iter().filter_map(whole).collect();
        if whole.is_empty() {
            return Some(());
        }
        let choices = if self.templates.is_some() { CHOICES } else { 1 };
        for choice in 0..choices {
            let reduced = self.templates.map(|count| choose(case.bank, count, choice));
            let bank = reduced.as_ref().unwrap_or(case.bank);
            let (searches, alignment) = search::search(case.observation, bank, self.steps, progress)?;
            for (structure, placed, real) in &whole {
                let found = searches.iter().find(|s| s.structure == *structure);
                let framed = found.and_then(|s| boxes::frame(s, &alignment, &case.observation.bounds));
                let found_box = framed.map(|f| f.visible).filter(|b| b.is_proper());
                tally.box_iou.push(found_box.map_or(0.0, |b| box_iou(&b, real)));
                tally
                    .wall_distance_mm
                    .extend(found_box.map(|b| wall_distance_mm(&b, real)));
                tally
                    .landmark_error_mm
                    .extend(found.and_then(|s| landmark_error(placed, s)));
            }
        }
        Some(())
    }

    pub fn worth(&self, group: &'static str, tally: &Tally) -> Worth {
        Worth {
            group,
            variant: self.name,
            boxes: tally.box_iou.len(),
            box_iou: mean(tally.box_iou.iter().copied()),
            wall_distance_mm: mean(tally.wall_distance_mm.iter().copied()),
            landmark_error_mm: mean(tally.landmark_error_mm.iter().copied()),
        }
    }
}

/// At most `count` templates of each structure: those from the n-th on in the order of their ids, the choices spread evenly.
fn choose(bank: &Bank, count: usize, choice: usize) -> Bank {
    let mut reduced = bank.clone();
    for structure in bank.structures() {
        let ids: Vec<&str> = bank.patterns(structure.name).into_iter().map(|(id, _)| id).collect();
        let first = choice * ids.len() / CHOICES;
        let kept: Vec<&str> = ids
            .iter()
            .cycle()
            .skip(first)
            .take(count.min(ids.len()))
            .copied()
            .collect();
        for (id, template) in &mut reduced.templates {
            if !kept.contains(&id.as_str()) {
                template.patterns.remove(structure.name);
            }
        }
    }
    reduced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::localise::bank::{Pattern, Template};
    use std::collections::BTreeMap;

    #[test]
    fn every_choice_keeps_as_many_templates_as_wanted_and_each_structure_has_its_own() {
        let template = |structures: &[&str]| Template {
            source: String::new(),
            licence: String::new(),
            made_by: String::new(),
            patterns: structures
                .iter()
                .map(|s| ((*s).to_owned(), Pattern::default()))
                .collect(),
        };
        let ids = ["a", "b", "c", "d", "e", "f"];
        let mut bank = Bank {
            templates: BTreeMap::from(ids.map(|id| (id.to_owned(), template(&["liver"])))),
            ..Bank::default()
        };
        bank.templates.insert("c".into(), template(&["liver", "spleen"]));
        let kept = |count, choice| -> Vec<String> {
            let reduced = choose(&bank, count, choice);
            assert_eq!(reduced.patterns("spleen").len(), 1);
            reduced
                .patterns("liver")
                .iter()
                .map(|(id, _)| (*id).to_owned())
                .collect()
        };
        assert_eq!(kept(1, 0), ["a"]);
        assert_eq!(kept(1, 2), ["e"]);
        assert_eq!(kept(3, 2), ["a", "e", "f"]);
        assert_eq!(kept(9, 1).len(), 6);
    }
}
