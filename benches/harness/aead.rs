//! The cryptography of a packet by itself: the suite that is negotiated, by the functions that QUIC calls.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{Keys, Version};
use rustls::{Side, SupportedCipherSuite};

/// Packets that are sealed and opened again, each in its place.
pub(crate) struct Packets {
    near: Keys,
    far: Keys,
    number: u64,
    bytes: Vec<u8>,
    payload: usize,
}

impl Packets {
    /// `size` is that of the UDP payload: header, payload and tag.
    pub(crate) fn new(size: usize) -> Self {
        let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256;
        let suite = suite.quic_suite().expect("the suite has a QUIC form");
        let keys = |side| suite.keys(b"benchmark", side, Version::V1);
        let (near, far) = (keys(Side::Client), keys(Side::Server));
        let payload = size - HEADER - near.local.packet.tag_len();
        Self { near, far, number: 0, bytes: vec![7; size], payload }
    }

    /// One packet there.
    pub(crate) fn seal(&mut self) {
        let (header, rest) = self.bytes.split_at_mut(HEADER);
        let (payload, tag) = rest.split_at_mut(self.payload);
        let key = &self.near.local.packet;
        let sealed = key.encrypt_in_place(self.number, header, payload).expect("a packet");
        tag.copy_from_slice(sealed.as_ref());
        self.number += 1;
    }

    /// The same packet back.
    pub(crate) fn open(&mut self) {
        let (header, sealed) = self.bytes.split_at_mut(HEADER);
        let key = &self.far.remote.packet;
        let opened = key.decrypt_in_place(self.number - 1, header, sealed);
        assert_eq!(opened.expect("what was sealed opens").len(), self.payload);
    }
}

/// Seconds of one core for sealing and opening 10^9 bytes of packets of a size: the fastest of some slices, since a
/// pause of the machine is not the cipher's.
pub(crate) fn seconds_per_gb(size: usize) -> f64 {
    let mut packets = Packets::new(size);
    let slices = (0..SLICES).map(|_| {
        let (start, mut count) = (Instant::now(), 0_u64);
        while start.elapsed() < SLICE {
            for _ in 0..100 {
                packets.seal();
                packets.open();
            }
            count += 100;
        }
        black_box(&packets.bytes);
        start.elapsed().as_secs_f64() / (count as f64 * size as f64 / 1e9)
    });
    slices.fold(f64::INFINITY, f64::min)
}

const SLICES: usize = 20;
const SLICE: Duration = Duration::from_millis(3);
/// Smallest and ordinary Ethernet packets, and those of loopback.
pub(crate) const SIZES: [usize; 4] = [1_200, 1_452, 6_550, 13_000];
/// A short header with a connection id of eight bytes and a packet number of four.
const HEADER: usize = 13;
