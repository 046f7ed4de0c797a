//! A router's UDP socket, on which strangers cannot move a client that has not moved.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionIdGenerator, UdpPoller};
use tokio::time::Sleep;

use super::homes::Homes;

/// UDP, with packets held back that come from where nobody has been before; see [`Homes`].
#[derive(Debug)]
pub(super) struct Roaming {
    udp: Arc<dyn AsyncUdpSocket>,
    state: Mutex<State>,
    /// Whether anything that is sent may tell that a peer has moved.
    awaits_answer: AtomicBool,
}

#[derive(Debug)]
struct State {
    homes: Homes,
    /// Until something that is held is due.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Roaming {
    /// For an endpoint that makes its connection ids with `ids`.
    pub(super) fn new(
        udp: Arc<dyn AsyncUdpSocket>,
        ids: Box<dyn ConnectionIdGenerator>,
    ) -> Arc<Self> {
        let state = State { homes: Homes::new(ids), timer: None };
        Arc::new(Self { udp, state: Mutex::new(state), awaits_answer: AtomicBool::new(false) })
    }

    /// Fills the buffers with what was held and is due; how many.
    fn release(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut state = self.state();
        if state.homes.due().is_none() {
            return 0;
        }
        let count = state.homes.release(buffers, meta, Instant::now());
        self.awaits_answer.store(state.homes.awaits_answer(), Ordering::Relaxed);
        count
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps what is not to be passed on yet, and closes the gaps; how many trains are left.
    fn sift(
        &mut self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        count: usize,
    ) -> usize {
        let (mut left, now) = (0, Instant::now());
        for at in 0..count {
            if !self.homes.arrives(&meta[at], &buffers[at][..meta[at].len], now) {
                continue;
            }
            if left < at {
                let (before, from) = buffers.split_at_mut(at);
                before[left][..meta[at].len].copy_from_slice(&from[0][..meta[at].len]);
                meta[left] = meta[at];
            }
            left += 1;
        }
        left
    }

    /// Ready when something that is held is due.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.homes.due() else {
            self.timer = None;
            return Poll::Pending;
        };
        let due = due.into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }
}

impl AsyncUdpSocket for Roaming {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.udp).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.awaits_answer.load(Ordering::Relaxed) || Homes::begins(transmit.contents) {
            let mut state = self.state();
            state.homes.sends(transmit.destination, transmit.contents, Instant::now());
            self.awaits_answer.store(state.homes.awaits_answer(), Ordering::Relaxed);
        }
        self.udp.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..ROUNDS {
            let count = self.release(buffers, meta);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            // Not under the lock: who sends would wait for the system meanwhile.
            match self.udp.poll_recv(cx, buffers, meta) {
                Poll::Ready(Ok(count)) => {
                    let left = self.state().sift(buffers, meta, count);
                    if left > 0 {
                        return Poll::Ready(Ok(left));
                    }
                }
                Poll::Pending if self.state().poll_due(cx).is_pending() => return Poll::Pending,
                Poll::Pending => {}
                failed => return failed,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

/// Receives of nothing but what is held, before others have their turn.
const ROUNDS: usize = 16;
