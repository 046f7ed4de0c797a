//! `Hello → Authenticate → Accepted`: how a connection becomes a session.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::frames::{FrameReader, ReceiveFrameError};
use super::ledger::Ledger;
use super::{Ended, Event, Inner, Session, Settings, StreamCredit, Terms, control};
use crate::identity::{
    Keypair, RandomError, Ticket, TicketId, Token, TokenId, random_bytes, ticket_proof_message,
    token_proof, verify, verify_token_proof,
};
use crate::task::Tasks;
use crate::transport::{Connection, SendStream};
use crate::tunnel::Identity;
use crate::wire::{
    Accepted, Authenticate, Code, Control, Hello, Limits, Permissions, Unsupported, VERSION,
    check_version, control as message,
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
    fn from_read(error: ReceiveFrameError, connection: &Connection) -> Self {
        match error {
            ReceiveFrameError::Frame(error) => Self::Protocol(error.to_string()),
            ReceiveFrameError::Stream(_) | ReceiveFrameError::Ended => Self::from_end(connection),
        }
    }

    fn from_end(connection: &Connection) -> Self {
        match connection.close_reason().map(|reason| Ended::from(&reason)) {
            Some(Ended { code: Some(code), reason }) if code != Code::Done => {
                Self::Refused { code, reason }
            }
            Some(ended) => Self::Lost(ended.reason),
            None => Self::Protocol("the control stream ended".to_owned()),
        }
    }
}

/// The client's side. Consumes the connection. Bounded by [`Settings::message_timeout`]; dropped, the connection
/// closes. The events are what the router says later. [SES-10]
pub async fn initiate(
    connection: Connection,
    keypair: &Keypair,
    introduction: &Introduction,
    settings: &Settings,
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
        name: accepted.name,
        peer_version: accepted.conduit_version,
        owner: permissions.owner,
        targets: permissions.targets,
    };
    let mut settings = settings.clone();
    if let Some(limits) = accepted.limits
        && limits.undelivered > 0
    {
        settings.window_max = settings.window_max.min(limits.undelivered);
    }
    Ok(begin(connection, send, frames, terms, &settings, tasks)?)
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
    let mut authenticate = Authenticate {
        signature: keypair.sign(&signed_message(&exporter, &hello)).to_vec().into(),
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
    flight.extend_from_slice(&control::framed(message::Message::Hello(hello)));
    flight.extend_from_slice(&control::framed(message::Message::Authenticate(authenticate)));
    flight.freeze()
}

/// The router's side: reads who knocks and checks every proof that needs no database. A peer that breaks the rules
/// is closed with the generic refusal. Consumes the connection. Bounded by [`Settings::message_timeout`].
pub async fn accept(
    connection: Connection,
    settings: &Settings,
) -> Result<Applicant, HandshakeError> {
    let limit = settings.message_timeout;
    let read = async {
        let (send, receive) =
            connection.accept().await.map_err(|_| HandshakeError::from_end(&connection))?;
        let mut frames = FrameReader::new(receive, HANDSHAKE_LIMIT);
        let hello = frames
            .next::<Control>()
            .await
            .map_err(|e| HandshakeError::from_read(e, &connection))?;
        let Some(message::Message::Hello(hello)) = hello.message else {
            return Err(HandshakeError::Protocol(format!(
                "{} instead of Hello",
                kind(hello.message.as_ref())
            )));
        };
        check_version(hello.version, &hello.requires)?;
        let proof = frames
            .next::<Control>()
            .await
            .map_err(|e| HandshakeError::from_read(e, &connection))?;
        let Some(message::Message::Authenticate(proof)) = proof.message else {
            return Err(HandshakeError::Protocol(format!(
                "{} instead of Authenticate",
                kind(proof.message.as_ref())
            )));
        };
        let exporter = connection.exporter();
        let signed = signed_message(&exporter, &hello);
        verify(&connection.peer(), &signed, &proof.signature)
            .map_err(|_| HandshakeError::Protocol("the signature does not fit".to_owned()))?;
        let instance = Uuid::from_slice(&hello.instance)
            .map_err(|_| HandshakeError::Protocol("the instance is no UUID".to_owned()))?;
        Ok((send, frames, hello, proof, instance))
    };
    let read =
        tokio::time::timeout(limit, read).await.unwrap_or(Err(HandshakeError::TimedOut(limit)));
    match read {
        Ok((send, frames, hello, proof, instance)) => {
            let settings = settings.clone();
            Ok(Applicant { connection, send, frames, hello, proof, instance, settings })
        }
        Err(error) => {
            let (code, reason) = match &error {
                HandshakeError::Unsupported(unsupported) => {
                    (Code::Unsupported, unsupported.to_string())
                }
                _ => (Code::Refused, REFUSAL.to_owned()),
            };
            connection.close(code.number(), &reason);
            Err(error)
        }
    }
}

/// Somebody whose proofs fit together and about whom the router has yet to decide. Dropped, it is refused.
#[derive(Debug)]
pub struct Applicant {
    connection: Connection,
    send: SendStream,
    frames: FrameReader,
    hello: Hello,
    proof: Authenticate,
    instance: Uuid,
    settings: Settings,
}

/// A claim to hold a token, bound to this connection.
#[derive(Clone, Debug)]
pub struct TokenProof {
    /// Which token.
    pub id: TokenId,
    proof: Bytes,
    exporter: [u8; 32],
}

impl TokenProof {
    /// Whether the claim is true for a token whose hash is `mac_key`. Takes the same time either way.
    pub fn fits(&self, mac_key: &[u8; 32]) -> bool {
        verify_token_proof(mac_key, &self.exporter, &self.proof)
    }
}

/// A claim to hold a ticket, bound to this connection and both keys.
#[derive(Clone, Debug)]
pub struct TicketProof {
    /// Which ticket.
    pub id: TicketId,
    proof: Bytes,
    message: Vec<u8>,
}

impl TicketProof {
    /// Whether the claim is true for a ticket whose one-time public key is `key`.
    pub fn fits(&self, key: &Identity) -> bool {
        verify(key, &self.message, &self.proof).is_ok()
    }
}

/// What an admitted client gets.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The name under which the router knows it.
    pub name: String,
    /// Whether it may reach any target.
    pub owner: bool,
    /// The rules, when it is no owner.
    pub targets: Vec<String>,
}

impl Applicant {
    /// Whose key it is; TLS and the signature have proved it.
    pub fn identity(&self) -> Identity {
        self.connection.peer()
    }

    /// The process that speaks.
    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// What it says of itself: words for people, nothing proved.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Where it is.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The token that it claims to hold.
    pub fn token(&self) -> Option<TokenProof> {
        let id = TokenId(self.proof.token_id.as_ref().try_into().ok()?);
        Some(TokenProof {
            id,
            proof: self.proof.token_proof.clone(),
            exporter: self.connection.exporter(),
        })
    }

    /// The ticket that it claims to hold, for a router whose identity is `router`.
    pub fn ticket(&self, router: &Identity) -> Option<TicketProof> {
        let id = TicketId(self.proof.ticket_id.as_ref().try_into().ok()?);
        let message = ticket_proof_message(&self.connection.exporter(), router, &self.identity());
        Some(TicketProof { id, proof: self.proof.ticket_proof.clone(), message })
    }

    /// Lets it in. [SES-13]
    pub async fn admit(
        mut self,
        admission: Admission,
        tasks: &Tasks,
    ) -> Result<(Session, mpsc::Receiver<Event>), HandshakeError> {
        let session_id: [u8; 16] = random_bytes()?;
        let accepted = Accepted {
            version: self.hello.version.min(VERSION),
            requires: Vec::new(),
            session_id: session_id.to_vec().into(),
            name: admission.name.clone(),
            permissions: Some(Permissions {
                owner: admission.owner,
                targets: admission.targets.clone(),
            }),
            limits: Some(Limits {
                streams: self.settings.max_streams,
                undelivered: self.settings.window_max,
            }),
            conduit_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let answer = control::framed(message::Message::Accepted(accepted));
        let sent =
            tokio::time::timeout(self.settings.message_timeout, self.send.write_chunk(answer))
                .await;
        if !matches!(sent, Ok(Ok(()))) {
            return Err(HandshakeError::from_end(&self.connection));
        }
        self.connection.admit();
        let terms = Terms {
            session_id,
            name: admission.name,
            peer_version: self.hello.conduit_version,
            owner: admission.owner,
            targets: admission.targets,
        };
        let (session, events) =
            begin(self.connection, self.send, self.frames, terms, &self.settings, tasks)?;
        session.0.connection.allow_streams(session.0.credit.first());
        Ok((session, events))
    }

    /// The one answer for unknown, revoked and malformed. [SES-14]
    pub fn refuse(self) {
        self.connection.close(Code::Refused.number(), REFUSAL);
    }

    /// An answer with a reason: only for who has proved to hold the ticket. [TKT-6]
    pub fn refuse_ticket(self, reason: &str) {
        self.connection.close(Code::TicketSpent.number(), reason);
    }
}

fn begin(
    connection: Connection,
    send: SendStream,
    frames: FrameReader,
    terms: Terms,
    settings: &Settings,
    tasks: &Tasks,
) -> Result<(Session, mpsc::Receiver<Event>), RandomError> {
    let ledger = Ledger::new(connection.clone(), settings);
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let (events, received) = mpsc::channel(OUTBOX);
    tasks.spawn(
        "control writer",
        control::write(send, messages, Arc::clone(&ledger), connection.clone()),
    );
    tasks.spawn(
        "control reader",
        control::read(frames, events, Arc::clone(&ledger), connection.clone()),
    );
    let session = Session(Arc::new(Inner {
        connection,
        ledger,
        outbox,
        terms,
        next_token: AtomicU64::new(u64::from_ne_bytes(random_bytes()?)),
        credit: StreamCredit::new(settings.max_streams),
    }));
    Ok((session, received))
}

/// What the client's key signs: this connection and this Hello, so that neither can be used again. [SES-16]
fn signed_message(exporter: &[u8; 32], hello: &Hello) -> Vec<u8> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &hello.encode_to_vec());
    [SIGNATURE_LABEL, exporter, digest.as_ref()].concat()
}

fn kind(message: Option<&message::Message>) -> &'static str {
    match message {
        Some(message::Message::Hello(_)) => "Hello",
        Some(message::Message::Authenticate(_)) => "Authenticate",
        Some(message::Message::Accepted(_)) => "Accepted",
        Some(_) => "a message of the session",
        None => "an unknown message",
    }
}

/// What every refused client reads, whatever the cause. [SES-14]
pub const REFUSAL: &str = "the router does not admit this key";
/// Domain separation of the client's signature.
const SIGNATURE_LABEL: &[u8] = b"conduit-authenticate-1";
/// A message before `Accepted`. [SES-2]
const HANDSHAKE_LIMIT: usize = 4 << 10;
/// Messages that wait for the control stream; they are rare, and who says one waits.
const OUTBOX: usize = 64;
