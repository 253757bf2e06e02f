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
