//! Promise: a series becomes a volume whose every voxel is where the scanner measured it, or is refused by name and number.

use crate::support::phantom::{Phantom, STRAIGHT, Vec3, cross, ramp};
use dicom::core::{DataElement, PrimitiveValue, VR};
use dicom::dictionary_std::tags;
use medlsamd::dicom::header::Instance;
use medlsamd::dicom::uid::Uid;
use medlsamd::gather;
use medlsamd::geometry::Grid;
use medlsamd::progress::Silent;
use medlsamd::series::{Rejection, Requirements, Series, assemble, evidence};
use medlsamd::volume::{Volume, reconstruct, to_patient_axes};
use ndarray::Array3;
use proptest::prelude::*;
use std::sync::OnceLock;

const ANY: Requirements = Requirements {
    min_slices: 2,
    min_extent_mm: 0.0,
};

fn volume_of(instances: Vec<Instance>) -> Volume {
    reconstruct(&assemble(instances, &ANY).unwrap(), &Silent).unwrap()
}

/// Every stored voxel shows what the phantom has at its patient position.
fn assert_true_in_place(volume: &Volume, tolerance_hu: f64, what: &str) {
    for ((k, j, i), hu) in volume.hu.indexed_iter() {
        let at = volume.grid.to_patient([i as f64, j as f64, k as f64]);
        let wanted = ramp(at.to_array());
        assert!(
            (f64::from(*hu) - wanted).abs() < tolerance_hu,
            "{what}: {hu} instead of {wanted} at {at:?}"
        );
    }
}

/// The canonical volume, away from the faces, shows what the phantom has at each patient position.
fn assert_true_on_patient_axes(volume: &Volume, what: &str) {
    let (grid, hu) = to_patient_axes(volume, 3.0);
    assert_eq!(grid.directions, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
    assert_eq!(hu.dim(), grid.shape());
    let mut seen = 0;
    for ((k, j, i), hu) in hu.indexed_iter() {
        let at = grid.to_patient([i as f64, j as f64, k as f64]);
        let voxel = volume.grid.to_voxel(at);
        let outside = (0..3).any(|c| voxel[c] < -0.5 || voxel[c] > volume.grid.size[c] as f64 - 0.5);
        let deep = (0..3).all(|c| voxel[c] > 2.0 && voxel[c] < volume.grid.size[c] as f64 - 3.0);
        if outside {
            // Weights that sum to one in another order may miss it by a rounding.
            assert!((*hu + 1024.0).abs() < 1e-3, "{what}: {hu} invented at {at:?}");
        } else if deep {
            seen += 1;
            let wanted = ramp(at.to_array());
            assert!(
                (f64::from(*hu) - wanted).abs() < 0.6,
                "{what}: {hu} instead of {wanted} at {at:?}"
            );
        }
    }
    assert!(seen > 100_000, "{what}: only {seen} voxels were looked at");
}

#[test]
fn every_straight_orientation_gives_the_same_patient() {
    let dir = tempfile::tempdir().unwrap();
    let mut canonical = None;
    for (name, row, column) in STRAIGHT {
        let volume = volume_of(Phantom::lying(row, column).instances(&dir.path().join(name)));
        assert_true_in_place(&volume, 0.51, name);
        assert_true_on_patient_axes(&volume, name);
        let (grid, hu) = to_patient_axes(&volume, 3.0);
        let (first_grid, first) = canonical.get_or_insert_with(|| (grid.clone(), hu.clone()));
        for axis in 0..3 {
            assert!(
                (grid.origin.to_array()[axis] - first_grid.origin.to_array()[axis]).abs() < 1e-5,
                "{name}"
            );
        }
        let worst = hu
            .iter()
            .zip(first.iter())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            grid.size == first_grid.size && worst < 3.5,
            "{name} differs by {worst} HU, faces included"
        );
    }
}

/// The same patient, stored along the patient's axes in any order and either way: six orders, eight signs.
#[test]
fn all_forty_eight_orientations_give_the_same_canonical_volume_and_come_back() {
    let (first, spacing_mm, size) = ([-80.0, -95.0, 1200.0], [2.5, 2.0, 4.0], [64, 92, 52]);
    let mut canonical = None;
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for signs in 0..8 {
            let mut origin = first;
            let mut directions = [[0.0; 3]; 3];
            for (axis, &along) in order.iter().enumerate() {
                let back = signs >> axis & 1 == 1;
                directions[axis][along] = if back { -1.0 } else { 1.0 };
                origin[along] += if back {
                    spacing_mm[along] * (size[along] - 1) as f64
                } else {
                    0.0
                };
            }
            let grid = Grid {
                origin: origin.into(),
                directions,
                spacing_mm: order.map(|along| spacing_mm[along]),
                size: order.map(|along| size[along]),
            };
            let value = |(k, j, i): (usize, usize, usize)| {
                ramp(grid.to_patient([i as f64, j as f64, k as f64]).to_array()).round() as i16
            };
            let hu = Array3::from_shape_fn(grid.shape(), value);
            let volume = Volume { grid, hu };
            let what = format!("{order:?} {signs:03b}");
            assert_true_on_patient_axes(&volume, &what);
            let (grid, hu) = to_patient_axes(&volume, 3.0);
            // There and back: what localisation says in millimetres is the voxel it came from.
            let (there, back) = (
                [7.0, 11.0, 13.0],
                volume.grid.to_voxel(volume.grid.to_patient([7.0, 11.0, 13.0])),
            );
            assert!((0..3).all(|axis| (there[axis] - back[axis]).abs() < 1e-9), "{what}");
            let (first_grid, first) = canonical.get_or_insert_with(|| (grid.clone(), hu.clone()));
            let worst = hu
                .iter()
                .zip(first.iter())
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                grid.size == first_grid.size && worst < 0.01,
                "{what} differs by {worst} HU"
            );
        }
    }
}

#[test]
fn oblique_and_tilted_stacks_are_true_in_patient_space() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (0.21f64, -0.13f64);
    let row = [a.cos(), a.sin(), 0.0];
    let column = [-a.sin() * b.cos(), a.cos() * b.cos(), b.sin()];
    let oblique = volume_of(Phantom::lying(row, column).instances(&dir.path().join("oblique")));
    assert_true_in_place(&oblique, 0.51, "oblique");
    assert_true_on_patient_axes(&oblique, "oblique");

    for tilt in [-23.0f64, 16.5] {
        let tilt = tilt.to_radians();
        let mut phantom = Phantom::lying([1.0, 0.0, 0.0], [0.0, tilt.cos(), tilt.sin()]);
        phantom.step = [0.0, 0.0, 4.0];
        let tilted = volume_of(phantom.instances(&dir.path().join(format!("tilt{tilt}"))));
        assert_true_in_place(&tilted, 0.51, "tilted");
        assert_true_on_patient_axes(&tilted, "tilted");
    }
}

#[test]
fn sign_slope_and_padding_of_each_slice_are_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let phantom = Phantom {
        signed: true,
        slope: 0.5,
        intercept: 0.0,
        slices: 8,
        ..Phantom::supine()
    };
    // Slice 3 stores twice the value at half the slope; slice 5 declares a value to be padding.
    let paths = phantom.write_edited(dir.path(), |k, object| {
        if k == 3 {
            let stored: Vec<u16> = phantom.stored(k).iter().map(|v| (*v as i16 * 2) as u16).collect();
            object.put(DataElement::new(
                tags::PIXEL_DATA,
                VR::OW,
                PrimitiveValue::U16(stored.into()),
            ));
            object.put(DataElement::new(
                tags::RESCALE_SLOPE,
                VR::DS,
                PrimitiveValue::from("0.25"),
            ));
        }
        if k == 5 {
            let padding = phantom.stored(k)[0];
            object.put(DataElement::new(
                tags::PIXEL_PADDING_VALUE,
                VR::US,
                PrimitiveValue::from(padding),
            ));
        }
    });
    let instances = paths.iter().map(|path| Instance::read(path).unwrap()).collect();
    let mut volume = volume_of(instances);
    assert_eq!(volume.hu[[5, 0, 0]], -1024);
    volume.hu[[5, 0, 0]] = volume.hu[[4, 0, 0]] - 10;
    let stored = phantom.stored(5);
    for ((k, j, i), hu) in volume.hu.indexed_iter_mut() {
        if k == 5 && stored[j * usize::from(phantom.columns) + i] == stored[0] {
            *hu = ramp(volume.grid.to_patient([i as f64, j as f64, k as f64]).to_array()).round() as i16;
        }
    }
    assert_true_in_place(&volume, 0.76, "per-slice rescale");
}

#[test]
fn a_slice_that_is_cut_short_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let phantom = Phantom {
        slices: 4,
        ..Phantom::supine()
    };
    let instances = phantom.instances(dir.path());
    let file = std::fs::read(&instances[2].path).unwrap();
    std::fs::write(&instances[2].path, &file[..file.len() - 2]).unwrap();
    let error = reconstruct(&assemble(instances, &ANY).unwrap(), &Silent)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "slice 2.25.1002.3: number 3, at index 2: the file is cut short: 23038 of 23040 bytes of pixels are there"
    );
}

/// Headers of a small phantom, written once.
fn sample() -> Vec<Instance> {
    static SAMPLE: OnceLock<Vec<Instance>> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        Phantom {
            rows: 4,
            columns: 4,
            slices: 30,
            ..Phantom::supine()
        }
        .instances(dir.path())
    };
    SAMPLE.get_or_init(make).clone()
}

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn refusal(instances: Vec<Instance>) -> Rejection {
    let rejection = assemble(instances, &ANY).unwrap_err();
    assert!(!rejection.hint().is_empty());
    rejection
}

fn moved(instance: &Instance, by: Vec3) -> Instance {
    let mut instance = instance.clone();
    instance.image_position = instance
        .image_position
        .map(|p| [p[0] + by[0], p[1] + by[1], p[2] + by[2]]);
    instance
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(order in Just((0..31).collect::<Vec<usize>>()).prop_shuffle()) {
        let mut instances = sample();
        // A copy, a scout and a repeat must not depend on it either.
        instances.push(instances[7].clone());
        let straight = assemble(instances.clone(), &ANY).unwrap();
        let shuffled = assemble(order.iter().map(|n| instances[*n].clone()).collect(), &ANY).unwrap();
        let names = |slices: &[Instance]| slices.iter().map(|s| s.sop_instance_uid.clone()).collect::<Vec<_>>();
        prop_assert_eq!(names(&straight.slices), names(&shuffled.slices));
        prop_assert_eq!(&straight.grid, &shuffled.grid);
        prop_assert_eq!(&straight.set_aside, &shuffled.set_aside);
    }
}

#[test]
fn scouts_copies_and_lone_repeats_are_set_aside() {
    let mut instances = sample();
    let mut scout = instances[0].clone();
    scout.sop_instance_uid = uid("2.25.1");
    scout.image_type = vec!["ORIGINAL".into(), "PRIMARY".into(), "LOCALIZER".into()];
    scout.image_orientation = Some([0.0, 1.0, 0.0, 0.0, 0.0, -1.0]);
    let mut unmarked = scout.clone();
    unmarked.sop_instance_uid = uid("2.25.2");
    unmarked.image_type.clear();
    let mut repeat = instances[4].clone();
    repeat.sop_instance_uid = uid("2.25.3");
    repeat.instance_number = Some(104);
    let copy = instances[9].clone();
    instances.extend([scout, unmarked, repeat, copy]);
    let series = assemble(instances, &ANY).unwrap();
    assert_eq!(series.slices.len(), 30);
    assert_eq!(series.slices[4].instance_number, Some(5));
    let reasons: Vec<_> = series
        .set_aside
        .iter()
        .map(|(uid, why)| (uid.as_str(), why.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            ("2.25.1", "its Image Type says LOCALIZER"),
            ("2.25.1002.10", "came more than once"),
            (
                "2.25.2",
                "it stands 90 degrees across the other slices, as a scout does"
            ),
            ("2.25.3", "it repeats the position of slice 5 (2.25.1002.5)"),
        ]
    );
}

#[test]
fn a_lost_slice_is_bridged_and_named() {
    let mut instances = sample();
    instances.remove(12);
    let gap = "8.00 mm instead of 4.00 mm between slice 12 (2.25.1002.12) at 143.00 mm and slice 14 (2.25.1002.14) at 151.00 mm: \
               slices may be lost there";
    let series = assemble(instances.clone(), &ANY).unwrap();
    assert_eq!(series.gap(), Some(gap));
    let uneven = series.uneven.unwrap();
    assert_eq!((uneven.grid.size[2], uneven.gaps[0].0), (30, 11));
    assert!((uneven.grid.spacing_mm[2] - 4.0).abs() < 1e-9);
    let at = |k: usize| if k < 12 { k as f64 } else { k as f64 + 1.0 };
    assert!(uneven.at.iter().enumerate().all(|(k, own)| (own - at(k)).abs() < 1e-9));
    // Yet nothing says that the lost slice is not on its way.
    assert_eq!(gather::assembles(instances.clone(), &ANY), Err(gap.to_owned()));
    assert!(!evidence(&instances, &ANY).gap_free);
    // The first and the last leave no gap: only the requirements can tell.
    let whole = evidence(
        &sample(),
        &Requirements {
            min_slices: 30,
            min_extent_mm: 120.0,
        },
    );
    assert!(whole.gap_free && whole.sufficient && whole.slices == 30 && (whole.extent_mm - 120.0).abs() < 1e-6);
    let part = evidence(
        &sample()[..29],
        &Requirements {
            min_slices: 30,
            min_extent_mm: 0.0,
        },
    );
    assert!(part.gap_free && !part.sufficient, "{}", part.why);
}

#[test]
fn what_nobody_can_put_right_is_refused_with_numbers() {
    type Change = fn(&mut Vec<Instance>);
    let cases: &[(Change, &str)] = &[
        (|s| s[3].frame_of_reference_uid = Some(uid("2.25.9")), "2.25.1003"),
        (
            |s| s[3].frame_of_reference_uid = None,
            "slice 4 (2.25.1002.4) has no usable FrameOfReferenceUID",
        ),
        (
            |s| s[3].image_position = None,
            "slice 4 (2.25.1002.4) has no usable ImagePositionPatient",
        ),
        (
            |s| s[3].rescale_slope = None,
            "slice 4 (2.25.1002.4) has no usable RescaleSlope",
        ),
        (
            |s| s[3].rescale_type = "MGML".into(),
            "slice 4 (2.25.1002.4) holds \"MGML\", not Hounsfield units",
        ),
        (
            |s| s[3].series_instance_uid = uid("2.25.8"),
            "instances of several series: 2.25.1002 and 2.25.8",
        ),
        (
            |s| s[3].study_instance_uid = uid("2.25.8"),
            "instances of several studies: 2.25.1001 and 2.25.8",
        ),
        (
            |s| s[3].patient_id = "X".into(),
            "two Patient IDs in one series: slice 1 (2.25.1002.1) and slice 4 (2.25.1002.4)",
        ),
        (|s| s[3].rows = 8, "4 rows × 4 columns and 8 rows × 4 columns"),
        (|s| s[3].pixel_spacing_mm = Some([1.7, 2.0]), "Pixel Spacing differs"),
        (
            |s| s[3].number_of_frames = 5,
            "slice 4 (2.25.1002.4) is a multi-frame object (5 frames) without functional groups",
        ),
        (
            |s| s[3].image_orientation = Some([1.0, 0.0, 0.0, 0.0, 0.9998, 0.02]),
            "turned by 1.15 degrees",
        ),
        (
            |s| s[3].image_orientation = Some([1.0, 0.0, 0.0, 0.5, 0.8, 0.0]),
            "impossible Image Orientation",
        ),
        (
            |s| drop(s.drain(4..8)),
            "gap of 20.00 mm where slices lie 4.00 mm apart: between slice 4",
        ),
        (
            |s| {
                let more = |k: usize| 4.0 * k as f64 + if k > 9 { 3.0 } else { 0.0 };
                s.iter_mut()
                    .enumerate()
                    .for_each(|(k, i)| *i = moved(i, [0.0, 0.0, more(k)]));
            },
            "uneven spacing: 11.000 mm between",
        ),
        (
            |s| s[3] = moved(&s[3], [1.0, 0.0, 0.0]),
            "slice 4 (2.25.1002.4) lies 1.00 mm beside",
        ),
        (|s| s.truncate(1), "1 slices, at least 2 are required"),
        (|s| s.clear(), "there is no instance"),
        (
            |s| s.iter_mut().for_each(|i| i.modality = "MR".into()),
            "none of the 30 instances is a CT slice",
        ),
        (
            |s| s.iter_mut().for_each(|i| i.image_position = Some([0.0; 3])),
            "all 30 slices lie at the same position",
        ),
        (
            |s| {
                s.iter_mut()
                    .for_each(|i| i.image_orientation = Some([1.0, 0.0, 0.0, 0.0, 0.0, -1.0]))
            },
            "the slices are not axial: their normal is 90 degrees",
        ),
        (
            |s| {
                s.iter_mut()
                    .enumerate()
                    .for_each(|(k, i)| *i = moved(i, [3.0 * k as f64, 0.0, 0.0]))
            },
            "the stack leans by 36.9 degrees against the slice normal, the limit is 30",
        ),
        (
            |s| {
                let second = s.to_vec();
                for (k, mut instance) in second.into_iter().enumerate() {
                    instance.sop_instance_uid = uid(&format!("2.25.7.{k}"));
                    instance.instance_number = Some(100 + k as i64);
                    s.push(instance);
                }
            },
            "30 of 60 slices repeat a position, such as slice 1 (2.25.1002.1) and slice 100 (2.25.7.0) at 99.00 mm",
        ),
    ];
    for (change, wanted) in cases {
        let mut instances = sample();
        change(&mut instances);
        let said = refusal(instances).to_string();
        assert!(said.contains(wanted), "{said}\nshould hold: {wanted}");
    }
}

/// Where every slice says itself where it lies, an uneven stack is true in place: here a ramp, which no interpolation bends.
#[test]
fn uneven_and_tilted_stacks_are_true_in_patient_space() {
    let dir = tempfile::tempdir().unwrap();
    let tilt = 16.5f64.to_radians();
    let mut phantom = Phantom::lying([1.0, 0.0, 0.0], [0.0, tilt.cos(), tilt.sin()]);
    phantom.step = [0.0, 0.0, 2.0];
    let mut instances = phantom.instances(dir.path());
    // 2 mm below, 4 and 6 mm above.
    let count = instances.len();
    let mut k = 0;
    instances.retain(|_| {
        k += 1;
        k < count / 3 || k % if k < 2 * count / 3 { 2 } else { 3 } == 0
    });
    let series = assemble(instances, &ANY).unwrap();
    assert!(series.uneven.is_some() && series.remarks[0].contains("mm apart"));
    let volume = reconstruct(&series, &Silent).unwrap();
    assert_true_in_place(&volume, 1.01, "uneven and tilted");
    assert_true_on_patient_axes(&volume, "uneven and tilted");
}

#[test]
fn several_stacks_are_told_apart_and_the_largest_whole_one_is_taken() {
    let second = |change: fn(&mut Instance)| {
        let mut all = sample();
        for (k, mut instance) in sample().into_iter().enumerate() {
            instance.sop_instance_uid = uid(&format!("2.25.7.{k}"));
            instance.instance_number = Some(100 + k as i64);
            change(&mut instance);
            all.push(instance);
        }
        all
    };
    type Case = (&'static str, fn(&mut Instance));
    let cases: &[Case] = &[
        ("AcquisitionNumber \"9\"", |i| i.acquisition_number = Some(9)),
        ("ConvolutionKernel \"B70f\"", |i| {
            drop(i.matchable.insert("ConvolutionKernel", "B70f".into()))
        }),
        ("TemporalPositionIdentifier \"2\"", |i| {
            drop(i.phase.insert("TemporalPositionIdentifier", "2".into()))
        }),
        ("KVP \"140\"", |i| drop(i.phase.insert("KVP", "140".into()))),
        ("a matrix of \"4 × 4 pixels of 1.000", |i| {
            i.pixel_spacing_mm = Some([1.0, 1.0])
        }),
        ("ImageOrientationPatient", |i| {
            i.image_orientation = Some([0.0, 1.0, 0.0, 0.0, 0.0, -1.0])
        }),
    ];
    for (what, change) in cases {
        let mut instances = second(*change);
        let series = assemble(instances.clone(), &ANY).unwrap_or_else(|error| panic!("{what}: {error}"));
        let uids = |series: &Series| {
            series
                .slices
                .iter()
                .map(|s| s.sop_instance_uid.to_string())
                .collect::<Vec<_>>()
        };
        assert!(uids(&series).iter().all(|uid| uid.starts_with("2.25.1002.")), "{what}");
        assert_eq!((series.slices.len(), series.set_aside.len()), (30, 30), "{what}");
        assert!(
            series.remarks[0].starts_with("the series holds 2 stacks; outlined is the one of 30 slices"),
            "{what}"
        );
        assert!(
            series.remarks[0].contains(what) && series.set_aside[0].1.contains(what),
            "{:?}",
            series.remarks
        );
        assert_eq!(series.grid, assemble(sample(), &ANY).unwrap().grid, "{what}");
        // A slice lost from the first leaves the second whole, if that can be computed on at all.
        instances.remove(12);
        match assemble(instances, &ANY) {
            Ok(other) => assert!(uids(&other).iter().all(|uid| uid.starts_with("2.25.7.")), "{what}"),
            Err(error) => assert!(what.contains("Orientation"), "{what}: {error}"),
        }
    }
    // Acquisitions of eight slices each, two of which overlap, are no phases: no eight slices stand for thirty.
    let mut rotations = sample();
    for (k, instance) in rotations.iter_mut().enumerate() {
        instance.acquisition_number = Some(k as i64 / 8);
    }
    let mut overlap = rotations[8].clone();
    (overlap.sop_instance_uid, overlap.acquisition_number) = (uid("2.25.8"), Some(0));
    rotations.push(overlap);
    assert!(refusal(rotations).to_string().contains("repeat a position"));
    // A small whole stack does not stand for a large broken one.
    let mut instances = second(|i| i.acquisition_number = Some(9));
    instances.drain(30 + 8..);
    instances.remove(12);
    instances.remove(20);
    assert!(refusal(instances).to_string().contains("repeat a position"));
}

#[test]
fn feet_first_stacks_are_ordered_by_the_normal_too() {
    let mut instances = sample();
    for instance in &mut instances {
        instance.image_orientation = Some([-1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }
    let series = assemble(instances, &ANY).unwrap();
    assert_eq!(series.slices[0].instance_number, Some(30));
    assert_eq!(series.grid.directions[2], [0.0, 0.0, -1.0]);
    assert_eq!(
        cross(series.grid.directions[0], series.grid.directions[1]),
        series.grid.directions[2]
    );
}
