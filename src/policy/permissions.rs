//! What one client may do, and how that is written.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{BindRule, TargetRule};

/// What a client may do. JSON: `{"owner":true}` or `{"targets":["10.2.0.0/16:80,443"]}`, either with
/// `"binds":["*:8080"]` when there are any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Permissions {
    /// What it may have dialled.
    pub targets: Targets,
    /// Where it may have the router listen; an owner also at every port from [`Permissions::FIRST_FREE_PORT`].
    pub binds: Vec<BindRule>,
}

/// What a client may have dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Whatever the router's host reaches, loopback included: an owner.
    Any,
    /// What a rule lists and nothing else; an empty list is nothing at all.
    Listed(Vec<TargetRule>),
}

impl Permissions {
    /// Those of an owner.
    pub const fn owner() -> Self {
        Self { targets: Targets::Any, binds: Vec::new() }
    }

    /// Those of who may reach what is listed, and listen nowhere.
    pub const fn targets(rules: Vec<TargetRule>) -> Self {
        Self { targets: Targets::Listed(rules), binds: Vec::new() }
    }

    /// Whether they are an owner's.
    pub const fn is_owner(&self) -> bool {
        matches!(self.targets, Targets::Any)
    }

    /// Ports below are the system's own: well-known services, for which systems want a privilege.
    pub const FIRST_FREE_PORT: u16 = 1024;
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = match &self.targets {
            Targets::Any => "owner".to_owned(),
            Targets::Listed(rules) if rules.is_empty() => "nothing".to_owned(),
            Targets::Listed(rules) => joined(rules),
        };
        match self.binds.is_empty() {
            true => f.pad(&targets),
            false => f.pad(&format!("{targets}; may listen at {}", joined(&self.binds))),
        }
    }
}

fn joined(rules: &[impl ToString]) -> String {
    rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// The JSON form. An unknown field is an error: a restriction that a newer version wrote must not be overlooked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetRule>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    binds: Vec<BindRule>,
}

impl TryFrom<Written> for Permissions {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let targets = match (written.owner, written.targets) {
            (Some(true), None) => Targets::Any,
            (None, Some(rules)) => Targets::Listed(rules),
            _ => return Err("permissions are {\"owner\":true} or {\"targets\":[…]}"),
        };
        Ok(Self { targets, binds: written.binds })
    }
}

impl From<Permissions> for Written {
    fn from(Permissions { targets, binds }: Permissions) -> Self {
        match targets {
            Targets::Any => Self { owner: Some(true), targets: None, binds },
            Targets::Listed(rules) => Self { owner: None, targets: Some(rules), binds },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules<T: std::str::FromStr<Err: fmt::Debug>>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn the_json_form_reads_back_and_takes_nothing_else() {
        for text in [
            r#"{"owner":true}"#,
            r#"{"owner":true,"binds":["0.0.0.0:80"]}"#,
            r#"{"targets":["10.2.0.0/16:80,443"]}"#,
            r#"{"targets":["db:1","unix:/run/a"],"binds":["*:8080","unix:/run/b"]}"#,
            r#"{"targets":[]}"#,
            r#"{"targets":[],"binds":["10.2.0.1:8080"]}"#,
        ] {
            let permissions: Permissions = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&permissions).expect("json"), text);
        }
        for text in [
            "{}",
            r#"{"owner":false}"#,
            r#"{"owner":true,"targets":[]}"#,
            r#"{"owner":true,"until":5}"#,
            r#"{"targets":["*"]}"#,
            r#"{"binds":["*:8080"]}"#,
            r#"{"owner":true,"binds":["db:80"]}"#,
            r#"{"owner":true,"binds":null}"#,
        ] {
            assert!(serde_json::from_str::<Permissions>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_words_name_every_rule() {
        let (targets, binds) = (&["10.2.0.0/16:80,443", "db:1"], &["*:8080", "10.2.0.1:80"]);
        let mut some = Permissions::targets(rules(targets));
        assert_eq!(some.to_string(), "10.2.0.0/16:80,443 db:1");
        some.binds = rules(binds);
        assert_eq!(some.to_string(), "10.2.0.0/16:80,443 db:1; may listen at *:8080 10.2.0.1:80");
        assert_eq!(Permissions::targets(Vec::new()).to_string(), "nothing");
        assert_eq!(Permissions::owner().to_string(), "owner");
    }
}
