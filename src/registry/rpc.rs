//! JSON-RPC 2.0 over lines: bytes to a request, an answer to bytes. No I/O.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::request::Request;
use super::strict::Strict;

/// An error as JSON-RPC carries it; `data` may hold `{"kind", "hint"}` for the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// One of the constants, see `proto-spec/control.md`.
    pub code: i64,
    /// What failed, on what, what to try.
    pub message: String,
    /// Details for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    /// The line is not JSON [CTL-20].
    pub const PARSE: i64 = -32700;
    /// The line is JSON but not a request [CTL-21].
    pub const INVALID_REQUEST: i64 = -32600;
    /// The method does not exist in this version [CTL-22].
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The method exists but not with these parameters [CTL-23].
    pub const INVALID_PARAMS: i64 = -32602;
    /// The process could not answer: it is ending, or the answer is too large [CTL-24].
    pub const INTERNAL: i64 = -32603;
    /// The process was asked for something that it could not do [CTL-25].
    pub const FAILED: i64 = -32001;
    /// What was named does not exist: a connection, a client, a token [CTL-25].
    pub const NOT_FOUND: i64 = -32002;
    /// This kind of process does not have the method: a tunnel's is asked of a router, or the reverse [CTL-25].
    pub const UNSUPPORTED: i64 = -32003;

    /// An error with a code and a message.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

/// A line that is JSON-RPC, whether or not what it asks for exists.
#[derive(Debug)]
pub(super) struct Incoming {
    /// `None`: a notification, which gets no answer [CTL-13].
    pub(super) id: Option<Value>,
    pub(super) request: Result<Request, RpcError>,
}

/// Reads one line [CTL-10] to [CTL-14]. An error here is answered with the id `null`.
pub(super) fn read_request(line: &[u8]) -> Result<Incoming, RpcError> {
    let Strict(value) = serde_json::from_slice(line).map_err(|error| {
        let code = match error.classify() {
            serde_json::error::Category::Data => RpcError::INVALID_REQUEST,
            _ => RpcError::PARSE,
        };
        RpcError::new(code, error.to_string())
    })?;
    let invalid = |message: &str| RpcError::new(RpcError::INVALID_REQUEST, message);
    let Value::Object(mut members) = value else {
        return Err(invalid("a request is one object; batches are not taken"));
    };
    if members.get("jsonrpc") != Some(&Value::from("2.0")) {
        return Err(invalid("\"jsonrpc\" is not \"2.0\""));
    }
    let id = match members.remove("id") {
        Some(id) if !is_id(&id) => {
            return Err(invalid("\"id\" is a string of at most 64 bytes, an integer or null"));
        }
        id => id,
    };
    let Some(Value::String(method)) = members.remove("method") else {
        return Err(invalid("\"method\" is not a string"));
    };
    let params = members.remove("params").unwrap_or_else(|| Map::new().into());
    Ok(Incoming { id, request: Request::from_parts(&method, params) })
}

/// One line with a request [CTL-10].
pub(super) fn write_request(id: u64, request: &Request) -> Vec<u8> {
    let (method, params) = request.to_parts();
    line(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
}

/// One line with an answer [CTL-15]; one that is too large becomes an error.
pub(super) fn write_answer(id: &Value, answer: Result<Value, RpcError>) -> Vec<u8> {
    let bytes = line(&match answer {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
    });
    if bytes.len() <= MAX_ANSWER {
        return bytes;
    }
    let error = RpcError::new(RpcError::INTERNAL, "the answer is larger than 16 MiB");
    line(&json!({"jsonrpc": "2.0", "id": id, "error": error}))
}

/// Reads an answer; `None` when the line is none, or one to another request.
pub(super) fn read_answer(line: &[u8], id: u64) -> Option<Result<Value, RpcError>> {
    let Value::Object(mut members) = serde_json::from_slice(line).ok()? else { return None };
    if members.get("jsonrpc") != Some(&Value::from("2.0")) {
        return None;
    }
    let answers_us = members.get("id") == Some(&Value::from(id));
    match (members.remove("result"), members.remove("error")) {
        (Some(result), None) if answers_us => Some(Ok(result)),
        // A line that could not be read is answered with the id null.
        (None, Some(error)) if answers_us || members.get("id") == Some(&Value::Null) => {
            Some(Err(serde_json::from_value(error).ok()?))
        }
        _ => None,
    }
}

fn is_id(id: &Value) -> bool {
    match id {
        Value::Null => true,
        Value::String(text) => text.len() <= 64,
        Value::Number(number) => number.is_i64() || number.is_u64(),
        _ => false,
    }
}

fn line(message: &Value) -> Vec<u8> {
    let mut bytes = message.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// The longest request, its line end not counted [CTL-11].
pub(super) const MAX_REQUEST: usize = 64 * 1024;
/// The longest answer [CTL-16]: 16,384 connections are about 3 MiB.
pub(super) const MAX_ANSWER: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &[u8]) -> i64 {
        match read_request(line) {
            Err(error) => error.code,
            Ok(incoming) => incoming.request.expect_err("refused").code,
        }
    }

    /// [CTL-14] [CTL-20] [CTL-21] [CTL-22] [CTL-23]
    #[test]
    fn h31_what_is_no_request_gets_its_code() {
        let deep = [b"[".repeat(10_000), b"]".repeat(10_000)].concat();
        let deep_params = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"status","params":{}{}}}"#,
            "{\"a\":".repeat(10_000),
            "}".repeat(10_000)
        );
        let cases: &[(&[u8], i64)] = &[
            (b"", RpcError::PARSE),
            (b"GET / HTTP/1.1", RpcError::PARSE),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1", RpcError::PARSE),
            (b"{\"jsonrpc\":\"2.0\",\"id\":NaN,\"method\":\"status\"}", RpcError::PARSE),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1e999,\"method\":\"status\"}", RpcError::PARSE),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}", RpcError::PARSE),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\\ud800\"}", RpcError::PARSE),
            (b"{} {}", RpcError::PARSE),
            (&deep, RpcError::PARSE),
            (deep_params.as_bytes(), RpcError::PARSE),
            (b"[]", RpcError::INVALID_REQUEST),
            (b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\"}]", RpcError::INVALID_REQUEST),
            (b"null", RpcError::INVALID_REQUEST),
            (b"{\"id\":1,\"method\":\"status\"}", RpcError::INVALID_REQUEST),
            (b"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"status\"}", RpcError::INVALID_REQUEST),
            (b"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"status\"}", RpcError::INVALID_REQUEST),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"status\"}", RpcError::INVALID_REQUEST),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", RpcError::INVALID_REQUEST),
            (
                b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\",\"method\":\"shutdown\"}",
                RpcError::INVALID_REQUEST,
            ),
            (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"reboot\"}", RpcError::METHOD_NOT_FOUND),
            (
                b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\",\"params\":[true]}",
                RpcError::INVALID_PARAMS,
            ),
        ];
        for (line, expected) in cases {
            let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
            assert_eq!(code(line), *expected, "{shown}");
        }
    }

    /// [CTL-15] [CTL-16]
    #[test]
    fn an_answer_is_recognised_by_its_id() {
        let ok = write_answer(&7.into(), Ok(json!({"a": 1})));
        assert_eq!(ok.last(), Some(&b'\n'));
        assert_eq!(read_answer(&ok, 7), Some(Ok(json!({"a": 1}))));
        assert_eq!(read_answer(&ok, 8), None);
        let error = RpcError::new(RpcError::NOT_FOUND, "no such connection");
        let line = write_answer(&7.into(), Err(error.clone()));
        assert_eq!(read_answer(&line, 7), Some(Err(error)));
        assert_eq!(read_answer(b"{}", 7), None);
        let line = write_request(1, &Request::KillConnection { id: "web-00ab/7".to_owned() });
        let written =
            r#"{"id":1,"jsonrpc":"2.0","method":"kill_connection","params":{"id":"web-00ab/7"}}"#;
        assert_eq!(line, format!("{written}\n").as_bytes(), "byte for byte as in control.md");
        let huge = write_answer(&7.into(), Ok("x".repeat(MAX_ANSWER).into()));
        let error = read_answer(&huge, 7).expect("an answer").expect_err("too large");
        assert_eq!(error.code, RpcError::INTERNAL);
    }
}
