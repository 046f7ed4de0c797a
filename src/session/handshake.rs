//! `Hello → Authenticate → Accepted`: how a connection becomes a session.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::frames::{FrameReader, ReceiveFrameError};
use super::ledger::Ledger;
use super::urgency::Urgency;
use super::{
    Ended, Event, Inner, Past, Session, Settings, StreamCredit, Terms, control, datagrams,
};
use crate::identity::{
    Keypair, RandomError, Ticket, Token, random_bytes, ticket_proof_message, token_proof,
};
use crate::task::Tasks;
use crate::transport::{Connection, SendStream};
use crate::wire::{
    Authenticate, Code, Control, Hello, Unsupported, VERSION, check_version, control as message,
    encode,
};

/// Who a client says it is, and what else it shows.
#[derive(Debug)]
pub struct Introduction {
    /// One UUID per process start.
    pub instance: Uuid,
    /// What the client would like to be called.
    pub name: String,
    /// Replicas that serve side by side declare one group.
    pub group: Option<String>,
    /// Authorises besides the key.
    pub token: Option<Token>,
    /// Enrols the key.
    pub ticket: Option<Ticket>,
}

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer ended the connection before it admitted us. [SES-15]
    #[error("{reason}")]
    Refused {
        /// The peer's code.
        code: Code,
        /// The peer's words.
        reason: String,
    },
    /// The peer speaks another version.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The peer's answer did not come in time.
    #[error("the other end did not finish the handshake within {0:?}")]
    TimedOut(Duration),
    /// The peer sent what the protocol does not allow.
    #[error("the other end broke the protocol: {0}")]
    Protocol(String),
    /// The connection was lost.
    #[error("the connection was lost during the handshake: {0}")]
    Lost(String),
    /// The system has no random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl HandshakeError {
    pub(super) fn from_read(error: ReceiveFrameError, connection: &Connection) -> Self {
        match error {
            ReceiveFrameError::Frame(error) => Self::Protocol(error.to_string()),
            ReceiveFrameError::Stream(_) | ReceiveFrameError::Ended => Self::from_end(connection),
        }
    }

    pub(super) fn from_end(connection: &Connection) -> Self {
        match connection.close_reason().map(|reason| Ended::from(&reason)) {
            Some(Ended { code: Some(code), reason }) if code != Code::Done => {
                Self::Refused { code, reason }
            }
            Some(ended) => Self::Lost(ended.reason),
            None => Self::Protocol("the control stream ended".to_owned()),
        }
    }
}

/// The client's side. Consumes the connection, which carries on `past` where that is possible. Bounded by
/// [`Settings::message_timeout`]; dropped, the connection closes. The events are what the router says later. [SES-10]
/// [SES-19] [RSM-4]
pub async fn initiate(
    connection: Connection,
    keypair: &Keypair,
    introduction: &Introduction,
    settings: &Settings,
    past: Option<&Past>,
    tasks: &Tasks,
) -> Result<(Session, mpsc::Receiver<Event>), HandshakeError> {
    let limit = settings.message_timeout.max(connection.rtt() * 4);
    let shake = async {
        let (mut send, receive) =
            connection.open().await.map_err(|_| HandshakeError::from_end(&connection))?;
        let flight = first_flight(&connection, keypair, introduction);
        send.write_chunk(flight).await.map_err(|_| HandshakeError::from_end(&connection))?;
        let mut frames = FrameReader::new(receive, HANDSHAKE_LIMIT);
        let answer = frames.next::<Control>().await;
        let answer = answer.map_err(|error| HandshakeError::from_read(error, &connection))?;
        match answer.message {
            Some(message::Message::Accepted(accepted)) => Ok((accepted, send, frames)),
            other => Err(HandshakeError::Protocol(format!(
                "{} instead of Accepted",
                kind(other.as_ref())
            ))),
        }
    };
    let shaken =
        tokio::time::timeout(limit, shake).await.unwrap_or(Err(HandshakeError::TimedOut(limit)));
    let (accepted, send, frames) = shaken
        .inspect_err(|error| connection.close(Code::Protocol.number(), &error.to_string()))?;
    check_version(accepted.version, &accepted.requires)
        .inspect_err(|error| connection.close(Code::Unsupported.number(), &error.to_string()))?;
    let permissions = accepted.permissions.unwrap_or_default();
    let terms = Terms {
        session_id: accepted.session_id.as_ref().try_into().unwrap_or_default(),
        router_time: UNIX_EPOCH
            .checked_add(Duration::from_millis(accepted.time_ms))
            .unwrap_or(UNIX_EPOCH),
        enrolled: accepted.enrolled,
        name: accepted.name,
        peer_version: accepted.conduit_version,
        owner: permissions.owner,
        targets: permissions.targets,
        binds: permissions.binds,
    };
    let mut settings = settings.clone();
    if let Some(limits) = accepted.limits
        && limits.undelivered > 0
    {
        settings.window_max = settings.window_max.min(limits.undelivered);
    }
    Ok(begin((connection, send, frames), terms, &settings, past, tasks)?)
}

/// Hello and Authenticate, which leave together. [SES-10]
fn first_flight(connection: &Connection, keypair: &Keypair, introduction: &Introduction) -> Bytes {
    let exporter = connection.exporter();
    let hello = Hello {
        version: VERSION,
        requires: Vec::new(),
        instance: Bytes::copy_from_slice(introduction.instance.as_bytes()),
        name: introduction.name.clone(),
        group: introduction.group.clone().unwrap_or_default(),
        conduit_version: env!("CARGO_PKG_VERSION").to_owned(),
        system: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
    };
    let hello = Control { message: Some(message::Message::Hello(hello)) };
    let mut authenticate = Authenticate {
        signature: keypair.sign(&signed_message(&exporter, &hello.encode_to_vec())).to_vec().into(),
        ..Authenticate::default()
    };
    if let Some(token) = &introduction.token {
        authenticate.token_id = token.id().0.to_vec().into();
        authenticate.token_proof = token_proof(&token.mac_key(), &exporter).to_vec().into();
    }
    if let Some(ticket) = &introduction.ticket {
        let proven = ticket_proof_message(&exporter, &connection.peer(), &keypair.identity());
        authenticate.ticket_id = ticket.id.0.to_vec().into();
        authenticate.ticket_proof = ticket.secret.one_time_key().sign(&proven).to_vec().into();
    }
    let mut flight = BytesMut::new();
    encode(&hello, &mut flight);
    flight.extend_from_slice(&control::framed(message::Message::Authenticate(authenticate)));
    flight.freeze()
}

/// Starts the tasks of a session whose handshake is done: a new one, or what `past` goes on as. [RSM-4]
pub(super) fn begin(
    (connection, send, frames): (Connection, SendStream, FrameReader),
    terms: Terms,
    settings: &Settings,
    past: Option<&Past>,
    tasks: &Tasks,
) -> Result<(Session, mpsc::Receiver<Event>), RandomError> {
    // It has just been written to, so it is there.
    let _ = send.set_priority(Urgency::Control as i32);
    let carried_on = past.and_then(|past| {
        let ledger = Arc::clone(&past.0);
        ledger.carry_on(&connection).map(|generation| (ledger, generation))
    });
    let (ledger, generation) =
        carried_on.unwrap_or_else(|| (Ledger::new(connection.clone(), settings), 0));
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let (events, received) = mpsc::channel(INBOX);
    tasks.spawn(
        "control writer",
        control::write(send, messages, Arc::clone(&ledger), connection.clone()),
    );
    tasks.spawn(
        "control reader",
        control::read(
            frames,
            events,
            Arc::clone(&ledger),
            (connection.clone(), generation),
            tasks.token().clone(),
        ),
    );
    let session = Session(Arc::new(Inner {
        connection,
        generation,
        ledger,
        outbox,
        terms,
        next_token: AtomicU64::new(u64::from_ne_bytes(random_bytes()?)),
        credit: StreamCredit::new(settings.max_streams),
        datagrams: datagrams::Limits::default(),
    }));
    for report in session.last_reports() {
        // There is room for a few: nobody has said anything yet.
        let report = Control { message: Some(message::Message::Delivered(report)) };
        let _ = session.0.outbox.try_send(report);
    }
    Ok((session, received))
}

/// What the client's key signs: this connection and the bytes of this Hello, so that neither can be used again.
/// [SES-16]
pub(super) fn signed_message(exporter: &[u8; 32], hello: &[u8]) -> Vec<u8> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, hello);
    [SIGNATURE_LABEL, exporter, digest.as_ref()].concat()
}

/// A message by its name.
pub(super) fn kind(message: Option<&message::Message>) -> &'static str {
    match message {
        Some(message::Message::Hello(_)) => "Hello",
        Some(message::Message::Authenticate(_)) => "Authenticate",
        Some(message::Message::Accepted(_)) => "Accepted",
        Some(_) => "a message of the session",
        None => "an unknown message",
    }
}

/// Domain separation of the client's signature.
const SIGNATURE_LABEL: &[u8] = b"conduit-authenticate-1";
/// A message before `Accepted`. [SES-2]
pub(super) const HANDSHAKE_LIMIT: usize = 4 << 10;
/// Messages that wait for the control stream; they are rare, and who says one waits.
const OUTBOX: usize = 64;
/// Messages of the peer that wait to be heard. Few: 64 KiB of empty strings become 800 KB of memory.
const INBOX: usize = 8;
