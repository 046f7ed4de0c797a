//! Streams by the thousand, and a peer that takes all it can get.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use conduit::wire::{Declare, StreamClass, StreamHeader, VERSION, control::Message, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::resident;
use crate::stage::{Stage, Target, echo, noise, within};
use crate::stranger::{Admitted, Stranger, frame, next};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_credit_of_streams_grows_with_use_beyond_ten_thousand() {
    let stage = Stage::new().await;
    let Admitted { stranger, control: _control, answers: _answers } =
        Stranger::admitted_at(&stage).await;
    let start = Instant::now();
    let mut open = Vec::new();
    for token in 0..12_000 {
        let opening = tokio::time::timeout(LIMIT, stranger.connection.open()).await;
        let opened = opening.unwrap_or_else(|_| panic!("no credit for stream {token}"));
        let (mut send, receive) = opened.expect("a stream");
        let class = StreamClass::Probe.into();
        let header = StreamHeader { version: VERSION, class, token, ..StreamHeader::default() };
        let mut bytes = BytesMut::new();
        encode(&header, &mut bytes);
        send.write_all(&bytes).await.expect("a header");
        open.push((send, receive));
    }
    println!("{} streams are open after {:?}", open.len(), start.elapsed());
    for (mut send, mut receive) in open {
        send.write_all(b"ping").await.expect("a word");
        send.finish().expect("its end");
        let echoed = tokio::time::timeout(LIMIT, receive.read_to_end(64)).await;
        let echoed = echoed.expect("an answer in time").expect("an answer");
        assert!(echoed.ends_with(b"ping"), "{echoed:?}");
    }
    println!("all of them were served after {:?}", start.elapsed());
    assert!(stranger.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_opens_all_its_streams_and_reads_nothing_costs_a_bounded_amount() {
    let target = Target::new(|mut stream| async move {
        if !matches!(stream.read_u8().await, Ok(b'b')) {
            return;
        }
        // A thousand of the largest buffers are more than the kernel has for all of TCP; then it resets who comes next.
        let small = socket2::SockRef::from(&stream).set_send_buffer_size(64 << 10);
        small.expect("a small buffer");
        let block = noise(1, 64 << 10);
        while stream.write_all(&block).await.is_ok() {}
    })
    .await;
    let (echoing, most) = (Target::echo().await, 1_000);
    let stage = Stage::with(|settings| settings.session.max_streams = most).await;
    let bystander = stage.tunnel_to(echoing.addr).await;
    let Admitted { stranger, mut control, mut answers } = Stranger::admitted_at(&stage).await;
    let declare = Declare {
        version: VERSION,
        tunnel: 1,
        name: "t".into(),
        sources: vec![target.addr.to_string()],
        ..Declare::default()
    };
    control.write_all(&frame(Message::Declare(declare))).await.expect("a declaration");
    // Streams that overtake it are refused.
    next(&mut answers, &mut BytesMut::new()).await.expect("declared");
    let before = resident();
    let mut held = Vec::new();
    // One is the control stream.
    for token in 1..u64::from(most) {
        let opening = tokio::time::timeout(LIMIT, stranger.connection.open()).await;
        let opened = opening.unwrap_or_else(|_| panic!("no credit for stream {token}"));
        let (mut send, receive) = opened.expect("a stream");
        let header = StreamHeader { version: VERSION, tunnel: 1, token, ..Default::default() };
        let mut bytes = BytesMut::new();
        encode(&header, &mut bytes);
        bytes.extend_from_slice(b"b");
        send.write_all(&bytes).await.expect("a header");
        held.push((send, receive));
    }
    within(LIMIT, "every target is dialled", || target.connects() + 1 == most as usize).await;
    let mut seen = (0, Instant::now());
    within(LIMIT, "nothing moves any more", || {
        let came = stranger.connection.path().udp_bytes.1;
        if came > seen.0 + 100_000 {
            seen = (came, Instant::now());
        }
        seen.1.elapsed() > Duration::from_millis(500)
    })
    .await;
    let grown = before.zip(resident()).map(|(before, now)| now.saturating_sub(before) >> 10);
    println!("{} bytes came to who reads nothing, memory rose by {grown:?} MiB", seen.0);
    // The budget of the router's session, what the stranger's end of QUIC holds, and the targets' blocks.
    assert!(grown.is_none_or(|grown| grown < 400), "{grown:?} MiB");
    assert!(stranger.connection.close_reason().is_none());
    let start = Instant::now();
    echo(bystander.local_addr(), &noise(3, 100_000)).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

const LIMIT: Duration = Duration::from_secs(30);
