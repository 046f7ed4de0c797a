//! Bad values: the row H86 of the list of hostile cases.

use super::hostile::{client, complaints, has_position, router};
use super::*;
use crate::tunnel::Direction;

/// Key and illegal value, as TOML writes it, in the client's file.
const ILLEGAL: &[(&str, &[&str])] = &[
    (
        "router.host",
        &["\"\"", "\"127.1\"", "\"0x7f.1\"", "\"a b\"", "\"-a\"", "\"h:1\"", "1", "true"],
    ),
    (
        "router.proxy",
        &["\"\"", "\"proxy:1\"", "\"https://p:1\"", "\"http://a:b@p:1\"", "\"http://p\"", "1"],
    ),
    ("router.proxy_password_file", &["\"\"", "1", "\"~/x\""]),
    (
        "router.port",
        &[
            "0",
            "65536",
            "-1",
            "1.5",
            "\"9999\"",
            "99999999999999999999999999",
            "+0",
            "0x10000",
            "[]",
        ],
    ),
    ("security.private_key_path", &["\"\"", "\"~/client.key\"", "\"a\\u0000b\"", "1", "[\"a\"]"]),
    ("security.router_identity", &["\"\"", "\"abc\"", "\"cdk1_aaaa\"", "1"]),
    ("security.token_file", &["\"\"", "false", "\"~\""]),
    (
        "security.cipher_suites",
        &[
            "[]",
            "\"TLS_AES_128_GCM_SHA256\"",
            "[\"TLS_AES_128_CCM_SHA256\"]",
            "[\"TLS_AES_128_GCM_SHA256\", \"TLS_AES_128_GCM_SHA256\"]",
            "[1]",
        ],
    ),
    ("security.pq", &["\"on\"", "\"preferr\"", "true", "\"\""]),
    ("performance.optimize_for", &["\"speed\"", "\"Balanced\"", "1", "\"\""]),
    ("performance.congestion", &["\"bbr2\"", "\"reno\"", "false"]),
    ("performance.tcp_nodelay", &["\"true\"", "1", "\"yes\"", "0"]),
    (
        "performance.tcp_keepalive",
        &["\"0s\"", "60", "\"-1s\"", "\"999ms\"", "\"10h\"", "\"never\"", "\"60\"", "true"],
    ),
    (
        "performance.read_buffer_size",
        &[
            "0",
            "4095",
            "-1",
            "\"4 KB\"",
            "\"5 MiB\"",
            "\"1.5 KiB\"",
            "\"lots\"",
            "\"999999999999 GiB\"",
        ],
    ),
    ("performance.write_buffer_size", &["1", "\"\"", "\"-4 KiB\"", "4194305", "1e6"]),
    ("performance.max_connections", &["0", "1000001", "-5", "\"10\"", "1_000_000_000", "nan"]),
    (
        "performance.connect_timeout",
        &["\"99ms\"", "\"61s\"", "3", "\"\"", "\"3 fortnights\"", "\"off\""],
    ),
    (
        "performance.idle_timeout",
        &["\"0s\"", "\"11min\"", "\"999999999999999999999y\"", "0.5", "\"off\"", "2026-01-01"],
    ),
    ("performance.threads", &["0", "257", "-1", "\"auto\"", "[1]"]),
    ("performance.cpu_affinity", &["[]", "0", "[1024]", "[-1]", "[0, 0]", "[\"0\"]", "{}"]),
    ("performance.max_packet", &["1199", "65528", "0", "\"1452\"", "1200.0"]),
    ("logging.level", &["\"verbose\"", "\"\"", "\"inof\"", "\"conduit=loud\"", "1", "\"info,\""]),
    ("logging.format", &["\"xml\"", "\"JSON\"", "{}"]),
    ("logging.file", &["\"\"", "1", "\"~/x.log\""]),
    ("logging.max_size", &["0", "\"1 KiB\"", "\"2 GiB\"", "\"10\\u0000\""]),
    ("logging.keep", &["-1", "101", "\"3\"", "3.0"]),
    ("tunnels.name", &["\"\"", "\"a/b\"", "\"..\"", "\"a b\"", "\"naïve\"", "\"a\\u001b\"", "1"]),
    (
        "tunnels.source",
        &["\"\"", "\"h\"", "\"h:0\"", "\"h:65536\"", "\"::1:80\"", "\"user@h:1\"", "\":80\"", "80"],
    ),
    (
        "tunnels.source",
        &["\"h:9-3\"", "\"h:1-1001\"", "\"h:0-1\"", "\"unix:a\"", "\"unix:/a/../b\""],
    ),
    ("tunnels.bind", &["\"\"", "\"h:80\"", "70000", "-1", "\"1.2.3.4\"", "\"::1:80\"", "true"]),
    ("tunnels.bind", &["\"9-3\"", "\":0-9\"", "\"1-1001\"", "\"unix:\"", "\"unix:/a\\n\""]),
    ("tunnels.protocol", &["\"sctp\"", "6", "\"TCP\"", "[\"tcp\", \"udp\"]"]),
    ("tunnels.direction", &["\"back\"", "false", "\"Reverse\""]),
    ("tunnels.group", &["\"\"", "\"a b\"", "\"../a\"", "1"]),
    ("tunnels.flow_idle", &["\"0s\"", "120", "\"999ms\"", "\"25h\"", "\"never\"", "true", "-0.0"]),
    ("tunnels.max_flows", &["0", "65537", "-1", "\"1\"", "1.5", "\"off\""]),
    ("tunnels.oversize", &["\"cut\"", "\"Drop\"", "1", "false"]),
    ("tunnels.priority", &["\"high\"", "\"Bulk\"", "1", "true", "\"\""]),
    ("tunnels.carrier", &["\"udp\"", "\"TLS\"", "\"\"", "true", "1"]),
    ("tunnels.resume", &["\"0s\"", "120", "\"999ms\"", "\"61m\"", "\"never\"", "true"]),
    ("tunnels.proxy_protocol", &["\"v3\"", "\"V1\"", "1", "true", "\"on\""]),
    (
        "tunnels.trusted_proxies",
        &[
            "[]",
            "\"\"",
            "\"10.0.0.0/33\"",
            "\"proxy.internal\"",
            "[\"10.0.0.1\", \"x\"]",
            "[1]",
            "1",
        ],
    ),
];

#[test]
fn h86_every_illegal_value_names_the_key_and_what_is_legal() {
    let mut cases = 0;
    for (name, values) in ILLEGAL {
        let (section, key) = name.split_once('.').expect("section.key");
        let legal = FileKind::Client.key(section, key).expect("a key").kind.legal();
        for value in *values {
            let text = match section {
                "tunnels" => {
                    let mut text = "[[tunnels]]\n".to_owned();
                    for (other, sound) in [("name", "a"), ("source", "h:1"), ("bind", ":1")] {
                        if other != key {
                            text.push_str(&format!("{other} = \"{sound}\"\n"));
                        }
                    }
                    format!("{text}{key} = {value}\n")
                }
                _ => format!("[{section}]\n{key} = {value}\n"),
            };
            let complaints = complaints(&text);
            cases += 1;
            assert_eq!(complaints.len(), 1, "{name} = {value}: {complaints:?}");
            let complaint = &complaints[0];
            assert!(has_position(complaint, "conduit.toml"), "{complaint}");
            if *value == "+0" {
                continue;
            }
            assert!(complaint.contains(name), "{name} = {value}: {complaint}");
            assert!(complaint.contains(&legal), "{name} = {value}: {complaint}");
            assert!(!complaint.contains(['\u{1b}', '\0', '\n']), "{complaint:?}");
        }
    }
    assert!(cases >= 130, "{cases}");
    let tested: Vec<&str> = ILLEGAL.iter().map(|(name, _)| *name).collect();
    for key in FileKind::Client.keys().filter(|key| !key.is_secret()) {
        assert!(tested.contains(&key.full_name().as_str()), "{} has no case", key.full_name());
    }
}

/// Values that are legal one by one and do not go together: the rest of the table, the line, and what is said.
const APART: &[(&str, &str)] = &[
    (
        "source = \"unix:/run/dns\"\nbind = \":1\"\nprotocol = \"udp\"",
        "5:10: tunnels.source: the source unix:/run/dns is a Unix socket, which carries TCP",
    ),
    (
        "protocol = \"udp\"\nsource = \"h:1\"\nbind = \"unix:/run/dns\"",
        "7:8: tunnels.bind: the bind unix:/run/dns is a Unix socket, which carries TCP",
    ),
    (
        "source = \"h:1-2\"\nbind = \"1-3\"",
        "6:8: tunnels.bind: the bind 127.0.0.1:1-3 has 3 ports and the source h:1-2 has 2",
    ),
    (
        "bind = \"1-3\"\nsource = \"unix:/run/a\"",
        "5:8: tunnels.bind: the bind 127.0.0.1:1-3 has 3 ports and the source unix:/run/a has 1",
    ),
    (
        "source = \"h:1\"\nbind = \":1\"\nproxy_protocol = \"v1\"\nprotocol = \"udp\"",
        "7:18: tunnels.proxy_protocol: proxy_protocol \"v1\" is for TCP: for UDP give \"v2\"",
    ),
];

#[test]
fn h86_values_that_do_not_go_together_name_the_line_of_the_one_at_fault() {
    for direction in Direction::WORDS {
        for (rest, expected) in APART {
            let text =
                format!("\n[[tunnels]]\nname = \"a\"\ndirection = \"{direction}\"\n{rest}\n");
            let complaints = complaints(&text);
            assert_eq!(complaints.len(), 1, "{text}: {complaints:?}");
            let expected = format!("conduit.toml:{expected}");
            assert!(complaints[0].starts_with(&expected), "{}\n{expected}", complaints[0]);
        }
    }
}

#[test]
fn every_network_of_a_list_is_trusted() {
    let text = "[[tunnels]]\nname = \"a\"\nsource = \"h:1\"\nbind = \":1\"\n\
                trusted_proxies = [\"10.0.0.0/8\", \"192.0.2.1\", \"fd00::/8\"]\n";
    let loaded = client(text).expect("sound");
    let trusted = &loaded.config.tunnels[0].options.trusted_proxies;
    let trusted: Vec<String> = trusted.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]);
}

#[test]
fn h86_the_routers_keys_too() {
    for (name, values) in [
        ("listen.bind", &["\"host:1\"", "\"\"", "65536"][..]),
        ("listen.advertise", &["\"h\"", "[]", "[\"h:1\", \"h\"]", "\"h:0\"", "1", "[1]"][..]),
        ("policy.require_token", &["\"true\"", "1"][..]),
        ("security.private_key_path", &["\"\"", "1"][..]),
        ("limits.max_clients", &["0", "100001", "\"1\"", "-1"][..]),
        ("limits.max_streams", &["0", "16385", "1.0"][..]),
        ("limits.dial_timeout", &["10", "\"99ms\"", "\"3min\"", "\"off\""][..]),
        ("limits.lease", &["\"0s\"", "60", "\"999ms\"", "\"366days\"", "true"][..]),
        ("listen.tcp", &["\"yes\"", "1", "\"\""][..]),
        ("limits.resume", &["\"0s\"", "60", "\"999ms\"", "\"61m\"", "true"][..]),
    ] {
        let (section, key) = name.split_once('.').expect("section.key");
        let legal = FileKind::Router.key(section, key).expect("a key").kind.legal();
        for value in values {
            let errors = router(&format!("[{section}]\n{key} = {value}\n")).expect_err(value);
            let text = errors.to_string();
            assert!(text.starts_with("router.toml:2:") && text.contains(name), "{text}");
            assert!(text.contains(&legal), "{text}");
        }
    }
}

#[test]
fn h86_the_environment_and_flags_name_themselves() {
    let environment = Environment::capture([
        ("CONDUIT_HOME", "/h"),
        ("CONDUIT_ROUTER_PORT", "70000"),
        ("CONDUIT_PERFORMANCE_CPU_AFFINITY", "0,x"),
    ]);
    let flags = Overrides::new().with("router.host", "--router", "a b");
    let errors = ClientConfig::load(None, &environment, &flags).expect_err("three mistakes");
    let lines: Vec<String> = errors.problems().iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("environment variable CONDUIT_PERFORMANCE_CPU_AFFINITY: "));
    assert!(
        lines[1].starts_with("environment variable CONDUIT_ROUTER_PORT: router.port: 70000 is")
    );
    assert!(lines[2].starts_with("option --router: router.host: \"a b\""), "{lines:?}");
}
