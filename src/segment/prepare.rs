//! A stored slice as the network wants it: turned the radiological way, windowed, resized, scaled to 0…1 and padded.
//!
//! Three planes are in play. *View*: the stored slice turned by quarter turns and mirrors so that columns run to the patient's
//! left and rows to the back (or down, on coronal and sagittal slices). *Image*: the view resized to the network's input.
//! *Plane*: the 256 × 256 logits over the image. Pixel centres are integers in each.

use crate::geometry::Grid;
use crate::inference::model::Manifest;
use crate::inference::runtime::InferenceError;
use crate::structure::Window;
use ndarray::{Array2, Array4, ArrayView2, s};

/// Side of the logits.
pub const PLANE: usize = 256;

/// How stored slices are turned to the view, and back: exact, as only whole pixels are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The view's columns run along the stored rows' axis j.
    pub transposed: bool,
    /// The view's columns, rows run against the stored ones.
    pub mirrored: [bool; 2],
    /// Columns and rows of the view.
    pub size: [usize; 2],
}

impl View {
    pub fn of(grid: &Grid) -> Self {
        let axes = dominant_axes(grid);
        let transposed = axes[0] > axes[1];
        let (columns, rows) = if transposed { (1, 0) } else { (0, 1) };
        let mirrored = [columns, rows].map(|stored| {
            let axis = axes[stored];
            // Towards left and back; on slices that show the height, head up.
            let wanted = if axis == 2 { -1.0 } else { 1.0 };
            grid.directions[stored][axis] * wanted < 0.0
        });
        Self {
            transposed,
            mirrored,
            size: [grid.size[columns], grid.size[rows]],
        }
    }

    /// The stored pixel `[i, j]` shown at column u, row v.
    pub fn stored(&self, uv: [usize; 2]) -> [usize; 2] {
        let [u, v] = [0, 1].map(|a| {
            if self.mirrored[a] {
                self.size[a] - 1 - uv[a]
            } else {
                uv[a]
            }
        });
        if self.transposed { [v, u] } else { [u, v] }
    }

    /// Where a (fractional) stored position `[i, j]` is shown.
    pub fn shown(&self, [i, j]: [f64; 2]) -> [f64; 2] {
        let uv = if self.transposed { [j, i] } else { [i, j] };
        [0, 1].map(|a| {
            if self.mirrored[a] {
                (self.size[a] - 1) as f64 - uv[a]
            } else {
                uv[a]
            }
        })
    }

    /// A stored slice `[j, i]` as the view `[v, u]`.
    pub fn turn<T: Copy>(&self, stored: ArrayView2<'_, T>) -> Array2<T> {
        let mut view = if self.transposed {
            stored.reversed_axes()
        } else {
            stored
        };
        view.invert_axis_if(1, self.mirrored[0]);
        view.invert_axis_if(0, self.mirrored[1]);
        view.to_owned()
    }
}

trait InvertIf {
    fn invert_axis_if(&mut self, axis: usize, yes: bool);
}

impl<T> InvertIf for ArrayView2<'_, T> {
    fn invert_axis_if(&mut self, axis: usize, yes: bool) {
        if yes {
            self.invert_axis(ndarray::Axis(axis));
        }
    }
}

/// The patient axis each stored axis runs along, each taken once, so that the fit over all three is best.
pub fn dominant_axes(grid: &Grid) -> [usize; 3] {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let fit = |order: &[usize; 3]| {
        (0..3)
            .map(|stored| grid.directions[stored][order[stored]].abs())
            .sum::<f64>()
    };
    let mut best = ORDERS[0];
    for order in ORDERS {
        if fit(&order) > fit(&best) + 1e-9 {
            best = order;
        }
    }
    best
}

/// Nothing is thinner than air: scanners write lower values where they reconstructed nothing. Shown as they are, they would take
/// the dark end of the lung window, and with it the contrast between airways and lung.
const AIR_HU: f32 = -1024.0;

/// How the network wants its image; from the model's manifest.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Side of the square image.
    pub input_size: usize,
    /// Both sides are stretched to the full size, else the longest is and the rest is padded.
    pub stretch: bool,
    /// Enlarges by cubic convolution, else linearly; shrinks by averaging.
    pub cubic: bool,
    /// Soft, bone, lung: lowest and highest HU shown.
    windows: [[f32; 2]; 3],
}

impl Recipe {
    pub fn read(manifest: &Manifest) -> Result<Self, InferenceError> {
        let choice = |key: &str, yes: &str, no: &str| match manifest.raw.get(key).and_then(toml::Value::as_str) {
            Some(text) if text == yes => Ok(true),
            Some(text) if text == no => Ok(false),
            _ => Err(manifest.refuse(format!("`{key}` must be \"{yes}\" or \"{no}\""))),
        };
        let windows = per_window(manifest, "windows")?.map(|[width, level]| [level - width / 2.0, level + width / 2.0]);
        if windows.iter().any(|[low, high]| low >= high) {
            return Err(manifest.refuse("`windows` must be [width, level], with a width above 0".into()));
        }
        let input_size = manifest.number("input_size")? as usize;
        if !(PLANE..=4096).contains(&input_size) {
            return Err(manifest.refuse(format!("input_size {input_size} is not between {PLANE} and 4096")));
        }
        Ok(Self {
            input_size,
            stretch: choice("resize", "stretch", "longest_side")?,
            cubic: choice("enlarge", "cubic", "linear")?,
            windows,
        })
    }
}

/// A window's place in the manifest's tables.
pub trait WindowIndex {
    fn index(self) -> usize;
}

impl WindowIndex for Window {
    fn index(self) -> usize {
        match self {
            Self::Soft => 0,
            Self::Bone => 1,
            Self::Lung => 2,
        }
    }
}

/// A pair of whole numbers for soft, bone and lung: the manifest's table `key`.
pub fn per_window(manifest: &Manifest, key: &str) -> Result<[[f32; 2]; 3], InferenceError> {
    let mut pairs = [[0.0; 2]; 3];
    for (name, pair) in ["soft", "bone", "lung"].into_iter().zip(&mut pairs) {
        let written = manifest
            .raw
            .get(key)
            .and_then(|table| table.get(name))
            .and_then(toml::Value::as_array);
        let numbers: Vec<f32> = written
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_integer().map(|v| v as f32))
            .collect();
        *pair = <[f32; 2]>::try_from(numbers)
            .map_err(|_| manifest.refuse(format!("`{key}.{name}` must be two whole numbers")))?;
    }
    Ok(pairs)
}

/// A view's place in the image and in the plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    pub view: [usize; 2],
    /// Columns and rows of the image that hold the view; the rest is padding.
    pub filled: [usize; 2],
    input_size: usize,
}

impl Frame {
    pub fn new(view: [usize; 2], recipe: &Recipe) -> Self {
        let longest = view[0].max(view[1]) as f64;
        let filled = view.map(|side| match recipe.stretch {
            true => recipe.input_size,
            false => ((side as f64 * recipe.input_size as f64 / longest).round() as usize).max(1),
        });
        Self {
            view,
            filled,
            input_size: recipe.input_size,
        }
    }

    /// Plane pixels per view pixel, across and down.
    pub fn scale(self) -> [f64; 2] {
        let per_image = PLANE as f64 / self.input_size as f64;
        [0, 1].map(|a| self.filled[a] as f64 / self.view[a] as f64 * per_image)
    }

    /// A position on the view in the plane; `axis` 0 across, 1 down.
    pub fn to_plane(self, axis: usize, view: f64) -> f64 {
        (view + 0.5) * self.scale()[axis] - 0.5
    }

    pub fn to_view(self, axis: usize, plane: f64) -> f64 {
        (plane + 0.5) / self.scale()[axis] - 0.5
    }

    /// A position in the plane in pixels of the image, as the decoder's boxes are given.
    pub fn to_image(self, plane: f64) -> f64 {
        (plane + 0.5) * self.input_size as f64 / PLANE as f64 - 0.5
    }

    /// The last row or column of the plane that holds image and not padding.
    pub fn last(self, axis: usize) -> f64 {
        self.to_plane(axis, self.view[axis] as f64 - 0.5) - 0.5
    }
}

/// The network's input for one stored slice `[j, i]` of HU: `[1, 1, size, size]`.
pub fn image(recipe: &Recipe, view: &View, frame: &Frame, window: Window, stored: ArrayView2<'_, i16>) -> Array4<f32> {
    let [low, high] = recipe.windows[window.index()];
    let shown = view
        .turn(stored)
        .mapv(|hu| (f32::from(hu).max(AIR_HU).clamp(low, high) - low) / (high - low) * 255.0);
    let across = taps(frame.view[0], frame.filled[0], recipe.cubic);
    let down = taps(frame.view[1], frame.filled[1], recipe.cubic);
    let small = resample(resample(shown.view(), &across).t(), &down).reversed_axes();
    let (min, max) = small
        .iter()
        .fold((f32::MAX, f32::MIN), |(min, max), v| (min.min(*v), max.max(*v)));
    let range = (max - min).max(1e-8);
    let mut image = Array4::zeros((1, 1, recipe.input_size, recipe.input_size));
    let mut filled = image.slice_mut(s![0, 0, ..frame.filled[1], ..frame.filled[0]]);
    filled.assign(&small.mapv(|v| (v - min) / range));
    image
}

/// Per output pixel: the first input pixel and the weights from there on.
type Taps = Vec<(usize, Vec<f32>)>;

fn taps(input: usize, output: usize, cubic: bool) -> Taps {
    let ratio = input as f64 / output as f64;
    let one = |out: usize| {
        if ratio >= 1.0 {
            let (from, to) = (out as f64 * ratio, (out + 1) as f64 * ratio);
            let first = from.floor() as usize;
            let last = (to.ceil() as usize).min(input);
            let share = |i: usize| (to.min(i as f64 + 1.0) - from.max(i as f64)).max(0.0) / ratio;
            return (first, (first..last).map(|i| share(i) as f32).collect());
        }
        let at = (out as f64 + 0.5) * ratio - 0.5;
        let reach = if cubic { 2 } else { 1 };
        let base = at.floor() as i64;
        let last = input as i64 - 1;
        let first = (base + 1 - reach).clamp(0, last);
        let mut weights = vec![0.0; ((base + reach).clamp(0, last) - first + 1) as usize];
        for i in base + 1 - reach..=base + reach {
            // Beyond the border the outermost pixel counts on.
            weights[(i.clamp(0, last) - first) as usize] += kernel(at - i as f64, cubic);
        }
        (first as usize, weights)
    };
    (0..output).map(one).collect()
}

/// Linear, or cubic convolution (Keys 1981, a = −1/2).
fn kernel(x: f64, cubic: bool) -> f32 {
    let x = x.abs();
    let value = match (cubic, x) {
        (false, x) => (1.0 - x).max(0.0),
        (true, x) if x <= 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        (true, x) if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    };
    value as f32
}

/// Resamples along the columns.
fn resample(source: ArrayView2<'_, f32>, taps: &Taps) -> Array2<f32> {
    let mut out = Array2::zeros((source.nrows(), taps.len()));
    for (row, mut out) in source.outer_iter().zip(out.outer_iter_mut()) {
        for ((first, weights), out) in taps.iter().zip(out.iter_mut()) {
            *out = weights.iter().zip(row.iter().skip(*first)).map(|(w, v)| w * v).sum();
        }
    }
    out
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::geometry::{PatientPoint, Vec3};

    pub fn recipe(input_size: usize, stretch: bool, cubic: bool) -> Recipe {
        Recipe {
            input_size,
            stretch,
            cubic,
            windows: [[-160.0, 240.0], [-500.0, 1300.0], [-1350.0, 150.0]],
        }
    }

    fn grid(directions: [Vec3; 3]) -> Grid {
        Grid {
            origin: PatientPoint::new(1.0, 2.0, 3.0),
            directions,
            spacing_mm: [1.0, 1.0, 2.0],
            size: [5, 4, 3],
        }
    }

    const X: Vec3 = [1.0, 0.0, 0.0];
    const Y: Vec3 = [0.0, 1.0, 0.0];
    const Z: Vec3 = [0.0, 0.0, 1.0];

    fn minus([x, y, z]: Vec3) -> Vec3 {
        [-x, -y, -z]
    }

    /// All 48 ways to store a volume along the patient's axes.
    fn orientations() -> Vec<[Vec3; 3]> {
        let mut all = Vec::new();
        for order in [[X, Y, Z], [X, Z, Y], [Y, X, Z], [Y, Z, X], [Z, X, Y], [Z, Y, X]] {
            for signs in 0..8 {
                all.push([0, 1, 2].map(|a| if signs >> a & 1 == 1 { minus(order[a]) } else { order[a] }));
            }
        }
        all
    }

    #[test]
    fn every_orientation_is_shown_the_radiological_way_and_maps_back_exactly() {
        for directions in orientations() {
            let grid = grid(directions);
            let view = View::of(&grid);
            let stored = Array2::from_shape_fn((4, 5), |(j, i)| (i, j));
            let shown = view.turn(stored.view());
            assert_eq!(shown.dim(), (view.size[1], view.size[0]));
            for ((v, u), (i, j)) in shown.indexed_iter() {
                assert_eq!(view.stored([u, v]), [*i, *j], "{directions:?}");
                assert_eq!(
                    view.shown([*i as f64, *j as f64]),
                    [u as f64, v as f64],
                    "{directions:?}"
                );
            }
            let place = |u: usize, v: usize| {
                let [i, j] = view.stored([u, v]);
                grid.to_patient([i as f64, j as f64, 1.0])
            };
            let (a, right, down) = (place(0, 0), place(1, 0), place(0, 1));
            // Columns to the left, or on sagittal slices to the back; rows to the back, or towards the feet.
            assert!(right.x > a.x || right.y > a.y, "{directions:?}");
            assert!(down.y > a.y || down.z < a.z, "{directions:?}");
        }
    }

    #[test]
    fn the_plain_axial_slice_is_left_as_it_is() {
        assert_eq!(
            View::of(&grid([X, Y, Z])),
            View {
                transposed: false,
                mirrored: [false; 2],
                size: [5, 4]
            }
        );
    }

    #[test]
    fn a_slightly_oblique_slice_is_turned_by_its_nearest_axes() {
        let (s, c) = 0.3f64.sin_cos();
        let oblique = grid([[-c, s, 0.0], [s, c, 0.0], minus(Z)]);
        assert_eq!(
            View::of(&oblique),
            View {
                transposed: false,
                mirrored: [true, false],
                size: [5, 4]
            }
        );
    }

    #[test]
    fn view_and_plane_agree_about_pixel_centres() {
        let frame = Frame::new([512, 400], &recipe(256, false, false));
        assert_eq!(
            (frame.filled, frame.to_plane(0, 0.5), frame.to_plane(0, 510.5)),
            ([256, 200], 0.0, 255.0)
        );
        assert_eq!((frame.last(0), frame.last(1)), (255.0, 199.0));
        let frame = Frame::new([512, 400], &recipe(1024, true, true));
        assert_eq!(
            (frame.filled, frame.to_plane(1, 199.5), frame.to_image(127.5)),
            ([1024, 1024], 127.5, 511.5)
        );
        assert!((frame.to_view(1, frame.to_plane(1, 77.0)) - 77.0).abs() < 1e-9);
    }

    #[test]
    fn shrinking_averages_and_enlarging_interpolates() {
        let row = Array2::from_shape_vec((1, 4), vec![0.0, 2.0, 4.0, 10.0]).unwrap();
        assert_eq!(
            resample(row.view(), &taps(4, 2, false)).into_raw_vec_and_offset().0,
            [1.0, 7.0]
        );
        let three = resample(row.view(), &taps(4, 3, false)).into_raw_vec_and_offset().0;
        assert!(
            three.iter().zip([0.5, 3.0, 8.5]).all(|(a, b)| (a - b).abs() < 1e-6),
            "{three:?}"
        );
        let eight = resample(row.view(), &taps(4, 8, false)).into_raw_vec_and_offset().0;
        assert_eq!(eight, [0.0, 0.5, 1.5, 2.5, 3.5, 5.5, 8.5, 10.0]);
        for (_, weights) in taps(4, 9, true).iter().chain(&taps(7, 3, true)) {
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn what_a_scanner_writes_outside_its_circle_looks_like_air() {
        let slice = |outside: i16| {
            Array2::from_shape_fn(
                (40, 40),
                |(j, i)| if i + j < 20 { outside } else { 10 * j as i16 - 900 },
            )
        };
        let (recipe, view) = (recipe(64, false, false), View::of(&grid([X, Y, Z])));
        let frame = Frame::new([40, 40], &recipe);
        let shown = |outside| image(&recipe, &view, &frame, Window::Lung, slice(outside).view());
        assert_eq!(shown(-3024), shown(-1024));
        assert_ne!(shown(-900), shown(-1024));
    }

    #[test]
    fn the_image_is_windowed_scaled_to_one_and_padded_with_zeros() {
        let hu = Array2::from_shape_fn((100, 200), |(j, i)| {
            if j < 50 {
                -1000
            } else if i < 100 {
                40
            } else {
                3000
            }
        });
        let recipe = recipe(256, false, false);
        let view = View {
            transposed: false,
            mirrored: [false; 2],
            size: [200, 100],
        };
        let image = image(&recipe, &view, &Frame::new(view.size, &recipe), Window::Soft, hu.view());
        assert_eq!(
            (image[[0, 0, 10, 10]], image[[0, 0, 100, 200]], image[[0, 0, 200, 10]]),
            (0.0, 1.0, 0.0)
        );
        assert!((image[[0, 0, 100, 10]] - 0.5).abs() < 1e-6);
    }
}
