//! Keeps one session alive: connects, notices its end, comes back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::connect::{Established, TRIES, establish, jitter, pause};
use super::{Settings, Shared, StartError};
use crate::session::{Event, Introduction, Session};
use crate::task::Tasks;
use crate::transport::ClientEndpoint;
use crate::tunnel::TunnelState;
use crate::wire::{Code, Declare, Direction, Protocol, VERSION};

/// The session of the moment. Whoever needs one waits for it here.
#[derive(Debug)]
pub(super) struct Link {
    session: watch::Sender<Option<Session>>,
    endpoint: Mutex<Option<Arc<ClientEndpoint>>>,
    last_error: Mutex<Option<String>>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            session: watch::channel(None).0,
            endpoint: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    /// The session, if there is one right now.
    pub(super) fn current(&self) -> Option<Session> {
        self.session.borrow().clone()
    }

    /// The session; waits for one at most `limit`. Cancel-safe.
    pub(super) async fn session(&self, limit: Duration) -> Option<Session> {
        if let Some(session) = self.current() {
            return Some(session);
        }
        let mut sessions = self.session.subscribe();
        let found = tokio::time::timeout(limit, sessions.wait_for(Option::is_some)).await;
        found.ok()?.ok()?.clone()
    }

    /// From here on whoever needs a session gets this one.
    pub(super) fn publish(&self, established: &Established) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::clone(&established.endpoint));
        self.session.send_replace(Some(established.session.clone()));
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, error: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Says good-bye.
    pub(super) async fn close(&self) {
        if let Some(session) = self.current() {
            session.close(Code::Done, "the tunnel was stopped");
        }
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            endpoint.close().await;
        }
    }
}

/// The number of the one tunnel of this process. [SES-30]
pub(super) const TUNNEL: u32 = 1;

/// A session on which the tunnel is declared.
pub(super) async fn first_session(
    settings: &Settings,
    tasks: &Tasks,
) -> Result<Established, StartError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match declared_session(settings, tasks, tries).await {
            Err(error) if error.may_pass() && tries < TRIES => {
                tracing::debug!(tries, %error, "the router does not answer yet");
                pause(tries).await;
            }
            outcome => return outcome,
        }
    }
}

async fn declared_session(
    settings: &Settings,
    tasks: &Tasks,
    tries: u32,
) -> Result<Established, StartError> {
    let introduction = Introduction {
        instance: settings.instance,
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
    if let Err(error) = declare(settings, &mut established).await {
        established.session.close(Code::Done, "the tunnel was not declared");
        // The good-bye has to leave before the process does, or the router keeps the session until it times out.
        established.endpoint.close().await;
        return Err(error);
    }
    Ok(established)
}

/// Declares the tunnel and waits for the answer. [SES-30] [SES-31]
async fn declare(settings: &Settings, established: &mut Established) -> Result<(), StartError> {
    let tunnel = &settings.tunnel;
    let declare = Declare {
        version: VERSION,
        requires: Vec::new(),
        tunnel: TUNNEL,
        name: tunnel.name.to_string(),
        direction: Direction::Forward.into(),
        protocol: Protocol::Tcp.into(),
        bind: tunnel.bind.to_string(),
        sources: vec![tunnel.source.to_string()],
        ..Declare::default()
    };
    let session = &established.session;
    let addr = session.connection().remote_addr();
    let failed = |reason: String| StartError::Handshake { addr, reason };
    session.say(Event::Declare(declare)).await.map_err(|error| failed(error.to_string()))?;
    let answer = async {
        while let Some(event) = established.events.recv().await {
            if let Event::Declared(declared) = event
                && declared.tunnel == TUNNEL
            {
                return Ok(declared);
            }
        }
        Err(failed(established.session.closed().await.reason))
    };
    let limit = settings.session.message_timeout;
    let declared = tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        Err(failed(format!("no answer to the tunnel's declaration within {limit:?}")))
    })?;
    if declared.code == 0 {
        return Ok(());
    }
    match Code::from_number(declared.code.into()) {
        Code::Denied => Err(StartError::Denied {
            source_addr: tunnel.source.to_string(),
            reason: declared.message,
        }),
        _ => Err(StartError::Unsupported { reason: declared.message }),
    }
}

/// Serves `first` until it ends, then comes back with a new session, until the tunnel is to end.
pub(super) async fn keep(shared: Arc<Shared>, tasks: Tasks, first: Established) {
    let mut established = first;
    loop {
        shared.link.publish(&established);
        let Established { session, events, addr, .. } = established;
        let version = session.terms().peer_version.clone();
        tracing::info!(router = %addr, version, carrier = super::CARRIER, "session up");
        shared.set_state(TunnelState::Ready);
        let reason = until_end(&session, events).await;
        shared.link.session.send_replace(None);
        if shared.accepting.is_cancelled() {
            return;
        }
        shared.set_state(TunnelState::Reconnecting);
        shared.link.note(Some(reason.clone()));
        tracing::warn!(router = %addr, reason, "session lost, reconnecting");
        let back = shared.connections.run_until_cancelled(come_back(&shared, &tasks));
        let Some(session) = back.await else { return };
        established = session;
        shared.link.note(None);
    }
}

/// Waits for the session's end; what the router says meanwhile goes to the log. [SES-33]
async fn until_end(session: &Session, mut events: mpsc::Receiver<Event>) -> String {
    loop {
        tokio::select! {
            ended = session.closed() => return ended.reason,
            event = events.recv() => match event {
                Some(Event::GoAway(leave)) => {
                    tracing::info!(reason = leave.message, "the router is about to leave");
                    if leave.reconnect_now {
                        return leave.message;
                    }
                }
                Some(event) => tracing::debug!(?event, "unexpected message of the router"),
                None => return session.closed().await.reason,
            },
        }
    }
}

/// Tries until a session is up. Refusals are not network trouble: they are asked about once a minute.
async fn come_back(shared: &Shared, tasks: &Tasks) -> Established {
    let mut wait = Duration::ZERO;
    loop {
        tokio::time::sleep(jitter(wait)).await;
        match declared_session(&shared.settings, tasks, 1).await {
            Ok(established) => return established,
            Err(error) => {
                let reason = error.to_string();
                if shared.link.last_error().as_deref() != Some(&reason) {
                    tracing::warn!(reason, "the router cannot be had");
                    shared.link.note(Some(reason));
                }
                wait = if error.may_pass() {
                    (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
                } else {
                    REFUSED_WAIT
                };
            }
        }
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Who was refused asks again rarely: the router's log is not ours to fill.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
