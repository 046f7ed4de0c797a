//! The decisions: may this address be dialled, this Unix socket, may the router listen there?

use std::net::{IpAddr, SocketAddr};

use super::denial::forbidden;
use super::embedded::embedded;
use super::{Decision, Denial, OwnSockets, Permissions, TargetRule, Targets};
use crate::tunnel::{Bind, Host, HostPort, Target, UnixPath};

impl Permissions {
    /// Whether a client that asked for `requested` may have `resolved` dialled.
    ///
    /// `resolved` is an address that `requested` stands for, and exactly this one must be dialled afterwards: a
    /// second look at the name may give another one.
    pub fn decide(&self, requested: &HostPort, resolved: SocketAddr, own: &OwnSockets) -> Decision {
        let (ip, port) = (resolved.ip().to_canonical(), resolved.port());
        if port == 0 || requested.port == 0 {
            return Decision::Denied(Denial::PortZero);
        }
        let inner = match ip {
            IpAddr::V6(v6) => embedded(v6).into_iter().map(IpAddr::V4).collect(),
            IpAddr::V4(_) => Vec::new(),
        };
        if let Some(denial) = denied_to_all(ip, port, own) {
            return Decision::Denied(denial);
        }
        if inner.iter().any(|v4| denied_to_all(*v4, port, own).is_some()) {
            return Decision::Denied(Denial::Embedded);
        }
        self.unless_listed(|rules| is_listed(rules, requested, ip, &inner, port))
    }

    /// Whether the Unix socket at `path` may be dialled.
    ///
    /// In `path` every symbolic link has been followed, and exactly this path must be dialled afterwards.
    pub fn decide_unix(&self, path: &UnixPath, own: &OwnSockets) -> Decision {
        if own.is_private(path) {
            return Decision::Denied(Denial::Private);
        }
        self.unless_listed(|rules| rules.iter().any(|rule| rule.unix() == Some(path)))
    }

    /// Whether `requested` could ever be allowed: what can be refused at once, before anything is resolved. Names and
    /// paths pass when some rule might match; [`Permissions::decide`] and [`Permissions::decide_unix`] have the last
    /// word.
    pub fn may_ever(&self, requested: &Target) -> Decision {
        let requested = match requested {
            Target::Host(requested) => requested,
            Target::Unix(_) => {
                return self.unless_listed(|rules| rules.iter().any(|rule| rule.unix().is_some()));
            }
        };
        let port = requested.port;
        match &requested.host {
            Host::Addr(addr) => {
                self.decide(requested, SocketAddr::new(*addr, port), &OwnSockets::default())
            }
            Host::Name(_) if port == 0 => Decision::Denied(Denial::PortZero),
            Host::Name(name) => {
                self.unless_listed(|rules| rules.iter().any(|rule| rule.might_match(name, port)))
            }
        }
    }

    /// Whether the router may listen at `bind` for the client.
    ///
    /// In the folder of a Unix socket every symbolic link has been followed, and exactly this path must be bound
    /// afterwards.
    pub fn decide_bind(&self, bind: &Bind, own: &OwnSockets) -> Decision {
        let is_listed = || self.binds.iter().any(|rule| rule.matches(bind));
        let denial = match bind {
            Bind::Unix(path) if own.is_private(path) => Some(Denial::Private),
            Bind::Unix(_) => (!is_listed()).then_some(Denial::BindNotListed),
            Bind::Addr(addr) => {
                let (ip, port) = (addr.socket_addr().ip(), addr.socket_addr().port());
                match forbidden(ip.to_canonical()) {
                    // No address of a host; a wildcard is one of all, and a link-local one is the system's to judge.
                    Some(denial @ (Denial::Multicast | Denial::Broadcast)) => Some(denial),
                    _ if own.overlap(ip.to_canonical(), port) => Some(Denial::OwnPort),
                    _ if is_listed() => None,
                    _ => self.unlisted_port(port),
                }
            }
        };
        denial.into()
    }

    /// What speaks against a port that no rule lists.
    const fn unlisted_port(&self, port: u16) -> Option<Denial> {
        match (self.is_owner(), port) {
            (true, 1..Self::FIRST_FREE_PORT) => Some(Denial::LowPort),
            (true, _) => None,
            (false, 0) => Some(Denial::PortChoice),
            (false, _) => Some(Denial::BindNotListed),
        }
    }

    /// An owner may; others may where a rule lists it.
    fn unless_listed(&self, is_listed: impl FnOnce(&[TargetRule]) -> bool) -> Decision {
        let denial = match &self.targets {
            Targets::Listed(rules) if !is_listed(rules) => Some(Denial::NotListed),
            _ => None,
        };
        denial.into()
    }
}

fn denied_to_all(ip: IpAddr, port: u16, own: &OwnSockets) -> Option<Denial> {
    forbidden(ip).or_else(|| own.contains(ip, port).then_some(Denial::OwnSocket))
}

/// An address that carries IPv4 ones is judged as those: else a rule for some IPv6 network that a gateway stands
/// in would open all of IPv4. Where it can be read in several ways, each reading has to be listed.
fn is_listed(
    rules: &[TargetRule],
    requested: &HostPort,
    ip: IpAddr,
    inner: &[IpAddr],
    port: u16,
) -> bool {
    let by_name = match &requested.host {
        Host::Name(name) => rules.iter().any(|rule| rule.matches_name(name, port)),
        Host::Addr(_) => false,
    };
    let by_address = |ip: IpAddr| rules.iter().any(|rule| rule.matches_address(ip, port));
    by_name
        || match inner {
            [] => by_address(ip),
            inner => inner.iter().all(|v4| by_address(*v4)),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(rules: &[&str]) -> Permissions {
        Permissions::targets(rules.iter().map(|rule| rule.parse().expect(rule)).collect())
    }

    fn owner() -> Permissions {
        Permissions::owner()
    }

    fn decide(permissions: &Permissions, requested: &str, resolved: &str) -> Decision {
        permissions.decide(
            &requested.parse().expect(requested),
            resolved.parse().expect(resolved),
            &OwnSockets::default(),
        )
    }

    const ALLOWED: Decision = Decision::Allowed;
    const NOT_LISTED: Decision = Decision::Denied(Denial::NotListed);
    const PRIVATE: Decision = Decision::Denied(Denial::Private);
    const NO_BIND: Decision = Decision::Denied(Denial::BindNotListed);
    const LOW_PORT: Decision = Decision::Denied(Denial::LowPort);
    const PORT_CHOICE: Decision = Decision::Denied(Denial::PortChoice);
    const OWN_PORT: Decision = Decision::Denied(Denial::OwnPort);
    const MULTICAST: Decision = Decision::Denied(Denial::Multicast);

    #[test]
    fn a_network_matches_the_resolved_address_and_a_name_the_requested_one() {
        let some = targets(&["10.2.0.0/16:80", "db.internal:5432"]);
        for (requested, resolved, decision) in [
            ("10.2.3.4:80", "10.2.3.4:80", ALLOWED),
            ("10.2.3.4:80", "[::ffff:10.2.3.4]:80", ALLOWED),
            ("web.internal:80", "10.2.3.4:80", ALLOWED),
            ("web.internal:80", "10.3.3.4:80", NOT_LISTED),
            ("10.2.3.4:81", "10.2.3.4:81", NOT_LISTED),
            ("DB.internal.:5432", "192.168.0.9:5432", ALLOWED),
            ("db.internal:5432", "169.254.169.254:5432", Decision::Denied(Denial::Metadata)),
            ("db.internal:80", "192.168.0.9:80", NOT_LISTED),
            ("xdb.internal:5432", "192.168.0.9:5432", NOT_LISTED),
            ("192.168.0.9:5432", "192.168.0.9:5432", NOT_LISTED),
        ] {
            assert_eq!(decide(&some, requested, resolved), decision, "{requested} {resolved}");
        }
    }

    #[test]
    fn an_address_inside_an_address_is_judged_as_the_inner_one() {
        let outer = targets(&["[::/0]:80"]);
        let inner = targets(&["10.2.0.0/16:80"]);
        for form in ["[64:ff9b::10.2.0.1]:80", "[2002:a02:1::1]:80", "[64:ff9b:1::10.2.0.1]:80"] {
            assert_eq!(decide(&outer, form, form), NOT_LISTED, "{form}");
            assert_eq!(decide(&inner, form, form), ALLOWED, "{form}");
        }
        let two_readings = "[64:ff9b:1:a02:3:400:10.9.0.1]:80";
        assert_eq!(decide(&inner, two_readings, two_readings), NOT_LISTED);
    }

    #[test]
    fn nothing_listed_is_nothing_allowed() {
        assert_eq!(decide(&targets(&[]), "10.2.3.4:80", "10.2.3.4:80"), NOT_LISTED);
    }

    #[test]
    fn what_can_never_be_allowed_is_known_before_it_is_resolved() {
        let some = targets(&["10.2.0.0/16:80", "db.internal:5432"]);
        let a_socket = targets(&["unix:/run/app.sock"]);
        for (requested, as_some, as_owner) in [
            ("10.2.3.4:80", ALLOWED, ALLOWED),
            ("10.3.3.4:80", NOT_LISTED, ALLOWED),
            ("web.internal:80", ALLOWED, ALLOWED),
            ("web.internal:81", NOT_LISTED, ALLOWED),
            ("db.internal:5432", ALLOWED, ALLOWED),
            ("127.0.0.1:80", NOT_LISTED, ALLOWED),
            (
                "[64:ff9b::a9fe:a9fe]:80",
                Decision::Denied(Denial::Embedded),
                Decision::Denied(Denial::Embedded),
            ),
            // A symbolic link may lead from any path to any other.
            ("unix:/run/link.sock", NOT_LISTED, ALLOWED),
        ] {
            let target: Target = requested.parse().expect(requested);
            assert_eq!(some.may_ever(&target), as_some, "{requested}");
            assert_eq!(a_socket.may_ever(&target).is_allowed(), target.host_port().is_none());
            assert_eq!(owner().may_ever(&target), as_owner, "{requested}");
        }
    }

    #[test]
    fn a_unix_socket_is_dialled_by_owners_and_by_who_has_exactly_its_path_listed() {
        let own = OwnSockets::default().with_private(vec!["/home/conduit".into()]);
        let some = targets(&["unix:/run/app.sock", "unix:/home/conduit/r.sock", "[::/0]:*"]);
        for (path, as_some, as_owner) in [
            ("/run/app.sock", ALLOWED, ALLOWED),
            ("/run/docker.sock", NOT_LISTED, ALLOWED),
            ("/run/app.sock/app.sock", NOT_LISTED, ALLOWED),
            ("/home/conduit2/r.sock", NOT_LISTED, ALLOWED),
            ("/home/conduit/r.sock", PRIVATE, PRIVATE),
            ("/home/conduit/tunnels/r.sock", PRIVATE, PRIVATE),
        ] {
            let path = path.parse().expect(path);
            assert_eq!(some.decide_unix(&path, &own), as_some, "{path}");
            assert_eq!(owner().decide_unix(&path, &own), as_owner, "{path}");
        }
    }

    #[test]
    fn a_bind_is_allowed_where_it_is_listed_and_to_owners_at_every_free_port() {
        let own = OwnSockets::new(vec!["192.0.2.7:9999".parse().expect("an address")], vec![])
            .with_private(vec!["/home/conduit".into()]);
        let binds = |rules: &[&str]| rules.iter().map(|rule| rule.parse().expect(rule)).collect();
        let some = Permissions {
            binds: binds(&["10.2.0.1:80,8080", "*:9999", "unix:/run/a", "unix:/home/conduit/a"]),
            ..targets(&["0.0.0.0/0:*"])
        };
        let low = Permissions { binds: binds(&["0.0.0.0:80", "unix:/run/a"]), ..owner() };
        for (bind, as_some, as_owner, as_owner_with_rules) in [
            ("10.2.0.1:8080", ALLOWED, ALLOWED, ALLOWED),
            ("[::ffff:10.2.0.1]:8080", ALLOWED, ALLOWED, ALLOWED),
            ("10.2.0.1:80", ALLOWED, LOW_PORT, ALLOWED),
            ("0.0.0.0:80", NO_BIND, LOW_PORT, ALLOWED),
            ("[::]:80", NO_BIND, LOW_PORT, LOW_PORT),
            ("10.2.0.1:443", NO_BIND, LOW_PORT, LOW_PORT),
            ("10.2.0.1:1023", NO_BIND, LOW_PORT, LOW_PORT),
            ("10.2.0.1:1024", NO_BIND, ALLOWED, ALLOWED),
            ("10.2.0.2:8080", NO_BIND, ALLOWED, ALLOWED),
            ("[::]:65535", NO_BIND, ALLOWED, ALLOWED),
            ("10.2.0.1:0", PORT_CHOICE, ALLOWED, ALLOWED),
            ("[::]:0", PORT_CHOICE, ALLOWED, ALLOWED),
            ("192.0.2.7:9999", OWN_PORT, OWN_PORT, OWN_PORT),
            ("0.0.0.0:9999", OWN_PORT, OWN_PORT, OWN_PORT),
            ("[::]:9999", OWN_PORT, OWN_PORT, OWN_PORT),
            ("192.0.2.8:9999", ALLOWED, ALLOWED, ALLOWED),
            ("224.0.0.251:9999", MULTICAST, MULTICAST, MULTICAST),
            ("[ff02::fb]:5353", MULTICAST, MULTICAST, MULTICAST),
            ("unix:/run/a", ALLOWED, NO_BIND, ALLOWED),
            ("unix:/run/b", NO_BIND, NO_BIND, NO_BIND),
            ("unix:/home/conduit/a", PRIVATE, PRIVATE, PRIVATE),
        ] {
            let bind = bind.parse().expect(bind);
            assert_eq!(some.decide_bind(&bind, &own), as_some, "{bind}");
            assert_eq!(owner().decide_bind(&bind, &own), as_owner, "{bind}");
            assert_eq!(low.decide_bind(&bind, &own), as_owner_with_rules, "{bind}");
        }
    }
}
