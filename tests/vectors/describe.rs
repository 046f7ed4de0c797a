//! Messages in the words of the vectors: bytes as hex, numbers of 64 bits as decimal strings.

use conduit::wire::{
    Accepted, Authenticate, Declare, Declared, Delivered, FlowClose, FlowOpen, GoAway, Hello,
    Replaced, StreamHeader, Withdraw, control::Message,
};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

/// A message of the control stream: its kind and its fields.
pub(crate) fn describe(message: &Message) -> (&'static str, Value) {
    match message {
        Message::Hello(hello) => ("Hello", describe_hello(hello)),
        Message::Authenticate(proof) => ("Authenticate", describe_authenticate(proof)),
        Message::Accepted(accepted) => ("Accepted", describe_accepted(accepted)),
        Message::Declare(declare) => ("Declare", describe_declare(declare)),
        Message::Declared(declared) => ("Declared", describe_declared(declared)),
        Message::Withdraw(Withdraw { tunnel }) => ("Withdraw", json!({"tunnel": tunnel})),
        Message::Delivered(report) => ("Delivered", describe_delivered(report)),
        Message::GoAway(leave) => ("GoAway", describe_go_away(leave)),
        Message::Replaced(replaced) => ("Replaced", describe_replaced(replaced)),
        Message::FlowOpen(open) => ("FlowOpen", describe_flow_open(open)),
        Message::FlowClose(close) => ("FlowClose", describe_flow_close(close)),
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
        "proxy_protocol": declare.proxy_protocol,
        "flow_idle_ms": declare.flow_idle_ms.to_string(), "max_flows": declare.max_flows,
        "oversize": declare.oversize, "trusted_proxies": declare.trusted_proxies,
        "priority": declare.priority,
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

fn describe_replaced(replaced: &Replaced) -> Value {
    json!({"tunnel": replaced.tunnel, "by": replaced.by, "since": replaced.since})
}

fn describe_flow_open(open: &FlowOpen) -> Value {
    json!({
        "flow": open.flow.to_string(), "tunnel": open.tunnel, "visitor": open.visitor,
        "visited": open.visited,
        "payload": open.payload.as_ref().map(|packet| HEXLOWER.encode(packet)),
    })
}

fn describe_flow_close(close: &FlowClose) -> Value {
    json!({"flow": close.flow.to_string(), "code": close.code, "message": close.message})
}

/// The fields of a stream's header.
pub(crate) fn describe_header(header: &StreamHeader) -> Value {
    let mut fields = json!({
        "version": header.version, "requires": header.requires, "tunnel": header.tunnel,
        "token": header.token.to_string(), "class": header.class, "target": header.target,
        "visitor": header.visitor, "visited": header.visited, "flow": header.flow.to_string(),
    });
    if header.delay_ms != 0 {
        fields["delay_ms"] = header.delay_ms.into();
    }
    fields
}
