//! Bytes on the disk: files of random names, each written once.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::Error;
use crate::checksum::{Algorithm, Checksum, Digests, hex, unhex};

/// What is gathered of a body before it is hashed and written; most objects are smaller and so cost
/// one turn on a blocking thread.
const WRITE_BYTES: usize = 1 << 20;

/// What is read of a file at a time.
const READ_BYTES: u64 = 256 << 10;

/// A blob's name, which is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlobName([u8; 16]);

/// The folder of the blobs.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

/// A blob that is on the disk, and that no row names yet. It is removed when it is dropped, unless it
/// is kept.
#[derive(Debug)]
pub(crate) struct Staged {
    file: Created,
    pub(crate) size: u64,
}

/// What was seen of bytes as they were written.
#[derive(Clone, Debug)]
pub(crate) struct Digest {
    pub(crate) md5: [u8; 16],
    /// The one that was asked for.
    pub(crate) checksum: Option<Checksum>,
}

/// A file that is removed when it is dropped, unless it is kept.
#[derive(Debug)]
struct Created {
    name: BlobName,
    path: PathBuf,
    is_kept: bool,
}

/// A blob that is being written.
struct Writing {
    created: Created,
    file: File,
    digests: Digests,
    size: u64,
}

// === impl BlobName ===

impl BlobName {
    fn random() -> Result<Self, Error> {
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(|error| Error::Io(io::Error::other(error)))?;
        Ok(Self(name))
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl ToSql for BlobName {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(&self.0)))
    }
}

impl FromSql for BlobName {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        FromSql::column_result(value).map(Self)
    }
}

// === impl Blobs ===

impl Blobs {
    /// Makes the folders that are not there. Blocks.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        for first in 0..=u8::MAX {
            fs::create_dir_all(folder.join(format!("{first:02x}")))?;
        }
        sync(&folder)?;
        Ok(Self { folder })
    }

    /// Removes the blobs that are not among these: what was being written when a process ended, and
    /// what was replaced. Blocks.
    pub(crate) fn sweep(&self, named: &HashSet<BlobName>) -> io::Result<usize> {
        let mut n_removed = 0;
        for first in 0..=u8::MAX {
            let folder = self.folder.join(format!("{first:02x}"));
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| unhex(name.to_str()?));
                if name.is_some_and(|name| !named.contains(&BlobName(name))) {
                    fs::remove_file(path)?;
                    n_removed += 1;
                }
            }
        }
        Ok(n_removed)
    }

    /// Removes a blob that no row names any more; where that fails, the next start does. Who has it
    /// open reads on. Blocks.
    pub(crate) fn remove(&self, name: BlobName) {
        let _ = fs::remove_file(self.path(name));
    }

    /// Opens a blob.
    pub(crate) async fn read(&self, name: BlobName) -> io::Result<tokio::fs::File> {
        tokio::fs::File::open(self.path(name)).await
    }

    /// Writes what comes to a new blob, and returns when it is on the disk. At most a mebibyte of it
    /// is in memory, and what the caller sends at a time.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond this many bytes, [`Error::Body`] where the body fails.
    pub(crate) async fn write<S, E>(
        &self,
        body: S,
        limit: u64,
        algorithm: Option<Algorithm>,
    ) -> Result<(Staged, Digest), Error>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut body = std::pin::pin!(body);
        let mut writing = None;
        let mut gathered = Vec::new();
        let mut size = 0_u64;
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| Error::Body(error.into()))?;
            size += bytes.len() as u64;
            if size > limit {
                return Err(Error::TooLarge { limit });
            }
            gathered.extend_from_slice(&bytes);
            if gathered.len() >= WRITE_BYTES {
                let bytes = std::mem::take(&mut gathered);
                let blobs = self.clone();
                let begun = writing.take();
                writing = Some(blocking(move || blobs.write_on(begun, algorithm, &bytes)).await?);
            }
        }
        let blobs = self.clone();
        blocking(move || blobs.write_on(writing, algorithm, &gathered)?.finish()).await
    }

    fn write_on(
        &self,
        begun: Option<Writing>,
        algorithm: Option<Algorithm>,
        bytes: &[u8],
    ) -> Result<Writing, Error> {
        let mut writing = match begun {
            Some(writing) => writing,
            None => self.begin(algorithm)?,
        };
        writing.append(bytes)?;
        Ok(writing)
    }

    /// Joins blobs to a new one, in their order; of one only, it is a second name of the same bytes.
    /// Returns their checksum as well, if one is asked for. Blocks.
    pub(crate) fn join(
        &self,
        parts: &[BlobName],
        algorithm: Option<Algorithm>,
    ) -> Result<(Staged, Option<Checksum>), Error> {
        if let ([part], None) = (parts, algorithm) {
            return Ok((self.link(*part)?, None));
        }
        let mut writing = self.begin(algorithm)?;
        for &part in parts {
            let mut part = File::open(self.path(part))?;
            // The kernel copies, or shares, where nobody has to see the bytes.
            match algorithm {
                None => writing.size += io::copy(&mut part, &mut writing.file)?,
                Some(_) => {
                    let mut bytes = vec![0; WRITE_BYTES];
                    loop {
                        let n_read = part.read(&mut bytes)?;
                        let Some(read @ [_, ..]) = bytes.get(..n_read) else {
                            break;
                        };
                        writing.append(read)?;
                    }
                }
            }
        }
        let (staged, digest) = writing.finish()?;
        Ok((staged, digest.checksum))
    }

    /// Gives the bytes of a blob a second name. Blocks.
    pub(crate) fn link(&self, name: BlobName) -> Result<Staged, Error> {
        let size = fs::metadata(self.path(name))?.len();
        let second = BlobName::random()?;
        let path = self.path(second);
        fs::hard_link(self.path(name), &path)?;
        let created = Created {
            name: second,
            path,
            is_kept: false,
        };
        created.sync_folder()?;
        Ok(Staged {
            file: created,
            size,
        })
    }

    fn begin(&self, algorithm: Option<Algorithm>) -> Result<Writing, Error> {
        let name = BlobName::random()?;
        let path = self.path(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Writing {
            created: Created {
                name,
                path,
                is_kept: false,
            },
            file,
            digests: Digests::new(algorithm),
            size: 0,
        })
    }

    fn path(&self, name: BlobName) -> PathBuf {
        let [first, ..] = name.0;
        self.folder
            .join(format!("{first:02x}"))
            .join(name.to_string())
    }
}

// === impl Writing ===

impl Writing {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.digests.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Returns when the bytes and the name are on the disk.
    fn finish(self) -> Result<(Staged, Digest), Error> {
        self.file.sync_all()?;
        self.created.sync_folder()?;
        let (md5, checksum) = self.digests.finalize();
        let staged = Staged {
            file: self.created,
            size: self.size,
        };
        Ok((staged, Digest { md5, checksum }))
    }
}

// === impl Staged ===

impl Staged {
    pub(crate) fn name(&self) -> BlobName {
        self.file.name
    }

    /// Leaves the blob on the disk: a row names it.
    pub(crate) fn keep(mut self) {
        self.file.is_kept = true;
    }
}

// === impl Created ===

impl Created {
    fn sync_folder(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), sync)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if !self.is_kept {
            // What stays is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the bytes of a file from one offset to another.
pub(crate) fn bytes_of(
    file: tokio::fs::File,
    range: Range<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
    let begin = Some((file, range.start, true));
    stream::try_unfold(begin, move |state| async move {
        let Some((mut file, at, is_first)) = state else {
            return Ok(None);
        };
        let n_bytes = READ_BYTES.min(range.end - at);
        if n_bytes == 0 {
            return Ok(None);
        }
        if is_first {
            file.seek(io::SeekFrom::Start(at)).await?;
        }
        let mut bytes = vec![0; usize::try_from(n_bytes).map_err(io::Error::other)?];
        file.read_exact(&mut bytes).await?;
        Ok(Some((
            Bytes::from(bytes),
            Some((file, at + n_bytes, false)),
        )))
    })
}

/// Makes the names in a folder durable (fsync(2)).
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(Error::Io(io::Error::other("a panic"))),
        Err(_) => Err(Error::Closed),
    }
}
