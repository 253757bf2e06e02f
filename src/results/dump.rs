//! Masks as a plain file, for judges that must compare an object with what was computed.
//!
//! One line of JSON, a line feed, then the masks. The line holds `columns`, `rows`, the `sop_instance_uids` of the slices in order
//! with their `frame_numbers`
//! (null for single frames) and the `structures` in order. A mask is `slices × rows × columns` bits, column fastest, the first in the least significant bit
//! of its byte; each mask begins at a byte. `numpy.unpackbits(…, bitorder="little")` reads it.

use crate::mask::Mask;
use crate::series::Series;

#[derive(serde::Serialize)]
struct Head<'a> {
    columns: usize,
    rows: usize,
    sop_instance_uids: Vec<&'a str>,
    frame_numbers: Vec<Option<u32>>,
    structures: Vec<&'a str>,
}

/// The masks of a series, in the format above.
pub fn dump(series: &Series, masks: &[Mask]) -> Vec<u8> {
    let [columns, rows, slices] = series.grid.size;
    let head = Head {
        columns,
        rows,
        sop_instance_uids: series.slices.iter().map(|s| s.sop_instance_uid.as_str()).collect(),
        frame_numbers: series.slices.iter().map(|s| s.frame_number).collect(),
        structures: masks.iter().map(|m| m.structure.name).collect(),
    };
    let mut out = serde_json::to_vec(&head).expect("strings and numbers are JSON");
    out.push(b'\n');
    for mask in masks {
        let start = out.len();
        out.resize(start + (columns * rows * slices).div_ceil(8), 0);
        for ((k, j, i), inside) in mask.voxels.indexed_iter() {
            let [i0, j0, k0] = mask.offset;
            let bit = ((k0 + k) * rows + j0 + j) * columns + i0 + i;
            out[start + bit / 8] |= u8::from(*inside) << (bit % 8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Grid, PatientPoint};
    use ndarray::Array3;

    #[test]
    fn bits_stand_where_the_head_says() {
        let grid = Grid {
            origin: PatientPoint::new(0.0, 0.0, 0.0),
            directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            spacing_mm: [1.0; 3],
            size: [3, 5, 2],
        };
        let uid = crate::dicom::uid::Uid::derived(&["x"]);
        let series = Series {
            study_instance_uid: uid.clone(),
            series_instance_uid: uid.clone(),
            frame_of_reference_uid: uid,
            slices: Vec::new(),
            grid,
            uneven: None,
            set_aside: Vec::new(),
            remarks: Vec::new(),
        };
        let structure = crate::structure::by_name("liver").unwrap();
        let mask = Mask {
            structure,
            offset: [2, 4, 1],
            voxels: Array3::from_elem((1, 1, 1), true),
        };
        let bytes = dump(&series, &[mask]);
        let line = bytes.iter().position(|b| *b == b'\n').unwrap();
        let head: serde_json::Value = serde_json::from_slice(&bytes[..line]).unwrap();
        assert_eq!(
            (head["columns"].as_u64(), head["structures"][0].as_str()),
            (Some(3), Some("liver"))
        );
        assert_eq!(bytes[line + 1..], [0, 0, 0, 0b0010_0000]);
    }
}
