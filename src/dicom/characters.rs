//! Text in the character sets of Specific Character Set (0008,0005), code extensions of ISO 2022 included (PS3.3 C.12.1.1.2).

use dicom::encoding::text::{SpecificCharacterSet, TextCodec};

const ESCAPE: u8 = 0x1B;

/// The character sets of a data set.
#[derive(Clone, Debug)]
pub struct Characters {
    first: SpecificCharacterSet,
    extended: bool,
}

impl Default for Characters {
    fn default() -> Self {
        Self::of(b"")
    }
}

impl Characters {
    /// From the value of (0008,0005); absent or unknown is the default repertoire.
    pub fn of(term: &[u8]) -> Self {
        let term = String::from_utf8_lossy(term);
        let mut terms = term.split('\\').map(|term| term.trim_matches([' ', '\0']));
        let first = terms.next().unwrap_or_default();
        Self {
            first: SpecificCharacterSet::from_code(first).unwrap_or_default(),
            extended: terms.next().is_some(),
        }
    }

    /// Bytes that mean nothing in the character set come out as they would in UTF-8, or as replacement characters.
    pub fn decode(&self, bytes: &[u8]) -> String {
        if bytes.is_ascii() && !bytes.contains(&ESCAPE) {
            return String::from_utf8_lossy(bytes).into_owned();
        }
        if !self.extended {
            return decode(&self.first, bytes);
        }
        let mut pieces = bytes.split(|byte| *byte == ESCAPE);
        let mut text = decode(&self.first, pieces.next().unwrap_or_default());
        let mut right = self.first.clone();
        for piece in pieces {
            let (set, rest) = designated(piece);
            text += &match set {
                Designated::Japanese(escape) => {
                    let whole = [escape, rest, b"\x1B(B"].concat();
                    named("ISO_IR 87").decode(&whole).unwrap_or_else(|_| lossy(rest))
                }
                Designated::Right(name) => {
                    right = named(name);
                    decode(&right, rest)
                }
                Designated::Ascii => decode(&right, rest),
            };
        }
        text
    }
}

enum Designated {
    Ascii,
    /// A set of two 7-bit bytes a character; its escape sequence is what the decoder wants to see.
    Japanese(&'static [u8]),
    /// What the bytes above 127 mean from here on.
    Right(&'static str),
}

/// The set that an escape sequence names, and what follows the sequence (PS3.3 tables C.12-3 and C.12-4).
fn designated(piece: &[u8]) -> (Designated, &[u8]) {
    const SETS: &[(&[u8], Designated)] = &[
        (b"$B", Designated::Japanese(b"\x1B$B")),
        (b"$@", Designated::Japanese(b"\x1B$@")),
        (b"$(D", Designated::Japanese(b"\x1B$(D")),
        (b"$)C", Designated::Right("ISO_IR 149")),
        (b"$)A", Designated::Right("GB2312")),
        (b")I", Designated::Right("ISO_IR 13")),
        (b"-A", Designated::Right("ISO_IR 100")),
        (b"-B", Designated::Right("ISO_IR 101")),
        (b"-C", Designated::Right("ISO_IR 109")),
        (b"-D", Designated::Right("ISO_IR 110")),
        (b"-F", Designated::Right("ISO_IR 126")),
        (b"-G", Designated::Right("ISO_IR 127")),
        (b"-H", Designated::Right("ISO_IR 138")),
        (b"-L", Designated::Right("ISO_IR 144")),
        (b"-T", Designated::Right("ISO_IR 166")),
    ];
    for (sequence, set) in SETS {
        if let Some(rest) = piece.strip_prefix(*sequence) {
            let set = match set {
                Designated::Ascii => Designated::Ascii,
                Designated::Japanese(escape) => Designated::Japanese(escape),
                Designated::Right(name) => Designated::Right(name),
            };
            return (set, rest);
        }
    }
    // Back to ASCII on the left: `(B`, `(J`; of an unknown sequence its final byte is left out.
    let end = piece
        .iter()
        .position(|byte| (0x30..0x7F).contains(byte) && *byte != b'(');
    (Designated::Ascii, end.map_or(&[][..], |end| &piece[end + 1..]))
}

fn named(code: &str) -> SpecificCharacterSet {
    SpecificCharacterSet::from_code(code).unwrap_or_default()
}

fn decode(set: &SpecificCharacterSet, bytes: &[u8]) -> String {
    set.decode(bytes).unwrap_or_else(|_| lossy(bytes))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_standard_are_read() {
        // PS3.5 H.3.1, I.2.1, K.2 and Latin-1.
        let japanese = b"Yamada^Tarou=\x1B$B;3ED\x1B(B^\x1B$BB@O:\x1B(B=\x1B$B$d$^$@\x1B(B^\x1B$B$?$m$&\x1B(B";
        assert_eq!(
            Characters::of(b"\\ISO 2022 IR 87").decode(japanese),
            "Yamada^Tarou=山田^太郎=やまだ^たろう"
        );
        let korean = b"Hong^Gildong=\x1B$)C\xFB\xF3^\x1B$)C\xD1\xCE\xD4\xD7";
        assert_eq!(
            Characters::of(b"\\ISO 2022 IR 149").decode(korean),
            "Hong^Gildong=洪^吉洞"
        );
        let chinese = b"Zhang^XiaoDong=\x1B$)A\xD5\xC5^\x1B$)A\xD0\xA1\xB6\xAB=";
        assert_eq!(
            Characters::of(b"\\ISO 2022 IR 58").decode(chinese),
            "Zhang^XiaoDong=张^小东="
        );
        assert_eq!(Characters::of(b"ISO_IR 100 ").decode(b"Buc^J\xE9r\xF4me"), "Buc^Jérôme");
        assert_eq!(Characters::of(b"ISO_IR 192").decode("Łódź".as_bytes()), "Łódź");
        assert_eq!(Characters::of(b"").decode(b"plain"), "plain");
    }
}
