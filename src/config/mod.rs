//! Settings: as written, then resolved. Every problem is reported at once, each with a hint.
//!
//! Layers: built-in defaults < the file < environment `MEDLSAMD__SECTION__KEY`. Unknown keys are errors.
//! `config/medlsamd.toml` lists every key at its default; a test holds it to these structs.

mod layers;
mod ports;
mod peers;
mod resolve;
mod window;

pub use resolve::{Config, Problem, Route};
pub use window::Window;

use crate::dicom::ae::{Address, AeTitle};
use crate::results;
use crate::results::profile::Profile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The whole configuration as written. [`Config::resolve`] finds everything that is wrong with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Written {
    pub dicom: Dicom,
    pub peer: Vec<Peer>,
    pub storage: Storage,
    pub series: SeriesTiming,
    pub watch: Watch,
    pub protocol: Vec<Protocol>,
    pub destination: Vec<Destination>,
    pub fetch: Fetch,
    /// The site's own destination profiles; one of a built-in name replaces it.
    pub profile: BTreeMap<String, Profile>,
    pub inference: Inference,
    pub models: Models,
    pub teaching: Teaching,
    pub web: Web,
    pub log: Log,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dicom {
    pub ae_title: String,
    pub listen: String,
    pub max_associations: usize,
    /// Of them, those of one host.
    pub max_associations_per_host: usize,
    /// Largest P-DATA PDU we accept, bytes.
    pub max_pdu: u32,
    /// From TCP connect to A-ASSOCIATE-RQ (the ARTIM timer of PS3.8).
    pub artim_timeout_s: u64,
    /// Silence in an open association after which it is aborted.
    pub idle_timeout_s: u64,
    /// A single write that does not move for this long.
    pub write_timeout_s: u64,
    /// Largest object we take, MiB.
    pub max_object_mb: u64,
    pub tls: Tls,
}

/// The encrypted port, and the certificates for it and for destinations with `tls`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Empty: no encrypted port.
    pub listen: String,
    /// PEM: ours and those between it and the authority.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// PEM: the authorities whose certificates peers must show.
    pub ca: PathBuf,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            listen: String::new(),
            certificate: "/etc/medlsamd/tls/certificate.pem".into(),
            key: "/etc/medlsamd/tls/key.pem".into(),
            ca: "/etc/medlsamd/tls/ca.pem".into(),
        }
    }
}

impl Default for Dicom {
    fn default() -> Self {
        Self {
            ae_title: "MEDLSAM".into(),
            listen: "0.0.0.0:11112".into(),
            max_associations: 256,
            max_associations_per_host: 64,
            max_pdu: 131_072,
            artim_timeout_s: 30,
            idle_timeout_s: 120,
            write_timeout_s: 60,
            max_object_mb: 2048,
            tls: Tls::default(),
        }
    }
}

/// A remote application entity and what it may do. Nobody may do anything unless listed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Calling AE title, or `any`.
    pub ae_title: String,
    /// IP address or host name it must call from, or `any`.
    pub host: String,
    pub may: Vec<Permission>,
    /// Where it listens, for objects it asks us to send to it and for storage commitment; 0: it is never called back.
    #[serde(default)]
    pub port: u16,
    /// It is called there encrypted, with the certificates of `[dicom.tls]`. How it calls us is its own choice.
    #[serde(default)]
    pub tls: bool,
    /// What its certificate must name; empty: the host.
    #[serde(default)]
    pub tls_name: String,
}

impl Peer {
    /// Where it can be called back, if that is known.
    pub fn address(&self) -> Option<Address> {
        Some(Address {
            ae_title: AeTitle::parse(&self.ae_title).ok()?,
            host: self.host.clone(),
            port: Some(self.port).filter(|port| *port != 0)?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// C-STORE to us. Verification (C-ECHO) is open to every listed peer.
    Store,
    /// C-STORE of a CT and of RTSTRUCT or SEG to the teaching AE title.
    Teach,
    /// C-FIND.
    Query,
    /// C-MOVE, to destinations and to peers with a port, and C-GET.
    Retrieve,
    /// Storage commitment.
    Commit,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    pub dir: PathBuf,
    /// Below this, objects are refused with A700.
    pub min_free_gb: f64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            dir: "/var/lib/medlsamd".into(),
            min_free_gb: 2.0,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SeriesTiming {
    /// Silence after which a series with evidence of being whole (gap-free, association released) is taken.
    pub settle_s: f64,
    /// Silence after which a series without that evidence is taken as it is.
    pub quiet_period_s: f64,
    /// A series that never falls silent is taken after this long.
    pub max_wait_s: f64,
}

impl Default for SeriesTiming {
    fn default() -> Self {
        Self {
            settle_s: 5.0,
            quiet_period_s: 60.0,
            max_wait_s: 3600.0,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watch {
    /// Drop folders: files that appear here and stop growing are taken in.
    pub folders: Vec<PathBuf>,
}

/// What `notice` says when nobody wants one.
pub const NO_NOTICE: &str = "none";

/// Which series get which structures, and where the results go. The first protocol that matches wins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    pub name: String,
    /// Keyword → pattern with `*` and `?`, case-insensitive; all must match. Empty matches every CT series.
    #[serde(default, rename = "match")]
    pub matches: BTreeMap<String, String>,
    /// Structure names, or `["all"]` for every structure of the template bank.
    pub structures: Vec<String>,
    #[serde(default = "default_results")]
    pub results: Vec<String>,
    /// Destination names.
    #[serde(default)]
    pub send_to: Vec<String>,
    /// What the destinations get when a series comes to nothing: `none`, or a form of notice, `sc` or `sr`.
    #[serde(default = "default_notice")]
    pub notice: String,
    /// Higher runs first.
    #[serde(default)]
    pub priority: i64,
    #[serde(default = "default_min_slices")]
    pub min_slices: usize,
    #[serde(default = "default_min_extent_mm")]
    pub min_extent_mm: f64,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            name: String::new(),
            matches: BTreeMap::new(),
            structures: vec!["all".into()],
            results: default_results(),
            send_to: Vec::new(),
            notice: default_notice(),
            priority: 0,
            min_slices: default_min_slices(),
            min_extent_mm: default_min_extent_mm(),
        }
    }
}

fn default_results() -> Vec<String> {
    vec!["seg".into(), "rtstruct".into()]
}
fn default_notice() -> String {
    NO_NOTICE.into()
}
fn default_min_slices() -> usize {
    20
}
fn default_min_extent_mm() -> f64 {
    60.0
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    pub name: String,
    /// `AETITLE@host:port`.
    pub address: String,
    /// Encrypted, with the certificates of `[dicom.tls]`.
    #[serde(default)]
    pub tls: bool,
    /// What its certificate must name; empty: the host of the address.
    #[serde(default)]
    pub tls_name: String,
    /// What it takes, and how: a name of the built-in or the site's own profiles.
    #[serde(default = "default_profile")]
    pub profile: String,
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    /// First pause after a failed send; doubles up to `retry_max_s`.
    #[serde(default = "default_retry_s")]
    pub retry_s: f64,
    #[serde(default = "default_retry_max_s")]
    pub retry_max_s: f64,
    /// Sends tried before a person must look.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
    /// After a delivery, ask whether it will be kept (storage commitment).
    #[serde(default)]
    pub commit: bool,
}

/// `medlsamd fetch`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fetch {
    /// Name of the destination to fetch from; empty: the only one there is.
    pub from: String,
    /// Local time to work in, `HH:MM-HH:MM`; empty: always.
    pub window: String,
}

fn default_profile() -> String {
    results::GENERIC.into()
}
fn default_timeout_s() -> u64 {
    60
}
fn default_retry_s() -> f64 {
    15.0
}
fn default_retry_max_s() -> f64 {
    3600.0
}
fn default_attempts() -> u32 {
    50
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inference {
    /// `auto`, or provider names in order of preference.
    pub providers: Vec<String>,
    pub strict: bool,
    pub device: i32,
    pub fp16: bool,
    pub engine_cache: Option<PathBuf>,
    /// 0 = one per core.
    pub threads: usize,
    /// The ONNX Runtime shared library.
    pub library: PathBuf,
}

impl Default for Inference {
    fn default() -> Self {
        Self {
            providers: vec!["auto".into()],
            strict: true,
            device: 0,
            fp16: false,
            engine_cache: None,
            threads: 0,
            library: "/usr/lib/medlsamd/libonnxruntime.so".into(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// Holds one directory per model, each with a `model.toml`.
    pub dir: PathBuf,
    /// Where weights that are fetched at set-up lie.
    pub weights_dir: PathBuf,
    /// The templates that this site taught, beside those that come with the localiser.
    pub templates: PathBuf,
    pub localiser: String,
    pub segmenter: String,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            dir: "/usr/share/medlsamd/models".into(),
            weights_dir: "/var/lib/medlsamd/weights".into(),
            templates: "/var/lib/medlsamd/templates.bin".into(),
            localiser: "medlam".into(),
            segmenter: "lite_medsam".into(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Teaching {
    /// A CT and the RTSTRUCT or SEG drawn on it, sent here, become a template.
    pub ae_title: String,
}

impl Default for Teaching {
    fn default() -> Self {
        Self {
            ae_title: "MEDLSAM_TEACH".into(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// `address:port`; empty for no web port.
    pub listen: String,
    /// Holds the token that DICOMweb asks for; without it DICOMweb is closed.
    pub token_file: Option<PathBuf>,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            token_file: None,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A tracing filter: `info`, `medlsamd=debug`, …
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: "text".into(),
        }
    }
}

impl Written {
    /// One of everything: holds every key there is, for the check of unknown keys and of `config/medlsamd.toml`.
    pub fn example() -> Self {
        let peer = Peer {
            ae_title: "CT1".into(),
            host: "10.0.0.7".into(),
            may: vec![Permission::Store],
            port: 104,
            ..Peer::default()
        };
        let protocol = Protocol {
            name: "chest".into(),
            matches: BTreeMap::from([("SeriesDescription".into(), "*".into())]),
            send_to: vec!["PACS".into()],
            ..Protocol::default()
        };
        let destination = Destination {
            name: "PACS".into(),
            address: "PACS@10.0.0.5:104".into(),
            tls: false,
            tls_name: String::new(),
            profile: default_profile(),
            timeout_s: default_timeout_s(),
            retry_s: default_retry_s(),
            retry_max_s: default_retry_max_s(),
            attempts: default_attempts(),
            commit: false,
        };
        let inference = Inference {
            engine_cache: Some("/var/lib/medlsamd/engines".into()),
            ..Inference::default()
        };
        let profile = Profile {
            about: "Our planning system".into(),
            takes: vec!["rtstruct".into()],
            ..Profile::default()
        };
        Self {
            peer: vec![peer],
            protocol: vec![protocol],
            destination: vec![destination],
            profile: BTreeMap::from([("our_tps".into(), profile)]),
            inference,
            web: Web {
                token_file: Some("/etc/medlsamd/token".into()),
                ..Web::default()
            },
            ..Self::default()
        }
    }
}
