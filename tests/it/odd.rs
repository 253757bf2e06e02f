//! Promise: what is odd becomes the volume that other readers see, or is refused for a stated reason, never a crash.
//!
//! `docs/odd.md` tells an administrator the same, case by case.

use crate::multiframe::made;
use crate::support::data;
use crate::support::peers::peer;
use medlsamd::dicom::header::Instance;
use medlsamd::dicom::uid::Uid;
use medlsamd::geometry::{cross, dot};
use medlsamd::progress::Silent;
use medlsamd::series::{Requirements, Series, assemble};
use medlsamd::volume::{Volume, reconstruct};
use ndarray::{Array2, Axis};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ANY: Requirements = Requirements {
    min_slices: 2,
    min_extent_mm: 0.0,
};

/// What becomes of the files of one folder: a line per series, and one for what is no instance.
fn outcomes(files: &[PathBuf], fill_frame: bool) -> Vec<String> {
    let mut series: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    let mut unread: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        match Instance::images(file) {
            Ok(images) => images.into_iter().for_each(|image| {
                let uid = image.series_instance_uid.to_string();
                series.entry(uid).or_default().push(image);
            }),
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
        lines.push(format!("{count} images: {}", outcome(instances)));
    }
    lines
}

/// A refusal, or the volume: its size, spacing and lean, and the sums that pydicom gives for the same slices.
fn outcome(images: Vec<Instance>) -> String {
    let series = match assemble(images, &ANY) {
        Err(rejection) => return format!("refused: {rejection}"),
        Ok(series) => series,
    };
    let grid = match reconstruct(&series, &Silent) {
        Err(error) => return format!("failed: {error}"),
        Ok(volume) => volume.grid,
    };
    // Slices as they are, not the even stack between them.
    let plain = Series {
        uneven: None,
        ..series.clone()
    };
    let [sum, weighted] = sums(&reconstruct(&plain, &Silent).unwrap());
    let [row, column, step] = grid.directions;
    let lean_deg = dot(cross(row, column), step).clamp(-1.0, 1.0).acos().to_degrees();
    let spacing = grid.spacing_mm.map(|mm| (mm * 1e6).round() / 1e6);
    let (slices, remarks) = (series.slices.len(), series.remarks.join("; "));
    format!(
        "{slices} slices {:?} {spacing:?} leaning {lean_deg:.1} sums {sum} {weighted}; {remarks}",
        grid.size
    )
}

/// Sum of all HU, and of HU times (index modulo 9973, plus 1).
fn sums(volume: &Volume) -> [i64; 2] {
    let hu = volume.hu.iter().map(|hu| i64::from(*hu));
    let weighted = hu.clone().enumerate().map(|(n, hu)| (n as i64 % 9973 + 1) * hu);
    [hu.sum(), weighted.sum()]
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
        &["1 images: refused: 1 slices", "1 images: refused: 1 slices"],
    ),
    (
        "duplicate_positions_innolitics",
        false,
        &["11 images: refused: gap of 112.50 mm where slices lie 32.50 mm apart: between slice 190"],
    ),
    (
        "enhanced_ct_encapsulated_variants",
        false,
        &[
            "24 images: refused: none of the 24 instances is a CT slice; frame 1 of 1.2.276.0.7230010.3.1.4.0.23555.1465239907.691844: its Image Type says PERFUSION",
        ],
    ),
    (
        "enhanced_ct_multiframe",
        false,
        &[
            "2 images: refused: none of the 2 instances is a CT slice; frame 1 of 1.3.6.1.4.1.5962.1.1.10.3.1.1166562673.14401: its Image Type says PERFUSION",
        ],
    ),
    (
        "fodicom_localizer_dose_report",
        false,
        &[
            "1 files: attribute SOPInstanceUID (0008,0018) is missing",
            "2 files: not a readable DICOM object: (0028,0120) at byte 1084 has no value representation (20 20)",
            "1 images: refused: none of the 1 instances is a CT slice; slice 33",
            "2 images: refused: none of the 2 instances is a CT slice; slice 1",
            "1 images: refused: 1 slices",
            "1 images: refused: none of the 1 instances is a CT slice; slice 1",
            "1 images: refused: none of the 1 instances is a CT slice; slice 1 (1.2.840.113704.7.1.1.4628.1471586522.1): its Image Type says LOCALIZER",
            "2 images: refused: 1 slices",
            "1 images: refused: 1 slices",
            "1 images: refused: 1 slices",
            "1 images: refused: 1 slices",
        ],
    ),
    (
        "gantry_tilt_ge_uneven",
        false,
        &[
            "28 images: 28 slices [512, 512, 37] [0.488281, 0.488281, 4.220556] leaning 18.5 sums -4028377882 -20087629045965; the slices lie 1.08 to 7.00 mm apart: organs were found on an even stack of 37 slices interpolated between them, and outlined on the slices themselves; 7.00 mm instead of 4.00 mm between slice 15",
        ],
    ),
    (
        "gantry_tilt_philips_p16_5",
        false,
        &[
            "58 images: 58 slices [512, 512, 58] [0.40625, 0.40625, 2.5] leaning 16.5 sums -11960829091 -59621085726275; ",
        ],
    ),
    (
        "ge_uneven_5_10_35mm",
        false,
        &["14 images: refused: slice 1 (1.2.826.0.1.3680043.8.498.172569766509356227417202193) has no usable FrameOf"],
    ),
    (
        "ge_uneven_5_10_35mm",
        true,
        &["14 images: refused: gap of 35.00 mm where slices lie 10.00 mm apart: between slice 6"],
    ),
    (
        "htj2k_examples",
        false,
        &["2 files: attribute StudyInstanceUID (0020,000D) is missing"],
    ),
    (
        "ibsi_digital_phantom_64",
        false,
        &["64 images: 64 slices [32, 48, 64] [2.0, 2.0, 2.0] leaning 0.0 sums 6930432 33892242819; "],
    ),
    (
        "legacy_converted_enhanced_ct",
        false,
        &[
            "3 images: 3 slices [23, 38, 3] [0.7, 0.7, 2.5] leaning 0.0 sums 310 344853; ",
            "3 images: 3 slices [24, 38, 3] [0.7, 0.7, 2.5] leaning 0.0 sums 315 365535; ",
            "3 images: 3 slices [23, 38, 3] [0.7, 0.7, 2.5] leaning 0.0 sums 310 344853; ",
            "3 images: 3 slices [24, 38, 3] [0.7, 0.7, 2.5] leaning 0.0 sums 315 365535; ",
        ],
    ),
    (
        "lidc_every_slice_its_own_frame_of_reference",
        false,
        &["12 images: refused: several frames of reference: slice 47"],
    ),
    (
        "mislabelled_seg_as_ct",
        false,
        &[
            "9 images: refused: none of the 9 instances is a CT slice; slice 7 (1.3.6.1.4.1.14519.5.2.1.5826.1402.202218331278403979582891343097): its modality is \"SEG\"",
        ],
    ),
    ("neg_y_iop_pancreas_j2k", false, &["1 images: refused: 1 slices"]),
    (
        "not_a_volume_monitoring",
        true,
        &["4 images: refused: all 4 slices lie at the same position"],
    ),
    (
        "oblique_iop_rt_utils",
        true,
        &["2 images: refused: instances of several studies"],
    ),
    (
        "one_ct_all_transfer_syntaxes",
        false,
        &["16 images: refused: all 7 slices lie at the same position"],
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
            "4 images: 4 slices [512, 512, 5] [0.511719, 0.511719, 0.778] leaning 15.5 sums -940599816 -4685684669850; the slices lie 0.75 to 1.50 mm apart: organs were found on an even stack of 5 slices interpolated between them, and outlined on the slices themselves; 1.50 mm instead of 0.75 mm between slice 3 (1.2.826.0.1.3680043.8.498.20592830645680779040762916773533651196) at -133.75 mm and slice 5",
            "4 images: 4 slices [512, 512, 5] [0.429688, 0.429688, 4.999999] leaning 0.0 sums -940515096 -4684751464074; the slices lie 5.00 to 10.00 mm apart: organs were found on an even stack of 5 slices interpolated between them, and outlined on the slices themselves; 10.00 mm instead of 5.00 mm between slice 9",
        ],
    ),
    (
        "tilt_siemens_short",
        true,
        &["4 images: 4 slices [512, 512, 4] [0.417969, 0.417969, 5.0] leaning 14.0 sums -940644109 -4685206074991; "],
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

/// Series of the case are cut or completed, to reach what lies behind their first refusal.
#[test]
fn what_lies_behind_a_refusal_is_reached_by_cutting() {
    let Some(folder) = data::folder() else { return };
    let dir = tempfile::tempdir().unwrap();
    let images = |case: &str| -> Vec<Instance> {
        let files = data::unpack(&folder.join(format!("odd/{case}.zip")), &dir.path().join(case));
        with_frame(files.iter().flat_map(|file| Instance::images(file).unwrap()).collect())
    };
    // On both sides of the 35 mm hole.
    let all = images("ge_uneven_5_10_35mm");
    let (above, below): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|image| image.image_position.unwrap()[2] > 40.0);
    let said = [outcome(above), outcome(below)];
    assert!(
        said[0].starts_with("8 slices [512, 512, 8] [0.429688, 0.429688, 10.0] leaning 0.0"),
        "{said:?}"
    );
    assert!(
        said[1].starts_with("6 slices [512, 512, 6] [0.429688, 0.429688, 5.0] leaning 0.0"),
        "{said:?}"
    );
    // Given one study and one frame of reference, two fully oblique slices are a stack.
    let mut oblique = images("oblique_iop_rt_utils");
    let (study, frame) = (
        oblique[0].study_instance_uid.clone(),
        oblique[0].frame_of_reference_uid.clone(),
    );
    for image in &mut oblique {
        (image.study_instance_uid, image.frame_of_reference_uid) = (study.clone(), frame.clone());
        image.patient_id.clear();
    }
    let said = outcome(oblique);
    eprintln!("{said}");
    assert!(
        said.starts_with("2 slices [100, 50, 2] [2.5, 3.5, 4.5] leaning 0.0 sums 802 2536434"),
        "{said}"
    );
    // One frame of reference for all, as in `dicom/lidc_0001`: the scattered slices are too far apart.
    let mut scattered = images("lidc_every_slice_its_own_frame_of_reference");
    let frame = scattered[0].frame_of_reference_uid.clone();
    scattered
        .iter_mut()
        .for_each(|image| image.frame_of_reference_uid = frame.clone());
    let said = outcome(scattered);
    assert!(
        said.starts_with("refused: gap of 65.00 mm where slices lie 25.00 mm apart"),
        "{said}"
    );
    eprintln!("{said}");
}

/// Sample and the sum of its HU by pydicom; the lossy forms (near-lossless JPEG-LS, irreversible JPEG 2000) have sums of their own.
const WG04: &[(&str, i64)] = &[
    ("CT1_JLSN", -116_861_215),
    ("CT2_JLSN", -140_126_603),
    ("CT1_J2KI", -116_811_648),
    ("CT2_J2KI", -139_976_632),
    ("CT1_", -116_863_043),
    ("CT2_", -140_126_793),
];

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

/// NEMA's samples: of CT1 and CT2 every lossless form shows the same slice, whose sums are pydicom's.
#[test]
fn the_samples_of_every_codec_show_what_pydicom_sees() {
    let Some(folder) = data::folder() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = data::unpack(&folder.join("odd/wg04_ct1_ct2_codecs.zip"), dir.path());
    let mut seen = 0;
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy();
        let (_, sample) = name.rsplit_once("__").unwrap();
        let Some((_, sum)) = WG04.iter().find(|(start, _)| sample.starts_with(start)) else {
            continue;
        };
        let hu = decoded(file).unwrap_or_else(|error| panic!("{sample}: {error}"));
        let found: i64 = hu.iter().map(|hu| i64::from(*hu)).sum();
        eprintln!("{sample}: {found}");
        assert_eq!(found, *sum, "{sample}");
        seen += 1;
    }
    assert_eq!(seen, 12);
}

/// A slice of a real series as HTJ2K by OpenJPH is pixel for pixel the slice it was.
#[test]
fn high_throughput_jpeg_2000_is_lossless() {
    let (Some(ct), Some(_)) = (data::series("crlm_1006"), peer("ojph_compress")) else {
        return;
    };
    let original = &data::files(ct.path())[20];
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = made("htj2k", original, &folder.path().join("htj2k.dcm")) else {
        return;
    };
    assert_eq!(
        Instance::read(&file).unwrap().transfer_syntax_uid.as_str(),
        "1.2.840.10008.1.2.4.202"
    );
    assert!(std::fs::metadata(&file).unwrap().len() * 3 < 2 * std::fs::metadata(original).unwrap().len());
    assert_eq!(decoded(&file), decoded(original));
}

/// Slices that come twice and in any order, with a scout under the same series UID, are the series; one that is cut is named.
#[test]
fn repeats_disorder_and_a_scout_change_nothing_and_a_cut_slice_is_named() {
    let Some(ct) = data::series("crlm_1006") else { return };
    let files = data::files(ct.path());
    let read =
        |files: &[PathBuf]| -> Vec<Instance> { files.iter().map(|file| Instance::read(file).unwrap()).collect() };
    let wanted = outcome(read(&files));
    // By pydicom, as in `real_series`.
    let sums = "51 slices [512, 512, 51] [0.804688, 0.804688, 5.0] leaning 0.0 sums -8024780258 -40004071431579; ";
    assert_eq!(wanted, sums);
    let mut scout = read(&files[..1]).remove(0);
    scout.sop_instance_uid = Uid::parse("2.25.3").unwrap();
    scout.image_type = vec!["ORIGINAL".into(), "PRIMARY".into(), "LOCALIZER".into()];
    (scout.rows, scout.image_orientation) = (888, Some([0.0, 1.0, 0.0, 0.0, 0.0, -1.0]));
    let mut images: Vec<Instance> = files
        .iter()
        .rev()
        .chain(&files)
        .map(|file| Instance::read(file).unwrap())
        .collect();
    images.insert(30, scout);
    let series = assemble(images.clone(), &ANY).unwrap();
    assert_eq!((series.slices.len(), series.set_aside.len()), (51, 52));
    assert_eq!(outcome(images), wanted);
    let whole = std::fs::read(&files[7]).unwrap();
    std::fs::write(&files[7], &whole[..whole.len() / 2]).unwrap();
    let said = outcome(read(&files));
    let name = read(&files)[7].sop_instance_uid.to_string();
    assert!(
        said.starts_with(&format!("failed: slice {name}: ")) && said.contains("the file is cut short"),
        "{said}"
    );
}

/// Fragments with and without offset table, of a real Enhanced CT that is no CT of densities: its pixels are looked at all the same.
#[test]
fn the_frames_of_every_encapsulation_are_the_uncompressed_ones() {
    let Some(folder) = data::folder() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = data::unpack(&folder.join("odd/enhanced_ct_encapsulated_variants.zip"), dir.path());
    let mut outcomes = BTreeMap::new();
    for file in &files {
        let mut images = Instance::images(file).unwrap();
        images.iter_mut().for_each(|image| image.image_type.clear());
        let series = assemble(images, &ANY).unwrap();
        let name = file
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .rsplit_once("CT0012.")
            .unwrap()
            .1
            .to_owned();
        let hu = reconstruct(&series, &Silent)
            .map(|volume| volume.hu)
            .map_err(|error| error.to_string());
        outcomes.insert(name, hu);
    }
    let plain = outcomes["explicit_little_endian"].clone().unwrap();
    assert_eq!(outcomes.len(), 10);
    for (name, outcome) in outcomes {
        let worst = outcome.map(|hu| hu.iter().zip(&plain).map(|(a, b)| a.abs_diff(*b)).max().unwrap());
        eprintln!("{name}: {worst:?}");
        match name.as_str() {
            _ if name.ends_with("51") => assert!(worst.unwrap_err().contains("1.2.840.10008.1.2.4.51 are not decoded")),
            _ if name.ends_with("81") => assert!(worst.unwrap() <= 10, "{name}"),
            _ => assert_eq!(worst, Ok(0), "{name}"),
        }
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
