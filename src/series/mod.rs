//! Instances → one closed, ordered, eligible series, or a [`Rejection`] that names the slice and the number.
//!
//! Everything is decided by the geometry attributes of PS3.3 C.7.6.2. Slice Thickness, Instance Number and Patient Position
//! order nothing, because scanners and archives set them as they please.

mod rejection;

pub use crate::series::rejection::{Rejection, SliceName};

use crate::dicom::header::Instance;
use crate::dicom::uid::Uid;
use crate::geometry::{Grid, Vec3, cross, dot, norm, sub};
use std::collections::BTreeSet;

/// What a protocol asks of a series before it is worth computing on.
#[derive(Clone, Debug)]
pub struct Requirements {
    pub min_slices: usize,
    pub min_extent_mm: f64,
}

/// The slices of one volume, ordered from grid k = 0 upwards, duplicates and scouts removed.
#[derive(Clone, Debug)]
pub struct Series {
    pub study_instance_uid: Uid,
    pub series_instance_uid: Uid,
    pub frame_of_reference_uid: Uid,
    /// `slices[k]` is the slice at grid index k. The SEG and RTSTRUCT copy their plane geometry from here.
    pub slices: Vec<Instance>,
    /// Directions are Image Orientation's; along k the direction from the first to the last slice, so that a tilted stack stays true.
    pub grid: Grid,
    /// Instances that were left out, with the reason (localizer, exact duplicate, …).
    pub set_aside: Vec<(Uid, String)>,
}

/// How whole a series looks while more of it may still come.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Slices that form the stack; all instances when they form none.
    pub slices: usize,
    /// 0 when they form no stack.
    pub extent_mm: f64,
    /// The instances at hand form one even stack without a gap.
    pub gap_free: bool,
    /// `gap_free`, and the protocol's requirements are met.
    pub sufficient: bool,
    pub why: String,
}

const CT_IMAGE_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.2";
/// Enhanced CT and Legacy Converted Enhanced CT.
const MULTI_FRAME_CT: [&str; 2] = ["1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"];
/// Image Type values of pictures that are no slices. GE writes SCREEN SAVE, Siemens protocol pages CT_SOM5 PROT and the like.
const NOT_SLICES: &[&str] = &[
    "LOCALIZER",
    "MIP",
    "MINIP",
    "PROJECTION IMAGE",
    "SCREEN SAVE",
    "DOSE",
    "DOSE_INFO",
    "CT_SOM5 PROT",
    "CT_SOM7 PROT",
];
const HOUNSFIELD: &[&str] = &["", "HU", "HU_MOD", "US"];
/// Orientations closer than this, cosine by cosine, are the same: a quarter of a millimetre across half a body.
const COSINE_TOLERANCE: f64 = 1e-3;
const MAX_OFF_AXIAL_DEG: f64 = 45.0;
/// Gantries tilt by up to 30 degrees.
const MAX_TILT_DEG: f64 = 30.5;
const SAME_POSITION_MM: f64 = 0.01;
const GAP_FACTOR: f64 = 1.5;
const JITTER_MM: f64 = 0.1;
const JITTER_FRACTION: f64 = 0.01;
/// How far a slice may lie from its place on the even grid: positions are stored rounded.
const OFF_STACK_MM: f64 = 0.3;
/// 2 GiB of 16-bit HU.
const MAX_VOXELS: usize = 1 << 30;

/// Orders and checks the instances of one series instance UID. Independent of their order of arrival.
pub fn assemble(instances: Vec<Instance>, requirements: &Requirements) -> Result<Series, Rejection> {
    let stack = Stack::arrange(&instances)?;
    stack.satisfy(requirements)?;
    let first = stack.slices[0].instance;
    let frame_of_reference_uid = first
        .frame_of_reference_uid
        .clone()
        .ok_or_else(|| missing(first, "FrameOfReferenceUID"))?;
    Ok(Series {
        study_instance_uid: first.study_instance_uid.clone(),
        series_instance_uid: first.series_instance_uid.clone(),
        frame_of_reference_uid,
        slices: stack.slices.iter().map(|slice| slice.instance.clone()).collect(),
        grid: stack.grid,
        set_aside: stack
            .set_aside
            .into_iter()
            .map(|(instance, why)| (instance.sop_instance_uid.clone(), why))
            .collect(),
    })
}

/// What [`assemble`] would say now, without making the series. Cheap: headers only, n log n.
pub fn evidence(instances: &[Instance], requirements: &Requirements) -> Evidence {
    match Stack::arrange(instances) {
        Ok(stack) => {
            let short = stack.satisfy(requirements).err();
            let why = match &short {
                Some(rejection) => rejection.to_string(),
                None => format!(
                    "an even stack of {} slices over {:.1} mm",
                    stack.slices.len(),
                    stack.extent_mm
                ),
            };
            let (slices, extent_mm) = (stack.slices.len(), stack.extent_mm);
            Evidence {
                slices,
                extent_mm,
                gap_free: true,
                sufficient: short.is_none(),
                why,
            }
        }
        Err(rejection) => Evidence {
            slices: instances.len(),
            extent_mm: 0.0,
            gap_free: false,
            sufficient: false,
            why: rejection.to_string(),
        },
    }
}

/// A slice with what it is ordered by.
struct Slice<'a> {
    instance: &'a Instance,
    position: Vec3,
    /// Position along the slice normal.
    along_mm: f64,
}

impl Slice<'_> {
    fn name(&self) -> SliceName {
        SliceName::of(self.instance)
    }
}

type SetAside<'a> = Vec<(&'a Instance, String)>;

struct Stack<'a> {
    slices: Vec<Slice<'a>>,
    grid: Grid,
    extent_mm: f64,
    set_aside: SetAside<'a>,
}

impl<'a> Stack<'a> {
    fn arrange(instances: &'a [Instance]) -> Result<Self, Rejection> {
        let mut set_aside = Vec::new();
        let slices = usable(instances, &mut set_aside)?;
        let (slices, [row, column]) = one_orientation(slices, &mut set_aside)?;
        same_frame_and_matrix(&slices)?;
        let normal = cross(row, column);
        let angle_deg = normal[2].abs().clamp(0.0, 1.0).acos().to_degrees();
        if angle_deg > MAX_OFF_AXIAL_DEG {
            return Err(Rejection::NotAxial {
                angle_deg,
                limit_deg: MAX_OFF_AXIAL_DEG,
            });
        }
        let slices = distinct_positions(ordered(&slices, normal)?, &mut set_aside)?;
        let spacing_mm = even_steps(&slices)?;
        let (first, last) = (&slices[0], &slices[slices.len() - 1]);
        let way = sub(last.position, first.position);
        let length = norm(way);
        let step = way.map(|c| c / length);
        on_one_line(&slices, step, length)?;
        let tilt_deg = dot(step, normal).clamp(-1.0, 1.0).acos().to_degrees();
        if tilt_deg > MAX_TILT_DEG {
            return Err(Rejection::Tilt {
                tilt_deg,
                limit_deg: MAX_TILT_DEG.floor(),
            });
        }
        let extent_mm = last.along_mm - first.along_mm + spacing_mm;
        let grid = grid_of(
            first,
            [row, column, step],
            length / (slices.len() - 1) as f64,
            slices.len(),
        )?;
        Ok(Self {
            slices,
            grid,
            extent_mm,
            set_aside,
        })
    }

    fn satisfy(&self, requirements: &Requirements) -> Result<(), Rejection> {
        let (count, min) = (self.slices.len(), requirements.min_slices);
        if count < min {
            return Err(Rejection::TooFewSlices { count, min });
        }
        if self.extent_mm < requirements.min_extent_mm {
            return Err(Rejection::TooShort {
                extent_mm: self.extent_mm,
                min_mm: requirements.min_extent_mm,
            });
        }
        Ok(())
    }
}

fn missing(instance: &Instance, keyword: &'static str) -> Rejection {
    Rejection::MissingAttribute {
        slice: SliceName::of(instance),
        keyword,
    }
}

/// The CT slices among the instances, in an order that does not depend on arrival.
fn usable<'a>(instances: &'a [Instance], set_aside: &mut SetAside<'a>) -> Result<Vec<&'a Instance>, Rejection> {
    let mut all: Vec<&Instance> = instances.iter().collect();
    all.sort_by(|a, b| (&a.sop_instance_uid, &a.path).cmp(&(&b.sop_instance_uid, &b.path)));
    let first = *all.first().ok_or(Rejection::Empty)?;
    if let Some(other) = all
        .iter()
        .find(|other| other.series_instance_uid != first.series_instance_uid)
    {
        let (a, b) = (first.series_instance_uid.clone(), other.series_instance_uid.clone());
        return Err(Rejection::SeveralSeries(a.clone().min(b.clone()), a.max(b)));
    }
    let mut seen = BTreeSet::new();
    let mut slices = Vec::new();
    for instance in all {
        match no_slice(instance) {
            Some(why) => set_aside.push((instance, why)),
            None if !seen.insert(&instance.sop_instance_uid) => {
                set_aside.push((instance, "came more than once".into()))
            }
            None => slices.push(instance),
        }
    }
    if slices.is_empty() {
        let (instance, why) = &set_aside[0];
        let example = format!("{}: {why}", SliceName::of(instance));
        return Err(Rejection::NothingUsable {
            count: set_aside.len(),
            example,
        });
    }
    for instance in &slices {
        complete(instance)?;
    }
    Ok(slices)
}

fn no_slice(instance: &Instance) -> Option<String> {
    let class = instance.sop_class_uid.as_str();
    if class != CT_IMAGE_STORAGE && !MULTI_FRAME_CT.contains(&class) {
        return Some(format!("its SOP class {class} is not CT Image Storage"));
    }
    if instance.modality != "CT" {
        return Some(format!("its modality is {:?}, not CT", instance.modality));
    }
    if let Some(kind) = instance
        .image_type
        .iter()
        .find(|kind| NOT_SLICES.contains(&kind.as_str()))
    {
        return Some(format!("its Image Type says {kind}"));
    }
    (instance.samples_per_pixel != 1).then(|| "it is a colour picture".into())
}

/// Checks what every slice must say for itself.
fn complete(instance: &Instance) -> Result<(), Rejection> {
    if instance.number_of_frames > 1 || MULTI_FRAME_CT.contains(&instance.sop_class_uid.as_str()) {
        let slice = SliceName::of(instance);
        return Err(Rejection::MultiFrame {
            slice,
            frames: instance.number_of_frames,
        });
    }
    let spacing_fine = instance
        .pixel_spacing_mm
        .is_some_and(|spacing| spacing.iter().all(|mm| *mm > 0.0));
    let required = [
        (instance.frame_of_reference_uid.is_some(), "FrameOfReferenceUID"),
        (instance.image_position.is_some(), "ImagePositionPatient"),
        (instance.image_orientation.is_some(), "ImageOrientationPatient"),
        (spacing_fine, "PixelSpacing"),
        (instance.rows > 0, "Rows"),
        (instance.columns > 0, "Columns"),
        (instance.rescale_slope.is_some_and(|slope| slope != 0.0), "RescaleSlope"),
        (instance.rescale_intercept.is_some(), "RescaleIntercept"),
    ];
    if let Some((_, keyword)) = required.into_iter().find(|(there, _)| !there) {
        return Err(missing(instance, keyword));
    }
    if !HOUNSFIELD.contains(&instance.rescale_type.as_str()) {
        let rescale_type = format!("{:?}", instance.rescale_type);
        return Err(Rejection::NotHounsfield {
            slice: SliceName::of(instance),
            rescale_type,
        });
    }
    Ok(())
}

/// Row and column cosine, made exactly orthonormal.
fn orientation(instance: &Instance) -> Result<[Vec3; 2], Rejection> {
    let [a, b, c, d, e, f] = instance
        .image_orientation
        .ok_or_else(|| missing(instance, "ImageOrientationPatient"))?;
    let (row, column) = ([a, b, c], [d, e, f]);
    let (row_length, column_length) = (norm(row), norm(column));
    let between = dot(row, column);
    if (row_length - 1.0).abs() > 0.01 || (column_length - 1.0).abs() > 0.01 || between.abs() > 0.002 {
        let slice = SliceName::of(instance);
        return Err(Rejection::BadOrientation {
            slice,
            row: row_length,
            column: column_length,
            between,
        });
    }
    let row = row.map(|x| x / row_length);
    let lean = dot(row, column);
    let column = [0, 1, 2].map(|x| column[x] - lean * row[x]);
    let length = norm(column);
    Ok([row, column.map(|x| x / length)])
}

/// Keeps the orientation that nearly all slices have. A few that stand across it are scouts nobody marked; anything subtler
/// is refused, for nobody could say which slices are right.
fn one_orientation<'a>(
    slices: Vec<&'a Instance>,
    set_aside: &mut SetAside<'a>,
) -> Result<(Vec<&'a Instance>, [Vec3; 2]), Rejection> {
    let mut groups: Vec<([Vec3; 2], Vec<&Instance>)> = Vec::new();
    for &instance in &slices {
        let own = orientation(instance)?;
        match groups
            .iter_mut()
            .find(|(other, _)| cosine_difference(&own, other) <= COSINE_TOLERANCE)
        {
            Some((_, members)) => members.push(instance),
            None => groups.push((own, vec![instance])),
        }
        if groups.len() > 16 {
            break;
        }
    }
    // The first of equals, so that the choice does not depend on arrival.
    groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    let odd: usize = groups[1..].iter().map(|(_, members)| members.len()).sum();
    let (main, members) = groups.remove(0);
    let few = members.len() >= 3 && odd <= (slices.len() / 20).max(2);
    for (other, others) in groups {
        let angle_deg = turn_deg(&main, &other);
        if !few || angle_deg < MAX_OFF_AXIAL_DEG {
            return Err(Rejection::MixedOrientation {
                first: SliceName::of(members[0]),
                second: SliceName::of(others[0]),
                angle_deg,
                cosine_difference: cosine_difference(&main, &other),
                odd,
                count: slices.len(),
            });
        }
        let why = format!("it stands {angle_deg:.0} degrees across the other slices, as a scout does");
        set_aside.extend(others.into_iter().map(|instance| (instance, why.clone())));
    }
    Ok((members, main))
}

fn cosine_difference(a: &[Vec3; 2], b: &[Vec3; 2]) -> f64 {
    a.as_flattened()
        .iter()
        .zip(b.as_flattened())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// The larger of the angles between the row and between the column directions.
fn turn_deg(a: &[Vec3; 2], b: &[Vec3; 2]) -> f64 {
    let angle = |x: Vec3, y: Vec3| dot(x, y).clamp(-1.0, 1.0).acos().to_degrees();
    angle(a[0], b[0]).max(angle(a[1], b[1]))
}

fn same_frame_and_matrix(slices: &[&Instance]) -> Result<(), Rejection> {
    let first = slices[0];
    for other in &slices[1..] {
        if let (Some(a), Some(b)) = (&first.frame_of_reference_uid, &other.frame_of_reference_uid)
            && a != b
        {
            return Err(Rejection::MixedFrameOfReference {
                first: SliceName::of(first),
                first_uid: a.clone(),
                second: SliceName::of(other),
                second_uid: b.clone(),
            });
        }
        let mixed = |what, a: String, b: String| Rejection::Mixed {
            what,
            first: SliceName::of(first),
            second: SliceName::of(other),
            values: format!("{a} and {b}"),
        };
        if (first.rows, first.columns) != (other.rows, other.columns) {
            let matrix = |one: &Instance| format!("{} rows × {} columns", one.rows, one.columns);
            return Err(mixed("matrix", matrix(first), matrix(other)));
        }
        if let (Some(a), Some(b)) = (first.pixel_spacing_mm, other.pixel_spacing_mm)
            && (0..2).any(|axis| (a[axis] - b[axis]).abs() > 1e-4 * a[axis])
        {
            return Err(mixed(
                "Pixel Spacing",
                format!("{} \\ {} mm", a[0], a[1]),
                format!("{} \\ {} mm", b[0], b[1]),
            ));
        }
    }
    Ok(())
}

fn ordered<'a>(slices: &[&'a Instance], normal: Vec3) -> Result<Vec<Slice<'a>>, Rejection> {
    let mut ordered = Vec::with_capacity(slices.len());
    for &instance in slices {
        let position = instance
            .image_position
            .ok_or_else(|| missing(instance, "ImagePositionPatient"))?;
        ordered.push(Slice {
            instance,
            position,
            along_mm: dot(position, normal),
        });
    }
    let rank = |slice: &Slice<'a>| {
        (
            slice.instance.instance_number.unwrap_or(i64::MAX),
            &slice.instance.sop_instance_uid,
        )
    };
    ordered.sort_by(|a, b| a.along_mm.total_cmp(&b.along_mm).then_with(|| rank(a).cmp(&rank(b))));
    Ok(ordered)
}

/// Sets lone repeats aside, keeping the lowest instance number. Many repeats, or repeats of another acquisition, are another
/// phase: taking one slice of each position would mix them.
fn distinct_positions<'a>(slices: Vec<Slice<'a>>, set_aside: &mut SetAside<'a>) -> Result<Vec<Slice<'a>>, Rejection> {
    let count = slices.len();
    let mut kept: Vec<Slice> = Vec::with_capacity(count);
    let mut repeats: Vec<(usize, Slice)> = Vec::new();
    for slice in slices {
        match kept.last_mut() {
            Some(last) if slice.along_mm - last.along_mm < SAME_POSITION_MM => {
                let number = |one: &Slice| one.instance.instance_number.unwrap_or(i64::MAX);
                let later = if number(&slice) < number(last) {
                    std::mem::replace(last, slice)
                } else {
                    slice
                };
                repeats.push((kept.len() - 1, later));
            }
            _ => kept.push(slice),
        }
    }
    if kept.len() == 1 && count > 1 {
        return Err(Rejection::SamePosition {
            count,
            at_mm: kept[0].along_mm,
        });
    }
    let another = |(of, repeat): &&(usize, Slice)| {
        let kept = &kept[*of];
        kept.instance.acquisition_number != repeat.instance.acquisition_number
            || norm(sub(kept.position, repeat.position)) > JITTER_MM
    };
    let many = repeats.len() > (kept.len() / 20).max(2);
    if let Some((of, repeat)) = repeats.iter().find(another).or(repeats.first().filter(|_| many)) {
        return Err(Rejection::RepeatedPositions {
            extra: repeats.len(),
            count,
            first: kept[*of].name(),
            second: repeat.name(),
            at_mm: kept[*of].along_mm,
        });
    }
    for (of, repeat) in repeats {
        set_aside.push((
            repeat.instance,
            format!("it repeats the position of {}", kept[of].name()),
        ));
    }
    Ok(kept)
}

/// The median distance along the normal, when all distances are that.
fn even_steps(slices: &[Slice]) -> Result<f64, Rejection> {
    if slices.len() < 2 {
        return Err(Rejection::TooFewSlices {
            count: slices.len(),
            min: 2,
        });
    }
    let mut steps: Vec<f64> = slices
        .windows(2)
        .map(|pair| pair[1].along_mm - pair[0].along_mm)
        .collect();
    steps.sort_by(f64::total_cmp);
    // The lower of two middles: the wider step is the suspect one.
    let spacing_mm = steps[(steps.len() - 1) / 2];
    let tolerance_mm = JITTER_MM.max(JITTER_FRACTION * spacing_mm);
    let uneven = |pair: &&[Slice]| (pair[1].along_mm - pair[0].along_mm - spacing_mm).abs() > tolerance_mm;
    let gap = |pair: &&[Slice]| uneven(pair) && pair[1].along_mm - pair[0].along_mm > GAP_FACTOR * spacing_mm;
    if let Some(pair) = slices.windows(2).find(gap) {
        return Err(Rejection::Gap {
            below: pair[0].name(),
            below_mm: pair[0].along_mm,
            above: pair[1].name(),
            above_mm: pair[1].along_mm,
            gap_mm: pair[1].along_mm - pair[0].along_mm,
            spacing_mm,
        });
    }
    if let Some(pair) = slices.windows(2).find(uneven) {
        return Err(Rejection::Uneven {
            below: pair[0].name(),
            below_mm: pair[0].along_mm,
            above: pair[1].name(),
            above_mm: pair[1].along_mm,
            step_mm: pair[1].along_mm - pair[0].along_mm,
            spacing_mm,
        });
    }
    Ok(spacing_mm)
}

/// Checks each slice against its place on the even line from first to last, which is where the grid will put it.
fn on_one_line(slices: &[Slice], step: Vec3, length_mm: f64) -> Result<(), Rejection> {
    let origin = slices[0].position;
    for (k, slice) in slices.iter().enumerate() {
        let way = sub(slice.position, origin);
        let along = dot(way, step) - length_mm * k as f64 / (slices.len() - 1) as f64;
        let beside = (dot(way, way) - dot(way, step).powi(2)).max(0.0).sqrt();
        for (off_mm, direction) in [
            (beside, "beside"),
            (along.max(0.0), "ahead"),
            ((-along).max(0.0), "short"),
        ] {
            if off_mm > OFF_STACK_MM {
                return Err(Rejection::OffStack {
                    slice: slice.name(),
                    off_mm,
                    direction,
                });
            }
        }
    }
    Ok(())
}

fn grid_of(first: &Slice, directions: [Vec3; 3], step_mm: f64, count: usize) -> Result<Grid, Rejection> {
    let instance = first.instance;
    let [between_rows, between_columns] = instance
        .pixel_spacing_mm
        .ok_or_else(|| missing(instance, "PixelSpacing"))?;
    let (rows, columns) = (instance.rows, instance.columns);
    if rows.saturating_mul(columns).saturating_mul(count) > MAX_VOXELS {
        return Err(Rejection::TooLarge {
            columns,
            rows,
            slices: count,
        });
    }
    Ok(Grid {
        origin: first.position.into(),
        directions,
        spacing_mm: [between_columns, between_rows, step_mm],
        size: [columns, rows, count],
    })
}
