//! Everything that a tunnel process needs, and what it says when it is ready.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Kind};
use super::tuning::Tuning;
use crate::client::{self, Access, Networks};
use crate::config::Logging;
use crate::identity::{Keypair, Token};
use crate::registry::{self, NewRecord, RecordConfig};
use crate::telemetry::{LogFormat, LogOutput, LogSettings};
use crate::transport;
use crate::tunnel::{Bind, Direction, HostPort, Identity, Span, Target, TunnelId, TunnelSpec};

/// What a tunnel process is started with. It travels through a pipe: nothing of it is in arguments or environment.
#[derive(Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The tunnel.
    pub spec: TunnelSpec,
    /// The router and its pin.
    pub router: Pin,
    /// The private key's file.
    pub key: PathBuf,
    /// Whether somebody named that file: a mounted secret is then accepted.
    pub key_named: bool,
    /// The token's text, for routers that ask for one.
    pub token: Option<String>,
    /// The name that this client proposes for itself.
    pub client_name: String,
    /// Buffers, limits, times.
    pub tuning: Tuning,
    /// As in `[logging]`.
    pub log_level: String,
    /// `[logging] format = "json"`.
    pub log_json: bool,
    /// Where the log goes.
    pub log: Output,
    /// Size at which the log is rotated.
    pub log_max_bytes: u64,
    /// Rotated logs kept.
    pub log_keep: u32,
    /// `CONDUIT_HOME`.
    pub home: PathBuf,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// The file that declares the tunnel.
    pub config_file: Option<PathBuf>,
    /// Whether the process ends when its parent does, which then is its supervisor.
    pub leashed: bool,
    /// What of the environment was ignored and why, for the debug log.
    pub notices: Vec<String>,
}

/// Where a router is, and which key it must show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// In the order to try.
    pub addresses: Vec<HostPort>,
    /// The key.
    pub identity: Identity,
}

/// Where a tunnel's log goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// The registry's `<id>.log`.
    Own,
    /// A file that the configuration names.
    File(PathBuf),
    /// The standard error stream.
    Stderr,
}

/// A tunnel that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its id.
    pub id: TunnelId,
    /// Its process.
    pub pid: u32,
    /// Which end listens.
    pub direction: Direction,
    /// Where users connect, with the real port.
    pub bind: Span<Bind>,
    /// What is dialled.
    pub source: Span<Target>,
    /// Milliseconds from the first packet until it was ready.
    pub ready_ms: u64,
    /// `quic`.
    pub carrier: String,
}

impl Launch {
    /// Takes over what `[logging]` says.
    pub fn set_logging(&mut self, logging: &Logging, otherwise: Output) {
        self.log_level.clone_from(&logging.level);
        self.log_json = logging.format.as_str() == "json";
        self.log = logging.file.clone().map_or(otherwise, Output::File);
        self.log_max_bytes = logging.max_size;
        self.log_keep = logging.keep;
    }

    /// A hash of everything whose change needs a restart, whoever starts it: a supervisor, whose tunnels log to
    /// its terminal, or a command that leaves them alone. Of the token only its hash goes in.
    pub fn hash(&self) -> String {
        let mut plain = self.clone();
        if plain.log == Output::Stderr {
            plain.log = Output::Own;
        }
        plain.config_file = None;
        plain.leashed = false;
        plain.runtime_dir = None;
        plain.notices.clear();
        let bytes = serde_json::to_vec(&plain).unwrap_or_default();
        HEXLOWER.encode(digest(&SHA256, &bytes).as_ref())
    }

    /// What the registry keeps of it.
    pub(super) fn record(&self) -> NewRecord {
        NewRecord {
            kind: registry::Kind::Tunnel,
            name: self.spec.name.clone(),
            config: RecordConfig {
                router: self.router.addresses.first().cloned(),
                source: Some(self.spec.source.clone()),
                bind: Some(self.spec.bind.clone()),
                protocol: Some(self.spec.protocol),
                direction: Some(self.spec.direction),
            },
            config_file: self.config_file.clone(),
            config_hash: Some(self.hash()),
        }
    }

    /// How the process logs, with `own` as its own file.
    pub(super) fn log_settings(&self, own: PathBuf) -> LogSettings {
        let to_file = |path: PathBuf| LogOutput::File {
            path,
            max_bytes: self.log_max_bytes,
            keep: self.log_keep,
        };
        LogSettings {
            level: self.log_level.clone(),
            format: if self.log_json { LogFormat::Json } else { LogFormat::Text },
            output: match &self.log {
                Output::Own => to_file(own),
                Output::File(path) => to_file(path.clone()),
                Output::Stderr => LogOutput::Stderr,
            },
        }
    }

    /// The client's settings; reads the key.
    pub(super) fn settings(&self, record: &registry::Record) -> Result<client::Settings, Failure> {
        let keypair = if self.key_named {
            let (keypair, is_mounted) = Keypair::load_mounted(&self.key)?;
            if is_mounted {
                tracing::info!(key = %self.key.display(), "the key is a mounted secret");
            }
            keypair
        } else {
            Keypair::load(&self.key)?
        };
        let token =
            self.token.as_deref().map(str::parse::<Token>).transpose().map_err(|error| {
                Failure::new(
                    Kind::Config,
                    "token",
                    format!("the configured token is none: {error}"),
                )
            })?;
        Ok(client::Settings {
            tunnel: self.spec.clone(),
            id: record.tunnel_id.clone(),
            instance: record.instance,
            access: Access {
                keypair: Arc::new(keypair),
                router: self.router.clone().into(),
                client_name: self.client_name.clone(),
                token,
                transport: transport::Settings {
                    carrier: self.spec.options.carrier,
                    ..self.tuning.transport()
                },
                session: self.tuning.session(),
                networks: Networks::of_home(&self.home),
            },
            relay: self.tuning.relay(),
            sockets: self.tuning.sockets(),
            dial: self.tuning.dial(),
            max_connections: self.tuning.max_connections,
            outage_wait: OUTAGE_WAIT,
        })
    }

    /// Longer than the process itself takes to give up: three tries on each address, and room for a busy machine.
    pub(super) fn patience(&self) -> Duration {
        let addresses = u32::try_from(self.router.addresses.len()).unwrap_or(1).max(1);
        self.tuning.connect_timeout * 3 * addresses + SLACK
    }
}

impl From<Pin> for client::RouterAddress {
    fn from(pin: Pin) -> Self {
        Self { addresses: pin.addresses, identity: pin.identity }
    }
}

/// How long a new connection waits for a lost session before it is reset.
const OUTAGE_WAIT: Duration = Duration::from_secs(10);
/// For resolving names, back-off between tries and a loaded machine.
const SLACK: Duration = Duration::from_secs(15);

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ClientConfig, Environment, Overrides};

    pub(in crate::fleet) fn launch(home: &Path) -> Launch {
        let environment = Environment::capture([("CONDUIT_HOME", home.as_os_str())]);
        let loaded = ClientConfig::load(None, &environment, &Overrides::new()).expect("defaults");
        let config = loaded.config;
        let mut launch = Launch {
            spec: TunnelSpec {
                name: "web".parse().expect("a name"),
                direction: crate::tunnel::Direction::Forward,
                protocol: crate::tunnel::Protocol::Tcp,
                bind: "127.0.0.1:0".parse().expect("a bind"),
                source: "10.2.0.2:8080".parse().expect("a source"),
                options: crate::tunnel::Options::default(),
            },
            router: Pin {
                addresses: vec!["127.0.0.1:9".parse().expect("an address")],
                identity: Identity::from_bytes([7; 32]),
            },
            key: config.private_key_path.clone(),
            key_named: false,
            token: None,
            client_name: "host".to_owned(),
            tuning: Tuning::new(&config.performance, &config.cipher_suites, config.post_quantum),
            log_level: String::new(),
            log_json: false,
            log: Output::Own,
            log_max_bytes: 0,
            log_keep: 0,
            home: home.to_owned(),
            runtime_dir: None,
            config_file: None,
            leashed: false,
            notices: Vec::new(),
        };
        launch.set_logging(&config.logging, Output::Own);
        launch
    }

    #[test]
    fn a_launch_survives_the_pipe_and_every_change_changes_its_hash() {
        let one = launch(Path::new("/home/a"));
        let text = serde_json::to_string(&one).expect("JSON");
        let back: Launch = serde_json::from_str(&text).expect("read back");
        assert_eq!(back.hash(), one.hash());
        let mut supervised = one.clone();
        (supervised.leashed, supervised.log) = (true, Output::Stderr);
        assert_eq!(supervised.hash(), one.hash(), "it is the same tunnel");
        let changed: [fn(&mut Launch); 4] = [
            |launch| launch.spec.bind = "127.0.0.1:1".parse().expect("a bind"),
            |launch| launch.tuning.tcp_nodelay = false,
            |launch| launch.log_level = "debug".to_owned(),
            |launch| launch.token = Some("cdp_x".to_owned()),
        ];
        for change in changed {
            let mut other = one.clone();
            change(&mut other);
            assert_ne!(other.hash(), one.hash());
        }
    }
}
