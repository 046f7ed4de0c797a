//! The bypass table: spellings and addresses by which a client might get past the rules. `ends` dials the same
//! table and counts what arrives.

use std::net::SocketAddr;

use super::*;
use crate::tunnel::HostPort;

/// One attempt.
pub(crate) struct Form {
    /// What the client asks for.
    pub(crate) requested: &'static str,
    /// What a name resolves to; for an address, the address itself.
    pub(crate) resolved: &'static [&'static str],
    /// What the owner gets; `None` when the text is no target at all.
    pub(crate) owner: Option<Decision>,
}

const fn unreadable(requested: &'static str) -> Form {
    Form { requested, resolved: &[], owner: None }
}

const fn denied(requested: &'static str, denial: Denial) -> Form {
    Form { requested, resolved: &[], owner: Some(Decision::Denied(denial)) }
}

/// Not on the deny list: an owner reaches it, somebody with one network allowed does not.
const fn owners(requested: &'static str) -> Form {
    Form { requested, resolved: &[], owner: Some(Decision::Allowed) }
}

const fn name(requested: &'static str, resolved: &'static [&'static str], owner: Decision) -> Form {
    Form { requested, resolved, owner: Some(owner) }
}

impl Form {
    /// The addresses to decide on; empty when the text is no target.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let Ok(target) = self.requested.parse::<HostPort>() else { return Vec::new() };
        match target.host {
            crate::tunnel::Host::Addr(addr) => vec![SocketAddr::new(addr, target.port)],
            crate::tunnel::Host::Name(_) => self
                .resolved
                .iter()
                .map(|addr| SocketAddr::new(addr.parse().expect(addr), target.port))
                .collect(),
        }
    }
}

/// The router of the table listens on every address of this host, at [`OWN_PORT`].
pub(crate) fn own_sockets() -> OwnSockets {
    OwnSockets::new(
        vec![SocketAddr::from(([0; 4], OWN_PORT))],
        vec!["192.0.2.7".parse().expect("an address"), "2001:db8::7".parse().expect("an address")],
    )
}

/// The one network of the client that is not an owner.
pub(crate) const ONE_NETWORK: &str = "10.2.0.0/16:80";

const OWN_PORT: u16 = 9999;
const METADATA: Decision = Decision::Denied(Denial::Metadata);

pub(crate) const FORMS: &[Form] = &[
    // Numbers that some parsers read as addresses.
    unreadable("0:80"),
    unreadable("127.1:80"),
    unreadable("2130706433:80"),
    unreadable("0x7f.1:80"),
    unreadable("0x7f000001:80"),
    unreadable("0177.0.0.1:80"),
    unreadable("127.0.0.1.:80"),
    unreadable("１２７.0.0.1:80"),
    unreadable("①②⑦.⓪.⓪.①:80"),
    // This host.
    denied("0.0.0.0:80", Denial::Unspecified),
    denied("0.1.2.3:80", Denial::Unspecified),
    denied("[::]:80", Denial::Unspecified),
    denied("[::ffff:0:0]:80", Denial::Unspecified),
    owners("127.0.0.1:80"),
    owners("127.255.255.254:80"),
    owners("[::1]:80"),
    owners("[::ffff:127.0.0.1]:80"),
    owners("[::127.0.0.1]:80"),
    owners("[64:ff9b::7f00:1]:80"),
    owners("[2002:7f00::]:80"),
    // Link-local and metadata, plain and inside other addresses.
    denied("169.254.1.1:80", Denial::LinkLocal),
    denied("169.254.169.254:80", Denial::Metadata),
    denied("100.100.100.200:80", Denial::Metadata),
    denied("[fd00:ec2::254]:80", Denial::Metadata),
    denied("[fe80::1]:80", Denial::LinkLocal),
    unreadable("[fe80::1%eth0]:80"),
    denied("[::ffff:169.254.169.254]:80", Denial::Metadata),
    denied("[::169.254.169.254]:80", Denial::Embedded),
    denied("[::ffff:0:169.254.169.254]:80", Denial::Embedded),
    denied("[64:ff9b::a9fe:a9fe]:80", Denial::Embedded),
    denied("[64:ff9b:1::a9fe:a9fe]:80", Denial::Embedded),
    denied("[64:ff9b:1:a9fe:a9:fe00::]:80", Denial::Embedded),
    denied("[2002:a9fe:a9fe::1]:80", Denial::Embedded),
    denied("[2001:0:4136:e378:8000:63bf:5601:5601]:80", Denial::Embedded),
    denied("[2001:db8::5efe:a9fe:a9fe]:80", Denial::Embedded),
    // Many at once.
    denied("224.0.0.1:80", Denial::Multicast),
    denied("[ff02::1]:80", Denial::Multicast),
    denied("255.255.255.255:80", Denial::Broadcast),
    // The router itself.
    denied("127.0.0.1:9999", Denial::OwnSocket),
    denied("127.0.0.2:9999", Denial::OwnSocket),
    denied("[::1]:9999", Denial::OwnSocket),
    denied("192.0.2.7:9999", Denial::OwnSocket),
    denied("[2001:db8::7]:9999", Denial::OwnSocket),
    denied("[64:ff9b::192.0.2.7]:9999", Denial::Embedded),
    // Names: what counts is where they lead.
    name("localhost:80", &["127.0.0.1", "::1"], Decision::Allowed),
    name("localhost.:80", &["127.0.0.1"], Decision::Allowed),
    name("LOCALHOST:80", &["127.0.0.1"], Decision::Allowed),
    name("router.example:9999", &["127.0.0.1"], Decision::Denied(Denial::OwnSocket)),
    name("private.example:80", &["192.168.0.1"], Decision::Allowed),
    name("rebound.example:80", &["169.254.169.254"], METADATA),
    name("alias.of.alias.example:80", &["::ffff:169.254.169.254"], METADATA),
    name("xn--eckwd4c7c.example:80", &["fd00:ec2::254"], METADATA),
    unreadable("evil\0.example:80"),
    unreadable("user@10.2.0.1:80"),
    unreadable("10.2.0.1#@127.0.0.1:80"),
    unreadable("10.2.0.1/16:80"),
    // Ports.
    unreadable("10.2.0.1:0"),
    unreadable("10.2.0.1:65536"),
    unreadable("10.2.0.1:65616"),
    owners("10.2.0.1:81"),
    // A path is no host, however it is written.
    unreadable("../run/docker.sock:80"),
    unreadable("/tmp/link.sock:80"),
    unreadable("unix:/run/docker.sock:80"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn one_network() -> Permissions {
        Permissions::targets(vec![ONE_NETWORK.parse().expect("a rule")])
    }

    #[test]
    fn h60_as_owner_every_form_gets_the_answer_of_the_table() {
        assert!(FORMS.len() >= 40, "{}", FORMS.len());
        for form in FORMS {
            let Some(expected) = form.owner else {
                assert!(form.requested.parse::<HostPort>().is_err(), "{}", form.requested);
                continue;
            };
            let requested = form.requested.parse().expect(form.requested);
            let addresses = form.addresses();
            assert!(!addresses.is_empty(), "{}", form.requested);
            for addr in addresses {
                let decision = Permissions::owner().decide(&requested, addr, &own_sockets());
                assert_eq!(decision, expected, "{} at {addr}", form.requested);
            }
        }
    }

    #[test]
    fn h60_with_one_network_allowed_every_form_is_denied() {
        for form in FORMS {
            for addr in form.addresses() {
                let requested = form.requested.parse().expect(form.requested);
                let decision = one_network().decide(&requested, addr, &own_sockets());
                assert!(!decision.is_allowed(), "{} at {addr}", form.requested);
            }
        }
    }

    #[test]
    fn h60_the_network_itself_is_allowed_by_address_and_by_name() {
        for requested in ["10.2.0.1:80", "web.example:80"] {
            let decision = one_network().decide(
                &requested.parse().expect(requested),
                SocketAddr::from(([10, 2, 0, 1], 80)),
                &own_sockets(),
            );
            assert_eq!(decision, Decision::Allowed, "{requested}");
        }
    }

    #[test]
    fn h60_a_name_of_more_than_253_characters_is_no_target() {
        let long = format!("{}.example:80", ["a"; 124].join("."));
        assert!(long.parse::<HostPort>().is_err());
    }

    #[test]
    fn h60_port_zero_is_denied_even_where_no_parser_stood_before() {
        let requested = HostPort { host: "10.2.0.1".parse().expect("a host"), port: 0 };
        let resolved = SocketAddr::from(([10, 2, 0, 1], 0));
        for permissions in [Permissions::owner(), one_network()] {
            let decision = permissions.decide(&requested, resolved, &own_sockets());
            assert_eq!(decision, Decision::Denied(Denial::PortZero));
        }
    }
}
