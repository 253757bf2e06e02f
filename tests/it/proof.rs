//! Promise: an object that would put a structure elsewhere than it was outlined is never kept.

use crate::labelmaps::{disjoint, labelmap};
use crate::support::written::{POSES, Pose, phantom, series_of, shapes, write_all};
use medlsamd::proof::{self, Proof, ProofError};
use medlsamd::results::style::Style;
use medlsamd::results::{self, ResultObject};
use medlsamd::series::Series;
use std::path::Path;

fn prove(object: &ResultObject, series: &Series) -> Result<Vec<Proof>, ProofError> {
    proof::prove(object, series, &shapes(series))
}

#[test]
fn what_was_written_rightly_is_proven_in_every_pose() {
    for pose in POSES {
        let ct = tempfile::tempdir().unwrap();
        let series = phantom(ct.path(), pose);
        for object in write_all(&series, &shapes(&series), "seed") {
            let proofs = prove(&object, &series).unwrap_or_else(|error| panic!("{}: {error}", pose.name));
            if results::kind(object.kind).unwrap().proven != results::Proven::Nothing {
                assert_eq!(proofs.len(), 6, "{} {}", pose.name, object.kind);
            }
            for proof in proofs {
                assert_eq!((proof.unequal_voxels, proof.dice), (0, 1.0), "{} {proof:?}", pose.name);
                // Contour Data has four decimals.
                let near = (proof.volume_ratio - 1.0).abs() < 1e-3 && proof.centroid_mm < 1e-3;
                assert!(near, "{} {proof:?}", pose.name);
            }
        }
    }
}

/// Writes with the geometry of another copy of the series, as a broken writer would, and proves against the true one.
fn misplaced(pose: &Pose, spoil: impl Fn(&Path)) -> Vec<(ResultObject, Result<Vec<Proof>, ProofError>)> {
    let (ct, spoilt) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let series = phantom(ct.path(), &POSES[0]);
    phantom(spoilt.path(), pose);
    spoil(spoilt.path());
    let wrong = series_of(spoilt.path());
    let masks = shapes(&series);
    let objects = write_all(&wrong, &masks, "seed");
    let placed = |object: &ResultObject| results::kind(object.kind).unwrap().proven != results::Proven::Nothing;
    let judged = objects.into_iter().filter(placed).map(|object| {
        let verdict = prove(&object, &series);
        (object, verdict)
    });
    let flat = disjoint(&series);
    let map = labelmap(&wrong, &flat, (results::GENERIC, &Style::default())).unwrap();
    let of_map = proof::prove(&map, &series, &flat);
    judged.chain([(map, of_map)]).collect()
}

/// Every slice of a copy with one text in place of another of the same length.
fn replace(folder: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes
            .windows(old.len())
            .position(|window| window == old.as_bytes())
            .expect("the old text");
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_writer_that_shifts_flips_or_swaps_is_caught() {
    let pose = |change: fn(&mut Pose)| {
        let mut pose = Pose { ..POSES[0] };
        change(&mut pose);
        pose
    };
    let nothing = |_: &Path| {};
    // Half a pixel along the rows; pixels are 1.25 mm wide.
    let shifted = misplaced(&pose(|p| p.origin[0] += 0.625), nothing);
    let raised = misplaced(&pose(|p| p.origin[2] += 1.25), nothing);
    let flipped = misplaced(&pose(|p| p.orientation = [-1., 0., 0., 0., 1., 0.]), nothing);
    let mirrored = misplaced(&pose(|p| p.orientation = [1., 0., 0., 0., -1., 0.]), nothing);
    let upside_down = misplaced(&pose(|p| (p.origin[2], p.step[2]) = (120.0, -2.5)), nothing);
    let swapped = misplaced(&POSES[0], |folder| replace(folder, "0.75\\1.25", "1.25\\0.75"));
    let all = [
        ("shifted by half a pixel", shifted),
        ("raised by half a slice", raised),
        ("rows run the other way", flipped),
        ("columns run the other way", mirrored),
        ("last slice first", upside_down),
        ("spacing swapped", swapped),
    ];
    for (what, verdicts) in all {
        assert_eq!(verdicts.len(), 3, "{what}: RTSTRUCT, BINARY and LABELMAP");
        for (object, verdict) in verdicts {
            let error = verdict
                .err()
                .unwrap_or_else(|| panic!("{what}: the {} passed", object.key));
            eprintln!("{what}: {error}");
        }
    }
}

/// An object of another job, with fewer structures, is no proof of this one.
#[test]
fn a_structure_that_is_missing_is_caught() {
    let ct = tempfile::tempdir().unwrap();
    let series = phantom(ct.path(), &POSES[0]);
    let masks = shapes(&series);
    for object in write_all(&series, &masks[1..], "seed") {
        if results::kind(object.kind).unwrap().proven != results::Proven::Nothing {
            assert!(matches!(
                prove(&object, &series),
                Err(ProofError::Count {
                    found: 5,
                    expected: 6,
                    ..
                })
            ));
        }
    }
}
