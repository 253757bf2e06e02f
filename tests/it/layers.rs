//! The order of `pub mod` lines in `src/lib.rs` is the order of the layers: a module may name only those above it there.

use crate::support::source;

#[test]
fn modules_name_only_modules_below_them() {
    let order = source::modules();
    assert!(order.len() > 20, "lib.rs was not read: {order:?}");
    let mut wrong = Vec::new();
    for file in source::files() {
        let own = order.iter().position(|module| *module == file.module);
        for (number, line) in file.code() {
            for (rank, module) in order.iter().enumerate() {
                let names = line.contains(&format!("crate::{module}::")) || line.contains(&format!("crate::{module};"));
                if names && own.is_some_and(|own| rank > own) {
                    wrong.push(format!("{}:{number}: {} may not name {module}", file.path, file.module));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "dependencies point the wrong way:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn modules_are_named_from_the_root() {
    let relative: Vec<String> = source::files()
        .iter()
        .flat_map(|file| {
            file.code()
                .filter(|(_, line)| line.contains("super::"))
                .map(|(n, _)| format!("{}:{n}", file.path))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(
        relative.is_empty(),
        "say crate:: instead of super:: in {}",
        relative.join(", ")
    );
}
