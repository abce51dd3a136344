//! Folders of this machine that the operator has named: keys are paths in them.
//!
//! Every path is opened beneath the folder (`openat2`), so that neither `..` nor a link leads out of
//! it. What is written gets its name when it is whole, and its metadata are extended attributes; a
//! file system without those keeps none.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

use bytes::Bytes;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fgetxattr, flistxattr,
    fsetxattr, mkdirat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use time::OffsetDateTime;

use super::{
    Calls, Content, Head, MAX_KEY_BYTES, NewObject, PAGE, Page, StorageError, Trouble, Wanted,
    excerpt, not_kept,
};

/// How names begin of what is not whole yet; no key may.
const PART: &str = ".hearth-";
/// How names of extended attributes begin that are metadata.
const ATTRIBUTE: &str = "user.";
/// Longest metadata of a file, names and values, in bytes.
const MAX_ATTRIBUTES: usize = 4 << 10;
/// How deep folders may lie in each other.
const MAX_DEPTH: usize = 64;

/// A folder, and what services call it.
#[derive(Clone, Debug)]
pub(crate) struct NamedFolder {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// A folder as a storage provider: its own folders are buckets.
#[derive(Debug)]
pub(crate) struct Folder {
    inner: Arc<Inner>,
    calls: Calls,
}

#[derive(Debug)]
struct Inner {
    name: String,
    root: PathBuf,
    n_parts: AtomicU64,
}

impl FromStr for NamedFolder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let pair = text.split_once('=');
        let (name, path) = pair
            .filter(|(name, path)| {
                !name.is_empty() && name.bytes().all(is_plain) && Path::new(path).is_absolute()
            })
            .ok_or(
                "expected NAME=PATH, the path from the root, the name of letters, digits, - and _",
            )?;
        Ok(Self {
            name: name.to_owned(),
            path: path.into(),
        })
    }
}

// === impl Folder ===

impl Folder {
    pub(super) fn new(folder: NamedFolder, calls: Calls) -> Self {
        Self {
            inner: Arc::new(Inner {
                name: folder.name,
                root: folder.path,
                n_parts: AtomicU64::new(0),
            }),
            calls,
        }
    }

    async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let inner = Arc::clone(&self.inner);
        self.calls.block(move || work(&inner)).await
    }

    pub(super) async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, StorageError> {
        let (path, key) = (relative(bucket, key)?, key.to_owned());
        self.block(move |this| match this.open(&path)? {
            Some(file) => head(&file, &key)
                .map(Some)
                .map_err(|error| this.failed(&path, &error)),
            None => Ok(None),
        })
        .await
    }

    pub(super) async fn read(
        &self,
        wanted: Wanted,
        limit: u64,
    ) -> Result<(Head, Bytes), StorageError> {
        self.block(move |this| {
            let (head, file) = this.wanted(&wanted, limit)?;
            let mut bytes = Vec::with_capacity(usize::try_from(head.size).unwrap_or(0));
            let read = (&file).take(limit + 1).read_to_end(&mut bytes);
            read.map_err(|error| this.failed(Path::new(&wanted.key), &error))?;
            this.check_whole(&head, &file, bytes.len() as u64)?;
            Ok((head, bytes.into()))
        })
        .await
    }

    pub(super) async fn download(
        &self,
        wanted: Wanted,
        limit: u64,
        to: &Path,
    ) -> Result<Head, StorageError> {
        let to = to.to_owned();
        self.block(move |this| {
            let (head, file) = this.wanted(&wanted, limit)?;
            let mut copy = File::create_new(&to).map_err(|error| not_kept(&to, &error))?;
            let copied = io::copy(&mut (&file).take(limit + 1), &mut copy);
            let bytes = copied.map_err(|error| not_kept(&to, &error))?;
            this.check_whole(&head, &file, bytes)?;
            Ok(head)
        })
        .await
    }

    pub(super) async fn write(&self, new: NewObject<'_>) -> Result<(), StorageError> {
        let path = relative(new.bucket, new.key)?;
        let metadata: Vec<_> = new
            .metadata
            .iter()
            .map(|(name, value)| (format!("{ATTRIBUTE}{name}"), (*value).to_owned()))
            .collect();
        let content = new.content;
        self.block(move |this| {
            let written = this.write_now(&path, content, &metadata);
            written.map_err(|error| this.failed(&path, &error))
        })
        .await
    }

    pub(super) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Page, StorageError> {
        let bucket = component(bucket)?.to_owned();
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        self.block(move |this| {
            let mut listing = Listing {
                prefix,
                after,
                objects: Vec::new(),
            };
            let walked = match this.folder(&bucket) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(folder) => listing.walk(&folder, "", 0),
            };
            walked.map_err(|error| this.failed(Path::new(&bucket), &error))?;
            let has_more = listing.objects.len() > PAGE;
            listing.objects.truncate(PAGE);
            let last = listing.objects.last().map(|object| object.key.clone());
            Ok(Page {
                objects: listing.objects,
                next: last.filter(|_| has_more),
            })
        })
        .await
    }

    pub(super) async fn prepare(&self, bucket: &str, folder: &str) -> Result<(), StorageError> {
        let path = match folder {
            "" => PathBuf::from(component(bucket)?),
            folder => relative(bucket, folder)?,
        };
        self.block(move |this| {
            let made = this.make(&path);
            made.map(|_| ()).map_err(|error| this.failed(&path, &error))
        })
        .await
    }

    pub(super) async fn release(&self, bucket: &str, folder: &str) -> Result<(), StorageError> {
        let path = match folder {
            "" => PathBuf::from(component(bucket)?),
            folder => relative(bucket, folder)?,
        };
        self.block(move |this| {
            // From the innermost: what is not empty stays, and so does what it is in.
            for path in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
                let parent = this.folder(path.parent().unwrap_or(Path::new("")));
                let (Ok(parent), Some(name)) = (parent, path.file_name()) else {
                    return Ok(());
                };
                match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => return Ok(()),
                    Err(error) => return Err(this.failed(path, &error.into())),
                }
            }
            Ok(())
        })
        .await
    }
}

// === impl Inner ===

impl Inner {
    /// Opens a file, if there is one of this path.
    fn open(&self, path: &Path) -> Result<Option<File>, StorageError> {
        let opened = self
            .root()
            .and_then(|root| beneath(root, path, OFlags::RDONLY));
        let opened = opened.and_then(|file| {
            let file = File::from(file);
            Ok((file.metadata()?.is_file(), file))
        });
        match opened {
            Ok((true, file)) => Ok(Some(file)),
            Ok((false, _)) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(error) => Err(self.failed(path, &error)),
        }
    }

    /// Opens a file that has to be there, of at most so many bytes.
    fn wanted(&self, wanted: &Wanted, limit: u64) -> Result<(Head, File), StorageError> {
        let path = relative(&wanted.bucket, &wanted.key)?;
        let file = self
            .open(&path)?
            .ok_or_else(|| StorageError::gone(wanted))?;
        let head = head(&file, &wanted.key).map_err(|error| self.failed(&path, &error))?;
        match head.size > limit {
            true => Err(StorageError::too_large(wanted, Some(head.size), limit)),
            false => Ok((head, file)),
        }
    }

    /// Checks that a file was read as it was: whoever writes to it may do so meanwhile.
    fn check_whole(&self, before: &Head, file: &File, bytes: u64) -> Result<(), StorageError> {
        let after = head(file, &before.key);
        let after = after.map_err(|error| self.failed(Path::new(&before.key), &error))?;
        if bytes == before.size && after.etag == before.etag {
            return Ok(());
        }
        Err(StorageError::definite(format!(
            "`{}` changed while it was read: {bytes} bytes came of {}, it has {} now",
            excerpt(&before.key),
            before.size,
            after.size
        )))
    }

    fn root(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(
            &self.root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// Opens a folder of the root, or the root itself.
    fn folder(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        let root = self.root()?;
        match path.as_ref().as_os_str().is_empty() {
            true => Ok(root),
            false => beneath(root, path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY),
        }
    }

    /// Makes a folder with all that it is in, and opens it.
    fn make(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut folder = self.root()?;
        for name in path {
            match mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            folder = beneath(folder, Path::new(name), OFlags::RDONLY | OFlags::DIRECTORY)?;
        }
        Ok(folder)
    }

    fn write_now(
        &self,
        path: &Path,
        content: Content,
        metadata: &[(String, String)],
    ) -> io::Result<()> {
        let folder = self.make(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let part = self.n_parts.fetch_add(1, atomic::Ordering::Relaxed);
        let part = format!("{PART}{}-{part}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = open_at(&folder, Path::new(&part), flags, Mode::from_raw_mode(0o666))?;
        let written = fill(File::from(file), content, metadata)
            .and_then(|()| Ok(renameat(&folder, &part, &folder, name)?))
            .and_then(|()| Ok(rustix::fs::fsync(&folder)?));
        if written.is_err() {
            // It is gone already where it has its name.
            let _ = unlinkat(&folder, &part, AtFlags::empty());
        }
        written
    }

    fn failed(&self, path: &Path, error: &io::Error) -> StorageError {
        let message = format!(
            "folder.{}: {}: {error}",
            self.name,
            excerpt(&path.to_string_lossy())
        );
        match error.kind() {
            // What is mounted may come back.
            io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
            | io::ErrorKind::StaleNetworkFileHandle => StorageError::new(Trouble::Away, message),
            _ => StorageError::definite(message),
        }
    }
}

/// Opens a path beneath a folder.
fn beneath(folder: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    // Of a pipe or a device it is not waited for who is at its other end.
    open_at(folder, path, flags | OFlags::NONBLOCK, Mode::empty())
}

fn open_at(folder: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(
        folder,
        path,
        flags | OFlags::CLOEXEC,
        mode,
        resolve,
    )?)
}

fn fill(mut file: File, content: Content, metadata: &[(String, String)]) -> io::Result<()> {
    match content {
        Content::Bytes(bytes) => file.write_all(&bytes)?,
        Content::File(mut from) => {
            io::Seek::rewind(&mut from)?;
            io::copy(&mut from, &mut file)?;
        }
    }
    for (name, value) in metadata {
        match fsetxattr(&file, name, value.as_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.sync_all()
}

fn head(file: &File, key: &str) -> io::Result<Head> {
    let known = file.metadata()?;
    let modified = OffsetDateTime::from_unix_timestamp_nanos(
        i128::from(known.mtime()) * 1_000_000_000 + i128::from(known.mtime_nsec()),
    );
    Ok(Head {
        key: key.to_owned(),
        size: known.len(),
        // Another file of this name, or the same one written again.
        etag: format!(
            "{:x}-{:x}-{:x}.{:x}",
            known.ino(),
            known.len(),
            known.mtime(),
            known.mtime_nsec()
        ),
        modified: modified.map_err(io::Error::other)?,
        version: None,
        metadata: attributes(file),
    })
}

/// Returns the extended attributes that are metadata; none where there are too many, or can be none.
fn attributes(file: &File) -> BTreeMap<String, String> {
    let mut names = [0; MAX_ATTRIBUTES];
    let Ok(bytes) = flistxattr(file, &mut names[..]) else {
        return BTreeMap::new();
    };
    let names = names
        .get(..bytes)
        .unwrap_or_default()
        .split(|byte| *byte == 0);
    let attribute = |name: &[u8]| {
        let name = std::str::from_utf8(name).ok()?;
        let plain = name.strip_prefix(ATTRIBUTE)?;
        let mut value = [0; MAX_ATTRIBUTES];
        let bytes = fgetxattr(file, name, &mut value[..]).ok()?;
        let value = std::str::from_utf8(value.get(..bytes)?).ok()?;
        Some((plain.to_owned(), value.to_owned()))
    };
    names.filter_map(attribute).collect()
}

// === paths ===

/// Returns the path of a key: it has to be one that can be a path.
fn relative(bucket: &str, key: &str) -> Result<PathBuf, StorageError> {
    let wrong =
        |why: &str| StorageError::definite(format!("`{}` can't be a file: {why}", excerpt(key)));
    if key.len() > MAX_KEY_BYTES {
        return Err(wrong("it is too long"));
    }
    let mut path = PathBuf::from(component(bucket)?);
    let key = key.strip_suffix('/').unwrap_or(key);
    for (depth, name) in key.split('/').enumerate() {
        if depth >= MAX_DEPTH {
            return Err(wrong("its folders are too deep"));
        }
        path.push(component(name)?);
    }
    Ok(path)
}

/// Checks that a name is one name.
fn component(name: &str) -> Result<&str, StorageError> {
    let is_name = !name.is_empty() && ![".", ".."].contains(&name) && !name.contains(['/', '\0']);
    if !is_name || name.len() > 255 || name.starts_with(PART) {
        return Err(StorageError::definite(format!(
            "{:?} can't be the name of a file or folder",
            excerpt(name)
        )));
    }
    Ok(name)
}

// === listing ===

/// What is listed, and what was found: one more than a page where there is more.
struct Listing {
    prefix: String,
    after: String,
    objects: Vec<Head>,
}

impl Listing {
    /// Goes through a folder in the order of keys, which is not that of names: a folder is as if its
    /// name ended in a slash.
    fn walk(&mut self, folder: &OwnedFd, path: &str, depth: usize) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            // A name that is no text is no key.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if [".", ".."].contains(&name) || name.starts_with(PART) {
                continue;
            }
            match entry.file_type() {
                FileType::Directory if depth < MAX_DEPTH => names.push(format!("{path}{name}/")),
                FileType::RegularFile | FileType::Symlink | FileType::Unknown => {
                    names.push(format!("{path}{name}"));
                }
                _ => {}
            }
        }
        names.sort_unstable();
        for key in names {
            if self.objects.len() > PAGE {
                return Ok(());
            }
            let name = Path::new(key.strip_prefix(path).unwrap_or_default());
            let is_folder = key.ends_with('/');
            if is_folder && self.may_have(&key) {
                match beneath(folder, name, OFlags::RDONLY | OFlags::DIRECTORY) {
                    Ok(inner) => self.walk(&inner, &key, depth + 1)?,
                    // It went meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            } else if !is_folder && key.starts_with(&self.prefix) && key > self.after {
                // What went meanwhile, can't be read or leads elsewhere is none.
                let Ok(file) = beneath(folder, name, OFlags::RDONLY) else {
                    continue;
                };
                let file = File::from(file);
                if file.metadata()?.is_file() {
                    self.objects.push(head(&file, &key)?);
                }
            }
        }
        Ok(())
    }

    /// Whether a folder may have keys that are listed.
    fn may_have(&self, folder: &str) -> bool {
        let fits = folder.starts_with(&self.prefix) || self.prefix.starts_with(folder);
        let is_before = match self.after.as_bytes().get(..folder.len()) {
            // All keys of the folder begin so.
            Some(beginning) => folder.as_bytes().cmp(beginning) == Ordering::Less,
            None => folder < self.after.as_str(),
        };
        fits && !is_before
    }
}

#[cfg(test)]
mod tests;
