//! The host of one tunnel within its process: claims the name, starts the client, answers for it, records its end.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::failure::{Failure, Kind};
use super::launch::{Launch, Output, Ready};
use super::manager::tell_stopping;
use super::signals::Signals;
use crate::client::{self, Running};
use crate::registry::{
    Call, Claim, ControlListener, Entry, Place, Record, Registry, Request, RpcError,
};
use crate::task::Tasks;
use crate::telemetry::{self, LogControl};
use crate::tunnel::TunnelState;

/// A tunnel whose name is claimed and whose log is open, but that is not up yet.
#[derive(Debug)]
pub struct Claimed {
    claim: Claim,
    log: LogControl,
}

/// A tunnel that is up.
pub struct Host {
    launch: Launch,
    claim: Claim,
    running: Running,
    tasks: Tasks,
}

impl Claimed {
    /// Takes the name and opens the log, which is the process's only one.
    pub fn new(launch: &Launch) -> Result<Self, Failure> {
        let registry = Registry::open(&launch.home)?.with_runtime_dir(launch.runtime_dir.clone());
        registry.purge_ended(Registry::KEEP_ENDED);
        let mut claim = registry.claim(launch.record())?;
        if launch.leashed {
            claim.update(|record| record.supervisor = parent())?;
        }
        let own = registry.log_path(&claim.record().tunnel_id);
        if let Output::File(file) = &launch.log {
            point(&own, file);
        }
        match telemetry::init(&launch.log_settings(own)) {
            Ok(log) => {
                for notice in &launch.notices {
                    debug!("{notice}");
                }
                Ok(Self { claim, log })
            }
            Err(failed) => {
                let failure = Failure::from(failed);
                end(claim, TunnelState::Failed, Some(format!("{NEVER_READY}{failure}")));
                Err(failure)
            }
        }
    }

    /// The registry's log of this tunnel; there is none when it logs to the terminal.
    pub fn log_path(&self) -> PathBuf {
        self.claim.registry().log_path(&self.claim.record().tunnel_id)
    }

    /// Brings the tunnel up; when `abort` is first, ends in an orderly way instead.
    pub async fn start(
        self,
        launch: Launch,
        abort: impl Future<Output = ()>,
    ) -> Result<Host, Failure> {
        let Self { mut claim, log } = self;
        let tasks = Tasks::new();
        let started = tokio::select! {
            started = bring_up(&launch, &mut claim, log, &tasks) => started,
            () = abort => {
                let interrupted = "interrupted before it was ready";
                Err(Failure::new(Kind::System, "interrupted", interrupted))
            }
        };
        match started {
            Ok(running) => Ok(Host { launch, claim, running, tasks }),
            Err(failure) => {
                let failure = naming_holder(failure, claim.record(), claim.registry());
                error!(tunnel = %claim.record().tunnel_id, reason = %failure, "not started");
                tasks.shutdown(FAREWELL).await;
                end(claim, TunnelState::Failed, Some(format!("{NEVER_READY}{failure}")));
                Err(failure)
            }
        }
    }
}

async fn bring_up(
    launch: &Launch,
    claim: &mut Claim,
    log: LogControl,
    tasks: &Tasks,
) -> Result<Running, Failure> {
    let settings = launch.settings(claim.record())?;
    // Bound before anything is sent: a process that cannot be asked or stopped must not run.
    let control = claim.listen()?;
    let running = client::start(settings).await?;
    let bind = running.bind();
    let recorded = claim.update(|record| {
        record.status = TunnelState::Ready;
        record.config.bind = Some(bind);
    });
    if let Err(failed) = recorded {
        running.shutdown(Duration::ZERO).await;
        return Err(failed.into());
    }
    serve_control(control, running.calls(), log, tasks);
    Ok(running)
}

/// A port that cannot be bound may be that of another process here: then that is what to end.
fn naming_holder(failure: Failure, own: &Record, registry: &Registry) -> Failure {
    if failure.code != "bind_failed" {
        return failure;
    }
    let wanted = own.config.places();
    let holder = registry.scan().into_iter().find_map(|entry| match entry {
        Entry::Live(other) if other.tunnel_id != own.tunnel_id => {
            let places = other.config.places();
            let is_shared = wanted.iter().any(|place| places.iter().any(|it| meet(place, it)));
            is_shared.then_some(other.tunnel_id)
        }
        _ => None,
    });
    match holder {
        Some(id) => {
            let hint = format!("{id} listens there: `conduit kill --tunnel {id}` ends it");
            failure.with_hint(hint)
        }
        None => failure,
    }
}

/// Whether two listeners get in each other's way.
fn meet((one_protocol, one): &Place, (other_protocol, other): &Place) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one_protocol == other_protocol && one.port() == other.port() && (any || one.ip() == other.ip())
}

impl Host {
    /// What there is to say now that it is ready.
    pub fn ready(&self) -> Ready {
        let ready_in = self.running.ready_in();
        Ready {
            id: self.record().tunnel_id.clone(),
            pid: std::process::id(),
            direction: self.launch.spec.direction,
            bind: self.running.bind(),
            source: self.launch.spec.source.clone(),
            ready_ms: u64::try_from(ready_in.as_millis()).unwrap_or(u64::MAX),
            carrier: self.running.carrier().to_string(),
        }
    }

    /// The record.
    pub fn record(&self) -> &Record {
        self.claim.record()
    }

    /// Serves until a signal, the end of `leash` (drains) or a second signal (at once), or until it cannot go on.
    pub async fn run(
        mut self,
        mut signals: Signals,
        leash: CancellationToken,
    ) -> Result<(), Failure> {
        let ended = self.serve(&mut signals, &leash).await;
        let id = self.record().tunnel_id.clone();
        let outcome = match ended {
            client::End::Stopped { forced } => {
                info!(tunnel = %id, forced, "stopped");
                // One that ends in order lets go of the leash, too, and waits.
                let is_abandoned = leash.is_cancelled() && self.record().supervisor != parent();
                let left = is_abandoned.then(|| ABANDONED.to_owned());
                Ok(forced.then(|| CUT_OFF.to_owned()).or(left))
            }
            client::End::Failed(reason) => {
                error!(tunnel = %id, %reason, "failed");
                let message = format!("tunnel {id} ended: {reason}");
                Err((reason, Failure::new(Kind::Tunnel, "ended", message)))
            }
        };
        self.tasks.shutdown(FAREWELL).await;
        match outcome {
            Ok(reason) => {
                end(self.claim, TunnelState::Stopped, reason);
                Ok(())
            }
            Err((reason, failure)) => {
                end(self.claim, TunnelState::Failed, Some(reason));
                Err(failure)
            }
        }
    }

    async fn serve(&mut self, signals: &mut Signals, leash: &CancellationToken) -> client::End {
        let mut state = self.running.state();
        let mut is_watching = true;
        loop {
            tokio::select! {
                end = self.running.ended() => return end,
                () = self.running.broken() => {
                    self.running.shutdown(Duration::ZERO).await;
                    return client::End::Failed(BROKEN.to_owned());
                }
                changed = state.changed(), if is_watching => {
                    is_watching = changed.is_ok();
                    let now = *state.borrow_and_update();
                    self.note(now);
                }
                () = signals.next() => break,
                () = leash.cancelled() => break,
            }
        }
        info!(tunnel = %self.record().tunnel_id, "asked to end; a second signal ends it at once");
        tell_stopping();
        self.note(TunnelState::Draining);
        tokio::select! {
            () = self.running.shutdown(DRAIN) => {}
            () = signals.next() => self.running.shutdown(Duration::ZERO).await,
        }
        self.running.ended().await
    }

    /// A state of the moment; when the disk is full the record is late, and the tunnel goes on.
    fn note(&mut self, state: TunnelState) {
        if state == TunnelState::Stopped {
            // The end is recorded where it ends.
            return;
        }
        // That a session closes is no error when it was asked for.
        let reason = self.running.last_error().filter(|_| state != TunnelState::Draining);
        let noted = self.claim.update(|record| {
            record.status = state;
            // What is over does not explain what comes later.
            let before = record.last_error.take().filter(|_| state != TunnelState::Ready);
            record.last_error = reason.or(before);
        });
        if let Err(failed) = noted {
            warn!(error = %failed, "the record could not be written");
        }
    }
}

/// Answers the control socket: `logs.level` here, everything else by whoever takes `calls`.
pub fn serve_control(
    control: ControlListener,
    calls: mpsc::Sender<Call>,
    log: LogControl,
    tasks: &Tasks,
) {
    let (asked, mut questions) = mpsc::channel::<Call>(CALLS);
    let stop = tasks.token().clone();
    tasks.spawn("control", control.serve(asked, stop));
    tasks.spawn("control calls", async move {
        while let Some(call) = questions.recv().await {
            if let Request::LogsLevel { level } = &call.request {
                let answer = log.set_level(level).map(|()| serde_json::json!({ "level": level }));
                let invalid = |error: telemetry::LogError| {
                    RpcError::new(RpcError::INVALID_PARAMS, error.to_string())
                };
                // Whoever asked may be gone.
                let _ = call.reply.send(answer.map_err(invalid));
            } else if calls.send(call).await.is_err() {
                // The dropped reply says that the process is ending.
                break;
            }
        }
    });
}

fn end(claim: Claim, state: TunnelState, reason: Option<String>) {
    if let Err(failed) = claim.end(state, reason) {
        warn!(error = %failed, "the end could not be recorded");
    }
}

/// Whoever started this process.
fn parent() -> Option<u32> {
    #[cfg(unix)]
    return Some(std::os::unix::process::parent_id());
    #[cfg(not(unix))]
    None
}

/// Lets `logs` find a log that the configuration put elsewhere. Without it nothing else suffers.
fn point(own: &std::path::Path, file: &std::path::Path) {
    #[cfg(unix)]
    let _ = std::os::unix::fs::symlink(file, own);
    #[cfg(not(unix))]
    let _ = (own, file);
}

/// How long connections may finish when the process is asked to end.
pub const DRAIN: Duration = Duration::from_secs(30);
/// What the reason of a tunnel starts with that never was ready: its failure was reported to whoever started it.
pub const NEVER_READY: &str = "not started: ";
/// What the record says of a process whose connections did not finish in the time that they had.
pub const CUT_OFF: &str = "open connections were cut off";
/// What the record says when a part has panicked: stderr, which is the log, has where.
pub const BROKEN: &str = "a part of the process has failed, which its log shows";
/// What it says of a tunnel that ended because whoever kept it running was gone.
const ABANDONED: &str = "the process that kept it running is gone";
/// For the control socket's last answers.
const FAREWELL: Duration = Duration::from_secs(2);
/// Questions under way; more wait in their sockets.
const CALLS: usize = 16;
