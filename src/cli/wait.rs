//! `conduit wait`: returns when tunnels are ready, as `status` understands it, or when they have ended.

use std::time::{Duration, Instant};

use super::context::{Context, signals, unless_interrupted};
use super::running::find;
use super::status::{Health, Look, health_of};
use crate::fleet::{Failure, Kind, exit};
use crate::registry::{Entry, Record, Registry};
use crate::tunnel::TunnelState;

/// Options of `wait`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// The tunnels or the router, by name or id; all that run here when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Until a probe goes through and the last user was served, which is the default
    #[arg(long, conflicts_with = "ended")]
    ready: bool,
    #[command(flatten)]
    look: Look,
    /// Until they run no longer
    #[arg(long, conflicts_with = "dial_source")]
    ended: bool,
    /// How long to wait, at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    context.block_on(async {
        let mut signals = signals()?;
        unless_interrupted(&mut signals, wait(args, context)).await
    })
}

async fn wait(args: &Args, context: &Context) -> Result<u8, Failure> {
    let start = Instant::now();
    loop {
        let left = args.timeout.saturating_sub(start.elapsed()).max(A_LOOK);
        let missing = match tokio::time::timeout(left, look(args, context)).await {
            Ok(outlook) => match outlook? {
                Outlook::Done => return Ok(0),
                Outlook::NotYet(missing) => missing,
            },
            Err(_) => vec!["a source does not answer".to_owned()],
        };
        if start.elapsed() >= args.timeout {
            let waited = humantime::format_duration(args.timeout);
            let what = if args.ended { "ended" } else { "ready" };
            let message = format!("not {what} within {waited}: {}", missing.join("; "));
            return Err(Failure::new(Kind::Network, "not_ready", message)
                .with_exit(exit::UNAVAILABLE)
                .with_hint("`conduit status` shows more"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

enum Outlook {
    Done,
    /// What is missing, in words.
    NotYet(Vec<String>),
}

async fn look(args: &Args, context: &Context) -> Result<Outlook, Failure> {
    let mut found = find(context)?;
    found.tunnels.append(&mut found.routers);
    let is_meant = |record: &Record| {
        args.names.is_empty() || args.names.iter().any(|name| record.is_called(name))
    };
    found.tunnels.retain(is_meant);
    let mut missing = Vec::new();
    if args.ended {
        missing.extend(found.tunnels.iter().map(|record| format!("{} runs", record.tunnel_id)));
        return Ok(Outlook::of(missing));
    }
    for name in &args.names {
        if found.tunnels.iter().any(|record| record.is_called(name)) {
            continue;
        }
        let registry = context.existing_registry()?;
        if let Some(failed) = failed(registry.as_ref(), name) {
            return Err(failed);
        }
        missing.push(match registry.and_then(|registry| registry.find(name)) {
            Some(Entry::Ended(record)) => format!("{} was stopped", record.tunnel_id),
            _ => format!("nothing here is called {name}"),
        });
    }
    if args.names.is_empty() && found.tunnels.is_empty() {
        missing.push("no router and no tunnel runs here".to_owned());
    }
    let all = health_of(found.tunnels, args.look.depth()).await.into_iter();
    let unready = all.filter(|health| !health.is_up);
    missing.extend(unready.map(|Health { id, detail, .. }| format!("{id}: {detail}")));
    Ok(Outlook::of(missing))
}

impl Outlook {
    fn of(missing: Vec<String>) -> Self {
        if missing.is_empty() { Self::Done } else { Self::NotYet(missing) }
    }
}

/// What has failed will not become ready by waiting.
fn failed(registry: Option<&Registry>, name: &str) -> Option<Failure> {
    let record = match registry?.find(name)? {
        Entry::Ended(record) if record.status == TunnelState::Failed => record,
        _ => return None,
    };
    let why = record.last_error.as_deref().unwrap_or("it does not say why");
    let message = format!("{} has failed: {why}", record.tunnel_id);
    let failure = Failure::new(Kind::Tunnel, "not_running", message);
    Some(failure.with_hint(format!("`conduit logs {name}` shows its log")))
}

/// A look asks every process, and each its router.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longer than processes have to answer; a source may take longer.
const A_LOOK: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  conduit up -f conduit.toml && conduit wait --timeout 1m
      every tunnel of the file passes a probe
  conduit wait web --dial-source && curl http://127.0.0.1:8080/
      one tunnel, and the service behind it

Exit codes: 0 when all are ready, 69 when the time is over, 1 when one has failed.";
