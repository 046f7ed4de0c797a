//! TLS 1.3 with raw public keys (RFC 7250) on both sides: no certificate authority, no names, no clock.

use std::fmt;
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::settings::{CipherSuite, PostQuantum, Settings};
use crate::identity::{Keypair, identity_from_spki, spki};
use crate::tunnel::Identity;

/// The application protocol (RFC 7301). [SES-20]
pub(super) const ALPN: &[u8] = b"conduit/1";

/// The TLS settings could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refuses the combination.
    #[error("TLS settings: {0}")]
    Rustls(#[from] rustls::Error),
    /// QUIC needs AES-128-GCM for its first packets.
    #[error("TLS settings: {0}")]
    Suite(#[from] NoInitialCipherSuite),
}

/// The router's side: shows its key, demands one. No resumption and no early data: a revoked key must not come back
/// through a ticket. [SES-21] [SES-22]
pub(super) fn router(
    settings: &Settings,
    keypair: &Keypair,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = provider(settings);
    let verifier = Arc::new(AnyKey { algorithms: provider.signature_verification_algorithms });
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS13)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(keypair)?)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.cert_decompressors.clear();
    Ok(Arc::new(config))
}

/// The client's side: shows its key, accepts the pinned one and no other. [SES-23]
pub(super) fn client(
    settings: &Settings,
    keypair: &Keypair,
    pin: Identity,
) -> Result<(Arc<rustls::ClientConfig>, Arc<PinnedKey>), TlsError> {
    let provider = provider(settings);
    let verifier = Arc::new(PinnedKey {
        pin,
        algorithms: provider.signature_verification_algorithms,
        shown: Mutex::new(None),
    });
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(TLS13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(
            keypair,
        )?)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.cert_decompressors.clear();
    Ok((Arc::new(config), verifier))
}

/// The router's side for QUIC.
pub(super) fn quic_router(
    config: Arc<rustls::ServerConfig>,
) -> Result<QuicServerConfig, NoInitialCipherSuite> {
    QuicServerConfig::with_initial(config, initial_suite())
}

/// The client's side for QUIC.
pub(super) fn quic_client(
    config: Arc<rustls::ClientConfig>,
) -> Result<QuicClientConfig, NoInitialCipherSuite> {
    QuicClientConfig::with_initial(config, initial_suite())
}

/// What may be negotiated. [SES-25]
fn provider(settings: &Settings) -> Arc<CryptoProvider> {
    let cipher_suites = settings
        .cipher_suites
        .iter()
        .map(|suite| match suite {
            CipherSuite::Aes128Gcm => cipher_suite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::Aes256Gcm => cipher_suite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::ChaCha20Poly1305 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        })
        .collect();
    let kx_groups = match settings.post_quantum {
        PostQuantum::Prefer => {
            vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1]
        }
        PostQuantum::Require => vec![kx_group::X25519MLKEM768],
        PostQuantum::Off => vec![kx_group::X25519, kx_group::SECP256R1],
    };
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() })
}

/// QUIC's first packets are protected with AES-128-GCM whatever is negotiated (RFC 9001, 5.2).
fn initial_suite() -> rustls::quic::Suite {
    match cipher_suite::TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => {
            suite.quic_suite().expect("the AES-128-GCM suite of TLS 1.3 has a QUIC form")
        }
    }
}

fn certified(keypair: &Keypair) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let der = keypair.to_pkcs8_der();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
    let key = aws_lc_rs::sign::any_eddsa_type(&match key {
        PrivateKeyDer::Pkcs8(der) => der,
        _ => unreachable!("made of PKCS#8 two lines above"),
    })?;
    Ok(Arc::new(CertifiedKey::new(
        vec![CertificateDer::from(spki(&keypair.identity()).to_vec())],
        key,
    )))
}

/// The identity in what TLS calls a certificate: exactly one Ed25519 key, nothing around it.
pub(super) fn identity_of(key: &CertificateDer<'_>) -> Result<Identity, rustls::Error> {
    identity_from_spki(key)
        .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// Accepts one router and no other.
pub(super) struct PinnedKey {
    pin: Identity,
    algorithms: WebPkiSupportedAlgorithms,
    shown: Mutex<Option<Identity>>,
}

impl PinnedKey {
    /// The key that a router showed instead of the pinned one.
    pub(super) fn impostor(&self) -> Option<Identity> {
        let shown = *self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shown.filter(|shown| *shown != self.pin)
    }
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = only_key(end_entity, intermediates)?;
        *self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(shown);
        if shown == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        possession(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Demands possession of some Ed25519 key. Whose it is and whether it may enter is judged after the handshake, where
/// every refusal looks the same. [SES-26]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        only_key(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        possession(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The one key that a peer shows; a chain is refused.
fn only_key(
    key: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
) -> Result<Identity, rustls::Error> {
    match chain {
        [] => identity_of(key),
        _ => Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)),
    }
}

/// Whether the peer holds the private half of the key that it shows.
fn possession(
    message: &[u8],
    key: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = SubjectPublicKeyInfoDer::from(key.as_ref());
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

impl fmt::Debug for PinnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedKey").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl fmt::Debug for AnyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyKey")
    }
}

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
