//! What is received, when, and who is woken.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use quinn_proto::HashedConnectionIdGenerator;
use tokio::sync::mpsc;

use super::*;

/// Receives what a test has put there, and sends nothing.
#[derive(Debug, Default)]
struct Script {
    trains: Mutex<VecDeque<(SocketAddr, Vec<u8>)>>,
    waker: Mutex<Option<Waker>>,
}

impl Script {
    fn brings(&self, trains: impl IntoIterator<Item = (SocketAddr, Vec<u8>)>) {
        self.trains.lock().expect("trains").extend(trains);
        if let Some(waker) = self.waker.lock().expect("a waker").take() {
            waker.wake();
        }
    }
}

impl AsyncUdpSocket for Script {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        unreachable!("it is always writable")
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut trains = self.trains.lock().expect("trains");
        let mut count = 0;
        while let Some((addr, bytes)) = trains.pop_front() {
            buffers[count][..bytes.len()].copy_from_slice(&bytes);
            let (len, stride) = (bytes.len(), bytes.len());
            meta[count] = RecvMeta { addr, len, stride, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        *self.waker.lock().expect("a waker") = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(addr(0))
    }
}

/// A socket over a script, and the connection id of a client at the first address.
struct Scene {
    script: Arc<Script>,
    socket: Arc<Roaming>,
    id: Vec<u8>,
    sends: mpsc::UnboundedSender<(SocketAddr, Vec<u8>)>,
}

impl Scene {
    fn new() -> Self {
        let mut ids = HashedConnectionIdGenerator::from_key(7);
        let id = ids.generate_cid().to_vec();
        let script = Arc::new(Script::default());
        let udp: Arc<dyn AsyncUdpSocket> = Arc::<Script>::clone(&script);
        let socket = Roaming::new(udp, Box::new(ids));
        let (sends, mut sending) = mpsc::unbounded_channel::<(SocketAddr, Vec<u8>)>();
        let connection = Arc::clone(&socket);
        task::spawn(async move {
            while let Some((destination, contents)) = sending.recv().await {
                send(&connection, destination, &contents);
            }
        });
        Self { script, socket, id, sends }
    }

    /// The connection's task sends.
    fn sends(&self, to: SocketAddr, contents: &[u8]) {
        self.sends.send((to, contents.to_vec())).expect("a task");
    }

    /// After a handshake with the first address.
    async fn after_handshake() -> Self {
        let scene = Self::new();
        let long = [&[0xC0, 0, 0, 0, 1, 0, 8][..], &scene.id, &[0; 1_200]].concat();
        scene.sends(addr(1), &long);
        task::yield_now().await;
        scene
    }

    fn packet(&self, from: SocketAddr, payload: u8) -> (SocketAddr, Vec<u8>) {
        (from, [&[0x40][..], &self.id, &[payload; 20]].concat())
    }

    /// Receives in a task of its own, as quinn does: who sent each train, and its payload. Then it may send something.
    async fn receives(&self, answers: Option<SocketAddr>) -> Vec<(SocketAddr, u8)> {
        let socket = Arc::clone(&self.socket);
        let receiving = async move {
            let mut room = vec![vec![0; 2_000]; 4];
            let mut buffers: Vec<_> = room.iter_mut().map(|it| IoSliceMut::new(it)).collect();
            let mut meta = [RecvMeta::default(); 4];
            let receive = poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut meta));
            let count = receive.await.expect("received");
            if let Some(destination) = answers {
                send(&socket, destination, &[0x40; 30]);
            }
            (0..count).map(|at| (meta[at].addr, buffers[at][meta[at].len - 1])).collect()
        };
        task::spawn(receiving).await.expect("no panic")
    }
}

fn send(socket: &Roaming, destination: SocketAddr, contents: &[u8]) {
    let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
    socket.try_send(&transmit).expect("sent");
}

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 40_000))
}

#[tokio::test]
async fn what_is_held_leaves_no_gap_and_comes_out_by_itself() {
    let scene = Scene::after_handshake().await;
    let trains = [(1, 10), (9, 11), (1, 12)];
    scene.script.brings(trains.map(|(host, payload)| scene.packet(addr(host), payload)));
    assert_eq!(scene.receives(None).await, [(addr(1), 10), (addr(1), 12)]);
    let start = Instant::now();
    assert_eq!(scene.receives(None).await, [(addr(9), 11)]);
    assert!(start.elapsed() > Duration::from_millis(20), "it was held");
}

#[tokio::test]
async fn an_answer_wakes_who_receives() {
    let scene = Scene::after_handshake().await;
    scene.script.brings([scene.packet(addr(2), 1)]);
    assert_eq!(scene.receives(None).await, [(addr(2), 1)], "the known address was silent");
    scene.script.brings([scene.packet(addr(1), 2)]);
    assert_eq!(scene.receives(None).await, [(addr(1), 2)]);
    // Held for long, as the known address goes on.
    scene.script.brings([scene.packet(addr(2), 3)]);
    let goes_on = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        scene.script.brings([scene.packet(addr(1), 4)]);
    };
    let (received, ()) = tokio::join!(scene.receives(None), goes_on);
    assert_eq!(received, [(addr(1), 4)]);
    let (start, answers) = (Instant::now(), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        scene.sends(addr(2), &[0x40; 30]);
    });
    let (received, ()) = tokio::join!(scene.receives(None), answers);
    assert_eq!(received, [(addr(2), 3)]);
    assert!(start.elapsed() < Duration::from_millis(150), "at once, and not when it was due");
}

#[tokio::test]
async fn what_the_endpoint_says_by_itself_proves_nothing() {
    let scene = Scene::after_handshake().await;
    scene.script.brings([scene.packet(addr(9), 1)]);
    // A stateless reset, say.
    assert_eq!(scene.receives(Some(addr(9))).await, [(addr(9), 1)]);
    scene.script.brings([scene.packet(addr(9), 2), scene.packet(addr(1), 3)]);
    assert_eq!(scene.receives(None).await, [(addr(1), 3)], "the other one is a stranger");
}
