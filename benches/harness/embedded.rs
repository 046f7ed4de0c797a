//! A router and a tunnel within this process: the library's view of a connection, and no other process's time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use conduit::client::{self, Access, RouterAddress, SocketSettings};
use conduit::identity::{Keypair, Ticket, random_bytes};
use conduit::registry::InviteParams;
use conduit::store::Store;
use conduit::transport::{PathStats, Secrets};
use conduit::tunnel::{Bind, Direction, Options, Protocol, Target, TunnelId, TunnelSpec};
use conduit::{ends, relay, router, session, transport};
use tempfile::TempDir;
use uuid::Uuid;

/// Both, on the runtime that started them.
pub(crate) struct Tunnel {
    router: router::Running,
    client: client::Running,
    _folder: TempDir,
}

impl Tunnel {
    /// A forward tunnel from `bind` to `source` on a connection with these settings.
    pub(crate) async fn start(bind: Bind, source: Target, transport: transport::Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("router.db")).expect("a store");
        let settings = router_settings(store, &folder, transport.clone());
        let router = router::start(settings).await.expect("a router");
        let address = router.local_addr().into();
        let invite = InviteParams { advertise: vec![address], ..Default::default() };
        let invitation = router.admin().invite(invite).await.expect("an invitation");
        let ticket: Ticket = invitation.ticket.parse().expect("a ticket");
        let way = RouterAddress { addresses: ticket.addresses.clone(), identity: ticket.router };
        let keypair = Arc::new(Keypair::generate().expect("a key"));
        let access = Access { transport, ..Access::new(keypair, way, "benchmark") };
        client::enrol(&access, ticket).await.expect("enrolled");
        let tunnel = TunnelSpec {
            name: "benchmark".parse().expect("a name"),
            direction: Direction::Forward,
            protocol: Protocol::Tcp,
            bind: bind.into(),
            source: source.into(),
            options: Options::default(),
        };
        let settings = client::Settings {
            id: TunnelId::new(&tunnel.name, 1),
            tunnel,
            instance: Uuid::new_v4(),
            access,
            relay: relay::Settings::default(),
            sockets: SocketSettings::default(),
            dial: ends::DialSettings::default(),
            max_connections: 1_000,
            outage_wait: Duration::from_secs(10),
        };
        let client = client::start(settings).await.expect("a tunnel");
        Self { router, client, _folder: folder }
    }

    /// Where users connect, unless that is a Unix socket.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.client.local_addr()
    }

    /// What the client's end of the connection has counted.
    pub(crate) fn path(&self) -> PathStats {
        self.client.session().expect("a session").path()
    }

    pub(crate) async fn stop(self) {
        self.client.shutdown(Duration::ZERO).await;
        self.router.shutdown(Duration::ZERO).await;
    }
}

fn router_settings(
    store: Store,
    folder: &TempDir,
    transport: transport::Settings,
) -> router::Settings {
    router::Settings {
        id: TunnelId::new(&"router".parse().expect("a name"), 1),
        bind: "127.0.0.1:0".parse().expect("an address"),
        advertise: Vec::new(),
        keypair: Arc::new(Keypair::generate().expect("a key")),
        secrets: Secrets::from_seed(random_bytes().expect("random bytes")),
        store,
        private: vec![folder.path().to_owned()],
        require_token: false,
        max_clients: 100,
        max_connections: 16_384,
        transport,
        session: session::Settings::default(),
        relay: relay::Settings::default(),
        dial: ends::DialSettings::default(),
        lease: Duration::from_secs(24 * 60 * 60),
        resume: Duration::from_secs(120),
        sockets: conduit::transport::Sockets::default(),
        #[cfg(unix)]
        heritage: None,
    }
}
