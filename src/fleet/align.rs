//! Brings the running processes in line with a file, and takes them down again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, Kind};
use super::host::DRAIN;
use super::launch::{Launch, Ready};
use super::spawn::spawn;
use super::stop::{ANSWER, Ending, gone, stop};
use crate::registry::{self, ClaimError, Entry, Record, Registry, Request, ask};
use crate::tunnel::{Name, TunnelState};

/// What `up` did about one tunnel.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was started.
    Started(Ready),
    /// It runs already, as the file says.
    Running {
        /// Its record.
        record: Box<Record>,
        /// The process that keeps it running, when one does.
        supervisor: Option<u32>,
        /// Why it does not answer, when it does not.
        silence: Option<String>,
    },
    /// The file has changed: it was ended and started anew.
    Restarted(Ready),
    /// It does not run.
    Failed(Failure),
}

/// Starts what does not run and restarts what runs differently; in the order given.
pub async fn bring_up(registry: &Registry, launches: Vec<Launch>) -> Vec<(Name, Outcome)> {
    let mut work = JoinSet::new();
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    for (at, launch) in launches.into_iter().enumerate() {
        let (registry, permits) = (registry.clone(), Arc::clone(&permits));
        work.spawn(async move {
            // Never closed, so there is always a permit in the end.
            let _permit = permits.acquire().await;
            let outcome = bring_one_up(&registry, &launch).await.unwrap_or_else(Outcome::Failed);
            (at, launch.spec.name.clone(), outcome)
        });
    }
    let mut done = work.join_all().await;
    done.sort_by_key(|(at, ..)| *at);
    done.into_iter().map(|(_, name, outcome)| (name, outcome)).collect()
}

async fn bring_one_up(registry: &Registry, launch: &Launch) -> Result<Outcome, Failure> {
    let Some(Entry::Live(record)) = registry.find(launch.spec.name.as_str()) else {
        return Ok(Outcome::Started(spawn(launch).await?.ready));
    };
    if record.status == TunnelState::Draining {
        // It is about to be gone, and what is asked for is one that stays.
        if !gone(registry, &record, DRAIN + GRACE).await {
            return Err(ClaimError::Running { record: Box::new(record) }.into());
        }
        return Ok(Outcome::Started(spawn(launch).await?.ready));
    }
    if record.config_hash == launch.hash() && record.config_file == launch.config_file {
        let answer = ask(&record, &Request::Version, ANSWER).await;
        let supervisor = supervisor_of(registry, &record);
        let silence = answer.err().map(|error| error.to_string());
        return Ok(Outcome::Running { record: Box::new(record), supervisor, silence });
    }
    if record.kind == registry::Kind::Router {
        return Err(ClaimError::Running { record: Box::new(record) }.into());
    }
    if record.config_file != launch.config_file {
        let owner = match &record.config_file {
            Some(file) => format!("by {}", file.display()),
            None => "by hand".to_owned(),
        };
        let message = format!("{} runs already (pid {}), started {owner}", record.name, record.pid);
        let hint =
            format!("end that one (`conduit kill --tunnel {}`), or rename this", record.name);
        return Err(Failure::new(Kind::Tunnel, "already_running", message).with_hint(hint));
    }
    if let Some(pid) = supervisor_of(registry, &record) {
        let message = format!("{} has changed, and is supervised by pid {pid}", record.name);
        return Err(Failure::new(Kind::Tunnel, "supervised", message)
            .with_hint("restart that process: it reads the file when it starts"));
    }
    stop(registry, &record, DRAIN).await?;
    Ok(Outcome::Restarted(spawn(launch).await?.ready))
}

/// Who keeps it running: nobody does any more when the one who started it is gone and it only drains.
fn supervisor_of(registry: &Registry, record: &Record) -> Option<u32> {
    let file = record.config_file.as_deref()?;
    record.supervisor.filter(|_| registry.supervisor(file).is_some())
}

/// Ends every tunnel that this file started, also those that it no longer declares; all at once.
pub async fn bring_down(
    registry: &Registry,
    file: &Path,
    drain: Duration,
) -> Vec<(Record, Result<Ending, Failure>)> {
    let mut work = JoinSet::new();
    for record in has_started(registry, file) {
        let registry = registry.clone();
        work.spawn(async move {
            let ending = stop(&registry, &record, drain).await;
            (record, ending)
        });
    }
    let mut ended = work.join_all().await;
    ended.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    ended
}

/// Ends the supervisor of this file, when there is one, and what it started in the meantime; its pid.
///
/// When its tunnels have been ended it ends by itself, but one that it was about to start again keeps it.
pub async fn end_supervisor(
    registry: &Registry,
    file: &Path,
    drain: Duration,
) -> Result<Option<u32>, Failure> {
    let supervisor = || names_of(file).iter().find_map(|name| registry.supervisor(name));
    let Some(found) = supervisor() else { return Ok(None) };
    let interrupted = found.interrupt();
    let deadline = Instant::now() + drain + GRACE;
    // One who comes after it was started on purpose.
    while supervisor().is_some_and(|now| now == found) {
        if Instant::now() >= deadline {
            let pid = found.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let why = interrupted.err().map(|error| format!(": {error}")).unwrap_or_default();
            let message = format!("the supervisor of {}{pid} still runs{why}", file.display());
            return Err(Failure::new(Kind::System, "not_ended", message)
                .with_hint("end that process: it starts the tunnels again"));
        }
        for record in has_started(registry, file) {
            stop(registry, &record, drain).await?;
        }
        sleep(PAUSE).await;
    }
    Ok(found.pid)
}

/// A file that is gone has no canonical path: then the names of its parents must do.
fn names_of(file: &Path) -> Vec<PathBuf> {
    let names = [std::path::absolute(file), std::fs::canonicalize(file)];
    names.into_iter().flatten().collect()
}

/// The living tunnels that this file started.
pub fn has_started(registry: &Registry, file: &Path) -> Vec<Record> {
    let names = names_of(file);
    let is_ours = |record: &Record| {
        record.kind == registry::Kind::Tunnel
            && record.config_file.as_ref().is_some_and(|path| names.contains(path))
    };
    let living = registry.scan().into_iter().filter_map(|entry| match entry {
        Entry::Live(record) => Some(record),
        _ => None,
    });
    living.filter(is_ours).collect()
}

/// Of what this file started, what it does not declare any more.
pub fn no_longer_declared(registry: &Registry, file: &Path, names: &[Name]) -> Vec<Record> {
    let mut started = has_started(registry, file);
    started.retain(|record| !names.contains(&record.name));
    started
}

/// Processes started at the same time: a hundred handshakes at once would only slow each other down.
const AT_ONCE: usize = 16;
/// For a supervisor to end that has nothing left to keep.
const GRACE: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
