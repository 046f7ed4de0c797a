//! What TLS agreed on, read from the ServerHello as it passes by: quinn does not tell.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use quinn::crypto::{
    ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn::{ConnectError, ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::internal::msgs::codec::Codec;
use rustls::{CipherSuite, NamedGroup};

/// What TLS agreed on, by the names of the IANA registries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// As in `TLS13_AES_128_GCM_SHA256`.
    pub cipher_suite: String,
    /// As in `X25519MLKEM768`.
    pub key_exchange: String,
}

/// A client configuration whose sessions note what the ServerHello says.
pub(super) struct Observing<C> {
    pub(super) inner: Arc<C>,
    pub(super) seen: Arc<OnceLock<Negotiated>>,
}

impl<C: ClientConfig + 'static> ClientConfig for Observing<C> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(Box::new(Observed { inner, hello: Some(BytesMut::new()), seen: Arc::clone(&self.seen) }))
    }
}

struct Observed {
    inner: Box<dyn Session>,
    /// The start of the router's handshake bytes; `None` once the ServerHello was read.
    hello: Option<BytesMut>,
    seen: Arc<OnceLock<Negotiated>>,
}

impl Observed {
    fn note(&mut self, bytes: &[u8]) {
        let Some(hello) = &mut self.hello else { return };
        hello.extend_from_slice(&bytes[..bytes.len().min(MAX_HELLO - hello.len().min(MAX_HELLO))]);
        match read_server_hello(hello) {
            Hello::Partial if hello.len() < MAX_HELLO => {}
            Hello::Partial | Hello::Malformed => self.hello = None,
            Hello::Retry(length) => {
                let _ = hello.split_to(length);
            }
            Hello::Whole(negotiated) => {
                let _ = self.seen.set(negotiated);
                self.hello = None;
            }
        }
    }
}

impl Session for Observed {
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.note(buf);
        self.inner.read_handshake(buf)
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// Whether bytes are a ServerHello that says what was agreed on: the door of the fuzz target, used by nothing else.
#[doc(hidden)]
pub fn is_server_hello(bytes: &[u8]) -> bool {
    matches!(read_server_hello(bytes), Hello::Whole(_))
}

#[derive(Debug, PartialEq, Eq)]
enum Hello {
    Partial,
    Malformed,
    /// A HelloRetryRequest of so many bytes; the real one follows.
    Retry(usize),
    Whole(Negotiated),
}

/// Reads a ServerHello (RFC 8446, 4.1.3). TLS judges it; this only looks.
fn read_server_hello(bytes: &[u8]) -> Hello {
    let [kind, a, b, c, ..] = *bytes else { return Hello::Partial };
    let length = 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
    if kind != SERVER_HELLO {
        return Hello::Malformed;
    }
    let Some(body) = bytes.get(4..length) else { return Hello::Partial };
    if body.get(2..34) == Some(&RETRY_RANDOM) {
        return Hello::Retry(length);
    }
    agreed(body).map_or(Hello::Malformed, Hello::Whole)
}

fn agreed(body: &[u8]) -> Option<Negotiated> {
    let session_id = usize::from(*body.get(34)?);
    let rest = body.get(35 + session_id..)?;
    let suite = CipherSuite::read_bytes(rest.get(..2)?).ok()?;
    let mut extensions = rest.get(5..)?;
    while let [kind_a, kind_b, length_a, length_b, after @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*length_a, *length_b]));
        if u16::from_be_bytes([*kind_a, *kind_b]) == KEY_SHARE {
            let group = NamedGroup::read_bytes(after.get(..2)?).ok()?;
            return Some(Negotiated {
                cipher_suite: format!("{suite:?}"),
                key_exchange: format!("{group:?}"),
            });
        }
        extensions = after.get(length..)?;
    }
    None
}

const SERVER_HELLO: u8 = 2;
const KEY_SHARE: u16 = 51;
/// A hybrid key share makes about 1,200 bytes; nothing legal needs more than this.
const MAX_HELLO: usize = 4_096;
/// RFC 8446, 4.1.3: SHA-256 of "HelloRetryRequest".
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn server_hello() -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.extend([0, 0x13, 0x01, 0]);
        body.extend([0, 12, 0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0x11, 0xec]);
        let mut hello = vec![SERVER_HELLO, 0, 0, body.len() as u8];
        hello.extend(body);
        hello
    }

    #[test]
    fn the_group_and_the_suite_are_read_once_the_hello_is_whole() {
        let hello = server_hello();
        for cut in 0..hello.len() {
            assert_eq!(read_server_hello(&hello[..cut]), Hello::Partial, "cut at {cut}");
        }
        let agreed = Negotiated {
            cipher_suite: "TLS13_AES_128_GCM_SHA256".into(),
            key_exchange: "X25519MLKEM768".into(),
        };
        assert_eq!(read_server_hello(&hello), Hello::Whole(agreed));
        assert_eq!(read_server_hello(&[1, 0, 0, 0]), Hello::Malformed);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes: Vec<u8>) {
            let _ = read_server_hello(&bytes);
            let _ = read_server_hello(&[&[SERVER_HELLO, 0, 0, bytes.len() as u8], &bytes[..]].concat());
        }
    }
}
