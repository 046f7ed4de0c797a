//! Streams go on, on the connection that has taken the place of one that was lost. `proto-spec/resumption.md`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Session;
use super::frames::{FrameReader, ReceiveFrameError, framed};
use super::incoming::{HEADER_LIMIT, Seat, turn_away};
use super::intake::Intake;
use super::sender::number;
use super::strand::{Receiving, Replay, Standing, Strand};
use crate::task::Tasks;
use crate::transport::{ReadError, RecvStream, SendStream, WriteError};
use crate::wire::{Code, Delivered, StreamAnswer, StreamClass, StreamHeader, VERSION};

impl Session {
    /// Takes up, each in a task, the streams that this end opened on a connection before this one, and reports once more
    /// what was delivered: how many streams those are. [RSM-5] [RSM-9]
    pub fn resume_streams(&self, tasks: &Tasks) -> usize {
        let ledger = &self.0.ledger;
        let is_ours = |strand: &Arc<Strand>| strand.kind.lasts && strand.kind.opened_here;
        let ours = ledger.strands().into_iter().filter(is_ours).chain(ledger.continuity.departed());
        let mut count = 0;
        for strand in ours {
            // Those of this very connection need nothing.
            let Some(standing) = strand.freeze(self.0.generation) else { continue };
            tasks.spawn_until_cancelled("resume", resume(self.clone(), strand, standing));
            count += 1;
        }
        count
    }

    /// What the peer may have missed of the reports of streams that were complete.
    pub(super) fn last_reports(&self) -> Vec<Delivered> {
        let complete = self.0.ledger.continuity.complete();
        let reports = complete.chunks(REPORTS).map(|complete| {
            let (tokens, offsets) = complete.iter().copied().unzip();
            Delivered { tokens, offsets }
        });
        reports.collect()
    }
}

/// Opens a stream for one that this end had opened before. What fails because the connection does is tried again on the
/// next one.
async fn resume(session: Session, strand: Arc<Strand>, standing: Standing) {
    let Ok((mut send, receive)) = session.0.connection.open().await else { return };
    let header = StreamHeader {
        version: VERSION,
        class: StreamClass::Resume.into(),
        token: strand.token,
        received: standing.received,
        ..StreamHeader::default()
    };
    if send.write_chunk(framed(&header)).await.is_err() {
        return;
    }
    let mut frames = FrameReader::new(receive, HEADER_LIMIT);
    let answer = match frames.next::<StreamAnswer>().await {
        Ok(answer) => answer,
        Err(ReceiveFrameError::Stream(ReadError::ConnectionLost(_))) => return,
        Err(_) => return strand.fail(Code::Protocol),
    };
    if let Some(why) = strand.broken() {
        // [RSM-10]
        session.0.ledger.continuity.has_departed(strand.token);
        let (receive, ..) = frames.into_parts();
        return turn_away(send, receive, why);
    }
    match Code::from_number(answer.code.into()) {
        Code::Done if strand.could_have_received(answer.received) => {
            session.0.ledger.report(&strand);
            let way = Way { session, seat: None, send, ended: standing.ended };
            way.go_on(&strand, Receiving::after(frames), answer.received).await;
        }
        Code::Done => {
            strand.fail(Code::Protocol);
            let (receive, ..) = frames.into_parts();
            turn_away(send, receive, Code::Protocol);
        }
        // [RSM-7]
        Code::Unseen => match strand.opening() {
            Some(header) => open_again(session, strand, &header).await,
            None => strand.fail(Code::Gone),
        },
        Code::Complete => {
            let sent = strand.sent.load(Ordering::Acquire);
            session.0.ledger.book_one(&strand, sent);
        }
        code => strand.fail(code),
    }
}

/// Answers a peer that takes up a stream. [RSM-6] [RSM-7] [RSM-8]
pub(super) async fn answer(
    session: Session,
    seat: Seat,
    mut send: SendStream,
    frames: FrameReader,
    header: &StreamHeader,
) {
    let ledger = Arc::clone(&session.0.ledger);
    let found = ledger.strand(header.token).filter(|strand| strand.kind.lasts);
    let standing = match &found {
        None => Err(ledger.continuity.verdict(header.token)),
        Some(strand) if strand.kind.opened_here || !strand.could_have_received(header.received) => {
            Err(Code::Protocol)
        }
        Some(strand) => {
            strand.freeze(session.0.generation).map(|it| (strand, it)).ok_or(Code::Protocol)
        }
    };
    let (strand, standing) = match standing {
        Ok(found) => found,
        Err(code) => {
            tracing::debug!(peer = %session.peer().short(), code = code.name(), "a stream does not go on");
            let no =
                StreamAnswer { code: code.number() as u32, message: String::new(), received: 0 };
            if send.write_chunk(framed(&no)).await.is_ok() {
                // An error means that the peer wants no more, which is so.
                let _ = send.finish();
            }
            let (mut receive, ..) = frames.into_parts();
            let _ = receive.stop(number(code));
            return;
        }
    };
    let yes = StreamAnswer { received: standing.received, ..StreamAnswer::default() };
    if send.write_chunk(framed(&yes)).await.is_ok() {
        ledger.report(strand);
        let way = Way { session, seat: Some(seat), send, ended: standing.ended };
        way.go_on(strand, Receiving::after(frames), header.received).await;
    }
}

/// Opens a stream once more of which the peer has not heard. [RSM-7]
async fn open_again(session: Session, strand: Arc<Strand>, header: &StreamHeader) {
    let Ok((mut send, receive)) = session.0.connection.open().await else { return };
    if send.write_chunk(framed(header)).await.is_ok() {
        let receiving = Receiving { intake: Intake::new(receive, 0), payload: None };
        let way = Way { session, seat: None, send, ended: false };
        way.go_on(&strand, receiving, 0).await;
    }
}

impl Receiving {
    /// What follows the last message that was read.
    fn after(frames: FrameReader) -> Self {
        let (receive, read, payload) = frames.into_parts();
        Self { intake: Intake::new(receive, read), payload: Some(payload) }
    }
}

/// A stream on which another one goes on, once both ends have said how far they are.
struct Way {
    session: Session,
    seat: Option<Seat>,
    send: SendStream,
    /// Whether everything has come from the peer before.
    ended: bool,
}

impl Way {
    /// Hands the halves over, the sending one when it has sent again what the peer lacks from `offset` on.
    async fn go_on(self, strand: &Strand, receiving: Receiving, mut offset: u64) {
        let Self { session, seat, mut send, ended } = self;
        let generation = session.0.generation;
        let (receiving, over) = if ended {
            (None, Some(receiving.intake.into_stream()))
        } else {
            (Some(receiving), None)
        };
        if let Err(back) = strand.place_receiving(generation, receiving, (session, seat)) {
            let code = strand.broken().unwrap_or(Code::Gone);
            let receive = back.map(|receiving| receiving.intake.into_stream()).or(over);
            if let Some(receive) = receive {
                turn_away(send, receive, code);
            }
            return;
        }
        loop {
            match strand.replay(generation, offset) {
                Replay::Bytes(bytes) => {
                    let length = bytes.len() as u64;
                    match send.write_chunk(bytes).await {
                        Ok(()) => offset += length,
                        Err(WriteError::Stopped(code)) => {
                            return strand.fail(Code::from_number(code.into_inner()));
                        }
                        Err(_) => return,
                    }
                }
                Replay::CaughtUp => match strand.place_sending(generation, send, offset) {
                    Ok(()) => break,
                    Err(back) => {
                        send = back;
                        if let Some(code) = strand.broken() {
                            // An error means that the connection is gone, too.
                            let _ = send.reset(number(code));
                            return;
                        }
                    }
                },
                Replay::Outdated => return,
            }
        }
        if let Some(receive) = over {
            only_the_end(receive).await;
        }
    }
}

/// The peer's end has come before and comes again; dropped earlier, the stream would tell the peer to stop.
async fn only_the_end(mut receive: RecvStream) {
    if let Ok(Some(_)) = receive.read_chunk(1, true).await {
        let _ = receive.stop(number(Code::Protocol));
    }
}

/// 18 bytes at most each: a message stays below 64 KiB.
const REPORTS: usize = 3_000;
