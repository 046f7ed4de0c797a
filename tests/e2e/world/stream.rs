//! Bytes on sockets: patterns, checksums, and how a connection ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use socket2::SockRef;

/// Bytes that differ from position to position and from seed to seed (xorshift).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// SHA-256 of everything up to the end.
pub(crate) fn sha256_of(mut reader: impl Read) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer).expect("bytes") {
            0 => return context.finish().as_ref().to_vec(),
            length => context.update(&buffer[..length]),
        }
    }
}

/// Sends, closes its half, and wants the same bytes and the end.
pub(crate) fn echo(stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut back = Vec::with_capacity(bytes.len());
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            (&*stream).write_all(bytes)?;
            stream.shutdown(Shutdown::Write)
        });
        (&*stream).read_to_end(&mut back)?;
        sender.join().expect("no panic")
    })?;
    if back == bytes { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// Reads to the end and tells whether that was a reset; bytes before it are skipped.
#[track_caller]
pub(crate) fn ends_with_reset(mut stream: &TcpStream) -> bool {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
            Err(error) => panic!("neither an end nor a reset: {error}"),
        }
    }
}

/// Closes with an RST.
pub(crate) fn resets(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(stream);
}

/// What is said there to somebody who says nothing; nothing when that is not over within two seconds.
pub(crate) fn said_at(addr: SocketAddr) -> Option<String> {
    said_within(Duration::from_secs(2), addr)
}

/// The same to somebody of another patience.
pub(crate) fn said_within(patience: Duration, addr: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&addr, patience).ok()?;
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}
