//! "Not processed, because …": an object in the study of a series that came to nothing, so that nobody waits for contours.
//!
//! It needs one readable instance and a reason, no assembled series: a series is most often refused because it could not be
//! assembled. [`KINDS`] is the table of forms it can take. The picture works in every viewer; the report can be searched for.

use crate::dicom::header::Instance;
use crate::results::common::{self, Draft};
use crate::results::content::{self, CONTAINS, HAS_CONCEPT_MOD, dcm};
use crate::results::dataset::DataSet;
use crate::results::origin::Origin;
use crate::results::picture::Sheet;
use crate::results::{Identity, ResultError, ResultObject, reference, sc, sr};
use crate::structure::Code;
use dicom::dictionary_std::tags;

const BASIC_TEXT_SR_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.88.11";
const PICTURE: common::Kind = common::Kind {
    name: "notice-sc",
    sop_class_uid: sc::SECONDARY_CAPTURE_STORAGE,
    modality: "OT",
    series_number_offset: 95,
};
const REPORT: common::Kind = common::Kind {
    name: "notice-sr",
    sop_class_uid: BASIC_TEXT_SR_STORAGE,
    modality: "SR",
    series_number_offset: 95,
};
const DESCRIPTION: &str = "Not processed: see the reason inside";

/// PS3.16 knows no title for this, so it is ours.
const TITLE: Code = Code {
    value: "NOT_PROCESSED",
    scheme: "99MEDLSAMD",
    meaning: "Notice of a series that was not processed",
};

/// What a notice says and of which series.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    /// Any readable instance of the series; patient and study are copied from it byte for byte.
    pub instance: &'a Instance,
    pub identity: &'a Identity,
    /// A sentence or several; what the font lacks is spelled or shown as `_`.
    pub reason: &'a str,
}

/// One form of notice.
#[derive(Debug)]
pub struct Kind {
    /// What `notice` in the configuration says.
    pub name: &'static str,
    pub sop_class_uid: &'static str,
    /// # Errors
    /// The instance's file cannot be read.
    pub write: fn(&Notice<'_>) -> Result<ResultObject, ResultError>,
}

/// Every form a notice can take; the configuration's `notice` and the SCU's presentation contexts read this table.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "sc",
        sop_class_uid: sc::SECONDARY_CAPTURE_STORAGE,
        write: write_picture,
    },
    Kind {
        name: "sr",
        sop_class_uid: BASIC_TEXT_SR_STORAGE,
        write: write_report,
    },
];

/// Looks a form up by its name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

fn begin(notice: &Notice<'_>, origin: &Origin<'_>, kind: &common::Kind) -> Result<Draft, ResultError> {
    let mut draft = common::begin_at(origin, kind)?;
    draft.data.text(tags::SERIES_DESCRIPTION, DESCRIPTION);
    if notice.reason.trim().is_empty() {
        return Err(ResultError::Content("a notice without a reason helps nobody".into()));
    }
    Ok(draft)
}

/// The series the notice is about, as its number or, without one, its UID.
fn about(notice: &Notice<'_>, draft: &Draft) -> String {
    let number = draft.first.bytes(tags::SERIES_NUMBER).unwrap_or_default();
    match std::str::from_utf8(number).map(str::trim) {
        Ok(number) if !number.is_empty() => format!("Series {}", content::plain(number, 12)),
        _ => format!("Series {}", notice.instance.series_instance_uid),
    }
}

fn write_picture(notice: &Notice<'_>) -> Result<ResultObject, ResultError> {
    let origin = Origin::of_instance(notice.instance, notice.identity);
    let mut draft = begin(notice, &origin, &PICTURE)?;
    let reason = without_identity(notice.reason, &draft.first);
    let sheet = draw(
        &about(notice, &draft),
        &content::plain(&reason, MAX_DRAWN),
        notice.identity,
    );
    let said = format!("Notice of {}: not processed. {reason}", common::PRODUCT);
    sc::put_picture(
        &mut draft,
        &origin,
        &sheet,
        &content::plain(&said, 1024).replace('\\', "/"),
    )?;
    draft.data.items(
        tags::SOURCE_IMAGE_SEQUENCE,
        vec![common::source_image(&reference::slice(notice.instance))],
    );
    draft.finish(&PICTURE, &origin)
}

fn write_report(notice: &Notice<'_>) -> Result<ResultObject, ResultError> {
    let origin = Origin::of_instance(notice.instance, notice.identity);
    let mut draft = begin(notice, &origin, &REPORT)?;
    let (instance, about) = (notice.instance, about(notice, &draft));
    let reason = without_identity(notice.reason, &draft.first);
    let text = format!("{about} was not processed by {}: {reason}", common::PRODUCT);
    let children = vec![
        content::code(HAS_CONCEPT_MOD, dcm("121058", "Procedure reported"), sr::CT),
        content::text(CONTAINS, dcm("121106", "Comment"), &text),
        content::image(dcm("121112", "Source of Measurement"), &reference::slice(instance)),
    ];
    let evidence = vec![(
        &instance.series_instance_uid,
        vec![(&instance.sop_class_uid, &instance.sop_instance_uid)],
    )];
    content::document(&mut draft.data, &origin, evidence, (TITLE, None), children);
    draft.finish(&REPORT, &origin)
}

const WIDTH: usize = 1024;
const HEIGHT: usize = 768;
const MARGIN: usize = 40;
const TITLE_DOT: usize = 8;
/// Pixels a dot of the reason, the largest first: a short reason is read across the room.
const REASON_DOTS: [usize; 3] = [4, 3, 2];
/// Longest reason drawn; at the smallest letters it fits.
const MAX_DRAWN: usize = 1500;
const FROM_TOP: usize = 190;
const FOOT: usize = 60;
const AMBER: [u8; 3] = [255, 190, 60];
const WHITE: [u8; 3] = [235, 235, 235];
const GREY: [u8; 3] = [150, 150, 150];

fn draw(about: &str, reason: &str, identity: &Identity) -> Sheet {
    let mut sheet = Sheet::blank(WIDTH, HEIGHT);
    sheet.letter(MARGIN, MARGIN, AMBER, TITLE_DOT, "NOT PROCESSED");
    sheet.letter(MARGIN, 130, WHITE, 3, &format!("{about} was not outlined, because:"));
    let (dot, lines) = REASON_DOTS
        .map(|dot| (dot, wrap(reason, (WIDTH - 2 * MARGIN) / (6 * dot))))
        .into_iter()
        .find(|(dot, lines)| FROM_TOP + lines.len() * 10 * dot <= HEIGHT - FOOT)
        .unwrap_or_else(|| (2, wrap(reason, (WIDTH - 2 * MARGIN) / 12)));
    for (n, line) in lines.iter().enumerate() {
        sheet.letter(MARGIN, FROM_TOP + n * 10 * dot, WHITE, dot, line);
    }
    let (date, time) = (&identity.content_date, &identity.content_time);
    let foot = format!(
        "{} {}, {date} {time}. No contours will follow.",
        common::PRODUCT,
        common::VERSION
    );
    sheet.letter(MARGIN, HEIGHT - 40, GREY, 2, &content::plain(&foot, 80));
    sheet
}

/// Breaks text into lines of at most `width` letters, at spaces where there are any; words longer than a line, as UIDs may be,
/// are cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = word;
        loop {
            let line = lines.last_mut().expect("at least one line");
            let used = line.len() + usize::from(!line.is_empty());
            if used + word.len() <= width {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
                break;
            }
            if line.is_empty() {
                let (head, tail) = word.split_at(width);
                line.push_str(head);
                word = tail;
            }
            lines.push(String::new());
        }
    }
    lines
}

/// Attributes that tell who the patient is.
const IDENTIFYING: &[dicom::core::Tag] = &[
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::OTHER_PATIENT_NAMES,
    dicom::core::Tag(0x0010, 0x1000),
    tags::ACCESSION_NUMBER,
    tags::REFERRING_PHYSICIAN_NAME,
];

/// The reason without any word that the patient's attributes hold too: reasons quote what a scanner wrote, a picture's pixels
/// cannot be de-identified later, and it is declared free of patient data.
fn without_identity(reason: &str, first: &DataSet) -> String {
    let separator = |c: char| !c.is_alphanumeric();
    let values = IDENTIFYING.iter().filter_map(|tag| first.bytes(*tag));
    let values: Vec<String> = values.map(|b| String::from_utf8_lossy(b).to_lowercase()).collect();
    // Shorter ones are initials or counts, and would make a reason unreadable without hiding anybody.
    let secrets: Vec<&str> = values
        .iter()
        .flat_map(|value| value.split(separator))
        .filter(|word| word.chars().count() >= 3)
        .collect();
    reason
        .split_inclusive(separator)
        .map(|piece| {
            let word = piece.trim_end_matches(separator);
            match secrets.contains(&word.to_lowercase().as_str()) {
                true => piece.replacen(word, "[...]", 1),
                false => piece.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::dataset::Value;
    use dicom::core::VR;

    #[test]
    fn lines_break_at_spaces_and_long_words_are_cut() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a 1.2.3.4.5.6", 5), ["a", "1.2.3", ".4.5.", "6"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn the_longest_reason_fits_the_picture() {
        let reason = content::plain(&"slice 1.2.826.0.1.3680043.10.1.44 is missing; ".repeat(60), MAX_DRAWN);
        assert!(reason.len() > MAX_DRAWN - 2);
        let lines = wrap(&reason, (WIDTH - 2 * MARGIN) / 12);
        assert!(FROM_TOP + lines.len() * 20 <= HEIGHT - FOOT, "{} lines", lines.len());
    }

    #[test]
    fn a_reason_that_quotes_the_patient_is_cleared_of_it() {
        let mut first = DataSet::default();
        first.insert(tags::PATIENT_NAME, Value::Bytes(VR::PN, "Müller^Ann^B=X".into()));
        first.insert(tags::PATIENT_ID, Value::Bytes(VR::LO, b"PID-4711 ".to_vec()));
        let said = "it wants SeriesDescription \"chest*\", which is \"MÜLLER 4711, b\"; annex stays";
        let wanted = "it wants SeriesDescription \"chest*\", which is \"[...] [...], b\"; annex stays";
        assert_eq!(without_identity(said, &first), wanted);
    }
}
