//! `medlsamd process`: the same pipeline on files, no network.

use crate::config::Protocol;
use crate::dicom::header::Instance;
use crate::dicom::uid::Uid;
use crate::pipeline::{self, Engines, Outcome, PipelineError, Report, Request, Verdict, Wanted};
use crate::progress::Progress;
use crate::results::{self, Identity};
use crate::series::Requirements;
use crate::structure::{self, Structure};
use crate::table;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the command line asks for.
pub struct Order<'a> {
    pub paths: &'a [PathBuf],
    pub out: &'a Path,
    /// Structure names; empty means every structure of the template bank.
    pub structures: &'a [String],
    /// DA and TM of the results.
    pub content_date: String,
    pub content_time: String,
    /// Write the inference masks too, for graders that share no code with our writers.
    pub dump_masks: bool,
}

/// One series' outcome, for the caller to print.
pub enum Processed {
    Done { out: PathBuf, report: Box<Report> },
    Refused { series_instance_uid: Uid, reason: String },
}

/// Processes every series found under the paths. Series that are not eligible are reported, not skipped in silence.
pub fn run(order: &Order<'_>, engines: &mut Engines, progress: &dyn Progress) -> anyhow::Result<Vec<Processed>> {
    let structures = wanted(order.structures, engines)?;
    let series = collect(order.paths)?;
    let several = series.len() > 1;
    // What a protocol asks unless the configuration says otherwise.
    let usual = Protocol::default();
    let mut processed = Vec::new();
    for (uid, instances) in series {
        let kinds = usual.results.iter().filter_map(|name| results::kind(name));
        let request = Request {
            requirements: Requirements {
                min_slices: usual.min_slices,
                min_extent_mm: usual.min_extent_mm,
            },
            structures: structures.clone(),
            results: kinds.map(Wanted::generic).collect(),
            identity: identity(order, &uid, engines),
        };
        let out = if several {
            order.out.join(uid.as_str())
        } else {
            order.out.to_path_buf()
        };
        match pipeline::run(instances, &request, engines, progress) {
            Ok(outcome) => {
                write(&outcome, &out, order.dump_masks)?;
                processed.push(Processed::Done {
                    out,
                    report: Box::new(outcome.report),
                });
            }
            Err(PipelineError::Refused(reason)) => {
                processed.push(Processed::Refused {
                    series_instance_uid: uid,
                    reason,
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(processed)
}

/// Names → rows of the anatomy table, `all` or none meaning the whole bank; what is computed must be named beside it.
pub fn wanted(names: &[String], engines: &Engines) -> anyhow::Result<Vec<&'static Structure>> {
    let all = names.is_empty() || names.iter().any(|name| name == "all");
    let mut wanted = if all {
        engines.localiser.bank.structures()
    } else {
        Vec::new()
    };
    for name in names.iter().filter(|name| *name != "all") {
        let structure = structure::by_name(name).with_context(|| format!("no structure is called {name:?}"))?;
        if !wanted.contains(&structure) {
            wanted.push(structure);
        }
    }
    Ok(wanted)
}

/// Seeded by what goes in, so that the same input and models give the same objects.
fn identity(order: &Order<'_>, series: &Uid, engines: &Engines) -> Identity {
    let mut seed = vec!["process", series.as_str()];
    let models = engines.models_used();
    seed.extend(models.iter().map(|model| model.sha256.as_str()));
    seed.extend(order.structures.iter().map(String::as_str));
    Identity {
        uid_seed: Uid::derived(&seed).to_string(),
        content_date: order.content_date.clone(),
        content_time: order.content_time.clone(),
        revision: 1,
        supersedes: None,
    }
}

/// Every readable instance under the paths, by series.
pub fn collect(paths: &[PathBuf]) -> anyhow::Result<BTreeMap<Uid, Vec<Instance>>> {
    let mut files = Vec::new();
    for path in paths {
        list(path, &mut files, 0).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let mut series: BTreeMap<Uid, Vec<Instance>> = BTreeMap::new();
    let mut unreadable = 0;
    for file in &files {
        match Instance::images(file) {
            Ok(images) => images.into_iter().for_each(|image| {
                let uid = image.series_instance_uid.clone();
                series.entry(uid).or_default().push(image);
            }),
            Err(error) => {
                unreadable += 1;
                tracing::warn!(file = %file.display(), %error, "not taken: no readable DICOM instance");
            }
        }
    }
    if series.is_empty() {
        bail!(
            "no DICOM instance among {} files ({unreadable} unreadable)",
            files.len()
        );
    }
    Ok(series)
}

fn list(path: &Path, files: &mut Vec<PathBuf>, depth: usize) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    // Deep enough for any patient/study/series tree, shallow enough for a loop of links.
    if depth > 8 {
        return Ok(());
    }
    let mut entries = std::fs::read_dir(path)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| list(entry, files, depth + 1))
}

fn write(outcome: &Outcome, out: &Path, dump_masks: bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let put = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    for object in &outcome.objects {
        put(&format!("{}.dcm", object.key), &object.part10)?;
    }
    put("picture.png", &outcome.picture)?;
    put("report.json", serde_json::to_string_pretty(&outcome.report)?.as_bytes())?;
    if dump_masks {
        put("masks.bin", &results::dump::dump(&outcome.series, &outcome.masks))?;
    }
    Ok(())
}

/// The table people read after a run: found, not found and why, volumes, seconds per stage.
pub fn summary(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .structures
        .iter()
        .map(|s| {
            let verdict = match s.verdict {
                Verdict::Found => "found",
                Verdict::LowConfidence => "low confidence",
                Verdict::Truncated => "cut by view",
                Verdict::NotFound => "not found",
            };
            let volume = s.volume_ml.map_or_else(|| "-".into(), |ml| format!("{ml:.1}"));
            vec![s.name.clone(), verdict.into(), volume, s.reasons.join("; ")]
        })
        .collect();
    let mut text = table::render(&["structure", "verdict", "ml", "why"], &rows);
    let found = report
        .structures
        .iter()
        .filter(|s| s.verdict != Verdict::NotFound)
        .count();
    text.push_str(&format!(
        "\n{found} of {} structures in {} slices\n",
        report.structures.len(),
        report.slices
    ));
    for stage in &report.stages {
        text.push_str(&format!("{:>12}  {:7.2} s\n", stage.stage, stage.seconds));
    }
    text.push_str(&format!(
        "{:>12}  {:7.2} s of these inside ONNX Runtime\n",
        "", report.runtime_s
    ));
    text
}
