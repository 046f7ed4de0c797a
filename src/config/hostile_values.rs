//! Bad values: the row H86 of the list of hostile cases.

use super::hostile::{complaints, has_position, router};
use super::*;

/// Key and illegal value, as TOML writes it, in the client's file.
const ILLEGAL: &[(&str, &[&str])] = &[
    (
        "router.host",
        &["\"\"", "\"127.1\"", "\"0x7f.1\"", "\"a b\"", "\"-a\"", "\"h:1\"", "1", "true"],
    ),
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
    ("tunnels.bind", &["\"\"", "\"h:80\"", "70000", "-1", "\"1.2.3.4\"", "\"::1:80\"", "true"]),
    ("tunnels.protocol", &["\"udp\"", "\"sctp\"", "6", "\"TCP\""]),
    ("tunnels.direction", &["\"reverse\"", "\"back\"", "false"]),
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
