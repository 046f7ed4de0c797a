//! What can go wrong with the database file.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error("cannot open the database {}: {source}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could read or replace the file.
    #[error("the database {} {problem}: {fix}", path.display())]
    NotPrivate {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The line to run.
        fix: String,
    },
    /// A newer version of Conduit has written the file.
    #[error(
        "the database {} was written by a newer Conduit (schema {found}, this one knows {known}): \
         install that version again, or restore the copy from before the upgrade",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The schema of the file.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
    /// The file is no database, or its contents make no sense.
    #[error("the database {} is damaged ({detail}): restore it from a backup", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What was noticed.
        detail: String,
    },
    /// The disk is full; nothing was changed.
    #[error("could not write {}: the disk is full; free some space and try again", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// The file or its file system is read-only; nothing was changed.
    #[error(
        "could not write {}: it is read-only; make it and its folder writable for this user",
        path.display()
    )]
    ReadOnly {
        /// The database file.
        path: PathBuf,
    },
    /// Another process kept the file locked for longer than the limit.
    #[error("the database {} is locked by another process: try again", path.display())]
    Busy {
        /// The database file.
        path: PathBuf,
    },
    /// The thread that owns the connection has ended.
    #[error("the database is closed")]
    Closed,
    /// Anything else that SQLite reports.
    #[error("could not {what} in {}: {source}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anything being repaired: a lock is given back, a disk has room
    /// again.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Full { .. } | Self::ReadOnly { .. })
    }

    pub(super) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            _ => Self::Open { path, source },
        }
    }

    pub(super) fn from_sqlite(path: &Path, what: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        let path = path.to_owned();
        if let E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..) = source
        {
            return Self::Damaged { path, detail: source.to_string() };
        }
        match source.sqlite_error().map(|error| (error.code, error.extended_code)) {
            Some((ErrorCode::DiskFull, _) | (_, SHARED_MEMORY_SIZE)) => Self::Full { path },
            Some((ErrorCode::ReadOnly, _)) => Self::ReadOnly { path },
            Some((ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _)) => Self::Busy { path },
            Some((ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)) => {
                Self::Damaged { path, detail: source.to_string() }
            }
            _ => Self::Sqlite { path, what, source },
        }
    }
}

/// SQLite cannot make the `-shm` file as large as it has to be: a full disk, met when the database is opened.
const SHARED_MEMORY_SIZE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
