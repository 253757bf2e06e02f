//! Who may name which outside thing. Async is a property of sockets, SQL of the store, the runtime of inference.

use crate::support::source;

/// What is fenced, and the modules that may name it.
const FENCES: &[(&str, &[&str])] = &[
    ("tokio::", &["net", "scp", "web", "delivery", "daemon"]),
    ("async fn", &["net", "scp", "web", "delivery", "daemon"]),
    ("rusqlite", &["store"]),
    ("ort::", &["inference"]),
    ("SystemTime::now", &["daemon"]),
    ("println!", &["cli", "check", "demo", "terminal"]),
];

#[test]
fn outside_things_stay_behind_their_fences() {
    let mut wrong = Vec::new();
    for file in source::files() {
        for (number, line) in file.code() {
            for (thing, allowed) in FENCES {
                if names(line, thing) && !allowed.contains(&file.module.as_str()) {
                    wrong.push(format!("{}:{number}: {thing}", file.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "behind the wrong fence:\n{}", wrong.join("\n"));
}

/// `ort::` is named by `ort::Session` and not by `report::Thing` or `eprintln!`.
fn names(line: &str, thing: &str) -> bool {
    line.match_indices(thing)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

#[test]
fn files_and_functions_stay_readable() {
    let mut wrong = Vec::new();
    for file in source::files()
        .into_iter()
        .filter(|file| !file.path.ends_with("tests.rs"))
    {
        let lines = file.code().count();
        if lines > 500 && file.module != "structure" {
            wrong.push(format!("{}: {lines} lines outside tests (500)", file.path));
        }
        for (name, length) in file.functions() {
            if length > 70 {
                wrong.push(format!("{}: fn {name} has {length} lines (70)", file.path));
            }
        }
        wrong.extend(
            file.code()
                .filter(|(_, line)| line.contains("TODO") || line.contains("FIXME"))
                .map(|(n, _)| format!("{}:{n}: open end", file.path)),
        );
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
