//! TOML's syntax: from text to tables with spans, within bounds of depth.

use toml::de::{DeTable, DeValue};

use super::error::{ConfigErrors, Problem};
use super::source::Source;

/// Parses a file's text, or names the syntax errors with their places.
pub(super) fn parse(source: &Source) -> Result<DeTable<'_>, ConfigErrors> {
    check_depth(source)?;
    let (table, errors) = DeTable::parse_recoverable(source.text());
    let mut problems: Vec<Problem> = Vec::new();
    let mut last_line = 0;
    for error in errors {
        let offset = error.span().map_or(source.text().len(), |span| span.start);
        let (line, _) = source.position(offset);
        // What follows an error on its line is mostly the echo of it.
        if line != last_line {
            problems.push(Problem::new(source.place(offset), error.message()));
        }
        last_line = line;
    }
    ConfigErrors::check(problems)?;
    Ok(table.into_inner())
}

/// Refuses brackets and dotted keys nested deeper than any configuration needs.
///
/// The parser bounds brackets but not dotted keys: `a.a.a…` builds a table in a table in a table, and
/// dropping that recurses. This lexer knows strings and comments, and nothing else of TOML.
fn check_depth(source: &Source) -> Result<(), ConfigErrors> {
    let bytes = source.text().as_bytes();
    let (mut brackets, mut dots) = (0_usize, 0_usize);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let mut next = at + 1;
        match byte {
            b'#' => next = at + until(&bytes[at..], b"\n", false),
            b'"' | b'\'' => next = at + string_len(&bytes[at..]),
            b'.' => dots += 1,
            b'[' | b'{' => (brackets, dots) = (brackets + 1, 0),
            b']' | b'}' => (brackets, dots) = (brackets.saturating_sub(1), 0),
            b'=' | b',' | b'\n' => dots = 0,
            _ => {}
        }
        if brackets > MAX_DEPTH || dots > MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(ConfigErrors::one(Problem::new(source.place(at), message)));
        }
        at = next;
    }
    Ok(())
}

/// The length of the string that starts here, quotes included.
fn string_len(bytes: &[u8]) -> usize {
    let quote = bytes[0];
    let escapes = quote == b'"';
    let triple = [quote; 3];
    if !bytes.starts_with(&triple) {
        let line = 1 + until(&bytes[1..], b"\n", false);
        let closed = 1 + until(&bytes[1..line], &[quote], escapes) + 1;
        return closed.min(line);
    }
    let closed = 3 + until(&bytes[3..], &triple, escapes) + 3;
    // Up to two more quotes belong to the string: `""""` ends with one inside.
    let more = bytes.iter().skip(closed).take(2).take_while(|b| **b == quote).count();
    (closed + more).min(bytes.len())
}

/// How many bytes come before `mark`; all of them when it is not there.
fn until(bytes: &[u8], mark: &[u8], escapes: bool) -> usize {
    let mut at = 0;
    while at < bytes.len() && !bytes[at..].starts_with(mark) {
        at += if escapes && bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

/// How a value that is not the expected table is called.
pub(super) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
        _ => "a value",
    }
}

/// Levels of nesting that are accepted; the schema itself has three.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn depth_error(text: &str) -> bool {
        let source = Source::from_text(Path::new("a.toml"), text);
        check_depth(&source).is_err()
    }

    #[test]
    fn dots_in_strings_and_comments_are_no_depth() {
        let dots = ".".repeat(200);
        for text in [
            format!("# {dots}\n"),
            format!("a = \"{dots}\"\n"),
            format!("a = '{dots}'\n"),
            format!("a = \"\"\"\n{dots}\\\"\"\"\"\n"),
            format!("a = '''\n{dots}'''\n"),
            format!("a = \"\\\"{dots}\"\n"),
            format!("a = \"\"\"\"{dots}\"\"\"\"\"\n"),
        ] {
            assert!(!depth_error(&text), "{text}");
        }
    }

    #[test]
    fn deep_keys_are_refused_even_behind_strings() {
        let deep = "a.".repeat(200) + "a";
        for text in [
            format!("{deep} = 1"),
            format!("[{deep}]"),
            format!("x = {{ s = \"\"\"\n#\"\"\", {deep} = 1 }}"),
            format!("x = {{ s = '''\n\"''', {deep} = 1 }}"),
            format!("x = {{ s = \"\\\\\", {deep} = 1 }}"),
            format!("x = {{ s = \"\"\"\"\"\"\"\", {deep} = 1 }}"),
        ] {
            assert!(depth_error(&text), "{text}");
        }
    }
}
