//! Reaches for a source once more that the last user did not find: who asks for a probe asks how it is now.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;

use super::Shared;
use super::declare::pair;
use super::examine::Unreached;
use crate::ends;
use crate::policy::Decision;
use crate::session::{ReceiveError, Receiver, Session};
use crate::tunnel::{Direction, Protocol};
use crate::wire::{Code, StreamClass, StreamHeader, VERSION};

impl Shared {
    /// Does nothing when the last user was served, and for UDP, where a connection says nothing. Bounded by [`LIMIT`], within
    /// which nothing new may be found out.
    pub(super) async fn redial(&self, session: &Session) {
        let Some(tunnel) = self.last_outcome.not_served_by() else { return };
        if self.settings.tunnel.protocol == Protocol::Udp {
            return;
        }
        let Some((_, source)) = pair(&self.settings.tunnel, tunnel) else { return };
        let dialling = async {
            match self.settings.tunnel.direction {
                Direction::Forward => by_router(session, tunnel).await,
                Direction::Reverse => {
                    ends::dial(&source, |_| Decision::Allowed, &self.settings.dial)
                        .await
                        .map(drop)
                        .map_err(|error| error.to_string())
                }
            }
        };
        match tokio::time::timeout(LIMIT, dialling).await {
            Ok(Ok(())) => self.last_outcome.served(),
            Ok(Err(reason)) => self.last_outcome.not_served(tunnel, &source.to_string(), &reason),
            Err(_) => {}
        }
    }
}

/// The router connects to the source, and is told at once that it was only a question.
async fn by_router(session: &Session, tunnel: u32) -> Result<(), String> {
    let header = StreamHeader {
        version: VERSION,
        tunnel,
        class: StreamClass::Connect.into(),
        ..StreamHeader::default()
    };
    let opened = session.open(header, Bytes::new()).await;
    let (mut sender, mut receiver) = opened.map_err(|error| error.to_string())?;
    let answer = served(&mut receiver).await;
    sender.reset(Code::Done);
    receiver.stop(Code::Done);
    answer.map_err(|error| error.to_string())
}

/// Waits until the router has reached the target of a stream, or says why not. Cancel-safe.
pub(super) async fn served(receiver: &mut Receiver) -> Result<(), Unreached> {
    let (mut served, mut queue) = (receiver.served(), Default::default());
    let answer = tokio::select! {
        _ = &mut served => Ok(()),
        received = poll_fn(|cx| receiver.poll_receive(cx, &mut queue)) => received.map(|_| ()),
    };
    answer.map_err(|error| match error {
        ReceiveError::Refused { code, message } => Unreached::Refused { code, message },
        error => Unreached::Failed(error.to_string()),
    })
}

/// Whoever asked waits for the probe, too.
const LIMIT: Duration = Duration::from_secs(2);
