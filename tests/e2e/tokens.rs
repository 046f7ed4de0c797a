//! Tokens, where a router demands one besides the key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::world::{Client, Outcome, Router, Service, World, echo, within};

/// A router that demands a token, and a client whose key it knows.
fn demanding(world: &World) -> (Router, Client) {
    let router = world.router_with("[policy]\nrequire_token = true\n");
    let client = world.client("C");
    let identity = client.conduit(&["init", "--quiet"]).succeeds().stdout.trim().to_owned();
    router.command(&["authorize", &identity, "--name", "known"]).succeeds();
    (router, client)
}

fn token(router: &Router, name: &str, options: &[&str]) -> String {
    let outcome = router.command(&["token", "create", "--quiet", name]).args(options).succeeds();
    let token = outcome.stdout.trim().to_owned();
    assert!(token.starts_with("cdp_") && !token.contains(char::is_whitespace), "{outcome}");
    token
}

fn with_token(client: &Client, router: &Router, source: impl ToString, token: &str) -> Outcome {
    client.pin(router, source).env("CONDUIT_SECURITY_TOKEN", token).ends()
}

#[test]
fn a_valid_token_admits_and_none_does_not() {
    let world = World::new();
    let target = Service::echo();
    let (router, client) = demanding(&world);
    client.pin(&router, target.addr()).exits(77);
    let outcome = with_token(&client, &router, target.addr(), &token(&router, "ci", &[])).exits(0);
    echo(&client.started(&outcome).connect(), b"admitted").expect("the same bytes");
    let list = router.command(&["token", "list"]).succeeds();
    assert!(list.stdout.contains("ci") && !list.stdout.contains("cdp_"), "{list}");
}

#[test]
fn a_token_file_is_read_when_it_is_private() {
    let world = World::new();
    let target = Service::echo();
    let (router, client) = demanding(&world);
    let token = token(&router, "ci", &[]);
    let folder = world.home("secrets");
    let file = folder.join("token");
    fs::write(&file, format!("{token}\n")).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
    fs::write(client.home().join("conduit.toml"), format!("[security]\ntoken_file = {:?}\n", file))
        .expect("a file");
    let outcome = client.pin(&router, target.addr()).succeeds();
    echo(&client.started(&outcome).connect(), b"admitted").expect("the same bytes");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its mode");
    let outcome = client.pin(&router, target.addr()).args(["--name", "second"]).ends();
    assert!(matches!(outcome.code, Some(1 | 77 | 78)), "{outcome}");
    outcome.says("chmod").says("token");
}

#[test]
fn invalid_expired_and_revoked_tokens_are_refused_with_one_answer() {
    let world = World::new();
    let (router, client) = demanding(&world);
    let revoked = token(&router, "revoked", &[]);
    router.command(&["token", "revoke", "revoked"]).succeeds();
    let expired = token(&router, "expired", &["--expires", "1s"]);
    let foreign = conduit::identity::Token::generate().expect("a token").to_text().to_string();
    within(Duration::from_secs(5), "the token expires", || {
        let list = router.command(&["token", "list", "-o", "json"]).succeeds();
        list.stdout.contains("\"expired\"").then_some(())?;
        list.json()["tokens"].as_array()?.iter().any(|t| t["status"] == "expired").then_some(())
    });
    let answers = [&revoked, &expired, &foreign]
        .map(|token| with_token(&client, &router, "127.0.0.1:9", token).exits(77).stderr);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    let mistyped = format!(
        "{}{}",
        &revoked[..revoked.len() - 1],
        if revoked.ends_with('a') { "b" } else { "a" }
    );
    let outcome = with_token(&client, &router, "127.0.0.1:9", &mistyped);
    assert!(matches!(outcome.code, Some(77 | 78)), "{outcome}");
    let outcome = outcome.says("checksum");
    assert!(!outcome.stderr.contains(&mistyped), "{outcome}");
}

#[test]
fn a_revoked_token_ends_the_sessions_that_it_admitted() {
    let world = World::new();
    let target = Service::echo();
    let (router, client) = demanding(&world);
    let (one, other) = (token(&router, "one", &[]), token(&router, "other", &[]));
    let revoked = client.started(&with_token(&client, &router, target.addr(), &one).exits(0));
    let run = client.pin(&router, target.addr()).args(["--name", "stays"]);
    let stays = client.started(&run.env("CONDUIT_SECURITY_TOKEN", &other).succeeds());
    router.command(&["token", "revoke", "one"]).succeeds().prints("1 session ended");
    within(Duration::from_secs(1), "its session ends", || {
        (revoked.listed()?["state"] == "reconnecting").then_some(())
    });
    echo(&stays.connect(), b"not that one").expect("the same bytes");
}

#[test]
fn a_token_without_the_key_admits_nobody() {
    let world = World::new();
    let (router, _client) = demanding(&world);
    let stranger = world.client("S");
    stranger.conduit(&["init"]).succeeds();
    with_token(&stranger, &router, "127.0.0.1:9", &token(&router, "ci", &[])).exits(77);
}
