//! Promise: SEG and RTSTRUCT hold the masks voxel for voxel, in the right place, and foreign software takes them without an error.

use crate::support::daemon::free_port;
use crate::support::data;
use crate::support::orthanc::Orthanc;
use crate::support::peers::{peer, python};
use crate::support::written::{Case, POSES, SLICES, phantom, run, series_of, shapes, text, with_source, write_all};
use medlsamd::mask::Mask;
use medlsamd::progress::Silent;
use medlsamd::results::style::Style;
use medlsamd::results::{self, picture};
use medlsamd::series::Series;
use medlsamd::volume;
use std::path::Path;
use std::process::Command;

#[test]
fn phantoms_in_every_pose_read_back_voxel_for_voxel() {
    let (python, dciodvfy) = (python(), peer("dciodvfy"));
    for pose in POSES {
        let ct = tempfile::tempdir().expect("a folder");
        let series = phantom(ct.path(), pose);
        let case = Case::of(&series, ct.path());
        python.iter().for_each(|python| case.judge(python));
        dciodvfy.iter().for_each(|dciodvfy| case.verify(dciodvfy, pose.name));
    }
}

#[test]
fn real_series_read_back_voxel_for_voxel() {
    let Some(python) = python() else { return };
    for name in ["lidc_0001", "crlm_1006", "acrin_breast_013", "acrin_nsclc_042"] {
        let Some(ct) = data::series(name) else {
            return;
        };
        let series = series_of(ct.path());
        let case = Case::of(&series, ct.path());
        case.judge(&python);
        if let Some(dciodvfy) = peer("dciodvfy") {
            case.verify(&dciodvfy, name);
        }
        if let Some(dcentvfy) = peer("dcentvfy") {
            case.compare(&dcentvfy, name, &series);
        }
        // For looking at: shapes on real images.
        let volume = volume::reconstruct(&series, &Silent).expect("HU");
        let sheet = picture::contact_sheet(&volume, &shapes(&series));
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("contact_sheet_{name}.png"));
        std::fs::write(place, sheet.png()).expect("written");
    }
}

#[test]
fn the_same_job_writes_the_same_bytes_and_another_job_other_uids() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let masks = shapes(&series);
    let (first, again, other) = (
        write_all(&series, &masks, "a"),
        write_all(&series, &masks, "a"),
        write_all(&series, &masks, "b"),
    );
    for n in 0..first.len() {
        assert_eq!(first[n].part10, again[n].part10);
        assert_ne!(first[n].sop_instance_uid, other[n].sop_instance_uid);
        assert_ne!(first[n].series_instance_uid, other[n].series_instance_uid);
    }
    assert_ne!(first[0].sop_instance_uid, first[1].sop_instance_uid);
}

#[test]
fn what_cannot_be_written_rightly_is_refused() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let mut masks = shapes(&series);
    let refuse = |masks: &[Mask]| {
        with_source(&series, masks, "a", (results::GENERIC, &Style::default()), |source| {
            let refused = |kind: &results::Kind| (kind.write)(source).expect_err("a refusal").to_string();
            results::KINDS.iter().map(refused).collect::<Vec<_>>()
        })
    };
    assert!(refuse(&[]).iter().all(|said| said.contains("no structure")));
    masks[0].offset[2] += SLICES;
    assert!(refuse(&masks).iter().all(|said| said.contains("heart")));
    let twice = [masks[1].clone(), masks[1].clone()];
    assert!(
        refuse(&twice)
            .iter()
            .all(|said| said.contains("two masks of lung_left"))
    );
    std::fs::remove_file(&series.slices[0].path).expect("removed");
    assert!(refuse(&masks[1..2]).iter().all(|said| said.contains(".dcm")));
}

/// Found by QIDO-RS in the study of the CT, described by its metadata, and by WADO-RS the same masks for a foreign judge.
fn orthanc_serves_them_by_dicomweb(orthanc: &Orthanc, series: &Series, case: &Case) {
    let study = &series.study_instance_uid;
    let found = orthanc.get(&format!("/dicom-web/studies/{study}/instances?includefield=0020000E"));
    for (path, object) in &case.objects {
        let uid = |item: &serde_json::Value, tag: &str| item[tag]["Value"][0].as_str().unwrap_or_default().to_owned();
        let items = found.as_array().expect("a list");
        let item = items
            .iter()
            .find(|item| uid(item, "00080018") == object.sop_instance_uid.as_str());
        let place = format!(
            "studies/{study}/series/{}/instances/{}",
            uid(item.expect(object.kind), "0020000E"),
            object.sop_instance_uid
        );
        let metadata = orthanc.get(&format!("/dicom-web/{place}/metadata"));
        assert_eq!(
            metadata[0]["00100010"]["Value"][0]["Alphabetic"], "Müller^Łucja",
            "{}",
            object.kind
        );
        let bytes = orthanc.wado(&place);
        assert!(
            bytes.ends_with(&object.part10[object.part10.len() / 2..]),
            "{}",
            object.kind
        );
        std::fs::write(path, bytes).expect("written");
    }
    python().iter().for_each(|python| case.judge(python));
}

#[test]
fn orthanc_takes_all_into_the_study_of_the_series() {
    let Some(storescu) = peer("storescu") else { return };
    let dicom_port = free_port();
    let Some(orthanc) = Orthanc::start(free_port(), dicom_port) else {
        return;
    };
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[1]);
    let case = Case::of(&series, ct.path());
    let slices: Vec<&Path> = series.slices.iter().map(|slice| slice.path.as_path()).collect();
    let ours = case.objects.iter().map(|(path, _)| path.as_path()).collect();
    for files in [slices, ours] {
        let port = dicom_port.to_string();
        let mut command = Command::new(&storescu);
        command
            .env("TCP_NODELAY", "1")
            .args(["-R", "-aec", "ORTHANC", "127.0.0.1", &port])
            .args(files);
        let output = run(&mut command);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let studies = ["CT", "SEG", "RTSTRUCT", "SR", "OT"].map(|modality| {
        let found = orthanc.series(modality);
        assert_eq!(found.len(), 1, "{modality}");
        found[0].1.clone()
    });
    assert!(studies.iter().all(|study| *study == studies[0]));
    orthanc_serves_them_by_dicomweb(&orthanc, &series, &case);
    for (_, object) in &case.objects {
        let modality = match object.kind {
            "sc" => "OT".into(),
            kind => kind.to_uppercase(),
        };
        let series = &orthanc.series(&modality)[0].0;
        assert!(
            orthanc
                .only_instance(series)
                .ends_with(&object.part10[object.part10.len() / 2..]),
            "{}",
            object.kind
        );
    }
    assert_eq!(
        orthanc.get("/patients?expand")[0]["MainDicomTags"]["PatientName"],
        "Müller^Łucja=山田^太郎"
    );
}
