//! Explicit to Implicit VR Little Endian (PS3.5 A.1), value by value: text leaves in the bytes it came in, whatever character set
//! they are in.

use crate::dicom::scan::{self, Element, Encoding, MAX_DEPTH, ScanError, Tag};

const ITEM: Tag = 0xFFFE_E000;

/// A data set in Explicit VR Little Endian as Implicit VR, sequences with explicit lengths. Group lengths, which would be wrong
/// then and are retired, are left out, and so is what follows Pixel Data.
///
/// # Errors
/// When the data set is cut short or malformed, encapsulated, or nested deeper than [`MAX_DEPTH`].
pub fn implicit_vr(data: &[u8]) -> Result<Vec<u8>, ScanError> {
    let mut out = Vec::with_capacity(data.len());
    recode(data, Encoding::EXPLICIT_LE, MAX_DEPTH, &mut out)?;
    Ok(out)
}

fn recode(data: &[u8], encoding: Encoding, depth: usize, out: &mut Vec<u8>) -> Result<(), ScanError> {
    let mut elements: Vec<Element<'_>> = Vec::new();
    scan::scan(data, encoding, Tag::MAX, |element| elements.push(element))?;
    for element in elements.into_iter().filter(|element| element.tag & 0xFFFF != 0) {
        if element.tag == scan::PIXEL_DATA && element.undefined_length {
            return Err(ScanError::Malformed(
                "encapsulated Pixel Data has no implicit form".into(),
            ));
        }
        let is_sequence = element.undefined_length || element.vr == Some(*b"SQ");
        if !is_sequence {
            if element.value.len() != element.length as usize {
                return Err(ScanError::NeedMore);
            }
            head(out, element.tag, element.value.len())?;
            out.extend_from_slice(element.value);
            continue;
        }
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| ScanError::Malformed(format!("sequences nested deeper than {MAX_DEPTH}")))?;
        let (items, inner) = scan::items(element, encoding)?;
        let start = out.len();
        head(out, element.tag, 0)?;
        for item in items {
            let start = out.len();
            head(out, ITEM, 0)?;
            recode(item, inner, depth, out)?;
            close(out, start)?;
        }
        close(out, start)?;
    }
    Ok(())
}

fn head(out: &mut Vec<u8>, tag: Tag, length: usize) -> Result<(), ScanError> {
    out.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
    out.extend_from_slice(&(tag as u16).to_le_bytes());
    out.extend_from_slice(&length_bytes(length)?);
    Ok(())
}

/// Gives the element that begins at `start` the length of what follows its head.
fn close(out: &mut [u8], start: usize) -> Result<(), ScanError> {
    let length = length_bytes(out.len() - start - 8)?;
    out[start + 4..start + 8].copy_from_slice(&length);
    Ok(())
}

/// The last value of 32 bits means undefined.
fn length_bytes(length: usize) -> Result<[u8; 4], ScanError> {
    let fits = u32::try_from(length).ok().filter(|length| *length != u32::MAX);
    let too_long = || ScanError::Malformed(format!("{length} bytes are more than a length can say"));
    fits.map(u32::to_le_bytes).ok_or_else(too_long)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dicom::core::{DataElement, PrimitiveValue, VR, value::DataSetSequence};
    use dicom::dictionary_std::tags;
    use dicom::object::InMemDicomObject;
    use dicom::transfer_syntax::entries;

    /// Explicit VR as dicom-object writes it, sequences of undefined length.
    fn explicit() -> (InMemDicomObject, Vec<u8>) {
        let code = InMemDicomObject::from_element_iter([
            DataElement::new(tags::CODE_VALUE, VR::SH, "113100"),
            DataElement::new(
                tags::EQUIVALENT_CODE_SEQUENCE,
                VR::SQ,
                DataSetSequence::from(vec![InMemDicomObject::from_element_iter([DataElement::new(
                    tags::CODE_MEANING,
                    VR::LO,
                    "within",
                )])]),
            ),
        ]);
        let object = InMemDicomObject::from_element_iter([
            DataElement::new(tags::PATIENT_NAME, VR::PN, "Yamada^Tarou"),
            DataElement::new(
                tags::PROCEDURE_CODE_SEQUENCE,
                VR::SQ,
                DataSetSequence::from(vec![code.clone(), code]),
            ),
            DataElement::new(tags::ROWS, VR::US, PrimitiveValue::from(3u16)),
            DataElement::new(
                tags::PIXEL_DATA,
                VR::OW,
                PrimitiveValue::U16([1u16, 2, 3].as_slice().into()),
            ),
        ]);
        let mut bytes = Vec::new();
        object
            .write_dataset_with_ts(&mut bytes, &entries::EXPLICIT_VR_LITTLE_ENDIAN.erased())
            .unwrap();
        (object, bytes)
    }

    #[test]
    fn a_foreign_reader_finds_the_same_values_and_the_same_pixels() {
        let (object, bytes) = explicit();
        let implicit = implicit_vr(&bytes).unwrap();
        let read = InMemDicomObject::read_dataset_with_ts(&implicit[..], &entries::IMPLICIT_VR_LITTLE_ENDIAN.erased())
            .unwrap();
        for tag in [tags::PATIENT_NAME, tags::ROWS, tags::PIXEL_DATA] {
            let value = |object: &InMemDicomObject| object.element(tag).unwrap().to_bytes().unwrap().to_vec();
            assert_eq!(value(&read), value(&object), "{tag}");
        }
        let items = read
            .element(tags::PROCEDURE_CODE_SEQUENCE)
            .unwrap()
            .items()
            .unwrap()
            .to_vec();
        let within = items[1]
            .element(tags::EQUIVALENT_CODE_SEQUENCE)
            .unwrap()
            .items()
            .unwrap()[0]
            .clone();
        assert_eq!(
            (
                items.len(),
                within.element(tags::CODE_MEANING).unwrap().to_str().unwrap()
            ),
            (2, "within".into())
        );
    }

    #[test]
    fn text_in_any_character_set_keeps_its_bytes() {
        // Turkish in ISO_IR 148, which dicom-object takes for Latin-1, and Japanese behind an escape.
        for name in [&b"\xDE\xFE\xDD\xFD"[..], b"Yamada=\x1b$B;3ED\x1b(B "] {
            let (_, mut bytes) = explicit();
            let at = bytes.windows(12).position(|w| w == b"Yamada^Tarou").unwrap();
            bytes[at..at + name.len().min(12)].copy_from_slice(&name[..name.len().min(12)]);
            let implicit = implicit_vr(&bytes).unwrap();
            assert!(implicit.windows(12).any(|w| w == &bytes[at..at + 12]));
        }
    }

    #[test]
    fn what_is_cut_short_or_encapsulated_is_refused() {
        let (_, bytes) = explicit();
        assert!(implicit_vr(&bytes[..bytes.len() - 1]).is_err());
        let mut encapsulated = bytes[..bytes.len() - 18].to_vec();
        encapsulated.extend(b"\xE0\x7F\x10\x00OB\0\0\xFF\xFF\xFF\xFF\xFE\xFF\xDD\xE0\0\0\0\0");
        assert!(matches!(implicit_vr(&encapsulated), Err(ScanError::Malformed(_))));
    }
}
