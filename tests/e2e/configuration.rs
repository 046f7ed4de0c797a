//! H83 to H86 through `config validate`, `config show`, `config generate` and `up`.

use std::time::Duration;

use crate::world::{Client, Outcome, World};

/// A file that is right, and whose every byte matters.
const GOOD: &str = "[router]\nhost = \"127.0.0.1\"\nport = 9999\n\n[[tunnels]]\nname = \"web\"\nsource = \"10.2.0.2:8080\"\n\
                    bind = \"127.0.0.1:0\"\n\n[performance]\noptimize_for = \"latency\"\ntcp_keepalive = \"30s\"\n";

#[test]
fn h83_a_file_that_is_broken_anywhere_is_an_error_with_its_place() {
    let world = World::new();
    let client = world.client("C");
    validate(&world, &client, GOOD.as_bytes()).exits(0);
    let mut refused = 0;
    for position in (0..GOOD.len()).step_by(2) {
        let mut broken = GOOD.as_bytes().to_vec();
        broken.insert(position, b'\x01');
        let outcome = validate(&world, &client, &broken).exits(78);
        let line = GOOD[..position].matches('\n').count() + 1;
        outcome.says(&format!("broken.toml:{line}:"));
        refused += 1;
    }
    assert!(refused >= 80, "{refused}");
}

#[test]
fn h83_marks_line_ends_depth_and_size_do_no_harm() {
    let world = World::new();
    let client = world.client("C");
    validate(&world, &client, format!("\u{feff}{GOOD}").as_bytes()).exits(0);
    validate(&world, &client, GOOD.replace('\n', "\r\n").as_bytes()).exits(0);
    let deep = format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    validate(&world, &client, deep.as_bytes()).exits(78).took_at_most(Duration::from_secs(5));
    let deep = format!("[{}]\n", vec!["a"; 100_000].join("."));
    validate(&world, &client, deep.as_bytes()).exits(78).took_at_most(Duration::from_secs(5));
    let huge = world.path().join("broken.toml");
    std::fs::File::create(&huge).expect("a file").set_len(100 << 20).expect("100 MiB, sparse");
    let outcome =
        client.conduit(&["config", "validate", "-f", huge.to_str().expect("UTF-8")]).exits(78);
    outcome.says("larger than").took_at_most(Duration::from_secs(2));
    validate(&world, &client, &[0xff, 0xfe, b'[']).exits(78);
    let missing = client.conduit(&["config", "validate", "-f", "/nowhere/conduit.toml"]).exits(78);
    missing.says("/nowhere/conduit.toml");
}

#[test]
fn h84_an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
    let world = World::new();
    let client = world.client("C");
    let typo = GOOD.replace("tcp_keepalive", "tcp_keepaliv");
    validate(&world, &client, typo.as_bytes())
        .exits(78)
        .says("broken.toml:12:")
        .says("did you mean")
        .says("tcp_keepalive");
    let typo = GOOD.replace("[[tunnels]]", "[[tunnel]]");
    validate(&world, &client, typo.as_bytes()).exits(78).says("tunnels");
    let typo = "[policy]\nrequire_tokens = true\n";
    validate(&world, &client, typo.as_bytes()).exits(78).says("require_token");
}

#[test]
fn h85_duplicates_and_taken_ports_are_listed_at_once_and_nothing_is_started() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.joins(&router.invite(&[]), "127.0.0.1:9");
    let tunnel = |name: &str, bind: &str| {
        format!("[[tunnels]]\nname = \"{name}\"\nsource = \"127.0.0.1:9\"\nbind = \"{bind}\"\n")
    };
    let text = [
        tunnel("web", "127.0.0.1:45001"),
        tunnel("WEB", "127.0.0.1:45002"),
        tunnel("db", "127.0.0.1:45001"),
    ]
    .concat();
    let file = world.file("twice.toml", text).display().to_string();
    let outcome = client.conduit(&["up", "-f", &file]).exits(78);
    let outcome = outcome.says("twice.toml:6:").says("twice.toml:12:");
    assert_eq!(client.list(&[]).len(), 1, "nothing of a wrong file is started: {outcome}");
}

#[test]
fn h85_a_port_that_somebody_else_holds_fails_that_tunnel_and_says_so() {
    let world = World::new();
    let router = world.router();
    let client = world.client("C");
    client.joins(&router.invite(&[]), "127.0.0.1:9");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let taken = holder.local_addr().expect("its address").to_string();
    let tunnel = |name: &str, bind: &str| {
        format!("[[tunnels]]\nname = \"{name}\"\nsource = \"127.0.0.1:9\"\nbind = \"{bind}\"\n")
    };
    let file =
        world.file("conduit.toml", [tunnel("good", "127.0.0.1:0"), tunnel("bad", &taken)].concat());
    let outcome = client.conduit(&["up", "-f", &file.display().to_string()]).ends();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(format!("{}{}", outcome.stdout, outcome.stderr).contains("in use"), "{outcome}");
    assert!(client.list(&[]).iter().all(|tunnel| tunnel["name"] != "bad"), "{outcome}");
}

#[test]
fn h86_a_hundred_wrong_values_are_each_named_with_what_is_legal() {
    let world = World::new();
    let client = world.client("C");
    let cases = wrong_values();
    assert!(cases.len() >= 100, "{}", cases.len());
    for (section, key, value) in &cases {
        let text = match *section {
            "tunnels" => {
                GOOD.lines().map(|line| replaced(line, key, value)).collect::<Vec<_>>().join("\n")
            }
            section => format!("[{section}]\n{key} = {value}\n"),
        };
        let outcome = validate(&world, &client, text.as_bytes()).exits(78);
        let outcome = outcome.says(key).says("broken.toml:");
        assert!(!outcome.stderr.contains("unknown key"), "{section}.{key} = {value}: {outcome}");
    }
    // All of them at once: one message each.
    let many = "[performance]\noptimize_for = 1\ncongestion = \"reno\"\nthreads = -1\nidle_timeout = \"soon\"\n";
    let outcome = validate(&world, &client, many.as_bytes()).exits(78);
    for key in ["optimize_for", "congestion", "threads", "idle_timeout"] {
        assert!(outcome.stderr.contains(key), "{key}: {outcome}");
    }
}

#[test]
fn wrong_environment_variables_and_flags_are_named_too() {
    let world = World::new();
    let client = world.client("C");
    let validated = |name: &str, value: &str| {
        let file = world.file("conduit.toml", GOOD).display().to_string();
        client.conduit(&["config", "validate", "-f", &file]).env(name, value).ends()
    };
    validated("CONDUIT_PERFORMANCE_THREADS", "many").exits(78).says("CONDUIT_PERFORMANCE_THREADS");
    validated("CONDUIT_ROUTER_PORT", "tcp://10.0.0.1:9999").exits(0);
    validated("CONDUIT_NO_SUCH_KEY", "1").exits(0);
    for (flag, value) in
        [("--bind", "nowhere"), ("--source", "10.2.0.2"), ("--router", ":"), ("--protocol", "sctp")]
    {
        let arguments = ["start", "--source", "a:1", "--bind", "127.0.0.1:0"];
        let mut arguments: Vec<_> =
            arguments.into_iter().filter(|argument| *argument != flag).collect();
        if let Some(at) =
            arguments.iter().position(|argument| *argument == "a:1" || *argument == "127.0.0.1:0")
            && arguments[at - 1] == "start"
        {
            arguments.remove(at);
        }
        arguments.retain(|argument| !(flag == "--bind" && *argument == "127.0.0.1:0"));
        client.conduit(&arguments).args([flag, value]).exits(2).says(flag);
    }
}

#[test]
fn what_is_generated_is_valid_and_what_is_shown_has_an_origin() {
    let world = World::new();
    let client = world.client("C");
    for kind in [&["config", "generate"][..], &["config", "generate", "--router"]] {
        let generated = client.conduit(kind).succeeds();
        validate(&world, &client, generated.stdout.as_bytes()).exits(0);
    }
    let file = world.file("conduit.toml", GOOD).display().to_string();
    let token = conduit::identity::Token::generate().expect("a token").to_text();
    let outcome = client
        .conduit(&["config", "show", "--origin", "-f", &file])
        .env("CONDUIT_PERFORMANCE_CONGESTION", "cubic")
        .env("CONDUIT_SECURITY_TOKEN", &*token)
        .succeeds()
        .prints("CONDUIT_PERFORMANCE_CONGESTION")
        .prints("conduit.toml:11")
        .prints("default");
    assert!(!outcome.stdout.contains(token.as_str()), "a secret is never shown: {outcome}");
}

fn validate(world: &World, client: &Client, text: &[u8]) -> Outcome {
    let file = world.file("broken.toml", text).display().to_string();
    client.conduit(&["config", "validate", "-f", &file]).ends()
}

fn replaced(line: &str, key: &str, value: &str) -> String {
    if line.starts_with(&format!("{key} =")) { format!("{key} = {value}") } else { line.to_owned() }
}

fn wrong_values() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut cases = Vec::new();
    let mut add = |section, key, values: &[&'static str]| {
        cases.extend(values.iter().map(|value| (section, key, *value)));
    };
    add(
        "router",
        "host",
        &[
            "\"\"",
            "1",
            "\"a b\"",
            "\"10.0.0.1:80\"",
            "\"[::1\"",
            "\"10.0.0\"",
            "\"http://r.example\"",
        ],
    );
    add("router", "port", &["0", "-1", "65536", "\"9999\"", "1.5", "99999999999999999999", "true"]);
    add(
        "tunnels",
        "name",
        &["\"\"", "\"a/b\"", "\"..\"", "\"a b\"", "1", "\"\\u0000\"", "\"caf\u{e9}\""],
    );
    add(
        "tunnels",
        "source",
        &[
            "\"\"",
            "\"10.2.0.2\"",
            "\"10.2.0.2:0\"",
            "\"10.2.0.2:65536\"",
            "\":80\"",
            "80",
            "\"10.2.0.256:80\"",
            "[]",
        ],
    );
    add(
        "tunnels",
        "bind",
        &[
            "\"\"",
            "\"127.0.0.1:65536\"",
            "\"127.0.0.1\"",
            "\"127.0.0.1:-1\"",
            "true",
            "\"999.0.0.1:80\"",
        ],
    );
    add("security", "router_identity", &["\"\"", "\"cdk1_x\"", "1", "\"cdt1_mfxcazlymfwxa3df\""]);
    add("security", "private_key_path", &["1", "\"\"", "true"]);
    add("security", "cipher_suites", &["[]", "[\"TLS_RSA_WITH_NULL_MD5\"]", "\"fast\"", "1"]);
    add("security", "pq", &["\"maybe\"", "true", "1"]);
    add("performance", "optimize_for", &["\"speed\"", "1", "\"\"", "true"]);
    add("performance", "congestion", &["\"reno\"", "0", "\"BBR2\""]);
    add("performance", "tcp_nodelay", &["1", "\"yes\"", "\"\""]);
    add(
        "performance",
        "tcp_keepalive",
        &["\"0s\"", "\"soon\"", "-5", "\"-5s\"", "\"99999h\"", "true"],
    );
    add(
        "performance",
        "read_buffer_size",
        &["0", "-1", "\"1 B\"", "\"1 TiB\"", "\"64 Kib it\"", "true"],
    );
    add(
        "performance",
        "write_buffer_size",
        &["\"\"", "\"-64 KiB\"", "\"99999999999999999999 KiB\"", "1.5"],
    );
    add("performance", "max_connections", &["0", "-1", "1000001", "\"many\""]);
    add("performance", "connect_timeout", &["\"0s\"", "\"1h\"", "3", "\"3\""]);
    add("performance", "idle_timeout", &["\"1ms\"", "\"1day\"", "\"\"", "-30"]);
    add("performance", "threads", &["0", "257", "-1", "\"all\"", "1.5"]);
    add("performance", "cpu_affinity", &["[-1]", "[1024]", "\"all\"", "[0, 0]"]);
    add("performance", "max_packet", &["1199", "65528", "\"big\"", "-1"]);
    add("logging", "level", &["\"loud\"", "1", "\"\""]);
    add("logging", "format", &["\"xml\"", "1"]);
    add("logging", "max_size", &["\"1 B\"", "\"2 GiB\"", "-1"]);
    add("logging", "keep", &["-1", "101", "\"all\""]);
    add("listen", "bind", &["\"\"", "\"nowhere\"", "\"0.0.0.0:65536\""]);
    add("limits", "max_clients", &["0", "-1", "100001"]);
    add("limits", "dial_timeout", &["\"0s\"", "\"1h\"", "10"]);
    add("limits", "lease", &["\"0s\"", "\"2years\"", "10"]);
    cases
}
