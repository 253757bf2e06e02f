//! Execution providers: which to try in which order, and which really took a graph's nodes.

use crate::inference::runtime::{Choice, InferenceError};
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};
use ort::{AsPointer, session::Session};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr;

/// What ONNX Runtime can run a graph on, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    TensorRt,
    Cuda,
    Cpu,
}

impl Provider {
    pub const ALL: [Self; 3] = [Self::TensorRt, Self::Cuda, Self::Cpu];

    /// The name the configuration and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::TensorRt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        }
    }

    /// The provider that the runtime calls `runtime_name`.
    fn from_runtime(runtime_name: &str) -> Option<Self> {
        match runtime_name {
            "TensorrtExecutionProvider" => Some(Self::TensorRt),
            "CUDAExecutionProvider" => Some(Self::Cuda),
            "CPUExecutionProvider" => Some(Self::Cpu),
            _ => None,
        }
    }

    /// What to register with a session builder. Each one fails loudly: left to itself the runtime logs the failure and goes on
    /// without, even where it says that the provider is available.
    pub fn dispatches(self, choice: &Choice, engines: Option<&Path>) -> Vec<ExecutionProviderDispatch> {
        let cuda = || CUDA::default().with_device_id(choice.device).build().error_on_failure();
        match self {
            Self::TensorRt => {
                let mut trt = TensorRT::default().with_device_id(choice.device).with_fp16(choice.fp16);
                if let Some(dir) = engines {
                    let dir = dir.display();
                    trt = trt.with_engine_cache(true).with_engine_cache_path(dir.to_string());
                    trt = trt.with_timing_cache(true).with_timing_cache_path(dir.to_string());
                }
                // Nodes that TensorRT does not take go to CUDA, not to the processor.
                vec![trt.build().error_on_failure(), cuda()]
            }
            Self::Cuda => vec![cuda()],
            Self::Cpu => Vec::new(),
        }
    }
}

/// The order to try, and whether a person named it (then failures are loud).
pub(crate) fn order(choice: &Choice) -> Result<(Vec<Provider>, bool), InferenceError> {
    let named: Vec<&str> = choice.providers.iter().map(String::as_str).collect();
    if named.is_empty() || named == ["auto"] {
        return Ok((Provider::ALL.to_vec(), false));
    }
    let known = |name: &&str| {
        Provider::ALL
            .into_iter()
            .find(|p| p.name() == *name)
            .ok_or_else(|| InferenceError::Provider {
                provider: (*name).to_owned(),
                cause: "no such provider; [inference] providers takes [\"auto\"], or a list of tensorrt, cuda and cpu"
                    .into(),
            })
    };
    Ok((named.iter().map(known).collect::<Result<_, _>>()?, true))
}

/// Graph nodes per provider as the runtime assigned them. The session must have been made with
/// `session.record_ep_graph_assignment_info` = 1.
pub(crate) fn assigned_nodes(session: &Session) -> Result<BTreeMap<String, usize>, String> {
    let api = ort::api();
    let checked = |status| unsafe { ort::Error::result_from_status(status) }.map_err(|e| e.to_string());
    let mut nodes = BTreeMap::new();
    // SAFETY: the calls and lifetimes are those of onnxruntime_c_api.h (since 1.24): the session owns the arrays and texts,
    // which live as long as it does, and `count` is set together with its array.
    unsafe {
        let mut subgraphs = ptr::null();
        let mut count = 0;
        checked((api.Session_GetEpGraphAssignmentInfo)(
            session.ptr(),
            &mut subgraphs,
            &mut count,
        ))?;
        for index in 0..count {
            let subgraph = *subgraphs.add(index);
            let mut name: *const c_char = ptr::null();
            checked((api.EpAssignedSubgraph_GetEpName)(subgraph, &mut name))?;
            let mut members = ptr::null();
            let mut member_count = 0;
            checked((api.EpAssignedSubgraph_GetNodes)(
                subgraph,
                &mut members,
                &mut member_count,
            ))?;
            let name = if name.is_null() {
                "?".into()
            } else {
                CStr::from_ptr(name).to_string_lossy()
            };
            let name = Provider::from_runtime(&name).map_or_else(|| name.to_string(), |p| p.name().to_owned());
            *nodes.entry(name).or_insert(0) += member_count;
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(providers: &[&str]) -> Choice {
        Choice {
            providers: providers.iter().map(|s| (*s).to_owned()).collect(),
            strict: true,
            device: 0,
            fp16: false,
            engine_cache: None,
            threads: 1,
        }
    }

    #[test]
    fn auto_tries_the_best_first_and_quietly() {
        assert_eq!(order(&choice(&["auto"])).unwrap(), (Provider::ALL.to_vec(), false));
    }

    #[test]
    fn named_providers_keep_the_order_written() {
        assert_eq!(
            order(&choice(&["cpu", "cuda"])).unwrap(),
            (vec![Provider::Cpu, Provider::Cuda], true)
        );
    }

    #[test]
    fn an_unknown_provider_is_refused_by_name() {
        let error = order(&choice(&["cuda", "rocm"])).unwrap_err().to_string();
        assert!(
            error.contains("rocm") && error.contains("tensorrt, cuda and cpu"),
            "{error}"
        );
    }
}
