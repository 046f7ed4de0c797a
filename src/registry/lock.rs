//! The lock of a name: whoever holds it is the one living process of that name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;

/// A held lock; dropping it, or dying, lets it go.
#[derive(Debug)]
pub(super) struct NameLock(File);

impl NameLock {
    /// Takes the lock, or `None` while somebody else holds it. The file stays when the lock is let go.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path, true)?;
        match file.try_lock() {
            // Whoever tidied up may have removed the file in between: a lock on a nameless file protects nothing.
            Ok(()) if is_at(path, &file) => Ok(Some(Self(file))),
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The lock that the program before has held in this process, and has left.
    #[cfg(unix)]
    pub(super) fn adopted(descriptor: std::os::fd::OwnedFd) -> Self {
        Self(descriptor.into())
    }

    /// Writes into the locked file who holds it.
    pub(super) fn write(&self, text: &str) -> io::Result<()> {
        let mut file = &self.0;
        file.set_len(0)?;
        file.write_all(text.as_bytes())
    }

    /// Whether somebody holds the lock. Looks with a shared lock, which other lookers do not mind.
    pub(super) fn is_held(path: &Path) -> io::Result<bool> {
        let file = match open(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for NameLock {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Looking works in a read-only home too.
    options.read(true).write(create).create(create).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

#[cfg(unix)]
fn is_at(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(held)) => named.dev() == held.dev() && named.ino() == held.ino(),
        _ => false,
    }
}

/// Windows does not let go of a file's name while the file is open.
#[cfg(not(unix))]
fn is_at(_: &Path, _: &File) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_lookers_do_not_disturb() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("web.lock");
        assert!(!NameLock::is_held(&path).expect("looked"));
        assert!(!path.exists(), "looking creates nothing");
        let held = NameLock::take(&path).expect("taken").expect("free");
        assert!(NameLock::is_held(&path).expect("looked"));
        assert!(NameLock::take(&path).expect("asked").is_none());
        drop(held);
        assert!(!NameLock::is_held(&path).expect("looked"));
        assert!(NameLock::take(&path).expect("asked").is_some());
    }
}
