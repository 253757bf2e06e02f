//! `config/medlsamd.toml` lists every key at its default, and the daemon reads it.

use medlsamd::config::{Config, Written};
use std::path::Path;

fn shipped() -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/medlsamd.toml");
    // Every setting is commented out; uncommenting all of them gives the whole file.
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix("#")
                .filter(|l| !l.starts_with([' ', '#']))
                .unwrap_or(line)
        })
        .collect();
    lines.join("\n").parse().unwrap()
}

fn keys(table: &toml::Table, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) if key != "match" => keys(inner, &format!("{name}."), found),
            toml::Value::Array(items) if items.first().is_some_and(toml::Value::is_table) => {
                keys(items[0].as_table().unwrap(), &format!("{name}."), found);
            }
            _ => found.push(name),
        }
    }
}

#[test]
fn the_shipped_file_lists_every_key_and_no_other() {
    let mut shipped_keys = Vec::new();
    keys(&shipped(), "", &mut shipped_keys);
    let mut known = Vec::new();
    keys(&toml::Table::try_from(Written::example()).unwrap(), "", &mut known);
    shipped_keys.sort();
    known.sort();
    assert_eq!(shipped_keys, known);
}

#[test]
fn the_shipped_values_are_the_defaults() {
    let mut shipped = shipped();
    let mut defaults = toml::Table::try_from(Written::example()).unwrap();
    // Lists hold examples, not defaults.
    for list in ["peer", "protocol", "destination"] {
        shipped.remove(list);
        defaults.remove(list);
    }
    assert_eq!(shipped, defaults);
}

#[test]
fn environment_beats_file_beats_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("medlsamd.toml");
    std::fs::write(&file, "[dicom]\nae_title = \"FILE\"\n[storage]\ndir = \"data\"\n").unwrap();
    let read = |env: &[(&str, &str)]| {
        let binary = env!("CARGO_BIN_EXE_medlsamd");
        let mut command = std::process::Command::new(binary);
        command
            .args(["check", "--json", "--config"])
            .arg(&file)
            .env_clear()
            .envs(env.iter().copied());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let written = Config::load_offline(Some(&file)).unwrap().written;
    assert_eq!(
        (written.dicom.ae_title.as_str(), written.dicom.max_associations),
        ("FILE", 256)
    );
    assert_eq!(
        written.storage.dir,
        dir.path().join("data"),
        "relative paths are relative to the file"
    );
    assert!(!read(&[]).contains("MUCH_TOO_LONG_A_TITLE"));
    assert!(read(&[("MEDLSAMD__DICOM__AE_TITLE", "MUCH_TOO_LONG_A_TITLE")]).contains("MUCH_TOO_LONG_A_TITLE"));
}
