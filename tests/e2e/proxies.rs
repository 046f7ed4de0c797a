//! Networks whose only way out is a proxy: tinyproxy (CONNECT) and microsocks (SOCKS 5).

use std::path::Path;

use crate::world::{Client, OutboundProxy, Router, Service, World, echo, free_port, noise};

/// A client that is enrolled without a proxy.
fn enrolled(world: &World) -> (Router, Client) {
    let router = world.router();
    let client = world.client("C");
    client.enrols(&router.invite(&[]));
    (router, client)
}

#[test]
fn a_tunnel_goes_through_either_kind_of_proxy() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client) = enrolled(&world);
    let (http, socks) =
        (OutboundProxy::tinyproxy(world.path(), ""), OutboundProxy::microsocks(world.path(), &[]));
    for url in [http.url("http", ""), socks.url("socks5", "")] {
        let start = client.start(target.addr()).args(["--carrier", "tls", "--proxy", &url]);
        let tunnel = client.started(&start.succeeds());
        echo(&tunnel.connect(), &noise(1, 4 << 20)).expect("the same bytes");
        assert_eq!(tunnel.listed().expect("the tunnel")["carrier"], "tls");
    }
    let log = std::fs::read_to_string(world.path().join("tinyproxy.log")).expect("its log");
    assert!(log.contains("CONNECT 127.0.0.1:"), "{log}");
}

#[test]
fn a_proxy_that_asks_for_a_password_gets_it_and_nobody_else_does() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client) = enrolled(&world);
    let http = OutboundProxy::tinyproxy(world.path(), "BasicAuth me hunter2canary");
    let socks = OutboundProxy::microsocks(world.path(), &["-u", "me", "-P", "hunter2canary"]);
    let file = world.file("password", "hunter2canary\n");
    private(&file);
    for url in [http.url("http", "me@"), socks.url("socks5", "me@")] {
        let start = || client.start(target.addr()).args(["--carrier", "tls", "--proxy", &url]);
        start().exits(69).says("it wants a user and a password");
        let wrong = start().env("CONDUIT_ROUTER_PROXY_PASSWORD", "wrong");
        wrong.exits(69).says("it wants a user and a password");
        let by_variable = start().env("CONDUIT_ROUTER_PROXY_PASSWORD", "hunter2canary");
        let tunnel = client.started(&by_variable.succeeds());
        echo(&tunnel.connect(), b"through").expect("the same bytes");
        let environment = std::fs::read(format!("/proc/{}/environ", tunnel.pid)).expect("readable");
        let arguments = std::fs::read(format!("/proc/{}/cmdline", tunnel.pid)).expect("readable");
        for text in [environment, arguments, tunnel.log().into_bytes()] {
            assert!(!String::from_utf8_lossy(&text).contains("canary"), "{url}");
        }
        let by_file = start().env("CONDUIT_ROUTER_PROXY_PASSWORD_FILE", &file);
        let tunnel = client.started(&by_file.succeeds());
        echo(&tunnel.connect(), b"through").expect("the same bytes");
    }
    let given = "http://me:hunter2canary@127.0.0.1:1";
    let refused = client.start(target.addr()).args(["--proxy", given]).exits(2);
    let refused = refused.says("CONDUIT_ROUTER_PROXY_PASSWORD");
    assert!(!refused.stderr.contains("does not begin"), "{refused}");
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("private");
}

#[test]
fn what_a_proxy_refuses_is_said_with_its_name() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client) = enrolled(&world);
    let narrow = OutboundProxy::tinyproxy(world.path(), "ConnectPort 443");
    let nobody = free_port();
    for (url, word) in [
        (narrow.url("http", ""), "it answers 403"),
        (format!("http://{nobody}"), "refused"),
        (format!("socks5://{nobody}"), "refused"),
        (format!("socks5://{}", narrow.addr()), "proxy socks5://"),
        (format!("http://{}", target.addr()), "proxy http://"),
    ] {
        let start = client.start(target.addr()).args(["--carrier", "tls", "--proxy", &url]);
        let outcome = start.exits(69).says(word);
        assert!(outcome.stderr.contains("look at the proxy"), "{outcome}");
    }
}

/// Within its own view of the files, the proxy knows a name that nobody else does.
#[test]
fn a_router_whose_name_only_the_proxy_knows_is_reached() {
    let world = World::new();
    let target = Service::echo();
    let (router, client) = enrolled(&world);
    let hosts = world.file("hosts", "127.0.0.1 localhost router.inside\n");
    let socks = OutboundProxy::microsocks_with_hosts(world.path(), &hosts);
    let named = format!("router.inside:{}", router.addr().port());
    let identity = router.identity();
    let start = client.start(target.addr()).args(["--router", &named]);
    let start = start.args(["--router-identity", &identity]);
    let start = start.args(["--proxy", &socks.url("socks5h", "")]);
    let tunnel = client.started(&start.succeeds());
    echo(&tunnel.connect(), b"through").expect("the same bytes");
    assert_eq!(tunnel.listed().expect("the tunnel")["carrier"], "tls");
}
