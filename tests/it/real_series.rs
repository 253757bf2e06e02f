//! Promise: what scanners really send becomes the volume that other readers see, or is refused for a stated reason.

use crate::support::data;
use medlsamd::dicom::header::Instance;
use medlsamd::progress::Silent;
use medlsamd::series::{Requirements, assemble};
use medlsamd::volume::{reconstruct, to_patient_axes};
use std::time::Instant;

const ANY: Requirements = Requirements {
    min_slices: 2,
    min_extent_mm: 0.0,
};

struct Whole {
    name: &'static str,
    size: [usize; 3],
    spacing_mm: [f64; 3],
    /// Sum of all HU, and of HU times (index modulo 9973, plus 1), of the array that pydicom and numpy make of the same files.
    sums: [i64; 2],
}

const WHOLE: &[Whole] = &[
    Whole {
        name: "lidc_0001",
        size: [512, 512, 133],
        spacing_mm: [0.703125, 0.703125, 2.5],
        sums: [-21_235_825_553, -105_905_084_368_170],
    },
    Whole {
        name: "crlm_1006",
        size: [512, 512, 51],
        spacing_mm: [0.804688, 0.804688, 5.0],
        sums: [-8_024_780_258, -40_004_071_431_579],
    },
    Whole {
        name: "acrin_breast_013",
        size: [512, 512, 49],
        spacing_mm: [1.3671875, 1.3671875, 4.0],
        sums: [-11_360_539_140, -56_654_047_948_396],
    },
    Whole {
        name: "acrin_nsclc_042",
        size: [512, 512, 135],
        spacing_mm: [0.976562, 0.976562, 3.27],
        sums: [-23_685_913_538, -118_111_845_434_191],
    },
];

#[test]
fn whole_series_equal_what_another_reader_sees() {
    let Some(folder) = data::folder() else { return };
    for case in WHOLE {
        let dir = tempfile::tempdir().unwrap();
        let files = data::unpack(&folder.join("dicom").join(format!("{}.zip", case.name)), dir.path());
        let instances: Vec<_> = files.iter().map(|file| Instance::read(file).unwrap()).collect();
        let series = assemble(instances, &ANY).unwrap();
        assert_eq!(series.set_aside, []);
        let started = Instant::now();
        let volume = reconstruct(&series, &Silent).unwrap();
        let reconstructed = started.elapsed();
        let (grid, hu) = to_patient_axes(&volume, 3.0);
        eprintln!(
            "{}: reconstructed in {reconstructed:.2?}, canonical after {:.2?}",
            case.name,
            started.elapsed()
        );
        assert_eq!(volume.grid.size, case.size);
        for (found, wanted) in volume.grid.spacing_mm.iter().zip(case.spacing_mm) {
            assert!(
                (found - wanted).abs() < 1e-6,
                "{}: {:?}",
                case.name,
                volume.grid.spacing_mm
            );
        }
        let sum: i64 = volume.hu.iter().map(|hu| i64::from(*hu)).sum();
        let weighted = volume
            .hu
            .iter()
            .enumerate()
            .map(|(n, hu)| (n as i64 % 9973 + 1) * i64::from(*hu))
            .sum();
        assert_eq!([sum, weighted], case.sums, "{}", case.name);
        let mean = sum as f64 / volume.hu.len() as f64;
        let canonical = hu.iter().map(|hu| f64::from(*hu)).sum::<f64>() / hu.len() as f64;
        // Resampling may not add or lose matter, but for the rim of half voxels.
        assert!(
            (mean - canonical).abs() < 12.0,
            "{}: mean {mean} became {canonical} on {:?}",
            case.name,
            grid.size
        );
    }
}
