//! `medlsamd demo`: starts the daemon on loopback with a configuration of its own, pushes a real CT to it as a scanner would,
//! and shows what came of it.

use crate::config::{Config, Peer, Permission, Protocol, Written};
use crate::daemon::Daemon;
use crate::dicom::ae::{Address, AeTitle};
use crate::exit::Exit;
use crate::job::{Job, State};
use crate::net::{self, scu};
use crate::nifti;
use crate::pipeline::{Report, Verdict};
use crate::process;
use crate::sample::{self, Label};
use crate::terminal::Shown;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the job, so that a hang ends with an error.
const PATIENCE: Duration = Duration::from_secs(3600);
const SCANNER: &str = "DEMO_SCANNER";

/// Runs the demonstration; its results stay under `<cache>/demo`.
pub fn run(cache: &Path, models: &Path) -> Result<(), Exit> {
    let sample = cache.join("sample/lidc_0001.nii.gz");
    for needed in [
        &sample,
        &cache.join("onnxruntime/libonnxruntime.so"),
        &cache.join("weights/lite_medsam.pth"),
    ] {
        if !needed.is_file() {
            return Err(Exit::Missing(format!(
                "{} is not there; run `make setup` first",
                needed.display()
            )));
        }
    }
    if !models.join("medlam/model.toml").is_file() {
        return Err(Exit::Missing(format!(
            "{} holds no models; run this at the top of the checkout",
            models.display()
        )));
    }
    let folder = fresh_folder(cache)?;
    let config = configuration(cache, models, &folder)
        .map_err(|problems| Exit::Usage(problems.iter().map(|p| format!("\n  {p}")).collect()))?;

    let begin = Instant::now();
    eprintln!("starting the daemon on loopback");
    let shown = Arc::new(Shown::default());
    let daemon = Daemon::start(config, shown.clone()).map_err(Exit::from)?;
    let outcome = push_and_wait(&daemon, &sample, &folder);
    shown.finish();
    let shown_to = outcome.and_then(|job| tell(&daemon, &job, begin));
    daemon.stop();
    shown_to
}

/// The last run's folder is removed: a demonstration shows one run.
fn fresh_folder(cache: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(cache.join("demo"))?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder.join("scanner")).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Loopback, a free port, storage of its own, one peer, one protocol; the rest at its defaults.
fn configuration(cache: &Path, models: &Path, folder: &Path) -> Result<Config, Vec<crate::config::Problem>> {
    let mut written = Written::default();
    written.dicom.listen = "127.0.0.1:0".into();
    written.web.listen.clear();
    written.storage.dir = folder.join("storage");
    written.storage.min_free_gb = 0.5;
    written.inference.library = cache.join("onnxruntime/libonnxruntime.so");
    written.models.dir = models.to_path_buf();
    written.models.templates = written.storage.dir.join("templates.bin");
    written.models.weights_dir = cache.join("weights");
    written.peer = vec![Peer {
        ae_title: SCANNER.into(),
        host: "127.0.0.1".into(),
        may: vec![Permission::Store],
        ..Peer::default()
    }];
    written.protocol = vec![Protocol {
        name: "demo".into(),
        structures: vec!["all".into()],
        ..Protocol::default()
    }];
    Config::resolve(written)
}

fn push_and_wait(daemon: &Daemon, sample: &Path, folder: &Path) -> Result<Job, Exit> {
    let volume = nifti::read_ct(sample).map_err(|error| Exit::Missing(error.to_string()))?;
    let label = Label {
        patient_name: "Sample^LIDC-IDRI-0001",
        patient_id: "LIDC-IDRI-0001",
        description: "LIDC-IDRI-0001 chest, CC BY 3.0",
        date: "20000101",
        seed: "medlsamd demonstration",
    };
    let slices = sample::write_series(&volume, &label, &folder.join("scanner"))?;
    eprintln!("pushing {} slices as {SCANNER} to {}", slices.len(), daemon.address);
    let dial = scu::Dial {
        calling_ae: AeTitle::parse(SCANNER).map_err(anyhow::Error::from)?,
        address: Address {
            ae_title: AeTitle::parse(&Written::default().dicom.ae_title).map_err(anyhow::Error::from)?,
            host: daemon.address.ip().to_string(),
            port: daemon.address.port(),
        },
        connect_timeout: Duration::from_secs(10),
        timeout: Duration::from_secs(60),
        tls: None,
    };
    let answers = net::blocking(scu::store(&dial, &slices)).map_err(|error| Exit::Peer(error.to_string()))?;
    let stored = answers
        .iter()
        .filter(|answer| answer.as_ref().is_ok_and(|status| status.is_stored()))
        .count();
    if stored != slices.len() {
        return Err(Exit::Peer(format!(
            "only {stored} of {} slices were taken",
            slices.len()
        )));
    }
    let begin = Instant::now();
    loop {
        let job = daemon.store.jobs(None, 1)?.pop();
        if let Some(job) = job.filter(|job| job.state.is_end()) {
            return Ok(job);
        }
        if begin.elapsed() > PATIENCE || !daemon.is_whole() {
            return Err(Exit::Failed(
                "the daemon does not get on with the job; see the lines above".into(),
            ));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn tell(daemon: &Daemon, job: &Job, begin: Instant) -> Result<(), Exit> {
    if job.state != State::Done {
        let reason = job.reason.clone().unwrap_or_default();
        return Err(Exit::Failed(format!("the job is {}: {reason}", job.state)));
    }
    let path = daemon.store.results_dir(job.id).join("report.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_slice(&text).context("report.json is not what was written")?;
    println!("\n{}", process::summary(&report));
    println!(
        "{:>12}  {:7.2} s from start to results\n",
        "",
        begin.elapsed().as_secs_f64()
    );
    for result in daemon.store.results(job.id)? {
        println!("{:>9}: {}", result.kind, result.path.display());
    }
    println!("{:>9}: {}", "picture", path.with_file_name("picture.png").display());
    let found = report.structures.iter().any(|s| s.verdict != Verdict::NotFound);
    if found {
        Ok(())
    } else {
        Err(Exit::Failed("nothing was found".into()))
    }
}
