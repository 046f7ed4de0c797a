//! `conduit man`: the manual pages, one per verb.

use std::path::PathBuf;

use super::args::command;
use super::context::Context;
use crate::fleet::{Failure, Kind};

/// Options of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder that the pages are written into; it is made when it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let written = std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(command(), &args.dir));
    written.map_err(|error| {
        let message = format!("cannot write manual pages into {}: {error}", args.dir.display());
        Failure::new(Kind::System, "man", message)
    })?;
    if context.quiet {
        Ok(0)
    } else {
        context.line(&format!("wrote {}", args.dir.display())).map(|()| 0)
    }
}
