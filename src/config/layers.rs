//! Flag over environment over file over default, with the origin of every value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use toml::de::{DeTable, DeValue};

use super::document::{parse, type_of};
use super::environment::{Environment, RESERVED};
use super::error::{ConfigErrors, Place, Problem};
use super::schema::{Absent, FileKind, Key, Places};
use super::source::Source;
use super::tunnels::{Tunnel, read_tunnels};
use super::unknown::{unknown_key, unknown_section, unknown_variable};
use super::value::Value;

/// What the command line sets, by key; it wins over everything else.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    values: Vec<Override>,
}

#[derive(Debug, Clone)]
struct Override {
    key: String,
    flag: String,
    text: String,
}

/// A configuration with where it came from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The resolved values.
    pub config: T,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Every key with its value and origin, in the order of the schema; secrets are hidden.
    pub entries: Vec<Entry>,
    /// What was ignored and why, for the debug log.
    pub notices: Vec<String>,
}

/// A line of `config show --origin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `section.key`, or `tunnels.NAME.key`.
    pub key: String,
    /// The value as text; none when nothing is set and the schema has no default.
    pub value: Option<String>,
    /// What the absence of a value means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable.
    Environment(String),
    /// An option of the command line.
    Flag(String),
}

/// The outcome of bringing the layers together.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) kind: FileKind,
    pub(super) values: BTreeMap<(&'static str, &'static str), (Value, Origin)>,
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) notices: Vec<String>,
    file: Option<PathBuf>,
    problems: Vec<Problem>,
}

impl Overrides {
    /// No flags.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key (`"router.host"`) to what the option `flag` (`"--router"`) says, written as in the
    /// environment. What is illegal is reported when the configuration is loaded. The last one wins.
    #[must_use]
    pub fn with(mut self, key: &str, flag: &str, text: impl Into<String>) -> Self {
        self.values.push(Override {
            key: key.to_owned(),
            flag: flag.to_owned(),
            text: text.into(),
        });
        self
    }
}

impl Resolved {
    /// Brings a file (if any), the environment, the flags and the defaults together.
    pub(super) fn load(
        kind: FileKind,
        path: Option<&Path>,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let source = path.map(Source::read).transpose()?;
        Self::from_source(kind, source.as_ref(), environment, overrides)
    }

    /// The same for a text that was read already.
    pub(super) fn from_source(
        kind: FileKind,
        source: Option<&Source>,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let mut resolved = Self {
            kind,
            values: BTreeMap::new(),
            tunnels: Vec::new(),
            notices: Vec::new(),
            file: source.map(|source| source.path().to_owned()),
            problems: Vec::new(),
        };
        resolved.defaults();
        if let Some(source) = source {
            let table = parse(source)?;
            resolved.file_layer(source, &table);
        }
        resolved.environment_layer(environment);
        resolved.flag_layer(overrides);
        ConfigErrors::check(std::mem::take(&mut resolved.problems))?;
        Ok(resolved)
    }

    fn defaults(&mut self) {
        for key in self.kind.keys().filter(|key| key.places != Places::FileOnly) {
            if let Absent::Value(text) = key.default {
                // A test holds that every default is legal.
                if let Ok(value) = Value::from_text(&key.kind, text) {
                    self.values.insert((key.section, key.name), (value, Origin::Default));
                }
            }
        }
    }

    fn file_layer(&mut self, source: &Source, table: &DeTable<'_>) {
        let absolute = std::path::absolute(source.path()).unwrap_or(source.path().to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("")).to_owned();
        for (section, value) in table {
            let at = source.place(section.span().start);
            let name: &str = section.get_ref();
            if name == "tunnels" && self.kind == FileKind::Client {
                let (tunnels, problems) = read_tunnels(source, value);
                self.tunnels = tunnels;
                self.problems.extend(problems);
            } else if !self.kind.sections().contains(&name) {
                self.problems.push(Problem::new(at, unknown_section(self.kind, name, value)));
            } else if let DeValue::Table(keys) = value.get_ref() {
                self.section(source, &folder, name, keys);
            } else {
                let found = type_of(value.get_ref());
                let message = format!("{name} is {found}; legal is the table [{name}]");
                self.problems.push(Problem::new(at, message));
            }
        }
    }

    fn section(&mut self, source: &Source, folder: &Path, section: &str, keys: &DeTable<'_>) {
        for (name, value) in keys {
            let name_at = source.place(name.span().start);
            let Some(key) = self.kind.key(section, name.get_ref()) else {
                let message = unknown_key(self.kind, section, name.get_ref());
                self.problems.push(Problem::new(name_at, message));
                continue;
            };
            if key.is_secret() {
                let variable = key.variable().unwrap_or_default();
                let message = format!(
                    "{}: a secret does not stand in this file; put it into a file named by \
                     {}_file, or into {variable}",
                    key.full_name(),
                    key.full_name()
                );
                self.problems.push(Problem::new(name_at, message));
                continue;
            }
            let start = value.span().start;
            match Value::from_toml(&key.kind, value.get_ref()) {
                Ok(value) => {
                    let (line, _) = source.position(name.span().start);
                    let origin = Origin::File { path: source.path().to_owned(), line };
                    self.set(key, beneath(folder, value), origin);
                }
                Err(message) => {
                    let message = format!("{}: {message}", key.full_name());
                    self.problems.push(Problem::new(source.place(start), message));
                }
            }
        }
    }

    fn environment_layer(&mut self, environment: &Environment) {
        let variables: Vec<(String, &'static Key)> =
            self.kind.keys().filter_map(|key| Some((key.variable()?, key))).collect();
        for (variable, text) in environment.conduit_variables() {
            if text.is_empty() || RESERVED.contains(&variable) {
                continue;
            }
            let text = text.to_str();
            if let Some(link) = text.filter(|text| is_service_link(text)) {
                self.notices.push(format!(
                    "{variable}={link} is set by Kubernetes for a service, not for Conduit: ignored"
                ));
                continue;
            }
            let Some((_, key)) = variables.iter().find(|(name, _)| name == variable) else {
                self.notices.extend(unknown_variable(self.kind, variable));
                continue;
            };
            let read = match text {
                Some(text) => Value::from_text(&key.kind, text),
                None => Err("the value is not UTF-8".to_owned()),
            };
            match read {
                Ok(value) => {
                    let origin = Origin::Environment(variable.to_owned());
                    self.set(key, here(value), origin);
                }
                Err(message) => {
                    let place = Place::Environment(variable.to_owned());
                    let message = format!("{}: {message}", key.full_name());
                    self.problems.push(Problem::new(place, message));
                }
            }
        }
    }

    fn flag_layer(&mut self, overrides: &Overrides) {
        for Override { key: name, flag, text } in &overrides.values {
            let key = name.split_once('.').and_then(|(section, name)| self.kind.key(section, name));
            let read = match key {
                Some(key) if key.places == Places::Everywhere => {
                    Value::from_text(&key.kind, text).map(|value| (key, value))
                }
                // A secret on a command line would be seen by every user of the machine.
                Some(_) => Err("cannot be given on the command line".to_owned()),
                None => Err(format!("is no key of {}", self.kind.file_name())),
            };
            match read {
                Ok((key, value)) => self.set(key, here(value), Origin::Flag(flag.clone())),
                Err(message) => {
                    let message = format!("{name}: {message}");
                    self.problems.push(Problem::new(Place::Flag(flag.clone()), message));
                }
            }
        }
    }

    fn set(&mut self, key: &'static Key, value: Value, origin: Origin) {
        self.values.insert((key.section, key.name), (value, origin));
    }

    /// The resolved configuration `config` with everything that is known about it.
    pub(super) fn into_loaded<T>(self, config: T) -> Loaded<T> {
        let entries = self.entries();
        Loaded { config, file: self.file, entries, notices: self.notices }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for key in self.kind.keys().filter(|key| key.places != Places::FileOnly) {
            let found = self.values.get(&(key.section, key.name));
            let value = found.map(|(value, _)| match key.is_secret() {
                true => "(hidden)".to_owned(),
                false => value.to_string(),
            });
            let meaning = match key.default {
                Absent::Means { meaning, .. } if value.is_none() => Some(meaning),
                _ => None,
            };
            let origin = found.map_or(Origin::Default, |(_, origin)| origin.clone());
            entries.push(Entry { key: key.full_name(), value, meaning, origin });
        }
        entries.extend(self.tunnels.iter().flat_map(Tunnel::entries));
        entries
    }
}

/// Kubernetes describes every service to every container: `CONDUIT_ROUTER_PORT=tcp://10.0.0.1:9999`.
fn is_service_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme))
}

/// A relative path of a file is relative to the file's folder.
fn beneath(folder: &Path, value: Value) -> Value {
    match value {
        Value::Path(path) => {
            // Without the `.` of `./keys`: `absolute` leaves it out, `join` would not.
            Value::Path(folder.join(path).components().collect())
        }
        other => other,
    }
}

/// A relative path of the environment or a flag is relative to the working directory.
fn here(value: Value) -> Value {
    match value {
        Value::Path(path) => Value::Path(std::path::absolute(&path).unwrap_or(path)),
        other => other,
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::File { path, line } => f.pad(&format!("{}:{line}", path.display())),
            Self::Environment(name) | Self::Flag(name) => f.pad(name),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
