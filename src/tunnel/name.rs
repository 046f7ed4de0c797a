//! Names of tunnels and clients, and the id of a running tunnel.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name of a tunnel or a client: 1 to 64 characters of `A-Za-z0-9_-`, compared without case.
///
/// A name is not a path: the charset has no separator and no dot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty or longer than 64 characters.
    #[error("a name has 1 to 64 characters, this one has {0}")]
    Length(usize),
    /// The text holds a character outside `A-Za-z0-9_-`.
    #[error("a name holds only A-Z a-z 0-9 _ and -, not {0:?}")]
    Character(char),
}

impl Name {
    /// The longest name, in characters (which are bytes: the charset is ASCII).
    pub const MAX: usize = 64;

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form under which names are compared and stored.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(other) = text.chars().find(|c| !is_name_character(*c)) {
            return Err(NameError::Character(other));
        }
        if text.is_empty() || text.len() > Self::MAX {
            return Err(NameError::Length(text.chars().count()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded().cmp(&other.folded())
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// The id of one running tunnel process: `<name>-<4 hex>`; the suffix differs from start to start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TunnelId(String);

impl TunnelId {
    /// The id of a new process of the tunnel `name`; `suffix` should be random.
    pub fn new(name: &Name, suffix: u16) -> Self {
        Self(format!("{name}-{suffix:04x}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TunnelId {
    type Err = NameError;

    /// Reads an id back; what cannot be one (a path, say) is refused by the rules of a [`Name`].
    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.rsplit_once('-').map_or(text, |(name, _)| name);
        name.parse::<Name>()?;
        match text.chars().find(|c| !is_name_character(*c)) {
            Some(other) => Err(NameError::Character(other)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_without_case() {
        let lower: Name = "web".parse().expect("a name");
        let upper: Name = "WEB".parse().expect("a name");
        assert_eq!(lower, upper);
        assert_eq!(lower.folded(), upper.folded());
        assert_eq!(upper.as_str(), "WEB");
    }

    #[test]
    fn what_is_not_a_name_says_why() {
        for (text, error) in [
            ("", NameError::Length(0)),
            ("a/b", NameError::Character('/')),
            ("..", NameError::Character('.')),
            ("a\0", NameError::Character('\0')),
            ("naïve", NameError::Character('ï')),
            ("a\u{202e}b", NameError::Character('\u{202e}')),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error), "{text:?}");
        }
        assert_eq!("x".repeat(65).parse::<Name>(), Err(NameError::Length(65)));
        assert!("x".repeat(64).parse::<Name>().is_ok());
    }

    #[test]
    fn an_id_is_a_name_and_four_digits() {
        let name: Name = "tcp-8080".parse().expect("a name");
        let id = TunnelId::new(&name, 0xab);
        assert_eq!(id.as_str(), "tcp-8080-00ab");
        assert_eq!("tcp-8080-00ab".parse(), Ok(id));
        assert!("../x-00ab".parse::<TunnelId>().is_err());
    }
}
