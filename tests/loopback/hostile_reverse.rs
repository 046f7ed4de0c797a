//! H32 and V17: ports and names that a client may not have.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use conduit::policy::Permissions;
use conduit::tunnel::{Direction, Protocol};
use conduit::wire::{self, Code, Declare, Declared, Withdraw, control::Message};

use crate::raw::{Raw, becomes, figure, reverse, udp};
use crate::stage::{Stage, Target, echo, within};

fn code(declared: &Declared) -> Code {
    Code::from_number(declared.code.into())
}

/// The same over UDP.
fn over_udp(declare: Declare) -> Declare {
    Declare { protocol: wire::Protocol::Udp.into(), ..declare }
}

#[tokio::test]
async fn ports_that_policy_does_not_allow_are_denied_and_nobody_listens_there() {
    let mut stage = Stage::new().await;
    let router = stage.router.local_addr();
    let own = [
        format!("0.0.0.0:{}", router.port()),
        format!("[::]:{}", router.port()),
        format!("[::ffff:127.0.0.1]:{}", router.port()),
        format!("*:{}", router.port()),
        format!("localhost:{}", router.port()),
        router.to_string(),
    ];
    let low = [1, 22, 53, 80, 443, 1023].map(|port| format!("127.0.0.1:{port}"));
    let mut owner = Raw::owner(&stage).await;
    for bind in own.iter().chain(&low) {
        for declare in [reverse(1, bind), over_udp(reverse(1, bind))] {
            let declared = owner.declares(declare).await;
            assert_eq!(code(&declared), Code::Denied, "{bind}: {declared:?}");
        }
    }
    // Who has one port listed has that one, and at that address.
    let free = free_port().await;
    let rule = format!("127.0.0.1:{free}").parse().expect("a rule");
    let permissions = Permissions { binds: vec![rule], ..Permissions::targets(Vec::new()) };
    let mut limited = Raw::with(&mut stage, permissions).await;
    let unlisted = [
        format!("127.0.0.1:{}", if free == u16::MAX { free - 1 } else { free + 1 }),
        format!("127.0.0.2:{free}"),
        format!("0.0.0.0:{free}"),
        format!("[::]:{free}"),
        format!("[::1]:{free}"),
        "127.0.0.1:0".to_owned(),
        "unix:/tmp/conduit-test/listed-nowhere.sock".to_owned(),
    ];
    for bind in unlisted.iter().chain(&own).chain(&low) {
        let declared = limited.declares(reverse(1, bind)).await;
        let expected = if bind.starts_with("unix:") {
            // A folder that is not there is found out first.
            &[Code::Denied, Code::Unavailable][..]
        } else {
            &[Code::Denied]
        };
        assert!(expected.contains(&code(&declared)), "{bind}: {declared:?}");
    }
    assert_eq!(figure(&stage.router, "conduit_published_ports"), 0);
    let listed = limited.declares(reverse(1, format!("127.0.0.1:{free}"))).await;
    assert_eq!(code(&listed), Code::Done, "{listed:?}");
    assert!(owner.is_in() && limited.is_in(), "denials are no reason to hang up");
}

#[tokio::test]
async fn what_is_no_place_to_listen_is_refused() {
    let stage = Stage::new().await;
    let mut raw = Raw::owner(&stage).await;
    let port = free_port().await;
    for bind in [
        "",
        ":",
        "127.0.0.1",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "a.example:4000",
        "192.0.2.1:40000",
        "unix:",
        "unix:relative",
        "unix:/",
        "unix:/../..",
        "unix:/nowhere/a/b",
        "127.0.0.1:40000-40010",
    ] {
        let declared = raw.declares(reverse(1, bind)).await;
        assert_ne!(code(&declared), Code::Done, "{bind}");
    }
    let with_source =
        Declare { sources: vec!["127.0.0.1:9".into()], ..reverse(1, format!("127.0.0.1:{port}")) };
    assert_eq!(code(&raw.declares(with_source).await), Code::Unsupported);
    assert_eq!(figure(&stage.router, "conduit_published_ports"), 0);
    assert!(raw.is_in());
}

#[tokio::test]
async fn v17_a_port_of_another_key_is_not_to_be_had_while_it_is_served_and_while_it_is_kept() {
    let mut stage = Stage::with(|settings| settings.lease = Duration::from_secs(3)).await;
    let target = Target::echo().await;
    let owners = |settings: &mut conduit::client::Settings| {
        becomes(settings, Direction::Reverse, Protocol::Tcp);
    };
    let tunnel = stage.tunnel_with(target.addr, owners).await;
    let addr = tunnel.local_addr();
    echo(addr, b"the owner's").await;
    let mut thief = Raw::with(&mut stage, Permissions::owner()).await;
    taken(&mut thief, addr).await;
    echo(addr, b"still the owner's").await;

    // A restart of the owner's process, with another instance: at once, on the same port.
    let start = Instant::now();
    let again = stage
        .tunnel_with(target.addr, |settings| {
            owners(settings);
            settings.tunnel.bind = addr.into();
        })
        .await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(again.local_addr(), addr);
    echo(addr, b"taken over").await;
    taken(&mut thief, addr).await;

    // Nobody serves it, and it is still the owner's.
    tunnel.shutdown(Duration::ZERO).await;
    again.shutdown(Duration::ZERO).await;
    within(Duration::from_secs(2), "the listener is gone", || {
        std::net::TcpStream::connect(addr).is_err()
    })
    .await;
    taken(&mut thief, addr).await;
    let kept = stage
        .tunnel_with(target.addr, |settings| {
            owners(settings);
            settings.tunnel.bind = addr.into();
        })
        .await;
    echo(addr, b"the owner is back").await;
    kept.shutdown(Duration::ZERO).await;

    // Once it is not kept any more, it is anybody's.
    let deadline = Instant::now() + Duration::from_secs(8);
    while code(&thief.declares(reverse(1, addr)).await) != Code::Done {
        assert!(Instant::now() < deadline, "a lapsed port is still kept");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whatever name a thief gives, and however it writes the address, the port is taken; by whom is not said.
async fn taken(thief: &mut Raw, addr: SocketAddr) {
    let port = addr.port();
    for bind in [
        addr.to_string(),
        format!("0.0.0.0:{port}"),
        format!("[::]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        for name in ["tunnel", "TUNNEL", "other"] {
            for group in ["", "tunnel"] {
                let declare =
                    Declare { name: name.into(), group: group.into(), ..reverse(1, &bind) };
                let declared = thief.declares(declare).await;
                assert_eq!(code(&declared), Code::Taken, "{bind} {name}: {declared:?}");
                let words = declared.message.to_lowercase();
                assert!(!words.contains("tunnel") && !words.contains("ed25519"), "{words}");
            }
        }
    }
}

#[tokio::test]
async fn v17_another_tunnel_of_the_same_key_is_told_which_one_has_the_port() {
    let stage = Stage::new().await;
    let mut raw = Raw::owner(&stage).await;
    let served = raw.declares(reverse(1, "127.0.0.1:0")).await;
    assert_eq!(code(&served), Code::Done);
    let declared = raw.declares(reverse(2, &served.bind)).await;
    assert_eq!(code(&declared), Code::Taken);
    assert!(declared.message.contains("t1"), "{}", declared.message);
    // A tunnel of another protocol has ports of its own.
    assert_eq!(code(&raw.declares(over_udp(reverse(3, &served.bind))).await), Code::Done);
    raw.says(Message::Withdraw(Withdraw { tunnel: 1 })).await;
    assert_eq!(code(&raw.declares(reverse(2, &served.bind)).await), Code::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h32_two_thousand_tunnels_meet_the_quota() {
    let mut stage = Stage::new().await;
    let mut raw = Raw::owner(&stage).await;
    let mut refused = 0;
    for tunnel in 1..=2_000 {
        let declared = raw.declares(udp(tunnel, "127.0.0.1:9")).await;
        match code(&declared) {
            Code::Done => assert_eq!(refused, 0),
            Code::Limit => refused += 1,
            _ => panic!("{declared:?}"),
        }
    }
    assert_eq!(refused, 2_000 - 1_024);
    // Others are not affected, and room is room again.
    let mut other = Raw::with(&mut stage, Permissions::owner()).await;
    assert_eq!(code(&other.declares(udp(1, "127.0.0.1:9")).await), Code::Done);
    raw.says(Message::Withdraw(Withdraw { tunnel: 7 })).await;
    assert_eq!(code(&raw.declares(udp(3_000, "127.0.0.1:9")).await), Code::Done);
    assert_eq!(code(&raw.declares(udp(3_000, "127.0.0.1:9")).await), Code::Limit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h32_ports_that_were_taken_and_left_use_up_the_quota_too() {
    let mut stage = Stage::new().await;
    let mut raw = Raw::owner(&stage).await;
    let (mut last, mut tunnel) = (Code::Done, 0);
    while last == Code::Done && tunnel < 4_000 {
        tunnel += 1;
        let declared = raw.declares(reverse(tunnel, "127.0.0.1:0")).await;
        last = code(&declared);
        raw.says(Message::Withdraw(Withdraw { tunnel })).await;
    }
    assert_eq!(last, Code::Limit, "after {tunnel} ports");
    let kept = figure(&stage.router, "conduit_published_ports");
    println!("{tunnel} ports were taken and left, {kept} are kept");
    assert_eq!(kept, 1_024);
    // The quota is the key's and not the session's.
    raw.leaves();
    let mut raw = Raw::owner(&stage).await;
    let mut tries = 0;
    while code(&raw.declares(reverse(1, "127.0.0.1:0")).await) == Code::Done {
        // The system gave a port that is this key's already.
        raw.says(Message::Withdraw(Withdraw { tunnel: 1 })).await;
        tries += 1;
        assert!(tries < 100, "no quota in a new session");
    }
    let mut other = Raw::with(&mut stage, Permissions::owner()).await;
    let mut tries = 0;
    while code(&other.declares(reverse(1, "127.0.0.1:0")).await) != Code::Done {
        tries += 1;
        assert!(tries < 100, "the others find no port");
    }
}

#[tokio::test]
async fn h32_names_that_are_none_are_denied() {
    let stage = Stage::new().await;
    let mut raw = Raw::owner(&stage).await;
    let long = ["a".repeat(65), "a".repeat(60_000)];
    let names = [
        "",
        "/",
        "..",
        ".",
        "a/b",
        "../../etc/passwd",
        "a\\b",
        "a\0",
        "\0",
        "a b",
        " a",
        "a\n",
        "a.b",
        "\u{202e}bew",
        "we\u{202e}b",
        "we\u{200b}b",
        "w\u{435}b",
        "caf\u{e9}",
        "\u{1f600}",
        "a:b",
        "%2e",
        "\u{1b}[31mred",
        &long[0],
        &long[1],
    ];
    for name in names {
        for declare in [udp(1, "127.0.0.1:9"), reverse(1, "127.0.0.1:0")] {
            let declared = raw.declares(Declare { name: name.into(), ..declare }).await;
            assert_eq!(code(&declared), Code::Denied, "{name:?}: {declared:?}");
            assert!(declared.message.len() < 1_000, "what is repeated is short");
        }
        if !name.is_empty() {
            let grouped = Declare { group: name.into(), ..reverse(1, "127.0.0.1:0") };
            assert_eq!(code(&raw.declares(grouped).await), Code::Denied, "{name:?}");
        }
    }
    assert_eq!(figure(&stage.router, "conduit_published_ports"), 0);
    let good = Declare { name: "a".repeat(64), ..udp(1, "127.0.0.1:9") };
    assert_eq!(code(&raw.declares(good).await), Code::Done);
}

/// A port at which nobody listens at the moment.
async fn free_port() -> u16 {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let listener = tokio::net::TcpListener::bind(any).await.expect("a listener");
    listener.local_addr().expect("its address").port()
}
