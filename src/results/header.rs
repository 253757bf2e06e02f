//! Attributes of a source slice as its own bytes, for copying into a result.

use crate::dicom::fields::from_scan;
use crate::dicom::header::{HeaderError, file_meta};
use crate::dicom::object;
use crate::dicom::scan::{self, Encoding};
use crate::results::ResultError;
use crate::results::dataset::{DataSet, Value, standard_vr};
use dicom::core::{Tag, VR};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Nearly every header is shorter; longer ones are read in ever larger pieces up to `MAX_HEADER`, as at reception.
const FIRST_READ: usize = 32 << 10;
const MAX_HEADER: usize = 32 << 20;
/// Sequences within copied sequences; real ones stay below four.
const MAX_DEPTH: usize = 8;
/// Longer values are no attributes of a patient.
const MAX_VALUE: usize = 64 << 10;

/// Reads the wanted attributes of a Part 10 file. Absent ones are left out, as are sequences that cannot be copied faithfully.
pub(crate) fn read(path: &Path, wanted: &[Tag]) -> Result<DataSet, ResultError> {
    let problem = |what: &dyn std::fmt::Display| ResultError::Source(format!("{}: {what}", path.display()));
    let mut file = File::open(path).map_err(|error| problem(&error))?;
    let mut head = Vec::new();
    let mut want = FIRST_READ;
    loop {
        let missing = (want - head.len()) as u64;
        file.by_ref()
            .take(missing)
            .read_to_end(&mut head)
            .map_err(|error| problem(&error))?;
        let complete = head.len() < want;
        match attributes(&head, complete, wanted) {
            Err(HeaderError::NeedMore { .. }) if !complete && want < MAX_HEADER => want = (want * 4).min(MAX_HEADER),
            done => return done.map_err(|error| problem(&error)),
        }
    }
}

fn attributes(file: &[u8], complete: bool, wanted: &[Tag]) -> Result<DataSet, HeaderError> {
    let (transfer_syntax_uid, start) = file_meta(file)?;
    let body = &file[start..];
    let encoding = Encoding::of(&transfer_syntax_uid);
    if encoding.deflated {
        if !complete {
            return Err(HeaderError::NeedMore { at_hand: body.len() });
        }
        let plain = object::inflate(body).map_err(HeaderError::Malformed)?;
        return collect(&plain, Encoding::EXPLICIT_LE, true, wanted);
    }
    collect(body, encoding, complete, wanted)
}

/// Every element of a whole data set that can be carried over, such as the identifier of a query.
pub(crate) fn all(data: &[u8], encoding: Encoding) -> Result<DataSet, HeaderError> {
    let mut found = DataSet::default();
    scan::scan(data, encoding, scan::Tag::MAX, |element| {
        if let Some(value) = value(&element, encoding, MAX_DEPTH) {
            found.insert(Tag((element.tag >> 16) as u16, element.tag as u16), value);
        }
    })
    .map_err(|error| from_scan(error, data.len(), true))?;
    Ok(found)
}

fn collect(data: &[u8], encoding: Encoding, complete: bool, wanted: &[Tag]) -> Result<DataSet, HeaderError> {
    let last = wanted.iter().max().copied().map_or(0, number);
    let mut found = DataSet::default();
    let end = scan::scan(data, encoding, last, |element| {
        if let Some(tag) = wanted.iter().find(|tag| number(**tag) == element.tag)
            && let Some(value) = value(&element, encoding, MAX_DEPTH)
        {
            found.insert(*tag, value);
        }
    })
    .map_err(|error| from_scan(error, data.len(), complete))?;
    if end == data.len() && !complete {
        return Err(HeaderError::NeedMore { at_hand: data.len() });
    }
    Ok(found)
}

fn number(tag: Tag) -> u32 {
    u32::from(tag.group()) << 16 | u32::from(tag.element())
}

/// An element's value for writing in little endian; `None` when it cannot be carried over unchanged.
fn value(element: &scan::Element<'_>, encoding: Encoding, depth: usize) -> Option<Value> {
    let tag = Tag((element.tag >> 16) as u16, element.tag as u16);
    let vr = match element.vr.and_then(VR::from_binary) {
        // A sequence that some archive turned to UN keeps implicit content; it is not worth the risk.
        Some(vr) if vr != VR::UN || standard_vr(tag) != VR::SQ => vr,
        Some(_) => return None,
        None => standard_vr(tag),
    };
    if vr == VR::SQ {
        return Some(Value::Items(items(element, encoding, depth.checked_sub(1)?)?));
    }
    use VR::*;
    let text = matches!(
        vr,
        AE | AS | CS | DA | DS | DT | IS | LO | LT | PN | SH | ST | TM | UC | UI | UR | UT
    );
    let portable = text || !encoding.big_endian;
    (portable && !element.undefined_length && element.value.len() <= MAX_VALUE)
        .then(|| Value::Bytes(vr, element.value.to_vec()))
}

/// The items of a sequence; `None` if any of it cannot be read or carried over.
fn items(sequence: &scan::Element<'_>, encoding: Encoding, depth: usize) -> Option<Vec<DataSet>> {
    let (items, encoding) = scan::items(*sequence, encoding).ok()?;
    let item = |content: &[u8]| {
        let mut item = DataSet::default();
        let mut whole = true;
        let end = scan::scan(content, encoding, scan::Tag::MAX, |element| {
            match value(&element, encoding, depth) {
                Some(value) => item.insert(Tag((element.tag >> 16) as u16, element.tag as u16), value),
                None => whole = false,
            }
        });
        (end.ok()? == content.len() && whole).then_some(item)
    };
    items.into_iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::dataset;
    use dicom::dictionary_std::{tags, uids};
    use dicom::object::{FileMetaTableBuilder, InMemDicomObject};

    /// One data set in the given syntax, with a name in two character sets that dicom-object cannot decode.
    fn file(transfer_syntax: &str) -> Vec<u8> {
        use dicom::core::{DataElement, PrimitiveValue, value::DataSetSequence};
        let code = InMemDicomObject::from_element_iter([
            DataElement::new(tags::CODE_VALUE, VR::SH, "113100"),
            DataElement::new(tags::CODE_MEANING, VR::LO, "Basic"),
        ]);
        let object = InMemDicomObject::from_element_iter([
            DataElement::new(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
            DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3"),
            DataElement::new(tags::PATIENT_NAME, VR::PN, "Yamada^Tarou=\u{1b}$B;3ED"),
            DataElement::new(
                tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE,
                VR::SQ,
                DataSetSequence::from(vec![code.clone(), code]),
            ),
            DataElement::new(tags::STUDY_ID, VR::SH, PrimitiveValue::from("7 ")),
            DataElement::new(tags::ROWS, VR::US, PrimitiveValue::from(3u16)),
        ]);
        let meta = FileMetaTableBuilder::new().transfer_syntax(transfer_syntax);
        let mut bytes = Vec::new();
        object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn attributes_come_as_written_from_every_encoding() {
        let wanted = [
            tags::PATIENT_NAME,
            tags::STUDY_ID,
            tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE,
            tags::ACCESSION_NUMBER,
        ];
        let syntaxes = [
            uids::EXPLICIT_VR_LITTLE_ENDIAN,
            uids::IMPLICIT_VR_LITTLE_ENDIAN,
            "1.2.840.10008.1.2.2",
            uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        ];
        let read = |syntax| attributes(&file(syntax), true, &wanted).unwrap();
        let first = read(syntaxes[0]);
        assert_eq!(
            first.bytes(tags::PATIENT_NAME),
            Some(b"Yamada^Tarou=\x1b$B;3ED".as_slice())
        );
        assert_eq!(first.bytes(tags::STUDY_ID), Some(b"7".as_slice()));
        assert_eq!(first.get(tags::ACCESSION_NUMBER), None);
        let Some(Value::Items(codes)) = first.get(tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE) else {
            panic!("no sequence")
        };
        assert_eq!(
            (codes.len(), codes[1].bytes(tags::CODE_VALUE)),
            (2, Some(b"113100".as_slice()))
        );
        let encoded = |data: &DataSet| {
            let uid = crate::dicom::uid::Uid::derived(&["x"]);
            dataset::part10(data, &uid, &uid)
        };
        for syntax in syntaxes {
            assert_eq!(encoded(&read(syntax)), encoded(&first), "{syntax}");
        }
    }

    #[test]
    fn a_file_cut_short_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cut.dcm");
        let whole = file(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        std::fs::write(&path, &whole[..whole.len() - 25]).unwrap();
        let error = read(&path, &[tags::ROWS]).unwrap_err().to_string();
        assert!(error.contains("cut.dcm") && error.contains("ends within"), "{error}");
    }
}
