//! Frames of a segmentation and where they lie: functional groups (PS3.3 C.7.6.16) and dimensions (C.7.6.17).

use crate::dicom::frames::{self, PlaneText};
use crate::dicom::header::Instance;
use crate::geometry::{cross, dot};
use crate::results::dataset::{self, DataSet, Value};
use crate::results::{ResultError, Source, common, header, reference};
use crate::structure::Code;
use dicom::core::{Tag, VR};
use dicom::dictionary_std::tags;
use std::collections::BTreeMap;
use std::path::Path;

/// PS3.16 CID 7203.
const SEGMENTATION: Code = Code {
    value: "113076",
    scheme: "DCM",
    meaning: "Segmentation",
};

/// A slice's plane as its source wrote it.
pub(crate) struct Plane {
    position: Value,
    orientation: Value,
    spacing: Value,
    thickness: Option<Value>,
}

/// One frame: a slice of the grid, and whose voxels it holds.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub k: usize,
    /// Index of the one mask it shows; `None` where labels of all masks stand in one frame.
    pub mask: Option<usize>,
}

impl Frame {
    fn segment_number(&self) -> Option<u16> {
        self.mask.map(crate::results::seg::segment_number)
    }
}

/// The planes of all slices, as text.
pub(crate) fn read_planes(source: &Source<'_>) -> Result<Vec<Plane>, ResultError> {
    const WANTED: &[Tag] = &[
        tags::IMAGE_POSITION_PATIENT,
        tags::IMAGE_ORIENTATION_PATIENT,
        tags::PIXEL_SPACING,
        tags::SLICE_THICKNESS,
    ];
    let mut read: BTreeMap<&Path, Vec<PlaneText>> = BTreeMap::new();
    let single = |instance: &Instance| {
        let header = header::read(&instance.path, WANTED)?;
        let text = |tag, keyword| common::verbatim(&header, tag, keyword, &instance.path);
        Ok(Plane {
            position: text(tags::IMAGE_POSITION_PATIENT, "Image Position (Patient)")?,
            orientation: text(tags::IMAGE_ORIENTATION_PATIENT, "Image Orientation (Patient)")?,
            spacing: text(tags::PIXEL_SPACING, "Pixel Spacing")?,
            thickness: text(tags::SLICE_THICKNESS, "Slice Thickness").ok(),
        })
    };
    let slices = source.series.slices.iter();
    let planes = slices.map(|slice| match slice.frame_number {
        Some(number) => framed(&mut read, slice, number),
        None => single(slice),
    });
    planes.collect()
}

/// The plane of one frame; each object is read once.
fn framed<'a>(
    read: &mut BTreeMap<&'a Path, Vec<PlaneText>>,
    instance: &'a Instance,
    number: u32,
) -> Result<Plane, ResultError> {
    let problem = |what: &str| ResultError::Source(format!("{}: {what}", instance.path.display()));
    if !read.contains_key(instance.path.as_path()) {
        let texts = frames::plane_texts(&instance.path).map_err(|error| problem(&error.to_string()))?;
        read.insert(&instance.path, texts);
    }
    let texts = read
        .get(instance.path.as_path())
        .and_then(|texts| texts.get(number as usize - 1));
    let texts = texts.ok_or_else(|| problem(&format!("it no longer describes frame {number}")))?;
    let value = |text: &[u8], keyword: &str| match text.is_empty() {
        true => Err(problem(&format!("frame {number} has no {keyword}"))),
        false => Ok(Value::Bytes(VR::DS, text.to_vec())),
    };
    Ok(Plane {
        position: value(&texts.position, "Image Position (Patient)")?,
        orientation: value(&texts.orientation, "Image Orientation (Patient)")?,
        spacing: value(&texts.spacing, "Pixel Spacing")?,
        thickness: value(&texts.thickness, "Slice Thickness").ok(),
    })
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

/// Shared Functional Groups.
pub(crate) fn shared_groups(planes: &[Plane], source: &Source<'_>) -> DataSet {
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
pub(crate) fn append_groups(out: &mut Vec<u8>, source: &Source<'_>, planes: &[Plane], frames: &[Frame]) {
    let (oriented, measured) = (oriented_alike(planes), measured_alike(planes));
    let ranks = ranks(planes.len(), frames);
    let start = dataset::open_sequence(out, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    for frame in frames {
        let (plane, instance) = (&planes[frame.k], &source.series.slices[frame.k]);
        let segment_number = frame.segment_number();
        let mut groups = DataSet::default();
        put_derivation(&mut groups, instance);
        groups.item(tags::FRAME_CONTENT_SEQUENCE, |item| {
            let values = segment_number.map(u32::from).into_iter().chain([ranks[frame.k]]);
            item.longs(tags::DIMENSION_INDEX_VALUES, &values.collect::<Vec<_>>());
        });
        groups.item(tags::PLANE_POSITION_SEQUENCE, |item| {
            item.insert(tags::IMAGE_POSITION_PATIENT, plane.position.clone());
        });
        if let Some(number) = segment_number {
            groups.item(tags::SEGMENT_IDENTIFICATION_SEQUENCE, |item| {
                item.shorts(tags::REFERENCED_SEGMENT_NUMBER, &[number]);
            });
        }
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

/// Dimension index values count from 1 without gaps (C.7.6.17.1), so only slices that some frame uses have one.
fn ranks(slices: usize, frames: &[Frame]) -> Vec<u32> {
    let mut used = vec![false; slices];
    frames.iter().for_each(|frame| used[frame.k] = true);
    let mut count = 0;
    let mut rank = |used: bool| {
        count += u32::from(used);
        count
    };
    used.into_iter().map(&mut rank).collect()
}

fn put_derivation(groups: &mut DataSet, instance: &Instance) {
    groups.item(tags::DERIVATION_IMAGE_SEQUENCE, |derivation| {
        derivation.code(tags::DERIVATION_CODE_SEQUENCE, SEGMENTATION);
        derivation.item(tags::SOURCE_IMAGE_SEQUENCE, |image| {
            reference::slice(instance).put(image);
            image.text(tags::SPATIAL_LOCATIONS_PRESERVED, "YES");
            image.code(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, common::SOURCE_IMAGE);
        });
    });
}

/// Multi-frame Dimension (C.7.6.17): segment where frames have one, then position.
pub(crate) fn multi_frame_dimension(data: &mut DataSet, source: &Source<'_>, kind: &'static str, by_segment: bool) {
    let organization = common::derived(source, kind, "dimensions");
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
    let (number, group) = (tags::REFERENCED_SEGMENT_NUMBER, tags::SEGMENT_IDENTIFICATION_SEQUENCE);
    let segment = by_segment.then(|| dimension(number, group, "Segment"));
    let position = dimension(tags::IMAGE_POSITION_PATIENT, tags::PLANE_POSITION_SEQUENCE, "Position");
    data.items(
        tags::DIMENSION_INDEX_SEQUENCE,
        segment.into_iter().chain([position]).collect(),
    );
}
