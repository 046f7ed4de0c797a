//! The table of keys. A key stands here when this version honours it, and only then.

mod client;

use client::{CLIENT_SECURITY, ROUTER_ADDRESS};

use super::schema::{Absent, Key, Kind, Places};
use crate::tunnel::{CarrierChoice, Direction, Oversize, Priority, Protocol, ProxyProtocol};

/// A key of the file, the environment and flags, with a default.
const fn key(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Key {
    let default = Absent::Value(default);
    Key { section, name, kind, default, doc, places: Places::Everywhere }
}

/// A key without a default value: what its absence means, and a value to show.
const fn open(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    (meaning, example): (&'static str, &'static str),
    doc: &'static str,
) -> Key {
    let default = Absent::Means { meaning, example };
    Key { section, name, kind, default, doc, places: Places::Everywhere }
}

/// A key of a table that repeats.
const fn in_tunnel(name: &'static str, kind: Kind, default: Absent, doc: &'static str) -> Key {
    Key { section: "tunnels", name, kind, default, doc, places: Places::FileOnly }
}

/// The keys of `conduit.toml`.
pub(super) static CLIENT: &[&[Key]] =
    &[ROUTER_ADDRESS, CLIENT_SECURITY, TLS, TUNNELS, PERFORMANCE, LOGGING];

/// The keys of `router.toml`.
pub(super) static ROUTER: &[&[Key]] =
    &[LISTEN, POLICY, ROUTER_SECURITY, TLS, LIMITS, PERFORMANCE, LOGGING];

const ROUTER_SECURITY: &[Key] = &[open(
    "security",
    "private_key_path",
    Kind::Path,
    ("router/router.key in CONDUIT_HOME", "./keys/router.key"),
    "The router's private key (mode 0600). A mounted secret is accepted when it is named here.",
)];

const TLS: &[Key] = &[
    key(
        "security",
        "cipher_suites",
        Kind::Choices(CIPHER_SUITES),
        "TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256",
        "TLS 1.3 cipher suites, the preferred one first.",
    ),
    key(
        "security",
        "pq",
        Kind::Choice(POST_QUANTUM),
        "prefer",
        "Post-quantum key exchange (X25519MLKEM768): with peers that know it, always, or never.",
    ),
];

const TUNNELS: &[Key] = &[
    in_tunnel(
        "name",
        Kind::Name,
        Absent::Required { example: "web" },
        "The tunnel's name; unique, compared without case.",
    ),
    in_tunnel(
        "source",
        Kind::TunnelSource,
        Absent::Required { example: "10.2.0.2:8080" },
        "What gets dialled: by the router, or by this machine when the direction is reverse.",
    ),
    in_tunnel(
        "bind",
        Kind::TunnelBind,
        Absent::Required { example: "127.0.0.1:8080" },
        "Where users connect: here, or at the router when the direction is reverse. Port 0 takes a free one.",
    ),
    in_tunnel(
        "protocol",
        Kind::Choice(Protocol::WORDS),
        Absent::Value("tcp"),
        "What is carried: TCP connections or UDP packets.",
    ),
    in_tunnel(
        "direction",
        Kind::Choice(Direction::WORDS),
        Absent::Value("forward"),
        "Forward: this machine listens, the router dials. Reverse: the router listens, this machine dials.",
    ),
    in_tunnel(
        "group",
        Kind::Name,
        Absent::Means { meaning: "a newer process takes the tunnel over", example: "blue" },
        "Reverse tunnels of one name and group serve side by side.",
    ),
    in_tunnel(
        "flow_idle",
        Kind::Duration { min: 1_000, max: 86_400_000, off: true },
        Absent::Value("2m"),
        "UDP: silence after which a sender's flow is over; 0 means never.",
    ),
    in_tunnel(
        "max_flows",
        Kind::Number { min: 1, max: 65_536 },
        Absent::Value("16384"),
        "UDP: flows at one time; one more takes the place of the one that was silent for longest.",
    ),
    in_tunnel(
        "oversize",
        Kind::Choice(Oversize::WORDS),
        Absent::Value("fragment"),
        "UDP: what becomes of packets that are larger than the path carries.",
    ),
    in_tunnel(
        "proxy_protocol",
        Kind::Choice(ProxyProtocol::WORDS),
        Absent::Value("off"),
        "Whether the source is told who a visitor is, with a header in front of the first byte.",
    ),
    in_tunnel(
        "trusted_proxies",
        Kind::Networks,
        Absent::Means { meaning: "nobody", example: "10.0.0.0/8" },
        "Front ends that say with a PROXY header who a visitor is.",
    ),
    in_tunnel(
        "priority",
        Kind::Choice(Priority::WORDS),
        Absent::Value("normal"),
        "The tunnel's share where it meets other tunnels on one path; bulk makes way for everything else.",
    ),
    in_tunnel(
        "resume",
        Kind::Duration { min: 1_000, max: 3_600_000, off: true },
        Absent::Value("2m"),
        "How long connections and UDP flows wait for a lost session and then go on; the router's limit may be lower.",
    ),
    in_tunnel(
        "carrier",
        Kind::Choice(CarrierChoice::WORDS),
        Absent::Value("auto"),
        "What carries the tunnel's connection: QUIC over UDP, TLS over TCP, or the latter as long as there is no UDP.",
    ),
];

const LISTEN: &[Key] = &[
    key(
        "listen",
        "bind",
        Kind::Bind,
        "0.0.0.0:9999",
        "Where the router listens (UDP, and TCP for carrier tls).",
    ),
    key(
        "listen",
        "tcp",
        Kind::Switch,
        "true",
        "Whether the router takes clients whose network carries no UDP, over TLS on the TCP port of the same number.",
    ),
    open(
        "listen",
        "advertise",
        Kind::HostPorts,
        ("the addresses of this machine's interfaces", "203.0.113.7:9999"),
        "What tickets carry: where clients reach this router.",
    ),
];

const POLICY: &[Key] = &[key(
    "policy",
    "require_token",
    Kind::Switch,
    "false",
    "Whether a client needs a valid token besides its key.",
)];

const LIMITS: &[Key] = &[
    key(
        "limits",
        "max_clients",
        Kind::Number { min: 1, max: 100_000 },
        "1024",
        "Clients connected at one time; the next one is refused.",
    ),
    key(
        "limits",
        "max_streams",
        Kind::Number { min: 1, max: 16_384 },
        "16384",
        "Connections open at one time per client.",
    ),
    key(
        "limits",
        "dial_timeout",
        Kind::Duration { min: 100, max: 120_000, off: false },
        "10s",
        "How long the router tries to reach a source.",
    ),
    key(
        "limits",
        "lease",
        Kind::Duration { min: 1_000, max: 31_536_000_000, off: true },
        "1day",
        "How long a published port is kept for its owner after the last tunnel there has gone.",
    ),
    key(
        "limits",
        "resume",
        Kind::Duration { min: 1_000, max: 3_600_000, off: true },
        "2m",
        "How long connections of a client whose session was lost wait for it to come back.",
    ),
];

const PERFORMANCE: &[Key] = &[
    key(
        "performance",
        "optimize_for",
        Kind::Choice(&["balanced", "throughput", "latency"]),
        "balanced",
        "Throughput: longer transfers start faster, for more memory, and loopback carries more at once. Latency: less of a transfer is under way in front of a keystroke.",
    ),
    key(
        "performance",
        "congestion",
        Kind::Choice(&["auto", "bbr", "cubic"]),
        "auto",
        "Congestion control. CUBIC is slow on lossy links, BBR fills queues.",
    ),
    key(
        "performance",
        "tcp_nodelay",
        Kind::Switch,
        "true",
        "Send small TCP segments at once (TCP_NODELAY on local sockets).",
    ),
    key(
        "performance",
        "tcp_keepalive",
        Kind::Duration { min: 1_000, max: 32_400_000, off: true },
        "60s",
        "Idle time after which local TCP sockets are probed.",
    ),
    key(
        "performance",
        "read_buffer_size",
        Kind::Size { min: 4 << 10, max: 4 << 20 },
        "256 KiB",
        "Bytes taken from a local socket in one read, at most; an idle connection holds none.",
    ),
    key(
        "performance",
        "write_buffer_size",
        Kind::Size { min: 4 << 10, max: 4 << 20 },
        "1 MiB",
        "Bytes given to a local socket in one write, at most.",
    ),
    key(
        "performance",
        "max_connections",
        Kind::Number { min: 1, max: 1_000_000 },
        "16384",
        "Connections open at one time in this process, tunnel or router; the next one is reset.",
    ),
    key(
        "performance",
        "connect_timeout",
        Kind::Duration { min: 100, max: 60_000, off: false },
        "3s",
        "How long one try to establish a session may take.",
    ),
    key(
        "performance",
        "idle_timeout",
        Kind::Duration { min: 1_000, max: 600_000, off: false },
        "30s",
        "Silence after which the peer is taken for lost (both ends: the smaller one holds).",
    ),
    open(
        "performance",
        "threads",
        Kind::Number { min: 1, max: 256 },
        ("one, which is the fastest for one session", "1"),
        "Worker threads of this process.",
    ),
    open(
        "performance",
        "cpu_affinity",
        Kind::Numbers { max: 1023 },
        ("any processor", "0"),
        "Processors that the worker threads run on (Linux).",
    ),
    open(
        "performance",
        "max_packet",
        Kind::Number { min: 1200, max: 65_527 },
        ("what the path carries", "1452"),
        "Largest UDP payload in bytes, sent and asked of the other end.",
    ),
];

const LOGGING: &[Key] = &[
    key("logging", "level", Kind::LogFilter, "info", "What is logged."),
    key("logging", "format", Kind::Choice(&["text", "json"]), "text", "How it is written."),
    open(
        "logging",
        "file",
        Kind::Path,
        ("the process's own log file, or stderr in the foreground", "./conduit.log"),
        "Where to.",
    ),
    key(
        "logging",
        "max_size",
        Kind::Size { min: 64 << 10, max: 1 << 30 },
        "10 MiB",
        "Size at which a log file is rotated.",
    ),
    key(
        "logging",
        "keep",
        Kind::Number { min: 0, max: 100 },
        "3",
        "Rotated log files that are kept.",
    ),
];

const PORT: Kind = Kind::Number { min: 1, max: 65_535 };

/// The TLS 1.3 suites that QUIC can use, by their names in RFC 8446.
pub(super) const CIPHER_SUITES: &[&str] =
    &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

const POST_QUANTUM: &[&str] = &["prefer", "require", "off"];

/// Legal in form, and nobody's: the key bytes read "an example, nobody has this key.".
const EXAMPLE_IDENTITY: &str = "cdk1_mfxcazlymfwxa3dffqqg433cn5shsidimfzsa5dinfzsa23fpexjlwgjni";
