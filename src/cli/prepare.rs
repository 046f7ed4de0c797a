//! From options and files to what tunnel processes are launched with: the same for `start` and `up`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::context::Context;
use super::enrol::{self, Invitation, parse_token};
use crate::client::{Access, Networks, Once};
use crate::config::{ClientConfig, Loaded, TokenSource, find_client_file};
use crate::files;
use crate::fleet::{Failure, Kind, Launch, Output, Pin, Tuning};
use crate::identity::Keypair;
use crate::tunnel::{Direction, Name, Options, Protocol, Proxy, Target, TunnelSpec};

/// A client that may connect: it has a key, and knows its router.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) config: ClientConfig,
    pub(super) tuning: Tuning,
    pub(super) pin: Pin,
    keypair: Arc<Keypair>,
    token: Option<String>,
    client_name: String,
    notices: Vec<String>,
    networks: Networks,
}

/// The configuration file that is used, if any.
pub(super) fn client_file(
    explicit: Option<&Path>,
    context: &Context,
) -> Result<Option<PathBuf>, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    Ok(find_client_file(explicit, &here, &context.home()?))
}

/// Loads the key (or makes the one in the home), reads the token, finds the router and enrols where that is due.
pub(super) async fn prepare(
    context: &Context,
    loaded: Loaded<ClientConfig>,
    invitation: Option<Invitation>,
) -> Result<Prepared, Failure> {
    let config = loaded.config;
    let keypair = Arc::new(keypair(&config, context)?);
    let mut tuning = Tuning::new(&config.performance, &config.cipher_suites, config.post_quantum);
    tuning.proxy = proxy(&config)?;
    let token = config.token.as_ref().map(|token| read_secret("token", token)).transpose()?;
    let client_name = client_name();
    let trusted = enrol::trusted_router(
        context,
        &config,
        invitation,
        &tuning,
        &client_name,
        &keypair,
        token.as_deref(),
    );
    let pin = trusted.await?;
    let (notices, networks) = (loaded.notices, Networks::of_home(context.home()?.root()));
    Ok(Prepared { config, tuning, pin, keypair, token, client_name, notices, networks })
}

impl Prepared {
    /// What the process of this tunnel is started with.
    pub(super) fn launch(
        &self,
        context: &Context,
        spec: TunnelSpec,
        log: Output,
    ) -> Result<Launch, Failure> {
        let mut launch = Launch {
            spec,
            router: self.pin.clone(),
            key: self.config.private_key_path.clone(),
            key_named: self.config.private_key_named,
            token: self.token.clone(),
            client_name: self.client_name.clone(),
            tuning: self.tuning.clone(),
            log_level: String::new(),
            log_json: false,
            log: Output::Own,
            log_max_bytes: 0,
            log_keep: 0,
            home: context.home()?.root().to_owned(),
            runtime_dir: context.runtime_dir(),
            config_file: None,
            leashed: false,
            notices: self.notices.clone(),
        };
        launch.set_logging(&self.config.logging, log);
        Ok(launch)
    }
}

impl Prepared {
    /// What one connection to `target` needs.
    pub(super) fn once(&self, target: &Target) -> Result<Once, Failure> {
        let name = "connect"
            .parse()
            .map_err(|error: crate::tunnel::NameError| Failure::usage(error.to_string()))?;
        Ok(Once {
            tunnel: TunnelSpec {
                name,
                direction: Direction::Forward,
                protocol: Protocol::Tcp,
                // Nobody listens: the user is here already.
                bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into(),
                source: target.clone().into(),
                options: Options::default(),
            },
            access: Access {
                keypair: Arc::clone(&self.keypair),
                router: self.pin.clone().into(),
                client_name: self.client_name.clone(),
                token: self.token.as_deref().map(parse_token).transpose()?,
                transport: self.tuning.transport(),
                session: self.tuning.session(),
                networks: self.networks.clone(),
            },
            relay: self.tuning.relay(),
        })
    }
}

/// A key that somebody named must be there; the one in the home is made when it is missing.
fn keypair(config: &ClientConfig, context: &Context) -> Result<Keypair, Failure> {
    let path = &config.private_key_path;
    if config.private_key_named {
        return Ok(Keypair::load_mounted(path)?.0);
    }
    files::create_private_dir(context.home()?.root())?;
    Ok(Keypair::load_or_create(path)?.0)
}

fn proxy(config: &ClientConfig) -> Result<Option<Proxy>, Failure> {
    let Some(mut proxy) = config.proxy.clone() else { return Ok(None) };
    let password = config.proxy_password.as_ref();
    let password = password.map(|source| read_secret("proxy's password", source)).transpose()?;
    if password.is_some() && proxy.user.is_none() {
        let message = format!("there is a password for the proxy {proxy}, and no user");
        return Err(Failure::new(Kind::Config, "proxy", message)
            .with_hint("write the user in front: http://USER@HOST:PORT"));
    }
    proxy.password = password.map(Into::into);
    Ok(Some(proxy))
}

/// `what` it is, for who has to mend it.
fn read_secret(what: &str, source: &TokenSource) -> Result<String, Failure> {
    match source {
        TokenSource::Environment(secret) => Ok(secret.expose().to_owned()),
        TokenSource::File(path) => {
            let (bytes, _) = files::read_mounted_secret(path, 4096).map_err(|error| {
                Failure::new(Kind::Config, "secret", format!("cannot read the {what}: {error}"))
            })?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        }
    }
}

/// The name that this client proposes for itself: the host's, as far as a name can hold it.
fn client_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    });
    let host = host.unwrap_or_default();
    let first = host.trim().split('.').next().unwrap_or_default();
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = first.chars().map(legal).take(Name::MAX - 8).collect();
    if name.parse::<Name>().is_ok() { name } else { "client".to_owned() }
}
