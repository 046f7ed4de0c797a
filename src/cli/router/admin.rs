//! Asks the running router; where none runs, works on its store.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::place;
use crate::cli::context::Context;
use crate::cli::running::find;
use crate::config::Overrides;
use crate::fleet::{Failure, Kind};
use crate::registry::{Request, ask};
use crate::router::Admin;

/// An answer, and whether a running router gave it.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) router_runs: bool,
    /// No address that tickets carry can be reached from outside the private network.
    pub(super) all_private: bool,
    /// What the addresses that tickets carry are worth, when no router has told them.
    pub(super) guess: Option<&'static str>,
}

/// Asks for something that only an operator may ask for.
pub(super) fn administer<T: DeserializeOwned>(
    request: Request,
    context: &Context,
) -> Result<Answer<T>, Failure> {
    let router = find(context)?.routers.into_iter().next();
    let (value, router_runs, all_private, guess) = context.block_on(async {
        if let Some(record) = router {
            return Ok((ask(&record, &request, PATIENCE).await?, true, false, None));
        }
        let home = context.home()?;
        let config = place::load(None, &Overrides::new(), context)?.config;
        let keypair = place::keypair(&config, &home)?;
        let store = place::store(&home)?;
        let last = place::last_bind(&home);
        let bind = last.unwrap_or(config.bind.socket_addr());
        let advertised = place::addresses(&config, bind, &home)?;
        let guess = place::is_guessed(&config, &home).then_some(match last {
            Some(_) => LISTENED_LAST,
            None => NEVER_RAN,
        });
        let admin = Admin::offline(store, keypair.identity(), advertised.addresses);
        Ok((admin.handle(request).await?, false, advertised.all_private, guess))
    })?;
    Ok(Answer { value: read(value)?, router_runs, all_private, guess })
}

/// What a value says.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        let message = format!("the router's answer is none that this version reads: {error}");
        Failure::new(Kind::System, "answer", message)
    })
}

/// Said of addresses, after which come the addresses.
const LISTENED_LAST: &str = "no router runs here; the ticket carries where it listened last";
/// The same before the first start.
const NEVER_RAN: &str =
    "no router has run here yet; the ticket carries a guess from the configuration";
/// The router's store is on a disk, and another process may hold its lock for a moment.
const PATIENCE: Duration = Duration::from_secs(10);
