//! DICOM Segmentation (PS3.3 A.51), BINARY: one frame per structure and slice that holds voxels of it.
//!
//! Plane geometry is the source's own text, so a viewer that compares positions as strings finds them equal, and an unevenly
//! spaced or tilted stack stays true because every frame carries its own position.

use crate::dicom::uid::Uid;
use crate::geometry::{cross, dot};
use crate::mask::Mask;
use crate::results::common::{self, Draft};
use crate::results::dataset::{self, DataSet, Value};
use crate::results::header;
use crate::results::{self, ResultError, ResultObject, Source};
use crate::structure::Code;
use dicom::core::{Tag, VR};
use dicom::dictionary_std::tags;

pub(crate) const SEGMENTATION_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.66.4";
const KIND: common::Kind = common::Kind {
    name: "seg",
    sop_class_uid: SEGMENTATION_STORAGE,
    modality: "SEG",
    series_number_offset: 91,
};

/// PS3.16 CID 7203.
const SEGMENTATION: Code = Code {
    value: "113076",
    scheme: "DCM",
    meaning: "Segmentation",
};
/// PS3.16 CID 7162.
const ARTIFICIAL_INTELLIGENCE: Code = Code {
    value: "123110",
    scheme: "DCM",
    meaning: "Artificial Intelligence",
};

/// A person name; one component alone would be the retired form.
const CONTENT_CREATOR: &str = "medlsamd^AI";

/// A slice's plane as its source wrote it.
struct Plane {
    position: Value,
    orientation: Value,
    spacing: Value,
    thickness: Option<Value>,
}

/// One frame: which mask and which slice of the grid.
#[derive(Clone, Copy)]
struct Frame {
    segment: usize,
    k: usize,
}

/// Writes a SEG of all masks, numbered from 1 in their order.
pub fn write(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    common::check_masks(source)?;
    let planes = read_planes(source)?;
    let frames: Vec<Frame> = (0..source.masks.len())
        .flat_map(|segment| source.masks[segment].slices().map(move |k| Frame { segment, k }))
        .collect();
    let mut draft = common::begin(source, &KIND)?;
    common::check_identity(&draft, source)?;

    segmentation_image(&mut draft, source, frames.len());
    let segments = source
        .masks
        .iter()
        .enumerate()
        .map(|(n, mask)| segment(source, n, mask))
        .collect();
    draft.data.items(tags::SEGMENT_SEQUENCE, segments);
    multi_frame_dimension(&mut draft.data, source);
    common_instance_reference(&mut draft.data, source);
    let shared = shared_groups(&planes, source);
    draft.data.items(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![shared]);

    let mut part10 = dataset::part10(&draft.data, &draft.sop_class_uid, &draft.sop_instance_uid);
    append_frames(&mut part10, source, &planes, &frames);
    append_pixels(&mut part10, source, &frames)?;
    Ok(ResultObject {
        kind: KIND.name,
        key: results::key(KIND.name, source.profile),
        sop_class_uid: draft.sop_class_uid,
        sop_instance_uid: draft.sop_instance_uid,
        series_instance_uid: draft.series_instance_uid,
        transfer_syntax_uid: common::known_uid(dataset::EXPLICIT_VR_LITTLE_ENDIAN),
        part10,
    })
}

fn read_planes(source: &Source<'_>) -> Result<Vec<Plane>, ResultError> {
    const WANTED: &[Tag] = &[
        tags::IMAGE_POSITION_PATIENT,
        tags::IMAGE_ORIENTATION_PATIENT,
        tags::PIXEL_SPACING,
        tags::SLICE_THICKNESS,
    ];
    let plane = |instance: &crate::dicom::header::Instance| {
        let header = header::read(&instance.path, WANTED)?;
        let text = |tag, keyword| common::verbatim(&header, tag, keyword, &instance.path);
        Ok(Plane {
            position: text(tags::IMAGE_POSITION_PATIENT, "Image Position (Patient)")?,
            orientation: text(tags::IMAGE_ORIENTATION_PATIENT, "Image Orientation (Patient)")?,
            spacing: text(tags::PIXEL_SPACING, "Pixel Spacing")?,
            thickness: text(tags::SLICE_THICKNESS, "Slice Thickness").ok(),
        })
    };
    source.series.slices.iter().map(plane).collect()
}

/// General Image, Image Pixel, Segmentation Image (C.8.20.2) and Multi-frame Functional Groups (C.7.6.16).
fn segmentation_image(draft: &mut Draft, source: &Source<'_>, frame_count: usize) {
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
    data.text(tags::SEGMENTATION_TYPE, "BINARY");
    data.text(tags::LOSSY_IMAGE_COMPRESSION, if lossy { "01" } else { "00" });
    for (tag, value) in copied {
        data.insert(tag, value);
    }
    data.text(tags::NUMBER_OF_FRAMES, frame_count.to_string());
    data.text(tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2");
    data.shorts(tags::SAMPLES_PER_PIXEL, &[1]);
    data.shorts(tags::ROWS, &[rows as u16]);
    data.shorts(tags::COLUMNS, &[columns as u16]);
    data.shorts(tags::BITS_ALLOCATED, &[1]);
    data.shorts(tags::BITS_STORED, &[1]);
    data.shorts(tags::HIGH_BIT, &[0]);
    data.shorts(tags::PIXEL_REPRESENTATION, &[0]);
}

/// One item of the Segment Sequence.
fn segment(source: &Source<'_>, n: usize, mask: &Mask) -> DataSet {
    let structure = mask.structure;
    let mut item = DataSet::default();
    item.shorts(tags::SEGMENT_NUMBER, &[n as u16 + 1]);
    item.text(tags::SEGMENT_LABEL, source.style.name(structure));
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

/// Multi-frame Dimension (C.7.6.17): segment, then position.
fn multi_frame_dimension(data: &mut DataSet, source: &Source<'_>) {
    let organization = common::derived(source, KIND.name, "dimensions");
    data.item(tags::DIMENSION_ORGANIZATION_SEQUENCE, |item| {
        item.uid(tags::DIMENSION_ORGANIZATION_UID, &organization)
    });
    let dimension = |pointer: Tag, group: Tag, label: &str| {
        let mut item = DataSet::default();
        item.uid(tags::DIMENSION_ORGANIZATION_UID, &organization);
        item.pointer(tags::DIMENSION_INDEX_POINTER, pointer);
        item.pointer(tags::FUNCTIONAL_GROUP_POINTER, group);
        item.text(tags::DIMENSION_DESCRIPTION_LABEL, label);
        item
    };
    let dimensions = vec![
        dimension(
            tags::REFERENCED_SEGMENT_NUMBER,
            tags::SEGMENT_IDENTIFICATION_SEQUENCE,
            "Segment",
        ),
        dimension(tags::IMAGE_POSITION_PATIENT, tags::PLANE_POSITION_SEQUENCE, "Position"),
    ];
    data.items(tags::DIMENSION_INDEX_SEQUENCE, dimensions);
}

/// Common Instance Reference (C.12.2): every slice of the series, whether a frame uses it or not.
fn common_instance_reference(data: &mut DataSet, source: &Source<'_>) {
    let reference = |instance: &crate::dicom::header::Instance| {
        let mut item = DataSet::default();
        item.put_reference(&instance.sop_class_uid, &instance.sop_instance_uid);
        item
    };
    data.item(tags::REFERENCED_SERIES_SEQUENCE, |item| {
        item.uid(tags::SERIES_INSTANCE_UID, &source.series.series_instance_uid);
        item.items(
            tags::REFERENCED_INSTANCE_SEQUENCE,
            source.series.slices.iter().map(reference).collect(),
        );
    });
}

fn put_orientation(groups: &mut DataSet, plane: &Plane) {
    groups.item(tags::PLANE_ORIENTATION_SEQUENCE, |item| {
        item.insert(tags::IMAGE_ORIENTATION_PATIENT, plane.orientation.clone());
    });
}

fn put_measures(groups: &mut DataSet, plane: &Plane, source: &Source<'_>, between_slices: Option<&str>) {
    groups.item(tags::PIXEL_MEASURES_SEQUENCE, |item| {
        item.insert(tags::PIXEL_SPACING, plane.spacing.clone());
        match &plane.thickness {
            Some(thickness) => item.insert(tags::SLICE_THICKNESS, thickness.clone()),
            None => item.text(
                tags::SLICE_THICKNESS,
                common::decimal(source.series.grid.spacing_mm[2], 4),
            ),
        }
        if let Some(between) = between_slices {
            item.text(tags::SPACING_BETWEEN_SLICES, between);
        }
    });
}

/// Orientation and measures are shared when every slice writes them alike; else each frame carries its own.
fn oriented_alike(planes: &[Plane]) -> bool {
    planes.iter().all(|p| p.orientation == planes[0].orientation)
}

fn measured_alike(planes: &[Plane]) -> bool {
    planes
        .iter()
        .all(|p| p.spacing == planes[0].spacing && p.thickness == planes[0].thickness)
}

fn shared_groups(planes: &[Plane], source: &Source<'_>) -> DataSet {
    let mut groups = DataSet::default();
    if oriented_alike(planes) {
        put_orientation(&mut groups, &planes[0]);
    }
    if measured_alike(planes) {
        put_measures(
            &mut groups,
            &planes[0],
            source,
            spacing_between_slices(source).as_deref(),
        );
    }
    groups
}

/// Distance between neighbouring slices along the normal, when it is the same everywhere within a hundredth.
fn spacing_between_slices(source: &Source<'_>) -> Option<String> {
    let normal = cross(source.series.grid.directions[0], source.series.grid.directions[1]);
    let along: Option<Vec<f64>> = source
        .series
        .slices
        .iter()
        .map(|s| Some(dot(s.image_position?, normal)))
        .collect();
    let along = along?;
    let steps: Vec<f64> = along.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
    let mean = (along.last()? - along.first()?).abs() / steps.len() as f64;
    let regular = mean > 0.0 && steps.iter().all(|step| (step - mean).abs() <= 0.01 * mean);
    (!steps.is_empty() && regular).then(|| common::decimal(mean, 6))
}

/// Per-frame Functional Groups, encoded frame by frame: thousands of them never stand in memory as trees.
fn append_frames(out: &mut Vec<u8>, source: &Source<'_>, planes: &[Plane], frames: &[Frame]) {
    let bits = frames.len() * source.series.grid.size[0] * source.series.grid.size[1];
    out.reserve_exact(bits / 8 + frames.len() * 900 + 64);
    let (oriented, measured) = (oriented_alike(planes), measured_alike(planes));
    let mut used = vec![false; planes.len()];
    frames.iter().for_each(|frame| used[frame.k] = true);
    // Dimension index values count from 1 without gaps (C.7.6.17.1), so only slices that some frame uses have one.
    let rank: Vec<u32> = used
        .iter()
        .scan(0, |count, used| {
            Some({
                *count += u32::from(*used);
                *count
            })
        })
        .collect();
    let start = dataset::open_sequence(out, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    for frame in frames {
        let (plane, instance) = (&planes[frame.k], &source.series.slices[frame.k]);
        let number = frame.segment as u16 + 1;
        let mut groups = DataSet::default();
        put_derivation(&mut groups, &instance.sop_class_uid, &instance.sop_instance_uid);
        groups.item(tags::FRAME_CONTENT_SEQUENCE, |item| {
            item.longs(tags::DIMENSION_INDEX_VALUES, &[u32::from(number), rank[frame.k]]);
        });
        groups.item(tags::PLANE_POSITION_SEQUENCE, |item| {
            item.insert(tags::IMAGE_POSITION_PATIENT, plane.position.clone());
        });
        groups.item(tags::SEGMENT_IDENTIFICATION_SEQUENCE, |item| {
            item.shorts(tags::REFERENCED_SEGMENT_NUMBER, &[number]);
        });
        if !oriented {
            put_orientation(&mut groups, plane);
        }
        if !measured {
            put_measures(&mut groups, plane, source, None);
        }
        dataset::append_item(out, &groups);
    }
    dataset::close_sequence(out, start);
}

fn put_derivation(groups: &mut DataSet, sop_class_uid: &Uid, sop_instance_uid: &Uid) {
    groups.item(tags::DERIVATION_IMAGE_SEQUENCE, |derivation| {
        derivation.code(tags::DERIVATION_CODE_SEQUENCE, SEGMENTATION);
        derivation.item(tags::SOURCE_IMAGE_SEQUENCE, |image| {
            image.put_reference(sop_class_uid, sop_instance_uid);
            image.text(tags::SPATIAL_LOCATIONS_PRESERVED, "YES");
            image.code(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, common::SOURCE_IMAGE);
        });
    });
}

/// Pixel Data as one stream of bits, the first pixel in the least significant bit (PS3.5 8.1.1 and annex D); a frame begins where
/// the one before ends, in the middle of a byte if need be. Counts the bits it set against the masks' voxels.
fn append_pixels(out: &mut Vec<u8>, source: &Source<'_>, frames: &[Frame]) -> Result<(), ResultError> {
    let [columns, rows, _] = source.series.grid.size;
    let bits = frames.len() as u64 * (rows * columns) as u64;
    let length = bits.div_ceil(8).next_multiple_of(2);
    // PS3.5 7.1: lengths are 32 bits, the last value means undefined.
    if length >= u64::from(u32::MAX) {
        return Err(ResultError::Content(format!(
            "{} frames exceed the 4 GB a SEG can hold",
            frames.len()
        )));
    }
    dataset::element_header(out, tags::PIXEL_DATA, VR::OB, length as usize);
    let start = out.len();
    out.resize(start + length as usize, 0);
    let pixels = &mut out[start..];
    for (n, frame) in frames.iter().enumerate() {
        let mask = &source.masks[frame.segment];
        let [i0, j0, k0] = mask.offset;
        for (j, row) in mask
            .voxels
            .index_axis(ndarray::Axis(0), frame.k - k0)
            .outer_iter()
            .enumerate()
        {
            let first = (n * rows + j0 + j) * columns + i0;
            for (i, inside) in row.iter().enumerate() {
                pixels[(first + i) / 8] |= u8::from(*inside) << ((first + i) % 8);
            }
        }
    }
    let set: u64 = pixels.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let voxels: u64 = source.masks.iter().map(|mask| mask.voxel_count() as u64).sum();
    if set != voxels {
        return Err(ResultError::Content(format!(
            "{voxels} voxels became {set} bits of Pixel Data"
        )));
    }
    Ok(())
}
