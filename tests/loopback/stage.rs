//! A router, clients and targets within this process.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conduit::client::{self, Access, RouterAddress, SocketSettings};
use conduit::identity::Keypair;
use conduit::policy::Permissions;
use conduit::registry::{Call, Depth, Request};
use conduit::store::{NewClient, Store};
use conduit::tunnel::{
    Direction, HostPort, Identity, Name, Options, Protocol, TunnelId, TunnelSpec,
};
use conduit::{ends, relay, router, session, transport};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// A router and one owner that it knows.
pub(crate) struct Stage {
    pub(crate) router: router::Running,
    pub(crate) owner: Arc<Keypair>,
    pub(crate) transport: transport::Settings,
    store: Store,
    folder: TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With other settings of the router than the usual ones.
    pub(crate) async fn with(change: impl FnOnce(&mut router::Settings)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("router.db")).expect("a store");
        let keypair = Arc::new(Keypair::generate().expect("a key"));
        let mut settings = router::Settings {
            id: TunnelId::new(&name("router"), 1),
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: Vec::new(),
            keypair,
            secrets: transport::Secrets::from_seed([7; transport::Secrets::LEN]),
            store: store.clone(),
            private: vec![folder.path().to_owned()],
            require_token: false,
            max_clients: 1_000,
            max_connections: 16_384,
            transport: transport::Settings::default(),
            session: session::Settings::default(),
            relay: relay::Settings::default(),
            dial: ends::DialSettings::default(),
            lease: Duration::from_secs(60),
            resume: Duration::from_secs(120),
            sockets: conduit::transport::Sockets::default(),
            #[cfg(unix)]
            heritage: None,
        };
        change(&mut settings);
        let transport = settings.transport.clone();
        let router = router::start(settings).await.expect("a router");
        let owner = Arc::new(Keypair::generate().expect("a key"));
        let stage = Self { router, owner, transport, store, folder };
        stage.admits(stage.owner.identity(), Permissions::owner()).await;
        stage
    }

    /// The router knows this key from now on.
    pub(crate) async fn admits(&self, identity: Identity, permissions: Permissions) {
        let name = Self::name_of(identity);
        let client = NewClient { identity, name, permissions, created_at: 1 };
        self.store.authorize(client).await.expect("a client");
    }

    /// The owner's tunnel to `source`.
    pub(crate) async fn tunnel_to(&self, source: SocketAddr) -> Tunnel {
        self.tunnel_with(source, |_| {}).await
    }

    /// The same, with other settings than the usual ones.
    pub(crate) async fn tunnel_with(
        &self,
        source: SocketAddr,
        change: impl FnOnce(&mut client::Settings),
    ) -> Tunnel {
        self.try_tunnel(source, change).await.expect("a tunnel")
    }

    /// The same where it may fail.
    pub(crate) async fn try_tunnel(
        &self,
        source: SocketAddr,
        change: impl FnOnce(&mut client::Settings),
    ) -> Result<Tunnel, client::StartError> {
        let tunnel = TunnelSpec {
            name: name("tunnel"),
            direction: Direction::Forward,
            protocol: Protocol::Tcp,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            source: source.into(),
            options: Options::default(),
        };
        let way = RouterAddress {
            addresses: vec![HostPort::from(self.router.local_addr())],
            identity: self.router.identity(),
        };
        let mut settings = client::Settings {
            id: TunnelId::new(&tunnel.name, 2),
            tunnel,
            instance: Uuid::new_v4(),
            access: Access {
                transport: transport::Settings {
                    carrier: crate::CARRIER,
                    ..self.transport.clone()
                },
                ..Access::new(Arc::clone(&self.owner), way, "loopback")
            },
            relay: relay::Settings::default(),
            sockets: SocketSettings::default(),
            dial: ends::DialSettings::default(),
            max_connections: 16_384,
            outage_wait: Duration::from_secs(10),
        };
        change(&mut settings);
        client::start(settings).await.map(Tunnel)
    }

    /// What the router says of itself.
    pub(crate) async fn status(&self) -> serde_json::Value {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let call = Call { request: Request::Status(Depth::Known), reply };
        self.router.calls().send(call).await.expect("it runs");
        answer.await.expect("an answer").expect("a status")
    }

    /// The database, for who wants to break it.
    pub(crate) fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("router.db")).expect("the database")
    }

    /// The name under which the router knows a key of [`Stage::admits`].
    pub(crate) fn name_of(identity: Identity) -> Name {
        name(&format!("c{}", &identity.to_string()[5..25]))
    }
}

/// A tunnel whose users connect to an address; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Tunnel(client::Running);

impl Tunnel {
    /// Where users connect.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }
}

impl Deref for Tunnel {
    type Target = client::Running;

    fn deref(&self) -> &client::Running {
        &self.0
    }
}

/// A target; ends when it is dropped.
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    connects: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Target {
    /// Serves every connection in a task of its own.
    pub(crate) async fn new<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let connects = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connects);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream));
            }
        });
        Self { addr, connects, accepting }
    }

    /// Sends back what it gets.
    pub(crate) async fn echo() -> Self {
        Self::new(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// Connections that came.
    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Sends, closes its half, and wants the same bytes and the end.
pub(crate) async fn echo(addr: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let (mut read, mut write) = stream.split();
    let mut back = Vec::with_capacity(bytes.len());
    let sending = async {
        write.write_all(bytes).await.expect("bytes sent");
        write.shutdown().await.expect("the half closed");
    };
    let receiving = async { read.read_to_end(&mut back).await.expect("bytes back") };
    tokio::join!(sending, receiving);
    assert!(back == bytes, "other bytes came back");
}

/// Bytes that differ from position to position and from seed to seed (xorshift).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Asks again until the answer is yes; fails after `limit`. Returns how long it took.
pub(crate) async fn within(limit: Duration, what: &str, mut yes: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !yes() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}
