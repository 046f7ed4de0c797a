//! The baselines: two processes that copy between TCP connections, in the clear or with TLS between them.
//!
//! They are what a tunnel costs that does nothing else: the same two hops as Conduit's, one thread each, a connection
//! between them for every user's. TLS has our provider and our suites, shows the far process's key, asks the near one
//! for none, and resumes sessions as rustls does by default.

use std::io::{self, BufRead, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::{env, thread};

use conduit::identity::Keypair;
use data_encoding::HEXLOWER;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::runtime;

mod tls;

/// Both processes; they end when this is dropped.
pub(crate) struct Relay {
    /// Where users connect.
    pub(crate) addr: SocketAddr,
    near: Child,
    far: Child,
}

impl Relay {
    pub(crate) fn start(target: SocketAddr, encrypted: bool) -> Self {
        let seed: [u8; 32] = conduit::identity::random_bytes().expect("random bytes");
        let key = if encrypted { HEXLOWER.encode(&seed) } else { PLAIN.to_owned() };
        let (far, between) = spawn(FAR, target, &key);
        let (near, addr) = spawn(NEAR, between, &key);
        Self { addr, near, far }
    }

    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.near.id(), self.far.id()]
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for process in [&mut self.near, &mut self.far] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Runs this very program as one of the two; it says where it listens.
fn spawn(role: &str, next: SocketAddr, key: &str) -> (Child, SocketAddr) {
    let own = env::current_exe().expect("this program's path");
    let mut command = Command::new(own);
    command.args([ROLE, role, &next.to_string(), key]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a relay");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    io::BufReader::new(stdout).read_line(&mut line).expect("an address");
    let addr = line.trim().parse().expect("an address");
    (child, addr)
}

/// Serves as a relay when the arguments say so, and does not come back then. The first call of `main`.
pub(crate) fn serve_if_asked() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [word, role, next, key] = &arguments[..] else { return };
    if word != ROLE {
        return;
    }
    // However the benchmark ends, its end of the pipe closes.
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    super::allow_many_files();
    let next = next.parse().expect("an address");
    let seed = HEXLOWER.decode(key.as_bytes()).ok().and_then(|seed| seed.try_into().ok());
    let keypair = seed.map(Keypair::from_seed);
    runtime().block_on(async {
        match (role.as_str(), keypair) {
            (NEAR, Some(keypair)) => near_tls(next, tls::connector(&keypair)).await,
            (FAR, Some(keypair)) => far_tls(next, tls::acceptor(&keypair)).await,
            (NEAR | FAR, None) => plain(next).await,
            (other, _) => panic!("no such role: {other}"),
        }
    });
}

async fn plain(next: SocketAddr) {
    serve(move |user| async move { copy(user, dial(next).await?).await }).await;
}

async fn near_tls(next: SocketAddr, connector: TlsConnector) {
    let name = rustls::pki_types::ServerName::IpAddress(next.ip().into());
    serve(move |user| {
        let (connector, name) = (connector.clone(), name.clone());
        async move { copy(user, connector.connect(name, dial(next).await?).await?).await }
    })
    .await;
}

async fn far_tls(next: SocketAddr, acceptor: TlsAcceptor) {
    serve(move |user| {
        let acceptor = acceptor.clone();
        async move { copy(acceptor.accept(user).await?, dial(next).await?).await }
    })
    .await;
}

async fn serve<W: Future<Output = io::Result<()>> + Send + 'static>(each: impl Fn(TcpStream) -> W) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    println!("{}", listener.local_addr().expect("its address"));
    loop {
        let Ok((user, _)) = listener.accept().await else { continue };
        let _ = user.set_nodelay(true);
        // That a user goes away is nothing to tell anybody.
        tokio::spawn(each(user));
    }
}

async fn dial(next: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(next).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn copy<A, B>(mut near: A, mut far: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await.map(drop)
}

/// tokio's 8 KiB are for many connections; these are for speed.
const BUFFER: usize = 64 << 10;
/// Before the arguments of a relay.
const ROLE: &str = "--relay";
const NEAR: &str = "near";
const FAR: &str = "far";
/// Instead of a key.
const PLAIN: &str = "plain";
