//! Given the right boxes, the network outlines organs of a real CT where they are.
//!
//! Needs the runtime library and the weights (`MEDLSAMD_TEST_CACHE`) and a labelled CT (`MEDLSAMD_TEST_DATA`). The labels are
//! TotalSegmentator's, so a Dice says how far two programs agree.

use crate::support::stop::Stop;
use medlsamd::evaluate::truth;
use medlsamd::geometry::{Box3, Grid};
use medlsamd::inference::model::Manifest;
use medlsamd::inference::onnx;
use medlsamd::inference::pth::Checkpoint;
use medlsamd::inference::runtime::{Choice, Feed, InferenceError, Runtime, Weight};
use medlsamd::localise::{Located, Section};
use medlsamd::mask::Mask;
use medlsamd::nifti;
use medlsamd::progress::Silent;
use medlsamd::segment::{Outline, Segmenter};
use medlsamd::structure::{self, Structure};
use medlsamd::volume::Volume;
use ndarray::{Array2, Array3, Array4, ArrayD, Axis, s};
use std::path::{Path, PathBuf};

pub fn cache() -> PathBuf {
    std::env::var_os("MEDLSAMD_TEST_CACHE").map_or_else(|| PathBuf::from(".cache"), PathBuf::from)
}

pub fn data() -> PathBuf {
    std::env::var_os("MEDLSAMD_TEST_DATA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from)
}

/// True when all files are there. Set-up brings those of the cache, so their absence fails where CI is set.
pub fn have(files: &[PathBuf]) -> bool {
    let Some(absent) = files.iter().find(|file| !file.exists()) else {
        return true;
    };
    let brought_by_set_up = absent.starts_with(cache());
    assert!(
        !(brought_by_set_up && std::env::var_os("CI").is_some()),
        "{} is missing",
        absent.display()
    );
    eprintln!("SKIPPED, NOTHING TESTED: {} is missing", absent.display());
    false
}

fn library() -> PathBuf {
    cache().join("onnxruntime/libonnxruntime.so")
}

fn weights() -> PathBuf {
    cache().join("weights/lite_medsam.pth")
}

pub fn choice(providers: &[&str], strict: bool) -> Choice {
    let providers = providers.iter().map(|p| (*p).to_owned()).collect();
    Choice {
        providers,
        strict,
        device: 0,
        fp16: false,
        engine_cache: None,
        threads: 0,
    }
}

fn manifest() -> Manifest {
    Manifest::read(Path::new("models/lite_medsam"), &cache().join("weights")).unwrap()
}

/// A labelled CT: its voxels, and the label of each by structure name.
pub struct Case {
    pub volume: Volume,
    labels: Array3<u16>,
    names: serde_json::Map<String, serde_json::Value>,
}

impl Case {
    pub fn read(ct: &Path, folder: &Path) -> Self {
        let volume = nifti::read_ct(ct).unwrap();
        let (grid, stored) = nifti::read_labels(&folder.join("seg.nii.gz")).unwrap();
        let labels = truth::onto(&volume.grid, &grid, stored);
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("labels.json")).unwrap()).unwrap();
        Self {
            volume,
            labels,
            names: json["labels"].as_object().unwrap().clone(),
        }
    }

    /// Lobes are united, and vertebrae are numbered by another name.
    pub fn truth(&self, structure: &Structure) -> Array3<bool> {
        let wanted = |name: &str| {
            let name = name.replace("vertebrae_", "vertebra_");
            let side =
                |lung: &str, side: &str| structure.name == lung && name.starts_with("lung_") && name.ends_with(side);
            name == structure.name || side("lung_left", "_left") || side("lung_right", "_right")
        };
        let values: Vec<u16> = self
            .names
            .iter()
            .filter(|(_, name)| wanted(name.as_str().unwrap()))
            .map(|(value, _)| value.parse().unwrap())
            .collect();
        self.labels.mapv(|label| values.contains(&label))
    }

    /// What a perfect localiser would say; `None` where the volume holds less than a few voxels of it.
    pub fn locate(&self, structure: &'static Structure) -> Option<Located> {
        let truth = self.truth(structure);
        let bounds = bounds(&self.volume.grid, &truth, 0..truth.dim().0)?;
        let slices = (15.0 / self.volume.grid.spacing_mm[2]).round() as usize;
        let starts = (0..truth.dim().0).step_by(slices);
        let part = |k: usize| bounds_section(&self.volume.grid, &truth, k..(k + slices).min(truth.dim().0));
        let mut sections: Vec<Section> = starts.filter_map(part).collect();
        sections.sort_by(|a, b| a.z_mm[0].total_cmp(&b.z_mm[0]));
        Some(Located {
            structure,
            bounds,
            sections,
            truncated: Vec::new(),
            confidence: 1.0,
            low_confidence: false,
            reasons: Vec::new(),
        })
    }
}

/// Labels of another grid of the same voxels, on `grid`.
fn bounds(grid: &Grid, truth: &Array3<bool>, slices: std::ops::Range<usize>) -> Option<Box3> {
    let mut bounds = Box3::EMPTY;
    let part = truth.slice(s![slices.clone(), .., ..]);
    for ((k, j, i), _) in part.indexed_iter().filter(|(_, v)| **v) {
        bounds.include(grid.to_patient([i as f64, j as f64, (k + slices.start) as f64]));
    }
    bounds.is_proper().then_some(bounds)
}

fn bounds_section(grid: &Grid, truth: &Array3<bool>, slices: std::ops::Range<usize>) -> Option<Section> {
    let Box3 { min, max } = bounds(grid, truth, slices)?;
    Some(Section {
        x_mm: [min.x, max.x],
        y_mm: [min.y, max.y],
        z_mm: [min.z, max.z],
    })
}

pub fn dice(mask: &Mask, truth: &Array3<bool>) -> f64 {
    let both = truth
        .indexed_iter()
        .filter(|((k, j, i), v)| **v && mask.contains([*i, *j, *k]))
        .count();
    2.0 * both as f64 / (mask.voxel_count() + truth.iter().filter(|v| **v).count()) as f64
}

pub fn totalseg() -> Option<Case> {
    let folder = data().join("labelled/totalseg_example");
    have(&[library(), weights(), folder.join("ct.nii.gz")]).then(|| Case::read(&folder.join("ct.nii.gz"), &folder))
}

pub fn segmenter() -> Segmenter {
    let runtime = Runtime::load(&library(), &choice(&["auto"], true)).unwrap();
    Segmenter::load(&runtime, manifest()).unwrap()
}

#[test]
fn organs_are_outlined_where_they_are() {
    let Some(case) = totalseg() else { return };
    let wanted = [
        ("gallbladder", 0.85),
        ("kidney_left", 0.88),
        ("adrenal_gland_left", 0.5),
    ];
    let located: Vec<Located> = wanted
        .iter()
        .map(|(name, _)| case.locate(structure::by_name(name).unwrap()).unwrap())
        .collect();
    let outlines = segmenter().segment(&case.volume, &located, &Silent).unwrap();
    for ((name, least), outline) in wanted.iter().zip(&outlines) {
        let Outline::Outlined(outlined) = outline else {
            panic!("{name} is empty")
        };
        assert_eq!(outlined.mask.structure.name, *name);
        let dice = dice(&outlined.mask, &case.truth(outlined.mask.structure));
        eprintln!("{name}: Dice {dice:.3}, predicted IoU {:.2}", outlined.predicted_iou);
        assert!(dice > *least, "{name}: Dice {dice:.3}");
        assert!(outlined.predicted_iou > 0.5 && outlined.predicted_iou <= 1.2);
    }
}

#[test]
fn a_volume_stored_otherwise_gives_the_same_voxels() {
    let Some(case) = totalseg() else { return };
    let located = [case.locate(structure::by_name("gallbladder").unwrap()).unwrap()];
    let mut segmenter = segmenter();
    let mut outline = |volume: &Volume| match segmenter.segment(volume, &located, &Silent).unwrap().remove(0) {
        Outline::Outlined(outlined) => outlined.mask,
        Outline::Empty { reason, .. } => panic!("{reason}"),
    };
    let mask = outline(&case.volume);
    // Rows and columns exchanged, columns and slices reversed: the same patient.
    let grid = &case.volume.grid;
    let [i, j, k] = grid.directions;
    let minus = |[x, y, z]: [f64; 3]| [-x, -y, -z];
    let last = grid.size.map(|n| (n - 1) as f64);
    let turned = Volume {
        grid: Grid {
            origin: grid.to_patient([last[0], 0.0, last[2]]),
            directions: [j, minus(i), minus(k)],
            spacing_mm: [grid.spacing_mm[1], grid.spacing_mm[0], grid.spacing_mm[2]],
            size: [grid.size[1], grid.size[0], grid.size[2]],
        },
        hu: case
            .volume
            .hu
            .slice(s![..;-1, .., ..;-1])
            .permuted_axes([0, 2, 1])
            .as_standard_layout()
            .into_owned(),
    };
    let other = outline(&turned);
    assert_eq!(other.voxel_count(), mask.voxel_count());
    for ((k, j, i), _) in mask.voxels.indexed_iter().filter(|(_, v)| **v) {
        let [i, j, k] = [i + mask.offset[0], j + mask.offset[1], k + mask.offset[2]];
        assert!(
            other.contains([j, grid.size[0] - 1 - i, grid.size[2] - 1 - k]),
            "{i} {j} {k}"
        );
    }
}

#[test]
fn a_box_outside_the_volume_is_empty_and_a_cancelled_job_stops() {
    let Some(case) = totalseg() else { return };
    let mut located = [case.locate(structure::by_name("gallbladder").unwrap()).unwrap()];
    let mut segmenter = segmenter();
    let stopped = segmenter.segment(&case.volume, &located, &Stop);
    assert!(matches!(stopped, Err(InferenceError::Cancelled)));
    located[0].bounds.min.z += 5000.0;
    located[0].bounds.max.z += 5000.0;
    let outlines = segmenter.segment(&case.volume, &located, &Silent).unwrap();
    assert!(matches!(&outlines[..], [Outline::Empty { reason, .. }] if reason.contains("does not touch")));
}

/// Box, row, column and logit.
const REFERENCE: [(usize, usize, usize, f32); 8] = [
    (0, 110, 140, 18.70569),
    (0, 78, 140, -15.15192),
    (0, 90, 100, -8.39109),
    (0, 10, 10, -33.49898),
    (0, 142, 180, -15.48432),
    (1, 45, 40, 5.29749),
    (1, 20, 20, -6.50653),
    (1, 100, 120, -22.31361),
];
const REFERENCE_AREA: [usize; 2] = [4679, 1027];
const REFERENCE_IOU: [f32; 2] = [0.98224, 0.72729];

#[test]
fn the_graphs_answer_as_pytorch_did() {
    if !have(&[library(), weights()]) {
        return;
    }
    let mut segmenter = segmenter();
    // A drawn slice: a bright ellipse on a ramp. The figures are the reference implementation's, in PyTorch.
    let image = Array4::from_shape_fn((1, 1, 256, 256), |(_, _, y, x)| {
        let (dx, dy) = ((x as f32 - 140.0) / 50.0, (y as f32 - 110.0) / 30.0);
        if dx * dx + dy * dy < 1.0 { 0.9 } else { x as f32 / 512.0 }
    });
    let embedding = segmenter
        .encoder
        .run(&[("image", Feed::F32(image.into_dyn().view()))], &["embedding"])
        .unwrap()
        .remove(0);
    let boxes: ArrayD<f32> = Array2::from_shape_vec((2, 4), vec![88.0, 78.0, 192.0, 142.0, 20.0, 20.0, 60.0, 70.5])
        .unwrap()
        .into_dyn();
    let index = ndarray::Array1::<i64>::zeros(2).into_dyn();
    let inputs = [
        ("embedding", Feed::F32(embedding.view())),
        ("boxes", Feed::F32(boxes.view())),
        ("index", Feed::I64(index.view())),
    ];
    let outputs = segmenter.decoder.run(&inputs, &["logits", "iou"]).unwrap();
    let sampled: Vec<f32> = REFERENCE
        .iter()
        .map(|(n, y, x, _)| outputs[0][[*n, 0, *y, *x]])
        .collect();
    for ((n, y, x, wanted), got) in REFERENCE.iter().zip(&sampled) {
        assert!(
            (got - wanted).abs() < 1e-3,
            "box {n} at {y}, {x}: {got}, PyTorch {wanted}"
        );
    }
    let area = |n: usize| outputs[0].index_axis(Axis(0), n).iter().filter(|v| **v > 0.0).count();
    assert_eq!([area(0), area(1)], REFERENCE_AREA);
    for (got, wanted) in outputs[1].iter().zip(REFERENCE_IOU) {
        assert!((got - wanted).abs() < 1e-4, "{got}, PyTorch {wanted}");
    }
}

#[test]
fn the_providers_that_ran_are_named_and_a_named_one_that_does_not_load_is_an_error() {
    if !have(&[library(), weights()]) {
        return;
    }
    let on = |providers: &[&str], strict| {
        let runtime = Runtime::load(&library(), &choice(providers, strict)).unwrap();
        let graph = std::fs::read("models/lite_medsam/decoder.onnx").unwrap();
        let file = std::fs::read(weights()).unwrap();
        let wanted: Vec<_> = onnx::external_initialisers(&graph).unwrap().into_iter().collect();
        let weights: Vec<Weight> = manifest().weights(&Checkpoint::read(&file).unwrap(), &wanted).unwrap();
        runtime
            .session("decoder", &graph, weights)
            .map(|session| session.assignment)
    };
    let runtime = Runtime::load(&library(), &choice(&["auto"], true)).unwrap();
    eprintln!("ONNX Runtime {}", runtime.version());
    assert!(runtime.version().starts_with("1."));
    let loads = |name: &str| {
        runtime
            .probe()
            .into_iter()
            .find(|(provider, _)| provider == name)
            .unwrap()
            .1
    };
    assert_eq!(loads("cpu"), Ok(()));

    let auto = on(&["auto"], true).unwrap();
    eprintln!("{auto:?}");
    assert!(auto.nodes.values().sum::<usize>() > 100 && auto.warnings.is_empty());
    if let Err(said) = loads("cuda") {
        assert_eq!((auto.provider.as_str(), auto.passed_over.len()), ("cpu", 2));
        let error = on(&["cuda", "cpu"], true).unwrap_err();
        assert!(
            matches!(&error, InferenceError::Provider { provider, cause } if provider == "cuda" && *cause == said),
            "{error}"
        );
        let loud = on(&["cuda"], false).unwrap();
        assert_eq!((loud.provider.as_str(), loud.warnings.len()), ("cpu", 1));
        assert!(loud.warnings[0].starts_with("cuda: "), "{:?}", loud.warnings);
    }
}

#[test]
fn a_library_or_weights_that_are_not_there_are_named() {
    let absent = Path::new("/nowhere/libonnxruntime.so");
    // Where another test of this process has loaded the library, the answer is that a second can not be loaded.
    let error = Runtime::load(absent, &choice(&["auto"], true))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/nowhere/libonnxruntime.so"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let manifest = Manifest::read(Path::new("models/lite_medsam"), empty.path()).unwrap();
    let error = manifest.load_verified().unwrap_err();
    assert!(
        matches!(&error, InferenceError::Missing(text) if text.contains("lite_medsam.pth")),
        "{error}"
    );
}
