//! A bounded walk over the top-level elements of a data set (PS3.5 section 7), for bytes that strangers wrote.
//!
//! Nothing is allocated by declared lengths, nesting is counted and not recursed into, and an undefined-length UN is read as
//! implicit VR little endian (PS3.5 6.2.2, CP-246). Values are slices of the input.

use crate::dicom::uid::Uid;

/// A tag as `group << 16 | element`.
pub type Tag = u32;

pub const PIXEL_DATA: Tag = 0x7FE0_0010;
const ITEM: Tag = 0xFFFE_E000;
const ITEM_DELIMITATION: Tag = 0xFFFE_E00D;
const SEQUENCE_DELIMITATION: Tag = 0xFFFE_E0DD;
const UNDEFINED: u32 = u32::MAX;
/// Tag and length of what closes an item or a sequence.
const DELIMITER_LENGTH: usize = 8;
/// Sequences within sequences that we follow. Real objects stay below ten.
pub const MAX_DEPTH: usize = 32;

/// How the elements of a data set are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    pub explicit_vr: bool,
    pub big_endian: bool,
    /// The whole data set is one raw deflate stream (PS3.5 A.5); inflate it before scanning.
    pub deflated: bool,
}

impl Encoding {
    pub const EXPLICIT_LE: Self = Self {
        explicit_vr: true,
        big_endian: false,
        deflated: false,
    };
    pub const IMPLICIT_LE: Self = Self {
        explicit_vr: false,
        big_endian: false,
        deflated: false,
    };
    pub const EXPLICIT_BE: Self = Self {
        explicit_vr: true,
        big_endian: true,
        deflated: false,
    };

    /// All syntaxes but four are explicit VR little endian around encapsulated pixels (PS3.5 A.4).
    pub fn of(transfer_syntax_uid: &Uid) -> Self {
        match transfer_syntax_uid.as_str() {
            "1.2.840.10008.1.2" => Self::IMPLICIT_LE,
            "1.2.840.10008.1.2.2" => Self::EXPLICIT_BE,
            "1.2.840.10008.1.2.1.99" | "1.2.840.10008.1.2.4.95" | "1.2.840.10008.1.2.4.205" => Self {
                deflated: true,
                ..Self::EXPLICIT_LE
            },
            _ => Self::EXPLICIT_LE,
        }
    }
}

/// Why a walk ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The bytes end within an element: more of them may help.
    #[error("it ends within an element")]
    NeedMore,
    /// No further bytes will help.
    #[error("{0}")]
    Malformed(String),
}

/// One top-level element. For an undefined length the value includes the closing delimiter, and is empty for Pixel Data;
/// the value of Pixel Data is short when the bytes are.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    pub tag: Tag,
    /// The explicit VR's two letters; `None` in implicit data sets.
    pub vr: Option<[u8; 2]>,
    /// As declared; `u32::MAX` when undefined.
    pub length: u32,
    pub value: &'a [u8],
    /// Where the value begins in the scanned bytes.
    pub offset: usize,
    pub undefined_length: bool,
}

/// Calls `visit` for each top-level element of `data` up to tag `until`, up to Pixel Data (always the last) or up to the end of
/// the bytes. Returns the offset behind the last element visited: `data.len()` when nothing follows it here.
pub fn scan<'a>(
    data: &'a [u8],
    encoding: Encoding,
    until: Tag,
    mut visit: impl FnMut(Element<'a>),
) -> Result<usize, ScanError> {
    let mut cursor = Cursor { data, at: 0 };
    while cursor.at < data.len() {
        let start = cursor.at;
        let tag = cursor.tag(encoding)?;
        if tag > until {
            return Ok(start);
        }
        if tag >> 16 == 0xFFFE {
            return Err(ScanError::Malformed(format!(
                "delimiter {} at byte {start} outside any sequence",
                show(tag)
            )));
        }
        let head = cursor.rest_of_head(tag, encoding)?;
        let offset = cursor.at;
        let undefined_length = head.length == UNDEFINED;
        let element = |value| Element {
            tag,
            vr: head.vr,
            length: head.length,
            value,
            offset,
            undefined_length,
        };
        if tag == PIXEL_DATA {
            // The caller wants the place more than the bytes, and may not have all of them.
            let end = if undefined_length {
                offset
            } else {
                data.len().min(offset.saturating_add(head.length as usize))
            };
            visit(element(&data[offset..end]));
            return Ok(end);
        }
        if undefined_length {
            cursor.skip_open(Inside::Sequence(head.content_encoding(encoding)))?;
        } else {
            cursor.skip(head.length)?;
        }
        visit(element(&data[offset..cursor.at]));
    }
    Ok(cursor.at)
}

/// The items of a sequence (PS3.5 7.5), each without its delimiter, and how their elements are encoded.
pub fn items(sequence: Element<'_>, outer: Encoding) -> Result<(Vec<&[u8]>, Encoding), ScanError> {
    let encoding = if sequence.vr == Some(*b"UN") {
        Encoding::IMPLICIT_LE
    } else {
        outer
    };
    let data = sequence.value;
    let mut cursor = Cursor { data, at: 0 };
    let mut found = Vec::new();
    while cursor.at < data.len() {
        let at = cursor.at;
        match cursor.item_head(encoding)? {
            (ITEM, length) => {
                let start = cursor.at;
                let end = if length == UNDEFINED {
                    cursor.skip_open(Inside::Item(encoding))?;
                    cursor.at - DELIMITER_LENGTH
                } else {
                    cursor.skip(length)?;
                    cursor.at
                };
                found.push(&data[start..end]);
            }
            (SEQUENCE_DELIMITATION, _) => break,
            (tag, _) => {
                return Err(ScanError::Malformed(format!(
                    "{} at byte {at} of sequence {} where an item belongs",
                    show(tag),
                    show(sequence.tag)
                )));
            }
        }
    }
    Ok((found, encoding))
}

/// The Basic Offset Table of encapsulated Pixel Data whose value begins at `offset`, empty in many objects, and behind it the
/// fragments (PS3.5 A.4). A missing final delimiter is forgiven when the bytes end there, because some archives lose it.
pub fn offset_table_and_fragments(data: &[u8], offset: usize) -> Result<Vec<&[u8]>, ScanError> {
    let mut cursor = Cursor { data, at: offset };
    let mut found = Vec::new();
    while cursor.at < data.len() {
        let (tag, length) = cursor.item_head(Encoding::EXPLICIT_LE)?;
        match tag {
            ITEM => {
                let start = cursor.at;
                cursor.skip(length)?;
                found.push(&data[start..cursor.at]);
            }
            SEQUENCE_DELIMITATION => break,
            other => return Err(ScanError::Malformed(format!("{} among pixel fragments", show(other)))),
        }
    }
    if found.len() < 2 {
        return Err(ScanError::Malformed("encapsulated Pixel Data holds no fragment".into()));
    }
    Ok(found)
}

/// Where encapsulated Pixel Data whose value begins at `offset` ends, its delimiter included.
pub fn end_of_fragments(data: &[u8], offset: usize) -> Result<usize, ScanError> {
    let mut cursor = Cursor { data, at: offset };
    while cursor.at < data.len() {
        match cursor.item_head(Encoding::EXPLICIT_LE)? {
            (SEQUENCE_DELIMITATION, _) => break,
            (_, length) => cursor.skip(length)?,
        }
    }
    Ok(cursor.at)
}

/// `(gggg,eeee)`.
pub fn show(tag: Tag) -> String {
    format!("({:04X},{:04X})", tag >> 16, tag & 0xFFFF)
}

struct Head {
    tag: Tag,
    vr: Option<[u8; 2]>,
    length: u32,
}

impl Head {
    fn content_encoding(&self, outer: Encoding) -> Encoding {
        if self.vr == Some(*b"UN") {
            Encoding::IMPLICIT_LE
        } else {
            outer
        }
    }
}

/// What a walk is inside of, and how its content is encoded.
enum Inside {
    Sequence(Encoding),
    Item(Encoding),
}

struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ScanError> {
        let bytes = self
            .data
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .ok_or(ScanError::NeedMore)?;
        self.at += N;
        Ok(*bytes)
    }

    fn u16(&mut self, encoding: Encoding) -> Result<u16, ScanError> {
        let bytes = self.take()?;
        Ok(if encoding.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    fn u32(&mut self, encoding: Encoding) -> Result<u32, ScanError> {
        let bytes = self.take()?;
        Ok(if encoding.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn tag(&mut self, encoding: Encoding) -> Result<Tag, ScanError> {
        let group = self.u16(encoding)?;
        Ok(u32::from(group) << 16 | u32::from(self.u16(encoding)?))
    }

    /// Items and delimiters have a 32-bit length and no VR in every encoding.
    fn item_head(&mut self, encoding: Encoding) -> Result<(Tag, u32), ScanError> {
        Ok((self.tag(encoding)?, self.u32(encoding)?))
    }

    fn element_head(&mut self, encoding: Encoding) -> Result<Head, ScanError> {
        let tag = self.tag(encoding)?;
        self.rest_of_head(tag, encoding)
    }

    fn rest_of_head(&mut self, tag: Tag, encoding: Encoding) -> Result<Head, ScanError> {
        let start = self.at - 4;
        if !encoding.explicit_vr || tag >> 16 == 0xFFFE {
            return Ok(Head {
                tag,
                vr: None,
                length: self.u32(encoding)?,
            });
        }
        let vr: [u8; 2] = self.take()?;
        if !vr.iter().all(u8::is_ascii_uppercase) {
            let problem = format!(
                "{} at byte {start} has no value representation ({:02X} {:02X})",
                show(tag),
                vr[0],
                vr[1]
            );
            return Err(ScanError::Malformed(problem));
        }
        let length = if has_short_length(vr) {
            u32::from(self.u16(encoding)?)
        } else {
            self.take::<2>()?;
            self.u32(encoding)?
        };
        Ok(Head {
            tag,
            vr: Some(vr),
            length,
        })
    }

    fn skip(&mut self, length: u32) -> Result<(), ScanError> {
        let end = self.at.checked_add(length as usize).ok_or(ScanError::NeedMore)?;
        if length == UNDEFINED || end > self.data.len() {
            return Err(ScanError::NeedMore);
        }
        self.at = end;
        Ok(())
    }

    /// Skips the content of a sequence or item of undefined length, its delimiter included. `open` holds what we are inside of,
    /// one entry per undefined length: what is given a length is stepped over whole.
    fn skip_open(&mut self, outermost: Inside) -> Result<(), ScanError> {
        let mut open = vec![outermost];
        while let Some(inside) = open.last() {
            if open.len() > 2 * MAX_DEPTH {
                return Err(ScanError::Malformed(format!("sequences nest deeper than {MAX_DEPTH}")));
            }
            let start = self.at;
            match *inside {
                Inside::Sequence(encoding) => match self.item_head(encoding)? {
                    (ITEM, UNDEFINED) => open.push(Inside::Item(encoding)),
                    (ITEM, length) => self.skip(length)?,
                    (SEQUENCE_DELIMITATION, _) => drop(open.pop()),
                    (tag, _) => {
                        return Err(ScanError::Malformed(format!(
                            "{} at byte {start} where an item belongs",
                            show(tag)
                        )));
                    }
                },
                Inside::Item(encoding) => {
                    let head = self.element_head(encoding)?;
                    match head.tag {
                        ITEM_DELIMITATION => drop(open.pop()),
                        tag if tag >> 16 == 0xFFFE => {
                            return Err(ScanError::Malformed(format!(
                                "{} at byte {start} within an item",
                                show(tag)
                            )));
                        }
                        _ if head.length == UNDEFINED => open.push(Inside::Sequence(head.content_encoding(encoding))),
                        _ => self.skip(head.length)?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// PS3.5 table 7.1-2. Every VR added since has a 32-bit length, so an unknown one is taken to have it too.
pub(in crate::dicom) fn has_short_length(vr: [u8; 2]) -> bool {
    matches!(
        &vr,
        b"AE"
            | b"AS"
            | b"AT"
            | b"CS"
            | b"DA"
            | b"DS"
            | b"DT"
            | b"FL"
            | b"FD"
            | b"IS"
            | b"LO"
            | b"LT"
            | b"PN"
            | b"SH"
            | b"SL"
            | b"SS"
            | b"ST"
            | b"TM"
            | b"UI"
            | b"UL"
            | b"US"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tags(data: &[u8], encoding: Encoding) -> Result<Vec<Tag>, ScanError> {
        let mut found = Vec::new();
        scan(data, encoding, PIXEL_DATA, |element| found.push(element.tag))?;
        Ok(found)
    }

    const ROWS: [u8; 10] = [0x28, 0, 0x10, 0, b'U', b'S', 2, 0, 0, 2];

    /// (0009,1001) of undefined length in the given VR, one undefined-length item with one implicit element, then Rows.
    fn undefined(vr: &[u8; 2], inner: &[u8]) -> Vec<u8> {
        let mut data = vec![9, 0, 1, 0x10, vr[0], vr[1], 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
        data.extend([0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]);
        data.extend(inner);
        data.extend([0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]);
        data.extend(ROWS);
        data
    }

    #[test]
    fn an_unknown_of_undefined_length_has_implicit_content() {
        let implicit = [9, 0, 2, 0x10, 4, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(
            tags(&undefined(b"UN", &implicit), Encoding::EXPLICIT_LE),
            Ok(vec![0x0009_1001, 0x0028_0010])
        );
        let explicit = [9, 0, 2, 0x10, b'L', b'O', 4, 0, 1, 2, 3, 4];
        assert_eq!(
            tags(&undefined(b"SQ", &explicit), Encoding::EXPLICIT_LE),
            Ok(vec![0x0009_1001, 0x0028_0010])
        );
        assert!(tags(&undefined(b"SQ", &implicit), Encoding::EXPLICIT_LE).is_err());
    }

    #[test]
    fn two_thousand_nested_sequences_end_in_a_sentence() {
        let open = [
            9, 0, 1, 0x10, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF,
        ];
        let error = tags(&open.repeat(2000), Encoding::EXPLICIT_LE).unwrap_err();
        assert_eq!(error, ScanError::Malformed("sequences nest deeper than 32".into()));
    }

    #[test]
    fn lengths_beyond_the_bytes_ask_for_more_and_allocate_nothing() {
        let four_gb = [9, 0, 1, 0x10, b'O', b'B', 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 1, 2];
        assert_eq!(tags(&four_gb, Encoding::EXPLICIT_LE), Err(ScanError::NeedMore));
        let data = undefined(b"UN", &[]);
        for end in 1..data.len() - ROWS.len() {
            assert_eq!(
                tags(&data[..end], Encoding::EXPLICIT_LE),
                Err(ScanError::NeedMore),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn items_come_with_and_without_lengths_and_unknowns_hold_implicit_ones() {
        let inner = [9, 0, 2, 0x10, 4, 0, 0, 0, 1, 2, 3, 4];
        let mut data = undefined(b"UN", &inner);
        data.splice(12..12, [0xFE, 0xFF, 0, 0xE0, 3, 0, 0, 0, 7, 8, 9]);
        let mut found = None;
        scan(&data, Encoding::EXPLICIT_LE, PIXEL_DATA, |element| {
            found.get_or_insert(element);
        })
        .unwrap();
        let found = items(found.unwrap(), Encoding::EXPLICIT_LE);
        assert_eq!(found, Ok((vec![&[7u8, 8, 9][..], &inner], Encoding::IMPLICIT_LE)));
    }

    #[test]
    fn fragments_follow_the_offset_table_and_keep_their_order() {
        let data = [
            &[0xFE, 0xFF, 0, 0xE0, 0, 0, 0, 0][..],
            &[0xFE, 0xFF, 0, 0xE0, 2, 0, 0, 0, 1, 2],
            &[0xFE, 0xFF, 0, 0xE0, 2, 0, 0, 0, 3, 4],
            &[0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0],
        ]
        .concat();
        let found = offset_table_and_fragments(&data, 0).unwrap();
        assert_eq!(found[1..], [&[1u8, 2][..], &[3, 4]]);
        assert!(offset_table_and_fragments(&data[..8], 0).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut data in prop::collection::vec(any::<u8>(), 0..400), kind in 0..3usize) {
            let encoding = [Encoding::EXPLICIT_LE, Encoding::IMPLICIT_LE, Encoding::EXPLICIT_BE][kind];
            let _ = tags(&data, encoding);
            // The same bytes behind a plausible beginning get further in.
            data.splice(0..0, undefined(b"UN", &[])[..20].iter().copied());
            let _ = tags(&data, encoding);
            let _ = offset_table_and_fragments(&data, 0);
            let sequence = Element { tag: 0, vr: None, length: 0, value: &data, offset: 0, undefined_length: true };
            let _ = items(sequence, encoding);
        }
    }
}
