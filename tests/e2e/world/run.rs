//! One command run to its end, with a deadline, and what came of it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A command that has not run yet.
pub(crate) struct Run {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
}

/// How a command ended.
pub(crate) struct Outcome {
    line: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) raw: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Run {
    /// A system program; fails with the Debian package when it is missing.
    pub(crate) fn program(name: &str) -> Self {
        Self::binary(require(name))
    }

    pub(crate) fn binary(path: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(path);
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"CONDUIT_") {
                command.env_remove(variable);
            }
        }
        Self { command, input: Vec::new(), limit: Duration::from_secs(40) }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn folder(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// What it reads from stdin; without it, nothing.
    pub(crate) fn input(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.input = bytes.as_ref().to_vec();
        self
    }

    /// Another deadline than 40 seconds.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it and expects success.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Outcome {
        self.ends().exits(0)
    }

    /// Runs it and expects this exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Outcome {
        self.ends().exits(code)
    }

    /// Starts it with these ends of its output and leaves it running.
    pub(crate) fn spawn(self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Child {
        self.spawn_reading(Stdio::null(), stdout, stderr)
    }

    /// The same with something to read from.
    pub(crate) fn spawn_reading(
        mut self,
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Child {
        let spawned = self.command.stdin(stdin).stdout(stdout).stderr(stderr).spawn();
        spawned.unwrap_or_else(|error| panic!("{:?}: {error}", self.command))
    }

    /// Runs it to its end, whatever that is.
    #[track_caller]
    pub(crate) fn ends(mut self) -> Outcome {
        let line = shown(&self.command);
        let start = Instant::now();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let (mut stdin, input) =
            (child.stdin.take().expect("a pipe"), std::mem::take(&mut self.input));
        // A program may end without reading what it is given.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            if start.elapsed() > self.limit {
                let _ = child.kill();
                let _ = child.wait();
                let said = stderr.recv_timeout(HELD).unwrap_or_default();
                panic!(
                    "{line}: still ran after {:?}; it said: {}",
                    self.limit,
                    String::from_utf8_lossy(&said)
                );
            }
            thread::sleep(Duration::from_millis(2));
        };
        let took = start.elapsed();
        let ended = |what: &str, output: &Receiver<Vec<u8>>| {
            let left = || {
                panic!(
                    "{line}: ended ({status}), and a process that it left behind holds its {what}"
                )
            };
            output.recv_timeout(HELD).unwrap_or_else(|_| left())
        };
        let (raw, errors) = (ended("stdout", &stdout), ended("stderr", &stderr));
        let _ = writer.join();
        Outcome {
            code: status.code().or_else(|| status.signal().map(|signal| -signal)),
            stdout: String::from_utf8_lossy(&raw).into_owned(),
            raw,
            stderr: String::from_utf8_lossy(&errors).into_owned(),
            line,
            took,
        }
    }
}

impl Outcome {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        assert!(!self.stderr.contains("panicked at"), "{self}");
        self
    }

    /// Stderr holds the word, in any case.
    #[track_caller]
    pub(crate) fn says(self, word: &str) -> Self {
        assert!(
            self.stderr.to_lowercase().contains(&word.to_lowercase()),
            "stderr has no {word:?}: {self}"
        );
        self
    }

    /// Stderr holds one of the words, in any case.
    #[track_caller]
    pub(crate) fn says_one_of(self, words: &[&str]) -> Self {
        let said = self.stderr.to_lowercase();
        assert!(
            words.iter().any(|word| said.contains(&word.to_lowercase())),
            "stderr has none of {words:?}: {self}"
        );
        self
    }

    /// Stdout holds the word.
    #[track_caller]
    pub(crate) fn prints(self, word: &str) -> Self {
        assert!(self.stdout.contains(word), "stdout has no {word:?}: {self}");
        self
    }

    #[track_caller]
    pub(crate) fn took_at_most(self, limit: Duration) -> Self {
        assert!(self.took <= limit, "took {:?}, more than {limit:?}: {self}", self.took);
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }

    /// Stderr's last line that is JSON.
    #[track_caller]
    pub(crate) fn error_json(&self) -> Value {
        let start = self.stderr.find('{').unwrap_or_else(|| panic!("no JSON on stderr: {self}"));
        serde_json::from_str(self.stderr[start..].trim())
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clipped = |text: &str| text.chars().take(4_000).collect::<String>();
        let (out, err) = (clipped(&self.stdout), clipped(&self.stderr));
        write!(
            f,
            "{}\nexit {:?} after {:?}\nstdout: {out}\nstderr: {err}",
            self.line, self.code, self.took
        )
    }
}

/// The path of a program. Servers lie in folders that are not on every user's PATH.
#[track_caller]
pub(crate) fn require(name: &str) -> String {
    let folders = std::env::var("PATH").unwrap_or_default();
    let folders = folders.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    let found =
        folders.map(|folder| format!("{folder}/{name}")).find(|path| Path::new(path).exists());
    found.unwrap_or_else(|| {
        let package = PACKAGES
            .iter()
            .find(|(program, _)| *program == name)
            .map_or(name, |(_, package)| package);
        panic!("{name} is missing: apt-get install {package}")
    })
}

fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}

fn drain(from: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    let mut from = from.expect("a pipe");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// How long the pipes of a process that ended may stay open.
const HELD: Duration = Duration::from_secs(3);
const PACKAGES: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("nginx", "nginx"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("redis-cli", "redis-tools"),
    ("haproxy", "haproxy"),
    ("sshd", "openssh-server"),
    ("ssh-keygen", "openssh-client"),
    ("scp", "openssh-client"),
    ("ssh", "openssh-client"),
    ("socat", "socat"),
    ("nc", "netcat-openbsd"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("iperf3", "iperf3"),
];
