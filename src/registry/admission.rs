//! What a router's administration answers: clients, tickets and tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tunnel::{HostPort, Identity, Name};

/// A client as the router keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// The name.
    pub name: Name,
    /// The key.
    pub identity: Identity,
    /// `active` or `revoked`.
    pub status: String,
    /// What it may reach, in words.
    pub permissions: String,
    /// Whether a session is open now.
    pub connected: bool,
    /// RFC 3339, of the last session.
    pub last_seen: Option<String>,
    /// The client's version of Conduit.
    pub version: Option<String>,
    /// The client's operating system.
    pub system: Option<String>,
    /// RFC 3339.
    pub created_at: String,
}

/// A ticket. Its text is a secret: `Debug` leaves it out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// `cdt1_…`
    pub ticket: String,
    /// RFC 3339.
    pub expires_at: String,
    /// How many clients may use it.
    pub uses: u32,
    /// The addresses that it carries.
    pub addresses: Vec<HostPort>,
    /// The router's key.
    pub identity: Identity,
    /// What it allows, in words.
    pub permissions: String,
    /// What its owner should know (all addresses are private, say).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A token just created: the only time that its text is shown. `Debug` leaves it out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// `cdp_…`
    pub token: String,
    /// Its id, hex.
    pub id: String,
    /// Its name.
    pub name: Name,
    /// RFC 3339; never when missing.
    pub expires_at: Option<String>,
}

/// A token as the router keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its id, hex.
    pub id: String,
    /// Its name.
    pub name: Name,
    /// `active`, `expired` or `revoked`.
    pub status: String,
    /// RFC 3339; never when missing.
    pub expires_at: Option<String>,
    /// RFC 3339.
    pub created_at: String,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Invitation");
        shown.field("expires_at", &self.expires_at).field("uses", &self.uses);
        shown.field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_reach_a_log_by_debug() {
        let issued = IssuedToken {
            token: "cdp_secret".into(),
            id: "00".into(),
            name: "ci".parse().expect("a name"),
            expires_at: None,
        };
        assert!(!format!("{issued:?}").contains("cdp_secret"));
    }
}
