//! Settings of sockets.

use std::io;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpStream;

/// What [`super::Stream::tune`] does.
pub(super) fn tune(
    stream: &TcpStream,
    nodelay: bool,
    keepalive: Option<Duration>,
) -> io::Result<()> {
    stream.set_nodelay(nodelay)?;
    if let Some(idle) = keepalive {
        let probes = TcpKeepalive::new().with_time(idle).with_interval(idle.min(LONGEST_INTERVAL));
        SockRef::from(stream).set_tcp_keepalive(&probes)?;
    }
    Ok(())
}

/// What [`super::Stream::reset`] does.
pub(super) fn reset(stream: TcpStream) {
    // On an error the socket is beyond repair already, and closing it is all that is left to do.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Asks for `bytes` of buffer in each direction. A system grants what its limits allow, and saying no is not an error.
pub fn enlarge_buffers(socket: &Socket, bytes: usize) {
    let _ = socket.set_recv_buffer_size(bytes);
    let _ = socket.set_send_buffer_size(bytes);
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        // For who may (CAP_NET_ADMIN), beyond the limits.
        let _ = sockopt::set_socket_recv_buffer_size_force(socket, bytes);
        let _ = sockopt::set_socket_send_buffer_size_force(socket, bytes);
    }
}

/// Between probes: the system's own 75 s would let a dead peer live for ten minutes more.
const LONGEST_INTERVAL: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("an address");
        let near = TcpStream::connect(addr).await.expect("connect");
        (near, listener.accept().await.expect("accept").0)
    }

    #[tokio::test]
    async fn the_peer_of_a_reset_socket_sees_an_error_and_not_an_end() {
        let (near, mut far) = pair().await;
        reset(near);
        let error = far.read(&mut [0; 1]).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn settings_reach_the_socket() {
        let (near, far) = pair().await;
        tune(&near, true, Some(Duration::from_secs(40))).expect("tune");
        assert!(near.nodelay().expect("nodelay"));
        assert!(SockRef::from(&near).keepalive().expect("keepalive"));
        tune(&far, false, None).expect("tune");
        assert!(!far.nodelay().expect("nodelay"));
        assert!(!SockRef::from(&far).keepalive().expect("keepalive"));
    }
}
