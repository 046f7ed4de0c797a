//! The folder of records: open it, look through it, find one process in it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::claim::{self, Claim, ClaimError};
use super::lock::NameLock;
use super::process::Presence;
use super::record::{NewRecord, ReadRecordError, Record};
use crate::files::{FileError, check_private_dir, create_private_dir};
use crate::tunnel::{Name, TunnelId};

/// The processes of one `CONDUIT_HOME`.
#[derive(Clone, Debug)]
pub struct Registry {
    folder: PathBuf,
    runtime_dir: Option<PathBuf>,
}

/// One file of the folder.
#[derive(Clone, Debug)]
pub enum Entry {
    /// The process runs: it holds the lock of its name.
    Live(Record),
    /// The process ended; `status` and `last_error` say how. [`Record::DIED`]: without saying so.
    Ended(Record),
    /// The file cannot be read as a record. It is left alone.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file or folder of it.
    #[error(transparent)]
    File(#[from] FileError),
    /// A lock file cannot be used.
    #[error("cannot lock {}: {source}; check the file and the folder around it", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The control socket's place is taken by something that is not a dead socket.
    #[error("cannot listen on {}: {reason}; move it away", path.display())]
    SocketTaken {
        /// The socket's path.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
    /// The control socket cannot be bound.
    #[error("cannot listen on {path}: {source}")]
    Socket {
        /// The socket's path or pipe name.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// What the program before has left is none of this process.
    #[cfg(unix)]
    #[error(
        "what the program before has left of its name does not fit this process: start it anew"
    )]
    Left,
    /// No folder's path is short enough for a socket.
    #[error("{} is too long for a socket (at most {max} bytes): use a shorter CONDUIT_HOME", path.display())]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
}

impl Registry {
    /// Opens the registry of `home` and creates what is missing (0700); a folder open to others is refused.
    pub fn open(home: &Path) -> Result<Self, RegistryError> {
        let folder = home.join("tunnels");
        create_private_dir(home)?;
        create_private_dir(&folder)?;
        Ok(Self { folder, runtime_dir: None })
    }

    /// Opens the registry to look only: creates nothing, and `None` when no process was ever started here.
    pub fn open_existing(home: &Path) -> Result<Option<Self>, RegistryError> {
        let folder = home.join("tunnels");
        for path in [home, &folder] {
            match check_private_dir(path) {
                Err(error) if error.is_not_found() => return Ok(None),
                checked => checked?,
            }
        }
        Ok(Some(Self { folder, runtime_dir: None }))
    }

    /// Where sockets go when the home's path is too long for one (`XDG_RUNTIME_DIR`).
    pub fn with_runtime_dir(mut self, runtime_dir: Option<PathBuf>) -> Self {
        self.runtime_dir = runtime_dir;
        self
    }

    /// The folder with records, locks, sockets and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The log of a process.
    pub fn log_path(&self, id: &TunnelId) -> PathBuf {
        self.folder.join(format!("{id}.log"))
    }

    /// Takes a name for this process and writes its record. Blocks for at most about two seconds.
    pub fn claim(&self, new: NewRecord) -> Result<Claim, ClaimError> {
        claim::claim(self, new)
    }

    /// Goes on with the name and the record of the program that this process ran before.
    #[cfg(unix)]
    pub fn take_over(&self, left: &crate::wire::handover::Claim) -> Result<Claim, RegistryError> {
        claim::take_over(self, left)
    }

    /// Every record, by name and age. Never blocks on what it finds, and changes nothing.
    pub fn scan(&self) -> Vec<Entry> {
        let (mut records, mut entries) = (Vec::new(), Vec::new());
        for path in self.record_paths() {
            match Record::read(&path) {
                Ok(record) => records.push(record),
                // It was removed since the folder was listed.
                Err(ReadRecordError::File(error)) if error.is_not_found() => {}
                Err(error) => entries.push(unreadable(path, &error)),
            }
        }
        records.sort_by(|a, b| (&a.name, &b.created_at).cmp(&(&b.name, &a.created_at)));
        let mut alive = HashMap::new();
        let mut judged: Vec<_> = records
            .into_iter()
            .map(|record| {
                let folded = record.name.folded();
                let held =
                    *alive.entry(folded.clone()).or_insert_with(|| self.is_held(&record.name));
                let is_live =
                    held && record.ended_at.is_none() && record.presence() != Presence::Gone;
                if is_live {
                    // One lock, one process: an older record without an end is of one that died.
                    alive.insert(folded, false);
                    return Entry::Live(record);
                }
                Entry::Ended(if record.ended_at.is_none() { record.into_dead() } else { record })
            })
            .collect();
        judged.append(&mut entries);
        judged
    }

    /// One process by id, or by name: the living one, else the one that ended last. Case does not matter.
    pub fn find(&self, name_or_id: &str) -> Option<Entry> {
        let wanted = name_or_id.trim();
        let entries = self.scan();
        let by = |test: &dyn Fn(&Entry) -> bool| entries.iter().find(|entry| test(entry)).cloned();
        by(&|entry| entry.id().is_some_and(|id| id.eq_ignore_ascii_case(wanted)))
            .or_else(|| by(&|entry| matches!(entry, Entry::Live(r) if is_named(r, wanted))))
            .or_else(|| by(&|entry| entry.record().is_some_and(|r| is_named(r, wanted))))
    }

    /// `base` when no process runs under it, else `base-2`, `base-3` … What is no name is made one.
    ///
    /// Another process may take it before it is claimed: then ask again.
    pub fn free_name(&self, base: &str) -> Name {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let mut base: String = base.chars().map(|c| if legal(c) { c } else { '-' }).collect();
        // Room for a suffix of up to ten digits.
        base.truncate(Name::MAX - 11);
        if base.is_empty() {
            base.push_str("tunnel");
        }
        let mut number = 1_u32;
        loop {
            let text = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            if let Ok(name) = text.parse::<Name>()
                && !self.is_held(&name)
            {
                return name;
            }
            number += 1;
        }
    }

    /// Whether some process runs under the name, a router or a tunnel.
    pub fn is_held(&self, name: &Name) -> bool {
        // A lock that cannot be looked at is reported by whoever claims the name.
        NameLock::is_held(&self.lock_path(name)).unwrap_or(false)
    }

    /// Waits until the process has let go of its name and is gone; `false` when it still is there after `limit`.
    pub async fn ended_within(&self, record: &Record, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let lives = matches!(self.find(record.tunnel_id.as_str()), Some(Entry::Live(_)));
            // A library user ends a role without ending the process.
            let stays = record.pid != std::process::id() && record.presence() == Presence::Running;
            if !lives && !stays {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(super) fn record_path(&self, id: &TunnelId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    pub(super) fn lock_path(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{}.lock", name.folded()))
    }

    pub(super) fn runtime_dir(&self) -> Option<&Path> {
        self.runtime_dir.as_deref()
    }

    pub(super) fn record_paths(&self) -> Vec<PathBuf> {
        let Ok(folder) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut paths: Vec<_> = folder
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        paths
    }
}

impl Entry {
    /// The record, when there is one.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Live(record) | Self::Ended(record) => Some(record),
            Self::Unreadable { .. } => None,
        }
    }

    /// The id: the record's, or what the file is called.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Live(record) | Self::Ended(record) => Some(record.tunnel_id.as_str()),
            Self::Unreadable { path, .. } => path.file_stem()?.to_str(),
        }
    }
}

fn is_named(record: &Record, wanted: &str) -> bool {
    record.name.as_str().eq_ignore_ascii_case(wanted)
}

fn unreadable(path: PathBuf, error: &ReadRecordError) -> Entry {
    Entry::Unreadable { path, reason: error.to_string() }
}

/// Between two looks at a process that is asked to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::super::record::{Kind, RecordConfig};
    use super::*;
    use crate::files::replace;

    fn registry() -> (tempfile::TempDir, Registry, Claim) {
        let home = tempfile::tempdir().expect("tempdir");
        let registry = Registry::open(&home.path().join("home")).expect("a registry");
        let claim = registry.claim(NewRecord {
            kind: Kind::Tunnel,
            name: "web".parse().expect("a name"),
            config: RecordConfig::default(),
            config_file: None,
            config_hash: None,
        });
        (home, registry, claim.expect("a claim"))
    }

    #[test]
    fn h76_what_is_no_record_is_reported_and_left_alone() {
        let (_home, registry, claim) = registry();
        let good = registry.record_path(&claim.record().tunnel_id);
        let text = fs::read_to_string(&good).expect("a record");
        let at = |name: &str| registry.folder().join(format!("{name}-0000.json"));
        let texts = [
            ("empty", String::new(), "it is empty"),
            ("truncated", text[..text.len() / 2].to_owned(), "not JSON"),
            ("wrong", text.replace("conduit.record/1", "conduit.list/1"), "conduit.list/1"),
            ("newer", text.replace("conduit.record/1", "conduit.record/2"), "newer Conduit"),
            ("none", "{}".to_owned(), "schema is missing"),
            ("list", "[]".to_owned(), "schema is missing"),
            ("half", "{\"schema\": \"conduit.record/1\"}".to_owned(), "not a complete record"),
            ("other", text.clone(), "names another process"),
            ("binary", "\0\u{1}\u{7f}".repeat(100), "not JSON"),
        ];
        for (name, text, _) in &texts {
            replace(&at(name), text.as_bytes()).expect("written");
        }
        let mut expected: Vec<_> =
            texts.iter().map(|(name, _, reason)| (at(name), *reason)).collect();
        replace(&at("huge"), b"").expect("written");
        let huge = fs::OpenOptions::new().write(true).open(at("huge")).expect("opened");
        huge.set_len(100 << 20).expect("a sparse file");
        expected.push((at("huge"), "larger than"));
        symlink(&good, at("link")).expect("linked");
        expected.push((at("link"), "symbolic link"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, mode, 0)
            .expect("a FIFO");
        expected.push((at("fifo"), "FIFO"));
        fs::create_dir(at("folder")).expect("a folder");
        expected.push((at("folder"), "folder"));
        replace(&at("open"), text.as_bytes()).expect("written");
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o644)).expect("chmod");
        expected.push((at("open"), "chmod 600"));
        if rustix::process::geteuid().is_root() {
            replace(&at("foreign"), text.as_bytes()).expect("written");
            chown(at("foreign"), Some(12_345), None).expect("chown");
            expected.push((at("foreign"), "belongs to uid 12345"));
        }
        let started = Instant::now();
        let entries = registry.scan();
        registry.purge_ended(Duration::ZERO);
        assert!(started.elapsed() < Duration::from_secs(1), "nothing blocks");
        assert!(matches!(&entries[0], Entry::Live(record) if record == claim.record()));
        assert_eq!(entries.len(), expected.len() + 1);
        for (path, word) in expected {
            let entry = entries.iter().find(|entry| match entry {
                Entry::Unreadable { path: reported, reason } => {
                    *reported == path && reason.contains(word)
                }
                _ => false,
            });
            assert!(entry.is_some(), "{} {word:?}: {entries:#?}", path.display());
            assert!(fs::symlink_metadata(&path).is_ok(), "{} is still there", path.display());
        }
        assert!(matches!(registry.find("empty-0000"), Some(Entry::Unreadable { .. })));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn h78_a_record_whose_pid_is_a_sleep_now_is_of_a_dead_process() {
        let (_home, registry, claim) = registry();
        let mut sleep = super::super::process::tests::a_later_process();
        // The pid is another's although the lock is held: as if somebody else took the lock this instant.
        let mut record = claim.record().clone();
        record.pid = sleep.id();
        replace(&registry.record_path(&record.tunnel_id), &record.to_json()).expect("written");
        let Some(Entry::Ended(dead)) = registry.find("web") else { panic!("it is dead") };
        assert_eq!(dead.last_error.as_deref(), Some(Record::DIED));
        assert!(!dead.kill_process().expect("asked"), "a sleep is never killed");
        assert!(sleep.try_wait().expect("asked").is_none(), "it sleeps on");
        sleep.kill().expect("killed");
        sleep.wait().expect("gone");
    }

    #[tokio::test]
    async fn waiting_for_an_end_ends() {
        let (_home, registry, claim) = registry();
        let record = claim.record().clone();
        assert!(!registry.ended_within(&record, Duration::ZERO).await, "it lives");
        let (ended, end) =
            tokio::join!(registry.ended_within(&record, Duration::from_secs(10)), async {
                claim.end(crate::tunnel::TunnelState::Stopped, None)
            });
        end.expect("ended");
        assert!(ended);
    }

    #[test]
    fn looking_creates_nothing_and_a_folder_open_to_others_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = dir.path().join("home");
        assert!(Registry::open_existing(&home).expect("looked").is_none());
        assert!(!home.exists());
        Registry::open(&home).expect("made");
        assert!(Registry::open_existing(&home).expect("looked").is_some());
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).expect("chmod");
        for refused in [Registry::open(&home).map(Some), Registry::open_existing(&home)] {
            let error = refused.expect_err("refused").to_string();
            assert!(error.contains("chmod 700"), "{error}");
        }
    }
}
