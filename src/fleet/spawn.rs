//! Starts a tunnel process and waits until it is ready or says why not.

use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::child::Word;
use super::failure::{Failure, Kind};
use super::launch::{Launch, Output, Ready};
use super::tail::last_lines;
use crate::config::Environment;
use crate::registry::Registry;

/// A tunnel process that is ready.
#[derive(Debug)]
pub struct Spawned {
    /// What it said.
    pub ready: Ready,
    /// The process.
    pub child: Child,
    /// A leashed process drains and ends when this is dropped; any other one does not mind.
    pub leash: ChildStdin,
}

/// Spawns `conduit __tunnel` and waits for its word. When the future is dropped, the process gives up by itself.
pub async fn spawn(launch: &Launch) -> Result<Spawned, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::System, "spawn", format!("cannot start the tunnel process: {error}"))
    };
    let mut child = command(launch).map_err(failed)?.spawn().map_err(failed)?;
    let (Some(mut leash), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
    };
    let mut line = serde_json::to_vec(launch).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    // A process that died already does not take it: what it said, or how it died, tells more than this error.
    let _ = leash.write_all(&line).await;
    let mut word = String::new();
    let mut stdout = BufReader::new(stdout);
    match timeout(launch.patience(), stdout.read_line(&mut word)).await {
        Ok(Ok(read)) if read > 0 => match Word::read(&word) {
            Ok(ready) => Ok(Spawned { ready, child, leash }),
            Err(failure) => {
                // It ends by itself; its name is free when it has.
                let _ = timeout(launch.patience(), child.wait()).await;
                Err(failure)
            }
        },
        Ok(_) => {
            let status = child.wait().await.map_err(failed)?;
            Err(died(launch, status))
        }
        Err(_) => {
            let _ = child.kill().await;
            let name = &launch.spec.name;
            let message = format!("tunnel {name} was not ready in {:?}", launch.patience());
            Err(Failure::new(Kind::Network, "timed_out", message).with_hint(log_hint(launch)))
        }
    }
}

fn command(launch: &Launch) -> std::io::Result<Command> {
    let program = std::env::current_exe()?;
    // After an upgrade the file that runs has no name any more, but can still be started.
    let program = if program.exists() { program } else { "/proc/self/exe".into() };
    let mut command = Command::new(program);
    command.arg("__tunnel").stdin(Stdio::piped()).stdout(Stdio::piped());
    for other in Environment::secret_variables().iter().chain(Environment::manager_variables()) {
        command.env_remove(other);
    }
    // Otherwise the folder could not be unmounted while the tunnel runs.
    #[cfg(unix)]
    command.current_dir("/").stderr(Stdio::inherit());
    #[cfg(windows)]
    {
        let stderr = if launch.log == Output::Stderr { Stdio::inherit() } else { Stdio::null() };
        command.stderr(stderr).creation_flags(DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
    }
    #[cfg(unix)]
    if let Output::File(_) = launch.log {
        command.stderr(Stdio::null());
    }
    Ok(command)
}

fn died(launch: &Launch, status: ExitStatus) -> Failure {
    let name = &launch.spec.name;
    let mut message = format!("the process of tunnel {name} ended before it was ready ({status})");
    if let Some(lines) = last_words(launch) {
        message.push_str("; its log ends with:\n");
        message.push_str(lines.trim_end());
    }
    Failure::new(Kind::System, "died", message).with_hint(log_hint(launch))
}

fn last_words(launch: &Launch) -> Option<String> {
    let registry = Registry::open_existing(&launch.home).ok()??;
    let entry = registry.find(launch.spec.name.as_str())?;
    let path = registry.log_path(&entry.record()?.tunnel_id);
    let (lines, _) = last_lines(&path, LAST_WORDS).ok()?;
    Some(String::from_utf8_lossy(&lines).into_owned()).filter(|lines| !lines.is_empty())
}

fn log_hint(launch: &Launch) -> String {
    format!("`conduit logs {}` shows its log", launch.spec.name)
}

/// Lines of the log that are shown when a process died.
const LAST_WORDS: usize = 5;

#[cfg(windows)]
const DETACHED_PROCESS: u32 = 0x0000_0008;
#[cfg(windows)]
const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
