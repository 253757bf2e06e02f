//! Promise: what others draw is read voxel for voxel, in its place, or refused in words; and no bytes bring us down.

use crate::support::data;
use crate::support::peers::python;
use crate::support::phantom::{Phantom, STRAIGHT, cross};
use medlsamd::dicom::header::Instance;
use medlsamd::dicom::uid::Uid;
use medlsamd::labels::names::recognise;
use medlsamd::labels::take::{self, ByHand, Taken};
use medlsamd::labels::{self, Kind, Labels, LabelsError};
use medlsamd::nifti;
use medlsamd::series::{self, Requirements, Series};
use medlsamd::teach;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Segmentations of the test data, as pydicom 3.0 counts their pixels; the two that it cannot decode hold the pixels of the ones
/// that it can, as their Python-inflated or unpacked frames show.
///
/// `a = dcmread(f).pixel_array.astype(int)`; per segment of its frames `(a[n] > 0).sum()`, FRACTIONAL `(a[n] * 2 >= 255).sum()`,
/// LABELMAP `(a == number).sum()`.
type Segmented = (&'static str, Kind, &'static [(&'static str, u64)]);
const LIVER: &[(&str, u64)] = &[("Liver", 107_098)];
const SEGMENTATIONS: &[Segmented] = &[
    (
        "ImagingDataCommons-highdicom--seg_image_cr_binary",
        Kind::SegBinary,
        &[("first segment", 151)],
    ),
    (
        "ImagingDataCommons-highdicom--seg_image_ct_binary",
        Kind::SegBinary,
        &[("first segment", 638)],
    ),
    (
        "ImagingDataCommons-highdicom--seg_image_ct_binary_fractional",
        Kind::SegFractional,
        &[("first segment", 638)],
    ),
    (
        "ImagingDataCommons-highdicom--seg_image_ct_binary_overlap",
        Kind::SegBinary,
        &[("first segment", 64), ("second segment", 16)],
    ),
    (
        "ImagingDataCommons-highdicom--seg_image_ct_binary_single_frame",
        Kind::SegBinary,
        &[("first segment", 1832)],
    ),
    (
        "ImagingDataCommons-highdicom--seg_image_ct_true_fractional",
        Kind::SegFractional,
        &[("first segment", 638)],
    ),
    (
        "QIICR-dcmqi--24x38x3__seg__label.seg",
        Kind::SegBinary,
        &[("Liver", 315)],
    ),
    ("QIICR-dcmqi--liver", Kind::SegBinary, LIVER),
    (
        "QIICR-dcmqi--partial_overlaps",
        Kind::SegBinary,
        &[
            ("GREEN", 9602),
            ("ORANGE", 11_888),
            ("PURPLE", 10_743),
            ("LIGHT_BLUE", 6693),
            ("DARK_BLUE", 4713),
        ],
    ),
    (
        "QIICR-dcmqi--sparse-labelmap-noppv",
        Kind::SegLabelMap,
        &[("Liver", 630)],
    ),
    (
        "QIICR-dcmqi--sparse-labelmap-ppv5",
        Kind::SegLabelMap,
        &[("Liver", 630)],
    ),
    (
        "pydicom-pydicom--pydicom--liver_1frame",
        Kind::SegBinary,
        &[("Liver", 36_233)],
    ),
    ("pydicom-pydicom-data--liver_deflate", Kind::SegBinary, LIVER),
    ("pydicom-pydicom-data--liver_expb", Kind::SegBinary, LIVER),
    ("pydicom-pydicom-data--liver_j2k", Kind::SegBinary, LIVER),
    ("pydicom-pydicom-data--liver_nonbyte_aligned", Kind::SegBinary, LIVER),
    (
        "pydicom-pydicom-data--liver_nonbyte_aligned_deflate",
        Kind::SegBinary,
        LIVER,
    ),
    (
        "pydicom-pydicom-data--liver_nonbyte_aligned_j2k",
        Kind::SegBinary,
        LIVER,
    ),
    (
        "pydicom-pydicom-data--liver_nonbyte_aligned_rle",
        Kind::SegBinary,
        LIVER,
    ),
    ("pydicom-pydicom-data--liver_rle", Kind::SegBinary, LIVER),
];

/// Where a made CT lies: frame of reference, first voxel, spacing along columns, rows and slices, size.
struct Table {
    frame: &'static str,
    origin: [f64; 3],
    spacing_mm: [f64; 3],
    size: [usize; 3],
}

/// Structure sets of the test data on a made CT of 0.97 × 1.03 mm that begins beside their points; voxels as matplotlib 3
/// counts them: per slice `m ^= Path(polygon, closed=True).contains_points(centres)` over the contours. For each region
/// their count, and the sums of their columns and of their rows, which would show a shift.
struct Structured {
    file: &'static str,
    on: Table,
    regions: &'static [(&'static str, [usize; 3])],
}
const STRUCTURED: &[Structured] = &[
    Structured {
        file: "InnerEye-Gateway--Source__Microsoft.Gateway__TestReceived__RS.2.25.23914612239974522753075607889169820426",
        on: Table {
            frame: "1.2.840.113619.2.278.3.856328506.590.1480320893.92.9955.1",
            origin: [-205.987, -205.983, -45.0],
            spacing_mm: [0.97, 1.03, 2.5],
            size: [424, 400, 5],
        },
        regions: &[
            ("SpinalCord NOT FOR CLINICAL USE", [648, 137_292, 129_276]),
            ("Lung_R NOT FOR CLINICAL USE", [2193, 465_498, 437_973]),
            ("Lung_L NOT FOR CLINICAL USE", [3336, 681_999, 662_664]),
            ("Heart NOT FOR CLINICAL USE", [4608, 996_849, 921_120]),
            ("Esophagus NOT FOR CLINICAL USE", [6504, 1_374_819, 1_297_536]),
        ],
    },
    Structured {
        file: "pydicom-pydicom--pydicom--rtstruct",
        on: Table {
            frame: "1.2.826.0.1.3680043.8.498.2010020400001.2",
            origin: [-202.987, -152.983, -210.0],
            spacing_mm: [0.97, 1.03, 10.0],
            size: [420, 299, 5],
        },
        regions: &[
            ("patient", [360_912, 75_611_064, 53_595_432]),
            ("Isocenter 1", [0, 0, 0]),
            ("Isocenter 2", [0, 0, 0]),
        ],
    },
    Structured {
        file: "pymedphys-pymedphys--tests__data__dcmplan__TinyVMAT__TinyFS_StrctrSets",
        on: Table {
            frame: "2.25.152306916559399641777030636917378744309",
            origin: [-103.987, -103.983, -200.0],
            spacing_mm: [0.97, 1.03, 100.0],
            size: [215, 203, 5],
        },
        regions: &[
            ("patient", [121_095, 12_957_165, 12_230_595]),
            ("tumor", [11_227, 1_190_062, 1_111_473]),
        ],
    },
    Structured {
        file: "pymedphys-pymedphys--tests__dicom__data__struct__example_structures",
        on: Table {
            frame: "1.3.12.2.1107.5.1.4.115496.30000017121320463736700000363",
            origin: [-35.987, -279.983, -27.0],
            spacing_mm: [0.97, 1.03, 1.0],
            size: [73, 76, 72],
        },
        regions: &[
            ("ANT Box", [215_788, 7_736_933, 8_085_239]),
            ("Number4", [233, 3148, 3724]),
            ("Number2", [239, 14_351, 14_285]),
            ("Number1", [300, 10_950, 3419]),
            ("Number3", [309, 11_283, 19_650]),
        ],
    },
    Structured {
        file: "qurit-rt-utils--invalid_reference_rt",
        on: MIM,
        regions: MIM_REGIONS,
    },
    Structured {
        file: "qurit-rt-utils--non_existent_reference_rt",
        on: MIM,
        regions: MIM_REGIONS,
    },
    Structured {
        file: "qurit-rt-utils--rt",
        on: Table {
            frame: "1.2.826.0.1.3680043.8.498.41321784967516118556817630335498661397",
            origin: [-53.981, -53.983, 55.0],
            spacing_mm: [0.97, 1.03, 5.0],
            size: [32, 31, 3],
        },
        regions: &[("ROI-1", [351, 5553, 5202])],
    },
];
const MIM: Table = Table {
    frame: "1.2.840.113619.2.405.3.84541899.902.1605198123.912.6060.1",
    origin: [-64.987, -60.983, 55.0],
    spacing_mm: [0.97, 1.03, 5.0],
    size: [143, 117, 5],
};
const MIM_REGIONS: &[(&str, [usize; 3])] = &[
    ("ROI-1", [1290, 21_985, 34_021]),
    ("ROI-2", [1194, 28_848, 117_234]),
    ("ROI-3", [1160, 122_122, 21_773]),
    ("ROI-4", [2205, 255_701, 209_554]),
];

fn file(name: &str) -> Option<Vec<u8>> {
    Some(std::fs::read(data::folder()?.join("ref").join(format!("{name}.dcm"))).expect(name))
}

/// A CT without pixels, lying as asked.
fn ct(table: &Table) -> Series {
    static FIRST: OnceLock<Instance> = OnceLock::new();
    let first = FIRST.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut phantom = Phantom::supine();
        (phantom.slices, phantom.rows, phantom.columns) = (1, 8, 8);
        phantom.instances(dir.path()).remove(0)
    });
    let slice = |k: usize| {
        let [x, y, z] = table.origin;
        let mut slice = first.clone();
        slice.sop_instance_uid = Uid::parse(&format!("2.25.77.{}", k + 1)).unwrap();
        slice.frame_of_reference_uid = Some(Uid::parse(table.frame).unwrap());
        slice.image_position = Some([x, y, z + k as f64 * table.spacing_mm[2]]);
        slice.pixel_spacing_mm = Some([table.spacing_mm[1], table.spacing_mm[0]]);
        [slice.columns, slice.rows] = [table.size[0], table.size[1]];
        slice
    };
    assembled((0..table.size[2]).map(slice).collect())
}

fn assembled(instances: Vec<Instance>) -> Series {
    let any = Requirements {
        min_slices: 2,
        min_extent_mm: 0.0,
    };
    series::assemble(instances, &any).unwrap()
}

#[test]
fn every_segmentation_of_others_has_the_pixels_that_pydicom_finds() {
    for (name, kind, expected) in SEGMENTATIONS {
        let Some(bytes) = file(name) else { return };
        let read = labels::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let found: Vec<(&str, u64)> = read
            .regions
            .iter()
            .map(|r| (&r.name[..], r.pixel_count().unwrap()))
            .collect();
        assert_eq!((read.kind, &found[..]), (*kind, *expected), "{name}");
        assert!(read.regions.iter().all(|region| region.kind.is_some()), "{name}");
    }
}

#[test]
fn every_structure_set_of_others_has_the_voxels_that_matplotlib_finds() {
    for Structured {
        file: name,
        on,
        regions,
    } in STRUCTURED
    {
        let Some(bytes) = file(name) else { return };
        let read = labels::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.kind, Kind::RtStruct);
        let series = ct(on);
        let placer = read.on(&series).unwrap_or_else(|error| panic!("{name}: {error}"));
        let count = |region: &labels::Region| {
            let placed = placer.place(region).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(placed.exact, "{name}: {placed:?}");
            let add = |sums: [usize; 3], [i, j, _]: [usize; 3]| [sums[0] + 1, sums[1] + i, sums[2] + j];
            placed.block.map_or([0; 3], |block| block.indices().fold([0; 3], add))
        };
        let found: Vec<(&str, [usize; 3])> = read.regions.iter().map(|r| (&r.name[..], count(r))).collect();
        assert_eq!(found, *regions, "{name}");
    }
}

#[test]
fn a_segmentation_lies_on_the_slices_of_its_ct() {
    let mut liver = Table {
        frame: "1.2.392.200103.20080913.113635.3.2009.6.22.21.44.34.23882.1",
        origin: [-235.2, -226.8, -130.69],
        spacing_mm: [0.810547, 0.810547, 1.0],
        size: [512, 512, 6],
    };
    let Some(bytes) = file("QIICR-dcmqi--liver") else {
        return;
    };
    let read = labels::read(&bytes).unwrap();
    let place = |table: &Table| {
        let series = ct(table);
        read.on(&series).and_then(|placer| placer.place(&read.regions[0]))
    };
    let placed = place(&liver).unwrap();
    let block = placed.block.unwrap();
    assert!(placed.exact && placed.gaps == 0);
    // The file's frames run from −128.69 up: 36 233, 35 645 and 35 220 pixels (pydicom).
    let per_slice: Vec<usize> = block
        .voxels
        .outer_iter()
        .map(|s| s.iter().filter(|v| **v).count())
        .collect();
    assert_eq!((block.offset[2], per_slice), (2, vec![36_233, 35_645, 35_220]));
    // `k, j, i = np.nonzero(pixel_array)`: a shift or turn of the pixels would show in the sums of i and j.
    let sums = block
        .indices()
        .fold([0, 0], |sums, [i, j, _]| [sums[0] + i, sums[1] + j]);
    assert_eq!(sums, [21_291_902, 25_572_272]);
    // A CT of thicker slices takes the nearest frame, and only within the segmentation's own reach.
    (liver.origin[2], liver.spacing_mm[2]) = (-132.69, 5.0);
    let placed = place(&liver).unwrap();
    assert_eq!(placed.block.as_ref().unwrap().voxel_count(), 35_645);
    assert!(!placed.exact && placed.notes.len() == 1, "{:?}", placed.notes);
    liver.frame = "1.2.3";
    assert!(matches!(place(&liver), Err(LabelsError::OtherFrame { .. })));
    // The CR has no place at all.
    let cr = labels::read(&file(SEGMENTATIONS[0].0).unwrap()).unwrap();
    assert!(matches!(cr.on(&ct(&liver)), Err(LabelsError::NoPlace(_))));
}

/// Labels of another's making for a phantom in `dir`, with the flat voxel indices that numpy computed.
pub type Expected = BTreeMap<String, BTreeMap<String, Vec<usize>>>;
fn made_by_others(python: &Path, ct: &Path, out: &Path) -> Expected {
    made(python, ct, out, &[])
}

pub fn made(python: &Path, ct: &Path, out: &Path, more: &[&Path]) -> Expected {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/labels.py");
    let output = Command::new(python)
        .arg(script)
        .arg("--ct")
        .arg(ct)
        .arg("--out")
        .arg(out)
        .args(more)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn regions_are_taken_by_code_or_name_and_the_rest_is_listed() {
    let take = |which: usize, rules: &[&str]| {
        let Structured { file: name, on, .. } = &STRUCTURED[which];
        let read = labels::read(&file(name)?).unwrap();
        let rules: Vec<String> = rules.iter().map(|rule| rule.to_string()).collect();
        Some(take::take(&[read], &ct(on), &ByHand::parse(&rules).unwrap()))
    };
    let names = |taken: &Taken| taken.masks.iter().map(|mask| mask.structure.name).collect::<Vec<_>>();
    let Some(taken) = take(0, &[]) else { return };
    let taken = taken.unwrap();
    let five = ["lung_left", "lung_right", "heart", "esophagus", "spinal_cord"];
    assert_eq!(names(&taken), five);
    // 3336 voxels of 0.97 × 1.03 × 2.5 mm (STRUCTURED).
    let lung = taken
        .facts
        .iter()
        .find(|fact| fact.structure == Some("lung_left"))
        .unwrap();
    assert!((lung.volume_ml.unwrap() - 3336.0 * 0.97 * 1.03 * 2.5 / 1000.0).abs() < 1e-6);
    // Nothing that MIM calls ROI-1 to ROI-4 is ours, and nothing is dropped in silence.
    let taken = take(4, &[]).unwrap().unwrap();
    assert!(taken.masks.is_empty() && taken.facts.len() == 4);
    assert!(
        taken
            .facts
            .iter()
            .all(|fact| fact.structure.is_none() && fact.remarks.len() == 1)
    );
    let taken = take(4, &["ROI-1=liver", "#3=kidney_left", "ROI-2=none"])
        .unwrap()
        .unwrap();
    assert_eq!(names(&taken), ["liver", "kidney_left"]);
    let refused = |rules: &[&str]| take(4, rules).unwrap().unwrap_err().to_string();
    assert!(refused(&["ROI-9=liver"]).contains("no region is called \"ROI-9\""));
    let both = refused(&["ROI-1=liver", "ROI-2=liver"]);
    assert!(both.contains("are both liver") && both.contains("#2=none"), "{both}");
    assert!(ByHand::parse(&["liver".into()]).is_err() && ByHand::parse(&["a=soul".into()]).is_err());
    // dcmqi's liver is so by its SRT code, and has no side to name.
    let liver = labels::read(&file("QIICR-dcmqi--liver").unwrap()).unwrap();
    assert_eq!(recognise(&liver.regions[0]).unwrap().structure.name, "liver");
}

#[test]
fn a_case_is_taught_the_same_by_segmentation_as_by_nifti() {
    let (Some(folder), Some(python)) = (data::folder(), python()) else {
        return;
    };
    let Some(dir) = data::series("lidc_0001") else { return };
    let truth = folder.join("labelled/lidc_0001/seg.nii.gz");
    let out = tempfile::tempdir().unwrap();
    let names = truth.with_file_name("labels.json");
    let counts = made(&python, dir.path(), out.path(), &[Path::new("--truth"), &truth, &names]);
    let files = data::files(dir.path());
    let series = assembled(files.iter().map(|path| Instance::read(path).unwrap()).collect());
    let read = labels::read(&std::fs::read(out.path().join("truth.dcm")).unwrap()).unwrap();
    for region in &read.regions {
        let count = counts["truth"][&region.number.to_string()][0] as u64;
        assert_eq!(region.pixel_count(), Some(count), "{}", region.name);
    }
    let taken = take::take(&[read], &series, &ByHand::default()).unwrap();
    let by_seg = teach::points_of_masks(&series.grid, &taken.masks);
    let (grid, values) = nifti::read_labels(&truth).unwrap();
    let by_nifti = teach::points_of_labels(&grid, &values, &teach::label_names(&truth).unwrap());
    assert!(by_seg.len() > 20, "{}", by_seg.len());
    assert_eq!(by_seg.keys().collect::<Vec<_>>(), by_nifti.keys().collect::<Vec<_>>());
    for (name, ours) in &by_seg {
        let theirs = &by_nifti[name];
        assert_eq!(ours.cut, theirs.cut, "{name}");
        for (face, at) in &ours.extremes {
            let off = (at[face.axis()] - theirs.extremes[face][face.axis()]).abs();
            assert!(off < 1e-3, "{name} {face:?} {off} mm");
        }
    }
}

fn phantoms() -> Vec<Phantom> {
    let small = |mut phantom: Phantom| {
        (phantom.slices, phantom.rows, phantom.columns) = (14, 41, 37);
        phantom
    };
    let some = STRAIGHT.iter().step_by(3);
    let mut all: Vec<Phantom> = some.map(|(_, row, column)| Phantom::lying(*row, *column)).collect();
    let mut tilted = Phantom::supine();
    let (sin, cos) = 20f64.to_radians().sin_cos();
    tilted.column = [0.0, cos, -sin];
    all.push(tilted);
    let mut oblique = Phantom::supine();
    oblique.row = [cos, sin, 0.0];
    oblique.column = [-sin, cos, 0.0];
    oblique.step = cross(oblique.row, oblique.column).map(|c| 4.0 * c);
    all.push(oblique);
    all.into_iter().map(small).collect()
}

#[test]
fn labels_that_highdicom_and_pydicom_make_are_read_voxel_for_voxel() {
    let Some(python) = python() else { return };
    for phantom in phantoms() {
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let series = assembled(phantom.instances(dir.path()));
        let (_, rows, columns) = series.grid.shape();
        for (name, regions) in made_by_others(&python, dir.path(), out.path()) {
            let bytes = std::fs::read(out.path().join(format!("{name}.dcm"))).unwrap();
            let read = labels::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            let placer = read.on(&series).unwrap();
            if name == "contradiction" {
                let error = placer.place(&read.regions[0]).unwrap_err();
                assert!(
                    matches!(
                        error,
                        LabelsError::Contradiction {
                            index: 5,
                            nearest: 2,
                            ..
                        }
                    ),
                    "{error}"
                );
                continue;
            }
            assert_eq!(read.regions.len(), regions.len(), "{name}");
            for region in &read.regions {
                let placed = placer.place(region).unwrap_or_else(|error| panic!("{name}: {error}"));
                let index = |[i, j, k]: [usize; 3]| (k * rows + j) * columns + i;
                let found: Vec<usize> = placed.block.iter().flat_map(|b| b.indices()).map(index).collect();
                let expected = &regions[&region.number.to_string()];
                assert!(!expected.is_empty() || region.name == "Isocentre");
                assert_eq!(&found, expected, "{name} {} {:?}", region.name, phantom.row);
                let moved = name == "coarse" || (name.starts_with("squares") && region.number == 2);
                assert_eq!(placed.exact, !moved, "{name} {placed:?}");
            }
        }
    }
}

/// Small objects of every kind, with a CT that they may lie on.
fn small_objects() -> &'static Option<(Vec<Vec<u8>>, Series)> {
    static OBJECTS: OnceLock<Option<(Vec<Vec<u8>>, Series)>> = OnceLock::new();
    OBJECTS.get_or_init(|| {
        let names = [
            "ImagingDataCommons-highdicom--seg_image_ct_binary",
            "ImagingDataCommons-highdicom--seg_image_ct_true_fractional",
            "QIICR-dcmqi--sparse-labelmap-ppv5",
            "pydicom-pydicom-data--liver_rle",
            "pydicom-pydicom-data--liver_deflate",
            "pydicom-pydicom-data--liver_j2k",
            "qurit-rt-utils--rt",
        ];
        let objects: Option<Vec<_>> = names.iter().map(|name| file(name)).collect();
        Some((objects?, ct(&STRUCTURED[6].on)))
    })
}

fn try_all(read: Result<Labels, LabelsError>, series: &Series) {
    let Ok(read) = read else { return };
    let mut at_home = series.clone();
    if let Some(frame) = read.frames_of_reference.first() {
        at_home.frame_of_reference_uid = frame.clone();
    }
    if let Ok(placer) = read.on(&at_home) {
        for region in &read.regions {
            let _ = placer.place(region);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_labels_never_panic(
        which in any::<prop::sample::Index>(), end in any::<prop::sample::Index>(), cut in 0..4u8,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
    ) {
        if let Some((objects, series)) = small_objects() {
            let mut bytes = which.get(objects).clone();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cut == 0 {
                bytes.truncate(end.index(bytes.len()));
            }
            try_all(labels::read(&bytes), series);
        }
    }
}

/// One explicit element, or the beginning of one that claims more than there is.
fn element(tag: u32, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(((tag >> 16) as u16).to_le_bytes());
    out.extend((tag as u16).to_le_bytes());
    out.extend(vr);
    if matches!(vr, b"SQ" | b"OB" | b"OW") {
        out.extend([0, 0]);
        out.extend((value.len() as u32).to_le_bytes());
    } else {
        out.extend((value.len() as u16).to_le_bytes());
    }
    out.extend(value);
    out
}

#[test]
fn bombs_end_in_a_sentence() {
    let class = element(0x0008_0016, b"UI", b"1.2.840.10008.5.1.4.1.1.481.3\0");
    // Contours within contours within contours.
    let open = [
        0x06u8, 0x30, 0x39, 0, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF,
    ];
    let nested = [class.clone(), open.repeat(100_000)].concat();
    let error = labels::read(&nested).unwrap_err().to_string();
    assert!(error.contains("nest deeper than 32"), "{error}");
    // The largest matrix, and as many frames as a number holds.
    let frames = |count: &[u8], rows: u16| {
        [
            element(0x0008_0016, b"UI", b"1.2.840.10008.5.1.4.1.1.66.4"),
            element(0x0028_0008, b"IS", count),
            element(0x0028_0010, b"US", &rows.to_le_bytes()),
            element(0x0028_0011, b"US", &rows.to_le_bytes()),
            element(0x0028_0100, b"US", &[1, 0]),
            element(0x0062_0001, b"CS", b"BINARY"),
            element(0x7FE0_0010, b"OB", &[0; 8]),
        ]
        .concat()
    };
    for (count, rows) in [(&b"1 "[..], 65535), (b"2147483646", 512), (b"4000", 512), (b"-1", 16)] {
        let error = labels::read(&frames(count, rows)).unwrap_err().to_string();
        assert!(error.contains("frames") || error.contains("Frames"), "{error}");
    }
    // Half a gigabyte of nothing, deflated.
    let mut bomb = flate2_of_zeros(600 << 20);
    let mut file = vec![0u8; 128];
    file.extend(b"DICM");
    file.extend(element(0x0002_0010, b"UI", b"1.2.840.10008.1.2.1.99"));
    file.append(&mut bomb);
    let error = labels::read(&file).unwrap_err().to_string();
    assert!(error.contains("more than 256 MiB"), "{error}");
}

/// `length` zero bytes as a raw deflate stream (RFC 1951): one stored zero, then matches of 258 with fixed codes.
fn flate2_of_zeros(length: usize) -> Vec<u8> {
    // Not final, fixed codes; literal 0 is 00110000; then length code 285 (11000101) with distance code 0 (00000).
    let mut bits: Vec<u8> = vec![1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0];
    let matches = length / 258;
    let pattern = [1u8, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0];
    let mut out = Vec::with_capacity(matches * 13 / 8 + 16);
    let mut at = 0;
    let mut byte = 0u8;
    let mut push = |bit: u8, out: &mut Vec<u8>| {
        byte |= bit << at;
        at += 1;
        if at == 8 {
            out.push(byte);
            (byte, at) = (0, 0);
        }
    };
    bits.drain(..).for_each(|bit| push(bit, &mut out));
    for _ in 0..matches {
        pattern.iter().for_each(|bit| push(*bit, &mut out));
    }
    // End of block, and padding.
    (0..15).for_each(|_| push(0, &mut out));
    out
}

#[test]
fn what_is_no_label_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut phantom = Phantom::supine();
    (phantom.slices, phantom.rows, phantom.columns) = (1, 8, 8);
    let path: PathBuf = phantom.write(dir.path()).remove(0);
    let error = labels::read(&std::fs::read(path).unwrap()).unwrap_err();
    assert!(
        matches!(&error, LabelsError::Kind(class) if class.ends_with(".1.2")),
        "{error}"
    );
    assert!(matches!(
        labels::read(b"hello, I am a text"),
        Err(LabelsError::Malformed(_))
    ));
    assert!(matches!(labels::read(&[]), Err(LabelsError::Malformed(_))));
}
