//! What an operator does: invite, authorize, revoke, tokens. Works on the store alone, and on live sessions where a
//! router runs.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};

use super::now;
use super::publish::Published;
use super::sessions::Sessions;
use crate::identity::{Ticket, TicketId, TicketSecret, Token};
use crate::policy::{ParseRuleError, Permissions, Targets};
use crate::registry::{
    AuthorizeParams, ClientStatus, Invitation, InviteParams, IssuedToken, Request, RpcError,
    TokenCreateParams, TokenStatus, rfc3339,
};
use crate::store::{
    self, ClientRow, Grant, NewTicket, NewToken, Store, StoreError, TokenRef, TokenRow, TokenState,
};
use crate::tunnel::{HostPort, Identity, Name};

/// The operator's hands.
#[derive(Clone, Debug)]
pub struct Admin {
    store: Store,
    identity: Identity,
    advertise: Vec<HostPort>,
    /// Who is in, and what is published, where a router runs.
    sessions: Option<Sessions>,
    published: Option<Arc<Published>>,
}

impl Admin {
    /// For who works on the store while no router runs.
    pub fn offline(store: Store, identity: Identity, advertise: Vec<HostPort>) -> Self {
        Self::new(store, identity, advertise, None)
    }

    pub(super) fn new(
        store: Store,
        identity: Identity,
        advertise: Vec<HostPort>,
        running: Option<(Sessions, Arc<Published>)>,
    ) -> Self {
        let (sessions, published) = running.unzip();
        Self { store, identity, advertise, sessions, published }
    }

    /// The router's public key.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Answers a request of the operator; others are not for it.
    pub async fn handle(&self, request: Request) -> Result<Value, RpcError> {
        match request {
            Request::Invite(params) => answer(self.invite(params).await?),
            Request::Authorize(params) => self.authorize(params).await,
            Request::Clients => Ok(json!({"clients": self.clients().await?})),
            Request::Revoke { name } => self.revoke(&name).await,
            Request::TokenCreate(params) => answer(self.create_token(params).await?),
            Request::TokenList => Ok(json!({"tokens": self.tokens().await?})),
            Request::TokenRevoke { token } => self.revoke_token(&token).await,
            other => {
                let message = format!("a router has no method {}: ask a tunnel", other.method());
                Err(RpcError::new(RpcError::UNSUPPORTED, message))
            }
        }
    }

    /// Makes a ticket. Without targets and binds its holder becomes an owner: it may reach whatever the router's host
    /// reaches, and have the router listen at any port from 1024 up.
    pub async fn invite(&self, params: InviteParams) -> Result<Invitation, RpcError> {
        let is_owner = params.allow_targets.is_empty() && params.allow_binds.is_empty();
        let permissions = permissions(is_owner, &params.allow_targets, &params.allow_binds)?;
        let uses = params.uses.unwrap_or(1);
        let lifetime = params.expires_seconds.unwrap_or(TICKET_LIFETIME);
        if uses == 0 || lifetime == 0 {
            return Err(invalid("a ticket has at least one use and one second"));
        }
        let addresses =
            if params.advertise.is_empty() { self.advertise.clone() } else { params.advertise };
        if addresses.is_empty() {
            return Err(failed(
                "no address is known under which clients find this router: give --advertise HOST:PORT",
            ));
        }
        let (id, secret) =
            (TicketId::generate().map_err(failed)?, TicketSecret::generate().map_err(failed)?);
        let created_at = now();
        let expires_at = created_at.saturating_add(lifetime);
        let ticket = NewTicket {
            id: id.0,
            public_key: secret.one_time_key().identity(),
            permissions: permissions.clone(),
            name: params.name,
            uses,
            expires_at,
            created_at,
        };
        self.store.purge(created_at).await.map_err(failed)?;
        self.store.create_ticket(ticket).await.map_err(failed)?;
        let text = Ticket {
            addresses: addresses.clone(),
            tcp_ports: Vec::new(),
            router: self.identity,
            id,
            secret,
            single_use: uses == 1,
            expires: expires_at,
        };
        Ok(Invitation {
            ticket: text.to_text().to_string(),
            expires_at: time(expires_at),
            uses,
            addresses,
            identity: self.identity,
            permissions: in_words(&permissions),
            warnings: Vec::new(),
        })
    }

    /// Who names no rights leaves a known key those that it has: an owner is made on purpose.
    async fn authorize(&self, params: AuthorizeParams) -> Result<Value, RpcError> {
        let AuthorizeParams { identity, name, allow_targets: targets, allow_binds: binds, owner } =
            params;
        if owner && !targets.is_empty() {
            return Err(invalid("an owner reaches every target: either owner or targets"));
        }
        let grant = match owner || !targets.is_empty() || !binds.is_empty() {
            true => Grant::Set(permissions(owner, &targets, &binds)?),
            false => Grant::Keep,
        };
        let granted = self.store.grant(identity, name, grant, now()).await;
        let store::Authorized { client, before } = granted.map_err(failed)?;
        if let Some(sessions) = &self.sessions {
            sessions.unban(client.identity);
            sessions.permit(client.identity, &client.permissions);
        }
        let mut document = answer(self.in_table(client))?;
        if let Some(before) = before.map(|before| self.in_table(before)) {
            document["was"] = json!({"name": before.name, "status": before.status,
                "permissions": before.permissions});
        }
        Ok(document)
    }

    async fn clients(&self) -> Result<Vec<ClientStatus>, RpcError> {
        let clients = self.store.clients().await.map_err(failed)?;
        Ok(clients.into_iter().map(|client| self.in_table(client)).collect())
    }

    async fn revoke(&self, name: &Name) -> Result<Value, RpcError> {
        let revoked = match self.store.revoke(name, now()).await {
            Ok(revoked) => revoked,
            Err(error) => return Err(self.revoke_in_memory(name, error).await),
        };
        let client = revoked.ok_or_else(|| {
            RpcError::new(RpcError::NOT_FOUND, format!("there is no active client named {name}"))
        })?;
        let closed = self.sessions.as_ref().map_or(0, |sessions| sessions.expel(client.identity));
        match &self.published {
            Some(published) => published.free(client.identity).await,
            None => drop(self.store.free_leases(client.identity).await.map_err(failed)?),
        }
        tracing::info!(client = %client.name, closed, "client revoked");
        Ok(json!({"sessions_closed": closed}))
    }

    /// What can be done when the store cannot write: the sessions end, and this process keeps the key out.
    async fn revoke_in_memory(&self, name: &Name, error: StoreError) -> RpcError {
        let Some(sessions) = &self.sessions else { return failed(error) };
        // Reading may work where writing does not.
        let known = self.store.clients().await.unwrap_or_default();
        let is_meant = |row: &&ClientRow| {
            row.status == store::ClientStatus::Active && row.name.folded() == name.folded()
        };
        let known = known.iter().find(is_meant).map(|row| row.identity);
        let Some(identity) = known.or_else(|| sessions.identity_of(name)) else {
            return failed(error);
        };
        sessions.ban(identity);
        let closed = sessions.expel(identity);
        if let Some(published) = &self.published {
            published.free(identity).await;
        }
        tracing::error!(client = %name, closed, %error, "client revoked until the router ends only");
        failed(format!(
            "{error}; {closed} sessions of {name} were ended and its key is refused until this router ends: revoke \
             it again before that"
        ))
    }

    async fn create_token(&self, params: TokenCreateParams) -> Result<IssuedToken, RpcError> {
        let token = Token::generate().map_err(failed)?;
        let created_at = now();
        let expires_at = params.expires_seconds.map(|seconds| created_at.saturating_add(seconds));
        let row = NewToken {
            id: token.id().0,
            hash: token.mac_key(),
            name: params.name.clone(),
            expires_at,
            created_at,
        };
        self.store.create_token(row).await.map_err(failed)?;
        Ok(IssuedToken {
            token: token.to_text().to_string(),
            id: token.id().to_string(),
            name: params.name,
            expires_at: expires_at.map(time),
        })
    }

    async fn tokens(&self) -> Result<Vec<TokenStatus>, RpcError> {
        let tokens = self.store.tokens().await.map_err(failed)?.into_iter();
        Ok(tokens.map(in_list).collect())
    }

    async fn revoke_token(&self, token: &str) -> Result<Value, RpcError> {
        let by_id = data_encoding::HEXLOWER_PERMISSIVE.decode(token.as_bytes()).ok();
        let reference = match by_id.and_then(|id| <[u8; 8]>::try_from(id).ok()) {
            Some(id) => TokenRef::Id(id),
            None => TokenRef::Name(token.parse::<Name>().map_err(invalid)?),
        };
        match self.store.revoke_token(&reference, now()).await.map_err(failed)? {
            Some(row) => {
                let sessions = self.sessions.as_ref();
                let closed = sessions.map_or(0, |sessions| sessions.expel_token(row.id));
                tracing::info!(token = %row.name, closed, "token revoked");
                let mut document = answer(in_list(row))?;
                document["sessions_closed"] = json!(closed);
                Ok(document)
            }
            None => {
                Err(RpcError::new(RpcError::NOT_FOUND, format!("there is no valid token {token}")))
            }
        }
    }

    fn in_table(&self, client: ClientRow) -> ClientStatus {
        let sessions = self.sessions.as_ref();
        // Whatever the store says, which could not be told of it.
        let is_banned = sessions.is_some_and(|sessions| sessions.is_banned(client.identity));
        ClientStatus {
            connected: sessions.is_some_and(|sessions| sessions.is_in(client.identity)),
            status: match client.status {
                store::ClientStatus::Active if !is_banned => "active",
                store::ClientStatus::Active | store::ClientStatus::Revoked => "revoked",
            }
            .to_owned(),
            permissions: in_words(&client.permissions),
            name: client.name,
            identity: client.identity,
            last_seen: client.last_seen.map(time),
            version: client.version,
            system: client.system,
            created_at: time(client.created_at),
        }
    }
}

fn in_list(token: TokenRow) -> TokenStatus {
    let status = match token.state(now()) {
        TokenState::Valid => "active",
        TokenState::Expired => "expired",
        TokenState::Revoked => "revoked",
    };
    TokenStatus {
        status: status.to_owned(),
        id: data_encoding::HEXLOWER.encode(&token.id),
        name: token.name,
        expires_at: token.expires_at.map(time),
        created_at: time(token.created_at),
    }
}

fn permissions(owner: bool, targets: &[String], binds: &[String]) -> Result<Permissions, RpcError> {
    let targets = match owner {
        true => Targets::Any,
        false => Targets::Listed(rules(targets)?),
    };
    Ok(Permissions { targets, binds: rules(binds)? })
}

fn rules<R: FromStr<Err = ParseRuleError>>(texts: &[String]) -> Result<Vec<R>, RpcError> {
    texts.iter().map(|rule| rule.parse()).collect::<Result<_, _>>().map_err(invalid)
}

fn in_words(permissions: &Permissions) -> String {
    if !permissions.is_owner() {
        return permissions.to_string();
    }
    let listed = permissions.binds.iter().map(|rule| format!(" and {rule}")).collect::<String>();
    format!(
        "owner: any target that the router's host reaches, loopback included; may listen at any port from {}{listed}",
        Permissions::FIRST_FREE_PORT
    )
}

fn answer(value: impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(failed)
}

fn time(at: u64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_secs(at))
}

fn failed(error: impl std::fmt::Display) -> RpcError {
    RpcError::new(RpcError::FAILED, error.to_string())
}

fn invalid(error: impl std::fmt::Display) -> RpcError {
    RpcError::new(RpcError::INVALID_PARAMS, error.to_string())
}

/// Long enough to walk to the other host, short enough for a ticket that was left in a chat.
const TICKET_LIFETIME: u64 = 60 * 60;
