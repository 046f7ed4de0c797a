//! How tunnels, sessions and half-closed connections end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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

#[tokio::test]
async fn a_target_that_finishes_and_is_then_reset_resets_the_user_at_once() {
    let target = Target::new(|mut stream| async move {
        stream.shutdown().await.expect("its half closed");
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.set_zero_linger().expect("a reset");
    })
    .await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let mut user = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
    assert_eq!(user.read(&mut [0; 1]).await.expect("an end"), 0);
    // Says nothing, and hears of it all the same: long before the linger of 30 s is over.
    let ready = user.ready(tokio::io::Interest::ERROR);
    let ready = tokio::time::timeout(Duration::from_secs(5), ready).await;
    assert!(ready.expect("in time").expect("a socket").is_error());
}
