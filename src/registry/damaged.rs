//! Processes that run although their record cannot be read: nobody can ask or end them, but they can be named.

use std::path::PathBuf;

use super::folder::{Entry, Registry};
use crate::tunnel::Name;

/// A process that holds the lock of its name while its record is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The name, from the name of the file.
    pub name: Name,
    /// The file that is no record.
    pub path: PathBuf,
    /// Why it is none.
    pub reason: String,
    /// The lock that is held.
    pub lock: PathBuf,
}

impl Registry {
    /// Every process that runs and whose record cannot be read.
    pub fn damaged(&self) -> Vec<Damaged> {
        let entries = self.scan();
        let is_known = |name: &Name| {
            entries.iter().any(|entry| matches!(entry, Entry::Live(record) if record.name == *name))
        };
        let damaged = entries.iter().filter_map(|entry| {
            let Entry::Unreadable { path, reason } = entry else { return None };
            let name: Name = path.file_stem()?.to_str()?.rsplit_once('-')?.0.parse().ok()?;
            let lock = self.lock_path(&name);
            let is_running = !is_known(&name) && self.is_held(&name);
            is_running.then(|| Damaged { name, path: path.clone(), reason: reason.clone(), lock })
        });
        damaged.collect()
    }
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, lock) = (self.path.display(), self.lock.display());
        let Self { name, reason, .. } = self;
        write!(
            f,
            "{name} runs, its lock {lock} is held, but its record {path} is damaged: {reason}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, NewRecord, RecordConfig};
    use super::*;
    use crate::registry::ClaimError;
    use crate::tunnel::TunnelState;

    #[test]
    fn a_process_whose_record_is_damaged_is_named_while_it_holds_its_lock() {
        let home = tempfile::tempdir().expect("tempdir");
        let registry = Registry::open(&home.path().join("home")).expect("a registry");
        let new = || NewRecord {
            kind: Kind::Tunnel,
            name: "my-web".parse().expect("a name"),
            config: RecordConfig::default(),
            config_file: None,
            config_hash: None,
        };
        let claim = registry.claim(new()).expect("a claim");
        assert!(registry.damaged().is_empty());
        let path = registry.record_path(&claim.record().tunnel_id);
        crate::files::replace(&path, b"garbage").expect("written");
        let damaged = registry.damaged();
        assert_eq!((damaged.len(), &damaged[0].path), (1, &path));
        let error = registry.claim(new()).expect_err("taken");
        assert!(matches!(error, ClaimError::Damaged(_)), "{error}");
        let text = error.to_string();
        for part in ["damaged", &path.display().to_string(), "my-web.lock", "not JSON"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        claim.end(TunnelState::Stopped, None).expect("its end mends the record");
        crate::files::replace(&path, b"garbage").expect("written");
        assert!(registry.damaged().is_empty(), "nothing runs");
        registry.claim(new()).expect("the name is free");
    }
}
