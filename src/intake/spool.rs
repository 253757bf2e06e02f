//! One object on its way to disk: the durable sequence.

use crate::dicom::frames::MULTI_FRAME_CT;
use crate::dicom::header::{HeaderError, Instance};
use crate::dicom::part10;
use crate::intake::whole;
use crate::intake::{AcceptedInstance, Claim, IntakeError, Shared};
use crate::job::SeriesKey;
use crate::store::NewInstance;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// P-DATA fragments are gathered up to this size; longer ones, which are most, go through without being copied.
const BUFFER: usize = 16 * 1024;
/// So much of the beginning is kept in memory, where most headers end: they are checked without reading the file again.
const HEAD: usize = 32 * 1024;
/// Files are compared in steps of this size.
const COMPARED: usize = 128 * 1024;

/// An object on its way to disk. Dropping it removes the temporary file.
pub struct Spool {
    shared: Arc<Shared>,
    claim: Claim,
    temporary: Temporary,
    writer: BufWriter<File>,
    /// Where the data set's length belongs.
    length_offset: u64,
    data_set_length: u64,
    /// The first [`HEAD`] bytes of the data set.
    head: Vec<u8>,
}

/// Removes the file unless it was renamed away.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing to be done about a failure here; the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Spool {
    pub(in crate::intake) fn create(shared: Arc<Shared>, claim: Claim) -> Result<Self, IntakeError> {
        let path = shared.temporary_path(&claim);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|e| IntakeError::io("make", &path, &e))?;
        let temporary = Temporary { path, renamed: false };
        let sender = claim.calling_ae.as_str();
        let head = part10::head(
            &claim.sop_class_uid,
            &claim.sop_instance_uid,
            &claim.transfer_syntax_uid,
            sender,
            claim.called_ae.as_str(),
        );
        let mut writer = BufWriter::with_capacity(BUFFER, file);
        writer
            .write_all(&head.bytes)
            .map_err(|e| IntakeError::io("write", &temporary.path, &e))?;
        Ok(Self {
            shared,
            claim,
            temporary,
            writer,
            length_offset: head.length_offset,
            data_set_length: 0,
            head: Vec::with_capacity(HEAD),
        })
    }

    /// Appends data set bytes as they arrive. Blocking.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        self.data_set_length += bytes.len() as u64;
        let most = self.shared.options.max_object_bytes;
        if self.data_set_length > most {
            let text = format!(
                "the object is longer than dicom.max_object_mb allows ({} MiB)",
                most >> 20
            );
            return Err(IntakeError::OutOfResources(text));
        }
        let lacking = HEAD - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(lacking)]);
        self.writer
            .write_all(bytes)
            .map_err(|e| IntakeError::io("write", &self.temporary.path, &e))
    }

    /// Verifies the header against the claim and runs the durable sequence. Blocking.
    pub fn finish(mut self) -> Result<AcceptedInstance, IntakeError> {
        let length = self.data_set_length.to_le_bytes();
        let written = self
            .writer
            .flush()
            .and_then(|()| self.writer.get_ref().write_all_at(&length, self.length_offset));
        written.map_err(|e| IntakeError::io("write", &self.temporary.path, &e))?;
        let mut instance = self.verify()?;
        crate::failpoint::hit("intake_written");

        let series = SeriesKey {
            study_instance_uid: instance.study_instance_uid.clone(),
            series_instance_uid: instance.series_instance_uid.clone(),
        };
        let mut touched = BTreeSet::new();
        let dir = self.shared.store.series_dir(&series);
        make_dirs(&dir, &mut touched)?;
        let path = self.shared.store.instance_path(&series, &instance.sop_instance_uid);
        let duplicate = match rename_to_new(&self.temporary.path, &path) {
            Ok(()) => {
                self.temporary.renamed = true;
                crate::failpoint::hit("intake_renamed");
                let synced = self.writer.get_ref().sync_data();
                // After a failed sync the kernel may have dropped the pages: the file must not pass for a stored one.
                synced.map_err(|e| {
                    let _ = fs::remove_file(&path);
                    IntakeError::io("sync", &path, &e)
                })?;
                touched.insert(dir);
                false
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.compare_with_first(&path)?;
                true
            }
            Err(e) => return Err(IntakeError::io("rename to", &path, &e)),
        };
        crate::failpoint::hit("intake_synced");
        instance.path = path;
        self.register(&instance, series, touched);
        Ok(AcceptedInstance { instance, duplicate })
    }

    /// The header checked against what the sender said.
    fn verify(&self) -> Result<Instance, IntakeError> {
        let (path, syntax) = (&self.temporary.path, &self.claim.transfer_syntax_uid);
        let complete = self.head.len() as u64 == self.data_set_length;
        let instance = match Instance::parse(&self.head, complete, syntax, path) {
            Err(HeaderError::NeedMore { .. }) => Instance::read(path),
            parsed => parsed,
        };
        let instance = instance.map_err(|error| match error {
            HeaderError::Io { source, .. } => IntakeError::io("read", &self.temporary.path, &source),
            other => IntakeError::CannotUnderstand(other.to_string()),
        })?;
        let claim = &self.claim;
        if instance.sop_instance_uid != claim.sop_instance_uid {
            let (said, found) = (&claim.sop_instance_uid, &instance.sop_instance_uid);
            return Err(IntakeError::Mismatch(format!(
                "SOP Instance UID is {found}, the command said {said}"
            )));
        }
        if instance.sop_class_uid != claim.sop_class_uid {
            let (said, found) = (&claim.sop_class_uid, &instance.sop_class_uid);
            return Err(IntakeError::Mismatch(format!(
                "SOP Class UID is {found}, the command said {said}"
            )));
        }
        let is_ct = CT_SOP_CLASSES.contains(&claim.sop_class_uid.as_str());
        if is_ct && !matches!(instance.modality.as_str(), "CT" | "") {
            return Err(IntakeError::Mismatch(format!(
                "Modality is {:?} in an object of a CT SOP class",
                instance.modality
            )));
        }
        if is_ct {
            let (file, syntax) = (self.writer.get_ref(), &claim.transfer_syntax_uid);
            whole::check(&self.head, file, self.length_offset + 8, syntax)
                .map_err(|e| IntakeError::io("read", &self.temporary.path, &e))?
                .map_err(IntakeError::CannotUnderstand)?;
        }
        if MULTI_FRAME_CT.contains(&claim.sop_class_uid.as_str()) {
            // What cannot be taken apart later is better refused now, while the sender listens.
            Instance::images(&self.temporary.path).map_err(|error| IntakeError::CannotUnderstand(error.to_string()))?;
        }
        Ok(instance)
    }

    /// Another object lies under the UID: fine if it has the same data set. It is synced here too, because the association that
    /// brought it may not have got that far.
    fn compare_with_first(&mut self, path: &Path) -> Result<(), IntakeError> {
        let failed = |e: io::Error| IntakeError::io("compare with", path, &e);
        let mut first = File::open(path).map_err(failed)?;
        let same = same_data_set(&mut first, self.writer.get_mut()).map_err(failed)?;
        if !same {
            let uid = &self.claim.sop_instance_uid;
            tracing::warn!(sop_instance_uid = %uid, "another object with this UID is stored already and stays; the new one is refused");
            return Err(IntakeError::Duplicate(format!(
                "another object with SOP Instance UID {uid} is stored already and stays"
            )));
        }
        first.sync_data().map_err(failed)
    }

    fn register(&self, instance: &Instance, series: SeriesKey, touched: BTreeSet<PathBuf>) {
        let mut open = self.shared.open();
        let association = open.entry(self.claim.association).or_default();
        association.touched.extend(touched);
        association.fed.insert(series.clone());
        drop(open);
        self.shared.rows.push(NewInstance {
            series,
            sop_instance_uid: instance.sop_instance_uid.clone(),
            sop_class_uid: instance.sop_class_uid.clone(),
            transfer_syntax_uid: instance.transfer_syntax_uid.clone(),
            patient_id: instance.patient_id.clone(),
            source_ae: self.claim.calling_ae.as_str().to_owned(),
            purpose: self.shared.options.purpose(self.claim.called_ae.as_str()),
            received_at: (self.shared.options.clock)(),
        });
    }
}

/// CT, Enhanced CT and Legacy Converted Enhanced CT Image Storage (PS3.4 table B.5-1).
pub(in crate::intake) const CT_SOP_CLASSES: [&str; 3] =
    ["1.2.840.10008.5.1.4.1.1.2", MULTI_FRAME_CT[0], MULTI_FRAME_CT[1]];

/// Whether two files hold the same bytes behind their meta groups, in the same transfer syntax.
fn same_data_set(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (a_meta, b_meta) = (
        part10::read_meta(a).map_err(io::Error::other)?,
        part10::read_meta(b).map_err(io::Error::other)?,
    );
    let data_set_length = |file: &File, offset: u64| file.metadata().map(|meta| meta.len() - offset);
    if a_meta.transfer_syntax_uid != b_meta.transfer_syntax_uid
        || data_set_length(a, a_meta.data_set_offset)? != data_set_length(b, b_meta.data_set_offset)?
    {
        return Ok(false);
    }
    let (mut a_chunk, mut b_chunk) = (vec![0; COMPARED], vec![0; COMPARED]);
    loop {
        let length = a.read(&mut a_chunk)?;
        b.read_exact(&mut b_chunk[..length])?;
        if length == 0 || a_chunk[..length] != b_chunk[..length] {
            return Ok(length == 0);
        }
    }
}

/// Makes a directory and its missing parents; notes every directory that got a new entry.
fn make_dirs(dir: &Path, touched: &mut BTreeSet<PathBuf>) -> Result<(), IntakeError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(parent, touched)?;
        touched.insert(parent.to_path_buf());
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(IntakeError::io("make", dir, &e)),
        _ => Ok(()),
    }
}

/// Renames, and fails with `AlreadyExists` instead of replacing: two associations may bring the same instance at once.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let c_path = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both paths end in a NUL and live until the call returns.
    let result = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
