//! `medlsamd evaluate`: what is missing is said at once, and a case gives the same rows each time.

use crate::support::data;
use std::path::Path;
use std::process::{Command, Output};

fn evaluate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medlsamd"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--config", "config/checkout.toml", "evaluate"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn what_is_missing_is_named_before_anything_is_measured() {
    let nothing = evaluate(&[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--leave-one-out"));
    let absent = evaluate(&["--ct", "/nowhere/ct.nii.gz", "--labels", "/nowhere/seg.nii.gz"]);
    assert_eq!(absent.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("/nowhere/seg.nii.gz is not there"));
    let templates = evaluate(&["--leave-one-out", "models/medlam/templates", "--ct-dir", "/nowhere"]);
    assert_eq!(templates.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&templates.stderr).contains("/nowhere/acrin_breast_001_a.nii.gz"));
    let unequal = evaluate(&["--ct", "a", "--ct", "b", "--labels", "c"]);
    assert_eq!(unequal.status.code(), Some(2));
}

#[test]
fn a_labelled_case_gives_the_same_rows_each_time() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/onnxruntime/libonnxruntime.so");
    let Some(folder) = data::folder().filter(|_| library.exists()) else {
        assert!(std::env::var_os("CI").is_none(), "{} is missing", library.display());
        eprintln!(
            "SKIPPED, NOTHING TESTED: no test data, or {} is missing",
            library.display()
        );
        return;
    };
    let case = folder.join("labelled/totalseg_example");
    let (ct, labels) = (case.join("ct.nii.gz"), case.join("seg.nii.gz"));
    let out = tempfile::tempdir().unwrap();
    let table = |name: &str| {
        let out = out.path().join(name);
        let said = evaluate(&[
            "--ct",
            ct.to_str().unwrap(),
            "--labels",
            labels.to_str().unwrap(),
            "--structures",
            "kidney_left,liver,brain",
            "--no-segment",
            "--json",
            "--out",
            out.to_str().unwrap(),
        ]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let facts: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        (facts, std::fs::read_to_string(out.join("structures.csv")).unwrap())
    };
    let (facts, csv) = table("once");
    let rows = facts["structures"].as_array().unwrap();
    let of = |name: &str| rows.iter().find(|row| row["structure"] == name).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        (&of("kidney_left")["view"], &of("liver")["view"]),
        (&"whole".into(), &"cut".into())
    );
    assert!(of("kidney_left")["box_iou"].as_f64().unwrap() > 0.2, "{facts}");
    assert_eq!(
        (&of("brain")["judgement"], &of("brain")["box_iou"]),
        (&"right".into(), &serde_json::Value::Null)
    );
    assert_eq!(facts["means"][0]["structures"], 1);
    assert_eq!(facts["presence"][0]["absent"], 1);
    assert_eq!(csv.lines().count(), 4);
    assert_eq!(table("again").1, csv);
}
