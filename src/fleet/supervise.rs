//! One supervisor for a whole file: keeps a process per tunnel, drains them all, and ends when one cannot be kept.

use std::collections::HashSet;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::failure::{Failure, Kind};
use super::host::DRAIN;
use super::launch::{Launch, Ready};
use super::manager::{tell_ready, tell_stopping};
use super::reap::reap_orphans;
use super::signals::Signals;
use super::spawn::{Spawned, spawn};
use crate::client::TAKEN_OVER;
use crate::registry::{Entry, Record, Registry, now_rfc3339};
use crate::task::Tasks;
use crate::tunnel::{Name, TunnelState};

/// What happened to a tunnel, for whoever watches.
#[derive(Clone, Debug)]
pub enum Event {
    /// It is ready, for the first time or again.
    Ready(Name, Ready),
    /// It is not, and is tried again after a while.
    Again(Name, Failure, Duration),
    /// It cannot be kept.
    Lost(Name, Failure),
    /// Somebody ended it, so it stays ended.
    Ended(Name),
    /// Another process has it now, here or elsewhere: it stays ended, or both would take it from each other for ever.
    TakenOver(Name, Failure),
}

impl Event {
    fn name(&self) -> &Name {
        match self {
            Self::Ready(name, _)
            | Self::Again(name, ..)
            | Self::Lost(name, _)
            | Self::Ended(name)
            | Self::TakenOver(name, _) => name,
        }
    }
}

/// Keeps all of them until a signal (drains, a second one ends at once), until one cannot be kept, or until
/// somebody has ended them all. That one was taken over is an error only when nothing else is left to keep.
pub async fn supervise(
    launches: Vec<Launch>,
    mut signals: Signals,
    mut report: impl FnMut(Event),
) -> Result<(), Failure> {
    let tasks = Tasks::new();
    let mut unheard: HashSet<Name> = launches.iter().map(|it| it.spec.name.clone()).collect();
    let now = CancellationToken::new();
    let (tell, mut events) = mpsc::channel(EVENTS);
    // A second that has begun: every moment in it comes later as a text.
    let since = now_rfc3339().trim_end_matches('Z').to_owned();
    for launch in launches {
        let (now, tell, since) = (now.clone(), tell.clone(), since.clone());
        let keeper = Keeper { launch, stop: tasks.token().clone(), now, tell, since };
        tasks.spawn("keeper", keeper.keep());
    }
    drop(tell);
    if std::process::id() == 1 {
        tasks.spawn_until_cancelled("reaper", reap_orphans());
    }
    let (mut lost, mut taken_over) = (None, None);
    let mut is_ending = false;
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { break };
                // Each is up, or has said why it is not.
                if unheard.remove(event.name()) && unheard.is_empty() {
                    tell_ready(&tasks);
                }
                match &event {
                    Event::Lost(_, failure) => {
                        lost.get_or_insert(failure.clone());
                        is_ending = true;
                        tasks.token().cancel();
                    }
                    Event::TakenOver(_, failure) => taken_over = Some(failure.clone()),
                    _ => {}
                }
                report(event);
            }
            () = signals.next() => {
                if std::mem::replace(&mut is_ending, true) {
                    now.cancel();
                } else {
                    info!("draining");
                    tell_stopping();
                    tasks.token().cancel();
                }
            }
        }
    }
    tasks.shutdown(FAREWELL).await;
    lost.or(taken_over.filter(|_| !is_ending)).map_or(Ok(()), Err)
}

/// How the process of a tunnel ended.
enum End {
    /// The supervisor ended it.
    Ours,
    /// Somebody else asked it to.
    Asked,
    /// It was not to end.
    Unasked(Failure),
}

struct Keeper {
    launch: Launch,
    /// Drain.
    stop: CancellationToken,
    /// Do not drain any longer.
    now: CancellationToken,
    tell: mpsc::Sender<Event>,
    /// Records from before are of another supervisor.
    since: String,
}

impl Keeper {
    async fn keep(self) {
        let name = self.launch.spec.name.clone();
        // Failures in a row: of starts without a success, and of anything.
        let (mut starts, mut failures) = (0_u32, 0_u32);
        loop {
            let spawned = tokio::select! {
                spawned = spawn(&self.launch) => spawned,
                // The dropped pipe tells the process to give up.
                () = self.stop.cancelled() => return,
            };
            let failure = match spawned {
                Ok(spawned) => {
                    starts = 0;
                    let since = Instant::now();
                    self.say(Event::Ready(name.clone(), spawned.ready.clone())).await;
                    let failure = match self.watch(spawned).await {
                        End::Ours => return,
                        End::Asked => return self.say(Event::Ended(name)).await,
                        End::Unasked(failure) => failure,
                    };
                    if since.elapsed() > STEADY {
                        failures = 0;
                    }
                    failure
                }
                Err(failure) => {
                    starts += 1;
                    failure
                }
            };
            if let Some(reason) = self.taken_over() {
                let failure = Failure::new(Kind::Tunnel, "taken_over", reason);
                return self.say(Event::TakenOver(name, failure)).await;
            }
            if failure.is_permanent() || starts >= STARTS {
                self.say(Event::Lost(name, failure)).await;
                return;
            }
            let pause = back_off(failures);
            failures += 1;
            self.say(Event::Again(name.clone(), failure, pause)).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
            // Whoever had to kill it recorded that by now.
            if self.was_killed_on_purpose() {
                return self.say(Event::Ended(name)).await;
            }
        }
    }

    /// One that did not answer, or was not ready yet, cannot end as it is asked to.
    fn was_killed_on_purpose(&self) -> bool {
        self.ended().is_some_and(|record| record.status == TunnelState::Stopped)
    }

    /// Why, if another process has the tunnel.
    fn taken_over(&self) -> Option<String> {
        self.ended()?.last_error.filter(|reason| reason.starts_with(TAKEN_OVER))
    }

    /// What the last process of ours has left.
    fn ended(&self) -> Option<Record> {
        let registry = Registry::open_existing(&self.launch.home).ok().flatten();
        let entry = registry.and_then(|registry| registry.find(self.launch.spec.name.as_str()));
        let Some(Entry::Ended(record)) = entry else { return None };
        let is_ours = record.supervisor.is_none_or(|pid| pid == std::process::id());
        (is_ours && record.created_at >= self.since).then_some(record)
    }

    /// Waits for the end of a tunnel.
    async fn watch(&self, spawned: Spawned) -> End {
        let Spawned { ready, mut child, leash } = spawned;
        tokio::select! {
            status = child.wait() => {
                // Only what was asked to end, over its control socket or by a signal, ends so.
                if status.as_ref().is_ok_and(ExitStatus::success) {
                    return End::Asked;
                }
                let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                let message = format!("tunnel {} ended ({how})", ready.id);
                return End::Unasked(Failure::new(Kind::Tunnel, "ended", message));
            }
            () = self.stop.cancelled() => {}
        }
        drop(leash);
        let drained = tokio::select! {
            ended = timeout(DRAIN + GRACE, child.wait()) => ended.is_ok(),
            () = self.now.cancelled() => {
                hurry(&child);
                timeout(GRACE, child.wait()).await.is_ok()
            }
        };
        if !drained {
            warn!(tunnel = %ready.id, "did not end in time and is killed");
            let _ = child.kill().await;
        }
        End::Ours
    }

    async fn say(&self, event: Event) {
        // The supervisor listens until the last keeper is gone.
        let _ = self.tell.send(event).await;
    }
}

/// A signal to a tunnel that drains already ends it at once.
fn hurry(child: &Child) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    #[cfg(not(unix))]
    let _ = child;
}

fn back_off(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE)
}

/// Tries without a single success before a tunnel counts as lost: the service manager decides what happens then.
const STARTS: u32 = 5;
/// A tunnel that was up for this long starts to count its failures anew.
const STEADY: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// For a process to end when it has drained, or was told not to.
const GRACE: Duration = Duration::from_secs(5);
const FAREWELL: Duration = Duration::from_secs(1);
const EVENTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        assert_eq!(back_off(0), Duration::from_millis(250));
        assert_eq!(back_off(2), Duration::from_secs(1));
        assert_eq!(back_off(30), LONGEST_PAUSE);
    }
}
