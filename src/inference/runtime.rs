//! The runtime library, execution providers and sessions.

use ndarray::{ArrayD, ArrayViewD};
use std::collections::BTreeMap;
use std::path::Path;

/// What the operator asked for in `[inference]`.
#[derive(Clone, Debug)]
pub struct Choice {
    /// `auto`, or provider names in order of preference: `tensorrt`, `cuda`, `cpu`.
    pub providers: Vec<String>,
    /// A provider written by name that does not load is an error; otherwise a loud warning and the next one.
    pub strict: bool,
    pub device: i32,
    pub fp16: bool,
    pub engine_cache: Option<std::path::PathBuf>,
    /// 0 = as many as there are cores.
    pub threads: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// A needed file or library is absent or does not fit: a person must install it.
    #[error("{0}")]
    Missing(String),
    /// A provider asked for by name does not load.
    #[error("execution provider {provider} does not load: {cause}")]
    Provider { provider: String, cause: String },
    /// The model file is not what its manifest says.
    #[error("model {model}: {problem}")]
    Model { model: String, problem: String },
    #[error("inference failed in {model}: {cause}")]
    Run { model: String, cause: String },
    /// Told to stop by the progress watcher.
    #[error("cancelled")]
    Cancelled,
}

/// The loaded library and its one environment; a process has one for ever.
#[derive(Clone)]
pub struct Runtime {
    _private: (),
}

impl Runtime {
    /// Loads `libonnxruntime` from `library` (first call decides; later calls return the same environment).
    pub fn load(library: &Path, choice: &Choice) -> Result<Self, InferenceError> {
        let _ = (library, choice);
        todo!()
    }
    /// Version text of the loaded library.
    pub fn version(&self) -> String {
        todo!()
    }
    /// What each provider answers when asked to really load, for `check`: name → `Ok` or the library's own words.
    pub fn probe(&self) -> Vec<(String, Result<(), String>)> {
        todo!()
    }
    /// A session for a graph held in memory; `weights` are given to initialisers by name.
    pub fn session(&self, name: &str, graph: &[u8], weights: Vec<Weight>) -> Result<Session, InferenceError> {
        let _ = (name, graph, weights);
        todo!()
    }
}

/// An initialiser given by name (f32 tensors of a checkpoint).
pub struct Weight {
    pub name: String,
    pub tensor: ArrayD<f32>,
}

/// Which provider runs a model, as seen by the runtime itself and not as asked.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Assignment {
    pub model: String,
    /// `cpu`, `cuda` or `tensorrt`: the one that took most nodes.
    pub provider: String,
    /// Graph nodes per provider.
    pub nodes: BTreeMap<String, usize>,
    /// Loud warnings about providers that were passed over.
    pub warnings: Vec<String>,
}

/// A tensor to feed.
pub enum Feed<'a> {
    F32(ArrayViewD<'a, f32>),
    I64(ArrayViewD<'a, i64>),
}

/// One model that may be run by one thread at a time.
pub struct Session {
    pub assignment: Assignment,
    /// Time spent inside the runtime since the session was made.
    pub busy: std::time::Duration,
}

impl Session {
    /// Runs the model; outputs come in the order of `outputs`.
    pub fn run(&mut self, inputs: &[(&str, Feed<'_>)], outputs: &[&str]) -> Result<Vec<ArrayD<f32>>, InferenceError> {
        let _ = (inputs, outputs);
        todo!()
    }
}
