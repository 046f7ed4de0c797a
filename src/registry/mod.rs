//! Lets `list`, `kill`, `status` and `logs` find and talk to the tunnel processes of this machine.
//!
//! No daemon and no decision: records, locks, and JSON-RPC from a socket to a channel that the roles answer.
//! Implements "Processes and the registry" and the control socket (`proto-spec/control.md`).

mod admission;
mod answer;
mod ask;
mod claim;
mod damaged;
mod folder;
mod lines;
mod lock;
mod process;
mod purge;
mod record;
mod request;
mod rpc;
mod seats;
mod serve;
mod socket;
mod spare;
mod strict;
mod supervision;

pub use admission::{ClientStatus, Invitation, IssuedToken, TokenStatus};
pub use answer::{
    ConnectionStatus, PacketStatus, PathStatus, Probe, PublishedStatus, Refusal, RouterStatus,
    RouterView, SessionStatus, TlsStatus, TunnelStatus,
};
pub use ask::{CallError, ControlClient, ask, ask_all};
pub use claim::{Claim, ClaimError};
pub use damaged::Damaged;
pub use folder::{Entry, Registry, RegistryError};
pub use process::Presence;
pub use record::{Kind, NewRecord, Place, Record, RecordConfig, now_rfc3339, rfc3339};
pub use request::{AuthorizeParams, Depth, InviteParams, Request, TokenCreateParams};
pub use rpc::RpcError;
pub use serve::{Call, ControlListener};
pub use supervision::{SuperviseError, Supervision, Supervisor};
