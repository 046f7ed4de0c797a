//! What the store is told of published ports, in its order and behind the data path's back.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::router::now;
use crate::routes::{Lease, Route};
use crate::store::Store;
use crate::tunnel::Identity;

/// A change of the leases.
#[derive(Debug)]
pub(super) enum Change {
    Held(Lease),
    /// An identity holds nothing any more; the answer says that this is written, or cannot be.
    Freed(Identity, oneshot::Sender<()>),
}

/// Writes changes down until the router is gone, and then those that wait. What a locked file or a full disk keeps from
/// being written is tried again until it is, or until the router is gone.
pub(super) async fn write_down(
    store: Store,
    mut changes: mpsc::Receiver<Change>,
    stop: CancellationToken,
) {
    let mut notes = Notes { store, unwritten: HashMap::new() };
    loop {
        tokio::select! {
            Some(change) = changes.recv() => notes.take(change).await,
            () = tokio::time::sleep(AGAIN), if !notes.unwritten.is_empty() && !stop.is_cancelled() => {
                notes.try_again().await;
            }
            () = stop.cancelled(), if !changes.is_closed() => changes.close(),
            else => break,
        }
    }
    notes.try_again().await;
    for lease in notes.unwritten.into_values() {
        tracing::error!(route = %lease.route, client = %lease.holder.identity, "a published port is lost with the router");
    }
}

struct Notes {
    store: Store,
    /// The last of each route: as many as there are published ports at most.
    unwritten: HashMap<Route, Lease>,
}

impl Notes {
    async fn take(&mut self, change: Change) {
        match change {
            // While one cannot be written, all wait.
            Change::Held(lease) if !self.unwritten.is_empty() => self.keep(lease),
            Change::Held(lease) => {
                self.write(lease).await;
            }
            Change::Freed(identity, written) => {
                self.unwritten.retain(|_, lease| lease.holder.identity != identity);
                if let Err(error) = self.store.free_leases(identity).await {
                    tracing::warn!(%error, "that a client has no published ports any more is not written down");
                }
                // Who waits for it may have gone.
                let _ = written.send(());
            }
        }
    }

    async fn try_again(&mut self) {
        let mut leases = std::mem::take(&mut self.unwritten).into_values();
        while let Some(lease) = leases.next() {
            if !self.write(lease).await {
                // Each try may take as long as a locked file is waited for.
                leases.by_ref().for_each(|lease| self.keep(lease));
            }
        }
    }

    /// Whether this needs no other try.
    async fn write(&mut self, lease: Lease) -> bool {
        let Err(error) = self.store.save_lease(lease.clone(), now()).await else { return true };
        if !error.may_pass() {
            tracing::error!(%error, route = %lease.route, "a published port is not written down");
            return true;
        }
        tracing::warn!(%error, route = %lease.route, "a published port is not written down yet");
        self.keep(lease);
        false
    }

    fn keep(&mut self, lease: Lease) {
        self.unwritten.insert(lease.route.clone(), lease);
    }
}

/// Between two tries to write what could not be written.
const AGAIN: Duration = Duration::from_secs(2);
