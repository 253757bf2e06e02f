//! The patient's outer surface, for planning systems that want an EXTERNAL contour.
//!
//! Computed, not recognised: denser than halfway between air and fat or skin, freed from the table and from clothes by an
//! opening that removes everything thinner than 5 mm, grown back to where the threshold puts the skin, and filled slice by slice
//! so that lungs, airways and bowel gas are inside. It works on the stored grid, pixel for pixel, whatever the orientation.
//!
//! The largest piece is the patient. Others are kept when they look like a part of him that the volume does not join to the
//! trunk, as arms beside an abdomen are: 20 mm thick over much of their section and soft tissue for the most part, which no
//! table is.

use crate::volume::bits::{Bits, Pieces, Reach};
use crate::volume::{AIR_HU, Volume};
use ndarray::Array3;

/// The skin lies where the image crosses this. Halfway between air (−1000) and skin and fat (−100…50) is some −500; a little
/// nearer to tissue, as planning systems' own searches are, blankets and the nap of clothes fall out. On four scanners' series
/// moving it by 100 HU either way changes the volume by less than 0.5 %, a seventh of a pixel all around.
const SKIN_HU: i16 = -400;
/// Half the thickness of what the opening removes: table shells, clothes, tubes and wires.
const OPENING_MM: f64 = 2.5;
/// Half the thickness of a limb, and the share of a piece's core that must be left at that depth: an upper arm keeps half, a
/// wrist a quarter, a table's rails and shells hardly any.
const LIMB_MM: f64 = 10.0;
const LIMB_CORE: f64 = 0.2;
/// Fat and muscle, and the share of them in a limb, bones included.
const TISSUE_HU: std::ops::RangeInclusive<i16> = -150..=150;
const LIMB_TISSUE: f64 = 0.6;

/// The patient on the stored grid.
pub struct Body {
    /// `[k, j, i]`.
    pub voxels: Array3<bool>,
    /// Slices on which the field of view cuts him.
    pub cut_slices: usize,
}

/// The patient's outline; `None` where the volume shows nothing denser than air that is thick enough.
pub fn outline(volume: &Volume) -> Option<Body> {
    let [columns, rows, _] = volume.grid.size;
    let hu = volume.hu.as_slice()?;
    let slices: Vec<&[i16]> = hu.chunks_exact((columns * rows).max(1)).collect();
    let pixel_mm = volume.grid.spacing_mm[0].min(volume.grid.spacing_mm[1]);
    let steps = |half_thickness_mm: f64| (half_thickness_mm / pixel_mm).ceil() as usize;
    // Two at least: a table's shell is two pixels wide where pixels are large.
    let opening = steps(OPENING_MM).max(2);
    let dense: Vec<Bits> = slices
        .iter()
        .map(|pixels| Bits::of(pixels, columns, |hu| hu > SKIN_HU))
        .collect();
    let cores: Vec<Bits> = dense.iter().map(|slice| shrink(slice, 0, opening)).collect();
    let thick: Vec<Bits> = cores
        .iter()
        .map(|core| shrink(core, opening, steps(LIMB_MM).max(opening)))
        .collect();

    let kept = patient(&slices, &cores, &thick)?;
    let mut voxels = Array3::from_elem(volume.grid.shape(), false);
    let out = voxels.as_slice_mut()?;
    let mut cut_slices = 0;
    for (k, mut slice) in kept.into_iter().enumerate() {
        // One step more than the opening took, because the octagon's corners are blunt.
        for step in 0..=opening {
            slice = slice.grown(reach(step), &dense[k]);
        }
        cut_slices += usize::from(is_cut(&slice, slices[k]));
        slice.fill_holes();
        let plane = &mut out[k * columns * rows..(k + 1) * columns * rows];
        for row in 0..rows {
            for run in slice.runs(row) {
                plane[row * columns + run.start..row * columns + run.end].fill(true);
            }
        }
    }
    Some(Body { voxels, cut_slices })
}

fn reach(step: usize) -> Reach {
    if step.is_multiple_of(2) {
        Reach::Cross
    } else {
        Reach::Box
    }
}

fn shrink(slice: &Bits, from: usize, to: usize) -> Bits {
    (from..to).fold(slice.clone(), |slice, step| slice.shrunk(reach(step)))
}

/// The cores of the patient's pieces, slice by slice.
fn patient(slices: &[&[i16]], cores: &[Bits], thick: &[Bits]) -> Option<Vec<Bits>> {
    let pieces = Pieces::of(cores);
    let mut size = vec![0usize; pieces.parents.len()];
    let mut deep = vec![0usize; pieces.parents.len()];
    for run in &pieces.runs {
        let root = pieces.root(run);
        size[root] += run.columns.len();
        deep[root] += thick[run.slice].count(run.row, run.columns.clone());
    }
    // Of equals the first, so that the outcome does not hang on anything but the image.
    let trunk = (0..size.len()).rev().max_by_key(|label| size[*label])?;
    let mut tissue = vec![0usize; size.len()];
    let is_thick = |root: usize| deep[root] > 0 && deep[root] as f64 >= LIMB_CORE * size[root] as f64;
    for run in pieces.runs.iter().filter(|run| is_thick(pieces.root(run))) {
        let columns = cores[run.slice].columns;
        let row = &slices[run.slice][run.row * columns..(run.row + 1) * columns];
        let soft = row[run.columns.clone()].iter().filter(|hu| TISSUE_HU.contains(hu));
        tissue[pieces.root(run)] += soft.count();
    }
    let limb = |root: usize| is_thick(root) && tissue[root] as f64 >= LIMB_TISSUE * size[root] as f64;
    let mut kept: Vec<Bits> = cores.iter().map(Bits::empty).collect();
    for run in &pieces.runs {
        let root = pieces.root(run);
        if root == trunk || limb(root) {
            kept[run.slice].set(run.row, run.columns.clone());
        }
    }
    Some(kept)
}

/// Whether the body reaches the border of the slice or, where the corners are padding, that of the round field of view.
fn is_cut(slice: &Bits, hu: &[i16]) -> bool {
    let (rows, columns) = (slice.rows, slice.columns);
    let corners = [0, columns - 1, (rows - 1) * columns, rows * columns - 1];
    let round = corners.iter().all(|corner| hu[*corner] <= AIR_HU);
    let centre = [(rows - 1) as f64 / 2.0, (columns - 1) as f64 / 2.0];
    let radius = rows.min(columns) as f64 / 2.0 - 1.5;
    (0..rows).any(|row| {
        slice.runs(row).any(|run| {
            let border = row == 0 || row + 1 == rows || run.start == 0 || run.end == columns;
            let far = |column: usize| (row as f64 - centre[0]).hypot(column as f64 - centre[1]) >= radius;
            border || round && (far(run.start) || far(run.end - 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Grid, PatientPoint};

    const SIDE: usize = 200;

    /// A trunk of 100 mm across with a lung in it, on a table that touches it, an arm beside it; pixels of a millimetre.
    fn volume(slices: usize, hu: impl Fn(usize, f64, f64) -> i16) -> Volume {
        let grid = Grid {
            origin: PatientPoint::new(0.0, 0.0, 0.0),
            directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            spacing_mm: [1.0, 1.0, 5.0],
            size: [SIDE, SIDE, slices],
        };
        Volume {
            hu: Array3::from_shape_fn(grid.shape(), |(k, j, i)| hu(k, j as f64 - 90.0, i as f64 - 100.0)),
            grid,
        }
    }

    fn trunk(y: f64, x: f64) -> i16 {
        match y.hypot(x) {
            r if r < 20.0 => -850,
            r if r < 50.0 => 30,
            _ => AIR_HU,
        }
    }

    fn scene(_: usize, y: f64, x: f64) -> i16 {
        let arm = (y - 10.0).hypot(x - 75.0);
        // the shell touches the trunk's back; foam within it, a second shell below
        let shell = (50.0..53.0).contains(&y) || (80.0..84.0).contains(&y);
        let blanket = (60.0..63.0).contains(&y.hypot(x)) && y < 0.0 && x < 0.0;
        match (arm, shell, blanket) {
            (r, ..) if r < 5.0 => 600,
            (r, ..) if r < 18.0 => -80,
            (_, true, _) => 100,
            (_, _, true) => -300,
            _ if y > 53.0 && y < 80.0 => -930,
            _ => trunk(y, x),
        }
    }

    #[test]
    fn trunk_and_arm_are_the_patient_and_table_and_blanket_are_not() {
        let body = outline(&volume(3, scene)).unwrap();
        let mut wrong = 0;
        for ((_, j, i), inside) in body.voxels.indexed_iter() {
            let (y, x) = (j as f64 - 90.0, i as f64 - 100.0);
            let wanted = y.hypot(x) < 50.0 || (y - 10.0).hypot(x - 75.0) < 18.0;
            // where the shell touches the back a few of its pixels come along
            let touching = (49.0..55.0).contains(&y) && x.abs() < 20.0;
            wrong += usize::from(*inside != wanted && !touching);
        }
        assert_eq!((wrong, body.cut_slices), (0, 0));
    }

    #[test]
    fn the_skin_is_where_the_threshold_is() {
        // a soft edge: the ramp crosses the threshold at a radius of 52.3 mm
        let ramp = |_: usize, y: f64, x: f64| (-400.0 + (52.3 - y.hypot(x)) * 200.0).clamp(-1024.0, 40.0) as i16;
        let body = outline(&volume(2, ramp)).unwrap();
        let area = body.voxels.iter().filter(|v| **v).count() as f64 / 2.0;
        let radius = (area / std::f64::consts::PI).sqrt();
        assert!((radius - 52.3).abs() < 0.1, "{radius}");
    }

    #[test]
    fn a_body_cut_by_the_field_of_view_says_so() {
        let shifted = |k: usize, y: f64, x: f64| trunk(y, x + if k == 1 { 60.0 } else { 0.0 });
        assert_eq!(outline(&volume(3, shifted)).unwrap().cut_slices, 1);
        // cut by a circle, in corners of padding
        let circle = |_: usize, y: f64, x: f64| {
            if (y - 9.5).hypot(x + 0.5) < 99.0 {
                trunk(y + 60.0, x)
            } else {
                AIR_HU
            }
        };
        assert_eq!(outline(&volume(1, circle)).unwrap().cut_slices, 1);
    }

    #[test]
    fn an_empty_volume_has_no_body() {
        assert!(outline(&volume(2, |_, _, _| AIR_HU)).is_none());
    }
}
