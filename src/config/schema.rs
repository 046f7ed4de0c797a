//! The schema: what a key is, what is legal for it, and what it is called in the environment.

use std::time::Duration;

use super::keys;
use super::units::format_size;

/// The two kinds of configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `conduit.toml`: the client and its tunnels.
    Client,
    /// `router.toml`: the router.
    Router,
}

/// One key: everything that is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The table that it stands in.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What is legal.
    pub kind: Kind,
    /// What holds when nobody says anything.
    pub default: Absent,
    /// What the key does, for the generated file and the reference.
    pub doc: &'static str,
    /// Where a value may come from.
    pub places: Places,
}

/// What holds when a key has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// This value, written as in the environment.
    Value(&'static str),
    /// Something that only the process knows.
    Means {
        /// What then happens, in words.
        meaning: &'static str,
        /// A legal value to show.
        example: &'static str,
    },
    /// The key must be there.
    Required {
        /// A legal value to show.
        example: &'static str,
    },
}

/// Where a value may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// The file, the environment and flags.
    Everywhere,
    /// The file alone: it stands in a table that repeats.
    FileOnly,
    /// The environment alone: it is a secret, never written to a file or a command line, never shown.
    SecretVariable,
}

/// What is legal for a key.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A list of different whole numbers.
    Numbers {
        /// The largest.
        max: u64,
    },
    /// A size in bytes.
    Size {
        /// The smallest, in bytes.
        min: u64,
        /// The largest, in bytes.
        max: u64,
    },
    /// A duration, in milliseconds.
    Duration {
        /// The shortest, in milliseconds, never 0.
        min: u64,
        /// The longest, in milliseconds.
        max: u64,
        /// Whether `"off"` is legal too.
        off: bool,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of different words of these, at least one, in order of preference.
    Choices(&'static [&'static str]),
    /// A tracing filter: a level, or directives such as `info,conduit=debug`.
    LogFilter,
    /// A file; a relative path in a file is relative to that file.
    Path,
    /// An IP address or a host name.
    Host,
    /// A host and a port.
    HostPort,
    /// A list of hosts with ports; a single one needs no brackets.
    HostPorts,
    /// An address to listen on.
    Bind,
    /// Where users of a tunnel arrive: an address, a row of ports, or a Unix socket.
    TunnelBind,
    /// What a tunnel's connections go to: host and port, a row of ports, or a Unix socket.
    TunnelSource,
    /// A list of networks; a single one needs no brackets.
    Networks,
    /// A public key, `cdk1_…`.
    Identity,
    /// An outbound proxy.
    Proxy,
    /// A name of a tunnel.
    Name,
    /// A secret text.
    Secret,
}

impl FileKind {
    /// Every key of such a file, in the order of the generated file.
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        let groups: &'static [&'static [Key]] = match self {
            Self::Client => keys::CLIENT,
            Self::Router => keys::ROUTER,
        };
        groups.iter().flat_map(|group| group.iter())
    }

    /// The sections in order, each once.
    pub fn sections(self) -> Vec<&'static str> {
        let mut sections: Vec<&'static str> = Vec::new();
        for key in self.keys() {
            if !sections.contains(&key.section) {
                sections.push(key.section);
            }
        }
        sections
    }

    /// The key of this name in this section.
    pub fn key(self, section: &str, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.section == section && key.name == name)
    }

    /// The name that such a file usually has.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Client => "conduit.toml",
            Self::Router => "router.toml",
        }
    }

    /// The other kind.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Router,
            Self::Router => Self::Client,
        }
    }
}

impl Key {
    /// `section.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The variable that overrides the key: `CONDUIT_<SECTION>_<KEY>`; none where the table repeats.
    pub fn variable(&self) -> Option<String> {
        (self.places != Places::FileOnly)
            .then(|| format!("CONDUIT_{}_{}", self.section, self.name).to_ascii_uppercase())
    }

    /// Whether the value must never be shown.
    pub fn is_secret(&self) -> bool {
        self.places == Places::SecretVariable
    }
}

impl Kind {
    /// What is legal, as a noun phrase for messages and the reference.
    pub fn legal(&self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Number { min, max } => format!("a whole number from {min} to {max}"),
            Self::Numbers { max } => format!("a list of different whole numbers from 0 to {max}"),
            Self::Size { min, max } => {
                format!("a size from \"{}\" to \"{}\"", format_size(*min), format_size(*max))
            }
            Self::Duration { min, max, off } => {
                let text = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
                let off = if *off { ", or \"off\"" } else { "" };
                format!("a duration from \"{}\" to \"{}\"{off}", text(*min), text(*max))
            }
            Self::Choice(words) => words_or(words),
            Self::Choices(words) => {
                format!("a list of at least one, each once, of {}", words_or(words))
            }
            Self::LogFilter => {
                "error, warn, info, debug, trace, off, or directives as in \"info,conduit=debug\""
                    .to_owned()
            }
            Self::Path => "a path to a file".to_owned(),
            Self::Host => "an IP address or a host name".to_owned(),
            Self::HostPort => "HOST:PORT with a port from 1 to 65535".to_owned(),
            Self::HostPorts => {
                "HOST:PORT, or a list of 1 to 8 of them, with ports from 1 to 65535".to_owned()
            }
            Self::Bind => "ADDRESS:PORT, :PORT or PORT with a port from 0 to 65535".to_owned(),
            Self::TunnelBind => "ADDRESS:PORT, :PORT or PORT with a port from 0 to 65535, a row of ports as in \
                 0.0.0.0:27000-27015, or unix:/PATH"
                .to_owned(),
            Self::TunnelSource => {
                "HOST:PORT with a port from 1 to 65535, a row of ports as in 10.0.0.9:27000-27015, or unix:/PATH"
                    .to_owned()
            }
            Self::Networks => "a list of 1 to 64 addresses or networks, as in \"10.0.0.0/8\"".to_owned(),
            Self::Identity => "an identity: cdk1_ and 58 characters a-z, 2-7".to_owned(),
            Self::Proxy => "http://HOST:PORT, http://USER@HOST:PORT, or the same with socks5://".to_owned(),
            Self::Name => "a name of 1 to 64 characters A-Z a-z 0-9 _ -".to_owned(),
            Self::Secret => "a secret of 1 to 1024 characters".to_owned(),
        }
    }
}

fn words_or(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::environment::RESERVED;
    use super::super::value::Value;
    use super::*;

    #[test]
    fn no_two_keys_share_a_variable() {
        for kind in [FileKind::Client, FileKind::Router] {
            let mut seen: BTreeMap<String, String> = BTreeMap::new();
            for key in kind.keys() {
                let Some(variable) = key.variable() else { continue };
                assert!(!RESERVED.contains(&variable.as_str()), "{variable} is reserved");
                let earlier = seen.insert(variable.clone(), key.full_name());
                assert_eq!(earlier, None, "{variable} means two keys");
            }
            assert!(seen.len() >= 20);
        }
    }

    #[test]
    fn a_variable_that_both_kinds_know_means_the_same_key() {
        for client in FileKind::Client.keys() {
            for router in FileKind::Router.keys() {
                if client.variable().is_some() && client.variable() == router.variable() {
                    assert_eq!(client.full_name(), router.full_name());
                }
            }
        }
    }

    #[test]
    fn every_default_and_every_example_is_legal() {
        for kind in [FileKind::Client, FileKind::Router] {
            for key in kind.keys() {
                let (Absent::Value(text)
                | Absent::Means { example: text, .. }
                | Absent::Required { example: text }) = key.default;
                let value = Value::from_text(&key.kind, text);
                assert!(value.is_ok(), "{} = {text:?}: {value:?}", key.full_name());
                assert!(!key.doc.is_empty(), "{}", key.full_name());
            }
        }
    }
}
