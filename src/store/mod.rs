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

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use clients::{AuthorizeError, Authorized, ClientRow, ClientStatus, Grant, NewClient, Seen};
pub use error::StoreError;
pub use redeem::Redemption;
pub use tickets::{NewTicket, TicketRow};
pub use tokens::{CreateTokenError, NewToken, TokenRef, TokenRow, TokenState};

/// A handle to the database. Clones share one connection, which a thread of its own holds; the thread ends when
/// the last handle is gone.
///
/// Every call is one transaction, on the disk when the call returns. A call that is dropped before it returns may
/// still take effect.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    path: Arc<Path>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

impl Store {
    /// Opens the database, creates it (mode 0600) when there is none, checks it and brings its schema up to date.
    ///
    /// Blocks on the disk. Several processes may have it open at once. The folder must exist; that it is private is
    /// for the caller to check.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = open::open(path)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("conduit-store".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|source| StoreError::from_io(path, source))?;
        Ok(Self { jobs, path: path.into() })
    }

    /// Runs `work` on the owning thread; `what` completes the sentence "could not …".
    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits for the answer any more: then nobody needs it.
            let _ = answer.send(work(connection));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        result
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(|source| StoreError::from_sqlite(&self.path, what, source))
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Calls that wait for the thread before callers wait for a place: a flood of enrolments is held back here instead
/// of in memory.
const QUEUE: usize = 256;

#[cfg(test)]
mod tests;
