//! Bytes, halves and resets through a tunnel.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use conduit::tunnel::TunnelState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Stage, Target, echo, noise, within};

#[tokio::test]
async fn bytes_come_back_as_they_were_sent_on_many_connections_at_once() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_to(target.addr).await;
    let addr = tunnel.local_addr();
    let echoes: Vec<_> = (0..50)
        .map(|seed| tokio::spawn(async move { echo(addr, &noise(seed, 200_000)).await }))
        .collect();
    for echo in echoes {
        echo.await.expect("the same bytes");
    }
    echo(addr, &noise(99, 20_000_003)).await;
    assert_eq!(target.connects(), 51);
    assert!(tunnel.metrics().contains("conduit_connections_total 51"), "{}", tunnel.metrics());
    assert_eq!(*tunnel.state().borrow(), TunnelState::Ready);
    tunnel.shutdown(Duration::from_secs(5)).await;
    assert!(stage.router.shutdown(Duration::from_secs(5)).await, "nothing had to be cut off");
}

#[tokio::test]
async fn an_empty_connection_is_opened_and_ended_at_the_target_too() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_to(target.addr).await;
    echo(tunnel.local_addr(), b"").await;
    assert_eq!(target.connects(), 1);
}

#[tokio::test]
async fn h40_each_half_ends_by_itself() {
    let target = Target::new(|mut stream| async move {
        // Its own half first, then everything that the user has to say, then nothing.
        stream.write_all(b"first").await.expect("a word");
        stream.shutdown().await.expect("its half closed");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("the rest");
        assert_eq!(rest.len(), 5_000_000);
    })
    .await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let mut stream = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.expect("a word and the end");
    assert_eq!(said, b"first");
    stream.write_all(&noise(1, 5_000_000)).await.expect("the other half still works");
    stream.shutdown().await.expect("its end");
    tunnel.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn h41_a_reset_is_a_reset_at_the_other_end() {
    let target = Target::new(|mut stream| async move {
        let _ = stream.read_exact(&mut [0; 3]).await;
        resets(stream);
    })
    .await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let mut stream = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
    stream.write_all(b"die").await.expect("a word");
    let end = stream.read_u8().await.expect_err("no byte");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{end}");
}

#[tokio::test]
async fn h42_halves_that_stay_silent_are_reaped_and_bytes_rearm_the_limit() {
    let linger = LINGER;
    let target = Target::new(|mut stream| async move {
        let mut word = [0; 4];
        let _ = stream.read_exact(&mut word).await;
        if word == *b"slow" {
            // Three lingers' worth of time, with a byte in each half linger.
            for _ in 0..6 {
                tokio::time::sleep(LINGER / 2).await;
                if stream.write_all(b".").await.is_err() {
                    return;
                }
            }
            return;
        }
        std::future::pending::<()>().await;
    })
    .await;
    let stage = Stage::with(|settings| settings.relay.linger = linger).await;
    let tunnel = stage.tunnel_with(target.addr, |settings| settings.relay.linger = linger).await;
    let addr = tunnel.local_addr();

    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(b"hush").await.expect("a word");
        stream.shutdown().await.expect("the half closed");
        silent.push(stream);
    }
    let start = Instant::now();
    for mut stream in silent {
        let end = stream.read_u8().await.expect_err("no byte");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{end}");
    }
    println!("200 silent halves were reaped after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10));

    let mut slow = TcpStream::connect(addr).await.expect("a connection");
    slow.write_all(b"slow").await.expect("a word");
    slow.shutdown().await.expect("the half closed");
    let mut said = Vec::new();
    slow.read_to_end(&mut said).await.expect("every byte, because bytes keep it alive");
    assert_eq!(said, b"......");

    let mut open = TcpStream::connect(addr).await.expect("a connection");
    open.write_all(b"hush").await.expect("a word");
    let silence = tokio::time::timeout(linger * 3, open.read_u8()).await;
    assert!(silence.is_err(), "a connection with both halves open may stay silent: {silence:?}");
}

#[tokio::test]
async fn a_session_that_is_lost_comes_back_and_new_connections_wait_for_it() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_to(target.addr).await;
    let mut open = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
    open.write_all(b"a").await.expect("a byte");
    assert_eq!(open.read_u8().await.expect("its echo"), b'a');
    let session = tunnel.session().expect("a session");
    session.close(conduit::wire::Code::Internal, "a test ends it");
    let end = open.read_u8().await.expect_err("what was open is reset");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{end}");
    let back = Instant::now();
    echo(tunnel.local_addr(), b"the next one waits and is served").await;
    println!("served again after {:?}", back.elapsed());
    within(Duration::from_secs(5), "ready again", || {
        *tunnel.state().borrow() == TunnelState::Ready
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_reset_and_room_is_used_again() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_with(target.addr, |settings| settings.max_connections = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
        stream.write_all(b"a").await.expect("a byte");
        assert_eq!(stream.read_u8().await.expect("its echo"), b'a');
        held.push(stream);
    }
    let mut fourth = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
    assert!(fourth.read_u8().await.is_err());
    held.pop();
    let metrics = || tunnel.metrics();
    within(Duration::from_secs(5), "one has left", || {
        metrics().contains("conduit_active_connections 2")
    })
    .await;
    echo(tunnel.local_addr(), b"room again").await;
}

#[tokio::test]
async fn a_router_refuses_connections_beyond_its_limit_and_says_why() {
    let stage = Stage::with(|settings| settings.max_connections = 1).await;
    let target = Target::echo().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let mut held = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
    held.write_all(b"a").await.expect("a byte");
    assert_eq!(held.read_u8().await.expect("its echo"), b'a');
    let mut second = TcpStream::connect(tunnel.local_addr()).await.expect("a connection");
    assert!(second.read_u8().await.is_err(), "it is reset");
    within(Duration::from_secs(5), "the reason is told", || {
        tunnel.last_error().is_some_and(|error| error.contains("max_connections"))
    })
    .await;
    held.write_all(b"b").await.expect("a byte");
    assert_eq!(held.read_u8().await.expect("its echo"), b'b', "the first is untouched");
}

#[tokio::test]
async fn a_stop_with_nothing_open_takes_no_longer_than_the_good_bye() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_to(target.addr).await;
    let other = stage.tunnel_to(target.addr).await;
    echo(tunnel.local_addr(), b"used").await;
    let start = Instant::now();
    tunnel.shutdown(Duration::from_secs(5)).await;
    let (tunnel_took, start) = (start.elapsed(), Instant::now());
    assert_eq!(tunnel.ended().await, conduit::client::End::Stopped { forced: false });
    assert!(tunnel.session().is_none_or(|session| session.connection().close_reason().is_some()));
    assert!(stage.router.shutdown(Duration::from_secs(5)).await);
    println!("the tunnel stopped after {tunnel_took:?}, the router after {:?}", start.elapsed());
    assert!(tunnel_took < Duration::from_millis(900), "{tunnel_took:?}");
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    drop(other);
}

fn resets(stream: TcpStream) {
    let stream = stream.into_std().expect("a socket");
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
}

/// Instead of half a minute.
const LINGER: Duration = Duration::from_millis(600);
