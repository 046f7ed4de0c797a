//! Rows of floods: strangers, a client and its users ask for everything at once, and the router keeps to its budget.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use conduit::identity::Keypair;
use conduit::session::{self, Introduction, initiate};
use conduit::task::Tasks;
use conduit::transport::{self, ClientEndpoint};
use conduit::tunnel::Identity;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::task::JoinSet;

use crate::table::told;
use crate::world::{Router, Service, World, echo, figure, in_namespace, noise};

/// What the floods have done so far; they end when `is_over`.
#[derive(Default)]
struct Floods {
    is_over: AtomicBool,
    strangers: AtomicU64,
    opens: AtomicU64,
    stalled: AtomicU64,
}

impl Floods {
    fn go_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

#[test]
fn h80_floods_of_every_kind_at_once_stay_within_256_mib() {
    in_namespace("floods::h80_floods_of_every_kind_at_once_stay_within_256_mib", || {
        let world = World::new();
        let target = Service::echo();
        let (router, client, tunnel) = world.tunnel_to(target.addr());
        let (pours, swallows) = (Service::start(pour), Service::start(swallow));
        let readers = [("pours", pours.addr()), ("swallows", swallows.addr())]
            .map(|(name, addr)| client.starts(name, addr));
        let users = figure("stalled readers of each kind", 10, 50);
        let lasting = Duration::from_secs(figure("seconds", 6, 60) as u64);
        let before = peak(router.pid());
        let floods = Floods::default();
        let mut times = thread::scope(|scope| {
            scope.spawn(|| spoofed(&router, &floods));
            scope.spawn(|| opened(&router, &floods));
            for reader in &readers {
                let streams: Vec<_> = (0..users).map(|_| reader.connect()).collect();
                scope.spawn(|| stalled(streams, &floods));
            }
            let _over = Over(&floods);
            let (start, mut times) = (Instant::now(), Vec::new());
            while start.elapsed() < lasting {
                let asked = Instant::now();
                echo(&tunnel.connect(), &noise(times.len() as u64, 1 << 20))
                    .expect("the same bytes");
                times.push(asked.elapsed());
            }
            times
        });
        times.sort();
        let peak = peak(router.pid());
        assert_eq!(router.status()["state"], "ready");
        assert!(peak < 256, "{peak} MiB");
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (strangers, opens, stalled) =
            (count(&floods.strangers), count(&floods.opens), count(&floods.stalled) >> 20);
        assert!(
            strangers > 10_000 && opens > 1_000 && stalled > 0,
            "{strangers} {opens} {stalled}"
        );
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        told(
            "H80",
            &format!(
                "{strangers} forged Initials, {opens} streams opened and reset, {} readers that stopped after {stalled} MiB, {lasting:?}",
                2 * users
            ),
            &format!(
                "resident at most {peak} MiB ({before} before); 1 MiB there and back beside it, {} times: p50 {:?}, p95 {:?}",
                times.len(),
                at(50),
                at(95)
            ),
        );
    });
}

/// Ends the floods, and so the scope, also when the test fails.
struct Over<'a>(&'a Floods);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// The most memory that a process has had resident, in MiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// H02: 20,000 packets a second, each from another of 65,536 addresses, with which real handshakes began.
fn spoofed(router: &Router, floods: &Floods) {
    let initials = initials(router);
    let raw =
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("a raw socket");
    let begun = Instant::now();
    let mut sent = 0_u64;
    while floods.go_on() {
        if begun.elapsed().as_secs_f64() * 20_000.0 < sent as f64 {
            thread::sleep(Duration::from_millis(2));
            continue;
        }
        let [_, _, high, low] = (sent as u32).to_be_bytes();
        let from = (Ipv4Addr::new(127, 1, high, low), 1_024 + (sent % 50_000) as u16);
        let packet = forged(from, router.addr(), &initials[sent as usize % initials.len()]);
        // A full queue drops it, as a network would.
        let _ = raw.send_to(&packet, &router.addr().into());
        sent += 1;
        floods.strangers.store(sent, Ordering::Relaxed);
    }
}

/// The first packets of handshakes, taken by somebody who does not answer.
fn initials(router: &Router) -> Vec<Vec<u8>> {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    silent.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let addr = silent.local_addr().expect("its address");
    let pin: Identity = router.identity().parse().expect("an identity");
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
    runtime.spawn(async move {
        let mut callers = JoinSet::new();
        for _ in 0..256 {
            callers.spawn(async move {
                let keypair = Keypair::generate().expect("a key");
                let endpoint = ClientEndpoint::bind(transport::Settings::default(), addr)
                    .expect("an endpoint");
                let _ = endpoint.connect(addr, &keypair, pin).await;
            });
        }
        callers.join_all().await;
    });
    let mut initials = Vec::new();
    let mut packet = [0; 2_048];
    while initials.len() < 256 {
        let length = silent.recv(&mut packet).expect("a packet");
        if packet[0] & 0xf0 == 0xc0 {
            initials.push(packet[..length].to_vec());
        }
    }
    runtime.shutdown_background();
    initials
}

/// An IPv4 packet with UDP in it that says that it is `from` there.
fn forged((ip, port): (Ipv4Addr, u16), to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(to) = to else { panic!("an IPv4 address") };
    let length = (payload.len() + 28) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    // The kernel adds identification and checksum; UDP's is optional.
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(ip.octets());
    packet.extend(to.ip().octets());
    packet.extend(port.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// H24: a client that was admitted opens streams and resets them, as fast as it may, and comes back when it is put out.
fn opened(router: &Router, floods: &Floods) {
    let keypair = Arc::new(Keypair::generate().expect("a key"));
    let identity = keypair.identity().to_string();
    router.command(&["authorize", &identity, "--name", "flood"]).succeeds();
    let (addr, pin) = (router.addr(), router.identity().parse().expect("an identity"));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        while floods.go_on() {
            let endpoint = ClientEndpoint::bind(transport::Settings::default(), addr);
            let endpoint = endpoint.expect("an endpoint");
            let Ok(connection) = endpoint.connect(addr, &keypair, pin).await else { continue };
            let introduction = Introduction {
                instance: uuid::Uuid::new_v4(),
                name: "flood".to_owned(),
                group: None,
                token: None,
                ticket: None,
            };
            let (settings, tasks) = (session::Settings::default(), Tasks::new());
            let session = initiate(connection, &keypair, &introduction, &settings, None, &tasks);
            let Ok((session, _events)) = session.await else { continue };
            while floods.go_on() {
                let opening = session.connection().open();
                let opening = tokio::time::timeout(Duration::from_millis(500), opening);
                let Ok(Ok((mut send, _receive))) = opening.await else { break };
                let _ = send.write_all(b"x").await;
                let _ = send.reset(0_u32.into());
                floods.opens.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}

/// H45: users who send for as long as anybody takes it, and never read.
fn stalled(streams: Vec<TcpStream>, floods: &Floods) {
    let (bytes, begun) = (vec![7; 64 << 10], Instant::now());
    for stream in &streams {
        stream.set_nonblocking(true).expect("it does not block");
        spares_the_kernel(stream);
    }
    while floods.go_on() {
        for mut stream in &streams {
            match stream.write(&bytes) {
                Ok(count) => drop(floods.stalled.fetch_add(count as u64, Ordering::Relaxed)),
                Err(error) => assert_eq!(
                    error.kind(),
                    ErrorKind::WouldBlock,
                    "{error} after {:?} at {:?}",
                    begun.elapsed(),
                    stream.peer_addr()
                ),
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A hundred of the largest buffers are about what the kernel has for all of TCP; then it resets who comes next.
fn spares_the_kernel(stream: &TcpStream) {
    SockRef::from(stream).set_send_buffer_size(64 << 10).expect("a small buffer");
}

/// Sends for as long as anybody takes it.
fn pour(mut stream: TcpStream) {
    spares_the_kernel(&stream);
    let bytes = vec![7; 64 << 10];
    while stream.write_all(&bytes).is_ok() {}
}

/// Reads nothing until the user is gone.
fn swallow(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 1]);
    while stream.peek(&mut [0; 1]).is_ok_and(|count| count > 0) {
        thread::sleep(Duration::from_millis(100));
    }
}
