//! A DICOM data set of raw values and its encoding (PS3.5 section 7).
//!
//! Values are bytes, not text: the patient's name must leave as it came, in whatever character set the scanner wrote, and a
//! reader that decodes and encodes again loses the sets it does not know (ISO 2022 extensions, Latin-5).

use crate::dicom::part10;
use crate::dicom::uid::Uid;
use crate::structure::Code;
use dicom::core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom::core::{Tag, VR};
use dicom::dictionary_std::{StandardDataDictionary, tags};
use std::collections::BTreeMap;

/// One element's value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// The bytes as they are written, without the padding to even length.
    Bytes(VR, Vec<u8>),
    Items(Vec<DataSet>),
}

/// Elements in tag order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DataSet(BTreeMap<Tag, Value>);

/// The value representation the standard gives a tag; pixel and look-up data, which have two, are written by hand.
pub(crate) fn standard_vr(tag: Tag) -> VR {
    match StandardDataDictionary.by_tag(tag).map(|entry| entry.vr()) {
        Some(VirtualVr::Exact(vr)) => vr,
        Some(VirtualVr::Xs) => VR::US,
        _ => VR::UN,
    }
}

impl DataSet {
    pub(crate) fn insert(&mut self, tag: Tag, value: Value) {
        self.0.insert(tag, value);
    }

    pub(crate) fn get(&self, tag: Tag) -> Option<&Value> {
        self.0.get(&tag)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Tag, &Value)> {
        self.0.iter().map(|(tag, value)| (*tag, value))
    }

    /// The raw value of a non-sequence, without the trailing padding that carries no meaning.
    pub(crate) fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        match self.get(tag)? {
            Value::Bytes(_, bytes) => Some(bytes.trim_ascii_end()).map(|b| b.strip_suffix(b"\0").unwrap_or(b)),
            Value::Items(_) => None,
        }
    }

    /// Text of our own: ASCII, which is a subset of every character set of PS3.3 C.12.1.1.2. Several values are separated by `\`.
    pub(crate) fn text(&mut self, tag: Tag, text: impl Into<String>) {
        let text = text.into();
        debug_assert!(text.is_ascii(), "{tag} {text}");
        self.insert(tag, Value::Bytes(standard_vr(tag), text.into_bytes()));
    }

    /// A type 2 element without a value, unless it has one already.
    pub(crate) fn empty_unless_present(&mut self, tag: Tag) {
        self.0
            .entry(tag)
            .or_insert_with(|| Value::Bytes(standard_vr(tag), Vec::new()));
    }

    pub(crate) fn uid(&mut self, tag: Tag, uid: &Uid) {
        self.text(tag, uid.as_str());
    }

    /// Unsigned shorts (US).
    pub(crate) fn shorts(&mut self, tag: Tag, values: &[u16]) {
        self.insert(
            tag,
            Value::Bytes(VR::US, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        );
    }

    /// Unsigned longs (UL).
    pub(crate) fn longs(&mut self, tag: Tag, values: &[u32]) {
        self.insert(
            tag,
            Value::Bytes(VR::UL, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        );
    }

    /// An attribute tag (AT).
    pub(crate) fn pointer(&mut self, tag: Tag, to: Tag) {
        let bytes = [to.group().to_le_bytes(), to.element().to_le_bytes()].concat();
        self.insert(tag, Value::Bytes(VR::AT, bytes));
    }

    pub(crate) fn items(&mut self, tag: Tag, items: Vec<DataSet>) {
        self.insert(tag, Value::Items(items));
    }

    /// A sequence of one item, filled by `fill`.
    pub(crate) fn item(&mut self, tag: Tag, fill: impl FnOnce(&mut DataSet)) {
        let mut item = DataSet::default();
        fill(&mut item);
        self.items(tag, vec![item]);
    }

    /// A coded concept as a sequence of one item (PS3.3 table 8.8-1).
    pub(crate) fn code(&mut self, tag: Tag, code: Code) {
        self.item(tag, |item| item.put_code(code));
    }

    pub(crate) fn put_code(&mut self, code: Code) {
        self.text(tags::CODE_VALUE, code.value);
        self.text(tags::CODING_SCHEME_DESIGNATOR, code.scheme);
        self.text(tags::CODE_MEANING, code.meaning);
    }

    /// The SOP instance reference macro (PS3.3 table 10-11).
    pub(crate) fn put_reference(&mut self, sop_class_uid: &Uid, sop_instance_uid: &Uid) {
        self.uid(tags::REFERENCED_SOP_CLASS_UID, sop_class_uid);
        self.uid(tags::REFERENCED_SOP_INSTANCE_UID, sop_instance_uid);
    }

    /// Appends the data set in Explicit VR Little Endian, sequences with explicit lengths.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for (tag, value) in &self.0 {
            match value {
                Value::Bytes(vr, bytes) => {
                    element_header(out, *tag, *vr, bytes.len() + bytes.len() % 2);
                    out.extend_from_slice(bytes);
                    if bytes.len() % 2 == 1 {
                        out.push(if matches!(vr, VR::UI | VR::OB | VR::UN) {
                            0
                        } else {
                            b' '
                        });
                    }
                }
                Value::Items(items) => {
                    let start = open_sequence(out, *tag);
                    items.iter().for_each(|item| append_item(out, item));
                    close_sequence(out, start);
                }
            }
        }
    }

    /// The longest value that Explicit VR cannot carry, if there is one: its 16-bit length field ends at 65 534 bytes.
    pub(crate) fn too_long_for_explicit_vr(&self) -> Option<(Tag, usize)> {
        self.0.iter().find_map(|(tag, value)| match value {
            Value::Bytes(vr, bytes) if !has_long_length(*vr) && bytes.len() > MAX_SHORT_VALUE => {
                Some((*tag, bytes.len()))
            }
            Value::Bytes(..) => None,
            Value::Items(items) => items.iter().find_map(DataSet::too_long_for_explicit_vr),
        })
    }
}

/// The longest even value length a 16-bit length field holds.
pub(crate) const MAX_SHORT_VALUE: usize = 65_534;

fn has_long_length(vr: VR) -> bool {
    use VR::*;
    matches!(vr, OB | OD | OF | OL | OV | OW | SQ | SV | UC | UN | UR | UT | UV)
}

/// Appends tag, value representation and length (PS3.5 tables 7.1-1 and 7.1-2).
pub(crate) fn element_header(out: &mut Vec<u8>, tag: Tag, vr: VR, length: usize) {
    put_tag(out, tag);
    out.extend_from_slice(vr.to_string().as_bytes());
    if has_long_length(vr) {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(length as u32).to_le_bytes());
    } else {
        out.extend_from_slice(&(length as u16).to_le_bytes());
    }
}

fn put_tag(out: &mut Vec<u8>, tag: Tag) {
    out.extend_from_slice(&tag.group().to_le_bytes());
    out.extend_from_slice(&tag.element().to_le_bytes());
}

/// Begins a sequence whose items follow; [`close_sequence`] takes what this returns.
pub(crate) fn open_sequence(out: &mut Vec<u8>, tag: Tag) -> usize {
    element_header(out, tag, VR::SQ, 0);
    out.len()
}

/// Writes the length of what follows `start` into the four bytes before it.
pub(crate) fn close_sequence(out: &mut [u8], start: usize) {
    let length = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&length.to_le_bytes());
}

/// Begins an item, a fragment or a delimiter, which have no value representation; [`close_sequence`] takes what this returns.
pub(crate) fn open_item(out: &mut Vec<u8>, tag: Tag) -> usize {
    put_tag(out, tag);
    out.extend_from_slice(&[0; 4]);
    out.len()
}

pub(crate) fn append_item(out: &mut Vec<u8>, item: &DataSet) {
    let start = open_item(out, ITEM);
    item.encode(out);
    close_sequence(out, start);
}

pub(crate) const ITEM: Tag = Tag(0xFFFE, 0xE000);
pub(crate) const SEQUENCE_DELIMITATION: Tag = Tag(0xFFFE, 0xE0DD);

/// A Part 10 file (PS3.10 section 7) up to the end of `data`, in Explicit VR Little Endian.
pub(crate) fn part10(data: &DataSet, sop_class_uid: &Uid, sop_instance_uid: &Uid) -> Vec<u8> {
    part10_in(EXPLICIT_VR_LITTLE_ENDIAN, data, sop_class_uid, sop_instance_uid)
}

/// The same for a transfer syntax that encodes Pixel Data in another way; all of those write the rest in Explicit VR Little Endian.
pub(crate) fn part10_in(
    transfer_syntax_uid: &str,
    data: &DataSet,
    sop_class_uid: &Uid,
    sop_instance_uid: &Uid,
) -> Vec<u8> {
    let mut meta = DataSet::default();
    meta.insert(tags::FILE_META_INFORMATION_VERSION, Value::Bytes(VR::OB, vec![0, 1]));
    meta.uid(tags::MEDIA_STORAGE_SOP_CLASS_UID, sop_class_uid);
    meta.uid(tags::MEDIA_STORAGE_SOP_INSTANCE_UID, sop_instance_uid);
    meta.text(tags::TRANSFER_SYNTAX_UID, transfer_syntax_uid);
    meta.text(tags::IMPLEMENTATION_CLASS_UID, part10::IMPLEMENTATION_CLASS_UID);
    meta.text(
        tags::IMPLEMENTATION_VERSION_NAME,
        concat!("MEDLSAMD_", env!("CARGO_PKG_VERSION")),
    );
    let mut group = Vec::new();
    meta.encode(&mut group);

    let mut out = vec![0; 128];
    out.extend_from_slice(b"DICM");
    element_header(&mut out, tags::FILE_META_INFORMATION_GROUP_LENGTH, VR::UL, 4);
    out.extend_from_slice(&(group.len() as u32).to_le_bytes());
    out.extend_from_slice(&group);
    data.encode(&mut out);
    out
}

pub(crate) const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
pub(crate) const RLE_LOSSLESS: &str = "1.2.840.10008.1.2.5";

#[cfg(test)]
mod tests {
    use super::*;
    use dicom::object::{FileDicomObject, InMemDicomObject};

    #[test]
    fn a_foreign_reader_reads_what_was_written() {
        let mut data = DataSet::default();
        data.insert(tags::PATIENT_NAME, Value::Bytes(VR::PN, b"Odd".to_vec()));
        data.shorts(tags::ROWS, &[512]);
        data.item(tags::REFERENCED_SERIES_SEQUENCE, |item| {
            item.text(tags::SERIES_INSTANCE_UID, "1.2.3");
            item.items(tags::REFERENCED_INSTANCE_SEQUENCE, vec![DataSet::default(); 2]);
        });
        let uid = Uid::parse("1.2.3.4").unwrap();
        let file = part10(&data, &uid, &uid);
        let read: FileDicomObject<InMemDicomObject> = dicom::object::from_reader(file.as_slice()).unwrap();
        assert_eq!(read.meta().transfer_syntax(), EXPLICIT_VR_LITTLE_ENDIAN);
        assert_eq!(read.element(tags::PATIENT_NAME).unwrap().to_str().unwrap(), "Odd");
        assert_eq!(read.element(tags::ROWS).unwrap().to_int::<u16>().unwrap(), 512);
        let series = read.element(tags::REFERENCED_SERIES_SEQUENCE).unwrap().items().unwrap();
        assert_eq!(
            series[0]
                .element(tags::REFERENCED_INSTANCE_SEQUENCE)
                .unwrap()
                .items()
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn a_value_beyond_the_16_bit_length_is_found_however_deep() {
        let mut data = DataSet::default();
        data.item(tags::ROI_CONTOUR_SEQUENCE, |item| {
            item.text(tags::CONTOUR_DATA, "1".repeat(MAX_SHORT_VALUE))
        });
        assert_eq!(data.too_long_for_explicit_vr(), None);
        data.item(tags::ROI_CONTOUR_SEQUENCE, |item| {
            item.text(tags::CONTOUR_DATA, "1".repeat(MAX_SHORT_VALUE + 2))
        });
        assert_eq!(
            data.too_long_for_explicit_vr(),
            Some((tags::CONTOUR_DATA, MAX_SHORT_VALUE + 2))
        );
    }
}
