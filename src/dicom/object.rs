//! A whole object in memory, opened within bounds: nothing is believed of lengths, depth or the size of what is deflated.
//!
//! Sequences are read where they are asked for, item by item, so that nesting costs no stack ([`Fields::items`]).

use crate::dicom::fields::{Fields, HeaderError};
use crate::dicom::part10;
use crate::dicom::scan::Encoding;
use crate::dicom::uid::Uid;
use std::borrow::Cow;
use std::io::{Cursor, Read};

/// What a deflated data set may grow to.
const MAX_INFLATED: u64 = 256 << 20;

/// A data set with the facts that are needed to read it.
pub struct Object<'a> {
    pub transfer_syntax_uid: Uid,
    pub encoding: Encoding,
    /// Inflated where it was deflated.
    pub data_set: Cow<'a, [u8]>,
}

impl<'a> Object<'a> {
    /// Opens a Part 10 file, or a bare data set as some archives write it.
    pub fn open(file: &'a [u8]) -> Result<Self, HeaderError> {
        let meta =
            part10::read_meta(&mut Cursor::new(file)).map_err(|error| HeaderError::Malformed(error.to_string()))?;
        let transfer_syntax_uid = Uid::parse(&meta.transfer_syntax_uid)
            .map_err(|bad| HeaderError::Malformed(format!("its transfer syntax: {bad}")))?;
        let start = usize::try_from(meta.data_set_offset).unwrap_or(usize::MAX);
        let data = file.get(start..).unwrap_or_default();
        let encoding = Encoding::of(&transfer_syntax_uid);
        let data_set = if encoding.deflated {
            Cow::Owned(inflate(data).map_err(HeaderError::Malformed)?)
        } else {
            Cow::Borrowed(data)
        };
        Ok(Self {
            transfer_syntax_uid,
            encoding,
            data_set,
        })
    }

    /// Its attributes.
    pub fn fields(&self) -> Result<Fields<'_>, HeaderError> {
        Fields::whole(&self.data_set, self.encoding)
    }
}

/// Inflates a deflated data set (PS3.5 A.5), up to 256 MiB. The error is a sentence.
pub fn inflate(deflated: &[u8]) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    let mut source = flate2::read::DeflateDecoder::new(deflated).take(MAX_INFLATED + 1);
    source
        .read_to_end(&mut data)
        .map_err(|error| format!("its deflated data set is broken: {error}"))?;
    if data.len() as u64 > MAX_INFLATED {
        return Err(format!(
            "its deflated data set holds more than {} MiB",
            MAX_INFLATED >> 20
        ));
    }
    Ok(data)
}
