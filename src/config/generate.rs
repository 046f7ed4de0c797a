//! Files and reference written from the schema: what is written is what is read.

use std::fmt::Write as _;
use std::path::Path;

use super::environment::Environment;
use super::error::ConfigErrors;
use super::layers::{Overrides, Resolved};
use super::schema::{Absent, FileKind, Key, Places};
use super::value::{Value, toml_string};
use crate::tunnel::{Options, TunnelSpec};

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
            Absent::Means { meaning, .. } => format!("; absent: {meaning}"),
            Absent::Required { .. } => String::new(),
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
        out.push_str(if index == 0 { "" } else { "\n" });
        write_tunnel(out, tunnel);
    }
}

/// A tunnel's table: its ends always, its options where they differ from the defaults.
fn write_tunnel(out: &mut String, tunnel: &TunnelSpec) {
    let _ = writeln!(
        out,
        "[[tunnels]]\nname = {}\nsource = {}\nbind = {}\nprotocol = {}\ndirection = {}",
        toml_string(tunnel.name.as_str()),
        toml_string(&tunnel.source.to_string()),
        toml_string(&tunnel.bind.to_string()),
        toml_string(tunnel.protocol.as_str()),
        toml_string(tunnel.direction.as_str()),
    );
    let usual = values(&Options::default());
    for ((name, value), (_, usual)) in values(&tunnel.options).into_iter().zip(usual) {
        if let Some(value) = value.filter(|value| Some(value) != usual.as_ref()) {
            let _ = writeln!(out, "{name} = {}", value.to_toml());
        }
    }
}

/// The options by their keys; `None` is what the absence of a key means.
fn values(options: &Options) -> [(&'static str, Option<Value>); 9] {
    // Every field by name: a new one that is not written would be lost in silence.
    let Options {
        group,
        flow_idle,
        max_flows,
        oversize,
        proxy_protocol,
        trusted_proxies,
        priority,
        resume,
        carrier,
    } = options;
    let networks: Vec<String> = trusted_proxies.iter().map(ToString::to_string).collect();
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    [
        ("group", group.as_ref().and_then(|group| text(group.as_str()))),
        ("flow_idle", Some(Value::Duration(flow_idle.unwrap_or_default()))),
        ("max_flows", Some(Value::Number(*max_flows as u64))),
        ("oversize", text(oversize.as_str())),
        ("proxy_protocol", text(proxy_protocol.as_str())),
        ("trusted_proxies", (!networks.is_empty()).then_some(Value::Texts(networks))),
        ("priority", text(priority.as_str())),
        ("resume", Some(Value::Duration(resume.unwrap_or_default()))),
        ("carrier", text(carrier.as_str())),
    ]
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
