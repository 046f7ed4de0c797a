//! An outbound proxy: `http://proxy.example:3128`, `socks5://user@10.0.0.1:1080`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{HostPort, ParseAddrError};

/// What connections to a router by TCP go through.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// How it is spoken to.
    pub protocol: ProxyKind,
    /// Where it is.
    pub addr: HostPort,
    /// Whom it knows, where it asks.
    pub user: Option<String>,
    /// Never shown: `Debug` and `Display` leave it out.
    pub password: Option<Zeroizing<String>>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyKind {
    /// CONNECT (RFC 9110, 9.3.6), over plain TCP.
    Http,
    /// SOCKS version 5 (RFC 1928).
    Socks5,
}

/// A text is no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseProxyError {
    /// Another scheme, or none.
    #[error("it does not begin with http:// or socks5://, as in http://proxy.example:3128")]
    Scheme,
    /// A password stands where everybody reads it.
    #[error(
        "a proxy's password does not belong here, where others can read it: use proxy_password_file, or the variable \
         CONDUIT_ROUTER_PROXY_PASSWORD"
    )]
    Password,
    /// The user's name is empty, or longer than SOCKS can carry.
    #[error("a proxy's user has 1 to 255 characters")]
    User,
    /// No host and port.
    #[error(transparent)]
    Addr(#[from] ParseAddrError),
}

impl FromStr for Proxy {
    type Err = ParseProxyError;

    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "http" => ProxyKind::Http,
            // The `h` says that the proxy resolves names, which it does where this machine cannot.
            "socks5" | "socks5h" => ProxyKind::Socks5,
            _ => return Err(ParseProxyError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, addr) = match rest.rsplit_once('@') {
            Some((user, addr)) => (Some(user.to_owned()), addr),
            None => (None, rest),
        };
        match &user {
            Some(user) if user.contains(':') => return Err(ParseProxyError::Password),
            Some(user) if user.is_empty() || user.len() > 255 => return Err(ParseProxyError::User),
            _ => {}
        }
        Ok(Self { protocol, addr: addr.parse()?, user, password: None })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        write!(f, "{scheme}://{user}{}", self.addr)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_reads_back_as_it_was_written_and_never_shows_its_password() {
        for (text, shown) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("HTTP://Proxy.Example:3128/", "http://proxy.example:3128"),
            ("socks5h://me@[::1]:1080", "socks5://me@[::1]:1080"),
            ("socks5://a@b@10.0.0.1:1", "socks5://a@b@10.0.0.1:1"),
        ] {
            let mut proxy: Proxy = text.parse().expect(text);
            proxy.password = Some("hunter2".to_owned().into());
            assert_eq!((proxy.to_string(), format!("{proxy:?}")), (shown.into(), shown.into()));
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_with_the_reason() {
        for (text, reason) in [
            ("proxy:3128", "does not begin with"),
            ("https://proxy:3128", "does not begin with"),
            ("socks4://proxy:1080", "does not begin with"),
            ("http://proxy", "port"),
            ("http://me:secret@proxy:1", "CONDUIT_ROUTER_PROXY_PASSWORD"),
            ("http://@proxy:1", "1 to 255"),
            ("http://proxy:1/path", "port"),
        ] {
            let error = text.parse::<Proxy>().expect_err(text).to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
