//! Columns ⇄ the words of the product.

use rusqlite::Row;
use rusqlite::types::Type;

use crate::policy::Permissions;
use crate::tunnel::{Identity, Name};

pub(super) fn identity(row: &Row<'_>, column: &str) -> rusqlite::Result<Identity> {
    row.get::<_, [u8; Identity::LEN]>(column).map(Identity::from_bytes)
}

pub(super) fn name(row: &Row<'_>, column: &str) -> rusqlite::Result<Name> {
    parse_name(row, column, row.get(column)?)
}

pub(super) fn optional_name(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Name>> {
    row.get::<_, Option<String>>(column)?.map(|text| parse_name(row, column, text)).transpose()
}

fn parse_name(row: &Row<'_>, column: &str, text: String) -> rusqlite::Result<Name> {
    text.parse().map_err(|error| unreadable(row, column, Box::new(error)))
}

pub(super) fn permissions(row: &Row<'_>, column: &str) -> rusqlite::Result<Permissions> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(row, column, Box::new(error)))
}

pub(super) fn permissions_text(permissions: &Permissions) -> rusqlite::Result<String> {
    serde_json::to_string(permissions)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Unix seconds as SQLite's signed integer; "never" that is written as the largest number stays the largest.
pub(super) fn seconds(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

pub(super) fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let seconds: i64 = row.get(column)?;
    u64::try_from(seconds).map_err(|error| unreadable(row, column, Box::new(error)))
}

pub(super) fn optional_time(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    match row.get::<_, Option<i64>>(column)? {
        None => Ok(None),
        Some(_) => time(row, column).map(Some),
    }
}

fn unreadable(
    row: &Row<'_>,
    column: &str,
    error: Box<dyn std::error::Error + Send + Sync>,
) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error)
}
