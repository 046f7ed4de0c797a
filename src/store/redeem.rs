//! Redeeming a ticket: one statement decides who was in time.

use rusqlite::{Connection, TransactionBehavior, params};

use super::clients::{self, ClientRow, ClientStatus, NewClient};
use super::{Store, StoreError, columns, tickets};
use crate::tunnel::{Identity, Name};

/// What came of redeeming a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redemption {
    /// The key is now a client; the ticket has one use less.
    Admitted(ClientRow),
    /// The key was a client before; the ticket is untouched.
    Already(ClientRow),
    /// All uses were taken.
    Spent {
        /// The names under which they entered.
        by: Vec<Name>,
        /// When the last one was, in Unix seconds.
        at: u64,
    },
    /// The ticket is too old.
    Expired {
        /// Since when, in Unix seconds.
        at: u64,
    },
    /// The key was revoked; no ticket brings it back.
    Revoked,
    /// There is no such ticket.
    Unknown,
}

impl Store {
    /// Redeems a ticket for a key. The caller has verified the proof of the ticket's secret.
    ///
    /// Repeating it for the same key gives [`Redemption::Already`], however often and whatever became of the ticket:
    /// the answer to the first try may have been lost. The client's name is the ticket's, else `proposed_name`; a
    /// name that is taken gets `-2`, `-3` and so on. [TKT-7]
    pub async fn redeem(
        &self,
        id: [u8; 8],
        identity: Identity,
        proposed_name: &Name,
        now: u64,
    ) -> Result<Redemption, StoreError> {
        let proposed = proposed_name.clone();
        self.change("redeem a ticket", move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let redemption = redeem(&transaction, id, identity, proposed, now)?;
            transaction.commit()?;
            Ok(redemption)
        })
        .await
    }
}

fn redeem(
    connection: &Connection,
    id: [u8; 8],
    identity: Identity,
    proposed: Name,
    now: u64,
) -> rusqlite::Result<Redemption> {
    if let Some(known) = clients::by_identity(connection, identity)? {
        return Ok(match known.status {
            ClientStatus::Active => Redemption::Already(known),
            ClientStatus::Revoked => Redemption::Revoked,
        });
    }
    let taken = connection
        .prepare_cached(
            "UPDATE tickets SET uses_left = uses_left - 1
             WHERE id = ?1 AND uses_left > 0 AND expires_at > ?2",
        )?
        .execute(params![id, columns::seconds(now)])?;
    let Some(ticket) = tickets::find(connection, id)? else { return Ok(Redemption::Unknown) };
    if taken == 0 {
        return match ticket.uses_left {
            0 => spent(connection, id),
            _ => Ok(Redemption::Expired { at: ticket.expires_at }),
        };
    }
    let name = free_name(connection, ticket.name.unwrap_or(proposed))?;
    let client = NewClient { identity, name, permissions: ticket.permissions, created_at: now };
    let client = clients::write(connection, &client)?;
    connection
        .prepare_cached(
            "INSERT INTO redemptions (ticket_id, client_id, name, redeemed_at)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![id, client.id, client.name.as_str(), columns::seconds(now)])?;
    Ok(Redemption::Admitted(client))
}

fn spent(connection: &Connection, id: [u8; 8]) -> rusqlite::Result<Redemption> {
    let mut statement = connection.prepare_cached(
        "SELECT name, redeemed_at FROM redemptions WHERE ticket_id = ?1
         ORDER BY redeemed_at, client_id",
    )?;
    let rows: Vec<(Name, u64)> = statement
        .query_map([id], |row| {
            Ok((columns::name(row, "name")?, columns::time(row, "redeemed_at")?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let at = rows.last().map(|(_, at)| *at).unwrap_or_default();
    Ok(Redemption::Spent { by: rows.into_iter().map(|(name, _)| name).collect(), at })
}

/// `base`, or the first of `base-2`, `base-3` … that no active client has, cut to the length of a name.
fn free_name(connection: &Connection, base: Name) -> rusqlite::Result<Name> {
    let mut name = base.clone();
    let mut number = 1_u64;
    while clients::holder_of(connection, &name)?.is_some() {
        number += 1;
        let suffix = format!("-{number}");
        let kept = base.as_str().len().min(Name::MAX - suffix.len());
        name = format!("{}{suffix}", &base.as_str()[..kept])
            .parse()
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    }
    Ok(name)
}
