//! Accepting connections, and closing them in order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// A connection's read buffer at most. It is memory that no budget counts, so it is small.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// A client that has not sent its request's head in this time is slow on purpose.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Serves connections, at most so many at a time, until told to drain; returns when the last has
/// been answered.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: u32,
    mut drain: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(max_connections as usize));
    loop {
        let accepted = async {
            // Beyond the limit connections wait in the system's queue.
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            (permit, accepted) = accepted => match accepted {
                Ok((socket, _)) => {
                    let connection = connection(socket, router.clone(), drain.clone());
                    tokio::spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                // Out of descriptors, or a client that left: either passes. Waiting keeps the first
                // from turning into a busy loop.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            () = asked_to_drain(&mut drain) => break,
        }
    }
    drop(listener);
    // All permits are back when all connections are closed; the semaphore is never closed.
    let _ = room.acquire_many(max_connections).await;
}

async fn connection(socket: TcpStream, router: Router, mut drain: watch::Receiver<bool>) {
    // Answers are written whole; waiting to fill a segment only delays them.
    let _ = socket.set_nodelay(true);
    let connection = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        // How a client's connection ends is the client's affair.
        _ = connection.as_mut() => {}
        () = asked_to_drain(&mut drain) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn asked_to_drain(drain: &mut watch::Receiver<bool>) {
    // A sender that is gone means the end as well.
    let _ = drain.wait_for(|&drain| drain).await;
}
