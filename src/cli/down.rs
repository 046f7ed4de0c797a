//! `conduit down`: ends what `conduit up` started from a file.

use std::path::PathBuf;
use std::time::Duration;

use super::context::{Context, signals, unless_interrupted};
use super::kill;
use super::prepare::client_file;
use super::up::canonical;
use crate::fleet::{self, DRAIN, Failure, Kind};

/// Options of `down`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file [default: conduit.toml here, or in CONDUIT_HOME]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long open connections may finish [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "force")]
    drain: Option<Duration>,
    /// At once: open connections are reset
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    // The file itself is not read: what it started ends also when it is wrong by now, or gone.
    let Some(path) = client_file(args.file.as_deref(), context)? else {
        return Err(Failure::new(Kind::Config, "no_file", "there is no conduit.toml here")
            .with_hint("name the file that `up` was given: -f FILE"));
    };
    let drain = if args.force { Duration::ZERO } else { args.drain.unwrap_or(DRAIN) };
    let Some(registry) = context.existing_registry()? else { return nothing(context) };
    let file = canonical(Some(&path));
    let (ended, supervisor) = context.block_on(async {
        let mut signals = signals()?;
        let work = async {
            let ended =
                kill::patiently(fleet::bring_down(&registry, &file, drain), drain, context).await;
            Ok((ended, fleet::end_supervisor(&registry, &file, drain).await))
        };
        unless_interrupted(&mut signals, work).await
    })?;
    let code = match (&ended[..], &supervisor) {
        ([], Ok(None)) => nothing(context)?,
        _ => kill::show(&ended, drain, context)?,
    };
    // Whether this file started them cannot be read, so it must not look as if all was down.
    let code = code.max(kill::report_damaged(context)?);
    if let (Some(pid), false) = (supervisor?, context.json || context.quiet) {
        context.line(&format!("  its supervisor   stopped   pid {pid}"))?;
    }
    Ok(code)
}

fn nothing(context: &Context) -> Result<u8, Failure> {
    if !context.json && !context.quiet {
        context.line("no tunnel of this file runs")?;
    }
    kill::show(&[], Duration::ZERO, context)
}
