//! A connected end: TCP, or a Unix socket. A closed set of two, told apart here and nowhere else.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, tcp};
#[cfg(unix)]
use tokio::net::{UnixStream, unix};

use super::{canonical, socket};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Within this machine.
    #[cfg(unix)]
    Unix(UnixStream),
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub enum ReadHalf<'a> {
    /// Over TCP.
    Tcp(tcp::ReadHalf<'a>),
    /// Within this machine.
    #[cfg(unix)]
    Unix(unix::ReadHalf<'a>),
}

/// The writing half of a [`Stream`].
#[derive(Debug)]
pub enum WriteHalf<'a> {
    /// Over TCP.
    Tcp(tcp::WriteHalf<'a>),
    /// Within this machine.
    #[cfg(unix)]
    Unix(unix::WriteHalf<'a>),
}

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// From this address, in canonical form.
    Addr(SocketAddr),
    /// A process of this machine, as far as the system tells.
    Unix {
        /// Its number.
        pid: Option<i32>,
        /// The user it runs as.
        uid: Option<u32>,
    },
}

/// The same for both kinds: `$socket` is the socket in whatever `$value` is.
macro_rules! either {
    ($value:expr, $socket:ident => $result:expr) => {
        match $value {
            Self::Tcp($socket) => $result,
            #[cfg(unix)]
            Self::Unix($socket) => $result,
        }
    };
}

impl Stream {
    /// Both halves, for as long as they are borrowed.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Tcp(socket) => {
                let (reading, writing) = socket.split();
                (ReadHalf::Tcp(reading), WriteHalf::Tcp(writing))
            }
            #[cfg(unix)]
            Self::Unix(socket) => {
                let (reading, writing) = socket.split();
                (ReadHalf::Unix(reading), WriteHalf::Unix(writing))
            }
        }
    }

    /// A connection of an earlier program. Has to be called within a tokio runtime.
    #[cfg(unix)]
    pub fn adopted(descriptor: OwnedFd, is_unix: bool) -> io::Result<Self> {
        Ok(if is_unix {
            Self::Unix(UnixStream::from_std(descriptor.into())?)
        } else {
            Self::Tcp(TcpStream::from_std(descriptor.into())?)
        })
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// Reads what is there without waiting.
    pub fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        either!(self, socket => socket.try_read_buf(buffer))
    }

    /// Writes what goes in front of all else.
    pub async fn write_first(&mut self, bytes: &[u8]) -> io::Result<()> {
        either!(self, socket => socket.write_all(bytes).await)
    }

    /// Waits until the socket is ready for any of `interest`. Cancel-safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, socket => socket.ready(interest).await)
    }

    /// The error that the socket keeps, if any; taken, it is gone.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        either!(self, socket => socket.take_error())
    }

    /// Sets `TCP_NODELAY`, and keep-alive probes after an idle time of `keepalive`; `None` leaves probes off. A Unix
    /// socket needs neither: it delays nothing, and the system knows whether the other process lives.
    pub fn tune(&self, nodelay: bool, keepalive: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket::tune(socket, nodelay, keepalive),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
        }
    }

    /// Closes with an RST instead of a FIN: the user sees that the connection failed, not that it ended. A Unix socket
    /// knows no such thing and is just closed.
    pub fn reset(self) {
        match self {
            Self::Tcp(socket) => socket::reset(socket),
            #[cfg(unix)]
            Self::Unix(_) => {}
        }
    }

    /// The address of the other side in canonical form; a Unix socket has none, and a broken connection neither.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().ok().map(canonical),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    /// The address of this side, likewise.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(canonical),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }
}

#[cfg(unix)]
impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, socket => socket.as_fd())
    }
}

impl ReadHalf<'_> {
    /// Waits until the socket is ready for any of `interest`. Cancel-safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, half => half.ready(interest).await)
    }

    /// The error that the socket keeps, if any; taken, it is gone.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(half) => AsRef::<TcpStream>::as_ref(half).take_error(),
            #[cfg(unix)]
            Self::Unix(half) => AsRef::<UnixStream>::as_ref(half).take_error(),
        }
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), half => Pin::new(half).poll_read(cx, buffer))
    }
}

impl AsyncWrite for WriteHalf<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), half => Pin::new(half).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), half => Pin::new(half).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, half => half.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), half => Pin::new(half).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), half => Pin::new(half).poll_shutdown(cx))
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

#[cfg(unix)]
impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

impl Peer {
    /// The address, unless the peer came over a Unix socket.
    pub const fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Addr(addr) => Some(*addr),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    /// `192.0.2.1:4711`, or `unix pid 4711 uid 1000` as far as that is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, uid) = match self {
            Self::Addr(addr) => return addr.fmt(f),
            Self::Unix { pid, uid } => (pid, uid),
        };
        let pid = pid.map(|pid| format!(" pid {pid}")).unwrap_or_default();
        let uid = uid.map(|uid| format!(" uid {uid}")).unwrap_or_default();
        f.pad(&format!("unix{pid}{uid}"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn pair() -> (Stream, Stream) {
        let (near, far) = UnixStream::pair().expect("a pair");
        (near.into(), far.into())
    }

    #[tokio::test]
    async fn a_unix_socket_carries_bytes_and_the_end_of_each_half() {
        let (mut near, mut far) = pair();
        let (mut reading, mut writing) = near.split();
        assert!(writing.is_write_vectored());
        let slices = [IoSlice::new(b"one "), IoSlice::new(b"two")];
        assert_eq!(writing.write_vectored(&slices).await.expect("written"), 7);
        writing.shutdown().await.expect("the half closed");

        let mut first = Vec::new();
        far.ready(Interest::READABLE).await.expect("ready");
        far.try_read_buf(&mut first).expect("read");
        assert_eq!(first, b"one two");
        far.write_first(b"back").await.expect("the other half is open");
        drop(far);

        let mut back = Vec::new();
        reading.read_to_end(&mut back).await.expect("read");
        assert_eq!(back, b"back");
    }

    #[tokio::test]
    async fn a_unix_socket_takes_what_is_asked_of_tcp_and_has_no_address() {
        let (near, mut far) = pair();
        near.tune(true, Some(Duration::from_secs(1))).expect("nothing to tune");
        assert_eq!((near.peer_addr(), near.local_addr()), (None, None));
        assert!(near.take_error().expect("asked").is_none());
        near.reset();
        assert_eq!(far.split().0.read(&mut [0]).await.expect("closed, not broken"), 0);
    }

    #[test]
    fn a_peer_shows_what_is_known_of_it() {
        let addr = Peer::Addr(SocketAddr::from(([192, 0, 2, 1], 4711)));
        assert_eq!(addr.to_string(), "192.0.2.1:4711");
        assert_eq!(addr.socket_addr().map(|addr| addr.port()), Some(4711));
        for (pid, uid, text) in [
            (Some(7), Some(0), "unix pid 7 uid 0"),
            (None, Some(1000), "unix uid 1000"),
            (None, None, "unix"),
        ] {
            assert_eq!(Peer::Unix { pid, uid }.to_string(), text);
        }
    }
}
