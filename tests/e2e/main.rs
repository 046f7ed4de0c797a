//! The real binary between real programs, as a user runs it: homes in a temporary folder, traffic on loopback only.
//!
//! A missing program is a failure that names the Debian package. `CONDUIT_FULL=1` runs the full figures where
//! ordinary runs take a sample; each such test prints which it took. Tests named `hNN_…` belong to the row of that
//! number in the table of hostile inputs.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::unwrap_used,
    reason = "a test reads its environment and prints its figures"
)]

mod world;

mod admission;
mod bulk;
mod bypass;
mod commands;
mod configuration;
mod connect;
mod control_socket;
mod crashes;
mod doctor;
mod ends;
mod everyday;
mod fleet;
mod fleet_kinds;
mod half_close;
mod homes;
mod http;
mod leases;
#[path = "../link/mod.rs"]
mod link;
mod outages;
mod packet_sizes;
mod private_files;
mod proxies;
mod proxy_headers;
mod records;
mod reverse;
mod roaming;
mod secrets;
mod servers;
mod service_manager;
mod signals;
mod take_over;
mod targets;
mod tickets;
mod tokens;
mod tuning;
mod udp_crowd;
mod udp_dns;
mod udp_flows;
mod udp_iperf;
mod udp_proxy;
mod udp_sizes;
mod udp_wireguard;
mod unwelcome;
mod upgrade;
mod upgrade_flows;
mod waiting;
