//! Localisation measured on real CT against labels and against the templates' own points, one template left out at a time.
//!
//! Needs the trained model, its template points and the test data; run with `cargo test --test it measured -- --ignored --nocapture`.

use medlsamd::evaluate::{Localisation, landmark_error_mm, localisation};
use medlsamd::geometry::PatientPoint;
use medlsamd::inference::model::Manifest;
use medlsamd::inference::runtime::{Choice, Runtime};
use medlsamd::localise::bank::Bank;
use medlsamd::localise::canonical::Observation;
use medlsamd::localise::verdict::{self, Signals, Thresholds};
use medlsamd::localise::{Face, Localiser, boxes, find, search};
use medlsamd::progress::Silent;
use medlsamd::structure::{STRUCTURES, Structure};
use medlsamd::teach::{self, Placed};
use medlsamd::{nifti, table};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Pairs of one patient: left out together.
const SAME_PATIENT: [[&str; 2]; 2] = [
    ["acrin_breast_001_a", "acrin_breast_001_b"],
    ["elastix_lung_base", "elastix_lung_fup"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn data() -> PathBuf {
    std::env::var_os("MEDLSAMD_TEST_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from)
}

fn model_dir() -> PathBuf {
    std::env::var_os("MEDLSAMD_TEST_MODEL").map_or_else(|| root().join("models/medlam"), PathBuf::from)
}

fn localiser() -> Localiser {
    let choice = Choice {
        providers: vec!["cpu".into()],
        strict: true,
        device: 0,
        fp16: false,
        engine_cache: None,
        threads: 2,
    };
    let runtime = Runtime::load(&root().join(".cache/onnxruntime/libonnxruntime.so"), &choice).unwrap();
    let manifest = Manifest::read(&model_dir(), &root().join(".cache/weights")).unwrap();
    Localiser::load(&runtime, manifest, Bank::default()).unwrap()
}

struct Case {
    id: String,
    observation: Observation,
    placed: Placed,
    /// Structures known not to be in view.
    absent: BTreeSet<String>,
}

fn cases(localiser: &mut Localiser) -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(model_dir().join("templates"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    let case = |file: &PathBuf| {
        let placed = teach::read_points(file).unwrap();
        let ct = nifti::read_ct(&data().join("ct3mm").join(format!("{}.nii.gz", placed.volume))).unwrap();
        let text: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let presence = text["presence"].as_object().cloned().unwrap_or_default();
        let absent = presence
            .iter()
            .filter(|(_, p)| **p == false)
            .map(|(name, _)| name.clone())
            .collect();
        Case {
            id: placed.volume.clone(),
            observation: localiser.observe(&ct).unwrap(),
            placed,
            absent,
        }
    };
    files.iter().map(case).collect()
}

fn bank_of<'a>(localiser: &Localiser, cases: impl Iterator<Item = &'a Case>) -> Bank {
    let mut bank = Bank {
        model_sha256: localiser.manifest.sha256.clone(),
        ..Bank::default()
    };
    for case in cases {
        bank.cube_lens = [case.observation.fine.cube_len(), case.observation.coarse.cube_len()];
        bank.templates.insert(
            case.id.clone(),
            teach::template(&case.observation, &case.placed).unwrap(),
        );
    }
    bank
}

fn labelled(localiser: &mut Localiser, id: &str, ct: &Path) -> Case {
    let dir = data().join("labelled").join(id);
    let text = std::fs::read(dir.join("labels.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let names: BTreeMap<u16, String> = serde_json::from_value(json["labels"].clone()).unwrap();
    let (grid, labels) = nifti::read_labels(&dir.join("seg.nii.gz")).unwrap();
    let structures = teach::points_of_labels(&grid, &labels, &names);
    let started = Instant::now();
    let observation = localiser.observe(&nifti::read_ct(ct).unwrap()).unwrap();
    println!("{id}: observed in {:.1} s", started.elapsed().as_secs_f64());
    let absent = STRUCTURES
        .iter()
        .map(|s| s.name.to_owned())
        .filter(|n| !structures.contains_key(n))
        .collect();
    Case {
        id: id.into(),
        observation,
        placed: Placed {
            structures,
            ..Placed::default()
        },
        absent,
    }
}

/// Mean distance of the found extreme points and of their expected places, per structure; and what the verdict weighed.
fn landmark_errors(case: &Case, bank: &Bank) -> (BTreeMap<&'static str, [f64; 2]>, BTreeMap<&'static str, Signals>) {
    let (searches, alignment) = search::search(&case.observation, bank, &Silent).unwrap();
    let (mut errors, mut signals) = (BTreeMap::new(), BTreeMap::new());
    let bounds = &case.observation.bounds;
    for found in searches {
        if let Some(framed) = boxes::frame(&found, &alignment, bounds)
            && let Some(s) = verdict::signals(&found, &framed, bounds)
        {
            signals.insert(found.structure.name, s);
        }
        let Some(truth) = case.placed.structures.get(found.structure.name) else {
            continue;
        };
        let (mut pairs, mut expected) = (Vec::new(), Vec::new());
        for face in Face::ALL {
            let (Some(sighting), Some(point)) = (&found.faces[face as usize], truth.extremes.get(&face)) else {
                continue;
            };
            let at = sighting.found.map_or(sighting.expected, |h| h.at);
            pairs.push((PatientPoint::from(at), PatientPoint::from(*point)));
            expected.push((PatientPoint::from(sighting.expected), PatientPoint::from(*point)));
        }
        if let (Some(a), Some(b)) = (landmark_error_mm(&pairs), landmark_error_mm(&expected)) {
            errors.insert(found.structure.name, [a, b]);
        }
    }
    (errors, signals)
}

fn measure(case: &Case, bank: &Bank, thresholds: &Thresholds, totals: &mut Vec<[f64; 4]>) -> Localisation {
    let wanted: Vec<&'static Structure> = STRUCTURES.iter().filter(|s| bank.structures().contains(s)).collect();
    let started = Instant::now();
    let findings = find(&case.observation, bank, &wanted, thresholds, &Silent).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let result = localisation(&findings, &case.placed.structures);
    let (errors, signals) = landmark_errors(case, bank);
    let said = |name: &str| {
        signals.get(name).map_or(String::new(), |s| {
            format!(
                "r {:.0} e {:.0} m {:.2} c {:.2} s {:.0} o {}",
                s.residual_mm,
                s.expectation_spread_mm,
                s.matched,
                s.similarity.unwrap_or(0.0),
                s.spread_mm.unwrap_or(99.0),
                s.strays
            )
        })
    };
    let row = |s: &medlsamd::evaluate::BoxScore| {
        let [ale, expected] = errors.get(s.structure.name).copied().unwrap_or([f64::NAN; 2]);
        if !s.truncated {
            totals.push([s.iou, s.wall_distance_mm, ale, expected]);
        }
        let located = findings
            .iter()
            .find_map(|f| f.located().filter(|l| l.structure == s.structure))
            .unwrap();
        vec![
            s.structure.name.to_owned(),
            if s.truncated { "cut" } else { "" }.to_owned(),
            format!("{:.2}", s.iou),
            format!("{:.1}", s.wall_distance_mm),
            format!("{ale:.1}"),
            format!("{expected:.1}"),
            format!("{:.2}{}", s.confidence, if s.low_confidence { " low" } else { "" }),
            said(s.structure.name),
            located.reasons.join("; "),
        ]
    };
    let rows: Vec<Vec<String>> = result.scores.iter().map(row).collect();
    println!("\n== {} ({seconds:.1} s)", case.id);
    println!(
        "{}",
        table::render(
            &[
                "structure",
                "",
                "IoU",
                "WD mm",
                "ALE mm",
                "coarse",
                "confidence",
                "signals",
                "why"
            ],
            &rows
        )
    );
    for (structure, reason) in &result.missed {
        println!("missed {} ({}): {reason}", structure.name, said(structure.name));
    }
    for structure in result.invented.iter().filter(|s| case.absent.contains(s.name)) {
        println!("invented {} ({})", structure.name, said(structure.name));
    }
    result
}

fn summary(title: &str, totals: &[[f64; 4]]) {
    let mean = |n: usize| {
        let values: Vec<f64> = totals.iter().map(|t| t[n]).filter(|v| v.is_finite()).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let [iou, wd, ale, coarse] = [0, 1, 2, 3].map(mean);
    println!(
        "\n{title}: {} structures fully in view: box IoU {iou:.3}, wall distance {wd:.1} mm, ALE {ale:.1} mm (expected place alone {coarse:.1} mm)",
        totals.len()
    );
}

#[test]
#[ignore = "needs the trained model and the test data"]
fn localisation_measured_on_labelled_cases() {
    let mut localiser = localiser();
    let templates = cases(&mut localiser);
    let bank = bank_of(&localiser, templates.iter());
    println!(
        "bank: {} templates, {} structures, {} bytes",
        bank.templates.len(),
        bank.structures().len(),
        bank.to_bytes().len()
    );
    let mut totals = Vec::new();
    for (id, ct) in [
        ("lidc_0001", root().join(".cache/sample/lidc_0001.nii.gz")),
        ("totalseg_example", data().join("labelled/totalseg_example/ct.nii.gz")),
    ] {
        let case = labelled(&mut localiser, id, &ct);
        measure(&case, &bank, localiser.thresholds(), &mut totals);
    }
    summary("labelled", &totals);
    assert!(!totals.is_empty());
}

#[test]
#[ignore = "needs the trained model and the test data"]
fn localisation_measured_leaving_each_template_patient_out() {
    let mut localiser = localiser();
    let templates = cases(&mut localiser);
    let mut totals = Vec::new();
    for case in &templates {
        let same = |other: &str| {
            SAME_PATIENT
                .iter()
                .any(|p| p.contains(&case.id.as_str()) && p.contains(&other))
        };
        let bank = bank_of(&localiser, templates.iter().filter(|t| t.id != case.id && !same(&t.id)));
        measure(case, &bank, localiser.thresholds(), &mut totals);
    }
    summary("leave one out", &totals);
    assert!(!totals.is_empty());
}
