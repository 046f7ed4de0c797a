//! HAProxy, which speaks the PROXY protocol: in front of a tunnel, and as the service behind it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::{Run, programs::Server};

pub(crate) struct Haproxy(Server);

impl Haproxy {
    /// A service that wants a PROXY header, and answers `VISITOR at VISITED` as it was told.
    pub(crate) fn that_is_told(world: &Path) -> Self {
        Self::start(world, "told", |port| {
            format!(
                "frontend told\n  mode http\n  bind 127.0.0.1:{port} accept-proxy\n  http-request return \
                 status 200 content-type text/plain lf-string \"%[src]:%[src_port] at %[dst]:%[dst_port]\"\n"
            )
        })
    }

    /// A front end that passes every connection on to `server`, with a PROXY header of version 2.
    pub(crate) fn in_front_of(world: &Path, server: SocketAddr) -> Self {
        Self::start(world, "front", |port| {
            format!(
                "listen front\n  mode tcp\n  bind 127.0.0.1:{port}\n  server tunnel {server} send-proxy-v2\n"
            )
        })
    }

    fn start(world: &Path, name: &str, section: impl Fn(u16) -> String) -> Self {
        let file = world.join(format!("{name}.cfg"));
        Self(Server::start(&format!("haproxy-{name}"), world, |port| {
            let text = format!(
                "defaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n{}",
                section(port)
            );
            fs::write(&file, text).expect("a configuration");
            Run::program("haproxy").args(["-db", "-f"]).arg(&file)
        }))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.addr
    }
}
