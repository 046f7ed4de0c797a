//! `conduit router revoke`: ends a client's sessions and refuses its key.

use serde_json::{Value, json};

use super::admin::administer;
use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::report::warn;
use crate::fleet::{Failure, Kind};
use crate::registry::Request;
use crate::tunnel::Name;

/// Options of `router revoke`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client's name, as `router clients` shows it
    #[arg(value_name = "NAME")]
    name: Name,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let request = Request::Revoke { name: args.name.clone() };
    let answer = administer::<Value>(request, context).map_err(|failure| {
        if failure.code == "not_found" {
            Failure::new(Kind::Policy, "not_found", failure.message)
                .with_hint("`conduit router clients` shows names")
                .with_exit(crate::fleet::exit::FAILURE)
        } else {
            failure
        }
    })?;
    let closed = answer.value["sessions_closed"].as_u64().unwrap_or(0);
    if context.json {
        return context
            .document(&json!({"schema": "conduit.revoke/1", "name": args.name,
                "sessions_closed": closed, "router_runs": answer.router_runs}))
            .map(|()| 0);
    }
    if context.quiet {
        return context.line(args.name.as_str()).map(|()| 0);
    }
    context.line(&format!("  {}   revoked, {} ended", args.name, counted(closed, "session")))?;
    if !answer.router_runs {
        warn("note: no router runs here: it is refused from the next start on");
    }
    Ok(0)
}
