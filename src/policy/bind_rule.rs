//! One place where the router may listen for a client: `10.2.0.1:8000-8100`, `*:443`, `unix:/run/app.sock`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::rule::{network_text, parse_network, split, write};
use super::{ParseRuleError, Ports};
use crate::tunnel::{Bind, UnixPath};

/// Addresses of the router's host and ports, or a Unix socket, at which a client may have the router listen.
///
/// Text form: `ADDRESSES:PORTS`, where PORTS is as in [`Ports`] and ADDRESSES is an address, a network (an IPv6 one in
/// brackets), `0.0.0.0` (the wildcard and every address of IPv4) or `*`, also written `[::]` (both wildcards and every
/// address: a socket at `[::]` takes IPv4 too). Or `unix:/absolute/path`, exactly this path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BindRule(Rule);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Rule {
    Ports(Addresses, Ports),
    Unix(UnixPath),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Addresses {
    Any,
    AnyV4,
    Network(IpNet),
}

impl BindRule {
    /// Whether the rule lists `bind`.
    pub(super) fn matches(&self, bind: &Bind) -> bool {
        match (&self.0, bind) {
            (Rule::Ports(addresses, ports), Bind::Addr(addr)) => {
                let addr = addr.socket_addr();
                addresses.contain(addr.ip().to_canonical()) && ports.contains(addr.port())
            }
            (Rule::Unix(listed), Bind::Unix(path)) => listed == path,
            _ => false,
        }
    }
}

impl Addresses {
    fn contain(&self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::AnyV4 => ip.is_ipv4(),
            // A wildcard lies in `0.0.0.0/8`, say, and its socket takes every other address besides.
            Self::Network(network) => network.contains(&ip) && !ip.is_unspecified(),
        }
    }
}

impl FromStr for BindRule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        if let Some(path) = text.strip_prefix(UnixPath::PREFIX) {
            return Ok(Self(Rule::Unix(path.parse()?)));
        }
        let (addresses, ports) = split(text)?;
        Ok(Self(Rule::Ports(parse_addresses(addresses)?, ports.parse()?)))
    }
}

fn parse_addresses(text: &str) -> Result<Addresses, ParseRuleError> {
    if text == "*" {
        return Ok(Addresses::Any);
    }
    if !text.contains('/') && text.parse::<IpAddr>().is_err() {
        return Err(ParseRuleError::BindHost(text.to_owned()));
    }
    Ok(match parse_network(text)? {
        IpNet::V6(v6) if v6.addr().is_unspecified() && v6.prefix_len() == 128 => Addresses::Any,
        IpNet::V4(v4) if v4.addr().is_unspecified() && matches!(v4.prefix_len(), 0 | 32) => {
            Addresses::AnyV4
        }
        network => Addresses::Network(network),
    })
}

impl fmt::Display for BindRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Ports(Addresses::Any, ports) => write(f, "*", ports),
            Rule::Ports(Addresses::AnyV4, ports) => write(f, "0.0.0.0", ports),
            Rule::Ports(Addresses::Network(network), ports) => {
                write(f, &network_text(network), ports)
            }
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
            "127.0.0.1:8080",
            "10.2.0.0/16:80,443",
            "0.0.0.0:8000-8100",
            "0.0.0.0/8:80",
            "[::1]:22",
            "[fd00::/8]:*",
            "[::/0]:443",
            "*:443",
            "*:*",
            "unix:/run/app.sock",
        ] {
            assert_eq!(text.parse::<BindRule>().expect(text).to_string(), text);
        }
        for (text, shorter) in [("[::]:80", "*:80"), ("0.0.0.0/0:80", "0.0.0.0:80")] {
            assert_eq!(text.parse::<BindRule>().expect(text).to_string(), shorter);
        }
    }

    #[test]
    fn a_rule_lists_what_its_sockets_would_take_and_no_more() {
        for (rule, inside, outside) in [
            ("10.2.0.1:80", &["10.2.0.1:80", "[::ffff:10.2.0.1]:80"][..], &["10.2.0.1:81"][..]),
            ("10.2.0.0/16:80", &["10.2.3.4:80"], &["10.3.0.1:80", "0.0.0.0:80", "[::]:80"]),
            ("0.0.0.0:80", &["0.0.0.0:80", "10.2.3.4:80"], &["[::]:80", "[::1]:80", "0.0.0.0:81"]),
            ("0.0.0.0/0:80", &["0.0.0.0:80", "10.2.3.4:80"], &["[::]:80"]),
            ("0.0.0.0/8:80", &["0.1.2.3:80"], &["0.0.0.0:80", "[::ffff:0.0.0.0]:80"]),
            ("[::]:80", &["[::]:80", "[::1]:80", "0.0.0.0:80", "10.2.3.4:80"], &["[::]:81"]),
            ("[::/0]:80", &["[::1]:80"], &["[::]:80", "0.0.0.0:80", "10.2.3.4:80"]),
            ("*:80", &["[::]:80", "0.0.0.0:80", "10.2.3.4:80", "[::1]:80"], &["[::1]:81"]),
            ("*:*", &["[::]:1", "127.0.0.1:65535"], &["127.0.0.1:0", "unix:/run/a"]),
            ("unix:/run/a", &["unix:/run/a"], &["unix:/run/a/b", "unix:/run/b", "*:80"]),
        ] {
            let listed: BindRule = rule.parse().expect(rule);
            for bind in inside {
                assert!(listed.matches(&bind.parse().expect(bind)), "{rule} {bind}");
            }
            for bind in outside {
                assert!(!listed.matches(&bind.parse().expect(bind)), "{rule} {bind}");
            }
        }
    }

    #[test]
    fn a_wrong_rule_says_what_is_wrong() {
        for (text, part) in [
            ("", "has no ports"),
            ("8080", "has no ports"),
            ("[::]", "has no ports"),
            (":8080", "\"\" is not an address"),
            ("web.internal:80", "\"web.internal\" is not an address"),
            ("localhost:80", "\"localhost\" is not an address"),
            ("127.1:80", "\"127.1\" is not an address"),
            ("*/0:80", "is not a network"),
            ("10.2.0.0/33:80", "is not a network"),
            ("10.2.3.4/16:80", "write 10.2.0.0/16"),
            ("::1:80", "in brackets"),
            ("[*]:80", "in brackets"),
            ("[::ffff:10.0.0.1]:80", "write the IPv4 address"),
            ("10.0.0.1:0", "\"0\" is not a port"),
            ("*:90-80", "ends before it begins"),
            ("unix:run/app.sock", "absolute"),
            ("unix:/run/../app.sock", "`..`"),
        ] {
            let message = text.parse::<BindRule>().expect_err(text).to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
