//! `medlsamd check`: every problem of configuration, models, providers and destinations at once, each with a hint.

use crate::config::{Config, Problem, Route};
use crate::engines;
use crate::exit::Exit;
use crate::net;
use crate::net::scu::{self, Dial};
use crate::net::tls::Tls;
use crate::pipeline::Engines;
use crate::table;
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;

/// A line of the report.
struct Finding {
    subject: String,
    /// The exit code a failure of this line asks for; `None` when all is well.
    trouble: Option<u8>,
    text: String,
    hint: String,
}

impl Finding {
    fn fine(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            trouble: None,
            text: text.into(),
            hint: String::new(),
        }
    }
    fn bad(code: u8, subject: impl Into<String>, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            trouble: Some(code),
            text: text.into(),
            hint: hint.into(),
        }
    }
    fn problem(problem: Problem) -> Self {
        Self::bad(2, problem.key, problem.problem, problem.hint)
    }
}

/// Checks everything, prints the table, and exits with the gravest code among the findings.
pub fn run(file: Option<&Path>, online: bool, json: bool) -> Result<(), Exit> {
    let mut findings = Vec::new();
    match Config::load(file) {
        Ok(_) => findings.push(Finding::fine("configuration", "every key is known and makes sense")),
        Err(problems) => findings.extend(problems.into_iter().map(Finding::problem)),
    }
    // Models and runtime are checked even when the peers are wrong: one look shows all.
    if let Ok(config) = Config::load_offline(file) {
        storage(&config, &mut findings);
        inference(&config, &mut findings);
        let tls = certificates(&config, &mut findings);
        if online {
            destinations(&config, tls.as_ref(), &mut findings);
        }
    }
    report(&findings, json)
}

fn report(findings: &[Finding], json: bool) -> Result<(), Exit> {
    if json {
        let facts: Vec<_> = findings
            .iter()
            .map(|f| serde_json::json!({ "subject": f.subject, "ok": f.trouble.is_none(), "text": f.text, "hint": f.hint }))
            .collect();
        println!("{:#}", serde_json::Value::from(facts));
    } else {
        let rows: Vec<Vec<String>> = findings
            .iter()
            .map(|f| {
                let mark = if f.trouble.is_some() { "PROBLEM" } else { "ok" };
                vec![mark.into(), f.subject.clone(), f.text.clone(), f.hint.clone()]
            })
            .collect();
        print!("{}", table::render(&["", "what", "finding", "hint"], &rows));
    }
    let troubles = findings.iter().filter(|f| f.trouble.is_some()).count();
    let text = format!("{troubles} problem(s)");
    match findings.iter().filter_map(|f| f.trouble).min() {
        None => Ok(()),
        Some(2) => Err(Exit::Usage(text)),
        Some(3) => Err(Exit::Missing(text)),
        Some(_) => Err(Exit::Peer(text)),
    }
}

fn storage(config: &Config, findings: &mut Vec<Finding>) {
    let dir = &config.written.storage.dir;
    let subject = format!("storage {}", dir.display());
    let probe = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir));
    findings.push(match probe {
        Ok(_) => Finding::fine(subject, "writable"),
        Err(error) => Finding::bad(3, subject, error.to_string(), "make it writable for the daemon's user"),
    });
}

fn inference(config: &Config, findings: &mut Vec<Finding>) {
    let models = &config.written.models;
    for name in [&models.localiser, &models.segmenter] {
        let checked = engines::manifest(config, name).and_then(|m| m.load_verified().map(|bytes| (m, bytes.len())));
        findings.push(match checked {
            Ok((m, bytes)) => Finding::fine(
                format!("model {name}"),
                format!("{} {}, {bytes} bytes verified", m.name, m.version),
            ),
            Err(error) => Finding::bad(
                3,
                format!("model {name}"),
                error.to_string(),
                "run the set-up again, or set [models]",
            ),
        });
    }
    let runtime = match engines::runtime(config) {
        Ok(runtime) => runtime,
        Err(error) => {
            findings.push(Finding::bad(
                3,
                "ONNX Runtime",
                error.to_string(),
                "set inference.library",
            ));
            return;
        }
    };
    findings.push(Finding::fine("ONNX Runtime", format!("version {}", runtime.version())));
    let asked = &config.written.inference.providers;
    for (provider, answer) in runtime.probe() {
        let subject = format!("provider {provider}");
        findings.push(match answer {
            Ok(()) => Finding::fine(subject, "loads"),
            Err(cause) if asked.contains(&provider) && config.written.inference.strict => Finding::bad(
                3,
                subject,
                cause,
                "install its libraries, or take it out of inference.providers",
            ),
            // Loud, but no failure: the operator allowed it, and the unit runs this check before every start.
            Err(cause) if asked.contains(&provider) => {
                Finding::fine(subject, format!("WARNING, another provider is used instead: {cause}"))
            }
            Err(cause) => Finding::fine(subject, format!("not available: {cause}")),
        });
    }
    match engines::load(config, &runtime) {
        Ok(engines) => {
            for a in engines.assignments() {
                let nodes: Vec<String> = a.nodes.iter().map(|(name, count)| format!("{name} {count}")).collect();
                findings.push(Finding::fine(
                    format!("session {}", a.model),
                    format!("on {} ({} nodes)", a.provider, nodes.join(", ")),
                ));
            }
            let structures = engines.localiser.bank.structures().len();
            findings.push(Finding::fine("template bank", format!("{structures} structures")));
            findings.push(own_templates(config, &engines));
        }
        Err(error) => findings.push(Finding::bad(3, "sessions", error.to_string(), "see the lines above")),
    }
}

fn own_templates(config: &Config, engines: &Engines) -> Finding {
    let subject = format!("own templates {}", config.written.models.templates.display());
    let used = engines::own_templates(config).and_then(|own| {
        let cases = own.templates.len();
        engines.localiser.bank.clone().join(own).map(|()| cases)
    });
    match used {
        Ok(cases) => Finding::fine(subject, format!("{cases} cases")),
        Err(error) => Finding::bad(
            3,
            subject,
            error.to_string(),
            "move the file away and send the cases again",
        ),
    }
}

/// Fewer days than this before a certificate ends are a warning.
const RENEWAL_DAYS: i64 = 30;

/// The certificates of `[dicom.tls]` where they are needed, and how long they will do.
fn certificates(config: &Config, findings: &mut Vec<Finding>) -> Option<Arc<Tls>> {
    let tls = match Tls::of(config) {
        Ok(tls) => tls?,
        Err(error) => {
            let subject = format!("certificate {}", error.file.display());
            let hint = "a PEM file readable for the daemon's user; see [dicom.tls]";
            findings.push(Finding::bad(3, subject, error.cause, hint));
            return None;
        }
    };
    for validity in tls.validity() {
        let subject = format!("certificate {}", validity.file.display());
        let (days, end) = (validity.days_left(Timestamp::now()), validity.not_after);
        findings.push(match days {
            ..0 => Finding::bad(
                3,
                subject,
                format!("expired at {end}, nobody accepts it"),
                "replace the file",
            ),
            // Loud, but no failure: it still works, and the unit runs this check before every start.
            0..RENEWAL_DAYS => Finding::fine(subject, format!("WARNING, ends in {days} days, at {end}: renew it")),
            _ => Finding::fine(subject, format!("valid for {days} days, until {end}")),
        });
    }
    Some(tls)
}

fn destinations(config: &Config, tls: Option<&Arc<Tls>>, findings: &mut Vec<Finding>) {
    // Without certificates, encrypted destinations cannot be asked; the finding about them is there already.
    let reachable = |route: &&Route| tls.is_some() || !route.written.tls;
    for route in config.routes.iter().filter(reachable) {
        let dial = Dial::to(config, route, tls);
        let subject = format!("destination {}", route.name);
        let hint = format!("does {} know the AE title {}?", route.address, config.ae_title);
        findings.push(match net::blocking(scu::echo(&dial)) {
            Ok(status) if status.is_stored() => Finding::fine(subject, format!("{} answers C-ECHO", route.address)),
            Ok(status) => Finding::bad(4, subject, format!("C-ECHO answered {status}"), hint),
            Err(error) => Finding::bad(4, subject, error.to_string(), hint),
        });
    }
}
