//! Unique identifiers (PS3.5 section 9). A [`Uid`] is well formed by construction, hence safe as a file name.

use sha2::{Digest, Sha256};
use std::fmt;

/// A well-formed UID: 1 to 64 characters of digits and single dots, no component with a leading zero.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid UID (1 to 64 digits and dots): {0:?}")]
pub struct BadUid(pub String);

impl Uid {
    /// Checks and takes a UID. Trailing padding (NUL or space) is removed first, as the UI value representation allows.
    /// Leading zeros within a component are tolerated, because scanners send them and they are harmless in a file name.
    pub fn parse(text: &str) -> Result<Self, BadUid> {
        let text = text.trim_end_matches(['\0', ' ']);
        let fine = (1..=64).contains(&text.len())
            && text
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        if fine {
            Ok(Self(text.into()))
        } else {
            // Bounded, because the text is a stranger's and ends in a log line.
            Err(BadUid(text.chars().take(80).collect()))
        }
    }

    /// A UID under the `2.25` root (PS3.5 B.2) that depends on the parts alone, so that the same job makes the same objects.
    pub fn derived(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        let number = u128::from_be_bytes(digest[..16].try_into().expect("sixteen bytes"));
        Self(format!("2.25.{number}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Uid {
    type Err = BadUid;
    fn from_str(text: &str) -> Result<Self, BadUid> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_nonsense_are_refused() {
        for bad in [
            "",
            "../1.2",
            "1..2",
            ".1",
            "1.",
            "1.2/3",
            "1.2\\3",
            "1.2a",
            "1 .2",
            &"1.".repeat(40),
        ] {
            assert!(Uid::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Uid::parse("1.2.840.10008.1.1\0").unwrap().as_str(), "1.2.840.10008.1.1");
    }

    #[test]
    fn derived_uids_are_stable_valid_and_depend_on_every_part() {
        let a = Uid::derived(&["job", "seg"]);
        assert_eq!(a, Uid::derived(&["job", "seg"]));
        assert_ne!(a, Uid::derived(&["jobs", "eg"]));
        assert_eq!(Uid::parse(a.as_str()).unwrap(), a);
    }
}
