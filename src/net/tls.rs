//! TLS of DICOM connections, in both roles: the BCP 195 profile of PS3.15 B.12 (RFC 8996 and 9325).
//!
//! TLS 1.2 and 1.3 with rustls' cipher suites, all of them with forward secrecy and authenticated encryption. It is mutual: who
//! calls us must show a certificate of the configured authority, and so must the peers we call, whose certificate has to name
//! them besides. Certificates are replaced without a restart: [`Tls::refresh`] looks whether the files changed.

use crate::config;
use crate::net::certificate;
use crate::net::off_thread;
use crate::net::transport::Stream;
use jiff::Timestamp;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// What is wrong with the certificates on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {cause}", file.display())]
pub struct TlsError {
    pub file: PathBuf,
    pub cause: String,
}

/// A certificate in use, for `check` and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    pub file: PathBuf,
    /// The earliest end among the certificates of the file.
    pub not_after: Timestamp,
}

impl Validity {
    /// Whole days left, negative once it has ended.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        let left_s = self.not_after.as_second() - now.as_second();
        left_s.div_euclid(24 * 3600)
    }
}

/// Our certificates, as files that may be replaced and as loaded last.
#[derive(Debug)]
pub struct Tls {
    settings: config::Tls,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    loaded: Loaded,
    /// The state of the files that was tried last, whether or not it could be loaded.
    tried: Stamp,
}

#[derive(Clone, Debug)]
struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    validity: Vec<Validity>,
}

/// Tells one state of the files from another: inode and time of the last change of each; `None` where it is missing.
type Stamp = Vec<Option<(u64, i64, i64)>>;

impl Tls {
    /// What this configuration needs; `None` where nothing in it is encrypted.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(config: &config::Config) -> Result<Option<Arc<Self>>, TlsError> {
        let opened = config.uses_tls().then(|| Self::open(&config.written.dicom.tls));
        Ok(opened.transpose()?.map(Arc::new))
    }

    /// Reads certificate, key and authority.
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    pub fn open(settings: &config::Tls) -> Result<Self, TlsError> {
        let tried = stamp(settings);
        let loaded = load(settings)?;
        Ok(Self {
            settings: settings.clone(),
            current: Mutex::new(Current { loaded, tried }),
        })
    }

    /// Takes up replaced files; associations that exist are not touched. Files that cannot be used leave the old certificate in
    /// place, with a loud word in the log, once for each state of the files. Blocking.
    pub fn refresh(&self) {
        // Before loading, so that a change in between is seen next time.
        let found = stamp(&self.settings);
        if self.current().tried == found {
            return;
        }
        let loaded = load(&self.settings);
        let mut current = self.current();
        current.tried = found;
        match loaded {
            Ok(loaded) => {
                tracing::info!(certificate = %self.settings.certificate.display(), "loaded replaced TLS certificates");
                current.loaded = loaded;
            }
            Err(error) => {
                tracing::error!(%error, "cannot load the replaced TLS certificates, the old ones stay in use")
            }
        }
    }

    /// When the certificates in use end: our own and those of the authority.
    pub fn validity(&self) -> Vec<Validity> {
        self.current().loaded.validity.clone()
    }

    /// The handshake with a caller. The caller bounds the time.
    pub async fn accept(self: &Arc<Self>, stream: TcpStream) -> io::Result<Stream> {
        let config = self.fresh().await.server;
        let accepted = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Stream::Tls(Box::new(TlsStream::Server(accepted))))
    }

    /// The handshake with a peer we called, whose certificate must hold `name`, a host name or an address. The caller bounds the
    /// time.
    pub async fn connect(self: &Arc<Self>, stream: TcpStream, name: &str) -> io::Result<Stream> {
        let config = self.fresh().await.client;
        let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connected = TlsConnector::from(config).connect(server, stream).await?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(connected))))
    }

    async fn fresh(self: &Arc<Self>) -> Loaded {
        let own = self.clone();
        if let Err(panic) = off_thread(move || own.refresh()).await {
            tracing::error!(%panic, "looking for replaced TLS certificates failed");
        }
        self.current().loaded.clone()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(settings: &config::Tls) -> Stamp {
    let state = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.ctime(), meta.ctime_nsec()))
    };
    [&settings.certificate, &settings.key, &settings.ca].map(state).to_vec()
}

fn load(settings: &config::Tls) -> Result<Loaded, TlsError> {
    let (own, own_ends) = certificates(&settings.certificate)?;
    let (authorities, authority_ends) = certificates(&settings.ca)?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .map_err(|error| wrong(&settings.key, format!("no private key in PEM: {error:?}")))?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| wrong(&settings.ca, error))?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(ring::default_provider());
    let unusable = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(_) => wrong(&settings.key, "it is not the key of the certificate"),
        error => wrong(&settings.certificate, error),
    };
    let callers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| wrong(&settings.ca, error))?;
    // The default versions are 1.2 and 1.3; rustls has no older ones to offer.
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(callers)
        .with_single_cert(own.clone(), key.clone_key())
        .map_err(unusable)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots)
        .with_client_auth_cert(own, key)
        .map_err(unusable)?;
    Ok(Loaded {
        server: Arc::new(server),
        client: Arc::new(client),
        validity: vec![own_ends, authority_ends],
    })
}

/// All certificates of a PEM file, and when the first of them ends.
fn certificates(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Validity), TlsError> {
    let unreadable = |error: rustls::pki_types::pem::Error| wrong(path, format!("no certificates in PEM: {error:?}"));
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(unreadable)?;
    let ends: Option<Vec<_>> = found.iter().map(|der| certificate::not_after(der)).collect();
    let not_after = ends
        .ok_or_else(|| wrong(path, "a certificate in it has no readable end of validity"))?
        .into_iter()
        .min()
        .ok_or_else(|| wrong(path, "it holds no certificate"))?;
    let file = path.to_owned();
    Ok((found, Validity { file, not_after }))
}

fn wrong(file: &Path, cause: impl ToString) -> TlsError {
    TlsError {
        file: file.to_owned(),
        cause: cause.to_string(),
    }
}
