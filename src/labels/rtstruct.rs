//! RT Structure Set (PS3.3 A.19) → closed contours per ROI.

use crate::dicom::fields::Fields;
use crate::geometry::Vec3;
use crate::labels::{
    Contour, FRAME_OF_REFERENCE_UID, Kind, Labels, LabelsError, Region, SERIES_INSTANCE_UID, Shape, coded, common,
    references,
};
use std::collections::BTreeMap;

/// Geometric types that enclose an area. The first two names of the exclusive-or type are both met.
const CLOSED: [&str; 4] = [
    "CLOSED_PLANAR",
    "CLOSEDPLANAR_XOR",
    "CLOSED_PLANAR_XOR",
    "INTERPOLATED_PLANAR",
];
const ROI_NUMBER: u32 = 0x3006_0022;
const REFERENCED_ROI_NUMBER: u32 = 0x3006_0084;

pub fn read(fields: &Fields<'_>) -> Result<Labels, LabelsError> {
    let mut labels = common(fields, Kind::RtStruct);
    for frame in fields.items(0x3006_0010)? {
        labels.frames_of_reference.extend(frame.uid(FRAME_OF_REFERENCE_UID));
        for study in frame.items(0x3006_0012)? {
            for series in study.items(0x3006_0014)? {
                labels.referenced_series.extend(series.uid(SERIES_INSTANCE_UID));
            }
        }
    }
    labels.frames_of_reference.dedup();
    let mut at: BTreeMap<i64, usize> = BTreeMap::new();
    for item in fields.items(0x3006_0020)? {
        let region = region(&item, labels.regions.len());
        if at.insert(region.number, labels.regions.len()).is_some() {
            return Err(LabelsError::Malformed(format!(
                "two of its ROIs have the number {}",
                region.number
            )));
        }
        labels.regions.push(region);
    }
    for item in fields.items(0x3006_0039)? {
        let number = item.integer(REFERENCED_ROI_NUMBER);
        let region = number.and_then(|number| at.get(&number));
        match region.and_then(|at| labels.regions.get_mut(*at)) {
            Some(region) => contours(&item, region)?,
            None => labels.notes.push(match number {
                Some(number) => format!("contours of ROI number {number}, which is not described, are left out"),
                None => "contours that name no ROI number are left out".into(),
            }),
        }
    }
    for item in fields.items(0x3006_0080)? {
        let region = item.integer(REFERENCED_ROI_NUMBER).and_then(|number| at.get(&number));
        if let Some(region) = region.and_then(|at| labels.regions.get_mut(*at)) {
            observe(&item, region)?;
        }
    }
    Ok(labels)
}

/// An item of the Structure Set ROI Sequence; without a number it has that of its place, which nothing else can refer to.
fn region(item: &Fields<'_>, place: usize) -> Region {
    Region {
        number: item.integer(ROI_NUMBER).unwrap_or(-1 - place as i64),
        name: item.text(0x3006_0026),
        category: None,
        kind: None,
        laterality: None,
        made: item.text(0x3006_0036),
        interpreted_type: String::new(),
        frame_of_reference: item.uid(0x3006_0024).ok(),
        shape: Shape::Contours(Vec::new()),
        notes: Vec::new(),
    }
}

/// An item of the ROI Contour Sequence.
fn contours(item: &Fields<'_>, region: &mut Region) -> Result<(), LabelsError> {
    let mut closed = Vec::new();
    let mut passed_over: BTreeMap<String, usize> = BTreeMap::new();
    for contour in item.items(0x3006_0040)? {
        let geometric_type = contour.text(0x3006_0042);
        if !CLOSED.contains(&geometric_type.as_str()) {
            *passed_over.entry(format!("of type {geometric_type:?}")).or_default() += 1;
            continue;
        }
        let points = points(&contour, region)?;
        if points.len() < 3 {
            *passed_over.entry("of fewer than three points".into()).or_default() += 1;
            continue;
        }
        let images = references(&contour, 0x3006_0016)?;
        closed.push(Contour { points, images });
    }
    let note = |(what, count)| format!("{count} contours {what} enclose nothing and are passed over");
    region.notes.extend(passed_over.into_iter().map(note));
    if let Shape::Contours(all) = &mut region.shape {
        all.append(&mut closed);
    }
    Ok(())
}

/// Contour Data; Number of Contour Points is not needed, and wrong in some objects.
fn points(contour: &Fields<'_>, region: &Region) -> Result<Vec<Vec3>, LabelsError> {
    let broken = |problem: &str| {
        let problem = format!("Contour Data (3006,0050) of {} {problem}", region.title());
        LabelsError::Malformed(problem)
    };
    let values = contour
        .all_decimals(0x3006_0050)
        .ok_or_else(|| broken("holds what is no number"))?;
    let (points, rest) = values.as_chunks::<3>();
    if !rest.is_empty() {
        return Err(broken(&format!("holds {} numbers, no multiple of three", values.len())));
    }
    Ok(points.to_vec())
}

/// An item of the RT ROI Observations Sequence.
fn observe(item: &Fields<'_>, region: &mut Region) -> Result<(), LabelsError> {
    let interpreted_type = item.text(0x3006_00A4);
    if !interpreted_type.is_empty() {
        region.interpreted_type = interpreted_type;
    }
    let [kind, laterality] = coded(item, 0x3006_0086, 0x0062_0011)?;
    region.kind = kind.or(region.kind.take());
    region.laterality = laterality.or(region.laterality.take());
    Ok(())
}
