//! The folder of one run: made, measured, looked through, removed. What is in it is the script's, so
//! no name in it is believed and no link followed.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;

use crate::task::{Breach, Limits, OutputFile};

/// Unit of `st_blocks`, in bytes (POSIX leaves it open; on Linux, `stat(2)`).
const BLOCK: u64 = 512;

/// Deepest folder that is looked into: each level more makes the way to it longer.
const MAX_DEPTH: u32 = 64;

/// The folder of a run.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    /// Whose it is, if not ours.
    owner: Option<u32>,
}

/// What there is in a folder.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// A folder could not be looked into, or lies too deep for it.
    pub(super) is_unreadable: bool,
}

impl Scratch {
    pub(super) const INPUT: &'static str = "input";
    pub(super) const OUTPUT: &'static str = "output";
    /// What stands in for `/dev/shm`, and for folders that are not to be seen.
    pub(super) const SHARED: &'static str = "shm";
    pub(super) const EMPTY: &'static str = "empty";
    pub(super) const SCRIPT: &'static str = "script.sh";

    /// Makes the folder and those in it, for this user or for ours.
    ///
    /// # Errors
    /// When it is there already, or can't be made.
    pub(super) fn create(folder: &Path, owner: Option<u32>) -> io::Result<Self> {
        let this = Self {
            folder: folder.to_owned(),
            owner,
        };
        for name in ["", Self::INPUT, Self::OUTPUT, Self::SHARED, Self::EMPTY] {
            this.make_folder(name)?;
        }
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    fn make_folder(&self, name: &str) -> io::Result<()> {
        let path = self.folder.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        self.give(&path)
    }

    /// Writes a file, before the script runs.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.folder.join(name);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(content)?;
        self.give(&path)
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some(owner) => chown(path, Some(owner), Some(owner)),
            None => Ok(()),
        }
    }

    /// Returns what is in it: bytes on the disk, not counting holes. Stops soon beyond the limit.
    pub(super) fn size(&self, limits: &Limits) -> Size {
        let mut size = Size::default();
        let mut folders = vec![(self.folder.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // Closed, where we are not root.
                Err(_) => {
                    size.is_unreadable = true;
                    return size;
                }
            };
            for entry in entries.flatten() {
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                size.entries += 1;
                size.bytes += metadata.blocks() * BLOCK;
                if metadata.is_dir() {
                    folders.push((entry.path(), depth + 1));
                    size.is_unreadable |= depth >= MAX_DEPTH;
                }
                if size.is_unreadable || size.entries > limits.scratch_entries {
                    return size;
                }
            }
        }
        size
    }

    /// Returns the files that were left as results, by name; links and whatever else is no file are
    /// passed over. Called when nobody writes any more.
    ///
    /// # Errors
    /// When they are more than they may be.
    pub(super) fn results(&self, limits: &Limits) -> Result<Vec<OutputFile>, Breach> {
        let root = self.folder.join(Self::OUTPUT);
        let mut files = Vec::new();
        let mut bytes_left = limits.output_bytes;
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            // The folder itself may have become a link.
            let is_folder = fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir());
            let Some(entries) = is_folder.then(|| fs::read_dir(&folder).ok()).flatten() else {
                continue;
            };
            for entry in entries.flatten() {
                let path = entry.path();
                let Ok(kind) = entry.file_type() else {
                    continue;
                };
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    let name = path.strip_prefix(&root).unwrap_or(&path);
                    let name = name.to_string_lossy().into_owned();
                    let content = self.read(&path, bytes_left)?;
                    bytes_left -= content.len() as u64;
                    files.push(OutputFile { name, content });
                }
            }
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(files)
    }

    /// Reads a file, unless it is somebody else's that was linked here.
    fn read(&self, path: &Path, limit: u64) -> Result<Bytes, Breach> {
        let open = |path: &Path| -> io::Result<File> {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)?;
            let owner = file.metadata()?.uid();
            match self.owner.is_none_or(|user| user == owner) {
                true => Ok(file),
                false => Err(io::ErrorKind::PermissionDenied.into()),
            }
        };
        let mut content = Vec::new();
        let Ok(file) = open(path) else {
            return Ok(Bytes::new());
        };
        // What can't be read is as empty as what is.
        let _ = file.take(limit + 1).read_to_end(&mut content);
        match content.len() as u64 > limit {
            true => Err(Breach::Output),
            false => Ok(content.into()),
        }
    }
}

/// Removes a folder, once nobody writes in it any more. Folders in it may be nested deeper than paths
/// are long and than there are descriptors, so what is in them is moved up first.
///
/// # Errors
/// When something stays.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    // Names that the script can't have foreseen.
    let stem = format!(".{:?}", Instant::now());
    let mut names = (0_u64..).map(|number| folder.join(format!("{stem}{number}")));
    loop {
        let mut n_entries = 0;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            n_entries += 1;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            open(&entry.path())?;
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                if inner.file_type()?.is_dir() {
                    // A folder is moved only by who may write in it.
                    open(&inner.path())?;
                    fs::rename(inner.path(), names.next().unwrap_or_default())?;
                } else {
                    fs::remove_file(inner.path())?;
                }
            }
            fs::remove_dir(entry.path())?;
        }
        if n_entries == 0 {
            return fs::remove_dir(folder);
        }
    }
}

/// Opens a folder to its owner, whom its script may have locked out.
fn open(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests;
