//! `conduit demo`: router, a small web service and a tunnel in one process, and a request through them.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use uuid::Uuid;

use super::context::{Context, signals, unless_interrupted};
use crate::client::{self, Access, RouterAddress, SocketSettings};
use crate::ends::DialSettings;
use crate::files;
use crate::fleet::{Failure, Kind};
use crate::identity::{Keypair, Ticket, random_bytes};
use crate::registry::InviteParams;
use crate::router;
use crate::routes::Lease;
use crate::store::Store;
use crate::task::Tasks;
use crate::transport::Secrets;
use crate::tunnel::{Direction, Name, Options, Protocol, TunnelId, TunnelSpec};

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End after the request, also on a terminal
    #[arg(long)]
    once: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let stays = std::io::stdout().is_terminal() && !args.once && !context.json && !context.quiet;
    context.block_on(async {
        let mut signals = signals()?;
        // Nothing of the demo touches the real home.
        let home = private_folder()?;
        let tasks = Tasks::new();
        let show = show(context, home.path(), &tasks);
        let running = unless_interrupted(&mut signals, show).await?;
        if stays {
            let url = format!("http://{}/", running.tunnel.bind());
            context.line("")?;
            context.line(&format!("It stays up: open {url} or `curl {url}`. Ctrl-C ends it."))?;
            signals.next().await;
        }
        running.tunnel.shutdown(LAST_REQUESTS).await;
        running.router.shutdown(LAST_REQUESTS).await;
        tasks.shutdown(LAST_REQUESTS).await;
        Ok(0)
    })
}

struct Demo {
    router: router::Running,
    tunnel: client::Running,
}

/// Prints a step with the time that it took.
struct Steps<'a> {
    context: &'a Context,
    since: Instant,
    taken: Vec<(&'static str, f64)>,
}

impl Steps<'_> {
    fn done(&mut self, step: &'static str, text: &str) -> Result<(), Failure> {
        let ms = self.since.elapsed().as_secs_f64() * 1000.0;
        self.taken.push((step, ms));
        if !self.context.json && !self.context.quiet {
            self.context.line(&format!("  {ms:7.1} ms  {step:<9} {text}"))?;
        }
        self.since = Instant::now();
        Ok(())
    }
}

async fn show(context: &Context, home: &Path, tasks: &Tasks) -> Result<Demo, Failure> {
    let mut steps = Steps { context, since: Instant::now(), taken: Vec::new() };
    let web = start_web(tasks).await?;
    steps.done("service", &format!("a small web service listens on {web}"))?;

    let router = start_router(home).await?;
    let addr = router.local_addr();
    steps.done("router", &format!("a router with a new identity listens on {addr}"))?;

    let params = InviteParams { advertise: vec![addr.into()], ..InviteParams::default() };
    let invitation = router.admin().invite(params).await?;
    let ticket: Ticket = invitation.ticket.parse().map_err(|error| unexpected(&error))?;
    let keypair = Arc::new(Keypair::generate()?);
    let address = RouterAddress { addresses: vec![addr.into()], identity: router.identity() };
    let access = Access::new(keypair, address, "demo");
    let enrolled = client::enrol(&access, ticket).await?;
    let text = format!(
        "a client with a key of its own enrolled with a single-use ticket, as {}",
        enrolled.name
    );
    steps.done("enrolment", &text)?;

    let tunnel = start_tunnel(access, web).await?;
    let bind = tunnel.local_addr().ok_or_else(|| lost("the tunnel has no address"))?;
    steps.done("tunnel", &format!("{bind} → {web} over QUIC (TLS 1.3, both keys pinned)"))?;

    let through = request(bind).await?;
    steps.done(
        "request",
        &format!("GET http://{bind}/ → {}", through.lines().next().unwrap_or_default()),
    )?;
    let again = request(bind).await?;
    steps.done("again", "the same once more, now that everything is warm")?;
    check(&through)?;
    check(&again)?;
    if context.json {
        let taken = steps.taken.iter().map(|(step, ms)| json!({"step": step, "ms": ms}));
        let steps: Vec<_> = taken.collect();
        context.document(&json!({"schema": "conduit.demo/1", "ok": true, "steps": steps}))?;
    } else if !context.quiet {
        context.line("")?;
        context.line(&format!("The bytes came through: {:?}", body(&through)))?;
    }
    Ok(Demo { router, tunnel })
}

async fn start_router(home: &Path) -> Result<router::Running, Failure> {
    let settings = router::Settings {
        id: TunnelId::new(&name("router")?, 0),
        bind: loopback(),
        advertise: Vec::new(),
        keypair: Arc::new(Keypair::generate()?),
        secrets: Secrets::from_seed(random_bytes()?),
        store: Store::open(&home.join("router.db"))?,
        private: vec![home.to_owned()],
        require_token: false,
        max_clients: 16,
        max_connections: 16_384,
        transport: crate::transport::Settings::default(),
        session: crate::session::Settings::default(),
        relay: crate::relay::Settings::default(),
        dial: DialSettings::default(),
        lease: Lease::MEMORY,
        resume: Options::RESUME,
        sockets: crate::transport::Sockets::default(),
        #[cfg(unix)]
        heritage: None,
    };
    Ok(router::start(settings).await?)
}

async fn start_tunnel(access: Access, web: SocketAddr) -> Result<client::Running, Failure> {
    let name = name("demo")?;
    let settings = client::Settings {
        id: TunnelId::new(&name, 0),
        instance: Uuid::new_v4(),
        tunnel: TunnelSpec {
            name,
            direction: Direction::Forward,
            protocol: Protocol::Tcp,
            bind: loopback().into(),
            source: web.into(),
            options: Options::default(),
        },
        access,
        relay: crate::relay::Settings::default(),
        sockets: SocketSettings::default(),
        dial: DialSettings::default(),
        max_connections: 1024,
        outage_wait: Duration::from_secs(10),
    };
    Ok(client::start(settings).await?)
}

/// A web service in as few lines as it takes: one page, one answer per connection.
async fn start_web(tasks: &Tasks) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(loopback()).await.map_err(|error| unexpected(&error))?;
    let addr = listener.local_addr().map_err(|error| unexpected(&error))?;
    let visitors = tasks.clone();
    tasks.spawn_until_cancelled("web", async move {
        while let Ok((stream, _)) = listener.accept().await {
            visitors.spawn_until_cancelled("visitor", answer(stream));
        }
    });
    Ok(addr)
}

async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut block = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") && request.len() < 16_384 {
        match timeout(ONE_REQUEST, stream.read(&mut block)).await {
            Ok(Ok(read)) if read > 0 => request.extend_from_slice(&block[..read]),
            _ => return,
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close";
    let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{GREETING}", GREETING.len());
    // A visitor that has left needs no answer.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// One request by hand; the whole answer.
async fn request(addr: SocketAddr) -> Result<String, Failure> {
    let conversation = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(ONE_REQUEST, conversation).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(lost(&format!("the request through the tunnel failed: {error}"))),
        Err(_) => Err(lost("the request through the tunnel had no answer in time")),
    }
}

fn check(answer: &str) -> Result<(), Failure> {
    if answer.starts_with("HTTP/1.1 200") && body(answer) == GREETING {
        return Ok(());
    }
    Err(lost(&format!("other bytes came through the tunnel than were sent: {answer:?}")))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

fn lost(message: &str) -> Failure {
    Failure::new(Kind::Tunnel, "demo", message)
}

fn unexpected(error: &dyn std::error::Error) -> Failure {
    Failure::new(Kind::System, "demo", error.to_string())
}

fn name(text: &str) -> Result<Name, Failure> {
    text.parse().map_err(|error: crate::tunnel::NameError| unexpected(&error))
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn private_folder() -> Result<tempfile::TempDir, Failure> {
    let folder = tempfile::Builder::new().prefix("conduit-demo-").tempdir();
    let folder = folder.map_err(|error| unexpected(&error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder.path(), mode).map_err(|error| unexpected(&error))?;
    }
    files::check_private_dir(folder.path())?;
    Ok(folder)
}

const GREETING: &str = "Hello from the other end of the tunnel.\n";
const ONE_REQUEST: Duration = Duration::from_secs(10);
/// Whoever is being answered when the demo ends.
const LAST_REQUESTS: Duration = Duration::from_millis(500);
