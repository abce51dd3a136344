//! A Unix socket that is woken only by what concerns it.
//!
//! On Linux such a socket counts as newly writable whenever its peer has read anything, and a
//! poller that asks for both directions, as tokio's own type does, is woken by it: once per message
//! that the peer takes, for nothing. Here room to write is asked for only by a write that lacks it.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Most bytes of one read: what is read into is zeroed first, and the system's buffers hold little more.
const READ_BYTES: usize = 128 << 10;

/// A connected Unix stream socket.
#[derive(Debug)]
pub struct Socket {
    socket: AsyncFd<UnixStream>,
    /// The same socket again, while a write waits for room.
    full: Option<AsyncFd<UnixStream>>,
}

impl Socket {
    /// Takes over a connected socket, on the runtime that this is called on.
    ///
    /// # Errors
    /// When it can't be made non-blocking or watched.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: watched(socket, Interest::READABLE)?,
            full: None,
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled_to(buffer.remaining().min(READ_BYTES));
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let Ok(read) = ready.try_io(|socket| socket.get_ref().read(room)) else {
                continue;
            };
            let n_read = read?;
            if 0 < n_read && n_read < room.len() {
                // All was taken: what comes next is news, and asking again would be a call for nothing.
                ready.clear_ready();
            }
            buffer.advance(n_read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(full) = &self.full {
                // Stays ready once it is, since nothing is written through it.
                ready!(full.poll_write_ready(cx))?.retain_ready();
                self.full = None;
            }
            match self.socket.get_ref().write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let socket = self.socket.get_ref().try_clone()?;
                    self.full = Some(watched(socket, Interest::WRITABLE)?);
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(Shutdown::Write))
    }
}

#[expect(
    unsafe_code,
    reason = "tokio's own socket types ask for both directions"
)]
fn watched(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: the socket is moved in, its descriptor is always the same, and it is closed by being
    // dropped, which the `AsyncFd` does last.
    let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
    Ok(watched?)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (Socket, Socket) {
        let (one, other) = UnixStream::pair().unwrap();
        (Socket::new(one).unwrap(), Socket::new(other).unwrap())
    }

    #[tokio::test]
    async fn a_writer_waits_for_room_and_goes_on() {
        let (mut writer, mut reader) = pair();
        // Many times what the system buffers.
        let sent: Vec<u8> = (0..10_000_000_u32).map(|at| (at >> 8) as u8).collect();
        let mut received = Vec::new();
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        tokio::join!(write, async {
            reader.read_to_end(&mut received).await.unwrap()
        });
        assert!(received == sent);
        assert!(writer.full.is_none());
    }

    #[tokio::test]
    async fn a_reader_hears_all_that_comes_after_it_had_read_all() {
        let (mut one, mut other) = pair();
        let mut buffer = [0; 64];
        for message in [&b"first"[..], b"second"] {
            one.write_all(message).await.unwrap();
            let n_read = other.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..n_read], message);
        }
    }

    #[tokio::test]
    async fn both_ends_end_when_the_socket_is_shut_down_beside() {
        let (one, other) = UnixStream::pair().unwrap();
        let handle = one.try_clone().unwrap();
        let (mut one, mut other) = (Socket::new(one).unwrap(), Socket::new(other).unwrap());
        handle.shutdown(Shutdown::Both).unwrap();
        assert_eq!(one.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(other.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
