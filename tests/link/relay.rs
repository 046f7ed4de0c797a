//! Between the sockets: who sends, and what is due.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

use super::{Shared, Way};

/// What a NAT on the path knows of one client.
struct Mapping {
    back: Arc<UdpSocket>,
    /// When the client was heard.
    heard: Arc<Mutex<Instant>>,
    _answers: AbortOnDropHandle<()>,
}

/// Takes packets of clients; each client gets a socket of its own towards the router.
pub(super) async fn accept(shared: Arc<Shared>, front: Arc<UdpSocket>, router: SocketAddr) {
    let mut clients: HashMap<SocketAddr, Mapping> = HashMap::new();
    let mut forgotten = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
        let now = shared.state().forgotten;
        if now != forgotten {
            clients.clear();
            forgotten = now;
        }
        if clients.get(&client).is_some_and(|known| shared.has_forgotten(&known.heard)) {
            clients.remove(&client);
        }
        let Mapping { back, heard, .. } = match clients.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let back = UdpSocket::from_std(socket()).expect("a socket");
                back.connect(router).await.expect("a router");
                let (back, heard) = (Arc::new(back), Arc::new(Mutex::new(Instant::now())));
                let sides = (Arc::clone(&back), Arc::clone(&front));
                let answers = answers(Arc::clone(&shared), sides, client, Arc::clone(&heard));
                let _answers = AbortOnDropHandle::new(tokio::spawn(answers));
                new.insert(Mapping { back, heard, _answers })
            }
        };
        *heard.lock().expect("nobody panics here") = Instant::now();
        shared.send(Way::Up, &buffer[..length], back, None);
    }
}

/// Takes the router's packets for one client.
async fn answers(
    shared: Arc<Shared>,
    (back, front): (Arc<UdpSocket>, Arc<UdpSocket>),
    client: SocketAddr,
    heard: Arc<Mutex<Instant>>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        // A router that is gone says so here; it may come back.
        let Ok(length) = back.recv(&mut buffer).await else { continue };
        if shared.has_forgotten(&heard) {
            shared.state().ways[Way::Down as usize].count.forgotten += 1;
            continue;
        }
        shared.send(Way::Down, &buffer[..length], &front, Some(client));
    }
}

/// Hands packets over when they are due.
pub(super) async fn deliver(shared: Arc<Shared>) {
    loop {
        let (due, next) = shared.state().take();
        for packet in due {
            // Who is not there does not get it.
            let _ = match packet.to {
                Some(to) => packet.socket.send_to(&packet.bytes, to).await,
                None => packet.socket.send(&packet.bytes).await,
            };
        }
        match next {
            Some(next) => {
                let _ = tokio::time::timeout_at(next.into(), shared.sooner.notified()).await;
            }
            None => shared.sooner.notified().await,
        }
    }
}

/// A socket that drops nothing of its own accord.
pub(super) fn socket() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("it does not block");
    let buffers = socket2::SockRef::from(&socket);
    buffers.set_recv_buffer_size(4 << 20).expect("a buffer");
    buffers.set_send_buffer_size(4 << 20).expect("a buffer");
    socket
}
