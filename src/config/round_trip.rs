//! What is generated is read back as it was meant, for any legal values.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::schema::{Absent, Key, Kind, Places};
use super::*;
use crate::tunnel::{
    BindAddr, CarrierChoice, Direction, Host, HostPort, Identity, Name, Options, Oversize,
    Priority, Protocol, ProxyProtocol, TunnelSpec,
};

/// A legal value of a kind, as the environment writes it.
fn legal(kind: Kind) -> BoxedStrategy<String> {
    match kind {
        Kind::Switch => any::<bool>().prop_map(|on| on.to_string()).boxed(),
        Kind::Number { min, max } => (min..=max).prop_map(|n| n.to_string()).boxed(),
        Kind::Numbers { max } => proptest::collection::btree_set(0..=max, 1..6)
            .prop_map(|set| joined(set.iter()))
            .boxed(),
        Kind::Size { min, max } => prop_oneof![
            (min..=max).prop_map(|bytes| bytes.to_string()),
            (min..=max).prop_map(format_size),
        ]
        .boxed(),
        Kind::Duration { min, max, off } => prop_oneof![
            9 => (min..=max).prop_map(|ms| {
                humantime::format_duration(Duration::from_millis(ms)).to_string()
            }),
            1 => Just(if off { "off".to_owned() } else { format!("{min}ms") }),
        ]
        .boxed(),
        Kind::Choice(words) => proptest::sample::select(words).prop_map(str::to_owned).boxed(),
        Kind::Choices(words) => subsequence(words, 1..=words.len())
            .prop_shuffle()
            .prop_map(|w| joined(w.iter()))
            .boxed(),
        Kind::LogFilter => {
            proptest::sample::select(&["info", "debug", "warn,conduit::router=trace", "off"][..])
                .prop_map(str::to_owned)
                .boxed()
        }
        // Windows takes dots and blanks off the ends of names.
        Kind::Path if cfg!(windows) => "/[a-zäöü日]{1,40}".boxed(),
        Kind::Path => "/[ -}äöü日\"\\\\]{1,40}x".boxed(),
        Kind::Host => host().prop_map(|host| host.to_string()).boxed(),
        Kind::HostPort => host_port().prop_map(|target| target.to_string()).boxed(),
        Kind::HostPorts => proptest::collection::vec(host_port(), 1..=8)
            .prop_map(|targets| joined(targets.iter()))
            .boxed(),
        Kind::Bind => bind().prop_map(|bind| bind.to_string()).boxed(),
        Kind::TunnelBind => prop_oneof![
            bind().prop_map(|bind| bind.to_string()),
            Just("127.0.0.1:27000-27015".to_owned()),
            Just("unix:/run/app.sock".to_owned()),
        ]
        .boxed(),
        Kind::TunnelSource => prop_oneof![
            host_port().prop_map(|target| target.to_string()),
            Just("db.internal:27000-27015".to_owned()),
            Just("unix:/run/app.sock".to_owned()),
        ]
        .boxed(),
        Kind::Networks => proptest::collection::vec(any::<std::net::IpAddr>(), 1..=8)
            .prop_map(|addresses| joined(addresses.into_iter().map(ipnet::IpNet::from)))
            .boxed(),
        Kind::Identity => {
            any::<[u8; 32]>().prop_map(|key| Identity::from_bytes(key).to_string()).boxed()
        }
        Kind::Proxy => ("(http|socks5)://([a-z]{1,9}@)?", host_port())
            .prop_map(|(scheme, addr)| format!("{scheme}{addr}"))
            .boxed(),
        Kind::Name => "[A-Za-z0-9_-]{1,64}".boxed(),
        Kind::Secret => "[a-z2-7]{1,80}".boxed(),
    }
}

fn joined(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<std::net::IpAddr>().prop_map(Host::Addr),
        "[a-z][a-z0-9]{0,20}(\\.[a-z]{1,9}){0,3}".prop_map(Host::Name),
    ]
}

fn host_port() -> impl Strategy<Value = HostPort> {
    (host(), 1..=u16::MAX).prop_map(|(host, port)| HostPort { host, port })
}

fn bind() -> impl Strategy<Value = BindAddr> {
    any::<(std::net::IpAddr, u16)>()
        .prop_map(|addr| BindAddr::from(std::net::SocketAddr::from(addr)))
}

/// Tunnels that do not get in each other's way: each has ports, or a path, of its own.
fn tunnels() -> impl Strategy<Value = Vec<TunnelSpec>> {
    proptest::collection::vec((word(Direction::WORDS), ends(), options()), 0..6).prop_map(|parts| {
        let spec = |(index, (direction, ends, options))| tunnel(index, direction, ends, options);
        parts.into_iter().enumerate().map(spec).collect()
    })
}

/// What a tunnel is made of: protocol, number of ports, and each end, a Unix socket when it is `None`.
type Ends = (Protocol, u16, Option<std::net::IpAddr>, Option<Host>);

/// Ends that go together: a Unix socket carries TCP, and is one.
fn ends() -> impl Strategy<Value = Ends> {
    use proptest::option;
    let addr = any::<std::net::IpAddr>;
    prop_oneof![
        (Just(Protocol::Tcp), Just(1), option::of(addr()), option::of(host())),
        (word(Protocol::WORDS), 1..=1000_u16, addr().prop_map(Some), host().prop_map(Some)),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    use proptest::option;
    let group = legal(Kind::Name).prop_map(|name| name.parse().expect("a name"));
    let idle = (1_000..=86_400_000_u64).prop_map(Duration::from_millis);
    let networks = proptest::collection::vec((any::<std::net::IpAddr>(), 0..=32_u8), 0..4);
    let words = (
        word::<Oversize>(Oversize::WORDS),
        word::<ProxyProtocol>(ProxyProtocol::WORDS),
        word::<Priority>(Priority::WORDS),
        word::<CarrierChoice>(CarrierChoice::WORDS),
    );
    let resume = (1_000..=3_600_000_u64).prop_map(Duration::from_millis);
    let numbers = (option::of(idle), 1..=65_536_usize, option::of(resume));
    let some = (option::of(group), numbers, words, networks).prop_map(
        |(
            group,
            (flow_idle, max_flows, resume),
            (oversize, proxy_protocol, priority, carrier),
            networks,
        )| Options {
            group,
            flow_idle,
            max_flows,
            oversize,
            proxy_protocol,
            trusted_proxies: networks
                .into_iter()
                .map(|(addr, bits)| ipnet::IpNet::new(addr, bits).expect("at most 32 bits"))
                .collect(),
            priority,
            resume,
            carrier,
        },
    );
    prop_oneof![Just(Options::default()), some]
}

fn word<T: std::str::FromStr<Err = String> + std::fmt::Debug>(
    words: &'static [&'static str],
) -> impl Strategy<Value = T> {
    proptest::sample::select(words).prop_map(|word| word.parse().expect("a word"))
}

fn tunnel(
    index: usize,
    direction: Direction,
    (protocol, count, addr, host): Ends,
    mut options: Options,
) -> TunnelSpec {
    let first = 1000 * (index + 1);
    let last = first + usize::from(count) - 1;
    let ports = if count == 1 { first.to_string() } else { format!("{first}-{last}") };
    let at = |end: Option<String>| match end {
        Some(host) if host.contains(':') => format!("[{host}]:{ports}"),
        Some(host) => format!("{host}:{ports}"),
        None => format!("unix:/run/a b\\\"{index}"),
    };
    if (protocol, options.proxy_protocol) == (Protocol::Udp, ProxyProtocol::V1) {
        options.proxy_protocol = ProxyProtocol::V2;
    }
    TunnelSpec {
        name: format!("t-{index}").parse::<Name>().expect("a name"),
        direction,
        protocol,
        bind: at(addr.map(|addr| addr.to_string())).parse().expect("a bind"),
        source: at(host.map(|host| host.to_string())).parse().expect("a target"),
        options,
    }
}

/// Some keys of a kind of file with legal values.
fn settings(kind: FileKind) -> impl Strategy<Value = Vec<(String, String)>> {
    let keys: Vec<&'static Key> =
        kind.keys().filter(|key| key.places == Places::Everywhere).collect();
    let values: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let name = key.full_name();
            proptest::option::of(legal(key.kind).prop_map(move |text| (name.clone(), text)))
        })
        .collect();
    values.prop_map(|values| values.into_iter().flatten().collect())
}

fn written(kind: FileKind, set: &[(String, String)], tunnels: &[TunnelSpec]) -> String {
    let set: Vec<_> = set.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    generate(kind, &set, tunnels).expect("legal")
}

fn flags(set: &[(String, String)]) -> Overrides {
    set.iter().fold(Overrides::new(), |flags, (key, text)| flags.with(key, "--x", text))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_generated_client_file_reads_back(
        set in settings(FileKind::Client), tunnels in tunnels(),
    ) {
        let text = written(FileKind::Client, &set, &tunnels);
        let environment = Environment::capture([("CONDUIT_HOME", "/h")]);
        let path = Path::new("/c/conduit.toml");
        let from_file = ClientConfig::parse(path, &text, &environment, &Overrides::new());
        let from_file = from_file.map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        let mut meant = ClientConfig::load(None, &environment, &flags(&set)).expect("legal").config;
        meant.tunnels = tunnels;
        prop_assert_eq!(from_file.config, meant);
    }

    #[test]
    fn a_generated_router_file_reads_back(set in settings(FileKind::Router)) {
        let text = written(FileKind::Router, &set, &[]);
        let environment = Environment::capture([("CONDUIT_HOME", "/h")]);
        let path = Path::new("/c/router.toml");
        let from_file = RouterConfig::parse(path, &text, &environment, &Overrides::new());
        let from_file = from_file.map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        let meant = RouterConfig::load(None, &environment, &flags(&set)).expect("legal").config;
        prop_assert_eq!(from_file.config, meant);
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_place(text in "\\PC{0,200}") {
        let environment = Environment::capture([("CONDUIT_HOME", "/h")]);
        let path = Path::new("/c/conduit.toml");
        if let Err(errors) = ClientConfig::parse(path, &text, &environment, &Overrides::new()) {
            prop_assert!(errors.to_string().starts_with("/c/conduit.toml:"), "{}", errors);
        }
    }
}

/// What is commented out in the generated file is what holds without it, or a legal example.
#[test]
fn every_line_that_is_commented_out_may_be_used() {
    for kind in [FileKind::Client, FileKind::Router] {
        let text = generate(kind, &[], &[]).expect("legal");
        let is_value = |line: &str| {
            line.strip_prefix("# ").is_some_and(|rest| {
                rest.starts_with("[[")
                    || rest.split_once(" = ").is_some_and(|(key, _)| {
                        key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                    })
            })
        };
        let used: String = text
            .lines()
            .map(|line| if is_value(line) { &line[2..] } else { line })
            .map(|line| format!("{line}\n"))
            .collect();
        let environment = Environment::capture([("CONDUIT_HOME", "/h")]);
        let path = Path::new(kind.file_name());
        let count = |entries: &[Entry]| {
            entries.iter().filter(|entry| entry.origin != Origin::Default).count()
        };
        let (set, all) = match kind {
            FileKind::Client => {
                let loaded = ClientConfig::parse(path, &used, &environment, &Overrides::new())
                    .unwrap_or_else(|errors| panic!("{errors}\n{used}"));
                assert_eq!(loaded.config.tunnels.len(), 1);
                // Secrets have no place in a file; what a tunnel does not need keeps its default.
                let secrets = FileKind::Client.keys().filter(|key| key.is_secret()).count();
                let optional = FileKind::Client.keys().filter(|key| {
                    key.places == Places::FileOnly
                        && !matches!(key.default, Absent::Required { .. })
                });
                (count(&loaded.entries) + optional.count() + secrets, loaded.entries.len())
            }
            FileKind::Router => {
                let loaded = RouterConfig::parse(path, &used, &environment, &Overrides::new())
                    .unwrap_or_else(|errors| panic!("{errors}\n{used}"));
                (count(&loaded.entries), loaded.entries.len())
            }
        };
        assert_eq!(set, all, "{used}");
    }
}

#[test]
fn the_reference_has_a_line_for_every_key() {
    for kind in [FileKind::Client, FileKind::Router] {
        let text = reference(kind);
        assert_eq!(text.lines().count(), kind.keys().count() + 2);
        for key in kind.keys() {
            assert!(text.contains(&format!("| `{}` |", key.full_name())), "{text}");
        }
    }
}
