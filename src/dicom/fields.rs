//! Attributes of a data set or of a sequence's item, as text and numbers, read with the tolerance that real objects need.

use crate::dicom::scan::{self, Element, Encoding, ScanError, Tag};
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
    elements: BTreeMap<Tag, Element<'a>>,
    encoding: Encoding,
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
        let mut elements: BTreeMap<Tag, Element<'a>> = BTreeMap::new();
        let mut finished = false;
        let end = scan::scan(data, encoding, until, |element| {
            finished = element.tag == until;
            if wanted(element.tag) {
                elements.insert(element.tag, element);
            }
        })
        .map_err(|error| from_scan(error, data.len(), complete))?;
        if end == data.len() && !finished && !complete {
            return Err(HeaderError::NeedMore { at_hand: data.len() });
        }
        // The first value holds for text without code extensions, which is all that rules and tables need.
        let term = elements.get(&SPECIFIC_CHARACTER_SET).map(|element| element.value);
        let term = String::from_utf8_lossy(first_value(term.unwrap_or_default()));
        Ok(Self {
            elements,
            encoding,
            character_set: SpecificCharacterSet::from_code(&term).unwrap_or_default(),
        })
    }

    /// Everything of a whole data set that stands before the end of its Pixel Data.
    pub fn whole(data: &'a [u8], encoding: Encoding) -> Result<Self, HeaderError> {
        Self::collect(data, encoding, Tag::MAX, |_| true, true)
    }

    /// The items of a sequence; none when it is absent or empty. An item without a character set has that of what holds it.
    pub fn items(&self, tag: Tag) -> Result<Vec<Self>, HeaderError> {
        let Some(sequence) = self.elements.get(&tag) else {
            return Ok(Vec::new());
        };
        let (items, encoding) =
            scan::items(*sequence, self.encoding).map_err(|error| from_scan(error, sequence.value.len(), true))?;
        let item = |data: &'a [u8]| {
            let mut item = Self::whole(data, encoding)?;
            if !item.elements.contains_key(&SPECIFIC_CHARACTER_SET) {
                item.character_set = self.character_set.clone();
            }
            Ok(item)
        };
        items.into_iter().map(item).collect()
    }

    /// The first item of a sequence.
    pub fn item(&self, tag: Tag) -> Result<Option<Self>, HeaderError> {
        Ok(self.items(tag)?.into_iter().next())
    }

    pub fn element(&self, tag: Tag) -> Option<Element<'a>> {
        self.elements.get(&tag).copied()
    }

    fn value(&self, tag: Tag) -> &'a [u8] {
        self.elements.get(&tag).map(|element| element.value).unwrap_or_default()
    }

    pub fn text(&self, tag: Tag) -> String {
        let value = self.value(tag);
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

    /// All values of a DS or IS, however many; `None` when one of them is no finite number.
    pub fn all_decimals(&self, tag: Tag) -> Option<Vec<f64>> {
        let values = self.value(tag).trim_ascii_end();
        let number = |value: &[u8]| {
            let text = std::str::from_utf8(value)
                .ok()?
                .trim_matches([' ', '\0', '\t', '\n', '\r']);
            text.parse().ok().filter(|number: &f64| number.is_finite())
        };
        match values.is_empty() {
            true => Some(Vec::new()),
            false => values.split(|byte| *byte == b'\\').map(number).collect(),
        }
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
        let bytes = *self.value(tag).first_chunk::<2>()?;
        Some(if self.encoding.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    /// The first UL.
    pub fn long(&self, tag: Tag) -> Option<u32> {
        let bytes = *self.value(tag).first_chunk::<4>()?;
        Some(if self.encoding.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
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
