//! What a query asks and whether something answers it (PS3.4 C.2.2): identifier in, rows out, no wire and no database.
//!
//! Values are compared as text decoded from the character sets of either side, and answered in the bytes the sender wrote, with its
//! Specific Character Set. [`TABLE`] is all that can be asked for besides what is counted.

mod matching;

use crate::dicom::characters::Characters;
use crate::dicom::fields::HeaderError;
use crate::dicom::scan::Encoding;
use crate::results::dataset::{DataSet, Value, standard_vr};
use crate::results::header;
use dicom::core::{Tag, VR};
use dicom::dictionary_std::tags;

/// Where in the hierarchy of PS3.4 C.3 something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Patient,
    Study,
    Series,
    Image,
}

impl Level {
    /// The defined terms of Query/Retrieve Level (0008,0052).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Patient => "PATIENT",
            Self::Study => "STUDY",
            Self::Series => "SERIES",
            Self::Image => "IMAGE",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Patient, Self::Study, Self::Series, Self::Image]
            .into_iter()
            .find(|level| level.as_str() == text)
    }
}

/// The attributes that are kept or read of every object, and the level each belongs to.
pub(crate) const TABLE: &[(Tag, Level)] = &[
    (tags::PATIENT_NAME, Level::Patient),
    (tags::PATIENT_ID, Level::Patient),
    (tags::ISSUER_OF_PATIENT_ID, Level::Patient),
    (tags::PATIENT_BIRTH_DATE, Level::Patient),
    (tags::PATIENT_BIRTH_TIME, Level::Patient),
    (tags::PATIENT_SEX, Level::Patient),
    (Tag(0x0010, 0x1000), Level::Patient), // Other Patient IDs, retired and still asked for
    (tags::OTHER_PATIENT_NAMES, Level::Patient),
    (tags::PATIENT_COMMENTS, Level::Patient),
    (tags::STUDY_INSTANCE_UID, Level::Study),
    (tags::STUDY_DATE, Level::Study),
    (tags::STUDY_TIME, Level::Study),
    (tags::ACCESSION_NUMBER, Level::Study),
    (tags::STUDY_ID, Level::Study),
    (tags::STUDY_DESCRIPTION, Level::Study),
    (tags::REFERRING_PHYSICIAN_NAME, Level::Study),
    (tags::NAME_OF_PHYSICIANS_READING_STUDY, Level::Study),
    (tags::ADMITTING_DIAGNOSES_DESCRIPTION, Level::Study),
    (tags::PATIENT_AGE, Level::Study),
    (tags::PATIENT_SIZE, Level::Study),
    (tags::PATIENT_WEIGHT, Level::Study),
    (tags::SERIES_INSTANCE_UID, Level::Series),
    (tags::MODALITY, Level::Series),
    (tags::SERIES_NUMBER, Level::Series),
    (tags::SERIES_DATE, Level::Series),
    (tags::SERIES_TIME, Level::Series),
    (tags::SERIES_DESCRIPTION, Level::Series),
    (tags::BODY_PART_EXAMINED, Level::Series),
    (tags::PATIENT_POSITION, Level::Series),
    (tags::PROTOCOL_NAME, Level::Series),
    (tags::MANUFACTURER, Level::Series),
    (tags::MANUFACTURER_MODEL_NAME, Level::Series),
    (tags::INSTITUTION_NAME, Level::Series),
    (tags::STATION_NAME, Level::Series),
    (tags::OPERATORS_NAME, Level::Series),
    (tags::PERFORMING_PHYSICIAN_NAME, Level::Series),
    (tags::FRAME_OF_REFERENCE_UID, Level::Series),
    (tags::PERFORMED_PROCEDURE_STEP_START_DATE, Level::Series),
    (tags::PERFORMED_PROCEDURE_STEP_START_TIME, Level::Series),
    (tags::PERFORMED_PROCEDURE_STEP_ID, Level::Series),
    (tags::PERFORMED_PROCEDURE_STEP_DESCRIPTION, Level::Series),
    (tags::SOP_INSTANCE_UID, Level::Image),
    (tags::SOP_CLASS_UID, Level::Image),
    (tags::INSTANCE_NUMBER, Level::Image),
    (tags::INSTANCE_CREATION_DATE, Level::Image),
    (tags::INSTANCE_CREATION_TIME, Level::Image),
    (tags::ACQUISITION_DATE, Level::Image),
    (tags::ACQUISITION_TIME, Level::Image),
    (tags::ACQUISITION_NUMBER, Level::Image),
    (tags::CONTENT_DATE, Level::Image),
    (tags::CONTENT_TIME, Level::Image),
    (tags::IMAGE_TYPE, Level::Image),
    (tags::SLICE_THICKNESS, Level::Image),
    (tags::IMAGE_POSITION_PATIENT, Level::Image),
    (tags::IMAGE_ORIENTATION_PATIENT, Level::Image),
    (tags::SLICE_LOCATION, Level::Image),
    (tags::NUMBER_OF_FRAMES, Level::Image),
    (tags::ROWS, Level::Image),
    (tags::COLUMNS, Level::Image),
    (tags::PIXEL_SPACING, Level::Image),
    (tags::BITS_ALLOCATED, Level::Image),
    (tags::CONTENT_LABEL, Level::Image),
    (tags::CONTENT_DESCRIPTION, Level::Image),
    (tags::CONTENT_CREATOR_NAME, Level::Image),
    (tags::COMPLETION_FLAG, Level::Image),
    (tags::VERIFICATION_FLAG, Level::Image),
    (tags::STRUCTURE_SET_LABEL, Level::Image),
    (tags::STRUCTURE_SET_NAME, Level::Image),
    (tags::STRUCTURE_SET_DESCRIPTION, Level::Image),
    (tags::STRUCTURE_SET_DATE, Level::Image),
    (tags::STRUCTURE_SET_TIME, Level::Image),
];

/// What is found out when it is asked for, and the lowest level at which it can be.
const COUNTED: &[(Tag, Level)] = &[
    (tags::RETRIEVE_AE_TITLE, Level::Patient),
    (tags::INSTANCE_AVAILABILITY, Level::Patient),
    (tags::NUMBER_OF_PATIENT_RELATED_STUDIES, Level::Patient),
    (tags::NUMBER_OF_PATIENT_RELATED_SERIES, Level::Patient),
    (tags::NUMBER_OF_PATIENT_RELATED_INSTANCES, Level::Patient),
    (tags::MODALITIES_IN_STUDY, Level::Study),
    (tags::SOP_CLASSES_IN_STUDY, Level::Study),
    (tags::NUMBER_OF_STUDY_RELATED_SERIES, Level::Study),
    (tags::NUMBER_OF_STUDY_RELATED_INSTANCES, Level::Study),
    (tags::NUMBER_OF_SERIES_RELATED_INSTANCES, Level::Series),
];

/// Every key that is matched or returned, with the highest level at which it may be asked for.
pub fn keys() -> impl Iterator<Item = (Tag, Level)> {
    TABLE.iter().chain(COUNTED).copied()
}

/// Tags of the table up to a level, with the character set that their text is in.
pub(crate) fn wanted(level: Level) -> Vec<Tag> {
    let table = TABLE.iter().filter(|(_, of)| *of <= level).map(|(tag, _)| *tag);
    [tags::SPECIFIC_CHARACTER_SET].into_iter().chain(table).collect()
}

fn is_supported(tag: Tag, level: Level) -> bool {
    TABLE
        .iter()
        .chain(COUNTED)
        .any(|(known, of)| *known == tag && *of <= level)
}

/// Why an identifier cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum BadIdentifier {
    #[error("the identifier cannot be read: {0}")]
    Unreadable(#[from] HeaderError),
    #[error("Query/Retrieve Level (0008,0052) is {0:?}")]
    Level(String),
    /// A key without which the answer would be everything.
    #[error("{0}")]
    Missing(&'static str),
}

/// A key of an identifier, decoded.
#[derive(Clone, Debug)]
struct Key {
    tag: Tag,
    vr: VR,
    text: String,
    is_sequence: bool,
}

/// What is asked: a level, and keys with the values they shall have.
#[derive(Clone, Debug)]
pub struct Identifier {
    pub level: Level,
    keys: Vec<Key>,
    /// Study date and time are one moment, not two conditions (PS3.4 C.2.2.2.5.1, negotiated).
    pub combined_date_time: bool,
}

/// Something that may answer a query. Text of both sets is in the character set of `attributes`.
pub(crate) struct Subject<'a> {
    /// As its sender wrote them.
    pub attributes: &'a DataSet,
    /// Found out by us; goes before what was written.
    pub counted: &'a DataSet,
}

/// A row of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub(crate) data: DataSet,
    /// Some keys were neither compared nor answered, because they are not known here.
    pub keys_ignored: bool,
}

impl Answer {
    /// In Explicit VR Little Endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.data.encode(&mut out);
        out
    }
}

impl Subject<'_> {
    fn value(&self, tag: Tag) -> Option<&Value> {
        self.counted.get(tag).or_else(|| self.attributes.get(tag))
    }

    fn text(&self, tag: Tag, characters: &Characters) -> String {
        let bytes = self.counted.bytes(tag).or_else(|| self.attributes.bytes(tag));
        characters.decode(bytes.unwrap_or_default()).trim().to_owned()
    }
}

/// The first and last date of a key, YYYYMMDD.
pub(crate) fn dates(key: &str) -> [Option<String>; 2] {
    match key.contains('\\') {
        true => [None, None],
        false => matching::range(key, matching::digits_of_date),
    }
}

/// An attribute as text, decoded and trimmed; empty when absent.
pub(crate) fn text_of(attributes: &DataSet, tag: Tag) -> String {
    let characters = Characters::of(attributes.bytes(tags::SPECIFIC_CHARACTER_SET).unwrap_or_default());
    let bytes = attributes.bytes(tag).unwrap_or_default();
    characters.decode(bytes).trim().to_owned()
}

impl Identifier {
    /// From the wire. The level is the one it names.
    pub fn parse(data: &[u8], encoding: Encoding) -> Result<Self, BadIdentifier> {
        let set = header::all(data, encoding)?;
        let named = text_of(&set, tags::QUERY_RETRIEVE_LEVEL);
        let level = Level::parse(&named).ok_or_else(|| BadIdentifier::Level(named.chars().take(16).collect()))?;
        Ok(Self::of(level, &set))
    }

    /// From attributes that hold keys, such as the parameters of a web request.
    pub(crate) fn of(level: Level, set: &DataSet) -> Self {
        let characters = Characters::of(set.bytes(tags::SPECIFIC_CHARACTER_SET).unwrap_or_default());
        let meta = [
            tags::SPECIFIC_CHARACTER_SET,
            tags::QUERY_RETRIEVE_LEVEL,
            tags::TIMEZONE_OFFSET_FROM_UTC,
        ];
        let key = |(tag, value): (Tag, &Value)| {
            if meta.contains(&tag) || tag.element() == 0 {
                return None;
            }
            let (text, is_sequence) = match value {
                Value::Bytes(..) => (characters.decode(set.bytes(tag).unwrap_or_default()), false),
                Value::Items(_) => (String::new(), true),
            };
            Some(Key {
                tag,
                vr: standard_vr(tag),
                text: text.trim().to_owned(),
                is_sequence,
            })
        };
        Self {
            level,
            keys: set.iter().filter_map(key).collect(),
            combined_date_time: false,
        }
    }

    /// The value of a key; `None` when everything fits.
    pub(crate) fn asked(&self, tag: Tag) -> Option<&str> {
        let key = self.keys.iter().find(|key| key.tag == tag)?;
        (!key.text.is_empty() && key.text != "*").then_some(key.text.as_str())
    }

    /// The values of a key that is a list of UIDs, or one; none when everything fits.
    pub(crate) fn list(&self, tag: Tag) -> Vec<&str> {
        let text = self.asked(tag).unwrap_or_default();
        text.split('\\')
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// The one value of a key that must be equal to it; `None` for wildcards, ranges and lists.
    pub(crate) fn exact(&self, tag: Tag) -> Option<&str> {
        let text = self.asked(tag)?;
        let plain = !text.contains(['*', '?', '\\']) && !matches!(standard_vr(tag), VR::DA | VR::TM | VR::DT | VR::PN);
        plain.then_some(text)
    }

    pub(crate) fn is_asked(&self, tag: Tag) -> bool {
        self.keys.iter().any(|key| key.tag == tag)
    }

    /// Whether something has the values that are asked for.
    pub(crate) fn fits(&self, subject: &Subject<'_>) -> bool {
        let characters = Characters::of(
            subject
                .attributes
                .bytes(tags::SPECIFIC_CHARACTER_SET)
                .unwrap_or_default(),
        );
        let moment = [tags::STUDY_DATE, tags::STUDY_TIME];
        let combined = self.combined_date_time && moment.iter().all(|tag| self.asked(*tag).is_some());
        if combined {
            let [key_date, key_time] = moment.map(|tag| self.asked(tag).unwrap_or_default());
            let [date, time] = moment.map(|tag| subject.text(tag, &characters));
            if !matching::date_time(key_date, key_time, &date, &time) {
                return false;
            }
        }
        self.keys
            .iter()
            .filter(|key| !key.text.is_empty() && is_supported(key.tag, self.level))
            .filter(|key| !(combined && moment.contains(&key.tag)))
            .all(|key| matching::matches(key.vr, &key.text, &subject.text(key.tag, &characters)))
    }

    /// Its row: every key that is known here, in the bytes its sender wrote.
    pub(crate) fn answer(&self, subject: &Subject<'_>) -> Answer {
        let mut data = DataSet::default();
        let mut keys_ignored = false;
        for key in &self.keys {
            if key.is_sequence || !is_supported(key.tag, self.level) {
                keys_ignored = true;
                continue;
            }
            match subject.value(key.tag) {
                Some(value) => data.insert(key.tag, value.clone()),
                None => data.insert(key.tag, Value::Bytes(key.vr, Vec::new())),
            }
        }
        if let Some(characters) = subject.attributes.get(tags::SPECIFIC_CHARACTER_SET) {
            data.insert(tags::SPECIFIC_CHARACTER_SET, characters.clone());
        }
        data.text(tags::QUERY_RETRIEVE_LEVEL, self.level.as_str());
        Answer { data, keys_ignored }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(elements: &[(Tag, &[u8])]) -> DataSet {
        let mut set = DataSet::default();
        for (tag, bytes) in elements {
            set.insert(*tag, Value::Bytes(standard_vr(*tag), bytes.to_vec()));
        }
        set
    }

    fn identifier(elements: &[(Tag, &[u8])]) -> Identifier {
        let mut bytes = Vec::new();
        set(elements).encode(&mut bytes);
        Identifier::parse(&bytes, Encoding::EXPLICIT_LE).unwrap()
    }

    #[test]
    fn a_name_is_found_across_character_sets_and_answered_as_written() {
        let source = set(&[
            (tags::SPECIFIC_CHARACTER_SET, b"ISO_IR 100"),
            (tags::PATIENT_NAME, b"B\xFCc^J\xE9r\xF4me"),
            (tags::STUDY_ID, b"7"),
        ]);
        let nothing = DataSet::default();
        let subject = Subject {
            attributes: &source,
            counted: &nothing,
        };
        let utf8 = |name: &str| {
            identifier(&[
                (tags::SPECIFIC_CHARACTER_SET, b"ISO_IR 192"),
                (tags::QUERY_RETRIEVE_LEVEL, b"STUDY"),
                (tags::PATIENT_NAME, name.as_bytes()),
                (tags::ACCESSION_NUMBER, b""),
                (tags::INSTANCE_NUMBER, b""),
            ])
        };
        assert!(utf8("büc^*").fits(&subject));
        assert!(!utf8("buc^*").fits(&subject));
        let answer = utf8("büc^*").answer(&subject);
        assert_eq!(
            answer.data.bytes(tags::PATIENT_NAME),
            Some(b"B\xFCc^J\xE9r\xF4me".as_slice())
        );
        assert_eq!(
            answer.data.bytes(tags::SPECIFIC_CHARACTER_SET),
            Some(b"ISO_IR 100".as_slice())
        );
        assert_eq!(answer.data.bytes(tags::ACCESSION_NUMBER), Some(b"".as_slice()));
        assert_eq!(
            (answer.data.get(tags::INSTANCE_NUMBER), answer.keys_ignored),
            (None, true),
            "no key of this level"
        );
    }

    #[test]
    fn a_combined_moment_is_one_condition_only_when_negotiated() {
        let mut evening_to_morning = identifier(&[
            (tags::QUERY_RETRIEVE_LEVEL, b"STUDY"),
            (tags::STUDY_DATE, b"20260101-20260102"),
            (tags::STUDY_TIME, b"2200-0600"),
        ]);
        let nothing = DataSet::default();
        let fits = |identifier: &Identifier, time: &[u8]| {
            let attributes = set(&[(tags::STUDY_DATE, b"20260101"), (tags::STUDY_TIME, time)]);
            identifier.fits(&Subject {
                attributes: &attributes,
                counted: &nothing,
            })
        };
        assert!(
            !fits(&evening_to_morning, b"233000"),
            "no time is after 22 and before 6"
        );
        evening_to_morning.combined_date_time = true;
        assert!(fits(&evening_to_morning, b"233000"));
        assert!(!fits(&evening_to_morning, b"120000"));
    }

    #[test]
    fn nonsense_has_no_level() {
        let mut bytes = Vec::new();
        set(&[(tags::QUERY_RETRIEVE_LEVEL, b"WORLD")]).encode(&mut bytes);
        assert!(matches!(
            Identifier::parse(&bytes, Encoding::EXPLICIT_LE),
            Err(BadIdentifier::Level(_))
        ));
        assert!(Identifier::parse(&bytes[..9], Encoding::EXPLICIT_LE).is_err());
    }

    #[test]
    fn the_table_names_each_attribute_once() {
        let mut all: Vec<Tag> = TABLE.iter().chain(COUNTED).map(|(tag, _)| *tag).collect();
        all.sort();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
