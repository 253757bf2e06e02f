//! Patient space and voxel space, and the only code that converts between them.
//!
//! Patient space is DICOM's LPS frame in millimetres (PS3.3 C.7.6.2.1.1): x grows to the patient's left, y to the
//! back (posterior), z to the head (superior). Voxel space counts `(i, j, k)` = (column, row, slice); arrays are
//! indexed `[k, j, i]`. A voxel's integer coordinate is its centre, as in Image Position (Patient).

/// A three-vector in millimetres or voxels, by context.
pub type Vec3 = [f64; 3];

/// A point in patient space, LPS millimetres.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PatientPoint {
    pub x: f64,
    pub y: f64,
    pub z: f64,
}

impl PatientPoint {
    pub const fn new(x: f64, y: f64, z: f64) -> Self {
        Self { x, y, z }
    }
    pub const fn to_array(self) -> Vec3 {
        [self.x, self.y, self.z]
    }
    pub fn distance_mm(self, other: Self) -> f64 {
        norm(sub(self.to_array(), other.to_array()))
    }
}

impl From<Vec3> for PatientPoint {
    fn from([x, y, z]: Vec3) -> Self {
        Self { x, y, z }
    }
}

/// A regular voxel grid placed in patient space.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Grid {
    /// Centre of voxel (0, 0, 0).
    pub origin: PatientPoint,
    /// Unit vectors along i (the row cosine, towards the next column), j (the column cosine) and k (towards the next slice).
    pub directions: [Vec3; 3],
    /// Distance between voxel centres along i, j, k.
    pub spacing_mm: Vec3,
    /// Voxel counts along i, j, k: columns, rows, slices.
    pub size: [usize; 3],
}

impl Grid {
    /// Patient position of a (fractional) voxel coordinate `(i, j, k)`.
    pub fn to_patient(&self, voxel: Vec3) -> PatientPoint {
        let mut p = self.origin.to_array();
        for (axis, direction) in self.directions.iter().enumerate() {
            let step = voxel[axis] * self.spacing_mm[axis];
            for (p, d) in p.iter_mut().zip(direction) {
                *p += step * d;
            }
        }
        p.into()
    }

    /// Fractional voxel coordinate `(i, j, k)` of a patient position. Exact for any invertible set of directions,
    /// so a sheared (tilted) grid converts rightly too.
    pub fn to_voxel(&self, point: PatientPoint) -> Vec3 {
        let d = sub(point.to_array(), self.origin.to_array());
        let [a, b, c] = self.directions;
        let det = dot(a, cross(b, c));
        let along = [
            dot(d, cross(b, c)) / det,
            dot(a, cross(d, c)) / det,
            dot(a, cross(b, d)) / det,
        ];
        [
            along[0] / self.spacing_mm[0],
            along[1] / self.spacing_mm[1],
            along[2] / self.spacing_mm[2],
        ]
    }

    pub fn voxel_volume_ml(&self) -> f64 {
        let [a, b, c] = self.directions;
        dot(a, cross(b, c)).abs() * self.spacing_mm.iter().product::<f64>() / 1000.0
    }

    /// Shape for an array over this grid: `(slices, rows, columns)`.
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.size[2], self.size[1], self.size[0])
    }

    /// The patient-axis-aligned box that encloses all voxels, outer faces included.
    pub fn bounds(&self) -> Box3 {
        let mut bounds = Box3::EMPTY;
        for corner in 0..8u8 {
            let at = |axis: usize| {
                if corner >> axis & 1 == 1 {
                    self.size[axis] as f64 - 0.5
                } else {
                    -0.5
                }
            };
            bounds.include(self.to_patient([at(0), at(1), at(2)]));
        }
        bounds
    }
}

/// A box aligned with the patient axes, LPS millimetres.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Box3 {
    pub min: PatientPoint,
    pub max: PatientPoint,
}

impl Box3 {
    /// Contains nothing; [`Box3::include`] grows it.
    pub const EMPTY: Self = Self {
        min: PatientPoint::new(f64::INFINITY, f64::INFINITY, f64::INFINITY),
        max: PatientPoint::new(f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY),
    };

    pub fn include(&mut self, p: PatientPoint) {
        self.min = PatientPoint::new(self.min.x.min(p.x), self.min.y.min(p.y), self.min.z.min(p.z));
        self.max = PatientPoint::new(self.max.x.max(p.x), self.max.y.max(p.y), self.max.z.max(p.z));
    }

    pub fn middle(&self) -> PatientPoint {
        let (a, b) = (self.min.to_array(), self.max.to_array());
        [0, 1, 2].map(|axis| 0.5 * (a[axis] + b[axis])).into()
    }

    pub fn size_mm(&self) -> Vec3 {
        sub(self.max.to_array(), self.min.to_array())
    }

    /// False when a side is crossed or infinite.
    pub fn is_proper(&self) -> bool {
        self.size_mm().iter().all(|s| s.is_finite() && *s > 0.0)
    }
}

pub fn dot(a: Vec3, b: Vec3) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

pub fn sub(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub fn norm(a: Vec3) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rotated(angles: Vec3, spacing_mm: Vec3, origin: Vec3) -> Grid {
        let (sa, ca) = angles[0].sin_cos();
        let (sb, cb) = angles[1].sin_cos();
        let i = [ca * cb, sa * cb, -sb];
        let j = [-sa, ca, 0.0];
        Grid {
            origin: origin.into(),
            directions: [i, j, cross(i, j)],
            spacing_mm,
            size: [40, 30, 20],
        }
    }

    proptest! {
        #[test]
        fn voxel_to_patient_and_back_on_oblique_grids(
            a in -3.1f64..3.1, b in -1.5f64..1.5, s in 0.3f64..6.0, o in -500.0f64..500.0,
            v in prop::array::uniform3(-50.0f64..600.0),
        ) {
            let grid = rotated([a, b, 0.0], [s, s * 1.3, s * 2.1], [o, -o, 2.0 * o]);
            let back = grid.to_voxel(grid.to_patient(v));
            for axis in 0..3 {
                prop_assert!((back[axis] - v[axis]).abs() < 1e-6, "{back:?} {v:?}");
            }
        }
    }

    #[test]
    fn a_sheared_grid_converts_rightly_too() {
        let mut grid = rotated([0.0, 0.0, 0.0], [1.0, 1.0, 5.0], [10.0, 20.0, 30.0]);
        let tilt = 15f64.to_radians();
        grid.directions[2] = [0.0, tilt.sin(), tilt.cos()];
        let back = grid.to_voxel(grid.to_patient([3.0, 4.0, 5.0]));
        assert!(norm(sub(back, [3.0, 4.0, 5.0])) < 1e-9);
    }

    #[test]
    fn bounds_hold_the_outer_faces() {
        let grid = rotated([0.0; 3], [2.0, 3.0, 4.0], [0.0; 3]);
        assert_eq!(grid.bounds().min, PatientPoint::new(-1.0, -1.5, -2.0));
        assert_eq!(grid.bounds().max, PatientPoint::new(79.0, 88.5, 78.0));
    }
}
