//! A claim that goes from one program to the next, in one process. `proto-spec/upgrade.md`.

use std::io;
use std::os::fd::OwnedFd;

use super::super::folder::{Registry, RegistryError};
use super::super::lock::NameLock;
use super::super::record::Record;
use super::Claim;
use crate::ends::{adopt, leave};
use crate::tunnel::TunnelId;
use crate::wire::handover::Claim as Left;

/// Goes on with the claim of the program that this process ran before. [UPG-2]
pub(in crate::registry) fn take_over(
    registry: &Registry,
    left: &Left,
) -> Result<Claim, RegistryError> {
    let id: TunnelId = left.record.parse().map_err(|_| RegistryError::Left)?;
    let record = Record::read(&registry.record_path(&id)).map_err(|_| RegistryError::Left)?;
    if record.pid != std::process::id() || record.ended_at.is_some() {
        return Err(RegistryError::Left);
    }
    let adopted = |number| adopt(number).map_err(|_| RegistryError::Left);
    let lock = NameLock::adopted(adopted(left.lock)?);
    let control = Some(adopted(left.control)?);
    let mut claim = Claim { registry: registry.clone(), record, ended: false, lock, control };
    // Written with what changes next: a disk that is full by now is no reason to end.
    env!("CARGO_PKG_VERSION").clone_into(&mut claim.record.version);
    Ok(claim)
}

impl Claim {
    /// Leaves the claim, with a copy of the control socket, to the next program of this process. [UPG-2]
    pub fn leave(&mut self, control: &OwnedFd) -> io::Result<Left> {
        let record = self.record.tunnel_id.to_string();
        Ok(Left { record, lock: leave(&self.lock)?, control: leave(control)? })
    }
}
