//! `conduit router authorize`: admits a key without a ticket.

use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{administer, read};
use crate::cli::context::Context;
use crate::cli::report::warn;
use crate::fleet::Failure;
use crate::registry::{AuthorizeParams, ClientStatus, Request};
use crate::tunnel::{Identity, Name};

/// Options of `router authorize`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// The client's identity, as `conduit init` prints it
    #[arg(value_name = "IDENTITY")]
    identity: Identity,
    /// The client's name
    #[arg(long, value_name = "NAME")]
    name: Name,
    /// What it may reach (HOST or CIDR, and ports; unix:/PATH) [default: a known key as before, a new one everything]
    #[arg(long, value_name = "TARGET:PORTS")]
    allow_target: Vec<String>,
    /// Where the router may listen for it (address, CIDR or *, and ports; unix:/PATH)
    #[arg(long, value_name = "ADDRESS:PORTS")]
    allow_bind: Vec<String>,
    /// Make it an owner, which may reach everything, even if it is known with less
    #[arg(long, conflicts_with = "allow_target")]
    owner: bool,
}

/// The client, and what it was.
#[derive(Deserialize)]
struct Authorized {
    #[serde(flatten)]
    client: ClientStatus,
    was: Option<Was>,
}

#[derive(Deserialize)]
struct Was {
    name: Name,
    status: String,
    permissions: String,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let request = Request::Authorize(AuthorizeParams {
        identity: args.identity,
        name: args.name.clone(),
        allow_targets: args.allow_target.clone(),
        allow_binds: args.allow_bind.clone(),
        owner: args.owner,
    });
    let mut document = administer::<Value>(request, context)?.value;
    let Authorized { client, was } = read(document.clone())?;
    if context.json {
        document["schema"] = json!("conduit.client/1");
        return context.document(&document).map(|()| 0);
    }
    if context.quiet {
        return context.line(client.name.as_str()).map(|()| 0);
    }
    context.line(&format!(
        "  {}   {}   may reach {}",
        client.name, client.identity, client.permissions
    ))?;
    match was {
        Some(Was { name, status, permissions }) => {
            let revoked = if status == "active" { "" } else { ", revoked" };
            context.line(&format!("  was: {name}, {permissions}{revoked}"))?;
        }
        None if !args.owner && args.allow_target.is_empty() && args.allow_bind.is_empty() => {
            warn(
                "note: none of --allow-target, --allow-bind and --owner was given: a new client is an owner",
            );
        }
        None => {}
    }
    Ok(0)
}

const EXAMPLES: &str = "\
With none of --allow-target, --allow-bind and --owner a known key may do what it may already, and a new one is an owner: \
it may reach everything, and have the router listen at any port from 1024. Lower ones take a rule, and a router process \
that has CAP_NET_BIND_SERVICE.

Examples:
  conduit router authorize IDENTITY --name ci --allow-target 10.2.0.0/16:80,443
  conduit router authorize IDENTITY --name web --allow-bind '*:8000-8100'
  conduit router authorize IDENTITY --name edge --owner --allow-bind 0.0.0.0:80";
