//! One target that a client may reach: `10.2.0.0/16:80,443`, `[fd00::/8]:22`, `db.internal:5432`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ParsePortsError, Ports};
use crate::tunnel::{Host, ParseAddrError};

/// Hosts and ports that a client may reach.
///
/// Text form: `HOST:PORTS`, where HOST is an address, a network (an IPv6 one in brackets) or a name, and PORTS is
/// as in [`Ports`]. A network matches the resolved address, whatever name led there; a name matches the requested
/// name exactly, without case, whatever it resolves to (short of what nobody reaches).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetRule {
    hosts: Hosts,
    ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Hosts {
    Network(IpNet),
    Name(String),
}

/// Why a text is not a [`TargetRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRuleError {
    /// There is no `:PORTS`.
    #[error("{0:?} has no ports: write HOST:PORTS, as in 10.2.0.0/16:80,443 or db.internal:*")]
    NoPorts(String),
    /// An IPv6 address or network without brackets.
    #[error(
        "{0:?} is ambiguous: write an IPv6 address or network in brackets, as in [fd00::/8]:22"
    )]
    Brackets(String),
    /// What stands after the slash or before it is wrong.
    #[error("{0:?} is not a network: write ADDRESS/LENGTH, as in 10.2.0.0/16 or [fd00::/8]")]
    Network(String),
    /// The network's address has bits beyond its length: a typing error more often than not.
    #[error("{written} has bits beyond its length: write {meant} for the network, or one address")]
    HostBits {
        /// What was written.
        written: String,
        /// The network that it lies in.
        meant: String,
    },
    /// An IPv4-mapped address or network; those are judged as IPv4 and the rule would never match.
    #[error("{0:?} is an IPv6 form of an IPv4 address: write the IPv4 address")]
    Mapped(String),
    /// The host is neither an address nor a name.
    #[error(transparent)]
    Host(#[from] ParseAddrError),
    /// The ports are wrong.
    #[error(transparent)]
    Ports(#[from] ParsePortsError),
}

impl TargetRule {
    /// Whether the rule lists the canonical address `ip`.
    pub(super) fn matches_address(&self, ip: IpAddr, port: u16) -> bool {
        match &self.hosts {
            Hosts::Network(network) => network.contains(&ip) && self.ports.contains(port),
            Hosts::Name(_) => false,
        }
    }

    /// Whether the rule lists the name that was asked for.
    pub(super) fn matches_name(&self, requested: &str, port: u16) -> bool {
        match &self.hosts {
            Hosts::Network(_) => false,
            Hosts::Name(name) => name.eq_ignore_ascii_case(requested) && self.ports.contains(port),
        }
    }

    /// Whether the rule could match some address that `requested` resolves to.
    pub(super) fn might_match(&self, requested: &str, port: u16) -> bool {
        match &self.hosts {
            Hosts::Network(_) => self.ports.contains(port),
            Hosts::Name(_) => self.matches_name(requested, port),
        }
    }
}

impl FromStr for TargetRule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let no_ports = || ParseRuleError::NoPorts(text.to_owned());
        let (host, ports, bracketed) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, ports) = rest.split_once("]:").ok_or_else(no_ports)?;
                (host, ports, true)
            }
            None => {
                let (host, ports) = text.rsplit_once(':').ok_or_else(no_ports)?;
                (host, ports, false)
            }
        };
        if host.contains(':') != bracketed {
            return Err(ParseRuleError::Brackets(text.to_owned()));
        }
        Ok(Self { hosts: parse_hosts(host)?, ports: ports.parse()? })
    }
}

fn parse_hosts(text: &str) -> Result<Hosts, ParseRuleError> {
    let network = if text.contains('/') {
        text.parse::<IpNet>().map_err(|_| ParseRuleError::Network(text.to_owned()))?
    } else {
        match text.parse::<Host>()? {
            Host::Name(name) => return Ok(Hosts::Name(name)),
            Host::Addr(addr) => IpNet::from(addr),
        }
    };
    if network.addr() != network.network() {
        let meant = network.trunc().to_string();
        return Err(ParseRuleError::HostBits { written: text.to_owned(), meant });
    }
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err(ParseRuleError::Mapped(text.to_owned()))
        }
        network => Ok(Hosts::Network(network)),
    }
}

impl fmt::Display for TargetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.hosts {
            Hosts::Name(name) => name.clone(),
            Hosts::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().to_string()
            }
            Hosts::Network(network) => network.to_string(),
        };
        match host.contains(':') {
            true => write!(f, "[{host}]:{}", self.ports),
            false => write!(f, "{host}:{}", self.ports),
        }
    }
}

impl TryFrom<String> for TargetRule {
    type Error = ParseRuleError;

    fn try_from(text: String) -> Result<Self, ParseRuleError> {
        text.parse()
    }
}

impl From<TargetRule> for String {
    fn from(rule: TargetRule) -> Self {
        rule.to_string()
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
        ] {
            let message = text.parse::<TargetRule>().expect_err(text).to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
