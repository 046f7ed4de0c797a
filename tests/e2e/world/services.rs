//! Targets that are threads of the test.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A TCP service on a free port of 127.0.0.1, a thread per connection; ends when it is dropped.
pub(crate) struct Service {
    addr: SocketAddr,
    connects: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Service {
    pub(crate) fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a listener"), serve)
    }

    pub(crate) fn on(
        listener: TcpListener,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().expect("its address");
        let (connects, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let serve = Arc::new(serve);
        let service = Self { addr, connects: Arc::clone(&connects), stopped: Arc::clone(&stopped) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                connects.fetch_add(1, Ordering::Relaxed);
                let serve = Arc::clone(&serve);
                let small = thread::Builder::new().stack_size(128 << 10);
                let _ = small.spawn(move || serve(stream)).expect("a thread");
            }
        });
        service
    }

    /// Sends back what it gets.
    pub(crate) fn echo() -> Self {
        Self::start(|stream| drop(std::io::copy(&mut &stream, &mut &stream)))
    }

    /// Speaks first, then sends back what it gets.
    pub(crate) fn greeting(text: &'static str) -> Self {
        Self::start(move |stream| {
            let _ = (&stream).write_all(text.as_bytes());
            let _ = std::io::copy(&mut &stream, &mut &stream);
        })
    }

    /// Speaks and closes.
    pub(crate) fn saying(text: &'static str) -> Self {
        Self::start(move |stream| drop((&stream).write_all(text.as_bytes())))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections that came.
    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
    }
}

/// A listener whose queue is full: the kernel drops whatever else wants to connect, as a firewall would.
pub(crate) struct BlackHole {
    addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) fn dig(place: &str) -> Self {
        let place: SocketAddr = place.parse().expect("an address");
        let listener =
            Socket::new(Domain::for_address(place), Type::STREAM, None).expect("a socket");
        listener.bind(&place.into()).expect("a port");
        listener.listen(1).expect("a short queue");
        let addr = listener.local_addr().expect("an address").as_socket().expect("an IP address");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
            queued.push(stream);
            assert!(queued.len() < 64, "the queue never fills");
        }
        Self { addr, _listener: listener, _queued: queued }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A port of 127.0.0.1 that nobody has at the moment.
pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}
