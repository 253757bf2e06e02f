//! Written → typed and checked.

use crate::config::layers;
use crate::config::peers::{check_fetch, check_peers};
use crate::config::ports::check_ports;
use crate::config::{Destination, NO_NOTICE, Protocol, Window, Written};
use crate::dicom::ae::{Address, AeTitle};
use crate::results;
use crate::results::profile::{self, Profile, SegEncoding};
use crate::structure::{self, Role};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

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

/// A destination with its address and profile understood.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub address: Address,
    pub profile: Profile,
    /// The profile whose style this is: the first of those that write alike, so that alike receivers share their objects.
    pub style: String,
    pub written: Destination,
}

/// The configuration, typed and checked: what the daemon runs on.
#[derive(Clone, Debug)]
pub struct Config {
    pub written: Written,
    pub ae_title: AeTitle,
    pub teaching_ae: AeTitle,
    pub routes: Vec<Route>,
    /// When `medlsamd fetch` may work; `None`: always.
    pub fetch_window: Option<Window>,
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
        Self::resolve(layers::read(file)?)
    }

    /// Checks everything that can be checked without touching disk or network.
    pub fn resolve(written: Written) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let ae_title = AeTitle::parse(&written.dicom.ae_title)
            .map_err(|error| problems.push(Problem::new("dicom.ae_title", error.to_string(), "e.g. \"MEDLSAM\"")))
            .ok();
        let teaching_ae = check_teaching(&written, &mut problems);
        check_numbers(&written, &mut problems);
        check_peers(&written, &mut problems);
        let routes = check_destinations(&written, &mut problems);
        check_protocols(&written, &routes, &mut problems);
        let fetch_window = check_fetch(&written, &mut problems);
        match (ae_title, teaching_ae) {
            (Some(ae_title), Some(teaching_ae)) if problems.is_empty() => Ok(Self {
                written,
                ae_title,
                teaching_ae,
                routes,
                fetch_window,
            }),
            _ => Err(problems),
        }
    }

    pub fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }

    /// Whether certificates are needed: for the encrypted port, for a destination or for a peer that is called.
    pub fn uses_tls(&self) -> bool {
        !self.written.dicom.tls.listen.is_empty()
            || self.routes.iter().any(|route| route.written.tls)
            || self.written.peer.iter().any(|peer| peer.tls)
    }

    pub fn protocol(&self, name: &str) -> Option<&Protocol> {
        self.written.protocol.iter().find(|protocol| protocol.name == name)
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
    positive(
        "dicom.max_associations_per_host",
        written.dicom.max_associations_per_host as f64,
    );
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
    check_ports(written, problems);
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

fn check_teaching(written: &Written, problems: &mut Vec<Problem>) -> Option<AeTitle> {
    let mut complain = |problem: String| {
        let hint = "an AE title of its own, e.g. \"MEDLSAM_TEACH\"";
        problems.push(Problem::new("teaching.ae_title", problem, hint));
        None
    };
    match AeTitle::parse(&written.teaching.ae_title) {
        Ok(title) if title.as_str() == written.dicom.ae_title.trim() => {
            complain("it is dicom.ae_title too, so nothing would tell a lesson from a series to outline".into())
        }
        Ok(title) => Some(title),
        Err(error) => complain(error.to_string()),
    }
}

fn check_destinations(written: &Written, problems: &mut Vec<Problem>) -> Vec<Route> {
    let profiles = profiles(written, problems);
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
        let profile = profiles.get(&destination.profile);
        if profile.is_none() {
            let known: Vec<&str> = profiles.keys().map(String::as_str).collect();
            problems.push(Problem::new(
                format!("destination[{n}].profile"),
                format!("no profile is called {:?}", destination.profile),
                format!(
                    "{}, or a [profile.{}] of your own",
                    known.join(", "),
                    destination.profile
                ),
            ));
        }
        match (destination.address.parse::<Address>(), profile) {
            (Ok(address), Some(profile)) => routes.push(Route {
                name: destination.name.clone(),
                address,
                profile: profile.clone(),
                style: first_alike(&profiles, profile),
                written: destination.clone(),
            }),
            (Ok(_), None) => {}
            (Err(error), _) => problems.push(Problem::new(
                format!("destination[{n}].address"),
                error.to_string(),
                "e.g. \"PACS@10.0.0.5:104\"",
            )),
        }
    }
    routes
}

/// The built-in profiles and the site's own, which replace those of the same name.
fn profiles(written: &Written, problems: &mut Vec<Problem>) -> BTreeMap<String, Profile> {
    let mut profiles = profile::built_in();
    for (name, profile) in &written.profile {
        let mut complain = |key: &str, problem: String, hint: &str| {
            problems.push(Problem::new(format!("profile.{name}.{key}"), problem, hint))
        };
        // It becomes a part of file names.
        if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            complain("name", "not a name".into(), "lower-case letters, digits and _");
        }
        for kind in profile
            .takes
            .iter()
            .filter(|kind| !results::names().contains(&kind.as_str()))
        {
            complain(
                "takes",
                format!("no result is called {kind:?}"),
                &results::names().join(", "),
            );
        }
        for structure in profile.style.names.keys().chain(profile.style.colours.keys()) {
            if structure::by_name(structure).is_none() {
                let hint = "`medlsamd template list` shows the names";
                complain("style", format!("no structure is called {structure:?}"), hint);
            }
        }
        if !(profile.style.simplify_mm.is_finite() && (0.0..=1.0).contains(&profile.style.simplify_mm)) {
            complain(
                "style.simplify_mm",
                format!("{} is outside 0 to 1", profile.style.simplify_mm),
                "0 keeps every corner",
            );
        }
        if !(8..=64).contains(&profile.style.name_length) {
            complain(
                "style.name_length",
                format!("{} is outside 8 to 64", profile.style.name_length),
                "16 suits most",
            );
        }
        if !(1024..=65_534).contains(&profile.style.contour_bytes) {
            complain(
                "style.contour_bytes",
                format!("{} is outside 1024 to 65534", profile.style.contour_bytes),
                "65534",
            );
        }
        profiles.insert(name.clone(), profile.clone());
    }
    profiles
}

fn first_alike(profiles: &BTreeMap<String, Profile>, profile: &Profile) -> String {
    let generic = profiles
        .get(results::GENERIC)
        .filter(|generic| generic.style == profile.style);
    let alike = || profiles.iter().find(|(_, other)| other.style == profile.style);
    match generic {
        Some(_) => results::GENERIC.into(),
        None => alike().map(|(name, _)| name.clone()).unwrap_or_default(),
    }
}

/// Destinations that do not exist, or take nothing of what the protocol makes.
fn check_receivers(
    protocol: &Protocol,
    written: &Written,
    routes: &[Route],
    complain: &mut dyn FnMut(&str, String, &str),
) {
    for name in &protocol.send_to {
        let Some(route) = routes.iter().find(|route| route.name == *name) else {
            if !written.destination.iter().any(|d| d.name == *name) {
                let hint = "add a [[destination]] of that name";
                complain("send_to", format!("no destination is called {name:?}"), hint);
            }
            continue;
        };
        if overlaps(protocol, route) {
            let problem = format!("{name} takes label maps only, which cannot hold the body and what lies in it");
            complain(
                "send_to",
                problem,
                "give its profile seg = \"auto\", or leave external out",
            );
        }
        if !protocol
            .results
            .iter()
            .any(|result| route.profile.takes.contains(result))
        {
            let takes = route.profile.takes.join(", ");
            complain(
                "send_to",
                format!("{name} takes {takes}, none of which is among the results"),
                "add one to results, or give the destination another profile",
            );
        }
    }
}

/// Whether a label map would have to hold the body and the organs within it.
fn overlaps(protocol: &Protocol, route: &Route) -> bool {
    let computed = |name: &String| structure::by_name(name).is_some_and(|s| s.role != Role::Organ);
    route.profile.seg == SegEncoding::Labelmap
        && protocol
            .results
            .iter()
            .any(|result| result == "seg" && route.profile.takes.contains(result))
        && protocol.structures.len() > 1
        && protocol.structures.iter().any(computed)
}

fn check_protocols(written: &Written, routes: &[Route], problems: &mut Vec<Problem>) {
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
        for kind in protocol
            .results
            .iter()
            .filter(|kind| !results::names().contains(&kind.as_str()))
        {
            complain(
                "results",
                format!("no result is called {kind:?}"),
                &results::names().join(", "),
            );
        }
        if protocol.notice != NO_NOTICE && results::notice::kind(&protocol.notice).is_none() {
            complain(
                "notice",
                format!("no notice is called {:?}", protocol.notice),
                "none, sc or sr",
            );
        }
        check_receivers(protocol, written, routes, &mut complain);
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
    fn a_site_can_add_a_profile_and_alike_receivers_share_their_objects() {
        let mut written = Written::example();
        let own = Profile {
            seg: SegEncoding::Auto,
            ..profile::built_in()["eclipse"].clone()
        };
        written.profile.insert("our_tps".into(), own);
        written.destination[0].profile = "our_tps".into();
        let config = Config::resolve(written.clone()).unwrap();
        assert_eq!(config.routes[0].profile.seg, SegEncoding::Auto);
        // Eclipse's style is the generic one.
        assert_eq!(config.routes[0].style, results::GENERIC);

        let mut mixed = written.clone();
        let own = mixed.profile.get_mut("our_tps").unwrap();
        (own.seg, own.takes) = (SegEncoding::Labelmap, vec!["seg".into()]);
        assert!(Config::resolve(mixed.clone()).is_ok());
        mixed.protocol[0].structures.push("external".into());
        let problems = Config::resolve(mixed).unwrap_err();
        assert!(
            problems.len() == 1 && problems[0].problem.contains("label maps only"),
            "{problems:#?}"
        );

        written.destination[0].profile = "elsewhere".into();
        let seg_only = vec!["seg".to_owned()];
        let tps = Profile {
            takes: vec!["rtstruct".into(), "film".into()],
            ..Profile::default()
        };
        written.profile.insert("Our TPS".into(), tps);
        written.destination.push(crate::config::Destination {
            name: "TPS".into(),
            profile: "eclipse".into(),
            ..written.destination[0].clone()
        });
        written.protocol[0].results = seg_only;
        written.protocol[0].send_to.push("TPS".into());
        let problems = Config::resolve(written).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        let expected = [
            "profile.Our TPS.name",
            "profile.Our TPS.takes",
            "destination[0].profile",
            "protocol[0].send_to",
        ];
        assert_eq!(keys, expected, "{problems:#?}");
    }
}
