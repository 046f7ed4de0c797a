//! What the rules for targets and those for binds have in common: how they are written, and what can be wrong.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{BindRule, ParsePortsError, Ports, TargetRule};
use crate::tunnel::{ParseAddrError, UnixPathError};

/// Why a text is not a [`TargetRule`] or not a [`BindRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRuleError {
    /// There is no `:PORTS`.
    #[error("{0:?} has no ports: write them after a colon, as in 10.2.0.0/16:80,443 or 10.2.0.2:*")]
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
    /// The host of a target is neither an address nor a name.
    #[error(transparent)]
    Host(#[from] ParseAddrError),
    /// A bind at a name, or at nothing.
    #[error("{0:?} is not an address: a bind's rule has an address, a network, or * for any")]
    BindHost(String),
    /// The ports are wrong.
    #[error(transparent)]
    Ports(#[from] ParsePortsError),
    /// The path of a Unix socket is none.
    #[error(transparent)]
    Unix(#[from] UnixPathError),
}

/// The host and the ports of `HOST:PORTS`. Brackets are taken off, and required around an IPv6 host.
pub(super) fn split(text: &str) -> Result<(&str, &str), ParseRuleError> {
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
    Ok((host, ports))
}

/// Reads a network; an address is a network of one.
pub(super) fn parse_network(text: &str) -> Result<IpNet, ParseRuleError> {
    let network = match text.parse::<IpAddr>() {
        Ok(addr) => IpNet::from(addr),
        Err(_) => text.parse().map_err(|_| ParseRuleError::Network(text.to_owned()))?,
    };
    if network.addr() != network.network() {
        let meant = network.trunc().to_string();
        return Err(ParseRuleError::HostBits { written: text.to_owned(), meant });
    }
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err(ParseRuleError::Mapped(text.to_owned()))
        }
        network => Ok(network),
    }
}

/// A network as it is written; one of a single address as that address.
pub(super) fn network_text(network: &IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

/// Writes what [`split`] reads.
pub(super) fn write(f: &mut fmt::Formatter<'_>, host: &str, ports: &Ports) -> fmt::Result {
    match host.contains(':') {
        true => write!(f, "[{host}]:{ports}"),
        false => write!(f, "{host}:{ports}"),
    }
}

macro_rules! text_conversions {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = ParseRuleError;
            fn try_from(text: String) -> Result<Self, ParseRuleError> { text.parse() }
        }
        impl From<$type> for String {
            fn from(rule: $type) -> Self { rule.to_string() }
        }
    )*};
}
text_conversions!(TargetRule, BindRule);
