//! `conduit doctor`: a table of checks, and for each failure what to do.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::link::{Conditions, Link, Way};
use crate::world::{Outcome, Run, Service, World, free_port};

/// Results by check.
fn checks(outcome: &Outcome) -> Vec<(String, String)> {
    let document = outcome.json();
    assert_eq!(document["schema"], "conduit.doctor/1");
    let checks = document["checks"].as_array().expect("checks");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    checks.iter().map(|check| (text(&check["check"]), text(&check["result"]))).collect()
}

/// The result of the first check whose name begins so.
#[track_caller]
fn row(outcome: &Outcome, name: &str) -> String {
    let found = checks(outcome).into_iter().find(|(check, _)| check.starts_with(name));
    found.unwrap_or_else(|| panic!("no row {name}: {outcome}")).1
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
        "NAT mapping",
    ];
    for name in names.into_iter().chain(["router's clock"]) {
        assert!(ok(name), "{name}: {found:?}");
    }
    assert!(ok(&format!("source {source}")), "{found:?}");
    assert_eq!(well.stdout.matches("Mbit/s there and back").count(), 2, "{well}");
    assert_eq!(target.connects(), 2, "connected for --source, and for the tunnel that runs");

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

#[test]
fn doctor_looks_at_what_runs_and_asks_no_router_host_to_be_a_client() {
    let world = World::new();
    let target = Service::echo();
    let (mut router, client, tunnel) = world.tunnel_to(target.addr());
    let well = client.conduit(&["doctor", "-o", "json"]).succeeds();
    assert_eq!(row(&well, &format!("running {}-", tunnel.name)), "ok");
    let host = router.home().conduit(&["doctor", "-o", "json"]).succeeds();
    assert_eq!((&*row(&host, "running router"), &*row(&host, "key")), ("ok", "unknown"));
    std::fs::write(router.home().path().join("router.toml"), "[listen]\nbint = 1\n")
        .expect("a file");
    let wrong = router.home().conduit(&["doctor", "-o", "json"]).exits(1);
    assert_eq!(row(&wrong, "router's settings"), "failed");
    std::fs::remove_file(router.home().path().join("router.toml")).expect("no file");
    router.dies();
    let lost = client.conduit(&["doctor", "-o", "json"]).exits(1);
    assert_eq!(row(&lost, &format!("running {}-", tunnel.name)), "failed");

    tunnel.dies();
    let dead = client.conduit(&["doctor", "-o", "json"]).exits(1);
    assert_eq!(row(&dead, &format!("ended {}-", tunnel.name)), "failed");
    let host = router.home().conduit(&["doctor", "-o", "json"]).exits(1);
    assert_eq!((&*row(&host, "ended router"), &*row(&host, "key")), ("failed", "unknown"));

    let nowhere = world.client("nobody");
    nowhere.conduit(&["doctor"]).exits(1).prints("key").prints("--join TICKET");
}

/// A tunnel that may use one carrier only cannot do without it.
#[test]
fn doctor_fails_for_a_tunnel_that_asks_for_the_carrier_that_is_missing() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, _tunnel) = world.tunnel_to(target.addr());
    let file = world.path().join("conduit.toml");
    let declares = |carrier: &str| {
        let (source, bind) = (target.addr(), free_port());
        let text = format!(
            "[[tunnels]]\nname = \"web\"\nsource = \"{source}\"\nbind = \"{bind}\"\ncarrier = \"{carrier}\"\n"
        );
        std::fs::write(&file, text).expect("a file");
    };
    // It carries no TCP.
    let link = Link::to(router.addr(), 4, Conditions::rtt(Duration::from_millis(2)));
    let (addr, identity) = (link.addr().to_string(), router.identity());
    let file = file.to_str().expect("text");
    let doctor =
        ["doctor", "-f", file, "--router", &addr, "--router-identity", &identity, "-o", "json"];
    declares("auto\"\nprotocol = \"udp");
    let source = format!("source {}", target.addr());
    assert_eq!(row(&client.conduit(&doctor).succeeds(), &source), "unknown");
    declares("auto");
    let without = client.conduit(&doctor).succeeds();
    assert_eq!(row(&without, "router over TCP"), "warning");
    declares("tls");
    let without = client.conduit(&doctor).exits(1);
    assert_eq!(row(&without, "router over TCP"), "failed");
    without.prints("the tunnel web uses nothing else").prints("auto");
}

/// What the row of NAT mappings says over a path whose NAT forgets who is silent for so long.
fn mapping(remembers: Duration, change: impl FnOnce(Run) -> Run) -> (Outcome, Value) {
    let world = World::new();
    let target = Service::echo();
    let (router, client, _tunnel) = world.tunnel_to(target.addr());
    let link = Link::to(router.addr(), 4, Conditions::rtt(Duration::from_millis(20)));
    link.remembers(remembers);
    let (addr, identity) = (link.addr().to_string(), router.identity());
    let doctor = ["doctor", "--router", &addr, "--router-identity", &identity, "-o", "json"];
    let outcome = change(client.conduit(&doctor)).limit(Duration::from_secs(60)).ends();
    let checks = outcome.json()["checks"].as_array().expect("checks").clone();
    let mut rows = checks.into_iter().filter(|check| check["check"] == "NAT mapping");
    let row = rows.next().unwrap_or_else(|| panic!("no such row: {outcome}"));
    let was_silent = link.count(Way::Down).forgotten > 0;
    assert_eq!(was_silent, row["result"] != "ok", "{row}: {:?}", link.count(Way::Down));
    (outcome, row)
}

/// [STR-14]
#[test]
fn a_nat_that_forgets_between_two_keep_alives_is_a_failure_and_a_patient_one_is_none() {
    let (outcome, row) = mapping(Duration::from_secs(4), |doctor| doctor);
    assert_eq!((&row["result"], outcome.code), (&"failed".into(), Some(1)), "{outcome}");
    assert_eq!(row["detail"], "forgotten within 7 s of silence");
    let fix = row["fix"].as_str().expect("what to do");
    assert!(fix.contains("UDP timeout") && fix.contains("idle_timeout = \"10s\""), "{fix}");
    outcome.took_at_most(Duration::from_secs(15));

    let (outcome, row) = mapping(Duration::from_secs(60), |doctor| doctor);
    assert_eq!((&row["result"], outcome.code), (&"ok".into(), Some(0)), "{outcome}");
    assert_eq!(row["detail"], "outlives 7 s of silence, keep-alives leave every 6 s");
    outcome.took_at_most(Duration::from_secs(12));
}

/// What the failure's hint says is what mends it.
#[test]
fn keep_alives_that_come_sooner_hold_what_forgets_soon() {
    let (outcome, row) = mapping(Duration::from_secs(4), |doctor| {
        doctor.env("CONDUIT_PERFORMANCE_IDLE_TIMEOUT", "10s")
    });
    assert_eq!((&row["result"], outcome.code), (&"ok".into(), Some(0)), "{outcome}");
    assert_eq!(row["detail"], "outlives 3 s of silence, keep-alives leave every 2 s");
}

#[test]
fn a_nat_that_only_keep_alives_hold_is_a_warning_with_its_bounds() {
    let (outcome, row) = mapping(Duration::from_secs(15), |doctor| doctor.arg("--nat"));
    assert_eq!((&row["result"], outcome.code), (&"warning".into(), Some(0)), "{outcome}");
    assert_eq!(row["detail"], "outlives 12 s of silence, and not 18 s");
    assert!(row["fix"].as_str().is_some_and(|fix| fix.contains("two minutes")), "{row}");
    outcome.took_at_most(Duration::from_secs(35));
}
