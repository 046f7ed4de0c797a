//! Goes on over the other carrier where the one in use carries nothing, and back when it does again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::connect::jitter;
use super::link::Line;
use super::silence::Silence;
use crate::transport::{Carrier, Change, ClientEndpoint, ConnectError};
use crate::tunnel::CarrierChoice;

/// Looks after the carrier of one connection, which goes on whatever carries it.
pub(super) struct Crossing {
    shared: Arc<Shared>,
    endpoint: Arc<ClientEndpoint>,
    silence: Silence,
    is_silent: bool,
    /// Whether this machine has another address since the TLS connection was made.
    has_moved: bool,
    /// How long after a look at the carrier that is not in use the next one follows, and when that is.
    wait: Duration,
    due: Instant,
    under_way: Option<UnderWay>,
}

/// What is being found out about the other carrier.
type UnderWay = Pin<Box<dyn Future<Output = Found> + Send>>;

enum Found {
    /// TLS carries the packets now, or cannot.
    Tls(Result<(), ConnectError>),
    /// Whether UDP can be had.
    Udp(bool),
}

/// What carries the connection from now on.
#[derive(Debug)]
pub(super) struct Crossed(pub(super) Carrier);

impl Crossing {
    pub(super) fn of(shared: &Arc<Shared>, line: &Line, endpoint: &Arc<ClientEndpoint>) -> Self {
        Self {
            shared: Arc::clone(shared),
            endpoint: Arc::clone(endpoint),
            silence: Silence::of(&line.session, DOUBT),
            is_silent: false,
            has_moved: false,
            wait: FIRST_LOOK,
            due: Instant::now() + FIRST_LOOK,
            under_way: None,
        }
    }

    /// The network has changed: the connection goes on from a fresh socket, and what was known of UDP holds no more.
    pub(super) fn moves(&mut self, change: &Change) {
        tracing::info!(%change, "the network changed");
        (self.wait, self.due) = (FIRST_LOOK, Instant::now());
        if self.endpoint.carrier() == Carrier::Tls {
            (self.has_moved, self.under_way) = (true, None);
        } else if let Err(error) = self.endpoint.move_to_udp() {
            tracing::warn!(%error, "the connection keeps its old socket");
        }
    }

    /// Waits until another carrier is in use. Cancel-safe.
    pub(super) async fn turns(&mut self) -> Crossed {
        loop {
            if self.under_way.is_none() && Instant::now() >= self.due {
                self.under_way = self.wanted().map(|wanted| self.tries(wanted));
            }
            let was = self.endpoint.carrier();
            let found = match &mut self.under_way {
                Some(under_way) => tokio::select! {
                    found = under_way => found,
                    is_silent = self.silence.turns() => {
                        self.is_silent = is_silent;
                        if !is_silent && was == Carrier::Quic {
                            // UDP carries again: TLS is not wanted any more.
                            self.under_way = None;
                        }
                        continue;
                    }
                },
                None => {
                    self.waits().await;
                    continue;
                }
            };
            self.under_way = None;
            self.due = Instant::now() + self.wait / 2 + jitter(self.wait / 2);
            match found {
                Found::Tls(Ok(())) if was == Carrier::Tls => {
                    self.has_moved = false;
                    tracing::info!("a fresh TLS connection carries the session");
                }
                Found::Tls(Ok(())) => {
                    // Where UDP has failed twice it is trusted later.
                    self.wait = (self.wait * 2).min(LAST_LOOK);
                    return Crossed(Carrier::Tls);
                }
                Found::Tls(Err(error)) => {
                    tracing::debug!(%error, "TLS does not help");
                    self.due = Instant::now() + RETRY;
                }
                Found::Udp(true) => match self.endpoint.move_to_udp() {
                    Ok(()) => return Crossed(Carrier::Quic),
                    Err(error) => tracing::warn!(%error, "the connection stays on TLS"),
                },
                Found::Udp(false) => self.wait = (self.wait * 2).min(LAST_LOOK),
            }
        }
    }

    /// What carries nothing right now, or would carry more than what is in use.
    fn wanted(&self) -> Option<Carrier> {
        let is_free = self.shared.settings.access.transport.carrier == CarrierChoice::Auto;
        match self.endpoint.carrier() {
            Carrier::Quic => (is_free && self.is_silent).then_some(Carrier::Tls),
            // TCP itself would try for minutes.
            Carrier::Tls
                if self.has_moved || self.is_silent || self.endpoint.has_been_cut_off() =>
            {
                Some(Carrier::Tls)
            }
            Carrier::Tls => is_free.then_some(Carrier::Quic),
        }
    }

    /// Begins to find out whether it can be had.
    fn tries(&self, wanted: Carrier) -> UnderWay {
        let access = &self.shared.settings.access;
        let (endpoint, keypair) = (Arc::clone(&self.endpoint), Arc::clone(&access.keypair));
        let pin = access.router.identity;
        Box::pin(async move {
            match wanted {
                Carrier::Tls => Found::Tls(endpoint.move_to_tls(&keypair, pin).await),
                Carrier::Quic => Found::Udp(endpoint.is_udp_open(&keypair, pin).await),
            }
        })
    }

    /// Waits until there may be something to find out.
    async fn waits(&mut self) {
        let is_wanted = self.wanted().is_some();
        tokio::select! {
            is_silent = self.silence.turns() => {
                self.is_silent = is_silent;
                if is_silent {
                    self.due = Instant::now();
                }
            }
            () = self.endpoint.is_cut_off(), if !self.endpoint.has_been_cut_off() => {
                self.due = Instant::now();
            }
            () = tokio::time::sleep_until(self.due), if is_wanted => {}
        }
    }
}

/// A path that is back within this time needs no other carrier.
const DOUBT: Duration = Duration::from_secs(2);
/// How soon UDP is tried again where TLS is in use, the first time and at last.
const FIRST_LOOK: Duration = Duration::from_secs(15);
const LAST_LOOK: Duration = Duration::from_secs(300);
/// Between attempts at TLS.
const RETRY: Duration = Duration::from_secs(1);
