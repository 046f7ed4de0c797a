//! Real servers, each in a folder of its own on a free port.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use super::{Run, within};

pub(crate) struct Nginx {
    server: Server,
    folder: PathBuf,
}

pub(crate) struct Redis {
    server: Server,
    folder: PathBuf,
}

pub(crate) struct Dnsmasq(Server);

pub(crate) struct Sshd {
    server: Server,
    folder: PathBuf,
}

/// tinyproxy or microsocks.
pub(crate) struct OutboundProxy(Server);

/// A process that ends with this value.
pub(super) struct Daemon(pub(super) Child);

/// A server on 127.0.0.1.
pub(super) struct Server {
    _process: Daemon,
    pub(super) addr: SocketAddr,
}

impl Server {
    /// Starts a server that has to be told its port. Somebody may take a free port before the server does: then
    /// another one.
    pub(super) fn start(name: &str, folder: &Path, run: impl Fn(u16) -> Run) -> Self {
        for _ in 0..5 {
            let addr =
                TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
            let log = || fs::File::create(folder.join(format!("{name}.err"))).expect("a log file");
            let mut process = Daemon(run(addr.port()).spawn(Stdio::null(), log()));
            let up = within(Duration::from_secs(10), &format!("{name} answers"), || {
                if !process.runs() {
                    return Some(false);
                }
                TcpStream::connect(addr).is_ok().then_some(true)
            });
            if up && process.runs() {
                return Self { _process: process, addr };
            }
        }
        let said = fs::read_to_string(folder.join(format!("{name}.err"))).unwrap_or_default();
        panic!("{name} does not start: {said}");
    }
}

impl Daemon {
    pub(super) fn runs(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // nginx ends its workers only when it is asked to.
        super::kill(self.0.id(), rustix::process::Signal::TERM);
        for _ in 0..200 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Nginx {
    /// Serves the files of `folder()`, and takes files by PUT.
    pub(crate) fn start(world: &Path) -> Self {
        let folder = world.join("nginx");
        fs::create_dir_all(folder.join("www")).expect("a folder");
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let server = Server::start("nginx", &folder, |port| {
            let config = format!(
                "{user} daemon off; worker_processes 1; pid nginx.pid; error_log nginx.log;
                 events {{ worker_connections 4096; }}
                 http {{ access_log off; client_max_body_size 0; client_body_temp_path body; proxy_temp_path proxy;
                   fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                   keepalive_requests 100000;
                   server {{ listen 127.0.0.1:{port}; root www; location / {{ dav_methods PUT; }} }} }}"
            );
            fs::write(folder.join("nginx.conf"), config).expect("nginx.conf");
            Run::program("nginx").args(["-p"]).arg(&folder).args([
                "-c",
                "nginx.conf",
                "-e",
                "nginx.log",
            ])
        });
        Self { server, folder }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// A file that it serves or was sent.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join("www").join(name)
    }
}

impl Redis {
    pub(crate) fn start(world: &Path) -> Self {
        let folder = world.join("redis");
        fs::create_dir_all(&folder).expect("a folder");
        let server = Server::start("redis-server", &folder, |port| {
            Run::program("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--unixsocket", "redis.sock", "--port", &port.to_string(), "--dir"])
                .arg(&folder)
        });
        Self { server, folder }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// Where it listens besides.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }
}

impl Dnsmasq {
    /// Answers for what `records` says, in dnsmasq's own options, and asks nobody.
    pub(crate) fn start(world: &Path, records: &[String]) -> Self {
        let folder = world.join("dnsmasq");
        fs::create_dir_all(&folder).expect("a folder");
        Self(Server::start("dnsmasq", &folder, |port| {
            let run = Run::program("dnsmasq").args(["--no-daemon", "--conf-file=/dev/null"]);
            let run = run.args(["--no-resolv", "--no-hosts", "--pid-file=", "--bind-interfaces"]);
            let run = run.args(["--listen-address=127.0.0.1", "--edns-packet-max=4096"]);
            run.arg(format!("--port={port}")).args(records)
        }))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.addr
    }
}

/// Somebody who has logged in and whose words come back.
pub(crate) struct Login {
    process: Child,
    words: BufReader<ChildStdout>,
}

impl Login {
    /// Sends a word, and wants it back.
    pub(crate) fn echoes(&mut self, word: &str) {
        let stdin = self.process.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{word}").expect("a word sent");
        let mut line = String::new();
        self.words.read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), word);
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Sshd {
    /// Logs in through `port` of 127.0.0.1.
    pub(crate) fn login(&self, port: u16) -> Login {
        let ssh = self.client("ssh").args(["-p", &port.to_string(), "127.0.0.1", "cat"]);
        let mut process = ssh.spawn_reading(Stdio::piped(), Stdio::piped(), Stdio::inherit());
        let words = BufReader::new(process.stdout.take().expect("a pipe"));
        Login { process, words }
    }

    /// Lets whoever runs the test in, with the key of `scp`.
    pub(crate) fn start(world: &Path) -> Self {
        let folder = world.join("sshd");
        fs::create_dir_all(&folder).expect("a folder");
        if rustix::process::geteuid().is_root() {
            // Where sshd wants to lock its helper in; the package's service makes it at start.
            fs::create_dir_all("/run/sshd").expect("/run/sshd");
        }
        for key in ["host", "user"] {
            let file = folder.join(key);
            Run::program("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&file)
                .succeeds();
        }
        fs::copy(folder.join("user.pub"), folder.join("authorized")).expect("authorized keys");
        let server = Server::start("sshd", &folder, |port| {
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
                 PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
                 Subsystem sftp internal-sftp\n",
                folder.display()
            );
            fs::write(folder.join("sshd_config"), config).expect("sshd_config");
            Run::program("sshd").args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"))
        });
        Self { server, folder }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// `scp` to `port` of 127.0.0.1; add source and destination.
    pub(crate) fn scp(&self, port: u16) -> Run {
        self.client("scp").args(["-q", "-B", "-P", &port.to_string()])
    }

    /// `ssh` or `scp` with the key that is let in, and no files of whoever runs the test.
    pub(crate) fn client(&self, program: &str) -> Run {
        let run = Run::program(program).args(["-F", "none", "-i"]).arg(self.folder.join("user"));
        ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes"]
            .into_iter()
            .chain(["LogLevel=ERROR", "BatchMode=yes"])
            .fold(run, |run, option| run.args(["-o", option]))
    }
}

impl OutboundProxy {
    /// CONNECT; `extra` are lines of its configuration.
    pub(crate) fn tinyproxy(folder: &Path, extra: &str) -> Self {
        Self(Server::start("tinyproxy", folder, |port| {
            let log = folder.join("tinyproxy.log");
            let config = format!(
                "Port {port}\nListen 127.0.0.1\nTimeout 600\nLogFile \"{}\"\nLogLevel Connect\n{extra}\n",
                log.display()
            );
            let file = folder.join("tinyproxy.conf");
            fs::write(&file, config).expect("its configuration");
            Run::program("tinyproxy").args(["-d", "-c"]).arg(file)
        }))
    }

    /// SOCKS 5.
    pub(crate) fn microsocks(folder: &Path, options: &[&str]) -> Self {
        Self(Server::start("microsocks", folder, |port| {
            let run = Run::program("microsocks").args(["-i", "127.0.0.1", "-p"]);
            run.arg(port.to_string()).args(options)
        }))
    }

    /// The same with another `/etc/hosts`, in a view of the files of its own.
    pub(crate) fn microsocks_with_hosts(folder: &Path, hosts: &Path) -> Self {
        Self(Server::start("microsocks", folder, |port| {
            let script = format!(
                "mount --bind {} /etc/hosts && exec microsocks -i 127.0.0.1 -p {port}",
                hosts.display()
            );
            Run::program("unshare").args(["--mount", "sh", "-c", &script])
        }))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    pub(crate) fn url(&self, scheme: &str, user: &str) -> String {
        format!("{scheme}://{user}{}", self.addr())
    }
}
