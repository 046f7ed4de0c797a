//! What a command reports when it did not succeed: the same over the readiness pipe as at the terminal.

use serde::{Deserialize, Serialize};

use crate::client::{self, StartError};
use crate::config::{ConfigErrors, HomeError, RoutersError};
use crate::files::FileError;
use crate::identity::{KeyError, RandomError};
use crate::registry::{CallError, ClaimError, Damaged, RegistryError, RpcError, SuperviseError};
use crate::router;
use crate::store::StoreError;
use crate::telemetry::LogError;

/// One failure, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What area it belongs to.
    pub kind: Kind,
    /// A stable word for programs.
    pub code: String,
    /// What failed, on what.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
    /// The exit code, one of [`exit`].
    pub exit: u8,
}

/// The areas of `conduit.error/1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file, a variable or an option says something illegal.
    Config,
    /// The other end cannot be reached.
    Network,
    /// The encrypted connection cannot be established.
    Tls,
    /// Somebody is not who they have to be.
    Authentication,
    /// It is not allowed.
    Policy,
    /// The tunnel itself: its name, its bind.
    Tunnel,
    /// The operating system, a file, another process.
    System,
}

/// The exit codes, documented and stable.
pub mod exit {
    /// It failed, or something is not healthy.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// Something cannot be reached, or took too long.
    pub const UNAVAILABLE: u8 = 69;
    /// It is not allowed: an unknown key, a wrong pin, a refused ticket, a denied target.
    pub const DENIED: u8 = 77;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 78;
}

impl Failure {
    /// A failure of this kind; the kind gives the exit code.
    pub fn new(kind: Kind, code: &str, message: impl Into<String>) -> Self {
        let exit = match kind {
            Kind::Config => exit::CONFIG,
            Kind::Network => exit::UNAVAILABLE,
            Kind::Tls | Kind::Authentication | Kind::Policy => exit::DENIED,
            Kind::Tunnel | Kind::System => exit::FAILURE,
        };
        Self { kind, code: code.to_owned(), message: message.into(), hint: None, exit }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, "usage", message).with_exit(exit::USAGE)
    }

    /// The same with something to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn with_exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// Whether trying again without a change cannot help.
    pub fn is_permanent(&self) -> bool {
        matches!(self.exit, exit::DENIED | exit::CONFIG | exit::USAGE)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let kind = match error.failure() {
            client::Failure::Network => Kind::Network,
            client::Failure::Tls => Kind::Tls,
            client::Failure::Authentication => Kind::Authentication,
            client::Failure::Policy => Kind::Policy,
            client::Failure::Tunnel => Kind::Tunnel,
            client::Failure::System => Kind::System,
        };
        let code = match &error {
            StartError::Listen(_) => "bind_failed",
            StartError::Resolve { .. } => "router_not_found",
            StartError::Unreachable { .. } => "router_unreachable",
            StartError::WrongKey { .. } => "wrong_router_key",
            StartError::Refused { .. } => "not_admitted",
            StartError::TicketRefused { .. } => "ticket_refused",
            StartError::Denied { .. } => "target_denied",
            StartError::Unpublished { .. } => "not_published",
            StartError::Replaced { .. } => "replaced",
            StartError::Unsupported { .. } => "unsupported",
            StartError::Handshake { .. } => "handshake_failed",
            StartError::System { .. } => "system",
        };
        Self { hint: error.hint(), ..Self::new(kind, code, error.to_string()) }
    }
}

impl From<router::StartError> for Failure {
    fn from(error: router::StartError) -> Self {
        Self::new(Kind::System, "router_failed", error.to_string())
    }
}

impl From<ClaimError> for Failure {
    fn from(error: ClaimError) -> Self {
        let code = match &error {
            ClaimError::Running { .. } => "already_running",
            ClaimError::Busy { .. } => "name_busy",
            ClaimError::Damaged(damaged) => return damaged.as_ref().into(),
            ClaimError::Registry(_) => {
                return Self::new(Kind::System, "registry", error.to_string());
            }
        };
        Self::new(Kind::Tunnel, code, error.to_string())
    }
}

impl From<&Damaged> for Failure {
    fn from(damaged: &Damaged) -> Self {
        let hint = format!("`fuser {}` shows that process: end it", damaged.lock.display());
        Self::new(Kind::Tunnel, "record_damaged", damaged.to_string()).with_hint(hint)
    }
}

impl From<SuperviseError> for Failure {
    fn from(error: SuperviseError) -> Self {
        match error {
            SuperviseError::Registry(error) => error.into(),
            error @ SuperviseError::Supervised { .. } => {
                Self::new(Kind::Tunnel, "supervised", error.to_string())
                    .with_hint("`conduit down` with the same file ends it and its tunnels")
            }
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(error) => error.into(),
            CallError::TimedOut { .. } => {
                Self::new(Kind::System, "no_answer", error.to_string()).with_exit(exit::UNAVAILABLE)
            }
            error @ CallError::Failed { .. } => {
                Self::new(Kind::System, "failed", error.to_string())
            }
            error => Self::new(Kind::System, "control", error.to_string()),
        }
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        let code = match error.code {
            RpcError::NOT_FOUND => "not_found",
            RpcError::INVALID_PARAMS => "invalid",
            RpcError::METHOD_NOT_FOUND | RpcError::UNSUPPORTED => "unsupported",
            _ => "failed",
        };
        let hint = error.data.as_ref().and_then(|data| data["hint"].as_str().map(str::to_owned));
        Self { hint, ..Self::new(Kind::System, code, error.message) }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::File(file) if file.is_not_found() => {
                Self::new(Kind::Config, "key", file.to_string())
                    .with_hint("`conduit start --join TICKET …` creates a key and enrols with it, `conduit init` only creates it")
            }
            // A full or read-only disk is no mistake in a file.
            KeyError::File(file) => file.into(),
            error => Self::new(Kind::Config, "key", error.to_string()),
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        // A mode or an owner is something that somebody has set wrongly, like a line of a file.
        let kind = if error.is_unsafe() { Kind::Config } else { Kind::System };
        Self::new(kind, "file", error.to_string())
    }
}

impl From<RoutersError> for Failure {
    fn from(error: RoutersError) -> Self {
        match error {
            RoutersError::File(error) => error.into(),
            RoutersError::Content(error) => {
                Self::new(Kind::Config, "routers_file", error.to_string())
            }
            error @ RoutersError::Lock { .. } => {
                Self::new(Kind::System, "routers_file", error.to_string())
            }
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::File(error) => error.into(),
            error => Self::new(Kind::System, "registry", error.to_string()),
        }
    }
}

macro_rules! plain {
    ($($error:ty => $kind:ident, $code:literal;)*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(Kind::$kind, $code, error.to_string())
            }
        }
    )*};
}

plain! {
    ConfigErrors => Config, "config";
    HomeError => Config, "home";
    LogError => Config, "logging";
    StoreError => System, "store";
    RandomError => System, "random";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_gives_the_documented_exit_code() {
        let code = |kind| Failure::new(kind, "x", "x").exit;
        assert_eq!(code(Kind::Network), 69);
        assert_eq!(code(Kind::Policy), 77);
        assert_eq!(code(Kind::Config), 78);
        assert_eq!(code(Kind::Tunnel), 1);
        assert_eq!(Failure::usage("x").exit, 2);
    }

    #[test]
    fn a_failure_crosses_the_readiness_pipe_unchanged() {
        let failure = Failure::new(Kind::Tls, "pin", "no").with_hint("try").with_exit(77);
        let text = serde_json::to_string(&failure).expect("JSON");
        assert_eq!(serde_json::from_str::<Failure>(&text).expect("read back"), failure);
    }
}
