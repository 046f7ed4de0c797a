//! A stream to the router and back: whether the data path works, not whether it was said to.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use bytes::Bytes;

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
    match tokio::time::timeout(limit, round_trip(&session)).await {
        Ok(Ok(())) => {
            Probe { ok: true, rtt_ms: Some(started.elapsed().as_secs_f64() * 1e3), error: None }
        }
        Ok(Err(reason)) => failed(reason),
        Err(_) => failed(format!("the router {router} does not answer the probe within {limit:?}")),
    }
}

fn failed(reason: String) -> Probe {
    Probe { ok: false, rtt_ms: None, error: Some(reason) }
}

async fn round_trip(session: &Session) -> Result<(), String> {
    let payload: [u8; 16] = random_bytes().map_err(|error| error.to_string())?;
    let header = StreamHeader {
        version: VERSION,
        tunnel: TUNNEL,
        class: StreamClass::Probe.into(),
        ..StreamHeader::default()
    };
    let sent = session.open(header, Bytes::copy_from_slice(&payload)).await;
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
    if echoed == payload { Ok(()) } else { Err("other bytes came back than were sent".to_owned()) }
}
