//! Model manifests (`model.toml`) and checksums.
//!
//! A model is a directory with a `model.toml`. What is small lies beside it; weights that set-up fetches, or the operator
//! supplies, lie in the weights directory.

use crate::inference::pth::Checkpoint;
use crate::inference::runtime::{InferenceError, Weight};
use sha2::{Digest, Sha256};
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
    /// Weights or graph file: in `dir`, else in the weights directory.
    pub file: PathBuf,
    /// Lower-case hexadecimal; empty where the operator supplies the file and pins nothing.
    pub sha256: String,
    pub licence: String,
    pub raw: toml::Table,
}

impl Manifest {
    /// Reads `dir/model.toml`. The model's file need not be there yet.
    pub fn read(dir: &Path, weights_dir: &Path) -> Result<Self, InferenceError> {
        let path = dir.join("model.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| {
            InferenceError::Missing(format!(
                "model manifest {}: {e}; check [models] dir and the model's name",
                path.display()
            ))
        })?;
        let model = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let refuse = |problem: String| InferenceError::Model {
            model: model.clone(),
            problem,
        };
        let raw: toml::Table = text.parse().map_err(|e| refuse(format!("{}: {e}", path.display())))?;
        let text = |key: &str| match raw.get(key) {
            Some(toml::Value::String(value)) => Ok(value.clone()),
            _ => Err(refuse(format!("{} lacks the text key `{key}`", path.display()))),
        };
        let file = PathBuf::from(text("file")?);
        // A manifest names a file, never a place: nothing outside the two directories is ever read.
        if file.components().count() != 1 || file.file_name().is_none() {
            return Err(refuse(format!(
                "`file` must be a plain file name, not {}",
                file.display()
            )));
        }
        let beside = dir.join(&file);
        let file = if beside.is_file() {
            beside
        } else {
            weights_dir.join(&file)
        };
        let sha256 = text("sha256")?.to_ascii_lowercase();
        if !(sha256.is_empty() || sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(refuse("`sha256` must be 64 hexadecimal digits, or empty".into()));
        }
        let [name, version, kind, family, licence] = [
            text("name")?,
            text("version")?,
            text("kind")?,
            text("family")?,
            text("licence")?,
        ];
        Ok(Self {
            dir: dir.to_path_buf(),
            name,
            version,
            kind,
            family,
            file,
            sha256,
            licence,
            raw,
        })
    }

    /// Reads the model file and refuses it when its SHA-256 is not the manifest's.
    pub fn load_verified(&self) -> Result<Vec<u8>, InferenceError> {
        let bytes = std::fs::read(&self.file).map_err(|e| {
            InferenceError::Missing(format!(
                "model {}: {}: {e}; run set-up, or put the file there",
                self.name,
                self.file.display()
            ))
        })?;
        let found = sha256(&bytes);
        if !self.sha256.is_empty() && found != self.sha256 {
            let problem = format!(
                "{} has SHA-256 {found}, the manifest wants {}",
                self.file.display(),
                self.sha256
            );
            return Err(self.refuse(problem));
        }
        Ok(bytes)
    }

    /// A small companion file in the model's own directory, such as a graph; `key` names its manifest entry.
    pub fn companion(&self, key: &str) -> Result<Vec<u8>, InferenceError> {
        let name = match self.raw.get(key) {
            Some(toml::Value::String(name)) if Path::new(name).components().count() == 1 => name,
            _ => return Err(self.refuse(format!("model.toml lacks the file name `{key}`"))),
        };
        let path = self.dir.join(name);
        std::fs::read(&path)
            .map_err(|e| InferenceError::Missing(format!("model {}: {}: {e}", self.name, path.display())))
    }

    /// A number of the family's own, `key` under `raw`.
    pub fn number(&self, key: &str) -> Result<f64, InferenceError> {
        let number = self
            .raw
            .get(key)
            .and_then(|v| v.as_float().or_else(|| v.as_integer().map(|i| i as f64)));
        number.ok_or_else(|| self.refuse(format!("model.toml lacks the number `{key}`")))
    }

    /// The tensors of `checkpoint` that `wanted` names, each of which must be there with the shape wanted.
    pub fn weights(
        &self,
        checkpoint: &Checkpoint<'_>,
        wanted: &[(String, Vec<usize>)],
    ) -> Result<Vec<Weight>, InferenceError> {
        let load = |(name, shape): &(String, Vec<usize>)| {
            let tensor = checkpoint.tensor(name).map_err(|e| self.refuse(e.to_string()))?;
            if tensor.shape() != shape {
                return Err(self.refuse(format!(
                    "{name} has shape {:?}, the graph wants {shape:?}",
                    tensor.shape()
                )));
            }
            Ok(Weight {
                name: name.clone(),
                tensor,
            })
        };
        wanted.iter().map(load).collect()
    }

    pub fn refuse(&self, problem: String) -> InferenceError {
        InferenceError::Model {
            model: self.name.clone(),
            problem,
        }
    }
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(sha: &str, file: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "name='m'\nversion='1'\nkind='segmenter'\nfamily='f'\nlicence='x'\nfile='{file}'\nsha256='{sha}'\nsize=256\n"
        );
        std::fs::write(dir.path().join("model.toml"), text).unwrap();
        dir
    }

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn weights_are_found_in_the_weights_directory_and_verified() {
        let (dir, weights) = (model(ABC, "w.pth"), tempfile::tempdir().unwrap());
        let manifest = Manifest::read(dir.path(), weights.path()).unwrap();
        assert!(matches!(manifest.load_verified(), Err(InferenceError::Missing(_))));
        std::fs::write(weights.path().join("w.pth"), "abc").unwrap();
        assert_eq!(manifest.load_verified().unwrap(), b"abc");
        assert_eq!(manifest.number("size").unwrap(), 256.0);
        std::fs::write(weights.path().join("w.pth"), "abd").unwrap();
        let error = manifest.load_verified().unwrap_err().to_string();
        assert!(error.contains(ABC) && error.contains("the manifest wants"), "{error}");
    }

    #[test]
    fn a_file_outside_the_model_directories_is_refused() {
        for file in ["../w.pth", "/etc/passwd", "a/b"] {
            let dir = model(ABC, file);
            assert!(
                matches!(
                    Manifest::read(dir.path(), dir.path()),
                    Err(InferenceError::Model { .. })
                ),
                "{file}"
            );
        }
    }

    #[test]
    fn a_bad_checksum_text_is_refused() {
        let dir = model("79d8c9dc", "w.pth");
        assert!(Manifest::read(dir.path(), dir.path()).is_err());
    }
}
