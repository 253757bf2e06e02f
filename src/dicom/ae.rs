//! Application entities: titles and network addresses.

use std::fmt;

/// An application entity title (PS3.5 AE): 1 to 16 printable ASCII characters, no backslash, not all spaces.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AeTitle(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAe {
    #[error("not an AE title (1 to 16 printable characters, no backslash): {0:?}")]
    Title(String),
    #[error("not an address of the form AETITLE@host:port: {0:?}")]
    Address(String),
}

impl AeTitle {
    /// Leading and trailing spaces are not significant (PS3.8 9.3.2).
    pub fn parse(text: &str) -> Result<Self, BadAe> {
        let title = text.trim_matches([' ', '\0']);
        let fine = (1..=16).contains(&title.len()) && title.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\');
        if fine {
            Ok(Self(title.into()))
        } else {
            Err(BadAe::Title(text.chars().take(40).collect()))
        }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an application entity listens, written `AETITLE@host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub ae_title: AeTitle,
    pub host: String,
    pub port: u16,
}

impl std::str::FromStr for Address {
    type Err = BadAe;
    fn from_str(text: &str) -> Result<Self, BadAe> {
        let bad = || BadAe::Address(text.chars().take(80).collect());
        let (title, place) = text.rsplit_once('@').ok_or_else(bad)?;
        let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return Err(bad());
        }
        Ok(Self {
            ae_title: AeTitle::parse(title)?,
            host: host.into(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.ae_title, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_trimmed_and_bounded() {
        assert_eq!(AeTitle::parse(" PACS  ").unwrap().as_str(), "PACS");
        for bad in ["", "   ", "SEVENTEEN_LETTERS", "A\\B", "Ä"] {
            assert!(AeTitle::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_round_trip_and_bad_ones_say_so() {
        let address: Address = "PACS@10.0.0.5:104".parse().unwrap();
        assert_eq!(address.to_string(), "PACS@10.0.0.5:104");
        for bad in ["PACS", "PACS@host", "PACS@:104", "PACS@host:0", "PACS@host:99999"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
