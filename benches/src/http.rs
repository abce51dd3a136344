//! A blocking HTTP/1.1 client on one kept-alive connection: one write and, as a rule, one read per
//! request, so that what is measured is the server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

/// A server that answers nothing for this long is broken; without a limit a benchmark would hang.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, in the connection's buffer.
#[derive(Debug)]
pub struct Reply<'a> {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: &'a [u8],
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).with_context(|| format!("nobody at {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Sends a whole request, made by [`post`], [`get`] or [`delete`], and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is chunked.
    pub fn call(&mut self, request: &[u8]) -> anyhow::Result<Reply<'_>> {
        self.socket.write_all(request)?;
        let mut filled = 0;
        let (status, body) = loop {
            if filled == self.buffer.len() {
                self.buffer.resize(2 * filled, 0);
            }
            let n_read = self.socket.read(&mut self.buffer[filled..])?;
            anyhow::ensure!(n_read > 0, "the connection broke off after {filled} bytes");
            filled += n_read;
            match head(&self.buffer[..filled])? {
                Some((status, body)) if body.end <= filled => break (status, body),
                _ => {}
            }
        };
        Ok(Reply {
            status,
            body: &self.buffer[body],
        })
    }
}

/// Returns the status and where the body lies, once the head is there.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(u16, std::ops::Range<usize>)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    // RFC 9110 § 8.6: it has neither a body nor a length.
    if status == 204 {
        return Ok(Some((status, end + 4..end + 4)));
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("an answer without a length")?;
    let length: usize = length.1.trim().parse()?;
    Ok(Some((status, end + 4..end + 4 + length)))
}

/// Returns a request with a body; `headers` are whole lines.
pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Returns a request that deletes.
pub fn delete(path: &str) -> Vec<u8> {
    format!("DELETE {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// Returns a request without a body.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}
