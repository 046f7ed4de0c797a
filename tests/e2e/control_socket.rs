//! H31: the control socket against clients that do not keep to its protocol.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{Service, World, echo};

#[test]
fn h31_malformed_requests_get_the_errors_of_json_rpc_and_the_tunnel_goes_on() {
    let world = World::new();
    let target = Service::echo();
    let (_router, client, tunnel) = world.tunnel_to(target.addr());
    let record = client.home().record(&tunnel.name).expect("a record");
    let socket = record["control_socket"].as_str().expect("a path").to_owned();
    let connect = || {
        let stream = UnixStream::connect(&socket).expect("the control socket");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream
    };
    let answer = |request: &[u8]| -> Option<Value> {
        let mut stream = connect();
        // The other end may hang up before it was told everything.
        let _ = stream.write_all(request);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    };
    let version = answer(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\",\"params\":{}}\n")
        .expect("an answer");
    assert_eq!(version["result"]["version"], env!("CARGO_PKG_VERSION"), "{version}");

    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\",\"params\":{}{}}}\n",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    for (what, request, code) in [
        ("no JSON", b"hello\n".to_vec(), -32_700),
        ("invalid UTF-8", b"{\"a\":\"\xff\xfe\"}\n".to_vec(), -32_700),
        ("NaN", b"{\"jsonrpc\":\"2.0\",\"id\":NaN,\"method\":\"version\"}\n".to_vec(), -32_700),
        ("deep", deep.into_bytes(), -32_700),
        ("no method", b"{\"jsonrpc\":\"2.0\",\"id\":1}\n".to_vec(), -32_600),
        (
            "an unknown method",
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"reboot\",\"params\":{}}\n".to_vec(),
            -32_601,
        ),
    ] {
        let answer = answer(&request).unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer["error"]["code"], code, "{what}: {answer}");
    }

    let mut long = vec![b'x'; 1 << 20];
    long.push(b'\n');
    if let Some(answer) = answer(&long) {
        assert!(answer["error"]["code"].is_i64(), "{answer}");
    }
    // Half a request, and nothing: hung up on after a few seconds, each.
    let start = Instant::now();
    let mut halves: Vec<_> = (0..100).map(|_| connect()).collect();
    for half in &mut halves {
        // Whoever came before there was room for the next may have been hung up on already.
        if let Err(error) = half.write_all(b"{\"jsonrpc\":") {
            assert_eq!(error.kind(), ErrorKind::BrokenPipe, "half a request: {error}");
        }
    }
    let while_waiting =
        client.conduit(&["list", "-o", "json"]).succeeds().took_at_most(Duration::from_secs(3));
    assert_eq!(while_waiting.json()["tunnels"][0]["state"], "ready", "{while_waiting}");
    for mut half in halves {
        let mut rest = Vec::new();
        if let Err(error) = half.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it is hung up on: {error}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    echo(&tunnel.connect(), b"untouched").expect("the same bytes");
    assert_eq!(client.list(&[]).len(), 1);
}
