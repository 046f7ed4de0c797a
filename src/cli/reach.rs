//! The options that say which router is meant, and with which key.

use std::path::PathBuf;

use super::service;
use crate::config::Overrides;
use crate::fleet::Failure;
use crate::tunnel::{HostPort, Identity, Proxy};

/// Which router, and with which key.
#[derive(Debug, clap::Args)]
pub(super) struct RouterArgs {
    /// The router, when more than one is enrolled, or when it moved
    #[arg(long, value_name = "HOST:PORT")]
    router: Option<HostPort>,
    /// The key that the router must show
    #[arg(long, value_name = "ID")]
    router_identity: Option<Identity>,
    /// What TLS, and not QUIC, goes through: http://[USER@]HOST:PORT or socks5://[USER@]HOST:PORT
    #[arg(long, value_name = "URL")]
    proxy: Option<Proxy>,
    /// This client's private key [default: client.key in CONDUIT_HOME]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl RouterArgs {
    /// What they change about the configuration.
    pub(super) fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::new();
        if let Some(HostPort { host, port }) = &self.router {
            overrides = overrides.with("router.host", "--router", host.to_string());
            overrides = overrides.with("router.port", "--router", port.to_string());
        }
        if let Some(identity) = &self.router_identity {
            let (key, flag) = ("security.router_identity", "--router-identity");
            overrides = overrides.with(key, flag, identity.to_string());
        }
        if let Some(proxy) = &self.proxy {
            overrides = overrides.with("router.proxy", "--proxy", proxy.to_string());
        }
        if let Some(key) = &self.key {
            let path = key.to_string_lossy().into_owned();
            overrides = overrides.with("security.private_key_path", "--key", path);
        }
        overrides
    }

    /// The options that say the same to a service, which runs in another folder.
    pub(super) fn words(&self) -> Result<Vec<String>, Failure> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        if let Some(router) = &self.router {
            option("--router", router.to_string());
        }
        if let Some(identity) = &self.router_identity {
            option("--router-identity", identity.to_string());
        }
        if let Some(proxy) = &self.proxy {
            option("--proxy", proxy.to_string());
        }
        if let Some(key) = &self.key {
            option("--key", service::absolute(key)?);
        }
        Ok(words)
    }
}
