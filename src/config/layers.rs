//! The layers of settings put together, and every key in them that no setting has.

use crate::config::{Problem, Written};
use std::path::Path;

/// The layers put together, not yet checked. Relative paths of the file are relative to the file.
pub(crate) fn read(file: Option<&Path>) -> Result<Written, Vec<Problem>> {
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
            &mut written.models.templates,
            &mut written.dicom.tls.certificate,
            &mut written.dicom.tls.key,
            &mut written.dicom.tls.ca,
        ];
        for path in paths
            .into_iter()
            .chain(&mut written.inference.engine_cache)
            .chain(&mut written.web.token_file)
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
        // These hold the operator's own keywords, structures and names.
        if ["match", "names", "colours"].contains(&key.as_str()) {
            continue;
        }
        if prefix.is_empty() && key == "profile" {
            let known = known
                .as_table()
                .and_then(|profiles| profiles.values().next())
                .and_then(toml::Value::as_table);
            for (profile, value) in value.as_table().into_iter().flatten() {
                if let (Some(known), Some(value)) = (known, value.as_table()) {
                    collect_unknown(value, known, &format!("{name}.{profile}."), found);
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_unknown_keys_are_found_in_one_look() {
        let text = "[dicom]\nae_titel=\"X\"\n[[peer]]\nae_title=\"A\"\nhost=\"any\"\nmay=[]\ncolour=1\n[nonsense]\na=1\n[[protocol]]\nname=\"x\"\nstructures=[]\nmatch={Foo=\"*\"}\n[profile.own]\ntake=[]\nstyle={hole=1,names={liver=\"Leber\"}}";
        let keys: Vec<String> = unknown_keys(text, Path::new("x"))
            .unwrap()
            .into_iter()
            .map(|p| p.key)
            .collect();
        assert_eq!(
            keys,
            [
                "dicom.ae_titel",
                "nonsense",
                "peer.colour",
                "profile.own.style.hole",
                "profile.own.take"
            ]
        );
    }
}
