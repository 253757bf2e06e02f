//! The published MedLAM network: one answer per patch of 192 mm, laid over the whole volume until it says what one pass of the
//! dense network says.
//!
//! Patches lie on a lattice, a stride apart; of each the features of its middle are kept, and what it says of its position is
//! carried to the voxels around. The reference cuts a patch around every wanted point instead. It then compares features up to
//! 93 mm off the middle of a patch; here none is farther than half a stride along an axis, and patches are shared by all points.
//!
//! The network's axes are S, A, L: rows run against ours, and are turned on the way in and on the way out.

use crate::geometry::Vec3;
use crate::inference::model::Manifest;
use crate::inference::runtime::{Feed, InferenceError, Session};
use crate::localise::canonical::{COARSE_MM, Canonical, INPUT_MM, KNOTS, Observation, Seen, normalise};
use crate::localise::fine::Features;
use crate::progress::Progress;
use crate::volume::{Volume, to_patient_axes};
use ndarray::{Array3, Array5, ArrayD, ArrayViewD, Axis, Ix5, s};
use serde::Deserialize;

/// Voxels of a patch along each side, and their size: the network is built for them.
const PATCH: usize = 64;
const SPACING_MM: f64 = 3.0;
/// 3 mm voxels per feature voxel.
const COARSE: usize = 4;
const FINE: usize = 2;
/// The step of the lattice must be a whole number of feature voxels on both sides of a patch's middle.
const STRIDE_MULTIPLE: usize = 8;
const MAX_STRIDE: usize = 48;
const MAX_BATCH: usize = 64;
/// A displacement must fit into the range; a patient does.
const LEAST_RANGE_MM: f64 = 200.0;

/// How a patch network is used, from its manifest.
#[derive(Clone, Debug)]
pub struct Patches {
    /// Displacement = range ∘ tanh(difference of positions), `[x, y, z]`.
    range_mm: Vec3,
    /// Voxels between patches.
    stride: usize,
    /// Patches in one run.
    batch: usize,
}

#[derive(Deserialize)]
struct Written {
    input: Input,
    output: Output,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    spacing_mm: f64,
    patch: usize,
    stride: usize,
    batch: usize,
    hu_knots: Vec<(f32, f32)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    /// z, y, x
    range_mm: [f64; 3],
    coarse_mm: f64,
    fine_mm: f64,
}

/// What the network says of a batch.
struct Answer {
    /// `[n, 3]`: z, y, x, dimensionless.
    position: ArrayD<f32>,
    /// `[n, channel, z, y, x]` at 12 and at 6 mm, vectors of length 1.
    coarse: Array5<f32>,
    fine: Array5<f32>,
}

impl Patches {
    /// # Errors
    /// When the manifest lacks a key, or wants what this version cannot do.
    pub fn of(manifest: &Manifest) -> Result<Self, InferenceError> {
        let refuse = |problem: String| manifest.refuse(format!("model.toml: {problem}"));
        let written: Result<Written, _> = toml::Value::Table(manifest.raw.clone()).try_into();
        let Written { input, output } = written.map_err(|e: toml::de::Error| refuse(e.message().to_owned()))?;
        let fixed = [
            ("input.spacing_mm", input.spacing_mm, SPACING_MM),
            ("input.patch", input.patch as f64, PATCH as f64),
            ("output.coarse_mm", output.coarse_mm, COARSE_MM),
            ("output.fine_mm", output.fine_mm, INPUT_MM),
        ];
        if let Some((key, given, wanted)) = fixed.into_iter().find(|(_, given, wanted)| given != wanted) {
            return Err(refuse(format!("{key} is {given}; patch models run with {wanted}")));
        }
        if input.hu_knots != KNOTS {
            return Err(refuse(format!("input.hu_knots are not {KNOTS:?}")));
        }
        if input.stride % STRIDE_MULTIPLE != 0 || !(STRIDE_MULTIPLE..=MAX_STRIDE).contains(&input.stride) {
            return Err(refuse(format!(
                "input.stride is {}; it must be a multiple of {STRIDE_MULTIPLE} up to {MAX_STRIDE} voxels",
                input.stride
            )));
        }
        if !(1..=MAX_BATCH).contains(&input.batch) {
            return Err(refuse(format!("input.batch is {}, not 1 to {MAX_BATCH}", input.batch)));
        }
        let [z, y, x] = output.range_mm;
        if ![z, y, x].iter().all(|r| r.is_finite() && *r >= LEAST_RANGE_MM) {
            return Err(refuse(format!(
                "output.range_mm is {:?}; {LEAST_RANGE_MM} mm are the least",
                output.range_mm
            )));
        }
        Ok(Self {
            range_mm: [x, y, z],
            stride: input.stride,
            batch: input.batch,
        })
    }

    /// Runs the network over every patch whose middle shows some of the patient.
    ///
    /// # Errors
    /// `Cancelled` between two runs, or what the runtime says.
    pub fn observe(
        &self,
        volume: &Volume,
        session: &mut Session,
        progress: &dyn Progress,
    ) -> Result<Observation, InferenceError> {
        let mut run = |patches: ArrayViewD<'_, f32>| {
            let outputs = session.run(&[("patch", Feed::F32(patches))], &["position", "coarse", "fine"])?;
            answer(outputs).map_err(|problem| InferenceError::Model {
                model: session.assignment.model.clone(),
                problem,
            })
        };
        self.observe_by(volume, &mut run, progress)
    }

    fn observe_by(
        &self,
        volume: &Volume,
        run: &mut dyn FnMut(ArrayViewD<'_, f32>) -> Result<Answer, InferenceError>,
        progress: &dyn Progress,
    ) -> Result<Observation, InferenceError> {
        let (grid, mut input) = to_patient_axes(volume, SPACING_MM);
        let canonical = Canonical::from_fine(&grid, &input, volume.grid.bounds());
        input.mapv_inplace(normalise);
        let body = canonical.body();
        let lattice = Lattice::over(&body, self.stride, canonical.coarse_origin());
        let tiles = lattice.tiles(&body);
        let coarse_size = body.dim().into();
        let mut coarse = Features::blank(coarse_size, 0, canonical.coarse_origin(), COARSE_MM, 2);
        let mut fine = Features::blank(canonical.size, 0, canonical.origin, INPUT_MM, 4);
        let mut said = Array3::from_elem(lattice.count, None);
        progress.stage("observe", tiles.len());
        for (done, batch) in tiles.chunks(self.batch).enumerate() {
            if progress.cancelled() {
                return Err(InferenceError::Cancelled);
            }
            let mut patches = Array5::zeros((batch.len(), 1, PATCH, PATCH, PATCH));
            for (n, tile) in batch.iter().enumerate() {
                patches
                    .slice_mut(s![n, 0, .., .., ..])
                    .assign(&self.patch(&input, *tile));
            }
            let answer = run(patches.view().into_dyn())?;
            if done == 0 {
                let channels = [&answer.coarse, &answer.fine].map(|f| f.len_of(Axis(1)));
                coarse = Features::blank(coarse_size, channels[0], canonical.coarse_origin(), COARSE_MM, 2);
                fine = Features::blank(canonical.size, channels[1], canonical.origin, INPUT_MM, 4);
            }
            for (n, tile) in batch.iter().enumerate() {
                // z, y, x of S, A, L become x, y, z of L, P, S
                let [z, y, x] = [0, 1, 2].map(|c| f64::from(answer.position[[n, c]]));
                let [rx, ry, rz] = self.range_mm;
                said[*tile] = Some([x * rx, -y * ry, z * rz]);
                self.keep(&mut coarse, &answer.coarse, n, *tile, COARSE);
                self.keep(&mut fine, &answer.fine, n, *tile, FINE);
            }
            progress.step((done * self.batch + batch.len()).min(tiles.len()));
        }
        let patient = body.indexed_iter().filter(|(_, inside)| **inside).map(|(at, _)| at);
        Ok(Observation {
            bounds: canonical.bounds,
            seen: patient.map(|(z, y, x)| self.seen(&lattice, &said, [x, y, z])).collect(),
            range_mm: Some(self.range_mm),
            coarse,
            fine,
        })
    }

    /// Voxels on each side of a patch that are not kept.
    fn margin(&self) -> usize {
        (PATCH - self.stride) / 2
    }

    /// The patch whose middle is the tile, as the network takes it: rows to Anterior, air outside the volume.
    fn patch(&self, input: &Array3<f32>, tile: [usize; 3]) -> Array3<f32> {
        let mut patch = Array3::zeros([PATCH; 3]);
        let size: [usize; 3] = input.dim().into();
        let [z, y, x] = [0, 1, 2].map(|a| {
            let (first, margin) = (tile[a] * self.stride, self.margin());
            let from = first.saturating_sub(margin);
            let to = (first + PATCH - margin).min(size[a]).max(from);
            (from..to, from + margin - first)
        });
        let taken = input.slice(s![z.0.clone(), y.0.clone(), x.0.clone()]);
        let at = |(range, start): (std::ops::Range<usize>, usize)| start..start + range.len();
        patch.slice_mut(s![at(z), at(y), at(x)]).assign(&taken);
        patch.invert_axis(Axis(1));
        patch
    }

    /// Puts the features of a patch's middle where they belong; `voxels` are the 3 mm voxels of one of theirs.
    fn keep(&self, map: &mut Features, said: &Array5<f32>, n: usize, tile: [usize; 3], voxels: usize) {
        let mut own = said.index_axis(Axis(0), n);
        own.invert_axis(Axis(2));
        let (margin, stride) = (self.margin() / voxels, self.stride / voxels);
        let middle = margin..margin + stride;
        let own = own.slice(s![.., middle.clone(), middle.clone(), middle]);
        map.put(tile.map(|t| t * stride), own.permuted_axes([1, 2, 3, 0]));
    }

    /// The body coordinate of a coarse voxel `[x, y, z]`: what the patches around it say, carried from their middles as the
    /// network means displacements, and blended linearly. Patches that were not run have no say.
    fn seen(&self, lattice: &Lattice, said: &Array3<Option<Vec3>>, voxel: [usize; 3]) -> Seen {
        let at = [0, 1, 2].map(|a| lattice.origin[a] + COARSE_MM * voxel[a] as f64);
        let (mut body, mut total) = ([0.0; 3], 0.0);
        let index = [0, 1, 2].map(|a| (at[a] - lattice.middle(a, 0)) / lattice.step_mm);
        for corner in 0..8usize {
            let (mut weight, mut tile) = (1.0, [0; 3]);
            for a in 0..3 {
                let most = lattice.count[2 - a] - 1;
                let held = index[a].clamp(0.0, most as f64);
                let (share, far) = (held.fract(), corner >> a & 1);
                weight *= if far == 1 { share } else { 1.0 - share };
                tile[a] = (held as usize + far).min(most);
            }
            let [x, y, z] = tile;
            let Some(own) = said[[z, y, x]].filter(|_| weight > 0.0) else {
                continue;
            };
            for a in 0..3 {
                let (range, away) = (self.range_mm[a], at[a] - lattice.middle(a, tile[a]));
                body[a] += weight * (own[a] + range * (away / range).atanh());
            }
            total += weight;
        }
        Seen {
            at,
            body: body.map(|b| b / total),
        }
    }
}

/// Where the middles of patches lie.
struct Lattice {
    /// Patches along z, y, x.
    count: [usize; 3],
    /// Centre of the first coarse voxel, `[x, y, z]`.
    origin: Vec3,
    step_mm: f64,
    /// Coarse voxels between patches.
    stride: usize,
}

impl Lattice {
    fn over(body: &Array3<bool>, stride: usize, origin: Vec3) -> Self {
        let size: [usize; 3] = body.dim().into();
        Self {
            count: size.map(|n| n.div_ceil(stride / COARSE)),
            origin,
            step_mm: stride as f64 * SPACING_MM,
            stride: stride / COARSE,
        }
    }

    /// Where along a patient axis a patch's middle lies.
    fn middle(&self, axis: usize, tile: usize) -> f64 {
        self.origin[axis] - COARSE_MM / 2.0 + self.step_mm * (tile as f64 + 0.5)
    }

    /// Those that hold some of the patient, `[z, y, x]`.
    fn tiles(&self, body: &Array3<bool>) -> Vec<[usize; 3]> {
        let mut shown = Array3::from_elem(self.count, false);
        for ((z, y, x), inside) in body.indexed_iter() {
            shown[[z, y, x].map(|n| n / self.stride)] |= *inside;
        }
        let shown = shown.indexed_iter().filter(|(_, shown)| **shown);
        shown.map(|((z, y, x), _)| [z, y, x]).collect()
    }
}

fn answer(outputs: Vec<ArrayD<f32>>) -> Result<Answer, String> {
    let [position, coarse, fine]: [ArrayD<f32>; 3] = outputs
        .try_into()
        .map_err(|_| "it does not give position, coarse and fine".to_owned())?;
    let count = position.len() / 3;
    if position.shape() != [count, 3] {
        return Err(format!(
            "output position has shape {:?}, expected [n, 3]",
            position.shape()
        ));
    }
    if !position.iter().all(|p| p.is_finite()) {
        return Err("its positions are not finite".into());
    }
    let features = |array: ArrayD<f32>, name: &str, side: usize| {
        let shape = array.shape().to_vec();
        let fits = shape.len() == 5 && shape[0] == count && shape[2..] == [side; 3];
        fits.then(|| array.into_dimensionality::<Ix5>().ok())
            .flatten()
            .ok_or(format!(
                "output {name} has shape {shape:?}, expected [{count}, channels, {side}, {side}, {side}]"
            ))
    };
    Ok(Answer {
        position,
        coarse: features(coarse, "coarse", PATCH / COARSE)?,
        fine: features(fine, "fine", PATCH / FINE)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Grid;
    use crate::progress::Silent;

    const ORIGIN: Vec3 = [-100.0, 40.0, -700.0];

    /// Soft tissue of smoothly changing density, L, P, S from the origin.
    fn volume(size: [usize; 3], hu: impl Fn([usize; 3]) -> i16) -> Volume {
        let grid = Grid {
            origin: ORIGIN.into(),
            directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            spacing_mm: [3.0; 3],
            size: [size[2], size[1], size[0]],
        };
        Volume {
            hu: Array3::from_shape_fn(grid.shape(), |(z, y, x)| hu([z, y, x])),
            grid,
        }
    }

    fn patches(batch: usize) -> Patches {
        Patches {
            range_mm: [600.0, 600.0, 1500.0],
            stride: 24,
            batch,
        }
    }

    /// A network that says how bright each half of a patch is (S, A, L), and whose features are the mean of what it sees.
    fn halves(x: ArrayViewD<'_, f32>) -> Result<Answer, InferenceError> {
        let count = x.shape()[0];
        let mean = |n: usize, voxels: usize, at: [usize; 3]| {
            let [z, y, x0] = at.map(|i| i * voxels..(i + 1) * voxels);
            x.slice(s![n, 0, z, y, x0]).mean().unwrap_or(0.0)
        };
        let position = ArrayD::from_shape_fn(vec![count, 3], |at| {
            let mut half = x.index_axis(Axis(0), at[0]);
            half.slice_axis_inplace(Axis(at[1] + 1), ndarray::Slice::from(PATCH / 2..));
            half.mean().unwrap_or(0.0)
        });
        let features = |voxels: usize| {
            let side = PATCH / voxels;
            Array5::from_shape_fn((count, 2, side, side, side), |(n, c, z, y, x)| {
                let m = mean(n, voxels, [z, y, x]);
                if c == 0 { m } else { (1.0 - m * m).sqrt() }
            })
        };
        Ok(Answer {
            position,
            coarse: features(COARSE),
            fine: features(FINE),
        })
    }

    #[test]
    fn positions_come_out_in_the_axes_of_the_patient() {
        // bright on one side only: L, P, S of the middle patch
        for (axis, high) in [(0, true), (0, false), (1, true), (1, false), (2, true), (2, false)] {
            let bright = |[z, y, x]: [usize; 3]| if ([x, y, z][axis] >= 36) == high { 199 } else { -199 };
            let volume = volume([72, 72, 72], bright);
            let seen = patches(3).observe_by(&volume, &mut halves, &Silent).unwrap().seen;
            let middle = ORIGIN.map(|o| o - 1.5 + 108.0 + 6.0);
            let s = seen
                .iter()
                .find(|s| (0..3).all(|a| (s.at[a] - middle[a]).abs() < 1e-6))
                .unwrap();
            // 6 mm beyond the middle of the patch, whose own halves are 0.8, 0.2 or, along other axes, 0.5
            let own = s.body[axis] - 6.0;
            let (range, half) = ([600.0, -600.0, 1500.0][axis], if high { 0.8 } else { 0.2 });
            // in our axes the bright half is the upper one; A is the upper half in the network's
            let wanted = range * if axis == 1 { 1.0 - half } else { half };
            // the neighbours have a twelfth of a say along each axis
            assert!(
                (own - wanted).abs() < 0.1 * range.abs(),
                "{axis} {high}: {own} for {wanted}"
            );
        }
    }

    #[test]
    fn features_lie_where_their_voxels_are() {
        // growing to L, P and F by different amounts, below the knot at 200 HU
        let density = |[x, y, z]: Vec3| 1.5 * x + 2.0 * y - 1.2 * z;
        let volume = volume([51, 43, 70], |[z, y, x]| density([x, y, z].map(|n| n as f64)) as i16);
        for batch in [1, 5] {
            let seen = patches(batch).observe_by(&volume, &mut halves, &Silent).unwrap();
            for n in 0..300usize {
                let voxel = [n * 7 % 60 + 6, n * 11 % 30 + 6, n * 13 % 40 + 6];
                let at = [0, 1, 2].map(|a| ORIGIN[a] + 3.0 * voxel[a] as f64);
                for (map, half_mm) in [(&seen.fine, 9.0), (&seen.coarse, 6.0)] {
                    let first = [0, 1, 2].map(|a| (at[a] - half_mm - ORIGIN[a]) / 3.0);
                    let (said, wanted) = (map.cube(at)[0], normalise(density(first) as f32));
                    assert!((said - wanted).abs() < 4e-3, "{at:?}: {said} for {wanted}");
                }
            }
        }
    }

    #[test]
    fn a_cancelled_look_ends() {
        struct Stop;
        impl Progress for Stop {
            fn stage(&self, _: &'static str, _: usize) {}
            fn step(&self, _: usize) {}
            fn cancelled(&self) -> bool {
                true
            }
        }
        let result = patches(1).observe_by(&volume([40, 40, 40], |_| 40), &mut halves, &Stop);
        assert!(matches!(result, Err(InferenceError::Cancelled)));
    }

    #[test]
    fn a_volume_without_a_patient_shows_nothing() {
        let seen = patches(1)
            .observe_by(&volume([40, 40, 40], |_| -1000), &mut halves, &Silent)
            .unwrap();
        assert!(seen.seen.is_empty());
    }
}
