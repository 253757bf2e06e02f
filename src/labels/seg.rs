//! Segmentation (PS3.3 A.51) and Label Map Segmentation (Supplement 243) → runs per segment and frame.

use crate::dicom::fields::{Fields, HeaderError};
use crate::dicom::object::Object;
use crate::dicom::scan::Tag;
use crate::labels::frames::{Frames, Run};
use crate::labels::plane::Plane;
use crate::labels::{
    Frame, Kind, Labels, LabelsError, Piece, Region, SERIES_INSTANCE_UID, Shape, coded, common, references,
};
use std::collections::BTreeMap;

/// 200 MB; 104 segments on 200 slices have some four million.
const MAX_RUNS: usize = 1 << 25;
const MAX_SEGMENT_NUMBER: u16 = u16::MAX;

pub fn read<'a>(object: &'a Object<'_>, fields: &Fields<'a>) -> Result<Labels, LabelsError> {
    let kind = match fields.text(0x0062_0001).as_str() {
        "BINARY" => Kind::SegBinary,
        "FRACTIONAL" => Kind::SegFractional,
        "LABELMAP" => Kind::SegLabelMap,
        other => {
            return Err(LabelsError::Unsupported(format!(
                "Segmentation Type {other:?} is not read by this version; export it as BINARY"
            )));
        }
    };
    let mut labels = common(fields, kind);
    for series in fields.items(0x0008_1115)? {
        labels.referenced_series.extend(series.uid(SERIES_INSTANCE_UID));
    }
    let mut at: BTreeMap<u16, usize> = BTreeMap::new();
    for item in fields.items(0x0062_0002)? {
        let number = item.short(0x0062_0004).unwrap_or(0);
        let region = region(&item, number)?;
        let background = region
            .kind
            .as_ref()
            .is_some_and(|kind| kind.value == "125040" && kind.scheme == "DCM");
        if number == 0 || background {
            continue;
        }
        if at.insert(number, labels.regions.len()).is_some() {
            return Err(LabelsError::Malformed(format!(
                "two of its segments have the number {number}"
            )));
        }
        labels.regions.push(region);
    }
    let frames = Frames::of(object, fields)?;
    let groups = Groups {
        shared: fields.item(0x5200_9229)?,
        per_frame: fields.items(0x5200_9230)?,
        size: [frames.columns, frames.rows],
    };
    if groups.per_frame.len() < frames.count {
        return Err(LabelsError::Malformed(format!(
            "it has {} frames, but describes only {}",
            frames.count,
            groups.per_frame.len()
        )));
    }
    if groups.per_frame.len() > frames.count {
        let described = groups.per_frame.len();
        labels.notes.push(format!(
            "{described} frames are described, but only {} are there",
            frames.count
        ));
    }
    for n in 0..frames.count {
        let (frame, step_mm) = groups.frame(n)?;
        labels.frame_step_mm = labels.frame_step_mm.or(step_mm);
        labels.frames.push(frame);
    }
    collect(&mut labels, &frames, &groups, &at, fields)?;
    Ok(labels)
}

/// Fills the regions with the runs of every frame.
fn collect(
    labels: &mut Labels,
    frames: &Frames<'_>,
    groups: &Groups<'_>,
    at: &BTreeMap<u16, usize>,
    fields: &Fields<'_>,
) -> Result<(), LabelsError> {
    let maximum = fields.short(0x0062_000E).unwrap_or(255);
    // A class is the place of a region, counted from one.
    let mut classes = vec![0; usize::from(MAX_SEGMENT_NUMBER) + 1];
    for (number, region) in at {
        classes[usize::from(*number)] = region + 1;
    }
    let by_value = |value: u16| classes[usize::from(value)];
    let mut unknown: BTreeMap<u16, usize> = BTreeMap::new();
    let mut left = MAX_RUNS;
    for n in 0..frames.count {
        let class: Box<dyn Fn(u16) -> usize> = if labels.kind == Kind::SegLabelMap {
            Box::new(by_value)
        } else {
            let number = groups.segment_number(n)?.unwrap_or(0);
            let Some(region) = at.get(&number).copied() else {
                *unknown.entry(number).or_default() += 1;
                continue;
            };
            let fractional = labels.kind == Kind::SegFractional;
            let inside = move |v: u16| v != 0 && (!fractional || u32::from(v) * 2 >= u32::from(maximum));
            Box::new(move |value| if inside(value) { region + 1 } else { 0 })
        };
        let mut found: BTreeMap<usize, Vec<Run>> = BTreeMap::new();
        frames.runs(n, &class, &mut |class, run| {
            left = left.checked_sub(1).ok_or_else(|| {
                LabelsError::Unsupported(format!(
                    "it holds more than {MAX_RUNS} runs of pixels: too many to be organs"
                ))
            })?;
            found.entry(class - 1).or_default().push(run);
            Ok(())
        })?;
        for (region, mut runs) in found {
            runs.shrink_to_fit();
            if let Shape::Pieces(pieces) = &mut labels.regions[region].shape {
                pieces.push(Piece { frame: n, runs });
            }
        }
    }
    let note = |(number, count)| format!("{count} frames of segment {number}, which is not described, are left out");
    labels.notes.extend(unknown.into_iter().map(note));
    Ok(())
}

/// An item of the Segment Sequence.
fn region(item: &Fields<'_>, number: u16) -> Result<Region, HeaderError> {
    let [category, _] = coded(item, 0x0062_0003, 0x0062_0003)?;
    let [kind, side] = coded(item, 0x0062_000F, 0x0062_0011)?;
    // The older way: the same concept again as Anatomic Region, with the side there.
    let [place, side_of_place] = coded(item, 0x0008_2218, 0x0008_2220)?;
    Ok(Region {
        number: number.into(),
        name: item.text(0x0062_0005),
        category,
        laterality: side.or(side_of_place.filter(|_| place == kind)),
        kind,
        made: item.text(0x0062_0008),
        interpreted_type: String::new(),
        frame_of_reference: None,
        shape: Shape::Pieces(Vec::new()),
        notes: Vec::new(),
    })
}

/// The functional groups (PS3.3 C.7.6.16).
struct Groups<'a> {
    shared: Option<Fields<'a>>,
    per_frame: Vec<Fields<'a>>,
    /// Columns, rows.
    size: [usize; 2],
}

impl<'a> Groups<'a> {
    /// The items of a functional group: the frame's own, or the ones all frames share.
    fn group(&self, n: usize, sequence: Tag) -> Result<Vec<Fields<'a>>, HeaderError> {
        let own = self.per_frame[n].items(sequence)?;
        match &self.shared {
            Some(shared) if own.is_empty() => shared.items(sequence),
            _ => Ok(own),
        }
    }

    fn frame(&self, n: usize) -> Result<(Frame, Option<f64>), HeaderError> {
        let first = |sequence| Ok::<_, HeaderError>(self.group(n, sequence)?.into_iter().next());
        let position = first(0x0020_9113)?.and_then(|item| item.decimals(0x0020_0032));
        let orientation = first(0x0020_9116)?.and_then(|item| item.decimals(0x0020_0037));
        let measures = first(0x0028_9110)?;
        let spacing = measures.as_ref().and_then(|item| item.decimals(0x0028_0030));
        let step_mm = measures
            .and_then(|item| item.decimal(0x0018_0088))
            .filter(|mm| *mm > 0.0);
        let mut images = Vec::new();
        for derivation in self.group(n, 0x0008_9124)? {
            images.append(&mut references(&derivation, 0x0008_2112)?);
        }
        let plane = match (position, orientation, spacing) {
            (Some(position), Some(orientation), Some(spacing)) => Plane::new(position, orientation, spacing, self.size),
            _ => None,
        };
        Ok((Frame { plane, images }, step_mm))
    }

    fn segment_number(&self, n: usize) -> Result<Option<u16>, HeaderError> {
        let items = self.group(n, 0x0062_000A)?;
        Ok(items.first().and_then(|item| item.short(0x0062_000B)))
    }
}
