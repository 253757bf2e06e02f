//! The runtime library, execution providers and sessions.

use crate::inference::library::{self, Loaded};
use crate::inference::provider::{self, Provider};
use ndarray::{ArrayD, ArrayViewD, CowArray, IxDyn};
use ort::logging::LogLevel;
use ort::session::builder::SessionBuilder;
use ort::session::{Session as OrtSession, SessionInputValue};
use ort::value::{DynValue, Outlet, Tensor, TensorRef};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the operator asked for in `[inference]`.
#[derive(Clone, Debug)]
pub struct Choice {
    /// `auto`, or provider names in order of preference: `tensorrt`, `cuda`, `cpu`.
    pub providers: Vec<String>,
    /// A provider written by name that does not load is an error; otherwise a loud warning and the next one.
    pub strict: bool,
    pub device: i32,
    pub fp16: bool,
    pub engine_cache: Option<PathBuf>,
    /// 0 = as many as there are cores. The process's first [`Runtime::load`] decides.
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
    loaded: Loaded,
    choice: Choice,
}

impl Runtime {
    /// Loads `libonnxruntime` from `library`. Later calls get the same environment; one that names another library is an error.
    pub fn load(library: &Path, choice: &Choice) -> Result<Self, InferenceError> {
        provider::order(choice)?;
        Ok(Self {
            loaded: library::load(library, choice.threads)?,
            choice: choice.clone(),
        })
    }

    /// Version text of the loaded library.
    pub fn version(&self) -> String {
        self.loaded.version.clone()
    }

    /// What each provider answers when asked to really load, for `check`: name → `Ok` or the library's own words.
    pub fn probe(&self) -> Vec<(String, Result<(), String>)> {
        let ask = |provider: Provider| self.builder(provider, None).map(drop).map_err(|e| e.to_string());
        Provider::ALL
            .into_iter()
            .map(|p| (p.name().to_owned(), ask(p)))
            .collect()
    }

    /// A session for a graph held in memory; `weights` are given to initialisers by name. Providers are tried in order until
    /// one loads *and* takes most of the graph; what was passed over is kept in the [`Assignment`].
    pub fn session(&self, name: &str, graph: &[u8], weights: Vec<Weight>) -> Result<Session, InferenceError> {
        let (order, named) = provider::order(&self.choice)?;
        let weights = shared(name, weights)?;
        let mut passed_over = Vec::new();
        // Without `strict`, a list that does not end in the processor still ends there, loudly.
        let last_resort = (named && !self.choice.strict && !order.contains(&Provider::Cpu)).then_some(Provider::Cpu);
        for provider in order.into_iter().chain(last_resort) {
            match self.session_on(provider, name, graph, &weights) {
                Ok((inner, nodes)) => {
                    let warnings = if named { passed_over.clone() } else { Vec::new() };
                    let assignment = Assignment {
                        model: name.to_owned(),
                        provider: provider.name().to_owned(),
                        nodes,
                        passed_over,
                        warnings,
                    };
                    assignment.log();
                    return Ok(Session {
                        assignment,
                        busy: Duration::ZERO,
                        inner,
                    });
                }
                // The processor runs any valid graph, so a failure there is the model's.
                Err(problem) if provider == Provider::Cpu => {
                    return Err(InferenceError::Model {
                        model: name.to_owned(),
                        problem,
                    });
                }
                Err(cause) if named && self.choice.strict => {
                    return Err(InferenceError::Provider {
                        provider: provider.name().to_owned(),
                        cause,
                    });
                }
                Err(cause) => passed_over.push(format!("{}: {cause}", provider.name())),
            }
        }
        let cause = passed_over.join("; ");
        Err(InferenceError::Provider {
            provider: self.choice.providers.join(", "),
            cause,
        })
    }

    fn builder(&self, provider: Provider, engines: Option<&Path>) -> Result<SessionBuilder, ort::Error> {
        let builder = OrtSession::builder(&self.loaded.environment)?
            .with_log_level(LogLevel::Warning)?
            .with_config_entry("session.record_ep_graph_assignment_info", "1")?;
        Ok(builder.with_execution_providers(provider.dispatches(&self.choice, engines))?)
    }

    fn session_on(
        &self,
        provider: Provider,
        name: &str,
        graph: &[u8],
        weights: &[(String, Arc<DynValue>)],
    ) -> Result<(OrtSession, BTreeMap<String, usize>), String> {
        let text = |e: ort::Error| e.to_string();
        let engines = match (provider, &self.choice.engine_cache) {
            (Provider::TensorRt, Some(dir)) => Some(engine_dir(dir, name, graph, weights)?),
            _ => None,
        };
        let mut builder = self.builder(provider, engines.as_deref()).map_err(text)?;
        for (name, value) in weights {
            builder = builder
                .with_external_initializer(name, Arc::clone(value))
                .map_err(|e| e.to_string())?;
        }
        let session = builder.commit_from_memory(graph).map_err(text)?;
        let nodes = provider::assigned_nodes(&session)?;
        let total: usize = nodes.values().sum();
        let on_cpu = nodes.get(Provider::Cpu.name()).copied().unwrap_or(0);
        if provider != Provider::Cpu && 2 * on_cpu >= total {
            return Err(format!(
                "it loads, but the runtime left {on_cpu} of {total} graph nodes to the processor"
            ));
        }
        Ok((session, nodes))
    }
}

/// An initialiser given by name (f32 tensors of a checkpoint).
pub struct Weight {
    pub name: String,
    pub tensor: ArrayD<f32>,
}

fn shared(model: &str, weights: Vec<Weight>) -> Result<Vec<(String, Arc<DynValue>)>, InferenceError> {
    let value = |Weight { name, tensor }: Weight| {
        let shape: Vec<usize> = tensor.shape().to_vec();
        let data = tensor.as_standard_layout().into_owned().into_raw_vec_and_offset().0;
        match Tensor::from_array((shape, data)) {
            Ok(tensor) => Ok((name, Arc::new(tensor.into_dyn()))),
            Err(e) => Err(InferenceError::Model {
                model: model.to_owned(),
                problem: format!("weight {name}: {e}"),
            }),
        }
    };
    weights.into_iter().map(value).collect()
}

/// TensorRT names cached engines by the graph alone, so each set of weights gets a directory of its own: an engine built from
/// other weights must never be taken.
fn engine_dir(cache: &Path, name: &str, graph: &[u8], weights: &[(String, Arc<DynValue>)]) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    hash.update(graph);
    for (name, value) in weights {
        let (_, data) = value.try_extract_tensor::<f32>().map_err(|e| e.to_string())?;
        hash.update(name.as_bytes());
        for v in data {
            hash.update(v.to_le_bytes());
        }
    }
    let digest: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
    let dir = cache.join(format!("{name}-{digest}"));
    std::fs::create_dir_all(&dir).map_err(|e| format!("engine cache {}: {e}", dir.display()))?;
    Ok(dir)
}

/// Which provider runs a model, as seen by the runtime itself and not as asked.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Assignment {
    pub model: String,
    /// `cpu`, `cuda` or `tensorrt`: the one that was registered and took most nodes.
    pub provider: String,
    /// Graph nodes per provider, after the runtime's own optimisation.
    pub nodes: BTreeMap<String, usize>,
    /// Providers tried before this one and why they were not taken, in the runtime's words.
    pub passed_over: Vec<String>,
    /// The same where a person had named those providers: to be shown loudly. Empty for `auto`.
    pub warnings: Vec<String>,
}

impl Assignment {
    fn log(&self) {
        tracing::info!(model = %self.model, provider = %self.provider, nodes = ?self.nodes, passed_over = ?self.passed_over, "session ready");
        for warning in &self.warnings {
            tracing::warn!(model = %self.model, "configured execution provider passed over: {warning}");
        }
    }
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
    pub busy: Duration,
    inner: OrtSession,
}

impl Session {
    /// Refuses a model that does not take and give what its family's code asks for, before the first job meets it.
    pub fn require(&self, inputs: &[&str], outputs: &[&str]) -> Result<(), InferenceError> {
        let names = |outlets: &[Outlet]| outlets.iter().map(|o| o.name().to_owned()).collect::<Vec<String>>();
        for (kind, wanted, found) in [
            ("input", inputs, names(self.inner.inputs())),
            ("output", outputs, names(self.inner.outputs())),
        ] {
            if let Some(missing) = wanted.iter().find(|w| !found.iter().any(|f| f == **w)) {
                return Err(InferenceError::Model {
                    model: self.assignment.model.clone(),
                    problem: format!("it has no {kind} `{missing}`, only {}", found.join(", ")),
                });
            }
        }
        Ok(())
    }

    /// Runs the model; outputs come in the order of `outputs`.
    pub fn run(&mut self, inputs: &[(&str, Feed<'_>)], outputs: &[&str]) -> Result<Vec<ArrayD<f32>>, InferenceError> {
        let model = self.assignment.model.clone();
        self.run_inner(inputs, outputs).map_err(|e| InferenceError::Run {
            model,
            cause: e.to_string(),
        })
    }

    fn run_inner(&mut self, inputs: &[(&str, Feed<'_>)], outputs: &[&str]) -> Result<Vec<ArrayD<f32>>, ort::Error> {
        let laid: Vec<(&str, Laid<'_>)> = inputs.iter().map(|(name, feed)| (*name, Laid::from(feed))).collect();
        let feeds = laid
            .iter()
            .map(|(name, laid)| Ok((Cow::Borrowed(*name), laid.value()?)));
        let feeds: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = feeds.collect::<Result<_, ort::Error>>()?;
        let start = Instant::now();
        let produced = self.inner.run(feeds);
        self.busy += start.elapsed();
        let produced = produced?;
        let output = |name: &&str| {
            let value = produced
                .get(name)
                .ok_or_else(|| ort::Error::new(format!("no output {name}")))?;
            Ok(value.try_extract_array::<f32>()?.into_owned())
        };
        outputs.iter().map(output).collect()
    }
}

/// A feed in the row-major layout the runtime wants; copied only where it is not so already.
enum Laid<'a> {
    F32(CowArray<'a, f32, IxDyn>),
    I64(CowArray<'a, i64, IxDyn>),
}

impl<'a> Laid<'a> {
    fn from(feed: &'a Feed<'_>) -> Self {
        match feed {
            Feed::F32(view) => Self::F32(view.as_standard_layout()),
            Feed::I64(view) => Self::I64(view.as_standard_layout()),
        }
    }

    fn value(&self) -> Result<SessionInputValue<'_>, ort::Error> {
        Ok(match self {
            Self::F32(array) => TensorRef::from_array_view(array.view())?.into(),
            Self::I64(array) => TensorRef::from_array_view(array.view())?.into(),
        })
    }
}
