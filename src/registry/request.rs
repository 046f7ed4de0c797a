//! What can be asked of a running process, and how it is written.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::rpc::RpcError;
use crate::tunnel::{HostPort, Identity, Name};

/// How far a tunnel looks before it says how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What it knows.
    Known,
    /// To the router: a probe goes through the data path and back.
    Probe,
    /// Beyond it: the source of each port is connected to as well, over TCP.
    Source,
}

/// A request over the control socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// How it is: a `TunnelStatus` or a `RouterStatus` [CTL-30].
    Status(Depth),
    /// The live connections: `{"connections": [ConnectionStatus]}` [CTL-31].
    Connections,
    /// The metrics as OpenMetrics text: `{"text"}` [CTL-32].
    Metrics,
    /// Resets one connection [CTL-33].
    KillConnection {
        /// `<tunnel id>/<n>`.
        id: String,
    },
    /// Stops accepting, lets connections finish for at most `drain_ms`, ends [CTL-34].
    Shutdown {
        /// 0: at once.
        drain_ms: u64,
    },
    /// Changes the log level [CTL-35].
    LogsLevel {
        /// As in `[logging] level`.
        level: String,
    },
    /// `{"version", "protocol"}` [CTL-36].
    Version,
    /// Router: another program goes on in its place: `{"from", "to"}` [CTL-47].
    Upgrade {
        /// The program's path.
        program: String,
    },
    /// Router: a ticket [CTL-40].
    Invite(InviteParams),
    /// Router: admits a key that was distributed by other means [CTL-41].
    Authorize(AuthorizeParams),
    /// Router: everybody who is admitted or revoked [CTL-42].
    Clients,
    /// Router: ends a client's sessions and refuses its key from now on [CTL-43].
    Revoke {
        /// The client's name.
        name: Name,
    },
    /// Router: a new token [CTL-44].
    TokenCreate(TokenCreateParams),
    /// Router: all tokens, never their secrets [CTL-45].
    TokenList,
    /// Router: ends a token's validity [CTL-46].
    TokenRevoke {
        /// The token's name or id.
        token: String,
    },
}

/// What a ticket shall allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InviteParams {
    /// Targets as `router invite --allow-target` takes them; neither these nor binds make an owner.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_targets: Vec<String>,
    /// Where the router may listen for the client, as `router invite --allow-bind` takes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_binds: Vec<String>,
    /// The name that the client gets; otherwise it proposes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Seconds until it expires; otherwise the router's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_seconds: Option<u64>,
    /// How many clients may use it; otherwise one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Addresses that the ticket carries instead of the router's own idea of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<HostPort>,
}

/// A key that is admitted without a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizeParams {
    /// The key.
    pub identity: Identity,
    /// The client's name.
    pub name: Name,
    /// Targets as `router authorize --allow-target` takes them; neither these nor binds leave a known key what it may
    /// do, and make a new one an owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_targets: Vec<String>,
    /// Where the router may listen for the client, as `router authorize --allow-bind` takes it; for an owner besides
    /// what every owner may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_binds: Vec<String>,
    /// Makes an owner, of a known key too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owner: bool,
}

/// A token to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCreateParams {
    /// What people call it.
    pub name: Name,
    /// Seconds until it expires; otherwise never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_seconds: Option<u64>,
}

impl Request {
    /// The method's name on the wire.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Connections => "connections",
            Self::Metrics => "metrics",
            Self::KillConnection { .. } => "kill_connection",
            Self::Shutdown { .. } => "shutdown",
            Self::LogsLevel { .. } => "logs.level",
            Self::Version => "version",
            Self::Upgrade { .. } => "router.upgrade",
            Self::Invite(_) => "router.invite",
            Self::Authorize(_) => "router.authorize",
            Self::Clients => "router.clients",
            Self::Revoke { .. } => "router.revoke",
            Self::TokenCreate(_) => "router.token.create",
            Self::TokenList => "router.token.list",
            Self::TokenRevoke { .. } => "router.token.revoke",
        }
    }

    pub(super) fn to_parts(&self) -> (&'static str, Value) {
        let params = match self {
            Self::Status(Depth::Probe) => json!({"probe": true}),
            Self::Status(Depth::Source) => json!({"source": true}),
            Self::KillConnection { id } => json!({"id": id}),
            Self::Shutdown { drain_ms } => json!({"drain_ms": drain_ms}),
            Self::LogsLevel { level } => json!({"level": level}),
            Self::Upgrade { program } => json!({"program": program}),
            Self::Invite(params) => json!(params),
            Self::Authorize(params) => json!(params),
            Self::Revoke { name } => json!({"name": name}),
            Self::TokenCreate(params) => json!(params),
            Self::TokenRevoke { token } => json!({"token": token}),
            Self::Status(Depth::Known)
            | Self::Connections
            | Self::Metrics
            | Self::Version
            | Self::Clients
            | Self::TokenList => Map::new().into(),
        };
        (self.method(), params)
    }

    /// Unknown parameters are refused, not skipped: they would change what is asked for [CTL-23].
    pub(super) fn from_parts(method: &str, params: Value) -> Result<Self, RpcError> {
        Ok(match method {
            "status" => Self::Status(read::<Status>(params)?.depth()),
            "connections" => read::<Nothing>(params).map(|_| Self::Connections)?,
            "metrics" => read::<Nothing>(params).map(|_| Self::Metrics)?,
            "kill_connection" => Self::KillConnection { id: read::<Id>(params)?.id },
            "shutdown" => Self::Shutdown { drain_ms: read::<Shutdown>(params)?.drain_ms },
            "logs.level" => Self::LogsLevel { level: read::<Level>(params)?.level },
            "version" => read::<Nothing>(params).map(|_| Self::Version)?,
            "router.upgrade" => Self::Upgrade { program: read::<Program>(params)?.program },
            "router.invite" => Self::Invite(read(params)?),
            "router.authorize" => Self::Authorize(read(params)?),
            "router.clients" => read::<Nothing>(params).map(|_| Self::Clients)?,
            "router.revoke" => Self::Revoke { name: read::<Named>(params)?.name },
            "router.token.create" => Self::TokenCreate(read(params)?),
            "router.token.list" => read::<Nothing>(params).map(|_| Self::TokenList)?,
            "router.token.revoke" => Self::TokenRevoke { token: read::<Token>(params)?.token },
            other => {
                let shown: String = other.chars().take(64).collect();
                let message = format!(
                    "no method {shown:?} in conduit {}: are both ends the same version?",
                    env!("CARGO_PKG_VERSION")
                );
                return Err(RpcError::new(RpcError::METHOD_NOT_FOUND, message));
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    #[serde(default)]
    probe: bool,
    #[serde(default)]
    source: bool,
}

impl Status {
    fn depth(&self) -> Depth {
        match (self.probe, self.source) {
            (_, true) => Depth::Source,
            (true, false) => Depth::Probe,
            (false, false) => Depth::Known,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shutdown {
    drain_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    program: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: Name,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: String,
}

fn read<P: DeserializeOwned>(params: Value) -> Result<P, RpcError> {
    if !params.is_object() {
        return Err(RpcError::new(RpcError::INVALID_PARAMS, "\"params\" is not an object"));
    }
    serde_json::from_value(params)
        .map_err(|error| RpcError::new(RpcError::INVALID_PARAMS, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [CTL-30] to [CTL-36], [CTL-40] to [CTL-47]
    #[test]
    fn every_request_reads_back_as_it_was_written() {
        let name: Name = "ci".parse().expect("a name");
        let identity = Identity::from_bytes([7; 32]);
        let requests = [
            Request::Status(Depth::Known),
            Request::Status(Depth::Probe),
            Request::Status(Depth::Source),
            Request::Connections,
            Request::Metrics,
            Request::KillConnection { id: "web-00ab/7".into() },
            Request::Shutdown { drain_ms: 0 },
            Request::LogsLevel { level: "debug".into() },
            Request::Version,
            Request::Upgrade { program: "/usr/bin/conduit".into() },
            Request::Invite(InviteParams::default()),
            Request::Invite(InviteParams {
                allow_targets: vec!["10.2.0.0/16:80,443".into()],
                allow_binds: vec!["10.2.0.1:8080".into()],
                name: Some(name.clone()),
                expires_seconds: Some(3600),
                uses: Some(3),
                advertise: vec!["r.example:9999".parse().expect("an address")],
            }),
            Request::Authorize(AuthorizeParams {
                identity,
                name: name.clone(),
                allow_targets: Vec::new(),
                allow_binds: Vec::new(),
                owner: false,
            }),
            Request::Authorize(AuthorizeParams {
                identity,
                name: name.clone(),
                allow_targets: Vec::new(),
                allow_binds: vec!["0.0.0.0:80".into()],
                owner: true,
            }),
            Request::Clients,
            Request::Revoke { name: name.clone() },
            Request::TokenCreate(TokenCreateParams { name, expires_seconds: None }),
            Request::TokenList,
            Request::TokenRevoke { token: "ci".into() },
        ];
        for request in requests {
            let (method, params) = request.to_parts();
            assert_eq!(Request::from_parts(method, params), Ok(request));
        }
    }

    /// [CTL-23]
    #[test]
    fn unknown_and_missing_parameters_are_named() {
        for (method, params, word) in [
            ("status", json!({"prob": true}), "prob"),
            ("connections", json!({"all": true}), "all"),
            ("kill_connection", json!({}), "id"),
            ("shutdown", json!({"drain_ms": -1}), "-1"),
            ("router.revoke", json!({"name": "a/b"}), "'/'"),
            ("router.authorize", json!({"identity": "cdk1_x", "name": "a"}), "58"),
        ] {
            let error = Request::from_parts(method, params).expect_err(method);
            assert_eq!(error.code, RpcError::INVALID_PARAMS);
            assert!(error.message.contains(word), "{method}: {}", error.message);
        }
    }
}
