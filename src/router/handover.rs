//! `conduit router upgrade`: one process leaves to the next what it has, and clients and visitors notice a pause.
//! Implements `proto-spec/upgrade.md`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::leavings::Leaving;
use super::sessions::Returning;
use super::visitor::Guest;
use super::{Running, Shared, publish};
use crate::ends::{self, Stream, adopt};
use crate::relay::{Bequest, EndedBy, Faces, Transferred, pipe_after};
use crate::session::{Event, Past, TakenUp};
use crate::task::Tasks;
use crate::transport::Sockets;
use crate::tunnel::{Identity, Protocol};
use crate::wire::handover::{Claim, End, Handover};
use crate::wire::{Code, GoAway, handover};

/// What one process has left cannot be written, read or used.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The system does not do its part.
    #[error("cannot hand over {what}: {source}")]
    System {
        /// What was to be handed over.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It is none of ours, or damaged.
    #[error("what the router before has left cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Another version's.
    #[error(
        "what the router before (conduit {from}) has left is of format {version}, this program reads {FORMAT}"
    )]
    Version {
        /// The format.
        version: u32,
        /// Who wrote it.
        from: String,
    },
}

impl HandoverError {
    fn of(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// What the process before has left.
#[derive(Debug)]
pub struct Heritage(Handover);

impl Heritage {
    /// The format that this program reads and writes.
    pub const FORMAT: u32 = FORMAT;

    /// Reads the file of descriptor number `number`.
    pub fn read(number: u32) -> Result<Self, HandoverError> {
        let read = || {
            let mut file = File::from(adopt(number)?);
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(HandoverError::of("what it has"))?;
        let left = Handover::decode(Bytes::from(bytes))?;
        if left.version != FORMAT {
            return Err(HandoverError::Version { version: left.version, from: left.from });
        }
        Ok(Self(left))
    }

    /// The version that wrote it.
    pub fn from(&self) -> &str {
        &self.0.from
    }

    /// Connections that go on.
    pub fn connections(&self) -> usize {
        let streams = self.0.pasts.iter().flat_map(|past| &past.streams);
        streams.filter(|stream| stream.end.is_some()).count()
    }

    /// The name in the registry.
    pub fn claim(&self) -> Claim {
        self.0.claim.clone().unwrap_or_default()
    }

    /// Upgrades that the router has gone through.
    pub(super) fn upgrades(&self) -> u64 {
        self.0.upgrades
    }

    pub(super) fn sockets(&mut self) -> Result<Sockets, HandoverError> {
        let failed = HandoverError::of("the sockets for clients");
        let adopted = || {
            let udp = Some(adopt(self.0.udp)?.into());
            let tcp = self.0.tcp.map(adopt).transpose()?.map(Into::into);
            Ok(Sockets { udp, tcp })
        };
        adopted().map_err(failed)
    }
}

impl Running {
    /// Stops, so that another program of this very process can go on: the number of the file that says with what. Clients
    /// are told to come back; nothing is served from here on. [UPG-3]
    pub async fn leave(&self, claim: Claim) -> Result<u32, HandoverError> {
        let shared = &self.shared;
        // Before their tasks end, which close them.
        let ports = shared.published.leave().map_err(HandoverError::of("the published ports"))?;
        shared.accepting.cancel();
        // Who was accepted a moment ago gets as far as to a stream.
        tokio::time::sleep(SETTLE).await;
        shared.leaving.cancel();
        // A flow that is being opened is open, and nobody opens others: what comes waits in the sockets.
        tokio::time::sleep(SETTLE).await;
        let flows = shared.table.bequeath_flows();
        shared.table.halt();
        shared.table.drains_within(HALT).await;
        let (udp, tcp) = shared.endpoint.descriptors();
        let sockets = HandoverError::of("the sockets for clients");
        let (udp, tcp) = ends::leave(udp)
            .and_then(|udp| Ok((udp, tcp.map(ends::leave).transpose()?)))
            .map_err(sockets)?;
        let visitors = shared.guests().map_err(HandoverError::of("the visitors that wait"))?;
        let pasts = shared.pasts(flows).map_err(HandoverError::of("the open connections"))?;
        let handover = Handover {
            version: FORMAT,
            from: env!("CARGO_PKG_VERSION").to_owned(),
            upgrades: shared.upgrades + 1,
            claim: Some(claim),
            udp,
            tcp,
            ports,
            pasts,
            visitors,
        };
        let file = written(&handover).map_err(HandoverError::of("what it has"))?;
        shared.send_away().await;
        Ok(file)
    }
}

impl Shared {
    /// The sessions that go on, each with its streams and flows.
    fn pasts(&self, mut flows: Vec<Bequest>) -> io::Result<Vec<handover::Past>> {
        let mut leavings = self.leavings.take();
        let mut pasts = Vec::new();
        for ((identity, instance), Returning { client, past }) in self.sessions.pasts() {
            let own: Vec<_> =
                leavings.extract_if(.., |leaving| leaving.halted.stream.is_of(&past)).collect();
            let streams = own.iter().map(Leaving::left).collect::<io::Result<Vec<_>>>()?;
            // Open until the next program has them. Dropped, they would be finished or reset while their peers hear it.
            std::mem::forget(own);
            pasts.push(handover::Past {
                identity: identity.as_bytes().to_vec().into(),
                instance: instance.as_bytes().to_vec().into(),
                client,
                flows: flows.extract_if(.., |it| it.session == past).map(|it| it.left).collect(),
                ..past.left(streams)
            });
        }
        // What does not outlive its connection is cut off, and must not look complete.
        for leaving in leavings {
            leaving.breaks();
        }
        Ok(pasts)
    }

    /// Visitors whose clients are away. [UPG-8]
    fn guests(&self) -> io::Result<Vec<handover::Visitor>> {
        let guests = self.leavings.take_guests();
        let left = guests.iter().map(Guest::left).collect();
        // As above.
        std::mem::forget(guests);
        left
    }

    /// Tells every client to come back, spread over as much time as their handshakes need. [SES-33]
    async fn send_away(&self) {
        let sessions = self.sessions.all();
        let spread = (SPREAD_EACH * u32::try_from(sessions.len()).unwrap_or(u32::MAX)).max(SPREAD);
        let mut told = JoinSet::new();
        for session in sessions.clone() {
            let leave = GoAway {
                code: Code::Moved.number() as u32,
                message: UPGRADED.to_owned(),
                spread_ms: u32::try_from(spread.as_millis()).unwrap_or(u32::MAX),
                reconnect_now: true,
            };
            told.spawn(async move { session.say(Event::GoAway(leave)).await });
        }
        let all_told = async { while told.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(TELL, all_told).await;
        tokio::time::sleep(SETTLE).await;
        // Not the endpoint: it would refuse whoever is back already. They knock until the next program answers.
        for session in sessions {
            session.connection().close(Code::Moved.number(), UPGRADED);
        }
        tokio::time::sleep(SETTLE).await;
    }
}

/// A file without a name that the next program inherits, and that never reaches a disk where the system can do that.
fn written(handover: &Handover) -> io::Result<u32> {
    #[cfg(target_os = "linux")]
    let mut file =
        File::from(rustix::fs::memfd_create("conduit-handover", rustix::fs::MemfdFlags::CLOEXEC)?);
    #[cfg(not(target_os = "linux"))]
    let mut file = tempfile::tempfile()?;
    file.write_all(&handover.encode_to_vec())?;
    ends::leave(&file)
}

/// Goes on with what the process before has left. What cannot be used is closed, and said. [UPG-5]
pub(super) fn take_up(shared: &Arc<Shared>, tasks: &Tasks, heritage: Heritage) {
    let Handover { from, ports, pasts, visitors, .. } = heritage.0;
    for port in &ports {
        match publish::Socket::adopted(port) {
            Ok(socket) => shared.published.inherits(socket),
            Err(error) => tracing::warn!(bind = port.bind, %error, "a published port is lost"),
        }
    }
    let (mut connections, mut flows, mut lost) = (0, 0, 0);
    for left in &pasts {
        let Some((identity, instance)) = who(left) else { continue };
        let past = Past::taken_up(left, &shared.settings.session);
        let returning = Returning { client: left.client.clone(), past: past.clone() };
        shared.sessions.expect(identity, instance, returning);
        for stream in &left.streams {
            let Some(end) = &stream.end else { continue };
            match goes_on(shared, &past, stream, end) {
                Ok(going) => tasks.spawn("connection taken up", going),
                Err(error) => {
                    lost += 1;
                    past.gives_up(stream);
                    tracing::warn!(client = left.client, about = end.about, %error, "a connection is lost");
                    continue;
                }
            }
            connections += 1;
        }
        for flow in &left.flows {
            match flow_goes_on(shared, tasks, &past, flow) {
                Ok(()) => flows += 1,
                Err(error) => {
                    lost += 1;
                    tracing::warn!(client = left.client, peer = flow.peer, %error, "a flow is lost");
                }
            }
        }
        let shared = Arc::clone(shared);
        tasks.spawn_until_cancelled("client expected", async move {
            past.waits().await;
            shared.sessions.expect_no_longer(identity, instance);
            if !past.outlives() {
                shared.table.disinherit_flows(&past);
            }
        });
    }
    for left in &visitors {
        match Guest::adopted(left) {
            Ok(guest) => tasks.spawn("visitor taken up", guest.goes_on(Arc::clone(shared))),
            Err(error) => {
                lost += 1;
                tracing::warn!(visitor = left.visitor, %error, "a visitor is lost");
            }
        }
    }
    let published = Arc::clone(&shared.published);
    let patience = shared.settings.resume.max(PORT_PATIENCE);
    tasks.spawn_until_cancelled("ports expected", async move {
        tokio::time::sleep(patience).await;
        published.disinherit();
    });
    let (ports, visitors) = (ports.len(), visitors.len());
    tracing::info!(from, connections, flows, visitors, lost, ports, "taken over");
}

/// A flow that waits for its client from here on. [UPG-7]
fn flow_goes_on(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    past: &Past,
    left: &handover::Flow,
) -> io::Result<()> {
    if left.socket.is_some() {
        return shared.table.inherit_flow(past, left, tasks, &shared.connections);
    }
    shared.published.inherits_visitor(&left.bind, &shared.table, |port| {
        shared.table.inherit_visitor(past, left, port, &shared.connections)
    })
}

fn who(left: &handover::Past) -> Option<(Identity, Uuid)> {
    let identity: [u8; 32] = left.identity.as_ref().try_into().ok()?;
    Some((Identity::from_bytes(identity), Uuid::from_slice(&left.instance).ok()?))
}

/// A connection whose bytes are moved from here on by this process.
fn goes_on(
    shared: &Arc<Shared>,
    past: &Past,
    stream: &handover::Stream,
    end: &End,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let socket = Stream::adopted(adopt(end.socket)?, end.is_unix)?;
    let Some(TakenUp { sender, receiver, waiting }) = past.take_up(stream) else {
        // A plain end would look as if everything had come.
        socket.reset();
        return Err(io::Error::other("what was left of it contradicts itself"));
    };
    let faces = if end.faces_user { Faces::User } else { Faces::Target };
    let entry = shared.table.enter(Protocol::Tcp, faces, end.peer.clone(), &shared.connections);
    entry.counters.resume(end.sent, end.received);
    if let Some(since) = Instant::now().checked_sub(Duration::from_millis(end.age_ms)) {
        entry.began(since);
    }
    let ends = (socket, sender, receiver);
    let copying = pipe_after(waiting, ends, shared.settings.relay, &entry);
    let (shared, about) = (Arc::clone(shared), end.about.clone());
    Ok(async move {
        let Transferred { ended_by, halted, .. } = copying.await;
        if let Some(halted) = halted {
            shared.leavings.keep(halted, &entry, about);
        } else if ended_by != EndedBy::Done {
            tracing::debug!(about, %ended_by, "connection ended");
        }
    })
}

/// Of what one process leaves to the next.
const FORMAT: u32 = 1;
/// From accepting a visitor to the stream for it, and from a word or a close to its packet.
const SETTLE: Duration = Duration::from_millis(20);
/// A pipe stops at its next turn.
const HALT: Duration = Duration::from_secs(2);
/// A client that does not read hears it by the close.
const TELL: Duration = Duration::from_millis(200);
/// 200 handshakes a second, and the time that a program takes to start.
const SPREAD_EACH: Duration = Duration::from_millis(5);
const SPREAD: Duration = Duration::from_millis(100);
/// A port whose tunnel does not outlive its session waits for its client all the same.
const PORT_PATIENCE: Duration = Duration::from_secs(30);
/// What clients read.
const UPGRADED: &str = "the router is being upgraded";
