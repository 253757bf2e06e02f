//! One compressed frame → stored values, by the codecs of dicom-rs.
//!
//! They are fed the joined fragments directly: dicom-rs's object reader is never run on a peer's file.

use crate::dicom::uid::Uid;
use dicom::encoding::Codec;
use dicom::encoding::adapters::{PixelDataObject, RawPixelData};
use dicom::encoding::transfer_syntax::TransferSyntaxIndex;
use dicom::transfer_syntax::TransferSyntaxRegistry;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Transfer syntaxes with pixels as they are (PS3.5 A.1 to A.3, A.5).
pub const UNCOMPRESSED: [&str; 4] = [
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
];
/// The encapsulated ones whose decoder was tried (not 12-bit JPEG).
pub const ENCAPSULATED: [&str; 12] = [
    ENCAPSULATED_UNCOMPRESSED,
    RLE,
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
const RLE: &str = "1.2.840.10008.1.2.5";
const ENCAPSULATED_UNCOMPRESSED: &str = "1.2.840.10008.1.2.1.98";

/// A compressed frame, as the codecs want to see it.
pub struct Frame<'a> {
    pub rows: usize,
    pub columns: usize,
    /// 8 or 16.
    pub bits_allocated: u16,
    pub bits_stored: u16,
    pub photometric_interpretation: &'a str,
    pub transfer_syntax: &'a Uid,
    /// Its fragments, joined.
    pub stream: Vec<u8>,
}

impl Frame<'_> {
    /// The stored values, little endian, as many as the frame has. The error is a sentence.
    pub fn decode(&self) -> Result<Vec<u8>, String> {
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
            Ok(Ok(())) => self.checked(stored),
            Ok(Err(error)) => Err(format!("the pixels cannot be decoded: {error}")),
            Err(_) => Err("the pixels cannot be decoded: the stream is damaged".into()),
        }
    }

    fn checked(&self, stored: Vec<u8>) -> Result<Vec<u8>, String> {
        let wanted = self.rows * self.columns * usize::from(self.bits_allocated / 8);
        match stored.len() {
            there if there == wanted => Ok(stored),
            there => Err(format!(
                "decoding gave {there} bytes, but Rows × Columns ask for {wanted}"
            )),
        }
    }

    /// Codecs allocate by the stream's own size, fill 16-bit output with 8-bit samples, and take a stream that stops early
    /// for a picture with an empty rest. None of that may pass for a slice.
    fn check_stream(&self) -> Result<(), String> {
        if self.holds_words() {
            return Ok(());
        }
        let head = self.head().ok_or("the compressed pixels have no readable header")?;
        let wanted = (self.rows as u64, self.columns as u64);
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
        if head.bits.div_ceil(8) != self.bits_allocated / 8 {
            let allocated = self.bits_allocated;
            return Err(format!(
                "the compressed pixels have {} bits, the header allocates {allocated}",
                head.bits
            ));
        }
        if !is_closed(&self.stream) {
            return Err("the compressed pixels are cut short: their end mark is missing".into());
        }
        Ok(())
    }

    /// Bits of a sample as the stream itself counts them; `None` where it holds the allocated words whole.
    pub fn stream_bits(&self) -> Option<u16> {
        self.head().filter(|_| !self.holds_words()).map(|head| head.bits)
    }

    fn holds_words(&self) -> bool {
        [RLE, ENCAPSULATED_UNCOMPRESSED].contains(&self.transfer_syntax.as_str())
    }

    fn head(&self) -> Option<StreamHead> {
        if self.stream.starts_with(&[0xFF, 0x4F]) {
            jpeg_2000_head(&self.stream)
        } else {
            jpeg_head(&self.stream)
        }
    }
}

/// Whether a stream of JPEG or its kin ends with its end mark, but for zeros or one odd byte of padding.
pub fn is_closed(stream: &[u8]) -> bool {
    let end = stream.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let stream = &stream[..end];
    let closed = |stream: &[u8]| stream.ends_with(&[0xFF, 0xD9]);
    closed(stream) || stream.split_last().is_some_and(|(_, rest)| closed(rest))
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
        u16::try_from(self.rows).ok()
    }
    fn cols(&self) -> Option<u16> {
        u16::try_from(self.columns).ok()
    }
    fn samples_per_pixel(&self) -> Option<u16> {
        Some(1)
    }
    fn bits_allocated(&self) -> Option<u16> {
        Some(self.bits_allocated)
    }
    fn bits_stored(&self) -> Option<u16> {
        Some(self.bits_stored)
    }
    fn photometric_interpretation(&self) -> Option<&str> {
        Some(self.photometric_interpretation)
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
