//! Errors, as people and as programs read them: always on stderr.

use std::io::{IsTerminal, Write};

use clap::error::ErrorKind;
use serde::Serialize;

use super::context::Context;
use crate::fleet::{Failure, exit};

/// `conduit.error/1`.
#[derive(Serialize)]
struct ErrorMessage<'a> {
    schema: &'static str,
    kind: crate::fleet::Kind,
    code: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
}

/// Shows a failure; returns its exit code.
pub(super) fn failure(failure: &Failure, context: &Context) -> u8 {
    let text = if context.json { as_json(failure) } else { as_text(failure, context) };
    warn(&text);
    failure.exit
}

/// Shows what clap says about the command line; its help and version are no errors.
pub(super) fn usage(error: &clap::Error) -> u8 {
    let is_data = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_data || !wants_json() {
        // Into a closed pipe, nobody reads it.
        let _ = error.print();
    } else {
        let text = error.to_string();
        let what = text.split("\n\nUsage").next().unwrap_or_default();
        let words: Vec<&str> = what.trim_start_matches("error: ").split_whitespace().collect();
        let failure = Failure::usage(words.join(" "));
        warn(&as_json(&failure.with_hint("`conduit help` lists the options")));
    }
    if is_data { 0 } else { exit::USAGE }
}

/// Writes a line to stderr; where stderr is closed there is nobody to tell.
pub(super) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A failure as one line of JSON.
pub(super) fn as_json(failure: &Failure) -> String {
    serde_json::to_string(&ErrorMessage {
        schema: "conduit.error/1",
        kind: failure.kind,
        code: &failure.code,
        message: &failure.message,
        hint: failure.hint.as_deref(),
    })
    .unwrap_or_default()
}

fn as_text(failure: &Failure, context: &Context) -> String {
    let colour =
        std::io::stderr().is_terminal() && context.environment.variable("NO_COLOR").is_none();
    let error = if colour { "\u{1b}[1;31merror:\u{1b}[0m" } else { "error:" };
    let message = printable(&failure.message);
    match &failure.hint {
        Some(hint) => format!("{error} {message}\n  try: {}", printable(hint)),
        None => format!("{error} {message}"),
    }
}

/// What others sent must not move the cursor: control characters are escaped, line breaks stay.
pub(super) fn printable(text: &str) -> String {
    let is_harmless = |c: char| c == '\n' || (!c.is_control() && !is_bidirectional(c));
    text.chars()
        .map(|c| if is_harmless(c) { c.to_string() } else { c.escape_default().to_string() })
        .collect()
}

/// Characters that reorder the text around them.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The command line could not be read, so the option is looked for by hand.
fn wants_json() -> bool {
    let arguments: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    arguments.iter().any(|word| joined.contains(&word.as_str()))
        || arguments
            .windows(2)
            .any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Kind;

    #[test]
    fn an_error_has_the_promised_members() {
        let failure = Failure::new(Kind::Policy, "denied", "no").with_hint("ask");
        let value: serde_json::Value = serde_json::from_str(&as_json(&failure)).expect("JSON");
        let wanted = serde_json::json!({"schema": "conduit.error/1", "kind": "policy",
            "code": "denied", "message": "no", "hint": "ask"});
        assert_eq!(value, wanted);
    }

    #[test]
    fn nothing_that_others_sent_moves_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}"), "a\\u{1b}[2Jb\\u{202e}");
        assert_eq!(printable("two\nlines → é"), "two\nlines → é");
    }
}
