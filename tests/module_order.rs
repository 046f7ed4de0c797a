//! A module imports only modules above it in the table of ARCHITECTURE.md: one total order, hence no cycle.

mod source;

use std::fs;

use source::Source;

#[test]
fn every_module_imports_only_modules_above_it() {
    let order = order();
    assert!(order.len() >= 20, "ARCHITECTURE.md has no table of modules: {order:?}");
    let rank = |module: &str| order.iter().position(|name| name == module);
    let (mut broken, mut imports) = (Vec::new(), 0);
    for source in source::product() {
        let Some(module) = source.module() else { continue };
        let Some(own) = rank(module) else {
            broken.push(format!(
                "{}: module `{module}` is missing in the table of ARCHITECTURE.md",
                source.path
            ));
            continue;
        };
        for (line, import) in imported(&source) {
            // What the crate root holds besides modules (a constant, a macro) has no rank.
            let Some(theirs) = rank(&import) else { continue };
            imports += 1;
            if theirs > own {
                let text = source.text.lines().nth(line - 1).unwrap_or_default().trim();
                broken.push(format!(
                    "{}:{line}: `{module}` stands above `{import}`: {text}",
                    source.path
                ));
            }
        }
    }
    assert!(imports >= 5, "only {imports} imports seen: the test reads the wrong files");
    assert!(broken.is_empty(), "the order of modules is broken:\n{}", broken.join("\n"));
}

/// The first column of the table: rows that start with "| `name` |".
fn order() -> Vec<String> {
    let text = fs::read_to_string(source::root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// Top-level modules that a file names, with the line: `crate::a::b`, `crate::{a, b::c}`, and `super::a` in
/// the `mod.rs` of a top-level module.
fn imported(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let top = source.path.matches('/').count() == 2 && source.path.ends_with("/mod.rs");
    for prefix in ["crate::", "super::"] {
        if prefix == "super::" && !top {
            continue;
        }
        for (at, _) in source.code.match_indices(prefix) {
            let joined =
                source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !joined {
                let line = source.code[..at].matches('\n').count() + 1;
                found.extend(
                    names(&source.code[at + prefix.len()..]).into_iter().map(|name| (line, name)),
                );
            }
        }
    }
    found
}

/// The first name of a path, or of each path of a group.
fn names(path: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                found.push(name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

#[test]
fn groups_are_taken_apart() {
    assert_eq!(names("{task::{a, b}, wire, tunnel::X}; use y"), ["task", "wire", "tunnel"]);
    assert_eq!(names("relay::pipe(a, b)"), ["relay"]);
}
