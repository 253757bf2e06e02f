//! Several stacks under one Series Instance UID: phases, reconstructions, orientations. Which slices belong together is taken from
//! what the scanner says of them, never guessed from their order.

use crate::dicom::header::{Instance, PHASE};
use crate::series::rejection::Rejection;
use crate::series::stack::{COSINE_TOLERANCE, Slice, cosine_difference, orientation};
use crate::series::{SetAside, Stack};
use std::collections::{BTreeMap, BTreeSet};

/// More stacks than a four-dimensional scan has phases are no stacks.
const MAX_PARTS: usize = 64;
/// Attributes that together may be needed to tell slices at one place apart, such as kernel and phase.
const MAX_KEYS: usize = 2;

/// Slices that belong together, and what sets them apart from the others.
struct Part<'a> {
    slices: Vec<&'a Instance>,
    said: Vec<String>,
}

impl Part<'_> {
    fn describe(&self) -> String {
        format!("{} slices with {}", self.slices.len(), self.said.join(", "))
    }

    /// How many positions its slices take.
    fn positions(&self) -> usize {
        let positions = self.slices.iter().filter_map(|s| s.image_position).map(hundredths);
        positions.collect::<BTreeSet<_>>().len()
    }

    /// Whether two of its slices claim one position.
    fn repeats(&self) -> bool {
        self.positions() < self.slices.len()
    }

    fn by(&self, keyword: &str, value: impl Fn(&Instance) -> String) -> Vec<Self> {
        let mut groups: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for slice in &self.slices {
            groups.entry(value(slice)).or_default().push(*slice);
        }
        let alone = groups.len() == 1;
        let part = |(value, slices)| {
            let mut said = self.said.clone();
            if !alone {
                said.push(format!("{keyword} {value:?}"));
            }
            Self { slices, said }
        };
        groups.into_iter().map(part).collect()
    }
}

fn hundredths(position: [f64; 3]) -> [i64; 3] {
    position.map(|mm| (mm * 100.0).round() as i64)
}

/// Takes the largest whole and even stack of a mixture; of equals the one acquired first. The others are set aside with their
/// description. The original `rejection` stays when no stack is whole, or the whole one is the lesser part of what came.
pub fn largest<'a>(
    slices: &[&'a Instance],
    set_aside: &mut SetAside<'a>,
    rejection: Rejection,
) -> Result<Stack<'a>, Rejection> {
    let parts = parts(slices);
    let most = parts.iter().map(|part| part.slices.len()).max().unwrap_or(0);
    let mut best: Option<(usize, Stack<'a>, SetAside<'a>)> = None;
    for (n, part) in parts.iter().enumerate() {
        let mut aside = Vec::new();
        let Ok(stack) = Stack::of_one(part.slices.clone(), &mut aside) else {
            continue;
        };
        let better = best.as_ref().is_none_or(|(_, other, _)| {
            let (own, others) = (stack.slices.len(), other.slices.len());
            own > others || own == others && first(&stack.slices) < first(&other.slices)
        });
        if stack.uneven.is_none() && better {
            best = Some((n, stack, aside));
        }
    }
    let Some((chosen, mut stack, aside)) =
        best.filter(|(_, stack, _)| parts.len() > 1 && 2 * stack.slices.len() > most)
    else {
        return Err(rejection);
    };
    set_aside.extend(aside);
    let mut left_out = Vec::new();
    for (_, part) in parts.iter().enumerate().filter(|(n, _)| *n != chosen) {
        let why = format!("it belongs to another stack of the series: {}", part.describe());
        set_aside.extend(part.slices.iter().map(|slice| (*slice, why.clone())));
        left_out.push(part.describe());
    }
    stack.remarks.push(format!(
        "the series holds {} stacks; outlined is the one of {}, left out: {}",
        parts.len(),
        parts[chosen].describe(),
        left_out.join("; ")
    ));
    Ok(stack)
}

/// What is acquired first is numbered lowest.
fn first(slices: &[Slice<'_>]) -> Option<impl Ord + use<>> {
    let rank = |slice: &Slice<'_>| {
        let one = slice.instance;
        let uid = one.sop_instance_uid.clone();
        (one.acquisition_number, one.instance_number, one.frame_number, uid)
    };
    slices.iter().map(rank).min()
}

fn parts<'a>(slices: &[&'a Instance]) -> Vec<Part<'a>> {
    let whole = Part {
        slices: slices.to_vec(),
        said: Vec::new(),
    };
    let matrix = |slice: &Instance| {
        let [rows, columns] = slice.pixel_spacing_mm.unwrap_or_default();
        format!(
            "{} × {} pixels of {rows:.3} × {columns:.3} mm",
            slice.columns, slice.rows
        )
    };
    let by_matrix = whole.by("a matrix of", matrix);
    let by_orientation = by_matrix.iter().flat_map(by_orientation);
    by_orientation.flat_map(|part| by_phase(part, MAX_KEYS)).collect()
}

fn by_orientation<'a>(part: &Part<'a>) -> Vec<Part<'a>> {
    let mut known = Vec::new();
    let mut cluster = BTreeMap::new();
    for slice in &part.slices {
        let Ok(own) = orientation(slice) else { continue };
        let near = known
            .iter()
            .position(|other| cosine_difference(&own, other) <= COSINE_TOLERANCE);
        let n = near.unwrap_or_else(|| {
            known.push(own);
            known.len() - 1
        });
        let image = known[n]
            .as_flattened()
            .iter()
            .map(|c| format!("{c:.3}"))
            .collect::<Vec<_>>();
        cluster.insert((&slice.sop_instance_uid, slice.frame_number), image.join("\\"));
    }
    let of = |slice: &Instance| cluster.get(&(&slice.sop_instance_uid, slice.frame_number)).cloned();
    part.by("ImageOrientationPatient", |slice| of(slice).unwrap_or_default())
}

/// Splits slices that repeat positions by the first attribute that explains it, or by two.
fn by_phase(part: Part<'_>, keys: usize) -> Vec<Part<'_>> {
    if keys == 0 || !part.repeats() {
        return vec![part];
    }
    let plain =
        |keyword: &'static str| move |slice: &Instance| slice.matchable.get(keyword).cloned().unwrap_or_default();
    let phase = |keyword: &'static str| move |slice: &Instance| slice.phase.get(keyword).cloned().unwrap_or_default();
    let acquisition = |slice: &Instance| slice.acquisition_number.map_or(String::new(), |n| n.to_string());
    let mut splits = vec![
        part.by("StackID", phase("StackID")),
        part.by("ImageType", |slice| slice.image_type.join("\\")),
        part.by("ConvolutionKernel", plain("ConvolutionKernel")),
        part.by("TemporalPositionIndex", phase("TemporalPositionIndex")),
        part.by("AcquisitionNumber", acquisition),
    ];
    splits.extend(PHASE.iter().map(|(_, keyword)| part.by(keyword, phase(keyword))));
    // A phase shows nearly every place: what falls to pieces is numbered by rotation or by slice, and no piece stands for the whole.
    let positions = part.positions();
    let shows_most = |parts: &Vec<Part<'_>>| parts.iter().any(|part| 5 * part.slices.len() >= 4 * positions);
    splits.retain(|parts| (2..=MAX_PARTS).contains(&parts.len()) && shows_most(parts));
    // One attribute that explains all beats two that do so together.
    if let Some(n) = splits.iter().position(|parts| !parts.iter().any(Part::repeats)) {
        return splits.swap_remove(n);
    }
    let further = splits
        .into_iter()
        .map(|parts| parts.into_iter().flat_map(|p| by_phase(p, keys - 1)).collect());
    let explained = further
        .into_iter()
        .find(|parts: &Vec<Part<'_>>| !parts.iter().any(Part::repeats));
    explained.unwrap_or(vec![part])
}
