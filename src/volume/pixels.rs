//! One slice's stored pixels, a file of its own or a frame of one, → Hounsfield units.
//!
//! Uncompressed pixels are taken from the file as they are, compressed ones decoded by [`crate::dicom::codec`]. dicom-rs's Modality LUT (which
//! fails on 16-bit signed CT) is not used.

use crate::dicom::codec::{ENCAPSULATED, Frame, UNCOMPRESSED};
use crate::dicom::frames::{self, EXTENDED_OFFSET_TABLE};
use crate::dicom::header::{Instance, file_meta};
use crate::dicom::object::inflate;
use crate::dicom::scan::{self, Encoding, PIXEL_DATA, ScanError};
use crate::dicom::uid::Uid;
use crate::volume::AIR_HU;
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// What is read of a file at once: a compressed or deflated object, or the header of one that is neither.
const MAX_READ: u64 = 4 << 30;
/// How much is read to find where Pixel Data begins; the last is the longest header we take.
const HEADS: [u64; 3] = [64 << 10, 1 << 20, 32 << 20];

/// The Pixel Data of one file, opened once for all its frames.
pub struct Source {
    transfer_syntax: Uid,
    big_endian: bool,
    stored: Stored,
}

enum Stored {
    /// Uncompressed, `there` of `declared` bytes, beginning at `at` in the file: read frame by frame.
    Native {
        file: File,
        at: u64,
        declared: u64,
        there: u64,
    },
    /// Of a deflated data set.
    Inflated { pixels: Vec<u8>, declared: u64 },
    /// The compressed stream of each frame.
    Encapsulated(Vec<Vec<u8>>),
}

impl Source {
    /// Finds the Pixel Data of an image's file. The error is a sentence without the slice's name.
    pub fn open(instance: &Instance) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot read {}: {error}", instance.path.display());
        let file = File::open(&instance.path).map_err(cannot)?;
        let length = file.metadata().map_err(cannot)?.len();
        let syntax = &instance.transfer_syntax_uid;
        if !UNCOMPRESSED.contains(&syntax.as_str()) && !ENCAPSULATED.contains(&syntax.as_str()) {
            return Err(format!(
                "pixels in transfer syntax {syntax} are not decoded by this version"
            ));
        }
        let deflated = Encoding::of(syntax).deflated;
        for size in HEADS {
            let mut head = Vec::new();
            let most = if deflated { MAX_READ } else { size };
            (&file).seek(SeekFrom::Start(0)).map_err(cannot)?;
            (&file).take(most).read_to_end(&mut head).map_err(cannot)?;
            let (_, start) = file_meta(&head).map_err(|error| error.to_string())?;
            let found = if deflated {
                Self::inflated(syntax, &inflate(&head[start..])?)
            } else {
                Self::located(instance, &file, &head, start)
            };
            match found {
                Err(Missing::Beyond) if (head.len() as u64) < length => {}
                Err(Missing::Beyond) => return Err("the file is cut short, or has no Pixel Data".into()),
                Err(Missing::Damaged(problem)) => return Err(problem),
                Ok(found) => return Ok(found),
            }
        }
        Err(format!("its Pixel Data do not begin within {} MiB", HEADS[2] >> 20))
    }

    fn inflated(syntax: &Uid, data: &[u8]) -> Result<Self, Missing> {
        let found = find(data, Encoding::of(syntax))?;
        let rest = &data[found.offset..];
        let there = rest.len().min(found.length as usize);
        Ok(Self {
            transfer_syntax: syntax.clone(),
            big_endian: false,
            stored: Stored::Inflated {
                pixels: rest[..there].to_vec(),
                declared: found.length.into(),
            },
        })
    }

    fn located(instance: &Instance, file: &File, head: &[u8], start: usize) -> Result<Self, Missing> {
        let syntax = &instance.transfer_syntax_uid;
        let encoding = Encoding::of(syntax);
        let found = find(&head[start..], encoding)?;
        let io = |error: std::io::Error| Missing::Damaged(format!("the file cannot be read: {error}"));
        let at = (start + found.offset) as u64;
        let native = UNCOMPRESSED.contains(&syntax.as_str());
        let stored = match (native, found.undefined_length) {
            (true, false) => Stored::Native {
                at,
                declared: found.length.into(),
                there: file.metadata().map_err(io)?.len() - at,
                file: file.try_clone().map_err(io)?,
            },
            (false, true) => {
                let mut items = Vec::new();
                let mut rest = file;
                rest.seek(SeekFrom::Start(at)).map_err(io)?;
                rest.take(MAX_READ).read_to_end(&mut items).map_err(io)?;
                let frames = frames::divide(&items, 0, place(instance).0, &found.extended).map_err(Missing::Damaged)?;
                Stored::Encapsulated(frames.iter().map(|fragments| fragments.concat()).collect())
            }
            (is_native, _) => {
                let not = if is_native { "" } else { "not " };
                return Err(Missing::Damaged(format!(
                    "Pixel Data is {not}encapsulated, against transfer syntax {syntax}"
                )));
            }
        };
        Ok(Self {
            transfer_syntax: syntax.clone(),
            big_endian: encoding.big_endian,
            stored,
        })
    }

    /// Fills `out` (rows × columns) with the HU of one slice. The error is a sentence without the slice's name.
    pub fn read_hu(&self, instance: &Instance, out: &mut [i16]) -> Result<(), String> {
        check_kind(instance)?;
        let sample_bytes = usize::from(instance.bits_allocated / 8);
        let expected = instance.rows * instance.columns * sample_bytes;
        if out.len() * sample_bytes != expected {
            return Err(format!(
                "{} rows × {} columns do not fit the series",
                instance.rows, instance.columns
            ));
        }
        let stored = self.stored_bytes(instance, expected)?;
        let table = hu_table(instance);
        match (sample_bytes, self.big_endian) {
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

    /// Exactly `expected` bytes of stored values, little endian unless the data set is big endian.
    fn stored_bytes(&self, instance: &Instance, expected: usize) -> Result<Cow<'_, [u8]>, String> {
        let (count, index) = place(instance);
        let wanted = count as u64 * expected as u64;
        let check = |declared: u64, there: u64| {
            let frames = if count > 1 {
                format!(" in {count} frames")
            } else {
                String::new()
            };
            if declared < wanted {
                return Err(format!(
                    "Pixel Data is {declared} bytes long, but Rows × Columns{frames} ask for {wanted}"
                ));
            }
            let short = || format!("the file is cut short: {there} of {wanted} bytes of pixels are there");
            (there >= wanted).then_some(()).ok_or_else(short)
        };
        match &self.stored {
            Stored::Native {
                file,
                at,
                declared,
                there,
            } => {
                check(*declared, *there)?;
                let mut stored = vec![0; expected];
                file.read_exact_at(&mut stored, at + index as u64 * expected as u64)
                    .map_err(|error| format!("cannot read {}: {error}", instance.path.display()))?;
                Ok(Cow::Owned(stored))
            }
            Stored::Inflated { pixels, declared } => {
                check(*declared, pixels.len() as u64)?;
                Ok(Cow::Borrowed(&pixels[index * expected..][..expected]))
            }
            Stored::Encapsulated(frames) => self.decode(instance, frames[index].clone()).map(Cow::Owned),
        }
    }

    fn decode(&self, instance: &Instance, stream: Vec<u8>) -> Result<Vec<u8>, String> {
        let frame = Frame {
            rows: instance.rows,
            columns: instance.columns,
            bits_allocated: instance.bits_allocated,
            bits_stored: instance.bits_stored,
            photometric_interpretation: &instance.photometric_interpretation,
            transfer_syntax: &self.transfer_syntax,
            stream,
        };
        frame.decode()
    }
}

/// How many frames the object of an image holds, and which it is, from 0.
fn place(instance: &Instance) -> (usize, usize) {
    match instance.frame_number {
        Some(number) => (instance.number_of_frames, number as usize - 1),
        None => (1, 0),
    }
}

/// Where Pixel Data begins in a data set.
struct Found {
    offset: usize,
    length: u32,
    undefined_length: bool,
    extended: Vec<u8>,
}

/// Why Pixel Data was not found.
enum Missing {
    /// The bytes at hand end before it.
    Beyond,
    Damaged(String),
}

fn find(data: &[u8], encoding: Encoding) -> Result<Found, Missing> {
    let (mut found, mut extended) = (None, Vec::new());
    let scanned = scan::scan(data, encoding, PIXEL_DATA, |element| match element.tag {
        PIXEL_DATA => found = Some((element.offset, element.length, element.undefined_length)),
        EXTENDED_OFFSET_TABLE => extended = element.value.to_vec(),
        _ => {}
    });
    match (found, scanned) {
        (Some((offset, length, undefined_length)), _) => Ok(Found {
            offset,
            length,
            undefined_length,
            extended,
        }),
        (None, Err(ScanError::Malformed(problem))) => Err(Missing::Damaged(format!("the file is damaged: {problem}"))),
        (None, _) => Err(Missing::Beyond),
    }
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
