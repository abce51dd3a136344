//! What a worker is told to serve, before anything else is said on its wire.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, recv};
use serde::{Deserialize, Serialize};

/// Longest line; a version has few stages, and paths are at most 4096 bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// What a worker is to serve: one version, for its life.
///
/// A line of JSON, the first thing on the wire of a worker that was started without a model; HTTP/2
/// follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The version's folder.
    pub model: PathBuf,
    /// The folders of its stages, in order.
    pub stages: Vec<PathBuf>,
    /// Cores to use. Default: those that the process may use.
    pub threads: Option<u32>,
    /// Loaded copies where the manifest does not say, with the cores divided among them. Default: 1.
    pub instances: Option<u32>,
    /// Largest picture, in pixels.
    pub max_pixels: u64,
    /// Where to serve plain Open Inference Protocol as well, in a folder made with mode 0700.
    pub debug_socket: Option<PathBuf>,
}

impl Assignment {
    /// Returns the line, its end included.
    ///
    /// # Errors
    /// When a path is no UTF-8, or all is longer than 64 KiB.
    pub fn to_line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        if line.len() > MAX_LINE_BYTES {
            return Err(too_long());
        }
        Ok(line)
    }

    /// Waits for the line and takes it off the socket, and nothing of what follows it; `None` where
    /// the socket is closed instead. Blocks.
    ///
    /// # Errors
    /// When what comes is no assignment, longer than 64 KiB, or cut short.
    pub fn receive(mut wire: &UnixStream) -> io::Result<Option<Self>> {
        let mut line = Vec::new();
        let mut room = vec![0; MAX_LINE_BYTES];
        loop {
            let (n_there, _) = retry_on_intr(|| recv(wire, &mut room[..], RecvFlags::PEEK))?;
            let there = &mut room[..n_there];
            let end = there.iter().position(|&byte| byte == b'\n');
            let n_taken = end.map_or(n_there, |end| end + 1);
            if line.len() + n_taken > MAX_LINE_BYTES {
                return Err(too_long());
            }
            wire.read_exact(&mut there[..n_taken])?;
            line.extend_from_slice(&there[..n_taken]);
            if end.is_some() {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if n_there == 0 {
                return match line.len() {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("an assignment has at most {MAX_LINE_BYTES} bytes, this one has more"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn assignments() -> impl Strategy<Value = Assignment> {
        let path = || any::<String>().prop_map(PathBuf::from);
        let stages = prop::collection::vec(path(), 0..3);
        let counts = (any::<Option<u32>>(), any::<Option<u32>>(), any::<u64>());
        (path(), stages, counts, prop::option::of(path())).prop_map(
            |(model, stages, (threads, instances, max_pixels), debug_socket)| Assignment {
                model,
                stages,
                threads,
                instances,
                max_pixels,
                debug_socket,
            },
        )
    }

    /// Receives what the parts are, written one by one and then closed, and returns what is left.
    fn received(parts: &[&[u8]]) -> (io::Result<Option<Assignment>>, Vec<u8>) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for part in parts {
                    // The reader may have given up.
                    let _ = ours.write_all(part);
                }
            });
            let received = Assignment::receive(&theirs);
            let mut rest = Vec::new();
            theirs.read_to_end(&mut rest).unwrap();
            (received, rest)
        })
    }

    proptest! {
        #[test]
        fn an_assignment_arrives_as_it_was_sent_and_what_follows_is_left(
            assignment in assignments(),
            follows in prop::collection::vec(any::<u8>(), 0..100),
            cut: prop::sample::Index,
        ) {
            let line = assignment.to_line().unwrap();
            let (first, second) = line.split_at(cut.index(line.len()));
            let (received, rest) = received(&[first, second, &follows]);
            prop_assert_eq!(received.unwrap(), Some(assignment));
            prop_assert_eq!(rest, follows);
        }

        #[test]
        fn any_bytes_are_received_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = received(&[&bytes]);
        }
    }

    #[test]
    fn a_socket_that_is_closed_brings_no_assignment() {
        assert_eq!(received(&[]).0.unwrap(), None);
        let cut_short = received(&[b"{"]).0.unwrap_err();
        assert_eq!(cut_short.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let endless = vec![b' '; MAX_LINE_BYTES + 1];
        let error = received(&[&endless]).0.unwrap_err();
        assert!(error.to_string().contains("at most 65536 bytes"), "{error}");
    }
}
