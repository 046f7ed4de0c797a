//! What nobody asked for, thrown at the router's port.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{Service, World, echo, figure, noise};

#[test]
fn garbage_at_the_routers_port_disturbs_no_tunnel_and_fills_no_memory() {
    let world = World::new();
    let target = Service::echo();
    let (router, client, tunnel) = world.tunnel_to(target.addr());
    let addr = router.addr();
    echo(&tunnel.connect(), &noise(1, 8 << 20)).expect("before");
    let before = resident(router.pid());
    let megabytes = figure("MB of garbage", 100, 1_000);
    let over = AtomicBool::new(false);
    let (replies, rounds) = thread::scope(|scope| {
        let throwing = scope.spawn(|| {
            let replies = throw(addr, megabytes * 1_000_000);
            over.store(true, Ordering::Relaxed);
            replies
        });
        let mut rounds = 0;
        while !over.load(Ordering::Relaxed) {
            let start = Instant::now();
            echo(&tunnel.connect(), &noise(rounds, 1 << 20)).expect("the same bytes meanwhile");
            assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
            rounds += 1;
        }
        (throwing.join().expect("no panic"), rounds)
    });
    let grown = resident(router.pid()).saturating_sub(before);
    println!("{rounds} echoes meanwhile, {replies} bytes in reply, {grown} KiB more");
    assert!(rounds > 0);
    assert!(replies <= megabytes as u64 * 1_000_000, "more came back than was thrown");
    assert!(grown <= 32 << 10, "{grown} KiB");
    let second = client.starts("second", target.addr());
    echo(&second.connect(), b"new sessions too").expect("the same bytes");
}

/// Random datagrams of 0 to 1,500 bytes, some dressed as QUIC, from 16 sockets; bytes that came back.
fn throw(addr: std::net::SocketAddr, total: usize) -> u64 {
    let sockets: Vec<_> =
        (0..16).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
    let bytes = noise(99, 1 << 20);
    let mut packet = [0; 1_500];
    let (mut thrown, mut turn, mut replies) = (0, 0usize, 0);
    for socket in &sockets {
        socket.set_nonblocking(true).expect("non-blocking");
    }
    while thrown < total {
        let at = turn.wrapping_mul(7_919) % (bytes.len() - 1_500);
        let length = (turn * 31) % 1_501;
        packet[..length].copy_from_slice(&bytes[at..at + length]);
        match (turn % 4, length > 6) {
            (0, true) => packet[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]), // an Initial of version 1
            (1, true) => packet[..5].copy_from_slice(&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a]), // an unknown version
            (2, true) => packet[..4].copy_from_slice(b"GET "),
            _ => {}
        }
        let socket = &sockets[turn % sockets.len()];
        if socket.send_to(&packet[..length], addr).is_ok() {
            thrown += length;
        }
        if let Ok((length, _)) = socket.recv_from(&mut [0; 1_500]) {
            replies += length as u64;
        }
        turn += 1;
    }
    replies
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
