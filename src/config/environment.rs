//! The environment, captured once: nothing else of Conduit reads a variable.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// The variables that Conduit reads, as they were at the start of the process.
///
/// Tests build one from an iterator; only `main` captures the process's own.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

/// A secret text: erased when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Environment {
    /// One program sets it for the next, in the same process.
    pub const HANDOVER: &str = "CONDUIT_HANDOVER";

    /// The variables of this process.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        Self::capture(std::env::vars_os())
    }

    /// The variables that concern Conduit, out of these.
    pub fn capture<N: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables
            .into_iter()
            // A name that is not UTF-8 is none of ours.
            .filter_map(|(name, value)| Some((name.into().into_string().ok()?, value.into())))
            .filter(|(name, _)| name.starts_with("CONDUIT_") || FOREIGN.contains(&name.as_str()))
            .collect();
        Self { variables }
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The ticket in `CONDUIT_TICKET`.
    pub fn ticket(&self) -> Option<Secret> {
        self.variable("CONDUIT_TICKET")?.to_str().map(|text| Secret::new(text.trim()))
    }

    /// The file of a credential that the service manager passed on: `conduit-<name>` in
    /// `CREDENTIALS_DIRECTORY` (`conduit-token`, `conduit-ticket`, `conduit-key`), when it is there.
    pub fn credential(&self, name: &str) -> Option<PathBuf> {
        let folder = PathBuf::from(self.variable("CREDENTIALS_DIRECTORY")?);
        let file = folder.join(format!("conduit-{name}"));
        (folder.is_absolute() && file.is_file()).then_some(file)
    }

    /// The file that the program before has left: the number in `CONDUIT_HANDOVER`.
    pub fn handover(&self) -> Option<u32> {
        self.variable(Self::HANDOVER)?.to_str()?.parse().ok()
    }

    /// The variables that hold secrets: a spawned process must not inherit them.
    pub const fn secret_variables() -> &'static [&'static str] {
        &["CONDUIT_TICKET", "CONDUIT_SECURITY_TOKEN", "CONDUIT_ROUTER_PROXY_PASSWORD"]
    }

    /// The variables with which a service manager and the process that it has started find each other: a process which
    /// that one spawns is none of theirs.
    pub const fn manager_variables() -> &'static [&'static str] {
        &["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS"]
    }

    /// Every `CONDUIT_*` variable that is set, by name.
    pub(super) fn conduit_variables(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.variables
            .iter()
            .filter(|(name, _)| name.starts_with("CONDUIT_"))
            .map(|(name, value)| (name.as_str(), value.as_os_str()))
    }
}

impl Secret {
    /// A secret of this text.
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text, for whoever has to use it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Environment {
    /// The names alone: values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Variables of others that Conduit reads.
const FOREIGN: &[&str] =
    &["HOME", "USERPROFILE", "CREDENTIALS_DIRECTORY", "XDG_RUNTIME_DIR", "NO_COLOR"];

/// Variables of Conduit that are no keys.
pub(super) const RESERVED: &[&str] = &["CONDUIT_HOME", "CONDUIT_TICKET", Environment::HANDOVER];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_concerns_conduit_is_kept_and_no_value_is_printed() {
        let environment = Environment::capture([
            ("CONDUIT_TICKET", " cdt1_secret\n"),
            ("AWS_SECRET", "x"),
            ("CONDUIT_LOGGING_LEVEL", ""),
            ("HOME", "/home/a"),
        ]);
        assert_eq!(environment.ticket().expect("a ticket").expose(), "cdt1_secret");
        assert_eq!(environment.variable("AWS_SECRET"), None);
        assert_eq!(environment.variable("CONDUIT_LOGGING_LEVEL"), None, "empty means unset");
        let printed = format!("{environment:?} {:?}", environment.ticket());
        assert!(!printed.contains("cdt1_") && printed.contains("(hidden)"), "{printed}");
    }

    #[test]
    fn a_credential_is_a_file_of_the_service_manager() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment =
            Environment::capture([("CREDENTIALS_DIRECTORY", folder.path().as_os_str())]);
        assert_eq!(environment.credential("token"), None);
        std::fs::write(folder.path().join("conduit-token"), "x").expect("written");
        assert_eq!(environment.credential("token"), Some(folder.path().join("conduit-token")));
    }
}
