//! From a router's addresses to a session with it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::reason_of;
use super::{Access, Networks, StartError};
use crate::identity::Keypair;
use crate::session::{Event, Introduction, Past, Session, initiate};
use crate::task::Tasks;
use crate::transport::{self, ClientEndpoint, ConnectError, Connection};
use crate::tunnel::{CarrierChoice, Host, HostPort, Identity};

/// Where a router is, and whose key it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterAddress {
    /// Ways to it, tried 250 ms apart; names are resolved again at every attempt.
    pub addresses: Vec<HostPort>,
    /// Its key.
    pub identity: Identity,
}

/// A session, and what it stands on.
pub(super) struct Established {
    pub(super) session: Session,
    pub(super) events: mpsc::Receiver<Event>,
    /// What came before anybody was there to do it.
    pub(super) early: Vec<Event>,
    pub(super) endpoint: Arc<ClientEndpoint>,
    pub(super) addr: HostPort,
}

/// One of several attempts at a session.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) tasks: &'a Tasks,
    /// How many there were, with this one.
    pub(super) tries: u32,
    /// The session that is to go on.
    pub(super) past: Option<&'a Past>,
    /// Whether TLS does not wait for QUIC.
    pub(super) tls_at_once: bool,
}

impl<'a> Attempt<'a> {
    /// Number `tries` in a row at a session that carries on none.
    pub(super) fn first(tasks: &'a Tasks, tries: u32) -> Self {
        Self { tasks, tries, past: None, tls_at_once: false }
    }
}

/// One attempt at a session, number `tries` in a row. Every way to the router is tried, 250 ms apart; the first that
/// answers is taken.
pub(super) async fn establish(
    access: &Access,
    introduction: &Introduction,
    attempt: Attempt<'_>,
) -> Result<Established, StartError> {
    let Attempt { tasks, tries, past, tls_at_once } = attempt;
    let Access { keypair, router, transport, session: settings, .. } = access;
    let mut transport = transport::Settings { tls_at_once, ..transport.clone() };
    let networks = access.networks();
    let may_proxy = transport.proxy.is_some() && transport.carrier != CarrierChoice::Quic;
    let ways = match resolve(router).await {
        // The proxy may know what this machine does not.
        Err(StartError::Resolve { router, .. }) if may_proxy => {
            transport.proxied_name = Some(router.clone());
            vec![(router.clone(), SocketAddr::new(NOWHERE, router.port))]
        }
        ways => ways?,
    };
    let (connection, endpoint, addr) =
        first_to_answer(ways, router.identity, keypair, &transport, networks, tries).await?;
    let remote = connection.remote_addr();
    let (session, events) = initiate(connection, keypair, introduction, settings, past, tasks)
        .await
        .map_err(|error| StartError::from_handshake(error, remote))?;
    if let Some(networks) = networks {
        networks.note(router.identity, remote, endpoint.carrier());
    }
    let (early, endpoint) = (Vec::new(), Arc::new(endpoint));
    Ok(Established { session, events, early, endpoint, addr })
}

/// Attempts until one gets through, three in all: a router may only be slow to answer. What no patience mends is an
/// error at once.
pub(super) async fn retried<T, Attempt>(
    mut attempt: impl FnMut(u32) -> Attempt,
) -> Result<T, StartError>
where
    Attempt: Future<Output = Result<T, StartError>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt(tries).await {
            Err(error) if error.may_pass() && tries < TRIES => {
                tracing::debug!(tries, %error, "the router does not answer yet");
                pause(tries).await;
            }
            outcome => return outcome,
        }
    }
}

async fn resolve(router: &RouterAddress) -> Result<Vec<(HostPort, SocketAddr)>, StartError> {
    let mut ways = Vec::new();
    let mut failure = None;
    for address in &router.addresses {
        match &address.host {
            Host::Addr(ip) => ways.push((address.clone(), SocketAddr::new(*ip, address.port))),
            Host::Name(name) => {
                let looked_up = tokio::net::lookup_host((name.as_str(), address.port));
                match tokio::time::timeout(RESOLVE_LIMIT, looked_up).await {
                    Ok(Ok(found)) => {
                        ways.extend(found.take(WAYS_PER_NAME).map(|addr| (address.clone(), addr)))
                    }
                    Ok(Err(error)) => failure = Some((address.clone(), error.to_string())),
                    Err(_) => {
                        failure =
                            Some((address.clone(), "the name server does not answer".to_owned()))
                    }
                }
            }
        }
    }
    match failure {
        Some((router, reason)) if ways.is_empty() => Err(StartError::Resolve { router, reason }),
        _ => Ok(ways),
    }
}

async fn first_to_answer(
    ways: Vec<(HostPort, SocketAddr)>,
    pin: Identity,
    keypair: &Arc<Keypair>,
    transport: &transport::Settings,
    networks: Option<&Networks>,
    tries: u32,
) -> Result<(Connection, ClientEndpoint, HostPort), StartError> {
    let mut attempts = JoinSet::new();
    for (index, (address, addr)) in ways.into_iter().enumerate() {
        let (keypair, mut transport) = (Arc::clone(keypair), transport.clone());
        transport.tls_at_once |= networks.is_some_and(|networks| networks.needs_tls(pin, addr));
        attempts.spawn(async move {
            tokio::time::sleep(HEAD_START * u32::try_from(index).unwrap_or(u32::MAX)).await;
            let reached = ClientEndpoint::reach(transport, addr, &keypair, pin).await;
            let (endpoint, connection) = reached?;
            Ok::<_, ConnectError>((connection, endpoint, address))
        });
    }
    let mut failures = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(established)) => return Ok(established),
            Ok(Err(error)) => failures.push(error),
            Err(panic) => return Err(StartError::System { reason: panic.to_string() }),
        }
    }
    // A router that shows a wrong key is worse news than one that does not answer.
    let worst = failures.iter().position(|error| matches!(error, ConnectError::WrongKey { .. }));
    match worst {
        Some(index) => Err(StartError::from_connect(failures.swap_remove(index), tries)),
        None if failures.len() == 1 => Err(StartError::from_connect(failures.remove(0), tries)),
        None => {
            let reasons: Vec<_> = failures.iter().map(|error| reason_of(error, tries)).collect();
            Err(StartError::Unreachable { reason: reasons.join("; ") })
        }
    }
}

/// Waits before try number `tries + 1`: 100 ms, doubled each time, with full jitter above the half.
async fn pause(tries: u32) {
    let base = FIRST_PAUSE * 2u32.saturating_pow(tries.saturating_sub(1));
    tokio::time::sleep(base / 2 + jitter(base / 2)).await;
}

/// A random part of `most`.
pub(super) fn jitter(most: Duration) -> Duration {
    let random = crate::identity::random_bytes::<4>().map_or(u32::MAX / 2, u32::from_ne_bytes);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Tries of a first connection.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// RFC 8305, 5.
const HEAD_START: Duration = Duration::from_millis(250);
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Stands for a router whose address only a proxy knows, and is sent nothing (RFC 7600, 3).
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));
/// A name with more addresses than this is not a router's.
const WAYS_PER_NAME: usize = 8;
