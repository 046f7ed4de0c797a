//! The tunnel process: `conduit __tunnel`, as [`super::spawn`] starts it.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::failure::{Failure, Kind, exit};
use super::host::Claimed;
use super::launch::{Launch, Output, Ready};
use super::place::{pin_to_processors, runtime};
use super::signals::Signals;

/// The one line that a tunnel process says to its parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    Ready(Ready),
    Failed(Failure),
}

/// Runs a tunnel process: the launch comes as a line on stdin, the outcome goes as a line to stdout.
pub fn run_child() -> u8 {
    close_inherited();
    detach();
    match read_launch().and_then(|launch| {
        let leash = watch_parent();
        serve(launch, leash)
    }) {
        Ok(()) => 0,
        Err(failure) => failure.exit,
    }
}

fn serve(launch: Launch, parent: CancellationToken) -> Result<(), Failure> {
    let unpinned = pin_to_processors(&launch.tuning.cpu_affinity);
    let runtime = runtime(launch.tuning.threads)
        .map_err(|error| say_failed(Failure::new(Kind::System, "runtime", error.to_string())))?;
    let outcome = runtime.block_on(async {
        let listening = Signals::listen();
        let signals = listening.map_err(|error| {
            say_failed(Failure::new(Kind::System, "signals", error.to_string()))
        })?;
        let claimed = Claimed::new(&launch).map_err(say_failed)?;
        if launch.log == Output::Own {
            stderr_to(&claimed.log_path());
        }
        if let Err(error) = unpinned {
            warn!(%error, processors = ?launch.tuning.cpu_affinity, "cannot run on these processors");
        }
        let leashed = launch.leashed;
        let host = claimed.start(launch, parent.cancelled()).await.map_err(say_failed)?;
        say(&Word::Ready(host.ready()));
        let leash = if leashed { parent } else { CancellationToken::new() };
        host.run(signals, leash).await
    });
    // The thread that waits for the parent is not waited for.
    runtime.shutdown_background();
    outcome
}

fn read_launch() -> Result<Launch, Failure> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string());
    read.and_then(|_| serde_json::from_str(&line).map_err(|error| error.to_string())).map_err(
        |error| {
            let message = format!("this is started by conduit itself, not by people: {error}");
            say_failed(Failure::usage(message))
        },
    )
}

/// Cancelled when the parent closes its end of the pipe, by will or by dying.
fn watch_parent() -> CancellationToken {
    let gone = CancellationToken::new();
    let told = gone.clone();
    // A thread: a blocking read cannot be taken back, and a runtime would wait for it.
    let watcher = std::thread::Builder::new().name("conduit-parent".to_owned()).spawn(move || {
        let mut rest = Vec::new();
        let _ = io::Read::read_to_end(&mut io::stdin().lock(), &mut rest);
        told.cancel();
    });
    // Without the thread the process outlives a parent that dies; that is no reason not to start.
    drop(watcher);
    gone
}

fn say_failed(failure: Failure) -> Failure {
    say(&Word::Failed(failure.clone()));
    failure
}

/// Says the word and lets go of the pipe: whoever reads it sees its end.
fn say(word: &Word) {
    let mut line = serde_json::to_vec(word).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    // A parent that is gone does not hear it; the leash or the log tells.
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    #[cfg(unix)]
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Lets go of what the parent's parents left open: a tunnel that lives for months must not hold a script's lock or
/// the write end of its pipe.
#[cfg(unix)]
#[allow(unsafe_code)]
fn close_inherited() {
    let Ok(folder) = std::fs::read_dir("/dev/fd") else { return };
    let open: Vec<i32> = folder
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    // The descriptor of the listing itself is closed by now.
    let still_open =
        |descriptor: &i32| std::fs::symlink_metadata(format!("/dev/fd/{descriptor}")).is_ok();
    for descriptor in open.into_iter().filter(still_open) {
        // SAFETY: this is the first thing that the process does, so nothing in it owns a descriptor above 2.
        unsafe { rustix::io::close(descriptor) };
    }
}

/// Windows passes on only what it is told to.
#[cfg(not(unix))]
fn close_inherited() {}

/// A session of its own: no terminal can stop or hang up the tunnel.
fn detach() {
    #[cfg(unix)]
    let _ = rustix::process::setsid();
}

/// What a panic says goes to the log, and the parent's stderr is let go of.
fn stderr_to(log: &std::path::Path) {
    #[cfg(unix)]
    if let Ok(file) = std::fs::OpenOptions::new().append(true).open(log) {
        let _ = rustix::stdio::dup2_stderr(&file);
    }
    #[cfg(not(unix))]
    let _ = log;
}

impl Word {
    /// Reads a line of a tunnel process.
    pub(super) fn read(line: &str) -> Result<Ready, Failure> {
        match serde_json::from_str(line) {
            Ok(Self::Ready(ready)) => Ok(ready),
            Ok(Self::Failed(failure)) => Err(failure),
            Err(error) => Err(Failure::new(
                Kind::System,
                "spawn",
                format!("the tunnel process said something unexpected: {error}"),
            )
            .with_exit(exit::FAILURE)),
        }
    }
}
