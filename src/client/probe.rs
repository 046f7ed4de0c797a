//! A stream to the router and back: whether the data path works, not whether it was said to.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::declare::TUNNEL;
use crate::identity::random_bytes;
use crate::registry::Probe;
use crate::session::Session;
use crate::wire::{StreamClass, StreamHeader, VERSION};

/// Sends a few random bytes through a stream of their own and waits for the very same. Bounded by `limit`. [STR-11]
pub(super) async fn probe(session: Option<Session>, limit: Duration) -> Probe {
    let Some(session) = session else {
        return failed("there is no session with the router".to_owned());
    };
    let started = Instant::now();
    let router = session.connection().remote_addr();
    let payload = match random_bytes::<16>() {
        Ok(bytes) => Bytes::copy_from_slice(&bytes),
        Err(error) => return failed(error.to_string()),
    };
    match tokio::time::timeout(limit, round_trip(&session, payload, Duration::ZERO)).await {
        Ok(Ok(())) => {
            Probe { ok: true, rtt_ms: Some(started.elapsed().as_secs_f64() * 1e3), error: None }
        }
        Ok(Err(reason)) => failed(reason),
        Err(_) => failed(format!("the router {router} does not answer the probe within {limit:?}")),
    }
}

pub(super) fn failed(reason: String) -> Probe {
    Probe { ok: false, rtt_ms: None, error: Some(reason) }
}

/// How much goes there and back in a second, in bits, with many probes under way at a time: a lower bound.
pub(super) async fn rate(session: &Session, time: Duration) -> Option<f64> {
    let payload: [u8; LARGE] = random_bytes().ok()?;
    let payload = Bytes::copy_from_slice(&payload);
    let (start, mut probes) = (Instant::now(), JoinSet::new());
    for _ in 0..AT_ONCE {
        let (session, payload) = (session.clone(), payload.clone());
        probes.spawn(async move {
            let mut bytes = 0;
            while start.elapsed() < time {
                round_trip(&session, payload.clone(), Duration::ZERO).await.ok()?;
                bytes += payload.len();
            }
            Some(bytes)
        });
    }
    let mut bytes = 0;
    let all = async {
        while let Some(moved) = probes.join_next().await {
            bytes += moved.ok()??;
        }
        Some(())
    };
    tokio::time::timeout(time * 4, all).await.ok()??;
    Some(bytes as f64 * 8.0 / start.elapsed().as_secs_f64())
}

/// Sends bytes and waits for the very same, which the router is to send back after `delay`. [STR-14]
pub(super) async fn round_trip(
    session: &Session,
    payload: Bytes,
    delay: Duration,
) -> Result<(), String> {
    let header = StreamHeader {
        version: VERSION,
        tunnel: TUNNEL,
        class: StreamClass::Probe.into(),
        delay_ms: u32::try_from(delay.as_millis()).unwrap_or(u32::MAX),
        ..StreamHeader::default()
    };
    let sent = session.open(header, payload.clone()).await;
    let (mut sender, mut receiver) = sent.map_err(|error| error.to_string())?;
    sender.finish();
    let mut queue = VecDeque::new();
    let mut received = 0;
    loop {
        let more = poll_fn(|cx| receiver.poll_receive(cx, &mut queue)).await;
        let Some(length) = more.map_err(|error| error.to_string())? else { break };
        received += length;
        receiver.delivered(received as u64, true);
    }
    let echoed: Vec<u8> = queue.into_iter().flatten().collect();
    if echoed[..] == payload[..] {
        Ok(())
    } else {
        Err("other bytes came back than were sent".to_owned())
    }
}

/// Bytes of a probe that measures; a router takes 64 KiB.
const LARGE: usize = 60 << 10;
/// Such probes at a time: two megabytes are under way.
const AT_ONCE: usize = 32;
