//! What a router is told: `router.toml`, resolved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::or_in_home;
use super::environment::Environment;
use super::error::ConfigErrors;
use super::home::Home;
use super::layers::{Loaded, Overrides, Resolved};
use super::performance::{CipherSuite, HAS_DEFAULT, Logging, Performance, PostQuantum, to_usize};
use super::schema::FileKind;
use super::source::Source;
use crate::tunnel::{BindAddr, HostPort};

/// The configuration of a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// Where the router listens.
    pub bind: BindAddr,
    /// What tickets carry; empty means the addresses of this machine's interfaces.
    pub advertise: Vec<HostPort>,
    /// Whether a client needs a token besides its key.
    pub require_token: bool,
    /// Whether it listens on TCP too.
    pub tcp: bool,
    /// The router's private key.
    pub private_key_path: PathBuf,
    /// Whether somebody named the key file (a mounted secret is accepted only then).
    pub private_key_named: bool,
    /// Cipher suites, the preferred one first.
    pub cipher_suites: Vec<CipherSuite>,
    /// Post-quantum key exchange.
    pub post_quantum: PostQuantum,
    /// Clients connected at one time.
    pub max_clients: usize,
    /// Connections open at one time per client.
    pub max_streams: usize,
    /// How long the router tries to reach a source.
    pub dial_timeout: Duration,
    /// How long a published port is kept for its owner; zero: not at all.
    pub lease: Duration,
    /// How long connections of a client whose session was lost wait for it; zero: not at all.
    pub resume: Duration,
    /// Buffers, limits and times.
    pub performance: Performance,
    /// What is logged, and where.
    pub logging: Logging,
}

impl RouterConfig {
    /// Brings the file (if any), the environment and the flags together. Every problem is reported at
    /// once.
    pub fn load(
        path: Option<&Path>,
        environment: &Environment,
        flags: &Overrides,
    ) -> Result<Loaded<Self>, ConfigErrors> {
        let resolved = Resolved::load(FileKind::Router, path, environment, flags)?;
        Self::finish(resolved, environment)
    }

    /// The same for a text instead of a file: `path` is what messages and relative paths refer to.
    pub fn parse(
        path: &Path,
        text: &str,
        environment: &Environment,
        flags: &Overrides,
    ) -> Result<Loaded<Self>, ConfigErrors> {
        let source = Source::from_text(path, text);
        let resolved = Resolved::from_source(FileKind::Router, Some(&source), environment, flags)?;
        Self::finish(resolved, environment)
    }

    pub(super) fn finish(
        resolved: Resolved,
        environment: &Environment,
    ) -> Result<Loaded<Self>, ConfigErrors> {
        let limit = |name| to_usize(resolved.number("limits", name).expect(HAS_DEFAULT));
        let named =
            resolved.path("security", "private_key_path").or_else(|| environment.credential("key"));
        let advertise = resolved.texts("listen", "advertise");
        let config = Self {
            bind: resolved
                .text("listen", "bind")
                .and_then(|text| text.parse().ok())
                .expect(HAS_DEFAULT),
            advertise: advertise.iter().filter_map(|text| text.parse().ok()).collect(),
            tcp: resolved.switch("listen", "tcp").expect(HAS_DEFAULT),
            require_token: resolved.switch("policy", "require_token").expect(HAS_DEFAULT),
            private_key_named: named.is_some(),
            private_key_path: or_in_home(named, environment, Home::router_key)?,
            cipher_suites: resolved.cipher_suites(),
            post_quantum: resolved.post_quantum(),
            max_clients: limit("max_clients"),
            max_streams: limit("max_streams"),
            dial_timeout: resolved.duration("limits", "dial_timeout").expect(HAS_DEFAULT),
            lease: resolved.duration("limits", "lease").expect(HAS_DEFAULT),
            resume: resolved.duration("limits", "resume").expect(HAS_DEFAULT),
            performance: resolved.performance(),
            logging: resolved.logging(),
        };
        Ok(resolved.into_loaded(config))
    }
}
