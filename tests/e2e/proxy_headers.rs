//! Who a visitor is: what the service is told by a PROXY header, and whose word is taken for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::world::{Client, Haproxy, Service, Tunnel, World, ends_with_reset, eventually};

/// Connects from an address that no process here has as its own.
fn from_afar(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&AFAR.parse::<SocketAddr>().expect("an address").into()).expect("its address");
    socket.connect(&to.into()).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    socket.into()
}

/// Anywhere in 127.0.0.0/8 is here.
const AFAR: &str = "127.0.0.77:0";

/// Asks the service of [`Haproxy::that_is_told`] whom it was told; with the address that it should be.
fn who_am_i(to: SocketAddr) -> (SocketAddr, String) {
    let mut stream = from_afar(to);
    let own = stream.local_addr().expect("an address");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    (own, body.to_owned())
}

/// A forward and a reverse tunnel to `source` with these options.
fn both_ways(client: &Client, prefix: &str, source: SocketAddr, options: &[&str]) -> [Tunnel; 2] {
    let names = [format!("{prefix}-forward"), format!("{prefix}-reverse")];
    let forward = client.start(source).args(["--name", &names[0]]).args(options).succeeds();
    let reverse = client.publish(source).args(["--name", &names[1]]).args(options).succeeds();
    [client.started(&forward), client.started(&reverse)]
}

/// A router and an enrolled owner.
fn cast(world: &World) -> (crate::world::Router, Client) {
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    (router, client)
}

#[test]
fn the_service_is_told_the_visitors_address_in_either_version() {
    let world = World::new();
    let service = Haproxy::that_is_told(world.path());
    let (_router, client) = cast(&world);
    for version in ["v1", "v2"] {
        let options = ["--proxy-protocol", version];
        for tunnel in both_ways(&client, version, service.addr(), &options) {
            let (own, told) = who_am_i(tunnel.bind);
            assert_eq!(told, format!("{own} at {}", tunnel.bind), "{}", tunnel.name);
            println!("{}: {told}", tunnel.name);
        }
    }
}

#[test]
fn a_trusted_front_end_speaks_for_its_visitors() {
    let world = World::new();
    let service = Haproxy::that_is_told(world.path());
    let (_router, client) = cast(&world);
    let options = ["--trusted-proxy", "127.0.0.1", "--proxy-protocol", "v2"];
    for (index, tunnel) in
        both_ways(&client, "v2", service.addr(), &options).into_iter().enumerate()
    {
        let folder = world.path().join(format!("front{index}"));
        std::fs::create_dir(&folder).expect("a folder");
        let front = Haproxy::in_front_of(&folder, tunnel.bind);
        let (own, told) = who_am_i(front.addr());
        assert_eq!(told, format!("{own} at {}", front.addr()), "{}", tunnel.name);
        println!("{}: {told}", tunnel.name);
        // Who is not the front end is believed nothing, and is told of as who it is.
        let (own, told) = who_am_i(tunnel.bind);
        assert_eq!(told, format!("{own} at {}", tunnel.bind), "{}", tunnel.name);
    }
}

#[test]
fn what_looks_like_a_header_is_payload_when_nobody_is_trusted_to_send_one() {
    let world = World::new();
    let (payloads, received) = channel();
    let payloads = Mutex::new(payloads);
    let service = Service::start(move |mut stream| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = payloads.lock().expect("one user").send(bytes);
    });
    let (_router, client) = cast(&world);
    let text = b"PROXY TCP4 192.0.2.1 192.0.2.2 5 443\r\nhello".to_vec();
    let binary = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(),
        &[192, 0, 2, 1, 192, 0, 2, 2, 0, 5, 1, 187],
        b"hello",
    ]
    .concat();
    let says = |tunnel: &Tunnel, bytes: &[u8]| {
        let mut stream = from_afar(tunnel.bind);
        stream.write_all(bytes).expect("bytes");
        stream.shutdown(std::net::Shutdown::Write).expect("a half closed");
        let got = received.recv_timeout(Duration::from_secs(10)).expect("what the service got");
        (stream.local_addr().expect("an address"), got)
    };
    for (prefix, options) in [("plain", &[][..]), ("other", &["--trusted-proxy", "192.0.2.0/24"])] {
        for tunnel in both_ways(&client, prefix, service.addr(), options) {
            for bytes in [&text, &binary] {
                assert!(&says(&tunnel, bytes).1 == bytes, "every byte stays: {}", tunnel.name);
            }
        }
    }
    for tunnel in both_ways(&client, "told", service.addr(), &["--proxy-protocol", "v1"]) {
        let (own, got) = says(&tunnel, &text);
        let header = format!(
            "PROXY TCP4 {} {} {} {}\r\n",
            own.ip(),
            tunnel.bind.ip(),
            own.port(),
            tunnel.bind.port()
        );
        assert!(
            got == [header.as_bytes(), &text].concat(),
            "the true one stands in front: {got:?}"
        );
    }
}

#[test]
fn a_trusted_front_end_that_sends_no_header_is_closed() {
    let world = World::new();
    let service = Service::greeting("hello");
    let (_router, client) = cast(&world);
    let options = ["--trusted-proxy", "127.0.0.0/8"];
    let tunnels = both_ways(&client, "front", service.addr(), &options);
    std::thread::scope(|scope| {
        for tunnel in &tunnels {
            scope.spawn(|| only_a_header_opens(tunnel));
        }
    });
    assert_eq!(service.connects(), 2, "nobody else came as far as the service");
    eventually("nothing is left open, and both tunnels are well", || {
        let listed = client.list(&[]);
        listed.iter().all(|tunnel| tunnel["state"] == "ready" && tunnel["active_connections"] == 0)
    });
}

/// Of three that connect at once one says nothing, one something else, and one what it should.
fn only_a_header_opens(tunnel: &Tunnel) {
    let start = Instant::now();
    let silent = tunnel.connect();
    let mut wrong = tunnel.connect();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("a request");
    assert!(ends_with_reset(&wrong), "{}", tunnel.name);
    println!("{}: reset {:?} after a wrong word", tunnel.name, start.elapsed());
    let mut right = tunnel.connect();
    right.write_all(b"PROXY UNKNOWN\r\n").expect("a header");
    right.read_exact(&mut [0; 5]).expect("a greeting");
    assert!(ends_with_reset(&silent), "{}", tunnel.name);
    println!("{}: reset after {:?} of silence", tunnel.name, start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}
