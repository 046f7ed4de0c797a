//! `conduit router`: runs the router in the foreground.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::inheritance::Inheritance;
use super::place;
use super::serving::Started;
use crate::cli::context::{Context, signals};
use crate::cli::report::warn;
use crate::cli::service::{self, System};
use crate::config::{Home, Logging, Overrides, RouterConfig};
use crate::ends::DialSettings;
use crate::fleet::{Failure, Kind, Tuning, pin_to_processors};
use crate::registry::{self, Claim, ClaimError, NewRecord, RecordConfig, Registry};
use crate::router::{self, Advertised};
use crate::store::Store;
use crate::telemetry::{self, LogFormat, LogOutput, LogSettings};
use crate::transport::{self, Sockets};
use crate::tunnel::{Bind, BindAddr, CarrierChoice, HostPort, TunnelState};

/// Options of `router` itself.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where the router listens, UDP and TCP [default: 0.0.0.0:9999]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<BindAddr>,
    /// Where clients find the router: what tickets carry; remembered [default: this machine's addresses]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<HostPort>,
    /// The configuration file [default: router.toml in CONDUIT_HOME]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print a service file that runs the router with the machine, and start nothing
    #[arg(long, value_name = "SYSTEM")]
    service_file: Option<System>,
}

pub(super) fn run(args: &Options, context: &Context) -> Result<u8, Failure> {
    let loaded = place::load(args.file.as_deref(), &args.overrides(), context)?;
    let (config, notices) = (loaded.config, loaded.notices);
    if let Some(system) = args.service_file {
        return print_service(args, &config, system, context);
    }
    if let Err(error) = pin_to_processors(&config.performance.cpu_affinity) {
        let processors = &config.performance.cpu_affinity;
        warn(&format!("warning: cannot run on the processors {processors:?}: {error}"));
    }
    context.block_on_threads(config.performance.threads, async {
        let signals = signals()?;
        let registry = context.registry()?;
        registry.purge_ended(Registry::KEEP_ENDED);
        let heritage = Inheritance::of_process(&context.environment)?;
        let mut claim = match heritage.claim(&registry) {
            Some(claim) => claim?,
            None => registry.claim(record(&config)?).map_err(not_claimed)?,
        };
        let started = start((&config, loaded.file), &mut claim, heritage, context).await;
        for notice in &notices {
            tracing::debug!("{notice}");
        }
        match started {
            Ok(started) => started.serve(claim, signals, context).await.map(|()| 0),
            Err(failure) => {
                // What failed is what the person sees; a record without an end says "died" later.
                let _ = claim.end(TunnelState::Failed, Some(failure.to_string()));
                Err(failure)
            }
        }
    })
}

async fn start(
    (config, file): (&RouterConfig, Option<PathBuf>),
    claim: &mut Claim,
    heritage: Inheritance,
    context: &Context,
) -> Result<Started, Failure> {
    let home = context.home()?;
    let log = telemetry::init(&log_settings(&config.logging))?;
    let keypair = Arc::new(place::keypair(config, &home)?);
    let store = place::store(&home)?;
    let bind = match heritage.bind(claim) {
        Some(bind) => bind,
        None => real_port(config.bind.socket_addr())?,
    };
    let advertised = place::addresses(config, bind, &home)?;
    let control = claim.listen()?;
    let settings = settings(config, bind, &home, claim, keypair, store.clone(), &advertised)?;
    let before = heritage.before();
    let wanted = config.bind.socket_addr();
    if before.is_some() && wanted.port() != 0 && wanted != bind {
        tracing::warn!(%bind, %wanted, "an upgrade keeps the sockets: the new [listen] bind takes a restart");
    }
    let running = router::start(heritage.given_to(settings)).await?;
    Ok(Started { running, control, log, store, advertised, file, before })
}

fn settings(
    config: &RouterConfig,
    bind: SocketAddr,
    home: &Home,
    claim: &Claim,
    keypair: Arc<crate::identity::Keypair>,
    store: Store,
    advertised: &Advertised,
) -> Result<router::Settings, Failure> {
    let tuning = Tuning::new(&config.performance, &config.cipher_suites, config.post_quantum);
    let mut session = tuning.session();
    session.max_streams = u32::try_from(config.max_streams).unwrap_or(u32::MAX);
    Ok(router::Settings {
        id: claim.record().tunnel_id.clone(),
        bind,
        advertise: advertised.addresses.clone(),
        keypair,
        secrets: place::secrets(home)?,
        store,
        private: private_folders(home, claim),
        require_token: config.require_token,
        max_clients: config.max_clients,
        max_connections: config.performance.max_connections,
        transport: transport::Settings {
            carrier: if config.tcp { CarrierChoice::Auto } else { CarrierChoice::Quic },
            ..tuning.transport()
        },
        session,
        relay: tuning.relay(),
        dial: DialSettings {
            timeout: config.dial_timeout,
            nodelay: tuning.tcp_nodelay,
            keepalive: tuning.tcp_keepalive,
            ..DialSettings::default()
        },
        lease: config.lease,
        resume: config.resume,
        sockets: Sockets::default(),
        #[cfg(unix)]
        heritage: None,
    })
}

/// Everything of Conduit's; control sockets lie elsewhere where the home's path is too long for them.
fn private_folders(home: &Home, claim: &Claim) -> Vec<PathBuf> {
    let sockets = Path::new(&claim.record().control_socket).parent();
    [Some(home.root()), sockets].into_iter().flatten().map(Path::to_owned).collect()
}

/// Tickets carry the port, so a free one is chosen before the router starts.
fn real_port(bind: SocketAddr) -> Result<SocketAddr, Failure> {
    if bind.port() != 0 {
        return Ok(bind);
    }
    let free_for_both = || {
        let tcp = std::net::TcpListener::bind(bind)?;
        std::net::UdpSocket::bind(tcp.local_addr()?)?.local_addr()
    };
    let mut chosen = free_for_both();
    for _ in 1..FREE_PORTS {
        if chosen.is_err() {
            chosen = free_for_both();
        }
    }
    chosen.map_err(|error| {
        let message = format!("there is no free port at {}: {error}", bind.ip());
        Failure::new(Kind::System, "bind", message)
    })
}

/// The name is not the operator's choice, so the advice is another one than for a tunnel.
fn not_claimed(error: ClaimError) -> Failure {
    match error {
        ClaimError::Running { record } => {
            let bind =
                record.config.bind.as_ref().map(|bind| format!(", on {bind}")).unwrap_or_default();
            let message = format!("a router runs here already (pid {}{bind})", record.pid);
            Failure::new(Kind::Tunnel, "already_running", message).with_hint(
                "`conduit kill --tunnel router` ends it; another CONDUIT_HOME holds another one",
            )
        }
        error => error.into(),
    }
}

fn record(config: &RouterConfig) -> Result<NewRecord, Failure> {
    let name = "router".parse().map_err(|error: crate::tunnel::NameError| {
        Failure::new(Kind::System, "name", error.to_string())
    })?;
    Ok(NewRecord {
        kind: registry::Kind::Router,
        name,
        config: RecordConfig {
            bind: Some(Bind::Addr(config.bind).into()),
            ..RecordConfig::default()
        },
        config_file: None,
        config_hash: None,
    })
}

fn log_settings(logging: &Logging) -> LogSettings {
    LogSettings {
        level: logging.level.clone(),
        format: if logging.format.as_str() == "json" { LogFormat::Json } else { LogFormat::Text },
        output: match &logging.file {
            Some(path) => LogOutput::File {
                path: path.clone(),
                max_bytes: logging.max_size,
                keep: logging.keep,
            },
            None => LogOutput::Stderr,
        },
    }
}

impl Options {
    fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::new();
        if let Some(bind) = &self.bind {
            overrides = overrides.with("listen.bind", "--bind", bind.to_string());
        }
        if !self.advertise.is_empty() {
            let addresses: Vec<String> = self.advertise.iter().map(ToString::to_string).collect();
            overrides = overrides.with("listen.advertise", "--advertise", addresses.join(","));
        }
        overrides
    }
}

fn print_service(
    args: &Options,
    config: &RouterConfig,
    system: System,
    context: &Context,
) -> Result<u8, Failure> {
    let mut words = vec!["router".to_owned()];
    if let Some(bind) = &args.bind {
        words.extend(["--bind".to_owned(), bind.to_string()]);
    }
    for address in &args.advertise {
        words.extend(["--advertise".to_owned(), address.to_string()]);
    }
    if let Some(file) = &args.file {
        words.extend(["--file".to_owned(), service::absolute(file)?]);
    }
    let low = service::is_low(config.bind.socket_addr().port());
    service::print(context, system, crate::service::Kind::Router, "Conduit router", words, low)
}

/// Attempts to find a port that UDP and TCP both have free.
const FREE_PORTS: u32 = 16;
