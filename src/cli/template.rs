//! `medlsamd template`: teach a structure from contoured cases.

use crate::cli::print;
use crate::config::Config;
use crate::engines;
use crate::exit::Exit;
use crate::localise::Localiser;
use crate::localise::bank::{Bank, Template};
use crate::nifti;
use crate::process;
use crate::progress::Silent;
use crate::series::{self, Requirements};
use crate::table;
use crate::teach::{self, Placed};
use crate::volume::{self, Volume};
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Add a case to the bank: features and points are kept, no pixels, no identity
    Add(Add),
    /// The cases of the bank
    List,
    /// The structures of one case
    Show { id: String },
    /// Take a case out of the bank
    Remove { id: String },
}

#[derive(clap::Args)]
pub struct Add {
    /// The CT: a NIfTI file or a DICOM folder
    #[arg(long, value_name = "PATH")]
    ct: PathBuf,
    /// Where its structures are: a label NIfTI with its `labels.json` beside it, or a points JSON
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// Name of the case in the bank; choose one that identifies nobody
    #[arg(long)]
    id: Option<String>,
}

pub fn run(config: &Config, command: Command, json: bool) -> Result<(), Exit> {
    let manifest = engines::manifest(config, &config.written.models.localiser)?;
    let path = manifest.dir.join(engines::BANK);
    match command {
        Command::Add(case) => add(config, &path, &case, json),
        Command::List => {
            let bank = Bank::read(&path)?;
            let facts: Vec<_> = bank
                .templates
                .iter()
                .map(|(id, t)| {
                    let structures: Vec<&String> = t.patterns.keys().collect();
                    serde_json::json!({ "id": id, "source": t.source, "licence": t.licence, "made_by": t.made_by, "structures": structures })
                })
                .collect();
            print(json, &facts.into(), || {
                let row = |(id, t): (&String, &Template)| {
                    vec![
                        id.clone(),
                        t.patterns.len().to_string(),
                        t.licence.clone(),
                        t.made_by.clone(),
                    ]
                };
                table::render(
                    &["case", "structures", "licence", "made by"],
                    &bank.templates.iter().map(row).collect::<Vec<_>>(),
                )
            });
            Ok(())
        }
        Command::Show { id } => {
            let bank = Bank::read(&path)?;
            let template = bank
                .templates
                .get(&id)
                .ok_or_else(|| Exit::Usage(format!("no case is called {id:?}")))?;
            let names: Vec<&str> = template.patterns.keys().map(String::as_str).collect();
            print(json, &serde_json::json!({ "id": id, "structures": names }), || {
                format!("{}\n", names.join("\n"))
            });
            Ok(())
        }
        Command::Remove { id } => {
            teach::remove(&path, &id)?;
            print(json, &serde_json::json!({ "removed": id }), || {
                format!("{id} removed\n")
            });
            Ok(())
        }
    }
}

fn add(config: &Config, bank_path: &Path, case: &Add, json: bool) -> Result<(), Exit> {
    let ct = read_ct(&case.ct)?;
    let mut placed = read_labels(&case.labels)?;
    if let Some(id) = &case.id {
        placed.volume = id.clone();
    }
    let runtime = engines::runtime(config)?;
    let manifest = engines::manifest(config, &config.written.models.localiser)?;
    let bank = if bank_path.exists() {
        Bank::read(bank_path)?
    } else {
        Bank::default()
    };
    let mut localiser = Localiser::load(&runtime, manifest, bank)?;
    teach::add(bank_path, &mut localiser, &ct, &placed)?;
    let names: Vec<&str> = placed.structures.keys().map(String::as_str).collect();
    let facts = serde_json::json!({ "id": placed.volume, "structures": names });
    print(json, &facts, || format!("{}: {}\n", placed.volume, names.join(", ")));
    Ok(())
}

/// A NIfTI file, or a folder with one DICOM series.
pub fn read_ct(path: &Path) -> Result<Volume, Exit> {
    if path.is_file() {
        return nifti::read_ct(path).map_err(|error| Exit::Failed(error.to_string()));
    }
    let mut series = process::collect(&[path.to_path_buf()])?;
    if series.len() != 1 {
        return Err(Exit::Usage(format!(
            "{} holds {} series; give one",
            path.display(),
            series.len()
        )));
    }
    let instances = series.pop_first().map(|(_, instances)| instances).unwrap_or_default();
    let series = series::assemble(
        instances,
        &Requirements {
            min_slices: 2,
            min_extent_mm: 1.0,
        },
    )
    .map_err(|rejection| Exit::Failed(rejection.to_string()))?;
    volume::reconstruct(&series, &Silent).map_err(|error| Exit::Failed(error.to_string()))
}

/// A points JSON, or a label NIfTI with `labels.json` (`{"labels": {"1": "spleen", …}}`) beside it.
fn read_labels(path: &Path) -> Result<Placed, Exit> {
    if path.extension().is_some_and(|extension| extension == "json") {
        return Ok(teach::read_points(path)?);
    }
    let names = teach::label_names(path).map_err(|error| Exit::Usage(error.to_string()))?;
    let (grid, labels) = nifti::read_labels(path).map_err(|error| Exit::Failed(error.to_string()))?;
    let structures = teach::points_of_labels(&grid, &labels, &names);
    let volume = path
        .parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Placed {
        volume: volume.unwrap_or_default(),
        source: "added on site".into(),
        licence: "not for distribution".into(),
        made_by: "from the label volume given".into(),
        structures,
        ..Placed::default()
    })
}
