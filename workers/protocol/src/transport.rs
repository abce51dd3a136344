//! gRPC over a connection that is there already: an inherited socket, a Unix socket.
//!
//! hyper is driven directly, since a worker has one connection for its life: there is nothing to
//! connect to, to balance or to retry, and the HTTP/2 settings are ours.

mod socket;

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower::Service;

use crate::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use crate::wire::PART_BYTES;
pub use socket::Socket;

/// Largest gRPC message. Entries come in parts far below it; an answer may hold a drawn picture.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A part travels in one frame.
const FRAME_BYTES: u32 = PART_BYTES as u32 + 1024;
/// What may be under way unread: enough that a part never waits for the reader on one machine,
/// little enough that a run message does not wait behind many.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A connection to a worker, as tonic's clients want it.
#[derive(Clone, Debug)]
pub struct Connection(SendRequest<Body>);

/// Makes a client of a connected socket. The returned future drives the connection, to its end.
///
/// # Errors
/// When the socket closes during the handshake.
pub async fn connect<IO>(
    io: IO,
) -> Result<
    (
        GrpcInferenceServiceClient<Connection>,
        impl Future<Output = hyper::Result<()>>,
    ),
    hyper::Error,
>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) = connection(io).await?;
    let client = GrpcInferenceServiceClient::new(connection)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok((client, driver))
}

/// Makes what any client of tonic's calls on, of a connected socket. The returned future drives the
/// connection, to its end.
///
/// # Errors
/// When the socket closes during the handshake.
pub async fn connection<IO>(
    io: IO,
) -> Result<(Connection, impl Future<Output = hyper::Result<()>>), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(PART_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(TokioIo::new(io))
        .await?;
    Ok((Connection(sender), driver))
}

/// Serves a tonic service on a connected socket until the other side closes it.
///
/// # Errors
/// When the connection breaks.
pub async fn serve<IO, S>(io: IO, service: S) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(PART_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
        .await
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // HTTP/2 wants an absolute URI; on an inherited socket any authority will do.
        let path = request.uri().path().to_owned();
        if let Ok(uri) = http::Uri::builder()
            .scheme("http")
            .authority("localhost")
            .path_and_query(path)
            .build()
        {
            *request.uri_mut() = uri;
        }
        Box::pin(self.0.send_request(request))
    }
}
