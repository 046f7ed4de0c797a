//! Files with tunnels of every kind, and what is wrong with those that make no sense.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::world::{Outcome, Service, World, echo, eventually, in_namespace, within};

#[test]
fn up_starts_tunnels_of_every_kind_and_down_ends_them() {
    in_namespace("fleet_kinds::up_starts_tunnels_of_every_kind_and_down_ends_them", || {
        let world = World::new();
        let _echoes: Vec<_> = (4_000..4_003)
            .map(|port| {
                let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
                Service::on(listener, |stream| drop(std::io::copy(&mut &stream, &mut &stream)))
            })
            .collect();
        answer_packets("127.0.0.1:4053");
        let socket = world.path().join("web.sock");
        let file =
            world.file("conduit.toml", KINDS.replace("SOCKET", &socket.display().to_string()));
        let path = file.display().to_string();
        let router = world.router();
        let client = world.client("C");
        client.enrols(&router.invite(&[]));

        let up = client.conduit(&["up", "-f", &path]).succeeds();
        assert_eq!(count(&up, "started"), 6, "{up}");
        for port in [5_000, 5_100, 5_101, 5_102, 5_200, 5_201, 5_202] {
            let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
            echo(&stream, b"through").unwrap_or_else(|error| panic!("port {port}: {error}"));
        }
        for port in [5_053, 5_054] {
            assert_eq!(asks("127.0.0.1", port), "[ping]", "UDP port {port}");
        }
        let mut stream = UnixStream::connect(&socket).expect("a connection");
        std::io::Write::write_all(&mut stream, b"through").expect("words");
        std::io::Read::read_exact(&mut stream, &mut [0; 7]).expect("the same");
        drop(stream);

        let listed = client.list(&[]);
        let of = |name: &str, key: &str| {
            let found = listed.iter().find(|tunnel| tunnel["name"] == name);
            found.unwrap_or_else(|| panic!("no {name}"))[key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(
            (of("dns", "protocol"), of("dns", "direction")),
            ("udp".into(), "forward".into())
        );
        assert_eq!(of("dns-out", "direction"), "reverse");
        assert_eq!(of("row", "bind"), "127.0.0.1:5100-5102");
        assert_eq!(of("socket", "bind"), format!("unix:{}", socket.display()));
        let again = client.conduit(&["up", "-f", &path]).succeeds();
        assert_eq!(count(&again, "already running"), 6, "{again}");
        let pids = |tunnels: &[serde_json::Value]| {
            tunnels.iter().map(|t| t["pid"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(pids(&client.list(&[])), pids(&listed), "nothing was restarted");

        client.conduit(&["down", "-f", &path]).succeeds();
        assert!(client.list(&[]).is_empty());
        assert!(!socket.exists());
        for port in [5_000, 5_100, 5_202] {
            eventually("the port is free", || TcpListener::bind(("127.0.0.1", port)).is_ok());
        }
    });
}

/// One of each kind, in ports of a namespace.
const KINDS: &str = r#"
[[tunnels]]
name = "web-out"
direction = "reverse"
source = "127.0.0.1:4000"
bind = "127.0.0.1:5000"

[[tunnels]]
name = "row"
source = "127.0.0.1:4000-4002"
bind = "127.0.0.1:5100-5102"

[[tunnels]]
name = "row-out"
direction = "reverse"
source = "127.0.0.1:4000-4002"
bind = "127.0.0.1:5200-5202"

[[tunnels]]
name = "dns"
protocol = "udp"
source = "127.0.0.1:4053"
bind = "127.0.0.1:5053"

[[tunnels]]
name = "dns-out"
direction = "reverse"
protocol = "udp"
source = "127.0.0.1:4053"
bind = "127.0.0.1:5054"

[[tunnels]]
name = "socket"
source = "127.0.0.1:4000"
bind = "unix:SOCKET"
"#;

fn count(outcome: &Outcome, word: &str) -> usize {
    outcome.stdout.lines().filter(|line| line.contains(word)).count()
}

/// Sends every packet back in brackets, until the test ends.
fn answer_packets(at: &str) {
    let socket = UdpSocket::bind(at).expect("a port");
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let answer = [b"[", &packet[..length], b"]"].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// The answer to a packet; it is sent again when none comes, as with any UDP.
fn asks(host: &str, port: u16) -> String {
    let socket = UdpSocket::bind((host, 0)).expect("a socket");
    socket.connect((host, port)).expect("a way there");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    within(Duration::from_secs(10), "an answer", || {
        socket.send(b"ping").ok()?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    })
}

/// Options of `start` that make no sense, and the part that has to be named.
const WRONG: &[(&[&str], &[&str])] = &[
    (
        &["--protocol", "udp", "--source", "unix:/run/a.sock", "--bind", "5353"],
        &["source unix:/run/a.sock", "TCP"],
    ),
    (
        &["--protocol", "udp", "--source", "a:53", "--bind", "unix:/run/a.sock"],
        &["bind unix:/run/a.sock", "TCP"],
    ),
    (&["--source", "a:1-2", "--bind", "5001-5003"], &["5001-5003 has 3 ports", "a:1-2 has 2"]),
    (&["--source", "a:1-3", "--bind", "5001"], &["has 1 ports", "a:1-3 has 3"]),
    (&["--source", "a:9-3", "--bind", "5001"], &["--source", "\"9-3\" end before they begin"]),
    (&["--source", "a", "--bind", "5001"], &["--source", "HOST:PORT"]),
    (&["--source", "a:0", "--bind", "5001"], &["--source", "\"0\" is not a port"]),
    (&["--source", "http://a:80", "--bind", "5001"], &["--source", "is a URL"]),
    (&["--source", "::1:80", "--bind", "5001"], &["--source", "in brackets"]),
    (&["--source", "unix:run/a.sock", "--bind", "5001"], &["--source", "not absolute"]),
    (&["--source", "a:80", "--bind", "host:5001"], &["--bind", "not an IP address"]),
    (&["--source", "a:80", "--bind", "70000"], &["--bind", "\"70000\" is not a port"]),
    (&["--source", "a:80", "--bind", "5001", "--protocol", "sctp"], &["--protocol", "sctp"]),
    (
        &["--source", "a:80", "--bind", "5001", "--proxy-protocol", "v3"],
        &["--proxy-protocol", "v3"],
    ),
    (
        &["--source", "a:80", "--bind", "5001", "--trusted-proxy", "10.0.0.0/33"],
        &["--trusted-proxy", "10.0.0.0/33"],
    ),
    (
        &["--protocol", "udp", "--source", "a:53", "--bind", "5353", "--proxy-protocol", "v1"],
        &["proxy_protocol", "v2"],
    ),
];

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error_that_names_the_part() {
    let world = World::new();
    let client = world.client("C");
    for (options, parts) in WRONG {
        let outcome = client.conduit(&["start"]).args(*options).exits(2);
        named(outcome, parts);
    }
    assert!(client.list(&["--all"]).is_empty());
}

#[test]
fn a_tunnel_that_makes_no_sense_costs_no_ticket() {
    let world = World::new();
    let service = Service::echo();
    let router = world.router();
    let client = world.client("C");
    let ticket = router.invite(&[]);
    let wrong = client.conduit(&["start", "--join", "-"]).args(WRONG[0].0).input(&ticket);
    wrong.exits(2).says("source unix:/run/a.sock");
    let other = world.client("D").joins(&ticket, service.addr());
    echo(&other.connect(), b"enrolled").expect("the same bytes");
}

#[test]
fn the_same_in_a_file_is_a_problem_with_its_line() {
    let world = World::new();
    let client = world.client("C");
    for (options, parts) in WRONG {
        let (text, keys) = as_file(options);
        let path = world.file("wrong.toml", &text).display().to_string();
        let outcome = client.conduit(&["up", "-f", &path]).exits(78);
        // An option of the command line is a key here.
        let parts: Vec<_> = parts
            .iter()
            .map(|part| {
                part.trim_start_matches("--")
                    .replace("-proto", "_proto")
                    .replace("trusted-proxy", "trusted_proxies")
            })
            .collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        let outcome = named(outcome, &parts);
        let lines: Vec<_> = keys.iter().map(|line| format!("wrong.toml:{line}:")).collect();
        assert!(
            lines.iter().any(|line| outcome.stderr.contains(line.as_str())),
            "none of {lines:?}: {outcome}"
        );
        assert!(!outcome.stderr.contains("wrong.toml:1:"), "the line of the value: {outcome}");
    }
    assert!(client.list(&["--all"]).is_empty());
}

/// The options as a table of a file, and the lines of its values.
fn as_file(options: &[&str]) -> (String, Vec<usize>) {
    let mut text = "[[tunnels]]\nname = \"wrong\"\n".to_owned();
    let mut lines = Vec::new();
    for pair in options.chunks(2) {
        let key = pair[0].trim_start_matches("--").replace('-', "_");
        let line = match key.as_str() {
            "trusted_proxy" => format!("trusted_proxies = [\"{}\"]\n", pair[1]),
            key => format!("{key} = \"{}\"\n", pair[1]),
        };
        text.push_str(&line);
        lines.push(lines.len() + 3);
    }
    (text, lines)
}

#[track_caller]
fn named(outcome: Outcome, parts: &[&str]) -> Outcome {
    parts.iter().fold(outcome, |outcome, part| outcome.says(part))
}
