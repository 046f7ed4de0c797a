//! Whoever runs the router is asked to let another program go on.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::Running;
use crate::registry::RpcError;

/// Another program is to go on in this one's place.
#[derive(Debug)]
pub struct UpgradeCall {
    /// It.
    pub program: PathBuf,
    /// Says whether it will.
    pub reply: oneshot::Sender<Result<Value, RpcError>>,
}

/// Who hears of such calls.
#[derive(Debug, Default)]
pub(super) struct Upgrade(Mutex<Option<mpsc::Sender<UpgradeCall>>>);

impl Upgrade {
    pub(super) fn ask(&self, call: UpgradeCall) {
        let refused = match &*self.lock() {
            Some(calls) => match calls.try_send(call) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(call)) => (call, "it is being upgraded"),
                Err(mpsc::error::TrySendError::Closed(call)) => (call, DRAINS),
            },
            None => (call, "this router is a part of a program: restart that"),
        };
        let (call, why) = refused;
        // Who asked may have gone.
        let _ = call.reply.send(Err(RpcError::new(RpcError::UNSUPPORTED, why)));
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<UpgradeCall>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nobody takes its place.
const DRAINS: &str = "the router is draining";

impl Running {
    /// Why another program must not go on now, if there is a reason.
    pub fn cannot_leave(&self) -> Option<&'static str> {
        if self.shared.accepting.is_cancelled() {
            return Some(DRAINS);
        }
        // The next program would know nothing of it.
        let bans = self.shared.sessions.has_bans();
        bans.then_some("a key was revoked that could not be written down: make room on the disk and revoke it again")
    }

    /// Calls for an upgrade, for who can do it; without that they are refused.
    pub fn upgrades(&self) -> mpsc::Receiver<UpgradeCall> {
        let (calls, asked) = mpsc::channel(1);
        *self.shared.upgrade.lock() = Some(calls);
        asked
    }
}
