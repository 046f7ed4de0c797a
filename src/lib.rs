//! Conduit: a self-hosted network tunnel.

// What clippy.toml keeps to one place holds for the product; tests may do what they need.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_macros))]

pub mod tunnel;

pub mod wire;

pub mod task;

pub mod files;
pub mod identity;
pub mod telemetry;

pub mod policy;

pub mod ends;

pub mod transport;

pub mod session;

pub mod relay;

pub mod routes;

pub mod store;

pub mod service;

pub mod registry;

pub mod client;

pub mod router;

pub mod config;

pub mod fleet;

pub mod cli;
