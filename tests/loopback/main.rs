//! Router and tunnel in one process, over loopback: needs no program beside this one, and runs wherever the library
//! compiles.
//!
//! Tests named `hNN_…` belong to the row of that number in the table of hostile inputs.
#![allow(clippy::disallowed_macros, reason = "a test prints its figures")]
#![allow(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

use std::alloc::System;

use cap::Cap;
use conduit::tunnel::CarrierChoice;

mod admission;
mod bytes;
mod carriers;
mod credit;
mod declarations;
mod endings;
mod firewall;
mod flow_resumption;
mod hostile;
mod hostile_flow_resumption;
mod hostile_flows;
mod hostile_resumption;
mod hostile_reverse;
mod hostile_router;
mod hostile_tcp;
mod isolation;
#[path = "../link/mod.rs"]
mod link;
mod liveliness;
mod raw;
mod resumption;
mod rough;
mod silence;
mod sizes;
mod stage;
mod storms;
mod stranger;
#[cfg(unix)]
mod unix_sockets;

/// Counts what is allocated, so that a test can tell what is kept from what the allocator has yet to give back.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// What carries the tunnels of a stage.
const CARRIER: CarrierChoice = CarrierChoice::Auto;
