//! `conduit start`: one tunnel.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::context::{Context, signals, unless_interrupted};
use super::enrol::{read_ticket, remember_move};
use super::prepare::{Prepared, client_file, prepare};
use super::reach::RouterArgs;
use super::report::warn;
use super::service::{self, System};
use super::tunnel::{self, TunnelArgs};
use crate::config::{ClientConfig, Loaded};
use crate::fleet::{
    Claimed, Failure, Launch, Output, Ready, Signals, pin_to_processors, spawn, tell_ready,
};
use crate::task::Tasks;

/// Options of `start`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    tunnel: TunnelArgs,
    #[command(flatten)]
    router: RouterArgs,
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

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    if let Some(system) = args.service_file {
        return print_service(args, system, context);
    }
    // A tunnel that makes no sense must not cost a ticket.
    args.tunnel.spec()?;
    let file = client_file(args.file.as_deref(), context)?;
    let loaded =
        ClientConfig::load(file.as_deref(), &context.environment, &args.router.overrides())?;
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
    let tasks = Tasks::new();
    tell_ready(&tasks);
    let ended = host.run(signals, CancellationToken::new()).await;
    tasks.shutdown(Duration::ZERO).await;
    ended.map(|()| 0)
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
    fn launch(
        &self,
        context: &Context,
        prepared: &Prepared,
        log: Output,
    ) -> Result<Launch, Failure> {
        let mut spec = self.tunnel.spec()?;
        if self.tunnel.name.is_none() {
            spec.name = context.registry()?.free_name(spec.name.as_str());
        }
        prepared.launch(context, spec, log)
    }

    /// Whether a name that this command chose itself was taken in between.
    fn is_taken(&self, failure: &Failure) -> bool {
        self.tunnel.name.is_none() && failure.code == "already_running"
    }

    /// The command line of the service: what was given here, with everything that must not change fixed.
    fn service_command(&self) -> Result<Vec<String>, Failure> {
        let mut words = vec!["start".to_owned(), "--foreground".to_owned()];
        words.extend(tunnel::words(&self.tunnel.spec()?));
        words.extend(self.router.words()?);
        if let Some(file) = &self.file {
            words.extend(["--file".to_owned(), service::absolute(file)?]);
        }
        Ok(words)
    }
}

fn print_service(args: &Args, system: System, context: &Context) -> Result<u8, Failure> {
    let spec = args.tunnel.spec()?;
    let description = format!("Conduit tunnel {} to {}", spec.bind, spec.source);
    let (kind, low_ports) = (crate::service::Kind::Tunnel, service::binds_low(&spec));
    service::print(context, system, kind, &description, args.service_command()?, low_ports)
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
  conduit start --reverse --source 127.0.0.1:3000 --bind 0.0.0.0:8080
      publish a service of this machine on the router's port 8080
  conduit start --protocol udp --source 10.2.0.53:53 --bind 5353
      DNS, or anything else over UDP
  pass ticket | conduit start --foreground --join - --source 127.0.0.1:22 --bind :2222
      the ticket from stdin, the tunnel in this terminal
  conduit start --source 10.2.0.2:80 --bind 80 --service-file systemd
      print a unit that starts it with the machine";
