//! How a command ends: exit codes are part of the contract that scripts rely on.

use crate::inference::runtime::InferenceError;
use crate::store::StoreError;
use crate::teach::TeachError;

/// Why a command did not succeed, by exit code.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// 1: the job failed or was refused.
    #[error("{0}")]
    Failed(String),
    /// 2: bad usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// 3: a needed file, model or runtime is missing.
    #[error("{0}")]
    Missing(String),
    /// 4: a destination or peer refused.
    #[error("{0}")]
    Peer(String),
}

impl Exit {
    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Missing(_) => 3,
            Self::Peer(_) => 4,
        }
    }
}

impl From<InferenceError> for Exit {
    fn from(error: InferenceError) -> Self {
        match error {
            InferenceError::Run { .. } | InferenceError::Cancelled => Self::Failed(error.to_string()),
            InferenceError::Missing(_) | InferenceError::Model { .. } | InferenceError::Provider { .. } => {
                Self::Missing(error.to_string())
            }
        }
    }
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<InferenceError>() {
            Ok(inference) => inference.into(),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

impl From<StoreError> for Exit {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSuchJob(_) | StoreError::IllegalMove(_) | StoreError::Unfit { .. } => {
                Self::Usage(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<TeachError> for Exit {
    fn from(error: TeachError) -> Self {
        Self::Failed(error.to_string())
    }
}
