//! How a receiver wants its objects: what a destination profile may change without changing what is said.
//!
//! Nothing here moves a contour: a style chooses between encodings that mean the same voxels, and bounds the deviation where it
//! simplifies. Receivers differ most in names, lengths and how they read holes.

use crate::structure::Structure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Choices of one receiver. The default is what `generic` means: TG-263 names, keyhole holes, exact contours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Style {
    /// How a hole in a slice is written in an RTSTRUCT.
    pub holes: Holes,
    /// Largest distance a contour may leave the voxel edges to have fewer points, millimetres; 0 keeps every corner. Whatever is
    /// asked, it stays below half a voxel, so that no voxel centre changes sides, and the area stays the mask's.
    pub simplify_mm: f64,
    /// Longest ROI name and segment label, characters; names alike after cutting get a number.
    pub name_length: usize,
    /// Longest Contour Data value, bytes; longer outlines are cut at a row into two that touch.
    pub contour_bytes: usize,
    /// Whether a label map is compressed (RLE Lossless, a fiftieth of the size) or native, for receivers that take only that.
    pub rle: bool,
    /// Own names: structure name → ROI name and segment label. One that the patient's character set cannot write gives way to
    /// the TG-263 name.
    pub names: BTreeMap<String, String>,
    /// Own colours: structure name → sRGB.
    pub colours: BTreeMap<String, [u8; 3]>,
}

/// PS3.3 C.8.8.6.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holes {
    /// One CLOSED_PLANAR contour that runs to the hole along a channel of no width.
    #[default]
    Keyhole,
    /// CLOSEDPLANAR_XOR contours: outline and holes on their own.
    Xor,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            holes: Holes::Keyhole,
            simplify_mm: 0.0,
            name_length: 16,
            contour_bytes: 65_534,
            rle: true,
            names: BTreeMap::new(),
            colours: BTreeMap::new(),
        }
    }
}

impl Style {
    /// The ROI name or segment label of a structure.
    pub fn name<'a>(&'a self, structure: &'a Structure) -> &'a str {
        self.names
            .get(structure.name)
            .map_or(structure.roi_name, String::as_str)
    }

    /// sRGB.
    pub fn colour(&self, structure: &Structure) -> [u8; 3] {
        self.colours.get(structure.name).copied().unwrap_or(structure.colour)
    }
}
