//! `conduit router invite`: a ticket.

use std::time::Duration;

use serde_json::{Value, json};

use super::admin::administer;
use crate::cli::context::Context;
use crate::cli::report::warn;
use crate::fleet::Failure;
use crate::registry::{Invitation, InviteParams, Request};
use crate::tunnel::{HostPort, Name};

/// Options of `router invite`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// What the client may reach (HOST, CIDR or address, and ports; unix:/PATH) [default: everything, as an owner]
    #[arg(long, value_name = "TARGET:PORTS")]
    allow_target: Vec<String>,
    /// Where the router may listen for the client (address, CIDR or *, and ports; unix:/PATH)
    #[arg(long, value_name = "ADDRESS:PORTS")]
    allow_bind: Vec<String>,
    /// The name that the client gets [default: its host's]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// When the ticket expires [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = super::lifetime)]
    expires: Option<Duration>,
    /// How many clients may use it
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// The router's address that the ticket carries [default: what the router advertises]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<HostPort>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let request = Request::Invite(InviteParams {
        allow_targets: args.allow_target.clone(),
        allow_binds: args.allow_bind.clone(),
        name: args.name.clone(),
        expires_seconds: args.expires.map(|time| time.as_secs()),
        uses: Some(args.uses),
        advertise: args.advertise.clone(),
    });
    let answer = administer::<Invitation>(request, context)?;
    let invitation = answer.value;
    for warning in &invitation.warnings {
        warn(&format!("warning: {warning}"));
    }
    let addresses: Vec<String> = invitation.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    if let (Some(guess), true) = (answer.guess, args.advertise.is_empty()) {
        // Whatever the output is: who uses the ticket elsewhere would look in vain for what is wrong.
        warn(&format!("warning: {guess}: {addresses} (--advertise HOST:PORT names others)"));
    }
    if answer.all_private && args.advertise.is_empty() && !context.quiet {
        warn(PRIVATE);
    }
    if context.quiet {
        return context.line(&invitation.ticket).map(|()| 0);
    }
    if context.json {
        let mut document: Value = json!(invitation);
        document["schema"] = json!("conduit.invite/1");
        return context.document(&document).map(|()| 0);
    }
    if !answer.router_runs {
        warn("note: no router runs here yet; `conduit router` starts it");
    }
    let times =
        if invitation.uses == 1 { "once".into() } else { format!("{} times", invitation.uses) };
    context.line(&invitation.ticket)?;
    context.line("")?;
    context.line(&format!("  allows     {}", invitation.permissions))?;
    context.line(&format!("  works      {times}, until {}", invitation.expires_at))?;
    context.line(&format!("  router at  {addresses}"))?;
    context.line("")?;
    let join = if invitation.uses == 1 { &invitation.ticket } else { "-" };
    context.line("on the client:")?;
    context
        .line(&format!("  conduit start --join {join} --source HOST:PORT --bind 127.0.0.1:PORT"))
        .map(|()| 0)
}

/// Said where every address is private: nobody outside would find the router.
pub(super) const PRIVATE: &str = "note: tickets carry private addresses only; clients elsewhere need \
    `conduit router --advertise HOST:PORT`";

const EXAMPLES: &str = "\
With neither --allow-target nor --allow-bind the client is an owner: it may reach everything, and have the router listen \
at any port from 1024. Lower ones take a rule, and a router process that has CAP_NET_BIND_SERVICE.

Examples:
  conduit router invite                                   an owner: any target, loopback included
  conduit router invite --allow-target 10.2.0.0/16:80,443 --allow-target db.internal:5432
  conduit router invite --allow-bind '*:8000-8100'        listens there, and reaches nothing
  conduit router invite --name ci --uses 3 --expires 1h --allow-target '[fd00::/8]:22'
  conduit router invite --quiet | ssh host conduit start --join - --source web:80 --bind 8080";
