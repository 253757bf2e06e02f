//! The facts of one instance that we decide by, read from its header without touching the pixels.

pub use crate::dicom::fields::HeaderError;

use crate::dicom::fields::{self, Fields, from_scan};
use crate::dicom::scan::{self, Encoding, Tag};
use crate::dicom::uid::Uid;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// One CT instance as received. Absent or unreadable attributes are `None`; what they mean is for `series` to decide.
#[derive(Clone, Debug)]
pub struct Instance {
    pub path: PathBuf,
    pub transfer_syntax_uid: Uid,
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub study_instance_uid: Uid,
    pub series_instance_uid: Uid,
    pub frame_of_reference_uid: Option<Uid>,
    /// Patient ID (0010,0020); empty when absent. For the job log, never for a log line.
    pub patient_id: String,
    pub modality: String,
    /// Image Type (0008,0008), e.g. ORIGINAL, PRIMARY, AXIAL; LOCALIZER marks a scout.
    pub image_type: Vec<String>,
    pub instance_number: Option<i64>,
    pub acquisition_number: Option<i64>,
    /// 0 when absent.
    pub rows: usize,
    /// 0 when absent.
    pub columns: usize,
    /// Between rows, between columns: (0028,0030) in its own order, millimetres.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    pub image_position: Option<[f64; 3]>,
    /// Row cosine then column cosine, (0020,0037).
    pub image_orientation: Option<[f64; 6]>,
    pub slice_thickness_mm: Option<f64>,
    pub gantry_tilt_deg: Option<f64>,
    pub rescale_slope: Option<f64>,
    pub rescale_intercept: Option<f64>,
    /// (0028,1054); empty when absent. `HU` unless the values are something else, such as an iodine map's.
    pub rescale_type: String,
    /// 1 when absent.
    pub samples_per_pixel: u16,
    pub photometric_interpretation: String,
    /// 0 when absent.
    pub bits_allocated: u16,
    /// Bits Allocated when absent.
    pub bits_stored: u16,
    /// Bits Stored − 1 when absent.
    pub high_bit: u16,
    pub pixel_signed: bool,
    pub pixel_padding_value: Option<i64>,
    /// (0028,0121): everything between this and the padding value is padding too.
    pub pixel_padding_range_limit: Option<i64>,
    /// 1 when absent.
    pub number_of_frames: usize,
    /// Counted from 1 where this is one frame of a multi-frame object ([`crate::dicom::frames`]); `None` of a whole object.
    pub frame_number: Option<u32>,
    /// What tells pictures of the same place apart (phase, energy, time), by keyword; see [`PHASE`]. Absent values are left out.
    pub phase: BTreeMap<&'static str, String>,
    /// Text of the attributes a protocol's `match` may name, by keyword (`Modality`, `StationName`, `StudyDescription`,
    /// `SeriesDescription`, `ProtocolName`, `BodyPartExamined`, `Manufacturer`, `ManufacturerModelName`, `ConvolutionKernel`, …):
    /// see [`MATCHABLE`]. Several values stay joined by backslashes.
    pub matchable: BTreeMap<&'static str, String>,
}

/// What a protocol's `match` may name, with its keyword.
pub const MATCHABLE: &[(Tag, &str)] = &[
    (0x0008_0008, "ImageType"),
    (0x0008_0060, "Modality"),
    (0x0008_0070, "Manufacturer"),
    (0x0008_0080, "InstitutionName"),
    (0x0008_1010, "StationName"),
    (0x0008_1030, "StudyDescription"),
    (0x0008_103E, "SeriesDescription"),
    (0x0008_1040, "InstitutionalDepartmentName"),
    (0x0008_1090, "ManufacturerModelName"),
    (0x0010_0040, "PatientSex"),
    (0x0018_0010, "ContrastBolusAgent"),
    (0x0018_0015, "BodyPartExamined"),
    (0x0018_0022, "ScanOptions"),
    (0x0018_1000, "DeviceSerialNumber"),
    (0x0018_1020, "SoftwareVersions"),
    (0x0018_1030, "ProtocolName"),
    (0x0018_1210, "ConvolutionKernel"),
    (0x0018_5100, "PatientPosition"),
    (0x0032_1060, "RequestedProcedureDescription"),
    (LAST_WANTED, "PerformedProcedureStepDescription"),
];

/// What a scanner tells phases, energies and times of one place by, the surest first. Acquisition Number, Image Type and kernel
/// do so too, and are read anyhow.
pub const PHASE: &[(Tag, &str)] = &[
    (0x0020_0100, "TemporalPositionIdentifier"),
    (0x0018_1060, "TriggerTime"),
    (0x0018_0060, "KVP"),
    (0x0008_0032, "AcquisitionTime"),
];

const LAST_WANTED: Tag = 0x0040_0254;
/// What is read besides [`MATCHABLE`].
const WANTED: &[Tag] = &[
    fields::SPECIFIC_CHARACTER_SET,
    0x0008_0016, // SOP Class UID
    0x0008_0018, // SOP Instance UID
    0x0010_0020, // Patient ID
    0x0018_0050, // Slice Thickness
    0x0018_1120, // Gantry/Detector Tilt
    0x0020_000D, // Study Instance UID
    0x0020_000E, // Series Instance UID
    0x0020_0012, // Acquisition Number
    0x0020_0013, // Instance Number
    0x0020_0032, // Image Position (Patient)
    0x0020_0037, // Image Orientation (Patient)
    0x0020_0052, // Frame of Reference UID
    0x0028_0002, // Samples per Pixel
    0x0028_0004, // Photometric Interpretation
    0x0028_0008, // Number of Frames
    0x0028_0010, // Rows
    0x0028_0011, // Columns
    0x0028_0030, // Pixel Spacing
    0x0028_0100, // Bits Allocated
    0x0028_0101, // Bits Stored
    0x0028_0102, // High Bit
    0x0028_0103, // Pixel Representation
    0x0028_0120, // Pixel Padding Value
    0x0028_0121, // Pixel Padding Range Limit
    0x0028_1052, // Rescale Intercept
    0x0028_1053, // Rescale Slope
    0x0028_1054, // Rescale Type
];

fn wanted(tag: Tag) -> bool {
    let named = |table: &[(Tag, &str)]| table.iter().any(|(named, _)| *named == tag);
    WANTED.contains(&tag) || named(MATCHABLE) || named(PHASE)
}

/// Enough for nearly every header, private groups included.
const FIRST_READ: usize = 64 << 10;
/// Some scanners keep megabytes of raw parameters in private groups before the image attributes.
const MAX_HEADER: usize = 32 << 20;

impl Instance {
    /// Reads a Part 10 file up to Pixel Data. Memory, depth and lengths are bounded whatever the file claims.
    pub fn read(path: &Path) -> Result<Self, HeaderError> {
        read_fields(path, LAST_WANTED, wanted, |fields, transfer_syntax_uid| {
            fields.to_instance(transfer_syntax_uid, path)
        })
    }

    /// Reads the beginning of a data set (no preamble, no file meta group). `complete` tells whether it is the whole of it;
    /// if not, [`HeaderError::NeedMore`] says that the attributes go on behind it. `path` is only noted in the result.
    pub fn parse(data: &[u8], complete: bool, transfer_syntax_uid: &Uid, path: &Path) -> Result<Self, HeaderError> {
        parse_fields(data, complete, transfer_syntax_uid, LAST_WANTED, wanted, |fields| {
            fields.to_instance(transfer_syntax_uid, path)
        })
    }
}

/// Reads the wanted top-level attributes of a Part 10 file up to the tag `until`, within the bounds of [`Instance::read`].
pub(in crate::dicom) fn read_fields<T>(
    path: &Path,
    until: Tag,
    wanted: fn(Tag) -> bool,
    read: impl Fn(&Fields<'_>, &Uid) -> Result<T, HeaderError>,
) -> Result<T, HeaderError> {
    let io_error = |source| HeaderError::Io {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(io_error)?;
    grow(file, io_error, |head, complete| {
        let (syntax, data_set) = file_meta(head)?;
        let of = |fields: &Fields<'_>| read(fields, &syntax);
        parse_fields(&head[data_set..], complete, &syntax, until, wanted, of)
    })
}

fn parse_fields<T>(
    data: &[u8],
    complete: bool,
    transfer_syntax_uid: &Uid,
    until: Tag,
    wanted: fn(Tag) -> bool,
    read: impl Fn(&Fields<'_>) -> Result<T, HeaderError>,
) -> Result<T, HeaderError> {
    let encoding = Encoding::of(transfer_syntax_uid);
    if !encoding.deflated {
        return read(&Fields::collect(data, encoding, until, wanted, complete)?);
    }
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof if !complete => HeaderError::NeedMore { at_hand: data.len() },
        _ => HeaderError::Malformed(format!("its deflated data set is broken: {error}")),
    };
    grow(flate2::read::DeflateDecoder::new(data), broken, |head, complete| {
        read(&Fields::collect(head, encoding, until, wanted, complete)?)
    })
}

/// Splits a Part 10 file (PS3.10 7.1): its transfer syntax and where the data set begins.
pub fn file_meta(file: &[u8]) -> Result<(Uid, usize), HeaderError> {
    if file.get(128..132) != Some(b"DICM") {
        return Err(HeaderError::Malformed("no DICM mark after the preamble".into()));
    }
    let mut transfer_syntax = None;
    let end = scan::scan(&file[132..], Encoding::EXPLICIT_LE, 0x0002_FFFF, |element| {
        if element.tag == 0x0002_0010 {
            transfer_syntax = Some(element.value);
        }
    })
    .map_err(|error| from_scan(error, file.len(), false))?;
    let text = transfer_syntax
        .and_then(|value| std::str::from_utf8(value).ok())
        .unwrap_or_default();
    let uid = Uid::parse(text).map_err(|bad| missing("TransferSyntaxUID", "(0002,0010)", bad.0))?;
    Ok((uid, 132 + end))
}

/// Gives `attempt` ever longer beginnings of `source`, until it can do without more.
fn grow<T>(
    mut source: impl Read,
    broken: impl Fn(io::Error) -> HeaderError,
    attempt: impl Fn(&[u8], bool) -> Result<T, HeaderError>,
) -> Result<T, HeaderError> {
    let mut head = Vec::new();
    let mut want = FIRST_READ;
    loop {
        source
            .by_ref()
            .take((want - head.len()) as u64)
            .read_to_end(&mut head)
            .map_err(&broken)?;
        let complete = head.len() < want;
        match attempt(&head, complete) {
            Err(HeaderError::NeedMore { .. }) if complete => {
                return Err(HeaderError::Malformed(format!(
                    "it ends within an element, after {} bytes",
                    head.len()
                )));
            }
            Err(HeaderError::NeedMore { .. }) if want >= MAX_HEADER => {
                return Err(HeaderError::Malformed(format!(
                    "its header is longer than {} MiB",
                    MAX_HEADER >> 20
                )));
            }
            Err(HeaderError::NeedMore { .. }) => want = (want * 4).min(MAX_HEADER),
            done => return done,
        }
    }
}

fn missing(keyword: &'static str, tag: &'static str, text: String) -> HeaderError {
    let problem = if text.is_empty() {
        "missing".into()
    } else {
        format!("no valid UID: {text:?}")
    };
    HeaderError::Attribute { keyword, tag, problem }
}

impl Fields<'_> {
    fn to_instance(&self, transfer_syntax_uid: &Uid, path: &Path) -> Result<Instance, HeaderError> {
        let bits_allocated = self.short(0x0028_0100).unwrap_or(0);
        let bits_stored = self.short(0x0028_0101).unwrap_or(bits_allocated);
        let pixel_signed = self.short(0x0028_0103) == Some(1);
        // Its VR is US or SS by Pixel Representation (PS3.3 C.7.5.1.1.2), whatever the element itself says.
        let sample = |value: u16| {
            if pixel_signed {
                i64::from(value as i16)
            } else {
                i64::from(value)
            }
        };
        let matchable = MATCHABLE.iter().map(|&(tag, keyword)| (keyword, self.text(tag)));
        Ok(Instance {
            path: path.to_owned(),
            transfer_syntax_uid: transfer_syntax_uid.clone(),
            sop_class_uid: self
                .uid(0x0008_0016)
                .map_err(|text| missing("SOPClassUID", "(0008,0016)", text))?,
            sop_instance_uid: self
                .uid(0x0008_0018)
                .map_err(|text| missing("SOPInstanceUID", "(0008,0018)", text))?,
            study_instance_uid: self
                .uid(0x0020_000D)
                .map_err(|text| missing("StudyInstanceUID", "(0020,000D)", text))?,
            series_instance_uid: self
                .uid(0x0020_000E)
                .map_err(|text| missing("SeriesInstanceUID", "(0020,000E)", text))?,
            frame_of_reference_uid: self.uid(0x0020_0052).ok(),
            patient_id: self.text(0x0010_0020),
            modality: self.text(0x0008_0060),
            image_type: self
                .text(0x0008_0008)
                .split('\\')
                .map(|value| value.trim().to_owned())
                .collect(),
            instance_number: self.integer(0x0020_0013),
            acquisition_number: self.integer(0x0020_0012),
            rows: self.short(0x0028_0010).unwrap_or(0).into(),
            columns: self.short(0x0028_0011).unwrap_or(0).into(),
            pixel_spacing_mm: self.decimals(0x0028_0030),
            image_position: self.decimals(0x0020_0032),
            image_orientation: self.decimals(0x0020_0037),
            slice_thickness_mm: self.decimal(0x0018_0050),
            gantry_tilt_deg: self.decimal(0x0018_1120),
            rescale_slope: self.decimal(0x0028_1053),
            rescale_intercept: self.decimal(0x0028_1052),
            rescale_type: self.text(0x0028_1054),
            samples_per_pixel: self.short(0x0028_0002).unwrap_or(1),
            photometric_interpretation: self.text(0x0028_0004),
            bits_allocated,
            bits_stored,
            high_bit: self.short(0x0028_0102).unwrap_or(bits_stored.saturating_sub(1)),
            pixel_signed,
            pixel_padding_value: self.short(0x0028_0120).map(sample),
            pixel_padding_range_limit: self.short(0x0028_0121).map(sample),
            number_of_frames: self
                .integer(0x0028_0008)
                .and_then(|frames| usize::try_from(frames).ok())
                .unwrap_or(1),
            frame_number: None,
            phase: PHASE
                .iter()
                .map(|&(tag, keyword)| (keyword, self.text(tag)))
                .filter(|(_, text)| !text.is_empty())
                .collect(),
            matchable: matchable.filter(|(_, text)| !text.is_empty()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ELEMENTS: &[(Tag, &[u8; 2], &[u8])] = &[
        (0x0008_0005, b"CS", b"ISO_IR 100"),
        (0x0008_0008, b"CS", b"ORIGINAL\\PRIMARY\\AXIAL "),
        (0x0008_0016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        (0x0008_0018, b"UI", b"2.25.329800735698586629295641978511506172918"),
        (0x0008_0060, b"CS", b"CT"),
        (0x0008_1030, b"LO", b"Sch\xE4del "),
        (0x0018_0050, b"DS", b" 2.5\0"),
        (0x0020_000D, b"UI", b"1.2.3\0"),
        (0x0020_000E, b"UI", b"1.2.4 "),
        (0x0020_0013, b"IS", b"+007"),
        (0x0020_0032, b"DS", b"-1.25e2\\ 3.\\ -.5 "),
        (0x0020_0037, b"DS", b"1\\0\\0\\0\\1"),
        (0x0028_0010, b"US", &[0, 2]),
        (0x0028_0030, b"DS", b"0.7\\nan "),
        (0x0028_0100, b"US", &[16, 0]),
        (0x0028_0103, b"US", &[1, 0]),
        (0x0028_0120, b"US", &[0x30, 0xF8]),
        (0x0028_1052, b"DS", b"-1024 "),
        (0x7FE0_0010, b"OW", &[]),
    ];

    fn encode(encoding: Encoding) -> Vec<u8> {
        let mut data = Vec::new();
        for (tag, vr, value) in ELEMENTS {
            let mut value = value.to_vec();
            if encoding.big_endian && *vr == b"US" {
                value.reverse();
            }
            let short = |n: u16| {
                if encoding.big_endian {
                    n.to_be_bytes()
                } else {
                    n.to_le_bytes()
                }
            };
            data.extend(short((tag >> 16) as u16));
            data.extend(short(*tag as u16));
            match (encoding.explicit_vr, *vr) {
                (false, _) => data.extend((value.len() as u32).to_le_bytes()),
                (true, b"OW") => data.extend([b'O', b'W', 0, 0, 0, 0, 0, 0]),
                (true, _) => {
                    data.extend(*vr);
                    data.extend(short(value.len() as u16));
                }
            }
            data.extend(value);
        }
        data
    }

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn deflate(data: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, data).unwrap();
        packed.finish().unwrap()
    }

    fn samples() -> Vec<(Uid, Vec<u8>)> {
        vec![
            (uid("1.2.840.10008.1.2.1"), encode(Encoding::EXPLICIT_LE)),
            (uid("1.2.840.10008.1.2"), encode(Encoding::IMPLICIT_LE)),
            (uid("1.2.840.10008.1.2.2"), encode(Encoding::EXPLICIT_BE)),
            (uid("1.2.840.10008.1.2.1.99"), deflate(&encode(Encoding::EXPLICIT_LE))),
        ]
    }

    #[test]
    fn every_encoding_gives_the_same_facts() {
        for (syntax, data) in samples() {
            let instance = Instance::parse(&data, true, &syntax, Path::new("a")).unwrap();
            assert_eq!(
                instance.sop_instance_uid.as_str(),
                "2.25.329800735698586629295641978511506172918"
            );
            assert_eq!(instance.series_instance_uid.as_str(), "1.2.4");
            assert_eq!(instance.image_position, Some([-125.0, 3.0, -0.5]));
            assert_eq!(
                (instance.rows, instance.instance_number, instance.slice_thickness_mm),
                (512, Some(7), Some(2.5))
            );
            assert_eq!(instance.image_type, ["ORIGINAL", "PRIMARY", "AXIAL"]);
            assert_eq!(instance.matchable["StudyDescription"], "Schädel");
            assert_eq!(
                instance.pixel_padding_value,
                Some(-2000),
                "read as signed, though its VR is US"
            );
            assert_eq!(
                (instance.bits_stored, instance.high_bit),
                (16, 15),
                "defaults by Bits Allocated"
            );
            assert_eq!(instance.pixel_spacing_mm, None, "not a number");
            assert_eq!(instance.image_orientation, None, "five values");
        }
    }

    #[test]
    fn a_beginning_asks_for_more_and_a_stump_is_refused() {
        for (syntax, data) in samples() {
            let mut enough = false;
            for end in 0..=data.len() {
                let part = Instance::parse(&data[..end], false, &syntax, Path::new("a"));
                assert!(
                    matches!(&part, Err(HeaderError::NeedMore { .. })) || part.is_ok(),
                    "{syntax} at {end}: {part:?}"
                );
                assert!(
                    part.is_ok() || !enough,
                    "{syntax}: {end} bytes do not do where fewer did"
                );
                enough = part.is_ok();
                let whole = Instance::parse(&data[..end], true, &syntax, Path::new("a"));
                assert!(!matches!(whole, Err(HeaderError::NeedMore { .. })), "{syntax} at {end}");
            }
            assert!(enough, "{syntax}");
        }
    }

    #[test]
    fn a_missing_identity_is_named() {
        let data = encode(Encoding::EXPLICIT_LE);
        let at = data.windows(4).position(|bytes| bytes == [0x20, 0, 0x0E, 0]).unwrap();
        let data = [&data[..at], &data[at + 14..]].concat();
        let error = Instance::parse(&data, true, &uid("1.2.840.10008.1.2.1"), Path::new("a")).unwrap_err();
        assert_eq!(error.to_string(), "attribute SeriesInstanceUID (0020,000E) is missing");
    }

    #[test]
    fn a_deflate_bomb_costs_its_bound_and_not_more() {
        // A private element of 900 MB of zeros before the image attributes.
        let mut bomb = vec![9, 0, 1, 0x10, b'O', b'B', 0, 0];
        bomb.extend(900_000_000u32.to_le_bytes());
        bomb.resize(2 * MAX_HEADER, 0);
        let error = Instance::parse(&deflate(&bomb), true, &uid("1.2.840.10008.1.2.1.99"), Path::new("a")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not a readable DICOM object: its header is longer than 32 MiB"
        );
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8), kind in 0..4usize) {
            let (syntax, mut data) = samples().swap_remove(kind);
            for (at, byte) in changes {
                let at = usize::from(at) % data.len();
                data[at] = byte;
            }
            let _ = Instance::parse(&data, true, &syntax, Path::new("a"));
        }
    }
}
