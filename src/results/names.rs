//! What ROIs and segments are called: the receiver's own names or TG-263's, within its limits.
//!
//! Two names that a receiver would take for one (cut to its length, or told apart by case alone) get a number. A name the
//! patient's character set cannot write gives way to the TG-263 name, which is ASCII: a result is not lost to a letter.

use crate::results::Source;
use crate::results::dataset::{DataSet, Value};
use crate::structure::Structure;
use dicom::core::VR;
use dicom::dictionary_std::tags;
use dicom::encoding::text::{SpecificCharacterSet, TextCodec};

/// Of the standard (LO), whatever a profile allows.
const LONGEST: usize = 64;
/// Room for a letter and a number.
const SHORTEST: usize = 4;
/// Separators of the standard and wild cards of file and search systems.
const FORBIDDEN: &[char] = &['\\', '^', '/', '*', '?', '=', '"'];
/// The character sets without code extensions, hence without escape sequences, besides ASCII.
const PLAIN_SETS: &[&str] = &[
    "ISO_IR 100",
    "ISO_IR 101",
    "ISO_IR 109",
    "ISO_IR 110",
    "ISO_IR 126",
    "ISO_IR 127",
    "ISO_IR 138",
    "ISO_IR 144",
    "ISO_IR 166",
    "ISO_IR 192",
    "GB18030",
    "GBK",
];

/// One name per mask, in their order, unlike each other, in the character set that the object takes from `first`.
pub(crate) fn names(source: &Source<'_>, first: &DataSet) -> Vec<Value> {
    let character_set = CharacterSet::of(first);
    let structures = source.masks.iter().map(|mask| mask.structure);
    let wanted: Vec<String> = structures.map(|s| own(source, s, &character_set)).collect();
    let length = source.style.name_length.clamp(SHORTEST, LONGEST);
    let names = distinct(&wanted, length).into_iter();
    names
        .map(|name| Value::Bytes(VR::LO, character_set.encode(&name).unwrap_or_default()))
        .collect()
}

/// The receiver's name where it can be written, else TG-263's.
fn own(source: &Source<'_>, structure: &Structure, character_set: &CharacterSet) -> String {
    let name = plain(source.style.name(structure));
    match character_set.encode(&name) {
        Some(bytes) if !bytes.is_empty() => name,
        _ => structure.roi_name.to_owned(),
    }
}

fn plain(name: &str) -> String {
    let replace = |c: char| {
        if c.is_control() || FORBIDDEN.contains(&c) {
            '_'
        } else {
            c
        }
    };
    name.trim().chars().map(replace).collect()
}

fn cut(name: &str, length: usize) -> String {
    name.chars().take(length).collect::<String>().trim_end().to_owned()
}

/// Cuts names to a length in characters. Whoever comes later with a name that is taken, ignoring case, gets `_2`, `_3`, ….
fn distinct(wanted: &[String], length: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in wanted {
        let numbered = (2..).map(|n: usize| {
            let number = format!("_{n}");
            cut(name, length - number.len()) + &number
        });
        let taken = |candidate: &String| names.iter().any(|name| name.to_lowercase() == candidate.to_lowercase());
        let free = std::iter::once(cut(name, length))
            .chain(numbered)
            .find(|name| !taken(name));
        names.push(free.expect("numbers do not end"));
    }
    names
}

/// How an object writes text, from Specific Character Set.
struct CharacterSet(Option<SpecificCharacterSet>);

impl CharacterSet {
    fn of(first: &DataSet) -> Self {
        let code = first.bytes(tags::SPECIFIC_CHARACTER_SET).unwrap_or_default();
        let code = std::str::from_utf8(code).unwrap_or_default().trim();
        let known = PLAIN_SETS.contains(&code);
        Self(SpecificCharacterSet::from_code(code).filter(|_| known))
    }

    /// `None` where a character has no code.
    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        if text.is_ascii() {
            return Some(text.as_bytes().to_vec());
        }
        let codec = self.0.as_ref()?;
        let bytes = codec.encode(text).ok()?;
        // Some codecs put a question mark where they know no code.
        codec.decode(&bytes).is_ok_and(|back| back == text).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(wanted: &[&str], length: usize) -> Vec<String> {
        let wanted: Vec<_> = wanted.iter().map(|name| plain(name)).collect();
        distinct(&wanted, length)
    }

    #[test]
    fn names_differ_after_cutting_whatever_their_case() {
        assert_eq!(
            names_of(&["Glnd_Adrenal_L", "Glnd_Adrenal_R", "glnd_adrenal_x", "Liver"], 8),
            ["Glnd_Adr", "Glnd_A_2", "glnd_a_3", "Liver"]
        );
        assert_eq!(names_of(&["Lung_2", "Lung", "LUNG"], 16), ["Lung_2", "Lung", "LUNG_3"]);
        assert_eq!(names_of(&[" a\\b^c/d*e?\n "], 64), ["a_b_c_d_e_"]);
        assert_eq!(names_of(&["Prostata links"], 9), ["Prostata"]);
        let many = vec!["x".repeat(80); 120];
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let names = names_of(&many, 4);
        assert!(names.iter().all(|name| name.chars().count() <= 4));
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 120);
    }

    #[test]
    fn text_is_written_in_the_objects_character_set_or_not_at_all() {
        let in_set = |code: &str, text: &str| {
            let mut first = DataSet::default();
            first.text(tags::SPECIFIC_CHARACTER_SET, code);
            CharacterSet::of(&first).encode(text)
        };
        assert_eq!(in_set("ISO_IR 192", "Größe 肝").as_deref(), Some("Größe 肝".as_bytes()));
        assert_eq!(in_set("ISO_IR 100", "Größe").as_deref(), Some(&b"Gr\xF6\xDFe"[..]));
        assert_eq!(in_set("ISO_IR 100", "Łeb 肝"), None);
        assert_eq!(in_set("GB18030", "肝").as_deref(), Some(&b"\xB8\xCE"[..]));
        for code in ["", "ISO_IR 6", "ISO 2022 IR 6\\ISO 2022 IR 87", "ISO 2022 IR 149"] {
            assert_eq!(in_set(code, "Größe"), None, "{code}");
            assert_eq!(in_set(code, "Liver").as_deref(), Some(&b"Liver"[..]));
        }
    }
}
