//! HTTP: signs of life for everybody, DICOMweb (PS3.18) for who has the token.
//!
//! `dicomweb` knows the paths, `search` answers QIDO-RS, `retrieve` WADO-RS, `store` takes STOW-RS, `json` is the DICOM JSON model. All of
//! them ask the archive that the DIMSE services ask, and store through the same intake.

mod dicomweb;
mod json;
mod retrieve;
mod search;
mod store;

use crate::archive::Archive;
use crate::config::Config;
use crate::net;
use crate::net::tls::Tls;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, get};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpListener;

/// A real token is a line; a longer file is something else.
const MAX_TOKEN_BYTES: usize = 4096;
/// Shorter ones can be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// What requests are answered with.
pub struct Web {
    pub archive: Archive,
    pub ae_title: String,
    /// SHA-256 of the token; `None`: DICOMweb is closed to everybody.
    token: Option<[u8; 32]>,
    max_object_bytes: u64,
    uploads: AtomicU64,
    certificates: Option<Arc<Tls>>,
}

/// Why the web port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("web.token_file {path}: {problem}")]
    Token { path: String, problem: String },
}

impl Web {
    /// # Errors
    /// When the token file cannot be used: no token is not the same as a wrong one.
    pub fn new(config: &Config, archive: Archive, certificates: Option<Arc<Tls>>) -> Result<Self, WebError> {
        let token = config.written.web.token_file.as_deref().map(read_token).transpose()?;
        Ok(Self {
            archive,
            ae_title: config.ae_title.to_string(),
            token,
            max_object_bytes: config.written.dicom.max_object_mb << 20,
            uploads: AtomicU64::new(0),
            certificates,
        })
    }

    /// In the text format of Prometheus.
    fn metrics(&self) -> String {
        let mut out = "# HELP medlsamd_certificate_days_left Days until a certificate in use ends.\n\
                       # TYPE medlsamd_certificate_days_left gauge\n"
            .to_owned();
        for validity in self.certificates.iter().flat_map(|tls| tls.validity()) {
            let file = validity.file.display().to_string().replace(['\\', '"', '\n'], "_");
            let days = validity.days_left(Timestamp::now());
            out += &format!("medlsamd_certificate_days_left{{file=\"{file}\"}} {days}\n");
        }
        out
    }

    /// Whether a request shows the token. Compared by hash, so that the time it takes tells nothing.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = self.token else {
            let why = "DICOMweb is closed: set web.token_file";
            return Err(Refusal::new(StatusCode::FORBIDDEN, why));
        };
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
        match shown.is_some_and(|shown| hash(shown.trim()) == token) {
            true => Ok(()),
            false => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "send Authorization: Bearer TOKEN",
            )),
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn read_token(path: &Path) -> Result<[u8; 32], WebError> {
    let wrong = |problem: String| WebError::Token {
        path: path.display().to_string(),
        problem,
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let token = text.trim();
    if token.len() < MIN_TOKEN_BYTES || text.len() > MAX_TOKEN_BYTES || token.contains(char::is_whitespace) {
        let problem =
            format!("one line of at least {MIN_TOKEN_BYTES} characters is a token, e.g. of `openssl rand -hex 32`");
        return Err(wrong(problem));
    }
    Ok(hash(token))
}

/// An answer that is not what was asked for.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    why: String,
}

impl Refusal {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self {
            status,
            why: why.into(),
        }
    }

    fn failed(error: impl ToString) -> Self {
        let why = error.to_string();
        tracing::error!(cause = why, "cannot answer a web request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, why)
    }

    fn into_response(self) -> Response {
        let mut answer = Response::new(Body::from(self.why + "\n"));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            "text/plain; charset=utf-8".parse().expect("ASCII"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, "Bearer".parse().expect("ASCII"));
        }
        answer
    }
}

/// Serves until `shutdown` resolves.
pub async fn serve(listener: TcpListener, web: Web, shutdown: impl Future<Output = ()> + Send + 'static) {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .route("/dicom-web/{*path}", any(dicomweb))
        .with_state(Arc::new(web));
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(shutdown).await {
        tracing::error!(%error, "the web port is closed");
    }
}

async fn metrics(State(web): State<Arc<Web>>) -> String {
    web.metrics()
}

async fn dicomweb(State(web): State<Arc<Web>>, request: Request) -> Response {
    let method = request.method().clone();
    let answered = match web.admit(request.headers()) {
        Ok(()) => dicomweb::answer(&web, request).await,
        Err(refusal) => Err(refusal),
    };
    let answer = answered.unwrap_or_else(Refusal::into_response);
    // No path: it may hold a patient's ID.
    tracing::info!(%method, status = answer.status().as_u16(), "answered DICOMweb");
    answer
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    net::off_thread(work).await.map_err(Refusal::failed)
}
