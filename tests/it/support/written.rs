//! Phantoms in every pose, what we write of them, and the judges of it.

use dicom::core::{DataElement, PrimitiveValue, VR};
use dicom::dictionary_std::{tags, uids};
use dicom::object::{FileMetaTableBuilder, InMemDicomObject};
use medlsamd::dicom::header::Instance;
use medlsamd::geometry::norm;
use medlsamd::labels;
use medlsamd::mask::Mask;
use medlsamd::results::picture::Sheet;
use medlsamd::results::style::Style;
use medlsamd::results::{self, Identity, Measure, ModelUsed, ResultObject, Source, dump};
use medlsamd::series::{self, Requirements, Series};
use medlsamd::structure;
use ndarray::{Array3, s};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// How a phantom lies: Image Orientation, the first position and the step between slices, millimetres.
pub struct Pose {
    pub name: &'static str,
    pub orientation: [f64; 6],
    pub origin: [f64; 3],
    pub step: [f64; 3],
    /// Every second slice lies this much further on: within what a series may be uneven.
    pub jitter_mm: f64,
}

/// Head first and feet first, supine, prone and on the side, oblique, a column that runs the other way, slices that are not quite
/// even, gantry tilted by 15°.
pub const POSES: &[Pose] = &[
    Pose {
        name: "hfs",
        orientation: [1., 0., 0., 0., 1., 0.],
        origin: [-30., -20., 100.],
        step: [0., 0., 2.5],
        jitter_mm: 0.0,
    },
    Pose {
        name: "ffs",
        orientation: [1., 0., 0., 0., 1., 0.],
        origin: [-30.0625, -20., -7.5],
        step: [0., 0., -2.5],
        jitter_mm: 0.0,
    },
    Pose {
        name: "hfp",
        orientation: [-1., 0., 0., 0., -1., 0.],
        origin: [30., 20., 0.25],
        step: [0., 0., 2.5],
        jitter_mm: 0.0,
    },
    Pose {
        name: "decubitus",
        orientation: [0., 1., 0., -1., 0., 0.],
        origin: [12., -33., 5.],
        step: [0., 0., 2.5],
        jitter_mm: 0.0,
    },
    Pose {
        name: "oblique",
        orientation: [
            0.9848077530,
            0.1736481777,
            0.0,
            -0.1710100717,
            0.9698463104,
            0.1736481777,
        ],
        origin: [-31.4159, 27.1828, 141.4213],
        step: [0.0753842, -0.4275250, 2.4620194],
        jitter_mm: 0.0,
    },
    Pose {
        name: "ffp",
        orientation: [-1., 0., 0., 0., -1., 0.],
        origin: [30.5, 20., 0.25],
        step: [0., 0., -2.5],
        jitter_mm: 0.0,
    },
    Pose {
        name: "negated column",
        orientation: [1., 0., 0., 0., -1., 0.],
        origin: [-30., 16., 40.],
        step: [0., 0., 2.5],
        jitter_mm: 0.0,
    },
    Pose {
        name: "uneven spacing",
        orientation: [1., 0., 0., 0., 1., 0.],
        origin: [-30., -20., 100.],
        step: [0., 0., 2.5],
        jitter_mm: 0.04,
    },
    Pose {
        name: "tilted",
        orientation: [1., 0., 0., 0., 0.9659258263, -0.2588190451],
        origin: [-30., -20., 0.],
        step: [0., 0., 2.5],
        jitter_mm: 0.0,
    },
];

pub const COLUMNS: usize = 37;
pub const ROWS: usize = 29;
pub const SLICES: usize = 9;

fn decimals(values: &[f64]) -> PrimitiveValue {
    PrimitiveValue::Strs(
        values
            .iter()
            .map(|v| format!("{v}").chars().take(16).collect())
            .collect(),
    )
}

/// Writes a small CT series; the size is no multiple of eight, so that SEG frames begin in the middle of bytes.
pub fn phantom(folder: &Path, pose: &Pose) -> Series {
    stack(folder, pose, [COLUMNS, ROWS, SLICES])
}

pub fn stack(folder: &Path, pose: &Pose, [columns, rows, slices]: [usize; 3]) -> Series {
    let text = |tag, vr, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    for k in 0..slices {
        let steps = k as f64 + (k % 2) as f64 * pose.jitter_mm / norm(pose.step);
        let at: Vec<f64> = (0..3).map(|axis| pose.origin[axis] + steps * pose.step[axis]).collect();
        let instance_uid = format!("1.2.826.0.1.3680043.10.1.{}.{}", pose.name.len(), k + 1);
        let object = InMemDicomObject::from_element_iter([
            text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
            text(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\AXIAL"),
            text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
            text(tags::SOP_INSTANCE_UID, VR::UI, &instance_uid),
            text(tags::STUDY_DATE, VR::DA, "20260102"),
            text(tags::STUDY_TIME, VR::TM, "030405"),
            text(tags::MODALITY, VR::CS, "CT"),
            text(tags::MANUFACTURER, VR::LO, "Phantom works"),
            text(tags::PATIENT_NAME, VR::PN, "Müller^Łucja=山田^太郎"),
            text(tags::PATIENT_ID, VR::LO, "P1"),
            text(tags::STUDY_INSTANCE_UID, VR::UI, "1.2.826.0.1.3680043.10.1"),
            text(tags::SERIES_INSTANCE_UID, VR::UI, "1.2.826.0.1.3680043.10.2"),
            text(tags::FRAME_OF_REFERENCE_UID, VR::UI, "1.2.826.0.1.3680043.10.3"),
            text(tags::SERIES_NUMBER, VR::IS, "4"),
            text(tags::INSTANCE_NUMBER, VR::IS, &(k + 1).to_string()),
            DataElement::new(tags::IMAGE_POSITION_PATIENT, VR::DS, decimals(&at)),
            DataElement::new(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, decimals(&pose.orientation)),
            DataElement::new(tags::PIXEL_SPACING, VR::DS, decimals(&[0.75, 1.25])),
            text(tags::SLICE_THICKNESS, VR::DS, "2.50"),
            DataElement::new(tags::SAMPLES_PER_PIXEL, VR::US, PrimitiveValue::from(1u16)),
            text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
            DataElement::new(tags::ROWS, VR::US, PrimitiveValue::from(rows as u16)),
            DataElement::new(tags::COLUMNS, VR::US, PrimitiveValue::from(columns as u16)),
            DataElement::new(tags::BITS_ALLOCATED, VR::US, PrimitiveValue::from(16u16)),
            DataElement::new(tags::BITS_STORED, VR::US, PrimitiveValue::from(16u16)),
            DataElement::new(tags::HIGH_BIT, VR::US, PrimitiveValue::from(15u16)),
            DataElement::new(tags::PIXEL_REPRESENTATION, VR::US, PrimitiveValue::from(1u16)),
            text(tags::RESCALE_INTERCEPT, VR::DS, "0"),
            text(tags::RESCALE_SLOPE, VR::DS, "1"),
            DataElement::new(
                tags::PIXEL_DATA,
                VR::OW,
                PrimitiveValue::U16(vec![0; (rows * columns).min(2048)].into()),
            ),
        ]);
        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        object
            .with_meta(meta)
            .expect("complete meta")
            .write_to_file(folder.join(format!("{k}.dcm")))
            .expect("written");
    }
    series_of(folder)
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

pub fn series_of(folder: &Path) -> Series {
    let instances = files(folder)
        .iter()
        .flat_map(|file| Instance::images(file).expect("a CT image"))
        .collect();
    series::assemble(
        instances,
        &Requirements {
            min_slices: 3,
            min_extent_mm: 0.0,
        },
    )
    .expect("a series")
}

/// Crops a full grid `[k, j, i]` to its true voxels.
pub fn mask(name: &str, full: &Array3<bool>) -> Mask {
    let structure = structure::by_name(name).expect("a structure");
    let bound = |axis: usize| {
        let used = |n: &usize| full.index_axis(ndarray::Axis(axis), *n).iter().any(|v| *v);
        let all = || 0..full.len_of(ndarray::Axis(axis));
        (
            all().find(used).expect("no empty mask"),
            all().rfind(used).expect("no empty mask") + 1,
        )
    };
    let [(k0, k1), (j0, j1), (i0, i1)] = [bound(0), bound(1), bound(2)];
    Mask {
        structure,
        offset: [i0, j0, k0],
        voxels: full.slice(s![k0..k1, j0..j1, i0..i1]).to_owned(),
    }
}

/// Shapes that go wrong elsewhere: ring, two islands, one voxel, corners that touch, a comb, the whole frame.
pub fn shapes(series: &Series) -> Vec<Mask> {
    let shape = series.grid.shape();
    let (ks, rows, columns) = (shape.0 as f64, shape.1 as f64, shape.2 as f64);
    let radius = |k: usize, j: usize, i: usize, at: f64| {
        let (x, y) = (
            (i as f64 - at * columns) / (0.2 * columns),
            (j as f64 - 0.5 * rows) / (0.3 * rows),
        );
        // Few slices: dciodvfy takes time that grows with the square of the frames.
        let z = (k as f64 - 0.5 * ks) / (0.45 * ks).min(8.0);
        (x * x + y * y + z * z).sqrt()
    };
    let full = |f: &dyn Fn(usize, usize, usize) -> bool| Array3::from_shape_fn(shape, |(k, j, i)| f(k, j, i));
    vec![
        mask("heart", &full(&|k, j, i| (0.5..1.0).contains(&radius(k, j, i, 0.4)))),
        mask(
            "lung_left",
            &full(&|k, j, i| radius(k, j, i, 0.25) < 0.6 || radius(k, j, i, 0.75) < 0.6),
        ),
        mask("gallbladder", &full(&|k, j, i| (k, j, i) == (shape.0 / 2, 3, 5))),
        mask(
            "pancreas",
            &full(&|k, j, i| k == 2 && (5..15).contains(&j) && (5..15).contains(&i) && (i + j) % 2 == 0),
        ),
        mask(
            "aorta",
            &full(&|k, j, i| k < 3 && (2..22).contains(&j) && (2..30).contains(&i) && (j == 2 || i % 3 == 0)),
        ),
        mask("kidney_right", &full(&|k, _, _| k + 1 == shape.0)),
    ]
}

pub fn identity(seed: &str) -> Identity {
    Identity {
        uid_seed: seed.into(),
        content_date: "20261121".into(),
        content_time: "093000".into(),
        revision: 1,
        supersedes: None,
    }
}

pub fn models() -> Vec<ModelUsed> {
    let model = |name: &str| ModelUsed {
        name: name.into(),
        version: "1.0".into(),
        sha256: "ab".repeat(32),
    };
    vec![model("MedLAM"), model("LiteMedSAM")]
}

pub fn write_all(series: &Series, masks: &[Mask], seed: &str) -> Vec<ResultObject> {
    with_source(series, masks, seed, (results::GENERIC, &Style::default()), |source| {
        let write = |kind: &results::Kind| (kind.write)(source).expect("an object");
        // The shapes overlap, which a label map cannot hold: `labelmaps` writes those, `reports` the reports beside them.
        let kinds = results::KINDS.iter().filter(|kind| kind.form_of.is_none());
        kinds.map(write).collect()
    })
}

/// What a writer needs, in the generic style, with made-up measures.
pub fn with_source<T>(
    series: &Series,
    masks: &[Mask],
    seed: &str,
    profile: (&str, &Style),
    write: impl FnOnce(&Source<'_>) -> T,
) -> T {
    let measures: Vec<Measure> = (1..=masks.len())
        .map(|n| Measure {
            volume_ml: 12.5 * n as f64,
            mean_hu: 40.0 - n as f64,
            remarks: vec!["two pieces – the smaller of 3 ml".into(); n % 2],
        })
        .collect();
    let sheet = Sheet {
        width: 4,
        height: 2,
        pixels: (0..24).collect(),
    };
    write(&Source {
        series,
        masks,
        measures: &measures,
        sheet: &sheet,
        identity: &identity(seed),
        models: &models(),
        profile: profile.0,
        style: profile.1,
        kinds: &results::KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>(),
    })
}

/// Our own reader, which shares no code with the writers, finds every voxel.
fn read_back(series: &Series, masks: &[Mask], object: &ResultObject) {
    let read = labels::read(&object.part10).expect(object.kind);
    let placer = read.on(series).expect(object.kind);
    assert_eq!(read.regions.len(), masks.len());
    for (region, mask) in read.regions.iter().zip(masks) {
        let placed = placer.place(region).expect(object.kind);
        let block = placed.block.expect("voxels");
        assert!(placed.exact, "{} {}", object.kind, mask.structure.name);
        assert_eq!(block.offset, mask.offset, "{} {}", object.kind, mask.structure.name);
        assert!(block.voxels == mask.voxels, "{} {}", object.kind, mask.structure.name);
        let code = |code: &Option<labels::Coded>| code.as_ref().map(|code| code.value.clone());
        assert_eq!(code(&region.kind).as_deref(), Some(mask.structure.kind.value));
        assert_eq!(
            code(&region.laterality).as_deref(),
            mask.structure.laterality.map(|side| side.value)
        );
    }
}

/// A series, its objects and its masks as files.
pub struct Case {
    pub folder: tempfile::TempDir,
    pub ct: PathBuf,
    pub objects: Vec<(PathBuf, ResultObject)>,
}

impl Case {
    pub fn of(series: &Series, ct: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let masks = shapes(series);
        let objects = write_all(series, &masks, "seed").into_iter().map(|object| {
            if results::kind(object.kind).expect("a kind").proven != results::Proven::Nothing {
                read_back(series, &masks, &object);
            }
            let path = folder.path().join(object.kind).with_extension("dcm");
            std::fs::write(&path, &object.part10).expect("written");
            (path, object)
        });
        let objects = objects.collect();
        std::fs::write(folder.path().join("masks"), dump::dump(series, &masks)).expect("written");
        Self {
            ct: ct.into(),
            objects,
            folder,
        }
    }

    pub fn path(&self, kind: &str) -> &Path {
        &self
            .objects
            .iter()
            .find(|(_, object)| object.kind == kind)
            .expect("that kind")
            .0
    }

    /// Every voxel as a reader of foreign make finds it.
    pub fn judge(&self, python: &Path) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/judge.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .arg("--ct")
            .arg(&self.ct)
            .arg("--seg")
            .arg(self.path("seg"));
        command
            .arg("--rtstruct")
            .arg(self.path("rtstruct"))
            .arg("--masks")
            .arg(self.folder.path().join("masks"));
        let output = run(&mut command);
        assert!(
            output.status.success(),
            "{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let structures = report["structures"].as_object().expect("structures");
        assert_eq!(structures.len(), 6);
        for (name, facts) in structures {
            assert_eq!(facts["seg_unequal_voxels"], 0, "{name}");
            assert_eq!(facts["rtstruct_dice"], 1.0, "{name}");
            assert!(
                (facts["area_ratio"].as_f64().expect("a ratio") - 1.0).abs() < 1e-4,
                "{name} {facts}"
            );
        }
    }

    /// dciodvfy finds no error; its warnings are shown, those that the source has too only counted.
    pub fn verify(&self, dciodvfy: &Path, name: &str) {
        let source = complaints(dciodvfy, &files(&self.ct)[0]);
        for (path, object) in &self.objects {
            let all = complaints(dciodvfy, path);
            let warnings = all.iter().filter(|line| line.starts_with("Warning"));
            let (old, new): (Vec<_>, Vec<_>) = warnings.partition(|line| source.contains(line));
            eprintln!(
                "{name} {}: {} bytes, no error, {} warnings of the source, new: {new:#?}",
                object.kind,
                object.part10.len(),
                old.len()
            );
            let errors: Vec<_> = all.iter().filter(|line| line.starts_with("Error")).collect();
            assert!(errors.is_empty(), "{name} {}: {errors:#?}", object.kind);
        }
    }
}

impl Case {
    /// dcentvfy finds patient, study and frame of reference to be the series' own, but for a half-filled Clinical Trial module.
    pub fn compare(&self, dcentvfy: &Path, name: &str, series: &Series) {
        let slices = series.slices.iter().take(2).map(|slice| slice.path.clone());
        let files: Vec<PathBuf> = slices
            .chain(self.objects.iter().map(|(path, _)| path.clone()))
            .collect();
        let said = text(&run(Command::new(dcentvfy).args(&files)).stderr);
        let folder = self.folder.path().display().to_string();
        let ours = |line: &&str| {
            // Its tables disagree over which entity the accession number of a Secondary Capture belongs to; values are compared apart.
            let tables = line.contains("Different information entities");
            line.contains(&folder) && !tables && !line.contains("ClinicalTrial")
        };
        assert!(said.lines().find(ours).is_none(), "{name}: {said}");
    }
}

pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn complaints(dciodvfy: &Path, file: &Path) -> Vec<String> {
    text(&run(Command::new(dciodvfy).arg(file)).stderr)
        .lines()
        .map(str::to_owned)
        .collect()
}
