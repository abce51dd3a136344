//! What can go wrong with objects.

use std::io;

/// A failure, as a sentence that says what was expected and what came.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody made this bucket.
    #[error("there is no bucket {0:?}")]
    NoSuchBucket(String),
    /// Nothing was put there, or it was deleted.
    #[error("there is no object {key:?} in bucket {bucket:?}")]
    NoSuchKey {
        /// Where it was looked for.
        bucket: String,
        /// What was looked for.
        key: String,
    },
    /// It was completed or aborted, was removed because nobody went on with it, or is another key's.
    #[error("there is no multipart upload {0:?} of this key")]
    NoSuchUpload(String),
    /// The name is taken.
    #[error("bucket {0:?} is there already")]
    BucketExists(String),
    /// It is not empty.
    #[error("bucket {0:?} is not empty")]
    BucketNotEmpty(String),
    /// As S3's rules for names have it.
    #[error(
        "{0:?} can't name a bucket: expected 3 to 63 lower-case letters, digits, dots and hyphens"
    )]
    InvalidBucketName(String),
    /// An empty one, or one that is too long.
    #[error("the key has {0} bytes, expected 1 to 1024")]
    InvalidKey(usize),
    /// What is kept beside an object's bytes.
    #[error("{what} has {got} bytes, expected at most {limit}")]
    AttributesTooLarge {
        /// Metadata, headers or tags.
        what: &'static str,
        /// In bytes, names and values together.
        got: usize,
        /// In bytes.
        limit: usize,
    },
    /// More bytes than an object, or a part of one, may have.
    #[error("the object has more than {limit} bytes")]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// Fewer or more bytes than were announced.
    #[error("{expected} bytes were announced, {got} came")]
    Incomplete {
        /// In bytes.
        expected: u64,
        /// In bytes.
        got: u64,
    },
    /// Other bytes than those whose digest was sent.
    #[error("the {what} of what came is not the one that was sent")]
    BadDigest {
        /// Which digest.
        what: &'static str,
    },
    /// The object is not, or is, as the caller made it a condition.
    #[error("the object is not as the request expects it")]
    PreconditionFailed,
    /// A part that was not uploaded so.
    #[error("part {0} was not uploaded, or with another ETag or checksum")]
    InvalidPart(u16),
    /// Parts are not named in order.
    #[error("expected part numbers in ascending order, each once")]
    InvalidPartOrder,
    /// A part that is not the last, and small.
    #[error("part {number} has {size} bytes, expected at least {limit} of all but the last")]
    PartTooSmall {
        /// Which part.
        number: u16,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// A bound on what there may be.
    #[error("there are {limit} {what} already, which is the most there may be")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: usize,
    },
    /// The caller's bytes ended early, or are not what the caller signed.
    #[error("the body can't be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// No room on the disk.
    #[error("the disk is full")]
    Full,
    /// The disk.
    #[error("the objects' files: {0}")]
    Io(io::Error),
    /// The index.
    #[error("the objects' index: {0}")]
    Index(#[from] rusqlite::Error),
    /// Whether the change is there is not known: what it was part of could not be committed.
    #[error("the objects' index could not be written: {0}")]
    Commit(String),
    /// The store stops.
    #[error("the store is being closed")]
    Closed,
}

impl Error {
    /// Whether the same request may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Full
                | Self::Io(_)
                | Self::Index(_)
                | Self::Commit(_)
                | Self::Closed
                | Self::TooMany { .. }
        )
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}
