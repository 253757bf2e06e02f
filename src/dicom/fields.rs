//! Chosen attributes of a data set, as text and numbers, read with the tolerance that real objects need.

use crate::dicom::scan::{self, Encoding, ScanError, Tag};
use crate::dicom::uid::Uid;
use dicom::encoding::text::{SpecificCharacterSet, TextCodec};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

pub const SPECIFIC_CHARACTER_SET: Tag = 0x0008_0005;
/// Longer text is of no use to a `match` rule or a table.
const MAX_TEXT: usize = 1024;

/// Why a header could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// From [`Instance::parse`] on part of a data set: try again with more of it.
    #[error("the header goes beyond the {at_hand} bytes at hand")]
    NeedMore { at_hand: usize },
    #[error("not a readable DICOM object: {0}")]
    Malformed(String),
    #[error("attribute {keyword} {tag} is {problem}")]
    Attribute {
        keyword: &'static str,
        tag: &'static str,
        problem: String,
    },
}

/// What a scan that ended early means for a header of which `at_hand` bytes were given.
pub fn from_scan(error: ScanError, at_hand: usize, complete: bool) -> HeaderError {
    match error {
        ScanError::NeedMore if complete => {
            HeaderError::Malformed(format!("it ends within an element, after {at_hand} bytes"))
        }
        ScanError::NeedMore => HeaderError::NeedMore { at_hand },
        ScanError::Malformed(problem) => HeaderError::Malformed(problem),
    }
}

/// The wanted values of one data set, as slices of it.
pub struct Fields<'a> {
    values: BTreeMap<Tag, &'a [u8]>,
    big_endian: bool,
    character_set: SpecificCharacterSet,
}

impl<'a> Fields<'a> {
    /// Reads `data` up to the tag `until`. Unless it is `complete`, it must reach that far.
    pub fn collect(
        data: &'a [u8],
        encoding: Encoding,
        until: Tag,
        wanted: impl Fn(Tag) -> bool,
        complete: bool,
    ) -> Result<Self, HeaderError> {
        let mut values = BTreeMap::new();
        let mut finished = false;
        let end = scan::scan(data, encoding, until, |element| {
            finished = element.tag == until;
            if wanted(element.tag) {
                values.insert(element.tag, element.value);
            }
        })
        .map_err(|error| from_scan(error, data.len(), complete))?;
        if end == data.len() && !finished && !complete {
            return Err(HeaderError::NeedMore { at_hand: data.len() });
        }
        // The first value holds for text without code extensions, which is all that rules and tables need.
        let term = first_value(values.get(&SPECIFIC_CHARACTER_SET).copied().unwrap_or_default());
        let character_set = SpecificCharacterSet::from_code(&String::from_utf8_lossy(term)).unwrap_or_default();
        Ok(Self {
            values,
            big_endian: encoding.big_endian,
            character_set,
        })
    }

    pub fn text(&self, tag: Tag) -> String {
        let value = self.values.get(&tag).copied().unwrap_or_default();
        let value = &value[..value.len().min(MAX_TEXT)];
        let text = self
            .character_set
            .decode(value)
            .unwrap_or_else(|_| String::from_utf8_lossy(value).into_owned());
        text.trim_matches([' ', '\0']).to_owned()
    }

    pub fn uid(&self, tag: Tag) -> Result<Uid, String> {
        Uid::parse(&self.text(tag)).map_err(|bad| bad.0)
    }

    /// The values of a DS or IS that holds exactly `N` of them. Rust reads what DICOM allows, and a little more that is finite.
    pub fn decimals<const N: usize>(&self, tag: Tag) -> Option<[f64; N]> {
        let text = self.text(tag);
        let mut values = text
            .split('\\')
            .map(|value| value.trim_matches([' ', '\0', '\t']).parse::<f64>().ok());
        let mut found = [0.0; N];
        for slot in &mut found {
            *slot = values.next().flatten().filter(|value| value.is_finite())?;
        }
        values.next().is_none().then_some(found)
    }

    pub fn decimal(&self, tag: Tag) -> Option<f64> {
        self.decimals::<1>(tag).map(|[value]| value)
    }

    /// IS; some writers put a fraction of zero behind it.
    pub fn integer(&self, tag: Tag) -> Option<i64> {
        self.decimal(tag)
            .filter(|value| value.fract() == 0.0 && value.abs() < 1e15)
            .map(|value| value as i64)
    }

    pub fn short(&self, tag: Tag) -> Option<u16> {
        let bytes = *self.values.get(&tag)?.first_chunk::<2>()?;
        Some(if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }
}

fn first_value(value: &[u8]) -> &[u8] {
    value
        .split(|byte| *byte == b'\\')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}
