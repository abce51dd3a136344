//! An HTTP/1.1 client that costs little, because it shares its processors with what it measures.
//!
//! A request's bytes are made once; of an answer only the status and the length are read.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// A head larger than this is refused; bodies pass through the same buffer.
const BUFFER_BYTES: usize = 16 << 10;
/// A connection that was idle for longer is not used again: Hearth closes them after 15 s, and a
/// request that crosses with the closing is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A request, and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    bytes: Vec<u8>,
}

/// Kept-alive connections to one server, as many as are needed at a time.
#[derive(Debug)]
pub(crate) struct Pool {
    address: SocketAddr,
    room: Semaphore,
    /// The one used last is used next, so that those that are not needed age.
    idle: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    used: Instant,
}

/// What there is to know of an answer before its body.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
    closes: bool,
}

// === impl Target ===

impl Target {
    /// Returns a POST to an `http://` URL, whose host is looked up once.
    ///
    /// # Errors
    /// When the URL is of another kind, or its host is not known.
    pub(crate) async fn post(
        url: &http::Uri,
        headers: &[(String, String)],
        body: &[u8],
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            url.scheme() == Some(&http::uri::Scheme::HTTP),
            "{url}: expected an http:// URL"
        );
        let authority = url.authority().context("the URL has no host")?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(80);
        let address = tokio::net::lookup_host((host, port))
            .await?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        Ok(Self {
            address,
            bytes: [head.as_bytes(), body].concat(),
        })
    }

    /// Returns the whole request.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

// === impl Pool ===

impl Pool {
    /// Returns a pool that will hold so many connections at most.
    pub(crate) fn new(target: &Target, max_connections: usize) -> Self {
        Self {
            address: target.address,
            room: Semaphore::new(max_connections.clamp(1, Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
        }
    }

    /// Sends a request as soon as there is a connection for it, notes when, and returns the status
    /// once the whole answer has come.
    ///
    /// # Errors
    /// When the server can't be reached, breaks off, or answers without a `Content-Length`.
    pub(crate) async fn call(&self, request: &[u8], sent: &mut Option<Instant>) -> io::Result<u16> {
        // The semaphore is never closed.
        let _room = self.room.acquire().await.map_err(io::Error::other)?;
        let idle = self
            .lock()
            .pop()
            .filter(|connection| connection.used.elapsed() < IDLE_TIMEOUT);
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        *sent = Some(Instant::now());
        let head = connection.call(request).await?;
        if !head.closes {
            connection.used = Instant::now();
            self.lock().push(connection);
        }
        Ok(head.status)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Connection ===

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            used: Instant::now(),
        })
    }

    async fn call(&mut self, request: &[u8]) -> io::Result<Head> {
        self.socket.write_all(request).await?;
        let mut filled = 0;
        let head = loop {
            filled += self.read(filled).await?;
            match head(&self.buffer[..filled])? {
                Some(head) => break head,
                None if filled == BUFFER_BYTES => {
                    return Err(broken("the answer's head is too large"));
                }
                None => {}
            }
        };
        let mut missing = (head.bytes + head.body_bytes)
            .checked_sub(filled)
            .ok_or_else(|| broken("the answer is longer than it said"))?;
        while missing > 0 {
            missing = missing
                .checked_sub(self.read(0).await?)
                .ok_or_else(|| broken("the answer is longer than it said"))?;
        }
        Ok(head)
    }

    async fn read(&mut self, filled: usize) -> io::Result<usize> {
        match self.socket.read(&mut self.buffer[filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n_read => Ok(n_read),
        }
    }
}

/// Reads an answer's head, once it is all there.
fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| broken("the head is not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| broken("the answer is not HTTP/1"))?;
    let (mut body_bytes, mut closes) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body_bytes = value.trim().parse::<u32>().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.trim().eq_ignore_ascii_case("close");
        }
    }
    Ok(Some(Head {
        status,
        bytes: end + 4,
        body_bytes: body_bytes.ok_or_else(|| broken("the answer has no Content-Length"))? as usize,
        closes,
    }))
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_says_status_length_and_whether_the_connection_stays() {
        let answer = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 12\r\nconnection: close\r\n\r\n{\"error\"";
        let expected = Head {
            status: 429,
            bytes: answer.len() - 8,
            body_bytes: 12,
            closes: true,
        };
        assert_eq!(head(answer).unwrap(), Some(expected));
        assert_eq!(head(&answer[..40]).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            first in "(HTTP/1.1 [0-9]{0,4} \r\n)?",
            rest in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = [first.as_bytes(), &rest, b"\r\n\r\n"].concat();
            if let Ok(Some(head)) = head(&bytes) {
                prop_assert!(head.bytes <= bytes.len());
            }
        }
    }
}
