//! QUIC's packets on a stream of bytes, for networks that carry no UDP. Implements `proto-spec/carriers.md`, chapter
//! "Frames".

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::udp::{RecvMeta, Transmit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::socket::parts;

/// One stream, as QUIC sees it: somebody at an address, to whom a queue leads.
#[derive(Debug)]
pub(super) struct Lane {
    far: SocketAddr,
    queue: Mutex<BytesMut>,
    filled: Notify,
    emptied: Notify,
}

/// Packets of one size, but for the last, which may be shorter.
#[derive(Debug, PartialEq, Eq)]
struct Train {
    stride: usize,
    packets: Bytes,
}

/// What comes from all lanes of a socket.
#[derive(Debug)]
pub(super) struct Inbox {
    trains: Mutex<mpsc::Receiver<(SocketAddr, Train)>>,
}

/// The lanes' side of an inbox.
#[derive(Clone, Debug)]
pub(super) struct Outlet(mpsc::Sender<(SocketAddr, Train)>);

/// An inbox and the way into it.
pub(super) fn inbox() -> (Outlet, Inbox) {
    let (sender, receiver) = mpsc::channel(INBOX);
    (Outlet(sender), Inbox { trains: Mutex::new(receiver) })
}

impl Lane {
    /// `far` is the address from which its packets come and to which they go, as far as QUIC knows.
    pub(super) fn to(far: SocketAddr) -> Arc<Self> {
        let (filled, emptied) = (Notify::new(), Notify::new());
        Arc::new(Self { far, queue: Mutex::default(), filled, emptied })
    }

    pub(super) fn far(&self) -> SocketAddr {
        self.far
    }

    /// Queues packets. A full queue drops them, as a router on the path would. [CAR-6]
    pub(super) fn send(&self, transmit: &Transmit<'_>) {
        let mut queue = lock(&self.queue);
        for part in parts(transmit) {
            let length = part.contents.len();
            if length == 0 || queue.len() + HEADER + length > QUEUE {
                return;
            }
            queue.reserve(HEADER + length);
            queue.put_u16(length as u16);
            queue.put_u16(part.segment_size.unwrap_or(length) as u16);
            queue.put_slice(part.contents);
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Waits until everything queued was written. Cancel-safe.
    pub(super) async fn flushed(&self) {
        loop {
            let emptied = self.emptied.notified();
            if lock(&self.queue).is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Moves packets both ways until the stream ends, which is returned as an error. [CAR-3]
    pub(super) async fn carry<S>(&self, stream: S, outlet: &Outlet) -> io::Error
    where
        S: AsyncRead + AsyncWrite,
    {
        let (reading, writing) = tokio::io::split(stream);
        tokio::select! {
            error = self.read(reading, outlet) => error,
            error = self.write(writing) => error,
        }
    }

    async fn read(&self, mut stream: impl AsyncRead + Unpin, outlet: &Outlet) -> io::Error {
        let mut bytes = BytesMut::new();
        // Bytes of a frame that is never complete are no sign of life.
        let mut until = Instant::now() + SILENCE;
        loop {
            bytes.reserve(READ);
            match tokio::time::timeout_at(until, stream.read_buf(&mut bytes)).await {
                Ok(Ok(0)) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error,
                Err(_) => return io::ErrorKind::TimedOut.into(),
            }
            loop {
                match Train::decode(&mut bytes) {
                    Ok(Some(train)) => {
                        until = Instant::now() + SILENCE;
                        if outlet.0.send((self.far, train)).await.is_err() {
                            return io::ErrorKind::NotConnected.into();
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return error,
                }
            }
        }
    }

    async fn write(&self, mut stream: impl AsyncWrite + Unpin) -> io::Error {
        loop {
            self.filled.notified().await;
            loop {
                // Looked at only, and in small parts, so that the queue's bound is that of what waits.
                let part = {
                    let queue = lock(&self.queue);
                    Bytes::copy_from_slice(&queue[..queue.len().min(WRITE)])
                };
                if part.is_empty() {
                    break;
                }
                let written = async {
                    stream.write_all(&part).await?;
                    stream.flush().await
                };
                match tokio::time::timeout(SILENCE, written).await {
                    Ok(Ok(())) => lock(&self.queue).advance(part.len()),
                    Ok(Err(error)) => return error,
                    Err(_) => return io::ErrorKind::TimedOut.into(),
                }
            }
            self.emptied.notify_waiters();
        }
    }
}

impl Train {
    /// Takes the next one out of `bytes`; `None` while it is incomplete. [CAR-3] [CAR-4]
    fn decode(bytes: &mut BytesMut) -> io::Result<Option<Self>> {
        let Some(header) = bytes.get(..HEADER) else { return Ok(None) };
        let number = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
        let (length, stride) = (number(0), number(2));
        if stride == 0 || stride > length || length.div_ceil(stride) > MOST_PACKETS {
            let reason = format!("a frame of {length} bytes cannot hold packets of {stride}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if bytes.len() < HEADER + length {
            return Ok(None);
        }
        bytes.advance(HEADER);
        Ok(Some(Self { stride, packets: bytes.split_to(length).freeze() }))
    }
}

impl Inbox {
    /// Fills buffers with what has come, a train each, as a socket with generic receive offload does.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<usize> {
        let mut trains = self.trains.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            match trains.poll_recv(cx) {
                Poll::Ready(Some((addr, Train { stride, packets }))) => {
                    // Nobody on UDP could send so many at once.
                    let length = packets.len().min(buffer.len());
                    buffer[..length].copy_from_slice(&packets[..length]);
                    *meta = RecvMeta { addr, len: length, stride, ..RecvMeta::default() };
                    count += 1;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(count) }
    }
}

fn lock(queue: &Mutex<BytesMut>) -> MutexGuard<'_, BytesMut> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Length and stride.
const HEADER: usize = 4;
/// Bytes that may wait for the stream: 6 ms at 5 Gbit/s, so that the controller notices before packets are lost.
const QUEUE: usize = 4 << 20;
/// Trains that may wait for QUIC; what exceeds them waits in TCP.
const INBOX: usize = 32;
const READ: usize = 64 << 10;
const WRITE: usize = 64 << 10;
/// Packets of a frame, as of a train that UDP brings in one go (Linux: UDP_MAX_SEGMENTS). QUIC sends ten.
const MOST_PACKETS: usize = 64;
/// A connection of QUIC asks for a sign of life more often than this.
const SILENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 7))
    }

    fn transmit(contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        Transmit { destination: far(), ecn: None, contents, segment_size, src_ip: None }
    }

    #[tokio::test]
    async fn trains_arrive_as_they_left_and_those_that_find_no_room_do_not() {
        let (here, there) = (Lane::to(far()), Lane::to(far()));
        let (near, remote) = tokio::io::duplex(1_000);
        let (outlet, inbox) = inbox();
        let (unused, _) = super::inbox();
        here.send(&transmit(&[1; 1_200], None));
        here.send(&transmit(&[2; 3_000], Some(1_300)));
        here.send(&transmit(&vec![3; 130_000], Some(13_000)));
        let received = async {
            let mut found = Vec::new();
            let mut buffer = vec![0; 70_000];
            while found.len() < 4 {
                let mut meta = [RecvMeta::default()];
                std::future::poll_fn(|cx| {
                    inbox.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta)
                })
                .await;
                assert!(buffer[..meta[0].len].iter().all(|byte| *byte == buffer[0]));
                found.push((buffer[0], meta[0].len, meta[0].stride, meta[0].addr));
            }
            found
        };
        let found = tokio::select! {
            found = received => found,
            error = here.carry(near, &unused) => panic!("{error}"),
            error = there.carry(remote, &outlet) => panic!("{error}"),
        };
        let expected =
            [(1, 1_200, 1_200), (2, 3_000, 1_300), (3, 65_000, 13_000), (3, 65_000, 13_000)];
        assert_eq!(found, expected.map(|(byte, len, stride)| (byte, len, stride, far())));

        for _ in 0..100 {
            here.send(&transmit(&vec![4; 65_000], Some(13_000)));
        }
        let waiting = lock(&here.queue).len();
        assert!(waiting <= QUEUE && waiting > QUEUE - 65_100, "{waiting} bytes wait");
    }

    #[test]
    fn impossible_frames_are_refused_and_cut_ones_waited_for() {
        let decode = |bytes: &[u8]| Train::decode(&mut BytesMut::from(bytes));
        for cut in [&[][..], &[0], &[0, 2, 0], &[0, 2, 0, 1], &[0, 2, 0, 1, 9]] {
            assert_eq!(decode(cut).expect("legal so far"), None);
        }
        let train = decode(&[0, 2, 0, 1, 9, 8, 7]).expect("legal").expect("complete");
        assert_eq!(train, Train { stride: 1, packets: Bytes::from_static(&[9, 8]) });
        for (length, stride) in
            [(0, 0), (0, 1), (5, 0), (5, 6), (65_535, 0), (65, 1), (65_535, 1_000)]
        {
            let mut header = BytesMut::new();
            header.put_u16(length);
            header.put_u16(stride);
            let error = decode(&header).expect_err("impossible");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
