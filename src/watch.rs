//! Drop folders, for batches: files that appear and stop growing go through the same intake as objects from the network.
//!
//! A file is deleted once its copy is durable and its row committed. One that is refused is moved to `rejected/` in its folder,
//! with the reason in a text file next to it. One that can not be taken now (disk full) stays and is tried again.

use crate::intake::{AssociationId, Intake, IntakeError};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

/// Where refused files go, within their drop folder.
pub const REJECTED: &str = "rejected";

/// A file whose size and time have not changed for this long is complete. Copies within a file system or over SMB write in bursts
/// far shorter; a file that is cut off all the same is refused by the intake.
const SETTLED: Duration = Duration::from_secs(2);
/// Look again this soon while files are still growing.
const GROWING: Duration = Duration::from_millis(500);
/// Look this often without any event: network shares send none.
const POLL: Duration = Duration::from_secs(10);
/// A stop is heard within this time.
const STOP_WITHIN: Duration = Duration::from_millis(200);
/// Directories deeper than this are not looked into.
const MAX_DEPTH: usize = 12;
/// Files taken in one scan; the rest follow at once in the next.
const MAX_FILES: usize = 10_000;
/// Set in the association ids of drop folder scans, so that they never meet those of the network.
const SCAN_BIT: u64 = 1 << 63;

#[derive(Debug, thiserror::Error)]
#[error(
    "watch folder {path}: {source}: make it, and let the daemon's user read and write there, or take it out of [watch] folders"
)]
pub struct WatchError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// The drop folders. Looks through them again and again.
pub struct Folders {
    intake: Intake,
    folders: Vec<PathBuf>,
    seen: HashMap<PathBuf, Seen>,
    scans: u64,
    changed: Receiver<()>,
    /// Dropping it ends the notifications.
    _watcher: Option<RecommendedWatcher>,
}

/// Notifications where the system has them; the poll is the fall-back and says so.
fn watcher(folders: &[PathBuf], wake: Sender<()>) -> Option<RecommendedWatcher> {
    let on_event = move |_: notify::Result<notify::Event>| {
        // The receiver is gone when the watch is being dropped.
        let _ = wake.send(());
    };
    let started = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        folders
            .iter()
            .try_for_each(|folder| watcher.watch(folder, RecursiveMode::Recursive))?;
        Ok(watcher)
    });
    match started {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, poll_s = POLL.as_secs(), "no notifications for the drop folders, polling only");
            None
        }
    }
}

/// A file as it was last seen.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    length: u64,
    modified: Option<SystemTime>,
    since: Instant,
}

impl Folders {
    /// # Errors
    /// When a folder can not be read: the operator wrote it down, so it is not skipped.
    pub fn new(folders: &[PathBuf], intake: Intake) -> Result<Self, WatchError> {
        for path in folders {
            fs::read_dir(path).map_err(|source| WatchError {
                path: path.clone(),
                source,
            })?;
        }
        let (wake, changed) = mpsc::channel();
        let watcher = watcher(folders, wake);
        Ok(Self {
            intake,
            folders: folders.to_vec(),
            seen: HashMap::new(),
            scans: 0,
            changed,
            _watcher: watcher,
        })
    }

    /// Runs until `stop` says so. Files that lie in the folders already are taken too. Blocking; give it a thread of its own.
    pub fn run(mut self, stop: impl Fn() -> bool) {
        let mut next = Instant::now();
        while !stop() {
            let now = Instant::now();
            if now >= next {
                let soon = self.scan(now, &stop);
                next = now + if soon { GROWING } else { POLL };
            }
            match self.changed.recv_timeout(STOP_WITHIN) {
                // A copied batch sends thousands of events: one scan answers them all.
                Ok(()) => {
                    while self.changed.try_recv().is_ok() {}
                    next = next.min(now + GROWING);
                }
                // Without notifications nobody holds the other end: the pause is ours then.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(STOP_WITHIN),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Takes every file that has settled. True when some are still growing, or were too many.
    fn scan(&mut self, now: Instant, stop: &impl Fn() -> bool) -> bool {
        let mut settled = Vec::new();
        let mut present = HashMap::new();
        for folder in &self.folders {
            let mut files = Vec::new();
            if let Err(error) = list(folder, MAX_DEPTH, &mut files) {
                tracing::error!(folder = %folder.display(), %error, "cannot look through the drop folder");
            }
            for (path, length, modified) in files {
                let fresh = Seen {
                    length,
                    modified,
                    since: now,
                };
                let before = self.seen.get(&path).copied();
                let seen = before
                    .filter(|old| (old.length, old.modified) == (length, modified))
                    .unwrap_or(fresh);
                if now.duration_since(seen.since) >= SETTLED {
                    settled.push((folder.clone(), path.clone()));
                }
                present.insert(path, seen);
            }
        }
        let growing = present.len() > settled.len();
        self.seen = present;
        if settled.is_empty() {
            return growing;
        }
        self.take(&settled, stop) || growing
    }

    /// True when files are left for the next scan at once.
    fn take(&mut self, settled: &[(PathBuf, PathBuf)], stop: &impl Fn() -> bool) -> bool {
        self.scans += 1;
        let scan = AssociationId(SCAN_BIT | self.scans);
        self.intake.association_opened(scan);
        let mut accepted = Vec::new();
        let mut rejected = Vec::new();
        let mut blocked = None;
        for (folder, path) in settled {
            if stop() {
                break;
            }
            match self.intake.accept_file(path, scan) {
                Ok(_) => accepted.push(path),
                Err(error @ IntakeError::OutOfResources(_)) => {
                    blocked = Some(error);
                    break;
                }
                Err(error) => rejected.push((folder, path, error.to_string())),
            }
        }
        let taken = accepted.len();
        match self.intake.association_closed(scan) {
            Ok(()) => accepted.iter().for_each(|path| remove(path)),
            // The originals stay; the next scan finds them stored already.
            Err(error) => blocked = blocked.or(Some(error)),
        }
        tracing::info!(taken, rejected = rejected.len(), "drop folder scan");
        for (folder, path, reason) in rejected {
            if let Err(error) = reject(folder, path, &reason) {
                tracing::error!(path = %path.display(), %error, reason, "cannot move a refused file away, it will be tried again");
            }
        }
        if let Some(error) = &blocked {
            tracing::error!(%error, "cannot take files from the drop folders now, they stay and are tried again");
        }
        blocked.is_none() && settled.len() >= MAX_FILES
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        // Harmless: its data are stored, and the next scan finds them so.
        tracing::error!(path = %path.display(), %error, "cannot delete a file from the drop folder after it was stored");
    }
}

/// Moves a refused file to `rejected/`, keeping its place below the folder, and writes the reason next to it.
fn reject(folder: &Path, path: &Path, reason: &str) -> io::Result<()> {
    tracing::warn!(path = %path.display(), reason, "file from a drop folder refused");
    let below = path.strip_prefix(folder).map_err(io::Error::other)?;
    let target = folder.join(REJECTED).join(below);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut note = target.clone().into_os_string();
    note.push(".txt");
    fs::write(note, format!("{reason}\n"))?;
    fs::rename(path, target)
}

/// Regular files below a folder, sorted, without those that are hidden, marked as unfinished, or refused earlier. Links are not
/// followed: the daemon reads nothing that the folder does not hold.
fn list(dir: &Path, depth: usize, files: &mut Vec<(PathBuf, u64, Option<SystemTime>)>) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let unfinished = [".part", ".tmp", ".filepart", ".crdownload"]
            .iter()
            .any(|end| name.ends_with(end));
        if name.starts_with('.') || name == REJECTED || unfinished || files.len() >= MAX_FILES {
            continue;
        }
        // A file that vanishes between listing and looking was taken back by its owner.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && depth > 0 {
            list(&entry.path(), depth - 1, files)?;
        } else if meta.is_file() {
            files.push((entry.path(), meta.len(), meta.modified().ok()));
        }
    }
    Ok(())
}
