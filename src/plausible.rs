//! Cheap questions that a physicist asks first: is left on the left, is the size possible, is it inside the patient?
//!
//! An answer of no lowers the confidence and is said in words; it never removes a structure, because situs inversus, a spleen of
//! three litres and an organ in a hernia are real.

use crate::geometry::Vec3;
use crate::mask::{self, Mask};
use crate::volume::Volume;
use crate::volume::body::Body;

/// Least and most millilitres of a structure wholly in view, from small women to big men with room for disease; the figures are
/// wide on purpose, since they are to catch what cannot be, not what is unusual.
#[rustfmt::skip] // one line each, so that the table reads as a table
const VOLUMES_ML: &[(&str, [f64; 2])] = &[
    ("lung_left", [300.0, 4500.0]), ("lung_right", [300.0, 5000.0]), ("heart", [200.0, 2000.0]),
    ("liver", [500.0, 5000.0]), ("spleen", [20.0, 3000.0]), ("stomach", [20.0, 3000.0]),
    ("kidney_left", [30.0, 700.0]), ("kidney_right", [30.0, 700.0]), ("gallbladder", [2.0, 400.0]),
    ("aorta", [40.0, 900.0]), ("trachea", [8.0, 150.0]), ("esophagus", [8.0, 200.0]), ("spinal_cord", [10.0, 200.0]),
    ("sternum", [15.0, 250.0]), ("scapula_left", [40.0, 300.0]), ("scapula_right", [40.0, 300.0]),
    ("humerus_left", [50.0, 500.0]), ("humerus_right", [50.0, 500.0]),
    ("clavicula_left", [10.0, 100.0]), ("clavicula_right", [10.0, 100.0]),
    ("adrenal_gland_left", [0.8, 40.0]), ("adrenal_gland_right", [0.8, 40.0]), ("pancreas", [15.0, 300.0]),
    ("inferior_vena_cava", [10.0, 300.0]), ("vertebra_T5", [8.0, 120.0]), ("vertebra_T10", [12.0, 150.0]),
    ("vertebra_L1", [15.0, 180.0]), ("vertebra_L3", [15.0, 200.0]), ("urinary_bladder", [5.0, 2000.0]),
    ("femur_left", [100.0, 1000.0]), ("femur_right", [100.0, 1000.0]),
    ("hip_left", [120.0, 900.0]), ("hip_right", [120.0, 900.0]), ("sacrum", [60.0, 500.0]),
    ("brain", [700.0, 2200.0]), ("eye_left", [3.0, 15.0]), ("eye_right", [3.0, 15.0]), ("mandible", [15.0, 180.0]),
];

/// The first lies to the left of the second, as the patient sees it.
const LEFT_OF: &[[&str; 2]] = &[
    ["spleen", "liver"],
    ["stomach", "gallbladder"],
    ["kidney_left", "liver"],
    ["spleen", "kidney_right"],
    ["aorta", "inferior_vena_cava"],
];

/// The first lies above the second.
const ABOVE: &[[&str; 2]] = &[
    ["brain", "trachea"],
    ["eye_left", "mandible"],
    ["eye_right", "mandible"],
    ["trachea", "liver"],
    ["heart", "kidney_left"],
    ["heart", "kidney_right"],
    ["heart", "urinary_bladder"],
    ["liver", "urinary_bladder"],
    ["spleen", "urinary_bladder"],
    ["vertebra_T5", "vertebra_T10"],
    ["vertebra_T10", "vertebra_L1"],
    ["vertebra_L1", "vertebra_L3"],
    ["vertebra_L3", "sacrum"],
    ["sternum", "sacrum"],
];

/// Of an outline's voxels, as many may lie outside of the body: its surface runs through voxels.
const MAX_OUTSIDE: f64 = 0.02;
/// Apart from each other by less, two middles say nothing.
const SAME_PLACE_MM: f64 = 5.0;

/// Why a size is impossible; of a structure that the field of view cuts only too much is.
pub fn size(structure: &str, volume_ml: f64, cut: bool) -> Option<String> {
    let (_, [least, most]) = VOLUMES_ML.iter().find(|(name, _)| *name == structure)?;
    if volume_ml > *most {
        return Some(format!(
            "{volume_ml:.0} ml is more than the {most:.0} ml thought possible"
        ));
    }
    (volume_ml < *least && !cut).then(|| format!("{volume_ml:.1} ml is less than the {least} ml thought possible"))
}

/// For each mask, in their order, what is wrong with its place: by the other masks and by the body.
pub fn places(volume: &Volume, masks: &[Mask], body: Option<&Body>) -> Vec<Vec<String>> {
    let middles: Vec<Vec3> = masks.iter().map(|mask| middle(volume, mask)).collect();
    let mut doubts: Vec<Vec<String>> = masks
        .iter()
        .map(|mask| outside(mask, body).into_iter().collect())
        .collect();
    let at = |name: &str| masks.iter().position(|mask| mask.structure.name == name);
    let mut relate = |first: &str, second: &str, axis: usize, words: [&str; 2]| {
        let (Some(a), Some(b)) = (at(first), at(second)) else {
            return;
        };
        let off_mm = middles[b][axis] - middles[a][axis];
        if off_mm > SAME_PLACE_MM {
            doubts[a].push(format!("lies {off_mm:.0} mm {} of {second}", words[1]));
            doubts[b].push(format!("lies {off_mm:.0} mm {} of {first}", words[0]));
        }
    };
    for mask in masks {
        if let Some(stem) = mask.structure.name.strip_suffix("_left") {
            relate(
                mask.structure.name,
                &format!("{stem}_right"),
                0,
                ["to the left", "to the right"],
            );
        }
    }
    LEFT_OF
        .iter()
        .for_each(|[a, b]| relate(a, b, 0, ["to the left", "to the right"]));
    ABOVE
        .iter()
        .for_each(|[a, b]| relate(a, b, 2, ["above the middle", "below the middle"]));
    doubts
}

fn outside(mask: &Mask, body: Option<&Body>) -> Option<String> {
    let body = body?;
    let (mut count, mut out) = (0usize, 0usize);
    for [i, j, k] in mask.indices() {
        count += 1;
        out += usize::from(!body.voxels[[k, j, i]]);
    }
    let share = out as f64 / count.max(1) as f64;
    (share > MAX_OUTSIDE).then(|| format!("{:.0} % of it lies outside of the body", 100.0 * share))
}

/// Patient LPS millimetres. A mask is never empty.
fn middle(volume: &Volume, mask: &Mask) -> Vec3 {
    let at = mask::centre(mask.indices()).unwrap_or_default();
    volume.grid.to_patient(at).to_array()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Grid, PatientPoint};
    use crate::structure::{self, STRUCTURES};
    use ndarray::{Array3, s};

    /// 10 mm voxels; the patient's left is at high i, his head at high k.
    fn volume() -> Volume {
        let grid = Grid {
            origin: PatientPoint::new(0.0, 0.0, 0.0),
            spacing_mm: [10.0; 3],
            directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            size: [20, 10, 20],
        };
        let hu = Array3::from_elem(grid.shape(), 40);
        Volume { hu, grid }
    }

    fn cube(name: &str, [i, j, k]: [usize; 3]) -> Mask {
        Mask {
            structure: structure::by_name(name).unwrap(),
            offset: [i, j, k],
            voxels: Array3::from_elem((2, 2, 2), true),
        }
    }

    #[test]
    fn every_row_names_structures_that_exist() {
        let known = |name: &str| structure::by_name(name).is_some();
        assert!(
            VOLUMES_ML
                .iter()
                .all(|(name, [least, most])| known(name) && least < most)
        );
        assert!(LEFT_OF.iter().chain(ABOVE).flatten().all(|name| known(name)));
        let missing = structure::sought().find(|s| size(s.name, f64::MAX, false).is_none());
        assert_eq!(missing.map(|s| s.name), None);
        assert!(!STRUCTURES.is_empty());
    }

    #[test]
    fn sides_and_heights_that_are_swapped_are_said_of_both() {
        let right_way = [
            cube("kidney_left", [14, 4, 5]),
            cube("kidney_right", [4, 4, 5]),
            cube("heart", [10, 4, 12]),
        ];
        assert!(places(&volume(), &right_way, None).iter().all(Vec::is_empty));
        let swapped = [
            cube("kidney_left", [4, 4, 12]),
            cube("kidney_right", [14, 4, 5]),
            cube("heart", [10, 4, 5]),
        ];
        let doubts = places(&volume(), &swapped, None);
        assert!(
            doubts[0]
                .iter()
                .any(|d| d == "lies 100 mm to the right of kidney_right"),
            "{doubts:?}"
        );
        assert!(
            doubts[1].iter().any(|d| d == "lies 100 mm to the left of kidney_left"),
            "{doubts:?}"
        );
        assert!(
            doubts[2]
                .iter()
                .any(|d| d == "lies 70 mm below the middle of kidney_left"),
            "{doubts:?}"
        );
    }

    #[test]
    fn what_lies_in_the_air_or_cannot_be_so_large_is_doubted() {
        let mut voxels = Array3::from_elem(volume().grid.shape(), true);
        voxels.slice_mut(s![.., .., ..5]).fill(false);
        let body = Body { voxels, cut_slices: 0 };
        let doubts = places(
            &volume(),
            &[cube("liver", [4, 4, 4]), cube("spleen", [10, 4, 4])],
            Some(&body),
        );
        assert_eq!(doubts[0][0], "50 % of it lies outside of the body");
        assert!(doubts[1].iter().all(|d| !d.contains("outside")));
        assert!(size("spleen", 9000.0, true).unwrap().contains("more than"));
        assert!(size("spleen", 1.0, false).unwrap().contains("less than"));
        assert_eq!((size("spleen", 1.0, true), size("spleen", 200.0, false)), (None, None));
    }
}
