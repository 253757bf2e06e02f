//! DICOM Segmentation (PS3.3 A.51 and A.91): what BINARY and LABELMAP share.
//!
//! Plane geometry is the source's own text, so a viewer that compares positions as strings finds them equal, and an unevenly
//! spaced or tilted stack stays true because every frame carries its own position. Pixels are packed frame by frame straight into
//! the object's bytes; besides those nothing larger than a frame stands in memory.

pub mod binary;
pub mod labelmap;
mod frames;
mod rle;
mod voxels;

use crate::geometry::dot;
use crate::results::common::{self, Draft};
use crate::results::dataset::{self, DataSet, Value};
use crate::results::seg::frames::Plane;
use crate::results::{self, ResultError, ResultObject, Source, names, reference};
use crate::structure::Code;
use dicom::dictionary_std::tags;

/// What tells one encoding from the other in the modules they share.
struct Encoding {
    kind: common::Kind,
    /// Segmentation Type (0062,0001).
    name: &'static str,
    bits_allocated: u16,
    /// Segments Overlap (0062,0013).
    overlap: bool,
    transfer_syntax_uid: &'static str,
}

/// PS3.16 CID 7150 and 7151: what is no structure.
const BACKGROUND: Code = Code {
    value: "125040",
    scheme: "DCM",
    meaning: "Background",
};
/// PS3.16 CID 7162.
const ARTIFICIAL_INTELLIGENCE: Code = Code {
    value: "123110",
    scheme: "DCM",
    meaning: "Artificial Intelligence",
};

/// A person name; one component alone would be the retired form.
const CONTENT_CREATOR: &str = "medlsamd^AI";

/// Segments are numbered from 1 in the order of the masks.
fn segment_number(mask: usize) -> u16 {
    mask as u16 + 1
}

/// A segmentation begun: everything before Per-frame Functional Groups and Pixel Data, which follow in `part10`.
struct Begun {
    draft: Draft,
    planes: Vec<Plane>,
    part10: Vec<u8>,
}

fn begin(source: &Source<'_>, encoding: &Encoding, frame_count: usize) -> Result<Begun, ResultError> {
    let planes = frames::read_planes(source)?;
    let mut draft = common::begin(source, &encoding.kind)?;
    common::check_identity(&draft, source)?;
    segmentation_image(&mut draft, source, encoding, frame_count);
    let labelled = encoding.bits_allocated > 1;
    let background = labelled.then(|| background(source));
    let names = names::names(source, &draft.first).into_iter().enumerate();
    let segments = names.map(|(n, name)| segment(source, n, name));
    let segments = background.into_iter().chain(segments).collect();
    draft.data.items(tags::SEGMENT_SEQUENCE, segments);
    frames::multi_frame_dimension(&mut draft.data, source, encoding.kind.name, !labelled);
    common_instance_reference(&mut draft.data, source);
    let shared = frames::shared_groups(&planes, source);
    draft.data.items(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![shared]);
    let (class, instance) = (&draft.sop_class_uid, &draft.sop_instance_uid);
    let part10 = dataset::part10_in(encoding.transfer_syntax_uid, &draft.data, class, instance);
    Ok(Begun { draft, planes, part10 })
}

fn finish(begun: Begun, source: &Source<'_>, encoding: &Encoding) -> ResultObject {
    let draft = begun.draft;
    ResultObject {
        kind: encoding.kind.name,
        key: results::key(encoding.kind.name, source.profile),
        sop_class_uid: draft.sop_class_uid,
        sop_instance_uid: draft.sop_instance_uid,
        series_instance_uid: draft.series_instance_uid,
        transfer_syntax_uid: common::known_uid(encoding.transfer_syntax_uid),
        part10: begun.part10,
    }
}

/// PS3.5 7.1: lengths are 32 bits, the last value means undefined.
fn check_length(bytes: u64, frame_count: usize) -> Result<usize, ResultError> {
    if bytes >= u64::from(u32::MAX) {
        return Err(ResultError::Content(format!(
            "{frame_count} frames exceed the 4 GB a SEG can hold"
        )));
    }
    Ok(bytes as usize)
}

/// General Image, Image Pixel, Segmentation Image (C.8.20.2) and Multi-frame Functional Groups (C.7.6.16).
fn segmentation_image(draft: &mut Draft, source: &Source<'_>, encoding: &Encoding, frame_count: usize) {
    let lossy = draft.first.bytes(tags::LOSSY_IMAGE_COMPRESSION) == Some(b"01");
    let copied: Vec<_> = [
        tags::LOSSY_IMAGE_COMPRESSION_RATIO,
        tags::LOSSY_IMAGE_COMPRESSION_METHOD,
    ]
    .into_iter()
    .filter_map(|tag| Some((tag, draft.first.get(tag).filter(|_| lossy)?.clone())))
    .collect();
    let [columns, rows, _] = source.series.grid.size;
    let data = &mut draft.data;
    data.text(tags::IMAGE_TYPE, "DERIVED\\PRIMARY");
    data.text(tags::CONTENT_DATE, &source.identity.content_date);
    data.text(tags::CONTENT_TIME, &source.identity.content_time);
    data.text(tags::CONTENT_LABEL, "AI_UNREVIEWED");
    data.text(tags::CONTENT_DESCRIPTION, common::content_description(source));
    data.text(tags::CONTENT_CREATOR_NAME, CONTENT_CREATOR);
    data.text(tags::SEGMENTATION_TYPE, encoding.name);
    data.text(tags::SEGMENTS_OVERLAP, if encoding.overlap { "YES" } else { "NO" });
    data.text(tags::LOSSY_IMAGE_COMPRESSION, if lossy { "01" } else { "00" });
    for (tag, value) in copied {
        data.insert(tag, value);
    }
    data.text(tags::NUMBER_OF_FRAMES, frame_count.to_string());
    data.text(tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2");
    data.shorts(tags::SAMPLES_PER_PIXEL, &[1]);
    data.shorts(tags::ROWS, &[rows as u16]);
    data.shorts(tags::COLUMNS, &[columns as u16]);
    data.shorts(tags::BITS_ALLOCATED, &[encoding.bits_allocated]);
    data.shorts(tags::BITS_STORED, &[encoding.bits_allocated]);
    data.shorts(tags::HIGH_BIT, &[encoding.bits_allocated - 1]);
    data.shorts(tags::PIXEL_REPRESENTATION, &[0]);
    if encoding.bits_allocated > 1 {
        data.shorts(tags::PIXEL_PADDING_VALUE, &[0]);
    }
}

/// One item of the Segment Sequence.
fn segment(source: &Source<'_>, n: usize, name: Value) -> DataSet {
    let structure = source.masks[n].structure;
    let mut item = DataSet::default();
    item.shorts(tags::SEGMENT_NUMBER, &[segment_number(n)]);
    item.insert(tags::SEGMENT_LABEL, name);
    item.text(tags::SEGMENT_DESCRIPTION, "AI-generated, not reviewed");
    item.text(tags::SEGMENT_ALGORITHM_TYPE, "AUTOMATIC");
    item.text(tags::SEGMENT_ALGORITHM_NAME, common::algorithm_name(source));
    item.item(tags::SEGMENTATION_ALGORITHM_IDENTIFICATION_SEQUENCE, |algorithm| {
        algorithm.code(tags::ALGORITHM_FAMILY_CODE_SEQUENCE, ARTIFICIAL_INTELLIGENCE);
        algorithm.text(tags::ALGORITHM_NAME, common::algorithm_name(source));
        algorithm.text(tags::ALGORITHM_VERSION, env!("CARGO_PKG_VERSION"));
        algorithm.text(tags::ALGORITHM_SOURCE, common::PRODUCT);
        let parameters = common::algorithm_parameters(source);
        if !parameters.is_empty() {
            algorithm.text(tags::ALGORITHM_PARAMETERS, parameters);
        }
    });
    item.code(tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE, structure.category);
    item.item(tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE, |kind| {
        kind.put_code(structure.kind);
        if let Some(side) = structure.laterality {
            kind.code(tags::SEGMENTED_PROPERTY_TYPE_MODIFIER_CODE_SEQUENCE, side);
        }
    });
    item.text(tags::TRACKING_ID, structure.name);
    item.uid(tags::TRACKING_UID, &common::derived(source, "tracking", structure.name));
    item.shorts(
        tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE,
        &cielab(source.style.colour(structure)),
    );
    item
}

/// The item for value 0, which a LABELMAP must describe like any other.
fn background(source: &Source<'_>) -> DataSet {
    let mut item = DataSet::default();
    item.shorts(tags::SEGMENT_NUMBER, &[0]);
    item.text(tags::SEGMENT_LABEL, BACKGROUND.meaning);
    item.text(tags::SEGMENT_ALGORITHM_TYPE, "AUTOMATIC");
    item.text(tags::SEGMENT_ALGORITHM_NAME, common::algorithm_name(source));
    item.code(tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE, BACKGROUND);
    item.code(tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE, BACKGROUND);
    item.shorts(tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE, &cielab([0; 3]));
    item
}

/// sRGB → PCS-Values of CIELab, D50, scaled as PS3.3 C.10.7.1.1 asks.
fn cielab(colour: [u8; 3]) -> [u16; 3] {
    let linear = colour.map(|c| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 {
            c / 12.92
        } else {
            ((c + 0.055) / 1.055).powf(2.4)
        }
    });
    // sRGB primaries adapted to D50 by Bradford's method, over the D50 white.
    let rows = [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ];
    let white = [0.9642, 1.0, 0.8251];
    let f = |axis: usize| {
        let t = dot(rows[axis], linear) / white[axis];
        if t > 216.0 / 24389.0 {
            t.cbrt()
        } else {
            (24389.0 / 27.0 * t + 16.0) / 116.0
        }
    };
    let (x, y, z) = (f(0), f(1), f(2));
    let scaled =
        |value: f64, low: f64, range: f64| ((value - low) / range * 65535.0).round().clamp(0.0, 65535.0) as u16;
    [
        scaled(116.0 * y - 16.0, 0.0, 100.0),
        scaled(500.0 * (x - y), -128.0, 255.0),
        scaled(200.0 * (y - z), -128.0, 255.0),
    ]
}

/// Common Instance Reference (C.12.2): every slice of the series, whether a frame uses it or not.
fn common_instance_reference(data: &mut DataSet, source: &Source<'_>) {
    data.item(tags::REFERENCED_SERIES_SEQUENCE, |item| {
        item.uid(tags::SERIES_INSTANCE_UID, &source.series.series_instance_uid);
        item.items(
            tags::REFERENCED_INSTANCE_SEQUENCE,
            reference::of_series(source.series).iter().map(|o| o.item()).collect(),
        );
    });
}
