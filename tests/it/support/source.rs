//! Our own source text, for the tests that hold the house rules.

use std::path::{Path, PathBuf};

pub struct File {
    pub path: String,
    /// The top-level module the file belongs to.
    pub module: String,
    lines: Vec<String>,
}

impl File {
    /// Numbered lines up to the tests at the foot.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self
            .lines
            .iter()
            .position(|line| line.starts_with("#[cfg(test)]"))
            .unwrap_or(self.lines.len());
        self.lines[..end]
            .iter()
            .enumerate()
            .map(|(n, line)| (n + 1, line.as_str()))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Every function with its length, by the indentation of its closing brace (rustfmt guarantees it).
    pub fn functions(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for (n, line) in self.lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let Some((_, after)) = trimmed.split_once("fn ").filter(|(before, _)| {
                before
                    .split(' ')
                    .all(|word| ["", "pub", "async", "const", "unsafe", "pub(crate)", "pub(super)"].contains(&word))
            }) else {
                continue;
            };
            let indent = &line[..line.len() - trimmed.len()];
            let close = format!("{indent}}}");
            if let Some(length) = self.lines[n..].iter().position(|l| *l == close) {
                found.push((after.split(['(', '<']).next().unwrap_or("").to_string(), length + 1));
            }
        }
        found
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules in the order of `lib.rs`.
pub fn modules() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("lib.rs")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(String::from))
        .collect()
}

/// Every source file of the library.
pub fn files() -> Vec<File> {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    assert!(files.len() > 30, "the source was not found");
    files
}

fn collect(dir: &Path, files: &mut Vec<File>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root()).unwrap();
            let first = relative.components().next().unwrap().as_os_str().to_string_lossy();
            let module = first.trim_end_matches(".rs").to_string();
            let text = std::fs::read_to_string(&path).unwrap();
            files.push(File {
                path: relative.display().to_string(),
                module,
                lines: text.lines().map(String::from).collect(),
            });
        }
    }
}
