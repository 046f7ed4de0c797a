//! The tables `[[tunnels]]`: each checked by itself, then against the others.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::layers::{Entry, Origin};
use super::schema::{Absent, FileKind, Key};
use super::source::Source;
use super::unknown::unknown_key;
use super::value::Value;
use crate::tunnel::{BindAddr, Direction, HostPort, Name, Protocol, TunnelSpec};

/// A tunnel of a file, with the lines that its values stand on.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    pub(super) spec: TunnelSpec,
    path: PathBuf,
    lines: HashMap<&'static str, usize>,
}

/// What could be read of a table, good or not.
#[derive(Default)]
struct Draft {
    texts: HashMap<&'static str, (String, usize)>,
}

/// Reads the value of `tunnels`: the tunnels that are sound, and every problem.
pub(super) fn read_tunnels(
    source: &Source,
    value: &Spanned<DeValue<'_>>,
) -> (Vec<Tunnel>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut drafts = Vec::new();
    let DeValue::Array(items) = value.get_ref() else {
        let message = "tunnels is a list: write [[tunnels]], with two brackets, once per tunnel";
        let problem = Problem::new(source.place(value.span().start), message);
        return (Vec::new(), vec![problem]);
    };
    for item in items {
        let start = item.span().start;
        match item.get_ref() {
            DeValue::Table(table) => drafts.push(draft(source, start, table, &mut problems)),
            _ => problems.push(Problem::new(
                source.place(start),
                "tunnels is a list of tables: write [[tunnels]] once per tunnel",
            )),
        }
    }
    problems.extend(conflicts(source, &drafts));
    (drafts.iter().filter_map(|draft| draft.tunnel(source)).collect(), problems)
}

fn draft(source: &Source, start: usize, table: &DeTable<'_>, problems: &mut Vec<Problem>) -> Draft {
    let mut draft = Draft::default();
    let mut seen = Vec::new();
    for (name, value) in table {
        let Some(key) = FileKind::Client.key("tunnels", name.get_ref()) else {
            let message = unknown_key(FileKind::Client, "tunnels", name.get_ref());
            problems.push(Problem::new(source.place(name.span().start), message));
            continue;
        };
        seen.push(key.name);
        let at = value.span().start;
        match Value::from_toml(&key.kind, value.get_ref()) {
            Ok(value) => {
                draft.texts.insert(key.name, (value.to_string(), at));
            }
            Err(message) => {
                let message = format!("{}: {message}", key.full_name());
                problems.push(Problem::new(source.place(at), message));
            }
        }
    }
    for key in keys() {
        if let (Absent::Required { example }, false) = (key.default, seen.contains(&key.name)) {
            let message = format!(
                "{} is missing; legal is {}, as in {} = {example:?}",
                key.full_name(),
                key.kind.legal(),
                key.name
            );
            problems.push(Problem::new(source.place(start), message));
        }
    }
    draft
}

/// Names that are equal without case, and binds that exclude each other.
fn conflicts(source: &Source, drafts: &[Draft]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut names: HashMap<Name, usize> = HashMap::new();
    let mut binds: HashMap<SocketAddr, usize> = HashMap::new();
    // The first bind of a port, of an address family: a wildcard excludes every one of them.
    let mut ports: HashMap<(bool, u16), usize> = HashMap::new();
    let mut wildcards: HashMap<(bool, u16), usize> = HashMap::new();
    for draft in drafts {
        if let Some((name, at)) = draft.read::<Name>("name") {
            if let Some(first) = names.get(&name) {
                let (line, _) = source.position(*first);
                let message = format!(
                    "tunnels.name: {name} is also the name of the tunnel in line {line} (names are \
                     compared without case)"
                );
                problems.push(Problem::new(source.place(at), message));
            } else {
                names.insert(name, at);
            }
        }
        let Some((bind, at)) = draft.read::<BindAddr>("bind") else { continue };
        let addr = bind.socket_addr();
        if addr.port() == 0 {
            continue;
        }
        let family = (addr.is_ipv6(), addr.port());
        let wildcard = addr.ip().is_unspecified();
        let first = binds
            .get(&addr)
            .or_else(|| wildcards.get(&family))
            .or_else(|| ports.get(&family).filter(|_| wildcard));
        if let Some(first) = first {
            let (line, _) = source.position(*first);
            let message =
                format!("tunnels.bind: {bind} is taken by the tunnel in line {line} of this file");
            problems.push(Problem::new(source.place(at), message));
            continue;
        }
        binds.insert(addr, at);
        ports.entry(family).or_insert(at);
        if wildcard {
            wildcards.insert(family, at);
        }
    }
    problems
}

impl Draft {
    fn read<T: std::str::FromStr>(&self, key: &str) -> Option<(T, usize)> {
        let (text, at) = self.texts.get(key)?;
        Some((text.parse().ok()?, *at))
    }

    /// The tunnel, when everything that it needs was legal. Protocol and direction have one legal value
    /// each, which the schema has checked.
    fn tunnel(&self, source: &Source) -> Option<Tunnel> {
        let spec = TunnelSpec {
            name: self.read::<Name>("name")?.0,
            direction: Direction::Forward,
            protocol: Protocol::Tcp,
            bind: self.read::<BindAddr>("bind")?.0,
            source: self.read::<HostPort>("source")?.0,
        };
        let lines = self.texts.iter().map(|(key, (_, at))| (*key, source.position(*at).0));
        Some(Tunnel { spec, path: source.path().to_owned(), lines: lines.collect() })
    }
}

impl Tunnel {
    /// The lines of `config show`.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let spec = &self.spec;
        keys()
            .map(|key| Entry {
                key: format!("tunnels.{}.{}", spec.name, key.name),
                value: Some(match key.name {
                    "name" => spec.name.to_string(),
                    "source" => spec.source.to_string(),
                    "bind" => spec.bind.to_string(),
                    "protocol" => spec.protocol.to_string(),
                    _ => spec.direction.to_string(),
                }),
                meaning: None,
                origin: match self.lines.get(key.name) {
                    Some(line) => Origin::File { path: self.path.clone(), line: *line },
                    None => Origin::Default,
                },
            })
            .collect()
    }
}

fn keys() -> impl Iterator<Item = &'static Key> {
    FileKind::Client.keys().filter(|key| key.section == "tunnels")
}
