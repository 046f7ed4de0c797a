//! Columns ⇄ the words of the product.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::Type;

use crate::policy::Permissions;
use crate::routes::Route;
use crate::tunnel::{Bind, Identity, Name, Protocol, UnixPath};

pub(super) fn identity(row: &Row<'_>, column: &str) -> rusqlite::Result<Identity> {
    row.get::<_, [u8; Identity::LEN]>(column).map(Identity::from_bytes)
}

pub(super) fn name(row: &Row<'_>, column: &str) -> rusqlite::Result<Name> {
    parse(row, column, &row.get::<_, String>(column)?)
}

pub(super) fn optional_name(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Name>> {
    row.get::<_, Option<String>>(column)?.map(|text| parse(row, column, &text)).transpose()
}

/// The columns `address` and `port` of a route.
pub(super) fn place(route: &Route) -> (String, u16) {
    match route.bind() {
        Bind::Addr(addr) => {
            let addr = addr.socket_addr();
            (addr.ip().to_string(), addr.port())
        }
        Bind::Unix(path) => (path.to_string(), 0),
    }
}

/// The route of the columns `protocol`, `address` and `port`.
pub(super) fn route(row: &Row<'_>) -> rusqlite::Result<Route> {
    let (protocol, address): (String, String) = (row.get("protocol")?, row.get("address")?);
    let protocol = parse::<Protocol>(row, "protocol", &protocol)?;
    let bind = if address.starts_with(UnixPath::PREFIX) {
        parse::<Bind>(row, "address", &address)?
    } else {
        SocketAddr::new(parse::<IpAddr>(row, "address", &address)?, row.get("port")?).into()
    };
    Route::new(protocol, &bind).ok_or_else(|| unreadable(row, "port", "it is 0".into()))
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

fn parse<T>(row: &Row<'_>, column: &str, text: &str) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    text.parse().map_err(|error: T::Err| unreadable(row, column, error.into()))
}

fn unreadable(row: &Row<'_>, column: &str, error: Box<dyn Error + Send + Sync>) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error)
}
