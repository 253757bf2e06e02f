//! One slice's stored pixels → Hounsfield units.
//!
//! Uncompressed pixels are taken from the file as they are, compressed ones decoded by [`crate::dicom::codec`]. dicom-rs's Modality LUT (which
//! fails on 16-bit signed CT) is not used.

use crate::dicom::codec::Frame;
use crate::dicom::header::{Instance, file_meta};
use crate::dicom::object::inflate;
use crate::dicom::scan::{self, Encoding, PIXEL_DATA, ScanError};
use crate::dicom::uid::Uid;
use crate::volume::AIR_HU;
use std::borrow::Cow;
use std::io::Read;

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

/// A single-frame CT of 1024² at 16 bits is 2 MiB; headers may bring some more.
const MAX_FILE: u64 = 256 << 20;

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
        rows: instance.rows,
        columns: instance.columns,
        bits_allocated: instance.bits_allocated,
        bits_stored: instance.bits_stored,
        photometric_interpretation: &instance.photometric_interpretation,
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
