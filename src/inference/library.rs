//! Loading `libonnxruntime` and its one environment per process.

use crate::inference::runtime::InferenceError;
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The library and its environment, alive until the process ends.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub environment: Environment,
    pub path: PathBuf,
    pub version: String,
}

/// ONNX Runtime allows one environment per process for ever, so the first successful load is kept here and never dropped.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Loads the library at `path`, or gives what an earlier call loaded. `threads` 0 means one per core.
pub(crate) fn load(path: &Path, threads: usize) -> Result<Loaded, InferenceError> {
    let mut slot = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = slot.as_ref() {
        if same_file(&loaded.path, path) {
            return Ok(loaded.clone());
        }
        return Err(InferenceError::Missing(format!(
            "ONNX Runtime {} is already loaded from {}; a process can not load another from {}. Restart the daemon to change it",
            loaded.version,
            loaded.path.display(),
            path.display()
        )));
    }
    let loaded = open(path, threads)?;
    tracing::info!(version = %loaded.version, path = %loaded.path.display(), "onnx runtime loaded");
    Ok(slot.insert(loaded).clone())
}

fn same_file(a: &Path, b: &Path) -> bool {
    let real = |p: &Path| std::fs::canonicalize(p).unwrap_or_else(|_| p.to_path_buf());
    real(a) == real(b)
}

fn open(path: &Path, threads: usize) -> Result<Loaded, InferenceError> {
    // An absolute path keeps `ort` and the dynamic loader from searching anywhere else.
    let path = std::path::absolute(path).map_err(|e| missing(path, &e.to_string()))?;
    if !path.is_file() {
        return Err(missing(&path, "there is no such file"));
    }
    let builder = ort::init_from(&path).map_err(|e| missing(&path, &e.to_string()))?;
    let version = version_of(&path).ok_or_else(|| missing(&path, "it does not tell its version"))?;
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    // One pool for all sessions, and no spinning: between jobs the daemon must use no processor time.
    let environment = GlobalThreadPoolOptions::default()
        .with_intra_threads(threads)
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(false))
        .and_then(|pool| {
            builder
                .with_name("medlsamd")
                .with_telemetry(false)
                .with_global_thread_pool(pool)
                .build()
        })
        .map_err(|e| missing(&path, &e.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(Loaded {
        environment,
        path,
        version,
    })
}

fn missing(path: &Path, cause: &str) -> InferenceError {
    InferenceError::Missing(format!(
        "ONNX Runtime library {}: {cause}. Set [inference] library to a libonnxruntime.so of version 1.{} or newer; \
         the README says where to get one",
        path.display(),
        ort::MINOR_VERSION
    ))
}

/// The version text of the library, which must be loaded already; `ort` does not pass it on.
fn version_of(path: &Path) -> Option<String> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: RTLD_NOLOAD only takes another reference to what `ort` loaded; the symbol's type is that of the C header, whose
    // layout `ort` checked by loading it; the texts it returns are static. The handle is kept, as the library stays for ever.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW);
        if handle.is_null() {
            return None;
        }
        let symbol = libc::dlsym(handle, c"OrtGetApiBase".as_ptr());
        if symbol.is_null() {
            return None;
        }
        let base: unsafe extern "C" fn() -> *const ort::sys::OrtApiBase = std::mem::transmute(symbol);
        let base = base().as_ref()?;
        let text = (base.GetVersionString)();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}
