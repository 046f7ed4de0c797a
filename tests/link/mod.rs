//! A bad path, emulated: a relay for UDP between clients and one router, with delay, loss, reordering, duplicates, damage, a
//! rate with a queue in front of it, an MTU, outages, a NAT that forgets, and strangers who send copies, all of which may
//! change while it runs. It runs in a thread of its own and ends when it is dropped. It counts what it drops, so that a test
//! can show that the path was as bad as it says.
#![allow(dead_code, reason = "not every test wants everything")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};

pub(crate) use forgery::Forgery;
use forgery::chosen_id;
use relay::{accept, deliver, socket};

mod forgery;
mod relay;

/// What one direction does to packets.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    /// On the way, at the least.
    pub(crate) delay: Duration,
    /// The share that gets lost, at random.
    pub(crate) loss: f64,
    /// The share that takes longer, and how much longer: later packets overtake it.
    pub(crate) late: (f64, Duration),
    /// The share that comes twice.
    pub(crate) twice: f64,
    /// The share in which a byte is another one at the end.
    pub(crate) damaged: f64,
    /// The share of what goes to the router that a stranger sends on too, from another address and ahead of the packet.
    pub(crate) copied: f64,
    /// What the stranger makes of it.
    pub(crate) forgery: Forgery,
    /// Bits per second.
    pub(crate) rate: Option<u64>,
    /// Bytes that may wait for the rate; what comes then is dropped.
    pub(crate) queue: usize,
    /// Bytes of the largest IPv4 packet.
    pub(crate) mtu: usize,
    /// Whether nothing gets through.
    pub(crate) down: bool,
}

impl Default for Conditions {
    /// A path without faults, as fast as the machine.
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            loss: 0.0,
            late: (0.0, Duration::ZERO),
            twice: 0.0,
            damaged: 0.0,
            copied: 0.0,
            forgery: Forgery::Copy,
            rate: None,
            queue: MOST_HELD,
            mtu: 65_535,
            down: false,
        }
    }
}

impl Conditions {
    /// A path without faults on which a packet and its answer take `rtt`.
    pub(crate) fn rtt(rtt: Duration) -> Self {
        Self { delay: rtt / 2, ..Self::default() }
    }

    /// At most so many megabits a second, and bytes that may wait.
    pub(crate) fn rate(self, megabits: u64, queue: usize) -> Self {
        Self { rate: Some(megabits * 1_000_000), queue, ..self }
    }
}

/// Packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) carried: u64,
    /// Of these, such that later ones may have overtaken.
    pub(crate) late: u64,
    pub(crate) twice: u64,
    pub(crate) damaged: u64,
    pub(crate) copied: u64,
    pub(crate) lost: u64,
    /// Dropped in front of the rate.
    pub(crate) overflowed: u64,
    pub(crate) too_large: u64,
    /// Dropped during an outage.
    pub(crate) down: u64,
    /// Dropped because a NAT had forgotten whom it is for.
    pub(crate) forgotten: u64,
}

/// From clients to the router, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// The relay.
pub(crate) struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Sends copies of what goes to the router.
    stranger: std::net::UdpSocket,
    /// Something is due earlier than it was.
    sooner: Notify,
}

struct State {
    ways: [Direction; 2],
    under_way: BinaryHeap<Reverse<Packet>>,
    held: usize,
    number: u64,
    random: u64,
    /// The connection id that the first client chose.
    chosen: Vec<u8>,
    /// How often a NAT on the path has forgotten whom it let through.
    forgotten: u64,
    /// How long it remembers a client that says nothing.
    remembers: Option<Duration>,
}

struct Direction {
    conditions: Conditions,
    /// When what waits for the rate is through.
    free_at: Instant,
    count: Count,
}

struct Packet {
    due: Instant,
    /// Packets that are due at the same time keep their order.
    number: u64,
    bytes: Vec<u8>,
    socket: Arc<UdpSocket>,
    /// `None`: whom the socket is connected to.
    to: Option<SocketAddr>,
}

impl Link {
    /// A path to `router` with the same conditions both ways. The same seed drops the same packets of the same sequence.
    pub(crate) fn to(router: SocketAddr, seed: u64, conditions: Conditions) -> Self {
        let direction = || Direction {
            conditions: conditions.clone(),
            free_at: Instant::now(),
            count: Count::default(),
        };
        let state = State {
            ways: [direction(), direction()],
            under_way: BinaryHeap::new(),
            held: 0,
            number: 0,
            chosen: Vec::new(),
            forgotten: 0,
            remembers: None,
            random: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        let (state, stranger) = (Mutex::new(state), socket());
        stranger.connect(router).expect("a socket");
        let shared = Arc::new(Shared { state, stranger, sooner: Notify::new() });
        let (stop, stopped) = oneshot::channel();
        let front = socket();
        let addr = front.local_addr().expect("its address");
        let running = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let front = Arc::new(UdpSocket::from_std(front).expect("a socket"));
                tokio::select! {
                    () = accept(Arc::clone(&running), front, router) => {}
                    () = deliver(running) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { addr, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where clients find the router.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes both directions.
    pub(crate) fn becomes(&self, change: impl Fn(&mut Conditions)) {
        for way in &mut self.shared.state().ways {
            change(&mut way.conditions);
        }
    }

    /// A NAT on the path forgets its mappings: clients come from other ports from now on, and what is sent to the old
    /// ones gets lost.
    pub(crate) fn rebinds(&self) {
        self.shared.state().forgotten += 1;
    }

    /// From now on a NAT on the path forgets who says nothing for this long: what is sent to them gets lost until they are
    /// heard again, and then they come from another port.
    pub(crate) fn remembers(&self, silence: Duration) {
        self.shared.state().remembers = Some(silence);
    }

    /// What became of the packets of one direction.
    pub(crate) fn count(&self, way: Way) -> Count {
        self.shared.state().ways[way as usize].count
    }

    /// Packets that are somewhere on the path.
    pub(crate) fn held(&self) -> usize {
        self.shared.state().held
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("up {:?}\ndown {:?}", self.count(Way::Up), self.count(Way::Down));
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics here")
    }

    /// Whether the NAT has forgotten a client that was heard at this time.
    fn has_forgotten(&self, heard: &Mutex<Instant>) -> bool {
        let silence = heard.lock().expect("nobody panics here").elapsed();
        self.state().remembers.is_some_and(|limit| silence > limit)
    }

    /// Takes a packet in; it is dropped, or due some time.
    fn send(&self, way: Way, bytes: &[u8], socket: &Arc<UdpSocket>, to: Option<SocketAddr>) {
        let mut state = self.state();
        let Some(due) = state.due(way, bytes.len()) else { return };
        let next = state.under_way.peek().map(|Reverse(packet)| packet.due);
        let mut bytes = bytes.to_vec();
        if way == Way::Up && state.chosen.is_empty() {
            state.chosen = chosen_id(&bytes).unwrap_or_default().to_vec();
        }
        if way == Way::Up && state.happens(way, |conditions| conditions.copied) {
            state.ways[way as usize].count.copied += 1;
            let forgery = state.ways[way as usize].conditions.forgery;
            for forged in forgery.of(&bytes, &state.chosen) {
                // Nobody minds when there is no router.
                let _ = self.stranger.send(&forged);
            }
        }
        if state.happens(way, |conditions| conditions.damaged) {
            state.ways[way as usize].count.damaged += 1;
            let place = (state.random() * bytes.len() as f64) as usize;
            bytes[place] ^= 0x10;
        }
        if state.happens(way, |conditions| conditions.twice) {
            state.ways[way as usize].count.twice += 1;
            state.push(due + TWICE_AFTER, bytes.clone(), Arc::clone(socket), to);
        }
        state.push(due, bytes, Arc::clone(socket), to);
        let soonest = state.under_way.peek().map(|Reverse(packet)| packet.due);
        if soonest < next || next.is_none() {
            self.sooner.notify_one();
        }
    }
}

impl State {
    /// When a packet comes out at the other end, if ever.
    fn due(&mut self, way: Way, length: usize) -> Option<Instant> {
        let (lost, late) = (self.random(), self.random());
        let held = self.held;
        let Direction { conditions, free_at, count } = &mut self.ways[way as usize];
        let now = Instant::now();
        let length = length + HEADERS;
        let begins = (*free_at).max(now);
        let waiting = match conditions.rate {
            Some(rate) => (begins - now).as_secs_f64() * rate as f64 / 8.0,
            None => 0.0,
        };
        let (dropped, reason) = if conditions.down {
            (true, &mut count.down)
        } else if length > conditions.mtu {
            (true, &mut count.too_large)
        } else if lost < conditions.loss {
            (true, &mut count.lost)
        } else {
            let full = waiting + length as f64 > conditions.queue as f64;
            (full || held + length > MOST_HELD, &mut count.overflowed)
        };
        if dropped {
            *reason += 1;
            return None;
        }
        count.carried += 1;
        if let Some(rate) = conditions.rate {
            *free_at = begins + Duration::from_secs_f64(length as f64 * 8.0 / rate as f64);
        } else {
            *free_at = now;
        }
        let mut delay = conditions.delay;
        if late < conditions.late.0 {
            count.late += 1;
            delay += conditions.late.1;
        }
        Some(*free_at + delay)
    }

    fn push(
        &mut self,
        due: Instant,
        bytes: Vec<u8>,
        socket: Arc<UdpSocket>,
        to: Option<SocketAddr>,
    ) {
        self.number += 1;
        self.held += bytes.len();
        let number = self.number;
        self.under_way.push(Reverse(Packet { due, number, bytes, socket, to }));
    }

    /// Whether this packet is one of a share. What never happens draws nothing, so that seeds keep what they mean.
    fn happens(&mut self, way: Way, share: impl Fn(&Conditions) -> f64) -> bool {
        let share = share(&self.ways[way as usize].conditions);
        share > 0.0 && self.random() < share
    }

    /// From 0 to 1 (xorshift).
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Packets that are due, and when the next one is.
    fn take(&mut self) -> (Vec<Packet>, Option<Instant>) {
        let (mut due, now) = (Vec::new(), Instant::now());
        while self.under_way.peek().is_some_and(|Reverse(packet)| packet.due <= now) {
            let Some(Reverse(packet)) = self.under_way.pop() else { break };
            self.held -= packet.bytes.len();
            due.push(packet);
        }
        (due, self.under_way.peek().map(|Reverse(packet)| packet.due))
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// IPv4 and UDP.
const HEADERS: usize = 28;
/// A duplicate comes a little later.
const TWICE_AFTER: Duration = Duration::from_millis(1);
/// Bytes on the path at one time, whatever the conditions.
const MOST_HELD: usize = 64 << 20;
