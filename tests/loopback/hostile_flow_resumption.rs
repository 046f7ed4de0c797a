//! Flows that were left without a connection, and what may become of them meanwhile.

use std::time::Duration;

use conduit::policy::Permissions;
use conduit::registry::{Call, Request};
use conduit::router;
use conduit::wire::{self, Declare, control::Message};
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use crate::HEAP;
use crate::raw::{Packets, Raw, figure, packet, reverse, udp};
use crate::stage::{Stage, within};

/// A tunnel whose flows outlive their connection.
fn lasting(tunnel: u32, source: impl ToString) -> Declare {
    Declare { resume_ms: 60_000, ..udp(tunnel, source) }
}

/// A client with an open flow of number 2 and the token 7, which has been answered.
async fn with_open_flow(stage: &Stage, service: &Packets) -> Raw {
    let mut raw = Raw::owner(stage).await;
    assert_eq!(raw.declares(lasting(1, service.addr)).await.code, 0);
    raw.opens_lasting(2, 1, TOKEN).await;
    raw.sends(packet(2, b"before")).await;
    assert_eq!(raw.receives().await, packet(2, b"before"));
    raw
}

async fn asks(router: &router::Running, request: Request) -> Value {
    let (reply, answer) = oneshot::channel();
    router.calls().send(Call { request, reply }).await.expect("a router");
    answer.await.expect("an answer").expect("no error")
}

async fn kills_all(router: &router::Running) {
    let all = asks(router, Request::Connections).await;
    for one in all["connections"].as_array().expect("a list") {
        let id = one["id"].as_str().expect("a name").to_owned();
        asks(router, Request::KillConnection { id }).await;
    }
}

/// [FLW-15]
#[tokio::test]
async fn a_flow_that_ended_while_its_client_was_away_is_opened_like_any_other() {
    let (stage, service) = (Stage::new().await, Packets::echo().await);
    let raw = with_open_flow(&stage, &service).await;
    raw.goes_away();
    kills_all(&stage.router).await;
    within(LIMIT, "it is over", || figure(&stage.router, ACTIVE) == 0).await;
    let mut raw = raw.comes_back(&stage).await;
    assert_eq!(raw.declares(lasting(1, service.addr)).await.code, 0);
    raw.opens_lasting(2, 1, TOKEN).await;
    raw.sends(packet(2, b"after")).await;
    assert_eq!(raw.receives().await, packet(2, b"after"));
}

/// [FLW-15]
#[tokio::test]
async fn a_flow_waits_for_a_connection_that_lasts_as_long_as_it_takes_to_open_it() {
    let (stage, service) = (Stage::new().await, Packets::echo().await);
    let raw = with_open_flow(&stage, &service).await;
    // Lost before it has said anything.
    let raw = raw.comes_back(&stage).await;
    raw.goes_away();
    tokio::time::sleep(REOPENED_WITHIN + Duration::from_secs(1)).await;
    assert_eq!(figure(&stage.router, ACTIVE), 1, "it waits");
    let mut raw = raw.comes_back(&stage).await;
    assert_eq!(raw.declares(lasting(1, service.addr)).await.code, 0);
    raw.opens_lasting(2, 1, TOKEN).await;
    raw.sends(packet(2, b"after")).await;
    assert_eq!(raw.receives().await, packet(2, b"after"));
    assert_eq!(figure(&stage.router, ACTIVE), 1, "it goes on");
}

/// [FLW-15] [STR-12]
#[tokio::test]
async fn a_flow_does_not_go_on_under_the_name_of_another_target() {
    let Some(service) = Packets::echo_at("127.0.0.2:0").await else { return };
    let mut stage = Stage::new().await;
    let named = format!("localhost:{}", service.addr.port());
    let rules = [service.addr.to_string(), named.clone()];
    let rules = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
    let mut raw = Raw::with(&mut stage, Permissions::targets(rules)).await;
    assert_eq!(raw.declares(lasting(1, service.addr)).await.code, 0);
    raw.opens_lasting(2, 1, TOKEN).await;
    raw.sends(packet(2, b"before")).await;
    assert_eq!(raw.receives().await, packet(2, b"before"));
    let mut raw = raw.comes_back(&stage).await;
    assert_eq!(raw.declares(lasting(1, named)).await.code, 0);
    raw.opens_lasting(2, 1, TOKEN).await;
    let before = service.count();
    raw.sends(packet(2, b"after")).await;
    raw.hears_close().await;
    assert_eq!(service.count(), before);
}

/// [FLW-10]
#[tokio::test]
async fn a_visitors_flow_is_ended_by_an_operator_while_its_client_is_away() {
    let stage = Stage::new().await;
    let mut raw = Raw::owner(&stage).await;
    let publish = Declare { protocol: wire::Protocol::Udp.into(), ..reverse(1, "127.0.0.1:0") };
    let declared = raw.declares(Declare { resume_ms: 60_000, ..publish }).await;
    let visitor = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    visitor.send_to(b"hello", &declared.bind).await.expect("sent");
    assert!(matches!(raw.hears().await, Message::FlowOpen(_)));
    raw.goes_away();
    within(LIMIT, "it waits", || !raw.is_in()).await;
    assert_eq!(figure(&stage.router, ACTIVE), 1);
    kills_all(&stage.router).await;
    within(LIMIT, "it is over", || figure(&stage.router, ACTIVE) == 0).await;
}

/// [FLW-11]
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_ends_while_its_client_is_away_keeps_no_socket() {
    if std::env::var_os("NEXTEST").is_none() {
        // Other tests open and close files of this process.
        return;
    }
    let open_files = || std::fs::read_dir("/proc/self/fd").expect("a list").count();
    let (stage, service) = (Stage::new().await, Packets::echo().await);
    let mut raw = with_open_flow(&stage, &service).await;
    let before = open_files();
    for number in 2..=FLOWS {
        raw.opens_lasting(number * 2, 1, TOKEN + number).await;
    }
    within(LIMIT, "all are open", || figure(&stage.router, ACTIVE) == FLOWS).await;
    raw.goes_away();
    kills_all(&stage.router).await;
    within(LIMIT, "their sockets are closed", || open_files() < before).await;
}

/// [FLW-11]
#[tokio::test]
async fn sessions_that_end_soon_after_a_loss_leave_nothing_behind() {
    let (stage, service) = (Stage::new().await, Packets::echo().await);
    let mut figures = [0; 2];
    for kept in &mut figures {
        for _ in 0..300 {
            with_open_flow(&stage, &service).await.comes_back(&stage).await.leaves();
        }
        within(LIMIT, "all are over", || figure(&stage.router, ACTIVE) == 0).await;
        // Until the router waits for nothing of theirs.
        tokio::time::sleep(MESSAGE_TIMEOUT + Duration::from_secs(1)).await;
        *kept = HEAP.allocated();
    }
    println!("{figures:?} bytes");
    if std::env::var_os("NEXTEST").is_some() {
        // Else other tests allocate in this process too.
        let [before, after] = figures;
        assert!(after < before + GROWTH_MOST, "{before} bytes before, {after} bytes after");
    }
}

const TOKEN: u64 = 7;
const FLOWS: u64 = 50;
const ACTIVE: &str = "conduit_active_connections";
const LIMIT: Duration = Duration::from_secs(10);
const REOPENED_WITHIN: Duration = Duration::from_secs(10);
/// In bytes, of 300 sessions, each of which would leave 80 KiB. The addresses of their 600 connections are known for a
/// minute, at 120 bytes each in a table that doubles.
const GROWTH_MOST: usize = 256 << 10;
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
