//! The tables `[[tunnels]]`: each checked by itself, then against the others.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::layers::{Entry, Origin};
use super::schema::{Absent, FileKind, Key};
use super::source::Source;
use super::unknown::unknown_key;
use super::value::Value;
use crate::tunnel::{
    Bind, Direction, Name, Options, Protocol, Span, SpecError, TunnelSpec, parse_networks,
};

/// A tunnel of a file, with the lines that its values stand on.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    pub(super) spec: TunnelSpec,
    texts: HashMap<&'static str, String>,
    path: PathBuf,
    lines: HashMap<&'static str, usize>,
}

/// What could be read of a table, good or not.
struct Draft {
    /// Where the table starts.
    start: usize,
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
    let mut tunnels = Vec::new();
    for tunnel in drafts.iter().filter_map(|draft| draft.tunnel(source)) {
        match tunnel {
            Ok(tunnel) => tunnels.push(tunnel),
            Err(problem) => problems.push(problem),
        }
    }
    (tunnels, problems)
}

fn draft(source: &Source, start: usize, table: &DeTable<'_>, problems: &mut Vec<Problem>) -> Draft {
    let mut draft = Draft { start, texts: HashMap::new() };
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
    let mut taken = Taken::default();
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
        let Some((binds, at)) = draft.read::<Span<Bind>>("bind") else { continue };
        if let Some(first) = taken.first_of(draft.side(), &binds) {
            let (line, _) = source.position(first);
            let message =
                format!("tunnels.bind: {binds} is taken by the tunnel in line {line} of this file");
            problems.push(Problem::new(source.place(at), message));
            continue;
        }
        taken.take(draft.side(), &binds, at);
    }
    problems
}

/// Whose sockets a bind competes with: those of one end and one protocol.
type Side = (Direction, Protocol);

/// The binds of a file so far, with the places where they stand.
#[derive(Default)]
struct Taken {
    binds: HashMap<(Side, Bind), usize>,
    /// The first bind of a port, of an address family: a wildcard excludes every one of them.
    ports: HashMap<(Side, bool, u16), usize>,
    wildcards: HashMap<(Side, bool, u16), usize>,
}

impl Taken {
    /// The tunnel that has one of these binds already.
    fn first_of(&self, side: Side, binds: &Span<Bind>) -> Option<usize> {
        binds.each().find_map(|bind| {
            let same = |bind| self.binds.get(&(side, bind)).copied();
            let Some(addr) = bind.socket_addr() else { return same(bind) };
            if addr.port() == 0 {
                return None;
            }
            let family = (side, addr.is_ipv6(), addr.port());
            let any = || self.ports.get(&family).filter(|_| addr.ip().is_unspecified());
            same(bind).or_else(|| self.wildcards.get(&family).or_else(any).copied())
        })
    }

    fn take(&mut self, side: Side, binds: &Span<Bind>, at: usize) {
        for bind in binds.each() {
            if let Some(addr) = bind.socket_addr() {
                if addr.port() == 0 {
                    continue;
                }
                let family = (side, addr.is_ipv6(), addr.port());
                self.ports.entry(family).or_insert(at);
                if addr.ip().is_unspecified() {
                    self.wildcards.insert(family, at);
                }
            }
            self.binds.insert((side, bind), at);
        }
    }
}

impl Draft {
    fn read<T: FromStr>(&self, key: &str) -> Option<(T, usize)> {
        let (text, at) = self.texts.get(key)?;
        Some((text.parse().ok()?, *at))
    }

    /// What was written, or the default of the schema.
    fn word<T: FromStr>(&self, key: &str) -> Option<T> {
        if let Some((text, _)) = self.texts.get(key) {
            return text.parse().ok();
        }
        match FileKind::Client.key("tunnels", key)?.default {
            Absent::Value(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn side(&self) -> Side {
        let direction = self.word("direction").unwrap_or(Direction::Forward);
        (direction, self.word("protocol").unwrap_or(Protocol::Tcp))
    }

    fn options(&self) -> Option<Options> {
        let networks = self.texts.get("trusted_proxies").map(|(text, _)| text.split(','));
        let networks: Vec<_> = networks.into_iter().flatten().map(str::trim).collect();
        let duration = |key| {
            let text = self.word::<String>(key)?;
            Some(humantime::parse_duration(&text).ok().filter(|duration| !duration.is_zero()))
        };
        Some(Options {
            group: self.word("group"),
            flow_idle: duration("flow_idle")?,
            max_flows: self.word("max_flows")?,
            oversize: self.word("oversize")?,
            proxy_protocol: self.word("proxy_protocol")?,
            trusted_proxies: parse_networks(&networks).ok()?,
            priority: self.word("priority")?,
            resume: duration("resume")?,
            carrier: self.word("carrier")?,
        })
    }

    /// The tunnel, when everything that it needs was legal.
    fn spec(&self) -> Option<TunnelSpec> {
        let (direction, protocol) = self.side();
        Some(TunnelSpec {
            name: self.word("name")?,
            direction,
            protocol,
            bind: self.word("bind")?,
            source: self.word("source")?,
            options: self.options()?,
        })
    }

    /// The tunnel with the lines of its values; a problem when the parts do not go together.
    fn tunnel(&self, source: &Source) -> Option<Result<Tunnel, Problem>> {
        let spec = self.spec()?;
        if let Err(error) = spec.check() {
            let key = match error {
                SpecError::UnixUdp { end, .. } => end,
                SpecError::Unequal { .. } => "bind",
                SpecError::TextHeaderUdp => "proxy_protocol",
            };
            let at = self.texts.get(key).map_or(self.start, |(_, at)| *at);
            return Some(Err(Problem::new(source.place(at), format!("tunnels.{key}: {error}"))));
        }
        let lines = self.texts.iter().map(|(key, (_, at))| (*key, source.position(*at).0));
        let texts = self.texts.iter().map(|(key, (text, _))| (*key, text.clone()));
        let path = source.path().to_owned();
        Some(Ok(Tunnel { spec, texts: texts.collect(), path, lines: lines.collect() }))
    }
}

impl Tunnel {
    /// The lines of `config show`.
    pub(super) fn entries(&self) -> Vec<Entry> {
        keys()
            .map(|key| {
                let written = self.texts.get(key.name).cloned();
                let (value, meaning) = match key.default {
                    _ if written.is_some() => (written, None),
                    Absent::Value(text) => (Some(text.to_owned()), None),
                    Absent::Means { meaning, .. } => (None, Some(meaning)),
                    Absent::Required { .. } => (None, None),
                };
                let origin = match self.lines.get(key.name) {
                    Some(line) => Origin::File { path: self.path.clone(), line: *line },
                    None => Origin::Default,
                };
                Entry {
                    key: format!("tunnels.{}.{}", self.spec.name, key.name),
                    value,
                    meaning,
                    origin,
                }
            })
            .collect()
    }
}

fn keys() -> impl Iterator<Item = &'static Key> {
    FileKind::Client.keys().filter(|key| key.section == "tunnels")
}
