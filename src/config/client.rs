//! What a client is told: `conduit.toml`, resolved.

use std::path::{Path, PathBuf};

use super::environment::{Environment, Secret};
use super::error::{ConfigErrors, Place, Problem};
use super::home::Home;
use super::layers::{Loaded, Overrides, Resolved};
use super::performance::{CipherSuite, HAS_DEFAULT, Logging, Performance, PostQuantum};
use super::schema::FileKind;
use super::source::Source;
use crate::tunnel::{Host, HostPort, Identity, Proxy, TunnelSpec};

/// The configuration of a client and its tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The router; `None` means the one that is enrolled.
    pub router: Option<HostPort>,
    /// What TLS goes through, without its password.
    pub proxy: Option<Proxy>,
    /// Where the proxy's password is.
    pub proxy_password: Option<TokenSource>,
    /// The client's private key.
    pub private_key_path: PathBuf,
    /// Whether somebody named the key file (a mounted secret is accepted only then).
    pub private_key_named: bool,
    /// The router's pin; `None` means the one remembered from the enrolment.
    pub router_identity: Option<Identity>,
    /// Where the token is.
    pub token: Option<TokenSource>,
    /// Cipher suites, the preferred one first.
    pub cipher_suites: Vec<CipherSuite>,
    /// Post-quantum key exchange.
    pub post_quantum: PostQuantum,
    /// The tunnels, in the order of the file.
    pub tunnels: Vec<TunnelSpec>,
    /// Buffers, limits and times.
    pub performance: Performance,
    /// What is logged, and where.
    pub logging: Logging,
}

/// Where a secret is: the token that a router may ask for, or the password that a proxy may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// In the environment.
    Environment(Secret),
    /// In a file that somebody named.
    File(PathBuf),
}

impl ClientConfig {
    /// Brings the file (if any), the environment and the flags together. Every problem is reported at
    /// once.
    pub fn load(
        path: Option<&Path>,
        environment: &Environment,
        flags: &Overrides,
    ) -> Result<Loaded<Self>, ConfigErrors> {
        let resolved = Resolved::load(FileKind::Client, path, environment, flags)?;
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
        let resolved = Resolved::from_source(FileKind::Client, Some(&source), environment, flags)?;
        Self::finish(resolved, environment)
    }

    pub(super) fn finish(
        resolved: Resolved,
        environment: &Environment,
    ) -> Result<Loaded<Self>, ConfigErrors> {
        let port = resolved
            .number("router", "port")
            .and_then(|port| u16::try_from(port).ok())
            .expect(HAS_DEFAULT);
        let host = resolved.text("router", "host").and_then(|host| host.parse::<Host>().ok());
        let named =
            resolved.path("security", "private_key_path").or_else(|| environment.credential("key"));
        let config = Self {
            router: host.map(|host| HostPort { host, port }),
            proxy: resolved.text("router", "proxy").and_then(|text| text.parse().ok()),
            proxy_password: proxy_password(&resolved),
            private_key_named: named.is_some(),
            private_key_path: or_in_home(named, environment, Home::client_key)?,
            router_identity: resolved
                .text("security", "router_identity")
                .and_then(|text| text.parse().ok()),
            token: token(&resolved, environment),
            cipher_suites: resolved.cipher_suites(),
            post_quantum: resolved.post_quantum(),
            tunnels: resolved.tunnels.iter().map(|tunnel| tunnel.spec.clone()).collect(),
            performance: resolved.performance(),
            logging: resolved.logging(),
        };
        Ok(resolved.into_loaded(config))
    }
}

/// The variable wins over the file, the file over the service manager's credential.
fn token(resolved: &Resolved, environment: &Environment) -> Option<TokenSource> {
    if let Some(text) = resolved.text("security", "token") {
        return Some(TokenSource::Environment(Secret::new(text.trim())));
    }
    resolved
        .path("security", "token_file")
        .or_else(|| environment.credential("token"))
        .map(TokenSource::File)
}

/// The variable wins over the file.
fn proxy_password(resolved: &Resolved) -> Option<TokenSource> {
    let variable = resolved.text("router", "proxy_password");
    let file = || resolved.path("router", "proxy_password_file").map(TokenSource::File);
    variable.map(|text| TokenSource::Environment(Secret::new(text))).or_else(file)
}

/// The path that was named, else the one in the home.
pub(super) fn or_in_home(
    named: Option<PathBuf>,
    environment: &Environment,
    in_home: impl FnOnce(&Home) -> PathBuf,
) -> Result<PathBuf, ConfigErrors> {
    if let Some(path) = named {
        return Ok(path);
    }
    let home = Home::from_environment(environment).map_err(|error| {
        let place = Place::Environment("CONDUIT_HOME".to_owned());
        ConfigErrors::one(Problem::new(place, error.to_string()))
    })?;
    Ok(in_home(&home))
}
