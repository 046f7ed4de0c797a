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
    /// For looks at UDP while TLS is in use.
    look: Timer,
    /// For TLS connections in the place of what carries nothing.
    repair: Timer,
    under_way: Option<(Carrier, UnderWay)>,
}

/// When something is tried next, and how long after that again.
struct Timer {
    due: Instant,
    wait: Duration,
    most: Duration,
}

impl Timer {
    fn new(due: Instant, wait: Duration, most: Duration) -> Self {
        Self { due, wait, most }
    }

    /// It was tried: the next time is after a random part, at least half, of twice as long as the last one.
    fn tried(&mut self) {
        self.wait = (self.wait * 2).min(self.most);
        self.due = Instant::now() + self.wait / 2 + jitter(self.wait / 2);
    }
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
        let now = Instant::now();
        Self {
            shared: Arc::clone(shared),
            endpoint: Arc::clone(endpoint),
            silence: Silence::of(&line.session, &shared.link.heard, DOUBT),
            is_silent: false,
            has_moved: false,
            look: Timer::new(now + FIRST_LOOK, FIRST_LOOK, LAST_LOOK),
            repair: Timer::new(now, RETRY, LAST_RETRY),
            under_way: None,
        }
    }

    /// The network has changed: the connection goes on from a fresh socket, and what was known of UDP holds no more.
    pub(super) fn moves(&mut self, change: &Change) {
        tracing::info!(%change, "the network changed");
        let now = Instant::now();
        self.look = Timer::new(now + RETRY, FIRST_LOOK, LAST_LOOK);
        self.repair = Timer::new(now, RETRY, LAST_RETRY);
        if self.endpoint.carrier() == Carrier::Tls {
            (self.has_moved, self.under_way) = (true, None);
        } else if let Err(error) = self.endpoint.move_to_udp() {
            tracing::warn!(%error, "the connection keeps its old socket");
        }
    }

    /// Waits until another carrier is in use. Cancel-safe.
    pub(super) async fn turns(&mut self) -> Crossed {
        loop {
            if self.under_way.is_none() {
                self.under_way = self.wanted().map(|wanted| (wanted, self.tries(wanted)));
            }
            let was = self.endpoint.carrier();
            let is_cut_off = self.endpoint.has_been_cut_off();
            let due = self.due();
            let found = tokio::select! {
                found = outcome(&mut self.under_way) => found,
                is_silent = self.silence.turns() => {
                    self.hears(is_silent);
                    continue;
                }
                () = self.endpoint.is_cut_off(), if !is_cut_off => {
                    self.drops(Carrier::Quic);
                    continue;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => continue,
            };
            self.under_way = None;
            match found {
                Found::Tls(outcome) => {
                    self.repair.tried();
                    match outcome {
                        Ok(()) if was == Carrier::Tls => {
                            self.has_moved = false;
                            tracing::info!("a fresh TLS connection carries the session");
                        }
                        Ok(()) => {
                            // Where UDP has failed twice it is trusted later.
                            self.look.tried();
                            return Crossed(Carrier::Tls);
                        }
                        Err(error) => {
                            tracing::debug!(%error, "TLS does not help");
                            // Perhaps UDP does, by now.
                            self.look.due = Instant::now();
                        }
                    }
                }
                Found::Udp(true) => match self.endpoint.move_to_udp() {
                    Ok(()) => {
                        self.has_moved = false;
                        return Crossed(Carrier::Quic);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the connection stays on TLS");
                        self.look.tried();
                    }
                },
                Found::Udp(false) => self.look.tried(),
            }
        }
    }

    /// The router is silent, or is heard again.
    fn hears(&mut self, is_silent: bool) {
        self.is_silent = is_silent;
        if is_silent {
            self.drops(Carrier::Quic);
        } else {
            self.repair = Timer::new(Instant::now(), RETRY, LAST_RETRY);
            if self.endpoint.carrier() == Carrier::Quic {
                // UDP carries again: TLS is not wanted any more.
                self.drops(Carrier::Tls);
            }
        }
    }

    /// What is being found out about this carrier is of no use any more, or has to wait for something else.
    fn drops(&mut self, carrier: Carrier) {
        self.under_way.take_if(|(wanted, _)| *wanted == carrier);
    }

    fn is_free(&self) -> bool {
        self.shared.settings.access.transport.carrier == CarrierChoice::Auto
    }

    /// Whether what is in use carries nothing and a TLS connection might. TCP itself would try for minutes.
    fn is_broken(&self) -> bool {
        match self.endpoint.carrier() {
            Carrier::Quic => self.is_free() && self.is_silent,
            Carrier::Tls => self.has_moved || self.is_silent || self.endpoint.has_been_cut_off(),
        }
    }

    fn looks_for_udp(&self) -> bool {
        self.is_free() && self.endpoint.carrier() == Carrier::Tls
    }

    /// What is to be tried now.
    fn wanted(&self) -> Option<Carrier> {
        let now = Instant::now();
        if self.is_broken() && now >= self.repair.due {
            Some(Carrier::Tls)
        } else {
            (self.looks_for_udp() && now >= self.look.due).then_some(Carrier::Quic)
        }
    }

    /// When something is to be tried next, unless something happens before or is under way.
    fn due(&self) -> Option<Instant> {
        let repair = self.is_broken().then_some(self.repair.due);
        let look = self.looks_for_udp().then_some(self.look.due);
        repair.into_iter().chain(look).min().filter(|_| self.under_way.is_none())
    }

    /// Begins to find out whether a carrier can be had.
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
}

/// What was found out; pends for ever when nothing is being. Cancel-safe.
async fn outcome(under_way: &mut Option<(Carrier, UnderWay)>) -> Found {
    match under_way {
        Some((_, finding)) => finding.await,
        None => std::future::pending().await,
    }
}

/// A path that is back within this time needs no other carrier.
const DOUBT: Duration = Duration::from_secs(2);
/// How soon UDP is tried again where TLS is in use, the first time and at last.
const FIRST_LOOK: Duration = Duration::from_secs(15);
const LAST_LOOK: Duration = Duration::from_secs(300);
/// Between attempts at TLS, at first and at last.
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(8);
