//! A value of a key: read from a file or from text, written back as TOML.

use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use super::error::quoted;
use super::schema::Kind;
use super::units::{format_size, parse_size};
use crate::tunnel::{
    Bind, BindAddr, Host, HostPort, Identity, Name, Proxy, Span, Target, parse_networks,
};

/// A legal value of some [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A word, an address, a name: a text that its kind has checked.
    Text(String),
    /// A path.
    Path(PathBuf),
    /// A whole number.
    Number(u64),
    /// `true` or `false`.
    Switch(bool),
    /// A duration; zero stands for `"off"`.
    Duration(Duration),
    /// A size in bytes.
    Size(u64),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of numbers.
    Numbers(Vec<u64>),
}

impl Value {
    /// Reads a value as the environment, a flag or a default writes it; the error is a message.
    pub(super) fn from_text(kind: &Kind, text: &str) -> Result<Self, String> {
        let read = match kind {
            Kind::Switch => text.parse().ok().map(Self::Switch),
            Kind::Number { .. } => decimal(text).map(Self::Number),
            Kind::Numbers { .. } => text
                .split(',')
                .map(|part| decimal(part.trim()))
                .collect::<Option<_>>()
                .map(Self::Numbers),
            Kind::Choices(_) | Kind::HostPorts | Kind::Networks => {
                Some(Self::Texts(text.split(',').map(|part| part.trim().to_owned()).collect()))
            }
            _ => return Self::from_string(kind, text),
        };
        read.ok_or_else(|| illegal(kind, &quoted(text), None)).and_then(|value| value.checked(kind))
    }

    /// Reads a value of a file; the error is a message.
    pub(super) fn from_toml(kind: &Kind, value: &DeValue<'_>) -> Result<Self, String> {
        let wrong = || illegal(kind, &shown(value), None);
        match (kind, value) {
            (Kind::Switch, DeValue::Boolean(on)) => Ok(Self::Switch(*on)),
            (Kind::Switch | Kind::Number { .. } | Kind::Numbers { .. }, DeValue::String(_)) => {
                Err(wrong())
            }
            (Kind::Number { .. }, DeValue::Integer(number)) => {
                unsigned(number).map(Self::Number).ok_or_else(wrong)?.checked(kind)
            }
            (Kind::Size { .. }, DeValue::Integer(number)) => {
                unsigned(number).map(Self::Size).ok_or_else(wrong)?.checked(kind)
            }
            (Kind::Duration { off: true, .. }, DeValue::Integer(number))
                if unsigned(number) == Some(0) =>
            {
                Ok(Self::Duration(Duration::ZERO))
            }
            (Kind::Duration { .. }, DeValue::Integer(number)) => {
                let hint = format!("write a unit, as in \"{number}s\"");
                Err(illegal(kind, &shown(value), Some(&hint)))
            }
            (Kind::Bind | Kind::TunnelBind, DeValue::Integer(number)) => {
                let text = unsigned(number).ok_or_else(wrong)?.to_string();
                Self::from_string(kind, &text)
            }
            (Kind::Numbers { .. }, DeValue::Array(items)) => {
                let numbers = items.iter().map(|item| match item.get_ref() {
                    DeValue::Integer(number) => unsigned(number),
                    _ => None,
                });
                numbers.collect::<Option<_>>().map(Self::Numbers).ok_or_else(wrong)?.checked(kind)
            }
            (Kind::Choices(_) | Kind::HostPorts | Kind::Networks, DeValue::Array(items)) => {
                let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
                texts.collect::<Option<_>>().map(Self::Texts).ok_or_else(wrong)?.checked(kind)
            }
            (Kind::HostPorts | Kind::Networks, DeValue::String(text)) => {
                Self::Texts(vec![text.to_string()]).checked(kind)
            }
            (Kind::HostPort | Kind::TunnelSource, DeValue::Array(items)) => {
                match items.iter().as_slice() {
                    [one] => match one.get_ref() {
                        DeValue::String(text) => Self::from_string(kind, text),
                        _ => Err(wrong()),
                    },
                    many => Err(format!("{} targets: this version takes exactly one", many.len())),
                }
            }
            (_, DeValue::String(text)) if !matches!(kind, Kind::Choices(_)) => {
                Self::from_string(kind, text)
            }
            _ => Err(wrong()),
        }
    }

    /// Reads the kinds whose form is one text everywhere.
    fn from_string(kind: &Kind, text: &str) -> Result<Self, String> {
        fn why<T>(result: Result<T, impl fmt::Display>) -> Result<T, Option<String>> {
            result.map_err(|error| Some(error.to_string()))
        }
        let text_value = || Self::Text(text.to_owned());
        let read = match kind {
            Kind::Duration { off: true, .. } if matches!(text, "off" | "0") => {
                Ok(Self::Duration(Duration::ZERO))
            }
            Kind::Duration { .. } => why(humantime::parse_duration(text)).and_then(|duration| {
                if duration.is_zero() { Err(None) } else { Ok(Self::Duration(duration)) }
            }),
            Kind::Size { .. } => why(parse_size(text)).map(Self::Size),
            Kind::Host => why(text.parse::<Host>()).map(|_| text_value()),
            Kind::HostPort => why(text.parse::<HostPort>()).map(|_| text_value()),
            Kind::Bind => why(text.parse::<BindAddr>()).map(|_| text_value()),
            Kind::TunnelBind => why(text.parse::<Span<Bind>>()).map(|_| text_value()),
            Kind::TunnelSource => why(text.parse::<Span<Target>>()).map(|_| text_value()),
            Kind::Identity => why(text.parse::<Identity>()).map(|_| text_value()),
            Kind::Proxy => match text.parse::<Proxy>() {
                Ok(_) => Ok(text_value()),
                // It may hold a password, which never stands in a message.
                Err(error) => return Err(illegal(kind, "the given one", Some(&error.to_string()))),
            },
            Kind::Name => why(text.parse::<Name>()).map(|_| text_value()),
            Kind::Path if text.starts_with("~/") || text == "~" => {
                Err(Some("~ is not expanded here, write the path out".to_owned()))
            }
            Kind::Path if text.is_empty() || text.contains('\0') => Err(None),
            Kind::Path => Ok(Self::Path(PathBuf::from(text))),
            Kind::Choice(words) if !words.contains(&text) => Err(nearest(text, words)),
            Kind::LogFilter if !is_log_filter(text) => Err(nearest(text, LEVELS)),
            Kind::Secret if text.is_empty() || text.len() > 1024 => {
                // The value itself never stands in a message.
                return Err(illegal(kind, "the given one", None));
            }
            _ => Ok(text_value()),
        };
        read.map_err(|reason| illegal(kind, &quoted(text), reason.as_deref()))
            .and_then(|value| value.checked(kind))
    }

    /// The value when it is within its range.
    fn checked(self, kind: &Kind) -> Result<Self, String> {
        let within = match (kind, &self) {
            (Kind::Number { min, max }, Self::Number(n)) => (min..=max).contains(&n),
            (Kind::Size { min, max }, Self::Size(n)) => (min..=max).contains(&n),
            (Kind::Numbers { max }, Self::Numbers(numbers)) => {
                !numbers.is_empty() && numbers.iter().all(|n| n <= max) && all_differ(numbers)
            }
            (Kind::Duration { min, max, .. }, Self::Duration(d)) => {
                d.is_zero()
                    || (Duration::from_millis(*min)..=Duration::from_millis(*max)).contains(d)
            }
            (Kind::Choices(words), Self::Texts(texts)) => {
                let known = |text: &String| words.contains(&text.as_str());
                if let Some(unknown) = texts.iter().find(|text| !known(text)) {
                    let hint = nearest(unknown, words);
                    return Err(illegal(kind, &quoted(unknown), hint.as_deref()));
                }
                !texts.is_empty() && all_differ(texts)
            }
            (Kind::HostPorts, Self::Texts(texts)) => {
                for text in texts {
                    if let Err(error) = text.parse::<HostPort>() {
                        return Err(illegal(kind, &quoted(text), Some(&error.to_string())));
                    }
                }
                (1..=8).contains(&texts.len())
            }
            (Kind::Networks, Self::Texts(texts)) => {
                if let Err(error) = parse_networks(texts) {
                    return Err(illegal(kind, &cut(&self.to_toml()), Some(&error)));
                }
                (1..=64).contains(&texts.len())
            }
            _ => true,
        };
        if within { Ok(self) } else { Err(illegal(kind, &cut(&self.to_toml()), None)) }
    }

    /// The value as TOML writes it.
    pub fn to_toml(&self) -> String {
        match self {
            Self::Text(text) => toml_string(text),
            Self::Path(path) => toml_string(&path.to_string_lossy()),
            Self::Number(number) => number.to_string(),
            Self::Switch(on) => on.to_string(),
            Self::Duration(duration) if duration.is_zero() => "\"off\"".to_owned(),
            Self::Duration(duration) => {
                format!("\"{}\"", humantime::format_duration(*duration))
            }
            Self::Size(bytes) => format!("\"{}\"", format_size(*bytes)),
            Self::Texts(texts) => {
                let items: Vec<_> = texts.iter().map(|text| toml_string(text)).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Numbers(numbers) => {
                let items: Vec<_> = numbers.iter().map(u64::to_string).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

/// The message for a value that is not legal: what it is, why not, what would be.
fn illegal(kind: &Kind, found: &str, reason: Option<&str>) -> String {
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{found} is not legal{reason}; legal is {}", kind.legal())
}

/// How a value of a file is named in a message.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => cut(&number.to_string()),
        DeValue::Float(number) => cut(number.as_str()),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "this list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn unsigned(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn all_differ<T: Ord>(items: &[T]) -> bool {
    items.iter().collect::<std::collections::BTreeSet<_>>().len() == items.len()
}

/// `LEVEL` or `TARGET=LEVEL`, separated by commas. A lone word that is no level would be a target for
/// tracing, and log everything of it: here it is a typing mistake.
fn is_log_filter(text: &str) -> bool {
    text.len() <= 1024
        && text.split(',').all(|part| {
            let (target, level) = part.rsplit_once('=').unwrap_or(("conduit", part));
            let target_ok = !target.is_empty()
                && target.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
            target_ok && LEVELS.contains(&level)
        })
}

/// "did you mean" for a word, when one is near.
pub(super) fn nearest(text: &str, words: &[&str]) -> Option<String> {
    if text.len() > 64 {
        return None;
    }
    let folded = text.to_lowercase();
    words
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&folded, &word.to_lowercase()), *word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min()
        .map(|(_, word)| format!("did you mean {word:?}?"))
}

/// A basic string of TOML.
pub(super) fn toml_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl fmt::Display for Value {
    /// Texts without quotes, everything else as in TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Path(path) => f.pad(&path.to_string_lossy()),
            Self::Duration(_) | Self::Size(_) => f.pad(self.to_toml().trim_matches('"')),
            Self::Texts(texts) => f.pad(&texts.join(", ")),
            other => f.pad(&other.to_toml()),
        }
    }
}

/// The levels of tracing.
const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace", "off"];
