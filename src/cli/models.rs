//! `medlsamd model`: what is installed, and whether it is what it says.

use crate::cli::print;
use crate::config::Config;
use crate::exit::Exit;
use crate::inference::model::Manifest;
use crate::table;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Every model directory with its version, family and licence
    List,
    /// Compare every model file with its manifest's SHA-256
    Verify,
}

pub fn run(config: &Config, command: Command, json: bool) -> Result<(), Exit> {
    let verify = matches!(command, Command::Verify);
    let mut rows = Vec::new();
    let mut facts = Vec::new();
    let mut wrong = 0;
    for name in names(config)? {
        let manifest = crate::engines::manifest(config, &name)?;
        let used = [&config.written.models.localiser, &config.written.models.segmenter].contains(&&name);
        let state = if verify {
            state(&manifest)
        } else {
            Ok(if used { "configured" } else { "" }.to_string())
        };
        // Weights that nobody configured may well be absent.
        wrong += usize::from(state.is_err() && used);
        let state = state.unwrap_or_else(|problem| problem);
        facts.push(serde_json::json!({
            "name": manifest.name, "version": manifest.version, "kind": manifest.kind, "family": manifest.family,
            "sha256": manifest.sha256, "licence": manifest.licence, "configured": used, "state": state,
        }));
        rows.push(vec![
            name,
            manifest.version,
            manifest.kind,
            manifest.family,
            manifest.licence,
            state,
        ]);
    }
    let header = ["model", "version", "kind", "family", "licence", "state"];
    print(json, &facts.into(), || table::render(&header, &rows));
    match wrong {
        0 => Ok(()),
        n => Err(Exit::Missing(format!(
            "{n} configured model(s) are not what their manifests say"
        ))),
    }
}

fn state(manifest: &Manifest) -> Result<String, String> {
    manifest
        .load_verified()
        .map(|bytes| format!("verified, {} bytes", bytes.len()))
        .map_err(|error| error.to_string())
}

/// Directories under `[models] dir` that hold a manifest, sorted.
fn names(config: &Config) -> Result<Vec<String>, Exit> {
    let dir = &config.written.models.dir;
    let entries = std::fs::read_dir(dir).map_err(|error| {
        Exit::Missing(format!(
            "cannot read the models directory {}: {error}; set models.dir",
            dir.display()
        ))
    })?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("model.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}
