//! Six faces → a box that makes sense.

use crate::geometry::{Box3, Vec3};
use crate::localise::Face;
use crate::localise::align::Alignment;
use crate::localise::search::{Search, median};

/// A side this many times longer or shorter than the templates' is a false match.
const SIZE_FACTOR: f64 = 2.0;
/// How well a length between two found faces is known, and how much organs of a size differ between people.
const FOUND_MM: f64 = 10.0;
const USUAL_MM: f64 = 5.0;
const USUAL_SHARE: f64 = 0.15;

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
        let (usual, comparable) = usual_size(search, axis);
        let usual = usual * alignment.scale()[axis];
        (low[axis], high[axis]) = match sides {
            [Some(low), Some(high)] => {
                let size = high.0 - low.0;
                let plausible = usual <= 0.0
                    || !comparable && size > 0.0
                    || (usual / SIZE_FACTOR..=usual * SIZE_FACTOR).contains(&size);
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
                        match (plausible, comparable) {
                            (true, true) => blend(size, usual),
                            (true, false) => size,
                            (false, _) => usual,
                        },
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

/// Median length along an axis, and whether it may be compared with a whole structure's: where the field of view cut a template,
/// the widest place may have been out of view.
fn usual_size(search: &Search<'_>, axis: usize) -> (f64, bool) {
    let of = |whole: bool| -> Vec<f64> {
        let patterns = search.patterns.iter().map(|(_, p)| p);
        let shown = patterns.filter(|p| {
            !whole
                || Face::ALL
                    .iter()
                    .all(|f| p.landmark(*f).is_some_and(|l| l.cubes.is_some()))
        });
        shown.filter_map(|p| p.size_mm()[axis]).collect()
    };
    let whole = of(true);
    let comparable = !whole.is_empty();
    let sizes = if comparable { whole } else { of(false) };
    (median(sizes.into_iter()), comparable)
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
