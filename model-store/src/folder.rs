//! A version's folder, read as one that somebody may be writing to.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::digest::FieldHasher;
use crate::manifest::MANIFEST;
use crate::{Digest, StoreError};

/// Name of the spec in the cache, which therefore no version may use.
pub(crate) const SPEC: &str = "spec.json";

/// Beginning of the names of what is not whole yet. The dot keeps it out of every scan.
pub(crate) const INCOMING: &str = ".incoming-";

/// Most files and folders in a version's folder.
const MAX_ENTRIES: usize = 1024;

/// Most names in the relative path of a file.
pub(crate) const MAX_DEPTH: usize = 4;

/// What a folder looks like without reading its files: their names, sizes, times and inodes.
///
/// Equal fingerprints of one folder mean equal content, as far as a file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(Digest);

/// The files of a version's folder at one moment, hidden ones left out.
pub(crate) struct Folder {
    /// In the order of their names.
    pub(crate) files: Vec<FolderFile>,
    pub(crate) fingerprint: Fingerprint,
}

/// A regular file, or a symlink to one.
pub(crate) struct FolderFile {
    /// Relative path, joined by `/`.
    pub(crate) name: String,
    pub(crate) n_bytes: u64,
}

// === impl Folder ===

impl Folder {
    /// Returns the files of a version's folder.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without a manifest; [`StoreError::Invalid`] if it holds something
    /// that cannot be part of a version; [`StoreError::TooLarge`] over 1024 entries;
    /// [`StoreError::Io`].
    pub(crate) fn list(dir: &Path) -> Result<Self, StoreError> {
        let mut entries = Vec::new();
        walk(dir, "", 1, &mut 0, &mut entries)?;
        entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let has = |name: &str| entries.iter().any(|(entry, _)| entry == name);
        if !has(MANIFEST) {
            return Err(StoreError::NotFound(format!(
                "no `{MANIFEST}` in {}",
                dir.display()
            )));
        }
        if has(SPEC) {
            return Err(StoreError::Invalid(format!(
                "`{SPEC}` is a name that the cache needs, expected no such file"
            )));
        }
        let mut hasher = FieldHasher::new();
        for (name, metadata) in &entries {
            hasher.field(name.as_bytes());
            hasher.field(&metadata.size().to_le_bytes());
            // The change time as well: `cp -p` and `rsync -t` set the modification time back.
            for time in [
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ] {
                hasher.field(&time.to_le_bytes());
            }
            hasher.field(&metadata.ino().to_le_bytes());
        }
        Ok(Self {
            files: entries
                .into_iter()
                .map(|(name, metadata)| FolderFile {
                    name,
                    n_bytes: metadata.size(),
                })
                .collect(),
            fingerprint: Fingerprint(hasher.finish()),
        })
    }

    /// Returns what is known of the files' content without reading it: their names and sizes.
    pub(crate) fn outline(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files
            .iter()
            .map(|file| (file.name.as_str(), file.n_bytes))
    }
}

/// Collects the files below `dir`, whose own relative path is `prefix`.
fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    n_entries: &mut usize,
    files: &mut Vec<(String, Metadata)>,
) -> Result<(), StoreError> {
    let refuse = |name: &str, why: &str| Err(StoreError::Invalid(format!("`{name}` {why}")));
    for entry in fs::read_dir(dir).map_err(StoreError::io(dir))? {
        let entry = entry.map_err(StoreError::io(dir))?;
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return refuse(
                &path.display().to_string(),
                "is no UTF-8, expected names that are",
            );
        };
        if name.starts_with('.') {
            continue;
        }
        *n_entries += 1;
        if *n_entries > MAX_ENTRIES {
            return Err(StoreError::TooLarge(format!(
                "a version has at most {MAX_ENTRIES} files and folders, this one has more"
            )));
        }
        let name = format!("{prefix}{name}");
        let is_symlink = entry
            .file_type()
            .map_err(StoreError::io(&path))?
            .is_symlink();
        let metadata = fs::metadata(&path).map_err(StoreError::io(&path))?;
        if metadata.is_file() {
            files.push((name, metadata));
        } else if !metadata.is_dir() {
            return refuse(
                &name,
                "is a device, pipe or socket, expected files and folders",
            );
        } else if is_symlink {
            return refuse(
                &name,
                "is a symlink to a folder, expected symlinks only to files",
            );
        } else if depth == MAX_DEPTH {
            return refuse(
                &name,
                "is a folder too deep, expected at most 3 levels of folders",
            );
        } else {
            walk(&path, &format!("{name}/"), depth + 1, n_entries, files)?;
        }
    }
    Ok(())
}

/// Opens a regular file, or what a symlink leads to if that is one, without waiting on a pipe.
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata), StoreError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|error| StoreError::io(path)(error.into()))?);
    let metadata = file.metadata().map_err(StoreError::io(path))?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(StoreError::Invalid(format!(
            "{} is no regular file",
            path.display()
        )))
    }
}

/// Reads a regular file of at most so many bytes.
pub(crate) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
    let (file, metadata) = open_regular(path)?;
    let mut bytes = Vec::with_capacity(metadata.len().min(max_bytes) as usize);
    file.take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io(path))?;
    if bytes.len() as u64 > max_bytes {
        return Err(StoreError::TooLarge(format!(
            "{} is larger than the {max_bytes} bytes that it may have",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Writes a folder of ours, and all below it, through to the disk; sets the mode of its files
/// first where one is given.
pub(crate) fn sync_tree(dir: &Path, mode: Option<u32>) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(StoreError::io(dir))? {
        let path = entry.map_err(StoreError::io(dir))?.path();
        let is_folder = fs::symlink_metadata(&path)
            .map_err(StoreError::io(&path))?
            .is_dir();
        if is_folder {
            sync_tree(&path, mode)?;
            continue;
        }
        let (file, _) = open_regular(&path)?;
        if let Some(mode) = mode {
            file.set_permissions(fs::Permissions::from_mode(mode))
                .map_err(StoreError::io(&path))?;
        }
        file.sync_all().map_err(StoreError::io(&path))?;
    }
    sync_folder(dir)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::io(dir))
}

/// Whether a rename failed because something with content is there already.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}
