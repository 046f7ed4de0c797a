//! Who asks for streams that are not theirs, or for bytes that never were.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use conduit::identity::Keypair;
use conduit::policy::Permissions;
use conduit::transport::RecvStream;
use conduit::wire::{
    Code, Declare, Framed, Hello, StreamAnswer, StreamClass, StreamHeader, VERSION,
    control::Message, decode, encode, split_frame,
};

use crate::stage::{Stage, Target};
use crate::stranger::{Admitted, Stranger, frame, next};

/// A client whose stream has brought a word, of which it has reported nothing.
async fn with_open_stream(stage: &Stage, target: &Target) -> Admitted {
    let mut admitted = Stranger::admitted_at(stage).await;
    declares(&mut admitted, target).await;
    let header = StreamHeader { version: VERSION, tunnel: 1, token: TOKEN, ..Default::default() };
    let mut answers = opens(&admitted, &header, WORD).await;
    assert_eq!(answer(&mut answers).await, (Code::Done, 0, Bytes::from_static(WORD)));
    admitted
}

async fn declares(admitted: &mut Admitted, target: &Target) {
    let declare = Declare {
        version: VERSION,
        tunnel: 1,
        name: "t".into(),
        sources: vec![target.addr.to_string()],
        resume_ms: 60_000,
        ..Declare::default()
    };
    admitted.control.write_all(&frame(Message::Declare(declare))).await.expect("a declaration");
    let answer = next(&mut admitted.answers, &mut BytesMut::new()).await.expect("an answer");
    let Some(Message::Declared(declared)) = answer.message else { panic!("{answer:?}") };
    assert_eq!((declared.code, declared.resume_ms), (0, 60_000));
}

async fn opens(admitted: &Admitted, header: &StreamHeader, payload: &[u8]) -> RecvStream {
    let (mut send, receive) = admitted.stranger.connection.open().await.expect("a stream");
    let mut bytes = BytesMut::new();
    encode(header, &mut bytes);
    bytes.extend_from_slice(payload);
    send.write_all(&bytes).await.expect("a header");
    // It stays open: nothing here ends it.
    std::mem::forget(send);
    receive
}

/// What the router says to who takes up a stream.
async fn resumes(admitted: &Admitted, token: u64, received: u64) -> (Code, u64, Bytes) {
    let class = StreamClass::Resume.into();
    let header = StreamHeader { version: VERSION, class, token, received, ..Default::default() };
    answer(&mut opens(admitted, &header, b"").await).await
}

/// The answer, and the first payload after it where it is a yes.
async fn answer(stream: &mut RecvStream) -> (Code, u64, Bytes) {
    let mut buffer = BytesMut::new();
    let mut answered = None;
    loop {
        if answered.is_none()
            && let Ok(Framed::Whole(frame)) = split_frame(&mut buffer, 1 << 10)
        {
            answered = Some(decode::<StreamAnswer>(frame).expect("an answer"));
        }
        if let Some(answer) = answered.as_ref().filter(|it| it.code != 0 || !buffer.is_empty()) {
            let code = Code::from_number(answer.code.into());
            return (code, answer.received, buffer.freeze());
        }
        let chunk = tokio::time::timeout(LIMIT, stream.read_chunk(4_096, true)).await;
        let chunk = chunk.expect("in time").expect("a stream").expect("more of it");
        buffer.extend_from_slice(&chunk.bytes);
    }
}

/// The same process with another connection, after it has given up the one before.
async fn comes_back(stage: &Stage, admitted: Admitted) -> Admitted {
    admitted.stranger.connection.close(Code::Moved.number(), "elsewhere");
    Stranger::admitted_at(stage).await
}

#[tokio::test]
async fn offsets_that_cannot_be_are_refused_and_the_right_one_goes_on() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let admitted = with_open_stream(&stage, &target).await;
    let refused = resumes(&admitted, TOKEN, 0).await.0;
    assert_eq!(refused, Code::Protocol, "it is not lost");
    assert_eq!(resumes(&admitted, TOKEN + 1, 0).await.0, Code::Gone);

    let back = comes_back(&stage, admitted).await;
    for beyond in [WORD.len() as u64 + 1, u64::MAX / 2, u64::MAX] {
        assert_eq!(resumes(&back, TOKEN, beyond).await.0, Code::Protocol, "{beyond}");
    }
    assert_eq!(resumes(&back, TOKEN + 1, 0).await.0, Code::Unseen);
    let rest = Bytes::from_static(&WORD[2..]);
    assert_eq!(resumes(&back, TOKEN, 2).await, (Code::Done, WORD.len() as u64, rest));
    assert_eq!(resumes(&back, TOKEN, 2).await.0, Code::Protocol, "once is enough");
    assert!(back.stranger.connection.close_reason().is_none(), "no reason to hang up");
    assert_eq!(target.connects(), 1);
}

#[tokio::test]
async fn a_stream_belongs_to_one_key_and_one_process() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let first = with_open_stream(&stage, &target).await;
    first.stranger.connection.close(Code::Moved.number(), "elsewhere");

    let key = Arc::new(Keypair::generate().expect("a key"));
    stage.admits(key.identity(), Permissions::owner()).await;
    let other = Stranger::with(&stage, key).await.admitted().await;
    assert_eq!(resumes(&other, TOKEN, 0).await.0, Code::Gone, "another key, the same instance");

    let same_key = Stranger::at(&stage).await;
    let hello = Hello { instance: Bytes::from_static(&[8; 16]), ..same_key.hello() };
    let same_key = same_key.admitted_with(hello).await;
    assert_eq!(resumes(&same_key, TOKEN, 0).await.0, Code::Gone, "the same key, another instance");

    let rightful = Stranger::admitted_at(&stage).await;
    let all = (Code::Done, WORD.len() as u64, Bytes::from_static(WORD));
    assert_eq!(resumes(&rightful, TOKEN, 0).await, all);
}

#[tokio::test]
async fn a_close_with_any_other_code_takes_the_streams_along() {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let admitted = with_open_stream(&stage, &target).await;
    admitted.stranger.connection.close(Code::Done.number(), "good-bye");
    let back = Stranger::admitted_at(&stage).await;
    assert_eq!(resumes(&back, TOKEN, 0).await.0, Code::Gone);
}

const TOKEN: u64 = 77;
const WORD: &[u8] = b"a word";
const LIMIT: Duration = Duration::from_secs(10);
