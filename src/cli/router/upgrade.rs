//! `conduit router upgrade`: the router that runs becomes another program, and what is open stays open.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::running::find;
use crate::fleet::{Failure, Kind, exit};
use crate::registry::{Depth, Record, Request, RouterStatus, ask};

/// Options of `router upgrade`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The program that goes on [default: the one that this command is]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let Some(record) = find(context)?.routers.into_iter().next() else {
        let failure = Failure::new(Kind::Tunnel, "not_running", "no router runs here");
        return Err(failure.with_hint("`conduit router` starts one"));
    };
    let program = match &args.program {
        Some(program) => program.canonicalize(),
        None => std::env::current_exe(),
    };
    let program = program.map_err(|error| {
        let name = args.program.as_ref().map_or("this program".into(), |it| it.to_string_lossy());
        Failure::new(Kind::Config, "program", format!("cannot find {name}: {error}"))
    })?;
    let Some(program) = program.to_str().map(str::to_owned) else {
        let message = format!("the path {} is not UTF-8", program.display());
        return Err(Failure::new(Kind::Config, "program", message));
    };
    context.block_on(async {
        let before = status(&record).await?;
        let start = Instant::now();
        ask(&record, &Request::Upgrade { program: program.clone() }, PREPARES).await?;
        let after = upgraded(&record, before.upgrades).await?;
        let took = start.elapsed().as_millis();
        if context.json {
            return context.document(&json!({"schema": "conduit.upgrade/1", "id": after.id,
                "pid": after.pid, "from": before.version, "to": after.version,
                "program": program, "connections": after.active_streams, "ms": took}));
        }
        if context.quiet {
            return context.line(after.id.as_str());
        }
        context.line(&format!(
            "{} runs conduit {} (it was {}): pid {}, {} open, {took} ms",
            after.id,
            after.version,
            before.version,
            after.pid,
            counted(after.active_streams, "connection")
        ))
    })?;
    Ok(0)
}

async fn status(record: &Record) -> Result<RouterStatus, Failure> {
    super::admin::read(ask(record, &Request::Status(Depth::Known), ANSWERS).await?)
}

/// Waits until the other program answers: its record is the same, and so is its control socket.
async fn upgraded(record: &Record, before: u64) -> Result<RouterStatus, Failure> {
    let start = Instant::now();
    loop {
        match status(record).await {
            Ok(status) if status.upgrades > before => return Ok(status),
            // The one before, or cut off by its end.
            Ok(_) | Err(_) if start.elapsed() < TAKES_OVER => {}
            Ok(_) | Err(_) => break,
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let message =
        format!("the router does not answer {} s after its upgrade", TAKES_OVER.as_secs());
    Err(Failure::new(Kind::Network, "not_ready", message)
        .with_exit(exit::UNAVAILABLE)
        .with_hint("its log says why; a service manager starts it again"))
}

/// It runs the other program twice, to see whether it can.
const PREPARES: Duration = Duration::from_secs(20);
const ANSWERS: Duration = Duration::from_secs(5);
/// Connections that do not stop are waited for a little.
const TAKES_OVER: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
