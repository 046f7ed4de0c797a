//! `conduit router`: runs the router, and administers it.

mod admin;
mod authorize;
mod clients;
mod inheritance;
mod invite;
mod place;
mod revoke;
mod run;
mod serving;
mod succession;
mod token;
#[cfg(unix)]
mod upgrade;

use std::time::Duration;

use super::context::Context;
use crate::fleet::Failure;

/// Options of `router`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_long_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: run::Options,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print a ticket with which clients enrol
    Invite(invite::Args),
    /// Admit a key that was distributed by other means
    Authorize(authorize::Args),
    /// Show who is admitted, connected or revoked
    Clients,
    /// End a client's sessions and refuse its key from now on
    Revoke(revoke::Args),
    /// Go on with another program, this one: connections and UDP flows stay open
    #[cfg(unix)]
    Upgrade(upgrade::Args),
    /// Create, list and revoke tokens
    Token(token::Args),
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    match &args.verb {
        None => run::run(&args.run, context),
        Some(Verb::Invite(args)) => invite::run(args, context),
        Some(Verb::Authorize(args)) => authorize::run(args, context),
        Some(Verb::Clients) => clients::run(context),
        Some(Verb::Revoke(args)) => revoke::run(args, context),
        #[cfg(unix)]
        Some(Verb::Upgrade(args)) => upgrade::run(args, context),
        Some(Verb::Token(args)) => token::run(args, context),
    }
}

/// How long a ticket or a token is good: seconds are what the router counts in.
fn lifetime(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) {
        return Err("at least one second".to_owned());
    }
    Ok(time)
}

const EXAMPLES: &str = "\
Examples:
  conduit router                                 listen on 0.0.0.0:9999
  conduit router --bind 0.0.0.0:443 --advertise tunnel.example.org:443
  conduit router -f router.toml
  conduit router --service-file systemd          print a unit that runs it with the machine
  conduit router invite                          a ticket for an owner, for one hour
  conduit router invite --allow-target 10.2.0.0/16:80,443 --name ci --uses 3
  conduit router upgrade                         the router that runs becomes this program";
