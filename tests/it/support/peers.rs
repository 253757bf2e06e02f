//! Foreign tools that tests need. In CI they are always there: a test never passes by being skipped.

use crate::support::daemon::free_port;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "the tool {tool} is missing, and in CI it must not be (make peers)"
        );
        eprintln!("\n*** SKIPPED: the tool {tool} is missing (make peers) ***\n");
    }
    found
}

/// The Python that has the judges' packages.
pub fn python() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let named = std::env::var_os("MEDLSAMD_PYTHON").map_or(ours, PathBuf::from);
    if !named.is_file() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{} is missing, and in CI it must not be",
            named.display()
        );
        eprintln!("\n*** SKIPPED: no Python with tests/peers/requirements.txt (MEDLSAMD_PYTHON) ***\n");
        return None;
    }
    Some(named)
}

/// dcmtk's storescp, ended when dropped.
pub struct Receiver {
    child: Child,
    folder: tempfile::TempDir,
    pub port: u16,
}

impl Receiver {
    /// Objects are kept bit by bit. `None`, loudly, where it is not installed.
    pub fn start(options: &[&str]) -> Option<Self> {
        let tool = peer("storescp")?;
        // A port that was free may be another test's by now; then storescp ends at once.
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let port = free_port();
            let mut command = Command::new(&tool);
            command
                .args(options)
                .args(["+B", "-od"])
                .arg(folder.path())
                .arg(port.to_string());
            command
                .env("TCP_NODELAY", "1")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let child = command.spawn().unwrap();
            let mut receiver = Self { child, folder, port };
            for _ in 0..600 {
                if receiver.child.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(receiver);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("storescp does not listen");
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
