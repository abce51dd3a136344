//! SHA-256 digests of files and versions.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::StoreError;
use crate::folder::open_regular;

/// Bytes read at a time; larger ones leave the second-level cache between reading and hashing.
const CHUNK_BYTES: usize = 256 * 1024;

/// A SHA-256 digest; 64 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a digest was refused; a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no SHA-256 digest: expected 64 hex digits")]
pub struct ParseDigestError(String);

/// A digest over fields that cannot run into each other: each is preceded by its length.
pub(crate) struct FieldHasher(Sha256);

// === impl Digest ===

impl Digest {
    /// Returns the digest of a regular file (or of the one a symlink leads to), read in pieces.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it cannot be read, [`StoreError::Invalid`] if it is no regular file.
    pub fn of_file(path: &Path) -> Result<Self, StoreError> {
        let (mut file, _) = open_regular(path)?;
        Self::of_reader(&mut file, &mut io::sink(), &mut |_| ()).map_err(StoreError::io(path))
    }

    /// Hashes what it reads and passes it on, saying after each piece how many bytes it was.
    pub(crate) fn of_reader(
        from: &mut impl Read,
        to: &mut impl Write,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return Ok(Self(hasher.finalize().into())),
                Ok(n_bytes) => {
                    hasher.update(&chunk[..n_bytes]);
                    to.write_all(&chunk[..n_bytes])?;
                    progress(n_bytes as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a digest of a version together with those of its stages, in order; its own where it
    /// has none.
    pub fn with_stages(self, stages: impl IntoIterator<Item = Self>) -> Self {
        let mut stages = stages.into_iter().peekable();
        if stages.peek().is_none() {
            return self;
        }
        let mut hasher = FieldHasher::new();
        for Self(bytes) in std::iter::once(self).chain(stages) {
            hasher.field(&bytes);
        }
        hasher.finish()
    }

    /// Returns the digest of a version: of the names and digests of its files, in any order.
    pub(crate) fn of_version<'a>(files: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let mut files: Vec<_> = files.into_iter().collect();
        files.sort_unstable();
        let mut hasher = FieldHasher::new();
        for (name, Self(bytes)) in files {
            hasher.field(name.as_bytes());
            hasher.field(&bytes);
        }
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let refused = || ParseDigestError(text.chars().take(80).collect());
        let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or_else(refused);
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() {
            return Err(refused());
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (nibble(digits[0])? << 4 | nibble(digits[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

// === impl FieldHasher ===

impl FieldHasher {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests;
