//! A kept object with its pixels decoded, for receivers that take nothing compressed: an object's bytes in, its data set in
//! Explicit or Implicit VR Little Endian out.
//!
//! Nothing is ever encoded. Every attribute but those of the encapsulation leaves as it is, what says that pixels were once
//! compressed with loss included.

use crate::dicom::codec::{ENCAPSULATED, Frame, UNCOMPRESSED};
use crate::dicom::fields::Fields;
use crate::dicom::frames::{self, EXTENDED_OFFSET_TABLE};
use crate::dicom::object::Object;
use crate::dicom::part10::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
use crate::dicom::recode::{implicit_vr, little_endian};
use crate::dicom::scan::{self, Element, Encoding, PIXEL_DATA, Tag};
use crate::dicom::uid::Uid;

/// Decoded pixels of one object, 1 GiB: two thousand frames of 512² words. They are held in memory until they are sent.
const MAX_PIXEL_BYTES: usize = 1 << 30;
/// What describes the encapsulation (PS3.3 C.7.6.3): group length, the two extended offset tables, the length of all streams.
const OF_ENCAPSULATION: [Tag; 4] = [0x7FE0_0000, EXTENDED_OFFSET_TABLE, 0x7FE0_0002, 0x7FE0_0003];
const ICON_IMAGE: Tag = 0x0088_0200;
/// One sample a pixel, whose decoder gives what was encoded. Colour comes back in another colour space than its attribute says.
const GREY: [&str; 3] = ["MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"];

/// What else than its own transfer syntax an object can be given in, best first.
pub fn alternatives(transfer_syntax: &str) -> &'static [&'static str] {
    match transfer_syntax {
        EXPLICIT_VR_LITTLE_ENDIAN => &[IMPLICIT_VR_LITTLE_ENDIAN],
        // Everybody takes it (PS3.5 10.1).
        IMPLICIT_VR_LITTLE_ENDIAN => &[],
        other if UNCOMPRESSED.contains(&other) || ENCAPSULATED.contains(&other) => {
            &[EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
        }
        _ => &[],
    }
}

/// The data set of a Part 10 file in one of its [`alternatives`].
///
/// # Errors
/// A sentence: the file is damaged, its pixels cannot be decoded, or they are more than 1 GiB.
pub fn data_set(file: &[u8], wanted: &Uid) -> Result<Vec<u8>, String> {
    let object = Object::open(file).map_err(|error| error.to_string())?;
    let syntax = object.transfer_syntax_uid.as_str();
    if !alternatives(syntax).contains(&wanted.as_str()) {
        return Err(format!("it is in transfer syntax {syntax}"));
    }
    let explicit = wanted.as_str() == EXPLICIT_VR_LITTLE_ENDIAN;
    if ENCAPSULATED.contains(&syntax) {
        return decoded(&object, explicit);
    }
    match (object.encoding.big_endian, explicit) {
        (true, _) => {
            let turned = turned(&object)?;
            if explicit { Ok(turned) } else { implicit(&turned) }
        }
        (false, true) => Ok(object.data_set.into_owned()),
        (false, false) => implicit(&object.data_set),
    }
}

fn implicit(data: &[u8]) -> Result<Vec<u8>, String> {
    implicit_vr(data).map_err(|error| error.to_string())
}

/// From big to little endian.
fn turned(object: &Object<'_>) -> Result<Vec<u8>, String> {
    let fields = object.fields().map_err(|error| error.to_string())?;
    let in_bytes = fields
        .element(PIXEL_DATA)
        .is_some_and(|pixels| pixels.vr != Some(*b"OW"));
    if in_bytes && fields.short(0x0028_0100).is_some_and(|bits| bits > 8) {
        return Err("its words of pixels are big endian, but do not say so (VR other than OW)".into());
    }
    little_endian(&object.data_set).map_err(|error| error.to_string())
}

fn decoded(object: &Object<'_>, explicit: bool) -> Result<Vec<u8>, String> {
    let data = &object.data_set;
    let fields = object.fields().map_err(|error| error.to_string())?;
    let icons = fields.items(ICON_IMAGE).map_err(|error| error.to_string())?;
    let is_encapsulated = |pixels: Option<Element<'_>>| pixels.is_some_and(|pixels| pixels.undefined_length);
    if icons.iter().any(|icon| is_encapsulated(icon.element(PIXEL_DATA))) {
        return Err("its icon image is compressed, which this version does not decode".into());
    }
    let front = front(data)?;
    let mut out = if explicit { front } else { implicit(&front)? };
    let Some(pixels) = fields.element(PIXEL_DATA) else {
        return Ok(out);
    };
    if !is_encapsulated(Some(pixels)) {
        let syntax = &object.transfer_syntax_uid;
        return Err(format!(
            "Pixel Data is not encapsulated, against transfer syntax {syntax}"
        ));
    }
    Image::of(&fields, &object.transfer_syntax_uid)?.push(data, pixels.offset, &fields, explicit, &mut out)?;
    let end = scan::end_of_fragments(data, pixels.offset).map_err(|error| error.to_string())?;
    let rest = elements_of(&data[end..]);
    match explicit {
        true => out.extend_from_slice(rest),
        false => out.extend(implicit(rest)?),
    }
    Ok(out)
}

/// The elements before Pixel Data, byte for byte, without what describes its encapsulation.
fn front(data: &[u8]) -> Result<Vec<u8>, String> {
    let (mut front, mut at) = (Vec::new(), 0);
    let scanned = scan::scan(data, Encoding::EXPLICIT_LE, PIXEL_DATA, |element| {
        let end = element.offset + element.value.len();
        if element.tag != PIXEL_DATA && !OF_ENCAPSULATION.contains(&element.tag) {
            front.extend_from_slice(&data[at..end]);
        }
        at = end;
    });
    scanned.map(|_| front).map_err(|error| error.to_string())
}

/// What begins with elements, without what follows them and is none: some writers pad the file.
fn elements_of(rest: &[u8]) -> &[u8] {
    let mut end = 0;
    let _ = scan::scan(rest, Encoding::EXPLICIT_LE, Tag::MAX, |element| {
        end = element.offset + element.value.len();
    });
    &rest[..end]
}

/// What the attributes say of the pixels.
struct Image<'a> {
    transfer_syntax: &'a Uid,
    photometric_interpretation: String,
    rows: usize,
    columns: usize,
    frames: usize,
    bits_allocated: u16,
    bits_stored: u16,
    /// Whether a pixel's highest stored bit is its sign, and where it should be.
    signed: bool,
    high_bit: u16,
}

impl<'a> Image<'a> {
    fn of(fields: &Fields<'_>, transfer_syntax: &'a Uid) -> Result<Self, String> {
        let size = |tag| usize::from(fields.short(tag).unwrap_or(0));
        let bits_allocated = fields.short(0x0028_0100).unwrap_or(0);
        let bits_stored = fields.short(0x0028_0101).unwrap_or(bits_allocated);
        let image = Self {
            transfer_syntax,
            photometric_interpretation: fields.text(0x0028_0004),
            rows: size(0x0028_0010),
            columns: size(0x0028_0011),
            frames: match fields.integer(0x0028_0008) {
                None => 1,
                Some(count) => usize::try_from(count).unwrap_or(0),
            },
            bits_allocated,
            bits_stored,
            signed: fields.short(0x0028_0103) == Some(1),
            high_bit: fields.short(0x0028_0102).unwrap_or(bits_stored.saturating_sub(1)),
        };
        let samples = fields.short(0x0028_0002).unwrap_or(1);
        if samples != 1 || !GREY.contains(&image.photometric_interpretation.as_str()) {
            return Err(format!(
                "pixels in colour ({}, {samples} samples a pixel) are not decoded by this version",
                image.photometric_interpretation
            ));
        }
        if !matches!(bits_allocated, 8 | 16) || !(1..=bits_allocated).contains(&bits_stored) {
            return Err(format!(
                "Bits Allocated {bits_allocated}, Stored {bits_stored} are not supported"
            ));
        }
        Ok(image)
    }

    fn frame_bytes(&self) -> usize {
        self.rows * self.columns * usize::from(self.bits_allocated / 8)
    }

    /// Appends the frames of encapsulated Pixel Data whose value begins at `offset` of `data`, as one native element.
    fn push(
        &self,
        data: &[u8],
        offset: usize,
        fields: &Fields<'_>,
        explicit: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let all = self.frame_bytes().checked_mul(self.frames);
        let length = all
            .filter(|bytes| (1..=MAX_PIXEL_BYTES).contains(bytes))
            .ok_or_else(|| {
                format!(
                    "{} frames of {} rows × {} columns are not decoded: from 1 byte to {} MiB are",
                    self.frames,
                    self.rows,
                    self.columns,
                    MAX_PIXEL_BYTES >> 20
                )
            })?;
        let streams = frames::divide(data, offset, self.frames, frames::extended_offsets(fields))?;
        let even = length.next_multiple_of(2);
        out.reserve_exact(12 + even + (data.len() - offset).min(1 << 16));
        out.extend_from_slice(&[0xE0, 0x7F, 0x10, 0]);
        if explicit {
            out.extend_from_slice(b"OW\0\0");
        }
        out.extend_from_slice(&(even as u32).to_le_bytes());
        for stream in streams {
            self.decode(stream.concat(), out)?;
        }
        out.resize(out.len() + even - length, 0);
        Ok(())
    }

    fn decode(&self, stream: Vec<u8>, out: &mut Vec<u8>) -> Result<(), String> {
        let frame = Frame {
            rows: self.rows,
            columns: self.columns,
            bits_allocated: self.bits_allocated,
            bits_stored: self.bits_stored,
            photometric_interpretation: &self.photometric_interpretation,
            transfer_syntax: self.transfer_syntax,
            stream,
        };
        let stored = frame.decode()?;
        let from = out.len();
        out.extend_from_slice(&stored);
        // A stream of no more bits than are stored knows nothing of those above, which native readers take for the sign.
        let is_settled = frame.stream_bits().is_none_or(|bits| bits > self.bits_stored);
        if !is_settled && self.high_bit + 1 == self.bits_stored {
            self.extend_sign(&mut out[from..]);
        }
        Ok(())
    }

    /// Gives the bits above Bits Stored the value of the sign, or 0 where there is none.
    fn extend_sign(&self, stored: &mut [u8]) {
        let unused = self.bits_allocated - self.bits_stored;
        if unused == 0 {
            return;
        }
        if self.bits_allocated == 8 {
            for byte in stored {
                let high = *byte << unused;
                *byte = if self.signed {
                    (high as i8 >> unused) as u8
                } else {
                    high >> unused
                };
            }
            return;
        }
        for word in stored.as_chunks_mut::<2>().0 {
            let high = u16::from_le_bytes(*word) << unused;
            let value = if self.signed {
                (high as i16 >> unused) as u16
            } else {
                high >> unused
            };
            *word = value.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::part10;
    use dicom::encoding::Codec;
    use dicom::encoding::adapters::EncodeOptions;
    use dicom::encoding::transfer_syntax::TransferSyntaxIndex;
    use dicom::transfer_syntax::TransferSyntaxRegistry;
    use proptest::prelude::*;

    const RLE: &str = "1.2.840.10008.1.2.5";

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn element(tag: Tag, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        let [group, number] = [(tag >> 16) as u16, tag as u16].map(u16::to_le_bytes);
        let length = (value.len() as u32).to_le_bytes();
        match vr {
            b"OW" | b"OB" | b"OV" | b"SQ" => [&group[..], &number, vr, &[0, 0], &length, value].concat(),
            _ => [&group[..], &number, vr, &length[..2], value].concat(),
        }
    }

    fn item(value: &[u8]) -> Vec<u8> {
        let length = (value.len() as u32).to_le_bytes();
        [&[0xFE, 0xFF, 0, 0xE0], &length[..], value].concat()
    }

    fn number(tag: Tag, value: u16) -> Vec<u8> {
        element(tag, b"US", &value.to_le_bytes())
    }

    /// Three pixels in one row, as an RLE frame.
    fn rle(pixels: [u8; 3]) -> Vec<u8> {
        let mut stream = [1, 64].map(u32::to_le_bytes).concat();
        stream.resize(64, 0);
        stream.push(2);
        stream.extend(pixels);
        stream
    }

    /// What leaves as it is, and behind it the pixels of three frames of three 8-bit pixels.
    fn object(photometric: &[u8], before: &[Vec<u8>], frames: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let kept = [
            element(0x0010_0010, b"PN", b"Sch\xE4fer "),
            number(0x0028_0002, 1),
            element(0x0028_0004, b"CS", photometric),
            element(0x0028_0008, b"IS", b"3 "),
            number(0x0028_0010, 1),
            number(0x0028_0011, 3),
            number(0x0028_0100, 8),
            element(0x0028_2110, b"CS", b"00"),
        ];
        let kept = [kept.concat(), before.concat()].concat();
        let encapsulation = [
            element(0x7FE0_0000, b"UL", &[9, 0, 0, 0]),
            element(0x7FE0_0001, b"OV", &[]),
            b"\xE0\x7F\x10\x00OB\0\0\xFF\xFF\xFF\xFF".to_vec(),
            item(&[]),
            frames.iter().flat_map(|frame| item(frame)).collect(),
            b"\xFE\xFF\xDD\xE0\0\0\0\0".to_vec(),
            element(0x7FE1_0010, b"LO", b"MINE"),
            vec![0; 3],
        ];
        (kept.clone(), [kept, encapsulation.concat()].concat())
    }

    fn file(syntax: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = part10::head(&uid("1.2.3"), &uid("1.2.4"), &uid(syntax), "", "").bytes;
        bytes.extend_from_slice(data);
        bytes
    }

    fn frames() -> Vec<Vec<u8>> {
        vec![rle([1, 2, 3]), rle([4, 5, 6]), rle([7, 8, 9])]
    }

    #[test]
    fn frames_follow_each_other_and_all_else_stays_as_it_was() {
        let (kept, data) = object(b"MONOCHROME2 ", &[], &frames());
        let explicit = data_set(&file(RLE, &data), &uid(EXPLICIT_VR_LITTLE_ENDIAN)).unwrap();
        let pixels = element(PIXEL_DATA, b"OW", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
        let expected = [kept, pixels, element(0x7FE1_0010, b"LO", b"MINE")].concat();
        assert_eq!(explicit, expected);
        let implicit = data_set(&file(RLE, &data), &uid(IMPLICIT_VR_LITTLE_ENDIAN)).unwrap();
        assert_eq!(implicit, implicit_vr(&expected).unwrap());
    }

    #[test]
    fn what_cannot_be_decoded_rightly_is_refused_with_the_reason() {
        let said = |syntax: &str, (_, data): (Vec<u8>, Vec<u8>), wanted: &str| {
            data_set(&file(syntax, &data), &uid(wanted)).unwrap_err()
        };
        let rle = |made| said(RLE, made, EXPLICIT_VR_LITTLE_ENDIAN);
        let colour = rle(object(b"YBR_FULL_422", &[], &frames()));
        assert!(colour.starts_with("pixels in colour (YBR_FULL_422"), "{colour}");
        let few = rle(object(b"MONOCHROME2 ", &[], &frames()[..2]));
        assert_eq!(few, "the fragments of its Pixel Data make 1 frames, not 3");
        let many = [element(0x0028_0008, b"IS", b"999999999 ")];
        let many = rle(object(b"MONOCHROME2 ", &many, &frames()));
        assert!(
            many.contains("999999999 frames of 1 rows × 3 columns are not decoded"),
            "{many}"
        );
        let short = rle(object(b"MONOCHROME2 ", &[number(0x0028_0011, 4)], &frames()));
        assert!(short.contains("cannot be decoded"), "{short}");
        let small = [item(&[]), item(&[1, 2]), b"\xFE\xFF\xDD\xE0\0\0\0\0".to_vec()].concat();
        let icon = [b"\xE0\x7F\x10\x00OB\0\0\xFF\xFF\xFF\xFF", &small[..]].concat();
        let icon = rle(object(
            b"MONOCHROME2 ",
            &[element(ICON_IMAGE, b"SQ", &item(&icon))],
            &frames(),
        ));
        assert!(icon.starts_with("its icon image is compressed"), "{icon}");
        let unknown = "1.2.840.10008.1.2.4.51";
        let other = said(
            unknown,
            object(b"MONOCHROME2 ", &[], &frames()),
            EXPLICIT_VR_LITTLE_ENDIAN,
        );
        assert_eq!(other, format!("it is in transfer syntax {unknown}"));
    }

    #[test]
    fn the_sign_fills_the_bits_above_those_stored() {
        let (syntax, mixed) = (uid(RLE), [0xFE, 0x0F, 0x01, 0x07]);
        let image = |bits_allocated, signed| {
            let image = Image {
                transfer_syntax: &syntax,
                photometric_interpretation: String::new(),
                rows: 0,
                columns: 0,
                frames: 0,
                bits_allocated,
                bits_stored: bits_allocated - 4,
                signed,
                high_bit: bits_allocated - 5,
            };
            let mut stored = mixed.to_vec();
            image.extend_sign(&mut stored);
            stored
        };
        assert_eq!(image(16, true), [0xFE, 0xFF, 0x01, 0x07]);
        assert_eq!(image(16, false), [0xFE, 0x0F, 0x01, 0x07]);
        assert_eq!(image(8, true), [0xFE, 0xFF, 0x01, 0x07]);
        assert_eq!(image(8, false), [0x0E, 0x0F, 0x01, 0x07]);
    }

    /// Encoders write the twelve bits that are stored; a native reader takes the word.
    #[test]
    fn a_stream_of_twelve_signed_bits_becomes_words_with_a_sign() {
        let jpeg_ls = uid("1.2.840.10008.1.2.4.80");
        let (words, signs) = ([0x0FFEu16, 0x0701, 0x0800, 5], [-2i16, 0x0701, -2048, 5]);
        let image = Image {
            transfer_syntax: &jpeg_ls,
            photometric_interpretation: "MONOCHROME2".into(),
            rows: 2,
            columns: 2,
            frames: 1,
            bits_allocated: 16,
            bits_stored: 12,
            signed: true,
            high_bit: 11,
        };
        let native = Frame {
            rows: 2,
            columns: 2,
            bits_allocated: 16,
            bits_stored: 12,
            photometric_interpretation: "MONOCHROME2",
            transfer_syntax: &jpeg_ls,
            stream: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        };
        let codec = TransferSyntaxRegistry.get(jpeg_ls.as_str()).unwrap().codec();
        let Codec::EncapsulatedPixelData(_, Some(encoder)) = codec else {
            panic!("no encoder")
        };
        let mut stream = Vec::new();
        encoder
            .encode_frame(&native, 0, EncodeOptions::default(), &mut stream)
            .unwrap();
        let mut out = Vec::new();
        image.decode(stream, &mut out).unwrap();
        let expected: Vec<u8> = signs.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn uncompressed_objects_are_turned_and_inflated() {
        let plain = [number(0x0028_0010, 0x0102), element(PIXEL_DATA, b"OW", &[1, 2, 3, 4])].concat();
        let turned: Vec<u8> = [
            &[0, 0x28, 0, 0x10, b'U', b'S', 0, 2, 1, 2][..],
            &[0x7F, 0xE0, 0, 0x10, b'O', b'W', 0, 0, 0, 0, 0, 4, 2, 1, 4, 3],
        ]
        .concat();
        let mut deflater = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut deflater, &plain).unwrap();
        let deflated = deflater.finish().unwrap();
        for (syntax, stored) in [("1.2.840.10008.1.2.2", &turned), ("1.2.840.10008.1.2.1.99", &deflated)] {
            let file = file(syntax, stored);
            assert_eq!(data_set(&file, &uid(EXPLICIT_VR_LITTLE_ENDIAN)).as_ref(), Ok(&plain));
            let implicit = data_set(&file, &uid(IMPLICIT_VR_LITTLE_ENDIAN));
            assert_eq!(implicit, Ok(implicit_vr(&plain).unwrap()));
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
            let (_, mut data) = object(b"MONOCHROME2 ", &[], &frames());
            for (at, byte) in changes {
                let at = usize::from(at) % data.len();
                data[at] = byte;
            }
            for wanted in [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN] {
                let _ = data_set(&file(RLE, &data), &uid(wanted));
            }
        }
    }
}
