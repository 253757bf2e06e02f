//! Rectangles and answers in the plane of logits.

use crate::segment::prepare::PLANE;
use ndarray::{Array2, ArrayView2, s};

/// Logits are kept within ± this, so that a very sure slice does not swallow its neighbour when the two are interpolated.
pub const LIMIT: f32 = 10.0;

/// Positions are compared with this much slack, so that rounding in the last bit moves no border by a pixel.
pub const HAIR: f64 = 1e-6;

/// A rectangle in the plane: least and greatest pixel centres across and down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub min: [f64; 2],
    pub max: [f64; 2],
}

impl Rect {
    pub fn widened(self, by: [f64; 2]) -> Self {
        Self {
            min: [0, 1].map(|a| self.min[a] - by[a]),
            max: [0, 1].map(|a| self.max[a] + by[a]),
        }
    }

    pub fn within(self, outer: Self) -> Self {
        let inside = |v: [f64; 2]| [0, 1].map(|a| v[a].max(outer.min[a]).min(outer.max[a]));
        Self {
            min: inside(self.min),
            max: inside(self.max),
        }
    }

    /// Along an axis: 0 across, 1 down.
    pub fn middle(&self, axis: usize) -> f64 {
        (self.min[axis] + self.max[axis]) / 2.0
    }

    pub fn between(a: Self, b: Self, t: f64) -> Self {
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
    pub fn cut(logits: ArrayView2<'_, f32>, iou: f32, clip: Rect) -> Self {
        let low = [0, 1].map(|a| ((clip.min[a] - HAIR).ceil().max(0.0) as usize).min(PLANE - 1));
        let high = [0, 1].map(|a| ((clip.max[a] + HAIR).floor().max(0.0) as usize).clamp(low[a], PLANE - 1));
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

    pub fn area(&self) -> usize {
        self.logits.iter().filter(|v| **v > 0.0).count()
    }

    /// Mean and median of `value` over the mask; not a number where the mask is empty.
    pub fn mean_and_median(&self, value: &dyn Fn([usize; 2]) -> f32) -> [f32; 2] {
        let within = self.logits.indexed_iter().filter(|(_, v)| **v > 0.0);
        let mut values: Vec<f32> = within
            .map(|((y, x), _)| value([x + self.origin[0], y + self.origin[1]]))
            .collect();
        values.sort_by(f32::total_cmp);
        let median = values.get(values.len() / 2).copied().unwrap_or(f32::NAN);
        [values.iter().sum::<f32>() / values.len() as f32, median]
    }

    /// The box around the mask.
    pub fn bounds(&self) -> Option<Rect> {
        let mut bounds: Option<Rect> = None;
        for ((y, x), _) in self.logits.indexed_iter().filter(|(_, v)| **v > 0.0) {
            let at = [(x + self.origin[0]) as f64, (y + self.origin[1]) as f64];
            let bounds = bounds.get_or_insert(Rect { min: at, max: at });
            bounds.min = [0, 1].map(|a| bounds.min[a].min(at[a]));
            bounds.max = [0, 1].map(|a| bounds.max[a].max(at[a]));
        }
        bounds
    }

    /// Dice of the two masks.
    pub fn dice(&self, other: &Self) -> f32 {
        let within = self.logits.indexed_iter().filter(|(_, v)| **v > 0.0);
        let both = within
            .filter(|((y, x), _)| other.at([x + self.origin[0], y + self.origin[1]]) > 0.0)
            .count();
        2.0 * both as f32 / (self.area() + other.area()).max(1) as f32
    }
}
