//! The asking end of the control socket: one process, or all of them at once.

use std::io;
use std::time::Duration;

use interprocess::local_socket::tokio::Stream;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::lines::{LineError, Lines};
use super::record::Record;
use super::request::Request;
use super::rpc::{MAX_ANSWER, RpcError, read_answer, write_request};
use super::socket;

/// A connection to one process's control socket. No call has a limit of its own: the caller sets one.
pub struct ControlClient {
    lines: Lines<Stream>,
    next_id: u64,
    process: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens: the process is gone, or on its way.
    #[error("{process} does not listen on its control socket: it has just ended, or died")]
    NotRunning {
        /// Its id.
        process: String,
    },
    /// It did not answer in time.
    #[error("{process} did not answer within {} ms: it hangs or is stopped; `conduit kill --force --tunnel {process}` ends it", after.as_millis())]
    TimedOut {
        /// Its id.
        process: String,
        /// The limit.
        after: Duration,
    },
    /// It closed the connection instead of answering.
    #[error("{process} ended the connection without an answer: try again")]
    Closed {
        /// Its id.
        process: String,
    },
    /// What it said is no answer.
    #[error(
        "{process} sent something that is no answer: is its version another one? see `conduit list --all`"
    )]
    Malformed {
        /// Its id.
        process: String,
    },
    /// It runs a version that this command line does not speak with.
    #[error(
        "{process} runs conduit {theirs}, this is {ours}: use that version's command line, or restart it"
    )]
    Version {
        /// Its id.
        process: String,
        /// Its version.
        theirs: String,
        /// This one.
        ours: &'static str,
    },
    /// The socket belongs to another user.
    #[error("the control socket of {process} belongs to another user: nothing was sent")]
    Untrusted {
        /// Its id.
        process: String,
    },
    /// It could not answer: it is ending, most likely.
    #[error("{process} did not answer: {reason}")]
    Failed {
        /// Its id.
        process: String,
        /// What it said.
        reason: String,
    },
    /// It said no.
    #[error(transparent)]
    Refused(#[from] RpcError),
    /// Anything else.
    #[error("cannot talk to {process}: {source}")]
    Io {
        /// Its id.
        process: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ControlClient {
    /// Connects to a process's control socket, and makes sure that it is its own [CTL-3] [CTL-4] [CTL-5].
    pub async fn connect(record: &Record) -> Result<Self, CallError> {
        let process = record.tunnel_id.to_string();
        if !record.speaks_with_us() {
            let theirs = record.version.clone();
            return Err(CallError::Version { process, theirs, ours: env!("CARGO_PKG_VERSION") });
        }
        let stream = loop {
            match socket::connect(&record.control_socket).await {
                Ok(stream) => break stream,
                // The queue of connections is full (thousands ask, or it is stopped): the caller's limit ends this.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(PAUSE).await,
                Err(error) => return Err(failed(process, error)),
            }
        };
        if !socket::is_trusted(&stream) {
            return Err(CallError::Untrusted { process });
        }
        Ok(Self { lines: Lines::new(stream, MAX_ANSWER, None), next_id: 1, process })
    }

    /// Asks and waits for the answer. Not cancel-safe: after a cancelled call connect again.
    pub async fn call(&mut self, request: &Request) -> Result<Value, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let line = write_request(id, request);
        let written = self.lines.stream().write_all(&line).await;
        let process = || self.process.clone();
        let answer = match self.lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) | Err(LineError::Unfinished) => {
                return Err(CallError::Closed { process: process() });
            }
            Err(LineError::TooLong(_) | LineError::Half(_)) => {
                return Err(CallError::Malformed { process: process() });
            }
            // What stopped the request says more than what stopped the answer.
            Err(LineError::Io(error)) => {
                return Err(failed(process(), written.err().unwrap_or(error)));
            }
        };
        match read_answer(&answer, id) {
            // "Internal error" alone would not say whose.
            Some(Err(error)) if error.code == RpcError::INTERNAL => {
                Err(CallError::Failed { process: process(), reason: error.message })
            }
            Some(answer) => Ok(answer?),
            None => Err(CallError::Malformed { process: process() }),
        }
    }
}

/// Connects, asks, and gives up after `deadline`.
pub async fn ask(
    record: &Record,
    request: &Request,
    deadline: Duration,
) -> Result<Value, CallError> {
    let conversation = async { ControlClient::connect(record).await?.call(request).await };
    match timeout(deadline, conversation).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(CallError::TimedOut { process: record.tunnel_id.to_string(), after: deadline })
        }
    }
}

/// Asks all of them at the same time: it is over after `deadline` even when some hang. In the order given.
pub async fn ask_all(
    records: Vec<Record>,
    request: &Request,
    deadline: Duration,
) -> Vec<(Record, Result<Value, CallError>)> {
    let mut asked = JoinSet::new();
    for (at, record) in records.into_iter().enumerate() {
        let request = request.clone();
        asked.spawn(async move {
            let answer = ask(&record, &request, deadline).await;
            (at, record, answer)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(at, ..)| *at);
    answers.into_iter().map(|(_, record, answer)| (record, answer)).collect()
}

fn failed(process: String, source: io::Error) -> CallError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            CallError::NotRunning { process }
        }
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CallError::Closed { process },
        _ => CallError::Io { process, source },
    }
}

/// Between two tries while a process's queue of connections is full.
const PAUSE: Duration = Duration::from_millis(10);
