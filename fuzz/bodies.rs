//! What each fuzz target does with its bytes. Also replayed over the corpora by `tests/corpora.rs`.
//!
//! No body may panic for any input, and what is read must be written and read back the same.

mod flow_table;
mod packets;
mod routes;

use std::path::Path;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use conduit::config::{ClientConfig, Environment, Overrides, RouterConfig};
use conduit::ends::{Transport, header, parse_datagram, parse_header};
use conduit::identity::{Ticket, Token, identity_from_spki, spki};
use conduit::policy::{BindRule, TargetRule};
use conduit::registry::{AuthorizeParams, InviteParams, Record, TokenCreateParams};
use conduit::transport::is_server_hello;
use conduit::tunnel::{BindAddr, HostPort, Identity, ProxyProtocol};
use conduit::wire::{
    Control, Framed, StreamAnswer, StreamHeader, check_version, control, decode, encode,
    split_frame,
};

/// One target: its name, which is also that of its corpus, and its body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: &[Target] = &[
    ("control_frame", control_frame),
    ("stream_header", stream_header),
    ("ticket", ticket),
    ("identity", identity),
    ("token", token),
    ("host_port", written::<HostPort>),
    ("bind_addr", written::<BindAddr>),
    ("target_rule", written::<TargetRule>),
    ("bind_rule", written::<BindRule>),
    ("client_config", client_config),
    ("router_config", router_config),
    ("record", record),
    ("spki", raw_public_key),
    ("server_hello", server_hello),
    ("proxy_header", proxy_header),
    ("routes", routes::routes),
    ("datagram", packets::datagram),
    ("reassembly", packets::reassembly),
    ("flow_table", flow_table::flow_table),
];

/// Runs the body of one target.
pub(crate) fn run(name: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    body(data);
}

/// The control stream: as many frames as there are, at both limits.
fn control_frame(data: &[u8]) {
    for limit in [4 << 10, 64 << 10] {
        for frame in frames(data, limit) {
            let Ok(message) = decode::<Control>(frame) else { continue };
            match &message.message {
                Some(control::Message::Hello(hello)) => {
                    let _ = check_version(hello.version, &hello.requires);
                }
                Some(control::Message::Declare(declare)) => {
                    let _ = (declare.direction(), declare.protocol());
                    declare.sources.iter().for_each(|source| {
                        let _ = source.parse::<HostPort>();
                    });
                }
                _ => {}
            }
            let mut again = BytesMut::new();
            encode(&message, &mut again);
            let Ok(Framed::Whole(frame)) = split_frame(&mut again, usize::MAX) else {
                panic!("a frame that was encoded here is whole")
            };
            assert_eq!(decode::<Control>(frame), Ok(message));
        }
    }
}

/// The first frame of a stream, read as either end reads it.
fn stream_header(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let Ok(Framed::Whole(frame)) = split_frame(&mut buffer, 1 << 10) else { return };
    if let Ok(header) = decode::<StreamHeader>(frame.clone()) {
        let _ = (check_version(header.version, &header.requires), header.class());
        let _ = header.target.parse::<HostPort>();
    }
    let _ = decode::<StreamAnswer>(frame);
}

fn frames(data: &[u8], limit: usize) -> Vec<Bytes> {
    let mut buffer = BytesMut::from(data);
    let mut frames = Vec::new();
    while let Ok(Framed::Whole(frame)) = split_frame(&mut buffer, limit) {
        assert!(frame.len() <= limit);
        frames.push(frame);
    }
    frames
}

fn ticket(data: &[u8]) {
    let Some(ticket) = text(data).and_then(|text| text.parse::<Ticket>().ok()) else { return };
    assert_eq!(ticket.to_string().parse(), Ok(ticket));
}

fn token(data: &[u8]) {
    let Some(token) = text(data).and_then(|text| text.parse::<Token>().ok()) else { return };
    let again: Token = token.to_string().parse().expect("a token that was written here");
    assert_eq!((again.id(), again.mac_key()), (token.id(), token.mac_key()));
}

fn identity(data: &[u8]) {
    written::<Identity>(data);
    if let Some(key) = data.first_chunk() {
        let identity = Identity::from_bytes(*key);
        assert_eq!(identity.to_string().parse(), Ok(identity));
    }
}

/// A text that reads is written and reads back the same.
fn written<T: FromStr + ToString + PartialEq>(data: &[u8]) {
    let Some(value) = text(data).and_then(|text| text.parse::<T>().ok()) else { return };
    let again = value.to_string();
    assert!(again.parse::<T>().is_ok_and(|same| same == value), "{again:?} is another value");
}

fn raw_public_key(data: &[u8]) {
    if let Ok(identity) = identity_from_spki(data) {
        assert_eq!(spki(&identity), data);
    }
}

/// Cut anywhere, a ServerHello is not one yet.
fn server_hello(data: &[u8]) {
    if is_server_hello(data) {
        assert!(!is_server_hello(&data[..3]));
    }
}

/// What a front end sends: a header ends within the bytes, a part of it is none, and whom it names can be written again.
fn proxy_header(data: &[u8]) {
    if let Ok((_, length)) = parse_datagram(data) {
        assert!(length <= data.len());
    }
    let Ok(Some(read)) = parse_header(data) else { return };
    let whole = &data[..read.length];
    assert_eq!(parse_header(whole).ok(), Some(Some(read)));
    assert!(matches!(parse_header(&whole[..read.length - 1]), Ok(None)));
    let Some(visit) = read.visit else { return };
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let bytes = header(version, Transport::Stream, Some(visit.visitor), Some(visit.visited));
        let again = parse_header(&bytes).expect("a header").expect("whole");
        assert_eq!((again.visit, again.length), (read.visit, bytes.len()));
    }
}

fn client_config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let path = Path::new("conduit.toml");
    if let Err(errors) = ClientConfig::parse(path, text, &no_environment(), &Overrides::new()) {
        assert!(!errors.to_string().is_empty());
    }
}

fn router_config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let path = Path::new("router.toml");
    if let Err(errors) = RouterConfig::parse(path, text, &no_environment(), &Overrides::new()) {
        assert!(!errors.to_string().is_empty());
    }
}

/// What processes leave for each other: a record, and the parameters of the control socket's methods.
fn record(data: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<Record>(data) {
        let bytes = serde_json::to_vec(&record).expect("a record has a JSON form");
        assert_eq!(serde_json::from_slice::<Record>(&bytes).ok(), Some(record));
    }
    let _ = serde_json::from_slice::<InviteParams>(data);
    let _ = serde_json::from_slice::<AuthorizeParams>(data);
    let _ = serde_json::from_slice::<TokenCreateParams>(data);
}

fn no_environment() -> Environment {
    Environment::capture([("CONDUIT_HOME", "/home/conduit")])
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}
