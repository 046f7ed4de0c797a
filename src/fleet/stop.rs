//! Ends a process: asks it, waits until it is gone and its port is free, and kills it when it does not listen.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::failure::{Failure, Kind, exit};
use super::host::CUT_OFF;
use crate::registry::{CallError, Presence, Record, Registry, Request, ask};

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it was asked to.
    Stopped,
    /// As it was asked to, but connections were still open when the drain was over.
    CutOff,
    /// It was gone already.
    Gone,
    /// It had to be killed, and why.
    Forced(String),
}

/// Ends the process: connections may finish for `drain`, then it is killed. Returns when it is gone.
///
/// One that does not answer within 800 ms is killed without further ado: it would not drain either.
pub async fn stop(
    registry: &Registry,
    record: &Record,
    drain: Duration,
) -> Result<Ending, Failure> {
    let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
    let id = &record.tunnel_id;
    let why = match ask(record, &Request::Shutdown { drain_ms }, ANSWER).await {
        Ok(_) => {
            if gone(registry, record, drain + GRACE).await {
                return Ok(ending_of(registry, record));
            }
            format!("{id} was asked to end and still ran {:?} later", drain + GRACE)
        }
        // It may be ending by itself at this moment.
        Err(CallError::NotRunning { .. } | CallError::Closed { .. } | CallError::Failed { .. })
            if gone(registry, record, GRACE).await =>
        {
            return Ok(Ending::Gone);
        }
        Err(error @ (CallError::Version { .. } | CallError::Untrusted { .. })) => {
            return Err(error.into());
        }
        Err(CallError::TimedOut { after, .. }) => {
            format!("{id} did not answer within {} ms", after.as_millis())
        }
        Err(error) => error.to_string(),
    };
    force(registry, record, why).await
}

/// The process itself knows whether anything was cut off.
fn ending_of(registry: &Registry, record: &Record) -> Ending {
    let ended = registry.find(record.tunnel_id.as_str());
    let reason = ended.and_then(|entry| entry.record()?.last_error.clone());
    if reason.as_deref() == Some(CUT_OFF) { Ending::CutOff } else { Ending::Stopped }
}

async fn force(registry: &Registry, record: &Record, why: String) -> Result<Ending, Failure> {
    let id = &record.tunnel_id;
    let cannot = |what: String| {
        let message = format!("cannot end {id}: {what}");
        let hint = format!("`kill -9 {}` ends it, when that is its process", record.pid);
        Failure::new(Kind::System, "not_killed", message)
            .with_hint(hint)
            .with_exit(exit::UNAVAILABLE)
    };
    record.kill_process().map_err(|error| cannot(format!("{why}, and {error}")))?;
    if !gone(registry, record, GRACE).await {
        return Err(cannot(format!("{why}, was killed, and is still there")));
    }
    registry.record_killed(record, &why);
    Ok(Ending::Forced(why))
}

/// Waits until the process is gone: its lock is free, and with it every port that it had.
pub async fn gone(registry: &Registry, record: &Record, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        // The lock tells of the name, the process table of this very process: a successor may have the name.
        let is_held = registry.is_held(&record.name);
        match record.presence() {
            Presence::Gone => return true,
            Presence::Unknown if !is_held => return true,
            _ if Instant::now() >= deadline => return false,
            _ => sleep(PAUSE).await,
        }
    }
}

/// How long a process may take to say that it will end.
pub(super) const ANSWER: Duration = Duration::from_millis(800);
/// How long it may take to end when nothing is left to drain.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
