//! Trust in a router: by a ticket, by a pin, or because this client is enrolled there.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::context::Context;
use super::report::warn;
use crate::client::{self, Access, RouterAddress};
use crate::config::{ClientConfig, EnrolledRouter, Home, Routers};
use crate::files;
use crate::fleet::{Failure, Kind, Pin, Tuning, exit};
use crate::identity::{Keypair, ParseTokenError, Ticket, Token};
use crate::tunnel::{HostPort, Name};

/// A ticket, and whether somebody asked for it to be used now (it is not just in the environment).
#[derive(Debug)]
pub(super) struct Invitation {
    ticket: Ticket,
    is_asked_for: bool,
}

/// Reads the ticket of `--join`, else of `CONDUIT_TICKET`, else of the service manager's credential.
pub(super) fn read_ticket(
    join: Option<&str>,
    context: &Context,
) -> Result<Option<Invitation>, Failure> {
    let (text, is_asked_for) = match join {
        Some("-") => (from_stdin()?, true),
        Some(text) if text.starts_with(Ticket::PREFIX) => {
            let ticket = parse(text)?;
            if !ticket.single_use {
                let message = "this ticket can be used more than once: on a command line every \
                               user of this machine could read it and use it too";
                let hint = "pass it by `--join -` (stdin), a file, or CONDUIT_TICKET";
                return Err(Failure::usage(message).with_hint(hint));
            }
            return Ok(Some(Invitation { ticket, is_asked_for: true }));
        }
        Some(path) => (from_file(Path::new(path.trim_start_matches('@')))?, true),
        None => match (context.environment.ticket(), context.environment.credential("ticket")) {
            (Some(secret), _) => (secret.expose().to_owned(), false),
            (None, Some(path)) => (from_file(&path)?, false),
            (None, None) => return Ok(None),
        },
    };
    Ok(Some(Invitation { ticket: parse(text.trim())?, is_asked_for }))
}

fn parse(text: &str) -> Result<Ticket, Failure> {
    text.parse().map_err(|error: crate::identity::ParseTicketError| {
        Failure::new(Kind::Authentication, "ticket", format!("this is no ticket: {error}"))
            .with_hint("copy the whole line that `conduit router invite` prints")
    })
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("cannot read the ticket from stdin: {error}")))?;
    if text.trim().is_empty() {
        return Err(Failure::usage("there is no ticket on stdin"));
    }
    Ok(text)
}

fn from_file(path: &Path) -> Result<String, Failure> {
    let bytes = files::read_bounded(path, LONGEST).map_err(|error| {
        Failure::new(Kind::Authentication, "ticket", format!("no ticket: {error}"))
            .with_hint("--join takes a ticket (cdt1_…), a file with one, or - for stdin")
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The router that a client of this configuration goes to, and the key that it must show. Enrols on the way when
/// there is a ticket for a router that does not know this client.
pub(super) async fn trusted_router(
    context: &Context,
    config: &ClientConfig,
    invitation: Option<Invitation>,
    tuning: &Tuning,
    client_name: &str,
    keypair: &Arc<Keypair>,
    token: Option<&str>,
) -> Result<Pin, Failure> {
    let home = context.home()?;
    let routers = Routers::read(&home)?;
    let Some(Invitation { ticket, is_asked_for }) = invitation else {
        return known_router(config, &routers);
    };
    if !is_asked_for && routers.by_identity(&ticket.router).is_some() {
        return known_router(config, &routers);
    }
    if let Some(pinned) = config.router_identity.filter(|pinned| *pinned != ticket.router) {
        let message = format!(
            "the ticket is for the router {}, the configuration pins {pinned}",
            ticket.router
        );
        let hint = "ask the pinned router's owner for a ticket, or remove the pin";
        return Err(Failure::new(Kind::Authentication, "pin", message).with_hint(hint));
    }
    let mut addresses = ticket.addresses.clone();
    // What the configuration says is closer to this host than what the router knows of itself.
    if let Some(configured) = &config.router {
        addresses.retain(|addr| addr != configured);
        addresses.insert(0, configured.clone());
    }
    let address = RouterAddress { addresses: addresses.clone(), identity: ticket.router };
    let identity = address.identity;
    let access = Access {
        token: token.map(parse_token).transpose()?,
        transport: tuning.transport(),
        ..Access::new(Arc::clone(keypair), address, client_name)
    };
    let enrolled = client::enrol(&access, ticket).await?;
    addresses.retain(|addr| *addr != enrolled.addr);
    addresses.insert(0, enrolled.addr.clone());
    let pin = Pin { addresses, identity };
    remember(&home, &pin)?;
    if !context.quiet && !context.json {
        let may = if enrolled.owner { " as its owner" } else { "" };
        let at = format!("enrolled at {}{may}, under the name {}", enrolled.addr, enrolled.name);
        warn(&match enrolled.by_ticket {
            true => at,
            false => format!("{at}, before this: the ticket was not used, and changes nothing"),
        });
    }
    Ok(pin)
}

/// Reads a token's text.
pub(super) fn parse_token(text: &str) -> Result<Token, Failure> {
    text.parse().map_err(|error: ParseTokenError| {
        Failure::new(Kind::Config, "token", format!("the configured token is none: {error}"))
    })
}

fn known_router(config: &ClientConfig, routers: &Routers) -> Result<Pin, Failure> {
    let enrolled = |router: &EnrolledRouter| Pin {
        addresses: router.addresses.clone(),
        identity: router.identity,
    };
    match (&config.router, config.router_identity) {
        (Some(addr), Some(identity)) => Ok(Pin { addresses: vec![addr.clone()], identity }),
        (Some(addr), None) => match routers.by_address(addr) {
            Some(router) => Ok(Pin { addresses: vec![addr.clone()], identity: router.identity }),
            None => Err(unknown_router(addr, routers)),
        },
        (None, Some(identity)) => routers.by_identity(&identity).map(enrolled).ok_or_else(|| {
            let message = format!("no address is known for the router {identity}");
            Failure::new(Kind::Config, "no_router", message)
                .with_hint("name it: --router HOST:PORT, or [router] host in conduit.toml")
        }),
        (None, None) => match routers.only() {
            Some(router) => Ok(enrolled(router)),
            None => Err(no_router(routers)),
        },
    }
}

fn unknown_router(addr: &HostPort, routers: &Routers) -> Failure {
    let message =
        format!("the router {addr} is not known here, so nothing tells it from an impostor");
    let mut hint = format!(
        "`--join TICKET` (`conduit router invite` prints one there), or `--router-identity ID` \
         with what `conduit router` prints there for {addr}"
    );
    if let Some(router) = routers.only() {
        hint.push_str(&format!(
            "; if the router {} moved there, add --router-identity {}",
            router.name, router.identity
        ));
    }
    Failure::new(Kind::Authentication, "unknown_router", message).with_hint(hint)
}

fn no_router(routers: &Routers) -> Failure {
    let names: Vec<String> =
        routers.iter().map(|router| format!("{} ({})", router.name, router.addresses[0])).collect();
    if names.is_empty() {
        let hint = "`--join TICKET` enrols with the ticket that `conduit router` prints, or name \
                    the router: --router HOST:PORT --router-identity ID";
        return Failure::new(Kind::Config, "no_router", "no router is known here").with_hint(hint);
    }
    let message = format!("several routers are known here: {}", names.join(", "));
    Failure::new(Kind::Config, "which_router", message)
        .with_hint("choose one: --router HOST:PORT, or [router] host in conduit.toml")
        .with_exit(exit::CONFIG)
}

/// A router that answered where the configuration says, under a known pin, has moved there.
pub(super) fn remember_move(home: &Home, pin: &Pin) -> Result<(), Failure> {
    let routers = Routers::read(home)?;
    let has_moved = routers
        .by_identity(&pin.identity)
        .is_some_and(|known| !pin.addresses.iter().all(|addr| known.addresses.contains(addr)));
    if has_moved { remember(home, pin) } else { Ok(()) }
}

fn remember(home: &Home, pin: &Pin) -> Result<(), Failure> {
    let name = router_name(&pin.addresses[0]);
    let router = EnrolledRouter { name, addresses: pin.addresses.clone(), identity: pin.identity };
    Ok(Routers::update(home, |routers| routers.remember(router))?)
}

/// The host, as far as a name can hold it.
fn router_name(addr: &HostPort) -> Name {
    let host = addr.host.to_string();
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let text: String = host.chars().map(legal).take(Name::MAX - 8).collect();
    text.parse().or_else(|_| "router".parse()).expect("`router` is a name")
}

/// A ticket with eight long names is below 3 KiB.
const LONGEST: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides};
    use crate::tunnel::Identity;

    const NEAR: &str = "10.0.0.1:9999";
    const FAR: &str = "r.example:9999";

    fn config(text: &str) -> ClientConfig {
        let environment = Environment::capture([("HOME", "/home/a")]);
        let path = Path::new("c.toml");
        ClientConfig::parse(path, text, &environment, &Overrides::new()).expect("sound").config
    }

    fn enrolled(addresses: &[&str]) -> Routers {
        let mut routers = Routers::default();
        for (at, addr) in addresses.iter().enumerate() {
            let addr: HostPort = addr.parse().expect("an address");
            let identity = Identity::from_bytes([u8::try_from(at).expect("few"); 32]);
            let name = router_name(&addr);
            routers.remember(EnrolledRouter { name, addresses: vec![addr], identity });
        }
        routers
    }

    fn code(text: &str, routers: &[&str]) -> Result<String, (String, u8)> {
        let pin = known_router(&config(text), &enrolled(routers));
        pin.map(|pin| pin.addresses[0].to_string()).map_err(|failure| (failure.code, failure.exit))
    }

    #[test]
    fn only_a_router_that_is_enrolled_or_pinned_is_trusted() {
        let refused = |word: &str, exit| Err((word.to_owned(), exit));
        let here = "[router]\nhost = \"10.0.0.1\"\n";
        let pinned =
            format!("{here}[security]\nrouter_identity = \"{}\"\n", Identity::from_bytes([9; 32]));
        let only_pin =
            format!("[security]\nrouter_identity = \"{}\"\n", Identity::from_bytes([1; 32]));
        assert_eq!(code("", &[]), refused("no_router", 78));
        assert_eq!(code("", &[NEAR]), Ok(NEAR.to_owned()));
        assert_eq!(code("", &[NEAR, FAR]), refused("which_router", 78));
        assert_eq!(code(here, &[]), refused("unknown_router", 77));
        assert_eq!(code(here, &[FAR]), refused("unknown_router", 77));
        assert_eq!(code(here, &[FAR, NEAR]), Ok(NEAR.to_owned()));
        assert_eq!(code(&pinned, &[]), Ok(NEAR.to_owned()));
        assert_eq!(code(&only_pin, &[NEAR]), refused("no_router", 78));
        assert_eq!(code(&only_pin, &[NEAR, FAR]), Ok(FAR.to_owned()));
    }

    #[test]
    fn the_refusal_names_both_ways_to_trust_a_router() {
        let hint = unknown_router(&NEAR.parse().expect("an address"), &enrolled(&[FAR])).hint;
        let hint = hint.expect("a hint");
        let moved = Identity::from_bytes([0; 32]).to_string();
        assert!(hint.contains("--join") && hint.contains("--router-identity ID"), "{hint}");
        assert!(hint.contains(&moved), "the pin of the one that may have moved: {hint}");
    }
}
