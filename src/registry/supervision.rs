//! Who keeps the tunnels of a file running: one process at a time, which holds a lock for as long as it lives.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

use super::folder::{Registry, RegistryError};
use super::lock::NameLock;
use super::process::{self, Presence};

/// The right to supervise a file. While it lives, nobody else gets it; a process that dies lets go of it.
#[derive(Debug)]
pub struct Supervision {
    _lock: NameLock,
}

/// The process that supervises a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supervisor {
    /// Its process id; unknown for the moment in which it starts, and where a held lock cannot be read.
    pub pid: Option<u32>,
    started: Option<String>,
}

/// Why a file cannot be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// Somebody does so already.
    #[error("{} is kept up already{}", file.display(), by(supervisor))]
    Supervised {
        /// The file.
        file: PathBuf,
        /// Who.
        supervisor: Supervisor,
    },
    /// The lock cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Registry {
    /// Takes the right to supervise the tunnels of `file` for this process.
    pub fn supervise(&self, file: &Path) -> Result<Supervision, SuperviseError> {
        let path = self.supervision_path(file);
        let failed = |source: io::Error| RegistryError::Lock { path: path.clone(), source };
        let started = Instant::now();
        loop {
            if let Some(lock) = NameLock::take(&path).map_err(failed)? {
                let start = process::own_start().unwrap_or_default();
                lock.write(&format!("{} {start}\n", std::process::id())).map_err(failed)?;
                return Ok(Supervision { _lock: lock });
            }
            let supervisor = Supervisor::read(&path);
            // A looker holds the lock for microseconds.
            if started.elapsed() > PATIENCE || supervisor.presence() == Presence::Running {
                let file = file.to_owned();
                return Err(SuperviseError::Supervised { file, supervisor });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Who supervises the tunnels of `file` now.
    pub fn supervisor(&self, file: &Path) -> Option<Supervisor> {
        let path = self.supervision_path(file);
        // A lock that cannot be looked at is reported by whoever wants it.
        NameLock::is_held(&path).unwrap_or(false).then(|| Supervisor::read(&path))
    }

    /// A dot: no tunnel's lock is called so.
    fn supervision_path(&self, file: &Path) -> PathBuf {
        let hash = digest(&SHA256, file.as_os_str().as_encoded_bytes());
        self.folder().join(format!("up.{}.lock", HEXLOWER.encode(&hash.as_ref()[..8])))
    }
}

impl Supervisor {
    /// Asks exactly this process to end, as Ctrl-C does; `false` when it was gone. Linux only, like
    /// [`super::Record::kill_process`].
    pub fn interrupt(&self) -> io::Result<bool> {
        match self.pid {
            Some(pid) => process::interrupt(pid, self.started.as_deref()),
            None => Err(io::Error::other("its process id is not known")),
        }
    }

    fn presence(&self) -> Presence {
        self.pid.map_or(Presence::Unknown, |pid| process::presence(pid, self.started.as_deref()))
    }

    fn read(path: &Path) -> Self {
        let text = crate::files::read_private(path, LONGEST).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let (pid, started) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let started = Some(started).filter(|text| !text.is_empty()).map(str::to_owned);
        Self { pid: pid.parse().ok(), started }
    }
}

fn by(supervisor: &Supervisor) -> String {
    let pid = supervisor.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    format!(" by another `conduit up --foreground`{pid}")
}

const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);
/// A pid and a start.
const LONGEST: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_supervisor_at_a_time_whom_everybody_can_name() {
        let home = tempfile::tempdir().expect("tempdir");
        let registry = Registry::open(&home.path().join("home")).expect("a registry");
        let (one, two) = (Path::new("/etc/one.toml"), Path::new("/etc/two.toml"));
        assert_eq!(registry.supervisor(one), None);
        let first = registry.supervise(one).expect("free");
        let error = registry.supervise(one).expect_err("taken").to_string();
        if cfg!(unix) {
            let pid = std::process::id();
            assert!(error.contains("/etc/one.toml") && error.contains(&pid.to_string()), "{error}");
            assert_eq!(registry.supervisor(one).expect("somebody").pid, Some(pid));
        }
        registry.supervise(two).expect("another file");
        registry.purge_ended(Duration::ZERO);
        assert!(registry.supervisor(one).is_some(), "tidying up leaves it alone");
        drop(first);
        assert_eq!(registry.supervisor(one), None);
        registry.supervise(one).expect("free again");
    }
}
