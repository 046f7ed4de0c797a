//! H20 to H25: clients that do not keep to the protocol.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use conduit::transport::{ConnectionError, ReadError, RecvStream, VarInt};
use conduit::wire::{
    Authenticate, Code, Control, Declare, Delivered, Framed, StreamAnswer, StreamClass,
    StreamHeader, VERSION, control::Message, decode, encode, split_frame,
};
use prost::Message as _;
use quinn::ReadToEndError;

use crate::stage::{Stage, Target, echo};
use crate::stranger::{Admitted, Stranger, ends, frame, next};

/// The router's code and words at the end of a connection.
fn code_of(error: &ConnectionError) -> (Code, String) {
    let ConnectionError::ApplicationClosed(close) = error else { panic!("no code: {error}") };
    (
        Code::from_number(close.error_code.into_inner()),
        String::from_utf8_lossy(&close.reason).into_owned(),
    )
}

#[tokio::test]
async fn h20_lengths_beyond_the_limit_are_refused_before_a_byte_of_the_message() {
    let stage = Stage::new().await;
    for length in [
        &[0x50, 0x01][..],
        &[0x80, 0x00, 0x10, 0x01],
        &[0xbf, 0xff, 0xff, 0xff],
        &[0xc0, 0, 0, 0, 0x80, 0, 0, 0],
        &[0xc0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        &[0xff; 8],
    ] {
        let start = Instant::now();
        let end = Stranger::at(&stage).await.says(length).await;
        assert_eq!(code_of(&end).0, Code::Refused, "{length:x?}");
        assert!(start.elapsed() < Duration::from_secs(2), "{length:x?}: {:?}", start.elapsed());
    }
    // Within the session the limit is larger, and the same holds.
    let Admitted { stranger, mut control, .. } = Stranger::admitted_at(&stage).await;
    control.write_all(&[0x80, 0x01, 0x00, 0x01]).await.expect("65,537");
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Protocol);
}

#[tokio::test]
async fn h21_an_introduction_that_is_cut_anywhere_is_refused_in_time_and_has_no_effect() {
    let stage =
        Stage::with(|settings| settings.session.message_timeout = Duration::from_millis(300)).await;
    let whole = Stranger::at(&stage).await.introduction().len();
    let cuts: Vec<_> = (0..whole).step_by(7).collect();
    let mut refusals = tokio::task::JoinSet::new();
    for &cut in &cuts {
        let stranger = Stranger::at(&stage).await;
        let bytes = stranger.introduction();
        refusals.spawn(async move { stranger.says(&bytes[..cut]).await });
    }
    while let Some(end) = refusals.join_next().await {
        let end = end.expect("no panic");
        assert_eq!(code_of(&end), (Code::Refused, conduit_refusal()));
    }
    assert!(
        stage.router.metrics().contains("conduit_sessions 0")
            || !stage.router.metrics().contains("conduit_sessions")
    );
}

#[tokio::test]
async fn h21_a_cut_in_the_middle_of_a_message_that_ends_is_refused_at_once() {
    let stage = Stage::new().await;
    let stranger = Stranger::at(&stage).await;
    let bytes = stranger.introduction();
    let (mut control, _answers) = stranger.connection.open().await.expect("a stream");
    control.write_all(&bytes[..bytes.len() / 2]).await.expect("half of it");
    control.finish().expect("its end");
    let start = Instant::now();
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Refused);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn h22_what_is_unknown_is_skipped_and_what_is_required_and_unknown_is_refused_with_the_versions()
 {
    let stage = Stage::new().await;
    let stranger = Stranger::at(&stage).await;
    let mut hello = stranger.hello();
    hello.requires = vec![4_711];
    let proof = stranger.authenticate(&hello);
    let bytes = [frame(Message::Hello(hello)), frame(Message::Authenticate(proof))].concat();
    let (code, words) = code_of(&stranger.says(&bytes).await);
    assert_eq!(code, Code::Unsupported);
    assert!(words.contains("4711") && words.contains(&VERSION.to_string()), "{words}");

    let stranger = Stranger::at(&stage).await;
    let mut hello = stranger.hello();
    hello.version = 0;
    let proof = stranger.authenticate(&hello);
    let bytes = [frame(Message::Hello(hello)), frame(Message::Authenticate(proof))].concat();
    assert_eq!(code_of(&stranger.says(&bytes).await).0, Code::Unsupported);

    // A newer version that requires nothing is welcome, and so are messages and fields that nobody knows.
    let stranger = Stranger::at(&stage).await;
    let mut hello = stranger.hello();
    hello.version = VERSION + 1;
    let proof = stranger.authenticate(&hello);
    let (mut control, mut answers) = stranger.connection.open().await.expect("a stream");
    let bytes = [frame(Message::Hello(hello)), frame(Message::Authenticate(proof))].concat();
    control.write_all(&bytes).await.expect("an introduction");
    let mut buffer = BytesMut::new();
    let accepted = next(&mut answers, &mut buffer).await.expect("an answer");
    assert!(
        matches!(accepted.message, Some(Message::Accepted(accepted)) if accepted.version == VERSION)
    );
    // A frame with field 2,047 alone: a message of the future.
    control.write_all(&[3, 0xf8, 0x7f, 0x2a]).await.expect("an unknown message");
    control.write_all(&frame(Message::Declare(declaration()))).await.expect("a declaration");
    let declared = next(&mut answers, &mut buffer).await.expect("an answer");
    assert!(matches!(declared.message, Some(Message::Declared(declared)) if declared.code == 0));
}

#[tokio::test]
async fn h23_headers_that_never_come_are_reset_and_their_places_are_free_again() {
    let limit = Duration::from_millis(400);
    let stage = Stage::with(|settings| settings.session.message_timeout = limit).await;
    let target = Target::echo().await;
    let Admitted { stranger, control: _control, answers: _answers } =
        Stranger::admitted_at(&stage).await;
    let start = Instant::now();
    let mut slow = Vec::new();
    for number in 0..1_000 {
        let opening = tokio::time::timeout(Duration::from_secs(10), stranger.connection.open());
        let (mut send, receive) = opening.await.expect("a place").expect("a stream");
        // The first byte of a header, or of a long one; without a byte no stream exists for the other end.
        send.write_all(&[if number % 2 == 0 { 0x20 } else { 0x43 }]).await.expect("a byte");
        slow.push((send, receive));
    }
    for (_send, mut receive) in slow {
        let end = tokio::time::timeout(Duration::from_secs(10), receive.read_chunk(1, true))
            .await
            .expect("in time");
        let Err(ReadError::Reset(code)) = end else { panic!("not reset: {end:?}") };
        assert_eq!(code, VarInt::from_u32(Code::TooSlow.number() as u32));
    }
    println!("1,000 slow headers were gone after {:?}", start.elapsed());
    assert!(stranger.connection.close_reason().is_none(), "the connection itself goes on");
    let tunnel = stage.tunnel_to(target.addr).await;
    echo(tunnel.local_addr(), b"others are not affected").await;
}

#[tokio::test]
async fn h25_a_second_hello_a_hello_late_and_no_hello_end_the_connection_with_a_code() {
    let stage = Stage::new().await;
    let Admitted { stranger, mut control, .. } = Stranger::admitted_at(&stage).await;
    control.write_all(&frame(Message::Hello(stranger.hello()))).await.expect("a second Hello");
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Protocol);

    let Admitted { stranger, mut control, .. } = Stranger::admitted_at(&stage).await;
    control
        .write_all(&frame(Message::Authenticate(Authenticate::default())))
        .await
        .expect("a second proof");
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Protocol);

    let stranger = Stranger::at(&stage).await;
    let twice =
        [frame(Message::Hello(stranger.hello())), frame(Message::Hello(stranger.hello()))].concat();
    assert_eq!(code_of(&stranger.says(&twice).await).0, Code::Refused);

    let mut header = BytesMut::new();
    encode(&StreamHeader { version: VERSION, tunnel: 1, ..StreamHeader::default() }, &mut header);
    assert_eq!(
        code_of(&Stranger::at(&stage).await.says(&header).await).0,
        Code::Refused,
        "a stream without Hello"
    );
    let declare = frame(Message::Declare(declaration()));
    assert_eq!(
        code_of(&Stranger::at(&stage).await.says(&declare).await).0,
        Code::Refused,
        "a message without Hello"
    );
    assert_eq!(
        code_of(&Stranger::at(&stage).await.says(b"GET / HTTP/1.1\r\n\r\n").await).0,
        Code::Refused
    );
}

#[tokio::test]
async fn h25_a_control_stream_that_is_stopped_or_finished_ends_the_connection() {
    let stage = Stage::new().await;
    let Admitted { stranger, mut control, mut answers } = Stranger::admitted_at(&stage).await;
    answers.stop(VarInt::from_u32(0)).expect("stopped");
    // The router notices when it has something to say.
    control.write_all(&frame(Message::Declare(declaration()))).await.expect("a declaration");
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Protocol);

    let Admitted { stranger, mut control, .. } = Stranger::admitted_at(&stage).await;
    control.finish().expect("finished");
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Protocol);
}

#[tokio::test]
async fn before_it_is_admitted_a_peer_has_one_stream() {
    let stage = Stage::new().await;
    let stranger = Stranger::at(&stage).await;
    let _first = stranger.connection.open().await.expect("the control stream");
    let second = tokio::time::timeout(Duration::from_millis(300), stranger.connection.open()).await;
    assert!(second.is_err(), "no second stream");
}

#[tokio::test]
async fn a_peer_that_stays_silent_is_hung_up_on() {
    let stage =
        Stage::with(|settings| settings.session.message_timeout = Duration::from_millis(300)).await;
    let stranger = Stranger::at(&stage).await;
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Refused);
}

#[tokio::test]
async fn h14_a_proof_made_for_another_connection_is_refused() {
    let stage = Stage::new().await;
    let first = Stranger::at(&stage).await;
    let recorded = first.introduction();
    let end = Stranger::at(&stage).await.says(&recorded).await;
    assert_eq!(code_of(&end), (Code::Refused, conduit_refusal()));
    // And a Hello that was changed after it was signed.
    let hello = first.hello();
    let proof = first.authenticate(&hello);
    let renamed = conduit::wire::Hello { name: "somebody else".into(), ..hello };
    let bytes = [frame(Message::Hello(renamed)), frame(Message::Authenticate(proof))].concat();
    assert_eq!(code_of(&first.says(&bytes).await).0, Code::Refused);
}

#[tokio::test]
async fn more_delivered_than_was_sent_is_a_violation() {
    let stage = Stage::new().await;
    let Admitted { stranger, mut control, mut answers } = Stranger::admitted_at(&stage).await;
    control.write_all(&frame(Message::Declare(declaration()))).await.expect("a declaration");
    let mut buffer = BytesMut::new();
    next(&mut answers, &mut buffer).await.expect("an answer");
    let (mut send, mut receive) = stranger.connection.open().await.expect("a stream");
    let mut header = BytesMut::new();
    let probe = StreamHeader {
        version: VERSION,
        token: 77,
        class: StreamClass::Probe.into(),
        ..StreamHeader::default()
    };
    encode(&probe, &mut header);
    send.write_all(&header).await.expect("a header");
    send.write_all(b"ping").await.expect("a payload");
    let chunk = receive.read_chunk(64, true).await.expect("a stream").expect("an answer");
    assert!(!chunk.bytes.is_empty());
    let report = Delivered { tokens: vec![77], offsets: vec![1 << 60] };
    control.write_all(&frame(Message::Delivered(report))).await.expect("a false report");
    assert_eq!(code_of(&ends(&stranger.connection).await).0, Code::Protocol);
}

#[tokio::test]
async fn streams_that_are_never_reported_as_delivered_use_up_the_limit() {
    let stage = Stage::with(|settings| settings.session.max_streams = 8).await;
    let Admitted { stranger, control: _control, answers: _answers } =
        Stranger::admitted_at(&stage).await;
    for token in 0..8 {
        let mut receive = probe(&stranger, token).await;
        // To QUIC the stream is over after this, and its place free.
        let echoed = receive.read_to_end(64).await.expect("an answer");
        assert!(echoed.ends_with(b"ping"), "{echoed:?}");
    }
    let Err(ReadToEndError::Read(ReadError::Reset(code))) =
        probe(&stranger, 8).await.read_to_end(64).await
    else {
        panic!("the ninth is served")
    };
    assert_eq!(Code::from_number(code.into_inner()), Code::Limit);
    assert!(stranger.connection.close_reason().is_none(), "the connection itself goes on");
}

/// Sends a probe and its end.
async fn probe(stranger: &Stranger, token: u64) -> RecvStream {
    let (mut send, receive) = stranger.connection.open().await.expect("a stream");
    let mut bytes = BytesMut::new();
    encode(&StreamHeader { class: StreamClass::Probe.into(), token, ..header() }, &mut bytes);
    bytes.extend_from_slice(b"ping");
    // Who is turned away may hear of it before everything is sent.
    let _ = send.write_all(&bytes).await;
    let _ = send.finish();
    receive
}

#[tokio::test]
async fn streams_for_tunnels_and_targets_that_are_not_allowed_are_refused_one_by_one() {
    let stage = Stage::new().await;
    let target = Target::echo().await;
    let Admitted { stranger, mut control, mut answers } = Stranger::admitted_at(&stage).await;
    let mut declare = declaration();
    declare.sources = vec![target.addr.to_string()];
    control.write_all(&frame(Message::Declare(declare))).await.expect("a declaration");
    next(&mut answers, &mut BytesMut::new()).await.expect("an answer");
    let denied = [
        StreamHeader { tunnel: 99, ..header() },
        StreamHeader { target: format!("0.0.0.0:{}", target.addr.port()), ..header() },
        StreamHeader { target: format!("[::ffff:0:0]:{}", target.addr.port()), ..header() },
        StreamHeader { target: "169.254.169.254:80".into(), ..header() },
        StreamHeader { target: stage.router.local_addr().to_string(), ..header() },
        StreamHeader { target: "../run/docker.sock:80".into(), ..header() },
        StreamHeader { class: StreamClass::Flow.into(), ..header() },
        StreamHeader { requires: vec![12], ..header() },
        StreamHeader { version: 0, ..header() },
    ];
    for header in denied {
        let (mut send, mut receive) = stranger.connection.open().await.expect("a stream");
        let mut bytes = BytesMut::new();
        encode(&header, &mut bytes);
        send.write_all(&bytes).await.expect("a header");
        let answer =
            tokio::time::timeout(Duration::from_secs(5), receive.read_chunk(4_096, true)).await;
        match answer.expect("an answer in time") {
            Ok(Some(chunk)) => {
                let Ok(Framed::Whole(frame)) =
                    split_frame(&mut BytesMut::from(&chunk.bytes[..]), 4_096)
                else {
                    panic!("{header:?}: no frame")
                };
                let answer: StreamAnswer = decode(frame).expect("an answer");
                assert_ne!(answer.code, 0, "{header:?}");
            }
            Err(ReadError::Reset(_)) => {}
            other => panic!("{header:?}: {other:?}"),
        }
    }
    assert_eq!(target.connects(), 0);
    assert!(stranger.connection.close_reason().is_none(), "refusals are no reason to hang up");
}

#[tokio::test]
async fn random_bytes_on_every_stream_harm_nobody() {
    let stage = Stage::new().await;
    let target = Target::echo().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    for seed in 0..40 {
        let bytes = crate::stage::noise(seed, 3_000);
        let stranger = Stranger::at(&stage).await;
        if seed % 2 == 0 {
            stranger.says(&bytes).await;
            continue;
        }
        let Admitted { stranger, mut control, .. } = Stranger::admitted_at(&stage).await;
        if let Ok((mut send, _receive)) = stranger.connection.open().await {
            let _ = send.write_all(&bytes).await;
        }
        let _ = control.write_all(&bytes).await;
        let _ = Control::decode(&bytes[..]);
        stranger.connection.close(0, "enough");
    }
    echo(tunnel.local_addr(), b"untouched").await;
}

fn header() -> StreamHeader {
    StreamHeader { version: VERSION, tunnel: 1, token: 5, ..StreamHeader::default() }
}

fn declaration() -> Declare {
    Declare {
        version: VERSION,
        tunnel: 1,
        name: "t".into(),
        sources: vec!["127.0.0.1:9".into()],
        ..Declare::default()
    }
}

/// What everybody reads who is refused.
fn conduit_refusal() -> String {
    "the router does not admit this key".to_owned()
}
