//! Foreign tools and real data that tests need. In CI both are always there: a test never passes by being skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of a foreign tool such as `storescu`; `None`, with a loud word, where it is not installed.
///
/// # Panics
/// Where the environment has `CI`, since a peer test must not pass there by being skipped.
pub fn peer(tool: &str) -> Option<PathBuf> {
    // System directories first: an activated Python environment may hide the tool behind another of the same name.
    let system = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/homebrew/bin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = system
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(tool))
        .find(|p| p.is_file());
    present(found, &format!("the tool {tool} (make peers)"))
}

/// A folder with the files of a real CT series of the test data, e.g. `dicom/lidc_0001`. Unpacked once for each caller.
pub fn series(name: &str) -> Option<tempfile::TempDir> {
    let written = std::env::var_os("MEDLSAMD_TEST_DATA").map(PathBuf::from);
    let root = written.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let archive = present(
        Some(root.join(format!("{name}.zip"))).filter(|p| p.is_file()),
        &format!("the data {name}"),
    )?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unzip = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(archive)
        .arg(folder.path())
        .status();
    assert!(unzip.expect("python3").success(), "cannot unpack {name}");
    Some(folder)
}

fn present<T>(found: Option<T>, what: &str) -> Option<T> {
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{what} is missing, and in CI it must not be"
        );
        eprintln!("\n*** SKIPPED: {what} is missing ***\n");
    }
    found
}
