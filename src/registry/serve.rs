//! The serving end of the control socket: many clients, none of which can hold up another or the tunnel.

#[cfg(unix)]
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
#[cfg(unix)]
use interprocess::os::unix::uds_local_socket::tokio as local_socket;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::folder::RegistryError;
use super::lines::{LineError, Lines};
use super::request::Request;
use super::rpc::{MAX_REQUEST, RpcError, read_request, write_answer};
use super::seats::{Seat, Seats};
use super::socket;
use super::spare::Spare;

/// One request and the way back. A dropped `reply` tells the asker that the process is ending.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Value, RpcError>>,
}

/// A bound control socket. Dropping it removes the socket.
#[derive(Debug)]
pub struct ControlListener {
    listener: Listener,
    place: String,
}

impl ControlListener {
    /// Binds at exactly this place; [`super::Claim::listen`] is the way in.
    pub(super) fn bind(place: &str) -> Result<Self, RegistryError> {
        Ok(Self { listener: socket::bind(place)?, place: place.to_owned() })
    }

    /// One that the program before has left.
    #[cfg(unix)]
    pub(super) fn adopted(left: OwnedFd, place: &str) -> Result<Self, RegistryError> {
        let listener = local_socket::Listener::try_from(left);
        let listener = listener
            .map_err(|error| RegistryError::Socket { path: place.to_owned(), source: error })?;
        Ok(Self { listener: listener.into(), place: place.to_owned() })
    }

    /// A copy of its descriptor, for the program that goes on with it.
    #[cfg(unix)]
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        let Listener::UdSocket(listener) = &self.listener;
        listener.as_fd().try_clone_to_owned()
    }

    /// The path of the socket or the name of the pipe.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Serves until `stop`; answers that are under way then get another second [CTL-19].
    pub async fn serve(self, calls: mpsc::Sender<Call>, stop: CancellationToken) {
        let mut clients = JoinSet::new();
        let mut seats = Seats::default();
        let (mut spare, mut is_failing) = (Spare::new(), false);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = clients.join_next(), if !clients.is_empty() => {
                    spare.take_back();
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(_) if spare.give() => continue,
                Err(error) => {
                    // Out of descriptors, most likely: said once, and tried again without spinning.
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!(%error, "the control socket cannot accept");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    spare.take_back();
                    continue;
                }
            };
            is_failing = false;
            if !socket::is_trusted(&stream) {
                warn!("refused a control connection of another user");
                continue;
            }
            let Some(seat) = seats.make_room() else {
                warn!("refused a control connection: too many calls are being answered");
                continue;
            };
            let visit = Visit { calls: calls.clone(), stop: stop.clone(), seat: seat.clone() };
            seats.take(seat, clients.spawn(visit.attend(stream)));
        }
        drop(self.listener);
        let farewell = async { while clients.join_next().await.is_some() {} };
        // Whoever is not done by then is cut off: `clients` aborts them when it is dropped.
        let _ = timeout(FAREWELL, farewell).await;
    }
}

/// What one client's task needs.
struct Visit {
    calls: mpsc::Sender<Call>,
    stop: CancellationToken,
    seat: Seat,
}

impl Visit {
    async fn attend(self, stream: Stream) {
        let mut lines = Lines::new(stream, MAX_REQUEST, Some(HALF_REQUEST));
        loop {
            let line = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                line = timeout(SILENCE, lines.next()) => line,
            };
            let answer = match line {
                Ok(Ok(Some(line))) => self.answer(&line).await,
                Ok(Err(LineError::Io(_)) | Ok(None)) | Err(_) => return,
                Ok(Err(error)) => {
                    let error = RpcError::new(line_code(&error), error.to_string());
                    let answer = write_answer(&Value::Null, Err(error));
                    if send(lines.stream(), &answer).await {
                        lines.discard(FAREWELL).await;
                    }
                    return;
                }
            };
            let Some(answer) = answer else { continue };
            if !send(lines.stream(), &answer).await {
                return;
            }
        }
    }

    async fn answer(&self, line: &[u8]) -> Option<Vec<u8>> {
        self.seat.touch();
        let incoming = match read_request(line) {
            Ok(incoming) => incoming,
            Err(error) => return Some(write_answer(&Value::Null, Err(error))),
        };
        let answer = match incoming.request {
            Ok(request) => {
                self.seat.set_busy(true);
                let answer = self.ask(request).await;
                self.seat.set_busy(false);
                answer
            }
            Err(error) => Err(error),
        };
        incoming.id.map(|id| write_answer(&id, answer))
    }

    async fn ask(&self, request: Request) -> Result<Value, RpcError> {
        // [CTL-19]
        let ending = || RpcError::new(RpcError::INTERNAL, "the process is ending");
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { request, reply }).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}

/// Whoever does not take answers is not waited for [CTL-17].
async fn send(stream: &mut Stream, answer: &[u8]) -> bool {
    matches!(timeout(SLOW_READER, stream.write_all(answer)).await, Ok(Ok(())))
}

fn line_code(error: &LineError) -> i64 {
    match error {
        LineError::Unfinished => RpcError::PARSE,
        _ => RpcError::INVALID_REQUEST,
    }
}

/// How long half a request may stay half [CTL-12].
const HALF_REQUEST: Duration = Duration::from_secs(5);
/// How long a client may say nothing [CTL-12].
const SILENCE: Duration = Duration::from_secs(60);
/// How long an answer may take to be taken [CTL-17].
const SLOW_READER: Duration = Duration::from_secs(5);
/// For answers under way when the process ends, and for what a refused client still sends.
const FAREWELL: Duration = Duration::from_secs(1);
/// At most 20 tries a second while the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(all(test, unix))]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, BufReader};
    use tokio::net::UnixStream;
    use tokio::time::Instant;

    use super::super::{CallError, ControlClient, Kind, NewRecord, Record, RecordConfig, Registry};
    use super::super::{ask, ask_all};
    use super::*;

    fn new(name: &str) -> NewRecord {
        NewRecord {
            kind: Kind::Tunnel,
            name: name.parse().expect("a name"),
            config: RecordConfig::default(),
            config_file: None,
            config_hash: None,
        }
    }

    /// Runs `test` beside a process that answers `version` and never answers `metrics`.
    async fn beside_a_process(test: impl AsyncFnOnce(Record, &Registry)) {
        let home = tempfile::tempdir().expect("tempdir");
        let registry = Registry::open(&home.path().join("home")).expect("a registry");
        let mut claim = registry.claim(new("web")).expect("a claim");
        let listener = claim.listen().expect("a socket");
        let (calls, mut asked) = mpsc::channel::<Call>(16);
        let stop = CancellationToken::new();
        let answering = async {
            let mut unanswered = Vec::new();
            while let Some(call) = asked.recv().await {
                match call.request {
                    Request::Version => drop(call.reply.send(Ok(json!({"version": "x"})))),
                    Request::Clients => drop(call.reply),
                    Request::Metrics => unanswered.push(call.reply),
                    _ => drop(call.reply.send(Err(RpcError::new(RpcError::UNSUPPORTED, "no")))),
                }
            }
        };
        let testing = async {
            test(claim.record().clone(), &registry).await;
            stop.cancel();
        };
        tokio::join!(listener.serve(calls, stop.clone()), answering, testing);
        assert!(!std::path::Path::new(&claim.record().control_socket).exists(), "no socket stays");
    }

    /// Sends bytes as they are and returns all that comes back, as the error code of each line.
    async fn codes(record: &Record, bytes: &[u8]) -> Vec<i64> {
        let mut stream = UnixStream::connect(&record.control_socket).await.expect("connected");
        // A refused client may find the door closed before it has said everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut text = String::new();
        BufReader::new(stream).read_to_string(&mut text).await.expect("answers");
        let code = |line: &str| -> i64 {
            let answer: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(answer["jsonrpc"], "2.0");
            answer["error"]["code"].as_i64().unwrap_or(0)
        };
        text.lines().map(code).collect()
    }

    async fn assert_well(record: &Record) {
        let answer = ask(record, &Request::Version, Duration::from_secs(5)).await;
        assert_eq!(answer.expect("an answer"), json!({"version": "x"}));
    }

    /// [CTL-10] [CTL-12] [CTL-13] [CTL-14] [CTL-20] [CTL-21]
    #[tokio::test]
    async fn h31_bad_lines_get_their_code_and_the_next_line_is_read() {
        beside_a_process(async |record, _| {
            let good = "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"version\"}";
            let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
            let twice = good.replace("\"id\"", "\"method\":1,\"id\"");
            let bad = format!("{deep}\nNaN\n{twice}\n\n{good}\n{good}\n");
            assert_eq!(
                codes(&record, bad.as_bytes()).await,
                [-32700, -32700, -32600, -32700, 0, 0]
            );
            assert_eq!(codes(&record, b"\xff\xfe\"\xc3\x28\"\n").await, [-32700]);
            assert_eq!(codes(&record, good.as_bytes()).await, [-32700], "no line end");
            let notification = good.replace("\"id\":\"a\",", "");
            let answers = codes(&record, format!("{notification}\n").as_bytes()).await;
            assert!(answers.is_empty(), "{answers:?}");
            assert!(codes(&record, b"").await.is_empty());
            assert_well(&record).await;
        })
        .await;
    }

    /// [CTL-11]
    #[tokio::test]
    async fn h31_a_line_of_a_mebibyte_is_refused_after_64_kib() {
        beside_a_process(async |record, _| {
            assert_eq!(codes(&record, &vec![b'x'; 1 << 20]).await, [-32600]);
            let longest = [vec![b' '; MAX_REQUEST], b"\n".to_vec()].concat();
            assert_eq!(codes(&record, &longest).await, [-32700], "read, though it says nothing");
            assert_eq!(codes(&record, &[b" ".to_vec(), longest].concat()).await, [-32600]);
            assert_well(&record).await;
        })
        .await;
    }

    /// [CTL-18]
    #[tokio::test]
    async fn h31_a_thousand_half_requests_do_not_keep_anybody_out() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("descriptors");
        beside_a_process(async |record, _| {
            let mut halves = Vec::new();
            for _ in 0..1000 {
                let mut half =
                    UnixStream::connect(&record.control_socket).await.expect("connected");
                half.write_all(b"{\"jsonrpc\":").await.expect("half a request");
                halves.push(half);
            }
            assert_well(&record).await;
            let mut first = halves.swap_remove(0);
            assert!(!matches!(first.read(&mut [0; 1]).await, Ok(1..)), "the first made room");
        })
        .await;
    }

    #[tokio::test]
    async fn calls_that_hang_hold_up_nobody_and_are_named() {
        beside_a_process(async |record, registry| {
            let mut hanging = JoinSet::new();
            for _ in 0..8 {
                let record = record.clone();
                hanging.spawn(async move { ask(&record, &Request::Metrics, ACCEPT_PAUSE).await });
            }
            assert_well(&record).await;
            let dead = registry.claim(new("dead")).expect("a claim").record().clone();
            let started = Instant::now();
            let asked = vec![dead, record.clone()];
            let limit = Duration::from_millis(300);
            let answers = ask_all(asked, &Request::Metrics, limit).await;
            assert!(started.elapsed() < Duration::from_secs(1));
            assert!(matches!(answers[0].1, Err(CallError::NotRunning { .. })), "{answers:?}");
            assert!(matches!(answers[1].1, Err(CallError::TimedOut { .. })), "{answers:?}");
            let message = answers[1].1.as_ref().expect_err("late").to_string();
            assert!(message.contains(record.tunnel_id.as_str()), "{message}");
            for answer in hanging.join_all().await {
                assert!(matches!(answer, Err(CallError::TimedOut { .. })), "{answer:?}");
            }
        })
        .await;
    }

    /// [CTL-5] [CTL-19] [CTL-24] [CTL-25]
    #[tokio::test]
    async fn a_refusal_keeps_its_code_and_a_dropped_call_is_answered() {
        beside_a_process(async |record, _| {
            let mut client = ControlClient::connect(&record).await.expect("connected");
            let refused = client.call(&Request::TokenList).await;
            assert!(
                matches!(&refused, Err(CallError::Refused(e)) if e.code == RpcError::UNSUPPORTED),
                "{refused:?}"
            );
            let dropped = client.call(&Request::Clients).await;
            assert!(matches!(&dropped, Err(CallError::Failed { .. })), "{dropped:?}");
            let message = dropped.expect_err("dropped").to_string();
            assert!(message.contains(record.tunnel_id.as_str()), "{message}");
            assert!(message.contains("is ending"), "{message}");
            let mut newer = record.clone();
            newer.version = "9.0.0".to_owned();
            let error = ask(&newer, &Request::Version, ACCEPT_PAUSE).await.expect_err("too new");
            assert!(error.to_string().contains("9.0.0"), "{error}");
        })
        .await;
    }
}
