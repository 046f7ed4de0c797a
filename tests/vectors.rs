//! Decodes every test vector of `proto-spec/vectors/`, made by another implementation from the same specification.
//! What is decoded here has the fields that the vector lists, and encoded again it is the vector's bytes.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

#[path = "vectors/datagrams.rs"]
mod datagrams;
#[path = "vectors/describe.rs"]
mod describe;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use conduit::identity::{
    BadSpki, Keypair, ParseTicketError, ParseTokenError, Ticket, TicketId, TicketSecret, Token,
    identity_from_spki, spki, ticket_proof_message, token_proof, verify, verify_token_proof,
};
use conduit::tunnel::{Identity, ParseIdentityError};
use conduit::wire::{
    Control, FrameError, Framed, StreamAnswer, StreamHeader, Unsupported, check_version, decode,
    encode, split_frame,
};
use data_encoding::HEXLOWER;
use describe::{describe, describe_header};
use serde_json::{Value, json};

#[test]
fn every_file_is_read_by_a_test_here() {
    let files: Vec<String> = fs::read_dir(folder())
        .expect("proto-spec/vectors")
        .map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".json"))
        .collect();
    let mut known: Vec<String> = FILES.iter().map(|(name, _)| format!("{name}.json")).collect();
    let mut found = files;
    known.sort();
    found.sort();
    assert_eq!(found, known);
    for (name, lists) in FILES {
        let file = read(name);
        for (list, least) in *lists {
            let seen = vectors(&file, list).len();
            assert!(seen >= *least, "{name}.json: {seen} vectors in {list:?}, expected {least}");
        }
        assert_eq!(file.as_object().expect("an object").len(), lists.len() + 1, "{name}.json");
    }
}

/// [SES-1] [SES-3]
#[test]
fn messages_have_the_fields_and_the_bytes_of_the_vectors() {
    let mut kinds = BTreeMap::<String, usize>::new();
    for vector in vectors(&read("messages"), "vectors") {
        let (name, kind) = (text(&vector, "name"), text(&vector, "kind"));
        let bytes = hex(&vector, "frame");
        let (fields, again) = match kind.as_str() {
            "StreamHeader" => both::<StreamHeader>(&bytes, describe_header),
            "StreamAnswer" => both::<StreamAnswer>(
                &bytes,
                |answer| json!({"code": answer.code, "message": answer.message}),
            ),
            _ => both::<Control>(&bytes, |control| {
                let (found, fields) = describe(control.message.as_ref().expect(&name));
                assert_eq!(found, kind, "{name}");
                fields
            }),
        };
        assert_eq!(fields, vector["fields"], "{kind}: {name}");
        assert_eq!(again, bytes, "{kind}: {name}");
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!(kinds.len(), 13, "a kind of message has no vector: {kinds:?}");
}

/// [STR-1] [STR-2] [STR-4]
#[test]
fn headers_and_answers_are_followed_by_their_payload() {
    let file = read("streams");
    for vector in vectors(&file, "headers") {
        let mut buffer = BytesMut::from(&hex(&vector, "bytes")[..]);
        let header: StreamHeader = decode(whole(&mut buffer, 1 << 10)).expect("a header");
        assert_eq!(describe_header(&header), vector["fields"]);
        assert_eq!(&buffer[..], hex(&vector, "payload"));
    }
    for vector in vectors(&file, "answers") {
        let mut buffer = BytesMut::from(&hex(&vector, "bytes")[..]);
        let answer: StreamAnswer = decode(whole(&mut buffer, 1 << 10)).expect("an answer");
        assert_eq!(json!(answer.code), vector["code"]);
        assert_eq!(answer.message, text(&vector, "message"));
        assert_eq!(&buffer[..], hex(&vector, "payload"));
    }
}

/// [SES-2] [SES-3]
#[test]
fn what_is_malformed_is_refused_and_what_only_looks_odd_is_read() {
    let file = read("malformed");
    for vector in vectors(&file, "refused") {
        let limit = usize::try_from(vector["limit"].as_u64().expect("a limit")).expect("small");
        let mut buffer = BytesMut::from(&hex(&vector, "bytes")[..]);
        let outcome = match split_frame(&mut buffer, limit) {
            Ok(Framed::Partial) => "Partial",
            Err(FrameError::TooLong { .. }) => "TooLong",
            Err(FrameError::Malformed(_)) => "Malformed",
            Ok(Framed::Whole(frame)) => {
                let malformed = match text(&vector, "as").as_str() {
                    "Control" => decode::<Control>(frame).is_err(),
                    _ => decode::<StreamHeader>(frame).is_err(),
                };
                if malformed { "Malformed" } else { "read" }
            }
        };
        assert_eq!(outcome, text(&vector, "error"), "{}", text(&vector, "name"));
    }
    for vector in vectors(&file, "read") {
        let (bytes, same) = (hex(&vector, "bytes"), hex(&vector, "same_as"));
        let [odd, plain] = [bytes, same].map(|bytes| match text(&vector, "kind").as_str() {
            "StreamAnswer" => both::<StreamAnswer>(&bytes, |_| Value::Null).1,
            _ => both::<Control>(&bytes, |_| Value::Null).1,
        });
        assert_eq!(odd, plain, "{}", text(&vector, "name"));
    }
}

/// [SES-11] [SES-12]
#[test]
fn versions_and_required_features_come_to_what_the_vectors_say() {
    for vector in vectors(&read("malformed"), "versions") {
        let requires: Vec<u32> =
            serde_json::from_value(vector["requires"].clone()).expect("numbers");
        let version = vector["version"].as_u64().expect("a version") as u32;
        let error = check_version(version, &requires).err().map(|error| match error {
            Unsupported::Version { .. } => "Version",
            Unsupported::Feature { .. } => "Feature",
        });
        assert_eq!(json!(error), vector["error"], "{vector}");
    }
}

/// [TKT-1] [TKT-2] [TKT-3] [TKT-4]
#[test]
fn tickets_read_as_the_vectors_say() {
    let file = read("tickets");
    for vector in vectors(&file, "vectors") {
        let addresses: Vec<String> =
            serde_json::from_value(vector["addresses"].clone()).expect("addresses");
        let ticket = Ticket {
            addresses: addresses.iter().map(|addr| addr.parse().expect("an address")).collect(),
            tcp_ports: serde_json::from_value(vector["tcp_ports"].clone()).expect("ports"),
            router: text(&vector, "router").parse().expect("an identity"),
            id: TicketId(array(&vector, "id")),
            secret: TicketSecret::from_bytes(array(&vector, "secret")),
            single_use: vector["single_use"].as_bool().expect("a truth value"),
            expires: vector["expires"].as_u64().expect("a time"),
        };
        assert_eq!(ticket.to_string(), text(&vector, "text"));
        assert_eq!(text(&vector, "text").parse(), Ok(ticket), "{}", text(&vector, "name"));
    }
    for vector in vectors(&file, "refused") {
        let error = text(&vector, "text").parse::<Ticket>().expect_err(&text(&vector, "name"));
        let name = match error {
            ParseTicketError::Prefix => "Prefix",
            ParseTicketError::Length(_) => "Length",
            ParseTicketError::Alphabet => "Alphabet",
            ParseTicketError::Checksum => "Checksum",
            ParseTicketError::Version(_) => "Version",
            ParseTicketError::Flags => "Flags",
            ParseTicketError::Fields(_) => "Fields",
        };
        assert_eq!(name, text(&vector, "error"), "{}", text(&vector, "name"));
    }
}

/// [SES-40]
#[test]
fn identities_read_as_the_vectors_say() {
    let file = read("identities");
    for vector in vectors(&file, "vectors") {
        let identity = Identity::from_bytes(array(&vector, "key"));
        assert_eq!(Keypair::from_seed(array(&vector, "seed")).identity(), identity);
        assert_eq!(identity.to_string(), text(&vector, "text"));
        assert_eq!(text(&vector, "text").parse(), Ok(identity));
        assert_eq!(&spki(&identity)[..], hex(&vector, "spki"));
        assert_eq!(identity_from_spki(&hex(&vector, "spki")), Ok(identity));
    }
    for vector in vectors(&file, "refused") {
        let error = text(&vector, "text").parse::<Identity>().expect_err(&text(&vector, "name"));
        let name = match error {
            ParseIdentityError::Prefix => "Prefix",
            ParseIdentityError::Length(_) => "Length",
            ParseIdentityError::Alphabet => "Alphabet",
            ParseIdentityError::Checksum => "Checksum",
        };
        assert_eq!(name, text(&vector, "error"), "{}", text(&vector, "name"));
    }
    for vector in vectors(&file, "refused_spki") {
        let name = match identity_from_spki(&hex(&vector, "spki")) {
            Ok(_) => "read",
            Err(BadSpki::Encoding) => "Encoding",
            Err(BadSpki::Key(_)) => "Key",
        };
        assert_eq!(name, text(&vector, "error"), "{}", text(&vector, "name"));
    }
}

/// [SES-41]
#[test]
fn tokens_read_as_the_vectors_say() {
    let file = read("tokens");
    for vector in vectors(&file, "vectors") {
        let token: Token = text(&vector, "text").parse().expect("a token");
        assert_eq!(token.to_string(), text(&vector, "text"));
        assert_eq!(token.id().0, array(&vector, "id"));
        assert_eq!(token.mac_key(), array(&vector, "mac_key"));
    }
    for vector in vectors(&file, "refused") {
        let error = text(&vector, "text").parse::<Token>().expect_err(&text(&vector, "name"));
        let name = match error {
            ParseTokenError::Prefix => "Prefix",
            ParseTokenError::Length(_) => "Length",
            ParseTokenError::Alphabet => "Alphabet",
            ParseTokenError::Checksum => "Checksum",
        };
        assert_eq!(name, text(&vector, "error"), "{}", text(&vector, "name"));
    }
}

/// [SES-16] [SES-17] [SES-18]
#[test]
fn proofs_are_the_ones_of_the_vectors() {
    let file = read("proofs");
    for vector in vectors(&file, "signature") {
        let keypair = Keypair::from_seed(array(&vector, "seed"));
        assert_eq!(keypair.identity().to_string(), text(&vector, "identity"));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &hex(&vector, "hello"));
        let exporter = hex(&vector, "exporter");
        let message = [b"conduit-authenticate-1", &exporter[..], digest.as_ref()].concat();
        assert_eq!(message, hex(&vector, "message"));
        let signature = hex(&vector, "signature");
        assert_eq!(&keypair.sign(&message)[..], signature);
        assert_eq!(verify(&keypair.identity(), &message, &signature), Ok(()));
    }
    for vector in vectors(&file, "ticket") {
        let key = TicketSecret::from_bytes(array(&vector, "secret")).one_time_key();
        assert_eq!(key.identity().to_string(), text(&vector, "one_time_key"));
        let identity = |name| text(&vector, name).parse::<Identity>().expect(name);
        let (router, client) = (identity("router"), identity("client"));
        let message = ticket_proof_message(&array(&vector, "exporter"), &router, &client);
        assert_eq!(message, hex(&vector, "message"));
        assert_eq!(&key.sign(&message)[..], hex(&vector, "proof"));
    }
    for vector in vectors(&file, "token") {
        let token: Token = text(&vector, "token").parse().expect("a token");
        let exporter = array(&vector, "exporter");
        let proof = hex(&vector, "proof");
        assert_eq!(&token_proof(&token.mac_key(), &exporter)[..], proof);
        assert!(verify_token_proof(&token.mac_key(), &exporter, &proof));
    }
}

/// A whole frame's message in words, and its bytes when it is encoded again.
fn both<M: prost::Message + Default>(
    bytes: &[u8],
    describe: impl Fn(&M) -> Value,
) -> (Value, Vec<u8>) {
    let mut buffer = BytesMut::from(bytes);
    let message: M = decode(whole(&mut buffer, 64 << 10)).expect("a message");
    assert!(buffer.is_empty(), "{} bytes left over", buffer.len());
    let mut again = BytesMut::new();
    encode(&message, &mut again);
    (describe(&message), again.to_vec())
}

fn whole(buffer: &mut BytesMut, limit: usize) -> Bytes {
    match split_frame(buffer, limit) {
        Ok(Framed::Whole(frame)) => frame,
        other => panic!("{other:?} instead of a whole frame"),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-spec/vectors")
}

fn read(name: &str) -> Value {
    let text = fs::read_to_string(folder().join(format!("{name}.json"))).expect(name);
    serde_json::from_str(&text).expect(name)
}

fn vectors(file: &Value, list: &str) -> Vec<Value> {
    file[list].as_array().expect(list).clone()
}

fn text(vector: &Value, member: &str) -> String {
    vector[member].as_str().expect(member).to_owned()
}

fn hex(vector: &Value, member: &str) -> Vec<u8> {
    HEXLOWER.decode(text(vector, member).as_bytes()).expect(member)
}

fn array<const N: usize>(vector: &Value, member: &str) -> [u8; N] {
    hex(vector, member).try_into().expect(member)
}

/// A file's lists and how many vectors each has at least.
type Lists = &'static [(&'static str, usize)];

/// Every file with its lists: nothing passes because nothing was there.
const FILES: &[(&str, Lists)] = &[
    ("messages", &[("vectors", 52)]),
    ("streams", &[("headers", 3), ("answers", 2)]),
    ("datagrams", &[("packets", 10), ("pieces", 7), ("cuts", 4), ("read", 3), ("refused", 26)]),
    ("malformed", &[("refused", 15), ("read", 4), ("versions", 5)]),
    ("tickets", &[("vectors", 3), ("refused", 18)]),
    ("identities", &[("vectors", 3), ("refused", 5), ("refused_spki", 8)]),
    ("tokens", &[("vectors", 2), ("refused", 7)]),
    ("proofs", &[("signature", 1), ("ticket", 1), ("token", 1)]),
];
