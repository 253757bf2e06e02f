//! Which of our structures somebody else's region is: by its codes, else by its name.
//!
//! Names are compared whole, without regard to letter case and separators, so `PTV_Liver`, `Liver-PTV` or `Kidneys` can never pass
//! for an organ. What contradicts itself, as a left code under a right name, is not taken.

use crate::labels::{Coded, Region};
use crate::structure::{self, Structure};

/// A structure's names without its side: our name, the SRT code that SNOMED CT replaced (PS3.16 table in CID 7151 and others),
/// and spellings besides our name and the TG-263 one. Lower case, without separators.
type Words = (&'static str, &'static str, &'static [&'static str]);
#[rustfmt::skip] // one line each, so that the table reads as a table
const VOCABULARY: &[Words] = &[
    ("lung", "T-28000", &[]),
    ("heart", "T-32000", &["wholeheart"]),
    ("liver", "T-62000", &["hepar"]),
    ("spleen", "T-C3000", &["lien"]),
    ("stomach", "T-57000", &["gaster"]),
    ("kidney", "T-71000", &["ren"]),
    ("gallbladder", "T-63000", &[]),
    ("aorta", "T-42000", &[]),
    ("trachea", "T-25000", &[]),
    ("esophagus", "T-56000", &["oesophagus", "esoph", "oesoph"]),
    ("spinal_cord", "T-A7010", &["cord", "myelon", "medullaspinalis"]),
    ("sternum", "T-11210", &[]),
    ("scapula", "T-12280", &[]),
    ("humerus", "T-12410", &[]),
    ("clavicula", "T-12310", &[]),
    ("adrenal_gland", "T-B3000", &["adrenal", "suprarenalgland"]),
    ("pancreas", "T-65000", &[]),
    ("inferior_vena_cava", "T-48710", &["ivc", "venacavainferior", "venacavainf"]),
    ("vertebra_T5", "T-11750", &["t5", "t05", "th5", "th05", "vbt5", "vertebraet5"]),
    ("vertebra_T10", "T-117A0", &["t10", "th10", "vertebraet10"]),
    ("vertebra_L1", "T-11910", &["l1", "l01", "vbl01", "vertebrael1"]),
    ("vertebra_L3", "T-11930", &["l3", "l03", "vbl03", "vertebrael3"]),
    ("urinary_bladder", "T-74000", &["bladderurinary", "vesicaurinaria"]),
    ("femur", "T-12710", &[]),
    ("hip", "T-D2500", &["hipbone", "oscoxae"]),
    ("sacrum", "T-11AD0", &["ossacrum"]),
    ("brain", "T-A0100", &[]),
    ("eye", "T-AA000", &["eyeball", "globe"]),
    ("mandible", "T-11180", &["mandibula"]),
];
/// Parts that make a structure when all of them are taken: the structure, and the part without its side.
const PARTS: &[(&str, &str)] = &[
    ("lung_left", "lungupperlobe"),
    ("lung_left", "lunglowerlobe"),
    ("lung_right", "lungupperlobe"),
    ("lung_right", "lungmiddlelobe"),
    ("lung_right", "lunglowerlobe"),
];
const LEFT: &[&str] = &["left", "lt", "l"];
const RIGHT: &[&str] = &["right", "rt", "r"];
/// SNOMED CT and SRT.
const LEFT_CODES: [&str; 2] = ["7771000", "G-A101"];
const RIGHT_CODES: [&str; 2] = ["24028007", "G-A100"];
/// Codes that say nothing of the organ, so that the name counts: tissue, organ, anatomical structure, body structure.
const GENERAL_CODES: &[&str] = &[
    "85756007",
    "T-D0050",
    "91772007",
    "T-D0062",
    "91723000",
    "T-D0005",
    "123037004",
    "T-D000A",
];
/// Words that no organ's name holds; with digits behind them too.
const NEVER: &[&str] = &[
    "ptv",
    "ctv",
    "gtv",
    "itv",
    "igtv",
    "prv",
    "ring",
    "avoid",
    "avoidance",
    "opt",
    "optim",
    "boost",
    "dose",
    "minus",
    "margin",
    "couch",
    "bolus",
    "external",
    "body",
    "tumor",
    "tumour",
    "lesion",
];
/// RT ROI Interpreted Types of what is no organ (PS3.3 C.8.8.8.1).
const NEVER_TYPES: &[&str] = &[
    "PTV",
    "CTV",
    "GTV",
    "ITV",
    "TREATED_VOLUME",
    "IRRAD_VOLUME",
    "BOLUS",
    "AVOIDANCE",
    "MARKER",
    "REGISTRATION",
    "ISOCENTER",
    "CONTRAST_AGENT",
    "CAVITY",
    "BRACHY_CHANNEL",
    "BRACHY_ACCESSORY",
    "BRACHY_SRC_APP",
    "BRACHY_CHNL_SHLD",
    "SUPPORT",
    "FIXATION",
    "DOSE_REGION",
    "DOSE_MEASUREMENT",
    "EXTERNAL",
    "CONTROL",
];
/// Said behind names by some makers; they change nothing.
const REMARKS: &[&[&str]] = &[&["not", "for", "clinical", "use"], &["ai"], &["auto"]];

/// What a region is taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    pub structure: &'static Structure,
    /// A part of it, such as a lobe.
    pub part: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Side {
    const fn ending(self) -> &'static str {
        match self {
            Self::Left => "_left",
            Self::Right => "_right",
        }
    }
}

/// Which structure a region is; the error says in words why it is none.
pub fn recognise(region: &Region) -> Result<Known, String> {
    if NEVER_TYPES.contains(&region.interpreted_type.as_str()) {
        return Err(format!("its type is {}", region.interpreted_type));
    }
    let named = by_name(&region.name);
    if let Some(word) = never(&words(&region.name)) {
        return Err(format!("a name with {word:?} is no organ's"));
    }
    let Some(kind) = region
        .kind
        .as_ref()
        .filter(|kind| !GENERAL_CODES.contains(&kind.value.as_str()))
    else {
        return named;
    };
    let coded = by_code(kind, region.laterality.as_ref(), &region.name)?;
    match named {
        Ok(named) if named.structure != coded.structure => Err(format!(
            "its code says {}, its name {}",
            coded.structure.name, named.structure.name
        )),
        Ok(named) => Ok(named),
        Err(_) => Ok(coded),
    }
}

fn by_code(kind: &Coded, laterality: Option<&Coded>, name: &str) -> Result<Known, String> {
    let value = kind.value.as_str();
    let old = VOCABULARY
        .iter()
        .find(|(_, srt, _)| *srt == value)
        .map(|(root, ..)| *root);
    let rows = || structure::sought().filter(|s| s.kind.value == value || old == Some(sideless(s)));
    let unknown = || format!("its code says {} ({value})", kind.meaning);
    let first = rows().next().ok_or_else(unknown)?;
    let known = |structure| Known { structure, part: false };
    if first.laterality.is_none() {
        return Ok(known(first));
    }
    let among = |codes: [&str; 2]| laterality.is_some_and(|side| codes.contains(&side.value.as_str()));
    let coded = match (among(LEFT_CODES), among(RIGHT_CODES)) {
        (true, _) => Some(Side::Left),
        (_, true) => Some(Side::Right),
        _ => None,
    };
    let named = split_side(&words(name)).0;
    if let (Some(coded), Some(named)) = (coded, named)
        && coded != named
    {
        return Err(format!("its code says {coded:?}, its name {named:?}"));
    }
    let side = coded
        .or(named)
        .ok_or_else(|| format!("neither its code ({}) nor its name says which side", kind.meaning))?;
    rows()
        .find(|s| s.name.ends_with(side.ending()))
        .map(known)
        .ok_or_else(unknown)
}

/// Which structure a name means.
pub fn by_name(name: &str) -> Result<Known, String> {
    let mut words = words(name);
    for remark in REMARKS {
        if words.len() > remark.len() && words.ends_with(&remark.iter().map(|w| w.to_string()).collect::<Vec<_>>()) {
            words.truncate(words.len() - remark.len());
        }
    }
    if let Some(word) = never(&words) {
        return Err(format!("a name with {word:?} is no organ's"));
    }
    let (side, rest) = split_side(&words);
    let base = rest.concat();
    if let Some(side) = side
        && let Some((structure, _)) = PARTS
            .iter()
            .find(|(s, part)| *part == base && s.ends_with(side.ending()))
        && let Some(structure) = structure::sought().find(|s| s.name == *structure)
    {
        return Ok(Known { structure, part: true });
    }
    // The whole name first: in L1 the letter is no side.
    if let Some(known) = spelled(&words.concat(), None).or_else(|| spelled(&base, side)) {
        return Ok(known);
    }
    let either = [Side::Left, Side::Right].map(|side| spelled(&words.concat(), Some(side)).is_some());
    if either == [true; 2] {
        return Err("its name does not say which side".into());
    }
    glued(&words.concat()).ok_or_else(|| "no structure that we know is called so".into())
}

/// A side written without a separator: `LEFTKIDNEY`, `kidneyl`.
fn glued(name: &str) -> Option<Known> {
    for (side, words) in [(Side::Left, LEFT), (Side::Right, RIGHT)] {
        for word in words {
            let rests = [name.strip_prefix(word), name.strip_suffix(word)];
            if let Some(known) = rests.into_iter().flatten().find_map(|rest| spelled(rest, Some(side))) {
                return Some(known);
            }
        }
    }
    None
}

/// The structure whose name, without side and separators, is this.
fn spelled(base: &str, side: Option<Side>) -> Option<Known> {
    let is = |structure: &&Structure| {
        let of_side = match side {
            Some(side) => structure.name.ends_with(side.ending()),
            None => structure.laterality.is_none(),
        };
        let more = VOCABULARY
            .iter()
            .find(|(name, ..)| *name == sideless(structure))
            .map(|(.., more)| *more);
        let tg_263 = || split_side(&words(structure.roi_name)).1.concat() == base;
        of_side && (words(sideless(structure)).concat() == base || tg_263() || more.unwrap_or_default().contains(&base))
    };
    let structure = structure::sought().find(|s| is(s))?;
    Some(Known { structure, part: false })
}

/// A structure's name without its side.
fn sideless(structure: &Structure) -> &'static str {
    let name = structure.name;
    name.strip_suffix("_left")
        .or(name.strip_suffix("_right"))
        .unwrap_or(name)
}

/// Lower-case words of a name: divided at what is no letter or digit, and where a capital begins a word.
fn words(name: &str) -> Vec<String> {
    let letters: Vec<char> = name.chars().take(256).collect();
    let mut words = vec![String::new()];
    for (n, letter) in letters.iter().enumerate() {
        let before = n.checked_sub(1).map(|n| letters[n]);
        let after = letters.get(n + 1);
        let begins = letter.is_uppercase()
            && (before.is_some_and(char::is_lowercase) || after.is_some_and(|next| next.is_lowercase()));
        if begins || !letter.is_alphanumeric() {
            words.push(String::new());
        }
        if letter.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The side that the first or last word names, and the other words. Both sides at once are none.
fn split_side(words: &[String]) -> (Option<Side>, &[String]) {
    let side = |word: &String| {
        if LEFT.contains(&word.as_str()) {
            Some(Side::Left)
        } else {
            RIGHT.contains(&word.as_str()).then_some(Side::Right)
        }
    };
    match words {
        [first, .., last] if side(first).is_some() && side(last).is_some() => (None, words),
        [first, rest @ ..] if !rest.is_empty() && side(first).is_some() => (side(first), rest),
        [rest @ .., last] if !rest.is_empty() => match side(last) {
            Some(side) => (Some(side), rest),
            None => (None, words),
        },
        _ => (None, words),
    }
}

fn never(words: &[String]) -> Option<&'static str> {
    let is = |never: &&&str| {
        let of = |word: &String| {
            word.strip_prefix(**never)
                .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        };
        words.iter().any(of)
    };
    NEVER.iter().find(is).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Shape;

    fn named(name: &str) -> Option<&'static str> {
        by_name(name).ok().map(|known| known.structure.name)
    }

    #[test]
    fn every_structure_is_known_by_our_name_and_by_its_roi_name() {
        for s in structure::sought() {
            assert_eq!(named(s.name), Some(s.name));
            assert_eq!(named(s.roi_name), Some(s.name), "{}", s.roi_name);
            assert_eq!(named(&s.roi_name.to_uppercase()), Some(s.name), "{}", s.roi_name);
            assert_eq!(named(&format!("{} NOT FOR CLINICAL USE", s.roi_name)), Some(s.name));
        }
        for (root, ..) in VOCABULARY {
            assert!(structure::sought().any(|s| sideless(s) == *root), "{root}");
        }
    }

    #[test]
    fn spellings_of_clinics_are_known() {
        for (spelling, name) in [
            ("Kidney_L", "kidney_left"),
            ("kidney left", "kidney_left"),
            ("LT KIDNEY", "kidney_left"),
            ("L-Kidney", "kidney_left"),
            ("LKidney", "kidney_left"),
            ("RtKidney", "kidney_right"),
            ("KIDNEYR", "kidney_right"),
            ("Right_Kidney", "kidney_right"),
            ("Lung_R", "lung_right"),
            ("Lung_Rt", "lung_right"),
            ("SpinalCord", "spinal_cord"),
            ("Spinal Cord", "spinal_cord"),
            ("CORD", "spinal_cord"),
            ("Oesophagus", "esophagus"),
            ("Vertebrae_L1", "vertebra_L1"),
            ("L1", "vertebra_L1"),
            ("vertebrae_T10", "vertebra_T10"),
            ("VB_T5", "vertebra_T5"),
            ("A_Aorta", "aorta"),
            ("Bladder", "urinary_bladder"),
            ("Gall Bladder", "gallbladder"),
            ("Adrenal_R", "adrenal_gland_right"),
            ("lung_middle_lobe_right", "lung_right"),
            ("Left Clavicle", "clavicula_left"),
        ] {
            assert_eq!(named(spelling), Some(name), "{spelling}");
        }
    }

    #[test]
    fn what_is_no_organ_or_has_no_side_is_never_taken() {
        for name in [
            "PTV",
            "PTV Liver",
            "Liver_CTV",
            "CTV60_Lung_L",
            "Liver-PTV",
            "Ring Liver",
            "SpinalCord_PRV",
            "SpinalCord PRV05",
            "Avoid Heart",
            "Heart opt",
            "Kidneys",
            "Kidney",
            "Lungs",
            "Lung",
            "Kidney_L_R",
            "L Kidney R",
            "lung_middle_lobe_left",
            "Liver2",
            "zLiver",
            "Liver minus GTV",
            "kidney_cyst_left",
            "Femur_Head_L",
            "SpinalCanal",
            "",
            "L",
            "__",
            "Lens_L",
        ] {
            assert_eq!(named(name), None, "{name}");
        }
        assert!(by_name("Kidney").unwrap_err().contains("which side"));
    }

    fn coded(kind: [&str; 2], side: Option<&str>, name: &str, interpreted_type: &str) -> Result<&'static str, String> {
        let code = |value: &str, scheme: &str| Coded {
            value: value.into(),
            scheme: scheme.into(),
            meaning: "thing".into(),
        };
        let region = Region {
            number: 1,
            name: name.into(),
            category: None,
            kind: Some(code(kind[0], kind[1])),
            laterality: side.map(|value| code(value, "SCT")),
            made: String::new(),
            interpreted_type: interpreted_type.into(),
            frame_of_reference: None,
            shape: Shape::Contours(Vec::new()),
            notes: Vec::new(),
        };
        recognise(&region).map(|known| known.structure.name)
    }

    #[test]
    fn codes_come_first_and_contradictions_are_not_taken() {
        let kidney = ["64033007", "SCT"];
        assert_eq!(coded(kidney, Some("7771000"), "Segment_1", ""), Ok("kidney_left"));
        assert_eq!(coded(kidney, None, "Segment R", ""), Ok("kidney_right"));
        assert_eq!(coded(["T-71000", "SRT"], Some("G-A100"), "", ""), Ok("kidney_right"));
        assert_eq!(coded(["T-62000", "SRT"], None, "Segment 4", ""), Ok("liver"));
        assert_eq!(coded(["85756007", "SCT"], None, "Liver", ""), Ok("liver"));
        assert!(
            coded(kidney, Some("7771000"), "Kidney_R", "")
                .unwrap_err()
                .contains("Left, its name Right")
        );
        assert!(coded(kidney, None, "Segment_1", "").unwrap_err().contains("which side"));
        assert!(coded(["10200004", "SCT"], None, "Spleen", "").is_err());
        assert!(
            coded(["108369006", "SCT"], None, "Liver", "")
                .unwrap_err()
                .contains("108369006")
        );
        assert!(
            coded(["10200004", "SCT"], None, "Liver", "PTV")
                .unwrap_err()
                .contains("PTV")
        );
        assert!(coded(["10200004", "SCT"], None, "PTV Liver", "").is_err());
    }
}
