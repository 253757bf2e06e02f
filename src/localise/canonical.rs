//! The network's view of a volume and what the network said about it, both tied to patient millimetres.

use crate::geometry::{Box3, Grid, Vec3};
use crate::inference::runtime::{Feed, InferenceError, Session};
use crate::localise::fine::Features;
use crate::volume::{Volume, to_patient_axes};
use ndarray::{Array3, Array4, ArrayD, Axis, Ix4, s};

/// Voxel sizes of the pyramid, millimetres.
pub const INPUT_MM: f64 = 6.0;
pub const COARSE_MM: f64 = 12.0;
/// Voxels of air around the input, so that the network sees the border of the field of view as air.
const PAD: usize = 8;
/// The network halves its input three times.
const MULTIPLE: usize = 8;
/// HU → network input: lung, soft tissue and bone each get a share of the range (MEDLSAM §1.3).
pub const KNOTS: [(f32, f32); 4] = [(-1000.0, 0.0), (-200.0, 0.2), (200.0, 0.8), (1500.0, 1.0)];
/// Denser than this is body or table, HU.
const BODY_HU: f32 = -400.0;

/// A volume as the network takes it.
pub struct Canonical {
    /// `[z, y, x]`, 0 to 1, padded.
    pub input: Array3<f32>,
    /// Voxels before padding, `[z, y, x]`.
    pub size: [usize; 3],
    /// Patient position of the first unpadded voxel's centre, `[x, y, z]`.
    pub origin: Vec3,
    /// What the patient-axis box of the volume is, outer faces included.
    pub bounds: Box3,
    /// Mean HU of the unpadded voxels.
    hu: Array3<f32>,
}

impl Canonical {
    /// Patient axes at 3 mm, then 2×2×2 means: as the network was trained, so that noise and partial volume look the same.
    pub fn of(volume: &Volume) -> Self {
        let (grid, hu) = to_patient_axes(volume, INPUT_MM / 2.0);
        Self::from_fine(&grid, &hu, volume.grid.bounds())
    }

    /// From voxels of 3 mm along the patient's axes.
    pub fn from_fine(grid: &Grid, fine: &Array3<f32>, bounds: Box3) -> Self {
        // a single plane cannot be halved; it stands for both halves
        let size = [0, 1, 2].map(|a| (fine.len_of(Axis(a)) / 2).max(1));
        let last = |a: usize| fine.len_of(Axis(a)) - 1;
        let hu = Array3::from_shape_fn(size, |(z, y, x)| {
            let mut sum = 0.0;
            for n in 0..8 {
                let at = |o: usize, a: usize| (2 * o + (n >> a & 1)).min(last(a));
                sum += fine[[at(z, 0), at(y, 1), at(x, 2)]];
            }
            sum / 8.0
        });
        let padded = size.map(|n| n.next_multiple_of(MULTIPLE) + 2 * PAD);
        let mut input = Array3::zeros(padded);
        let [z, y, x] = size;
        input
            .slice_mut(s![PAD..PAD + z, PAD..PAD + y, PAD..PAD + x])
            .assign(&hu.mapv(normalise));
        let origin = grid.to_patient([0.5; 3]).to_array();
        Self {
            input,
            size,
            origin,
            bounds,
            hu,
        }
    }

    /// Patient position of the first coarse voxel's centre, `[x, y, z]`.
    pub fn coarse_origin(&self) -> Vec3 {
        self.origin.map(|v| v + INPUT_MM / 2.0)
    }

    /// Which coarse voxels are patient, `[z, y, x]`.
    pub fn body(&self) -> Array3<bool> {
        body(&self.hu)
    }

    /// Runs the network once over the whole volume.
    pub fn observe(&self, session: &mut Session) -> Result<Observation, InferenceError> {
        let input = self.input.view().insert_axis(Axis(0)).insert_axis(Axis(0)).into_dyn();
        let outputs = session.run(&[("volume", Feed::F32(input))], &["position", "coarse", "fine"])?;
        let [position, coarse, fine]: [ArrayD<f32>; 3] = outputs
            .try_into()
            .map_err(|_| problem("it does not give position, coarse and fine"))?;
        let half = self.input.dim();
        let half = [half.0 / 2, half.1 / 2, half.2 / 2];
        let position = channels_last(position, half, "position")?;
        let coarse = channels_last(coarse, half, "coarse")?;
        let fine = channels_last(fine, half.map(|n| 2 * n), "fine")?;
        self.observation(position, coarse, fine)
    }

    /// Cuts the padding off the outputs (`[z, y, x, channel]`) and ties them to the patient.
    fn observation(
        &self,
        position: Array4<f32>,
        coarse: Array4<f32>,
        fine: Array4<f32>,
    ) -> Result<Observation, InferenceError> {
        if position.dim().3 != 3 {
            return Err(problem(&format!(
                "position has {} channels instead of 3",
                position.dim().3
            )));
        }
        let [z, y, x] = self.size;
        // the odd last voxel shares its coarse voxel with air; it still belongs to the patient
        let [cz, cy, cx] = self.size.map(|n| n.div_ceil(2));
        let half = PAD / 2;
        let keep = s![half..half + cz, half..half + cy, half..half + cx, ..];
        let coarse_origin = self.coarse_origin();
        let fine = fine.slice_move(s![PAD..PAD + z, PAD..PAD + y, PAD..PAD + x, ..]);
        let body = self.body();
        let position = position.slice_move(keep);
        let mut seen = Vec::new();
        for ((z, y, x), inside) in body.indexed_iter() {
            if *inside {
                let at = [x, y, z];
                let at = [0, 1, 2].map(|a| coarse_origin[a] + COARSE_MM * at[a] as f64);
                // channels come z, y, x
                let body = [2, 1, 0].map(|c| f64::from(position[[z, y, x, c]]));
                seen.push(Seen { at, body });
            }
        }
        Ok(Observation {
            bounds: self.bounds,
            seen,
            range_mm: None,
            coarse: Features::new(coarse.slice_move(keep), coarse_origin, COARSE_MM, 2),
            fine: Features::new(fine, self.origin, INPUT_MM, 4),
        })
    }
}

/// A coarse voxel of the patient and the body coordinate the network read there, both `[x, y, z]` millimetres.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub at: Vec3,
    pub body: Vec3,
}

/// What the network said about a whole volume, in patient millimetres.
pub struct Observation {
    pub bounds: Box3,
    pub seen: Vec<Seen>,
    /// Where the network was trained to mean `r·tanh(d / r)` by a difference d of body coordinates, r along `[x, y, z]`; `None`
    /// where a difference is a displacement as it stands.
    pub range_mm: Option<Vec3>,
    pub coarse: Features,
    pub fine: Features,
}

fn problem(text: &str) -> InferenceError {
    InferenceError::Model {
        model: "localiser".into(),
        problem: text.into(),
    }
}

fn channels_last(array: ArrayD<f32>, size: [usize; 3], name: &str) -> Result<Array4<f32>, InferenceError> {
    let shape = array.shape().to_vec();
    if shape.len() != 5 || shape[0] != 1 || shape[2..] != size {
        return Err(problem(&format!(
            "output {name} has shape {shape:?}, expected [1, channels, {size:?}]"
        )));
    }
    let array = array
        .index_axis_move(Axis(0), 0)
        .into_dimensionality::<Ix4>()
        .map_err(|e| problem(&e.to_string()))?;
    Ok(array.permuted_axes([1, 2, 3, 0]).as_standard_layout().into_owned())
}

/// Piecewise linear through [`KNOTS`], clamped.
pub fn normalise(hu: f32) -> f32 {
    let mut value = KNOTS[0].1;
    for pair in KNOTS.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        if hu > x0 {
            value = y0 + (hu.min(x1) - x0) / (x1 - x0) * (y1 - y0);
        }
    }
    value
}

/// Which coarse voxels are patient: the largest dense piece, and what it encloses within a slice (lungs, bowel gas).
/// A table touching the patient comes along; the body coordinate there is the skin's, and does no harm.
fn body(hu: &Array3<f32>) -> Array3<bool> {
    let (z, y, x) = hu.dim();
    let dense = Array3::from_shape_fn((z.div_ceil(2), y.div_ceil(2), x.div_ceil(2)), |(k, j, i)| {
        let block = hu.slice(s![
            2 * k..(2 * k + 2).min(z),
            2 * j..(2 * j + 2).min(y),
            2 * i..(2 * i + 2).min(x)
        ]);
        block.mean().unwrap_or(-1000.0) > BODY_HU
    });
    let mut body = largest_piece(&dense);
    for mut slice in body.outer_iter_mut() {
        let outside = flood_from_border(&slice.to_owned());
        slice.zip_mut_with(&outside, |inside, out| *inside |= !out);
    }
    body
}

fn largest_piece(dense: &Array3<bool>) -> Array3<bool> {
    let mut piece = Array3::<u32>::zeros(dense.dim());
    let (mut best, mut best_count, mut id) = (0, 0, 0);
    let mut stack = Vec::new();
    for (start, _) in dense.indexed_iter().filter(|(_, d)| **d) {
        if piece[start] != 0 {
            continue;
        }
        id += 1;
        piece[start] = id;
        stack.push(start);
        let mut count = 0;
        while let Some((z, y, x)) = stack.pop() {
            count += 1;
            let neighbours = [
                (z.wrapping_sub(1), y, x),
                (z + 1, y, x),
                (z, y.wrapping_sub(1), x),
                (z, y + 1, x),
                (z, y, x.wrapping_sub(1)),
                (z, y, x + 1),
            ];
            for n in neighbours {
                if dense.get(n) == Some(&true) && piece[n] == 0 {
                    piece[n] = id;
                    stack.push(n);
                }
            }
        }
        if count > best_count {
            (best, best_count) = (id, count);
        }
    }
    piece.mapv(|p| p != 0 && p == best)
}

/// Pixels not enclosed by `wall`.
fn flood_from_border(wall: &ndarray::Array2<bool>) -> ndarray::Array2<bool> {
    let (rows, columns) = wall.dim();
    let mut out = ndarray::Array2::from_elem((rows, columns), false);
    let mut stack: Vec<(usize, usize)> = (0..rows)
        .flat_map(|r| [(r, 0), (r, columns - 1)])
        .chain((0..columns).flat_map(|c| [(0, c), (rows - 1, c)]))
        .collect();
    while let Some(at) = stack.pop() {
        if wall.get(at) != Some(&false) || out[at] {
            continue;
        }
        out[at] = true;
        let (r, c) = at;
        stack.extend([(r.wrapping_sub(1), c), (r + 1, c), (r, c.wrapping_sub(1)), (r, c + 1)]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(origin: Vec3, size: [usize; 3]) -> Grid {
        let directions = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        Grid {
            origin: origin.into(),
            directions,
            spacing_mm: [3.0; 3],
            size,
        }
    }

    #[test]
    fn the_piecewise_normaliser_has_its_knots() {
        let given = [-2000.0, -1000.0, -600.0, -200.0, 0.0, 200.0, 850.0, 1500.0, 3000.0];
        let wanted = [0.0, 0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0, 1.0];
        for (hu, value) in given.into_iter().zip(wanted) {
            assert!((normalise(hu) - value).abs() < 1e-6, "{hu}: {}", normalise(hu));
        }
    }

    #[test]
    fn every_output_voxel_lands_on_its_patient_millimetre() {
        // odd sizes: a last plane is dropped at 6 mm and shared with air at 12 mm
        let grid = grid([-100.0, 40.0, -700.0], [43, 38, 51]);
        let hu = Array3::from_shape_fn(grid.shape(), |(z, _, _)| z as f32);
        let canonical = Canonical::from_fine(&grid, &hu, grid.bounds());
        assert_eq!(canonical.size, [25, 19, 21]);
        assert_eq!(canonical.input.dim(), (48, 40, 40));
        assert_eq!(canonical.hu[[3, 0, 0]], 6.5);
        assert_eq!(canonical.input[[7, 20, 20]], 0.0);
        assert!((canonical.input[[8, 8, 8]] - normalise(0.5)).abs() < 1e-6);
        // a network that answers every voxel with its own patient position
        let at = |o: usize, axis: usize, step: f64| {
            let first = canonical.origin[axis] - PAD as f64 * INPUT_MM + (step - INPUT_MM) / 2.0;
            (first + step * o as f64) as f32
        };
        let position = Array4::from_shape_fn((24, 20, 20, 3), |(z, y, x, c)| at([z, y, x][c], 2 - c, COARSE_MM));
        let coarse = Array4::from_shape_fn((24, 20, 20, 2), |(z, _, _, _)| z as f32);
        let fine = Array4::from_shape_fn((48, 40, 40, 1), |(z, _, _, _)| if z == 8 { 1.0 } else { 0.0 });
        let mut body_everywhere = canonical;
        body_everywhere.hu.fill(0.0);
        let seen = body_everywhere.observation(position, coarse, fine).unwrap();
        assert_eq!(seen.seen.len(), 13 * 10 * 11);
        for s in &seen.seen {
            assert!((0..3).all(|a| (s.at[a] - s.body[a]).abs() < 1e-3), "{s:?}");
        }
        // the first 6 mm voxel's centre is half a 3 mm voxel beyond the first 3 mm centre
        let cube = seen.fine.cube([-98.5 + 9.0, 41.5 + 9.0, -698.5 + 9.0]);
        assert!(
            cube[..16].iter().all(|v| *v == 1.0) && cube[16..].iter().all(|v| *v == 0.0),
            "{cube:?}"
        );
    }

    #[test]
    fn lungs_are_body_and_the_room_is_not() {
        let mut hu = Array3::from_elem((8, 40, 40), -1000.0);
        hu.slice_mut(s![.., 8..32, 8..32]).fill(40.0);
        hu.slice_mut(s![.., 14..26, 14..26]).fill(-850.0);
        hu.slice_mut(s![.., 36..40, ..]).fill(100.0);
        let body = body(&hu);
        assert!(body[[2, 10, 10]] && body[[2, 5, 5]]);
        assert!(!body[[2, 2, 2]] && !body[[2, 19, 10]]);
    }
}
