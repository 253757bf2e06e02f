//! A data set in another encoding, value by value: text leaves in the bytes it came in, whatever character set they are in.

use crate::dicom::scan::{self, Element, Encoding, MAX_DEPTH, ScanError, Tag, has_short_length};

const ITEM: Tag = 0xFFFE_E000;
const UNDEFINED: u32 = u32::MAX;

/// A data set in Explicit VR Little Endian as Implicit VR (PS3.5 A.1), sequences with explicit lengths. Group lengths, which would be
/// wrong then and are retired, are left out, and so is what follows Pixel Data and is no element.
///
/// # Errors
/// When the data set is cut short or malformed, encapsulated, or nested deeper than [`MAX_DEPTH`].
pub fn implicit_vr(data: &[u8]) -> Result<Vec<u8>, ScanError> {
    let mut out = Vec::with_capacity(data.len());
    recode(data, Encoding::EXPLICIT_LE, Encoding::IMPLICIT_LE, MAX_DEPTH, &mut out)?;
    Ok(out)
}

/// A data set in Explicit VR Big Endian (retired; PS3.5 2016b A.3) as Explicit VR Little Endian, within the bounds and with the
/// errors of [`implicit_vr`]. Values of VR UN stay as they are.
pub fn little_endian(data: &[u8]) -> Result<Vec<u8>, ScanError> {
    let mut out = Vec::with_capacity(data.len());
    recode(data, Encoding::EXPLICIT_BE, Encoding::EXPLICIT_LE, MAX_DEPTH, &mut out)?;
    Ok(out)
}

fn recode(data: &[u8], from: Encoding, to: Encoding, depth: usize, out: &mut Vec<u8>) -> Result<(), ScanError> {
    for element in elements(data, from)?.into_iter().filter(|e| e.tag & 0xFFFF != 0) {
        if element.tag == scan::PIXEL_DATA && element.undefined_length {
            return Err(ScanError::Malformed(
                "encapsulated Pixel Data has no uncompressed form here".into(),
            ));
        }
        if element.undefined_length && element.vr == Some(*b"UN") && to.explicit_vr {
            // Its content is implicit VR little endian in every encoding (PS3.5 6.2.2).
            head(out, element.tag, Some(*b"UN"), UNDEFINED)?;
            out.extend_from_slice(element.value);
            continue;
        }
        let vr = element.vr.filter(|_| to.explicit_vr);
        if !element.undefined_length && element.vr != Some(*b"SQ") {
            if element.value.len() != element.length as usize {
                return Err(ScanError::NeedMore);
            }
            head(out, element.tag, vr, element.length)?;
            value(out, &element, from);
            continue;
        }
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| ScanError::Malformed(format!("sequences nested deeper than {MAX_DEPTH}")))?;
        let (items, inner) = scan::items(element, from)?;
        // Of a UN that turned out to hold items, too.
        head(out, element.tag, vr, 0)?;
        let start = out.len();
        for item in items {
            head(out, ITEM, None, 0)?;
            let start = out.len();
            recode(item, inner, to, depth, out)?;
            close(out, start)?;
        }
        close(out, start)?;
    }
    Ok(())
}

/// All elements of a data set, those behind Pixel Data too, up to what is none.
fn elements(data: &[u8], encoding: Encoding) -> Result<Vec<Element<'_>>, ScanError> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < data.len() {
        match scan::scan(&data[at..], encoding, Tag::MAX, |element| found.push(element)) {
            Ok(end) => at += end,
            // Some writers pad the file.
            Err(_) if at > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The value of an element, its words turned where they are big endian (PS3.5 7.3).
fn value(out: &mut Vec<u8>, element: &Element<'_>, from: Encoding) {
    let width = match element.vr.as_ref().filter(|_| from.big_endian) {
        Some(b"US" | b"SS" | b"AT" | b"OW") => 2,
        Some(b"UL" | b"SL" | b"FL" | b"OF" | b"OL") => 4,
        Some(b"FD" | b"OD" | b"OV" | b"SV" | b"UV") => 8,
        _ => return out.extend_from_slice(element.value),
    };
    for word in element.value.chunks(width) {
        out.extend(word.iter().rev());
    }
}

fn head(out: &mut Vec<u8>, tag: Tag, vr: Option<[u8; 2]>, length: u32) -> Result<(), ScanError> {
    out.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
    out.extend_from_slice(&(tag as u16).to_le_bytes());
    if let Some(vr) = vr {
        out.extend_from_slice(&vr);
        if has_short_length(vr) {
            let short = u16::try_from(length).map_err(|_| too_long(length as usize))?;
            out.extend_from_slice(&short.to_le_bytes());
            return Ok(());
        }
        out.extend_from_slice(&[0, 0]);
    }
    out.extend_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Gives the sequence or item whose content begins at `start` its length, which stands right in front of that.
fn close(out: &mut [u8], start: usize) -> Result<(), ScanError> {
    let length = out.len() - start;
    // The last value of 32 bits means undefined.
    let fits = u32::try_from(length).ok().filter(|length| *length != UNDEFINED);
    let length = fits.ok_or_else(|| too_long(length))?;
    out[start - 4..start].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn too_long(length: usize) -> ScanError {
    ScanError::Malformed(format!("{length} bytes are more than a length can say"))
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

    #[test]
    fn what_follows_the_pixels_leaves_too_and_padding_that_is_no_element_does_not() {
        let (_, bytes) = explicit();
        let private = b"\xE1\x7F\x10\x00LO\x04\x00MINE";
        let padded = [&bytes[..], private, &[0; 3]].concat();
        let implicit = implicit_vr(&padded).unwrap();
        assert_eq!(implicit[..implicit.len() - 12], implicit_vr(&bytes).unwrap());
        assert!(implicit.ends_with(b"\xE1\x7F\x10\x00\x04\0\0\0MINE"));
    }

    #[test]
    fn a_foreign_writers_big_endian_becomes_its_own_little_endian() {
        let (mut object, _) = explicit();
        let numbers = [
            (tags::SMALLEST_IMAGE_PIXEL_VALUE, VR::SS, PrimitiveValue::from(-2i16)),
            (tags::SIMPLE_FRAME_LIST, VR::UL, PrimitiveValue::from(70_000u32)),
            (
                tags::FRAME_INCREMENT_POINTER,
                VR::AT,
                PrimitiveValue::from(tags::PIXEL_DATA),
            ),
            (tags::REFERENCE_PIXEL_X0, VR::SL, PrimitiveValue::from(-5i32)),
            (tags::DOPPLER_CORRECTION_ANGLE, VR::FD, PrimitiveValue::from(0.1f64)),
            (
                tags::RECOMMENDED_DISPLAY_FRAME_RATE_IN_FLOAT,
                VR::FL,
                PrimitiveValue::from(0.1f32),
            ),
        ];
        for (tag, vr, value) in numbers {
            object.put(DataElement::new(tag, vr, value));
        }
        let written = |syntax| {
            let mut bytes = Vec::new();
            object.write_dataset_with_ts(&mut bytes, &syntax).unwrap();
            bytes
        };
        let little = little_endian(&written(entries::EXPLICIT_VR_BIG_ENDIAN.erased())).unwrap();
        let expected = written(entries::EXPLICIT_VR_LITTLE_ENDIAN.erased());
        // Sequences have lengths here and none there: the implicit forms are alike.
        assert_eq!(implicit_vr(&little), implicit_vr(&expected));
        let read = InMemDicomObject::read_dataset_with_ts(&little[..], &entries::EXPLICIT_VR_LITTLE_ENDIAN.erased());
        assert_eq!(
            read.unwrap()
                .element(tags::DOPPLER_CORRECTION_ANGLE)
                .unwrap()
                .to_float64()
                .unwrap(),
            0.1
        );
    }
}
