//! The way to a router through an outbound proxy. `proto-spec/carriers.md`, [CAR-11].

use std::io;

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use crate::tunnel::{Host, HostPort, Proxy, ProxyKind};

/// A connection to `target` by way of the proxy. Errors name the proxy. Cancel-safe: dropped, the attempt ends.
pub(super) async fn connect(proxy: &Proxy, target: &HostPort) -> io::Result<TcpStream> {
    let through = async {
        let stream = match &proxy.addr.host {
            Host::Addr(ip) => TcpStream::connect((*ip, proxy.addr.port)).await?,
            Host::Name(name) => TcpStream::connect((name.as_str(), proxy.addr.port)).await?,
        };
        stream.set_nodelay(true)?;
        match proxy.protocol {
            ProxyKind::Http => by_http(proxy, stream, target).await,
            ProxyKind::Socks5 => by_socks(proxy, stream, target).await,
        }
    };
    through.await.map_err(|error| io::Error::new(error.kind(), format!("proxy {proxy}: {error}")))
}

async fn by_http(proxy: &Proxy, stream: TcpStream, target: &HostPort) -> io::Result<TcpStream> {
    let authority = target.to_string();
    let mut request = Request::connect(&authority).header(hyper::header::HOST, &authority);
    if let Some(user) = &proxy.user {
        let password = proxy.password.as_ref().map_or("", |password| password.as_str());
        let credentials = BASE64.encode(format!("{user}:{password}").as_bytes());
        request = request.header(PROXY_AUTHORIZATION, format!("Basic {credentials}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        match response.status() {
            // The second is wrong, and what tinyproxy says to wrong credentials.
            StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => {
                Err(refused(NO_CREDENTIALS))
            }
            status if !status.is_success() => {
                Err(refused(&format!("it answers {status} to CONNECT {authority}")))
            }
            _ => hyper::upgrade::on(response).await.map_err(io::Error::other),
        }
    };
    // The other future moves the bytes of this one, and ends with it.
    let (upgraded, _) = tokio::join!(exchange, connection.with_upgrades());
    let parts = upgraded?
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| io::Error::other("it is no TCP connection any more"))?;
    if !parts.read_buf.is_empty() {
        // A router waits for the client's first word.
        return Err(refused("it says more than its answer"));
    }
    Ok(parts.io.into_inner())
}

async fn by_socks(proxy: &Proxy, stream: TcpStream, target: &HostPort) -> io::Result<TcpStream> {
    use tokio_socks::Error;
    let target = match &target.host {
        Host::Addr(ip) => tokio_socks::TargetAddr::Ip((*ip, target.port).into()),
        Host::Name(name) => tokio_socks::TargetAddr::Domain(name.into(), target.port),
    };
    let connected = match &proxy.user {
        None => Socks5Stream::connect_with_socket(stream, target).await,
        Some(user) => {
            // RFC 1929 knows no empty password.
            let password = proxy.password.as_ref().map_or("-", |password| password.as_str());
            Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
        }
    };
    connected.map(Socks5Stream::into_inner).map_err(|error| match error {
        Error::Io(error) => error,
        Error::NoAcceptableAuthMethods | Error::PasswordAuthFailure(_) => refused(NO_CREDENTIALS),
        error => refused(&error.to_string()),
    })
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, reason.to_owned())
}

/// It wants a user, or knows another password.
const NO_CREDENTIALS: &str = "it wants a user and a password, or others than these: http://USER@HOST:PORT with \
                              [router] proxy_password_file or CONDUIT_ROUTER_PROXY_PASSWORD";
