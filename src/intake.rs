//! Bytes → durable instance. Nobody may answer 0000 without an [`AcceptedInstance`] in hand.

use crate::dicom::ae::AeTitle;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use std::path::{Path, PathBuf};

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
}

impl IntakeError {
    /// The only place where a storage status is chosen.
    pub fn status(&self) -> Status {
        match self {
            Self::OutOfResources(_) => Status::OUT_OF_RESOURCES,
            Self::Mismatch(_) => Status::DATA_SET_MISMATCH,
            Self::CannotUnderstand(_) => Status::CANNOT_UNDERSTAND,
        }
    }
}

/// The door every received object goes through. Cheap to clone.
#[derive(Clone)]
pub struct Intake {}

/// An object on its way to disk. Dropping it removes the temporary file.
pub struct Spool {}

impl Intake {
    /// Blocking. Refuses with `OutOfResources` when less than the configured free space is left.
    pub fn begin(&self, claim: Claim) -> Result<Spool, IntakeError> {
        let _ = claim;
        todo!()
    }
    /// An association opened: series it feeds are not whole before it ends.
    pub fn association_opened(&self, association: AssociationId) {
        let _ = association;
        todo!()
    }
    /// The association ended, however it ended: its directories are synced, its instances' rows are committed. Blocking.
    pub fn association_closed(&self, association: AssociationId) -> Result<(), IntakeError> {
        let _ = association;
        todo!()
    }
    /// A file from a drop folder, copied in by the same durable sequence. Blocking.
    pub fn accept_file(&self, path: &Path, association: AssociationId) -> Result<AcceptedInstance, IntakeError> {
        let _ = (path, association, PathBuf::new());
        todo!()
    }
}

impl Spool {
    /// Appends data set bytes as they arrive. Blocking.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        let _ = bytes;
        todo!()
    }
    /// Verifies the header against the claim and runs the durable sequence. Blocking.
    pub fn finish(self) -> Result<AcceptedInstance, IntakeError> {
        todo!()
    }
}
