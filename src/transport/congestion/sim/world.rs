//! Connections of quinn-proto over simulated links, in virtual time: what they do depends on the seed alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::congestion::ControllerFactory;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, SendStream,
    ServerConfig, StreamId, Transmit,
};

use super::link::{Line, Link, Random};
use crate::identity::Keypair;
use crate::transport::packets::Route;
use crate::transport::settings::{CONNECTION_WINDOW, Settings};
use crate::transport::{Secrets, tls};

/// A path shared by some connections, each of which carries as much as it can from client to router.
pub(super) struct World {
    pub(super) began: Instant,
    pub(super) now: Instant,
    random: Random,
    pub(super) forth: Line,
    pub(super) back: Line,
    events: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    packets: Vec<Option<Packet>>,
    free: Vec<usize>,
    order: u64,
    pub(super) flows: Vec<Flow>,
}

struct Packet {
    flow: usize,
    to_server: bool,
    bytes: BytesMut,
}

/// One connection.
pub(super) struct Flow {
    client: Side,
    server: Side,
    starts: Instant,
    /// Until then it says a word every 50 ms; from then on it sends as much as it can.
    talks_until: Instant,
    next_word: Instant,
    /// Until then the router sends as much as it can.
    answers_until: Instant,
    /// The largest window so far.
    pub(super) most_window: u64,
    /// Bytes that have arrived, by tenth of a second since the world began.
    pub(super) arrived: Vec<u64>,
}

struct Side {
    endpoint: Endpoint,
    addr: SocketAddr,
    connection: Option<(ConnectionHandle, Connection)>,
    /// The only one there is.
    stream: Option<StreamId>,
}

impl World {
    pub(super) fn new(link: Link, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            now,
            random: Random(seed),
            forth: Line::new(link, now),
            back: Line::new(link.back(), now),
            events: BinaryHeap::new(),
            packets: Vec::new(),
            free: Vec::new(),
            order: 0,
            flows: Vec::new(),
        }
    }

    /// Adds a connection that begins to send at `starts` after the world's beginning.
    pub(super) fn flow(
        &mut self,
        controller: Arc<dyn ControllerFactory + Send + Sync>,
        starts: Duration,
    ) -> usize {
        let (client, server) = (Keypair::from_seed([1; 32]), Keypair::from_seed([2; 32]));
        let settings = Settings::default();
        let route = Route::to((DOCUMENTATION, 9).into(), &settings);
        let index = self.flows.len() as u16;
        let client_addr: SocketAddr = (DOCUMENTATION, 1_000 + index).into();
        let server_addr: SocketAddr = (DOCUMENTATION, 2_000 + index).into();
        let crypto = tls::router(&settings, &server).and_then(|it| Ok(tls::quic_router(it)?));
        let secrets = Secrets::from_seed([3; 32]);
        let mut serve =
            ServerConfig::new(Arc::new(crypto.expect("TLS settings")), secrets.token_key());
        serve.transport_config(Arc::new(settings.transport(&route, true, &Arc::default())));
        let mut endpoint = || {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&self.random.next().to_le_bytes());
            seed
        };
        let (one, two) = (endpoint(), endpoint());
        let config = Arc::new(secrets.endpoint());
        let router = Endpoint::new(config, Some(Arc::new(serve)), true, Some(one));
        let mut dialling = Endpoint::new(Arc::default(), None, true, Some(two));
        let (crypto, _) = tls::client(&settings, &client, server.identity()).expect("TLS settings");
        let crypto = tls::quic_client(crypto).expect("a suite for the first packets");
        let mut dial = ClientConfig::new(Arc::new(crypto));
        let mut transport = settings.transport(&route, false, &Arc::default());
        transport.congestion_controller_factory(controller);
        dial.transport_config(Arc::new(transport));
        let starts = self.began + starts;
        let connection =
            dialling.connect(starts, dial, server_addr, "conduit.invalid").expect("a connection");
        self.flows.push(Flow {
            client: Side::new(dialling, client_addr, Some(connection)),
            server: Side::new(router, server_addr, None),
            starts,
            talks_until: starts,
            next_word: starts,
            answers_until: starts,
            most_window: 0,
            arrived: Vec::new(),
        });
        self.flows.len() - 1
    }

    /// The connection says little until `until`.
    pub(super) fn talk(&mut self, flow: usize, until: Duration) {
        self.flows[flow].talks_until = self.began + until;
    }

    /// The connection says little, and hears as much as the way back carries, until `until`.
    pub(super) fn listen(&mut self, flow: usize, until: Duration) {
        self.talk(flow, until);
        self.flows[flow].answers_until = self.began + until;
    }

    /// Runs until `at` after the beginning.
    pub(super) fn run(&mut self, at: Duration) {
        let until = self.began + at;
        loop {
            let packet = self.events.peek().map(|Reverse((at, ..))| *at);
            let timer = self.flows.iter_mut().filter_map(Flow::timer).min();
            let Some(next) = packet.into_iter().chain(timer).min().filter(|next| *next <= until)
            else {
                break;
            };
            self.now = self.now.max(next);
            while let Some(Reverse((at, _, slot))) = self.events.peek().copied() {
                if at > self.now {
                    break;
                }
                self.events.pop();
                let packet = self.packets[slot].take().expect("a scheduled packet");
                self.free.push(slot);
                self.arrive(packet);
            }
            for index in 0..self.flows.len() {
                if self.flows[index].timer().is_some_and(|at| at <= self.now) {
                    self.flows[index].expire(self.now);
                    self.drive(index);
                }
            }
        }
        self.now = until;
    }

    fn arrive(&mut self, packet: Packet) {
        let now = self.now;
        let flow = &mut self.flows[packet.flow];
        let (side, from) = if packet.to_server {
            (&mut flow.server, flow.client.addr)
        } else {
            (&mut flow.client, flow.server.addr)
        };
        let mut answer = Vec::new();
        match side.endpoint.handle(now, from, None, None, packet.bytes, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut side.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = side.endpoint.accept(incoming, now, &mut answer, None);
                let (handle, mut connection) = accepted.unwrap_or_else(|_| panic!("refused"));
                connection.set_receive_window(CONNECTION_WINDOW);
                side.connection = Some((handle, connection));
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
        self.drive(packet.flow);
    }

    /// Lets both ends of a flow do what they can.
    fn drive(&mut self, index: usize) {
        let tenth = (self.now - self.began).as_millis() as usize / 100;
        let flow = &mut self.flows[index];
        if self.now < flow.starts {
            return;
        }
        flow.write(self.now);
        flow.most_window = flow.most_window.max(flow.window());
        let read = flow.server.read();
        if self.now < flow.answers_until {
            flow.client.read();
            flow.server.fill();
        }
        if flow.arrived.len() <= tenth {
            flow.arrived.resize(tenth + 1, 0);
        }
        flow.arrived[tenth] += read;
        for to_server in [true, false] {
            let mut buffer = Vec::with_capacity(64 << 10);
            loop {
                let flow = &mut self.flows[index];
                let side = if to_server { &mut flow.client } else { &mut flow.server };
                side.exchange();
                let Some((_, connection)) = &mut side.connection else { break };
                buffer.clear();
                let Some(transmit) = connection.poll_transmit(self.now, 10, &mut buffer) else {
                    break;
                };
                self.send(index, to_server, &transmit, &buffer);
            }
        }
    }

    fn send(&mut self, flow: usize, to_server: bool, transmit: &Transmit, buffer: &[u8]) {
        let segment = transmit.segment_size.unwrap_or(transmit.size);
        for bytes in buffer[..transmit.size].chunks(segment) {
            let line = if to_server { &mut self.forth } else { &mut self.back };
            let Some(arrival) = line.send(self.now, bytes.len() + IP_AND_UDP, &mut self.random)
            else {
                continue;
            };
            let packet = Some(Packet { flow, to_server, bytes: BytesMut::from(bytes) });
            let slot = match self.free.pop() {
                Some(slot) => {
                    self.packets[slot] = packet;
                    slot
                }
                None => {
                    self.packets.push(packet);
                    self.packets.len() - 1
                }
            };
            self.order += 1;
            self.events.push(Reverse((arrival, self.order, slot)));
        }
    }
}

impl Flow {
    /// When one of the ends wants to be called.
    fn timer(&mut self) -> Option<Instant> {
        if self.arrived.is_empty() {
            return Some(self.starts);
        }
        let word = (self.next_word < self.talks_until).then_some(self.next_word);
        self.client.timer().into_iter().chain(self.server.timer()).chain(word).min()
    }

    fn expire(&mut self, now: Instant) {
        for side in [&mut self.client, &mut self.server] {
            if let Some((_, connection)) = &mut side.connection
                && connection.poll_timeout().is_some_and(|at| at <= now)
            {
                connection.handle_timeout(now);
            }
        }
    }

    fn write(&mut self, now: Instant) {
        let word = now >= self.next_word;
        if word {
            self.next_word = now + Duration::from_millis(50);
        }
        let Some((_, connection)) = &mut self.client.connection else { return };
        if connection.is_handshaking() {
            return;
        }
        if self.client.stream.is_none() {
            self.client.stream = connection.streams().open(Dir::Bi);
        }
        let Some(stream) = self.client.stream else { return };
        let mut stream = connection.send_stream(stream);
        if now < self.talks_until {
            if word {
                stream.write(&ZEROS[..100]).expect("a window is never full of words");
            }
            return;
        }
        fill(&mut stream);
    }

    /// Bytes that may be in flight.
    fn window(&self) -> u64 {
        let connection = self.client.connection.as_ref();
        connection.map_or(0, |(_, connection)| connection.congestion_state().window())
    }

    /// Mbit/s that arrived between two seconds.
    pub(super) fn mbit(&self, from: usize, to: usize) -> f64 {
        let bytes: u64 = self.arrived.iter().take(to * 10).skip(from * 10).sum();
        bytes as f64 * 8.0 / 1e6 / (to - from) as f64
    }
}

impl Side {
    fn new(
        endpoint: Endpoint,
        addr: SocketAddr,
        connection: Option<(ConnectionHandle, Connection)>,
    ) -> Self {
        Self { endpoint, addr, connection, stream: None }
    }

    fn timer(&mut self) -> Option<Instant> {
        self.connection.as_mut().and_then(|(_, connection)| connection.poll_timeout())
    }

    /// Events between connection and endpoint.
    fn exchange(&mut self) {
        let Some((handle, connection)) = &mut self.connection else { return };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            if let Event::ConnectionLost { reason } = event {
                panic!("the connection was lost: {reason}");
            }
        }
    }

    /// Answers with as much as it can.
    fn fill(&mut self) {
        if let (Some((_, connection)), Some(stream)) = (&mut self.connection, self.stream) {
            fill(&mut connection.send_stream(stream));
        }
    }

    /// Takes everything that has come.
    fn read(&mut self) -> u64 {
        let mut read = 0;
        self.exchange();
        let Some((_, connection)) = &mut self.connection else { return 0 };
        self.stream = self.stream.or_else(|| connection.streams().accept(Dir::Bi));
        let Some(stream) = self.stream else { return 0 };
        let mut stream = connection.recv_stream(stream);
        // As a session takes them where holes hold them up: quinn would not keep so many pieces.
        if let Ok(mut chunks) = stream.read(false) {
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                read += chunk.bytes.len() as u64;
            }
            let _ = chunks.finalize();
        }
        read
    }
}

/// Writes until the window is full.
fn fill(stream: &mut SendStream<'_>) {
    while stream
        .write_chunks(&mut [Bytes::from_static(&ZEROS)])
        .is_ok_and(|written| written.bytes > 0)
    {}
}

const DOCUMENTATION: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 1);
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
const IP_AND_UDP: usize = 28;
