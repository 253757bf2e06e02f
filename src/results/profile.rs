//! Destination profiles: data, not code. The built-in ones stand in `profiles.toml`; a site adds its own in its configuration.

use crate::results::style::Style;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a receiver takes, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// For people: which systems it is meant for.
    #[serde(default)]
    pub about: String,
    /// Results it can use; what a protocol makes besides is not sent there.
    pub takes: Vec<String>,
    #[serde(default)]
    pub seg: SegEncoding,
    #[serde(default)]
    pub style: Style,
}

impl Profile {
    /// The kinds that stand for a result at this receiver, the preferred one first. `made` are the results of the job.
    pub fn forms_of<'a>(&self, result: &'a str, made: &[String]) -> Vec<&'a str> {
        let has_seg = |results: &[String]| results.iter().any(|name| name == "seg");
        match result {
            "seg" => self.seg.kinds().to_vec(),
            // Without any SEG the plain report names the slices by itself.
            "sr" if !has_seg(made) => vec!["sr"],
            "sr" if !has_seg(&self.takes) => vec!["sr_slices"],
            "sr" => vec![self.seg.report()],
            other => vec![other],
        }
    }
}

/// Which SEG a receiver gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegEncoding {
    /// Segmentation Storage, BINARY: few readers take anything else yet.
    #[default]
    Binary,
    /// Label Map Segmentation Storage (Supplement 243).
    Labelmap,
    /// The label map where the receiver accepts it, else BINARY.
    Auto,
}

impl SegEncoding {
    /// The kinds of [`crate::results::KINDS`] that may stand for `seg`, the preferred one first.
    pub fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Binary => &["seg"],
            Self::Labelmap => &["labelmap"],
            Self::Auto => &["labelmap", "seg"],
        }
    }

    /// The report that is true beside it: it names segments of the SEG that this receiver has. With `auto` that is known only when the
    /// receiver has answered, long after the report was written, and it may change from one job to the next: the report names slices,
    /// and its Tracking UIDs are those of the segments of either SEG.
    pub fn report(self) -> &'static str {
        match self {
            Self::Binary => "sr",
            Self::Labelmap => "sr_labelmap",
            Self::Auto => "sr_slices",
        }
    }
}

/// The profiles that come with the program, by name.
pub fn built_in() -> BTreeMap<String, Profile> {
    toml::from_str(include_str!("profiles.toml")).expect("a test reads the built-in profiles")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::GENERIC;

    #[test]
    fn the_built_in_profiles_can_be_read_and_generic_changes_nothing() {
        let profiles = built_in();
        for name in [GENERIC, "eclipse", "raystation", "monaco", "mim", "slicer", "ohif"] {
            assert!(profiles.contains_key(name), "{name}");
        }
        assert_eq!(profiles[GENERIC].style, Style::default());
        assert_eq!(profiles[GENERIC].seg, SegEncoding::Binary);
    }
}
