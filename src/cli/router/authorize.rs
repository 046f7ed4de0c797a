//! `conduit router authorize`: admits a key without a ticket.

use serde_json::{Value, json};

use super::admin::administer;
use crate::cli::context::Context;
use crate::fleet::Failure;
use crate::registry::{AuthorizeParams, ClientStatus, Request};
use crate::tunnel::{Identity, Name};

/// Options of `router authorize`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client's identity, as `conduit init` prints it
    #[arg(value_name = "IDENTITY")]
    identity: Identity,
    /// The client's name
    #[arg(long, value_name = "NAME")]
    name: Name,
    /// What the client may reach (HOST, CIDR or address, and ports); without it: everything, as an owner
    #[arg(long, value_name = "TARGET:PORTS")]
    allow_target: Vec<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let request = Request::Authorize(AuthorizeParams {
        identity: args.identity,
        name: args.name.clone(),
        allow_targets: args.allow_target.clone(),
    });
    let client = administer::<ClientStatus>(request, context)?.value;
    if context.json {
        let mut document: Value = json!(client);
        document["schema"] = json!("conduit.client/1");
        return context.document(&document).map(|()| 0);
    }
    if context.quiet {
        return context.line(client.name.as_str()).map(|()| 0);
    }
    context
        .line(&format!(
            "  {}   {}   may reach {}",
            client.name, client.identity, client.permissions
        ))
        .map(|()| 0)
}
