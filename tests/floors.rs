//! Versions in Cargo.lock: none below the first that has the security fixes we rely on, none that is abandoned.
//!
//! An advisory database knows less than this list: quinn-proto's own fixes in 0.11.17 to 0.11.19 (bounds on
//! reassembly, on retired connection ids and on what a peer may open) have no advisory of their own.

use std::fs;

#[test]
fn no_dependency_is_below_its_floor() {
    let locked = locked();
    let below: Vec<String> = FLOORS
        .iter()
        .flat_map(|(name, floor)| {
            locked
                .iter()
                .filter(move |(found, _)| found == name)
                .map(move |(_, version)| (name, floor, version))
        })
        .filter(|(_, floor, version)| numbers(version) < numbers(floor))
        .map(|(name, floor, version)| format!("{name} {version} is below {floor}"))
        .collect();
    assert!(below.is_empty(), "raise them with `cargo update -p NAME`: {below:?}");
}

#[test]
fn the_dependencies_that_carry_the_security_are_there() {
    let locked = locked();
    for name in [
        "quinn",
        "quinn-proto",
        "rustls",
        "rustls-webpki",
        "aws-lc-rs",
        "ed25519-dalek",
        "rusqlite",
    ] {
        assert!(locked.iter().any(|(found, _)| found == name), "{name} is not in Cargo.lock");
    }
}

#[test]
fn abandoned_and_refused_crates_stay_out() {
    let found: Vec<String> = locked()
        .into_iter()
        .filter_map(|(name, _)| REFUSED.iter().find(|(refused, _)| *refused == name))
        .map(|(name, why)| format!("{name}: {why}"))
        .collect();
    assert!(found.is_empty(), "find what pulls them in with `cargo tree -i NAME`: {found:?}");
}

#[test]
fn versions_compare_by_number() {
    assert!(numbers("0.11.9") < numbers("0.11.19"));
    assert!(numbers("1.2.1+spec-1.1.0") > numbers("1.2"));
    assert!(numbers("5.0.0") > numbers("4.1.3"));
    assert!(numbers("3.0.0-rc.1") <= numbers("3.0.0"));
}

/// Names and versions of Cargo.lock.
fn locked() -> Vec<(String, String)> {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).expect("Cargo.lock");
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.map(|value| value.trim_end_matches('"').to_owned())
    };
    let packages: Vec<_> = text
        .split("[[package]]")
        .skip(1)
        .map(|block| {
            (value(block, "name").expect("a name"), value(block, "version").expect("a version"))
        })
        .collect();
    assert!(packages.len() > 100, "only {} packages in Cargo.lock", packages.len());
    packages
}

fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['+', '-']).next().unwrap_or_default();
    plain.split('.').map(|part| part.parse().expect("a number")).collect()
}

const FLOORS: &[(&str, &str)] = &[
    ("quinn", "0.11.12"),
    ("quinn-proto", "0.11.19"),
    ("rustls", "0.23.46"),
    ("rustls-webpki", "0.103.16"),
    ("h2", "0.4.20"),
    ("hyper", "1.12.0"),
    ("ed25519-dalek", "3.0.0"),
    ("curve25519-dalek", "4.1.3"),
    ("ring", "0.17.14"),
    ("bytes", "1.11.1"),
    ("tracing-subscriber", "0.3.20"),
    ("aws-lc-sys", "0.39.0"),
    ("time", "0.3.47"),
    ("rand", "0.9.3"),
    ("lru", "0.18.2"),
    ("hickory-proto", "0.26.1"),
];

const REFUSED: &[(&str, &str)] = &[
    ("bincode", "unmaintained, RUSTSEC-2025-0141"),
    ("rustls-pemfile", "unmaintained, RUSTSEC-2025-0134; rustls-pki-types reads PEM"),
    ("backoff", "unmaintained, RUSTSEC-2025-0012"),
    (
        "daemonize",
        "unmaintained, RUSTSEC-2025-0069; processes are spawned in a session of their own",
    ),
    ("serde_yml", "unsound, RUSTSEC-2025-0068"),
    ("atomic-polyfill", "unmaintained, RUSTSEC-2023-0089"),
    ("paste", "unmaintained, RUSTSEC-2024-0436"),
    ("fxhash", "unmaintained, RUSTSEC-2025-0057"),
    ("atty", "unmaintained, RUSTSEC-2024-0375; std::io::IsTerminal"),
    ("instant", "unmaintained, RUSTSEC-2024-0384"),
    ("yaml-rust", "unmaintained, RUSTSEC-2024-0320"),
    ("proc-macro-error", "unmaintained, RUSTSEC-2024-0370"),
    ("openssl", "one TLS stack: rustls with aws-lc-rs"),
    ("openssl-sys", "one TLS stack: rustls with aws-lc-rs"),
    ("native-tls", "one TLS stack: rustls with aws-lc-rs"),
];
