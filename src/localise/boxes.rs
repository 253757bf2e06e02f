//! Six faces → a box that makes sense, and its parts along z (SPL).

use crate::geometry::{Box3, Vec3};
use crate::localise::align::Alignment;
use crate::localise::bank::{Landmark, Pattern};
use crate::localise::canonical::Observation;
use crate::localise::coarse;
use crate::localise::search::{Search, median};
use crate::localise::{Face, Section};

/// A side this many times longer or shorter than the templates' is a false match.
const SIZE_FACTOR: f64 = 2.0;
/// How well a length between two found faces is known, and how much organs of a size differ between people.
const FOUND_MM: f64 = 10.0;
const USUAL_MM: f64 = 5.0;
const USUAL_SHARE: f64 = 0.15;
/// Thickness of the parts we give, millimetres.
const SECTION_MM: f64 = 6.0;
/// How far beyond a template's last part its bounds still speak.
const SECTION_REACH_MM: f64 = 8.0;

/// The box of a structure, and what of it the volume shows.
#[derive(Clone, Debug)]
pub struct Framed {
    /// As anatomy has it; may reach out of the volume.
    pub full: Box3,
    /// Share of the full box along each axis that the volume shows.
    pub shown: Vec3,
    /// Clipped to the volume; improper when nothing is in view.
    pub visible: Box3,
    pub truncated: Vec<Face>,
    /// What had to be replaced, in words.
    pub repairs: Vec<String>,
}

/// Each face from its own point. `None` when the templates do not bound the structure on some side.
pub fn frame(search: &Search<'_>, alignment: &Alignment, bounds: &Box3) -> Option<Framed> {
    let (mut low, mut high) = ([0.0; 3], [0.0; 3]);
    let mut repairs = Vec::new();
    for axis in 0..3 {
        let [a, b] = Face::of_axis(axis);
        let sides = [a, b].map(|f| search.faces[f as usize].as_ref().map(|s| (s.coordinate(f), s.found)));
        let sizes = search.patterns.iter().filter_map(|(_, p)| p.size_mm()[axis]);
        let usual = median(sizes) * alignment.scale()[axis];
        (low[axis], high[axis]) = match sides {
            [Some(low), Some(high)] => {
                let size = high.0 - low.0;
                let plausible = usual <= 0.0 || (usual / SIZE_FACTOR..=usual * SIZE_FACTOR).contains(&size);
                if !plausible {
                    let axis = ["x", "y", "z"][axis];
                    repairs.push(format!("{size:.0} mm along {axis}, templates have {usual:.0} mm"));
                }
                match (low.1, high.1) {
                    _ if usual <= 0.0 && size <= 0.0 => return None,
                    _ if usual <= 0.0 => (low.0, high.0),
                    // the only side that was recognised stays
                    (Some(_), None) if !plausible => (low.0, low.0 + usual),
                    (None, Some(_)) if !plausible => (high.0 - usual, high.0),
                    _ => about(
                        0.5 * (low.0 + high.0),
                        if plausible { blend(size, usual) } else { usual },
                    ),
                }
            }
            [Some((low, _)), None] if usual > 0.0 => (low, low + usual),
            [None, Some((high, _))] if usual > 0.0 => (high - usual, high),
            _ => return None,
        };
    }
    let full = Box3 {
        min: low.into(),
        max: high.into(),
    };
    Some(clip(full, bounds, repairs))
}

fn about(middle: f64, size: f64) -> (f64, f64) {
    (middle - 0.5 * size, middle + 0.5 * size)
}

/// The length between two found faces and the templates' length, each by how well it is known.
fn blend(found: f64, usual: f64) -> f64 {
    let usual_mm = USUAL_SHARE * usual + USUAL_MM;
    let (a, b) = (FOUND_MM.powi(-2), usual_mm.powi(-2));
    (a * found + b * usual) / (a + b)
}

fn clip(full: Box3, bounds: &Box3, repairs: Vec<String>) -> Framed {
    let (low, high) = (full.min.to_array(), full.max.to_array());
    let (first, last) = (bounds.min.to_array(), bounds.max.to_array());
    let mut truncated = Vec::new();
    let (mut min, mut max, mut shown) = ([0.0; 3], [0.0; 3], [0.0; 3]);
    for axis in 0..3 {
        let [a, b] = Face::of_axis(axis);
        if low[axis] < first[axis] {
            truncated.push(a);
        }
        if high[axis] > last[axis] {
            truncated.push(b);
        }
        (min[axis], max[axis]) = (low[axis].max(first[axis]), high[axis].min(last[axis]));
        shown[axis] = ((max[axis] - min[axis]) / (high[axis] - low[axis])).max(0.0);
    }
    Framed {
        full,
        shown,
        visible: Box3 {
            min: min.into(),
            max: max.into(),
        },
        truncated,
        repairs,
    }
}

/// The visible part along z, cut into parts whose bounds come from the templates' parts, each template laid over the box by its
/// own faces. Empty when no template has parts.
pub fn sections(
    search: &Search<'_>,
    framed: &Framed,
    alignment: &Alignment,
    observation: &Observation,
) -> Vec<Section> {
    let laid: Vec<Vec<Section>> = search
        .patterns
        .iter()
        .filter(|(_, pattern)| !pattern.sections.is_empty())
        .filter_map(|(_, pattern)| lay(pattern, framed, alignment, observation))
        .collect();
    if laid.is_empty() {
        return Vec::new();
    }
    let (min, max) = (framed.visible.min, framed.visible.max);
    let count = ((max.z - min.z) / SECTION_MM).ceil().max(1.0) as usize;
    let step = (max.z - min.z) / count as f64;
    (0..count)
        .map(|n| {
            let z_mm = [min.z + n as f64 * step, min.z + (n + 1) as f64 * step];
            let here: Vec<[f64; 4]> = laid
                .iter()
                .filter_map(|s| bounds_at(s, 0.5 * (z_mm[0] + z_mm[1])))
                .collect();
            if here.is_empty() {
                return Section {
                    z_mm,
                    y_mm: [min.y, max.y],
                    x_mm: [min.x, max.x],
                };
            }
            let [y0, y1, x0, x1] = [0, 1, 2, 3].map(|c| median(here.iter().map(|b| b[c])));
            let clip = |v: f64, low: f64, high: f64| v.clamp(low, high);
            Section {
                z_mm,
                y_mm: [clip(y0, min.y, max.y), clip(y1, min.y, max.y)],
                x_mm: [clip(x0, min.x, max.x), clip(x1, min.x, max.x)],
            }
        })
        .collect()
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

/// A template's parts in the millimetres of this patient: a straight line per axis through the two faces. A face at which the
/// template was cut goes where its own body coordinate lies here.
fn lay(pattern: &Pattern, framed: &Framed, alignment: &Alignment, observation: &Observation) -> Option<Vec<Section>> {
    let full = [framed.full.min.to_array(), framed.full.max.to_array()];
    let mut lines = [(1.0, 0.0); 3];
    for (axis, line) in lines.iter_mut().enumerate() {
        let mut ends = Vec::new();
        for (side, face) in Face::of_axis(axis).into_iter().enumerate() {
            let Some(Landmark { at, body, cubes }) = pattern.landmark(face) else {
                continue;
            };
            let here = match cubes {
                Some(_) => full[side][axis],
                None => alignment.apply(coarse::target(&observation.seen, observation.range_mm, *body)?.at)[axis],
            };
            ends.push((at[axis], here));
        }
        *line = match ends[..] {
            [(from0, to0), (from1, to1)] if from1 - from0 > 1.0 => {
                let slope = ((to1 - to0) / (from1 - from0)).clamp(1.0 / SIZE_FACTOR, SIZE_FACTOR);
                (slope, 0.5 * (to0 + to1) - slope * 0.5 * (from0 + from1))
            }
            [(from, to), ..] => (1.0, to - from),
            [] => return None,
        };
    }
    let map = |mm: [f64; 2], axis: usize| mm.map(|v| lines[axis].0 * v + lines[axis].1);
    let laid = pattern.sections.iter().map(|s| Section {
        z_mm: map(s.z_mm, 2),
        y_mm: map(s.y_mm, 1),
        x_mm: map(s.x_mm, 0),
    });
    Some(laid.collect())
}

/// Bounds `[y0, y1, x0, x1]` at a height, linear between the middles of the parts.
fn bounds_at(sections: &[Section], z: f64) -> Option<[f64; 4]> {
    let (first, last) = (sections.first()?, sections.last()?);
    if z < first.z_mm[0] - SECTION_REACH_MM || z > last.z_mm[1] + SECTION_REACH_MM {
        return None;
    }
    let middle = |s: &Section| 0.5 * (s.z_mm[0] + s.z_mm[1]);
    let bounds = |s: &Section| [s.y_mm[0], s.y_mm[1], s.x_mm[0], s.x_mm[1]];
    let above = sections.iter().position(|s| middle(s) > z);
    match above {
        None => Some(bounds(last)),
        Some(0) => Some(bounds(first)),
        Some(n) => {
            let (a, b) = (&sections[n - 1], &sections[n]);
            let share = (z - middle(a)) / (middle(b) - middle(a));
            let (p, q) = (bounds(a), bounds(b));
            Some([0, 1, 2, 3].map(|c| p[c] + share * (q[c] - p[c])))
        }
    }
}
