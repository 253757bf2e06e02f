//! The anatomy this daemon knows: one row per structure, with its names, codes, colour and how it is best outlined.
//!
//! To add a structure, add a row. Codes are SNOMED CT as in DICOM PS3.16 CID 7150, 7151 and 7192 onwards; ROI names follow AAPM
//! TG-263 and stay within 16 characters, because several planning systems cut or refuse longer ones.

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
    /// sRGB, the same in SEG, RTSTRUCT and pictures.
    pub colour: [u8; 3],
    pub window: Window,
    pub pieces: Pieces,
    pub linking: Linking,
}

const ORGAN: Code = Code {
    value: "123037004",
    scheme: "SCT",
    meaning: "Anatomical Structure",
};

/// Every structure, in the order results list them.
pub const STRUCTURES: &[Structure] = &[Structure {
    name: "liver",
    roi_name: "Liver",
    category: ORGAN,
    kind: Code {
        value: "10200004",
        scheme: "SCT",
        meaning: "Liver",
    },
    laterality: None,
    colour: [221, 130, 101],
    window: Window::Soft,
    pieces: Pieces::One,
    linking: Linking::Propagate,
}];

/// Looks a structure up by its name.
pub fn by_name(name: &str) -> Option<&'static Structure> {
    STRUCTURES.iter().find(|s| s.name == name)
}
