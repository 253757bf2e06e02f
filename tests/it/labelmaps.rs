//! Promise: a LABELMAP holds the same masks as the SEG, voxel for voxel, for readers that share no code with us; masks that
//! overlap are refused and never thinned.

use crate::support::data;
use crate::support::peers::{peer, python};
use crate::support::written::{POSES, complaints, phantom, run, series_of, shapes, stack, text, with_source};
use medlsamd::mask::Mask;
use medlsamd::results::style::Style;
use medlsamd::results::{self, ResultError, ResultObject, dump};
use medlsamd::series::Series;
use medlsamd::structure::{self, Structure};
use std::path::Path;
use std::process::Command;

/// The shapes, every voxel left to the first that claims it.
pub fn disjoint(series: &Series) -> Vec<Mask> {
    let mut taken = ndarray::Array3::from_elem(series.grid.shape(), false);
    let cut = |mask: Mask| {
        let [i0, j0, k0] = mask.offset;
        let mut voxels = mask.voxels.clone();
        for ((k, j, i), inside) in voxels.indexed_iter_mut() {
            let taken = &mut taken[[k0 + k, j0 + j, i0 + i]];
            *inside &= !*taken;
            *taken |= *inside;
        }
        Mask::from_block(mask.structure, mask.offset, voxels.view())
    };
    shapes(series).into_iter().filter_map(cut).collect()
}

pub fn labelmap(series: &Series, masks: &[Mask], style: (&str, &Style)) -> Result<ResultObject, ResultError> {
    let kind = results::kind("labelmap").expect("a kind");
    with_source(series, masks, "seed", style, |source| (kind.write)(source))
}

fn native() -> Style {
    Style {
        rle: false,
        ..Style::default()
    }
}

/// judge.py: by highdicom, and by its own decoder and arithmetic.
fn judge(python: &Path, ct: &Path, object: &Path, masks: &Path, count: usize) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/judge.py");
    let mut command = Command::new(python);
    command.arg(script).arg("--ct").arg(ct).arg("--seg").arg(object);
    let output = run(command.arg("--masks").arg(masks));
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let structures = report["structures"].as_object().expect("structures");
    assert_eq!(structures.len(), count);
    for (name, facts) in structures {
        assert_eq!(facts["seg_unequal_voxels"], 0, "{name}");
    }
}

/// labelmap.py: dcmqi's and pydicom's reading, and dciodvfy's complaints beside those on highdicom's object of the same masks.
fn compare(python: &Path, ct: &Path, object: &Path, masks: &Path, folder: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/labelmap.py");
    let theirs = folder.join("highdicom.dcm");
    let mut command = Command::new(python);
    command.arg(script).arg(ct).arg(object).arg(masks).arg(&theirs);
    let output = run(&mut command);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    eprint!("{}", text(&output.stdout));
    let Some(dciodvfy) = peer("dciodvfy") else { return };
    let theirs = complaints(&dciodvfy, &theirs);
    let source = complaints(&dciodvfy, &crate::support::written::files(ct)[0]);
    let known = |line: &String| theirs.contains(line) || source.contains(line);
    let ours = complaints(&dciodvfy, object);
    let new: Vec<_> = ours.iter().filter(|line| !known(line)).collect();
    assert!(new.is_empty(), "{new:#?}\nhighdicom's: {theirs:#?}");
}

fn check(series: &Series, ct: &Path, masks: &[Mask], style: &Style, foreign: bool) {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let object = labelmap(series, masks, (results::GENERIC, style)).expect("a label map");
    let (path, dumped) = (folder.path().join("labelmap.dcm"), folder.path().join("masks"));
    std::fs::write(&path, &object.part10).expect("written");
    std::fs::write(&dumped, dump::dump(series, masks)).expect("written");
    judge(&python, ct, &path, &dumped, masks.len());
    if foreign {
        compare(&python, ct, &path, &dumped, folder.path());
    }
}

#[test]
fn label_maps_in_every_pose_read_back_voxel_for_voxel() {
    for pose in POSES {
        let ct = tempfile::tempdir().expect("a folder");
        let series = phantom(ct.path(), pose);
        let masks = disjoint(&series);
        check(&series, ct.path(), &masks, &Style::default(), true);
        check(&series, ct.path(), &masks, &native(), false);
    }
}

#[test]
fn label_maps_of_real_series_read_back_voxel_for_voxel() {
    for name in ["lidc_0001", "crlm_1006", "acrin_breast_013", "acrin_nsclc_042"] {
        let Some(ct) = data::series(name) else { return };
        let series = series_of(ct.path());
        check(&series, ct.path(), &disjoint(&series), &Style::default(), true);
    }
}

/// Rows of the anatomy table that only a test needs.
pub fn many(count: usize) -> Vec<&'static Structure> {
    let row = |n: usize| {
        let model = &structure::STRUCTURES[n % structure::STRUCTURES.len()];
        let leak = |text: String| -> &'static str { text.leak() };
        let own = Structure {
            name: leak(format!("{}_{n}", model.name)),
            roi_name: leak(format!("ROI_{n}")),
            category: model.category,
            kind: model.kind,
            laterality: model.laterality,
            role: model.role,
            colour: model.colour,
            window: model.window,
            pieces: model.pieces,
            linking: model.linking,
        };
        &*Box::leak(Box::new(own))
    };
    (0..count).map(row).collect()
}

#[test]
fn more_than_255_segments_take_16_bits() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = stack(ct.path(), &POSES[0], [37, 29, 4]);
    for count in [255, 300] {
        let mask = |(n, structure): (usize, &'static Structure)| Mask {
            structure,
            offset: [n % 33, n / 33, n % 3],
            voxels: ndarray::Array3::from_elem((1, 1, 1), true),
        };
        let masks: Vec<Mask> = many(count).into_iter().enumerate().map(mask).collect();
        let object = labelmap(&series, &masks, (results::GENERIC, &native())).expect("a label map");
        // The last slice has no label, hence no frame.
        let pixels = 37 * 29 * 3 * if count > 255 { 2 } else { 1 };
        let length: [u8; 4] = object.part10[object.part10.len() - (pixels + pixels % 2) - 4..][..4]
            .try_into()
            .expect("four bytes");
        assert_eq!(u32::from_le_bytes(length) as usize, pixels + pixels % 2);
        for style in [Style::default(), native()] {
            check(&series, ct.path(), &masks, &style, count == 300 && style.rle);
        }
    }
}

#[test]
fn masks_that_overlap_are_refused_by_name_and_number() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let block = |name: &str, offset: [usize; 3], [i, j, k]: [usize; 3]| Mask {
        structure: structure::by_name(name).expect("a structure"),
        offset,
        voxels: ndarray::Array3::from_elem((k, j, i), true),
    };
    let masks = [
        block("liver", [0, 0, 0], [5, 5, 5]),
        block("heart", [10, 3, 2], [9, 9, 3]),
        block("aorta", [17, 10, 4], [4, 4, 4]),
    ];
    let refused = labelmap(&series, &masks, (results::GENERIC, &Style::default())).expect_err("a refusal");
    assert!(matches!(
        refused,
        ResultError::Overlap {
            first: "heart",
            second: "aorta",
            voxels: 4
        }
    ));
    assert!(refused.to_string().contains("heart and aorta both claim 4 voxels"));
    labelmap(&series, &masks[..2], (results::GENERIC, &Style::default())).expect("no overlap");
}

#[test]
fn the_same_job_writes_the_same_bytes_and_another_profile_other_uids() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let masks = disjoint(&series);
    let write = |profile: &str, style: &Style| labelmap(&series, &masks, (profile, style)).expect("a label map");
    for style in [Style::default(), native()] {
        let (first, again, other) = (
            write(results::GENERIC, &style),
            write(results::GENERIC, &style),
            write("slicer", &style),
        );
        assert_eq!(first.part10, again.part10);
        assert_ne!(first.sop_instance_uid, other.sop_instance_uid);
        assert_ne!(first.series_instance_uid, other.series_instance_uid);
        assert_eq!(first.transfer_syntax_uid.as_str().ends_with(".1.2.5"), style.rle);
    }
}
