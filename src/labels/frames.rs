//! The frames of a Segmentation's Pixel Data → runs of equal pixels (PS3.5 8 and annexes A, G).
//!
//! Runs instead of bitmaps bound the memory by what is there, not by segments × frames × matrix.

use crate::dicom::codec;
use crate::dicom::fields::Fields;
use crate::dicom::frames;
use crate::dicom::object::Object;
use crate::dicom::scan::{Encoding, PIXEL_DATA};
use crate::dicom::uid::Uid;
use crate::labels::LabelsError;
use std::borrow::Cow;
use std::io::Read;

const RLE_LOSSLESS: &str = "1.2.840.10008.1.2.5";
/// Each frame a raw deflate stream (PS3.5 A.4).
const DEFLATED_IMAGE_FRAME: &str = "1.2.840.10008.1.2.8.1";
const ENCAPSULATED_UNCOMPRESSED: &str = "1.2.840.10008.1.2.1.98";
/// 8192² pixels.
const MAX_FRAME_PIXELS: usize = 1 << 26;
/// 250 segments × 128 slices of 512²; what is compressed could claim any number.
const MAX_PIXELS: usize = 1 << 33;

/// Pixels of one row that belong together: columns `from..to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub row: u16,
    pub from: u16,
    pub to: u16,
}

impl Run {
    pub fn length(&self) -> u64 {
        u64::from(self.to - self.from)
    }
}

/// The Pixel Data of a Segmentation.
pub struct Frames<'a> {
    pub rows: usize,
    pub columns: usize,
    pub count: usize,
    bits_allocated: u16,
    transfer_syntax: &'a Uid,
    big_endian: bool,
    stored: Stored<'a>,
}

enum Stored<'a> {
    /// Of all frames, one after the other, without padding between them.
    Native(Cow<'a, [u8]>),
    /// The fragments of each frame.
    Encapsulated(Vec<Vec<&'a [u8]>>),
}

fn malformed(problem: impl Into<String>) -> LabelsError {
    LabelsError::Malformed(problem.into())
}

impl<'a> Frames<'a> {
    pub fn of(object: &'a Object<'_>, fields: &Fields<'a>) -> Result<Self, LabelsError> {
        let size = |tag| fields.short(tag).map(usize::from).filter(|n| *n > 0);
        let (Some(rows), Some(columns)) = (size(0x0028_0010), size(0x0028_0011)) else {
            return Err(malformed("it has no Rows or no Columns"));
        };
        let count = match fields.integer(0x0028_0008) {
            None => 1,
            Some(count) => usize::try_from(count).map_err(|_| malformed("Number of Frames is negative"))?,
        };
        let pixels = rows * columns;
        if pixels > MAX_FRAME_PIXELS || pixels.checked_mul(count).is_none_or(|all| all > MAX_PIXELS) {
            return Err(LabelsError::Unsupported(format!(
                "{count} frames of {rows} rows × {columns} columns are more than this version reads"
            )));
        }
        let bits_allocated = fields.short(0x0028_0100).unwrap_or(0);
        if !matches!(bits_allocated, 1 | 8 | 16) || fields.short(0x0028_0002).is_some_and(|samples| samples != 1) {
            return Err(LabelsError::Unsupported(format!(
                "pixels of {bits_allocated} bits, or in colour, are no segmentation that this version reads"
            )));
        }
        let mut frames = Self {
            rows,
            columns,
            count,
            bits_allocated,
            transfer_syntax: &object.transfer_syntax_uid,
            big_endian: object.encoding.big_endian,
            stored: Stored::Native(Cow::Borrowed(&[])),
        };
        frames.stored = frames.find(&object.data_set, object.encoding, fields)?;
        Ok(frames)
    }

    fn find(&self, data: &'a [u8], encoding: Encoding, fields: &Fields<'a>) -> Result<Stored<'a>, LabelsError> {
        let element = fields
            .element(PIXEL_DATA)
            .ok_or_else(|| malformed("it has no Pixel Data"))?;
        if element.undefined_length {
            let divided = frames::divide(data, element.offset, self.count, frames::extended_offsets(fields));
            return divided.map(Stored::Encapsulated).map_err(malformed);
        }
        if !codec::UNCOMPRESSED.contains(&self.transfer_syntax.as_str()) {
            return Err(malformed(format!(
                "Pixel Data is not encapsulated, as transfer syntax {} demands",
                self.transfer_syntax
            )));
        }
        let wanted = (self.rows * self.columns * self.count * usize::from(self.bits_allocated)).div_ceil(8);
        let there = element.value.len();
        if there < wanted {
            return Err(malformed(format!(
                "Pixel Data is {there} bytes long, but {} frames of {} rows × {} columns at {} bits ask for {wanted}",
                self.count, self.rows, self.columns, self.bits_allocated
            )));
        }
        // Words of bytes or bits come with their halves exchanged (PS3.5 8.1.1).
        let exchanged = encoding.big_endian && element.vr == Some(*b"OW") && self.bits_allocated < 16;
        Ok(Stored::Native(match exchanged {
            false => Cow::Borrowed(element.value),
            true => element
                .value
                .as_chunks::<2>()
                .0
                .iter()
                .flat_map(|[a, b]| [*b, *a])
                .collect(),
        }))
    }

    /// Calls `visit` with the runs of frame `n` whose pixels have the same class, not 0, row by row.
    pub fn runs(
        &self,
        n: usize,
        class: &dyn Fn(u16) -> usize,
        visit: &mut dyn FnMut(usize, Run) -> Result<(), LabelsError>,
    ) -> Result<(), LabelsError> {
        let pixels = self.rows * self.columns;
        let frame = match &self.stored {
            Stored::Native(all) if self.bits_allocated == 1 => return self.bits(all, n * pixels, class(1), visit),
            Stored::Native(all) => {
                let length = pixels * usize::from(self.bits_allocated / 8);
                Cow::Borrowed(&all[n * length..(n + 1) * length])
            }
            Stored::Encapsulated(frames) => {
                let of_frame = |problem| malformed(format!("frame {}: {problem}", n + 1));
                let (decoded, packed) = self.decode(&frames[n]).map_err(of_frame)?;
                if packed {
                    return self.bits(&decoded, 0, class(1), visit);
                }
                Cow::Owned(decoded)
            }
        };
        if self.bits_allocated < 16 {
            return self.samples(frame.iter().map(|v| u16::from(*v)), class, visit);
        }
        let word = if self.big_endian {
            u16::from_be_bytes
        } else {
            u16::from_le_bytes
        };
        self.samples(frame.as_chunks::<2>().0.iter().map(|v| word(*v)), class, visit)
    }

    fn samples(
        &self,
        mut samples: impl Iterator<Item = u16>,
        class: &dyn Fn(u16) -> usize,
        visit: &mut dyn FnMut(usize, Run) -> Result<(), LabelsError>,
    ) -> Result<(), LabelsError> {
        for row in 0..self.rows {
            // The class of a value is asked for where the value changes only.
            let (mut value, mut own, mut from) = (0, class(0), 0);
            for (column, sample) in samples.by_ref().take(self.columns).enumerate() {
                if sample == value {
                    continue;
                }
                let next = class(sample);
                value = sample;
                if next != own {
                    if own != 0 && column > from {
                        visit(own, run(row, from, column))?;
                    }
                    (own, from) = (next, column);
                }
            }
            if own != 0 {
                visit(own, run(row, from, self.columns))?;
            }
        }
        Ok(())
    }

    /// Bits from `first` on, the lowest of each byte first (PS3.5 8.1.1); rows and frames follow without a gap.
    fn bits(
        &self,
        bytes: &[u8],
        first: usize,
        class: usize,
        visit: &mut dyn FnMut(usize, Run) -> Result<(), LabelsError>,
    ) -> Result<(), LabelsError> {
        for row in 0..self.rows {
            let start = first + row * self.columns;
            let end = start + self.columns;
            let mut at = next_bit(bytes, start, end, true);
            while at < end {
                let to = next_bit(bytes, at, end, false);
                visit(class, run(row, at - start, to - start))?;
                at = next_bit(bytes, to, end, true);
            }
        }
        Ok(())
    }

    /// A compressed frame: packed bits (true), or stored values. The error is a sentence.
    fn decode(&self, fragments: &[&[u8]]) -> Result<(Vec<u8>, bool), String> {
        let stream = fragments.concat();
        let packed = self.bits_allocated == 1;
        let length = (self.rows * self.columns * usize::from(self.bits_allocated)).div_ceil(8);
        let mut decoded = match self.transfer_syntax.as_str() {
            RLE_LOSSLESS => unpack(&stream, length, usize::from(self.bits_allocated).div_ceil(8))?,
            DEFLATED_IMAGE_FRAME => {
                let mut inflated = Vec::new();
                let read = flate2::read::DeflateDecoder::new(&stream[..])
                    .take(length as u64)
                    .read_to_end(&mut inflated);
                read.map_err(|error| format!("its deflated pixels are broken: {error}"))?;
                inflated
            }
            ENCAPSULATED_UNCOMPRESSED => stream,
            _ => {
                // These codecs know samples, so a bit takes a byte.
                let frame = codec::Frame {
                    rows: self.rows,
                    columns: self.columns,
                    bits_allocated: self.bits_allocated.max(8),
                    bits_stored: self.bits_allocated.max(8),
                    photometric_interpretation: "MONOCHROME2",
                    transfer_syntax: self.transfer_syntax,
                    stream,
                };
                return Ok((frame.decode()?, false));
            }
        };
        if decoded.len() < length {
            return Err(format!("decoding gave {} bytes instead of {length}", decoded.len()));
        }
        decoded.truncate(length);
        Ok((decoded, packed))
    }
}

fn run(row: usize, from: usize, to: usize) -> Run {
    // Rows and Columns are 16 bits wide.
    let [row, from, to] = [row, from, to].map(|n| n as u16);
    Run { row, from, to }
}

/// The first bit of this value in `from..end`, or `end`.
fn next_bit(bytes: &[u8], from: usize, end: usize, value: bool) -> usize {
    let other = if value { 0x00 } else { 0xFF };
    let mut at = from;
    while at < end {
        let byte = bytes[at / 8];
        if byte == other {
            at = (at / 8 + 1) * 8;
        } else if (byte >> (at % 8) & 1 == 1) == value {
            return at;
        } else {
            at += 1;
        }
    }
    end
}

/// RLE Lossless (PS3.5 annex G): a segment per byte of a sample, the most significant first. Gives `length` bytes, little endian.
fn unpack(stream: &[u8], length: usize, sample_bytes: usize) -> Result<Vec<u8>, String> {
    let (header, _) = stream.split_at_checked(64).ok_or("its RLE header is cut short")?;
    let header: Vec<usize> = header
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u32::from_le_bytes(*b) as usize)
        .collect();
    if header[0] != sample_bytes {
        return Err(format!("it has {} RLE segments instead of {sample_bytes}", header[0]));
    }
    let mut values = vec![0; length];
    for segment in 0..sample_bytes {
        let start = header[1 + segment];
        let end = if segment + 1 < sample_bytes {
            header[2 + segment]
        } else {
            stream.len()
        };
        let packed = stream.get(start..end).ok_or("its RLE segments lie outside of it")?;
        let mut out = values.iter_mut().skip(sample_bytes - 1 - segment).step_by(sample_bytes);
        let mut left = length / sample_bytes;
        let mut at = 0;
        while left > 0 {
            let short = || format!("its RLE segment ends {left} bytes early");
            let control = usize::from(*packed.get(at).ok_or_else(short)?);
            at += 1;
            match control {
                0..=127 => {
                    let literal = packed.get(at..at + control + 1).ok_or_else(short)?;
                    literal.iter().zip(&mut out).for_each(|(from, to)| *to = *from);
                    at += literal.len();
                    left = left.saturating_sub(literal.len());
                }
                128 => {}
                _ => {
                    let byte = *packed.get(at).ok_or_else(short)?;
                    out.by_ref().take(257 - control).for_each(|to| *to = byte);
                    at += 1;
                    left = left.saturating_sub(257 - control);
                }
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rle_gives_the_example_of_the_standard_and_words_low_byte_first() {
        let mut stream = vec![0; 64];
        stream[0] = 2;
        stream[4] = 64;
        stream[8] = 68;
        stream.extend([254, 9, 0, 8]);
        stream.extend([3, 1, 2, 3, 4]);
        assert_eq!(unpack(&stream, 8, 2), Ok(vec![1, 9, 2, 9, 3, 9, 4, 8]));
        assert!(unpack(&stream, 10, 2).is_err());
        assert!(unpack(&stream, 8, 1).is_err());
    }

    #[test]
    fn bits_are_found_at_any_place() {
        let bytes = [0b1010_0000, 0xFF, 0xFF, 0b0000_0001, 0];
        assert_eq!(next_bit(&bytes, 0, 40, true), 5);
        assert_eq!(next_bit(&bytes, 6, 40, false), 6);
        assert_eq!(next_bit(&bytes, 7, 40, false), 25);
        assert_eq!(next_bit(&bytes, 25, 40, true), 40);
        assert_eq!(next_bit(&bytes, 7, 20, false), 20);
    }

    proptest! {
        #[test]
        fn damaged_rle_never_panics(stream in prop::collection::vec(any::<u8>(), 0..200), length in 0..300usize, bytes in 1..3usize) {
            let mut stream = stream;
            if let Some(first) = stream.get_mut(..4) {
                first.copy_from_slice(&(bytes as u32).to_le_bytes());
            }
            let _ = unpack(&stream, length, bytes);
        }
    }
}
