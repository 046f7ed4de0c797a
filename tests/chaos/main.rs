//! The table of faults: rows of the table of hostile inputs (H50 to H59 of the network, H70 to H82 of processes and disks),
//! each printed with its seeds and figures.
//!
//! Paths are emulated within this process ([`link`]), processes are the real binary's. The short rows run with everything
//! else, those of many runs (`chaos`) with `make chaos`, which prints the table at its end, with the rows that other suites
//! hold under names that begin alike.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::unwrap_used,
    reason = "a test reads its environment and prints its figures"
)]

use conduit::tunnel::CarrierChoice;

mod database;
mod disk;
#[path = "../loopback/firewall.rs"]
mod firewall;
mod floods;
#[path = "../link/mod.rs"]
mod link;
mod panics;
mod paths;
mod power;
mod processes;
#[allow(dead_code, reason = "it is the stage of another suite, too")]
#[path = "../loopback/stage.rs"]
mod stage;
mod strangers;
mod table;
mod transfer;
#[allow(dead_code, unused_imports, reason = "it is the world of another suite, too")]
#[path = "../e2e/world/mod.rs"]
mod world;

/// What carries the tunnels of a stage.
const CARRIER: CarrierChoice = CarrierChoice::Auto;
