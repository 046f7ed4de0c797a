//! Flows of UDP that outlive the connection that carries them: the target sees the same socket, and the user too.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conduit::client;
use conduit::policy::Permissions;
use conduit::tunnel::{Direction, Protocol, TunnelState};
use conduit::wire::{FlowOpen, control::Message};
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

use crate::link::{Conditions, Link};
use crate::raw::{Packets, Raw, becomes, figure, udp};
use crate::stage::{Stage, Tunnel, within};

/// A service that knows who has asked, and may say something by itself.
struct Service {
    socket: Arc<UdpSocket>,
    senders: Arc<Mutex<HashSet<SocketAddr>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Service {
    async fn new() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
        let senders = Arc::new(Mutex::new(HashSet::new()));
        let (answering, known) = (Arc::clone(&socket), Arc::clone(&senders));
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 2_048];
            loop {
                let Ok((length, from)) = answering.recv_from(&mut buffer).await else { continue };
                known.lock().expect("the senders").insert(from);
                let _ = answering.send_to(&buffer[..length], from).await;
            }
        });
        Self { socket, senders, _serving: AbortOnDropHandle::new(serving) }
    }

    fn addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("its address")
    }

    fn senders(&self) -> Vec<SocketAddr> {
        self.senders.lock().expect("the senders").iter().copied().collect()
    }

    /// Says the same to all who have ever asked.
    async fn tells(&self, word: &[u8]) {
        for sender in self.senders() {
            let _ = self.socket.send_to(word, sender).await;
        }
    }
}

/// A user who is connected to the tunnel.
struct User(UdpSocket);

impl User {
    async fn of(tunnel: &Tunnel) -> Self {
        Self::at(tunnel.local_addr()).await
    }

    async fn at(addr: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(addr).await.expect("an address");
        Self(socket)
    }

    /// Asks until there is an answer: packets of an outage are lost.
    async fn asks(&self, word: &str) {
        for _ in 0..200 {
            // An earlier packet may have met a closed port.
            let _ = self.0.send(word.as_bytes()).await;
            if self.hears(word, Duration::from_millis(100)).await {
                return;
            }
        }
        panic!("{word}: no answer");
    }

    async fn hears(&self, word: &str, limit: Duration) -> bool {
        let heard = async {
            let mut buffer = [0; 2_048];
            loop {
                if let Ok(length) = self.0.recv(&mut buffer).await
                    && &buffer[..length] == word.as_bytes()
                {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, heard).await.is_ok()
    }
}

/// A tunnel whose session's connection is lost on demand.
struct Frail {
    stage: Stage,
    service: Service,
    tunnel: Tunnel,
}

impl Frail {
    async fn new(direction: Direction, change: impl FnOnce(&mut client::Settings)) -> Self {
        let (stage, service) = (Stage::new().await, Service::new().await);
        let tunnel = stage
            .tunnel_with(service.addr(), |settings| {
                becomes(settings, direction, Protocol::Udp);
                change(settings);
            })
            .await;
        Self { stage, service, tunnel }
    }

    async fn loses_its_connection(&self) {
        loses_its_connection(&self.tunnel).await;
    }
}

async fn loses_its_connection(tunnel: &Tunnel) {
    let before = tunnel.session().expect("a session");
    before.interrupt("a test");
    let is_back = || {
        *tunnel.state().borrow() == TunnelState::Ready
            && tunnel.session().is_some_and(|now| !now.is(&before))
    };
    within(Duration::from_secs(10), "the next connection", is_back).await;
}

/// [FLW-15]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_keeps_its_socket_at_the_target_and_answers_come_by_themselves() {
    for direction in [Direction::Forward, Direction::Reverse] {
        let frail = Frail::new(direction, |_| {}).await;
        let user = User::of(&frail.tunnel).await;
        user.asks("before").await;
        let socket = frail.service.senders();
        for round in 0..5 {
            frail.loses_its_connection().await;
            // Nothing is sent by the user, so that only what was open before brings this.
            let news = format!("news {round}");
            let mut heard = false;
            for _ in 0..50 {
                frail.service.tells(news.as_bytes()).await;
                heard = heard || user.hears(&news, Duration::from_millis(100)).await;
            }
            assert!(heard, "{direction}, round {round}: the service is heard again");
            user.asks(&format!("after {round}")).await;
        }
        assert_eq!(frail.service.senders(), socket, "{direction}: the same socket all the time");
        assert_eq!(figure(&frail.stage.router, ACTIVE), 1, "{direction}: nothing is left over");
    }
}

/// [FLW-15]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_of_many_users_are_not_confused_by_losses() {
    for direction in [Direction::Forward, Direction::Reverse] {
        let frail = Frail::new(direction, |_| {}).await;
        let mut users = Vec::new();
        for number in 0..100 {
            let user = User::of(&frail.tunnel).await;
            user.asks(&format!("{number}")).await;
            users.push(user);
        }
        for round in 0..3 {
            frail.loses_its_connection().await;
            for (number, user) in users.iter().enumerate() {
                user.asks(&format!("{number} again {round}")).await;
            }
        }
        assert_eq!(frail.service.senders().len(), users.len(), "{direction}: a socket each");
    }
}

/// [FLW-15] [RVS-5]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_of_one_process_among_many_is_opened_again_at_once() {
    let stage = Stage::new().await;
    let mut bind = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut serving = Vec::new();
    for _ in 0..12 {
        let service = Service::new().await;
        let tunnel = stage.tunnel_with(service.addr(), |settings| {
            becomes(settings, Direction::Reverse, Protocol::Udp);
            settings.tunnel.bind = bind.into();
            settings.tunnel.options.group = Some("many".parse().expect("a name"));
        });
        let tunnel = tunnel.await;
        bind = tunnel.local_addr();
        serving.push((tunnel, service));
    }
    let user = User::at(bind).await;
    user.asks("before").await;
    let asked = serving.iter().find(|(_, service)| !service.senders().is_empty());
    let (tunnel, service) = asked.expect("one of them");
    loses_its_connection(tunnel).await;
    let mut heard = false;
    for _ in 0..50 {
        service.tells(b"news").await;
        heard = heard || user.hears("news", Duration::from_millis(100)).await;
    }
    assert!(heard, "the service is heard again");
}

/// [FLW-15] [RSM-3]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_outlives_an_outage_beyond_the_idle_limit() {
    let idle = Duration::from_secs(2);
    let stage = Stage::with(|settings| {
        settings.transport.trust_loopback = false;
        settings.transport.idle_timeout = idle;
    })
    .await;
    let link = Link::to(stage.router.local_addr(), 8, Conditions::rtt(Duration::from_millis(10)));
    let service = Service::new().await;
    let tunnel = stage
        .tunnel_with(service.addr(), |settings| {
            becomes(settings, Direction::Forward, Protocol::Udp);
            settings.access.router.addresses = vec![link.addr().into()];
        })
        .await;
    let user = User::of(&tunnel).await;
    user.asks("before").await;
    link.becomes(|path| path.down = true);
    let lost = || *tunnel.state().borrow() == TunnelState::Reconnecting;
    within(idle * 3, "the session is lost", lost).await;
    // The router notices when it has heard nothing for as long.
    tokio::time::sleep(idle).await;
    link.becomes(|path| path.down = false);
    user.asks("after").await;
    assert_eq!(service.senders().len(), 1, "the same socket");
}

/// [FLW-15]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_flows_does_not_take_its_time_to_come_back() {
    for direction in [Direction::Forward, Direction::Reverse] {
        let frail = Frail::new(direction, |_| {}).await;
        let user = User::of(&frail.tunnel).await;
        user.asks("before").await;
        let mut slow = Duration::ZERO;
        for _ in 0..10 {
            let began = Instant::now();
            frail.loses_its_connection().await;
            slow = slow.max(began.elapsed());
        }
        assert!(slow < Duration::from_millis(500), "{direction}: {slow:?}");
    }
}

/// [RSM-1]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_outlives_its_connection_flows_do_not() {
    let frail = Frail::new(Direction::Forward, |it| it.tunnel.options.resume = None).await;
    let user = User::of(&frail.tunnel).await;
    user.asks("before").await;
    frail.loses_its_connection().await;
    user.asks("after").await;
    assert_eq!(frail.service.senders().len(), 2, "another socket");
}

/// [FLW-15]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_names_no_flow_of_another_session() {
    let (mut stage, service) = (Stage::new().await, Packets::echo().await);
    let mut one = Raw::owner(&stage).await;
    let mut other = Raw::with(&mut stage, Permissions::owner()).await;
    for raw in [&mut one, &mut other] {
        assert_eq!(raw.declares(udp(1, service.addr)).await.code, 0);
        let open = FlowOpen { flow: 2, tunnel: 1, token: 7, ..FlowOpen::default() };
        raw.says(Message::FlowOpen(open)).await;
        raw.sends(crate::raw::packet(2, b"whose?")).await;
        raw.receives().await;
    }
    assert_eq!(figure(&stage.router, ACTIVE), 2, "a socket each");
    one.leaves();
    within(Duration::from_secs(10), "its flow has ended with it", || {
        figure(&stage.router, ACTIVE) == 1
    })
    .await;
}

const ACTIVE: &str = "conduit_active_connections";
