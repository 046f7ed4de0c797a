//! One target that a client may reach: `10.2.0.0/16:80,443`, `[fd00::/8]:22`, `db.internal:5432`,
//! `unix:/run/app.sock`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::rule::{network_text, parse_network, split, write};
use super::{ParseRuleError, Ports};
use crate::tunnel::{Host, UnixPath};

/// Hosts and ports that a client may reach, or a Unix socket of the router's host.
///
/// Text form: `HOST:PORTS`, where HOST is an address, a network (an IPv6 one in brackets) or a name, and PORTS is
/// as in [`Ports`]. A network matches the resolved address, whatever name led there; a name matches the requested
/// name exactly, without case, whatever it resolves to (short of what nobody reaches). Or `unix:/absolute/path`, exactly
/// this path when every symbolic link has been followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetRule(Rule);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Rule {
    Network(IpNet, Ports),
    Name(String, Ports),
    Unix(UnixPath),
}

impl TargetRule {
    /// Whether the rule lists the canonical address `ip`.
    pub(super) fn matches_address(&self, ip: IpAddr, port: u16) -> bool {
        match &self.0 {
            Rule::Network(network, ports) => network.contains(&ip) && ports.contains(port),
            Rule::Name(..) | Rule::Unix(_) => false,
        }
    }

    /// Whether the rule lists the name that was asked for.
    pub(super) fn matches_name(&self, requested: &str, port: u16) -> bool {
        match &self.0 {
            Rule::Name(name, ports) => name.eq_ignore_ascii_case(requested) && ports.contains(port),
            Rule::Network(..) | Rule::Unix(_) => false,
        }
    }

    /// Whether the rule could match some address that `requested` resolves to.
    pub(super) fn might_match(&self, requested: &str, port: u16) -> bool {
        match &self.0 {
            Rule::Network(_, ports) => ports.contains(port),
            Rule::Name(..) => self.matches_name(requested, port),
            Rule::Unix(_) => false,
        }
    }

    /// The Unix socket that the rule lists.
    pub(super) const fn unix(&self) -> Option<&UnixPath> {
        match &self.0 {
            Rule::Unix(path) => Some(path),
            Rule::Network(..) | Rule::Name(..) => None,
        }
    }
}

impl FromStr for TargetRule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        if let Some(path) = text.strip_prefix(UnixPath::PREFIX) {
            return Ok(Self(Rule::Unix(path.parse()?)));
        }
        let (host, ports) = split(text)?;
        if !host.contains('/')
            && let Host::Name(name) = host.parse()?
        {
            return Ok(Self(Rule::Name(name, ports.parse()?)));
        }
        Ok(Self(Rule::Network(parse_network(host)?, ports.parse()?)))
    }
}

impl fmt::Display for TargetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Network(network, ports) => write(f, &network_text(network), ports),
            Rule::Name(name, ports) => write(f, name, ports),
            Rule::Unix(path) => path.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_back_as_they_were_written() {
        for text in [
            "10.2.0.0/16:80,443",
            "10.2.0.2:8080",
            "0.0.0.0/0:*",
            "[fd00::/8]:22",
            "[::1]:22,8000-8100",
            "[::/0]:*",
            "db.internal:5432",
            "localhost:*",
            "unix:/run/app.sock",
        ] {
            let rule: TargetRule = text.parse().expect(text);
            assert_eq!(rule.to_string(), text);
        }
        let folded: TargetRule = "DB.Internal.:5432".parse().expect("a rule");
        assert_eq!(folded.to_string(), "db.internal:5432");
    }

    #[test]
    fn a_wrong_rule_says_what_is_wrong() {
        for (text, part) in [
            ("", "has no ports"),
            ("10.2.0.0/16", "has no ports"),
            ("[::1]", "has no ports"),
            ("fd00::/8:22", "in brackets"),
            ("::1:22", "in brackets"),
            ("[10.0.0.1]:22", "in brackets"),
            ("10.2.0.0/33:80", "is not a network"),
            ("10.2/16:80", "is not a network"),
            ("db.internal/16:80", "is not a network"),
            ("10.2.3.4/16:80", "write 10.2.0.0/16"),
            ("[fd00::1/8]:80", "write fd00::/8"),
            ("[::ffff:10.0.0.1]:80", "write the IPv4 address"),
            ("[::ffff:10.0.0.0/104]:80", "write the IPv4 address"),
            ("127.1:80", "neither an IP address nor a host name"),
            ("*:80", "neither an IP address nor a host name"),
            ("10.0.0.1:0", "is not a port"),
            ("10.0.0.1:", "is not a port"),
            ("unix:app.sock", "absolute"),
            ("unix:/run//app.sock", "empty part"),
        ] {
            let message = text.parse::<TargetRule>().expect_err(text).to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
