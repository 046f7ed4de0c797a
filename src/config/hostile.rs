//! Bad files: the rows H83 to H85 of the list of hostile cases, by their numbers.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

pub(super) fn client(text: &str) -> Result<Loaded<ClientConfig>, ConfigErrors> {
    ClientConfig::parse(Path::new("conduit.toml"), text, &home(), &Overrides::new())
}

pub(super) fn router(text: &str) -> Result<Loaded<RouterConfig>, ConfigErrors> {
    RouterConfig::parse(Path::new("router.toml"), text, &home(), &Overrides::new())
}

pub(super) fn home() -> Environment {
    Environment::capture([("CONDUIT_HOME", "/home/u/.conduit")])
}

/// The messages about a text that is refused.
pub(super) fn complaints(text: &str) -> Vec<String> {
    match client(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.problems().iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn has_position(complaint: &str, file: &str) -> bool {
    let Some(rest) = complaint.strip_prefix(&format!("{file}:")) else { return false };
    let mut parts = rest.splitn(3, ':');
    let number = |part: Option<&str>| part.is_some_and(|n| n.parse::<usize>().is_ok_and(|n| n > 0));
    number(parts.next()) && number(parts.next()) && parts.next().is_some_and(|m| m.len() > 3)
}

const SOUND: &str = r#"# a comment
[router]
host = "203.0.113.7"
port = 9999

[security]
private_key_path = './keys/client.key'
cipher_suites = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"]

[[tunnels]]
name = "web"
source = "10.2.0.2:8080"
bind = "0.0.0.0:80"

[performance]
tcp_nodelay = true
idle_timeout = "30s"
cpu_affinity = [0, 1]
"#;

#[test]
fn h83_toml_broken_at_any_position_names_line_and_column() {
    assert!(client(SOUND).is_ok());
    let length = SOUND.len();
    let mut refused = 0;
    for step in 0..200 {
        let at = step * length / 200;
        for broken in [
            format!("{}\u{1}{}", &SOUND[..at], &SOUND[at..]),
            format!("{}={}", &SOUND[..at], &SOUND[at..]),
            format!("{}\"{}", &SOUND[..at], &SOUND[at..]),
            format!("{}[{}", &SOUND[..at], &SOUND[at..]),
            SOUND[..at].to_owned(),
            format!("{}{}", &SOUND[..at], &SOUND[at + 1..]),
        ] {
            let start = Instant::now();
            let complaints = complaints(&broken);
            assert!(start.elapsed() < Duration::from_millis(500), "{broken}");
            refused += usize::from(!complaints.is_empty());
            for complaint in complaints {
                assert!(has_position(&complaint, "conduit.toml"), "{complaint}");
            }
        }
        let control = format!("{}\u{1}{}", &SOUND[..at], &SOUND[at..]);
        assert!(client(&control).is_err(), "a control character at {at}");
    }
    assert!(refused > 700, "{refused}");
}

#[test]
fn h83_the_position_of_a_problem_is_exact() {
    let text = "[router]\nhost = \"203.0.113.7\"\n\n[performance]\n  threads = 0\n  pq = 1\n";
    assert_eq!(
        complaints(text),
        [
            "conduit.toml:5:13: performance.threads: 0 is not legal; legal is a whole number from 1 \
             to 256",
            "conduit.toml:6:3: unknown key \"pq\" in [performance]: it belongs into [security]",
        ]
    );
    let complaints = complaints("[router]\nhost = \"ä\" x\n");
    assert!(complaints[0].starts_with("conduit.toml:2:12: "), "{complaints:?}");
}

#[test]
fn h83_a_byte_order_mark_and_crlf_change_nothing() {
    let plain = client(SOUND).expect("sound").config;
    let windows = format!("\u{feff}{}", SOUND.replace('\n', "\r\n"));
    assert_eq!(client(&windows).expect("sound").config, plain);
    let wrong = windows.replace("9999", "0");
    let complaints = complaints(&wrong);
    assert!(complaints[0].starts_with("conduit.toml:4:8: router.port"), "{complaints:?}");
}

#[test]
fn h83_a_huge_file_is_refused_fast() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("conduit.toml");
    let file = std::fs::File::create(&path).expect("created");
    file.set_len(100 << 20).expect("a sparse file of 100 MiB");
    let start = Instant::now();
    let errors = ClientConfig::load(Some(&path), &home(), &Overrides::new()).expect_err("huge");
    assert!(start.elapsed() < Duration::from_millis(100));
    let expected = format!("{}: this is ", path.display());
    assert!(errors.to_string().starts_with(&expected), "{errors}");
}

#[test]
fn h83_nesting_of_a_hundred_thousand_levels_is_refused_without_a_stack_overflow() {
    let deep = 100_000;
    for text in [
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        "{a=".repeat(deep),
        format!("x = {}", "{a=".repeat(deep)),
        format!("{}b = 1", "a.".repeat(deep)),
        format!("[{}b]", "a.".repeat(deep)),
        format!("[[{}b]]", "a.".repeat(deep)),
        format!("[router]\nhost = \"\"\"\n#\"\"\"\n{}b = 1", "\"a\" . ".repeat(deep)),
        format!("x = {{ {}b = 1 }}", "a.".repeat(deep)),
    ] {
        let start = Instant::now();
        let complaints = complaints(&text);
        assert!(start.elapsed() < Duration::from_secs(1), "{}", &text[..40]);
        assert!(has_position(&complaints[0], "conduit.toml"), "{}", complaints[0]);
    }
}

#[test]
fn h83_a_file_full_of_mistakes_is_refused_fast() {
    let lines = |line: &str| line.repeat((1 << 20) / line.len() - 1);
    for text in [
        lines("[[tunnels]]\n"),
        format!("[router]\n{}", lines("host = 1\n")),
        lines("= = =\n"),
        lines("\"\n"),
        lines("a.b.c.d = {e.f=[[]]}\n"),
        (0..30_000).map(|n| format!("[s{n}]\nk = 1\n")).collect(),
    ] {
        let start = Instant::now();
        assert!(!complaints(&text).is_empty());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?} {}", start.elapsed(), &text[..20]);
    }
}

#[test]
fn h84_an_unknown_key_is_refused_with_the_near_one() {
    for (text, hint) in [
        ("[router]\nhots = \"a\"", "unknown key \"hots\" in [router]: did you mean \"host\"?"),
        ("[security]\nrouter_idenity = \"a\"", "did you mean \"router_identity\"?"),
        ("[security]\ncipher_suits = []", "did you mean \"cipher_suites\"?"),
        ("[performance]\nmax_conections = 1", "did you mean \"max_connections\"?"),
        (
            "[preformance]\nthreads = 1",
            "unknown section \"preformance\": did you mean \"performance\"?",
        ),
        ("[[tunnel]]\nname = \"a\"", "unknown section \"tunnel\": did you mean \"tunnels\"?"),
        ("[router]\nlevel = \"info\"", "it belongs into [logging]"),
        ("host = \"a\"", "it belongs into [router]"),
        ("banana = 1", "every key stands in a section"),
        ("[listen]\nbind = \":1\"", "[listen] belongs into router.toml, not into conduit.toml"),
        ("[security]\nxyzzyxyzzy = 1", "the keys are private_key_path, "),
        ("router = \"a\"", "legal is the table [router]"),
        ("[tunnels]\nname = \"a\"", "write [[tunnels]], with two brackets"),
        ("tunnels = [1]", "write [[tunnels]] once per tunnel"),
    ] {
        let complaints = complaints(text);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains(hint), "{complaints:?}");
        assert!(has_position(&complaints[0], "conduit.toml"), "{complaints:?}");
    }
    let errors = router("[policy]\nrequire_tokens = true\n").expect_err("a typo");
    assert!(errors.to_string().contains("did you mean \"require_token\"?"), "{errors}");
    let errors = router("[[tunnels]]\n").expect_err("a client's section");
    assert!(errors.to_string().contains("belongs into conduit.toml"), "{errors}");
}

#[test]
fn h84_keys_of_later_versions_are_unknown() {
    for text in [
        "[performance]\ndefault_bandwidth_limit = \"1 MiB\"",
        "[performance]\nburst_bandwidth_limit = \"1 MiB\"",
        "[api]\nbind = \":1\"",
        "[health]\ninterval = \"1s\"",
    ] {
        assert_eq!(complaints(text).len(), 1, "{text}");
        assert!(router(text).is_err(), "{text}");
    }
}

#[test]
fn h85_every_conflict_of_a_file_is_listed_at_once() {
    let text = r#"
[[tunnels]]
name = "web"
source = "10.0.0.1:80"
bind = "127.0.0.1:8080"

[[tunnels]]
name = "WEB"
source = "10.0.0.1:80"
bind = ":8080"

[[tunnels]]
name = "db"
source = "10.0.0.1"
bind = "0.0.0.0:8080"
color = "red"

[[tunnels]]
name = "free"
source = "10.0.0.1:80"
bind = ":0"

[[tunnels]]
name = "free2"
source = "10.0.0.1:80"
bind = ":0"

[[tunnels]]
name = "Web"
bind = "[::]:8080"
"#;
    let complaints = complaints(text);
    let expected = [
        "conduit.toml:8:8: tunnels.name: WEB is also the name of the tunnel in line 3 ",
        "conduit.toml:10:8: tunnels.bind: 127.0.0.1:8080 is taken by the tunnel in line 5 ",
        "conduit.toml:14:10: tunnels.source: \"10.0.0.1\" is not legal",
        "conduit.toml:15:8: tunnels.bind: 0.0.0.0:8080 is taken by the tunnel in line 5 ",
        "conduit.toml:16:1: unknown key \"color\" in [tunnels]",
        "conduit.toml:28:1: tunnels.source is missing",
        "conduit.toml:29:8: tunnels.name: Web is also the name of the tunnel in line 3 ",
    ];
    assert_eq!(complaints.len(), expected.len(), "{complaints:#?}");
    for (complaint, expected) in complaints.iter().zip(expected) {
        assert!(complaint.starts_with(expected), "{complaint}\n{expected}");
    }
}

#[test]
fn h85_a_source_may_be_a_list_of_one() {
    let text =
        |source: &str| format!("[[tunnels]]\nname = \"a\"\nbind = \":1\"\nsource = {source}\n");
    let loaded = client(&text("[\"h:1\"]")).expect("one target");
    assert_eq!(loaded.config.tunnels[0].source.to_string(), "h:1");
    assert!(complaints(&text("[\"h:1\", \"h:2\"]"))[0].contains("takes exactly one"));
    assert!(complaints(&text("[]"))[0].contains("takes exactly one"));
}

#[test]
fn a_file_that_is_missing_or_no_file_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in [folder.path().join("conduit.toml"), folder.path().to_owned()] {
        let errors = ClientConfig::load(Some(&path), &home(), &Overrides::new()).expect_err("none");
        assert!(errors.to_string().starts_with(&path.display().to_string()), "{errors}");
    }
}

#[test]
fn the_kind_of_a_file_is_seen_from_its_sections() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.toml");
    for (text, kind) in [
        ("", FileKind::Client),
        ("[router]\nhost = \"a\"\n", FileKind::Client),
        ("[listen]\n", FileKind::Router),
        ("[policy]\nrequire_token = true\n", FileKind::Router),
        ("[limits]\n", FileKind::Router),
    ] {
        std::fs::write(&path, text).expect("written");
        assert_eq!(detect(&path), Ok(kind), "{text}");
        let found = match validate(&path, None, &home()).expect("sound") {
            Validated::Client(_) => FileKind::Client,
            Validated::Router(_) => FileKind::Router,
        };
        assert_eq!(found, kind);
    }
    assert!(validate(&path, Some(FileKind::Client), &home()).is_err());
}
