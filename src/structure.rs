//! The anatomy this daemon knows: one row per structure, with its names, codes, colour and how it is best outlined.
//!
//! To add a structure, add a row. Codes are SNOMED CT as in DICOM PS3.16 CID 7150 (category), CID 7151 (type) and
//! CID 244 (laterality); ROI names follow AAPM TG-263 and stay within 16 characters, because several planning systems cut or
//! refuse longer ones. TG-263 has no name for one hip bone; `Bone_Hip_L` is formed by its rules.

/// A coded concept (PS3.3 table 8.8-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub value: &'static str,
    pub scheme: &'static str,
    pub meaning: &'static str,
}

/// Which grey window shows the structure best to the segmenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    Soft,
    Bone,
    Lung,
}

/// Whether the structure is one connected piece, so that smaller islands are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    One,
    Many,
}

/// How boxes are carried from slice to slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linking {
    /// From the middle slice outwards, each slice prompted by its neighbour's mask: compact organs.
    Propagate,
    /// A box per part along z, found by the localiser (SPL): long or winding organs.
    Sections,
}

/// What a structure is to a planning system, and how we come by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Located and outlined by the networks.
    Organ,
    /// The patient's outer surface: computed from the image, and only when it is asked for by name.
    External,
}

impl Role {
    /// RT ROI Interpreted Type (PS3.3 C.8.8.8.1).
    pub const fn interpreted_type(self) -> &'static str {
        match self {
            Self::Organ => "ORGAN",
            Self::External => "EXTERNAL",
        }
    }
}

/// One row of the anatomy table.
#[derive(Debug, PartialEq)]
pub struct Structure {
    /// Our name, snake case; what the configuration and template banks write.
    pub name: &'static str,
    /// TG-263 name, at most 16 characters.
    pub roi_name: &'static str,
    pub category: Code,
    pub kind: Code,
    pub laterality: Option<Code>,
    pub role: Role,
    /// sRGB, the same in SEG, RTSTRUCT and pictures.
    pub colour: [u8; 3],
    pub window: Window,
    pub pieces: Pieces,
    pub linking: Linking,
}

/// CID 7150, "Anatomical Structure".
const ANATOMICAL_STRUCTURE: Code = sct("91723000", "Anatomical Structure");
/// CID 244.
const LEFT: Option<Code> = Some(sct("7771000", "Left"));
const RIGHT: Option<Code> = Some(sct("24028007", "Right"));
/// The structure has no side.
const MID: Option<Code> = None;

const fn sct(value: &'static str, meaning: &'static str) -> Code {
    Code {
        value,
        scheme: "SCT",
        meaning,
    }
}

/// How a structure is best outlined, by the measurements on LiteMedSAM: a box per section wherever the outline changes much along
/// z; propagation for compact organs, where both are equally good and one box is easier to find.
type Plan = (Window, Pieces, Linking);
const SOFT: Plan = (Window::Soft, Pieces::One, Linking::Propagate);
const SOFT_LONG: Plan = (Window::Soft, Pieces::One, Linking::Sections);
/// Keeping only the largest piece costs the pancreas a third of its Dice: thin bridges come and go with the slice thickness.
const SOFT_RAGGED: Plan = (Window::Soft, Pieces::Many, Linking::Sections);
const AIR_LONG: Plan = (Window::Lung, Pieces::One, Linking::Sections);
const BONE: Plan = (Window::Bone, Pieces::One, Linking::Propagate);
const BONE_LONG: Plan = (Window::Bone, Pieces::One, Linking::Sections);
const BONE_RAGGED: Plan = (Window::Bone, Pieces::Many, Linking::Sections);

const fn row(
    [name, roi_name]: [&'static str; 2],
    kind: Code,
    laterality: Option<Code>,
    (window, pieces, linking): Plan,
    colour: [u8; 3],
) -> Structure {
    Structure {
        name,
        roi_name,
        category: ANATOMICAL_STRUCTURE,
        kind,
        laterality,
        role: Role::Organ,
        colour,
        window,
        pieces,
        linking,
    }
}

/// Every structure, in the order results list them.
#[rustfmt::skip] // one line each, so that the table reads as a table
pub const STRUCTURES: &[Structure] = &[
    row(["lung_left", "Lung_L"], sct("39607008", "Lung"), LEFT, AIR_LONG, [120, 190, 235]),
    row(["lung_right", "Lung_R"], sct("39607008", "Lung"), RIGHT, AIR_LONG, [70, 130, 200]),
    row(["heart", "Heart"], sct("80891009", "Heart"), MID, SOFT_LONG, [206, 62, 72]),
    row(["liver", "Liver"], sct("10200004", "Liver"), MID, SOFT_LONG, [221, 130, 101]),
    row(["spleen", "Spleen"], sct("78961009", "Spleen"), MID, SOFT, [157, 108, 162]),
    row(["stomach", "Stomach"], sct("69695003", "Stomach"), MID, SOFT_LONG, [216, 190, 110]),
    row(["kidney_left", "Kidney_L"], sct("64033007", "Kidney"), LEFT, SOFT, [240, 150, 40]),
    row(["kidney_right", "Kidney_R"], sct("64033007", "Kidney"), RIGHT, SOFT, [200, 105, 20]),
    row(["gallbladder", "Gallbladder"], sct("28231008", "Gallbladder"), MID, SOFT, [90, 170, 70]),
    row(["aorta", "A_Aorta"], sct("15825003", "Aorta"), MID, SOFT_LONG, [245, 30, 30]),
    row(["trachea", "Trachea"], sct("44567001", "Trachea"), MID, AIR_LONG, [150, 240, 250]),
    row(["esophagus", "Esophagus"], sct("32849002", "Esophagus"), MID, SOFT_LONG, [205, 165, 140]),
    row(["spinal_cord", "SpinalCord"], sct("2748008", "Spinal cord"), MID, SOFT_LONG, [255, 245, 60]),
    row(["sternum", "Sternum"], sct("56873002", "Sternum"), MID, BONE_RAGGED, [235, 225, 175]),
    row(["scapula_left", "Scapula_L"], sct("79601000", "Scapula"), LEFT, BONE_RAGGED, [130, 225, 160]),
    row(["scapula_right", "Scapula_R"], sct("79601000", "Scapula"), RIGHT, BONE_RAGGED, [60, 180, 120]),
    row(["humerus_left", "Humerus_L"], sct("85050009", "Humerus"), LEFT, BONE, [190, 215, 60]),
    row(["humerus_right", "Humerus_R"], sct("85050009", "Humerus"), RIGHT, BONE, [140, 165, 30]),
    row(["clavicula_left", "Clavicle_L"], sct("51299004", "Clavicle"), LEFT, BONE_LONG, [215, 150, 255]),
    row(["clavicula_right", "Clavicle_R"], sct("51299004", "Clavicle"), RIGHT, BONE_LONG, [165, 90, 230]),
    row(["adrenal_gland_left", "Glnd_Adrenal_L"], sct("23451007", "Adrenal gland"), LEFT, SOFT, [255, 110, 190]),
    row(["adrenal_gland_right", "Glnd_Adrenal_R"], sct("23451007", "Adrenal gland"), RIGHT, SOFT, [215, 50, 150]),
    row(["pancreas", "Pancreas"], sct("15776009", "Pancreas"), MID, SOFT_RAGGED, [250, 210, 160]),
    row(["inferior_vena_cava", "V_Venacava_I"], sct("64131007", "Inferior vena cava"), MID, SOFT_LONG, [40, 70, 240]),
    row(["vertebra_T5", "VB_T05"], sct("56401006", "T5 vertebra"), MID, BONE, [175, 235, 30]),
    row(["vertebra_T10", "VB_T10"], sct("7610001", "T10 vertebra"), MID, BONE, [30, 200, 60]),
    row(["vertebra_L1", "VB_L1"], sct("66794005", "L1 vertebra"), MID, BONE, [20, 150, 150]),
    row(["vertebra_L3", "VB_L3"], sct("36470004", "L3 vertebra"), MID, BONE, [95, 80, 170]),
    row(["urinary_bladder", "Bladder"], sct("89837001", "Bladder"), MID, SOFT, [235, 200, 20]),
    row(["femur_left", "Femur_L"], sct("71341001", "Femur"), LEFT, BONE_LONG, [110, 215, 215]),
    row(["femur_right", "Femur_R"], sct("71341001", "Femur"), RIGHT, BONE_LONG, [40, 175, 205]),
    row(["hip_left", "Bone_Hip_L"], sct("29836001", "Hip"), LEFT, BONE_RAGGED, [255, 165, 130]),
    row(["hip_right", "Bone_Hip_R"], sct("29836001", "Hip"), RIGHT, BONE_RAGGED, [225, 110, 80]),
    row(["sacrum", "Sacrum"], sct("54735007", "Sacrum"), MID, BONE_RAGGED, [165, 140, 80]),
    row(["brain", "Brain"], sct("12738006", "Brain"), MID, SOFT, [245, 180, 205]),
    row(["eye_left", "Eye_L"], sct("81745001", "Eye"), LEFT, SOFT, [180, 180, 255]),
    row(["eye_right", "Eye_R"], sct("81745001", "Eye"), RIGHT, SOFT, [130, 130, 220]),
    row(["mandible", "Bone_Mandible"], sct("91609006", "Mandible"), MID, BONE_RAGGED, [205, 210, 205]),
    Structure { role: Role::External, ..row(["external", "External"], sct("38266002", "Entire body"), MID, SOFT, [0, 255, 130]) },
];

/// What the networks look for: all but what is computed.
pub fn sought() -> impl Iterator<Item = &'static Structure> {
    STRUCTURES.iter().filter(|s| s.role == Role::Organ)
}

/// Looks a structure up by its name.
pub fn by_name(name: &str) -> Option<&'static Structure> {
    STRUCTURES.iter().find(|s| s.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_within_what_planning_systems_take() {
        let names: BTreeSet<_> = STRUCTURES.iter().map(|s| s.name).collect();
        let roi_names: BTreeSet<_> = STRUCTURES.iter().map(|s| s.roi_name.to_lowercase()).collect();
        assert_eq!((names.len(), roi_names.len()), (STRUCTURES.len(), STRUCTURES.len()));
        for s in STRUCTURES {
            assert!((1..=16).contains(&s.roi_name.len()), "{}", s.roi_name);
            assert!(
                s.roi_name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                "{}",
                s.roi_name
            );
            assert_eq!(by_name(s.name), Some(s));
        }
    }

    #[test]
    fn codes_are_well_formed_and_one_concept_has_one_meaning() {
        let mut concepts = BTreeSet::new();
        for s in STRUCTURES {
            for code in [Some(s.category), Some(s.kind), s.laterality].into_iter().flatten() {
                assert_eq!(code.scheme, "SCT");
                // PS3.3 table 8.8-1: Code Value is SH, Code Meaning is LO. SNOMED identifiers end in a Verhoeff check digit.
                assert!(
                    (6..=16).contains(&code.value.len()) && verhoeff(code.value),
                    "{}",
                    code.value
                );
                assert!((1..=64).contains(&code.meaning.len()));
            }
            concepts.insert((s.kind.value, s.kind.meaning, s.laterality.map(|l| l.value)));
        }
        assert_eq!(concepts.len(), STRUCTURES.len(), "two rows with one concept");
        let values: BTreeSet<_> = concepts.iter().map(|c| c.0).collect();
        let meanings: BTreeSet<_> = concepts.iter().map(|c| c.1).collect();
        assert_eq!(values.len(), meanings.len());
    }

    #[test]
    fn sides_agree_between_name_roi_name_and_code() {
        for s in STRUCTURES {
            let side = s.laterality.map(|l| l.meaning);
            let (name, roi) = match side {
                Some("Left") => ("_left", "_L"),
                Some("Right") => ("_right", "_R"),
                _ => ("", ""),
            };
            assert!(s.name.ends_with(name) && s.roi_name.ends_with(roi), "{}", s.name);
            assert_eq!(
                side.is_some(),
                s.name.ends_with("_left") || s.name.ends_with("_right"),
                "{}",
                s.name
            );
            if let Some(base) = s.name.strip_suffix("_left") {
                let other = by_name(&format!("{base}_right")).expect("both sides");
                assert_eq!((other.kind, other.window, other.linking), (s.kind, s.window, s.linking));
            }
        }
    }

    #[test]
    fn the_body_is_computed_and_everything_else_sought() {
        let external = by_name("external").unwrap();
        assert_eq!(external.role.interpreted_type(), "EXTERNAL");
        assert_eq!(sought().count(), STRUCTURES.len() - 1);
        assert!(sought().all(|s| s.role.interpreted_type() == "ORGAN"));
    }

    #[test]
    fn colours_can_be_told_apart() {
        for (n, a) in STRUCTURES.iter().enumerate() {
            for b in &STRUCTURES[n + 1..] {
                let apart: u32 = (0..3).map(|c| u32::from(a.colour[c].abs_diff(b.colour[c]))).sum();
                assert!(apart >= 40, "{} and {}: {apart}", a.name, b.name);
            }
        }
    }

    /// The check digit of SNOMED CT identifiers.
    fn verhoeff(number: &str) -> bool {
        const P: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
        let dihedral = |a: u8, b: u8| match (a < 5, b < 5) {
            (true, true) => (a + b) % 5,
            (true, false) => 5 + (a + b - 5) % 5,
            (false, true) => 5 + (a - b) % 5,
            (false, false) => (a + 5 - b) % 5,
        };
        let mut check = 0;
        for (position, digit) in number.bytes().rev().enumerate() {
            let mut digit = digit - b'0';
            for _ in 0..position % 8 {
                digit = P[usize::from(digit)];
            }
            check = dihedral(check, digit);
        }
        check == 0
    }
}
