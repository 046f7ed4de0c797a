//! One connection through the router, without a tunnel process: `conduit connect`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connect::{Attempt, Established, retried};
use super::declare::TUNNEL;
use super::{Access, StartError};
use crate::ends::Stream;
use crate::relay;
use crate::relay::{EndedBy, Faces, Table, pipe};
use crate::session::{Receiver, Sender, Session};
use crate::task::Tasks;
use crate::transport::ClientEndpoint;
use crate::tunnel::{Options, Protocol, TunnelSpec};
use crate::wire::{Code, StreamClass, StreamHeader, VERSION};

/// Everything that one connection needs.
#[derive(Debug)]
pub struct Once {
    /// What is dialled, as a forward tunnel whose bind is of no importance.
    pub tunnel: TunnelSpec,
    /// The way to the router.
    pub access: Access,
    /// Copying.
    pub relay: relay::Settings,
}

/// A stream to the target, in a session that carries nothing else.
pub(super) struct Line {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    session: Session,
    endpoint: Arc<ClientEndpoint>,
    tasks: Tasks,
}

impl Line {
    /// Opens it; the router's answer is still to come.
    pub(super) async fn open(settings: &Once) -> Result<Self, StartError> {
        let tasks = Tasks::new();
        let Once { access, tunnel, .. } = settings;
        let instance = Uuid::new_v4();
        // Nobody makes a second connection here.
        let options = Options { resume: None, ..tunnel.options.clone() };
        let tunnel = &TunnelSpec { options, ..tunnel.clone() };
        let attempt = |tries| Attempt::first(&tasks, tries);
        let declared =
            retried(|tries| access.declare(tunnel, &tunnel.bind, instance, attempt(tries)));
        let Established { session, endpoint, .. } = declared.await?.established;
        let header = StreamHeader {
            version: VERSION,
            tunnel: TUNNEL,
            class: StreamClass::Connect.into(),
            ..StreamHeader::default()
        };
        let addr = session.connection().remote_addr();
        let opened = session.open(header, Bytes::new()).await;
        let (sender, receiver) =
            opened.map_err(|error| StartError::Handshake { addr, reason: error.to_string() })?;
        Ok(Self { sender, receiver, session, endpoint, tasks })
    }

    /// Says good-bye.
    pub(super) async fn close(self, reason: &str) {
        drop((self.sender, self.receiver));
        close(&self.session, &self.endpoint, &self.tasks, reason).await;
    }
}

/// Says good-bye on a session that nobody comes back to.
pub(super) async fn close(
    session: &Session,
    endpoint: &ClientEndpoint,
    tasks: &Tasks,
    reason: &str,
) {
    session.close(Code::Done, reason);
    endpoint.close(session.connection()).await;
    tasks.shutdown(Duration::from_secs(1)).await;
}

/// Connects `user` with the target, and returns how that ended. A session of its own carries nothing else.
pub async fn once(
    settings: &Once,
    user: Stream,
    stop: &CancellationToken,
) -> Result<EndedBy, StartError> {
    let Line { sender, receiver, session, endpoint, tasks } = Line::open(settings).await?;
    let entry = Table::default().enter(Protocol::Tcp, Faces::User, String::new(), stop);
    let moved = pipe(user, sender, receiver, settings.relay, &entry).await;
    close(&session, &endpoint, &tasks, "the connection is over").await;
    Ok(moved.ended_by)
}
