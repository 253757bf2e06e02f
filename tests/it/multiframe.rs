//! Promise: a multi-frame CT is the same series as its single frames: the same volume, the same places in the results.

use crate::plain;
use crate::support::asking::{self, said};
use crate::support::data;
use crate::support::dataset::intake_options;
use crate::support::network::outgoing;
use crate::support::node::{EXPLICIT, Node};
use crate::support::peers::{peer, python};
use crate::support::written::{Case, run, series_of, text};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use medlsamd::config::{Config, Written};
use medlsamd::dicom::header::Instance;
use medlsamd::dicom::status::Status;
use medlsamd::gather::{self, Gatherer};
use medlsamd::intake::{AssociationId, Intake};
use medlsamd::progress::Silent;
use medlsamd::series::{Requirements, Series, assemble};
use medlsamd::store::Store;
use medlsamd::volume::reconstruct;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// How dcmtk encodes the object, and what its storescu proposes then.
const PUSHED: &[(&str, &[&str], &str)] = &[("dcmconv", &["+te"], "-xe"), ("dcmcjpls", &["+ot"], "-xt")];

/// Over the wire into the real intake: kept byte for byte, a whole series at once, and given to who takes it uncompressed only.
#[tokio::test(flavor = "multi_thread")]
async fn dcmtk_pushes_a_multi_frame_object_and_gets_it_back() {
    let (Some(ct), Some(storescu), Some(getscu)) = (data::series("crlm_1006"), peer("storescu"), peer("getscu")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let Some(made) = made("enhanced", ct.path(), &folder.path().join("made.dcm")) else {
        return;
    };
    let single = series_of(ct.path());
    for (tool, options, proposes) in PUSHED {
        let Some(encoder) = peer(tool) else { return };
        let sent = folder.path().join(tool);
        let output = run(Command::new(encoder).args(*options).arg(&made).arg(&sent));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let node = Node::start(&[]).await;
        let (port, file) = (node.port.to_string(), sent.display().to_string());
        let args = [
            "-R",
            proposes,
            "-aet",
            "ORTHANC",
            "-aec",
            "MEDLSAM",
            "127.0.0.1",
            &port,
            &file,
        ];
        let output = asking::run(&storescu, &args).await;
        assert!(output.status.success(), "{}", said(&output));

        let mut gatherer = Gatherer::new(
            &Config::resolve(Written::example()).unwrap(),
            node.archive.store.clone(),
            node.archive.intake.clone(),
        );
        // The sender is gone before our side of the association has ended.
        let begin = Instant::now();
        let queued = loop {
            let settled = Timestamp::now() + SignedDuration::from_secs(6);
            match gatherer.step(settled).unwrap().queued.as_slice() {
                [] => tokio::time::sleep(Duration::from_millis(20)).await,
                queued => break queued[0],
            }
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "{tool}: the series is not closed"
            );
        };
        let job = node.archive.store.jobs(None, 9).unwrap().remove(0);
        assert_eq!((job.id, job.instances), (queued, 1), "{tool}");
        let kept = node.archive.store.job_instances(job.id).unwrap().remove(0).path;
        assert!(outgoing(&kept).1 == outgoing(&sent).1, "{tool}: other bytes");
        assert_same(&single, &kept, tool);

        let (got, key) = (
            tempfile::tempdir().unwrap(),
            format!("SeriesInstanceUID={}", job.series.series_instance_uid),
        );
        let out = got.path().display().to_string();
        let mut args = vec!["-S", "-aet", "ASKER", "-aec", "MEDLSAM", "+B", "-od", &out];
        args.extend(["-k", "QueryRetrieveLevel=SERIES", "-k", &key, "127.0.0.1", &port]);
        let output = asking::run(&getscu, &args).await;
        assert!(output.status.success(), "{}", said(&output));
        let got = data::files(got.path()).remove(0);
        match *proposes {
            "-xe" => assert!(outgoing(&got).1 == outgoing(&sent).1, "other bytes came back"),
            _ => {
                let worst = plain::judge(&python().unwrap(), EXPLICIT, &[(sent, got)]);
                assert_eq!(worst.values().collect::<Vec<_>>(), [&0]);
            }
        }
        node.stop().await;
    }
}
