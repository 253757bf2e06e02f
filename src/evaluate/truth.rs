//! What is really there: from a label volume, or from points and a table made by eye.

use crate::geometry::Grid;
use crate::localise::bank::Bank;
use crate::localise::search::median;
use crate::localise::verdict::Thresholds;
use crate::localise::{Face, Located};
use crate::mask::Mask;
use crate::structure::{self, Linking, STRUCTURES, Structure};
use crate::teach::{self, Placed, PlacedSection, PlacedStructure, Presence};
use ndarray::{Array3, s};
use std::collections::{BTreeMap, BTreeSet};

/// The truth of one volume.
#[derive(Debug, Default)]
pub struct Truth {
    pub id: String,
    /// What is not in the table is not known.
    pub presence: BTreeMap<&'static str, Presence>,
    /// Extreme points and parts of the structures that have them.
    pub placed: BTreeMap<String, PlacedStructure>,
    /// On the grid of the CT; empty where the truth is points only.
    pub masks: Vec<Mask>,
    /// Templates made of the same patient.
    pub without: BTreeSet<String>,
}

impl Truth {
    /// Of labels on the grid of the CT. Structures without a single voxel are absent, mere specks are not judged.
    pub fn of_labels(id: &str, grid: &Grid, labels: &Array3<u16>, names: &BTreeMap<u16, String>) -> Self {
        let placed = teach::points_of_labels(grid, labels, names);
        let masks = masks(labels, names);
        let mut presence = BTreeMap::new();
        for structure in structure::sought() {
            let is = match placed.get(structure.name) {
                Some(placed) => placed.presence(),
                None if masks.iter().any(|m| m.structure == structure) => continue,
                None => Presence::Absent,
            };
            presence.insert(structure.name, is);
        }
        Self {
            id: id.into(),
            presence,
            placed,
            masks,
            without: BTreeSet::from([id.to_owned()]),
        }
    }

    /// Of masks that somebody drew, on the grid of the CT. What was not drawn is not known.
    pub fn of_masks(id: &str, grid: &Grid, masks: Vec<Mask>) -> Self {
        let placed = teach::points_of_masks(grid, &masks);
        let known = |mask: &Mask| Some((mask.structure.name, placed.get(mask.structure.name)?.presence()));
        Self {
            id: id.into(),
            presence: masks.iter().filter_map(known).collect(),
            placed,
            masks,
            without: BTreeSet::from([id.to_owned()]),
        }
    }

    /// Of a points file; `all` says which other templates are of the same patient.
    pub fn of_points(placed: &Placed, all: &[Placed]) -> Self {
        let patient = |p: &Placed| p.patient.clone().unwrap_or_else(|| p.volume.clone());
        let same = all.iter().filter(|other| patient(other) == patient(placed));
        let mut without: BTreeSet<String> = same.map(|other| other.volume.clone()).collect();
        without.insert(placed.volume.clone());
        let known = |s: &'static Structure| {
            let by_eye = placed.presence.get(s.name).copied();
            let by_points = placed.structures.get(s.name).map(PlacedStructure::presence);
            Some((s.name, by_eye.or(by_points)?))
        };
        Self {
            id: placed.volume.clone(),
            presence: structure::sought().filter_map(known).collect(),
            placed: placed.structures.clone(),
            masks: Vec::new(),
            without,
        }
    }

    pub fn mask(&self, structure: &Structure) -> Option<&Mask> {
        self.masks.iter().find(|m| m.structure == structure)
    }

    /// The templates of the other patients.
    pub fn others(&self, bank: &Bank) -> Bank {
        let mut bank = bank.clone();
        bank.templates.retain(|id, _| !self.without.contains(id));
        bank
    }

    /// What a perfect localiser would say of a structure with a mask: the box, and the parts as templates have them.
    pub fn located(&self, structure: &'static Structure) -> Option<Located> {
        self.mask(structure)?;
        let placed = self.placed.get(structure.name)?;
        Some(Located {
            structure,
            bounds: placed.bounds()?,
            sections: placed.sections.iter().map(PlacedSection::bounds).collect(),
            truncated: placed.cut.clone(),
            confidence: 1.0,
            low_confidence: false,
            reasons: Vec::new(),
        })
    }

    /// Whether so much of a structure is in view that the localiser, by its own rule, should find it. The usual size is that of
    /// the templates; where none shows it whole, only the length of long structures can be judged.
    pub fn substantial(&self, structure: &Structure, bank: &Bank, thresholds: &Thresholds) -> bool {
        let Some(placed) = self.placed.get(structure.name) else {
            return self.presence.get(structure.name) == Some(&Presence::Whole);
        };
        let Some(bounds) = placed.bounds() else { return false };
        let patterns = bank.patterns(structure.name);
        let size = bounds.size_mm();
        let shown = [0, 1, 2].map(|axis| {
            let cut = Face::of_axis(axis).iter().any(|face| placed.cut.contains(face));
            let usual = median(patterns.iter().filter_map(|(_, p)| p.size_mm()[axis]));
            match cut {
                false => Some(1.0),
                true => (usual > 0.0).then(|| (size[axis] / usual).min(1.0)),
            }
        });
        if let [Some(x), Some(y), Some(z)] = shown
            && x * y * z >= thresholds.in_view
        {
            return true;
        }
        let across = [shown[0], shown[1]].iter().flatten().copied().fold(1.0, f64::min);
        let long = structure.linking == Linking::Sections && size[2] >= thresholds.in_view_long_mm;
        long && across >= thresholds.in_view
    }
}

/// Labels of another grid on the grid of the CT, nearest voxel; 0 outside.
pub fn onto(grid: &Grid, of: &Grid, labels: Array3<u16>) -> Array3<u16> {
    if grid == of {
        return labels;
    }
    Array3::from_shape_fn(grid.shape(), |(k, j, i)| {
        let at = of.to_voxel(grid.to_patient([i as f64, j as f64, k as f64]));
        let [i, j, k] = at.map(|v| v.round());
        // a negative place becomes a huge one, which is outside
        let index = |v: f64| if v < 0.0 { usize::MAX } else { v as usize };
        labels.get([index(k), index(j), index(i)]).copied().unwrap_or(0)
    })
}

/// A mask per structure that the labels hold, in the order of the anatomy table.
fn masks(labels: &Array3<u16>, names: &BTreeMap<u16, String>) -> Vec<Mask> {
    let of_label = |name: &String| {
        let name = teach::structure_of_label(name)?;
        STRUCTURES.iter().position(|s| s.name == name)
    };
    let last = names.keys().next_back().map_or(0, |label| usize::from(*label));
    let mut rows: Vec<Option<usize>> = vec![None; last + 1];
    for (label, name) in names {
        rows[usize::from(*label)] = of_label(name);
    }
    let row = |label: &u16| rows.get(usize::from(*label)).copied().flatten();
    let mut boxes: Vec<Option<[[usize; 2]; 3]>> = vec![None; STRUCTURES.len()];
    for ((k, j, i), label) in labels.indexed_iter().filter(|(_, label)| **label != 0) {
        let Some(row) = row(label) else { continue };
        let bounds = boxes[row].get_or_insert([k, j, i].map(|v| [v, v]));
        for (bound, at) in bounds.iter_mut().zip([k, j, i]) {
            *bound = [bound[0].min(at), bound[1].max(at)];
        }
    }
    let mask = |(number, bounds): (usize, &Option<[[usize; 2]; 3]>)| {
        let [k, j, i] = (*bounds)?;
        let block = labels.slice(s![k[0]..=k[1], j[0]..=j[1], i[0]..=i[1]]);
        Some(Mask {
            structure: &STRUCTURES[number],
            offset: [i[0], j[0], k[0]],
            voxels: block.mapv(|label| label != 0 && row(&label) == Some(number)),
        })
    };
    boxes.iter().enumerate().filter_map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::PatientPoint;
    use crate::structure;

    fn grid() -> Grid {
        Grid {
            origin: PatientPoint::new(0.0, 0.0, 0.0),
            directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            spacing_mm: [2.0, 2.0, 2.0],
            size: [20, 20, 20],
        }
    }

    #[test]
    fn labels_say_what_is_whole_cut_absent_and_not_to_be_judged() {
        let mut labels = Array3::zeros((20, 20, 20));
        labels.slice_mut(s![5..10, 5..10, 5..10]).fill(1);
        labels.slice_mut(s![15..20, 5..10, 5..10]).fill(2);
        labels.slice_mut(s![12..15, 15..18, 5..10]).fill(3);
        labels[[0, 0, 0]] = 9;
        let names = ["lung_upper_lobe_left", "spleen", "lung_lower_lobe_left"];
        let mut names: BTreeMap<u16, String> = (1..).zip(names.map(String::from)).collect();
        names.insert(9, "heart".into());
        let truth = Truth::of_labels("case", &grid(), &labels, &names);
        assert_eq!(truth.presence["lung_left"], Presence::Whole);
        assert_eq!(truth.presence["spleen"], Presence::Cut);
        assert_eq!(truth.presence["liver"], Presence::Absent);
        assert_eq!(truth.presence.get("heart"), None);
        let lung = truth.mask(structure::by_name("lung_left").unwrap()).unwrap();
        assert_eq!((lung.voxel_count(), lung.offset), (125 + 45, [5, 5, 5]));
        let located = truth.located(structure::by_name("spleen").unwrap()).unwrap();
        assert_eq!((located.bounds.min.z, located.bounds.max.z), (29.0, 39.0));
        assert_eq!(located.truncated, [Face::ZMax]);
    }

    #[test]
    fn labels_stored_the_other_way_round_land_in_place() {
        let turned = Grid {
            origin: PatientPoint::new(38.0, 0.0, 0.0),
            directions: [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            ..grid()
        };
        let mut labels = Array3::zeros((20, 20, 20));
        labels[[3, 4, 0]] = 7;
        let moved = onto(&grid(), &turned, labels);
        assert_eq!(moved[[3, 4, 19]], 7);
        assert_eq!(moved.iter().filter(|v| **v != 0).count(), 1);
    }

    #[test]
    fn volumes_of_one_patient_are_left_out_together() {
        let placed = |volume: &str, patient: Option<&str>| Placed {
            volume: volume.into(),
            patient: patient.map(String::from),
            ..Placed::default()
        };
        let all = [placed("a1", Some("a")), placed("a2", Some("a")), placed("b", None)];
        let without = |n: usize| Truth::of_points(&all[n], &all).without.into_iter().collect::<Vec<_>>();
        assert_eq!(without(0), ["a1", "a2"]);
        assert_eq!(without(2), ["b"]);
        let template = || crate::localise::bank::Template {
            source: String::new(),
            licence: String::new(),
            made_by: String::new(),
            patterns: BTreeMap::new(),
        };
        let bank = Bank {
            templates: ["a1", "a2", "b"].map(|id| (id.to_owned(), template())).into(),
            ..Bank::default()
        };
        let others = Truth::of_points(&all[1], &all).others(&bank);
        assert_eq!(others.templates.into_keys().collect::<Vec<_>>(), ["b"]);
    }
}
