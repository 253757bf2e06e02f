//! A converted checkpoint of the published layout: the daemon says what PyTorch says, teaches and finds with it.
//!
//! `tests/data/patch` is made by `models/medlam/convert/fixtures.py`: a small network of the published layout, random but for
//! the last layer, which knows where in this volume a patch lies; and what PyTorch's own network says of the volume.

use crate::segmenting::choice;
use medlsamd::geometry::{Grid, Vec3};
use medlsamd::inference::model::Manifest;
use medlsamd::inference::runtime::{InferenceError, Runtime};
use medlsamd::localise::bank::Bank;
use medlsamd::localise::{Face, Finding, Localiser};
use medlsamd::progress::Silent;
use medlsamd::teach::{self, Placed, PlacedStructure};
use medlsamd::volume::Volume;
use medlsamd::{nifti, structure};
use ndarray::Array3;
use std::path::{Path, PathBuf};
use std::time::Instant;

const SIZE: [usize; 3] = [84, 68, 76];
const ORIGIN: Vec3 = [-118.5, -97.0, -431.0];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn data() -> PathBuf {
    root().join("tests/data/patch")
}

fn runtime() -> Runtime {
    let choice = choice(&["cpu"], true);
    Runtime::load(&root().join(".cache/onnxruntime/libonnxruntime.so"), &choice).unwrap()
}

fn load(dir: &Path, bank: Bank) -> Result<Localiser, InferenceError> {
    Localiser::load(&runtime(), Manifest::read(dir, dir)?, bank)
}

/// `volume` of fixtures.py, to the bit.
fn hu(z: f64, y: f64, x: f64) -> i16 {
    if ((y - 33.5) / 29.0).powi(2) + ((x - 37.5) / 34.0).powi(2) >= 1.0 {
        return -1000;
    }
    let mut wave = 70.0 * (0.031 * z + 0.11 * x).sin()
        + 60.0 * (0.083 * y - 0.05 * z + 1.0).sin()
        + 40.0 * (0.23 * x + 0.19 * z).sin();
    wave += 30.0 * (0.31 * y + 0.27 * z + 0.2 * x).sin() + 2.0 * (z - 42.0) + 1.5 * (y - 34.0) - (x - 38.0);
    (40.0 + wave).floor() as i16
}

/// Lying `moved` millimetres from where the fixture has it.
fn volume(moved: Vec3) -> Volume {
    let grid = Grid {
        origin: [0, 1, 2].map(|a| ORIGIN[a] + moved[a]).into(),
        directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        spacing_mm: [3.0; 3],
        size: [SIZE[2], SIZE[1], SIZE[0]],
    };
    let hu = Array3::from_shape_fn(SIZE, |(z, y, x)| hu(z as f64, y as f64, x as f64));
    Volume { grid, hu }
}

/// Two structures, one of them near the front.
fn placed() -> Placed {
    let middles = [
        ("liver", [-40.0, 10.0, -310.0], 30.0),
        ("spleen", [45.0, -20.0, -290.0], 21.0),
    ];
    let structure = |(name, middle, half): (&str, Vec3, f64)| {
        let mut structure = PlacedStructure::default();
        for face in Face::ALL {
            let mut at = middle;
            at[face.axis()] += if face.is_max() { half } else { -half };
            structure.extremes.insert(face, at);
        }
        (name.to_owned(), structure)
    };
    Placed {
        volume: "ruler".into(),
        structures: middles.map(structure).into_iter().collect(),
        ..Placed::default()
    }
}

#[derive(serde::Deserialize)]
struct Expected {
    body: Vec<Body>,
    fine: Vec<Vector>,
    coarse: Vec<Vector>,
}

#[derive(serde::Deserialize)]
struct Body {
    at: Vec3,
    body: Vec3,
}

#[derive(serde::Deserialize)]
struct Vector {
    at: Vec3,
    vector: Vec<f32>,
}

#[test]
fn a_converted_network_says_what_pytorch_says() {
    let expected: Expected = serde_json::from_slice(&std::fs::read(data().join("expected.json")).unwrap()).unwrap();
    let observation = load(&data(), Bank::default())
        .unwrap()
        .observe(&volume([0.0; 3]))
        .unwrap();
    for Body { at, body } in &expected.body {
        let near = |s: &&medlsamd::localise::canonical::Seen| (0..3).all(|a| (s.at[a] - at[a]).abs() < 1e-6);
        let seen = observation.seen.iter().find(near).unwrap();
        // 0.1 mm of 1500 mm
        assert!(
            (0..3).all(|a| (seen.body[a] - body[a]).abs() < 0.1),
            "{at:?}: {:?}, PyTorch {body:?}",
            seen.body
        );
        // and that is where it is: a wrong sign would be off by twice the distance to the middle
        assert!(
            (0..3).all(|a| (seen.body[a] - at[a]).abs() < 15.0),
            "{at:?}: {:?}",
            seen.body
        );
    }
    for (map, wanted, half_mm) in [
        (&observation.fine, &expected.fine, 9.0),
        (&observation.coarse, &expected.coarse, 6.0),
    ] {
        assert!(wanted.len() > 3);
        for Vector { at, vector } in wanted {
            let cube = map.cube(at.map(|v| v + half_mm));
            let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            for (said, wanted) in cube.iter().zip(vector) {
                assert!(
                    (said - wanted / length).abs() < 1e-3,
                    "{at:?}: {:?}, PyTorch {vector:?}",
                    &cube[..vector.len()]
                );
            }
        }
    }
}

#[test]
fn what_a_patch_model_is_taught_it_finds_again() {
    let dir = tempfile::tempdir().unwrap();
    let bank = dir.path().join("bank.bin");
    let mut localiser = load(&data(), Bank::default()).unwrap();
    teach::add(&bank, &mut localiser, &volume([0.0; 3]), &placed()).unwrap();
    let bank = Bank::read(&bank).unwrap();
    assert_eq!(bank.cube_lens, [4 * 4 * 4 * 4, 4 * 2 * 2 * 2]);
    let mut localiser = load(&data(), bank).unwrap();
    let wanted = ["liver", "spleen"].map(|name| structure::by_name(name).unwrap());
    for moved in [[0.0; 3], [37.3, -12.1, 60.5]] {
        for finding in localiser.locate(&volume(moved), &wanted, &Silent).unwrap() {
            let Finding::Located(located) = &finding else {
                panic!("{finding:?}");
            };
            let truth = placed().structures[located.structure.name].bounds().unwrap();
            let sides = [(located.bounds.min, truth.min), (located.bounds.max, truth.max)];
            for (found, wanted) in sides.map(|(f, w)| (f.to_array(), w.to_array())) {
                let off = [0, 1, 2].map(|a| found[a] - moved[a] - wanted[a]);
                assert!(
                    off.iter().all(|o| o.abs() < 6.0),
                    "{}, moved by {moved:?}: off by {off:.1?} mm",
                    located.structure.name
                );
            }
        }
    }
}

/// The model with `from` in its manifest replaced.
fn refused(from: &str, to: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(data().join("model.toml")).unwrap();
    assert!(text.contains(from));
    std::fs::write(dir.path().join("model.toml"), text.replace(from, to)).unwrap();
    std::fs::copy(data().join("medlam_patch.onnx"), dir.path().join("medlam_patch.onnx")).unwrap();
    match load(dir.path(), Bank::default()) {
        Ok(_) => panic!("{to} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_manifest_that_does_not_fit_is_refused_with_the_reason() {
    for (from, to, reason) in [
        ("\"patch\"", "\"sliding\"", "family `sliding`"),
        ("\"patch\"", "\"dense\"", "no input `volume`, only patch"),
        ("\"localiser\"", "\"segmenter\"", "not a localiser"),
        ("stride = 24", "stride = 20", "input.stride is 20"),
        ("stride = 24\n", "", "stride"),
        ("batch = 1", "batch = 0", "input.batch is 0"),
        ("[1500.0, 600.0, 600.0]", "[1500.0, 600.0, 6.0]", "range_mm"),
        ("[1500.0, 1.0]]", "[2500.0, 1.0]]", "hu_knots"),
        ("patch = 64", "patch = 96", "input.patch is 96"),
        ("sha256 = \"", "sha256 = \"00", "sha256"),
    ] {
        let error = refused(from, to);
        assert!(error.contains(reason), "{to}: {error}");
    }
}

#[test]
fn a_patch_model_refuses_the_bank_of_another() {
    let bank = Bank::read(&root().join("models/medlam/bank.bin")).unwrap();
    let error = load(&data(), bank).err().unwrap().to_string();
    assert!(error.contains("teach the templates again"), "{error}");
}

/// `MEDLSAMD_TEST_MODEL=DIR cargo test --test it locating_is_timed -- --ignored --nocapture`; our dense model where nothing is named.
#[test]
#[ignore = "a measurement; needs a quiet machine"]
fn locating_is_timed() {
    let dir = std::env::var_os("MEDLSAMD_TEST_MODEL").map_or_else(|| root().join("models/medlam"), PathBuf::from);
    let bank = Bank::read(&dir.join("bank.bin")).unwrap_or_default();
    let wanted = bank.structures();
    let ct = nifti::read_ct(&root().join(".cache/sample/lidc_0001.nii.gz")).unwrap();
    let mut localiser = load(&dir, bank).unwrap();
    for run in 1..=3 {
        let (started, busy) = (Instant::now(), localiser.session.busy);
        let findings = localiser.locate(&ct, &wanted, &Silent).unwrap();
        assert_eq!(findings.len(), wanted.len());
        let seconds = started.elapsed().as_secs_f64();
        let network = (localiser.session.busy - busy).as_secs_f64();
        println!(
            "{}, {:?} voxels, run {run}: {} structures in {seconds:.2} s, {network:.2} s of them the network, load {}",
            localiser.manifest.name,
            ct.grid.size,
            wanted.len(),
            std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
        );
    }
}
