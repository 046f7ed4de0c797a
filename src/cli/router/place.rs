//! What a router keeps in `CONDUIT_HOME/router`, and where it is found.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::context::Context;
use crate::config::{FileKind, Home, Loaded, Overrides, RouterConfig};
use crate::files;
use crate::fleet::{Failure, Kind};
use crate::identity::{Keypair, random_bytes};
use crate::router::{Advertised, advertised};
use crate::store::Store;
use crate::transport::Secrets;
use crate::tunnel::HostPort;

/// The configuration: the file that was named, else `router.toml` in the home when there is one.
pub(super) fn load(
    file: Option<&Path>,
    overrides: &Overrides,
    context: &Context,
) -> Result<Loaded<RouterConfig>, Failure> {
    let own = context.home()?.config_file(FileKind::Router);
    let file: Option<PathBuf> =
        file.map(Path::to_owned).or_else(|| Some(own).filter(|path| path.is_file()));
    Ok(RouterConfig::load(file.as_deref(), &context.environment, overrides)?)
}

/// The router's key; made at the first use unless somebody named another one.
pub(super) fn keypair(config: &RouterConfig, home: &Home) -> Result<Keypair, Failure> {
    if config.private_key_named {
        return Ok(Keypair::load_mounted(&config.private_key_path)?.0);
    }
    folder(home)?;
    let (key, public) = (&config.private_key_path, config.private_key_path.with_extension("pub"));
    if !key.exists()
        && let Ok(identity) = std::fs::read_to_string(&public)
    {
        let message = format!("{} is missing, the key of {}", key.display(), identity.trim());
        let hint = format!(
            "clients know the router by it: restore it from a backup; or remove {}, and all of them have to enrol anew",
            public.display()
        );
        return Err(Failure::new(Kind::Config, "identity", message).with_hint(hint));
    }
    Ok(Keypair::load_or_create(key)?.0)
}

/// The control database.
pub(super) fn store(home: &Home) -> Result<Store, Failure> {
    folder(home)?;
    Ok(Store::open(&home.router_store())?)
}

/// What makes clients notice a restart within a round trip; made at the first start.
pub(super) fn secrets(home: &Home) -> Result<Secrets, Failure> {
    folder(home)?;
    let path = home.router_secrets();
    let seed: [u8; Secrets::LEN] = random_bytes()?;
    match files::create_private(&path, &seed) {
        Ok(()) => return Ok(Secrets::from_seed(seed)),
        Err(error) if error.already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    let bytes = files::read_private(&path, Secrets::LEN as u64)?;
    let seed: [u8; Secrets::LEN] = bytes.try_into().map_err(|_| {
        let message = format!("{} has not {} bytes", path.display(), Secrets::LEN);
        Failure::new(Kind::Config, "secrets", message)
            .with_hint("remove it: the next start makes a new one, and connected clients reconnect")
    })?;
    Ok(Secrets::from_seed(seed))
}

/// What tickets carry: what the configuration says (which is remembered), else what was remembered, else the
/// addresses of this machine's interfaces.
pub(super) fn addresses(
    config: &RouterConfig,
    bind: SocketAddr,
    home: &Home,
) -> Result<Advertised, Failure> {
    let path = home.router_dir().join("advertise");
    let written: Vec<HostPort> = if config.advertise.is_empty() {
        remembered(&path)
    } else {
        folder(home)?;
        let lines: Vec<String> = config.advertise.iter().map(ToString::to_string).collect();
        files::replace(&path, (lines.join("\n") + "\n").as_bytes())?;
        config.advertise.clone()
    };
    if written.is_empty() {
        return Ok(advertised(None, bind));
    }
    Ok(Advertised { addresses: written, all_private: false })
}

/// Where the router listens, for who works while it does not run.
pub(super) fn note_bind(bind: SocketAddr, home: &Home) -> Result<(), Failure> {
    folder(home)?;
    Ok(files::replace(&last_bind_file(home), format!("{bind}\n").as_bytes())?)
}

/// Where it listened when it ran last.
pub(super) fn last_bind(home: &Home) -> Option<SocketAddr> {
    let bytes = files::read_private(&last_bind_file(home), 4096).ok()?;
    String::from_utf8_lossy(&bytes).trim().parse().ok()
}

fn last_bind_file(home: &Home) -> PathBuf {
    home.router_dir().join("bind")
}

/// Whether nobody has said under which addresses clients find the router.
pub(super) fn is_guessed(config: &RouterConfig, home: &Home) -> bool {
    config.advertise.is_empty() && remembered(&home.router_dir().join("advertise")).is_empty()
}

fn remembered(path: &Path) -> Vec<HostPort> {
    let bytes = files::read_private(path, 4096).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn folder(home: &Home) -> Result<(), Failure> {
    files::create_private_dir(home.root())?;
    Ok(files::create_private_dir(&home.router_dir())?)
}
