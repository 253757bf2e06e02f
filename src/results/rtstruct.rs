//! RT Structure Set (PS3.3 A.19): one ROI per mask, area-true contours on the source's own image planes.
//!
//! Written in Explicit VR, whose 16-bit lengths end Contour Data at 65 534 bytes. Implicit VR has no such limit, but an archive
//! that converts to explicit would then write something few planning systems read. So an outline longer than that is cut at a row
//! into two that touch; the area stays exact. At four decimals the limit is some 2 400 corners, which few organs reach.
//! Contours keep every corner of the voxel edges unless the receiver's style allows a distance; what was used of it is stated in
//! ROI Generation Description.

use crate::dicom::header::Instance;
use crate::geometry::{Vec3, cross, norm};
use crate::mask::Mask;
use crate::results::common::{self, Draft};
use crate::results::contour::{self, Drawing, Polygon};
use crate::results::dataset::{self, DataSet, MAX_SHORT_VALUE, Value};
use crate::results::simplify::Tolerance;
use crate::results::{self, ResultError, ResultObject, Source, names, reference};
use dicom::core::VR;
use dicom::dictionary_std::tags;

pub(crate) const RT_STRUCTURE_SET_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.481.3";
/// Detached Study Management: retired, and still what planning systems expect as the class of a referenced study.
const DETACHED_STUDY_MANAGEMENT: &str = "1.2.840.10008.3.1.2.3.1";
const KIND: common::Kind = common::Kind {
    name: "rtstruct",
    sop_class_uid: RT_STRUCTURE_SET_STORAGE,
    modality: "RTSTRUCT",
    series_number_offset: 92,
};
/// A tenth of a micrometre: far below any error that matters, and short enough for DS.
const DECIMALS: u32 = 4;

/// Writes a structure set of all masks, numbered from 1 in their order.
pub fn write(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    common::check_masks(source)?;
    let planes: Vec<Plane> = source.series.slices.iter().map(Plane::of).collect::<Result<_, _>>()?;
    let mut draft = common::begin(source, &KIND)?;
    common::check_identity(&draft, source)?;
    let masks = source.masks.iter().enumerate();
    let drawn = masks.map(|(n, mask)| roi_contour(source, &planes, n, mask));
    let drawn = drawn.collect::<Result<Vec<_>, _>>()?;
    structure_set(&mut draft, source, &drawn);
    let contours = drawn.into_iter().map(|roi| roi.item).collect();
    draft.data.items(tags::ROI_CONTOUR_SEQUENCE, contours);
    let observations = source
        .masks
        .iter()
        .enumerate()
        .map(|(n, mask)| observation(n, mask))
        .collect();
    draft.data.items(tags::RTROI_OBSERVATIONS_SEQUENCE, observations);
    // Approval (C.8.8.16): a person must look first, so there is no review date either.
    draft.data.text(tags::APPROVAL_STATUS, "UNAPPROVED");
    if let Some((tag, length)) = draft.data.too_long_for_explicit_vr() {
        return Err(ResultError::Content(format!(
            "{tag} holds {length} bytes, more than explicit VR can carry"
        )));
    }
    Ok(ResultObject {
        kind: KIND.name,
        key: results::key(KIND.name, source.profile),
        part10: dataset::part10(&draft.data, &draft.sop_class_uid, &draft.sop_instance_uid),
        sop_class_uid: draft.sop_class_uid,
        sop_instance_uid: draft.sop_instance_uid,
        series_instance_uid: draft.series_instance_uid,
        transfer_syntax_uid: common::known_uid(dataset::EXPLICIT_VR_LITTLE_ENDIAN),
    })
}

/// A slice's plane from its own position, orientation and spacing: a tilted or unevenly spaced stack stays true.
struct Plane {
    origin: Vec3,
    /// One step to the next column and to the next row, millimetres.
    column_step: Vec3,
    row_step: Vec3,
}

impl Plane {
    fn of(instance: &Instance) -> Result<Self, ResultError> {
        let lacks = |what: &str| ResultError::Source(format!("{} has no {what}", instance.path.display()));
        let origin = instance
            .image_position
            .ok_or_else(|| lacks("Image Position (Patient)"))?;
        let [a, b, c, d, e, f] = instance
            .image_orientation
            .ok_or_else(|| lacks("Image Orientation (Patient)"))?;
        let [between_rows, between_columns] = instance.pixel_spacing_mm.ok_or_else(|| lacks("Pixel Spacing"))?;
        let (row_cosine, column_cosine) = ([a, b, c], [d, e, f]);
        if (norm(cross(row_cosine, column_cosine)) - 1.0).abs() > 0.01 {
            return Err(lacks("Image Orientation (Patient) of two perpendicular unit vectors"));
        }
        Ok(Self {
            origin,
            column_step: row_cosine.map(|v| v * between_columns),
            row_step: column_cosine.map(|v| v * between_rows),
        })
    }

    fn point(&self, [column, row]: contour::Corner) -> Vec3 {
        let step = |axis: usize| column * self.column_step[axis] + row * self.row_step[axis];
        [0, 1, 2].map(|axis| self.origin[axis] + step(axis))
    }

    /// Width of a column, height of a row.
    fn spacing_mm(&self) -> [f64; 2] {
        [norm(self.column_step), norm(self.row_step)]
    }

    /// Contour Data: x\y\z of every corner.
    fn contour_data(&self, polygon: &Polygon) -> Vec<u8> {
        let mut text = Vec::with_capacity(polygon.len() * 30);
        for corner in polygon {
            for coordinate in self.point(*corner) {
                if !text.is_empty() {
                    text.push(b'\\');
                }
                common::push_decimal(&mut text, coordinate, DECIMALS);
            }
        }
        text
    }
}

/// Structure Set (C.8.8.5).
fn structure_set(draft: &mut Draft, source: &Source<'_>, drawn: &[Drawn]) {
    let names = names::names(source, &draft.first);
    let identity = source.identity;
    let label = match identity.revision {
        0 | 1 => "AI unreviewed".into(),
        n => common::clip(&format!("AI unrev. r{n}"), 16),
    };
    let data = &mut draft.data;
    data.text(tags::OPERATORS_NAME, "");
    data.text(tags::STRUCTURE_SET_LABEL, label);
    data.text(tags::STRUCTURE_SET_NAME, common::content_description(source));
    data.text(
        tags::STRUCTURE_SET_DESCRIPTION,
        common::clip(&description(source), 1024),
    );
    data.text(tags::STRUCTURE_SET_DATE, &identity.content_date);
    data.text(tags::STRUCTURE_SET_TIME, &identity.content_time);
    referenced_frame_of_reference(data, source);
    let rois = names.into_iter().zip(drawn).enumerate().map(|(n, (name, drawn))| {
        let mut item = DataSet::default();
        item.text(tags::ROI_NUMBER, (n + 1).to_string());
        item.uid(
            tags::REFERENCED_FRAME_OF_REFERENCE_UID,
            &source.series.frame_of_reference_uid,
        );
        item.insert(tags::ROI_NAME, name);
        item.text(tags::ROI_DESCRIPTION, "AI-generated, not reviewed");
        item.text(tags::ROI_GENERATION_ALGORITHM, "AUTOMATIC");
        item.text(tags::ROI_GENERATION_DESCRIPTION, generation(source, drawn.deviation_mm));
        item
    });
    data.items(tags::STRUCTURE_SET_ROI_SEQUENCE, rois.collect());
}

/// What made the ROI, and how far its contours leave the voxel edges where that is allowed: 64 characters at most.
fn generation(source: &Source<'_>, deviation_mm: f64) -> String {
    let name = common::algorithm_name(source);
    if source.style.simplify_mm == 0.0 {
        return name;
    }
    // Rounded up: the true distance is never greater.
    let deviation = common::decimal((deviation_mm * 100.0).ceil() / 100.0, 2);
    format!("{}; deviates max. {deviation} mm", common::clip(&name, 40))
}

fn description(source: &Source<'_>) -> String {
    let models = common::algorithm_parameters(source);
    let replaces = match &source.identity.supersedes {
        Some(earlier) => format!(" Supersedes {earlier}."),
        None => String::new(),
    };
    format!(
        "Outlined by {}, not reviewed by a physician.{replaces} {models}",
        common::algorithm_name(source)
    )
}

/// Study, series and every slice the contours may lie on.
fn referenced_frame_of_reference(data: &mut DataSet, source: &Source<'_>) {
    let series = source.series;
    let images = reference::of_series(series)
        .iter()
        .map(|object| object.item())
        .collect();
    data.item(tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE, |frame| {
        frame.uid(tags::FRAME_OF_REFERENCE_UID, &series.frame_of_reference_uid);
        frame.item(tags::RT_REFERENCED_STUDY_SEQUENCE, |study| {
            study.put_reference(
                &common::known_uid(DETACHED_STUDY_MANAGEMENT),
                &series.study_instance_uid,
            );
            study.item(tags::RT_REFERENCED_SERIES_SEQUENCE, |item| {
                item.uid(tags::SERIES_INSTANCE_UID, &series.series_instance_uid);
                item.items(tags::CONTOUR_IMAGE_SEQUENCE, images);
            });
        });
    });
}

/// A ROI's contours, and their greatest distance from the voxel edges.
struct Drawn {
    item: DataSet,
    deviation_mm: f64,
}

/// ROI Contour (C.8.8.6). Checks that the polygons hold as much area as the mask has voxels.
fn roi_contour(source: &Source<'_>, planes: &[Plane], n: usize, mask: &Mask) -> Result<Drawn, ResultError> {
    let style = source.style;
    let mut contours = Vec::new();
    let (mut area, mut deviation_mm, mut holes) = (0.0, 0.0f64, false);
    let [i0, j0, k0] = mask.offset;
    let longest_corner = longest_corner(planes, source.series.grid.size);
    let fits = |polygon: &Polygon| polygon.len() * longest_corner <= style.contour_bytes.min(MAX_SHORT_VALUE);
    for (k, slice) in mask.voxels.outer_iter().enumerate() {
        let (plane, instance) = (&planes[k0 + k], &source.series.slices[k0 + k]);
        let placed =
            |polygon: &Polygon| -> Polygon { polygon.iter().map(|[x, y]| [x + i0 as f64, y + j0 as f64]).collect() };
        let outline = contour::outline(
            slice,
            &Drawing {
                holes: style.holes,
                tolerance: Tolerance::new(style.simplify_mm, plane.spacing_mm()),
                fits: &fits,
            },
        );
        deviation_mm = deviation_mm.max(outline.deviation_mm);
        for polygon in outline.contours {
            area += contour::area(&polygon);
            let mut item = DataSet::default();
            item.items(tags::CONTOUR_IMAGE_SEQUENCE, vec![reference::slice(instance).item()]);
            holes |= contour::area(&polygon) < 0.0;
            item.text(tags::NUMBER_OF_CONTOUR_POINTS, polygon.len().to_string());
            item.text(tags::CONTOUR_NUMBER, (contours.len() + 1).to_string());
            item.insert(
                tags::CONTOUR_DATA,
                Value::Bytes(VR::DS, plane.contour_data(&placed(&polygon))),
            );
            contours.push(item);
        }
    }
    if (area - mask.voxel_count() as f64).abs() > 1e-6 * area {
        let (name, voxels) = (mask.structure.name, mask.voxel_count());
        return Err(ResultError::Content(format!(
            "contours of {name} enclose {area} voxels, its mask has {voxels}"
        )));
    }
    // One type per ROI; without holes the plain one, which more receivers read.
    let geometric_type = if holes { "CLOSEDPLANAR_XOR" } else { "CLOSED_PLANAR" };
    let typed = |item: &mut DataSet| item.text(tags::CONTOUR_GEOMETRIC_TYPE, geometric_type);
    contours.iter_mut().for_each(typed);
    let mut item = DataSet::default();
    let [red, green, blue] = style.colour(mask.structure);
    item.text(tags::ROI_DISPLAY_COLOR, format!("{red}\\{green}\\{blue}"));
    item.items(tags::CONTOUR_SEQUENCE, contours);
    item.text(tags::REFERENCED_ROI_NUMBER, (n + 1).to_string());
    Ok(Drawn { item, deviation_mm })
}

/// Bytes that the text of one corner takes at most, anywhere in the stack: what is safe holds wherever a piece is cut.
fn longest_corner(planes: &[Plane], [columns, rows, _]: [usize; 3]) -> usize {
    let (right, bottom) = (columns as f64 - 0.5, rows as f64 - 0.5);
    let edges = [[-0.5, -0.5], [right, -0.5], [-0.5, bottom], [right, bottom]];
    let coordinates = planes
        .iter()
        .flat_map(|plane| edges.map(|edge| plane.point(edge)))
        .flatten();
    let furthest = coordinates.fold(0.0, |most: f64, c| most.max(c.abs()));
    // Sign, whole part, point, decimals and the separator.
    3 * (common::decimal(furthest.trunc(), 0).len() + DECIMALS as usize + 3)
}

/// RT ROI Observations (C.8.8.8).
fn observation(n: usize, mask: &Mask) -> DataSet {
    let mut item = DataSet::default();
    item.text(tags::OBSERVATION_NUMBER, (n + 1).to_string());
    item.text(tags::REFERENCED_ROI_NUMBER, (n + 1).to_string());
    item.item(tags::RTROI_IDENTIFICATION_CODE_SEQUENCE, |code| {
        code.put_code(mask.structure.kind);
        if let Some(side) = mask.structure.laterality {
            code.code(tags::SEGMENTED_PROPERTY_TYPE_MODIFIER_CODE_SEQUENCE, side);
        }
    });
    item.text(tags::RTROI_INTERPRETED_TYPE, mask.structure.role.interpreted_type());
    item.text(tags::ROI_INTERPRETER, "");
    item
}
