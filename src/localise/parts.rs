//! The parts of a structure along z (SPL): where each lies and how wide it is there.
//!
//! Six faces say little about a winding structure: the widest place of an aorta is its arch, that of a spinal cord the neck. So
//! every part of every template has a body coordinate and features of its own, is carried to where they say it lies here, and is
//! recognised within its slice.

use crate::geometry::{Box3, Vec3, sub};
use crate::localise::align::Alignment;
use crate::localise::bank::{Landmark, Part, Pattern};
use crate::localise::boxes::Framed;
use crate::localise::canonical::Observation;
use crate::localise::coarse;
use crate::localise::search::{Search, median};
use crate::localise::{Face, Section};

/// Thickness of the parts we give, millimetres.
const SECTION_MM: f64 = 6.0;
/// How far beyond a template's last part its bounds still speak.
const SECTION_REACH_MM: f64 = 8.0;
/// Parts on either side of one that have a say in its shift.
const NEIGHBOURS: usize = 2;
/// Parts are widened or narrowed to the box by this factor at most.
const MAX_STRETCH: f64 = 1.5;
/// How far from its expected place the middle of a part is looked for in its slice, and where that begins to cost.
const LOOK_MM: f64 = 18.0;
const LOOK_SIGMA_MM: f64 = 12.0;
const LOOK_COST: f32 = 0.02;
/// The look may not leave its slice: features of a spine repeat from vertebra to vertebra.
const SLICE_SIGMA_MM: f64 = 4.0;

/// A template's part, carried into the patient at hand.
struct Laid<'a> {
    /// Middle of the part, `[x, y, z]`.
    at: Vec3,
    /// Half its extent in x and y.
    half: [f64; 2],
    part: &'a Part,
}

/// The visible part along z, cut into parts. Empty when no template has parts.
pub fn sections(
    search: &Search<'_>,
    framed: &Framed,
    alignment: &Alignment,
    observation: &Observation,
) -> Vec<Section> {
    let patterns = search.patterns.iter().filter(|(_, p)| !p.parts.is_empty());
    let laid: Vec<Vec<Laid<'_>>> = patterns.map(|(_, p)| lay(p, framed, alignment, observation)).collect();
    if laid.iter().all(Vec::is_empty) {
        return Vec::new();
    }
    let (min, max) = (framed.visible.min, framed.visible.max);
    let count = ((max.z - min.z) / SECTION_MM).ceil().max(1.0) as usize;
    let step = (max.z - min.z) / count as f64;
    let parts: Vec<Section> = (0..count)
        .map(|n| {
            let z_mm = [min.z + n as f64 * step, min.z + (n + 1) as f64 * step];
            let Some([x, y, half_x, half_y]) = median_at(&laid, 0.5 * (z_mm[0] + z_mm[1])) else {
                return Section {
                    z_mm,
                    y_mm: [min.y, max.y],
                    x_mm: [min.x, max.x],
                };
            };
            let side = |at: f64, half: f64, low: f64, high: f64| [at - half, at + half].map(|v| v.clamp(low, high));
            Section {
                z_mm,
                y_mm: side(y, half_y, min.y, max.y),
                x_mm: side(x, half_x, min.x, max.x),
            }
        })
        .collect();
    stretched(parts, framed)
}

/// The faces of a box that is whole along z were recognised by themselves: the widest parts reach them.
fn stretched(mut parts: Vec<Section>, framed: &Framed) -> Vec<Section> {
    if framed.truncated.iter().any(|face| face.axis() == 2) {
        return parts;
    }
    let (low, high) = (framed.visible.min.to_array(), framed.visible.max.to_array());
    let mut stretch = |axis: usize, side: fn(&mut Section) -> &mut [f64; 2]| {
        let sides = parts.iter_mut().map(|s| *side(s));
        let [from, to] = sides.fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], s| {
            [a.min(s[0]), b.max(s[1])]
        });
        let factor = ((high[axis] - low[axis]) / (to - from)).clamp(1.0 / MAX_STRETCH, MAX_STRETCH);
        for part in &mut parts {
            let moved = side(part).map(|v| 0.5 * (low[axis] + high[axis]) + factor * (v - 0.5 * (from + to)));
            *side(part) = moved.map(|v| v.clamp(low[axis], high[axis]));
        }
    };
    stretch(0, |s| &mut s.x_mm);
    stretch(1, |s| &mut s.y_mm);
    parts
}

/// Each part goes where its own body coordinate lies here, corrected by the alignment, then to where it is recognised in its slice.
fn lay<'a>(pattern: &'a Pattern, framed: &Framed, alignment: &Alignment, observation: &Observation) -> Vec<Laid<'a>> {
    let line = height(pattern, framed, alignment, observation);
    let shifts = smoothed(pattern.parts.iter().map(|part| {
        let target = coarse::target(&observation.seen, observation.range_mm, part.body)?;
        Some(sub(alignment.apply(target.at), part.bounds.middle()))
    }));
    let expected = |(part, shift): (&Part, &Option<Vec3>)| {
        let (middle, shift) = (part.bounds.middle(), (*shift)?);
        let z = line.map_or(middle[2] + shift[2], |(slope, start)| slope * middle[2] + start);
        Some([middle[0] + shift[0], middle[1] + shift[1], z])
    };
    let expected: Vec<Option<Vec3>> = pattern.parts.iter().zip(&shifts).map(expected).collect();
    let looks = smoothed(
        pattern
            .parts
            .iter()
            .zip(&expected)
            .map(|(part, at)| look(part, (*at)?, observation)),
    );
    let scale = alignment.scale();
    let laid = pattern
        .parts
        .iter()
        .zip(expected)
        .zip(looks)
        .filter_map(|((part, at), look)| {
            let (at, look) = (at?, look.unwrap_or_default());
            let Section { y_mm, x_mm, .. } = part.bounds;
            Some(Laid {
                at: [0, 1, 2].map(|a| at[a] + look[a]),
                half: [
                    0.5 * scale[0] * (x_mm[1] - x_mm[0]),
                    0.5 * scale[1] * (y_mm[1] - y_mm[0]),
                ],
                part,
            })
        });
    laid.collect()
}

/// Neighbouring parts move together: the median over each and its neighbours.
fn smoothed(shifts: impl Iterator<Item = Option<Vec3>>) -> Vec<Option<Vec3>> {
    let shifts: Vec<Option<Vec3>> = shifts.collect();
    let around = |n: usize| &shifts[n.saturating_sub(NEIGHBOURS)..(n + NEIGHBOURS + 1).min(shifts.len())];
    let median_of = |n: usize| [0, 1, 2].map(|a| median(around(n).iter().flatten().map(|s| s[a])));
    (0..shifts.len()).map(|n| shifts[n].map(|_| median_of(n))).collect()
}

/// Template heights to heights here, slope and shift: a straight line through the structure's two ends, each where its face was
/// found, or where the body coordinate of the template's cut lies. `None` without two ends apart.
fn height(pattern: &Pattern, framed: &Framed, alignment: &Alignment, observation: &Observation) -> Option<(f64, f64)> {
    let end = |face: Face, found: f64| {
        let Landmark { at, body, cubes } = pattern.landmark(face)?;
        let here = match cubes {
            Some(_) => found,
            None => alignment.apply(coarse::target(&observation.seen, observation.range_mm, *body)?.at)[2],
        };
        Some((at[2], here))
    };
    let (from, low) = end(Face::ZMin, framed.full.min.z)?;
    let (to, high) = end(Face::ZMax, framed.full.max.z)?;
    // a bank's file may say anything that is finite
    if to - from < 1.0 {
        return None;
    }
    let slope = ((high - low) / (to - from)).clamp(1.0 / MAX_STRETCH, MAX_STRETCH);
    Some((slope, 0.5 * (low + high) - slope * 0.5 * (from + to)))
}

/// `[x, y, half x, half y]` at a height: the median of the templates that reach it.
fn median_at(laid: &[Vec<Laid<'_>>], z: f64) -> Option<[f64; 4]> {
    let here: Vec<[f64; 4]> = laid.iter().filter_map(|parts| at_height(parts, z)).collect();
    (!here.is_empty()).then(|| [0, 1, 2, 3].map(|n| median(here.iter().map(|h| h[n]))))
}

/// `[x, y, half x, half y]` of one template at a height, linear between the middles of its parts.
fn at_height(parts: &[Laid<'_>], z: f64) -> Option<[f64; 4]> {
    let row = |l: &Laid<'_>| [l.at[0], l.at[1], l.half[0], l.half[1]];
    let below = parts
        .iter()
        .filter(|l| l.at[2] <= z)
        .max_by(|a, b| a.at[2].total_cmp(&b.at[2]));
    let above = parts
        .iter()
        .filter(|l| l.at[2] > z)
        .min_by(|a, b| a.at[2].total_cmp(&b.at[2]));
    match (below, above) {
        (Some(a), Some(b)) => {
            let share = (z - a.at[2]) / (b.at[2] - a.at[2]);
            let (a, b) = (row(a), row(b));
            Some([0, 1, 2, 3].map(|n| a[n] + share * (b[n] - a[n])))
        }
        (Some(end), None) | (None, Some(end)) => {
            let [low, high] = end.part.bounds.z_mm;
            ((z - end.at[2]).abs() <= 0.5 * (high - low) + SECTION_REACH_MM).then(|| row(end))
        }
        (None, None) => None,
    }
}

/// How far from its expected place a part is recognised within its slice.
fn look(part: &Part, centre: Vec3, observation: &Observation) -> Option<Vec3> {
    let cost = |place: Vec3| {
        let [x, y, z] = sub(place, centre);
        let in_slice = (x * x + y * y) / (LOOK_SIGMA_MM * LOOK_SIGMA_MM);
        LOOK_COST * (in_slice + z * z / (SLICE_SIGMA_MM * SLICE_SIGMA_MM)) as f32
    };
    let mut map = observation.fine.correlate(&part.cubes.fine, centre, LOOK_MM)?;
    let reach_mm = LOOK_MM + observation.coarse.step_mm();
    if let Some(wide) = observation.coarse.correlate(&part.cubes.coarse, centre, reach_mm) {
        map.mean_with(&wide);
    }
    let (found, _) = map.peak(cost);
    Some([found[0] - centre[0], found[1] - centre[1], 0.0])
}

/// What of the box is in view. Where the volume cuts it along z, its widest place may be out of view: then the parts in view say
/// how wide the rest is.
pub fn fit_to_sections(framed: &Framed, sections: &[Section]) -> Box3 {
    let cut = framed.truncated.iter().any(|face| face.axis() == 2);
    let mut bounds = Box3::EMPTY;
    for s in sections {
        bounds.include([s.x_mm[0], s.y_mm[0], s.z_mm[0]].into());
        bounds.include([s.x_mm[1], s.y_mm[1], s.z_mm[1]].into());
    }
    if cut && bounds.is_proper() {
        bounds
    } else {
        framed.visible
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::localise::bank::Cubes;
    use crate::localise::fine::Features;

    #[test]
    fn heights_are_a_line_through_both_ends_and_flat_templates_give_none() {
        let end = |z: f64| {
            let cubes = Cubes {
                fine: Vec::new(),
                coarse: Vec::new(),
            };
            Some(Landmark {
                at: [0.0, 0.0, z],
                body: [0.0; 3],
                cubes: Some(cubes),
            })
        };
        let empty = || Features::new(ndarray::Array4::zeros((1, 1, 1, 1)), [0.0; 3], 6.0, 1);
        let observation = Observation {
            bounds: Box3::EMPTY,
            seen: Vec::new(),
            range_mm: None,
            coarse: empty(),
            fine: empty(),
        };
        let found = Box3 {
            min: [0.0, 0.0, 10.0].into(),
            max: [0.0, 0.0, 130.0].into(),
        };
        let framed = Framed {
            full: found,
            shown: [1.0; 3],
            visible: found,
            truncated: Vec::new(),
            repairs: Vec::new(),
        };
        let line = |low: f64, high: f64| {
            let mut pattern = Pattern::default();
            pattern.landmarks[Face::ZMin as usize] = end(low);
            pattern.landmarks[Face::ZMax as usize] = end(high);
            height(&pattern, &framed, &Alignment::default(), &observation)
        };
        let (slope, start) = line(-50.0, 50.0).unwrap();
        assert!((slope - 1.2).abs() < 1e-9 && (start - 70.0).abs() < 1e-9);
        assert_eq!(line(20.0, 20.0), None);
    }
}
