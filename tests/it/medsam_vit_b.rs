//! The segmenter that runs LiteMedSAM runs MedSAM ViT-B as well: only the manifest differs.
//!
//! The real weights can not be fetched, so PyTorch makes random ones in their layout and outlines one slice with them
//! (`tests/judge/vit_b.py`). Needs the runtime library, a labelled CT, and a Python with torch, scipy, nibabel and
//! segment-anything, named by `MEDLSAMD_TEST_TORCH`.

use crate::segmenting::choice;
use crate::support::{daemon, data};
use medlsamd::geometry::{Box3, Grid, PatientPoint};
use medlsamd::inference::model::Manifest;
use medlsamd::inference::runtime::{Feed, Runtime};
use medlsamd::localise::Located;
use medlsamd::mask::Mask;
use medlsamd::nifti;
use medlsamd::progress::Silent;
use medlsamd::segment::{Outline, Segmenter};
use medlsamd::structure;
use medlsamd::volume::Volume;
use ndarray::{ArrayD, Axis, Slice};
use std::path::Path;
use std::process::Command;

/// The box in the middle of the slice.
const SIDES_MM: [f64; 3] = [120.0, 120.0, 1.0];

/// One slice of the volume.
fn only(volume: &Volume, k: usize) -> Volume {
    let grid = &volume.grid;
    Volume {
        grid: Grid {
            origin: grid.to_patient([0.0, 0.0, k as f64]),
            size: [grid.size[0], grid.size[1], 1],
            ..grid.clone()
        },
        hu: volume.hu.slice_axis(Axis(0), Slice::from(k..k + 1)).to_owned(),
    }
}

/// A structure that is kept in as many pieces as the network gives, so that the mask is what the logits say and no more.
fn located(bounds: Box3) -> Located {
    Located {
        structure: structure::by_name("pancreas").unwrap(),
        bounds,
        sections: Vec::new(),
        truncated: Vec::new(),
        confidence: 1.0,
        low_confidence: false,
        reasons: Vec::new(),
    }
}

fn manifest(weights: &Path) -> Manifest {
    Manifest::read(Path::new("models/medsam_vit_b"), weights).unwrap()
}

fn segmenter(weights: &Path) -> Segmenter {
    let choice = choice(&["cpu"], true);
    let runtime = Runtime::load(&daemon::cache().join("onnxruntime/libonnxruntime.so"), &choice).unwrap();
    Segmenter::load(&runtime, manifest(weights)).unwrap()
}

fn floats(path: &Path, shape: &[usize]) -> ArrayD<f32> {
    let bytes = std::fs::read(path).unwrap();
    let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    ArrayD::from_shape_vec(shape, values.collect()).unwrap()
}

/// Dice of our mask with PyTorch's, pixel by pixel in patient space, and how many pixels differ.
fn agreement(mask: &Mask, grid: &Grid, z: f64, answer: &serde_json::Value) -> (f64, usize) {
    let pair = |key: &str| [0, 1].map(|a: usize| answer[key][a].as_f64().unwrap());
    let (origin, spacing) = (pair("origin"), pair("spacing"));
    let (mut both, mut sizes, mut differ) = (0, 0, 0);
    for (row, line) in answer["mask"].as_array().unwrap().iter().enumerate() {
        for (column, theirs) in line.as_array().unwrap().iter().enumerate() {
            let point = PatientPoint::new(
                origin[0] + spacing[0] * column as f64,
                origin[1] + spacing[1] * row as f64,
                z,
            );
            let ours = mask.contains(grid.to_voxel(point).map(|v| v.round() as usize));
            let theirs = theirs.as_u64() == Some(1);
            both += usize::from(ours && theirs);
            sizes += usize::from(ours) + usize::from(theirs);
            differ += usize::from(ours != theirs);
        }
    }
    (2.0 * both as f64 / sizes as f64, differ)
}

#[test]
#[ignore = "needs PyTorch; a minute and 3 GB"]
fn medsam_vit_b_outlines_what_pytorch_does_with_the_same_weights() {
    let (Some(root), Some(python)) = (data::folder(), std::env::var_os("MEDLSAMD_TEST_TORCH")) else {
        panic!("set MEDLSAMD_TEST_TORCH to a Python with torch and segment-anything");
    };
    let ct = root.join("labelled/totalseg_example/ct.nii.gz");
    let volume = nifti::read_ct(&ct).unwrap();
    let [i, j, k] = volume.grid.size.map(|n| n / 2);
    let centre = volume.grid.to_patient([i as f64, j as f64, k as f64]).to_array();
    let slice = only(&volume, k);
    let corner = |sign: f64| [0, 1, 2].map(|a| centre[a] + sign * SIDES_MM[a] / 2.0);
    let (low, high) = (corner(-1.0), corner(1.0));
    let (bounds, z) = (
        Box3 {
            min: low.into(),
            max: high.into(),
        },
        centre[2],
    );

    let folder = tempfile::tempdir().unwrap();
    let clip_mm = manifest(folder.path()).number("clip_mm").unwrap();
    let status = Command::new(python)
        .arg("tests/judge/vit_b.py")
        .arg("--ct")
        .arg(&ct)
        .arg("--box")
        .args([low[0], high[0], low[1], high[1], z].map(|v| v.to_string()))
        .arg("--clip")
        .arg(clip_mm.to_string())
        .arg("--out")
        .arg(folder.path())
        .status();
    assert!(status.unwrap().success());
    let answer = std::fs::read(folder.path().join("answer.json")).unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();

    let mut segmenter = segmenter(folder.path());
    let Outline::Outlined(outlined) = segmenter
        .segment(&slice, &[located(bounds)], &Silent)
        .unwrap()
        .remove(0)
    else {
        panic!("nothing is outlined")
    };
    let (dice, differ) = agreement(&outlined.mask, &slice.grid, z, &answer);
    let iou = answer["iou"].as_f64().unwrap();
    let iou_off = (f64::from(outlined.predicted_iou) - iou).abs();

    // The network alone, on PyTorch's own image.
    let image = floats(&folder.path().join("image.f32"), &[1, 1, 1024, 1024]);
    let embedding = segmenter
        .encoder
        .run(&[("image", Feed::F32(image.view()))], &["embedding"]);
    let embedding = embedding.unwrap().remove(0);
    let corners = [0, 1, 2, 3].map(|n: usize| answer["box"][n].as_f64().unwrap() as f32);
    let boxes = ArrayD::from_shape_vec(vec![1, 4], corners.to_vec()).unwrap();
    let index = ArrayD::<i64>::zeros(vec![1]);
    let inputs = [
        ("embedding", Feed::F32(embedding.view())),
        ("boxes", Feed::F32(boxes.view())),
        ("index", Feed::I64(index.view())),
    ];
    let logits = segmenter.decoder.run(&inputs, &["logits"]).unwrap().remove(0);
    let wanted = floats(&folder.path().join("logits.f32"), &[1, 1, 256, 256]);
    let off = |(a, b): (&f32, &f32)| (a - b).abs();
    let worst = logits.iter().zip(&wanted).map(off).fold(0.0, f32::max);
    let largest = wanted.iter().map(|v| v.abs()).fold(0.0, f32::max);
    println!(
        "Dice {dice:.5}, {differ} of {} pixels differ, IoU estimate off by {iou_off:.1e}; on the same image logits to {largest:.2} \
         are off by {worst:.1e}; encoder {:.1} s for two slices",
        outlined.mask.voxel_count(),
        segmenter.encoder.busy.as_secs_f64()
    );
    assert!(worst < 1e-4 * largest.max(1.0), "{worst}");
    assert!(dice >= 0.999, "{dice}");
}
