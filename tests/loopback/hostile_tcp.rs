//! Callers at the router's TCP port that are no clients, or bad ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use conduit::tunnel::CarrierChoice;

use crate::stage::{Stage, Target, echo, noise, within};

/// A stage and a tunnel over TLS that has to stay well.
async fn stage() -> (Stage, Target, crate::stage::Tunnel) {
    let (stage, target) = (Stage::new().await, Target::echo().await);
    let tunnel = stage.tunnel_with(target.addr, |settings| {
        settings.access.transport.carrier = CarrierChoice::Tls;
    });
    let tunnel = tunnel.await;
    (stage, target, tunnel)
}

/// Waits until the router hangs up, and tells how long that took.
async fn hangs_up(stream: &mut TcpStream, limit: Duration) -> Duration {
    let start = Instant::now();
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(limit, stream.read_to_end(&mut bytes)).await;
    let _ = end.expect("the router hangs up in time");
    start.elapsed()
}

#[tokio::test]
async fn garbage_is_dropped_at_its_first_byte() {
    let (stage, _target, tunnel) = stage().await;
    let addr = stage.router.local_addr();
    for first in ["GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n", "\0\0\0\0", "\u{15}\u{3}"] {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(first.as_bytes()).await.expect("said");
        hangs_up(&mut stream, Duration::from_secs(2)).await;
    }
    // 100 MB of it.
    let (mut sent, garbage) = (0, noise(9, 1 << 20));
    while sent < 100 << 20 {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        while sent < 100 << 20 && stream.write_all(&garbage).await.is_ok() {
            sent += garbage.len();
        }
        // One that was refused before it had said anything costs a byte.
        sent += 1;
    }
    echo(tunnel.local_addr(), &noise(1, 100_000)).await;
}

#[tokio::test]
async fn who_says_nothing_is_let_go_and_keeps_nobody_out() {
    let (stage, _target, tunnel) = stage().await;
    let addr = stage.router.local_addr();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(addr).await.expect("a connection"));
    }
    // More than one source may have: the others are hung up on at once.
    hangs_up(&mut silent[199], Duration::from_secs(2)).await;
    echo(tunnel.local_addr(), &noise(1, 100_000)).await;
    let mut early = silent.swap_remove(0);
    hangs_up(&mut early, Duration::from_secs(15)).await;
    // And when they are gone, there is room again.
    drop(silent);
    let (target, start) = (Target::echo().await, Instant::now());
    let next = stage.tunnel_with(target.addr, |settings| {
        settings.access.transport.carrier = CarrierChoice::Tls;
    });
    echo(next.await.local_addr(), b"room").await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_rush_at_the_door_keeps_nobody_out_who_comes_over_tls() {
    let (stage, target, _tunnel) = stage().await;
    // So many in a second that who comes over UDP has to prove an address.
    let mut rush = Vec::new();
    for _ in 0..60 {
        rush.push(TcpStream::connect(stage.router.local_addr()).await.expect("a connection"));
    }
    drop(rush);
    let next = stage.try_tunnel(target.addr, |settings| {
        settings.access.transport.carrier = CarrierChoice::Tls;
        settings.tunnel.name = "next".parse().expect("a name");
    });
    echo(next.await.expect("a tunnel").local_addr(), b"in").await;
}

#[tokio::test]
async fn frames_that_cannot_be_end_the_connection_and_packets_of_nobody_do_not() {
    let (stage, _target, tunnel) = stage().await;
    let addr = stage.router.local_addr();
    for bad in [&[0, 0, 0, 0][..], &[0, 5, 0, 0], &[0, 5, 0, 6, 1, 2, 3, 4, 5], &[0, 65, 0, 1]] {
        let mut tls = dial(addr).await;
        tls.write_all(bad).await.expect("said");
        assert!(ends(&mut tls).await, "{bad:?}");
    }
    let mut tls = dial(addr).await;
    for length in [1_u16, 1_200, 65_000] {
        let mut frame = [length.to_be_bytes(), 1_200.min(length).to_be_bytes()].concat();
        frame.extend(noise(length.into(), length.into()));
        tls.write_all(&frame).await.expect("said");
    }
    tls.flush().await.expect("sent");
    echo(tunnel.local_addr(), &noise(1, 100_000)).await;
    let more = tokio::time::timeout(Duration::from_millis(500), tls.read(&mut [0; 1])).await;
    assert!(more.is_err() || matches!(more, Ok(Ok(1..))), "it is still there: {more:?}");
}

#[tokio::test]
async fn a_caller_without_a_key_or_with_another_protocol_gets_no_further_than_tls() {
    let (stage, _target, tunnel) = stage().await;
    let addr = stage.router.local_addr();
    for (with_key, protocol) in [(false, &b"conduit/1"[..]), (true, b"h2"), (true, b"conduit/2")] {
        let refused = match try_dial(addr, with_key, protocol).await {
            Err(_) => true,
            // In TLS 1.3 the client is done before the router has judged its key.
            Ok(mut tls) => ends(&mut tls).await,
        };
        assert!(refused, "{with_key} {protocol:?}");
    }
    within(Duration::from_secs(1), "the router is well", || {
        stage.router.metrics().contains("conduit_sessions")
    })
    .await;
    echo(tunnel.local_addr(), &noise(1, 100_000)).await;
}

/// Whether nothing comes any more.
async fn ends(tls: &mut tokio_rustls::client::TlsStream<TcpStream>) -> bool {
    let mut bytes = [0; 16];
    let end = tokio::time::timeout(Duration::from_secs(2), tls.read(&mut bytes)).await;
    !matches!(end.expect("in time"), Ok(1..))
}

/// TLS with some key.
async fn dial(addr: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    try_dial(addr, true, b"conduit/1").await.expect("TLS")
}

async fn try_dial(
    addr: SocketAddr,
    with_key: bool,
    protocol: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let crypto = raw_keys::client(with_key, protocol);
    let stream = TcpStream::connect(addr).await?;
    let name = rustls::pki_types::ServerName::try_from("conduit.invalid").expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(crypto)).connect(name, stream).await
}

/// A TLS client that takes any router.
mod raw_keys {
    use std::sync::Arc;

    use conduit::identity::{Keypair, spki};
    use rustls::client::AlwaysResolvesClientRawPublicKeys;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
    use rustls::sign::CertifiedKey;
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    pub(super) fn client(with_key: bool, protocol: &[u8]) -> rustls::ClientConfig {
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = if with_key {
            let keypair = Keypair::generate().expect("a key");
            let der = keypair.to_pkcs8_der();
            let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_slice()));
            let shown = vec![CertificateDer::from(spki(&keypair.identity()).to_vec())];
            let key = Arc::new(CertifiedKey::new(shown, key.expect("an Ed25519 key")));
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)))
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config
    }

    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            unreachable!("TLS 1.3 alone is offered")
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    }
}
