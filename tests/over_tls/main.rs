//! What holds over QUIC holds over TLS: suites of `tests/loopback`, with clients that get to the router by TCP alone.
#![allow(clippy::disallowed_macros, reason = "a test prints its figures")]
#![allow(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]
#![allow(
    dead_code,
    reason = "some of what the suites share is for those that need a path of packets"
)]

use conduit::tunnel::CarrierChoice;

#[path = "../loopback/admission.rs"]
mod admission;
#[path = "../loopback/bytes.rs"]
mod bytes;
#[path = "../loopback/credit.rs"]
mod credit;
#[path = "../loopback/declarations.rs"]
mod declarations;
#[path = "../loopback/endings.rs"]
mod endings;
#[path = "../loopback/isolation.rs"]
mod isolation;
#[path = "../link/mod.rs"]
mod link;
#[path = "../loopback/liveliness.rs"]
mod liveliness;
#[path = "../loopback/raw.rs"]
mod raw;
#[path = "../loopback/stage.rs"]
mod stage;
#[path = "../loopback/stranger.rs"]
mod stranger;
#[cfg(unix)]
#[path = "../loopback/unix_sockets.rs"]
mod unix_sockets;

/// What carries the tunnels of a stage.
const CARRIER: CarrierChoice = CarrierChoice::Tls;
