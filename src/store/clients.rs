//! Clients: who is known, under which name, with which permissions.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, named_params, params};

use super::{Store, StoreError, columns};
use crate::policy::Permissions;
use crate::tunnel::{Identity, Name};

/// A client that the router knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRow {
    /// Never used again for another client.
    pub id: i64,
    /// Its key.
    pub identity: Identity,
    /// Unique among the active clients.
    pub name: Name,
    /// Whether it may enter.
    pub status: ClientStatus,
    /// What it may do.
    pub permissions: Permissions,
    /// The version of Conduit that it last came with.
    pub version: Option<String>,
    /// The system that it last came from.
    pub system: Option<String>,
    /// When it last came, in Unix seconds.
    pub last_seen: Option<u64>,
    /// When it was first admitted.
    pub created_at: u64,
    /// When name, permissions or status last changed.
    pub updated_at: u64,
}

/// Whether a client may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientStatus {
    /// It may.
    Active,
    /// It may not, and no ticket brings it back; only [`Store::authorize`] does.
    Revoked,
}

/// A client to admit by its key.
#[derive(Clone, Debug)]
pub struct NewClient {
    /// Its key.
    pub identity: Identity,
    /// Its name.
    pub name: Name,
    /// What it may do.
    pub permissions: Permissions,
    /// The time now, in Unix seconds.
    pub created_at: u64,
}

/// What a client says of itself when it enters.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its version of Conduit; cut at 128 characters.
    pub version: String,
    /// Its operating system and architecture; cut at 128 characters.
    pub system: String,
    /// The time now, in Unix seconds.
    pub at: u64,
}

/// What a key may do once it is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// This.
    Set(Permissions),
    /// What it may do already; a key that is not known becomes an owner.
    Keep,
}

/// What became of admitting a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorized {
    /// The client as it is now.
    pub client: ClientRow,
    /// As it was before, when the key was known.
    pub before: Option<ClientRow>,
}

/// Why a client was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// Another active client has the name.
    #[error("the name {name} belongs to the client {by}: choose another, or revoke that client")]
    NameTaken {
        /// The name.
        name: Name,
        /// Who has it.
        by: Identity,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The client with this key, revoked or not.
    pub async fn client(&self, identity: Identity) -> Result<Option<ClientRow>, StoreError> {
        self.look("look up a client", move |connection| by_identity(connection, identity)).await
    }

    /// All clients, revoked ones too, by name.
    pub async fn clients(&self) -> Result<Vec<ClientRow>, StoreError> {
        self.look("list the clients", |connection| {
            connection
                .prepare_cached("SELECT * FROM clients ORDER BY name_folded, id")?
                .query_map([], read)?
                .collect()
        })
        .await
    }

    /// Admits a key. A key that is known already gets the new name and permissions, and is active again if it was
    /// revoked.
    pub async fn authorize(&self, client: NewClient) -> Result<ClientRow, AuthorizeError> {
        let NewClient { identity, name, permissions, created_at } = client;
        Ok(self.grant(identity, name, Grant::Set(permissions), created_at).await?.client)
    }

    /// The same for who may not know what the key may do already, and tells what was there before.
    pub async fn grant(
        &self,
        identity: Identity,
        name: Name,
        grant: Grant,
        now: u64,
    ) -> Result<Authorized, AuthorizeError> {
        let wanted = name.clone();
        let outcome = self.change("admit a client", move |connection| {
            upsert(connection, identity, wanted, grant, now)
        });
        outcome.await?.map_err(|by| AuthorizeError::NameTaken { name, by })
    }

    /// Revokes the client of this name and returns it; `None` when there is none. Repeating it changes nothing.
    pub async fn revoke(&self, name: &Name, now: u64) -> Result<Option<ClientRow>, StoreError> {
        let folded = name.folded();
        self.change("revoke a client", move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute(
                "UPDATE clients SET status = 'revoked', updated_at = ?2
                 WHERE name_folded = ?1 AND status = 'active'",
                params![folded, columns::seconds(now)],
            )?;
            // A name may have been given up by several revoked clients: the last one is meant.
            let row = transaction
                .prepare_cached(
                    "SELECT * FROM clients WHERE name_folded = ?1
                     ORDER BY updated_at DESC, id DESC LIMIT 1",
                )?
                .query_row([folded], read)
                .optional()?;
            transaction.commit()?;
            Ok(row)
        })
        .await
    }

    /// Notes that a client has entered; an unknown one is ignored.
    pub async fn seen(&self, identity: Identity, seen: Seen) -> Result<(), StoreError> {
        self.change("note a client's visit", move |connection| {
            connection
                .prepare_cached(
                    "UPDATE clients SET version = ?2, system = ?3, last_seen = ?4
                     WHERE identity = ?1",
                )?
                .execute(params![
                    identity.as_bytes(),
                    cut(&seen.version),
                    cut(&seen.system),
                    columns::seconds(seen.at),
                ])
                .map(drop)
        })
        .await
    }
}

pub(super) fn by_identity(
    connection: &Connection,
    identity: Identity,
) -> rusqlite::Result<Option<ClientRow>> {
    connection
        .prepare_cached("SELECT * FROM clients WHERE identity = ?1")?
        .query_row([identity.as_bytes()], read)
        .optional()
}

/// The active client that has the name.
pub(super) fn holder_of(
    connection: &Connection,
    name: &Name,
) -> rusqlite::Result<Option<Identity>> {
    connection
        .prepare_cached(
            "SELECT identity FROM clients WHERE name_folded = ?1 AND status = 'active'",
        )?
        .query_row([name.folded()], |row| columns::identity(row, "identity"))
        .optional()
}

/// `Err` inside is whose the name is.
fn upsert(
    connection: &mut Connection,
    identity: Identity,
    name: Name,
    grant: Grant,
    now: u64,
) -> rusqlite::Result<Result<Authorized, Identity>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match holder_of(&transaction, &name)? {
        Some(by) if by != identity => return Ok(Err(by)),
        _ => {}
    }
    let before = by_identity(&transaction, identity)?;
    let permissions = match (grant, &before) {
        (Grant::Set(permissions), _) => permissions,
        (Grant::Keep, Some(known)) => known.permissions.clone(),
        (Grant::Keep, None) => Permissions::owner(),
    };
    let client = NewClient { identity, name, permissions, created_at: now };
    let client = write(&transaction, &client)?;
    transaction.commit()?;
    Ok(Ok(Authorized { client, before }))
}

pub(super) fn write(connection: &Connection, client: &NewClient) -> rusqlite::Result<ClientRow> {
    connection
        .prepare_cached(
            "INSERT INTO clients
                 (identity, name, name_folded, status, permissions, created_at, updated_at)
             VALUES (:identity, :name, :folded, 'active', :permissions, :now, :now)
             ON CONFLICT (identity) DO UPDATE SET name = :name, name_folded = :folded,
                 status = 'active', permissions = :permissions, updated_at = :now
             RETURNING *",
        )?
        .query_row(
            named_params! {
                ":identity": client.identity.as_bytes(),
                ":name": client.name.as_str(),
                ":folded": client.name.folded(),
                ":permissions": columns::permissions_text(&client.permissions)?,
                ":now": columns::seconds(client.created_at),
            },
            read,
        )
}

fn read(row: &Row<'_>) -> rusqlite::Result<ClientRow> {
    let status: String = row.get("status")?;
    Ok(ClientRow {
        id: row.get("id")?,
        identity: columns::identity(row, "identity")?,
        name: columns::name(row, "name")?,
        // The schema allows two words; anything else must not be let in.
        status: if status == "active" { ClientStatus::Active } else { ClientStatus::Revoked },
        permissions: columns::permissions(row, "permissions")?,
        version: row.get("version")?,
        system: row.get("system")?,
        last_seen: columns::optional_time(row, "last_seen")?,
        created_at: columns::time(row, "created_at")?,
        updated_at: columns::time(row, "updated_at")?,
    })
}

/// What a client says of itself is shown in lists and kept on the disk.
fn cut(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_TEXT).collect()
}

const LONGEST_TEXT: usize = 128;
