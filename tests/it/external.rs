//! Promise: the External contour is the skin of the patient, without table and clothes, on every real series.

use crate::support::data;
use crate::support::written::{POSES, mask, phantom, with_source};
use dicom::dictionary_std::tags;
use medlsamd::mask::Mask;
use medlsamd::nifti;
use medlsamd::progress::Silent;
use medlsamd::results::style::Style;
use medlsamd::results::{self, picture};
use medlsamd::structure;
use medlsamd::teach;
use medlsamd::volume::{self, Volume, body};
use ndarray::Array3;
use std::path::Path;
use std::time::Instant;

fn read(name: &str) -> Option<(tempfile::TempDir, Volume)> {
    let ct = data::series(name)?;
    let volume = volume::reconstruct(&crate::support::written::series_of(ct.path()), &Silent).expect("HU");
    Some((ct, volume))
}

/// Series, millilitres as an independent computation of the same rule found them (SciPy).
const SERIES: &[(&str, f64)] = &[
    ("lidc_0001", 19_223.9),
    ("crlm_1006", 17_839.3),
    ("acrin_breast_013", 11_010.0),
    ("acrin_nsclc_042", 35_284.4),
];

#[test]
fn the_skin_of_real_patients_is_found() {
    for (name, wanted_ml) in SERIES {
        let Some((_ct, volume)) = read(name) else { return };
        let begin = Instant::now();
        let found = body::outline(&volume).expect("a patient");
        let seconds = begin.elapsed().as_secs_f64();
        let external = structure::by_name("external").expect("a row");
        let mask = Mask::from_full(external, found.voxels.view()).expect("voxels");
        let ml = mask.voxel_count() as f64 * volume.grid.voxel_volume_ml();
        eprintln!(
            "{name}: {ml:.1} ml, {seconds:.2} s, cut on {} of {} slices",
            found.cut_slices, volume.grid.size[2]
        );
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("external_{name}.png"));
        std::fs::write(place, picture::contact_sheet(&volume, &[mask]).png()).expect("written");
        assert!(
            (ml / wanted_ml - 1.0).abs() < 2e-3,
            "{name}: {ml} ml, SciPy found {wanted_ml}"
        );
    }
}

#[test]
fn every_labelled_organ_lies_within_the_body() {
    let Some((_ct, volume)) = read("lidc_0001") else { return };
    let folder = data::folder().expect("it was there");
    let labels = folder.join("labelled/lidc_0001/seg.nii.gz");
    let (grid, labels) = nifti::read_labels(&labels).expect("labels");
    let labels = medlsamd::evaluate::truth::onto(&volume.grid, &grid, labels);
    let body = body::outline(&volume).expect("a patient").voxels;
    let (mut organs, mut outside) = (0usize, 0usize);
    for (at, _) in labels.indexed_iter().filter(|(_, label)| **label != 0) {
        organs += 1;
        outside += usize::from(!body[at]);
    }
    eprintln!("{outside} of {organs} labelled voxels lie outside");
    assert!(
        organs > 1_000_000 && outside * 100_000 <= organs,
        "{outside} of {organs}"
    );
}

#[test]
fn a_structure_set_tells_the_body_from_the_organs() {
    let ct = tempfile::tempdir().expect("a folder");
    let series = phantom(ct.path(), &POSES[0]);
    let block = |low: usize, high: usize| {
        Array3::from_shape_fn(series.grid.shape(), |(_, j, i)| {
            (low..high).contains(&j) && (low..high).contains(&i)
        })
    };
    let masks = [mask("heart", &block(8, 12)), mask("external", &block(2, 25))];
    let style = Style::default();
    let object = with_source(&series, &masks, "body", (results::GENERIC, &style), |source| {
        (results::kind("rtstruct").expect("a kind").write)(source).expect("a structure set")
    });
    let set = dicom::object::from_reader(object.part10.as_slice()).expect("DICOM");
    let observations = set.element(tags::RTROI_OBSERVATIONS_SEQUENCE).expect("observations");
    let said = observations.items().expect("items").iter().map(|item| {
        let text = item.element(tags::RTROI_INTERPRETED_TYPE).expect("a type").to_str();
        text.expect("text").trim().to_owned()
    });
    assert_eq!(said.collect::<Vec<_>>(), ["ORGAN", "EXTERNAL"]);
}

#[test]
fn a_label_called_external_teaches_nothing() {
    assert_eq!(teach::structure_of_label("external"), None);
    assert_eq!(teach::structure_of_label("heart"), Some("heart"));
}
