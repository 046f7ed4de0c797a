//! Flows that were left without a connection, and what may become of them meanwhile.

use std::time::Duration;

use conduit::registry::{Call, Request};
use conduit::router;
use conduit::wire::Declare;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::raw::{Packets, Raw, figure, packet, udp};
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

const TOKEN: u64 = 7;
const ACTIVE: &str = "conduit_active_connections";
const LIMIT: Duration = Duration::from_secs(10);
