//! Real images, which are not part of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of test data: `MEDLSAMD_TEST_DATA`, or `../shared/data` beside the checkout. Its absence is an error in CI.
pub fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("MEDLSAMD_TEST_DATA").map_or(beside, PathBuf::from);
    if folder.join("dicom").is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no test data at {}: set MEDLSAMD_TEST_DATA",
        folder.display()
    );
    eprintln!(
        "SKIPPED: no real CT data at {} (set MEDLSAMD_TEST_DATA)",
        folder.display()
    );
    None
}

/// A folder with the files of a real CT series of the test data, e.g. `lidc_0001`. Unpacked once for each caller.
pub fn series(name: &str) -> Option<tempfile::TempDir> {
    let archive = folder()?.join(format!("dicom/{name}.zip"));
    let unpacked = tempfile::tempdir().unwrap();
    unpack(&archive, unpacked.path());
    Some(unpacked)
}

/// Unpacks `archive` into `dir` and lists its files in order of their names.
pub fn unpack(archive: &Path, dir: &Path) -> Vec<PathBuf> {
    let status = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(archive)
        .arg(dir)
        .status();
    assert!(
        status.expect("python3 is a prerequisite").success(),
        "cannot unpack {}",
        archive.display()
    );
    files(dir)
}

/// Every file below a folder, in order of their names.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    files
}
