//! `medlsamd template`: teach a structure from contoured cases.

use crate::cli::labels::{self, Ct};
use crate::cli::print;
use crate::config::Config;
use crate::engines;
use crate::exit::Exit;
use crate::labels::take::Taken;
use crate::localise::Localiser;
use crate::localise::bank::{Bank, Template};
use crate::nifti;
use crate::table;
use crate::teach::{self, Checked, Others, Placed};
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Add a case to the bank: features and points are kept, no pixels, no identity
    Add(Add),
    /// The cases of the bank
    List,
    /// The structures of one case
    Show { id: String },
    /// Take a case of this site out of the bank
    Remove { id: String },
}

#[derive(clap::Args)]
pub struct Add {
    /// The CT: a NIfTI file or a DICOM folder
    #[arg(long, value_name = "PATH")]
    ct: PathBuf,
    /// Where its structures are: an RTSTRUCT or SEG of this CT, a folder of them, a label NIfTI with its `labels.json` beside
    /// it, or a points JSON
    #[arg(long, value_name = "PATH")]
    labels: PathBuf,
    /// Take a region of an RTSTRUCT or SEG for this structure, or for none; #3 is the region of number 3
    #[arg(long = "as", value_name = "REGION=STRUCTURE")]
    by_hand: Vec<String>,
    /// Add the case even where a structure lies far from where the other templates find it
    #[arg(long)]
    anyway: bool,
    /// Name of the case in the bank; choose one that identifies nobody
    #[arg(long)]
    id: Option<String>,
    /// The bank to add to, instead of the site's own (models.templates)
    #[arg(long, value_name = "FILE")]
    bank: Option<PathBuf>,
}

pub fn run(config: &Config, command: Command, json: bool) -> Result<(), Exit> {
    let own = &config.written.models.templates;
    match command {
        Command::Add(case) => add(config, &case, json),
        Command::List => {
            let bank = both(config)?;
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
            let bank = both(config)?;
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
            if !own.exists() {
                let own = own.display();
                return Err(Exit::Usage(format!(
                    "this site taught no case: there is no {own}; the shipped ones stay"
                )));
            }
            teach::remove(own, &id)?;
            print(json, &serde_json::json!({ "removed": id }), || {
                format!("{id} removed\n")
            });
            Ok(())
        }
    }
}

/// The shipped bank and the site's own.
fn both(config: &Config) -> Result<Bank, Exit> {
    let manifest = engines::manifest(config, &config.written.models.localiser)?;
    let mut bank = Bank::read(&manifest.dir.join(engines::BANK))?;
    bank.join(engines::own_templates(config)?)?;
    Ok(bank)
}

/// What a case is checked against: all that is known, or the bank named instead.
fn known(config: &Config, case: &Add) -> Result<Bank, Exit> {
    match &case.bank {
        None => both(config),
        Some(path) if path.exists() => Ok(Bank::read(path)?),
        Some(_) => Ok(Bank::default()),
    }
}

fn add(config: &Config, case: &Add, json: bool) -> Result<(), Exit> {
    let bank_path = case.bank.as_ref().unwrap_or(&config.written.models.templates);
    let ct = Ct::read(&case.ct)?;
    let (mut placed, taken) = if labels::is_dicom(&case.labels) {
        let (placed, taken) = read_dicom(case, &ct)?;
        (placed, Some(taken))
    } else {
        (read_labels(&case.labels)?, None)
    };
    if let Some(id) = &case.id {
        placed.volume = id.clone();
    }
    let runtime = engines::runtime(config)?;
    let manifest = engines::manifest(config, &config.written.models.localiser)?;
    let mut localiser = Localiser::load(&runtime, manifest, known(config, case)?)?;
    let observation = localiser.observe(&ct.volume)?;
    let checks = teach::check(&localiser, &observation, &placed);
    let far: Vec<&str> = checks.iter().filter(|c| c.far).map(|c| c.structure.as_str()).collect();
    let added = far.is_empty() || case.anyway;
    if added {
        teach::add_observed(bank_path, &localiser, &observation, &placed, Others::Dropped)?;
    }
    let names: Vec<&str> = placed.structures.keys().map(String::as_str).collect();
    let facts = serde_json::json!({
        "id": placed.volume,
        "structures": names,
        "regions": taken.as_ref().map(|taken| &taken.facts),
        "check": checks,
        "added": added,
    });
    print(json, &facts, || {
        let regions = taken.as_ref().map(labels::shown).unwrap_or_default();
        let row = |c: &Checked| vec![c.structure.clone(), c.said.clone()];
        let checks: Vec<Vec<String>> = checks.iter().map(row).collect();
        let checks = table::render(&["structure", "check"], &checks);
        format!("{regions}{checks}{}: {}\n", placed.volume, names.join(", "))
    });
    if added {
        return Ok(());
    }
    Err(Exit::Failed(format!(
        "nothing was added: {} lie more than {:.0} mm from where the other templates find them. Are names and sides right? \
         Map regions with --as \"REGION=structure\", or add the case as it is with --anyway",
        far.join(", "),
        teach::FAR_MM
    )))
}

fn read_dicom(case: &Add, ct: &Ct) -> Result<(Placed, Taken), Exit> {
    let labels::Read { taken, made_by } = labels::read(&case.labels, ct, &case.by_hand)?;
    let structures = teach::points_of_masks(&ct.volume.grid, &taken.masks);
    if structures.is_empty() {
        return Err(Exit::Failed(format!(
            "{}no region is a structure that we know; map one with --as \"REGION=structure\"",
            labels::shown(&taken)
        )));
    }
    let placed = Placed {
        volume: ct
            .series
            .as_ref()
            .map(|series| teach::case_id(&series.series_instance_uid))
            .unwrap_or_default(),
        made_by,
        structures,
        ..Placed::on_site()
    };
    Ok((placed, taken))
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
        made_by: "from the label volume given".into(),
        structures,
        ..Placed::on_site()
    })
}
