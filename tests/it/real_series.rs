//! Promise: what scanners really send becomes the volume that other readers see, or is refused for a stated reason.

use crate::support::data;
use medlsamd::dicom::header::Instance;
use medlsamd::progress::Silent;
use medlsamd::series::{Requirements, assemble};
use medlsamd::volume::{reconstruct, to_patient_axes};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

const ANY: Requirements = Requirements { min_slices: 2, min_extent_mm: 0.0 };

/// What becomes of the files of one folder: a line per series, and one for what is no instance.
fn outcomes(files: &[PathBuf]) -> Vec<String> {
    let mut series: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    let mut unread: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        match Instance::read(file) {
            Ok(instance) => series.entry(instance.series_instance_uid.to_string()).or_default().push(instance),
            Err(error) => *unread.entry(error.to_string()).or_default() += 1,
        }
    }
    let mut lines: Vec<String> = unread.iter().map(|(error, count)| format!("{count} files: {error}")).collect();
    for instances in series.into_values() {
        let count = instances.len();
        lines.push(match assemble(instances, &ANY) {
            Err(rejection) => format!("{count} instances: refused: {rejection}"),
            Ok(series) => match reconstruct(&series, &Silent) {
                Err(error) => format!("{count} instances: failed: {error}"),
                Ok(volume) => format!("{count} instances: {:?} {:?}", volume.grid.size, volume.grid.spacing_mm),
            },
        });
    }
    lines
}

#[test]
fn odd_cases_have_their_outcomes() {
    let Some(folder) = data::folder() else { return };
    let mut archives: Vec<_> = std::fs::read_dir(folder.join("odd")).unwrap().map(|e| e.unwrap().path()).collect();
    archives.sort();
    for archive in archives {
        let dir = tempfile::tempdir().unwrap();
        eprintln!("{}", archive.file_stem().unwrap().to_string_lossy());
        for line in outcomes(&data::unpack(&archive, dir.path())) {
            eprintln!("    {line}");
        }
    }
}

#[test]
fn whole_series_equal_what_other_readers_see() {
    let Some(folder) = data::folder() else { return };
    for name in ["lidc_0001", "crlm_1006", "acrin_breast_013", "acrin_nsclc_042"] {
        let dir = tempfile::tempdir().unwrap();
        let files = data::unpack(&folder.join("dicom").join(format!("{name}.zip")), dir.path());
        let t = Instant::now();
        let instances: Vec<_> = files.iter().filter_map(|file| Instance::read(file).ok()).collect();
        let t1 = t.elapsed();
        let series = assemble(instances, &ANY).unwrap();
        let t2 = t.elapsed();
        let volume = reconstruct(&series, &Silent).unwrap();
        let t3 = t.elapsed();
        let (grid, hu) = to_patient_axes(&volume, 3.0);
        let t4 = t.elapsed();
        let sum: i64 = volume.hu.iter().map(|hu| i64::from(*hu)).sum();
        let weighted: i64 = volume.hu.iter().enumerate().map(|(n, hu)| (n as i64 % 9973 + 1) * i64::from(*hu)).sum();
        eprintln!("{name} {:?} sum {sum} weighted {weighted} {t1:?} {t2:?} {t3:?} {t4:?}", volume.grid);
        eprintln!("   set aside {} canonical {:?} mean {}", series.set_aside.len(), grid.size, hu.mean().unwrap());
        if let Some(out) = std::env::var_os("DUMP") {
            let bytes: Vec<u8> = volume.hu.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(PathBuf::from(&out).join(format!("{name}.i16")), bytes).unwrap();
            let bytes: Vec<u8> = hu.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(PathBuf::from(&out).join(format!("{name}.f32")), bytes).unwrap();
            std::fs::write(PathBuf::from(&out).join(format!("{name}.json")), serde_json::to_string(&(&volume.grid, &grid)).unwrap()).unwrap();
        }
    }
}
