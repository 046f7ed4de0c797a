//! `conduit start`: one tunnel.

use std::path::PathBuf;
use std::str::FromStr;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::context::{Context, signals, unless_interrupted};
use super::enrol::{read_ticket, remember_move};
use super::prepare::{Prepared, client_file, prepare};
use super::report::warn;
use super::service::{self, System};
use crate::config::{ClientConfig, Loaded, Overrides};
use crate::fleet::{Claimed, Failure, Launch, Output, Ready, Signals, pin_to_processors, spawn};
use crate::tunnel::{BindAddr, Direction, HostPort, Identity, Name, Protocol, TunnelSpec};

/// Options of `start`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// What the router dials
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "local")]
    source: Option<HostPort>,
    /// Where this machine listens; ADDR is 127.0.0.1 when left out, port 0 takes a free one
    #[arg(long, value_name = "[ADDR:]PORT", required_unless_present = "local")]
    bind: Option<BindAddr>,
    /// Bind and source in one, as ssh -L takes them
    #[arg(short = 'L', value_name = "[BIND:]PORT:HOST:PORT", conflicts_with_all = ["source", "bind"])]
    local: Option<Ends>,
    /// The tunnel's name [default: tcp-PORT]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// The router, when more than one is enrolled, or when it moved
    #[arg(long, value_name = "HOST:PORT")]
    router: Option<HostPort>,
    /// The key that the router must show
    #[arg(long, value_name = "ID")]
    router_identity: Option<Identity>,
    /// This client's private key [default: client.key in CONDUIT_HOME]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Enrol with a ticket: the ticket, a file with it, or - for stdin
    #[arg(long, value_name = "TICKET")]
    join: Option<String>,
    /// Read settings (not tunnels) from this file [default: conduit.toml here, or in CONDUIT_HOME]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Stay attached, log to stderr, end on Ctrl-C after draining
    #[arg(long)]
    foreground: bool,
    /// Print a service file that starts this tunnel with the machine, and start nothing
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["join", "foreground"])]
    service_file: Option<System>,
}

/// Both ends, as ssh writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    bind: BindAddr,
    source: HostPort,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    if let Some(system) = args.service_file {
        return print_service(args, system, context);
    }
    let file = client_file(args.file.as_deref(), context)?;
    let loaded = ClientConfig::load(file.as_deref(), &context.environment, &args.overrides())?;
    let threads = loaded.config.performance.threads;
    let invitation = read_ticket(args.join.as_deref(), context)?;
    if args.foreground {
        pin(&loaded);
        return context.block_on_threads(threads, async {
            let mut signals = signals()?;
            let prepared =
                unless_interrupted(&mut signals, prepare(context, loaded, invitation)).await?;
            foreground(args, context, &prepared, signals).await
        });
    }
    context.block_on(async {
        let mut signals = signals()?;
        let work = async {
            let prepared = prepare(context, loaded, invitation).await?;
            let ready = background(args, context, &prepared).await?;
            remember_move(&context.home()?, &prepared.pin)?;
            show(context, &ready, &prepared)
        };
        unless_interrupted(&mut signals, work).await.map(|()| 0)
    })
}

async fn background(args: &Args, context: &Context, prepared: &Prepared) -> Result<Ready, Failure> {
    let mut tries = 0;
    loop {
        let launch = args.launch(context, prepared, Output::Own)?;
        match spawn(&launch).await {
            Ok(spawned) => return Ok(spawned.ready),
            // Somebody else took the name that was free a moment ago: take the next one.
            Err(failure) if args.is_taken(&failure) && tries < NAME_TRIES => tries += 1,
            Err(failure) => return Err(failure),
        }
    }
}

async fn foreground(
    args: &Args,
    context: &Context,
    prepared: &Prepared,
    mut signals: Signals,
) -> Result<u8, Failure> {
    let mut tries = 0;
    let (launch, claimed) = loop {
        let launch = args.launch(context, prepared, Output::Stderr)?;
        match Claimed::new(&launch) {
            Ok(claimed) => break (launch, claimed),
            Err(failure) if args.is_taken(&failure) && tries < NAME_TRIES => tries += 1,
            Err(failure) => return Err(failure),
        }
    };
    let host = claimed.start(launch, signals.next()).await?;
    remember_move(&context.home()?, &prepared.pin)?;
    show(context, &host.ready(), prepared)?;
    host.run(signals, CancellationToken::new()).await.map(|()| 0)
}

/// One line that says that it is ready, and where.
fn show(context: &Context, ready: &Ready, prepared: &Prepared) -> Result<(), Failure> {
    if context.json {
        return context.document(&json!({
            "schema": "conduit.start/1", "id": ready.id, "name": name_of(ready), "pid": ready.pid,
            "router": prepared.pin.addresses.first(), "bind": ready.bind, "source": ready.source,
            "carrier": ready.carrier, "ready_ms": ready.ready_ms,
        }));
    }
    if context.quiet {
        return context.line(ready.id.as_str());
    }
    context.line(&format!(
        "  {}   {} → {}   ready ({} ms, {})   pid {}",
        name_of(ready),
        ready.bind,
        ready.source,
        ready.ready_ms,
        ready.carrier,
        ready.pid
    ))
}

/// The name within the id.
pub(super) fn name_of(ready: &Ready) -> &str {
    let id = ready.id.as_str();
    id.rsplit_once('-').map_or(id, |(name, _)| name)
}

fn pin(loaded: &Loaded<ClientConfig>) {
    let processors = &loaded.config.performance.cpu_affinity;
    if let Err(error) = pin_to_processors(processors) {
        warn(&format!("warning: cannot run on the processors {processors:?}: {error}"));
    }
}

impl Args {
    fn ends(&self) -> Result<Ends, Failure> {
        match (&self.local, self.bind, &self.source) {
            (Some(ends), ..) => Ok(ends.clone()),
            (None, Some(bind), Some(source)) => Ok(Ends { bind, source: source.clone() }),
            _ => Err(Failure::usage("--source and --bind are needed")),
        }
    }

    fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::new();
        if let Some(router) = &self.router {
            overrides = overrides.with("router.host", "--router", router.host.to_string()).with(
                "router.port",
                "--router",
                router.port.to_string(),
            );
        }
        if let Some(identity) = &self.router_identity {
            overrides = overrides.with(
                "security.router_identity",
                "--router-identity",
                identity.to_string(),
            );
        }
        if let Some(key) = &self.key {
            let path = key.to_string_lossy().into_owned();
            overrides = overrides.with("security.private_key_path", "--key", path);
        }
        overrides
    }

    fn launch(
        &self,
        context: &Context,
        prepared: &Prepared,
        log: Output,
    ) -> Result<Launch, Failure> {
        let Ends { bind, source } = self.ends()?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => context.registry()?.free_name(&default_name(&bind, &source)),
        };
        let spec = TunnelSpec {
            name,
            direction: Direction::Forward,
            protocol: Protocol::Tcp,
            bind,
            source,
        };
        prepared.launch(context, spec, log)
    }

    /// Whether a name that this command chose itself was taken in between.
    fn is_taken(&self, failure: &Failure) -> bool {
        self.name.is_none() && failure.code == "already_running"
    }

    /// The command line of the service: what was given here, with everything that must not change fixed.
    fn service_command(&self) -> Result<Vec<String>, Failure> {
        let Ends { bind, source } = self.ends()?;
        let name = self.name.as_ref().map_or_else(|| default_name(&bind, &source), Name::to_string);
        let mut words = vec!["start".to_owned(), "--foreground".to_owned()];
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--name", name);
        option("--source", source.to_string());
        option("--bind", bind.to_string());
        if let Some(router) = &self.router {
            option("--router", router.to_string());
        }
        if let Some(identity) = &self.router_identity {
            option("--router-identity", identity.to_string());
        }
        if let Some(key) = &self.key {
            option("--key", service::absolute(key)?);
        }
        if let Some(file) = &self.file {
            option("--file", service::absolute(file)?);
        }
        Ok(words)
    }
}

fn print_service(args: &Args, system: System, context: &Context) -> Result<u8, Failure> {
    let Ends { bind, source } = args.ends()?;
    let description = format!("Conduit tunnel {bind} to {source}");
    let kind = crate::service::Kind::Tunnel;
    let low_ports = service::is_low(bind.socket_addr().port());
    service::print(context, system, kind, &description, args.service_command()?, low_ports)
}

fn default_name(bind: &BindAddr, source: &HostPort) -> String {
    let port = match bind.socket_addr().port() {
        0 => source.port,
        port => port,
    };
    format!("{}-{port}", Protocol::Tcp)
}

impl FromStr for Ends {
    type Err = String;

    /// `[bind:]port:host:port`; IPv6 addresses in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not [BIND:]PORT:HOST:PORT");
        let (before, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host_at = if before.ends_with(']') {
            before.rfind('[').ok_or_else(wrong)?
        } else {
            before.rfind(':').ok_or_else(wrong)? + 1
        };
        let bind = before[..host_at].strip_suffix(':').ok_or_else(wrong)?;
        let source = format!("{}:{port}", &before[host_at..]);
        Ok(Self {
            bind: bind.parse().map_err(|error| format!("{}: {error}", wrong()))?,
            source: source.parse().map_err(|error| format!("{}: {error}", wrong()))?,
        })
    }
}

const NAME_TRIES: usize = 8;

const EXAMPLES: &str = "\
Examples:
  conduit start --join cdt1_… --source 10.2.0.2:8080 --bind 127.0.0.1:8080
      the first time: enrols with a ticket of `conduit router`
  conduit start --source db.internal:5432 --bind 5432
      later: the router is known
  conduit start -L 5432:db.internal:5432
      the same, as ssh writes it
  pass ticket | conduit start --foreground --join - --source 127.0.0.1:22 --bind :2222
      the ticket from stdin, the tunnel in this terminal
  conduit start --source 10.2.0.2:80 --bind 80 --service-file systemd
      print a unit that starts it with the machine";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_ssh_writes_them() {
        for (text, bind, source) in [
            ("8080:web:80", "127.0.0.1:8080", "web:80"),
            ("0.0.0.0:8080:10.0.0.1:80", "0.0.0.0:8080", "10.0.0.1:80"),
            ("[::1]:8080:[fd00::1]:80", "[::1]:8080", "[fd00::1]:80"),
            ("8080:[fd00::1]:80", "127.0.0.1:8080", "[fd00::1]:80"),
        ] {
            let ends: Ends = text.parse().expect(text);
            assert_eq!(
                (ends.bind.to_string(), ends.source.to_string()),
                (bind.into(), source.into())
            );
        }
        for text in ["", "8080", "8080:web", "web:80", "a:b:c:d", "8080:[fd00::1:80", "8080:web:0"]
        {
            assert!(text.parse::<Ends>().is_err(), "{text}");
        }
    }
}
