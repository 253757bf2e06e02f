//! Promise: whatever style a receiver asks for, its RTSTRUCT holds the same voxels, within the limits it named.

use crate::support::data;
use crate::support::peers::{peer, python};
use crate::support::written::{POSES, complaints, phantom, run, series_of, shapes, text, with_source};
use dicom::dictionary_std::tags;
use dicom::object::{FileDicomObject, InMemDicomObject};
use medlsamd::mask::Mask;
use medlsamd::results::style::{Holes, Style};
use medlsamd::results::{self, ResultObject, dump};
use medlsamd::series::Series;
use std::path::Path;
use std::process::Command;

fn write(series: &Series, masks: &[Mask], kind: &str, style: (&str, &Style)) -> ResultObject {
    let kind = results::kind(kind).expect("a kind");
    with_source(series, masks, "seed", style, |source| {
        (kind.write)(source).expect("an object")
    })
}

fn styles() -> Vec<(&'static str, Style)> {
    let style = |holes, simplify_mm, contour_bytes| Style {
        holes,
        simplify_mm,
        contour_bytes,
        ..Style::default()
    };
    vec![
        ("exact xor", style(Holes::Xor, 0.0, 65_534)),
        ("simple keyhole", style(Holes::Keyhole, 1.0, 65_534)),
        ("simple xor", style(Holes::Xor, 1.0, 65_534)),
        ("short xor", style(Holes::Xor, 1.0, 1024)),
        ("short keyhole", style(Holes::Keyhole, 0.0, 1024)),
    ]
}

/// judge.py's facts about every structure, after it found nothing wrong.
fn judge(python: &Path, ct: &Path, series: &Series, masks: &[Mask], style: &Style) -> serde_json::Value {
    let folder = tempfile::tempdir().expect("a folder");
    let [seg, rtstruct, dumped] = ["seg.dcm", "rtstruct.dcm", "masks"].map(|name| folder.path().join(name));
    let profile = ("other", style);
    std::fs::write(&seg, &write(series, masks, "seg", profile).part10).expect("written");
    std::fs::write(&rtstruct, &write(series, masks, "rtstruct", profile).part10).expect("written");
    std::fs::write(&dumped, dump::dump(series, masks)).expect("written");
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/judge.py"));
    command.arg("--ct").arg(ct).arg("--seg").arg(&seg);
    command.arg("--rtstruct").arg(&rtstruct).arg("--masks").arg(&dumped);
    let output = run(&mut command);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    if let Some(dciodvfy) = peer("dciodvfy") {
        // The installed dciodvfy is older than the exclusive or.
        let known = |line: &String| style.holes == Holes::Xor && line.contains("<CLOSEDPLANAR_XOR>");
        let errors: Vec<_> = complaints(&dciodvfy, &rtstruct)
            .into_iter()
            .filter(|line| line.starts_with("Error") && !known(line))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
    serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")["structures"].clone()
}

fn check(ct: &Path, series: &Series, name: &str) {
    let Some(python) = python() else { return };
    let masks = shapes(series);
    let generic = judge(&python, ct, series, &masks, &Style::default());
    for (style_name, style) in styles() {
        let structures = judge(&python, ct, series, &masks, &style);
        let mut points = [0, 0];
        for (structure, facts) in structures.as_object().expect("structures") {
            let context = format!("{name} {style_name} {structure} {facts}");
            assert_eq!(facts["rtstruct_dice"], 1.0, "{context}");
            let ratio = facts["area_ratio"].as_f64().expect("a ratio");
            assert!((ratio - 1.0).abs() < 1e-4, "{context}");
            let longest = facts["longest_bytes"].as_u64().expect("bytes");
            assert!(longest <= style.contour_bytes as u64, "{context}");
            // Only the ring has a hole.
            let exclusive = style.holes == Holes::Xor && structure == "heart";
            let cut = style.contour_bytes < 65_534;
            assert!(facts["exclusive_or"] == exclusive || cut && exclusive, "{context}");
            points[0] += facts["points"].as_u64().expect("points");
            points[1] += generic[structure]["points"].as_u64().expect("points");
        }
        eprintln!("{name} {style_name}: {} points of {}", points[0], points[1]);
    }
}

#[test]
fn every_style_in_every_pose_holds_the_same_voxels() {
    for pose in POSES {
        let ct = tempfile::tempdir().expect("a folder");
        let series = phantom(ct.path(), pose);
        check(ct.path(), &series, pose.name);
    }
}

#[test]
fn every_style_of_a_real_series_holds_the_same_voxels() {
    let Some(ct) = data::series("acrin_nsclc_042") else {
        return;
    };
    let series = series_of(ct.path());
    check(ct.path(), &series, "acrin_nsclc_042");
}

fn read(object: &ResultObject) -> FileDicomObject<InMemDicomObject> {
    dicom::object::from_reader(object.part10.as_slice()).expect("Part 10")
}

fn texts(object: &ResultObject, sequence: dicom::core::Tag, tag: dicom::core::Tag) -> Vec<String> {
    let read = read(object);
    let items = read.element(sequence).expect("a sequence").items().expect("items");
    let text = |item: &InMemDicomObject| {
        item.element(tag)
            .expect("an element")
            .to_str()
            .expect("text")
            .trim_end()
            .to_owned()
    };
    items.iter().map(text).collect()
}

#[test]
fn own_names_are_cut_kept_apart_and_written_in_the_patients_character_set() {
    let ct = tempfile::tempdir().expect("a folder");
    // ISO_IR 192.
    let series = phantom(ct.path(), &POSES[0]);
    let masks = shapes(&series);
    let own = [
        ("heart", "Herz (größer)"),
        ("lung_left", "Organ, sehr lang benannt 1"),
        ("gallbladder", "ORGAN, SEHR LANG BENANNT 2"),
        ("pancreas", "膵臓\\^/*?"),
    ];
    let style = Style {
        names: own.map(|(name, own)| (name.into(), own.into())).into(),
        name_length: 12,
        ..Style::default()
    };
    let expected = [
        "Herz (größer",
        "Organ, sehr",
        "ORGAN, SEH_2",
        "膵臓_____",
        "A_Aorta",
        "Kidney_R",
    ];
    let rtstruct = write(&series, &masks, "rtstruct", ("own", &style));
    let seg = write(&series, &masks, "seg", ("own", &style));
    assert_eq!(
        texts(&rtstruct, tags::STRUCTURE_SET_ROI_SEQUENCE, tags::ROI_NAME),
        expected
    );
    assert_eq!(texts(&seg, tags::SEGMENT_SEQUENCE, tags::SEGMENT_LABEL), expected);
}

#[test]
fn what_was_simplified_is_stated_and_nothing_else_changes_without() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let masks = shapes(&series);
    let said = |simplify_mm| {
        let style = Style {
            simplify_mm,
            ..Style::default()
        };
        let object = write(&series, &masks, "rtstruct", ("generic", &style));
        texts(
            &object,
            tags::STRUCTURE_SET_ROI_SEQUENCE,
            tags::ROI_GENERATION_DESCRIPTION,
        )
    };
    assert!(said(0.0).iter().all(|text| !text.contains("mm")));
    // Spacing 0.75 by 1.25 mm: half a voxel is 0.625 mm at most.
    let stated: Vec<f64> = said(1.0)
        .iter()
        .map(|text| {
            assert!(text.chars().count() <= 64, "{text}");
            let (_, distance) = text.split_once("deviates max. ").expect("a distance");
            distance
                .strip_suffix(" mm")
                .expect("millimetres")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(stated.iter().all(|mm| *mm <= 0.63), "{stated:?}");
    assert!(stated.iter().any(|mm| *mm > 0.5), "{stated:?}");
}

#[test]
fn the_same_job_writes_the_same_bytes_in_every_style_and_another_profile_other_uids() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let masks = shapes(&series);
    for (name, style) in styles() {
        for kind in ["seg", "rtstruct"] {
            let object = |profile: &str| write(&series, &masks, kind, (profile, &style));
            let (first, again, other) = (object("a"), object("a"), object("b"));
            assert_eq!(first.part10, again.part10, "{name} {kind}");
            assert_ne!(first.sop_instance_uid, other.sop_instance_uid, "{name} {kind}");
            assert_ne!(first.series_instance_uid, other.series_instance_uid, "{name} {kind}");
        }
    }
}
