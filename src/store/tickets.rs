//! Tickets: invitations that have been given out, with what a redeemer gets.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, columns};
use crate::policy::Permissions;
use crate::tunnel::{Identity, Name};

/// A ticket to remember.
#[derive(Clone, Debug)]
pub struct NewTicket {
    /// Random.
    pub id: [u8; 8],
    /// The public half of the one-time key; the secret is never stored.
    pub public_key: Identity,
    /// What a redeemer may do.
    pub permissions: Permissions,
    /// The redeemer's name; `None` leaves it to the redeemer.
    pub name: Option<Name>,
    /// How many keys may redeem it, at least 1.
    pub uses: u32,
    /// The first second at which it is no longer good.
    pub expires_at: u64,
    /// The time now, in Unix seconds.
    pub created_at: u64,
}

/// A ticket that was given out, spent and expired ones too until they are purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketRow {
    /// Its id.
    pub id: [u8; 8],
    /// What a proof of the secret is verified with.
    pub public_key: Identity,
    /// What a redeemer may do.
    pub permissions: Permissions,
    /// The redeemer's name, if it was set.
    pub name: Option<Name>,
    /// How many keys may redeem it in all.
    pub uses: u32,
    /// How many still may.
    pub uses_left: u32,
    /// The first second at which it is no longer good.
    pub expires_at: u64,
    /// When it was made.
    pub created_at: u64,
}

impl Store {
    /// Remembers a new ticket. An id that is there already is an error.
    pub async fn create_ticket(&self, ticket: NewTicket) -> Result<(), StoreError> {
        self.change("create a ticket", move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO tickets (id, public_key, permissions, name, uses, uses_left,
                         expires_at, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)",
                )?
                .execute(params![
                    ticket.id,
                    ticket.public_key.as_bytes(),
                    columns::permissions_text(&ticket.permissions)?,
                    ticket.name.as_ref().map(Name::as_str),
                    ticket.uses,
                    columns::seconds(ticket.expires_at),
                    columns::seconds(ticket.created_at),
                ])
                .map(drop)
        })
        .await
    }

    /// The ticket with this id: its key lets the caller verify a proof before anything is redeemed.
    pub async fn ticket(&self, id: [u8; 8]) -> Result<Option<TicketRow>, StoreError> {
        self.look("look up a ticket", move |connection| find(connection, id)).await
    }

    /// Forgets tickets that were spent or have expired [`Store::TICKET_MEMORY`] seconds ago; says how many.
    pub async fn purge(&self, now: u64) -> Result<usize, StoreError> {
        let before = columns::seconds(now.saturating_sub(Self::TICKET_MEMORY));
        self.change("forget old tickets", move |connection| {
            connection.execute(
                "DELETE FROM tickets WHERE expires_at <= ?1 OR uses_left = 0 AND ?1 >=
                     (SELECT max(redeemed_at) FROM redemptions WHERE ticket_id = tickets.id)",
                [before],
            )
        })
        .await
    }

    /// For so long, in seconds, somebody who proves a ticket's secret hears why it is no longer good: 30 days. [TKT-9]
    pub const TICKET_MEMORY: u64 = 30 * 24 * 60 * 60;
}

pub(super) fn find(
    connection: &rusqlite::Connection,
    id: [u8; 8],
) -> rusqlite::Result<Option<TicketRow>> {
    connection
        .prepare_cached("SELECT * FROM tickets WHERE id = ?1")?
        .query_row([id], |row| {
            Ok(TicketRow {
                id: row.get("id")?,
                public_key: columns::identity(row, "public_key")?,
                permissions: columns::permissions(row, "permissions")?,
                name: columns::optional_name(row, "name")?,
                uses: row.get("uses")?,
                uses_left: row.get("uses_left")?,
                expires_at: columns::time(row, "expires_at")?,
                created_at: columns::time(row, "created_at")?,
            })
        })
        .optional()
}
