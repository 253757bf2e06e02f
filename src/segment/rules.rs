//! Which slices the network sees, and what is taken from its answers.

use crate::geometry::Grid;
use crate::inference::model::Manifest;
use crate::inference::runtime::InferenceError;
use crate::segment::plane::{HAIR, Plane};
use crate::segment::prepare::per_window;
use std::collections::BTreeSet;

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
    /// Below this mean of the network's own estimates an outline is marked low confidence.
    pub doubtful_iou: f32,
    /// Where two masks overlap, the much smaller one keeps the voxels if the network's estimate of it is at least this.
    pub sure_iou: f32,
    /// When a structure is followed beyond the located box along the slices.
    pub beyond: Beyond,
    /// Least and greatest HU of a slice's mask (its mean or its median), for structures shown in the soft, bone and lung window.
    /// What lies outside is another tissue, whatever the network says: most often the located box is wrong there.
    pub plausible_hu: [[f32; 2]; 3],
}

/// A located box ends where the localiser guessed, some 8 mm off: an organ that is plainly still there goes on. Every limit must
/// hold on every slice, so that a structure can not run away into its neighbour.
#[derive(Clone, Copy, Debug)]
pub struct Beyond {
    /// Never farther than this outside the box.
    pub reach_mm: f64,
    /// Nor than this share of the box's length.
    pub share: f64,
    /// Least estimate the network must have of its own answer.
    pub min_iou: f32,
    /// Least overlap with the neighbour's mask.
    pub min_dice: f32,
    /// Greatest area, in areas of the neighbour's mask.
    pub max_growth: f32,
}

impl Beyond {
    fn read(manifest: &Manifest) -> Result<Self, InferenceError> {
        let number = |key: &str| manifest.number(&format!("beyond_{key}"));
        Ok(Self {
            reach_mm: number("reach_mm")?,
            share: number("share")?,
            min_iou: number("min_iou")? as f32,
            min_dice: number("min_dice")? as f32,
            max_growth: number("max_growth")? as f32,
        })
    }

    /// Whether a structure that looks like `neighbour` on the slice before goes on as `plane`.
    pub fn allows(&self, plane: &Plane, neighbour: &Plane) -> bool {
        plane.iou >= self.min_iou
            && plane.dice(neighbour) >= self.min_dice
            && plane.area() as f32 <= self.max_growth * neighbour.area() as f32
    }

    /// How far outside a box of this length along the slices a structure may be followed, millimetres.
    pub fn reach_mm(&self, length_mm: f64) -> f64 {
        self.reach_mm.min(self.share * length_mm)
    }
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
            doubtful_iou: manifest.number("doubtful_iou")? as f32,
            sure_iou: manifest.number("sure_iou")? as f32,
            beyond: Beyond::read(manifest)?,
            plausible_hu: per_window(manifest, "plausible_hu")?,
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
        let stride = (step_mm / grid.spacing_mm[2] + HAIR).floor();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::link::tests::grid;

    #[test]
    fn keys_are_every_nth_slice_and_the_last() {
        let keys = Keys { stride: 3, count: 9 };
        assert_eq!(
            [0, 1, 5, 6, 7, 8].map(|k| keys.around(k)),
            [[0, 0], [0, 3], [3, 6], [6, 6], [6, 8], [8, 8]]
        );
        assert_eq!(keys.covering([4, 7]).into_iter().collect::<Vec<_>>(), [3, 6, 8]);
        assert_eq!(Keys::new(&grid(), 5.0).stride, 2);
        assert_eq!(Keys::new(&grid(), 1.0).stride, 1);
    }
}
