//! One flow: packets of one sender, between a local socket and whatever connection carries the session.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::sync::CancellationToken;

use super::home::{Home, Life};
use super::table::Aging;
use super::traffic::{Loss, Traffic};
use crate::ends::{UdpPort, Way};
#[cfg(unix)]
use crate::relay::Live;
use crate::relay::{Counters, Entry, Table};
use crate::session::{DatagramRoom, Past, SendDatagramError};
use crate::tunnel::{Options, Oversize};
use crate::wire::{
    Code, Fragment, HEADER_MOST, MAX_FRAGMENTS, MAX_PACKET, piece_size, put_fragment, put_whole,
    whole_header_len,
};

thread_local! {
    /// Where datagrams are written: one piece of memory for many of them.
    static ARENA: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// What flows of one tunnel have in common.
#[derive(Clone, Copy, Debug)]
pub struct FlowRules {
    /// The tunnel's number in the session.
    pub tunnel: u32,
    /// Milliseconds of silence after which a flow is over.
    pub idle: Option<u64>,
    /// What becomes of packets that are larger than a datagram.
    pub oversize: Oversize,
}

/// A flow. Shared by whoever reads its socket and whoever reads its session.
#[derive(Debug)]
pub struct Flow {
    /// `None` until a connection carries a flow that another process has left.
    pub(super) home: ArcSwapOption<Home>,
    pub(super) life: Life,
    pub(super) table: Table,
    pub(super) identity: FlowIdentity,
    pub(super) port: Arc<UdpPort>,
    /// Where packets of the session go; `None` when the socket is connected.
    pub(super) way: Option<Way>,
    stop: CancellationToken,
    counters: Arc<Counters>,
    /// Keeps the flow in the table of what is live, until it is over.
    pub(super) entry: Mutex<Option<Entry>>,
    used_at: AtomicU64,
    /// How far the conversation has come: see [`Talk`].
    talk: AtomicU8,
    /// Numbers the packets that travel in pieces.
    packets: AtomicU64,
    /// What its own socket had dropped at the last look.
    overflowed: AtomicU64,
    /// What the socket's peer reads before the first packet.
    preface: Mutex<Option<Box<[u8]>>>,
}

/// What stays the same of a flow when another connection carries it. [FLW-15]
#[derive(Debug)]
pub(super) struct FlowIdentity {
    /// The session, whatever connections carry it.
    pub(super) session: Past,
    /// 0: it ends with its connection.
    pub(super) token: u64,
    /// Who sends, and where to, as the peer is told again; only who opens a flow has to know.
    pub(super) introduced: Option<Box<(SocketAddr, SocketAddr)>>,
    /// The name that its target's address was found under; only who judges targets has to know.
    pub(super) name: Option<Box<str>>,
}

/// How far a flow has come: one question with one answer is no conversation yet.
struct Talk;

impl Talk {
    const NONE: u8 = 0;
    /// Something came from the session.
    const ANSWERED: u8 = 1;
    /// And something was sent after that.
    const BOTH_WAYS: u8 = 2;
}

impl FlowRules {
    /// The rules of the tunnel with this number.
    pub fn new(tunnel: u32, options: &Options) -> Self {
        let idle = options.flow_idle.map(|idle| idle.as_millis() as u64);
        Self { tunnel, idle, oversize: options.oversize }
    }
}

impl Flow {
    /// A flow that is open from here on.
    pub(super) fn new(
        home: Option<Home>,
        identity: FlowIdentity,
        (port, way): (Arc<UdpPort>, Option<Way>),
        (table, entry): (Table, Entry),
        preface: Option<Box<[u8]>>,
    ) -> Self {
        Self {
            life: Life::new(home.is_some()),
            home: ArcSwapOption::from_pointee(home),
            table,
            identity,
            port,
            way,
            stop: entry.stop.clone(),
            counters: Arc::clone(&entry.counters),
            entry: Mutex::new(Some(entry)),
            used_at: AtomicU64::new(now()),
            talk: AtomicU8::new(Talk::NONE),
            packets: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            preface: Mutex::new(preface),
        }
    }

    /// Cancelled when the flow is to end, and when it is over.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// It is over.
    pub(super) fn end(&self) {
        if self.life.ends() {
            self.stop.cancel();
            drop(self.entry.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Whether its sender has spoken again after an answer.
    pub(super) fn has_conversed(&self) -> bool {
        self.talk.load(Ordering::Relaxed) == Talk::BOTH_WAYS
    }

    pub(super) fn traffic(&self) -> &Traffic {
        self.table.traffic()
    }

    /// Sends a packet of the local socket into the session. What cannot be sent is counted and gone. [FLW-1]
    pub(super) fn send(&self, packet: &[u8], room: &mut DatagramRoom, now: u64) {
        self.used_at.store(now, Ordering::Relaxed);
        if self.talk.load(Ordering::Relaxed) == Talk::ANSWERED {
            self.talk.store(Talk::BOTH_WAYS, Ordering::Relaxed);
        }
        let sent = match &*self.home.load() {
            Some(home) => self.send_home(home, packet, room),
            None => Err(SendDatagramError::Lost),
        };
        match sent {
            Ok(()) => self.count_sent(packet.len()),
            Err(SendDatagramError::TooLarge) => self.traffic().count_lost(Loss::TooLarge, 1),
            Err(SendDatagramError::QueueFull) => self.traffic().count_lost(Loss::QueueFull, 1),
            Err(SendDatagramError::Lost) => self.traffic().count_lost(Loss::NoSession, 1),
        }
    }

    /// A packet left in another way.
    pub(super) fn count_sent(&self, length: usize) {
        self.traffic().count_sent(1);
        self.counters.sent.fetch_add(length as u64, Ordering::Relaxed);
    }

    fn send_home(
        &self,
        home: &Home,
        packet: &[u8],
        room: &mut DatagramRoom,
    ) -> Result<(), SendDatagramError> {
        let largest = home.flows.session().datagram_limit(room);
        if whole_header_len(home.id) + packet.len() <= largest {
            let datagram = written(whole_header_len(home.id) + packet.len(), |into| {
                put_whole(home.id, into);
                into.put_slice(packet);
            });
            match home.flows.push(datagram, room) {
                // The path has shrunk since it was looked at.
                Err(SendDatagramError::TooLarge) => {}
                sent => return sent,
            }
        }
        if packet.len() > MAX_PACKET {
            return Err(SendDatagramError::TooLarge);
        }
        match home.rules.oversize {
            Oversize::Drop => Err(SendDatagramError::TooLarge),
            Oversize::Stream => home.spill().push(packet),
            Oversize::Fragment => self.send_pieces(home, packet, room),
        }
    }

    /// [FLW-2]
    fn send_pieces(
        &self,
        home: &Home,
        packet: &[u8],
        room: &mut DatagramRoom,
    ) -> Result<(), SendDatagramError> {
        let largest = home.flows.session().datagram_limit(room);
        let capacity = largest.checked_sub(HEADER_MOST).filter(|capacity| *capacity > 0);
        let capacity = capacity.ok_or(SendDatagramError::Lost)?;
        let count = packet.len().div_ceil(capacity).max(2);
        if count > MAX_FRAGMENTS {
            return Err(SendDatagramError::TooLarge);
        }
        let number = self.packets.fetch_add(1, Ordering::Relaxed);
        let size = piece_size(packet.len(), count);
        for (index, piece) in packet.chunks(size).enumerate() {
            let fragment = Fragment {
                flow: home.id,
                packet: number,
                index: index as u8,
                count: count as u8,
                total: packet.len() as u16,
                payload: Bytes::new(),
            };
            let datagram = written(HEADER_MOST + piece.len(), |into| {
                put_fragment(&fragment, into);
                into.put_slice(piece);
            });
            home.flows.push(datagram, room)?;
        }
        Ok(())
    }

    /// Hands packets of the session to the local socket: `bytes` holds packets of `size` bytes behind each other.
    pub(super) fn deliver(&self, bytes: &[u8], size: usize, now: u64) {
        self.used_at.store(now, Ordering::Relaxed);
        if self.talk.load(Ordering::Relaxed) == Talk::NONE {
            self.talk.store(Talk::ANSWERED, Ordering::Relaxed);
            if let Some(preface) = self.take_preface() {
                return self.deliver_first(&preface, bytes, size);
            }
        }
        self.hand_over(bytes, size);
    }

    fn take_preface(&self) -> Option<Box<[u8]>> {
        self.preface.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The first packet with what goes before it, then the others. [FLW-13]
    fn deliver_first(&self, preface: &[u8], bytes: &[u8], size: usize) {
        let (first, rest) = bytes.split_at(size.min(bytes.len()));
        let first = [preface, first].concat();
        self.hand_over(&first, first.len());
        if !rest.is_empty() {
            self.hand_over(rest, size);
        }
    }

    fn hand_over(&self, bytes: &[u8], size: usize) {
        let packets = bytes.len().div_ceil(size.max(1)).max(1) as u64;
        match self.port.send(self.way, bytes, size) {
            Ok(()) => {
                self.traffic().count_received(packets);
                self.counters.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                self.traffic().count_lost(loss_of(&error), packets);
                self.failed(&error);
            }
        }
    }

    /// An error of the local socket: only what says that nobody is there ends a flow. [FLW-9]
    pub(super) fn failed(&self, error: &io::Error) {
        let code = match error.kind() {
            io::ErrorKind::ConnectionRefused if self.way.is_none() => Code::ConnectionRefused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
                if self.way.is_none() =>
            {
                Code::Unreachable
            }
            _ => return tracing::debug!(%error, "packet of a flow not sent"),
        };
        if let Some(target) = self.port.peer().filter(|_| !self.life.is_over()) {
            self.table.refuse(&target.to_string(), None, &code.to_string());
        }
        self.close(code, "");
    }

    /// Counts what the system has dropped at the flow's own socket. A shared one is looked at by whoever listens.
    pub(super) fn look_at_socket(&self) {
        if self.way.is_none() {
            let total = self.port.overflowed();
            let before = self.overflowed.swap(total, Ordering::Relaxed);
            self.traffic().count_lost(Loss::Overflow, total.saturating_sub(before));
        }
    }
}

/// What one process leaves to the next.
#[cfg(unix)]
impl Flow {
    /// Its row in the table of what is live, unless it is over.
    pub(super) fn row(&self) -> Option<Live> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.live()
    }

    /// Milliseconds since its last packet.
    pub(super) fn silent_for(&self) -> u64 {
        now().saturating_sub(self.used_at.load(Ordering::Relaxed))
    }

    /// What was so in the process before.
    pub(super) fn has_been(&self, silent_for: u64, has_conversed: bool) {
        self.used_at.store(now().saturating_sub(silent_for), Ordering::Relaxed);
        self.talk
            .store(if has_conversed { Talk::BOTH_WAYS } else { Talk::NONE }, Ordering::Relaxed);
    }

    /// What its target still has to read in front of the first packet.
    pub(super) fn preface(&self) -> Vec<u8> {
        let preface = self.preface.lock().unwrap_or_else(PoisonError::into_inner);
        preface.as_deref().unwrap_or_default().to_vec()
    }
}

impl Aging for Arc<Flow> {
    fn used_at(&self) -> u64 {
        self.used_at.load(Ordering::Relaxed)
    }

    fn is_conversation(&self) -> bool {
        self.has_conversed()
    }

    fn is_over(&self) -> bool {
        self.life.is_over()
    }
}

fn loss_of(error: &io::Error) -> Loss {
    match error.kind() {
        io::ErrorKind::WouldBlock => Loss::QueueFull,
        // EMSGSIZE: the interface takes no packet of this size.
        _ if error.raw_os_error() == Some(MESSAGE_SIZE) => Loss::TooLarge,
        _ => Loss::Unreachable,
    }
}

/// Writes a datagram of at most `length` bytes. Memory is taken for many at once, and used again when all of them are
/// gone.
fn written(length: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    ARENA.with_borrow_mut(|arena| {
        if arena.capacity() < length {
            // Takes back what nobody holds any more, or a new piece.
            arena.reserve(ARENA_SIZE.max(length));
        }
        write(arena);
        arena.split().freeze()
    })
}

/// Milliseconds of the clock of all flows. It began a day before the process did, in which flows may have been silent
/// already.
pub(super) fn now() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    DAY + BEGAN.get_or_init(Instant::now).elapsed().as_millis() as u64
}

const DAY: u64 = 24 * 60 * 60 * 1_000;
/// A hundred and more full packets; a quiet process holds none.
const ARENA_SIZE: usize = 256 << 10;
/// `EMSGSIZE`.
#[cfg(target_os = "linux")]
const MESSAGE_SIZE: i32 = 90;
#[cfg(not(target_os = "linux"))]
const MESSAGE_SIZE: i32 = 40;
