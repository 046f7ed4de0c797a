//! The keys of a client alone.

use super::{Absent, EXAMPLE_IDENTITY, Key, Kind, PORT, Places, key, open};

/// `[router]`: the way to it.
pub(super) const ROUTER_ADDRESS: &[Key] = &[
    open(
        "router",
        "host",
        Kind::Host,
        ("the one enrolled router", "203.0.113.7"),
        "The router that the client connects to: an address or a name.",
    ),
    key("router", "port", PORT, "9999", "The router's port, UDP and TCP."),
    open(
        "router",
        "proxy",
        Kind::Proxy,
        ("the router is dialled itself", "http://me@proxy.example:3128"),
        "What the TLS carrier goes through: a proxy with CONNECT, or SOCKS5. QUIC does not.",
    ),
    open(
        "router",
        "proxy_password_file",
        Kind::Path,
        ("no password", "./keys/proxy.password"),
        "A file with the password of the proxy's user.",
    ),
    Key {
        section: "router",
        name: "proxy_password",
        kind: Kind::Secret,
        default: Absent::Means { meaning: "no password", example: "…" },
        doc: "The password itself, in the environment only.",
        places: Places::SecretVariable,
    },
];

/// `[security]` of a client.
pub(super) const CLIENT_SECURITY: &[Key] = &[
    open(
        "security",
        "private_key_path",
        Kind::Path,
        ("client.key in CONDUIT_HOME", "./keys/client.key"),
        "The client's private key (mode 0600). A mounted secret is accepted when it is named here.",
    ),
    open(
        "security",
        "router_identity",
        Kind::Identity,
        ("the identity remembered from the enrolment", EXAMPLE_IDENTITY),
        "The router's pin: a router with another key is refused.",
    ),
    open(
        "security",
        "token_file",
        Kind::Path,
        ("no token", "./keys/router.token"),
        "A file with the token that a router with `require_token` asks for.",
    ),
    Key {
        section: "security",
        name: "token",
        kind: Kind::Secret,
        default: Absent::Means { meaning: "no token", example: "cdp_…" },
        doc: "The token itself, in the environment only.",
        places: Places::SecretVariable,
    },
];
