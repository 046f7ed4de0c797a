//! Tidying up: dead processes get an end, their sockets go, and after a week their records and logs too.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::folder::{Registry, RegistryError};
use super::lock::NameLock;
use super::record::{Record, now_rfc3339};
use super::socket;
use crate::files;
use crate::tunnel::{Name, TunnelState};

impl Registry {
    /// How long an ended process is remembered.
    pub const KEEP_ENDED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// Gives every dead process its end and removes what ended longer than `older_than` ago.
    ///
    /// What cannot be read is never removed, and what cannot be removed is left for the next time.
    pub fn purge_ended(&self, older_than: Duration) {
        for path in self.record_paths() {
            let Ok(record) = Record::read(&path) else { continue };
            if record.ended_at.is_none() {
                // Under the lock nobody can come to life in between; held, it says that somebody lives.
                let Ok(Some(lock)) = NameLock::take(&self.lock_path(&record.name)) else {
                    continue;
                };
                let _ = self.bury(&record.name, &lock);
            }
            if is_older(&path, older_than) {
                self.forget(&path);
            }
        }
        self.remove_leftovers(older_than);
    }

    /// Records the end of every process of this name that died; the lock proves that none lives.
    pub(super) fn bury(&self, name: &Name, _proof: &NameLock) -> Result<(), RegistryError> {
        for path in self.record_paths() {
            let Ok(record) = Record::read(&path) else { continue };
            if record.name != *name || record.ended_at.is_some() {
                continue;
            }
            socket::remove(&record.control_socket);
            let mut dead = record.into_dead();
            dead.ended_at = Some(now_rfc3339());
            files::replace(&path, &dead.to_json())?;
        }
        Ok(())
    }

    /// Records that a process was killed on purpose, which is no crash; the caller knows that it is gone.
    pub fn record_killed(&self, record: &Record, why: &str) {
        socket::remove(&record.control_socket);
        let mut ended = record.clone();
        ended.status = TunnelState::Stopped;
        ended.ended_at = Some(now_rfc3339());
        ended.last_error = Some(format!("killed: {why}"));
        let path = self.record_path(&record.tunnel_id);
        if files::replace(&path, &ended.to_json()).is_err() {
            // Then it counts as crashed, as it would without this.
            self.purge_ended(Self::KEEP_ENDED);
        }
    }

    fn forget(&self, record: &Path) {
        let Some(id) = record.file_stem().and_then(|stem| stem.to_str()) else { return };
        // One that was killed could not remove its socket itself; what has ended has none.
        if let Ok(ended) = Record::read(record) {
            socket::remove(&ended.control_socket);
        }
        // The log first: a record without a log says more than a log without a record.
        for path in self.files_named(|name| is_log_of(name, id)) {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_file(record);
    }

    /// Locks of names that nobody remembers, and temporary files of processes that died while they wrote.
    fn remove_leftovers(&self, older_than: Duration) {
        for path in self.files_named(|name| name.starts_with('.') && name.ends_with(".new")) {
            if is_older(&path, older_than) {
                let _ = fs::remove_file(path);
            }
        }
        // Windows cannot tell a lock that was removed and made again from the one that is held.
        if cfg!(not(unix)) {
            return;
        }
        for path in self.files_named(|name| name.ends_with(".lock")) {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let remembered = self.record_paths().iter().any(|record| {
                let id = record.file_stem().and_then(|id| id.to_str()).unwrap_or_default();
                id.rsplit_once('-').is_some_and(|(name, _)| name.eq_ignore_ascii_case(stem))
            });
            if !remembered
                && is_older(&path, older_than)
                && let Ok(Some(_held)) = NameLock::take(&path)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn files_named(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let Ok(folder) = fs::read_dir(self.folder()) else { return Vec::new() };
        folder
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted))
            .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file()))
            .collect()
    }
}

fn is_log_of(name: &str, id: &str) -> bool {
    let rest = name.strip_prefix(id).and_then(|rest| rest.strip_prefix(".log"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn is_older(path: &Path, limit: Duration) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|found| found.modified());
    let age = changed.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age >= limit)
}
