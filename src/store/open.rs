//! Opening the database: a private file, the settings that durability needs, an intact and known schema.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{BUSY_LIMIT, StoreError};

mod embedded {
    #![allow(missing_docs, unreachable_pub, reason = "the macro writes the items")]
    refinery::embed_migrations!("src/store/migrations");
}

/// Opens, checks and migrates; tries again when another process is opening the same file for the first time. A
/// connection that may change the file, and one that may not.
pub(super) fn open(path: &Path) -> Result<(Connection, Connection), StoreError> {
    create_private(path)?;
    check_private(path)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match prepare(path) {
            Err(StoreError::Busy { .. } | StoreError::Sqlite { .. }) if tries < OPEN_TRIES => {
                std::thread::sleep(OPEN_PAUSE);
            }
            result => return result,
        }
    }
}

/// SQLite would create the file with the mode that the umask leaves; its `-wal` and `-shm` files copy this one's.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::from_io(path, error)),
    }
}

fn check_private(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| StoreError::from_io(path, error))?;
    let refuse = |problem: &str, fix: String| {
        Err(StoreError::NotPrivate { path: path.to_owned(), problem: problem.to_owned(), fix })
    };
    if !metadata.is_file() {
        return refuse("is not an ordinary file", "move it away".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let shown = path.display();
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return refuse("belongs to another user", format!("chown \"$(id -u)\" {shown}"));
        }
        if metadata.mode() & 0o077 != 0 {
            return refuse("is open to other users", format!("chmod 600 {shown}"));
        }
        if metadata.nlink() != 1 {
            return refuse("has a second name (a hard link)", "remove the other name".to_owned());
        }
    }
    Ok(())
}

fn prepare(path: &Path) -> Result<(Connection, Connection), StoreError> {
    let sqlite = |what| move |error| StoreError::from_sqlite(path, what, error);
    let mut connection = connect(path).map_err(sqlite("open the database"))?;
    // SQLite falls back to reading when it may not write; better to hear that now than at the first enrolment.
    if connection.is_readonly("main").map_err(sqlite("open the database"))? {
        return Err(StoreError::ReadOnly { path: path.to_owned() });
    }
    configure(&connection).map_err(sqlite("set up the connection"))?;
    let report: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(sqlite("check the database"))?;
    if report != "ok" {
        return Err(StoreError::Damaged { path: path.to_owned(), detail: report });
    }
    migrate(path, &mut connection)?;
    let looking = connect(path).map_err(sqlite("open the database"))?;
    looking
        .execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;")
        .map_err(sqlite("set up the connection"))?;
    Ok((connection, looking))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // No URI names: a `?` in a path is a character. One that only looks needs to write, too: the file of the WAL's index.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // FULL: a client that was told "admitted" is still admitted after a power cut.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;",
    )
}

fn migrate(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let sqlite = |error| StoreError::from_sqlite(path, "read the schema version", error);
    let runner = embedded::migrations::runner().set_grouped(true);
    let known =
        runner.get_migrations().iter().map(|each| i64::from(each.version())).max().unwrap_or(0);
    let found = schema_version(connection).map_err(sqlite)?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    runner.run(connection).map(drop).map_err(|error| migration_error(path, error))
}

/// The newest migration that was applied; 0 in an empty database.
fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    let history = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history'", [], |_| {
            Ok(())
        })
        .optional()?;
    match history {
        None => Ok(0),
        Some(()) => connection.query_row(
            "SELECT coalesce(max(version), 0) FROM refinery_schema_history",
            [],
            |row| row.get(0),
        ),
    }
}

fn migration_error(path: &Path, error: refinery::Error) -> StoreError {
    let text = error.to_string();
    let source = std::error::Error::source(error.kind())
        .and_then(|source| source.downcast_ref::<rusqlite::Error>())
        .and_then(rusqlite::Error::sqlite_error)
        .copied();
    match source {
        Some(cause) => {
            let error = rusqlite::Error::SqliteFailure(cause, Some(text));
            StoreError::from_sqlite(path, "bring the schema up to date", error)
        }
        None => StoreError::Damaged { path: path.to_owned(), detail: text },
    }
}

/// Switching to WAL and the first migration do not always wait for the lock: two processes that meet an empty file
/// get an error, and find the work done when they look again.
const OPEN_TRIES: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
