//! `conduit router clients`: everybody who is admitted or revoked.

use serde::Deserialize;
use serde_json::json;

use super::admin::administer;
use crate::cli::context::Context;
use crate::cli::output::{Table, age, or_dash, seconds_since};
use crate::fleet::Failure;
use crate::registry::{ClientStatus, Request};

#[derive(Deserialize)]
struct Clients {
    clients: Vec<ClientStatus>,
}

pub(super) fn run(context: &Context) -> Result<u8, Failure> {
    let Clients { clients } = administer(Request::Clients, context)?.value;
    if context.json {
        let document = json!({"schema": "conduit.clients/1", "clients": clients});
        return context.document(&document).map(|()| 0);
    }
    if context.quiet {
        return clients
            .iter()
            .try_for_each(|client| context.line(client.name.as_str()))
            .map(|()| 0);
    }
    if clients.is_empty() {
        return context
            .line("no client is admitted; `conduit router invite` makes a ticket")
            .map(|()| 0);
    }
    let mut table =
        Table::new(["NAME", "STATUS", "CONNECTED", "LAST SEEN", "VERSION", "MAY REACH"]);
    for client in clients {
        let seen = client.last_seen.as_deref().and_then(seconds_since);
        table.row([
            client.name.to_string(),
            client.status,
            if client.connected { "yes" } else { "no" }.to_owned(),
            or_dash(seen.map(|past| format!("{} ago", age(past)))),
            or_dash(client.version),
            client.permissions,
        ]);
    }
    context.line(&table.render(context)).map(|()| 0)
}
