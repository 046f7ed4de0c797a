//! Decodes every test vector of `proto-spec/vectors/`, made by another implementation from the same specification.
//! What is decoded here has the fields that the vector lists, and encoded again it is the vector's bytes.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

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
    Accepted, Authenticate, Control, Datagram, DatagramError, Declare, Declared, Delivered,
    FlowClose, FlowOpen, Fragment, FrameError, Framed, GoAway, Hello, Replaced, StreamAnswer,
    StreamHeader, Unsupported, Withdraw, check_version, control::Message, decode, encode,
    put_fragment, put_whole, split_frame,
};
use data_encoding::HEXLOWER;
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

/// [FLW-1] [FLW-2]
#[test]
fn datagrams_have_the_fields_and_the_bytes_of_the_vectors() {
    let file = read("datagrams");
    let read_as = |vector: &Value, member: &str| Datagram::decode(hex(vector, member).into());
    for vector in vectors(&file, "whole") {
        let flow = text(&vector, "flow").parse().expect("a number");
        let payload = Bytes::from(hex(&vector, "payload"));
        let mut again = BytesMut::new();
        put_whole(flow, &mut again);
        again.extend_from_slice(&payload);
        assert_eq!(read_as(&vector, "bytes"), Ok(Datagram::Whole { flow, payload }));
        assert_eq!(&again[..], hex(&vector, "bytes"), "{}", text(&vector, "name"));
    }
    for vector in vectors(&file, "pieces") {
        let small = |member: &str| vector[member].as_u64().expect(member) as u16;
        let piece = Fragment {
            flow: text(&vector, "flow").parse().expect("a number"),
            packet: text(&vector, "packet").parse().expect("a number"),
            index: small("index") as u8,
            count: small("count") as u8,
            total: small("total"),
            payload: hex(&vector, "payload").into(),
        };
        let mut again = BytesMut::new();
        put_fragment(&piece, &mut again);
        assert_eq!(read_as(&vector, "bytes"), Ok(Datagram::Fragment(piece)));
        assert_eq!(&again[..], hex(&vector, "bytes"), "{}", text(&vector, "name"));
    }
    for vector in vectors(&file, "longer") {
        let datagram = read_as(&vector, "bytes");
        assert!(datagram.is_ok(), "{}: {datagram:?}", text(&vector, "name"));
        assert_eq!(datagram, read_as(&vector, "same_as"), "{}", text(&vector, "name"));
    }
}

/// [FLW-2] [FLW-3]
#[test]
fn malformed_datagrams_are_refused_for_the_reason_of_the_vectors() {
    for vector in vectors(&read("datagrams"), "refused") {
        let error = match Datagram::decode(hex(&vector, "bytes").into()) {
            Err(DatagramError::Short) => "Short",
            Err(DatagramError::Kind(_)) => "Kind",
            Err(DatagramError::Piece) => "Piece",
            Ok(_) => "read",
        };
        assert_eq!(error, text(&vector, "error"), "{}", text(&vector, "name"));
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

fn describe(message: &Message) -> (&'static str, Value) {
    match message {
        Message::Hello(hello) => ("Hello", describe_hello(hello)),
        Message::Authenticate(proof) => ("Authenticate", describe_authenticate(proof)),
        Message::Accepted(accepted) => ("Accepted", describe_accepted(accepted)),
        Message::Declare(declare) => ("Declare", describe_declare(declare)),
        Message::Declared(declared) => ("Declared", describe_declared(declared)),
        Message::Withdraw(Withdraw { tunnel }) => ("Withdraw", json!({"tunnel": tunnel})),
        Message::Delivered(report) => ("Delivered", describe_delivered(report)),
        Message::GoAway(leave) => ("GoAway", describe_go_away(leave)),
        Message::Replaced(Replaced { tunnel, by, since }) => {
            ("Replaced", json!({"tunnel": tunnel, "by": by, "since": since}))
        }
        Message::FlowOpen(open) => ("FlowOpen", describe_flow_open(open)),
        Message::FlowClose(FlowClose { flow, code, message }) => {
            let fields = json!({"flow": flow.to_string(), "code": code, "message": message});
            ("FlowClose", fields)
        }
    }
}

fn describe_hello(hello: &Hello) -> Value {
    json!({
        "version": hello.version, "requires": hello.requires, "name": hello.name,
        "instance": HEXLOWER.encode(&hello.instance), "group": hello.group,
        "conduit_version": hello.conduit_version, "system": hello.system,
    })
}

fn describe_authenticate(proof: &Authenticate) -> Value {
    json!({
        "signature": HEXLOWER.encode(&proof.signature),
        "token_id": HEXLOWER.encode(&proof.token_id),
        "token_proof": HEXLOWER.encode(&proof.token_proof),
        "ticket_id": HEXLOWER.encode(&proof.ticket_id),
        "ticket_proof": HEXLOWER.encode(&proof.ticket_proof),
    })
}

fn describe_accepted(accepted: &Accepted) -> Value {
    let permissions = accepted.permissions.as_ref();
    let limits = accepted.limits.as_ref();
    json!({
        "version": accepted.version, "requires": accepted.requires, "name": accepted.name,
        "session_id": HEXLOWER.encode(&accepted.session_id),
        "permissions": permissions.map(|may| {
            json!({"owner": may.owner, "targets": may.targets, "binds": may.binds})
        }),
        "limits": limits.map(|most| json!({"streams": most.streams, "undelivered": most.undelivered})),
        "conduit_version": accepted.conduit_version,
    })
}

fn describe_declare(declare: &Declare) -> Value {
    json!({
        "version": declare.version, "requires": declare.requires, "tunnel": declare.tunnel,
        "name": declare.name, "direction": declare.direction, "protocol": declare.protocol,
        "bind": declare.bind, "sources": declare.sources, "group": declare.group,
        "proxy_protocol": declare.proxy_protocol, "max_flows": declare.max_flows,
        "flow_idle_ms": declare.flow_idle_ms.to_string(), "oversize": declare.oversize,
        "trusted_proxies": declare.trusted_proxies,
    })
}

fn describe_declared(declared: &Declared) -> Value {
    json!({
        "tunnel": declared.tunnel, "bind": declared.bind, "code": declared.code,
        "message": declared.message,
    })
}

fn describe_delivered(report: &Delivered) -> Value {
    let decimal = |numbers: &[u64]| -> Vec<String> { numbers.iter().map(u64::to_string).collect() };
    json!({"tokens": decimal(&report.tokens), "offsets": decimal(&report.offsets)})
}

fn describe_go_away(leave: &GoAway) -> Value {
    json!({
        "code": leave.code, "message": leave.message, "spread_ms": leave.spread_ms,
        "reconnect_now": leave.reconnect_now,
    })
}

fn describe_header(header: &StreamHeader) -> Value {
    json!({
        "version": header.version, "requires": header.requires, "tunnel": header.tunnel,
        "token": header.token.to_string(), "class": header.class, "target": header.target,
        "visitor": header.visitor, "visited": header.visited, "flow": header.flow.to_string(),
    })
}

fn describe_flow_open(open: &FlowOpen) -> Value {
    json!({
        "flow": open.flow.to_string(), "tunnel": open.tunnel, "visitor": open.visitor,
        "visited": open.visited,
        "payload": open.payload.as_ref().map(|payload| HEXLOWER.encode(payload)),
    })
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
    ("messages", &[("vectors", 37)]),
    ("datagrams", &[("whole", 4), ("pieces", 5), ("longer", 2), ("refused", 15)]),
    ("streams", &[("headers", 3), ("answers", 2)]),
    ("malformed", &[("refused", 15), ("read", 4), ("versions", 5)]),
    ("tickets", &[("vectors", 3), ("refused", 18)]),
    ("identities", &[("vectors", 3), ("refused", 5), ("refused_spki", 8)]),
    ("tokens", &[("vectors", 2), ("refused", 7)]),
    ("proofs", &[("signature", 1), ("ticket", 1), ("token", 1)]),
];
