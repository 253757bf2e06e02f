//! Structured reports: content items (PS3.3 C.17.3) and the modules every report has (C.17.1, C.17.2).
//!
//! Text of ours is ASCII, because the report carries the character set of the patient's name and that may be any.

use crate::dicom::uid::Uid;
use crate::results::common;
use crate::results::dataset::{DataSet, Value};
use crate::results::origin::Origin;
use crate::results::reference::SourceObject;
use crate::structure::Code;
use dicom::core::VR;
use dicom::dictionary_std::tags;

/// How an item relates to the one that holds it (PS3.3 table C.17.3-8).
pub(crate) const CONTAINS: &str = "CONTAINS";
pub(crate) const HAS_CONCEPT_MOD: &str = "HAS CONCEPT MOD";
pub(crate) const HAS_OBS_CONTEXT: &str = "HAS OBS CONTEXT";
/// Longest text value we write; reasons and remarks are a sentence or two.
const MAX_TEXT: usize = 4000;

/// A concept of PS3.16 annex D.
pub(crate) const fn dcm(value: &'static str, meaning: &'static str) -> Code {
    Code {
        value,
        scheme: "DCM",
        meaning,
    }
}

fn item(relationship: &str, value_type: &str, name: Code) -> DataSet {
    let mut item = DataSet::default();
    item.text(tags::RELATIONSHIP_TYPE, relationship);
    item.text(tags::VALUE_TYPE, value_type);
    item.code(tags::CONCEPT_NAME_CODE_SEQUENCE, name);
    item
}

pub(crate) fn text(relationship: &str, name: Code, text: &str) -> DataSet {
    let mut item = item(relationship, "TEXT", name);
    item.text(tags::TEXT_VALUE, plain(text, MAX_TEXT));
    item
}

pub(crate) fn code(relationship: &str, name: Code, value: Code) -> DataSet {
    let mut item = item(relationship, "CODE", name);
    item.code(tags::CONCEPT_CODE_SEQUENCE, value);
    item
}

pub(crate) fn uid_reference(relationship: &str, name: Code, uid: &Uid) -> DataSet {
    let mut item = item(relationship, "UIDREF", name);
    item.uid(tags::UID, uid);
    item
}

/// A measured value: exact as a double, and as the decimal string every reader knows.
pub(crate) fn number(name: Code, value: f64, unit: Code) -> DataSet {
    let mut item = item(CONTAINS, "NUM", name);
    item.item(tags::MEASURED_VALUE_SEQUENCE, |measured| {
        measured.code(tags::MEASUREMENT_UNITS_CODE_SEQUENCE, unit);
        let exact = Value::Bytes(VR::FD, value.to_le_bytes().to_vec());
        measured.insert(tags::FLOATING_POINT_VALUE, exact);
        measured.text(tags::NUMERIC_VALUE, common::decimal(value, 4));
    });
    item
}

/// A reference to an image, or to frames of one.
pub(crate) fn image(name: Code, source: &SourceObject<'_>) -> DataSet {
    let mut item = item(CONTAINS, "IMAGE", name);
    item.item(tags::REFERENCED_SOP_SEQUENCE, |reference| {
        source.put(reference);
    });
    item
}

/// A reference to a segment.
pub(crate) fn segment(name: Code, sop_class_uid: &Uid, sop_instance_uid: &Uid, number: u16) -> DataSet {
    let mut item = item(CONTAINS, "IMAGE", name);
    item.item(tags::REFERENCED_SOP_SEQUENCE, |reference| {
        reference.put_reference(sop_class_uid, sop_instance_uid);
        reference.shorts(tags::REFERENCED_SEGMENT_NUMBER, &[number]);
    });
    item
}

/// A container within another one, made by a template of PS3.16 where it names one.
pub(crate) fn container(name: Code, template: Option<&str>, children: Vec<DataSet>) -> DataSet {
    let mut item = item(CONTAINS, "CONTAINER", name);
    fill_container(&mut item, template, children);
    item
}

fn fill_container(item: &mut DataSet, template: Option<&str>, children: Vec<DataSet>) {
    item.text(tags::CONTINUITY_OF_CONTENT, "SEPARATE");
    if let Some(template) = template {
        item.item(tags::CONTENT_TEMPLATE_SEQUENCE, |sequence| {
            sequence.text(tags::MAPPING_RESOURCE, "DCMR");
            sequence.text(tags::TEMPLATE_IDENTIFIER, template);
        });
    }
    item.items(tags::CONTENT_SEQUENCE, children);
}

/// The instances a report speaks of, by series, all of one study.
pub(crate) type Evidence<'a> = Vec<(&'a Uid, Vec<(&'a Uid, &'a Uid)>)>;

/// SR Document Series, SR Document General and the root of SR Document Content.
///
/// The content is complete as far as it goes, and nobody has verified it: what is still to come is a person's look, which is what
/// the Preliminary Flag says.
pub(crate) fn document(
    data: &mut DataSet,
    origin: &Origin<'_>,
    evidence: Evidence<'_>,
    (title, template): (Code, Option<&str>),
    children: Vec<DataSet>,
) {
    data.items(tags::REFERENCED_PERFORMED_PROCEDURE_STEP_SEQUENCE, Vec::new());
    data.text(tags::CONTENT_DATE, &origin.identity.content_date);
    data.text(tags::CONTENT_TIME, &origin.identity.content_time);
    data.text(tags::COMPLETION_FLAG, "COMPLETE");
    data.text(
        tags::COMPLETION_FLAG_DESCRIPTION,
        "Made by a machine, not reviewed by a physician",
    );
    data.text(tags::VERIFICATION_FLAG, "UNVERIFIED");
    data.text(tags::PRELIMINARY_FLAG, "PRELIMINARY");
    data.items(tags::PERFORMED_PROCEDURE_CODE_SEQUENCE, Vec::new());
    data.item(tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE, |study| {
        study.uid(tags::STUDY_INSTANCE_UID, origin.study_instance_uid);
        study.items(
            tags::REFERENCED_SERIES_SEQUENCE,
            evidence.into_iter().map(evidence_series).collect(),
        );
    });
    data.text(tags::VALUE_TYPE, "CONTAINER");
    data.code(tags::CONCEPT_NAME_CODE_SEQUENCE, title);
    let mut content = vec![
        code(
            HAS_CONCEPT_MOD,
            dcm("121049", "Language of Content Item and Descendants"),
            Code {
                value: "en",
                scheme: "RFC5646",
                meaning: "English",
            },
        ),
        code(HAS_OBS_CONTEXT, dcm("121005", "Observer Type"), dcm("121007", "Device")),
    ];
    content.extend(device(data, origin));
    content.extend(children);
    fill_container(data, template, content);
}

fn evidence_series((series, instances): (&Uid, Vec<(&Uid, &Uid)>)) -> DataSet {
    let mut item = DataSet::default();
    let reference = |(class, instance): (&Uid, &Uid)| {
        let mut item = DataSet::default();
        item.put_reference(class, instance);
        item
    };
    item.uid(tags::SERIES_INSTANCE_UID, series);
    item.items(
        tags::REFERENCED_SOP_SEQUENCE,
        instances.into_iter().map(reference).collect(),
    );
    item
}

/// Device Observer Identifying Attributes (TID 1004): the same as in General Equipment.
fn device(data: &DataSet, origin: &Origin<'_>) -> Vec<DataSet> {
    let said = |tag| String::from_utf8_lossy(data.bytes(tag).unwrap_or_default()).into_owned();
    let attribute = |value, meaning, said: &str| text(HAS_OBS_CONTEXT, dcm(value, meaning), said);
    vec![
        uid_reference(
            HAS_OBS_CONTEXT,
            dcm("121012", "Device Observer UID"),
            &origin.device_uid(),
        ),
        attribute("121013", "Device Observer Name", common::PRODUCT),
        attribute("121014", "Device Observer Manufacturer", &said(tags::MANUFACTURER)),
        attribute(
            "121015",
            "Device Observer Model Name",
            &said(tags::MANUFACTURER_MODEL_NAME),
        ),
        attribute(
            "121016",
            "Device Observer Serial Number",
            &said(tags::DEVICE_SERIAL_NUMBER),
        ),
    ]
}

/// Text in the ASCII that every character set holds and our letters can draw: the marks we use in sentences are spelled, control
/// characters become spaces, anything else an underscore.
pub(crate) fn plain(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '…' => out.push_str("..."),
            '–' | '—' | '−' => out.push('-'),
            '“' | '”' | '„' => out.push('"'),
            '’' | '‘' => out.push('\''),
            '×' => out.push('x'),
            '·' => out.push('*'),
            '±' => out.push_str("+/-"),
            '≥' => out.push_str(">="),
            '≤' => out.push_str("<="),
            '°' => out.push_str(" deg"),
            '→' => out.push_str("->"),
            'µ' | 'μ' => out.push('u'),
            '²' => out.push('2'),
            '³' => out.push('3'),
            letter if letter.is_ascii_graphic() => out.push(letter),
            letter if letter.is_whitespace() || letter.is_control() => out.push(' '),
            _ => out.push('_'),
        }
    }
    out.truncate(limit);
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_ours_become_ascii_and_keep_their_sense() {
        assert_eq!(plain("2.5 mm ≥ 1 mm – “no”…\n é", 80), "2.5 mm >= 1 mm - \"no\"...  _");
        assert_eq!(plain("abcdef", 3), "abc");
    }

    #[test]
    fn a_measured_value_is_exact_and_short() {
        let item = number(dcm("1", "x"), 1_234.567_890_123, dcm("2", "y"));
        let Some(Value::Items(measured)) = item.get(tags::MEASURED_VALUE_SEQUENCE) else {
            panic!("no value")
        };
        assert_eq!(measured[0].bytes(tags::NUMERIC_VALUE), Some(b"1234.5679".as_slice()));
        let Some(Value::Bytes(VR::FD, exact)) = measured[0].get(tags::FLOATING_POINT_VALUE) else {
            panic!("no double")
        };
        assert_eq!(exact, &1_234.567_890_123_f64.to_le_bytes());
    }
}
