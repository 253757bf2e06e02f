//! Asking others: C-ECHO and C-STORE as a service class user.

use crate::dicom::ae::{Address, AeTitle};
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use std::path::PathBuf;
use std::time::Duration;

/// An object to send, kept bytes on disk.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub transfer_syntax_uid: Uid,
    /// A Part 10 file.
    pub path: PathBuf,
}

/// How to talk to a peer.
#[derive(Clone, Debug)]
pub struct Dial {
    pub calling_ae: AeTitle,
    pub address: Address,
    pub connect_timeout: Duration,
    pub timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ScuError {
    /// Retry: nobody there, network broke, transient rejection.
    #[error("cannot reach {address}: {cause}")]
    Unreachable { address: String, cause: String },
    /// The peer rejected the association for good.
    #[error("{address} rejected the association: {cause}")]
    Rejected { address: String, cause: String },
    /// No presentation context for this SOP class.
    #[error("{address} does not accept SOP class {sop_class_uid}")]
    NotAccepted { address: String, sop_class_uid: String },
    #[error("cannot read {path}: {cause}")]
    File { path: PathBuf, cause: String },
}

/// What the peer answered for each object, in order; the ones after a break are absent.
pub type Answers = Vec<Result<Status, ScuError>>;

/// C-STORE of all objects over one association.
pub async fn store(dial: &Dial, objects: &[Outgoing]) -> Result<Answers, ScuError> {
    let _ = (dial, objects);
    todo!()
}

/// C-ECHO.
pub async fn echo(dial: &Dial) -> Result<Status, ScuError> {
    let _ = dial;
    todo!()
}
