//! `conduit connect`: one connection on stdin and stdout.

use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::thread;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::context::{Context, signals, unless_interrupted};
use super::prepare::{client_file, prepare};
use super::reach::RouterArgs;
use crate::client;
use crate::config::ClientConfig;
use crate::ends::Stream;
use crate::fleet::{Failure, Kind, exit};
use crate::relay::EndedBy;
use crate::tunnel::Target;
use crate::wire::Code;

/// Options of `connect`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// What the router dials: HOST:PORT or unix:/PATH
    #[arg(value_name = "HOST:PORT")]
    target: Target,
    #[command(flatten)]
    router: RouterArgs,
    /// Read settings (not tunnels) from this file [default: conduit.toml here, or in CONDUIT_HOME]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let file = client_file(args.file.as_deref(), context)?;
    let overrides = args.router.overrides();
    let loaded = ClientConfig::load(file.as_deref(), &context.environment, &overrides)?;
    context.block_on(async {
        let mut signals = signals()?;
        let work = async {
            let prepared = prepare(context, loaded, None).await?;
            let once = prepared.once(&args.target)?;
            let (user, written) = stdio().map_err(|error| {
                Failure::new(Kind::System, "stdio", format!("stdin and stdout: {error}"))
            })?;
            let stop = CancellationToken::new();
            let ended_by = client::once(&once, user, &stop).await?;
            // What came last is on its way to stdout.
            let _ = written.await;
            outcome(args, ended_by)
        };
        unless_interrupted(&mut signals, work).await
    })
}

/// The exit code says whether the connection ended as both sides wanted.
fn outcome(args: &Args, ended_by: EndedBy) -> Result<u8, Failure> {
    let target = &args.target;
    let failure = match ended_by {
        EndedBy::Done | EndedBy::Killed => return Ok(0),
        // Nobody reads stdout any more: as with `head`, no failure of ours.
        EndedBy::Socket(_) => return Ok(0),
        EndedBy::Refused { code: Code::Denied, message } => {
            let message = format!("the router does not allow {target}: {message}");
            Failure::new(Kind::Policy, "target_denied", message)
        }
        EndedBy::Refused { code, message } => {
            Failure::new(Kind::Network, code.name(), message).with_exit(exit::UNAVAILABLE)
        }
        other => Failure::new(Kind::Network, "broken", format!("{target}: {other}")),
    };
    Err(failure)
}

/// Stdin and stdout as one socket, and the news that everything has been written out.
fn stdio() -> io::Result<(Stream, oneshot::Receiver<()>)> {
    let (ours, theirs) = pair()?;
    let reading = theirs.try_clone()?;
    let (done, written) = oneshot::channel();
    // Threads: the standard streams cannot be waited for otherwise, and reading from a terminal cannot be taken back.
    thread::Builder::new().name("conduit-stdin".to_owned()).spawn(move || {
        let mut theirs = &theirs;
        // An end of either side is the end of this direction, whatever the reason.
        let _ = copy(&mut io::stdin().lock(), &mut theirs);
        let _ = theirs.shutdown(Shutdown::Write);
    })?;
    let leaves_with_peer = io::stdin().is_terminal();
    thread::Builder::new().name("conduit-stdout".to_owned()).spawn(move || {
        let mut reading = &reading;
        let mut stdout = io::stdout().lock();
        let has_reader = copy(&mut reading, &mut stdout).is_ok() && stdout.flush().is_ok();
        if leaves_with_peer || !has_reader {
            // Nobody should have to press a key to leave a connection that is over, and where nobody reads, nothing
            // that may still come on stdin is of use.
            let _ = reading.shutdown(Shutdown::Both);
        }
        let _ = done.send(());
    })?;
    Ok((ours, written))
}

/// Copies as bytes come: what a person types must not wait for more.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut block = vec![0; 64 << 10];
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&block[..read])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Two sockets that are connected with each other: one for the session, one for threads.
#[cfg(unix)]
fn pair() -> io::Result<(Stream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?.into(), theirs))
}

/// Where sockets have no pairs, two that meet on loopback.
#[cfg(not(unix))]
fn pair() -> io::Result<(Stream, std::net::TcpStream)> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let theirs = std::net::TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (ours, peer) = listener.accept()?;
        // Somebody else may have been faster.
        if peer == theirs.local_addr()? {
            ours.set_nonblocking(true)?;
            return Ok((tokio::net::TcpStream::from_std(ours)?.into(), theirs));
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  ssh -o ProxyCommand='conduit connect %h:%p' user@10.2.0.7
      a login on a host that only the router reaches
  printf 'PING\\r\\n' | conduit connect 10.2.0.9:6379
      one question, one answer

Exit codes: 0 when the connection ended as it should, 69 when the target cannot be reached, 77 when the
router does not allow it.";
