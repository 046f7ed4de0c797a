//! How tunnels and sessions end.

use std::time::Duration;

use crate::stage::{Stage, Target, echo, within};

fn has_no_session(stage: &Stage) -> bool {
    stage.router.metrics().lines().any(|line| line == "conduit_sessions 0")
}

#[tokio::test]
async fn a_tunnel_that_was_stopped_does_not_come_back() {
    let stage = Stage::new().await;
    let target = Target::echo().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    echo(tunnel.local_addr(), b"up").await;
    tunnel.shutdown(Duration::from_secs(1)).await;
    assert_eq!(tunnel.last_error(), None, "its own good-bye is no trouble");
    within(Duration::from_secs(2), "the router has let it go", || has_no_session(&stage)).await;
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_leaves_no_session_behind() {
    let stage = Stage::new().await;
    let target = Target::echo().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    drop(tunnel);
    within(Duration::from_secs(2), "the router has let it go", || has_no_session(&stage)).await;
}
