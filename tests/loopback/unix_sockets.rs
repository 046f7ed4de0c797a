//! Tunnels with a Unix socket at either end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conduit::client::Failure;
use conduit::identity::Keypair;
use conduit::policy::Permissions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::stage::{Stage, noise, within};

/// Sends back what it gets.
fn serve(path: &Path) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("a listener");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    })
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_from_socket_to_socket_carries_bytes_and_half_closes() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (bind, source) = (folder.path().join("near.sock"), folder.path().join("far.sock"));
    let service = serve(&source);
    let unused = "127.0.0.1:9".parse().expect("an address");
    let tunnel = stage
        .tunnel_with(unused, |settings| {
            settings.tunnel.bind = unix(&bind).parse().expect("a bind");
            settings.tunnel.source = unix(&source).parse().expect("a source");
        })
        .await;
    assert_eq!(tunnel.bind().to_string(), unix(&bind));

    let bytes = noise(1, 3 << 20);
    let mut user = UnixStream::connect(&bind).await.expect("connected");
    let (mut read, mut write) = user.split();
    let mut back = Vec::new();
    let sending = async {
        write.write_all(&bytes).await.expect("sent");
        write.shutdown().await.expect("the half closed");
    };
    let receiving = async { read.read_to_end(&mut back).await.expect("received") };
    tokio::join!(sending, receiving);
    assert!(back == bytes, "other bytes came back");

    service.abort();
    let _ = service.await;
    let mut user = UnixStream::connect(&bind).await.expect("connected");
    assert_eq!(user.read(&mut [0]).await.unwrap_or(0), 0, "nobody serves it");
    within(Duration::from_secs(5), "the reason is told", || {
        tunnel.last_error().is_some_and(|error| error.contains("is the service running?"))
    })
    .await;
    tunnel.shutdown(Duration::from_secs(1)).await;
    drop(tunnel);
    assert!(!bind.exists(), "the socket goes with its tunnel");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_the_right_gets_no_unix_socket_of_the_router() {
    let stage = Stage::new().await;
    let guest = Arc::new(Keypair::generate().expect("a key"));
    let rules = vec!["127.0.0.0/8:*".parse().expect("a rule")];
    stage.admits(guest.identity(), Permissions::targets(rules)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("far.sock");
    let _service = serve(&source);
    let unused = "127.0.0.1:9".parse().expect("an address");
    let result = stage
        .try_tunnel(unused, |settings| {
            settings.access.keypair = guest;
            settings.tunnel.source = unix(&source).parse().expect("a source");
        })
        .await;
    let error = result.expect_err("denied");
    assert_eq!(error.failure(), Failure::Policy, "{error}");
}
