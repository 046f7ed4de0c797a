//! Who may enter: key, ticket and token, in this order. Every refusal but that of a proved ticket looks the same.

use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::sessions::{Entry, Seat};
use super::{Shared, now};
use crate::policy::Targets;
use crate::registry::rfc3339;
use crate::session::{Admission, Applicant, Event, REFUSAL, REVOKED, Session};
use crate::store::{ClientRow, ClientStatus, Redemption, Seen, StoreError, TokenState};
use crate::task::Tasks;
use crate::tunnel::Name;
use crate::wire::Code;

/// A client that is in.
pub(super) struct Admitted {
    pub(super) session: Session,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) seat: Seat,
    pub(super) name: Name,
    pub(super) instance: Uuid,
}

/// Why not.
enum No {
    /// The one answer.
    Generic(&'static str),
    /// For who has proved to hold the ticket.
    Ticket(String),
}

/// Decides about an applicant and lets it in; `None` when it was refused, which it has then been told.
pub(super) async fn admit(
    shared: &Shared,
    applicant: Applicant,
    tasks: &Tasks,
) -> Option<Admitted> {
    let identity = applicant.identity();
    let addr = applicant.connection().remote_addr();
    let refused = |reason: &str| {
        if shared.table.refuse("a session", None, reason) {
            tracing::warn!(%addr, identity = %identity, reason, "client refused");
        }
    };
    // Before anybody is looked up: it tells nothing of a key, and no ticket is spent for nothing.
    if shared.sessions.len() >= shared.settings.max_clients {
        refused("[limits] max_clients is reached");
        applicant.refuse_for_now(FULL);
        return None;
    }
    let instance = applicant.instance();
    let others = shared.sessions.of_others(identity, instance);
    if others >= most_of_one_key(shared.settings.max_clients) {
        refused("the key has as many sessions as one may");
        applicant.refuse_for_now(ENOUGH);
        return None;
    }
    let client = match decide(shared, &applicant).await {
        Ok(Ok(client)) => client,
        Ok(Err(No::Generic(reason))) => {
            refused(reason);
            applicant.refuse();
            return None;
        }
        Ok(Err(No::Ticket(reason))) => {
            refused(&reason);
            applicant.refuse_ticket(&reason);
            return None;
        }
        Err(error) => {
            let Some(client) = recall(shared, &applicant, &error) else {
                applicant.refuse_undecided();
                return None;
            };
            client
        }
    };
    note_visit(shared, &applicant, tasks);
    let admission = Admission {
        name: client.name.to_string(),
        owner: client.permissions.is_owner(),
        targets: match &client.permissions.targets {
            Targets::Any => Vec::new(),
            Targets::Listed(rules) => texts(rules),
        },
        binds: texts(&client.permissions.binds),
        enrolled: client.is_new,
    };
    let past = shared.sessions.past(identity, instance);
    match applicant.admit(admission, past.as_ref(), tasks).await {
        Ok((session, events)) => {
            tracing::info!(client = %client.name, %addr, "session up");
            let seat = shared.sessions.enter(&session, &client, instance);
            look_again(shared, &session, &client).await;
            Some(Admitted { session, events, seat, name: client.name, instance })
        }
        Err(error) => {
            tracing::debug!(%addr, %error, "lost while it was admitted");
            None
        }
    }
}

fn texts(rules: &[impl ToString]) -> Vec<String> {
    rules.iter().map(ToString::to_string).collect()
}

/// Sessions that one key may have, so that it cannot keep everybody else out: each of its tunnels takes one.
pub(super) fn most_of_one_key(max_clients: usize) -> usize {
    (max_clients / 4).max(LEAST_OF_ONE_KEY)
}

/// The store cannot be asked: a key that has a session, or may come back to one, is what it was. Who revokes it tells
/// this process, too.
fn recall(shared: &Shared, applicant: &Applicant, error: &StoreError) -> Option<Entry> {
    let known = shared.sessions.known(applicant.identity()).filter(|known| {
        let shown = applicant.token().map(|proof| proof.id.0);
        !shared.settings.require_token || (known.token.is_some() && shown == known.token)
    });
    // Once for each reason: strangers come here too.
    let reason = error.to_string();
    if shared.table.refuse("a session", None, &reason) {
        let addr = applicant.connection().remote_addr();
        tracing::error!(%addr, reason, "the store cannot tell who may enter");
    }
    if let Some(known) = &known {
        tracing::warn!(client = %known.name, "let in as it was known before");
    }
    known
}

/// Revoked, or given other permissions, since it was looked up: the seat was not there yet to be told.
async fn look_again(shared: &Shared, session: &Session, client: &Entry) {
    if shared.sessions.rulings() == client.as_of {
        return;
    }
    let store = &shared.settings.store;
    let look = async {
        let is_good = match client.token {
            Some(id) => store.token(id).await?.is_some_and(|token| token.revoked_at.is_none()),
            None => true,
        };
        Ok::<_, StoreError>((store.client(client.identity).await?, is_good))
    };
    match look.await {
        Ok((Some(row), is_good)) if row.status == ClientStatus::Active => {
            if row.permissions != client.permissions {
                shared.sessions.permit(row.identity, &row.permissions);
            }
            if !is_good || shared.sessions.is_banned(row.identity) {
                session.close(Code::Refused, REFUSAL);
            }
        }
        Ok(_) => {
            shared.sessions.expel(client.identity);
        }
        Err(error) => {
            tracing::error!(client = %client.name, %error, "the store cannot tell who may stay");
            session.close(Code::Internal, "the router cannot read its store");
        }
    }
}

/// Asks the store.
async fn decide(shared: &Shared, applicant: &Applicant) -> Result<Result<Entry, No>, StoreError> {
    let store = &shared.settings.store;
    let as_of = shared.sessions.rulings();
    let is_banned = shared.sessions.is_banned(applicant.identity());
    let mut is_new = false;
    let client = match store.client(applicant.identity()).await {
        Err(_) if is_banned => return Ok(Err(No::Generic(REVOKED_KEY))),
        found => found?,
    };
    let client = match client {
        Some(client) if client.status == ClientStatus::Active && !is_banned => client,
        // A ticket does not bring it back, and is not spent; who proves to hold one hears what does. [TKT-6]
        Some(_) => {
            return Ok(Err(match proved_ticket(shared, applicant).await? {
                Some(_) => No::Ticket(REVOKED.to_owned()),
                None => No::Generic(REVOKED_KEY),
            }));
        }
        None => match enrol(shared, applicant).await? {
            Ok(client) => {
                is_new = true;
                client
            }
            Err(no) => return Ok(Err(no)),
        },
    };
    let ClientRow { name, identity, permissions, .. } = client;
    let entry = Entry { name, identity, permissions, token: None, is_new, as_of };
    if !shared.settings.require_token {
        return Ok(Ok(entry));
    }
    let Some(proof) = applicant.token() else { return Ok(Err(No::Generic("no token was shown"))) };
    Ok(match store.token(proof.id.0).await? {
        Some(token) if !proof.fits(&token.hash) => {
            Err(No::Generic("the token's proof does not fit"))
        }
        Some(token) => match token.state(now()) {
            TokenState::Valid => Ok(Entry { token: Some(token.id), ..entry }),
            TokenState::Expired => Err(No::Generic("the token is expired")),
            TokenState::Revoked => Err(No::Generic("the token was revoked")),
        },
        None => Err(No::Generic("the token is unknown")),
    })
}

/// The ticket that the applicant has proved to hold.
async fn proved_ticket(
    shared: &Shared,
    applicant: &Applicant,
) -> Result<Option<[u8; 8]>, StoreError> {
    let Some(proof) = applicant.ticket(&shared.admin.identity()) else { return Ok(None) };
    let ticket = shared.settings.store.ticket(proof.id.0).await?;
    Ok(ticket.filter(|ticket| proof.fits(&ticket.public_key)).map(|ticket| ticket.id))
}

/// An unknown key with a ticket. The proof is checked first: who cannot prove the secret learns nothing. [TKT-5]
async fn enrol(
    shared: &Shared,
    applicant: &Applicant,
) -> Result<Result<ClientRow, No>, StoreError> {
    let store = &shared.settings.store;
    let Some(ticket) = proved_ticket(shared, applicant).await? else {
        return Ok(Err(No::Generic("the key is unknown, and it has shown no ticket that fits")));
    };
    let proposed = proposed_name(&applicant.hello().name);
    Ok(match store.redeem(ticket, applicant.identity(), &proposed, now()).await? {
        Redemption::Admitted(client) => {
            tracing::info!(client = %client.name, identity = %client.identity, permissions = %client.permissions, "enrolled");
            Ok(client)
        }
        Redemption::Already(client) => Ok(client),
        Redemption::Spent { by, at } => {
            let by: Vec<_> = by.iter().map(ToString::to_string).collect();
            Err(No::Ticket(format!("it was used by {} at {}", by.join(", "), time(at))))
        }
        Redemption::Expired { at } => Err(No::Ticket(format!("it expired at {}", time(at)))),
        Redemption::Revoked => Err(No::Ticket(REVOKED.to_owned())),
        Redemption::Unknown => Err(No::Generic("the key is unknown")),
    })
}

/// What the client would like to be called, made a name: nobody is turned away for a host name with a dot.
fn proposed_name(text: &str) -> Name {
    let folded: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .take(Name::MAX)
        .collect();
    folded.trim_matches('-').parse().unwrap_or_else(|_| "client".parse().expect("a legal name"))
}

/// Version, system and time go to the store; nobody waits for that.
fn note_visit(shared: &Shared, applicant: &Applicant, tasks: &Tasks) {
    let (store, identity) = (shared.settings.store.clone(), applicant.identity());
    let hello = applicant.hello();
    let seen =
        Seen { version: hello.conduit_version.clone(), system: hello.system.clone(), at: now() };
    tasks.spawn("note visit", async move {
        if let Err(error) = store.seen(identity, seen).await {
            tracing::warn!(%error, "a client's visit was not noted");
        }
    });
}

fn time(at: u64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_secs(at))
}

const REVOKED_KEY: &str = "the key was revoked";
/// What everybody reads while there is no room.
const FULL: &str = "the router serves as many clients as it may; try again later";
/// What one key reads that has many sessions.
const ENOUGH: &str =
    "this key has as many sessions with the router as one may; stop some of its tunnels";
/// A small router's keys may have so many sessions all the same.
const LEAST_OF_ONE_KEY: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_client_calls_itself_becomes_a_name() {
        for (proposed, name) in [
            ("ci", "ci"),
            ("host.example.org", "host-example-org"),
            ("", "client"),
            ("---", "client"),
            ("a\u{202e}b\n", "a-b"),
            (&"x".repeat(200), &"x".repeat(64)),
        ] {
            assert_eq!(proposed_name(proposed).as_str(), name, "{proposed:?}");
        }
    }
}
