//! Feature similarity (MSS): how well the neighbourhood of every candidate place matches that of a template's point.
//!
//! A template is a cube of feature vectors, 24 mm wide, centred on its point. Candidates are the cube corners of the voxel
//! lattice, where a cube of the observed features needs no interpolation; the peak is then refined below the lattice.

use crate::geometry::Vec3;
use ndarray::{Array3, Array4, ArrayView4, s};

/// A feature map on a lattice in patient space, padded so that cubes may hang over its edge.
pub struct Features {
    /// `[z, y, x, channel]`, `edge` zero voxels on every side.
    padded: Array4<f32>,
    /// Centre of the first unpadded voxel, `[x, y, z]`.
    origin: Vec3,
    step_mm: f64,
    /// Voxels of a template cube along each side.
    edge: usize,
}

/// Similarities on a regular lattice, `[z, y, x]`.
pub struct Similarity {
    pub values: Array3<f32>,
    /// Patient position of value `[0, 0, 0]`, `[x, y, z]`.
    pub origin: Vec3,
    pub step_mm: f64,
}

impl Features {
    /// `map` is `[z, y, x, channel]` with vectors of length 1.
    pub fn new(map: Array4<f32>, origin: Vec3, step_mm: f64, edge: usize) -> Self {
        let (z, y, x, c) = map.dim();
        let mut padded = Array4::zeros((z + 2 * edge, y + 2 * edge, x + 2 * edge, c));
        padded
            .slice_mut(s![edge..edge + z, edge..edge + y, edge..edge + x, ..])
            .assign(&map);
        Self {
            padded,
            origin,
            step_mm,
            edge,
        }
    }

    /// Zero everywhere, to be filled with [`Self::put`]; `size` is `[z, y, x]`.
    pub fn blank(size: [usize; 3], channels: usize, origin: Vec3, step_mm: f64, edge: usize) -> Self {
        let [z, y, x] = size.map(|n| n + 2 * edge);
        Self {
            padded: Array4::zeros((z, y, x, channels)),
            origin,
            step_mm,
            edge,
        }
    }

    /// Writes a block (`[z, y, x, channel]`, vectors of length 1) from `start` on; what hangs over the map is left out.
    pub fn put(&mut self, start: [usize; 3], block: ArrayView4<'_, f32>) {
        let (size, dim) = (self.size(), block.dim());
        let dim = [dim.0, dim.1, dim.2];
        let [z, y, x] = [0, 1, 2].map(|a| dim[a].min(size[a].saturating_sub(start[a])));
        let [fz, fy, fx] = [0, 1, 2].map(|a| start[a].min(size[a]) + self.edge);
        self.padded
            .slice_mut(s![fz..fz + z, fy..fy + y, fx..fx + x, ..])
            .assign(&block.slice(s![..z, ..y, ..x, ..]));
    }

    pub fn channels(&self) -> usize {
        self.padded.dim().3
    }

    pub fn step_mm(&self) -> f64 {
        self.step_mm
    }

    /// Numbers in a template cube of this map.
    pub fn cube_len(&self) -> usize {
        self.edge.pow(3) * self.channels()
    }

    /// Voxels of the unpadded map, `[z, y, x]`.
    fn size(&self) -> [usize; 3] {
        let (z, y, x, _) = self.padded.dim();
        [z, y, x].map(|n| n - 2 * self.edge)
    }

    /// The cube of feature vectors centred on a patient position, `[z, y, x, channel]` flattened: interpolated linearly, each
    /// made unit length again; zero where the map ends.
    pub fn cube(&self, centre: Vec3) -> Vec<f32> {
        let half = (self.edge - 1) as f64 / 2.0;
        let mut cube = Vec::with_capacity(self.cube_len());
        for z in 0..self.edge {
            for y in 0..self.edge {
                for x in 0..self.edge {
                    let offset = [x, y, z].map(|n| (n as f64 - half) * self.step_mm);
                    cube.extend(self.vector([0, 1, 2].map(|a| centre[a] + offset[a])));
                }
            }
        }
        cube
    }

    fn vector(&self, at: Vec3) -> Vec<f32> {
        let (nz, ny, nx, channels) = self.padded.dim();
        let index = [0, 1, 2].map(|a| (at[a] - self.origin[a]) / self.step_mm + self.edge as f64);
        let mut vector = vec![0.0f32; channels];
        for corner in 0..8usize {
            let mut weight = 1.0;
            let mut voxel = [0usize; 3];
            for a in 0..3 {
                let low = index[a].floor();
                let far = (corner >> a & 1) as f64;
                let share = index[a] - low;
                weight *= if far > 0.0 { share } else { 1.0 - share };
                // a negative place becomes 0, which is padding, hence zero
                voxel[a] = (low + far).max(0.0) as usize;
            }
            if voxel[0] < nx && voxel[1] < ny && voxel[2] < nz {
                let from = self.padded.slice(s![voxel[2], voxel[1], voxel[0], ..]);
                vector.iter_mut().zip(from).for_each(|(v, f)| *v += weight as f32 * f);
            }
        }
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        if length > 1e-3 {
            vector.iter_mut().for_each(|v| *v /= length);
        }
        vector
    }

    /// Mean cosine between `cube` and the map around every lattice place within `radius_mm` of `centre` along each axis. Only the
    /// part of the cube inside the map counts; places with less than half of it inside score 0. `None` when no place is in reach.
    pub fn correlate(&self, cube: &[f32], centre: Vec3, radius_mm: f64) -> Option<Similarity> {
        let size = self.size();
        let half = (self.edge - 1) as f64 / 2.0;
        // cube starts, in padded indices, per axis x, y, z
        let mut range = [(0usize, 0usize); 3];
        for (a, range) in range.iter_mut().enumerate() {
            let start = |mm: f64| (mm - self.origin[a]) / self.step_mm - half + self.edge as f64;
            let low = start(centre[a] - radius_mm).ceil().max(0.0);
            let high = start(centre[a] + radius_mm)
                .floor()
                .min((size[2 - a] + self.edge) as f64);
            if low > high || low.is_nan() || high.is_nan() {
                return None;
            }
            *range = (low as usize, high as usize);
        }
        let [rx, ry, rz] = range;
        let mut values = Array3::zeros((rz.1 - rz.0 + 1, ry.1 - ry.0 + 1, rx.1 - rx.0 + 1));
        for ((z, y, x), value) in values.indexed_iter_mut() {
            let start = [z + rz.0, y + ry.0, x + rx.0];
            let inside: usize = (0..3).map(|a| self.inside(start[a], size[a])).product();
            if 2 * inside >= self.edge.pow(3) {
                *value = self.dot(cube, start) / inside as f32;
            }
        }
        let origin = [0, 1, 2].map(|a| self.origin[a] + (range[a].0 as f64 - self.edge as f64 + half) * self.step_mm);
        Some(Similarity {
            values,
            origin,
            step_mm: self.step_mm,
        })
    }

    /// How many of the cube's voxels from `start` (padded) lie in the unpadded map along an axis.
    fn inside(&self, start: usize, size: usize) -> usize {
        let low = start.max(self.edge);
        let high = (start + self.edge).min(size + self.edge);
        high.saturating_sub(low)
    }

    fn dot(&self, cube: &[f32], [z, y, x]: [usize; 3]) -> f32 {
        let (_, ny, nx, channels) = self.padded.dim();
        let all = self.padded.as_slice().expect("made in standard layout");
        let row = self.edge * channels;
        let mut sums = [0.0f32; 16];
        for dz in 0..self.edge {
            for dy in 0..self.edge {
                let from = (((z + dz) * ny + y + dy) * nx + x) * channels;
                let template = &cube[(dz * self.edge + dy) * row..][..row];
                // separate sums let the compiler use vector registers
                for (a, b) in all[from..from + row].chunks(16).zip(template.chunks(16)) {
                    for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                        *sum += a * b;
                    }
                }
            }
        }
        sums.iter().sum()
    }
}

impl Similarity {
    pub fn place(&self, [z, y, x]: [usize; 3]) -> Vec3 {
        let index = [x, y, z];
        [0, 1, 2].map(|a| self.origin[a] + index[a] as f64 * self.step_mm)
    }

    /// Replaces every value by its mean with the other scale's value at the same place.
    pub fn mean_with(&mut self, other: &Self) {
        let places: Vec<Vec3> = self
            .values
            .indexed_iter()
            .map(|((z, y, x), _)| self.place([z, y, x]))
            .collect();
        for (value, place) in self.values.iter_mut().zip(places) {
            *value = 0.5 * (*value + other.at(place));
        }
    }

    /// Linear interpolation, held at the edges.
    pub fn at(&self, place: Vec3) -> f32 {
        let (nz, ny, nx) = self.values.dim();
        let size = [nx, ny, nz];
        let index = [0, 1, 2].map(|a| ((place[a] - self.origin[a]) / self.step_mm).clamp(0.0, (size[a] - 1) as f64));
        let mut value = 0.0;
        for corner in 0..8usize {
            let mut weight = 1.0;
            let mut voxel = [0usize; 3];
            for a in 0..3 {
                let low = index[a].floor() as usize;
                let share = index[a] - low as f64;
                let far = corner >> a & 1;
                weight *= if far == 1 { share } else { 1.0 - share };
                voxel[a] = (low + far).min(size[a] - 1);
            }
            value += weight * f64::from(self.values[[voxel[2], voxel[1], voxel[0]]]);
        }
        value as f32
    }

    /// The place with the highest value less `cost` (the first in raster order on ties), moved along each axis to the top of the
    /// parabola through it and its neighbours, and its value. The cost chooses among peaks but does not shift them.
    pub fn peak(&self, cost: impl Fn(Vec3) -> f32) -> (Vec3, f32) {
        let (mut best, mut most) = ([0, 0, 0], f32::NEG_INFINITY);
        for ((z, y, x), value) in self.values.indexed_iter() {
            let value = value - cost(self.place([z, y, x]));
            if value > most {
                (best, most) = ([z, y, x], value);
            }
        }
        let mut place = self.place(best);
        let top = self.values[best];
        for axis in 0..3 {
            let neighbour = |step: isize| {
                let mut at = best;
                at[axis] = at[axis].checked_add_signed(step)?;
                self.values.get(at).copied()
            };
            if let (Some(before), Some(after)) = (neighbour(-1), neighbour(1)) {
                let curvature = before - 2.0 * top + after;
                if curvature < -1e-9 {
                    let shift = f64::from(0.5 * (before - after) / curvature).clamp(-0.5, 0.5);
                    place[2 - axis] += shift * self.step_mm;
                }
            }
        }
        (place, top)
    }
}
