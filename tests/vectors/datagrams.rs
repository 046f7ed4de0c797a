//! Datagrams: packets, pieces, and what is neither.

use bytes::{BufMut, Bytes, BytesMut};
use conduit::relay::Reassembly;
use conduit::wire::{
    Datagram, DatagramError, Fragment, piece_size, put_fragment, put_whole, whole_header_len,
};
use serde_json::Value;

use super::{hex, read, text, vectors};

/// [FLW-1]
#[test]
fn packets_have_the_flows_and_the_bytes_of_the_vectors() {
    for vector in vectors(&read("datagrams"), "packets") {
        let (flow, payload) = (number(&vector, "flow"), hex(&vector, "payload"));
        let mut bytes = BytesMut::new();
        put_whole(flow, &mut bytes);
        assert_eq!(bytes.len(), whole_header_len(flow));
        bytes.put_slice(&payload);
        assert_eq!(bytes, hex(&vector, "bytes"), "{}", text(&vector, "name"));
        let whole = Datagram::Whole { flow, payload: payload.into() };
        assert_eq!(Datagram::decode(bytes.freeze()), Ok(whole), "{}", text(&vector, "name"));
    }
}

/// [FLW-2]
#[test]
fn pieces_have_the_numbers_and_the_bytes_of_the_vectors() {
    for vector in vectors(&read("datagrams"), "pieces") {
        let small = |member: &str| vector[member].as_u64().expect(member);
        let piece = Fragment {
            flow: number(&vector, "flow"),
            packet: number(&vector, "packet"),
            index: small("index") as u8,
            count: small("count") as u8,
            total: small("total") as u16,
            payload: hex(&vector, "payload").into(),
        };
        assert_eq!(written(&piece), hex(&vector, "bytes"), "{}", text(&vector, "name"));
        let read = Datagram::decode(hex(&vector, "bytes").into());
        assert_eq!(read, Ok(Datagram::Fragment(piece)), "{}", text(&vector, "name"));
    }
}

/// [FLW-2]
#[test]
fn a_packet_is_cut_as_the_vectors_say_and_whole_again_whatever_comes_first() {
    for vector in vectors(&read("datagrams"), "cuts") {
        let whole = hex(&vector, "whole");
        let pieces: Vec<String> =
            serde_json::from_value(vector["pieces"].clone()).expect("pieces in hex");
        let (count, total) = (pieces.len() as u8, whole.len() as u16);
        let chunks = whole.chunks(piece_size(whole.len(), pieces.len()));
        assert_eq!(chunks.len(), pieces.len());
        let mut reassembly = Reassembly::default();
        let mut complete = None;
        for (index, (payload, bytes)) in chunks.zip(&pieces).enumerate().rev() {
            assert_eq!(complete, None);
            let (flow, packet) = (number(&vector, "flow"), number(&vector, "packet"));
            let (index, payload) = (index as u8, Bytes::copy_from_slice(payload));
            let piece = Fragment { flow, packet, index, count, total, payload };
            assert_eq!(data_encoding::HEXLOWER.encode(&written(&piece)), *bytes);
            complete = reassembly.take(&piece, 0);
        }
        assert_eq!(complete.as_deref(), Some(&whole[..]), "{}", text(&vector, "name"));
    }
}

/// [FLW-1] [FLW-3]
#[test]
fn what_is_malformed_is_told_from_what_only_looks_odd() {
    let file = read("datagrams");
    for vector in vectors(&file, "read") {
        let name = text(&vector, "name");
        let [odd, plain] = ["bytes", "same_as"]
            .map(|bytes| Datagram::decode(hex(&vector, bytes).into()).expect(&name));
        assert_eq!(odd, plain, "{name}");
    }
    for vector in vectors(&file, "refused") {
        let name = match Datagram::decode(hex(&vector, "bytes").into()) {
            Ok(_) => "read",
            Err(DatagramError::Short) => "Short",
            Err(DatagramError::Kind(_)) => "Kind",
            Err(DatagramError::Piece) => "Piece",
        };
        assert_eq!(name, text(&vector, "error"), "{}", text(&vector, "name"));
    }
}

fn written(piece: &Fragment) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_fragment(piece, &mut bytes);
    bytes.to_vec()
}

fn number(vector: &Value, member: &str) -> u64 {
    text(vector, member).parse().expect(member)
}
