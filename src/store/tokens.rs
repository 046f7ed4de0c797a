//! Tokens: what a client or a user of the HTTP interface may have to show besides its key.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, named_params, params};

use super::{Store, StoreError, columns};
use crate::tunnel::Name;

/// A token to remember.
#[derive(Clone)]
pub struct NewToken {
    /// Random; part of the token's text.
    pub id: [u8; 8],
    /// SHA-256 of the token's text, which is the key of its proofs: as good as the token itself.
    pub hash: [u8; 32],
    /// Unique among the tokens that are not revoked.
    pub name: Name,
    /// The first second at which it is no longer good; `None` is never.
    pub expires_at: Option<u64>,
    /// The time now, in Unix seconds.
    pub created_at: u64,
}

/// A token that was given out, revoked and expired ones too.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: [u8; 8],
    /// The key of its proofs.
    pub hash: [u8; 32],
    /// Its name.
    pub name: Name,
    /// The first second at which it is no longer good; `None` is never.
    pub expires_at: Option<u64>,
    /// When it was made.
    pub created_at: u64,
    /// When it was revoked.
    pub revoked_at: Option<u64>,
}

/// Whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenState {
    /// It is.
    Valid,
    /// It is too old.
    Expired,
    /// It was revoked.
    Revoked,
}

/// Which token is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRef {
    /// The one of this name that is not revoked.
    Name(Name),
    /// The one with this id.
    Id([u8; 8]),
}

/// Why a token was not remembered.
#[derive(Debug, thiserror::Error)]
pub enum CreateTokenError {
    /// Another token has the name.
    #[error("there is a token named {0} already: choose another name, or revoke that one")]
    NameTaken(Name),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TokenRow {
    /// Whether it is good at `now`, in Unix seconds.
    pub fn state(&self, now: u64) -> TokenState {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => TokenState::Revoked,
            (None, Some(at)) if at <= now => TokenState::Expired,
            (None, _) => TokenState::Valid,
        }
    }
}

impl Store {
    /// Remembers a new token.
    pub async fn create_token(&self, token: NewToken) -> Result<TokenRow, CreateTokenError> {
        let name = token.name.clone();
        self.change("create a token", move |connection| insert(connection, &token))
            .await?
            .ok_or(CreateTokenError::NameTaken(name))
    }

    /// All tokens, revoked and expired ones too, by name.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.look("list the tokens", |connection| {
            connection
                .prepare_cached("SELECT * FROM tokens ORDER BY name_folded, created_at, id")?
                .query_map([], read)?
                .collect()
        })
        .await
    }

    /// The token with this id; whether it is good is for [`TokenRow::state`] to say.
    pub async fn token(&self, id: [u8; 8]) -> Result<Option<TokenRow>, StoreError> {
        self.look("look up a token", move |connection| {
            connection
                .prepare_cached("SELECT * FROM tokens WHERE id = ?1")?
                .query_row([id], read)
                .optional()
        })
        .await
    }

    /// Revokes a token and returns it; `None` when there is none. Repeating it by id keeps the first time.
    pub async fn revoke_token(
        &self,
        which: &TokenRef,
        now: u64,
    ) -> Result<Option<TokenRow>, StoreError> {
        let (id, folded) = match which {
            TokenRef::Name(name) => (None, Some(name.folded())),
            TokenRef::Id(id) => (Some(*id), None),
        };
        self.change("revoke a token", move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let row = transaction
                .prepare_cached(
                    "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?3)
                     WHERE id = ?1 OR name_folded = ?2 AND revoked_at IS NULL RETURNING *",
                )?
                .query_row(params![id, folded, columns::seconds(now)], read)
                .optional()?;
            transaction.commit()?;
            Ok(row)
        })
        .await
    }
}

/// `None` when the name is taken.
fn insert(connection: &mut Connection, token: &NewToken) -> rusqlite::Result<Option<TokenRow>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let taken: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM tokens WHERE name_folded = ?1 AND revoked_at IS NULL)",
        [token.name.folded()],
        |row| row.get(0),
    )?;
    if taken {
        return Ok(None);
    }
    let row = transaction
        .prepare_cached(
            "INSERT INTO tokens (id, hash, name, name_folded, expires_at, created_at)
             VALUES (:id, :hash, :name, :folded, :expires, :created) RETURNING *",
        )?
        .query_row(
            named_params! {
                ":id": token.id,
                ":hash": token.hash,
                ":name": token.name.as_str(),
                ":folded": token.name.folded(),
                ":expires": token.expires_at.map(columns::seconds),
                ":created": columns::seconds(token.created_at),
            },
            read,
        )?;
    transaction.commit()?;
    Ok(Some(row))
}

fn read(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        id: row.get("id")?,
        hash: row.get("hash")?,
        name: columns::name(row, "name")?,
        expires_at: columns::optional_time(row, "expires_at")?,
        created_at: columns::time(row, "created_at")?,
        revoked_at: columns::optional_time(row, "revoked_at")?,
    })
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRow")
            .field("name", &self.name)
            .field("expires_at", &self.expires_at)
            .field("revoked_at", &self.revoked_at)
            .finish_non_exhaustive()
    }
}
