//! Promise: a multi-frame CT is the same series as its single frames: the same volume, the same places in the results.

use crate::results::{Case, run, series_of, text};
use crate::support::data;
use crate::support::dataset::intake_options;
use crate::support::peers::{peer, python};
use jiff::tz::TimeZone;
use medlsamd::dicom::header::Instance;
use medlsamd::dicom::status::Status;
use medlsamd::gather;
use medlsamd::intake::{AssociationId, Intake};
use medlsamd::progress::Silent;
use medlsamd::series::{Requirements, Series, assemble};
use medlsamd::store::Store;
use medlsamd::volume::reconstruct;
use std::path::{Path, PathBuf};
use std::process::Command;

const ANY: Requirements = Requirements {
    min_slices: 2,
    min_extent_mm: 0.0,
};

/// Has `make_odd.py` make an object of `what` kind from a series; `None`, loudly, without its Python.
pub fn made(what: &str, ct: &Path, out: &Path) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/make_odd.py");
    let output = run(Command::new(python()?).arg(script).arg(what).arg(ct).arg(out));
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(out.to_owned())
}

fn framed(file: &Path) -> Series {
    assemble(Instance::images(file).unwrap(), &ANY).unwrap()
}

fn assert_same(single: &Series, file: &Path, what: &str) {
    let series = framed(file);
    assert_eq!(
        (series.grid.clone(), series.set_aside.len()),
        (single.grid.clone(), 0),
        "{what}"
    );
    for (frame, slice) in series.slices.iter().zip(&single.slices) {
        assert_eq!(frame.image_position, slice.image_position, "{what}");
    }
    let (theirs, ours) = (
        reconstruct(single, &Silent).unwrap(),
        reconstruct(&series, &Silent).unwrap(),
    );
    assert!(theirs.hu == ours.hu, "{what}: other HU");
}

#[test]
fn whole_multi_frame_objects_are_the_series_they_were_made_of() {
    let Some(ct) = data::series("crlm_1006") else { return };
    let single = series_of(ct.path());
    for what in ["legacy", "enhanced"] {
        let folder = tempfile::tempdir().unwrap();
        let Some(file) = made(what, ct.path(), &folder.path().join("one.dcm")) else {
            return;
        };
        assert_same(&single, &file, what);
        // Our reader proves every voxel within `Case::of`; highdicom, pydicom and dciodvfy judge the same objects.
        let case = Case::of(&framed(&file), folder.path());
        python().iter().for_each(|python| case.judge(python));
        peer("dciodvfy").iter().for_each(|dciodvfy| case.verify(dciodvfy, what));
    }
}

/// dcmtk's encoders on a whole multi-frame object: with and without offset table, one fragment a frame or many.
const ENCODINGS: &[(&str, &[&str])] = &[
    ("dcmconv", &["+ti"]),
    ("dcmconv", &["+tb"]),
    ("dcmconv", &["+td"]),
    ("dcmcrle", &["+ot"]),
    ("dcmcrle", &["-ot"]),
    ("dcmcjpeg", &["+e1", "-ot"]),
    ("dcmcjpeg", &["+e1", "+ot", "+fs", "20"]),
    ("dcmcjpeg", &["+e1", "-ot", "+fs", "20"]),
    ("dcmcjpls", &["-ot", "+fs", "20"]),
    ("dcmcjpls", &["+ot"]),
];

#[test]
fn frames_are_found_in_every_encapsulation() {
    let Some(ct) = data::series("crlm_1006") else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = made("enhanced", ct.path(), &folder.path().join("one.dcm")) else {
        return;
    };
    let single = series_of(ct.path());
    for (tool, options) in ENCODINGS {
        let Some(tool) = peer(tool) else { return };
        let out = folder.path().join("encoded.dcm");
        let output = run(Command::new(&tool).args(*options).arg(&file).arg(&out));
        assert!(
            output.status.success(),
            "{tool:?} {options:?}: {}",
            text(&output.stderr)
        );
        assert_same(&single, &out, &format!("{tool:?} {options:?}"));
        let whole = std::fs::read(&out).unwrap();
        std::fs::write(&out, &whole[..whole.len() * 3 / 4]).unwrap();
        let cut = Instance::images(&out).map(|images| reconstruct(&assemble(images, &ANY).unwrap(), &Silent).err());
        assert!(
            matches!(cut, Err(_) | Ok(Some(_))),
            "{tool:?} {options:?}: cut short and taken for whole"
        );
    }
}

#[test]
fn functional_groups_that_contradict_the_frames_are_refused() {
    let Some(ct) = data::series("crlm_1006") else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = made("legacy", ct.path(), &folder.path().join("one.dcm")) else {
        return;
    };
    let bytes = std::fs::read(&file).unwrap();
    let frames = b"\x28\x00\x08\x00IS\x02\x0051";
    let at = bytes
        .windows(frames.len())
        .position(|part| part == frames)
        .expect("Number of Frames");
    let mut other = bytes.clone();
    other[at + 8..at + 10].copy_from_slice(b"50");
    let wrong = folder.path().join("wrong.dcm");
    std::fs::write(&wrong, other).unwrap();
    let error = Instance::images(&wrong).unwrap_err().to_string();
    assert_eq!(
        error,
        "not a readable DICOM object: its Number of Frames is 50, but functional groups describe 51 frames"
    );
    // At reception too, while the sender listens; the whole object closes its series at once.
    let shelf = tempfile::tempdir().unwrap();
    let store = Store::open(shelf.path(), TimeZone::UTC).unwrap();
    let (intake, _) = Intake::open(store, intake_options()).unwrap();
    let refused = intake.accept_file(&wrong, AssociationId(1)).unwrap_err();
    assert_eq!(refused.status(), Status::CANNOT_UNDERSTAND);
    assert!(
        refused.to_string().contains("functional groups describe 51 frames"),
        "{refused}"
    );
    let taken = intake.accept_file(&file, AssociationId(1)).unwrap();
    let images = Instance::images(&taken.instance().path).unwrap();
    assert_eq!(gather::assembles(images, &ANY), Ok(()));
    // Without groups nobody knows where the frames lie.
    let mut lost = bytes;
    for tag in [b"\x00\x52\x29\x92SQ", b"\x00\x52\x30\x92SQ"] {
        let at = lost.windows(6).position(|part| part == tag).expect("functional groups");
        lost[at + 2] = 0x31;
    }
    std::fs::write(&file, lost).unwrap();
    let refused = assemble(Instance::images(&file).unwrap(), &ANY)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "slice 1 (2.25.7002) is a multi-frame object (51 frames) without functional groups that say where each frame lies"
    );
}
