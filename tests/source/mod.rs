//! The sources as text, for the tests that read them.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

/// One source file without comments and without its test modules; line numbers are those of the file.
pub(crate) struct Source {
    /// Relative to the repository, with `/` on every system.
    pub(crate) path: String,
    /// The code that is built into the product.
    pub(crate) code: String,
    /// The file as it is.
    pub(crate) text: String,
}

impl Source {
    /// The top-level module that the file belongs to: `src/relay/pipe.rs` → `relay`; none for `lib.rs`, `main.rs`.
    pub(crate) fn module(&self) -> Option<&str> {
        let name = self.path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
        (name != "lib" && name != "main").then_some(name)
    }

    /// Lines of the code with their numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// Where the repository lies.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the product, test files left out.
pub(crate) fn product() -> Vec<Source> {
    let mut sources: Vec<Source> = files("src", "rs").into_iter().map(read).collect();
    let tests: Vec<String> = sources.iter().flat_map(test_files).collect();
    sources.retain(|source| !tests.iter().any(|prefix| source.path.starts_with(prefix)));
    assert!(
        sources.len() >= 20,
        "only {} files under src/: the test looks in the wrong place",
        sources.len()
    );
    sources
}

/// Every file below a folder of the repository that has this extension, sorted.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path as the repository knows it.
pub(crate) fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("a file of the repository");
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn read(path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).expect("a readable source file");
    Source { path: relative(&path), code: without_tests(&without_comments(&text)), text }
}

/// What `#[cfg(test)] mod name;` in a file points at: `src/x/name.rs` and `src/x/name/`.
fn test_files(source: &Source) -> Vec<String> {
    let folder = match source.path.rsplit_once('/') {
        Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
        _ => source.path.trim_end_matches(".rs").to_owned(),
    };
    let bare = without_comments(&source.text);
    bare.split("#[cfg(test)]")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix("mod ")?.split_once(';'))
        .filter(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .flat_map(|(name, _)| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/")])
        .collect()
}

/// Comments and the inside of texts become spaces: neither is code.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            'r' if is_raw_text(rest, code.chars().last()) => raw_length(rest),
            '"' => text_length(rest),
            '\'' => character_length(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

fn is_raw_text(rest: &str, before: Option<char>) -> bool {
    let word = before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_');
    !word && rest[1..].trim_start_matches('#').starts_with('"')
}

fn raw_length(rest: &str) -> usize {
    let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let start = hashes + 2;
    rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
}

fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `'x'` and `'\n'` are characters, `'a` alone is a lifetime.
fn character_length(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(0, |end| end + 4),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// What stands behind `#[cfg(test)]` becomes blank lines, up to its closing brace or semicolon.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..start]);
        let end = item_length(&rest[start..]);
        kept.extend(rest[start..start + end].chars().filter(|c| *c == '\n'));
        rest = &rest[start + end..];
    }
    kept.push_str(rest);
    kept
}

fn item_length(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[test]
fn comments_texts_and_test_modules_are_not_code() {
    let text =
        "a // b\n\"c\\\"d\" 'e' 'f x r#\"g\"#\n#[cfg(test)]\nmod tests {\n  { h }\n}\ni /* j */ k";
    let code = without_tests(&without_comments(text));
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "'f", "x", "i", "k"]);
    assert_eq!(code.lines().count(), text.lines().count());
}
