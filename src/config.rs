//! Settings: as written, then resolved. Every problem is reported at once, each with a hint.
//!
//! Layers: built-in defaults < the file < environment `MEDLSAMD__SECTION__KEY`. Unknown keys are errors.
//! `config/medlsamd.toml` lists every key at its default; a test holds it to these structs.

use crate::dicom::ae::{Address, AeTitle};
use crate::results;
use crate::structure;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
    pub inference: Inference,
    pub models: Models,
    pub log: Log,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dicom {
    pub ae_title: String,
    pub listen: String,
    pub max_associations: usize,
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
}

impl Default for Dicom {
    fn default() -> Self {
        Self {
            ae_title: "MEDLSAM".into(),
            listen: "0.0.0.0:11112".into(),
            max_associations: 64,
            max_pdu: 131_072,
            artim_timeout_s: 30,
            idle_timeout_s: 120,
            write_timeout_s: 60,
            max_object_mb: 2048,
        }
    }
}

/// A remote application entity and what it may do. Nobody may do anything unless listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Calling AE title, or `any`.
    pub ae_title: String,
    /// IP address or host name it must call from, or `any`.
    pub host: String,
    pub may: Vec<Permission>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// C-STORE to us. Verification (C-ECHO) is open to every listed peer.
    Store,
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
            priority: 0,
            min_slices: default_min_slices(),
            min_extent_mm: default_min_extent_mm(),
        }
    }
}

fn default_results() -> Vec<String> {
    vec!["seg".into(), "rtstruct".into()]
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
    pub localiser: String,
    pub segmenter: String,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            dir: "/usr/share/medlsamd/models".into(),
            weights_dir: "/var/lib/medlsamd/weights".into(),
            localiser: "medlam".into(),
            segmenter: "lite_medsam".into(),
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

/// Something wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: `section.key`, or the file.
    pub key: String,
    pub problem: String,
    pub hint: String,
}

impl Problem {
    pub fn new(key: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
            hint: hint.into(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (hint: {})", self.key, self.problem, self.hint)
    }
}

/// A destination with its address understood.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub address: Address,
    pub written: Destination,
}

/// The configuration, typed and checked: what the daemon runs on.
#[derive(Clone, Debug)]
pub struct Config {
    pub written: Written,
    pub ae_title: AeTitle,
    pub routes: Vec<Route>,
}

impl Config {
    /// Reads all layers. `file` is the operator's; when it is `None` only defaults and environment count.
    ///
    /// # Errors
    /// All problems found, never only the first.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<Problem>> {
        let config = Self::load_offline(file)?;
        let mut problems = Vec::new();
        check_served(&config.written, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// [`load`](Self::load) for commands that serve nobody: peers and protocols may be absent.
    pub fn load_offline(file: Option<&Path>) -> Result<Self, Vec<Problem>> {
        Self::resolve(read(file)?)
    }

    /// Checks everything that can be checked without touching disk or network.
    pub fn resolve(written: Written) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let ae_title = AeTitle::parse(&written.dicom.ae_title)
            .map_err(|error| problems.push(Problem::new("dicom.ae_title", error.to_string(), "e.g. \"MEDLSAM\"")))
            .ok();
        check_numbers(&written, &mut problems);
        check_peers(&written, &mut problems);
        let routes = check_destinations(&written, &mut problems);
        check_protocols(&written, &mut problems);
        match ae_title {
            Some(ae_title) if problems.is_empty() => Ok(Self {
                written,
                ae_title,
                routes,
            }),
            _ => Err(problems),
        }
    }

    pub fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }

    pub fn protocol(&self, name: &str) -> Option<&Protocol> {
        self.written.protocol.iter().find(|protocol| protocol.name == name)
    }
}

/// The layers put together, not yet checked. Relative paths of the file are relative to the file.
fn read(file: Option<&Path>) -> Result<Written, Vec<Problem>> {
    let mut builder = config::Config::builder();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = "give the file with --config, readable by the daemon's user";
            vec![Problem::new(path.display().to_string(), error.to_string(), hint)]
        })?;
        let unknown = unknown_keys(&text, path)?;
        if !unknown.is_empty() {
            return Err(unknown);
        }
        builder = builder.add_source(config::File::from_str(&text, config::FileFormat::Toml));
    }
    let environment = config::Environment::with_prefix("MEDLSAMD")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true);
    let mut written: Written = builder
        .add_source(environment)
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| {
            let hint = "config/medlsamd.toml lists every key with its type";
            vec![Problem::new("configuration", error.to_string(), hint)]
        })?;
    if let Some(dir) = file.and_then(Path::parent) {
        let written = &mut written;
        let paths = [
            &mut written.storage.dir,
            &mut written.inference.library,
            &mut written.models.dir,
            &mut written.models.weights_dir,
        ];
        for path in paths
            .into_iter()
            .chain(&mut written.inference.engine_cache)
            .chain(&mut written.watch.folders)
        {
            *path = dir.join(&path);
        }
    }
    Ok(written)
}

/// Every key of the file that no setting has. Compared with an example that holds every key, so that one look finds all.
fn unknown_keys(text: &str, path: &Path) -> Result<Vec<Problem>, Vec<Problem>> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        vec![Problem::new(
            path.display().to_string(),
            error.to_string(),
            "mend the TOML",
        )]
    })?;
    let example = toml::Table::try_from(Written::example()).expect("the example is plain data");
    let mut found = Vec::new();
    collect_unknown(&table, &example, "", &mut found);
    Ok(found)
}

fn collect_unknown(table: &toml::Table, example: &toml::Table, prefix: &str, found: &mut Vec<Problem>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        let Some(known) = example.get(key) else {
            let near = example.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            found.push(Problem::new(name, "no such key", format!("known here: {near}")));
            continue;
        };
        // A protocol's match holds the operator's own keywords.
        if key == "match" {
            continue;
        }
        let items = |value: &toml::Value| match value {
            toml::Value::Array(items) => items.iter().filter_map(|v| v.as_table().cloned()).collect(),
            toml::Value::Table(one) => vec![one.clone()],
            _ => Vec::<toml::Table>::new(),
        };
        if let Some(known) = items(known).first() {
            for item in items(value) {
                collect_unknown(&item, known, &format!("{name}."), found);
            }
        }
    }
}

fn check_numbers(written: &Written, problems: &mut Vec<Problem>) {
    let mut positive = |key: &str, value: f64| {
        if !(value.is_finite() && value > 0.0) {
            problems.push(Problem::new(
                key,
                format!("{value} is not a positive number"),
                "leave it out for the default",
            ));
        }
    };
    positive("dicom.max_associations", written.dicom.max_associations as f64);
    positive("dicom.artim_timeout_s", written.dicom.artim_timeout_s as f64);
    positive("dicom.idle_timeout_s", written.dicom.idle_timeout_s as f64);
    positive("dicom.write_timeout_s", written.dicom.write_timeout_s as f64);
    positive("dicom.max_object_mb", written.dicom.max_object_mb as f64);
    positive("series.settle_s", written.series.settle_s);
    positive("series.quiet_period_s", written.series.quiet_period_s);
    positive("series.max_wait_s", written.series.max_wait_s);
    positive("storage.min_free_gb", written.storage.min_free_gb);
    if !(4096..=16_777_216).contains(&written.dicom.max_pdu) {
        problems.push(Problem::new(
            "dicom.max_pdu",
            format!("{} is outside 4096 to 16777216", written.dicom.max_pdu),
            "131072 suits most networks",
        ));
    }
    let timing = &written.series;
    if timing.settle_s > timing.quiet_period_s || timing.quiet_period_s > timing.max_wait_s {
        problems.push(Problem::new(
            "series",
            "settle_s, quiet_period_s and max_wait_s must not shrink in this order",
            "defaults: 5, 60, 3600",
        ));
    }
    for provider in &written.inference.providers {
        if !["auto", "tensorrt", "cuda", "cpu"].contains(&provider.as_str()) {
            problems.push(Problem::new(
                "inference.providers",
                format!("no provider is called {provider:?}"),
                "auto, tensorrt, cuda or cpu",
            ));
        }
    }
    if !["text", "json"].contains(&written.log.format.as_str()) {
        problems.push(Problem::new(
            "log.format",
            format!("{:?} is no log format", written.log.format),
            "text or json",
        ));
    }
    if written
        .dicom
        .listen
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok())
        .is_none()
    {
        problems.push(Problem::new(
            "dicom.listen",
            format!("{:?} is not address:port", written.dicom.listen),
            "e.g. \"0.0.0.0:11112\"",
        ));
    }
}

/// What a daemon needs and a command on files does not.
fn check_served(written: &Written, problems: &mut Vec<Problem>) {
    if written.peer.is_empty() && written.watch.folders.is_empty() {
        problems.push(Problem::new(
            "peer",
            "nobody is listed, so nobody may send",
            "add a [[peer]] with ae_title, host and may = [\"store\"]",
        ));
    }
    if written.protocol.is_empty() {
        problems.push(Problem::new(
            "protocol",
            "none is listed, so no series is worked on",
            "add a [[protocol]] with name and structures = [\"all\"]",
        ));
    }
}

fn check_peers(written: &Written, problems: &mut Vec<Problem>) {
    for (n, peer) in written.peer.iter().enumerate() {
        if peer.ae_title != "any"
            && let Err(error) = AeTitle::parse(&peer.ae_title)
        {
            problems.push(Problem::new(
                format!("peer[{n}].ae_title"),
                error.to_string(),
                "the calling AE title, or \"any\"",
            ));
        }
        if peer.host.trim().is_empty() {
            problems.push(Problem::new(
                format!("peer[{n}].host"),
                "empty",
                "an address, a host name, or \"any\"",
            ));
        }
    }
}

fn check_destinations(written: &Written, problems: &mut Vec<Problem>) -> Vec<Route> {
    let mut names = BTreeSet::new();
    let mut routes = Vec::new();
    for (n, destination) in written.destination.iter().enumerate() {
        if !names.insert(&destination.name) {
            problems.push(Problem::new(
                format!("destination[{n}].name"),
                format!("{:?} is there twice", destination.name),
                "names are unique",
            ));
        }
        match destination.address.parse::<Address>() {
            Ok(address) => routes.push(Route {
                name: destination.name.clone(),
                address,
                written: destination.clone(),
            }),
            Err(error) => problems.push(Problem::new(
                format!("destination[{n}].address"),
                error.to_string(),
                "e.g. \"PACS@10.0.0.5:104\"",
            )),
        }
    }
    routes
}

fn check_protocols(written: &Written, problems: &mut Vec<Problem>) {
    let mut names = BTreeSet::new();
    for (n, protocol) in written.protocol.iter().enumerate() {
        let mut complain = |key: &str, problem: String, hint: &str| {
            problems.push(Problem::new(format!("protocol[{n}].{key}"), problem, hint))
        };
        if !names.insert(&protocol.name) {
            complain(
                "name",
                format!("{:?} is there twice", protocol.name),
                "names are unique",
            );
        }
        if protocol.structures.is_empty() {
            complain("structures", "empty".into(), "name structures, or [\"all\"]");
        }
        for name in protocol
            .structures
            .iter()
            .filter(|name| *name != "all" && structure::by_name(name).is_none())
        {
            complain(
                "structures",
                format!("no structure is called {name:?}"),
                "`medlsamd template list` shows the names",
            );
        }
        for kind in protocol.results.iter().filter(|kind| results::kind(kind).is_none()) {
            complain("results", format!("no result is called {kind:?}"), "seg, rtstruct");
        }
        for name in protocol
            .send_to
            .iter()
            .filter(|name| !written.destination.iter().any(|d| d.name == **name))
        {
            complain(
                "send_to",
                format!("no destination is called {name:?}"),
                "add a [[destination]] of that name",
            );
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
            timeout_s: default_timeout_s(),
            retry_s: default_retry_s(),
            retry_max_s: default_retry_max_s(),
            attempts: default_attempts(),
        };
        let inference = Inference {
            engine_cache: Some("/var/lib/medlsamd/engines".into()),
            ..Inference::default()
        };
        Self {
            peer: vec![peer],
            protocol: vec![protocol],
            destination: vec![destination],
            inference,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_fine_and_every_problem_is_reported_at_once() {
        assert!(Config::resolve(Written::example()).is_ok());
        let mut bad = Written::example();
        bad.dicom.ae_title = "MUCH_TOO_LONG_A_TITLE".into();
        bad.destination[0].address = "nowhere".into();
        bad.protocol[0].structures.push("soul".into());
        bad.protocol[0].send_to.push("VNA".into());
        bad.series.settle_s = -1.0;
        let keys: Vec<String> = Config::resolve(bad).unwrap_err().into_iter().map(|p| p.key).collect();
        for key in [
            "dicom.ae_title",
            "destination[0].address",
            "protocol[0].structures",
            "protocol[0].send_to",
            "series.settle_s",
        ] {
            assert!(keys.iter().any(|k| k == key), "{key} missing in {keys:?}");
        }
    }

    #[test]
    fn all_unknown_keys_are_found_in_one_look() {
        let text = "[dicom]\nae_titel=\"X\"\n[[peer]]\nae_title=\"A\"\nhost=\"any\"\nmay=[]\ncolour=1\n[nonsense]\na=1\n[[protocol]]\nname=\"x\"\nstructures=[]\nmatch={Foo=\"*\"}";
        let keys: Vec<String> = unknown_keys(text, Path::new("x"))
            .unwrap()
            .into_iter()
            .map(|p| p.key)
            .collect();
        assert_eq!(keys, ["dicom.ae_titel", "nonsense", "peer.colour"]);
    }
}
