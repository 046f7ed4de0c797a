//! What a client comes to its router with, and the steps from there to a declared tunnel.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::connect::{Attempt, Established, RouterAddress, establish, retried};
use super::declare::declare;
use super::error::StartError;
use super::networks::Networks;
use crate::identity::{Keypair, Ticket, Token};
use crate::session::Introduction;
use crate::task::Tasks;
use crate::tunnel::{Bind, CarrierChoice, HostPort, Span, TunnelSpec};
use crate::wire::Code;
use crate::{session, transport};

/// Where the router is, and as whom this client comes.
#[derive(Clone, Debug)]
pub struct Access {
    /// The client's key.
    pub keypair: Arc<Keypair>,
    /// Where the router is, and whose key it has.
    pub router: RouterAddress,
    /// What this client would like to be called.
    pub client_name: String,
    /// Authorises besides the key, where the router demands it.
    pub token: Option<Token>,
    /// The connection.
    pub transport: transport::Settings,
    /// The session.
    pub session: session::Settings,
    /// Where UDP was of no use.
    pub networks: Networks,
}

/// What a ticket brought.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The name under which the router knows this client.
    pub name: String,
    /// The address that answered.
    pub addr: HostPort,
    /// Whether this client may reach any target.
    pub owner: bool,
    /// The rules, when it is no owner.
    pub targets: Vec<String>,
    /// Whether the ticket was used; a client that was known already needs none.
    pub by_ticket: bool,
}

/// A session on which a tunnel is declared.
pub(super) struct Declared {
    pub(super) established: Established,
    /// Where users of each port connect.
    pub(super) binds: Vec<Bind>,
}

/// Shows the router a ticket, is admitted and says good-bye. A key that the router knows already is admitted without
/// touching the ticket.
pub async fn enrol(access: &Access, ticket: Ticket) -> Result<Enrolled, StartError> {
    let introduction =
        Introduction { ticket: Some(ticket), ..access.introduction(Uuid::new_v4(), None) };
    let tasks = Tasks::new();
    let attempt = |tries| Attempt::first(&tasks, tries);
    let connected = retried(|tries| establish(access, &introduction, attempt(tries))).await;
    let Established { session, endpoint, addr, .. } = connected?;
    let terms = session.terms().clone();
    session.close(Code::Done, "enrolled");
    endpoint.close(session.connection()).await;
    tasks.shutdown(Duration::from_secs(1)).await;
    let by_ticket = terms.enrolled;
    Ok(Enrolled { name: terms.name, addr, owner: terms.owner, targets: terms.targets, by_ticket })
}

impl Access {
    /// With the usual settings, and no token.
    pub fn new(
        keypair: Arc<Keypair>,
        router: RouterAddress,
        client_name: impl Into<String>,
    ) -> Self {
        Self {
            keypair,
            router,
            client_name: client_name.into(),
            token: None,
            transport: transport::Settings::default(),
            session: session::Settings::default(),
            networks: Networks::default(),
        }
    }

    /// What is remembered of networks, where there is a choice: a carrier that somebody named, or a proxy, says nothing
    /// about UDP.
    pub(super) fn networks(&self) -> Option<&Networks> {
        let transport = &self.transport;
        let is_free = transport.carrier == CarrierChoice::Auto && transport.proxy.is_none();
        is_free.then_some(&self.networks)
    }

    /// One attempt at a session on which `tunnel` is declared. `binds` is where its users are to
    /// connect: what the tunnel says, or what it came to the last time.
    pub(super) async fn declare(
        &self,
        tunnel: &TunnelSpec,
        binds: &Span<Bind>,
        instance: Uuid,
        attempt: Attempt<'_>,
    ) -> Result<Declared, StartError> {
        let group = tunnel.options.group.as_ref().map(ToString::to_string);
        let introduction = self.introduction(instance, group);
        let mut established = establish(self, &introduction, attempt).await?;
        established.session.connection().set_priority(tunnel.options.priority);
        match declare(tunnel, binds, self.session.message_timeout, &mut established).await {
            Ok(binds) => Ok(Declared { established, binds }),
            Err(error) => {
                let reason = "the tunnel was not declared";
                if error.may_pass() {
                    established.session.interrupt(reason);
                } else {
                    established.session.close(Code::Done, reason);
                }
                // The good-bye has to leave before the process does, or the router keeps the session until it times
                // out.
                established.endpoint.close(established.session.connection()).await;
                Err(error)
            }
        }
    }

    pub(super) fn introduction(&self, instance: Uuid, group: Option<String>) -> Introduction {
        let (name, token) = (self.client_name.clone(), self.token.clone());
        Introduction { instance, name, group, token, ticket: None }
    }
}
