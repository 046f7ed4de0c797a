//! The configuration: files, the environment and flags, brought together by one schema.
//!
//! The only reader of TOML and of the process environment; what it yields is plain values, and nothing here
//! dials, listens or knows what a component does with them.
//! Implements the section "Configuration" of the specification (`README.md`, "Configuration").
//!
//! One table of keys ([`schema`]) drives everything: what is legal, what an error says, which variable
//! overrides a key, what `config show` prints and what `config generate` writes.

mod client;
mod document;
mod environment;
mod error;
mod generate;
mod home;
mod keys;
mod layers;
mod performance;
mod router;
mod routers;
pub mod schema;
mod source;
mod tunnels;
mod units;
mod unknown;
mod validate;
mod value;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_layers;
#[cfg(test)]
mod hostile_values;
#[cfg(test)]
mod round_trip;

pub use client::{ClientConfig, TokenSource};
pub use environment::{Environment, Secret};
pub use error::{ConfigErrors, Place, Problem};
pub use generate::{generate, reference};
pub use home::{Home, HomeError, find_client_file};
pub use layers::{Entry, Loaded, Origin, Overrides};
pub use performance::{
    CipherSuite, Congestion, LogFormat, Logging, OptimizeFor, Performance, PostQuantum,
};
pub use router::RouterConfig;
pub use routers::{EnrolledRouter, Routers, RoutersError};
pub use schema::FileKind;
pub use units::{ParseSizeError, format_size, parse_size};
pub use validate::{Validated, detect, validate};
pub use value::Value;
