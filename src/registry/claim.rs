//! Claiming a name: of many that try at once one wins, and keeps the name for as long as it lives.

#[cfg(unix)]
mod handover;

use std::io;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::damaged::Damaged;
use super::folder::{Entry, Registry, RegistryError};
use super::lock::NameLock;
use super::process::Presence;
use super::record::{Kind, NewRecord, Record, now_rfc3339};
use super::serve::ControlListener;
use super::socket;
use crate::files;
use crate::tunnel::{TunnelId, TunnelState};

/// A claimed name. While it lives, the lock is held; a process that dies lets go of it.
#[derive(Debug)]
pub struct Claim {
    registry: Registry,
    record: Record,
    ended: bool,
    #[cfg_attr(not(unix), allow(dead_code, reason = "it is held, and not handed over"))]
    lock: NameLock,
    /// The control socket that the program before has left.
    #[cfg(unix)]
    control: Option<OwnedFd>,
}

/// Why a name cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A process runs under it.
    #[error("{}", runs(record))]
    Running {
        /// That process.
        record: Box<Record>,
    },
    /// Somebody holds the lock, and has a record that cannot be read.
    #[error("{0}; choose another name, or end that process")]
    Damaged(Box<Damaged>),
    /// Somebody holds the lock and has no record yet.
    #[error(
        "another process is taking the name {name} just now: try again, and see `conduit list`"
    )]
    Busy {
        /// The name.
        name: crate::tunnel::Name,
    },
    /// The folder, the lock or the record cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

#[cfg(unix)]
pub(super) use handover::take_over;

pub(super) fn claim(registry: &Registry, new: NewRecord) -> Result<Claim, ClaimError> {
    let lock = take_lock(registry, &new)?;
    registry.bury(&new.name, &lock)?;
    let instance = Uuid::new_v4();
    let id = free_id(registry, &new, instance);
    let control_socket = socket::place(registry.folder(), registry.runtime_dir(), instance)?;
    let record = Record::new(new, id, instance, control_socket);
    let claim = Claim {
        registry: registry.clone(),
        record,
        ended: false,
        lock,
        #[cfg(unix)]
        control: None,
    };
    claim.write()?;
    Ok(claim)
}

/// The lock says no while a process lives, but also for the instant in which somebody looks at it.
fn take_lock(registry: &Registry, new: &NewRecord) -> Result<NameLock, ClaimError> {
    let path = registry.lock_path(&new.name);
    let failed = |source: io::Error| RegistryError::Lock { path: path.clone(), source };
    let started = Instant::now();
    loop {
        if let Some(lock) = NameLock::take(&path).map_err(failed)? {
            return Ok(lock);
        }
        let patience_is_over = started.elapsed() > PATIENCE;
        match registry.find(new.name.as_str()) {
            Some(Entry::Live(record))
                if patience_is_over || record.presence() == Presence::Running =>
            {
                return Err(ClaimError::Running { record: Box::new(record) });
            }
            _ if patience_is_over => {
                let mut damaged = registry.damaged().into_iter();
                let found = damaged.find(|damaged| damaged.name == new.name);
                let busy = || ClaimError::Busy { name: new.name.clone() };
                return Err(found.map_or_else(busy, |found| ClaimError::Damaged(Box::new(found))));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

fn free_id(registry: &Registry, new: &NewRecord, instance: Uuid) -> TunnelId {
    let start = u16::from_be_bytes([instance.as_bytes()[0], instance.as_bytes()[1]]);
    let mut suffixes = (0..=u16::MAX).map(|offset| start.wrapping_add(offset));
    let free = suffixes.find(|suffix| {
        let path = registry.record_path(&TunnelId::new(&new.name, *suffix));
        std::fs::symlink_metadata(path).is_err()
    });
    // With 65,536 records of one name the oldest habit is to overwrite one.
    TunnelId::new(&new.name, free.unwrap_or(start))
}

impl Claim {
    /// What is recorded now.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The registry that the claim belongs to.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Changes the record, on disk and here: atomically for readers, and not at all when the disk is full.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), RegistryError> {
        let before = self.record.clone();
        change(&mut self.record);
        self.write().inspect_err(|_| self.record = before)
    }

    /// Binds the control socket, which the record names [CTL-4], unless the program before has left it. Must run within
    /// tokio.
    pub fn listen(&mut self) -> Result<ControlListener, RegistryError> {
        let place = &self.record.control_socket;
        #[cfg(unix)]
        if let Some(left) = self.control.take() {
            return ControlListener::adopted(left, place);
        }
        ControlListener::bind(place)
    }

    /// Records how it ended and lets go of the name. The record and the log stay for `list --all` and `logs`. A record that
    /// cannot be written is removed: without an end it would be that of a crash.
    pub fn end(mut self, state: TunnelState, reason: Option<String>) -> Result<(), RegistryError> {
        socket::remove(&self.record.control_socket);
        self.ended = true;
        let recorded = self.update(|record| {
            record.status = state;
            record.ended_at = Some(now_rfc3339());
            // What went wrong while it ran is not why it ended.
            if reason.is_some() || state == TunnelState::Stopped {
                record.last_error = reason;
            }
        });
        recorded.or_else(|error| {
            files::remove(&self.registry.record_path(&self.record.tunnel_id))?;
            Err(error)
        })
    }

    fn write(&self) -> Result<(), RegistryError> {
        let path = self.registry.record_path(&self.record.tunnel_id);
        Ok(files::replace(&path, &self.record.to_json())?)
    }
}

impl Drop for Claim {
    /// Dropped without an end: what is left behind is what a crash leaves, except for the socket.
    fn drop(&mut self) {
        if !self.ended {
            socket::remove(&self.record.control_socket);
        }
    }
}

fn runs(record: &Record) -> String {
    let on = record.config.bind.as_ref().map(|bind| format!(", on {bind}")).unwrap_or_default();
    let Record { name, pid, kind, .. } = record;
    match kind {
        Kind::Tunnel if record.status == TunnelState::Draining => format!(
            "{name} is ending (pid {pid}{on}) and waits for open connections: `conduit kill --force --tunnel {name}` cuts them off"
        ),
        Kind::Tunnel => format!(
            "{name} runs already (pid {pid}{on}): end it with `conduit kill`, or choose another name"
        ),
        Kind::Router => format!(
            "the name {name} is that of the router that runs here (pid {pid}{on}): choose another one"
        ),
    }
}

/// A looker holds the lock for microseconds and a claimant is recorded within a disk's fsync.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::super::record::RecordConfig;
    use super::*;

    fn new(name: &str) -> NewRecord {
        NewRecord {
            kind: Kind::Tunnel,
            name: name.parse().expect("a name"),
            config: RecordConfig { bind: "8080".parse().ok(), ..RecordConfig::default() },
            config_file: None,
            config_hash: None,
        }
    }

    fn registry() -> (tempfile::TempDir, Registry) {
        let home = tempfile::tempdir().expect("tempdir");
        let registry = Registry::open(&home.path().join("home")).expect("a registry");
        (home, registry)
    }

    #[test]
    fn a_claim_is_live_until_it_ends_and_remembered_afterwards() {
        let (_home, registry) = registry();
        let mut claim = registry.claim(new("Web")).expect("a claim");
        claim.update(|record| record.status = TunnelState::Ready).expect("written");
        let Some(Entry::Live(record)) = registry.find("wEB") else { panic!("it lives") };
        assert_eq!((record.status, record.pid), (TunnelState::Ready, std::process::id()));
        let error = registry.claim(new("web")).expect_err("taken").to_string();
        assert!(error.contains(&format!("pid {}, on 127.0.0.1:8080", record.pid)), "{error}");
        assert_eq!(registry.free_name("web").as_str(), "web-2");
        assert_eq!(registry.free_name("a/b \u{202e}").as_str(), "a-b--");
        let id = claim.record().tunnel_id.clone();
        claim.end(TunnelState::Failed, Some("the router said no".into())).expect("ended");
        let Some(Entry::Ended(record)) = registry.find(id.as_str()) else { panic!("it ended") };
        assert_eq!(record.last_error.as_deref(), Some("the router said no"));
        assert_eq!(record.status, TunnelState::Failed);
        assert_eq!(registry.free_name("web").as_str(), "web");
        let again = registry.claim(new("web")).expect("free again");
        assert!(matches!(registry.find("web"), Some(Entry::Live(r)) if r == *again.record()));
        registry.purge_ended(Registry::KEEP_ENDED);
        assert_eq!(registry.scan().len(), 2, "a week is not over");
        std::fs::write(registry.log_path(&id), "log").expect("a log");
        registry.purge_ended(Duration::ZERO);
        assert!(!registry.log_path(&id).exists());
        assert!(matches!(&registry.scan()[..], [Entry::Live(_)]), "the living stay");
    }

    #[cfg(unix)]
    #[test]
    fn the_socket_of_a_killed_process_goes_with_it() {
        let (_home, registry) = registry();
        let leave_behind = |record: &Record| {
            drop(std::os::unix::net::UnixListener::bind(&record.control_socket).expect("a socket"));
            Path::new(&record.control_socket).exists()
        };
        let claim = registry.claim(new("web")).expect("a claim");
        let record = claim.record().clone();
        claim.end(TunnelState::Stopped, None).expect("ended");
        assert!(leave_behind(&record));
        registry.record_killed(&record, "it hung");
        assert!(!Path::new(&record.control_socket).exists(), "removed at once");
        let Some(Entry::Ended(ended)) = registry.find("web") else { panic!("it ended") };
        assert_eq!(
            (ended.status, ended.last_error.as_deref()),
            (TunnelState::Stopped, Some("killed: it hung"))
        );
        assert!(leave_behind(&record), "as an older version left it");
        registry.purge_ended(Duration::ZERO);
        assert!(!Path::new(&record.control_socket).exists(), "forgotten with its record");
        assert_eq!(std::fs::read_dir(registry.folder()).expect("listed").count(), 0, "all gone");
    }

    #[test]
    fn h79_of_200_that_claim_one_name_exactly_one_wins() {
        let (_home, registry) = registry();
        let claims: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..200).map(|_| scope.spawn(|| registry.claim(new("web")))).collect();
            racers.into_iter().map(|racer| racer.join().expect("ran")).collect()
        });
        let winner = claims.iter().flatten().next().expect("a winner").record().clone();
        assert_eq!(claims.iter().flatten().count(), 1);
        for error in claims.iter().filter_map(|claim| claim.as_ref().err()) {
            assert!(
                matches!(error, ClaimError::Running { record } if record.tunnel_id == winner.tunnel_id),
                "{error}"
            );
        }
        assert_eq!(registry.scan().len(), 1);
    }

    #[test]
    fn h79_looking_never_makes_a_free_name_look_taken() {
        let (_home, registry) = registry();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let live = |entry: &Entry| matches!(entry, Entry::Live(_));
                        assert!(registry.scan().iter().filter(|entry| live(entry)).count() <= 1);
                    }
                });
            }
            let results: Vec<_> = (0..50)
                .map(|_| {
                    registry
                        .claim(new("web"))?
                        .end(TunnelState::Stopped, None)
                        .map_err(ClaimError::from)
                })
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            for result in results {
                result.expect("claimed and ended");
            }
        });
        assert!(registry.scan().iter().all(|entry| matches!(entry, Entry::Ended(_))));
    }

    #[cfg(unix)]
    #[test]
    fn h74_a_record_that_cannot_be_written_names_the_file_and_changes_nothing() {
        let (_home, registry) = registry();
        let mut claim = registry.claim(new("web")).expect("a claim");
        std::fs::remove_dir_all(registry.folder()).expect("removed under its feet");
        let error = claim.update(|record| record.status = TunnelState::Ready).expect_err("gone");
        assert!(error.to_string().contains("tunnels"), "{error}");
        assert_eq!(
            claim.record().status,
            TunnelState::Starting,
            "what is not on disk is not claimed"
        );
    }

    #[test]
    fn child_that_h70_kills() {
        // Only as the child of the test below is this anything: the process that it kills.
        let Some(home) = std::env::var_os("CONDUIT_H70_HOME") else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _within = runtime.enter();
        let registry = Registry::open(Path::new(&home)).expect("a registry");
        let mut claim = registry.claim(new("web")).expect("a claim");
        let _listener = claim.listen().expect("a socket");
        let line = format!("\nclaimed {}\n", claim.record().tunnel_id);
        std::io::stdout().write_all(line.as_bytes()).expect("said");
        for round in 0.. {
            claim
                .update(|record| record.last_error = Some(format!("round {round}")))
                .expect("written");
        }
    }

    #[test]
    fn h70_a_process_killed_while_it_writes_is_recognised_and_cleaned_up() {
        let (home, registry) = registry();
        for round in 0..25 {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "--nocapture", "registry::claim::tests::child_that_h70_kills"])
                .env("CONDUIT_H70_HOME", home.path().join("home"))
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child");
            let said = BufReader::new(child.stdout.take().expect("stdout"));
            let id = said
                .lines()
                .map_while(Result::ok)
                .find_map(|line| line.strip_prefix("claimed ").map(str::to_owned))
                .expect("it claims the name");
            let Some(Entry::Live(record)) = registry.find(&id) else { panic!("{id} lives") };
            assert!(matches!(registry.claim(new("web")), Err(ClaimError::Running { .. })));
            if cfg!(target_os = "linux") && round % 2 == 0 {
                assert!(record.kill_process().expect("killed"));
            } else {
                child.kill().expect("killed");
            }
            child.wait().expect("gone");
            assert!(Path::new(&record.control_socket).exists() || cfg!(windows), "left behind");
            let Some(Entry::Ended(dead)) = registry.find(&id) else { panic!("{id} is dead") };
            assert_eq!(dead.status, TunnelState::Failed);
            assert!(dead.last_error.is_some_and(|why| why.starts_with(Record::DIED)));
            let claim = registry.claim(new("web")).expect("the name is free");
            assert!(!Path::new(&record.control_socket).exists(), "cleaned up");
            claim.end(TunnelState::Stopped, None).expect("ended");
        }
        assert!(registry.scan().iter().all(|entry| matches!(entry, Entry::Ended(_))));
        registry.purge_ended(Duration::ZERO);
        assert_eq!(std::fs::read_dir(registry.folder()).expect("listed").count(), 0, "all gone");
    }
}
