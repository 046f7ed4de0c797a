//! A stranger that was admitted and says what a test wants, packets that are counted, and what the router counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use conduit::identity::Keypair;
use conduit::policy::Permissions;
use conduit::transport::DATAGRAM_OVERHEAD;
use conduit::tunnel::{Direction, Protocol};
use conduit::wire::{
    self, Code, Declare, Declared, FlowClose, FlowOpen, VERSION, control::Message, put_whole,
};
use conduit::{client, router};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::stage::Stage;
use crate::stranger::{Admitted, Stranger, frame, next};

/// A client that keeps to no rule.
pub(crate) struct Raw {
    admitted: Admitted,
    heard: BytesMut,
}

impl Raw {
    /// Admitted with the owner's key.
    pub(crate) async fn owner(stage: &Stage) -> Self {
        Self { admitted: Stranger::admitted_at(stage).await, heard: BytesMut::new() }
    }

    /// Admitted with a key of its own that may do this.
    pub(crate) async fn with(stage: &mut Stage, permissions: Permissions) -> Self {
        let keypair = Arc::new(Keypair::generate().expect("a key"));
        stage.admits(keypair.identity(), permissions).await;
        let owner = std::mem::replace(&mut stage.owner, keypair);
        let raw = Self::owner(stage).await;
        stage.owner = owner;
        raw
    }

    /// Says one message.
    pub(crate) async fn says(&mut self, message: Message) {
        self.admitted.control.write_all(&frame(message)).await.expect("a message");
    }

    /// The router's next message.
    pub(crate) async fn hears(&mut self) -> Message {
        let next = next(&mut self.admitted.answers, &mut self.heard);
        let message = tokio::time::timeout(LIMIT, next).await.expect("an answer in time");
        message.and_then(|control| control.message).expect("an answer")
    }

    /// The router's next message, which ends a flow.
    pub(crate) async fn hears_close(&mut self) -> FlowClose {
        match self.hears().await {
            Message::FlowClose(close) => close,
            other => panic!("no FlowClose: {other:?}"),
        }
    }

    /// Whether the router has anything to say.
    pub(crate) async fn hears_nothing(&mut self) -> bool {
        let next = next(&mut self.admitted.answers, &mut self.heard);
        tokio::time::timeout(Duration::from_millis(300), next).await.is_err()
    }

    /// Declares a tunnel.
    pub(crate) async fn declares(&mut self, declare: Declare) -> Declared {
        self.says(Message::Declare(declare)).await;
        match self.hears().await {
            Message::Declared(declared) => declared,
            other => panic!("no Declared: {other:?}"),
        }
    }

    /// Opens a flow with its first packet; nothing is answered when it is served.
    pub(crate) async fn opens(&mut self, flow: u64, tunnel: u32, packet: &'static [u8]) {
        self.opens_all([flow], tunnel, packet).await;
    }

    /// Opens flows in one breath.
    pub(crate) async fn opens_all(
        &mut self,
        flows: impl IntoIterator<Item = u64>,
        tunnel: u32,
        packet: &'static [u8],
    ) {
        let payload = Some(Bytes::from_static(packet));
        let open = FlowOpen { tunnel, payload, ..FlowOpen::default() };
        let messages = flows.into_iter().map(|flow| FlowOpen { flow, ..open.clone() });
        let bytes: Vec<u8> = messages.flat_map(|open| frame(Message::FlowOpen(open))).collect();
        self.admitted.control.write_all(&bytes).await.expect("messages");
    }

    /// Sends a datagram; waits while the queue is full.
    pub(crate) async fn sends(&self, datagram: Bytes) {
        let connection = &self.admitted.stranger.connection;
        while connection.datagram_room() < datagram.len() + DATAGRAM_OVERHEAD {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        connection.send_datagram(datagram).expect("a datagram");
    }

    /// The next datagram of the router.
    pub(crate) async fn receives(&self) -> Bytes {
        let next = self.admitted.stranger.connection.datagram();
        tokio::time::timeout(LIMIT, next).await.expect("a datagram in time").expect("a datagram")
    }

    /// Opens a flow that may outlive its connection, without a packet.
    pub(crate) async fn opens_lasting(&mut self, flow: u64, tunnel: u32, token: u64) {
        self.says(Message::FlowOpen(FlowOpen { flow, tunnel, token, ..FlowOpen::default() })).await;
    }

    /// Has no connection from here on, and may come back.
    pub(crate) fn goes_away(&self) {
        self.admitted.stranger.connection.close(Code::Moved.number(), "elsewhere");
    }

    /// The same process with another connection.
    pub(crate) async fn comes_back(self, stage: &Stage) -> Self {
        self.goes_away();
        let stranger = Stranger::with(stage, Arc::clone(&self.admitted.stranger.keypair)).await;
        Self { admitted: stranger.admitted().await, heard: BytesMut::new() }
    }

    /// Whether the session goes on.
    pub(crate) fn is_in(&self) -> bool {
        self.admitted.stranger.connection.close_reason().is_none()
    }

    /// Leaves without a word.
    pub(crate) fn leaves(self) {
        self.admitted.stranger.connection.close(0, "enough");
    }
}

/// A packet of a flow as a datagram.
pub(crate) fn packet(flow: u64, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    put_whole(flow, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes.freeze()
}

/// A forward UDP tunnel.
pub(crate) fn udp(tunnel: u32, source: impl ToString) -> Declare {
    Declare {
        version: VERSION,
        tunnel,
        name: format!("t{tunnel}"),
        protocol: wire::Protocol::Udp.into(),
        sources: vec![source.to_string()],
        ..Declare::default()
    }
}

/// A reverse TCP tunnel.
pub(crate) fn reverse(tunnel: u32, bind: impl ToString) -> Declare {
    Declare {
        version: VERSION,
        tunnel,
        name: format!("t{tunnel}"),
        direction: wire::Direction::Reverse.into(),
        bind: bind.to_string(),
        ..Declare::default()
    }
}

/// A UDP target that counts its packets and may send them back; ends when it is dropped.
pub(crate) struct Packets {
    pub(crate) addr: SocketAddr,
    count: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Packets {
    /// Sends back what it gets.
    pub(crate) async fn echo() -> Self {
        Self::answering(|_| true).await
    }

    /// Sends back what it likes.
    pub(crate) async fn answering(likes: fn(&[u8]) -> bool) -> Self {
        Self::at("127.0.0.1:0", likes).await.expect("a socket")
    }

    /// Sends back what it gets. `None` where this machine has no such address.
    pub(crate) async fn echo_at(addr: &str) -> Option<Self> {
        Self::at(addr, |_| true).await
    }

    /// Only counts. `None` where this machine has no such address.
    pub(crate) async fn canary(addr: &str) -> Option<Self> {
        Self::at(addr, |_| false).await
    }

    async fn at(addr: &str, likes: fn(&[u8]) -> bool) -> Option<Self> {
        let socket = UdpSocket::bind(addr).await.ok()?;
        let addr = socket.local_addr().expect("its address");
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let serving = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                // An earlier answer may have met a closed port.
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                if likes(&buffer[..length]) {
                    let _ = socket.send_to(&buffer[..length], from).await;
                }
            }
        });
        Some(Self { addr, count, serving })
    }

    /// Packets that came.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A user of a UDP tunnel.
pub(crate) struct User(UdpSocket);

impl User {
    pub(crate) async fn of(addr: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(addr).await.expect("an address");
        Self(socket)
    }

    /// Whether a packet comes back, and nothing else. A datagram may be lost: three tries.
    pub(crate) async fn hears_echo(&self, packet: &[u8]) -> bool {
        let mut buffer = [0; 2_048];
        for _ in 0..3 {
            let _ = self.0.send(packet).await;
            let answer = tokio::time::timeout(Duration::from_secs(1), self.0.recv(&mut buffer));
            if let Ok(Ok(length)) = answer.await {
                assert_eq!(&buffer[..length], packet, "somebody else's packet");
                return true;
            }
        }
        false
    }
}

/// Turns a tunnel of the stage into one of this kind.
pub(crate) fn becomes(settings: &mut client::Settings, direction: Direction, protocol: Protocol) {
    (settings.tunnel.direction, settings.tunnel.protocol) = (direction, protocol);
}

/// A counter or a gauge of the router.
pub(crate) fn figure(router: &router::Running, name: &str) -> u64 {
    number(&router.metrics(), name)
}

/// Packets that the router did not carry on for this reason.
pub(crate) fn dropped(router: &router::Running, reason: &str) -> u64 {
    figure(router, &format!("conduit_packets_dropped_total{{reason=\"{reason}\"}}"))
}

/// A figure of a page of metrics; 0 when it is not there.
pub(crate) fn number(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |text| text.trim().parse().expect("a number"))
}

/// Resident memory of this process in KiB; `None` where nobody tells, or where other tests run in it too.
pub(crate) fn resident() -> Option<u64> {
    std::env::var_os("NEXTEST")?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

const LIMIT: Duration = Duration::from_secs(10);
