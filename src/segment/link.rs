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
        let slices = [
            slice((low - clip_slices - HAIR).ceil()),
            slice((high + clip_slices + HAIR).floor()),
        ];
        let slices = [slices[0].min(slices[1]), slices[1]];
        let key_slices = keys.covering(slices);
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
            let [least, most] = rules.plausible_hu[self.located.structure.window.index()];
            if !(least..=most).contains(&plane.mean(hu)) {
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

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::geometry::PatientPoint;
    use crate::localise::Section;
    use crate::segment::prepare::PLANE;
    use crate::segment::prepare::tests::recipe;
    use crate::structure;
    use ndarray::Array2;

    /// 64 × 64 × 21 voxels of 4 × 4 × 2.5 mm, stored as most scanners do: one view pixel is four of the plane.
    pub fn grid() -> Grid {
        Grid {
            origin: PatientPoint::new(0.0, 0.0, 0.0),
            directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            spacing_mm: [4.0, 4.0, 2.5],
            size: [64, 64, 21],
        }
    }

    pub fn rules() -> Rules {
        Rules {
            encode_step_mm: 5.0,
            clip_mm: 5.0,
            margins_px: vec![1.0, 3.0],
            section_margin_px: 1.0,
            dice_weight: 0.5,
            min_dice: 0.1,
            min_area_px: 4,
            plausible_hu: [[-70.0, 700.0], [60.0, 2000.0], [-1100.0, -350.0]],
        }
    }

    /// The HU of an organ, everywhere.
    fn flesh(_: [usize; 2]) -> f32 {
        50.0
    }

    /// The structure in a box of voxels.
    pub fn located(name: &str, grid: &Grid, low: [f64; 3], high: [f64; 3]) -> Located {
        let mut bounds = Box3::EMPTY;
        bounds.include(grid.to_patient(low));
        bounds.include(grid.to_patient(high));
        Located {
            structure: structure::by_name(name).unwrap(),
            bounds,
            sections: Vec::new(),
            truncated: Vec::new(),
            confidence: 1.0,
            low_confidence: false,
            reasons: Vec::new(),
        }
    }

    fn track<'a>(located: &'a Located, grid: &Grid) -> Option<Track<'a>> {
        let view = View::of(grid);
        let frame = Frame::new(view.size, &recipe(256, false, false));
        Track::new(located, grid, &view, &frame, &Keys::new(grid, 5.0), &rules())
    }

    /// Logits of a disc in the plane.
    pub fn disc(centre: [f64; 2], radius: f64) -> Array2<f32> {
        Array2::from_shape_fn((PLANE, PLANE), |(y, x)| {
            (radius - (x as f64 - centre[0]).hypot(y as f64 - centre[1])) as f32
        })
    }

    #[test]
    fn propagation_starts_in_the_middle_and_follows_the_mask_both_ways_until_it_ends() {
        let grid = grid();
        let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
        let mut track = track(&kidney, &grid).unwrap();
        // 5 mm are two slices.
        assert_eq!(track.slices, [2, 18]);
        assert!(track.prompts(8, Sweep::Up, &rules()).is_empty());
        for (sweep, slices) in [
            (Sweep::Up, (0..21).collect::<Vec<_>>()),
            (Sweep::Down, (0..21).rev().collect()),
        ] {
            for k in slices {
                let prompts = track.prompts(k, sweep, &rules());
                match (k, sweep) {
                    (10, Sweep::Up) => assert_eq!(
                        prompts,
                        [Rect {
                            min: [81.5; 2],
                            max: [161.5; 2]
                        }]
                    ),
                    (12, Sweep::Up) => assert_eq!(
                        prompts[1],
                        Rect {
                            min: [97.0 - 3.0; 2],
                            max: [103.0 + 3.0; 2]
                        }
                    ),
                    _ => {}
                }
                // A disc that shifts by two pixels a key slice and is gone above slice 14.
                let centre = [100.0 + (k as f64 - 10.0); 2];
                let logits = if k > 14 { disc(centre, -1.0) } else { disc(centre, 4.0) };
                let answers: Vec<_> = prompts.iter().map(|_| (logits.view(), 0.9)).collect();
                track.accept(k, sweep, &answers, &rules(), &flesh);
            }
        }
        assert_eq!(
            track.planes.keys().copied().collect::<Vec<_>>(),
            [2, 4, 6, 8, 10, 12, 14]
        );
        assert!((track.predicted_iou() - 0.9).abs() < 1e-6);
    }

    #[test]
    fn the_answer_that_agrees_with_its_neighbour_wins_over_one_a_little_surer_of_itself() {
        let grid = grid();
        let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
        let mut track = track(&kidney, &grid).unwrap();
        let (right, wrong) = (disc([100.0; 2], 9.0), disc([130.0; 2], 20.0));
        track.accept(10, Sweep::Up, &[(right.view(), 0.9)], &rules(), &flesh);
        track.accept(
            12,
            Sweep::Up,
            &[(wrong.view(), 0.99), (right.view(), 0.8)],
            &rules(),
            &flesh,
        );
        assert_eq!(track.planes[&12].iou, 0.8);
        // Nothing that overlaps at all: the structure has ended.
        track.accept(
            14,
            Sweep::Up,
            &[(disc([140.0, 90.0], 6.0).view(), 0.99)],
            &rules(),
            &flesh,
        );
        assert!(!track.planes.contains_key(&14));
    }

    #[test]
    fn a_mask_of_another_tissue_is_not_taken() {
        let grid = grid();
        let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
        let mut track = track(&kidney, &grid).unwrap();
        let answer = disc([100.0; 2], 9.0);
        let mostly_fat = |[x, _]: [usize; 2]| if x > 94 { -110.0 } else { 30.0 };
        track.accept(10, Sweep::Up, &[(answer.view(), 0.9)], &rules(), &mostly_fat);
        assert!(track.planes.is_empty());
        track.accept(10, Sweep::Up, &[(answer.view(), 0.9)], &rules(), &flesh);
        assert_eq!(track.planes.len(), 1);
    }

    #[test]
    fn a_mask_can_not_leave_the_box_by_more_than_the_clip() {
        let grid = grid();
        let kidney = located("kidney_left", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 16.0]);
        let mut track = track(&kidney, &grid).unwrap();
        track.accept(
            10,
            Sweep::Up,
            &[(disc([120.0; 2], 300.0).view(), 1.0)],
            &rules(),
            &flesh,
        );
        // 5 mm are five plane pixels.
        assert_eq!(
            track.planes[&10].bounds().unwrap(),
            Rect {
                min: [77.0; 2],
                max: [166.0; 2]
            }
        );
    }

    #[test]
    fn sections_are_interpolated_between_their_middles() {
        let grid = grid();
        let mut liver = located("liver", &grid, [10.0, 10.0, 2.0], [50.0, 50.0, 18.0]);
        let part = |z: [f64; 2], x: [f64; 2]| Section {
            z_mm: z.map(|k| k * 2.5),
            y_mm: [40.0, 200.0],
            x_mm: x.map(|i| i * 4.0),
        };
        liver.sections = vec![part([10.0, 18.0], [30.0, 50.0]), part([2.0, 10.0], [10.0, 50.0])];
        let track = track(&liver, &grid).unwrap();
        let left = |k| track.prompts(k, Sweep::Up, &rules())[0].min[0];
        // Middles at slices 6 and 14, left edges at view columns 10 and 30; one plane pixel of margin.
        assert_eq!([2, 6, 10, 14, 18].map(left), [40.5, 40.5, 80.5, 120.5, 120.5]);
        assert!(track.prompts(6, Sweep::Down, &rules()).is_empty());
    }

    #[test]
    fn a_box_that_misses_the_volume_makes_no_track() {
        let grid = grid();
        for (low, high) in [
            ([20.0, 20.0, 30.0], [40.0, 40.0, 40.0]),
            ([70.0, 20.0, 4.0], [80.0, 40.0, 9.0]),
        ] {
            assert!(track(&located("liver", &grid, low, high), &grid).is_none());
        }
        let mut crossed = located("liver", &grid, [20.0, 20.0, 4.0], [40.0, 40.0, 9.0]);
        crossed.bounds.min.x = f64::NAN;
        assert!(track(&crossed, &grid).is_none());
    }
}
