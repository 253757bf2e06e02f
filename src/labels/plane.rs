//! The plane of a slice or frame: where its pixels lie.

use crate::dicom::header::Instance;
use crate::geometry::{Vec3, cross, dot, norm, sub};

/// A plane of pixels in patient space.
#[derive(Clone, Debug)]
pub struct Plane {
    /// Centre of the first pixel.
    pub position: Vec3,
    /// One step to the next column, and to the next row, millimetres.
    pub steps: [Vec3; 2],
    /// Columns, rows.
    pub size: [usize; 2],
}

impl Plane {
    /// `None` unless the orientation is two unit vectors across each other, and the spacing positive.
    pub fn new(
        position: Vec3,
        orientation: [f64; 6],
        [between_rows, between_columns]: [f64; 2],
        size: [usize; 2],
    ) -> Option<Self> {
        let [a, b, c, d, e, f] = orientation;
        let (row, column) = ([a, b, c], [d, e, f]);
        let sound = (norm(row) - 1.0).abs() < 0.01
            && (norm(column) - 1.0).abs() < 0.01
            && dot(row, column).abs() < 0.01
            && between_rows > 0.0
            && between_columns > 0.0;
        sound.then(|| Self {
            position,
            steps: [row.map(|x| x * between_columns), column.map(|x| x * between_rows)],
            size,
        })
    }

    pub fn of_slice(slice: &Instance) -> Option<Self> {
        let (orientation, spacing) = (slice.image_orientation?, slice.pixel_spacing_mm?);
        Self::new(slice.image_position?, orientation, spacing, [slice.columns, slice.rows])
    }

    pub fn normal(&self) -> Vec3 {
        let normal = cross(self.steps[0], self.steps[1]);
        let length = norm(normal);
        normal.map(|x| x / length)
    }

    /// Patient position of pixel (column, row).
    pub fn point(&self, [i, j]: [f64; 2]) -> Vec3 {
        [0, 1, 2].map(|x| self.position[x] + i * self.steps[0][x] + j * self.steps[1][x])
    }

    /// Pixel (column, row) below a point: its foot on the plane. Exact also for steps that are not quite at right angles.
    pub fn pixel(&self, point: Vec3) -> [f64; 2] {
        let way = sub(point, self.position);
        let [u, v] = self.steps;
        let (uu, uv, vv) = (dot(u, u), dot(u, v), dot(v, v));
        let (wu, wv) = (dot(way, u), dot(way, v));
        let det = uu * vv - uv * uv;
        [(wu * vv - wv * uv) / det, (wv * uu - wu * uv) / det]
    }

    /// Whether the pixels of both lie upon each other, within `tolerance_mm` at three corners.
    pub fn is_same(&self, other: &Self, tolerance_mm: f64) -> bool {
        let [columns, rows] = self.size.map(|n| n.saturating_sub(1) as f64);
        let near = |corner| norm(sub(self.point(corner), other.point(corner))) <= tolerance_mm;
        self.size == other.size && near([0.0, 0.0]) && near([columns, 0.0]) && near([0.0, rows])
    }
}
