//! `conduit doctor`: a table of checks, and for each failure what to do.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::world::{Outcome, Service, World, free_port};

/// Results by check.
fn checks(outcome: &Outcome) -> Vec<(String, String)> {
    let document = outcome.json();
    assert_eq!(document["schema"], "conduit.doctor/1");
    let checks = document["checks"].as_array().expect("checks");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    checks.iter().map(|check| (text(&check["check"]), text(&check["result"]))).collect()
}

#[test]
fn doctor_finds_a_way_that_works_and_says_what_does_not() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, _tunnel) = world.tunnel_to(target.addr());
    let source = target.addr().to_string();
    let well = client.conduit(&["doctor", "--source", &source, "-o", "json"]).succeeds();
    let found = checks(&well);
    let ok = |name: &str| found.iter().any(|(check, result)| check == name && result == "ok");
    let names = [
        "key",
        "router over UDP",
        "router over TCP",
        "router's identity",
        "versions",
        "round trip",
        "loss",
    ];
    for name in names.into_iter().chain(["router's clock"]) {
        assert!(ok(name), "{name}: {found:?}");
    }
    assert!(ok(&format!("source {source}")), "{found:?}");
    assert_eq!(well.stdout.matches("Mbit/s there and back").count(), 2, "{well}");
    assert_eq!(target.connects(), 1, "it was really connected");

    let closed = free_port().to_string();
    let refused = client.conduit(&["doctor", "--source", &closed]).exits(1);
    refused.prints(&closed).prints("refused the connection").prints("is it running");
    router.dies();
    let silent = client.conduit(&["doctor"]).exits(1).took_at_most(Duration::from_secs(15));
    silent.prints("router over UDP").prints("is the router running");
}

#[test]
fn doctor_names_a_key_that_others_can_read_and_makes_none() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, _tunnel) = world.tunnel_to(target.addr());
    let key = client.home().join("client.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    client.conduit(&["doctor"]).exits(1).prints("client.key").prints("chmod");

    let fresh = world.client("D");
    let outcome = fresh.conduit(&["doctor", "-o", "json"]).exits(1);
    assert_eq!(checks(&outcome).last().expect("a check").1, "failed");
    assert!(!fresh.home().join("client.key").exists(), "looking changes nothing");
}
