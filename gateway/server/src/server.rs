//! Accepting connections, and closing them in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A connection's read buffer at most. It is memory that no budget counts, so it is small.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// A client that has not sent its request's head in this time is slow on purpose.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A client that has not agreed on TLS in this time is slow on purpose.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Calls of one gRPC connection at a time; clients wait with those beyond.
const MAX_STREAMS: u32 = 1024;
/// Metadata of a call at most, as much as the head of a request.
const MAX_METADATA_BYTES: u32 = 64 << 10;
/// What a call may send before it is read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What the calls of a connection may send together before it is read.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A gRPC connection may be idle for long; whether its client still lives is asked this often.
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// Connections that the system keeps until they are accepted, as far as it allows (`somaxconn`): a client
/// that finds no place among them tries again after a second.
const BACKLOG: u32 = 4096;

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http,
    /// gRPC, so HTTP/2 from the first byte.
    Grpc,
}

impl Protocol {
    /// Its name in the negotiation of TLS (ALPN).
    pub(crate) const fn name(self) -> &'static [u8] {
        match self {
            Self::Http => b"http/1.1",
            Self::Grpc => b"h2",
        }
    }
}

/// Listens on an address.
///
/// # Errors
/// The system's.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections that a gateway left behind do not keep the next from its address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections while there is room, which listeners share, until told to drain; returns when
/// the last of this listener has been answered.
pub(crate) async fn serve(
    listener: TcpListener,
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
    router: Router,
    room: Arc<Semaphore>,
    mut drain: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    // One is accepted and not read, the others wait in the system's queue: a listener whose turn has not
    // come takes no room from the other.
    let mut next = None;
    loop {
        tokio::select! {
            accepted = listener.accept(), if next.is_none() => match accepted {
                Ok((socket, _)) => next = Some(socket),
                // Out of descriptors, or a client that left: either passes. Waiting keeps the first
                // from turning into a busy loop.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            permit = Arc::clone(&room).acquire_owned(), if next.is_some() => {
                let Some(socket) = next.take() else { continue };
                let (router, mut drain) = (router.clone(), drain.clone());
                let tls = tls.clone();
                connections.spawn(async move {
                    // Answers are written whole; waiting to fill a segment only delays them.
                    let _ = socket.set_nodelay(true);
                    match tls {
                        None => connection(socket, protocol, router, drain).await,
                        Some(tls) => {
                            if let Some(socket) = handshake(&tls, socket, &mut drain).await {
                                connection(socket, protocol, router, drain).await;
                            }
                        }
                    }
                    drop(permit);
                });
            }
            // What has ended is forgotten while others come.
            Some(_) = connections.join_next() => {}
            () = asked_to_drain(&mut drain) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Agrees on TLS with a client, unless it fails to, or the drain is asked for.
async fn handshake(
    tls: &TlsAcceptor,
    socket: TcpStream,
    drain: &mut watch::Receiver<bool>,
) -> Option<TlsStream<TcpStream>> {
    let agreed = tokio::select! {
        agreed = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)) => agreed,
        () = asked_to_drain(drain) => return None,
    };
    match agreed {
        Ok(Ok(socket)) => return Some(socket),
        Ok(Err(error)) => tracing::debug!(%error, "a client and TLS do not go together"),
        Err(_) => tracing::debug!("a client did not agree on TLS in time"),
    }
    None
}

async fn connection(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: Protocol,
    router: Router,
    drain: watch::Receiver<bool>,
) {
    let socket = TokioIo::new(socket);
    match protocol {
        Protocol::Http => http_connection(socket, router, drain).await,
        Protocol::Grpc => grpc_connection(socket, router, drain).await,
    }
}

async fn http_connection(
    socket: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    router: Router,
    drain: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(socket, TowerToHyperService::new(router));
    until_drained(connection, drain).await;
}

async fn grpc_connection(
    socket: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    router: Router,
    drain: watch::Receiver<bool>,
) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_METADATA_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(HEAD_TIMEOUT)
        .serve_connection(socket, TowerToHyperService::new(router));
    until_drained(connection, drain).await;
}

/// Serves a connection until its client ends it, or what is in flight has been answered after the
/// drain was asked for. How a client's connection ends is the client's affair.
async fn until_drained(connection: impl GracefulConnection, mut drain: watch::Receiver<bool>) {
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = asked_to_drain(&mut drain) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

pub(crate) async fn asked_to_drain(drain: &mut watch::Receiver<bool>) {
    // A sender that is gone means the end as well.
    let _ = drain.wait_for(|&drain| drain).await;
}
