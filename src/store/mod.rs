//! The router's control database: clients, tickets, tokens and leases. The only module that contains SQL.
//!
//! It does not decide who may enter or what they may reach, it reads no clock (times are Unix seconds that the
//! caller gives), and the data path never waits for it.
//! Implements what the section "Enrolment" of `proto-spec/session.md` says is remembered, and how often a ticket
//! can be used.

mod clients;
mod columns;
mod error;
mod leases;
mod open;
mod redeem;
mod tickets;
mod tokens;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use clients::{AuthorizeError, Authorized, ClientRow, ClientStatus, Grant, NewClient, Seen};
pub use error::StoreError;
pub use redeem::Redemption;
pub use tickets::{NewTicket, TicketRow};
pub use tokens::{CreateTokenError, NewToken, TokenRef, TokenRow, TokenState};

/// A handle to the database. Clones share two connections, each held by a thread of its own: one changes, one only
/// looks, and so never waits for what another process has locked. The threads end when the last handle is gone.
///
/// Every call is one transaction, on the disk when the call returns. A call that is dropped before it returns may
/// still take effect.
#[derive(Clone)]
pub struct Store {
    changes: mpsc::Sender<Job>,
    looks: mpsc::Sender<Job>,
    path: Arc<Path>,
}

/// What to do, and until when a lock of another process is waited for.
struct Job {
    work: Box<dyn FnOnce(&mut Connection) + Send>,
    patience: Instant,
}

impl Store {
    /// Opens the database, creates it (mode 0600) when there is none, checks it and brings its schema up to date.
    ///
    /// Blocks on the disk. Several processes may have it open at once. The folder must exist; that it is private is
    /// for the caller to check.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (changing, looking) = open::open(path)?;
        let thread =
            |connection| worker(connection).map_err(|source| StoreError::from_io(path, source));
        Ok(Self { changes: thread(changing)?, looks: thread(looking)?, path: path.into() })
    }

    /// Runs `work` on the thread that may change; `what` completes the sentence "could not …".
    async fn change<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(&self.changes, what, work).await
    }

    /// Runs `work` on the thread that only looks. It sees every change that has returned.
    async fn look<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(&self.looks, what, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        jobs: &mpsc::Sender<Job>,
        what: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let patience = Instant::now() + BUSY_LIMIT;
        let work = Box::new(move |connection: &mut Connection| {
            // Nobody waits for the answer any more: then nobody needs it.
            let _ = answer.send(work(connection));
        });
        jobs.send(Job { work, patience }).await.map_err(|_| StoreError::Closed)?;
        result
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(|source| StoreError::from_sqlite(&self.path, what, source))
    }
}

/// A thread that does the jobs of one connection, in their order.
fn worker(mut connection: Connection) -> std::io::Result<mpsc::Sender<Job>> {
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
    std::thread::Builder::new().name("conduit-store".to_owned()).spawn(move || {
        while let Some(Job { work, patience }) = queue.blocking_recv() {
            // Those that have waited behind others that waited have waited, too.
            let left = patience.saturating_duration_since(Instant::now());
            if let Err(error) = connection.busy_timeout(left) {
                tracing::warn!(%error, "a lock of the database is waited for as long as before");
            }
            work(&mut connection);
        }
    })?;
    Ok(jobs)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How long a call waits for another process' transaction.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Calls that wait for the thread before callers wait for a place: a flood of enrolments is held back here instead
/// of in memory.
const QUEUE: usize = 256;

#[cfg(test)]
mod tests;
