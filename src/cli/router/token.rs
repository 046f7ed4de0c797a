//! `conduit router token`: what authorises besides a key.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{administer, read};
use crate::cli::context::Context;
use crate::cli::output::{Table, counted, or_dash};
use crate::cli::report::warn;
use crate::fleet::Failure;
use crate::registry::{IssuedToken, Request, TokenCreateParams, TokenStatus};
use crate::tunnel::Name;

/// What to do with tokens.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a token; its text is shown this once
    Create {
        /// What people call it
        #[arg(value_name = "NAME")]
        name: Name,
        /// When it expires [default: never]
        #[arg(long, value_name = "DURATION", value_parser = super::lifetime)]
        expires: Option<Duration>,
    },
    /// Show all tokens, without their texts
    List,
    /// End a token's validity, and the sessions that it has admitted, within a second
    Revoke {
        /// The token's name or id
        #[arg(value_name = "NAME|ID")]
        token: String,
    },
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<TokenStatus>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    match &args.verb {
        Verb::Create { name, expires } => create(name, *expires, context),
        Verb::List => list(context),
        Verb::Revoke { token } => revoke(token, context),
    }
}

fn create(name: &Name, expires: Option<Duration>, context: &Context) -> Result<u8, Failure> {
    let expires_seconds = expires.map(|time| time.as_secs());
    let params = TokenCreateParams { name: name.clone(), expires_seconds };
    let token = administer::<IssuedToken>(Request::TokenCreate(params), context)?.value;
    if context.json {
        let mut document: Value = json!(token);
        document["schema"] = json!("conduit.token/1");
        return context.document(&document).map(|()| 0);
    }
    context.line(&token.token)?;
    if !context.quiet {
        let until = token.expires_at.as_deref().unwrap_or("it is revoked");
        warn(&format!("valid until {until}; this is the only time that it is shown"));
        warn("on the client: CONDUIT_SECURITY_TOKEN, or a file that [security] token_file names");
    }
    Ok(0)
}

fn list(context: &Context) -> Result<u8, Failure> {
    let Tokens { tokens } = administer(Request::TokenList, context)?.value;
    if context.json {
        return context
            .document(&json!({"schema": "conduit.tokens/1", "tokens": tokens}))
            .map(|()| 0);
    }
    if context.quiet {
        return tokens.iter().try_for_each(|token| context.line(&token.id)).map(|()| 0);
    }
    if tokens.is_empty() {
        return context.line("no token; `conduit router token create NAME` makes one").map(|()| 0);
    }
    let mut table = Table::new(["ID", "NAME", "STATUS", "EXPIRES", "CREATED"]);
    for token in tokens {
        let expires = or_dash(token.expires_at);
        table.row([token.id, token.name.to_string(), token.status, expires, token.created_at]);
    }
    context.line(&table.render(context)).map(|()| 0)
}

fn revoke(token: &str, context: &Context) -> Result<u8, Failure> {
    let request = Request::TokenRevoke { token: token.to_owned() };
    let answer = administer::<Value>(request, context)?;
    let mut document = answer.value;
    let revoked: TokenStatus = read(document.clone())?;
    if context.json {
        document["schema"] = json!("conduit.token/1");
        return context.document(&document).map(|()| 0);
    }
    if context.quiet {
        return context.line(&revoked.id).map(|()| 0);
    }
    let closed = document["sessions_closed"].as_u64().unwrap_or(0);
    context
        .line(&format!("  {}   revoked, {} ended", revoked.name, counted(closed, "session")))
        .map(|()| 0)
}
