//! The DICOM JSON model (PS3.18 annex F).

use crate::dicom::characters::Characters;
use crate::dicom::scan::{self, Element, Encoding, ScanError};
use crate::results::dataset::{DataSet, Value, standard_vr};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dicom::core::{Tag, VR};
use serde_json::{Map, Value as Json, json};

const SPECIFIC_CHARACTER_SET: scan::Tag = 0x0008_0005;
/// Longer binary values are left to the object itself.
const MAX_BINARY: usize = 1024;

/// A data set of ours.
pub(in crate::web) fn of(set: &DataSet) -> Json {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    let own = read(
        &bytes,
        Encoding::EXPLICIT_LE,
        &Characters::default(),
        "",
        scan::MAX_DEPTH,
    );
    Json::Object(own.expect("data sets of ours are well formed"))
}

/// A data set as it was received, without its pixels. Binary values point to `bulk`, the object itself, since they are not served alone.
///
/// # Errors
/// When the bytes end too early or are no data set.
pub(in crate::web) fn read(
    data: &[u8],
    encoding: Encoding,
    outer: &Characters,
    bulk: &str,
    depth: usize,
) -> Result<Map<String, Json>, ScanError> {
    let mut characters = outer.clone();
    let mut out = Map::new();
    let mut failed = None;
    scan::scan(data, encoding, scan::PIXEL_DATA - 1, |element| {
        if element.tag == SPECIFIC_CHARACTER_SET {
            characters = Characters::of(element.value);
            // The text is UTF-8 from here on (PS3.18 F.2.2).
            out.insert(name(element.tag), json!({ "vr": "CS", "Value": ["ISO_IR 192"] }));
            return;
        }
        // Group lengths mean nothing outside of the encoding.
        if element.tag & 0xFFFF == 0 {
            return;
        }
        match attribute(&element, encoding, &characters, bulk, depth) {
            Ok(attribute) => drop(out.insert(name(element.tag), attribute)),
            Err(error) => failed = Some(error),
        }
    })?;
    failed.map_or(Ok(out), Err)
}

fn name(tag: scan::Tag) -> String {
    format!("{tag:08X}")
}

fn attribute(
    element: &Element<'_>,
    encoding: Encoding,
    characters: &Characters,
    bulk: &str,
    depth: usize,
) -> Result<Json, ScanError> {
    let tag = Tag((element.tag >> 16) as u16, element.tag as u16);
    let written = element.vr.and_then(VR::from_binary).filter(|vr| *vr != VR::UN);
    let vr = written.unwrap_or_else(|| standard_vr(tag));
    if vr == VR::SQ || (element.undefined_length && vr == VR::UN) {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(ScanError::Malformed("sequences nested too deeply".into()));
        };
        let (items, encoding) = scan::items(*element, encoding)?;
        let items = items
            .into_iter()
            .map(|item| read(item, encoding, characters, bulk, depth).map(Json::Object))
            .collect::<Result<Vec<_>, _>>()?;
        return Ok(with_values("SQ", items));
    }
    Ok(match values(vr, element.value, encoding.big_endian, characters) {
        Some(values) => with_values(vr.to_string(), values),
        None if element.value.is_empty() => with_values(vr.to_string(), Vec::new()),
        None if element.value.len() > MAX_BINARY || bulk.is_empty() => {
            json!({ "vr": vr.to_string(), "BulkDataURI": bulk })
        }
        None => json!({ "vr": vr.to_string(), "InlineBinary": STANDARD.encode(element.value) }),
    })
}

/// An attribute without values has no Value (PS3.18 F.2.2).
fn with_values(vr: &str, values: Vec<Json>) -> Json {
    match values.is_empty() {
        true => json!({ "vr": vr }),
        false => json!({ "vr": vr, "Value": values }),
    }
}

/// `None` for what is binary.
fn values(vr: VR, bytes: &[u8], big_endian: bool, characters: &Characters) -> Option<Vec<Json>> {
    use VR::*;
    let numbers = |size: usize, one: &dyn Fn(&[u8]) -> Json| {
        let one = |chunk: &[u8]| {
            let mut chunk = chunk.to_vec();
            if big_endian {
                chunk.reverse();
            }
            one(&chunk)
        };
        Some(bytes.chunks_exact(size).map(one).collect())
    };
    match vr {
        US => numbers(2, &|b| json!(u16::from_le_bytes([b[0], b[1]]))),
        SS => numbers(2, &|b| json!(i16::from_le_bytes([b[0], b[1]]))),
        UL => numbers(4, &|b| json!(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        SL => numbers(4, &|b| json!(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        FL => numbers(4, &|b| json!(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        FD => numbers(8, &|b| json!(f64::from_le_bytes(b.try_into().expect("eight bytes")))),
        AT => Some(pointers(bytes, big_endian)),
        OB | OD | OF | OL | OV | OW | UN | SV | UV | SQ => None,
        LT | ST | UT | UR => {
            let text = characters.decode(bytes);
            let text = text.trim_end_matches([' ', '\0']);
            Some(if text.is_empty() { Vec::new() } else { vec![json!(text)] })
        }
        _ => {
            let text = characters.decode(bytes);
            let text = text.trim_end_matches([' ', '\0']);
            if text.is_empty() {
                return Some(Vec::new());
            }
            Some(text.split('\\').map(|value| one_text(vr, value.trim())).collect())
        }
    }
}

fn pointers(bytes: &[u8], big_endian: bool) -> Vec<Json> {
    let pair = |b: &[u8]| match big_endian {
        true => u16::from_be_bytes([b[0], b[1]]),
        false => u16::from_le_bytes([b[0], b[1]]),
    };
    let chunks = bytes.chunks_exact(4);
    chunks
        .map(|b| json!(format!("{:04X}{:04X}", pair(b), pair(&b[2..]))))
        .collect()
}

/// One value of text: names have groups, numbers are numbers where they can be read as such, empty values are null.
fn one_text(vr: VR, value: &str) -> Json {
    match vr {
        _ if value.is_empty() => Json::Null,
        VR::PN => {
            let groups = ["Alphabetic", "Ideographic", "Phonetic"]
                .into_iter()
                .zip(value.split('='));
            let named = groups.filter(|(_, text)| !text.is_empty());
            Json::Object(named.map(|(group, text)| (group.to_owned(), json!(text))).collect())
        }
        VR::IS => value
            .parse::<i64>()
            .map_or_else(|_| json!(value), |number| json!(number)),
        VR::DS => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => json!(number),
            _ => json!(value),
        },
        _ => json!(value),
    }
}

/// A value put into keys of a query.
pub(in crate::web) fn text_value(tag: Tag, text: &str) -> Value {
    Value::Bytes(standard_vr(tag), text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dicom::dictionary_std::tags;

    #[test]
    fn values_take_the_forms_of_the_json_model() {
        let mut set = DataSet::default();
        set.insert(
            tags::SPECIFIC_CHARACTER_SET,
            Value::Bytes(VR::CS, b"ISO_IR 100".to_vec()),
        );
        set.insert(tags::PATIENT_NAME, Value::Bytes(VR::PN, b"M\xfcller^A=B".to_vec()));
        set.text(tags::PIXEL_SPACING, "0.5\\0.25");
        set.text(tags::NUMBER_OF_FRAMES, "3");
        set.text(tags::ACCESSION_NUMBER, "");
        set.shorts(tags::ROWS, &[512]);
        set.insert(
            tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            Value::Bytes(VR::OW, b"ab".to_vec()),
        );
        set.item(tags::SEGMENT_SEQUENCE, |item| item.shorts(tags::SEGMENT_NUMBER, &[7]));
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let read = read(&bytes, Encoding::EXPLICIT_LE, &Characters::default(), "u", 4).unwrap();
        assert_eq!(
            read["00100010"]["Value"][0],
            json!({ "Alphabetic": "Müller^A", "Ideographic": "B" })
        );
        assert_eq!(read["00280030"], json!({ "vr": "DS", "Value": [0.5, 0.25] }));
        assert_eq!(read["00280008"]["Value"], json!([3]));
        assert_eq!(read["00080050"], json!({ "vr": "SH" }));
        assert_eq!(read["00280010"], json!({ "vr": "US", "Value": [512] }));
        assert_eq!(read["00281201"], json!({ "vr": "OW", "InlineBinary": "YWI=" }));
        assert_eq!(read["00620002"]["Value"][0]["00620004"]["Value"], json!([7]));
    }
}
