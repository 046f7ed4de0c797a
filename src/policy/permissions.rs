//! What one client may do, and the decision.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::denial::forbidden;
use super::embedded::embedded;
use super::{Decision, Denial, OwnSockets, TargetRule};
use crate::tunnel::{Host, HostPort};

/// What a client may reach. JSON: `{"owner":true}` or `{"targets":["10.2.0.0/16:80,443"]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Permissions {
    /// Whatever the router's host reaches, loopback included.
    Owner,
    /// What a rule lists and nothing else; an empty list is nothing at all.
    Targets(Vec<TargetRule>),
}

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
        let listed = match self {
            Self::Owner => true,
            Self::Targets(rules) => is_listed(rules, requested, ip, &inner, port),
        };
        if listed { Decision::Allowed } else { Decision::Denied(Denial::NotListed) }
    }

    /// Whether `requested` could ever be allowed: what can be refused at once, before anything is resolved. Names
    /// pass when some rule might match; [`Permissions::decide`] has the last word.
    pub fn may_ever(&self, requested: &HostPort) -> Decision {
        match (&requested.host, self) {
            (Host::Addr(addr), _) => {
                let resolved = SocketAddr::new(*addr, requested.port);
                self.decide(requested, resolved, &OwnSockets::default())
            }
            _ if requested.port == 0 => Decision::Denied(Denial::PortZero),
            (Host::Name(_), Self::Owner) => Decision::Allowed,
            (Host::Name(name), Self::Targets(rules)) => {
                match rules.iter().any(|rule| rule.might_match(name, requested.port)) {
                    true => Decision::Allowed,
                    false => Decision::Denied(Denial::NotListed),
                }
            }
        }
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

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.pad("owner"),
            Self::Targets(rules) if rules.is_empty() => f.pad("nothing"),
            Self::Targets(rules) => {
                let texts: Vec<_> = rules.iter().map(ToString::to_string).collect();
                f.pad(&texts.join(" "))
            }
        }
    }
}

/// The JSON form. An unknown field is an error: a restriction that a newer version wrote must not be overlooked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetRule>>,
}

impl TryFrom<Written> for Permissions {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written { owner: Some(true), targets: None } => Ok(Self::Owner),
            Written { owner: None, targets: Some(rules) } => Ok(Self::Targets(rules)),
            _ => Err("permissions are {\"owner\":true} or {\"targets\":[…]}"),
        }
    }
}

impl From<Permissions> for Written {
    fn from(permissions: Permissions) -> Self {
        match permissions {
            Permissions::Owner => Self { owner: Some(true), targets: None },
            Permissions::Targets(rules) => Self { owner: None, targets: Some(rules) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(rules: &[&str]) -> Permissions {
        Permissions::Targets(rules.iter().map(|rule| rule.parse().expect(rule)).collect())
    }

    fn decide(permissions: &Permissions, requested: &str, resolved: &str) -> Decision {
        permissions.decide(
            &requested.parse().expect(requested),
            resolved.parse().expect(resolved),
            &OwnSockets::default(),
        )
    }

    const NOT_LISTED: Decision = Decision::Denied(Denial::NotListed);

    #[test]
    fn a_network_matches_the_resolved_address_and_a_name_the_requested_one() {
        let some = targets(&["10.2.0.0/16:80", "db.internal:5432"]);
        for (requested, resolved, decision) in [
            ("10.2.3.4:80", "10.2.3.4:80", Decision::Allowed),
            ("10.2.3.4:80", "[::ffff:10.2.3.4]:80", Decision::Allowed),
            ("web.internal:80", "10.2.3.4:80", Decision::Allowed),
            ("web.internal:80", "10.3.3.4:80", NOT_LISTED),
            ("10.2.3.4:81", "10.2.3.4:81", NOT_LISTED),
            ("DB.internal.:5432", "192.168.0.9:5432", Decision::Allowed),
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
            assert_eq!(decide(&inner, form, form), Decision::Allowed, "{form}");
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
        for (requested, as_some, as_owner) in [
            ("10.2.3.4:80", Decision::Allowed, Decision::Allowed),
            ("10.3.3.4:80", NOT_LISTED, Decision::Allowed),
            ("web.internal:80", Decision::Allowed, Decision::Allowed),
            ("web.internal:81", NOT_LISTED, Decision::Allowed),
            ("db.internal:5432", Decision::Allowed, Decision::Allowed),
            ("127.0.0.1:80", NOT_LISTED, Decision::Allowed),
            (
                "[64:ff9b::a9fe:a9fe]:80",
                Decision::Denied(Denial::Embedded),
                Decision::Denied(Denial::Embedded),
            ),
        ] {
            let target: HostPort = requested.parse().expect(requested);
            assert_eq!(some.may_ever(&target), as_some, "{requested}");
            assert_eq!(Permissions::Owner.may_ever(&target), as_owner, "{requested}");
        }
    }

    #[test]
    fn the_json_form_reads_back_and_takes_nothing_else() {
        for text in
            [r#"{"owner":true}"#, r#"{"targets":["10.2.0.0/16:80,443"]}"#, r#"{"targets":[]}"#]
        {
            let permissions: Permissions = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&permissions).expect("json"), text);
        }
        for text in [
            "{}",
            r#"{"owner":false}"#,
            r#"{"owner":true,"targets":[]}"#,
            r#"{"owner":true,"until":5}"#,
            r#"{"targets":["*"]}"#,
        ] {
            assert!(serde_json::from_str::<Permissions>(text).is_err(), "{text}");
        }
        assert_eq!(targets(&["10.2.0.0/16:80,443", "db:1"]).to_string(), "10.2.0.0/16:80,443 db:1");
        assert_eq!(targets(&[]).to_string(), "nothing");
        assert_eq!(Permissions::Owner.to_string(), "owner");
    }
}
