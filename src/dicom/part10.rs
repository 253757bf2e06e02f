//! Part 10 files (PS3.10 section 7): preamble, file meta group, data set bytes as they came.
//!
//! Nothing here decodes a data set. The received bytes are kept verbatim, because reading and writing them again would change
//! lengths, character sets and private elements.

use crate::dicom::uid::Uid;
use std::io::{self, Read, Seek, SeekFrom};

/// Names this implementation in every file it writes (PS3.7 D.3.3.2). Drawn once, never to be changed.
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.197283406125733814970623841159267048377";
/// At most 16 characters (PS3.7 D.3.3.2.3).
pub const IMPLEMENTATION_VERSION_NAME: &str = concat!("MEDLSAMD_", env!("CARGO_PKG_VERSION"));

pub const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";
pub const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
pub const EXPLICIT_VR_BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// A real meta group is a few hundred bytes; a stranger's may not be larger than this.
const MAX_META_LENGTH: usize = 64 * 1024;
/// Where SOP Class and Instance UID stand at the latest in a data set without meta group.
const MAX_SCAN_LENGTH: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Part10Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not a DICOM file: {0}")]
    Malformed(&'static str),
}

/// What the meta group of a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileMeta {
    pub sop_class_uid: String,
    pub sop_instance_uid: String,
    pub transfer_syntax_uid: String,
    /// Source Application Entity Title (0002,0016); empty when absent.
    pub source_ae: String,
    /// Receiving Application Entity Title (0002,0018); empty when absent.
    pub receiving_ae: String,
    /// Where the data set begins, in bytes from the start of the file.
    pub data_set_offset: u64,
    /// How long the data set is, for files that we wrote: a shorter file was cut off by a power loss before it was acknowledged.
    pub data_set_length: Option<u64>,
}

/// The bytes in front of a data set.
pub struct Head {
    pub bytes: Vec<u8>,
    /// Where the eight little-endian bytes of the data set's length belong; zero until they are known.
    pub length_offset: u64,
}

/// Preamble and meta group for a data set that we received. Its length is kept in Private Information (0002,0102), which PS3.10
/// table 7.1-1 leaves to the writer named in (0002,0100).
pub fn head(
    sop_class_uid: &Uid,
    sop_instance_uid: &Uid,
    transfer_syntax_uid: &Uid,
    source_ae: &str,
    receiving_ae: &str,
) -> Head {
    let mut group = Vec::with_capacity(512);
    long_element(&mut group, 0x0001, b"OB", &[0, 1]);
    short_element(&mut group, 0x0002, b"UI", sop_class_uid.as_str());
    short_element(&mut group, 0x0003, b"UI", sop_instance_uid.as_str());
    short_element(&mut group, 0x0010, b"UI", transfer_syntax_uid.as_str());
    short_element(&mut group, 0x0012, b"UI", IMPLEMENTATION_CLASS_UID);
    short_element(&mut group, 0x0013, b"SH", IMPLEMENTATION_VERSION_NAME);
    if !source_ae.is_empty() {
        short_element(&mut group, 0x0016, b"AE", source_ae);
    }
    if !receiving_ae.is_empty() {
        short_element(&mut group, 0x0018, b"AE", receiving_ae);
    }
    short_element(&mut group, 0x0100, b"UI", IMPLEMENTATION_CLASS_UID);
    long_element(&mut group, 0x0102, b"OB", &[0; 8]);

    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM\x02\x00\x00\x00UL\x04\x00");
    bytes.extend_from_slice(&(group.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&group);
    let length_offset = bytes.len() as u64 - 8;
    Head { bytes, length_offset }
}

fn short_element(group: &mut Vec<u8>, element: u16, vr: &[u8; 2], value: &str) {
    let padding = if vr == b"UI" { 0 } else { b' ' };
    group.extend_from_slice(&[2, 0]);
    group.extend_from_slice(&element.to_le_bytes());
    group.extend_from_slice(vr);
    group.extend_from_slice(&(value.len().next_multiple_of(2) as u16).to_le_bytes());
    group.extend_from_slice(value.as_bytes());
    if value.len() % 2 == 1 {
        group.push(padding);
    }
}

fn long_element(group: &mut Vec<u8>, element: u16, vr: &[u8; 2], value: &[u8]) {
    group.extend_from_slice(&[2, 0]);
    group.extend_from_slice(&element.to_le_bytes());
    group.extend_from_slice(vr);
    group.extend_from_slice(&[0, 0]);
    group.extend_from_slice(&(value.len() as u32).to_le_bytes());
    group.extend_from_slice(value);
}

/// Reads what stands before the data set, and leaves the reader at its first byte. Lenient, as files from drop folders need it: the
/// preamble may be missing, and a bare data set's transfer syntax is told from its first element.
pub fn read_meta(file: &mut (impl Read + Seek)) -> Result<FileMeta, Part10Error> {
    let start = read_up_to(file, 132 + MAX_META_LENGTH)?;
    let group_at = match start.as_slice() {
        with_preamble if with_preamble.get(128..132) == Some(b"DICM") => 132,
        [b'D', b'I', b'C', b'M', ..] => 4,
        _ => 0,
    };
    let group = &start[group_at..];
    let mut meta = FileMeta::default();
    let length = if group.starts_with(&[2, 0]) {
        parse_group(group, &mut meta)?
    } else {
        0
    };
    meta.data_set_offset = (group_at + length) as u64;
    if meta.transfer_syntax_uid.is_empty() {
        let syntax = guess_syntax(&group[length..]).ok_or(Part10Error::Malformed(
            "neither a meta group nor a data set is at its start",
        ))?;
        meta.transfer_syntax_uid = syntax.to_owned();
    }
    if meta.sop_instance_uid.is_empty() || meta.sop_class_uid.is_empty() {
        scan_sop_uids(&group[length..], &mut meta);
    }
    file.seek(SeekFrom::Start(meta.data_set_offset))?;
    Ok(meta)
}

fn read_up_to(file: &mut (impl Read + Seek), limit: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.by_ref().take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// One element of explicit or implicit VR little endian.
struct Element<'a> {
    tag: (u16, u16),
    value: &'a [u8],
    /// Of header and value.
    length: usize,
}

fn element(bytes: &[u8], explicit: bool) -> Option<Element<'_>> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let tag = (u16_at(0)?, u16_at(2)?);
    let (header, length): (usize, usize) = match (explicit, bytes.get(4..6)?) {
        (false, _) => (8, u32_at(4)?),
        (
            true,
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV",
        ) => (12, u32_at(8)?),
        (true, _) => (8, u16_at(6)? as usize),
    };
    let value = bytes.get(header..header.checked_add(length)?)?;
    Some(Element {
        tag,
        value,
        length: header + length,
    })
}

/// Parses the meta group at the start of `bytes`; returns its length.
fn parse_group(bytes: &[u8], meta: &mut FileMeta) -> Result<usize, Part10Error> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned();
    let mut at = 0;
    // Group length (0002,0000) is not trusted: some writers get it wrong. The group ends where the next one begins.
    while bytes.get(at..at + 2) == Some(&[2, 0]) {
        let element =
            element(&bytes[at..], true).ok_or(Part10Error::Malformed("its meta group is cut off or too long"))?;
        match element.tag.1 {
            0x0002 => meta.sop_class_uid = text(element.value),
            0x0003 => meta.sop_instance_uid = text(element.value),
            0x0010 => meta.transfer_syntax_uid = text(element.value),
            0x0016 => meta.source_ae = text(element.value),
            0x0018 => meta.receiving_ae = text(element.value),
            0x0102 => {
                let ours = bytes
                    .windows(IMPLEMENTATION_CLASS_UID.len())
                    .any(|w| w == IMPLEMENTATION_CLASS_UID.as_bytes());
                meta.data_set_length = element.value.try_into().ok().filter(|_| ours).map(u64::from_le_bytes);
            }
            _ => {}
        }
        at += element.length;
    }
    Ok(at)
}

/// The transfer syntax of a bare data set, from its first element: group 0008 and, if explicit, two letters of VR.
fn guess_syntax(bytes: &[u8]) -> Option<&'static str> {
    let explicit = bytes.get(4..6)?.iter().all(u8::is_ascii_uppercase);
    match (bytes.get(..2)?, explicit) {
        ([8, 0], true) => Some(EXPLICIT_VR_LITTLE_ENDIAN),
        ([8, 0], false) => Some(IMPLICIT_VR_LITTLE_ENDIAN),
        ([0, 8], true) => Some(EXPLICIT_VR_BIG_ENDIAN),
        _ => None,
    }
}

/// Fills in SOP Class (0008,0016) and Instance UID (0008,0018) from the start of a little-endian data set. What can not be found
/// stays empty: the caller refuses the file then.
fn scan_sop_uids(bytes: &[u8], meta: &mut FileMeta) {
    let explicit = meta.transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN;
    let bytes = &bytes[..bytes.len().min(MAX_SCAN_LENGTH)];
    let mut at = 0;
    while let Some(element) = element(&bytes[at..], explicit) {
        let text = || {
            String::from_utf8_lossy(element.value)
                .trim_matches(['\0', ' '])
                .to_owned()
        };
        match element.tag {
            (8, 0x0016) => meta.sop_class_uid = text(),
            (8, 0x0018) => meta.sop_instance_uid = text(),
            (8, ..0x0018) => {}
            _ => return,
        }
        at += element.length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    #[test]
    fn a_head_is_read_back_and_ends_where_the_data_set_begins() {
        let mut head = head(
            &uid("1.2.3"),
            &uid("1.2.34"),
            &uid(EXPLICIT_VR_LITTLE_ENDIAN),
            "CT1",
            "US",
        );
        head.bytes[head.length_offset as usize..].copy_from_slice(&7u64.to_le_bytes());
        let length = head.bytes.len() as u64;
        head.bytes.extend_from_slice(b"\x08\x00data");
        let meta = read_meta(&mut Cursor::new(head.bytes)).unwrap();
        let expected = FileMeta {
            sop_class_uid: "1.2.3".into(),
            sop_instance_uid: "1.2.34".into(),
            transfer_syntax_uid: EXPLICIT_VR_LITTLE_ENDIAN.into(),
            source_ae: "CT1".into(),
            receiving_ae: "US".into(),
            data_set_offset: length,
            data_set_length: Some(7),
        };
        assert_eq!(meta, expected);
    }

    #[test]
    fn bare_data_sets_tell_their_syntax_and_uids() {
        let explicit = b"\x08\x00\x16\x00UI\x06\x001.2.3\0\x08\x00\x18\x00UI\x04\x001.2\0\x10\x00\x10\x00PN\x00\x00";
        let meta = read_meta(&mut Cursor::new(explicit)).unwrap();
        assert_eq!(
            (meta.transfer_syntax_uid.as_str(), meta.sop_instance_uid.as_str()),
            (EXPLICIT_VR_LITTLE_ENDIAN, "1.2")
        );
        let implicit = b"\x08\x00\x16\x00\x06\x00\x00\x001.2.3\0\x08\x00\x18\x00\x04\x00\x00\x001.2\0";
        let meta = read_meta(&mut Cursor::new(implicit)).unwrap();
        assert_eq!(
            (meta.transfer_syntax_uid.as_str(), meta.sop_class_uid.as_str()),
            (IMPLICIT_VR_LITTLE_ENDIAN, "1.2.3")
        );
    }

    #[test]
    fn garbage_and_cut_meta_groups_are_refused_at_any_length() {
        let head = head(&uid("1.2.3"), &uid("1.2.34"), &uid(EXPLICIT_VR_LITTLE_ENDIAN), "", "").bytes;
        for length in 0..head.len() {
            // A cut between two elements can not be told from a short group: what follows it is then an empty data set.
            match read_meta(&mut Cursor::new(&head[..length])) {
                Ok(meta) => {
                    // A lone byte of the next tag is too little to be told from a data set.
                    assert!(length as u64 - meta.data_set_offset <= 1, "{length}");
                    assert_eq!(meta.data_set_length, None);
                }
                Err(Part10Error::Malformed(_)) => {}
                Err(Part10Error::Io(error)) => panic!("{length}: {error}"),
            }
        }
        assert!(read_meta(&mut Cursor::new(b"hello, this is a text file")).is_err());
        // A value length that points past everything.
        let wild = b"\x02\x00\x02\x00OB\x00\x00\xff\xff\xff\xff";
        assert!(read_meta(&mut Cursor::new(wild)).is_err());
    }
}
