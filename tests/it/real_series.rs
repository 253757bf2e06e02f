//! Promise: what scanners really send becomes the volume that other readers see, or is refused for a stated reason.

use crate::support::data;
use medlsamd::dicom::header::Instance;
use medlsamd::dicom::uid::Uid;
use medlsamd::geometry::{cross, dot};
use medlsamd::progress::Silent;
use medlsamd::series::{Requirements, assemble};
use medlsamd::volume::{Volume, reconstruct, to_patient_axes};
use ndarray::{Array2, Axis};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

const ANY: Requirements = Requirements {
    min_slices: 2,
    min_extent_mm: 0.0,
};

/// What becomes of the files of one folder: a line per series, and one for what is no instance.
fn outcomes(files: &[PathBuf], fill_frame: bool) -> Vec<String> {
    let mut series: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    let mut unread: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        match Instance::read(file) {
            Ok(instance) => series
                .entry(instance.series_instance_uid.to_string())
                .or_default()
                .push(instance),
            Err(error) => *unread.entry(error.to_string()).or_default() += 1,
        }
    }
    let mut lines: Vec<String> = unread
        .iter()
        .map(|(error, count)| format!("{count} files: {error}"))
        .collect();
    for instances in series.into_values() {
        let count = instances.len();
        let instances = if fill_frame { with_frame(instances) } else { instances };
        lines.push(match assemble(instances, &ANY) {
            Err(rejection) => format!("{count} instances: refused: {rejection}"),
            Ok(series) => match reconstruct(&series, &Silent) {
                Err(error) => format!("{count} instances: failed: {error}"),
                Ok(Volume { grid, .. }) => {
                    let [row, column, step] = grid.directions;
                    let lean_deg = dot(cross(row, column), step).clamp(-1.0, 1.0).acos().to_degrees();
                    format!(
                        "{count} instances: {:?} {:?} leaning {lean_deg:.1}",
                        grid.size, grid.spacing_mm
                    )
                }
            },
        });
    }
    lines
}

/// Gives slices without one a Frame of Reference, to reach the geometry behind that refusal.
fn with_frame(instances: Vec<Instance>) -> Vec<Instance> {
    let frame = Uid::parse("2.25.1").unwrap();
    let set = |mut instance: Instance| {
        instance.frame_of_reference_uid.get_or_insert(frame.clone());
        instance
    };
    instances.into_iter().map(set).collect()
}

/// Case, whether a missing Frame of Reference is filled in, and the beginning of each line of outcome.
const ODD: &[(&str, bool, &[&str])] = &[
    (
        "bigendian_cptac_single",
        false,
        &["1 instances: refused: 1 slices", "1 instances: refused: 1 slices"],
    ),
    (
        "duplicate_positions_innolitics",
        false,
        &["11 instances: refused: gap of 112.50 mm where slices lie 32.50 mm apart: between slice 190"],
    ),
    (
        "enhanced_ct_encapsulated_variants",
        false,
        &["12 instances: refused: slice 1 (1.2.276.0.7230010.3.1.4.0.23555.1465239907.691844) is a multi-frame"],
    ),
    (
        "enhanced_ct_multiframe",
        false,
        &["1 instances: refused: slice 1 (1.3.6.1.4.1.5962.1.1.10.3.1.1166562673.14401) is a multi-frame object (2"],
    ),
    (
        "fodicom_localizer_dose_report",
        false,
        &[
            "1 files: attribute SOPInstanceUID (0008,0018) is missing",
            "2 files: not a readable DICOM object: (0028,0120) at byte 1084 has no value representation (20 20)",
            "1 instances: refused: none of the 1 instances is a CT slice; slice 33",
            "2 instances: refused: none of the 2 instances is a CT slice; slice 1",
            "1 instances: refused: 1 slices",
            "1 instances: refused: none of the 1 instances is a CT slice; slice 1",
            "1 instances: refused: none of the 1 instances is a CT slice; slice 1 (1.2.840.113704.7.1.1.4628.1471586522.1): its Image Type says LOCALIZER",
            "2 instances: refused: 1 slices",
            "1 instances: refused: 1 slices",
            "1 instances: refused: 1 slices",
            "1 instances: refused: 1 slices",
        ],
    ),
    (
        "gantry_tilt_ge_uneven",
        false,
        &["28 instances: refused: gap of 7.00 mm where slices lie 4.00 mm apart: between slice 15"],
    ),
    (
        "gantry_tilt_philips_p16_5",
        false,
        &["58 instances: [512, 512, 58] [0.40625, 0.40625, 2.5] leaning 16.5"],
    ),
    (
        "ge_uneven_5_10_35mm",
        false,
        &[
            "14 instances: refused: slice 1 (1.2.826.0.1.3680043.8.498.172569766509356227417202193) has no usable FrameOf",
        ],
    ),
    (
        "ge_uneven_5_10_35mm",
        true,
        &["14 instances: refused: gap of 35.00 mm where slices lie 10.00 mm apart: between slice 6"],
    ),
    (
        "htj2k_examples",
        false,
        &["2 files: attribute StudyInstanceUID (0020,000D) is missing"],
    ),
    (
        "ibsi_digital_phantom_64",
        false,
        &["64 instances: [32, 48, 64] [2.0, 2.0, 2.0] leaning 0.0"],
    ),
    (
        "legacy_converted_enhanced_ct",
        false,
        &[
            "3 instances: [23, 38, 3] [0.7, 0.7, 2.5] leaning 0.0",
            "3 instances: [24, 38, 3] [0.7, 0.7, 2.5] leaning 0.0",
            "1 instances: refused: slice 1 (1.3.6.1.4.1.5962.99.1.3840.1409.1519964081918.1.1.3456.3456.1) is a multi-frame object (3",
            "1 instances: refused: slice 1 (1.3.6.1.4.1.5962.99.1.3840.1781.1519964048862.1.1.3456.3456.1) is a multi-frame object (3",
        ],
    ),
    (
        "lidc_every_slice_its_own_frame_of_reference",
        false,
        &["12 instances: refused: several frames of reference: slice 47"],
    ),
    (
        "mislabelled_seg_as_ct",
        false,
        &[
            "9 instances: refused: none of the 9 instances is a CT slice; slice 7 (1.3.6.1.4.1.14519.5.2.1.5826.1402.202218331278403979582891343097): its modality is \"SEG\"",
        ],
    ),
    ("neg_y_iop_pancreas_j2k", false, &["1 instances: refused: 1 slices"]),
    (
        "not_a_volume_monitoring",
        true,
        &["4 instances: refused: all 4 slices lie at the same position"],
    ),
    (
        "oblique_iop_rt_utils",
        true,
        &["2 instances: refused: instances of several studies"],
    ),
    (
        "one_ct_all_transfer_syntaxes",
        false,
        &["16 instances: refused: all 7 slices lie at the same position"],
    ),
    (
        "scout_ge_jpegls",
        false,
        &["1 files: attribute SOPInstanceUID (0008,0018) is missing"],
    ),
    (
        "slice_increment_inconsistent",
        true,
        &[
            "4 instances: refused: gap of 1.50 mm where slices lie 0.75 mm apart: between slice 3",
            "4 instances: refused: gap of 10.00 mm where slices lie 5.00 mm apart: between slice 9",
        ],
    ),
    (
        "tilt_siemens_short",
        true,
        &["4 instances: [512, 512, 4] [0.41796875, 0.41796875, 5.0] leaning 14.0"],
    ),
    (
        "totalseg_dicom20",
        false,
        &["20 files: attribute SOPClassUID (0008,0016) is missing"],
    ),
];

#[test]
fn odd_cases_have_their_outcomes() {
    let Some(folder) = data::folder() else { return };
    let mut wrong = Vec::new();
    for (case, fill, wanted) in ODD {
        let dir = tempfile::tempdir().unwrap();
        let lines = outcomes(
            &data::unpack(&folder.join("odd").join(format!("{case}.zip")), dir.path()),
            *fill,
        );
        eprintln!(
            "{case}{}\n    {}",
            if *fill { " (frame of reference filled in)" } else { "" },
            lines.join("\n    ")
        );
        if lines.len() != wanted.len()
            || lines
                .iter()
                .zip(*wanted)
                .any(|(line, wanted)| !line.starts_with(wanted))
        {
            wrong.push(format!("{case}: {lines:#?}\nshould begin: {wanted:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The HU of one file, as both slices of a stack of two.
fn decoded(file: &Path) -> Result<Array2<i16>, String> {
    let first = Instance::read(file).map_err(|error| error.to_string())?;
    let mut second = first.clone();
    second.sop_instance_uid = Uid::parse("2.25.2").unwrap();
    second.image_position = second.image_position.map(|[x, y, z]| [x, y, z + 5.0]);
    let series = assemble(with_frame(vec![first, second]), &ANY).map_err(|error| error.to_string())?;
    let volume = reconstruct(&series, &Silent).map_err(|error| error.to_string())?;
    assert_eq!(volume.hu.index_axis(Axis(0), 0), volume.hu.index_axis(Axis(0), 1));
    Ok(volume.hu.index_axis(Axis(0), 0).to_owned())
}

#[test]
fn every_transfer_syntax_shows_the_same_slice_or_says_why_not() {
    let Some(folder) = data::folder() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = data::unpack(&folder.join("odd/one_ct_all_transfer_syntaxes.zip"), dir.path());
    let of = |suffix: &str| {
        let file = files
            .iter()
            .find(|file| file.to_string_lossy().ends_with(suffix))
            .expect(suffix);
        decoded(file)
    };
    let original = of("testImages__CTImage.dcm").unwrap();
    let worst = |hu: Array2<i16>| original.iter().zip(hu.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    for lossless in [
        "2.1", "2.2", "2", "2.5", "2.1.99", "2.4.57", "2.4.70", "2.4.80", "2.4.90",
    ] {
        let hu =
            of(&format!("Syntax_1.2.840.10008.1.{lossless}.dcm")).unwrap_or_else(|error| panic!("{lossless}: {error}"));
        assert_eq!(worst(hu), Some(0), "{lossless}");
    }
    for (lossy, tolerance) in [("2.4.81", 4), ("2.4.91", 40), ("2.4.50", 70)] {
        let hu = of(&format!("Syntax_1.2.840.10008.1.{lossy}.dcm")).unwrap_or_else(|error| panic!("{lossy}: {error}"));
        let worst = worst(hu).unwrap();
        eprintln!("{lossy}: off by up to {worst} HU");
        assert!(worst <= tolerance, "{lossy}: {worst}");
    }
    for refused in ["2.4.51", "2.4.53", "2.4.55"] {
        let error = of(&format!("Syntax_1.2.840.10008.1.{refused}.dcm")).unwrap_err();
        assert!(error.contains("are not decoded by this version"), "{refused}: {error}");
    }
}

#[test]
fn compressed_slices_cut_or_changed_anywhere_end_in_a_sentence() {
    let Some(folder) = data::folder() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = data::unpack(&folder.join("odd/one_ct_all_transfer_syntaxes.zip"), dir.path());
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for file in files.iter().filter(|file| !file.to_string_lossy().contains("4.50")) {
        let bytes = std::fs::read(file).unwrap();
        let hurt = dir.path().join("hurt.dcm");
        // Half way into the pixels: a slice must not be made of half of them.
        std::fs::write(&hurt, &bytes[..bytes.len() * 3 / 4]).unwrap();
        decoded(&hurt).expect_err("a slice cut short was taken for whole");
        for _ in 0..3 {
            let mut changed = bytes.clone();
            for _ in 0..4 {
                let at = next(changed.len());
                changed[at] ^= 1 << next(8);
            }
            std::fs::write(&hurt, changed).unwrap();
            let _ = decoded(&hurt);
        }
    }
}

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
