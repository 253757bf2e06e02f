//! What a crash left behind: temporary files, and files whose rows were not committed yet.

use crate::dicom::header::Instance;
use crate::dicom::part10::{self, FileMeta};
use crate::dicom::uid::Uid;
use crate::intake::{IntakeError, Options, sync_dir};
use crate::job::SeriesKey;
use crate::store::{NewInstance, Store};
use jiff::Timestamp;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What [`Intake::open`](crate::intake::Intake::open) found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub temporary_files_removed: usize,
    /// Accepted instances whose rows were missing.
    pub instances_added: usize,
    /// Files that are cut off or unreadable, moved to `quarantine/`: written when the power went, before they were acknowledged.
    pub quarantined: usize,
}

pub(crate) fn rebuild(store: &Store, incoming: &Path, options: &Options) -> Result<Rebuilt, IntakeError> {
    let mut rebuilt = Rebuilt::default();
    for path in entries(incoming)? {
        fs::remove_file(&path).map_err(|e| IntakeError::io("remove", &path, &e))?;
        rebuilt.temporary_files_removed += 1;
    }
    for study_dir in entries(&store.dir().join("series"))? {
        for series_dir in entries(&study_dir)? {
            // Only directories that we can have made: named by two UIDs.
            if let (Some(study_instance_uid), Some(series_instance_uid)) = (uid_of(&study_dir), uid_of(&series_dir)) {
                rebuild_series(
                    store,
                    &SeriesKey {
                        study_instance_uid,
                        series_instance_uid,
                    },
                    &series_dir,
                    options,
                    &mut rebuilt,
                )?;
            }
        }
    }
    Ok(rebuilt)
}

fn rebuild_series(
    store: &Store,
    series: &SeriesKey,
    dir: &Path,
    options: &Options,
    rebuilt: &mut Rebuilt,
) -> Result<(), IntakeError> {
    let database = |e: crate::store::StoreError| IntakeError::OutOfResources(e.to_string());
    let known = store.known_instances(series).map_err(database)?;
    let mut found = Vec::new();
    for path in entries(dir)? {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if known.contains(name) {
            continue;
        }
        match examine(&path, series, options) {
            Ok(instance) => found.push(instance),
            Err(problem) => {
                quarantine(store, &path)?;
                tracing::warn!(path = %path.display(), problem, "found a file that is no whole instance, moved to quarantine");
                rebuilt.quarantined += 1;
            }
        }
    }
    if !found.is_empty() {
        // The entries may be as young as the crash.
        sync_dir(dir)?;
        found.sort_by(|a, b| (a.received_at, &a.sop_instance_uid).cmp(&(b.received_at, &b.sop_instance_uid)));
        rebuilt.instances_added += store.record_instances(&found).map_err(database)?;
    }
    Ok(())
}

/// Reads a file that the database does not know; `Err` says why it can not be an accepted instance.
fn examine(path: &Path, series: &SeriesKey, options: &Options) -> Result<NewInstance, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let meta = part10::read_meta(&mut file).map_err(|e| e.to_string())?;
    let status = file.metadata().map_err(|e| e.to_string())?;
    check_length(&meta, status.len())?;
    // Not synced yet, if the crash came between rename and sync: it is now to be as good as the others.
    file.sync_data().map_err(|e| e.to_string())?;
    let instance = Instance::read(path).map_err(|e| e.to_string())?;
    let own = uid_of(path).is_some_and(|name| name == instance.sop_instance_uid)
        && instance.study_instance_uid == series.study_instance_uid
        && instance.series_instance_uid == series.series_instance_uid;
    if !own {
        return Err("its UIDs are not those of its place".to_owned());
    }
    let received_at = status.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    Ok(NewInstance {
        series: series.clone(),
        sop_instance_uid: instance.sop_instance_uid,
        sop_class_uid: instance.sop_class_uid,
        transfer_syntax_uid: instance.transfer_syntax_uid,
        patient_id: instance.patient_id,
        source_ae: meta.source_ae,
        purpose: options.purpose(&meta.receiving_ae),
        received_at: received_at.unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

fn check_length(meta: &FileMeta, file_length: u64) -> Result<(), String> {
    let expected = meta.data_set_length.ok_or("it was not written by this program")?;
    let found = file_length - meta.data_set_offset.min(file_length);
    if found == expected {
        Ok(())
    } else {
        Err(format!("its data set has {found} of {expected} bytes"))
    }
}

fn quarantine(store: &Store, path: &Path) -> Result<(), IntakeError> {
    let dir = store.dir().join("quarantine");
    fs::create_dir_all(&dir).map_err(|e| IntakeError::io("make", &dir, &e))?;
    let target = dir.join(path.file_name().unwrap_or_default());
    fs::rename(path, &target).map_err(|e| IntakeError::io("move to quarantine", path, &e))
}

/// The UID a file or directory is named by.
fn uid_of(path: &Path) -> Option<Uid> {
    let name = path.file_name()?.to_str()?;
    Uid::parse(name.strip_suffix(".dcm").unwrap_or(name)).ok()
}

/// The entries of a directory, sorted; none when it is a file.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, IntakeError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let list =
        || -> std::io::Result<Vec<PathBuf>> { fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect() };
    let mut paths = list().map_err(|e| IntakeError::io("list", dir, &e))?;
    paths.sort();
    Ok(paths)
}
