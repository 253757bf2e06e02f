//! From slice to slice: which boxes a structure is prompted with on each slice, and which answer is kept.
//!
//! Only *key* slices are shown to the network; slices between them are interpolated (see `assemble`). *Propagation* starts at
//! the middle of the located box and walks outwards, prompting each slice with the box of its neighbour's mask, a little
//! widened in several ways. *Sections* are prompted with the box that the localiser gives for that height.

use crate::geometry::{Box3, Grid};
use crate::inference::model::Manifest;
use crate::inference::runtime::InferenceError;
use crate::localise::Located;
use crate::segment::prepare::{Frame, PLANE, View, dominant_axes};
use crate::structure::Linking;
use ndarray::{Array2, ArrayView2, s};
use std::collections::{BTreeMap, BTreeSet};

/// Logits are kept within ± this, so that a very sure slice does not swallow its neighbour when the two are interpolated.
pub const LIMIT: f32 = 10.0;

/// How slices are linked; from the model's manifest.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Slices are shown to the network at most this close together.
    pub encode_step_mm: f64,
    /// Nothing is outlined farther than this outside the located box.
    pub clip_mm: f64,
    /// How far the box of the neighbour's mask is widened, in plane pixels; one prompt each.
    pub margins_px: Vec<f64>,
    /// How far a section's box is widened.
    pub section_margin_px: f64,
    /// What the overlap with the neighbour's mask counts against the network's own estimate of its answer.
    pub dice_weight: f32,
    /// Propagation ends where the mask overlaps its neighbour's less than this.
    pub min_dice: f32,
    /// Propagation ends where the mask has fewer plane pixels than this.
    pub min_area_px: usize,
}

impl Rules {
    pub fn read(manifest: &Manifest) -> Result<Self, InferenceError> {
        let margins = manifest.raw.get("margins_px").and_then(toml::Value::as_array);
        let margins: Vec<f64> = margins
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_integer().map(|v| v as f64))
            .collect();
        if margins.is_empty() {
            return Err(manifest.refuse("`margins_px` must be a list of whole pixels".into()));
        }
        Ok(Self {
            encode_step_mm: manifest.number("encode_step_mm")?,
            clip_mm: manifest.number("clip_mm")?,
            margins_px: margins,
            section_margin_px: manifest.number("section_margin_px")?,
            dice_weight: manifest.number("dice_weight")? as f32,
            min_dice: manifest.number("min_dice")? as f32,
            min_area_px: manifest.number("min_area_px")? as usize,
        })
    }
}

/// The slices shown to the network: every `stride`-th and the last.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    pub stride: usize,
    pub count: usize,
}

impl Keys {
    pub fn new(grid: &Grid, step_mm: f64) -> Self {
        // A hair of slack, as 5.0 / 2.5 need not be exactly 2.
        let stride = (step_mm / grid.spacing_mm[2] + 1e-3).floor();
        Self {
            stride: (stride as usize).max(1),
            count: grid.size[2],
        }
    }

    /// The key slices next to k, below or equal and above or equal.
    pub fn around(&self, k: usize) -> [usize; 2] {
        let below = if k + 1 == self.count { k } else { k - k % self.stride };
        let above = if below == k {
            k
        } else {
            (below + self.stride).min(self.count - 1)
        };
        [below, above]
    }

    /// The keys needed to interpolate every slice from `first` to `last`.
    pub fn covering(&self, [first, last]: [usize; 2]) -> BTreeSet<usize> {
        (first..=last).flat_map(|k| self.around(k)).collect()
    }
}

/// A rectangle in the plane: least and greatest pixel centres across and down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub min: [f64; 2],
    pub max: [f64; 2],
}

impl Rect {
    fn widened(self, by: [f64; 2]) -> Self {
        Self {
            min: [0, 1].map(|a| self.min[a] - by[a]),
            max: [0, 1].map(|a| self.max[a] + by[a]),
        }
    }

    fn within(self, outer: Self) -> Self {
        let inside = |v: [f64; 2]| [0, 1].map(|a| v[a].max(outer.min[a]).min(outer.max[a]));
        Self {
            min: inside(self.min),
            max: inside(self.max),
        }
    }

    fn between(a: Self, b: Self, t: f64) -> Self {
        let mix = |a: [f64; 2], b: [f64; 2]| [0, 1].map(|i| a[i] + (b[i] - a[i]) * t);
        Self {
            min: mix(a.min, b.min),
            max: mix(a.max, b.max),
        }
    }
}

/// What the network said on one key slice, within the part of the plane the structure may fill.
#[derive(Clone, Debug)]
pub struct Plane {
    /// Plane column and row of the first logit.
    pub origin: [usize; 2],
    /// `[row, column]`, within ± [`LIMIT`].
    pub logits: Array2<f32>,
    /// The network's own estimate of its answer's IoU.
    pub iou: f32,
}

impl Plane {
    fn cut(logits: ArrayView2<'_, f32>, iou: f32, clip: Rect) -> Self {
        let low = [0, 1].map(|a| (clip.min[a].ceil().max(0.0) as usize).min(PLANE - 1));
        let high = [0, 1].map(|a| (clip.max[a].floor().max(0.0) as usize).clamp(low[a], PLANE - 1));
        let part = logits.slice(s![low[1]..=high[1], low[0]..=high[0]]);
        Self {
            origin: low,
            logits: part.mapv(|v| v.clamp(-LIMIT, LIMIT)),
            iou,
        }
    }

    /// The logit at a plane pixel; far below zero outside the part kept.
    pub fn at(&self, [x, y]: [usize; 2]) -> f32 {
        let inside = (x.checked_sub(self.origin[0]), y.checked_sub(self.origin[1]));
        match inside {
            (Some(x), Some(y)) => self.logits.get([y, x]).copied().unwrap_or(-LIMIT),
            _ => -LIMIT,
        }
    }

    fn area(&self) -> usize {
        self.logits.iter().filter(|v| **v > 0.0).count()
    }

    /// The box around the mask.
    fn bounds(&self) -> Option<Rect> {
        let mut bounds: Option<Rect> = None;
        for ((y, x), _) in self.logits.indexed_iter().filter(|(_, v)| **v > 0.0) {
            let at = [(x + self.origin[0]) as f64, (y + self.origin[1]) as f64];
            let bounds = bounds.get_or_insert(Rect { min: at, max: at });
            bounds.min = [0, 1].map(|a| bounds.min[a].min(at[a]));
            bounds.max = [0, 1].map(|a| bounds.max[a].max(at[a]));
        }
        bounds
    }

    /// Dice of the two masks; both planes must be cut alike.
    fn dice(&self, other: &Self) -> f32 {
        let both = self
            .logits
            .iter()
            .zip(&other.logits)
            .filter(|(a, b)| **a > 0.0 && **b > 0.0)
            .count();
        2.0 * both as f32 / (self.area() + other.area()).max(1) as f32
    }
}

/// Which way the slices are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    Up,
    Down,
}

/// One structure on its way through the slices.
pub struct Track<'a> {
    pub located: &'a Located,
    /// First and last stored slice the mask may touch.
    pub slices: [usize; 2],
    /// The part of the plane the mask may touch on any slice.
    pub clip: Rect,
    /// What was kept, per key slice.
    pub planes: BTreeMap<usize, Plane>,
    keys: BTreeSet<usize>,
    start: usize,
    whole: Rect,
    /// Middle slice (fractional) and box of each section, ascending; empty when propagated.
    sections: Vec<(f64, Rect)>,
    clip_px: [f64; 2],
}

impl<'a> Track<'a> {
    /// `None` when the located box does not touch the volume.
    pub fn new(
        located: &'a Located,
        grid: &Grid,
        view: &View,
        frame: &Frame,
        keys: &Keys,
        rules: &Rules,
    ) -> Option<Self> {
        let plane = Rect {
            min: [0.0; 2],
            max: [frame.last(0), frame.last(1)],
        };
        let ([low, high], whole) = placed(&located.bounds, grid, view, frame)?;
        let last = grid.size[2] as f64 - 1.0;
        let touches = high >= -0.5
            && low <= last + 0.5
            && (0..2).all(|a| whole.max[a] >= -0.5 && whole.min[a] <= plane.max[a] + 0.5);
        if !touches {
            return None;
        }
        let clip_slices = rules.clip_mm / grid.spacing_mm[2];
        let slice = |k: f64| k.clamp(0.0, last) as usize;
        let slices = [slice((low - clip_slices).ceil()), slice((high + clip_slices).floor())];
        let slices = [slices[0].min(slices[1]), slices[1]];
        let key_slices = keys.covering(slices);
        let middle = ((low + high) / 2.0).clamp(0.0, last);
        let nearer = |a: &&usize, b: &&usize| (**a as f64 - middle).abs().total_cmp(&(**b as f64 - middle).abs());
        let start = *key_slices.iter().min_by(nearer)?;
        // The view's spacing across and down, in plane pixels per millimetre.
        let spacing = if view.transposed {
            [grid.spacing_mm[1], grid.spacing_mm[0]]
        } else {
            [grid.spacing_mm[0], grid.spacing_mm[1]]
        };
        let clip_px = [0, 1].map(|a| rules.clip_mm / spacing[a] * frame.scale()[a]);
        let mut track = Self {
            located,
            slices,
            clip: whole.widened(clip_px).within(plane),
            planes: BTreeMap::new(),
            keys: key_slices,
            start,
            whole: whole.within(plane),
            sections: Vec::new(),
            clip_px,
        };
        if located.structure.linking == Linking::Sections {
            track.sections = sections(located, grid, view, frame);
        }
        Some(track)
    }

    /// Key slices this structure may need.
    pub fn keys(&self) -> &BTreeSet<usize> {
        &self.keys
    }

    /// The boxes to prompt with on key slice k in this sweep; none where the structure is not (or no longer) there.
    pub fn prompts(&self, k: usize, sweep: Sweep, rules: &Rules) -> Vec<Rect> {
        if !self.keys.contains(&k) {
            return Vec::new();
        }
        if !self.sections.is_empty() {
            let margin = [rules.section_margin_px; 2];
            return if sweep == Sweep::Up {
                vec![self.section(k).widened(margin).within(self.clip)]
            } else {
                Vec::new()
            };
        }
        if k == self.start && sweep == Sweep::Up {
            return vec![self.whole];
        }
        let Some(bounds) = self.neighbour(k, sweep).and_then(Plane::bounds) else {
            return Vec::new();
        };
        rules
            .margins_px
            .iter()
            .map(|m| bounds.widened([*m; 2]).within(self.clip))
            .collect()
    }

    /// Takes the network's answers to [`Self::prompts`] and keeps the best that deserves it.
    pub fn accept(&mut self, k: usize, sweep: Sweep, answers: &[(ArrayView2<'_, f32>, f32)], rules: &Rules) {
        let clip = if self.sections.is_empty() {
            self.clip
        } else {
            self.section(k).widened(self.clip_px).within(self.clip)
        };
        let neighbour = if self.sections.is_empty() {
            self.neighbour(k, sweep)
        } else {
            None
        };
        let mut best: Option<(f32, Plane)> = None;
        for (logits, iou) in answers {
            let plane = Plane::cut(logits.view(), *iou, clip);
            if plane.area() < rules.min_area_px {
                continue;
            }
            let dice = neighbour.map(|neighbour| plane.dice(neighbour));
            if dice.is_some_and(|dice| dice < rules.min_dice) {
                continue;
            }
            let score = iou + rules.dice_weight * dice.unwrap_or(0.0);
            if best.as_ref().is_none_or(|(least, _)| score > *least) {
                best = Some((score, plane));
            }
        }
        if let Some((_, plane)) = best {
            self.planes.insert(k, plane);
        }
    }

    /// What was kept on the key slice before k, seen from the start.
    fn neighbour(&self, k: usize, sweep: Sweep) -> Option<&Plane> {
        let before = match sweep {
            Sweep::Up if k > self.start => self.keys.range(..k).next_back(),
            Sweep::Down if k < self.start => self.keys.range(k + 1..).next(),
            _ => None,
        };
        self.planes.get(before?)
    }

    /// The section's box at slice k, between the middles of the sections linearly.
    fn section(&self, k: usize) -> Rect {
        let k = k as f64;
        let above = self.sections.partition_point(|(middle, _)| *middle <= k);
        let below = above.checked_sub(1).and_then(|below| self.sections.get(below));
        match (below, self.sections.get(above)) {
            (Some((a, lower)), Some((b, upper))) => Rect::between(*lower, *upper, (k - a) / (b - a)),
            (Some((_, only)), None) | (None, Some((_, only))) => *only,
            (None, None) => self.whole,
        }
    }

    /// Mean of the network's own estimates.
    pub fn predicted_iou(&self) -> f32 {
        self.planes.values().map(|plane| plane.iou).sum::<f32>() / self.planes.len().max(1) as f32
    }
}

/// A patient box as a range of (fractional) slices and a rectangle in the plane.
fn placed(bounds: &Box3, grid: &Grid, view: &View, frame: &Frame) -> Option<([f64; 2], Rect)> {
    if !bounds.is_proper() {
        return None;
    }
    let mut voxels = [[f64::INFINITY, f64::NEG_INFINITY]; 3];
    for corner in 0..8u8 {
        let pick = |axis: u8, min: f64, max: f64| if corner >> axis & 1 == 1 { max } else { min };
        let (min, max) = (bounds.min, bounds.max);
        let at = grid.to_voxel([pick(0, min.x, max.x), pick(1, min.y, max.y), pick(2, min.z, max.z)].into());
        for (range, at) in voxels.iter_mut().zip(at) {
            *range = [range[0].min(at), range[1].max(at)];
        }
    }
    let [i, j, k] = voxels;
    let (a, b) = (view.shown([i[0], j[0]]), view.shown([i[1], j[1]]));
    let plane = |pick: fn(f64, f64) -> f64| [0, 1].map(|axis| frame.to_plane(axis, pick(a[axis], b[axis])));
    Some((
        k,
        Rect {
            min: plane(f64::min),
            max: plane(f64::max),
        },
    ))
}

/// The localiser's parts along the patient's height; of use only where slices are stacked along it.
fn sections(located: &Located, grid: &Grid, view: &View, frame: &Frame) -> Vec<(f64, Rect)> {
    if dominant_axes(grid)[2] != 2 {
        return Vec::new();
    }
    let one = |section: &crate::localise::Section| {
        let corner = |end: usize| [section.x_mm[end], section.y_mm[end], section.z_mm[end]].into();
        let ([low, high], rect) = placed(
            &Box3 {
                min: corner(0),
                max: corner(1),
            },
            grid,
            view,
            frame,
        )?;
        Some(((low + high) / 2.0, rect))
    };
    let mut sections: Vec<_> = located.sections.iter().filter_map(one).collect();
    sections.sort_by(|a, b| a.0.total_cmp(&b.0));
    sections
}
