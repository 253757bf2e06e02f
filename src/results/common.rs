//! The modules every result shares, named as PS3.3 names them, and the patient's and study's attributes from the source.

use crate::dicom::uid::Uid;
use crate::results::dataset::{self, DataSet, Value};
use crate::results::header;
use crate::results::origin::Origin;
use crate::results::reference::SourceObject;
use crate::results::{self, ResultError, ResultObject, Source};
use crate::structure::{Code, Structure};
use dicom::core::Tag;
use dicom::dictionary_std::tags;

pub(crate) const PRODUCT: &str = "medlsamd";
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// PS3.16 CID 7202.
pub(crate) const SOURCE_IMAGE: Code = Code {
    value: "121322",
    scheme: "DCM",
    meaning: "Source image for image processing operation",
};
/// PS3.16 CID 7005.
const ACQUISITION_EQUIPMENT: Code = Code {
    value: "109101",
    scheme: "DCM",
    meaning: "Acquisition Equipment",
};

/// Patient (C.7.1.1): copied when present.
const PATIENT: &[Tag] = &[
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID_QUALIFIERS_SEQUENCE,
    tags::TYPE_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_BIRTH_TIME,
    tags::PATIENT_SEX,
    Tag(0x0010, 0x1000), // Other Patient IDs, retired and still sent
    tags::OTHER_PATIENT_NAMES,
    tags::OTHER_PATIENT_I_DS_SEQUENCE,
    Tag(0x0010, 0x2160), // Ethnic Group, retired and still sent
    tags::PATIENT_COMMENTS,
    tags::PATIENT_IDENTITY_REMOVED,
    tags::DEIDENTIFICATION_METHOD,
    tags::DEIDENTIFICATION_METHOD_CODE_SEQUENCE,
];
/// Type 2: written empty when the source lacks them.
const PATIENT_TYPE_2: &[Tag] = &[
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
];

/// General Study (C.7.2.1) and Patient Study (C.7.2.2): the same in every object of a study.
const STUDY: &[Tag] = &[
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_ID,
    tags::ACCESSION_NUMBER,
    tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE,
    tags::STUDY_DESCRIPTION,
    tags::PHYSICIANS_OF_RECORD,
    tags::NAME_OF_PHYSICIANS_READING_STUDY,
    tags::PROCEDURE_CODE_SEQUENCE,
    tags::ADMITTING_DIAGNOSES_DESCRIPTION,
    tags::PATIENT_AGE,
    tags::PATIENT_SIZE,
    tags::PATIENT_WEIGHT,
    tags::MEDICAL_ALERTS,
    tags::ALLERGIES,
    tags::OCCUPATION,
    tags::SMOKING_STATUS,
    tags::ADDITIONAL_PATIENT_HISTORY,
    tags::PREGNANCY_STATUS,
    tags::LAST_MENSTRUAL_DATE,
    tags::PATIENT_SEX_NEUTERED,
    tags::REASON_FOR_VISIT,
    tags::ADMISSION_ID,
];
const STUDY_TYPE_2: &[Tag] = &[
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_ID,
    tags::ACCESSION_NUMBER,
];

/// Clinical Trial Subject (C.7.1.3) and Clinical Trial Study (C.7.2.3).
const CLINICAL_TRIAL: &[Tag] = &[
    tags::CLINICAL_TRIAL_SPONSOR_NAME,
    tags::CLINICAL_TRIAL_PROTOCOL_ID,
    tags::CLINICAL_TRIAL_PROTOCOL_NAME,
    tags::CLINICAL_TRIAL_SITE_ID,
    tags::CLINICAL_TRIAL_SITE_NAME,
    tags::CLINICAL_TRIAL_SUBJECT_ID,
    tags::CLINICAL_TRIAL_SUBJECT_READING_ID,
    tags::CLINICAL_TRIAL_TIME_POINT_ID,
    tags::CLINICAL_TRIAL_TIME_POINT_DESCRIPTION,
];
const CLINICAL_TRIAL_TYPE_2: &[Tag] = &[
    tags::CLINICAL_TRIAL_PROTOCOL_NAME,
    tags::CLINICAL_TRIAL_SITE_ID,
    tags::CLINICAL_TRIAL_SITE_NAME,
];

/// Of the scanner, for Contributing Equipment (C.12.1).
const SCANNER: &[Tag] = &[
    tags::MANUFACTURER,
    tags::INSTITUTION_NAME,
    tags::STATION_NAME,
    tags::MANUFACTURER_MODEL_NAME,
    tags::DEVICE_SERIAL_NUMBER,
    tags::SOFTWARE_VERSIONS,
];

/// An object begun: everything but its own content.
pub(crate) struct Draft {
    pub data: DataSet,
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub series_instance_uid: Uid,
    /// The first slice's attributes, for what the content takes from the source.
    pub first: DataSet,
}

/// What tells one kind of object from another in the common modules.
pub(crate) struct Kind {
    /// The name in [`crate::results::KINDS`]; part of every UID.
    pub name: &'static str,
    pub sop_class_uid: &'static str,
    pub modality: &'static str,
    /// Added to a hundred times the source's series number, so that results sort behind their source.
    pub series_number_offset: i64,
}

/// Reads the first slice and writes the modules that all kinds share.
pub(crate) fn begin(source: &Source<'_>, kind: &Kind) -> Result<Draft, ResultError> {
    begin_at(&Origin::of(source)?, kind)
}

/// The same of an instance that need not belong to an assembled series.
pub(crate) fn begin_at(origin: &Origin<'_>, kind: &Kind) -> Result<Draft, ResultError> {
    let wanted = [PATIENT, STUDY, CLINICAL_TRIAL, SCANNER, OTHERS].concat();
    let first = header::read(origin.path, &wanted)?;
    let mut draft = Draft {
        data: DataSet::default(),
        sop_class_uid: known_uid(kind.sop_class_uid),
        sop_instance_uid: origin.sop_instance_uid(kind.name),
        series_instance_uid: origin.series_instance_uid_of(kind.name),
        first,
    };
    patient(&mut draft);
    general_study(&mut draft, origin);
    clinical_trial(&mut draft);
    general_series(&mut draft, origin, kind);
    if let Some(uid) = origin.frame_of_reference_uid {
        frame_of_reference(&mut draft, uid);
    }
    general_equipment(&mut draft.data, origin);
    sop_common(&mut draft, origin);
    Ok(draft)
}

impl Draft {
    /// The finished object, once every value fits into what Explicit VR can carry.
    pub(crate) fn finish(self, kind: &Kind, origin: &Origin<'_>) -> Result<ResultObject, ResultError> {
        check_uids(&self, origin)?;
        if let Some((tag, length)) = self.data.too_long_for_explicit_vr() {
            return Err(ResultError::Content(format!(
                "{tag} holds {length} bytes, more than explicit VR can carry"
            )));
        }
        Ok(ResultObject {
            kind: kind.name,
            key: results::key(kind.name, origin.profile),
            part10: dataset::part10(&self.data, &self.sop_class_uid, &self.sop_instance_uid),
            sop_class_uid: self.sop_class_uid,
            sop_instance_uid: self.sop_instance_uid,
            series_instance_uid: self.series_instance_uid,
            transfer_syntax_uid: known_uid(dataset::EXPLICIT_VR_LITTLE_ENDIAN),
        })
    }
}

/// Read besides what is copied as it is.
const OTHERS: &[Tag] = &[
    tags::SPECIFIC_CHARACTER_SET,
    tags::SERIES_NUMBER,
    tags::POSITION_REFERENCE_INDICATOR,
    tags::LOSSY_IMAGE_COMPRESSION,
    tags::LOSSY_IMAGE_COMPRESSION_RATIO,
    tags::LOSSY_IMAGE_COMPRESSION_METHOD,
];

/// A UID that the job's seed, the kind and the role decide: the same job writes the same objects.
pub(crate) fn derived(source: &Source<'_>, kind: &str, role: &str) -> Uid {
    Uid::derived(&[PRODUCT, &source.identity.uid_seed, kind, role])
}

/// The UID that follows a structure through the objects of a job, the same in SEG and SR.
pub(crate) fn tracking_uid(source: &Source<'_>, structure: &Structure) -> Uid {
    derived(source, "tracking", structure.name)
}

/// An item of Source Image Sequence.
pub(crate) fn source_image(source: &SourceObject<'_>) -> DataSet {
    let mut item = source.item();
    item.code(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, SOURCE_IMAGE);
    item
}

/// A UID of the standard.
pub(crate) fn known_uid(text: &'static str) -> Uid {
    Uid::parse(text).expect("a UID of the standard")
}

/// Text for an element of at most `limit` characters: printable ASCII, no value separator.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    let plain = |c: char| {
        if c.is_ascii_graphic() && c != '\\' || c == ' ' {
            c
        } else {
            '_'
        }
    };
    text.chars()
        .take(limit)
        .map(plain)
        .collect::<String>()
        .trim()
        .to_string()
}

fn copy(from: &DataSet, to: &mut DataSet, wanted: &[Tag]) {
    for tag in wanted {
        if let Some(value) = from.get(*tag) {
            to.insert(*tag, value.clone());
        }
    }
}

fn patient(draft: &mut Draft) {
    copy(&draft.first, &mut draft.data, PATIENT);
    PATIENT_TYPE_2
        .iter()
        .for_each(|tag| draft.data.empty_unless_present(*tag));
}

fn general_study(draft: &mut Draft, origin: &Origin<'_>) {
    draft.data.uid(tags::STUDY_INSTANCE_UID, origin.study_instance_uid);
    copy(&draft.first, &mut draft.data, STUDY);
    STUDY_TYPE_2
        .iter()
        .for_each(|tag| draft.data.empty_unless_present(*tag));
}

/// Copied only where the source names sponsor, protocol and subject: de-identified series often keep a half of the module, which no
/// validator passes, and what is missing is not ours to invent.
fn clinical_trial(draft: &mut Draft) {
    let given = |tag| draft.first.bytes(tag).is_some_and(|value| !value.is_empty());
    let subject = given(tags::CLINICAL_TRIAL_SUBJECT_ID) || given(tags::CLINICAL_TRIAL_SUBJECT_READING_ID);
    if given(tags::CLINICAL_TRIAL_SPONSOR_NAME) && given(tags::CLINICAL_TRIAL_PROTOCOL_ID) && subject {
        copy(&draft.first, &mut draft.data, CLINICAL_TRIAL);
        CLINICAL_TRIAL_TYPE_2
            .iter()
            .for_each(|tag| draft.data.empty_unless_present(*tag));
    }
}

fn general_series(draft: &mut Draft, origin: &Origin<'_>, kind: &Kind) {
    let identity = origin.identity;
    let source_number = draft
        .first
        .bytes(tags::SERIES_NUMBER)
        .and_then(|b| std::str::from_utf8(b).ok()?.trim().parse().ok());
    // IS ends at 2^31: an odd source number must not push ours over it.
    let number = source_number.unwrap_or(0i64).clamp(0, 9_999_999) * 100 + kind.series_number_offset;
    let data = &mut draft.data;
    data.text(tags::MODALITY, kind.modality);
    data.uid(tags::SERIES_INSTANCE_UID, &draft.series_instance_uid);
    data.text(tags::SERIES_NUMBER, number.to_string());
    data.text(tags::SERIES_DATE, &identity.content_date);
    data.text(tags::SERIES_TIME, &identity.content_time);
    data.text(
        tags::SERIES_DESCRIPTION,
        series_description(kind.modality, identity.revision),
    );
}

/// What viewers list a series under: what it is, and that a machine made it.
pub(crate) fn series_description(what: &str, revision: u32) -> String {
    let replaces = match revision {
        0 | 1 => String::new(),
        n => format!(" (rev. {n}, supersedes {})", n - 1),
    };
    clip(&format!("{what}: AI-generated, not reviewed{replaces}"), 64)
}

/// What an earlier result it replaces is called, or that it is made by a machine: for the 64-character descriptions.
pub(crate) fn content_description(source: &Source<'_>) -> String {
    match &source.identity.supersedes {
        Some(earlier) => clip(&format!("AI; supersedes {earlier}"), 64),
        None => "Outlined by AI, not reviewed by a physician".into(),
    }
}

fn frame_of_reference(draft: &mut Draft, uid: &Uid) {
    draft.data.uid(tags::FRAME_OF_REFERENCE_UID, uid);
    copy(&draft.first, &mut draft.data, &[tags::POSITION_REFERENCE_INDICATOR]);
    draft.data.empty_unless_present(tags::POSITION_REFERENCE_INDICATOR);
}

/// General Equipment (C.7.5.1) and Enhanced General Equipment (C.7.5.2). The device is this version with these models, so its
/// UID and serial number follow from them.
fn general_equipment(data: &mut DataSet, origin: &Origin<'_>) {
    let mut versions = vec![format!("{PRODUCT} {VERSION}")];
    versions.extend(
        origin
            .models
            .iter()
            .map(|m| clip(&format!("{} {}", m.name, m.version), 64)),
    );
    let device = origin.device_uid();
    let serial = device.as_str().trim_start_matches("2.25.");
    data.text(tags::MANUFACTURER, PRODUCT);
    data.text(tags::MANUFACTURER_MODEL_NAME, PRODUCT);
    data.text(tags::DEVICE_SERIAL_NUMBER, serial);
    data.text(tags::SOFTWARE_VERSIONS, versions.join("\\"));
    data.uid(tags::DEVICE_UID, &device);
}

/// SOP Common (C.12.1).
fn sop_common(draft: &mut Draft, origin: &Origin<'_>) {
    copy(&draft.first, &mut draft.data, &[tags::SPECIFIC_CHARACTER_SET]);
    let data = &mut draft.data;
    data.uid(tags::SOP_CLASS_UID, &draft.sop_class_uid);
    data.uid(tags::SOP_INSTANCE_UID, &draft.sop_instance_uid);
    data.text(tags::INSTANCE_CREATION_DATE, &origin.identity.content_date);
    data.text(tags::INSTANCE_CREATION_TIME, &origin.identity.content_time);
    data.text(tags::INSTANCE_NUMBER, origin.identity.revision.max(1).to_string());
    // Manufacturer is type 1 in an item of Contributing Equipment: no item for a scanner that does not name its maker.
    if draft
        .first
        .bytes(tags::MANUFACTURER)
        .is_some_and(|maker| !maker.is_empty())
    {
        let mut item = DataSet::default();
        copy(&draft.first, &mut item, SCANNER);
        item.code(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, ACQUISITION_EQUIPMENT);
        data.items(tags::CONTRIBUTING_EQUIPMENT_SEQUENCE, vec![item]);
    }
}

/// `name version` of the models, as the algorithm's name for a reader.
pub(crate) fn algorithm_name(source: &Source<'_>) -> String {
    let models: Vec<_> = source.models.iter().map(|m| m.name.as_str()).collect();
    clip(&format!("{PRODUCT} {VERSION}: {}", models.join(", ")), 64)
}

/// Models with version and checksum, for the algorithm's parameters (LT).
pub(crate) fn algorithm_parameters(source: &Source<'_>) -> String {
    let model = |m: &crate::results::ModelUsed| clip(&format!("{} {} sha256:{}", m.name, m.version, m.sha256), 200);
    source.models.iter().take(32).map(model).collect::<Vec<_>>().join("; ")
}

/// A decimal string (DS): at most `decimals` places, no trailing zeros, no negative zero. Written digit by digit, because a
/// structure set holds millions of them.
pub(crate) fn push_decimal(out: &mut Vec<u8>, value: f64, decimals: u32) {
    let scaled = (value * 10f64.powi(decimals as i32)).round() as i64;
    let (mut rest, mut places) = (scaled.unsigned_abs(), decimals);
    while places > 0 && rest.is_multiple_of(10) {
        rest /= 10;
        places -= 1;
    }
    let mut digits = [0u8; 24];
    let mut at = digits.len();
    let mut put = |digit: u8| {
        at -= 1;
        digits[at] = digit;
    };
    for place in 0.. {
        if place == places && place > 0 {
            put(b'.');
        }
        if place > places && rest == 0 {
            break;
        }
        put(b'0' + (rest % 10) as u8);
        rest /= 10;
    }
    if scaled < 0 {
        put(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

pub(crate) fn decimal(value: f64, decimals: u32) -> String {
    let mut out = Vec::new();
    push_decimal(&mut out, value, decimals);
    out.into_iter().map(char::from).collect()
}

/// Every mask must lie on the grid the slices span; anything else would be written into the wrong place.
pub(crate) fn check_masks(source: &Source<'_>) -> Result<(), ResultError> {
    let size = source.series.grid.size;
    if source.series.slices.len() != size[2] {
        let problem = format!("{} slices on a grid of {}", source.series.slices.len(), size[2]);
        return Err(ResultError::Content(problem));
    }
    if source.masks.is_empty() {
        return Err(ResultError::Content(
            "no structure was outlined, so there is nothing to write".into(),
        ));
    }
    for (n, mask) in source.masks.iter().enumerate() {
        let (k, j, i) = mask.voxels.dim();
        let name = mask.structure.name;
        if (0..3).any(|axis| mask.offset[axis] + [i, j, k][axis] > size[axis]) {
            return Err(ResultError::Content(format!(
                "mask of {name} reaches beyond the grid of the series"
            )));
        }
        if source.masks[..n].iter().any(|other| other.structure.name == name) {
            return Err(ResultError::Content(format!("two masks of {name}")));
        }
    }
    Ok(())
}

/// UIDs that must be distinct within and without the object.
pub(crate) fn check_identity(draft: &Draft, source: &Source<'_>) -> Result<(), ResultError> {
    check_uids(draft, &Origin::of(source)?)
}

fn check_uids(draft: &Draft, origin: &Origin<'_>) -> Result<(), ResultError> {
    let ours = [&draft.sop_instance_uid, &draft.series_instance_uid];
    let taken = |uid: &Uid| uid == origin.series_instance_uid || uid == origin.study_instance_uid;
    if ours[0] == ours[1] || ours.iter().any(|uid| taken(uid)) {
        return Err(ResultError::Content(format!(
            "UID {} is used twice",
            draft.series_instance_uid
        )));
    }
    for tag in [tags::SERIES_DATE, tags::SERIES_TIME] {
        let digits = |b: &[u8]| !b.is_empty() && b.iter().all(|b| b.is_ascii_digit() || *b == b'.');
        if !draft.data.bytes(tag).is_some_and(digits) {
            return Err(ResultError::Content(
                "the content date or time of the job is not a DICOM date or time".into(),
            ));
        }
    }
    Ok(())
}

/// The value of an element as the source wrote it, or a refusal that names it.
pub(crate) fn verbatim(
    header: &DataSet,
    tag: Tag,
    keyword: &str,
    path: &std::path::Path,
) -> Result<Value, ResultError> {
    match header.get(tag) {
        Some(value @ Value::Bytes(_, bytes)) if !bytes.trim_ascii().is_empty() => Ok(value.clone()),
        _ => Err(ResultError::Source(format!("{} has no {keyword}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_short_and_plain() {
        for (value, text) in [
            (-0.00004, "0"),
            (1.5, "1.5"),
            (-349.31640625, "-349.3164"),
            (120.0, "120"),
            (0.02, "0.02"),
            (-0.5, "-0.5"),
        ] {
            assert_eq!(decimal(value, 4), text);
        }
        assert!(decimal(-99_999.123_456, 4).len() <= 16);
    }

    #[test]
    fn descriptions_fit_and_say_what_they_supersede() {
        assert_eq!(
            series_description("RTSTRUCT", 1),
            "RTSTRUCT: AI-generated, not reviewed"
        );
        let long = series_description("RTSTRUCT", u32::MAX);
        assert!(long.len() <= 64);
        assert!(
            series_description("RTSTRUCT", 12).ends_with("(rev. 12, supersedes 11)"),
            "{long}"
        );
    }

    #[test]
    fn our_own_text_never_holds_a_separator_or_a_control_character() {
        assert_eq!(clip("a\\b\nc\u{e4} d", 64), "a_b_c_ d");
        assert_eq!(clip("abcdef", 3), "abc");
    }
}
