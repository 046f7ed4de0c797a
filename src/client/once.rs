//! One connection through the router, without a tunnel process: `conduit connect`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::StartError;
use super::connect::{Established, RouterAddress, TRIES, establish, pause};
use super::declare::{TUNNEL, declare};
use crate::ends::Stream;
use crate::identity::{Keypair, Token};
use crate::relay::{Counters, EndedBy, pipe};
use crate::session::Introduction;
use crate::task::Tasks;
use crate::tunnel::TunnelSpec;
use crate::wire::{Code, StreamClass, StreamHeader, VERSION};
use crate::{relay, session, transport};

/// Everything that one connection needs.
#[derive(Debug)]
pub struct Once {
    /// What is dialled, as a forward tunnel whose bind is of no importance.
    pub tunnel: TunnelSpec,
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
    /// Copying.
    pub relay: relay::Settings,
}

/// Connects `user` with the target, and returns how that ended. A session of its own carries nothing else.
pub async fn once(
    settings: &Once,
    user: Stream,
    stop: &CancellationToken,
) -> Result<EndedBy, StartError> {
    let tasks = Tasks::new();
    let mut tries = 0;
    let established = loop {
        tries += 1;
        match attempt(settings, &tasks, tries).await {
            Err(error) if error.may_pass() && tries < TRIES => pause(tries).await,
            outcome => break outcome?,
        }
    };
    let header = StreamHeader {
        version: VERSION,
        tunnel: TUNNEL,
        class: StreamClass::Connect.into(),
        ..StreamHeader::default()
    };
    let session = &established.session;
    let addr = session.connection().remote_addr();
    let opened = session.open(header, Bytes::new()).await;
    let (sender, receiver) =
        opened.map_err(|error| StartError::Handshake { addr, reason: error.to_string() })?;
    let counters = Counters::default();
    let moved = pipe(user, sender, receiver, &settings.relay, &counters, stop).await;
    session.close(Code::Done, "the connection is over");
    established.endpoint.close().await;
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(moved.ended_by)
}

async fn attempt(settings: &Once, tasks: &Tasks, tries: u32) -> Result<Established, StartError> {
    let introduction = Introduction {
        instance: Uuid::new_v4(),
        name: settings.client_name.clone(),
        group: None,
        token: settings.token.clone(),
        ticket: None,
    };
    let mut established = establish(
        &settings.router,
        &settings.keypair,
        &introduction,
        &settings.transport,
        &settings.session,
        tasks,
        tries,
    )
    .await?;
    let limit = settings.session.message_timeout;
    match declare(&settings.tunnel, &settings.tunnel.bind, limit, &mut established).await {
        Ok(_) => Ok(established),
        Err(error) => {
            established.session.close(Code::Done, "the tunnel was not declared");
            established.endpoint.close().await;
            Err(error)
        }
    }
}
