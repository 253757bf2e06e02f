//! Bytes → durable instance. Nobody may answer 0000 without an [`AcceptedInstance`] in hand.
//!
//! ```text
//! <storage.dir>/incoming/…                                temporary files, removed at start
//! <storage.dir>/series/<study>/<series>/<instance>.dcm    accepted, synced, never changed again
//! <storage.dir>/quarantine/…                              found at start and not readable; nothing there was ever acknowledged
//! ```
//!
//! **The durable sequence.** Write the temporary file, check its header against the claim, rename it, fdatasync it. Renaming
//! before the sync lets one journal commit carry the directory entry as well as the data (ext4, XFS); the directories themselves
//! are synced when the association ends. From the return of fdatasync on, the instance survives a power cut; its database row is
//! written up to [`ROW_BATCH_WAIT`] later, because [`Intake::open`] finds files without a row again.
//!
//! **The same SOP Instance UID twice.** Identical data set bytes: success, nothing is written anew. Other bytes: the first stays,
//! the sender is told 0111 and the log says so; nothing that was acknowledged is ever overwritten.

mod rebuild;
mod rows;
mod spool;
mod whole;

pub use rebuild::Rebuilt;
pub use rows::ROW_BATCH_WAIT;
pub use spool::Spool;

use crate::dicom::ae::AeTitle;
use crate::dicom::part10;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::intake::rows::Rows;
use crate::job::{Purpose, SeriesKey};
use crate::store::Store;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the peer says it is about to send, already validated.
#[derive(Clone, Debug)]
pub struct Claim {
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub transfer_syntax_uid: Uid,
    pub calling_ae: AeTitle,
    pub called_ae: AeTitle,
    /// The association that carries it; drop folders use one id per scan.
    pub association: AssociationId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssociationId(pub u64);

/// A receipt: made only after the durable sequence (temporary file, rename, fdatasync).
#[derive(Debug)]
pub struct AcceptedInstance {
    instance: crate::dicom::header::Instance,
    /// Already here with identical bytes: nothing was written anew.
    duplicate: bool,
}

impl AcceptedInstance {
    pub fn instance(&self) -> &crate::dicom::header::Instance {
        &self.instance
    }
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }
}

/// Why an object was not taken, and what the sender is told.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Retry later: disk full, I/O error.
    #[error("out of resources: {0}")]
    OutOfResources(String),
    /// Reject: the data set is not what the command said it is.
    #[error("data set does not match: {0}")]
    Mismatch(String),
    /// Reject: cannot be parsed.
    #[error("cannot understand: {0}")]
    CannotUnderstand(String),
    /// Reject: another object with this UID is here already, and stays.
    #[error("duplicate SOP instance: {0}")]
    Duplicate(String),
}

impl IntakeError {
    /// The only place where a storage status is chosen.
    pub fn status(&self) -> Status {
        match self {
            Self::OutOfResources(_) => Status::OUT_OF_RESOURCES,
            Self::Mismatch(_) => Status::DATA_SET_MISMATCH,
            Self::CannotUnderstand(_) => Status::CANNOT_UNDERSTAND,
            Self::Duplicate(_) => Status::DUPLICATE_SOP_INSTANCE,
        }
    }

    fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let hint = match error.raw_os_error() {
            Some(libc::ENOSPC) => " (the disk is full: free some space, or move storage.dir)",
            Some(libc::EDQUOT) => " (the quota of the daemon's user is used up)",
            Some(libc::EACCES | libc::EROFS) => " (the daemon's user must be able to write there)",
            _ => "",
        };
        Self::OutOfResources(format!("cannot {what} {}: {error}{hint}", path.display()))
    }
}

/// How an intake is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Below this much free space, objects are refused.
    pub min_free_bytes: u64,
    /// Longer data sets are refused.
    pub max_object_bytes: u64,
    /// What is sent to this AE title is taught, not outlined.
    pub teaching_ae: Option<AeTitle>,
    /// `jiff::Timestamp::now`, or a test's clock.
    pub clock: fn() -> Timestamp,
}

impl Options {
    fn purpose(&self, called_ae: &str) -> Purpose {
        match &self.teaching_ae {
            Some(teaching) if teaching.as_str() == called_ae => Purpose::Teach,
            _ => Purpose::Outline,
        }
    }
}

/// The door every received object goes through. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    options: Options,
    incoming: PathBuf,
    temporary_number: AtomicU64,
    rows: Rows,
    open: Mutex<HashMap<AssociationId, Association>>,
}

/// What an open association did so far.
#[derive(Default)]
struct Association {
    fed: HashSet<SeriesKey>,
    /// Directories that got an entry and are not synced yet.
    touched: BTreeSet<PathBuf>,
}

impl Intake {
    /// Opens the intake of the store's directory: removes temporary files, and makes the instances known that were accepted
    /// but whose rows a crash swallowed.
    pub fn open(store: Store, options: Options) -> Result<(Self, Rebuilt), IntakeError> {
        let incoming = store.dir().join("incoming");
        for dir in [&incoming, &store.dir().join("series")] {
            fs::create_dir_all(dir).map_err(|e| IntakeError::io("make", dir, &e))?;
            sync_dir(dir)?;
        }
        sync_dir(store.dir())?;
        let rebuilt = rebuild::rebuild(&store, &incoming, &options)?;
        let rows = Rows::start(store.clone()).map_err(|e| IntakeError::io("start a thread for", store.dir(), &e))?;
        let shared = Shared {
            store,
            options,
            incoming,
            temporary_number: AtomicU64::new(0),
            rows,
            open: Mutex::new(HashMap::new()),
        };
        Ok((
            Self {
                shared: Arc::new(shared),
            },
            rebuilt,
        ))
    }

    /// Blocking. Refuses with `OutOfResources` when less than the configured free space is left.
    pub fn begin(&self, claim: Claim) -> Result<Spool, IntakeError> {
        self.shared.check_resources()?;
        Spool::create(self.shared.clone(), claim)
    }

    /// An association opened: series it feeds are not whole before it ends.
    pub fn association_opened(&self, association: AssociationId) {
        self.shared.open().entry(association).or_default();
    }

    /// The association ended, however it ended: its directories are synced, its instances' rows are committed. Blocking.
    pub fn association_closed(&self, association: AssociationId) -> Result<(), IntakeError> {
        let synced = self.sync_directories(association);
        let flushed = self.flush();
        // Whatever went wrong, the association is over. Rows that could not be committed keep their series fed until they are.
        self.shared.open().remove(&association);
        synced.and(flushed)
    }

    /// Syncs the directories an association wrote to so far; storage commitment asks for it before it promises. Blocking.
    pub fn sync_directories(&self, association: AssociationId) -> Result<(), IntakeError> {
        let touched = self
            .shared
            .open()
            .get_mut(&association)
            .map(|a| std::mem::take(&mut a.touched))
            .unwrap_or_default();
        // The deepest first is as good as any order: each entry is one directory's own.
        touched.iter().rev().try_for_each(|dir| sync_dir(dir))
    }

    /// Syncs directories below the storage directory and those above them, whoever wrote there. Blocking.
    pub fn sync_above<'a>(&self, files: impl IntoIterator<Item = &'a Path>) -> Result<(), IntakeError> {
        let root = self.shared.store.dir();
        let above = |file: &'a Path| file.ancestors().skip(1).take_while(|dir| dir.starts_with(root));
        let dirs: BTreeSet<&Path> = files.into_iter().flat_map(above).collect();
        dirs.into_iter().try_for_each(sync_dir)
    }

    /// The series that open associations have fed, or whose rows are not in the database yet: not to be closed now.
    pub fn fed_series(&self) -> HashSet<SeriesKey> {
        // In this order: an association that closes in between has its rows in one of the two sets, or in the database.
        let mut fed: HashSet<SeriesKey> = self
            .shared
            .open()
            .values()
            .flat_map(|a| a.fed.iter().cloned())
            .collect();
        fed.extend(self.shared.rows.waiting_series());
        fed
    }

    /// Commits the rows of all accepted instances; for a clean stop. Blocking.
    pub fn flush(&self) -> Result<(), IntakeError> {
        self.shared
            .rows
            .flush()
            .map_err(|e| IntakeError::OutOfResources(e.to_string()))
    }

    /// A file from a drop folder, copied in by the same durable sequence. Blocking.
    pub fn accept_file(&self, path: &Path, association: AssociationId) -> Result<AcceptedInstance, IntakeError> {
        let unreadable = |e: part10::Part10Error| IntakeError::CannotUnderstand(format!("{}: {e}", path.display()));
        let mut file = File::open(path).map_err(|e| unreadable(e.into()))?;
        let meta = part10::read_meta(&mut file).map_err(unreadable)?;
        let uid = |text: &str, what: &str| {
            Uid::parse(text).map_err(|_| IntakeError::CannotUnderstand(format!("{}: no valid {what}", path.display())))
        };
        // The network negotiates what is taken; here this is the only door-keeper.
        if !spool::CT_SOP_CLASSES.contains(&meta.sop_class_uid.as_str()) {
            return Err(IntakeError::Mismatch(format!(
                "SOP class {} is no CT image, only those are taken here",
                meta.sop_class_uid
            )));
        }
        let nobody = || AeTitle::parse("DROP_FOLDER").expect("a valid title");
        let mut spool = self.begin(Claim {
            sop_class_uid: uid(&meta.sop_class_uid, "SOP Class UID")?,
            sop_instance_uid: uid(&meta.sop_instance_uid, "SOP Instance UID")?,
            transfer_syntax_uid: uid(&meta.transfer_syntax_uid, "Transfer Syntax UID")?,
            calling_ae: AeTitle::parse(&meta.source_ae).unwrap_or_else(|_| nobody()),
            called_ae: nobody(),
            association,
        })?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return spool.finish(),
                Ok(length) => spool.write(&buffer[..length])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(IntakeError::io("read", path, &e)),
            }
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<AssociationId, Association>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_resources(&self) -> Result<(), IntakeError> {
        if let Some(problem) = self.rows.problem() {
            return Err(IntakeError::OutOfResources(problem));
        }
        let free =
            free_bytes(&self.incoming).map_err(|e| IntakeError::io("ask for free space of", &self.incoming, &e))?;
        let least = self.options.min_free_bytes;
        if free < least {
            let (free, least) = (free >> 20, least >> 20);
            let text = format!(
                "{free} MiB are free below {}, storage.min_free_gb asks for {least} MiB",
                self.incoming.display()
            );
            return Err(IntakeError::OutOfResources(text));
        }
        Ok(())
    }

    fn temporary_path(&self, claim: &Claim) -> PathBuf {
        let number = self.temporary_number.fetch_add(1, Ordering::Relaxed);
        self.incoming.join(format!("{}-{number}.part", claim.association.0))
    }
}

/// Bytes an unprivileged user may still write on the file system of `path`.
fn free_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut figures = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a NUL and the kernel fills the struct when it returns 0.
    let figures = unsafe {
        if libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        figures.assume_init()
    };
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

/// Makes the entries of a directory durable.
fn sync_dir(dir: &Path) -> Result<(), IntakeError> {
    File::open(dir)
        .and_then(|opened| opened.sync_all())
        .map_err(|e| IntakeError::io("sync directory", dir, &e))
}
