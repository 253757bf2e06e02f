//! The geometry of a stack of slices: each check either passes it on or names what is wrong where.

use crate::dicom::header::Instance;
use crate::geometry::{Grid, Vec3, dot, norm, sub};
use crate::series::rejection::{Rejection, SliceName};
use crate::series::{SetAside, Uneven, missing};

/// Orientations closer than this, cosine by cosine, are the same: a quarter of a millimetre across half a body.
pub const COSINE_TOLERANCE: f64 = 1e-3;
/// A picture turned further than this is no slice of the stack, but one of it.
const ACROSS_DEG: f64 = 45.0;
const SAME_POSITION_MM: f64 = 0.01;
/// A step this much wider than usual looks like a lost slice.
const GAP_FACTOR: f64 = 1.5;
/// The widest step that is bridged: two lost slices, and no more than the thickest slices in use.
const MAX_STEP_FACTOR: f64 = 3.0;
pub const MAX_STEP_MM: f64 = 10.0;
/// An even stack has at most this many times the slices that came.
const MAX_GROWTH: usize = 4;
const JITTER_MM: f64 = 0.1;
const JITTER_FRACTION: f64 = 0.01;
/// How far a slice may lie from its place on the even grid: positions are stored rounded.
const OFF_STACK_MM: f64 = 0.3;
/// 2 GiB of 16-bit HU.
const MAX_VOXELS: usize = 1 << 30;

/// A slice with what it is ordered by.
pub struct Slice<'a> {
    pub instance: &'a Instance,
    pub position: Vec3,
    /// Position along the slice normal.
    pub along_mm: f64,
}

impl Slice<'_> {
    fn name(&self) -> SliceName {
        SliceName::of(self.instance)
    }
}

/// Row and column cosine, made exactly orthonormal.
pub fn orientation(instance: &Instance) -> Result<[Vec3; 2], Rejection> {
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
pub fn one_orientation<'a>(
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
        if !few || angle_deg < ACROSS_DEG {
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

pub fn cosine_difference(a: &[Vec3; 2], b: &[Vec3; 2]) -> f64 {
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

pub fn same_frame_and_matrix(slices: &[&Instance]) -> Result<(), Rejection> {
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

pub fn ordered<'a>(slices: &[&'a Instance], normal: Vec3) -> Result<Vec<Slice<'a>>, Rejection> {
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
            slice.instance.frame_number,
        )
    };
    ordered.sort_by(|a, b| a.along_mm.total_cmp(&b.along_mm).then_with(|| rank(a).cmp(&rank(b))));
    Ok(ordered)
}

/// Sets lone repeats aside, keeping the lowest instance number. Many repeats, or repeats of another acquisition, are another
/// phase: taking one slice of each position would mix them.
pub fn distinct_positions<'a>(
    slices: Vec<Slice<'a>>,
    set_aside: &mut SetAside<'a>,
) -> Result<Vec<Slice<'a>>, Rejection> {
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

/// How far apart slices lie along the normal.
pub struct Steps {
    /// The median; of two middles the lower, for the wider step is the suspect one.
    pub usual_mm: f64,
    /// A step that few are narrower than.
    narrow_mm: f64,
    pub even: bool,
}

impl Steps {
    fn tolerance_mm(&self) -> f64 {
        JITTER_MM.max(JITTER_FRACTION * self.usual_mm)
    }
}

/// The steps of a stack, unless one of them is too wide to be bridged.
pub fn steps(slices: &[Slice]) -> Result<Steps, Rejection> {
    if slices.len() < 2 {
        return Err(Rejection::TooFewSlices {
            count: slices.len(),
            min: 2,
        });
    }
    let step_mm = |pair: &[Slice]| pair[1].along_mm - pair[0].along_mm;
    let mut sorted: Vec<f64> = slices.windows(2).map(step_mm).collect();
    sorted.sort_by(f64::total_cmp);
    let mut steps = Steps {
        usual_mm: sorted[(sorted.len() - 1) / 2],
        narrow_mm: sorted[(sorted.len() - 1) / 10],
        even: false,
    };
    let (usual, tolerance) = (steps.usual_mm, steps.tolerance_mm());
    steps.even = sorted.iter().all(|mm| (mm - usual).abs() <= tolerance);
    if steps.even {
        return Ok(steps);
    }
    let widest_mm = (MAX_STEP_FACTOR * usual).min(MAX_STEP_MM) + tolerance;
    if sorted[sorted.len() - 1] <= widest_mm {
        return Ok(steps);
    }
    // Of the steps that are too wide, the first that is not the usual one.
    let odd = |pair: &&[Slice]| step_mm(pair) > widest_mm && (step_mm(pair) - usual).abs() > tolerance;
    let widest = |a: &&[Slice], b: &&[Slice]| step_mm(a).total_cmp(&step_mm(b));
    let pair = slices.windows(2).find(odd).or_else(|| slices.windows(2).max_by(widest));
    let pair = pair.expect("two slices at least");
    let (below, above) = (pair[0].name(), pair[1].name());
    let (below_mm, above_mm) = (pair[0].along_mm, pair[1].along_mm);
    if step_mm(pair) > GAP_FACTOR * usual {
        return Err(Rejection::Gap {
            below,
            below_mm,
            above,
            above_mm,
            gap_mm: step_mm(pair),
            spacing_mm: usual,
        });
    }
    Err(Rejection::Uneven {
        below,
        below_mm,
        above,
        above_mm,
        step_mm: step_mm(pair),
        spacing_mm: usual,
    })
}

/// An even grid over an uneven stack, as fine as its narrower steps: a stack that only lost slices keeps its own places.
pub fn even_grid(slices: &[Slice], grid: &Grid, steps: Steps) -> Result<Uneven, Rejection> {
    let length_mm = grid.spacing_mm[2] * (slices.len() - 1) as f64;
    let along_mm = |slice: &Slice| slice.along_mm - slices[0].along_mm;
    let height_mm = along_mm(&slices[slices.len() - 1]);
    let pitch = (height_mm / steps.narrow_mm - 0.05).ceil().max(1.0) as usize;
    let count = (pitch + 1).min(MAX_GROWTH * slices.len());
    let per_mm = (count - 1) as f64 / height_mm;
    let mut even = grid_of(&slices[0], grid.directions, length_mm / (count - 1) as f64, count)?;
    even.origin = grid.origin;
    Ok(Uneven {
        grid: even,
        at: slices.iter().map(|slice| along_mm(slice) * per_mm).collect(),
        gaps: gaps(slices, steps.usual_mm),
    })
}

/// Steps much wider than usual and than one beside them. Where the spacing changes on purpose, only the first step looks so.
fn gaps(slices: &[Slice], usual_mm: f64) -> Vec<(usize, String)> {
    let steps: Vec<f64> = slices
        .windows(2)
        .map(|pair| pair[1].along_mm - pair[0].along_mm)
        .collect();
    let mut gaps = Vec::new();
    for (k, step_mm) in steps.iter().enumerate() {
        let beside = [k.wrapping_sub(1), k + 1].map(|n| steps.get(n).copied().unwrap_or(f64::INFINITY));
        let narrower_mm = usual_mm.max(beside[0].min(beside[1]).min(*step_mm));
        if *step_mm > GAP_FACTOR * narrower_mm {
            let [below, above] = [&slices[k], &slices[k + 1]];
            gaps.push((
                k,
                format!(
                    "{step_mm:.2} mm instead of {usual_mm:.2} mm between {} at {:.2} mm and {} at {:.2} mm: slices may be lost there",
                    below.name(),
                    below.along_mm,
                    above.name(),
                    above.along_mm
                ),
            ));
        }
    }
    gaps
}

/// Checks each slice against its place on the line from first to last, and along it where the slices lie evenly, which is where
/// the grid will put it.
pub fn on_one_line(slices: &[Slice], step: Vec3, length_mm: f64, even: bool) -> Result<(), Rejection> {
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
            if off_mm > OFF_STACK_MM && (even || direction == "beside") {
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

pub fn grid_of(first: &Slice, directions: [Vec3; 3], step_mm: f64, count: usize) -> Result<Grid, Rejection> {
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
