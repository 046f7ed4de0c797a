//! Dialling against real sockets on loopback, with names from a table.

use std::cell::RefCell;
use std::net::TcpListener;

use super::*;
use crate::policy::{OwnSockets, Permissions, forms};

fn quick() -> DialSettings {
    DialSettings {
        timeout: Duration::from_millis(400),
        attempt_delay: Duration::from_millis(50),
        ..DialSettings::default()
    }
}

fn canary() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("non-blocking");
    let addr = listener.local_addr().expect("an address");
    (listener, addr)
}

/// How many have arrived: the kernel completes a connection before anybody accepts it, so none is still on its way.
fn arrivals(canary: &TcpListener) -> usize {
    std::iter::from_fn(|| canary.accept().ok()).count()
}

/// Bound and not listening: the port refuses, and nobody else gets it meanwhile.
fn refusing() -> (socket2::Socket, u16) {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    let addr = socket.local_addr().expect("an address").as_socket().expect("TCP");
    (socket, addr.port())
}

fn target(host: &str, port: u16) -> HostPort {
    HostPort { host: host.parse().expect(host), port }
}

fn allow(_: Candidate<'_>) -> Decision {
    Decision::Allowed
}

/// For tests that dial no paths: the decision about an address.
fn about(decide: impl Fn(SocketAddr) -> Decision) -> impl Fn(Candidate<'_>) -> Decision {
    move |candidate| match candidate {
        Candidate::Addr(addr) => decide(addr),
        Candidate::Unix(path) => panic!("{path} was not asked for"),
    }
}

/// [`dial`], with what is connected over TCP.
async fn dial_tcp(target: HostPort, settings: &DialSettings) -> Result<TcpStream, DialError> {
    match dial(&target.into(), allow, settings).await? {
        Stream::Tcp(stream) => Ok(stream),
        #[cfg(unix)]
        other => panic!("{other:?}"),
    }
}

async fn dial_name(
    answer: &[&str],
    port: u16,
    decide: impl Fn(Candidate<'_>) -> Decision,
) -> Result<TcpStream, DialError> {
    let answer = answer.iter().map(|ip| SocketAddr::new(ip.parse().expect(ip), 0)).collect();
    dial_with(&target("name.example", port), decide, &quick(), |_, _| async { Ok(answer) }).await
}

#[tokio::test]
async fn a_target_that_listens_is_reached_and_tuned() {
    let (listener, addr) = canary();
    let settings = DialSettings { keepalive: Some(Duration::from_secs(30)), ..quick() };
    let stream = dial_tcp(addr.into(), &settings).await.expect("connected");
    assert_eq!(stream.peer_addr().expect("an address"), addr);
    assert!(stream.nodelay().expect("nodelay"));
    assert!(socket2::SockRef::from(&stream).keepalive().expect("keepalive"));
    assert_eq!(arrivals(&listener), 1);
}

#[tokio::test]
async fn h61_a_refused_connection_is_known_at_once() {
    let settings = DialSettings { timeout: Duration::from_secs(60), ..quick() };
    let (_held, port) = refusing();
    let started = Instant::now();
    let error = dial_tcp(target("127.0.0.1", port), &settings).await.expect_err("refused");
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(error.to_string().starts_with(&format!("127.0.0.1:{port} refused")), "{error}");
}

#[test]
fn h61_what_the_system_says_becomes_what_the_user_reads() {
    use io::ErrorKind as Kind;
    for (kind, part) in [
        (Kind::HostUnreachable, "is unreachable"),
        (Kind::NetworkUnreachable, "is unreachable"),
        (Kind::ConnectionReset, "refused the connection"),
        (Kind::TimedOut, "did not answer within 0.4 s"),
        (Kind::PermissionDenied, "cannot connect to 10.2.0.1:80"),
    ] {
        let error =
            DialError::new(target("10.2.0.1", 80).into(), &quick(), kind.into()).to_string();
        assert!(error.contains(part), "{kind:?}: {error}");
    }
}

/// A listener that never answers: its queue is full, and Linux then drops what else arrives.
#[cfg(target_os = "linux")]
fn black_hole(ip: &str) -> (Vec<socket2::Socket>, SocketAddr) {
    use socket2::{Domain, Socket, Type};
    let open = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let listener = open();
    let any_port = SocketAddr::new(ip.parse().expect(ip), 0);
    listener.bind(&any_port.into()).expect("bind");
    listener.listen(0).expect("listen");
    let addr = listener.local_addr().expect("an address").as_socket().expect("TCP");
    let mut held = vec![listener];
    for _ in 0..4 {
        let filler = open();
        filler.set_nonblocking(true).expect("non-blocking");
        // "In progress" is what is wanted.
        let _ = filler.connect(&addr.into());
        held.push(filler);
    }
    (held, addr)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn h62_a_black_hole_ends_at_the_limit() {
    let (_held, addr) = black_hole("127.0.0.1");
    let started = Instant::now();
    let error = dial_tcp(addr.into(), &quick()).await.expect_err("nothing answers");
    assert!(matches!(error, DialError::TimedOut { after, .. } if after == quick().timeout));
    let waited = started.elapsed();
    assert!(waited >= quick().timeout && waited < Duration::from_secs(5), "{waited:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn h62_a_black_hole_before_a_good_address_costs_only_its_head_start() {
    let (_held, hole) = black_hole("127.0.0.2");
    let good = TcpListener::bind(("127.0.0.3", hole.port())).expect("bind");
    let stream = dial_name(&["127.0.0.2", "127.0.0.3"], hole.port(), allow).await.expect("good");
    assert_eq!(stream.peer_addr().expect("an address"), good.local_addr().expect("an address"));
}

#[tokio::test]
async fn h63_a_name_without_an_address_is_not_found() {
    let answers = [Err(io::Error::other("no such name")), Ok(Vec::new())];
    for answer in answers {
        let wanted = target("nowhere.example", 80);
        let result = dial_with(&wanted, allow, &quick(), |_, _| async { answer }).await;
        let error = result.expect_err("no address");
        assert!(matches!(error, DialError::NotFound { .. }), "{error}");
        assert!(error.to_string().starts_with("cannot find nowhere.example"), "{error}");
    }
}

#[tokio::test]
async fn h63_the_systems_resolver_finds_localhost_and_nothing_under_invalid() {
    let (listener, addr) = canary();
    dial_tcp(target("localhost", addr.port()), &quick()).await.expect("connected");
    assert_eq!(arrivals(&listener), 1);
    // Without a name server in reach the resolver takes its time: the limit ends that.
    let error = dial_tcp(target("conduit-test.invalid", 80), &quick()).await;
    let error = error.expect_err("RFC 6761 reserves the name");
    let expected = matches!(error, DialError::NotFound { .. } | DialError::ResolveTimeout { .. });
    assert!(expected, "{error}");
}

#[tokio::test(start_paused = true)]
async fn h63_a_silent_name_server_ends_at_its_own_limit() {
    let started = Instant::now();
    let wanted = target("slow.example", 80);
    let settings = DialSettings::default();
    let result = dial_with(&wanted, allow, &settings, |_, _| std::future::pending()).await;
    assert!(matches!(result, Err(DialError::ResolveTimeout { .. })), "{result:?}");
    assert_eq!(started.elapsed(), Duration::from_secs(5));
}

#[tokio::test]
#[cfg(target_os = "linux")] // Needs all of 127.0.0.0/8.
async fn h63_of_a_thousand_addresses_eight_are_tried() {
    let (listener, addr) = canary();
    let port = addr.port();
    // On one more than the eighth somebody would answer.
    let refusing = (2..=9).map(|last| format!("127.0.1.{last}"));
    let others = (0..992).map(|_| "127.0.0.1".to_owned());
    let answer: Vec<_> = refusing.chain(others).collect();
    let answer: Vec<_> = answer.iter().map(String::as_str).collect();
    let error = dial_name(&answer, port, allow).await.expect_err("all eight refuse");
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    assert_eq!(arrivals(&listener), 0);
}

#[tokio::test]
async fn every_address_is_shown_in_canonical_form_and_dialled_once() {
    let (listener, addr) = canary();
    let shown = RefCell::new(Vec::new());
    let answer = ["::ffff:127.0.0.1", "127.0.0.1"];
    let decide = about(|addr| {
        shown.borrow_mut().push(addr);
        Decision::Allowed
    });
    let stream = dial_name(&answer, addr.port(), decide).await.expect("connected");
    assert_eq!(*shown.borrow(), [addr, addr]);
    assert_eq!(stream.peer_addr().expect("an address"), addr);
    assert_eq!(arrivals(&listener), 1);
}

#[tokio::test]
#[cfg(target_os = "linux")] // Needs all of 127.0.0.0/8.
async fn a_denied_address_is_never_connected_to_even_beside_an_allowed_one() {
    let (denied, addr) = canary();
    let good = TcpListener::bind(("127.0.0.2", addr.port())).expect("a second loopback address");
    let decide = |candidate: Candidate<'_>| match candidate {
        Candidate::Addr(addr) if addr.ip().to_string() == "127.0.0.2" => Decision::Allowed,
        _ => Decision::Denied(Denial::NotListed),
    };
    let answer = ["127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2"];
    dial_name(&answer, addr.port(), decide).await.expect("the allowed one");
    drop(good);
    let error = dial_name(&answer, addr.port(), decide).await.expect_err("the allowed one is gone");
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    let error = dial_name(&answer[..2], addr.port(), decide).await.expect_err("all denied");
    assert!(matches!(error, DialError::Denied { denial: Denial::NotListed, .. }), "{error}");
    assert_eq!(arrivals(&denied), 0);
}

#[tokio::test]
#[cfg(target_os = "linux")] // Needs all of 127.0.0.0/8.
async fn h60_a_name_that_changes_its_address_is_resolved_once() {
    let (canary, addr) = canary();
    let asked = std::cell::Cell::new(0);
    let rules = Permissions::targets(vec!["127.0.0.2:*".parse().expect("a rule")]);
    let wanted = target("rebound.example", addr.port());
    let result = dial_with(
        &wanted,
        about(|addr| rules.decide(&wanted, addr, &OwnSockets::default())),
        &quick(),
        |_, port| {
            asked.set(asked.get() + 1);
            let first = if asked.get() == 1 { [127, 0, 0, 2] } else { [127, 0, 0, 1] };
            async move { Ok(vec![SocketAddr::from((first, port))]) }
        },
    )
    .await;
    assert!(matches!(result, Err(DialError::Refused { .. })), "{result:?}");
    assert_eq!((asked.get(), arrivals(&canary)), (1, 0));
}

/// The bypass table, with every port that is not the router's own moved to the canary's.
#[tokio::test]
async fn h60_no_form_of_the_table_brings_a_connection_to_the_canary() {
    let canary = TcpListener::bind("[::]:0").expect("bind");
    canary.set_nonblocking(true).expect("non-blocking");
    let port = canary.local_addr().expect("an address").port();
    let one: Permissions = Permissions::targets(vec![
        forms::ONE_NETWORK.replace(":80", &format!(":{port}")).parse().expect("a rule"),
    ]);
    // For the owner, the canary is the router itself.
    let own = OwnSockets::new(vec![SocketAddr::from(([0; 4], port))], vec![]);
    let mut denied = 0;
    for form in forms::FORMS {
        let Ok(mut wanted) = form.requested.parse::<HostPort>() else { continue };
        let is_listed = form.addresses().iter().all(|addr| addr.ip().to_string() == "10.2.0.1");
        if is_listed {
            continue;
        }
        wanted.port = port;
        let runs = [(&one, OwnSockets::default()), (&Permissions::owner(), own.clone())];
        for (permissions, own) in runs {
            let local = form.addresses().iter().all(|addr| addr.ip().to_canonical().is_loopback());
            if *permissions == Permissions::owner() && !local {
                // The rest of what an owner may reach is elsewhere: not to be dialled by a test.
                continue;
            }
            let addrs = form.addresses();
            let decide = about(|addr| permissions.decide(&wanted, addr, &own));
            let result = dial_with(&wanted, decide, &quick(), |_, _| async { Ok(addrs) }).await;
            let error = result.expect_err(form.requested);
            assert!(matches!(error, DialError::Denied { .. }), "{}: {error}", form.requested);
            denied += 1;
        }
    }
    assert!(denied >= 40, "{denied}");
    assert_eq!(arrivals(&canary), 0);
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("the canary lives");
    assert_eq!(arrivals(&canary), 1);
}

#[tokio::test]
async fn who_connects_by_itself_gets_the_allowed_addresses_in_the_order_to_try() {
    let answer: Vec<_> = ["192.0.2.1", "192.0.2.2", "192.0.2.9", "2001:db8::1"]
        .map(|ip| SocketAddr::new(ip.parse().expect(ip), 0))
        .into();
    let decide = about(|addr| match addr.ip().to_string().as_str() {
        "192.0.2.9" => Decision::Denied(Denial::NotListed),
        _ => Decision::Allowed,
    });
    let wanted = target("name.example", 53);
    let settings = DialSettings { max_addresses: 2, ..quick() };
    let addrs = resolve_with(&wanted, decide, &settings, |_, _| async { Ok(answer) }).await;
    let addrs: Vec<_> = addrs.expect("addresses").iter().map(ToString::to_string).collect();
    assert_eq!(addrs, ["192.0.2.1:53", "[2001:db8::1]:53"]);

    let denied = about(|_| Decision::Denied(Denial::Multicast));
    let error = resolve(&target("224.0.0.1", 53), denied, &quick()).await.expect_err("denied");
    assert!(matches!(error, DialError::Denied { denial: Denial::Multicast, .. }), "{error}");
}

#[tokio::test]
async fn a_udp_target_gets_a_socket_of_its_own_if_it_is_allowed() {
    let addr: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let port = dial_udp(&addr.into(), allow, &quick()).await.expect("a socket");
    assert_eq!(port.local_addr().ip(), addr.ip());
    let denied = |_: Candidate<'_>| Decision::Denied(Denial::NotListed);
    let error = dial_udp(&addr.into(), denied, &quick()).await.expect_err("denied");
    assert_eq!(error.code(), Code::Denied, "{error}");
    let unix = "unix:/run/dns.sock".parse().expect("a target");
    let error = dial_udp(&unix, allow, &quick()).await.expect_err("a Unix socket");
    assert!(error.to_string().contains("carries no packets"), "{error}");
}
