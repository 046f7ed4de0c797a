//! `conduit kill`: ends tunnels, or cuts one connection.

use std::pin::pin;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::context::{ANSWER, Context};
use super::report::{self, as_json, warn};
use super::running::{find, living};
use crate::fleet::{self, DRAIN, Ending, Failure, Kind, exit};
use crate::registry::{Damaged, Record, Request, ask};

/// Options of `kill`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, group = clap::ArgGroup::new("what").required(true).multiple(false))]
pub(super) struct Args {
    /// The tunnel, by name or id; can be given several times
    #[arg(short, long, value_name = "NAME|ID", group = "what", num_args = 1..)]
    tunnel: Vec<String>,
    /// One connection, by the id that `list --connections` shows
    #[arg(short, long, value_name = "ID", group = "what")]
    connection: Option<String>,
    /// Every tunnel of this machine (not the router)
    #[arg(short, long, group = "what")]
    all: bool,
    /// How long open connections may finish [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "force")]
    drain: Option<Duration>,
    /// At once: open connections are reset
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    if let Some(connection) = &args.connection {
        return cut(connection, context);
    }
    let drain = if args.force { Duration::ZERO } else { args.drain.unwrap_or(DRAIN) };
    let registry = context.existing_registry()?;
    let records = if args.all {
        find(context)?.tunnels
    } else {
        let found = args.tunnel.iter().map(|name| {
            living(registry.as_ref(), name).map_err(|failure| damaged_or(failure, name, context))
        });
        found.collect::<Result<Vec<_>, _>>().map_err(|failure| none_of(args, failure))?
    };
    let out_of_reach = || if args.all { report_damaged(context) } else { Ok(0) };
    let Some(registry) = registry.filter(|_| !records.is_empty()) else {
        let code = out_of_reach()?;
        if code == 0 && !context.json && !context.quiet {
            context.line("no tunnel runs")?;
        }
        return show(&[], drain, context).map(|shown| shown.max(code));
    };
    let ended = context.block_on(async {
        let mut work = JoinSet::new();
        for record in records {
            let registry = registry.clone();
            work.spawn(async move {
                let ending = fleet::stop(&registry, &record, drain).await;
                (record, ending)
            });
        }
        Ok(patiently(work.join_all(), drain, context).await)
    })?;
    let code = show(&ended, drain, context)?;
    Ok(code.max(out_of_reach()?))
}

/// One of several is not there: the others are left alone.
fn none_of(args: &Args, failure: Failure) -> Failure {
    if args.tunnel.len() < 2 {
        return failure;
    }
    Failure { message: format!("{failure}; nothing was ended"), ..failure }
}

/// Says what is waited for when it takes long.
pub(super) async fn patiently<T>(
    work: impl Future<Output = T>,
    drain: Duration,
    context: &Context,
) -> T {
    let mut work = pin!(work);
    match tokio::time::timeout(SAID_AFTER, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            if !context.quiet && !drain.is_zero() {
                let limit = humantime::format_duration(drain);
                warn(&format!("open connections may finish within {limit}; --force cuts them off"));
            }
            work.await
        }
    }
}

/// What runs and cannot be ended because its record is damaged, each on stderr; the exit code.
pub(super) fn report_damaged(context: &Context) -> Result<u8, Failure> {
    let Some(registry) = context.existing_registry()? else { return Ok(0) };
    let mut code = 0;
    // The router's name: it is not ended with the tunnels.
    for damaged in registry.damaged().iter().filter(|damaged| damaged.name.folded() != "router") {
        code = report::failure(&Failure::from(damaged), context);
    }
    Ok(code)
}

/// Why there is no such process: perhaps there is one, and its record is damaged.
fn damaged_or(failure: Failure, name: &str, context: &Context) -> Failure {
    let damaged = context.existing_registry().ok().flatten().map(|registry| registry.damaged());
    let is_meant = |damaged: &&Damaged| {
        let id = damaged.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        damaged.name.as_str().eq_ignore_ascii_case(name) || id.eq_ignore_ascii_case(name)
    };
    damaged.iter().flatten().find(is_meant).map_or(failure, Failure::from)
}

/// Shows how each ended: the same for `kill` and `down`. Returns the exit code.
pub(super) fn show(
    ended: &[(Record, Result<Ending, Failure>)],
    drain: Duration,
    context: &Context,
) -> Result<u8, Failure> {
    let mut code = 0;
    let mut documents = Vec::new();
    for (record, ending) in ended {
        let (word, reason) = match ending {
            Ok(Ending::Stopped) => ("stopped", None),
            Ok(Ending::CutOff) => {
                // Whoever gave no time to finish wanted exactly that.
                if !drain.is_zero() {
                    code = exit::UNAVAILABLE;
                }
                ("stopped", Some("open connections were cut off".to_owned()))
            }
            Ok(Ending::Gone) => ("was gone already", None),
            Ok(Ending::Forced(why)) => {
                code = exit::UNAVAILABLE;
                ("killed", Some(why.clone()))
            }
            Err(failure) => {
                code = failure.exit;
                if context.json {
                    warn(&as_json(failure));
                }
                ("not ended", Some(failure.to_string()))
            }
        };
        if context.json {
            documents.push(json!({"id": record.tunnel_id, "name": record.name, "pid": record.pid,
                "outcome": word, "reason": reason}));
        } else if context.quiet {
            context.line(record.tunnel_id.as_str())?;
        } else {
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            context.line(&format!("  {}   {word}{reason}", record.tunnel_id))?;
        }
    }
    if context.json {
        context.document(&json!({"schema": "conduit.kill/1", "tunnels": documents}))?;
    }
    Ok(code)
}

fn cut(connection: &str, context: &Context) -> Result<u8, Failure> {
    let Some((tunnel, _)) = connection.rsplit_once('/') else {
        let message = format!("{connection:?} is no connection: it is <tunnel id>/<number>");
        return Err(Failure::usage(message).with_hint("`conduit list --connections` shows them"));
    };
    let record = living(context.existing_registry()?.as_ref(), tunnel)?;
    let request = Request::KillConnection { id: connection.to_owned() };
    context.block_on(async { Ok(ask(&record, &request, ANSWER).await?) }).map_err(
        |failure: Failure| {
            if failure.code == "not_found" {
                Failure::new(Kind::Tunnel, "not_found", format!("no connection {connection}"))
                    .with_hint("`conduit list --connections` shows them")
            } else {
                failure
            }
        },
    )?;
    if context.json {
        let cut = json!({"schema": "conduit.kill/1", "tunnels": [], "connection": connection});
        return context.document(&cut).map(|()| 0);
    }
    context.line(&format!("  {connection}   reset")).map(|()| 0)
}

/// Who has nothing open is gone before that.
const SAID_AFTER: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  conduit kill --tunnel web                 open connections may finish for 30 s
  conduit kill --tunnel web --drain 5m
  conduit kill --all --force                at once
  conduit kill --connection web-1a2b/7      one connection, the tunnel stays

Returns when the process is gone and its port is free; exits 69 when the process had to be\nkilled, or connections were still open when the drain was over.";
