//! A network in which UDP and TCP to one router may be closed, each by itself.
#![allow(dead_code, reason = "not every suite closes TCP")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use conduit::client::{self, StartError};
use conduit::router;
use conduit::tunnel::CarrierChoice;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::link::{Conditions, Link};
use crate::stage::{Stage, Target, Tunnel};

/// A router behind a path for UDP and one for TCP on the same port number, each of which may be closed.
pub(crate) struct Firewall {
    pub(crate) stage: Stage,
    pub(crate) udp: Link,
    pub(crate) tcp: TcpPath,
}

/// Relays TCP.
pub(crate) struct TcpPath {
    /// Callers so far.
    calls: Arc<AtomicUsize>,
    pub(crate) is_open: Arc<AtomicBool>,
    relays: Arc<std::sync::Mutex<Vec<AbortHandle>>>,
    _accepting: tokio_util::task::AbortOnDropHandle<()>,
}

impl Firewall {
    pub(crate) async fn new() -> Self {
        Self::with(7, |_| {}).await
    }

    /// What is random on the path for UDP follows from `seed`.
    pub(crate) async fn with(seed: u64, change: impl FnOnce(&mut router::Settings)) -> Self {
        let stage = Stage::with(|settings| {
            settings.transport.trust_loopback = false;
            change(settings);
        })
        .await;
        loop {
            let path = Conditions::rtt(Duration::from_millis(10)).rate(200, 1 << 20);
            let udp = Link::to(stage.router.local_addr(), seed, path);
            if let Ok(listener) = TcpListener::bind(udp.addr()).await {
                let tcp = TcpPath::new(listener, stage.router.local_addr());
                return Self { stage, udp, tcp };
            }
        }
    }

    pub(crate) async fn tunnel(
        &self,
        target: &Target,
        choice: CarrierChoice,
    ) -> Result<Tunnel, StartError> {
        self.stage
            .try_tunnel(target.addr, |settings: &mut client::Settings| {
                settings.access.router.addresses = vec![self.udp.addr().into()];
                settings.access.transport.carrier = choice;
            })
            .await
    }
}

impl TcpPath {
    fn new(listener: TcpListener, router: std::net::SocketAddr) -> Self {
        let (calls, is_open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let relays = Arc::new(std::sync::Mutex::new(Vec::new()));
        let accepting = {
            let (calls, is_open, relays) =
                (Arc::clone(&calls), Arc::clone(&is_open), Arc::clone(&relays));
            tokio::spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    calls.fetch_add(1, Ordering::Relaxed);
                    let is_open = is_open.load(Ordering::Relaxed);
                    let relay = tokio::spawn(async move {
                        if !is_open {
                            // Lets the handshake of TCP through, and nothing else.
                            std::future::pending::<()>().await;
                        }
                        let Ok(mut far) = TcpStream::connect(router).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    });
                    relays.lock().expect("no panic").push(relay.abort_handle());
                }
            })
        };
        let _accepting = tokio_util::task::AbortOnDropHandle::new(accepting);
        Self { calls, is_open, relays, _accepting }
    }

    /// Cuts every connection off.
    pub(crate) fn cuts(&self) {
        for relay in self.relays.lock().expect("no panic").drain(..) {
            relay.abort();
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}
