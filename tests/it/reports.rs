//! Promise: what is said in words, numbers and pictures is read by others as it was meant, and nobody waits in vain.

use crate::labelmaps::{disjoint, labelmap};
use crate::support::data;
use crate::support::peers::{peer, python};
use crate::support::written::{self, Case, POSES, files, identity, phantom, run, series_of, shapes, text};
use medlsamd::dicom::header::Instance;
use medlsamd::mask::Mask;
use medlsamd::results::notice::{self, Notice};
use medlsamd::results::style::Style;
use medlsamd::results::{self, ResultObject, Source};
use medlsamd::series::Series;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `reports.py` says of files.
pub fn judged(python: &Path, what: &str, paths: &[&Path]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/reports.py");
    let output = run(Command::new(python).arg(script).arg(what).args(paths));
    assert!(output.status.success(), "{what}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn errors(dciodvfy: &Path, file: &Path) -> Vec<String> {
    let all = text(&run(Command::new(dciodvfy).arg(file)).stderr);
    all.lines()
        .filter(|line| line.starts_with("Error"))
        .map(str::to_owned)
        .collect()
}

fn close(value: &Value, wanted: f64) -> bool {
    value.as_f64().is_some_and(|value| value == wanted)
}

/// A report of a phantom series, with or without other objects beside it.
fn report(kind: &str, series: &Series, masks: &[Mask], kinds: &[&'static str]) -> ResultObject {
    let style = Style::default();
    written::with_source(series, masks, "seed", (results::GENERIC, &style), |source| {
        let source = Source {
            series: source.series,
            masks: source.masks,
            measures: source.measures,
            sheet: source.sheet,
            identity: source.identity,
            models: source.models,
            profile: source.profile,
            style: source.style,
            kinds,
        };
        (results::kind(kind).expect("a kind").write)(&source).expect("a report")
    })
}

#[test]
fn highdicom_reads_the_numbers_and_the_segments_of_the_report() {
    let Some(python) = python() else { return };
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let case = Case::of(&series, ct.path());
    let said = judged(&python, "report", &[case.path("sr")]);
    assert_eq!(
        said["flags"],
        serde_json::json!(["COMPLETE", "UNVERIFIED", "PRELIMINARY"])
    );
    assert_eq!(said["observers"], serde_json::json!(["medlsamd"]));
    let seg = &case.objects.iter().find(|(_, o)| o.kind == "seg").expect("a SEG").1;
    assert_eq!(
        said["evidence"][series.series_instance_uid.as_str()],
        series.slices.len()
    );
    assert_eq!(said["evidence"][seg.series_instance_uid.as_str()], 1);

    let masks = shapes(&series);
    let groups = said["volumetric"].as_array().expect("groups");
    assert_eq!(
        (groups.len(), said["plain"].as_array().expect("groups").len()),
        (masks.len(), 0)
    );
    let segments = results_segments(&seg.part10);
    for (n, (group, mask)) in groups.iter().zip(&masks).enumerate() {
        let structure = mask.structure;
        // as `with_source` made them up
        assert!(close(&group["volume_ml"][0], 12.5 * (n + 1) as f64), "{group}");
        assert!(close(&group["mean_hu"][0], 39.0 - n as f64), "{group}");
        assert_eq!(
            (&group["volume_unit"][0], &group["mean_unit"][0]),
            (&"mL".into(), &"[hnsf'U]".into())
        );
        assert_eq!(group["mean_derivation"][0], "Mean");
        assert_eq!(group["tracking_identifier"], structure.name);
        assert_eq!(
            (&group["finding"], &group["site"]),
            (&structure.kind.value.into(), &structure.kind.value.into())
        );
        assert_eq!(
            group["side"].as_str(),
            structure.laterality.map(|side| side.meaning),
            "{group}"
        );
        assert_eq!(group["seg"], seg.sop_instance_uid.as_str());
        assert_eq!(group["segment_number"], serde_json::json!([n + 1]));
        assert!(
            segments.contains(&group["tracking_uid"].as_str().expect("a UID").to_owned()),
            "{group}"
        );
        let remark = (n % 2 == 0).then_some("two pieces - the smaller of 3 ml");
        assert_eq!(
            group["comments"]
                .as_array()
                .expect("a list")
                .first()
                .and_then(Value::as_str),
            remark
        );
    }
}

/// Every Tracking UID (0062,0021) of a SEG, as bytes tell.
fn results_segments(part10: &[u8]) -> Vec<String> {
    let tag = [0x62, 0, 0x21, 0, b'U', b'I'];
    let found = part10
        .windows(tag.len())
        .enumerate()
        .filter(|(_, window)| *window == tag);
    found
        .map(|(at, _)| {
            let length = usize::from(u16::from_le_bytes([part10[at + 6], part10[at + 7]]));
            let value = String::from_utf8_lossy(&part10[at + 8..at + 8 + length]).into_owned();
            value.trim_end_matches('\0').to_owned()
        })
        .collect()
}

#[test]
fn a_report_without_a_seg_beside_it_names_the_slices_instead() {
    let Some(python) = python() else { return };
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[1]);
    let masks = shapes(&series);
    names_slices(&python, &masks, &report("sr", &series, &masks, &["rtstruct", "sr"]));
    // Nor does a receiver learn of a SEG that it is not sent, whatever others get.
    let others = ["seg", "labelmap", "sr_slices"];
    names_slices(&python, &masks, &report("sr_slices", &series, &masks, &others));
}

/// As highdicom reads it, a plain group for every structure, and no word of another object.
fn names_slices(python: &Path, masks: &[Mask], object: &ResultObject) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alone");
    std::fs::write(&path, &object.part10).expect("written");
    let said = judged(python, "report", &[&path]);
    assert_eq!(said["volumetric"].as_array().map(Vec::len), Some(0));
    let groups = said["plain"].as_array().expect("groups");
    assert_eq!(groups.len(), masks.len());
    for (n, group) in groups.iter().enumerate() {
        assert!(close(&group["volume_ml"][0], 12.5 * (n + 1) as f64), "{group}");
        assert_eq!(group["images"].as_u64(), Some(masks[n].slices().count() as u64));
    }
    assert_eq!(said["evidence"].as_object().map(|evidence| evidence.len()), Some(1));
    if let Some(dciodvfy) = peer("dciodvfy") {
        assert_eq!(errors(&dciodvfy, &path), [] as [String; 0]);
    }
}

#[test]
fn beside_a_label_map_the_report_refers_to_its_segments() {
    let Some(python) = python() else { return };
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let masks = disjoint(&series);
    let map = labelmap(&series, &masks, (results::GENERIC, &Style::default())).expect("a label map");
    let object = report(
        "sr_labelmap",
        &series,
        &masks,
        &["seg", "labelmap", "sr", "sr_labelmap"],
    );
    let binary = report("sr", &series, &masks, &["seg", "labelmap", "sr", "sr_labelmap"]);
    assert_ne!(object.sop_instance_uid, binary.sop_instance_uid);
    assert_ne!(object.series_instance_uid, binary.series_instance_uid);
    let path = ct.path().join("report");
    std::fs::write(&path, &object.part10).expect("written");
    let said = judged(&python, "report", &[&path]);
    assert_eq!(said["evidence"][map.series_instance_uid.as_str()], 1);
    assert_eq!(said["evidence"].as_object().map(|evidence| evidence.len()), Some(2));
    let groups = said["volumetric"].as_array().expect("groups");
    assert_eq!(groups.len(), masks.len());
    let segments = results_segments(&map.part10);
    assert_eq!(segments.len(), masks.len());
    for (n, group) in groups.iter().enumerate() {
        assert_eq!(group["seg"], map.sop_instance_uid.as_str());
        // Labels are numbered from 1: 0 is the background.
        assert_eq!(group["segment_number"], serde_json::json!([n + 1]));
        assert_eq!(group["tracking_uid"], segments[n].as_str());
    }
    if let Some(dciodvfy) = peer("dciodvfy") {
        // It is older than Label Map Segmentation Storage (Supplement 243) and has nothing else to say.
        let unknown = "Error - Shall not be present for Referenced SOP Class that is not segmentation - attribute \
            <ReferencedSegmentNumber>";
        assert_eq!(errors(&dciodvfy, &path), vec![unknown; masks.len()]);
    }
}

#[test]
fn dcmtk_and_dcmqi_read_the_report_too() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[2]);
    let case = Case::of(&series, ct.path());
    if let Some(dsrdump) = peer("dsrdump") {
        let output = run(Command::new(dsrdump).arg(case.path("sr")));
        let said = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(
            said.contains("Imaging Measurement Report") && said.contains("mL"),
            "{said}"
        );
        assert_eq!(
            said.matches("Volume,").count().max(said.matches("\"Volume\"").count()),
            6,
            "{said}"
        );
    }
    let reader = python().and_then(|python| Some(python.parent()?.join("tid1500reader")));
    if let Some(reader) = reader.filter(|reader| reader.is_file()) {
        let json = case.folder.path().join("report.json");
        let mut command = Command::new(reader);
        command
            .arg("--inputDICOM")
            .arg(case.path("sr"))
            .arg("--outputMetadata")
            .arg(&json);
        let output = run(&mut command);
        assert!(
            output.status.success(),
            "{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        let read: Value = serde_json::from_slice(&std::fs::read(json).expect("its output")).expect("JSON");
        let groups = read["Measurements"].as_array().expect("groups");
        assert_eq!(groups.len(), 6);
        assert_eq!(groups[0]["ReferencedSegment"], 1);
        assert_eq!(groups[0]["measurementItems"][0]["value"], "12.5");
    }
}

#[test]
fn the_contact_sheet_is_the_same_picture_as_secondary_capture() {
    let Some(python) = python() else { return };
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let case = Case::of(&series, ct.path());
    let said = judged(&python, "picture", &[case.path("sc")]);
    let pixels: Vec<u8> = (0..24).collect();
    assert_eq!(said["shape"], serde_json::json!([2, 4, 3]));
    assert_eq!(said["sha256"], hex(&Sha256::digest(&pixels)));
    assert_eq!(said["burned_in"], "NO");
    assert_eq!(said["description"], "Picture: AI-generated, not reviewed");
    assert_eq!(said["sources"], series.slices.len());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const REASON: &str = "the series has a gap of 7.5 mm between slices 41 and 42 (spacing 2.5 mm): 2 slices are missing or \
    were not sent. Send the whole series again; the patient P1 Müller is not named here";

/// Every form of notice about a series, as files.
fn notices(ct: &Path, folder: &Path) -> Vec<(PathBuf, ResultObject)> {
    let mut slices = files(ct);
    slices.sort();
    let instance = Instance::read(&slices[0]).expect("a readable instance");
    let write = |kind: &notice::Kind| {
        let identity = identity("notice");
        let notice = Notice {
            instance: &instance,
            identity: &identity,
            reason: REASON,
        };
        let object = (kind.write)(&notice).expect("a notice");
        assert_eq!(object.sop_class_uid.as_str(), kind.sop_class_uid);
        assert_eq!(object.part10, (kind.write)(&notice).expect("again").part10);
        let path = folder.join(object.kind).with_extension("dcm");
        std::fs::write(&path, &object.part10).expect("written");
        (path, object)
    };
    notice::KINDS.iter().map(write).collect()
}

#[test]
fn a_notice_says_why_in_the_study_of_the_series() {
    let ct = tempfile::tempdir().expect("a folder");
    phantom(ct.path(), &POSES[0]);
    let folder = tempfile::tempdir().expect("a folder");
    let written = notices(ct.path(), folder.path());
    assert_ne!(written[0].1.sop_instance_uid, written[1].1.sop_instance_uid);
    let Some(python) = python() else { return };
    let picture = judged(&python, "picture", &[&written[0].0]);
    assert_eq!(picture["shape"], serde_json::json!([768, 1024, 3]));
    let said = picture["derivation"].as_str().expect("text");
    assert!(
        said.contains("gap of 7.5 mm") && said.contains("the patient P1 [...]"),
        "{said}"
    );
    let report = judged(&python, "text", &[&written[1].0]);
    let said = report["text"]
        .as_array()
        .and_then(|said| said.last())
        .and_then(Value::as_str);
    let said = said.expect("a reason");
    assert!(
        said.starts_with("Series 4 was not processed by medlsamd: the series has a gap"),
        "{said}"
    );
    assert_eq!(report["series"], "Not processed: see the reason inside");
    // For looking at: the picture as anybody sees it.
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("notice.dcm");
    std::fs::copy(&written[0].0, place).expect("copied");
}

#[test]
fn dciodvfy_finds_no_error_in_notices_of_phantoms_and_real_series() {
    let Some(dciodvfy) = peer("dciodvfy") else { return };
    let mut sources: Vec<tempfile::TempDir> = Vec::new();
    for pose in POSES {
        let ct = tempfile::tempdir().expect("a folder");
        phantom(ct.path(), pose);
        sources.push(ct);
    }
    for name in ["lidc_0001", "crlm_1006", "acrin_breast_013", "acrin_nsclc_042"] {
        sources.extend(data::series(name));
    }
    for ct in sources {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, object) in notices(ct.path(), folder.path()) {
            assert_eq!(errors(&dciodvfy, &path), [] as [String; 0], "{}", object.kind);
        }
    }
}

#[test]
fn a_notice_without_a_reason_or_a_readable_instance_is_refused() {
    let ct = tempfile::tempdir().expect("a folder");
    phantom(ct.path(), &POSES[0]);
    let instance = series_of(ct.path()).slices[0].clone();
    let identity = identity("x");
    for kind in notice::KINDS {
        let write = |reason| {
            (kind.write)(&Notice {
                instance: &instance,
                identity: &identity,
                reason,
            })
        };
        assert!(write(" ").expect_err("a refusal").to_string().contains("reason"));
        assert!(write("x").is_ok());
    }
    std::fs::remove_file(&instance.path).expect("removed");
    for kind in notice::KINDS {
        let notice = Notice {
            instance: &instance,
            identity: &identity,
            reason: "x",
        };
        assert!(
            (kind.write)(&notice)
                .expect_err("a refusal")
                .to_string()
                .contains(".dcm")
        );
    }
}
