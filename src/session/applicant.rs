//! The router's side of the handshake: who knocks, what they can prove, and the answer.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::frames::FrameReader;
use super::handshake::{HANDSHAKE_LIMIT, HandshakeError, begin, kind, signed_message};
use super::{Event, Past, Session, Settings, Terms, control};
use crate::identity::{
    TicketId, TokenId, random_bytes, ticket_proof_message, verify, verify_token_proof,
};
use crate::task::Tasks;
use crate::transport::{Connection, SendStream};
use crate::tunnel::Identity;
use crate::wire::{
    Accepted, Authenticate, Code, Control, Hello, Limits, Permissions, VERSION, check_version,
    control as message, decode,
};

/// The router's side: reads who knocks and checks every proof that needs no database. A peer that breaks the rules
/// is closed with the generic refusal. Consumes the connection. Bounded by [`Settings::message_timeout`]. [SES-14]
/// [SES-19]
pub async fn accept(
    connection: Connection,
    settings: &Settings,
) -> Result<Applicant, HandshakeError> {
    let limit = settings.message_timeout;
    let read = async {
        let (send, receive) =
            connection.accept().await.map_err(|_| HandshakeError::from_end(&connection))?;
        let mut frames = FrameReader::new(receive, HANDSHAKE_LIMIT);
        let lost = |error| HandshakeError::from_read(error, &connection);
        let wrong = |found: &Control, due| {
            HandshakeError::Protocol(format!("{} instead of {due}", kind(found.message.as_ref())))
        };
        let said = frames.next_bytes().await.map_err(lost)?;
        let first: Control = decode(said.clone()).map_err(|error| lost(error.into()))?;
        let Control { message: Some(message::Message::Hello(hello)) } = first else {
            return Err(wrong(&first, "Hello"));
        };
        check_version(hello.version, &hello.requires)?;
        let second = frames.next::<Control>().await.map_err(lost)?;
        let Control { message: Some(message::Message::Authenticate(proof)) } = second else {
            return Err(wrong(&second, "Authenticate"));
        };
        let exporter = connection.exporter();
        let signed = signed_message(&exporter, &said);
        verify(&connection.peer(), &signed, &proof.signature)
            .map_err(|_| HandshakeError::Protocol("the signature does not fit".to_owned()))?;
        let instance = Uuid::from_slice(&hello.instance)
            .map_err(|_| HandshakeError::Protocol("the instance is no UUID".to_owned()))?;
        Ok((send, frames, hello, proof, instance))
    };
    let read = tokio::time::timeout(limit, read);
    // Who is not admitted yet must not fill a buffer with datagrams.
    let read = tokio::select! {
        read = read => read.unwrap_or(Err(HandshakeError::TimedOut(limit))),
        never = discard_datagrams(&connection) => match never {},
    };
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

/// Takes datagrams and forgets them.
async fn discard_datagrams(connection: &Connection) -> Infallible {
    loop {
        if connection.datagram().await.is_err() {
            std::future::pending::<()>().await;
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
    /// The rules for where it may have the router listen.
    pub binds: Vec<String>,
    /// Whether it was unknown until now, and has used its ticket.
    pub enrolled: bool,
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

    /// Lets it in: with a new session, or with `past`, which is the same client's. [SES-13] [RSM-4]
    pub async fn admit(
        mut self,
        admission: Admission,
        past: Option<&Past>,
        tasks: &Tasks,
    ) -> Result<(Session, mpsc::Receiver<Event>), HandshakeError> {
        let session_id: [u8; 16] = random_bytes()?;
        let [targets, binds] = fitting([&admission.targets, &admission.binds]);
        let accepted = Accepted {
            version: self.hello.version.min(VERSION),
            requires: Vec::new(),
            session_id: session_id.to_vec().into(),
            name: admission.name.clone(),
            permissions: Some(Permissions { owner: admission.owner, targets, binds }),
            limits: Some(Limits {
                streams: self.settings.max_streams,
                undelivered: self.settings.window_max,
            }),
            conduit_version: env!("CARGO_PKG_VERSION").to_owned(),
            time_ms: milliseconds(SystemTime::now()),
            enrolled: admission.enrolled,
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
            router_time: SystemTime::now(),
            name: admission.name,
            peer_version: self.hello.conduit_version,
            owner: admission.owner,
            targets: admission.targets,
            binds: admission.binds,
            enrolled: admission.enrolled,
        };
        let (session, events) =
            begin((self.connection, self.send, self.frames), terms, &self.settings, past, tasks)?;
        session.0.connection.allow_streams(session.0.credit.first());
        Ok((session, events))
    }

    /// The one answer for unknown, revoked and malformed. [SES-14]
    pub fn refuse(self) {
        self.connection.close(Code::Refused.number(), REFUSAL);
    }

    /// No room at the moment, and why. [SES-14]
    pub fn refuse_for_now(self, reason: &str) {
        self.connection.close(Code::Limit.number(), reason);
    }

    /// The router has trouble of its own, and has decided nothing. [SES-14]
    pub fn refuse_undecided(self) {
        self.connection.close(Code::Internal.number(), UNDECIDED);
    }

    /// An answer with a reason: only for who has proved to hold the ticket. [TKT-6]
    pub fn refuse_ticket(self, reason: &str) {
        self.connection.close(Code::TicketSpent.number(), reason);
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// As many rules of all lists as a message before `Accepted` has room for, and how many there are besides: they are for
/// people, the router decides each time. [SES-2] [SES-13]
fn fitting<const N: usize>(lists: [&[String]; N]) -> [Vec<String>; N] {
    let mut left = RULES_MOST;
    lists.map(|rules| {
        let fits = |rule: &&String| {
            // Field number and length make at most three bytes.
            left = left.saturating_sub(rule.len() + 3);
            left > 0
        };
        let mut listed: Vec<String> = rules.iter().take_while(fits).cloned().collect();
        if listed.len() < rules.len() {
            listed.push(format!("and {} more", rules.len() - listed.len()));
        }
        listed
    })
}

/// Leaves a kilobyte of [`HANDSHAKE_LIMIT`] for everything else.
const RULES_MOST: usize = 3 << 10;
/// What every refused client reads, whatever the cause. [SES-14]
pub const REFUSAL: &str = "the router does not admit this key";
/// What somebody reads whose key was revoked and who has proved to hold a ticket. [TKT-6]
pub const REVOKED: &str =
    "this key was revoked here; ask the router's operator for `conduit router authorize`";
/// What everybody reads while the router cannot look anybody up.
const UNDECIDED: &str = "the router cannot decide right now who may enter; its log says why";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_rules_fits_into_the_answer() {
        let few = vec!["10.2.0.0/16:80,443".to_owned(); 3];
        assert_eq!(fitting([&few, &few[..1]]), [few.clone(), few[..1].to_vec()]);
        let many = |rule: &str| vec![rule.to_owned(); 5_000];
        let long = "x".repeat(250);
        for (targets, binds) in [
            (many("a:1"), Vec::new()),
            (many(&long), Vec::new()),
            (Vec::new(), many("*:1")),
            (many(&long), many("*:1")),
            (many("a:1"), many(&long)),
            (vec![long.clone(); 6], vec![long; 6]),
        ] {
            let [targets, binds] = fitting([&targets, &binds]);
            let permissions = Permissions { owner: false, targets, binds };
            let accepted = Accepted {
                name: "n".repeat(64),
                conduit_version: "0.1.0".to_owned(),
                permissions: Some(permissions),
                ..Accepted::default()
            };
            let length = control::framed(message::Message::Accepted(accepted)).len();
            assert!((2_500..HANDSHAKE_LIMIT - 200).contains(&length), "{length}");
        }
    }
}
