//! The canonical grid of localisation: aligned with the patient, isotropic, whatever the scanner's orientation was.
//!
//! Each voxel of it is the mean, over the voxel's cube, of the source interpolated linearly: exactly when the axes agree, by
//! evenly spread samples when the stack is oblique or leans. Where the source is coarser it is sampled at the centre.

use crate::geometry::{Grid, Vec3, norm, sub};
use crate::volume::{AIR_HU, Volume, threads};
use ndarray::Array3;

const AIR: f32 = AIR_HU as f32;
/// Direction cosines this close to 0 and ±1 are an axis: 0.05 mm across half a metre.
const ALIGNED: f64 = 1e-4;
/// Samples along one edge of a voxel's cube; finer sources than that (0.375 mm for 3 mm) are thinned.
const MAX_SAMPLES: usize = 8;

/// The volume on a patient-axis-aligned grid (directions = LPS axes) of isotropic `spacing_mm` that covers it, HU as f32,
/// indexed `[z, y, x]` and growing with L, P and S. Averages over the source voxels where the source is finer, interpolates
/// linearly where it is coarser; voxels whose centre is outside are −1024. Works for every orientation, oblique ones too.
pub fn to_patient_axes(volume: &Volume, spacing_mm: f64) -> (Grid, Array3<f32>) {
    let bounds = volume.grid.bounds();
    let origin = bounds.min.to_array().map(|c| c + spacing_mm / 2.0);
    let grid = Grid {
        origin: origin.into(),
        directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        spacing_mm: [spacing_mm; 3],
        // A hair beyond a whole number of voxels is rounding, not anatomy.
        size: bounds
            .size_mm()
            .map(|length| ((length / spacing_mm - 1e-6).ceil() as usize).max(1)),
    };
    let hu = match aligned_axes(&volume.grid) {
        Some(axes) => along_axes(volume, &grid, axes),
        None => across_axes(volume, &grid),
    };
    (grid, hu)
}

/// For each patient axis the source axis along it, when there is one for each.
fn aligned_axes(source: &Grid) -> Option<[usize; 3]> {
    let mut axes = [usize::MAX; 3];
    for (axis, direction) in source.directions.iter().enumerate() {
        let along = (0..3).find(|&c| direction[c].abs() > 0.5)?;
        let mut unit = [0.0; 3];
        unit[along] = direction[along].signum();
        if norm(sub(*direction, unit)) > ALIGNED || axes[along] != usize::MAX {
            return None;
        }
        axes[along] = axis;
    }
    Some(axes)
}

/// What one target index takes from a line of the source: `weights` from `start` on; nothing when its centre is outside.
struct Taps {
    start: usize,
    weights: Vec<f32>,
}

/// The taps of every target index along patient axis `along`, which is `axis` of the source.
fn taps(source: &Grid, axis: usize, target: &Grid, along: usize) -> Vec<Taps> {
    let count = source.size[axis] as f64;
    let scale = source.directions[axis][along].signum() / source.spacing_mm[axis];
    let first = (target.origin.to_array()[along] - source.origin.to_array()[along]) * scale;
    let width = target.spacing_mm[along] / source.spacing_mm[axis];
    let taps_at = |index: usize| {
        let centre = first + index as f64 * target.spacing_mm[along] * scale;
        if centre < -0.5 || centre > count - 0.5 {
            return Taps {
                start: 0,
                weights: Vec::new(),
            };
        }
        // The source is taken as linear between voxel centres; a box mean of that keeps a ramp where it is.
        let reach = if width > 1.0 { width / 2.0 + 1.0 } else { 1.0 };
        let (low, high) = (
            (centre - width / 2.0).max(-0.5),
            (centre + width / 2.0).min(count - 0.5),
        );
        let weight = |n: f64| {
            if width > 1.0 {
                hat_integral(high - n) - hat_integral(low - n)
            } else {
                (1.0 - (n - centre).abs()).max(0.0)
            }
        };
        let start = (centre - reach).ceil().max(0.0);
        let end = (centre + reach).floor().min(count - 1.0);
        let weights: Vec<f64> = (start as usize..=end as usize).map(|n| weight(n as f64)).collect();
        // At the faces the rest counts in full, so that an organ cut there keeps its density.
        let sum: f64 = weights.iter().sum();
        Taps {
            start: start as usize,
            weights: weights.iter().map(|w| (w / sum) as f32).collect(),
        }
    };
    (0..target.size[along]).map(taps_at).collect()
}

/// Of linear interpolation's weight `1 − |t|`, from −1 to `t`.
fn hat_integral(t: f64) -> f64 {
    let t = t.clamp(-1.0, 1.0);
    if t < 0.0 {
        (1.0 + t).powi(2) / 2.0
    } else {
        1.0 - (1.0 - t).powi(2) / 2.0
    }
}

/// Axis by axis: within each source slice along i and j, then across the slices.
fn along_axes(volume: &Volume, target: &Grid, axes: [usize; 3]) -> Array3<f32> {
    // `to[axis]` is the patient axis along a source axis.
    let to = [0, 1, 2].map(|axis| {
        axes.iter()
            .position(|&a| a == axis)
            .expect("each source axis lies along one")
    });
    let [taps_i, taps_j, taps_k] = [0, 1, 2].map(|axis| taps(&volume.grid, axis, target, to[axis]));
    let (slices, _, columns) = volume.grid.shape();
    let (wide, high) = (taps_i.len(), taps_j.len());
    let mut planes = vec![AIR; slices * wide * high];
    let hu = volume.hu.as_standard_layout();
    let hu = hu.as_slice().expect("standard layout is contiguous");
    let per_slice = hu.len() / slices.max(1);
    in_parallel(&mut planes, wide * high, |k, out| {
        let slice = &hu[k * per_slice..(k + 1) * per_slice];
        let mut row = vec![0.0; columns];
        for (tap_j, out) in taps_j.iter().zip(out.chunks_mut(wide)) {
            if tap_j.weights.is_empty() {
                continue;
            }
            row.fill(0.0);
            for (n, weight) in tap_j.weights.iter().enumerate() {
                let source = &slice[(tap_j.start + n) * columns..][..columns];
                row.iter_mut()
                    .zip(source)
                    .for_each(|(sum, hu)| *sum += weight * f32::from(*hu));
            }
            for (tap_i, out) in taps_i.iter().zip(out) {
                if !tap_i.weights.is_empty() {
                    *out = tap_i
                        .weights
                        .iter()
                        .zip(&row[tap_i.start..])
                        .map(|(weight, hu)| weight * hu)
                        .sum();
                }
            }
        }
    });
    let plane = wide * high;
    let mut stacked = vec![AIR; taps_k.len() * plane];
    in_parallel(&mut stacked, plane, |k, out| {
        let tap = &taps_k[k];
        if !tap.weights.is_empty() {
            out.fill(0.0);
        }
        for (n, weight) in tap.weights.iter().enumerate() {
            let source = &planes[(tap.start + n) * plane..][..plane];
            out.iter_mut().zip(source).for_each(|(sum, hu)| *sum += weight * hu);
        }
    });
    // Indexed [k, j, i] of the source; now [z, y, x].
    let stacked = Array3::from_shape_vec((taps_k.len(), high, wide), stacked).expect("made in this shape");
    let order = [2 - axes[2], 2 - axes[1], 2 - axes[0]];
    stacked.permuted_axes(order).as_standard_layout().into_owned()
}

/// Mean of trilinear samples spread evenly over each target voxel's cube.
fn across_axes(volume: &Volume, target: &Grid) -> Array3<f32> {
    let source = &volume.grid;
    // Source coordinates are affine in patient space: find their slopes from four points.
    let zero = source.to_voxel([0.0; 3].into());
    let slope = [0, 1, 2].map(|along| {
        let mut unit = [0.0; 3];
        unit[along] = 1.0;
        sub(source.to_voxel(unit.into()), zero)
    });
    let spacing = target.spacing_mm[0];
    let offsets: [Vec<f64>; 3] = slope.map(|rate| {
        let finest = rate.iter().fold(0.0, |most: f64, r| most.max(r.abs())) * spacing;
        let count = (finest.ceil().max(1.0) as usize).min(MAX_SAMPLES);
        (0..count)
            .map(|n| ((n as f64 + 0.5) / count as f64 - 0.5) * spacing)
            .collect()
    });
    let sampler = Sampler::new(volume);
    let [wide, high, deep] = target.size;
    let mut out = vec![AIR; wide * high * deep];
    let at = |centre: Vec3, offset: Vec3| -> Vec3 {
        [0, 1, 2].map(|axis| zero[axis] + (0..3).map(|c| slope[c][axis] * (centre[c] + offset[c])).sum::<f64>())
    };
    in_parallel(&mut out, wide, |line, out| {
        let (j, k) = (line % high, line / high);
        for (i, out) in out.iter_mut().enumerate() {
            let centre = target.to_patient([i as f64, j as f64, k as f64]).to_array();
            if !sampler.inside(at(centre, [0.0; 3])) {
                continue;
            }
            let (mut sum, mut count) = (0.0, 0u32);
            for &z in &offsets[2] {
                for &y in &offsets[1] {
                    for &x in &offsets[0] {
                        let voxel = at(centre, [x, y, z]);
                        if sampler.inside(voxel) {
                            sum += sampler.sample(voxel);
                            count += 1;
                        }
                    }
                }
            }
            // Samples beyond the faces do not count, as along the axes. The centre's own may all miss an even number.
            *out = if count > 0 {
                sum / count as f32
            } else {
                sampler.sample(at(centre, [0.0; 3]))
            };
        }
    });
    Array3::from_shape_vec((deep, high, wide), out).expect("made in this shape")
}

struct Sampler<'a> {
    hu: ndarray::CowArray<'a, i16, ndarray::Ix3>,
    size: [usize; 3],
}

impl<'a> Sampler<'a> {
    fn new(volume: &'a Volume) -> Self {
        Self {
            hu: volume.hu.as_standard_layout(),
            size: volume.grid.size,
        }
    }

    fn inside(&self, voxel: Vec3) -> bool {
        (0..3).all(|axis| voxel[axis] >= -0.5 && voxel[axis] <= self.size[axis] as f64 - 0.5)
    }

    /// Trilinear; the outer half voxel holds the value of its centre.
    fn sample(&self, voxel: Vec3) -> f32 {
        let mut low = [0; 3];
        let mut high = [0; 3];
        let mut part = [0.0f32; 3];
        for axis in 0..3 {
            let last = (self.size[axis] - 1) as f64;
            let at = voxel[axis].clamp(0.0, last);
            low[axis] = at as usize;
            high[axis] = (low[axis] + 1).min(self.size[axis] - 1);
            part[axis] = (at - low[axis] as f64) as f32;
        }
        let hu = self.hu.as_slice().expect("standard layout is contiguous");
        let line = |j: usize, k: usize| {
            let base = (k * self.size[1] + j) * self.size[0];
            let (a, b) = (f32::from(hu[base + low[0]]), f32::from(hu[base + high[0]]));
            a + (b - a) * part[0]
        };
        let plane = |k: usize| {
            let (a, b) = (line(low[1], k), line(high[1], k));
            a + (b - a) * part[1]
        };
        let (a, b) = (plane(low[2]), plane(high[2]));
        a + (b - a) * part[2]
    }
}

/// Runs `work(index, chunk)` over chunks of `length`, on a few threads. Each chunk is computed alone, so the result does not
/// depend on how many there are.
fn in_parallel(out: &mut [f32], length: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let length = length.max(1);
    let chunks = out.len().div_ceil(length);
    let threads = threads().min(chunks.max(1));
    let per_thread = chunks.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (part, out) in out.chunks_mut(per_thread * length).enumerate() {
            let work = &work;
            scope.spawn(move || {
                for (n, chunk) in out.chunks_mut(length).enumerate() {
                    work(part * per_thread + n, chunk);
                }
            });
        }
    });
}
