//! A router and a tunnel inside another program: start, use, look, stop.
//!
//! `cargo run --example embedded`

#![allow(clippy::disallowed_macros, reason = "an example talks to its reader")]

use std::sync::Arc;
use std::time::Duration;

use conduit::client::{self, Access, RouterAddress, SocketSettings};
use conduit::identity::{Keypair, Ticket, random_bytes};
use conduit::registry::InviteParams;
use conduit::store::Store;
use conduit::transport::Secrets;
use conduit::tunnel::{Direction, Options, Protocol, TunnelId, TunnelSpec};
use conduit::{ends, relay, router, session, transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let target = TcpListener::bind("127.0.0.1:0").await?;
    let source = target.local_addr()?;

    // The router: its key, its store, its socket.
    let router = router::start(router::Settings {
        id: TunnelId::new(&"router".parse()?, 1),
        bind: "127.0.0.1:0".parse()?,
        advertise: Vec::new(),
        keypair: Arc::new(Keypair::generate()?),
        secrets: Secrets::from_seed(random_bytes()?),
        store: Store::open(&folder.path().join("router.db"))?,
        private: vec![folder.path().to_owned()],
        require_token: false,
        max_clients: 100,
        max_connections: 16_384,
        transport: transport::Settings::default(),
        session: session::Settings::default(),
        relay: relay::Settings::default(),
        dial: ends::DialSettings::default(),
        lease: Duration::from_secs(24 * 60 * 60),
        resume: Duration::from_secs(120),
        sockets: conduit::transport::Sockets::default(),
        #[cfg(unix)]
        heritage: None,
    })
    .await?;
    let address = router.local_addr().into();
    println!("router   {address}  {}", router.identity());

    // The client: a key of its own, enrolled by a ticket.
    let invitation = router
        .admin()
        .invite(InviteParams { advertise: vec![address], ..Default::default() })
        .await?;
    let ticket: Ticket = invitation.ticket.parse()?;
    let way = RouterAddress { addresses: ticket.addresses.clone(), identity: ticket.router };
    let keypair = Arc::new(Keypair::generate()?);
    let access = Access::new(keypair, way, "embedded");
    client::enrol(&access, ticket).await?;

    // The tunnel.
    let tunnel = TunnelSpec {
        name: "web".parse()?,
        direction: Direction::Forward,
        protocol: Protocol::Tcp,
        bind: "127.0.0.1:0".parse()?,
        source: source.into(),
        options: Options::default(),
    };
    let client = client::start(client::Settings {
        id: TunnelId::new(&tunnel.name, 1),
        tunnel,
        instance: Uuid::new_v4(),
        access,
        relay: relay::Settings::default(),
        sockets: SocketSettings::default(),
        dial: ends::DialSettings::default(),
        max_connections: 1_000,
        outage_wait: Duration::from_secs(10),
    })
    .await?;
    let users = client.local_addr().ok_or("users connect to no Unix socket here")?;
    println!("tunnel   {users} → {source}  ready in {:?}", client.ready_in());

    // A connection through it.
    let mut near = TcpStream::connect(users).await?;
    near.write_all(b"hello").await?;
    let (mut far, _) = target.accept().await?;
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).await?;
    println!("arrived  {:?}", std::str::from_utf8(&bytes)?);

    // What is known of it.
    if let Some(session) = client.session() {
        let path = session.path();
        println!(
            "path     rtt {:?}, mtu {}, tls {:?}",
            path.rtt,
            path.mtu,
            session.connection().negotiated()
        );
    }
    println!(
        "metrics  {}",
        client
            .metrics()
            .lines()
            .filter(|line| line.contains("bytes_sent_total"))
            .collect::<String>()
    );

    drop((near, far));
    client.shutdown(Duration::from_secs(5)).await;
    router.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
