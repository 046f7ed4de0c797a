//! UDP as users and services speak it: sockets of the test.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A UDP service: a thread of the test that answers each packet; ends when it is dropped.
pub(crate) struct Answerer {
    addr: SocketAddr,
    senders: Arc<Mutex<HashSet<SocketAddr>>>,
    stopped: Arc<AtomicBool>,
}

impl Answerer {
    /// On a free port of 127.0.0.1.
    pub(crate) fn start(answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static) -> Self {
        Self::on(UdpSocket::bind("127.0.0.1:0").expect("a socket"), answer)
    }

    pub(crate) fn on(
        socket: UdpSocket,
        answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let addr = socket.local_addr().expect("its address");
        socket.set_read_timeout(Some(LOOK_UP)).expect("a timeout");
        let (senders, stopped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let answerer = Self { addr, senders: Arc::clone(&senders), stopped: Arc::clone(&stopped) };
        thread::spawn(move || {
            let mut packet = vec![0; LARGEST + 1];
            while !stopped.load(Ordering::Relaxed) {
                // An error is a pause, or about a sender that has gone.
                let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                senders.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
                let _ = socket.send_to(&answer(&packet[..length], from), from);
            }
        });
        answerer
    }

    /// Sends back what it gets.
    pub(crate) fn echo() -> Self {
        Self::start(|packet, _| packet.to_vec())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Different addresses that packets came from: each flow has its own.
    pub(crate) fn senders(&self) -> usize {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// A user's socket that talks to one address only, and waits up to 10 s for an answer.
#[track_caller]
pub(crate) fn user_of(addr: SocketAddr) -> UdpSocket {
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(addr).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket
}

/// Sends a packet and receives one.
pub(crate) fn asks(user: &UdpSocket, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    user.send(packet)?;
    let mut answer = vec![0; LARGEST + 1];
    let length = user.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// The largest UDP packet over IPv4.
const LARGEST: usize = 65_507;
/// How often a service looks up from waiting: it ends then.
const LOOK_UP: Duration = Duration::from_millis(100);
