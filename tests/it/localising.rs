//! A structure is found where it is, cut where the volume ends and left out where it is not.
//!
//! The network is replaced by fields of known geometry: body coordinate and features are functions of the anatomy, and the
//! anatomy of each volume is shifted and stretched by known amounts.

use crate::support::stop::Stop;
use medlsamd::geometry::{Box3, PatientPoint, Vec3};
use medlsamd::localise::bank::{Bank, Template};
use medlsamd::localise::canonical::{Observation, Seen};
use medlsamd::localise::fine::Features;
use medlsamd::localise::verdict::Thresholds;
use medlsamd::localise::{Face, Finding, Located, find};
use medlsamd::progress::Silent;
use medlsamd::structure::{self, Structure};
use medlsamd::teach::{Placed, PlacedSection, PlacedStructure, template};
use ndarray::Array4;
use std::collections::BTreeMap;

/// A patient: anatomy = (patient position − shift) / stretch, and the field of view in z.
#[derive(Clone, Copy)]
struct Patient {
    shift: Vec3,
    stretch: f64,
    z_mm: [f64; 2],
    /// How far the network's body coordinate is off the anatomy.
    bias: Vec3,
    /// The spine's bend: how far the anatomy at z = ±200 mm is shifted to the left.
    bend_mm: f64,
}

const X_MM: [f64; 2] = [-150.0, 150.0];
const Y_MM: [f64; 2] = [-110.0, 110.0];
/// The liver of the anatomy.
const LIVER: [[f64; 2]; 3] = [[-110.0, 20.0], [-60.0, 70.0], [-80.0, 70.0]];

const USUAL: Patient = Patient {
    shift: [0.0; 3],
    stretch: 1.0,
    z_mm: [-200.0, 200.0],
    bias: [0.0; 3],
    bend_mm: 0.0,
};

fn liver() -> &'static Structure {
    structure::by_name("liver").unwrap()
}

impl Patient {
    fn anatomy(&self, at: Vec3) -> Vec3 {
        let [x, y, z] = [0, 1, 2].map(|a| (at[a] - self.shift[a]) / self.stretch);
        [x - self.bend_mm * (z / 200.0).powi(2), y, z]
    }

    fn place(&self, [x, y, z]: Vec3) -> Vec3 {
        let bent = [x + self.bend_mm * (z / 200.0).powi(2), y, z];
        [0, 1, 2].map(|a| bent[a] * self.stretch + self.shift[a])
    }

    fn ranges(&self) -> [[f64; 2]; 3] {
        [X_MM, Y_MM, self.z_mm]
    }

    fn lattice(&self, step: f64) -> (Vec3, [usize; 3]) {
        let r = self.ranges();
        (
            r.map(|r| r[0] + step / 2.0),
            r.map(|r| ((r[1] - r[0]) / step).floor() as usize),
        )
    }

    fn features(&self, step: f64, edge: usize, wave_mm: f64) -> Features {
        let (origin, [nx, ny, nz]) = self.lattice(step);
        let mut map = Array4::zeros((nz, ny, nx, 16));
        for ((z, y, x, c), value) in map.indexed_iter_mut() {
            let at = [x, y, z];
            let anatomy = self.anatomy([0, 1, 2].map(|a| origin[a] + step * at[a] as f64));
            // waves of fixed, incommensurable directions; sine and cosine pairs make every vector the same length
            let n = (c / 2) as f64;
            let k = [
                (1.3 * n).sin() + 0.4,
                (2.1 * n + 1.0).sin(),
                (1.7 * n + 2.0).cos() + 0.3,
            ];
            let phase =
                (0..3).map(|a| k[a] * anatomy[a]).sum::<f64>() * std::f64::consts::TAU / (wave_mm * (1.0 + 0.2 * n));
            *value = (if c % 2 == 0 { phase.sin() } else { phase.cos() } / 8f64.sqrt()) as f32;
        }
        Features::new(map, origin, step, edge)
    }

    fn observe(&self) -> Observation {
        let (origin, [nx, ny, nz]) = self.lattice(12.0);
        let mut seen = Vec::new();
        for n in 0..nx * ny * nz {
            let index = [n % nx, n / nx % ny, n / nx / ny];
            let at = [0, 1, 2].map(|a| origin[a] + 12.0 * index[a] as f64);
            let anatomy = self.anatomy(at);
            seen.push(Seen {
                at,
                body: [0, 1, 2].map(|a| anatomy[a] + self.bias[a]),
            });
        }
        let [x, y, z] = self.ranges();
        Observation {
            bounds: Box3 {
                min: PatientPoint::new(x[0], y[0], z[0]),
                max: PatientPoint::new(x[1], y[1], z[1]),
            },
            seen,
            range_mm: None,
            coarse: self.features(12.0, 2, 110.0),
            fine: self.features(6.0, 4, 60.0),
        }
    }

    /// The six points, each in the middle of its face, and two parts: the lower one is half as wide.
    fn placed(&self) -> Placed {
        let middle = LIVER.map(|r| 0.5 * (r[0] + r[1]));
        let point = |face: Face| {
            let mut p = middle;
            p[face.axis()] = LIVER[face.axis()][usize::from(face.is_max())];
            self.place(p)
        };
        let extremes = Face::ALL.map(|f| (f, point(f)));
        let part = |z: [f64; 2], x_max: f64| {
            let z_middle = 0.5 * (z[0] + z[1]);
            let at = |x: f64, y: f64| self.place([x, y, z_middle]);
            PlacedSection {
                z_mm: z.map(|z| self.place([0.0, 0.0, z])[2]),
                x_min: at(LIVER[0][0], middle[1]),
                x_max: at(x_max, middle[1]),
                y_min: at(middle[0], LIVER[1][0]),
                y_max: at(middle[0], LIVER[1][1]),
            }
        };
        let sections = vec![part([-80.0, -5.0], -45.0), part([-5.0, 70.0], 20.0)];
        let placed = PlacedStructure {
            cut: vec![],
            extremes: BTreeMap::from(extremes),
            sections,
        };
        Placed {
            volume: "made".into(),
            source: String::new(),
            licence: "none".into(),
            made_by: "test".into(),
            structures: BTreeMap::from([("liver".to_owned(), placed)]),
            ..Placed::default()
        }
    }

    fn taught(&self) -> Template {
        template(&self.observe(), &self.placed()).unwrap()
    }
}

fn bank(patients: &[Patient]) -> Bank {
    let observation = patients[0].observe();
    let templates = patients
        .iter()
        .enumerate()
        .map(|(n, p)| (format!("t{n}"), p.taught()))
        .collect();
    Bank {
        model_sha256: "00".repeat(32),
        cube_lens: [observation.fine.cube_len(), observation.coarse.cube_len()],
        templates,
    }
}

fn found(bank: &Bank, patient: &Patient) -> Finding {
    let thresholds = Thresholds {
        templates: 1,
        ..Thresholds::default()
    };
    find(&patient.observe(), bank, &[liver()], &thresholds, &Silent)
        .unwrap()
        .remove(0)
}

fn located(bank: &Bank, patient: &Patient) -> Located {
    match found(bank, patient) {
        Finding::Located(located) => located,
        Finding::NotFound { reason, .. } => panic!("not found: {reason}"),
    }
}

/// The largest distance of a face from where it truly is.
fn worst_face_mm(located: &Located, patient: &Patient) -> f64 {
    let min = patient.place(LIVER.map(|r| r[0]));
    let max = patient.place(LIVER.map(|r| r[1]));
    let (low, high) = (located.bounds.min.to_array(), located.bounds.max.to_array());
    (0..3)
        .flat_map(|a| [(low[a] - min[a]).abs(), (high[a] - max[a]).abs()])
        .fold(0.0, f64::max)
}

#[test]
fn a_shift_between_patients_is_recovered_to_a_millimetre() {
    let bank = bank(&[USUAL]);
    for shift in [[0.0, 0.0, 0.0], [7.3, -11.9, 31.4], [-20.0, 5.5, -44.7]] {
        let query = Patient { shift, ..USUAL };
        let located = located(&bank, &query);
        assert!(worst_face_mm(&located, &query) < 1.0, "{shift:?}: {:?}", located.bounds);
        assert!(located.truncated.is_empty() && !located.low_confidence, "{located:?}");
    }
}

#[test]
fn features_overrule_a_body_coordinate_that_is_off() {
    let bank = bank(&[USUAL]);
    let query = Patient {
        shift: [4.0, 2.0, 10.0],
        bias: [6.0, -8.0, 17.0],
        ..USUAL
    };
    assert!(worst_face_mm(&located(&bank, &query), &query) < 1.5);
}

#[test]
fn several_templates_and_a_larger_patient() {
    let other = Patient {
        shift: [3.0, 0.0, -25.0],
        stretch: 0.95,
        ..USUAL
    };
    let third = Patient {
        shift: [-9.0, 6.0, 12.0],
        stretch: 1.04,
        ..USUAL
    };
    let bank = bank(&[USUAL, other, third]);
    let query = Patient {
        shift: [1.0, -2.0, 8.0],
        stretch: 1.08,
        ..USUAL
    };
    let located = located(&bank, &query);
    assert!(worst_face_mm(&located, &query) < 4.0, "{:?}", located.bounds);
}

#[test]
fn parts_follow_the_template_and_tile_the_box() {
    let query = Patient {
        shift: [5.0, 0.0, 20.0],
        ..USUAL
    };
    let located = located(&bank(&[USUAL]), &query);
    let parts = &located.sections;
    assert!(parts.len() > 10);
    assert_eq!(parts[0].z_mm[0], located.bounds.min.z);
    assert_eq!(parts[parts.len() - 1].z_mm[1], located.bounds.max.z);
    assert!(parts.windows(2).all(|w| (w[0].z_mm[1] - w[1].z_mm[0]).abs() < 1e-9));
    // narrow below, wide above, and no jump in between
    assert!((parts[0].x_mm[1] - (-45.0 + 5.0)).abs() < 2.0, "{:?}", parts[0]);
    assert!((parts[parts.len() - 1].x_mm[1] - 25.0).abs() < 2.0);
    assert!(parts.windows(2).all(|w| (w[1].x_mm[1] - w[0].x_mm[1]).abs() < 8.0));
}

#[test]
fn a_structure_the_volume_cuts_is_clipped_and_says_so() {
    let query = Patient {
        z_mm: [-30.0, 250.0],
        ..USUAL
    };
    let located = located(&bank(&[USUAL]), &query);
    assert_eq!(located.truncated, [Face::ZMin]);
    assert_eq!(located.bounds.min.z, -30.0);
    assert!((located.bounds.max.z - 70.0).abs() < 1.5);
    assert!(
        located.reasons.iter().any(|r| r.contains("field of view")),
        "{:?}",
        located.reasons
    );
}

#[test]
fn a_structure_outside_the_volume_is_not_invented() {
    let bank = bank(&[USUAL]);
    // head side of the liver only: it would end 84 mm below
    let above = Patient {
        z_mm: [154.0, 400.0],
        ..USUAL
    };
    let Finding::NotFound { reason, .. } = found(&bank, &above) else {
        panic!("invented")
    };
    assert!(
        reason.contains("below the lowest slice") && reason.contains("84 mm"),
        "{reason}"
    );
    let sliver = Patient {
        z_mm: [50.0, 400.0],
        ..USUAL
    };
    let Finding::NotFound { reason, .. } = found(&bank, &sliver) else {
        panic!("invented")
    };
    assert!(reason.contains("of it would be in the field of view"), "{reason}");
}

#[test]
fn a_region_that_looks_like_nothing_taught_is_not_found() {
    let bank = bank(&[USUAL]);
    let mut observation = USUAL.observe();
    // body coordinates of another world: nothing within 300 mm of the wanted ones
    for (n, s) in observation.seen.iter_mut().enumerate() {
        s.body[0] += if n % 2 == 0 { 300.0 } else { -300.0 };
    }
    let finding = find(&observation, &bank, &[liver()], &Thresholds::default(), &Silent)
        .unwrap()
        .remove(0);
    assert!(matches!(finding, Finding::NotFound { .. }), "{finding:?}");
}

#[test]
fn the_bank_survives_its_file_and_refuses_a_damaged_or_foreign_one() {
    let bank = bank(&[USUAL, Patient { stretch: 0.97, ..USUAL }]);
    let bytes = bank.to_bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bank.bin");
    std::fs::write(&path, &bytes).unwrap();
    let back = Bank::read(&path).unwrap();
    assert_eq!(back.to_bytes(), bytes);
    assert_eq!(back.structures(), [liver()]);
    let query = Patient {
        shift: [7.0, -3.0, 21.0],
        ..USUAL
    };
    let (fresh, stored) = (located(&bank, &query), located(&back, &query));
    assert!((fresh.bounds.min.z - stored.bounds.min.z).abs() < 0.3);
    for length in [0, 7, 11, 12, 40, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(
            Bank::read(&path).is_err(),
            "{length} of {} bytes were taken",
            bytes.len()
        );
    }
    let error = back.check_model(&"11".repeat(32)).unwrap_err().to_string();
    assert!(error.contains("000000000000") && error.contains("teach"), "{error}");
}

#[test]
fn the_same_input_gives_the_same_answer() {
    let bank = bank(&[USUAL, Patient { stretch: 1.05, ..USUAL }]);
    let query = Patient {
        shift: [1.0, 2.0, 3.0],
        bias: [5.0; 3],
        ..USUAL
    };
    let text = |f: Finding| format!("{f:?}");
    assert_eq!(text(found(&bank, &query)), text(found(&bank, &query)));
}

#[test]
fn a_cancelled_search_ends() {
    assert!(
        find(
            &USUAL.observe(),
            &bank(&[USUAL]),
            &[liver()],
            &Thresholds::default(),
            &Stop
        )
        .is_none()
    );
}

#[test]
fn a_template_the_field_of_view_cut_knows_that_it_was() {
    let cut = Patient {
        z_mm: [-20.0, 200.0],
        ..USUAL
    };
    let mut placed = cut.placed();
    let structure = placed.structures.get_mut("liver").unwrap();
    structure.extremes.remove(&Face::ZMin);
    structure.cut = vec![Face::ZMin];
    structure.sections.remove(0);
    let half = template(&cut.observe(), &placed).unwrap();
    let mut bank = bank(&[USUAL]);
    bank.templates.insert("half".into(), half);
    // the whole template alone says where the liver ends; the other helps with the rest
    let query = Patient {
        shift: [0.0, 0.0, 15.0],
        ..USUAL
    };
    assert!(worst_face_mm(&located(&bank, &query), &query) < 2.0);
}

#[test]
fn the_parts_of_a_long_structure_are_found_each_by_itself() {
    let aorta = structure::by_name("aorta").unwrap();
    let bent = Patient { bend_mm: 60.0, ..USUAL };
    let half = 15.0;
    let extremes = Face::ALL.map(|f| {
        let end = if f == Face::XMax || f.axis() == 2 { 120.0 } else { 0.0 };
        let z = if f.is_max() { end } else { -end };
        let mut p = bent.place([0.0, 55.0, z]);
        if f.axis() < 2 {
            p[f.axis()] += if f.is_max() { half } else { -half };
        }
        (f, p)
    });
    let part = |n: usize| {
        let z_mm = [0.0, 12.0].map(|z| z + 12.0 * n as f64 - 120.0);
        let [x, y, z] = bent.place([0.0, 55.0, z_mm[0] + 6.0]);
        PlacedSection {
            z_mm,
            x_min: [x - half, y, z],
            x_max: [x + half, y, z],
            y_min: [x, y - half, z],
            y_max: [x, y + half, z],
        }
    };
    let placed = PlacedStructure {
        cut: vec![],
        extremes: BTreeMap::from(extremes),
        sections: (0..20).map(part).collect(),
    };
    let placed = Placed {
        structures: BTreeMap::from([("aorta".to_owned(), placed)]),
        ..USUAL.placed()
    };
    let mut bank = bank(&[USUAL]);
    bank.templates = BTreeMap::from([("bent".to_owned(), template(&bent.observe(), &placed).unwrap())]);
    let findings = find(&USUAL.observe(), &bank, &[aorta], &Thresholds::default(), &Silent).unwrap();
    let located = findings[0].located().expect("in view");
    // laid straight between its faces, the template would keep a bend of 20 mm
    let middle = |s: &medlsamd::localise::Section| 0.5 * (s.x_mm[0] + s.x_mm[1]);
    let worst = located.sections.iter().map(|s| middle(s).abs()).fold(0.0, f64::max);
    assert!(located.sections.len() > 30 && worst < 5.0, "{worst:.1} mm");
}

#[test]
fn too_few_templates_are_never_sure() {
    let sure = |count: usize| {
        let bank = bank(&vec![USUAL; count]);
        let findings = find(&USUAL.observe(), &bank, &[liver()], &Thresholds::default(), &Silent).unwrap();
        let located = findings[0].located().expect("in view");
        let said = located.reasons.iter().any(|r| r.contains("templates it needs"));
        assert_eq!(located.low_confidence, said, "{:?}", located.reasons);
        !located.low_confidence
    };
    assert_eq!([1, 2, 3].map(sure), [false, false, true]);
}
