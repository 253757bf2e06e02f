//! Model manifests (`model.toml`) and checksums.

use super::runtime::InferenceError;
use std::path::{Path, PathBuf};

/// A model directory: `model.toml`, its file and its checksum. Family specific keys stay in `raw` for the family's own code.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub dir: PathBuf,
    pub name: String,
    pub version: String,
    /// `localiser` or `segmenter`.
    pub kind: String,
    /// E.g. `dense` (localiser), `lite_medsam`, `medsam_vit_b` (segmenters).
    pub family: String,
    /// Weights or graph file, relative to the models directory or `dir`.
    pub file: PathBuf,
    pub sha256: String,
    pub licence: String,
    pub raw: toml::Table,
}

impl Manifest {
    pub fn read(dir: &Path) -> Result<Self, InferenceError> {
        let _ = dir;
        todo!()
    }
    /// Reads the model file and refuses it when its SHA-256 is not the manifest's.
    pub fn load_verified(&self) -> Result<Vec<u8>, InferenceError> {
        todo!()
    }
}
