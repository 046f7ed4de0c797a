//! Files and reference written from the schema: what is written is what is read.

use std::fmt::Write as _;
use std::path::Path;

use super::environment::Environment;
use super::error::ConfigErrors;
use super::layers::{Overrides, Resolved};
use super::schema::{Absent, FileKind, Key, Places};
use super::value::{Value, toml_string};
use crate::tunnel::TunnelSpec;

/// An annotated file: every key with what it does and what is legal, commented out unless `set` gives a
/// value (`("router.host", "203.0.113.7")`, written as in the environment). Without tunnels an example is
/// shown, commented out. Paths are written as given.
pub fn generate(
    kind: FileKind,
    set: &[(&str, &str)],
    tunnels: &[TunnelSpec],
) -> Result<String, ConfigErrors> {
    check(kind, set)?;
    let mut out = String::new();
    let _ = writeln!(out, "# {}: {}.", kind.file_name(), purpose(kind));
    out.push_str(
        "# A key that is commented out shows its default, or an example when it says so.\n\
         # The environment wins over this file (CONDUIT_<SECTION>_<KEY>), the command line over both.\n",
    );
    for section in kind.sections() {
        out.push('\n');
        if section == "tunnels" {
            write_tunnels(&mut out, tunnels);
            continue;
        }
        let _ = writeln!(out, "[{section}]");
        let keys = kind.keys().filter(|key| key.section == section && !key.is_secret());
        for (index, key) in keys.enumerate() {
            out.push_str(if index == 0 { "" } else { "\n" });
            let given = set.iter().rev().find(|(name, _)| *name == key.full_name());
            write_key(&mut out, key, given.map(|(_, text)| *text));
        }
    }
    Ok(out)
}

/// The reference of every key as a Markdown table, for the README and the manual pages.
pub fn reference(kind: FileKind) -> String {
    let mut out = String::from(
        "| key | legal | default | variable | what it does |\n|---|---|---|---|---|\n",
    );
    for key in kind.keys() {
        let default = match key.default {
            Absent::Value(text) => format!("`{}`", toml_of(key, text)),
            Absent::Means { meaning, .. } => meaning.to_owned(),
            Absent::Required { .. } => "required".to_owned(),
        };
        let variable = key.variable().map_or_else(String::new, |name| format!("`{name}`"));
        let _ = writeln!(
            out,
            "| `{}` | {} | {default} | {variable} | {} |",
            key.full_name(),
            key.kind.legal(),
            key.doc
        );
    }
    out
}

/// Whether every value that is to be written would be accepted when it is read.
fn check(kind: FileKind, set: &[(&str, &str)]) -> Result<(), ConfigErrors> {
    let overrides =
        set.iter().fold(Overrides::new(), |overrides, (key, text)| overrides.with(key, key, *text));
    let nothing = Environment::default();
    Resolved::from_source(kind, None, &nothing, &overrides).map(|_| ())
}

fn purpose(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Client => "a client of Conduit and its tunnels, for `conduit up` and `start`",
        FileKind::Router => "a router of Conduit, for `conduit router -f`",
    }
}

fn write_key(out: &mut String, key: &Key, given: Option<&str>) {
    let _ = writeln!(out, "# {}", key.doc);
    let (text, note) = match key.default {
        Absent::Value(text) => (text, String::new()),
        Absent::Means { meaning, example } => (example, format!("; absent: {meaning}")),
        Absent::Required { example } => (example, String::new()),
    };
    let _ = writeln!(out, "# Legal: {}{note}.", key.kind.legal());
    match given {
        Some(text) => {
            let _ = writeln!(out, "{} = {}", key.name, toml_of(key, text));
        }
        None => {
            let example = if note.is_empty() { "" } else { "   # an example" };
            let _ = writeln!(out, "# {} = {}{example}", key.name, toml_of(key, text));
        }
    }
}

fn write_tunnels(out: &mut String, tunnels: &[TunnelSpec]) {
    out.push_str("# A table [[tunnels]] for each tunnel:\n");
    for key in FileKind::Client.keys().filter(|key| key.places == Places::FileOnly) {
        let default = match key.default {
            Absent::Value(text) => format!("; default {}", toml_of(key, text)),
            _ => String::new(),
        };
        let _ = writeln!(out, "#   {}: {} ({}{default})", key.name, key.doc, key.kind.legal());
    }
    if tunnels.is_empty() {
        out.push_str("# [[tunnels]]\n");
        for key in FileKind::Client.keys() {
            if let Absent::Required { example } = key.default {
                let _ = writeln!(out, "# {} = {}", key.name, toml_string(example));
            }
        }
    }
    for (index, tunnel) in tunnels.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        let _ = writeln!(
            out,
            "{gap}[[tunnels]]\nname = {}\nsource = {}\nbind = {}\nprotocol = {}\ndirection = {}",
            toml_string(tunnel.name.as_str()),
            toml_string(&tunnel.source.to_string()),
            toml_string(&tunnel.bind.to_string()),
            toml_string(&tunnel.protocol.to_string()),
            toml_string(&tunnel.direction.to_string()),
        );
    }
}

/// A value in the form of the environment, as TOML writes it.
fn toml_of(key: &Key, text: &str) -> String {
    match Value::from_text(&key.kind, text) {
        // As it was written: `./keys` stays `./keys`.
        Ok(Value::Path(path)) if path.as_path() == Path::new(text) => toml_string(text),
        Ok(value) => value.to_toml(),
        Err(_) => toml_string(text),
    }
}
