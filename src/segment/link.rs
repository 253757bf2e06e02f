//! From slice to slice: which boxes a structure is prompted with on each slice, and which answer is kept.
//!
//! Only *key* slices are shown to the network; slices between them are interpolated (see `assemble`). *Propagation* starts at
//! the middle of the located box and walks outwards, prompting each slice with the box of its neighbour's mask, a little
//! widened in several ways. *Sections* are prompted with the box that the localiser gives for that height.

use crate::geometry::{Box3, Grid};
use crate::localise::Located;
use crate::segment::plane::{HAIR, Plane, Rect};
use crate::segment::prepare::{Frame, View, WindowIndex, dominant_axes};
use crate::segment::rules::{Keys, Rules};
use crate::structure::Linking;
use ndarray::ArrayView2;
use std::collections::{BTreeMap, BTreeSet};

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
    /// The located box along the slices (fractional), at its middle in the plane. Beyond it the mask must earn its place
    /// ([`Rules::beyond`]), and beyond `reached` it is not followed.
    own: [f64; 2],
    reached: [f64; 2],
    /// By how many slices the box's ends move from one plane pixel to the next, across and down: a tilted gantry leans its slices, but not
    /// the patient. Zero on upright stacks.
    lean: [f64; 2],
    /// The part of the plane the mask may touch on any slice.
    pub clip: Rect,
    /// What was kept, per key slice.
    pub planes: BTreeMap<usize, Plane>,
    keys: BTreeSet<usize>,
    start: usize,
    whole: Rect,
    /// Of the located box, whether or not all of it is in view.
    whole_middle: [f64; 2],
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
        let (range, whole) = placed(&located.bounds, grid, view, frame)?;
        let [low, high] = range;
        let last = grid.size[2] as f64 - 1.0;
        let touches = high >= -0.5
            && low <= last + 0.5
            && (0..2).all(|a| whole.max[a] >= -0.5 && whole.min[a] <= plane.max[a] + 0.5);
        if !touches {
            return None;
        }
        let lean = lean(grid, view, frame);
        let own = upright(range, lean, &located.bounds, grid);
        let length_mm = (own[1] - own[0]) * grid.spacing_mm[2];
        let reach = rules.beyond.reach_mm(length_mm).max(rules.clip_mm) / grid.spacing_mm[2];
        let slice = |k: f64| k.clamp(0.0, last) as usize;
        let around = |[low, high]: [f64; 2]| {
            let ends = [slice((low - reach - HAIR).ceil()), slice((high + reach + HAIR).floor())];
            [ends[0].min(ends[1]), ends[1]]
        };
        let slices = around(range);
        let key_slices = keys.covering(slices);
        let reached = keys.covering(around(own));
        // Of two keys equally near the middle the one nearer the head, left or back, however the slices are stored.
        let toward = grid.directions[2][dominant_axes(grid)[2]].signum() * HAIR;
        let middle = ((low + high) / 2.0).clamp(0.0, last) + toward;
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
            own: [own[0] - 0.5, own[1] + 0.5],
            reached: [*reached.first()? as f64 - 0.5, *reached.last()? as f64 + 0.5],
            lean,
            clip: whole.widened(clip_px).within(plane),
            planes: BTreeMap::new(),
            keys: key_slices,
            start,
            whole: whole.within(plane),
            whole_middle: [whole.middle(0), whole.middle(1)],
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
        if self.is_sectioned(k) {
            let margin = [rules.section_margin_px; 2];
            return if sweep == Sweep::Up {
                vec![self.section(k).widened(margin).within(self.clip)]
            } else {
                Vec::new()
            };
        }
        if self.sections.is_empty() && k == self.start && sweep == Sweep::Up {
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

    /// Takes the network's answers to [`Self::prompts`] and keeps the best that deserves it. `hu` tells the slice's value at a
    /// plane pixel.
    pub fn accept(
        &mut self,
        k: usize,
        sweep: Sweep,
        answers: &[(ArrayView2<'_, f32>, f32)],
        rules: &Rules,
        hu: &dyn Fn([usize; 2]) -> f32,
    ) {
        let (clip, neighbour) = if self.is_sectioned(k) {
            (self.section(k).widened(self.clip_px).within(self.clip), None)
        } else {
            (self.clip, self.neighbour(k, sweep))
        };
        let mut best: Option<(f32, Plane)> = None;
        for (logits, iou) in answers {
            let plane = Plane::cut(logits.view(), *iou, clip);
            if plane.area() < rules.min_area_px || !self.is_plausible(&plane, rules, hu) {
                continue;
            }
            let dice = neighbour.map(|neighbour| plane.dice(neighbour));
            if dice.is_some_and(|dice| dice < rules.min_dice) {
                continue;
            }
            let height = plane.bounds().map_or(k as f64, |bounds| self.height(k, &bounds));
            let goes_on =
                |neighbour: &Plane| is_between(self.reached, height) && rules.beyond.allows(&plane, neighbour);
            if !is_between(self.own, height) && !neighbour.is_some_and(goes_on) {
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

    /// What lies at a place on slice k, along the slices as they would be at the middle of the located box: to compare with its ends.
    fn height(&self, k: usize, at: &Rect) -> f64 {
        let off = |a: usize| self.lean[a] * (at.middle(a) - self.whole_middle[a]);
        k as f64 - off(0) - off(1)
    }

    /// True where the localiser's box for this height is the prompt.
    fn is_sectioned(&self, k: usize) -> bool {
        !self.sections.is_empty() && is_between(self.own, self.height(k, &self.section(k)))
    }

    /// The mean is what bone needs, whose marrow may be as soft as flesh; the median what a stomach full of gas needs.
    fn is_plausible(&self, plane: &Plane, rules: &Rules, hu: &dyn Fn([usize; 2]) -> f32) -> bool {
        let [least, most] = rules.plausible_hu[self.located.structure.window.index()];
        let [mean, median] = plane.mean_and_median(hu);
        (least..=most).contains(&mean) || (least..=most).contains(&median)
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

    /// What the network itself thinks poorly of: most often the located box is wrong there.
    pub fn doubt(&self, rules: &Rules) -> Option<String> {
        let iou = self.predicted_iou();
        (iou < rules.doubtful_iou)
            .then(|| format!("the segmenter expects its outline to overlap the truth by {iou:.2} only"))
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

fn is_between([low, high]: [f64; 2], value: f64) -> bool {
    (low..=high).contains(&value)
}

/// See [`Track::lean`].
fn lean(grid: &Grid, view: &View, frame: &Frame) -> [f64; 2] {
    let along = dominant_axes(grid)[2];
    let rise_mm = |axis: usize| grid.directions[axis][along] * grid.spacing_mm[axis];
    let in_plane = |voxel| {
        let shown = view.shown(voxel);
        [0, 1].map(|a| frame.to_plane(a, shown[a]))
    };
    let (from, columns, rows) = (in_plane([0.0; 2]), in_plane([1.0, 0.0]), in_plane([0.0, 1.0]));
    [0, 1].map(|a| {
        // One of the two moves along this axis of the plane, the other not at all.
        let moves = [(0, columns[a] - from[a]), (1, rows[a] - from[a])];
        let moves = moves.iter().filter(|(_, pixels)| *pixels != 0.0);
        moves.map(|(axis, pixels)| -rise_mm(*axis) / rise_mm(2) / pixels).sum()
    })
}

/// A box's range of slices at its middle in the plane. On leaning slices its corners, which no organ fills, lie further out.
fn upright(range: [f64; 2], lean: [f64; 2], bounds: &Box3, grid: &Grid) -> [f64; 2] {
    if lean.iter().all(|slices| *slices == 0.0) {
        return range;
    }
    let along = dominant_axes(grid)[2];
    let half = bounds.size_mm()[along] / (grid.directions[2][along] * grid.spacing_mm[2]).abs() / 2.0;
    let middle = (range[0] + range[1]) / 2.0;
    [middle - half, middle + half]
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

#[cfg(test)]
pub mod tests;
