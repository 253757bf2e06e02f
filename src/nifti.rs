//! NIfTI files as grids in patient space: CT volumes and label volumes for teaching, measuring and the demonstration.
//!
//! NIfTI counts patient axes as RAS+, DICOM as LPS+: x and y change sign and nothing else does. The array keeps the order of
//! the file, the [`Grid`] says where it lies.

use crate::geometry::{Grid, Vec3, cross, dot, norm};
use crate::volume::Volume;
use ndarray::Array3;
use nifti::{IntoNdArray, NiftiHeader, NiftiObject, ReaderOptions};
use std::path::Path;

/// More voxels than any CT has; a header may claim 2⁴⁸.
const MAX_VOXELS: usize = 1 << 30;

/// A NIfTI file that cannot be used, with what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct NiftiError {
    pub file: String,
    pub problem: String,
}

/// Reads a CT in Hounsfield units; values are rounded and clamped to 16 bits.
pub fn read_ct(path: &Path) -> Result<Volume, NiftiError> {
    let (grid, values) = read(path)?;
    let hu = values.mapv(|v| v.round().clamp(-32_768.0, 32_767.0) as i16);
    Ok(Volume { grid, hu })
}

/// Reads a label volume `[k, j, i]`; 0 is background.
pub fn read_labels(path: &Path) -> Result<(Grid, Array3<u16>), NiftiError> {
    let (grid, values) = read(path)?;
    if let Some(bad) = values
        .iter()
        .find(|v| !(0.0..=65_535.0).contains(*v) || v.fract() != 0.0)
    {
        return Err(problem(
            path,
            format!("{bad} is not a label: whole numbers from 0 to 65535 are expected"),
        ));
    }
    Ok((grid, values.mapv(|v| v as u16)))
}

fn read(path: &Path) -> Result<(Grid, Array3<f32>), NiftiError> {
    let header = NiftiHeader::from_file(path).map_err(|e| problem(path, format!("not a NIfTI file: {e}")))?;
    let dims: Vec<usize> = header
        .dim()
        .map_err(|e| problem(path, e.to_string()))?
        .iter()
        .map(|d| usize::from(*d))
        .collect();
    if dims.len() < 3 || dims[3..].iter().any(|d| *d != 1) || dims.contains(&0) {
        return Err(problem(path, format!("{dims:?} is not a three-dimensional volume")));
    }
    let voxels = dims
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d))
        .unwrap_or(usize::MAX);
    if voxels > MAX_VOXELS {
        return Err(problem(
            path,
            format!("{voxels} voxels are more than the {MAX_VOXELS} we read"),
        ));
    }
    let grid = grid_of(&header, [dims[0], dims[1], dims[2]]).map_err(|p| problem(path, p))?;
    let object = ReaderOptions::new()
        .read_file(path)
        .map_err(|e| problem(path, e.to_string()))?;
    let array = object
        .into_volume()
        .into_ndarray::<f32>()
        .map_err(|e| problem(path, e.to_string()))?;
    let array = array
        .into_shape_with_order(((dims[0], dims[1], dims[2]), ndarray::Order::F))
        .map_err(|e| problem(path, e.to_string()))?;
    // the file counts i fastest, so reversing the axes gives [k, j, i] without moving anything
    Ok((grid, array.reversed_axes()))
}

/// The grid from sform, else qform, else the voxel sizes alone (NIfTI-1 methods 3, 2 and 1).
fn grid_of(header: &NiftiHeader, size: [usize; 3]) -> Result<Grid, String> {
    let columns = if header.sform_code > 0 {
        let rows = [header.srow_x, header.srow_y, header.srow_z].map(|r| r.map(f64::from));
        [0, 1, 2, 3].map(|c| [rows[0][c], rows[1][c], rows[2][c]])
    } else if header.qform_code > 0 {
        quaternion_columns(header)
    } else {
        return Err("neither sform nor qform: where the patient's left is cannot be told".into());
    };
    let [i, j, k, origin] = columns.map(|[x, y, z]| [-x, -y, z]);
    let spacing_mm = [norm(i), norm(j), norm(k)];
    let directions = [unit(i), unit(j), unit(k)];
    let volume = dot(directions[0], cross(directions[1], directions[2])).abs();
    if !spacing_mm.iter().all(|s| s.is_finite() && (1e-3..1e3).contains(s)) || volume.is_nan() || volume < 0.1 {
        return Err(format!("its affine is degenerate (voxel sizes {spacing_mm:?} mm)"));
    }
    if !origin.iter().all(|v| v.is_finite()) {
        return Err("its origin is not finite".into());
    }
    Ok(Grid {
        origin: origin.into(),
        directions,
        spacing_mm,
        size,
    })
}

fn unit(v: Vec3) -> Vec3 {
    let n = norm(v);
    v.map(|c| c / n)
}

/// Columns of the qform affine (NIfTI-1 method 2): rotation by the quaternion (a, b, c, d), `pixdim[0]` flips the third axis.
fn quaternion_columns(header: &NiftiHeader) -> [Vec3; 4] {
    let [b, c, d] = [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let a = (1.0 - b * b - c * c - d * d).max(0.0).sqrt();
    let flip = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let [sx, sy, sz] = [1, 2, 3].map(|n| f64::from(header.pixdim[n]));
    [
        [
            a * a + b * b - c * c - d * d,
            2.0 * (b * c + a * d),
            2.0 * (b * d - a * c),
        ]
        .map(|v| v * sx),
        [
            2.0 * (b * c - a * d),
            a * a + c * c - b * b - d * d,
            2.0 * (c * d + a * b),
        ]
        .map(|v| v * sy),
        [
            2.0 * (b * d + a * c),
            2.0 * (c * d - a * b),
            a * a + d * d - b * b - c * c,
        ]
        .map(|v| v * sz * flip),
        // the crate names NIfTI-1's qoffset_x, y, z so
        [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from),
    ]
}

fn problem(path: &Path, problem: impl Into<String>) -> NiftiError {
    NiftiError {
        file: path.display().to_string(),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nifti::writer::WriterOptions;

    fn header() -> NiftiHeader {
        NiftiHeader {
            sform_code: 1,
            ..NiftiHeader::default()
        }
    }

    fn written(header: &NiftiHeader, array: &ndarray::ArrayD<i16>) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ct.nii.gz");
        WriterOptions::new(&path)
            .reference_header(header)
            .write_nifti(array)
            .unwrap();
        (dir, path)
    }

    #[test]
    fn an_oblique_sform_lands_in_lps() {
        let mut h = header();
        // RAS: i runs to the right and forward, j to the back right, k to the head
        h.srow_x = [0.6, 0.8, 0.0, 10.0];
        h.srow_y = [0.8, -0.6, 0.0, 20.0];
        h.srow_z = [0.0, 0.0, 2.5, -30.0];
        let array = ndarray::ArrayD::from_shape_fn(vec![4, 3, 2], |d| (100 * d[2] + 10 * d[1] + d[0]) as i16);
        let (_dir, path) = written(&h, &array);
        let volume = read_ct(&path).unwrap();
        assert_eq!(volume.grid.size, [4, 3, 2]);
        assert_eq!(volume.hu[[1, 2, 3]], 123);
        let p = volume.grid.to_patient([3.0, 2.0, 1.0]);
        // RAS (10 + 3*0.6 + 2*0.8, 20 + 3*0.8 - 2*0.6, -30 + 2.5)
        assert!(p.distance_mm([-13.4, -21.2, -27.5].into()) < 1e-5, "{p:?}");
        assert!((volume.grid.spacing_mm[2] - 2.5).abs() < 1e-6);
    }

    #[test]
    fn a_qform_says_the_same_as_its_sform() {
        let mut h = header();
        h.sform_code = 0;
        h.qform_code = 1;
        h.pixdim = [-1.0, 0.7, 0.7, 2.5, 0.0, 0.0, 0.0, 0.0];
        // half a turn about the patient's long axis, third axis flipped
        (h.quatern_b, h.quatern_c, h.quatern_d) = (0.0, 0.0, 1.0);
        (h.quatern_x, h.quatern_y, h.quatern_z) = (1.0, 2.0, 3.0);
        let grid = grid_of(&h, [5, 5, 5]).unwrap();
        let p = grid.to_patient([1.0, 1.0, 1.0]);
        assert!(p.distance_mm([-0.3, -1.3, 0.5].into()) < 1e-5, "{p:?}");
    }

    #[test]
    fn what_cannot_be_placed_is_refused() {
        let mut h = header();
        h.srow_x = [1.0, 0.0, 0.0, 0.0];
        h.srow_y = [1.0, 0.0, 0.0, 0.0];
        h.srow_z = [0.0, 0.0, 1.0, 0.0];
        assert!(grid_of(&h, [2, 2, 2]).unwrap_err().contains("degenerate"));
        (h.sform_code, h.qform_code) = (0, 0);
        assert!(grid_of(&h, [2, 2, 2]).unwrap_err().contains("left"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.nii");
        std::fs::write(&path, b"nothing").unwrap();
        assert!(read_ct(&path).unwrap_err().to_string().contains("not a NIfTI file"));
    }
}
