//! A client that says whatever a test wants: the protocol by hand, over a connection that TLS has let through.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use conduit::identity::Keypair;
use conduit::transport::{ClientEndpoint, Connection, ConnectionError, RecvStream, SendStream};
use conduit::wire::{
    Authenticate, Control, Hello, VERSION, control::Message, decode, encode, split_frame,
};
use prost::Message as _;

use crate::stage::Stage;

pub(crate) struct Stranger {
    pub(crate) connection: Connection,
    pub(crate) keypair: Arc<Keypair>,
    _endpoint: ClientEndpoint,
}

/// A stranger that was admitted, with its control stream.
pub(crate) struct Admitted {
    pub(crate) stranger: Stranger,
    pub(crate) control: SendStream,
    pub(crate) answers: RecvStream,
}

impl Stranger {
    /// Connected with a key that the router knows, and silent so far.
    pub(crate) async fn at(stage: &Stage) -> Self {
        Self::with(stage, Arc::clone(&stage.owner)).await
    }

    /// Connected with this key, and silent so far.
    pub(crate) async fn with(stage: &Stage, keypair: Arc<Keypair>) -> Self {
        let addr = stage.router.local_addr();
        let endpoint = ClientEndpoint::bind(stage.transport.clone(), addr).expect("an endpoint");
        let connection =
            endpoint.connect(addr, &keypair, stage.router.identity()).await.expect("a connection");
        Self { connection, keypair, _endpoint: endpoint }
    }

    /// Connected and admitted.
    pub(crate) async fn admitted_at(stage: &Stage) -> Admitted {
        Self::at(stage).await.admitted().await
    }

    /// Admitted.
    pub(crate) async fn admitted(self) -> Admitted {
        let hello = self.hello();
        self.admitted_with(hello).await
    }

    /// Admitted with this Hello.
    pub(crate) async fn admitted_with(self, hello: Hello) -> Admitted {
        let stranger = self;
        let (mut control, mut answers) = stranger.connection.open().await.expect("a stream");
        let said = stranger.introduction_with(hello);
        control.write_all(&said).await.expect("an introduction");
        let mut buffer = BytesMut::new();
        let answer = next(&mut answers, &mut buffer).await.expect("an answer");
        assert!(matches!(answer.message, Some(Message::Accepted(_))), "{answer:?}");
        Admitted { stranger, control, answers }
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            instance: Bytes::from_static(&[9; 16]),
            name: "stranger".into(),
            ..Hello::default()
        }
    }

    /// Proof for exactly this connection and this Hello.
    pub(crate) fn authenticate(&self, hello: &Hello) -> Authenticate {
        let said = Control { message: Some(Message::Hello(hello.clone())) }.encode_to_vec();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &said);
        let signed =
            [b"conduit-authenticate-1", &self.connection.exporter()[..], digest.as_ref()].concat();
        Authenticate {
            signature: self.keypair.sign(&signed).to_vec().into(),
            ..Authenticate::default()
        }
    }

    /// Hello and Authenticate as an honest client sends them.
    pub(crate) fn introduction(&self) -> Vec<u8> {
        self.introduction_with(self.hello())
    }

    fn introduction_with(&self, hello: Hello) -> Vec<u8> {
        let proof = self.authenticate(&hello);
        [frame(Message::Hello(hello)), frame(Message::Authenticate(proof))].concat()
    }

    /// Says these bytes on the first stream and waits for how the router ends the connection.
    pub(crate) async fn says(self, bytes: &[u8]) -> ConnectionError {
        let (mut control, _answers) = self.connection.open().await.expect("a stream");
        // The router may hang up before it has heard everything.
        let _ = control.write_all(bytes).await;
        ends(&self.connection).await
    }
}

/// One message as a frame of the control stream.
pub(crate) fn frame(message: Message) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(&Control { message: Some(message) }, &mut bytes);
    bytes.to_vec()
}

/// The next message of a stream.
pub(crate) async fn next(stream: &mut RecvStream, buffer: &mut BytesMut) -> Option<Control> {
    loop {
        if let Ok(conduit::wire::Framed::Whole(frame)) = split_frame(buffer, 64 << 10) {
            return decode(frame).ok();
        }
        let chunk = stream.read_chunk(4_096, true).await.ok()??;
        buffer.extend_from_slice(&chunk.bytes);
    }
}

/// How the connection ends, which it has to within 10 seconds.
pub(crate) async fn ends(connection: &Connection) -> ConnectionError {
    tokio::time::timeout(Duration::from_secs(10), connection.closed())
        .await
        .expect("the router hangs up")
}
