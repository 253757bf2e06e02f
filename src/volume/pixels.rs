//! One slice's stored pixels → Hounsfield units.
//!
//! Uncompressed pixels are taken from the file as they are. The codecs of dicom-rs are fed the joined fragments directly: its
//! object reader is never run on a peer's file, and its Modality LUT (which fails on 16-bit signed CT) is not used.

use crate::dicom::header::{Instance, file_meta};
use crate::dicom::scan::{self, Encoding, PIXEL_DATA, ScanError};
use crate::dicom::uid::Uid;
use crate::volume::AIR_HU;
use dicom::encoding::Codec;
use dicom::encoding::adapters::{PixelDataObject, RawPixelData};
use dicom::encoding::transfer_syntax::TransferSyntaxIndex;
use dicom::transfer_syntax::TransferSyntaxRegistry;
use std::borrow::Cow;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What we can turn into HU: the uncompressed ones, then the compressed ones whose decoder was tried (not 12-bit JPEG).
pub const DECODABLE_TRANSFER_SYNTAXES: &[&str] = &[
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.1.98",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
];
const NATIVE: usize = 4;
const RLE: &str = "1.2.840.10008.1.2.5";
const ENCAPSULATED_UNCOMPRESSED: &str = "1.2.840.10008.1.2.1.98";

/// A single-frame CT of 1024² at 16 bits is 2 MiB; headers may bring some more.
const MAX_FILE: u64 = 256 << 20;
const MAX_INFLATED: u64 = 256 << 20;

/// Fills `out` (rows × columns) with the HU of one slice. The error is a sentence without the slice's name.
pub fn read_hu(instance: &Instance, out: &mut [i16]) -> Result<(), String> {
    check_kind(instance)?;
    let sample_bytes = usize::from(instance.bits_allocated / 8);
    let expected = instance.rows * instance.columns * sample_bytes;
    if out.len() * sample_bytes != expected {
        return Err(format!(
            "{} rows × {} columns do not fit the series",
            instance.rows, instance.columns
        ));
    }
    let file = read_file(instance)?;
    let (transfer_syntax, start) = file_meta(&file).map_err(|error| error.to_string())?;
    let encoding = Encoding::of(&transfer_syntax);
    let data_set = if encoding.deflated {
        Cow::Owned(inflate(&file[start..])?)
    } else {
        Cow::Borrowed(&file[start..])
    };
    let stored = stored_bytes(instance, &data_set, &transfer_syntax, expected)?;
    let table = hu_table(instance);
    match (sample_bytes, encoding.big_endian) {
        (1, false) => stored
            .iter()
            .zip(out)
            .for_each(|(byte, hu)| *hu = table[usize::from(*byte)]),
        (2, false) => samples(&stored, u16::from_le_bytes, &table, out),
        (2, true) => samples(&stored, u16::from_be_bytes, &table, out),
        _ => return Err("8-bit pixels in big endian words are not supported".into()),
    }
    Ok(())
}

fn samples(stored: &[u8], read: fn([u8; 2]) -> u16, table: &[i16], out: &mut [i16]) {
    for (sample, hu) in stored.as_chunks::<2>().0.iter().zip(out) {
        *hu = table[usize::from(read(*sample))];
    }
}

fn check_kind(instance: &Instance) -> Result<(), String> {
    if instance.photometric_interpretation != "MONOCHROME2" {
        return Err(format!(
            "Photometric Interpretation is {:?}, not MONOCHROME2",
            instance.photometric_interpretation
        ));
    }
    let (allocated, stored, high) = (instance.bits_allocated, instance.bits_stored, instance.high_bit);
    if !matches!(allocated, 8 | 16) || stored == 0 || stored > allocated || high != stored - 1 {
        return Err(format!(
            "Bits Allocated {allocated}, Stored {stored}, High Bit {high} are not supported"
        ));
    }
    Ok(())
}

fn read_file(instance: &Instance) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", instance.path.display());
    let file = std::fs::File::open(&instance.path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("the file is longer than {} MiB", MAX_FILE >> 20));
    }
    Ok(bytes)
}

fn inflate(deflated: &[u8]) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    let mut source = flate2::read::DeflateDecoder::new(deflated).take(MAX_INFLATED + 1);
    source
        .read_to_end(&mut data)
        .map_err(|error| format!("its deflated data set is broken: {error}"))?;
    if data.len() as u64 > MAX_INFLATED {
        return Err(format!(
            "its deflated data set holds more than {} MiB",
            MAX_INFLATED >> 20
        ));
    }
    Ok(data)
}

/// Exactly `expected` bytes of stored values, little endian unless the data set is big endian.
fn stored_bytes<'a>(
    instance: &Instance,
    data: &'a [u8],
    transfer_syntax: &Uid,
    expected: usize,
) -> Result<Cow<'a, [u8]>, String> {
    let mut found = None;
    scan::scan(data, Encoding::of(transfer_syntax), PIXEL_DATA, |element| {
        if element.tag == PIXEL_DATA {
            found = Some(element);
        }
    })
    .map_err(scan_problem)?;
    let element = found.ok_or("it has no Pixel Data")?;
    if !DECODABLE_TRANSFER_SYNTAXES.contains(&transfer_syntax.as_str()) {
        return Err(format!(
            "pixels in transfer syntax {transfer_syntax} are not decoded by this version"
        ));
    }
    if DECODABLE_TRANSFER_SYNTAXES[..NATIVE].contains(&transfer_syntax.as_str()) {
        if element.undefined_length || (element.length as usize) < expected {
            let length = element.length;
            return Err(format!(
                "Pixel Data is {length} bytes long, but Rows × Columns ask for {expected}"
            ));
        }
        let there = element.value.len();
        let value = element.value.get(..expected);
        return value.map(Cow::Borrowed).ok_or(format!(
            "the file is cut short: {there} of {expected} bytes of pixels are there"
        ));
    }
    if !element.undefined_length {
        return Err(format!(
            "Pixel Data is not encapsulated, as transfer syntax {transfer_syntax} demands"
        ));
    }
    let fragments = scan::fragments(data, element.offset).map_err(scan_problem)?;
    let frame = Frame {
        instance,
        transfer_syntax,
        stream: fragments.concat(),
    };
    let stored = frame.decode()?;
    if stored.len() != expected {
        return Err(format!(
            "decoding gave {} bytes, but Rows × Columns ask for {expected}",
            stored.len()
        ));
    }
    Ok(Cow::Owned(stored))
}

fn scan_problem(error: ScanError) -> String {
    match error {
        ScanError::NeedMore => "the file is cut short".into(),
        ScanError::Malformed(problem) => format!("the file is damaged: {problem}"),
    }
}

/// HU of every possible stored value: masked to Bits Stored, signed as Pixel Representation says, rescaled, padding as air.
fn hu_table(instance: &Instance) -> Vec<i16> {
    let (slope, intercept) = (
        instance.rescale_slope.unwrap_or(1.0),
        instance.rescale_intercept.unwrap_or(0.0),
    );
    let padding = instance.pixel_padding_value.map(|value| {
        let limit = instance.pixel_padding_range_limit.unwrap_or(value);
        value.min(limit)..=value.max(limit)
    });
    let unused = 64 - u32::from(instance.bits_stored);
    let hu = |raw: u64| {
        // Bits above Bits Stored once held overlays (PS3.5 8.1.1).
        let value = raw << unused;
        let value = if instance.pixel_signed {
            value as i64 >> unused
        } else {
            (value >> unused) as i64
        };
        if padding.as_ref().is_some_and(|range| range.contains(&value)) {
            return AIR_HU;
        }
        // Casting saturates. Scanners write −2000 and −3024 where they measured nothing.
        ((value as f64 * slope + intercept).round() as i16).max(AIR_HU)
    };
    (0..1u64 << instance.bits_allocated).map(hu).collect()
}

/// A compressed frame, as the codecs want to see it.
struct Frame<'a> {
    instance: &'a Instance,
    transfer_syntax: &'a Uid,
    stream: Vec<u8>,
}

impl Frame<'_> {
    fn decode(&self) -> Result<Vec<u8>, String> {
        self.check_stream()?;
        let syntax = TransferSyntaxRegistry.get(self.transfer_syntax.as_str());
        let Some(Codec::EncapsulatedPixelData(Some(decoder), _)) = syntax.map(|syntax| syntax.codec()) else {
            return Err(format!(
                "pixels in transfer syntax {} are not decoded by this version",
                self.transfer_syntax
            ));
        };
        let mut stored = Vec::new();
        // Codecs index by what the stream claims: a damaged one may panic them.
        match catch_unwind(AssertUnwindSafe(|| decoder.decode_frame(self, 0, &mut stored))) {
            Ok(Ok(())) => Ok(stored),
            Ok(Err(error)) => Err(format!("the pixels cannot be decoded: {error}")),
            Err(_) => Err("the pixels cannot be decoded: the stream is damaged".into()),
        }
    }

    /// Codecs allocate by the stream's own size, fill 16-bit output with 8-bit samples, and take a stream that stops early
    /// for a picture with an empty rest. None of that may pass for a slice.
    fn check_stream(&self) -> Result<(), String> {
        if [RLE, ENCAPSULATED_UNCOMPRESSED].contains(&self.transfer_syntax.as_str()) {
            return Ok(());
        }
        let stream = &self.stream[..];
        let head = if stream.starts_with(&[0xFF, 0x4F]) {
            jpeg_2000_head(stream)
        } else {
            jpeg_head(stream)
        };
        let head = head.ok_or("the compressed pixels have no readable header")?;
        let wanted = (self.instance.rows as u64, self.instance.columns as u64);
        if (head.rows, head.columns) != wanted || head.components != 1 {
            let StreamHead {
                rows,
                columns,
                components,
                ..
            } = head;
            return Err(format!(
                "the compressed pixels are {rows} rows × {columns} columns × {components}, the header says {} × {} × 1",
                wanted.0, wanted.1
            ));
        }
        if head.bits.div_ceil(8) != self.instance.bits_allocated / 8 {
            let allocated = self.instance.bits_allocated;
            return Err(format!(
                "the compressed pixels have {} bits, the header allocates {allocated}",
                head.bits
            ));
        }
        let end = stream.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if !stream[..end].ends_with(&[0xFF, 0xD9]) {
            return Err("the compressed pixels are cut short: their end mark is missing".into());
        }
        Ok(())
    }
}

struct StreamHead {
    rows: u64,
    columns: u64,
    components: u16,
    bits: u16,
}

fn be16(stream: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*stream.get(at..)?.first_chunk()?))
}

fn be32(stream: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_be_bytes(*stream.get(at..)?.first_chunk()?).into())
}

/// The SIZ marker follows the start at once (ISO 15444-1 A.5.1).
fn jpeg_2000_head(stream: &[u8]) -> Option<StreamHead> {
    if be16(stream, 2)? != 0xFF51 {
        return None;
    }
    let (columns, rows) = (
        be32(stream, 8)?.checked_sub(be32(stream, 16)?)?,
        be32(stream, 12)?.checked_sub(be32(stream, 20)?)?,
    );
    let bits = u16::from(*stream.get(42)? & 0x7F) + 1;
    Some(StreamHead {
        rows,
        columns,
        components: be16(stream, 40)?,
        bits,
    })
}

/// The frame header of JPEG (ISO 10918-1 B.2.2) and JPEG-LS (ISO 14495-1 C.2.2): any SOF, or SOF55.
fn jpeg_head(stream: &[u8]) -> Option<StreamHead> {
    let mut at = 2;
    while be16(stream, 0)? == 0xFFD8 {
        let marker = be16(stream, at)?;
        match marker {
            0xFFFF => at += 1,
            0xFFC0..=0xFFC3 | 0xFFC5..=0xFFC7 | 0xFFC9..=0xFFCB | 0xFFCD..=0xFFCF | 0xFFF7 => {
                return Some(StreamHead {
                    bits: u16::from(*stream.get(at + 4)?),
                    rows: be16(stream, at + 5)?.into(),
                    columns: be16(stream, at + 7)?.into(),
                    components: u16::from(*stream.get(at + 9)?),
                });
            }
            0xFF01..=0xFFFE => at += 2 + usize::from(be16(stream, at + 2)?),
            _ => return None,
        }
    }
    None
}

impl PixelDataObject for Frame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        self.transfer_syntax.as_str()
    }
    fn rows(&self) -> Option<u16> {
        u16::try_from(self.instance.rows).ok()
    }
    fn cols(&self) -> Option<u16> {
        u16::try_from(self.instance.columns).ok()
    }
    fn samples_per_pixel(&self) -> Option<u16> {
        Some(1)
    }
    fn bits_allocated(&self) -> Option<u16> {
        Some(self.instance.bits_allocated)
    }
    fn bits_stored(&self) -> Option<u16> {
        Some(self.instance.bits_stored)
    }
    fn photometric_interpretation(&self) -> Option<&str> {
        Some(&self.instance.photometric_interpretation)
    }
    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }
    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }
    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(&self.stream[..]))
    }
    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        Some(Cow::Borrowed(&[0]))
    }
    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        Some(RawPixelData {
            fragments: [self.stream.clone()].into_iter().collect(),
            offset_table: [0].into_iter().collect(),
        })
    }
}
