//! The one copy loop: a socket on one side, a stream of the session on the other.

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio_util::sync::CancellationToken;

use super::outcome::{EndedBy, Halted, Transferred};
use super::queue::Queue;
use super::socket::poll_read;
use super::{Entry, Settings};
use crate::ends::{ReadHalf, Stream, WriteHalf};
use crate::session::{self, InFlight, Receiver, Sender};

/// Bytes moved so far; read by `list` while the connection lives.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the socket into the stream.
    pub sent: AtomicU64,
    /// From the stream into the socket.
    pub received: AtomicU64,
    /// Out of the stream and waiting for the socket.
    waiting: AtomicU64,
    /// Whether its stop is no end: another process goes on with it.
    halts: AtomicBool,
}

impl Counters {
    /// Bytes that left before the copying began.
    pub fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what was moved before, when another process goes on.
    pub fn resume(&self, sent: u64, received: u64) {
        self.sent.store(sent, Ordering::Relaxed);
        self.received.store(received, Ordering::Relaxed);
    }

    /// What stops it from here on is no end.
    pub(super) fn halt(&self) {
        self.halts.store(true, Ordering::Release);
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halts.load(Ordering::Acquire)
    }

    fn total(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)
    }
}

/// A connection whose bytes are being moved. Boxed: a task is as large as its largest step, and this one would be.
pub type Copying = Pin<Box<dyn Future<Output = Transferred> + Send>>;

/// Moves bytes both ways until both directions are done, one of them fails, or `stop` is cancelled. FIN becomes
/// finish and back, RST becomes reset and back; a failure ends both directions and resets the socket. [STR-5]
/// [STR-6] [STR-7] Not cancel-safe: dropped, the stream is reset with `Internal`.
pub fn pipe(
    socket: Stream,
    sender: Sender,
    receiver: Receiver,
    settings: Settings,
    entry: &Entry,
) -> Copying {
    pipe_on(Queue::default(), (socket, sender, receiver), settings, entry)
}

/// Goes on with what another process has left: `waiting` came before, and the socket has not taken it. [UPG-5]
pub fn pipe_after(
    waiting: Bytes,
    ends: (Stream, Sender, Receiver),
    settings: Settings,
    entry: &Entry,
) -> Copying {
    pipe_on(Queue::of(waiting), ends, settings, entry)
}

fn pipe_on(
    mut queue: Queue,
    (mut socket, mut sender, mut receiver): (Stream, Sender, Receiver),
    settings: Settings,
    entry: &Entry,
) -> Copying {
    let (counters, stop) = (Arc::clone(&entry.counters), entry.stop.clone());
    Box::pin(async move {
        let ended_by = {
            let (in_flight, alone) = (sender.in_flight(), AtomicBool::new(false));
            let (reading, writing) = socket.split();
            let mut upload = pin!(upload(reading, &mut sender, &settings, &counters.sent, &alone));
            let mut download =
                pin!(download(writing, &mut receiver, &mut queue, &settings, &counters));
            let first = tokio::select! {
                end = &mut upload => end.map(Some),
                end = &mut download => end.map(|()| None),
                () = stop.cancelled() => Err(EndedBy::Killed),
            };
            // What only happens towards the end is boxed: a connection that is idle should cost little.
            let silence = silence(&counters, &in_flight, &settings);
            match first {
                Err(failure) => failure,
                Ok(Some(socket)) => {
                    let broken = async { EndedBy::Socket(broken(&socket).await.to_string()) };
                    Box::pin(other_half(download, broken, silence, &stop)).await
                }
                Ok(None) => {
                    alone.store(true, Ordering::Relaxed);
                    Box::pin(other_half(upload, pending(), silence, &stop)).await
                }
            }
        };
        let (sent, received) =
            (counters.sent.load(Ordering::Relaxed), counters.received.load(Ordering::Relaxed));
        if ended_by == EndedBy::Killed && counters.is_halted() {
            let stream = session::Halted::new(sender, receiver, queue.chunks.into());
            let halted = Some(Box::new(Halted { socket, stream }));
            return Transferred { sent, received, ended_by: EndedBy::Halted, halted };
        }
        if ended_by != EndedBy::Done {
            sender.reset(ended_by.code());
            receiver.stop(ended_by.code());
            socket.reset();
        }
        Transferred { sent, received, ended_by, halted: None }
    })
}

/// The direction that is still open, unless what it depends on breaks, nothing happens any more, or an operator wants
/// an end.
async fn other_half<T>(
    copying: Pin<&mut impl Future<Output = Result<T, EndedBy>>>,
    broken: impl Future<Output = EndedBy>,
    silence: impl Future<Output = ()>,
    stop: &CancellationToken,
) -> EndedBy {
    tokio::select! {
        end = copying => end.err().unwrap_or(EndedBy::Done),
        failure = broken => failure,
        () = silence => EndedBy::Abandoned,
        () = stop.cancelled() => EndedBy::Killed,
    }
}

/// Returns when no byte has moved for the linger and none is on its way: a reader that takes its time is not silent.
/// [STR-8]
async fn silence(counters: &Counters, in_flight: &InFlight, settings: &Settings) {
    loop {
        let before = counters.total();
        tokio::time::sleep(settings.linger).await;
        let under_way = in_flight.bytes() + counters.waiting.load(Ordering::Relaxed);
        if counters.total() == before && under_way == 0 && !in_flight.is_held_up() {
            return;
        }
    }
}

/// Socket → stream. Ends when the far socket has taken the last byte; then nobody reads here any more. As long as bytes
/// might come from the peer, their end tells that it wants no more; once this direction is `alone`, only a stop does.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
fn upload<'s>(
    mut socket: ReadHalf<'s>,
    sender: &mut Sender,
    settings: &Settings,
    moved: &AtomicU64,
    alone: &AtomicBool,
) -> impl Future<Output = Result<ReadHalf<'s>, EndedBy>> {
    async move {
        let mut appetite = FIRST_READ.min(settings.read_buffer);
        let (mut turn, mut stopped) = (0, None);
        while !sender.is_finished() {
            let room = sender.room();
            if room == 0 {
                Box::pin(more_room(sender, &socket)).await?;
                continue;
            }
            let limit = appetite.min(room);
            let read = poll_fn(|cx| {
                if alone.load(Ordering::Relaxed) {
                    let stopped = stopped.get_or_insert_with(|| Box::pin(sender.stopped()));
                    if let Poll::Ready(why) = stopped.as_mut().poll(cx) {
                        return Poll::Ready(Err(why.into()));
                    }
                }
                poll_read(Pin::new(&mut socket), cx, limit)
                    .map_err(|error| EndedBy::Socket(error.to_string()))
            });
            let Some(bytes) = read.await? else {
                sender.finish();
                break;
            };
            // A full read asks for a larger one: few large pieces cost less than many small ones.
            if bytes.len() == appetite {
                appetite = (appetite * 4).min(settings.read_buffer);
            } else if bytes.len() < appetite / 8 {
                appetite = FIRST_READ.min(settings.read_buffer);
            }
            moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            turn += bytes.len();
            sender.send(bytes).await?;
            if turn >= settings.turn {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Box::pin(sender.settled()).await?;
        Ok(socket)
    }
}

/// Waits for room in the window, unless the socket breaks meanwhile.
async fn more_room(sender: &mut Sender, socket: &ReadHalf<'_>) -> Result<(), EndedBy> {
    tokio::select! {
        more = sender.more_room() => Ok(more?),
        error = broken(socket) => Err(EndedBy::Socket(error.to_string())),
    }
}

/// Returns when the socket was reset while nobody reads from it. A plain end of the other side is no error: its bytes
/// wait their turn.
async fn broken(socket: &ReadHalf<'_>) -> io::Error {
    loop {
        match socket.ready(Interest::ERROR).await {
            Ok(ready) if ready.is_error() => match socket.take_error() {
                Ok(Some(error)) | Err(error) => return error,
                Ok(None) => std::future::pending::<()>().await,
            },
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

/// Stream → socket. Bytes leave QUIC at once, whether the socket takes them or not: what a slow reader leaves unread
/// must not use up the connection's window. [STR-20]
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
fn download(
    mut socket: WriteHalf<'_>,
    receiver: &mut Receiver,
    queue: &mut Queue,
    settings: &Settings,
    counters: &Counters,
) -> impl Future<Output = Result<(), EndedBy>> {
    async move {
        if receiver.is_finished() {
            return Ok(());
        }
        let mut ended = receiver.has_ended();
        poll_fn(|cx| {
            poll_download(&mut socket, receiver, queue, &mut ended, settings, counters, cx)
        })
        .await?;
        socket.shutdown().await.map_err(|error| EndedBy::Socket(error.to_string()))?;
        receiver.finished();
        Ok(())
    }
}

fn poll_download(
    socket: &mut WriteHalf<'_>,
    receiver: &mut Receiver,
    queue: &mut Queue,
    ended: &mut bool,
    settings: &Settings,
    counters: &Counters,
    cx: &mut Context<'_>,
) -> Poll<Result<(), EndedBy>> {
    let mut turn = 0;
    for _ in 0..TURNS {
        if turn >= settings.turn {
            break;
        }
        let waiting = queue.chunks.len();
        let mut drained = *ended || !receiver.has_room();
        while !drained && queue.chunks.len() - waiting < SLICES {
            match receiver.poll_receive(cx, &mut queue.chunks)? {
                Poll::Ready(Some(length)) => queue.appended(length),
                Poll::Ready(None) => *ended = true,
                Poll::Pending => drained = true,
            }
            drained |= *ended || !receiver.has_room();
        }
        if queue.is_empty() {
            counters.waiting.store(0, Ordering::Relaxed);
            queue.rest();
            return if *ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = queue.slices(&mut slices, settings.write_buffer);
        match Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]) {
            Poll::Ready(Ok(written)) => {
                queue.advance(written);
                turn += written;
                let total =
                    counters.received.fetch_add(written as u64, Ordering::Relaxed) + written as u64;
                receiver.delivered(total, queue.is_empty());
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(EndedBy::Socket(error.to_string()))),
            Poll::Pending => {
                counters.waiting.store(queue.bytes() as u64, Ordering::Relaxed);
                if queue.chunks.len() - waiting > STALLED {
                    queue.gather();
                }
                if drained {
                    return Poll::Pending;
                }
            }
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Requests and answers mostly fit; bulk shows itself by filling it.
const FIRST_READ: usize = 16 << 10;
/// Slices of one vectored write: 2 KiB on the stack, 400 KiB of loopback packets.
const SLICES: usize = 128;
/// Turns before other tasks get theirs.
const TURNS: usize = 16;
/// So many new chunks behind a full socket are worth gathering.
const STALLED: usize = 4;
