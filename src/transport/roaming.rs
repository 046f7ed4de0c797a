//! A router's UDP socket, on which strangers cannot move a client that has not moved.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionIdGenerator, UdpPoller};
use tokio::task;
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
    /// Wakes who receives, while something is held.
    waker: Option<Waker>,
    /// Who receives. What this task sends is of no connection: quinn answers strangers from there, and resets them.
    receiver: Option<task::Id>,
}

impl Roaming {
    /// For an endpoint that makes its connection ids with `ids`.
    pub(super) fn new(
        udp: Arc<dyn AsyncUdpSocket>,
        ids: Box<dyn ConnectionIdGenerator>,
    ) -> Arc<Self> {
        let state = State { homes: Homes::new(ids), timer: None, waker: None, receiver: None };
        Arc::new(Self { udp, state: Mutex::new(state), awaits_answer: AtomicBool::new(false) })
    }

    /// Fills the buffers with what was held and is due; how many.
    fn release(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut state = self.state();
        state.receiver = task::try_id();
        if state.homes.due().is_none() {
            return 0;
        }
        let count = state.homes.release(buffers, meta, Instant::now());
        self.awaits_answer.store(state.homes.awaits_answer(), Ordering::Relaxed);
        count
    }

    /// Keeps what is not to be passed on yet, and closes the gaps; how many trains are left.
    fn sift(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta], count: usize) -> usize {
        let (mut state, mut left, now) = (self.state(), 0, Instant::now());
        for at in 0..count {
            if !state.homes.arrives(&meta[at], &buffers[at][..meta[at].len], now) {
                continue;
            }
            if left < at {
                let (before, from) = buffers.split_at_mut(at);
                before[left][..meta[at].len].copy_from_slice(&from[0][..meta[at].len]);
                meta[left] = meta[at];
            }
            left += 1;
        }
        self.awaits_answer.store(state.homes.awaits_answer(), Ordering::Relaxed);
        left
    }

    /// A task sends, which is a connection's own; where that makes something due, who receives is woken.
    fn sends(&self, transmit: &Transmit<'_>) {
        let Some(task) = task::try_id() else { return };
        let mut state = self.state();
        if state.receiver == Some(task) {
            return;
        }
        state.homes.sends(transmit.destination, transmit.contents, task, Instant::now());
        self.awaits_answer.store(state.homes.awaits_answer(), Ordering::Relaxed);
        if state.homes.is_ready()
            && let Some(waker) = state.waker.take()
        {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ready when something that is held is due.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.homes.due() else {
            (self.timer, self.waker) = (None, None);
            return Poll::Pending;
        };
        self.waker = Some(cx.waker().clone());
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
            self.sends(transmit);
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
                    let left = self.sift(buffers, meta, count);
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

#[cfg(test)]
mod tests;
