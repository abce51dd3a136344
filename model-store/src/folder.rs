//! A version's folder, read as one that somebody may be writing to.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::digest::FieldHasher;
use crate::manifest::{CONFIG, MANIFEST};
use crate::{Digest, Manifest, StoreError, Version};

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
    /// Where it is: in the folder, or in the model's.
    pub(crate) path: PathBuf,
    pub(crate) n_bytes: u64,
}

// === impl Folder ===

impl Folder {
    /// Returns the files of a version's folder; in Triton's layout, where one has no manifest, with
    /// those that the model's folder has for all its versions.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without a manifest, a configuration or an ONNX model;
    /// [`StoreError::Invalid`] if it holds something that cannot be part of a version;
    /// [`StoreError::TooLarge`] over 1024 entries; [`StoreError::Io`].
    pub(crate) fn list(dir: &Path) -> Result<Self, StoreError> {
        let mut entries = Vec::new();
        let mut n_entries = 0;
        walk(dir, "", 1, &mut n_entries, &mut entries)?;
        let has = |entries: &[Entry], wanted: &str| entries.iter().any(|(name, ..)| name == wanted);
        if !has(&entries, MANIFEST) {
            add_shared(dir, &mut n_entries, &mut entries)?;
        }
        let is_model = |(name, ..): &Entry| !name.contains('/') && name_is_model(name);
        if !has(&entries, MANIFEST) && !has(&entries, CONFIG) && !entries.iter().any(is_model) {
            return Err(StoreError::NotFound(format!(
                "no `{MANIFEST}`, `{CONFIG}` or `*.onnx` in {}",
                dir.display()
            )));
        }
        if has(&entries, SPEC) {
            return Err(StoreError::Invalid(format!(
                "`{SPEC}` is a name that the cache needs, expected no such file"
            )));
        }
        entries.sort_unstable_by(|(left, ..), (right, ..)| left.cmp(right));
        let mut hasher = FieldHasher::new();
        for (name, _, metadata) in &entries {
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
                .map(|(name, path, metadata)| FolderFile {
                    name,
                    path,
                    n_bytes: metadata.size(),
                })
                .collect(),
            fingerprint: Fingerprint(hasher.finish()),
        })
    }

    /// Returns the manifest, parsed and checked.
    ///
    /// # Errors
    /// Those of [`Manifest::read`].
    pub(crate) fn manifest(&self) -> Result<Manifest, StoreError> {
        let path = |name: &str| {
            let file = self.files.iter().find(|file| file.name == name);
            file.map(|file| file.path.as_path())
        };
        Manifest::read_files(path(MANIFEST), path(CONFIG))
    }

    /// Returns what is known of the files' content without reading it: their names and sizes.
    pub(crate) fn outline(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files
            .iter()
            .map(|file| (file.name.as_str(), file.n_bytes))
    }
}

/// A file: its name in the version, where it is, and what the system says of it.
type Entry = (String, PathBuf, Metadata);

/// Adds the files of the model's folder that the version has none of that name of, if it has a
/// configuration for its versions.
fn add_shared(
    dir: &Path,
    n_entries: &mut usize,
    entries: &mut Vec<Entry>,
) -> Result<(), StoreError> {
    let Some(model_dir) = model_dir(dir).filter(|dir| dir.join(CONFIG).is_file()) else {
        return Ok(());
    };
    for entry in fs::read_dir(model_dir).map_err(StoreError::io(model_dir))? {
        let path = entry.map_err(StoreError::io(model_dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name.starts_with('.') || entries.iter().any(|(present, ..)| present == name) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(StoreError::io(&path))?;
        if metadata.is_file() {
            count(n_entries)?;
            entries.push((name.to_owned(), path, metadata));
        }
    }
    Ok(())
}

/// Returns the versions that a folder given by a user stands for, in order: itself, or in Triton's
/// layout those that are in it.
///
/// # Errors
/// [`StoreError::Io`] if it cannot be read.
pub fn version_folders(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut versions = Vec::new();
    let mut is_version = false;
    for entry in fs::read_dir(dir).map_err(StoreError::io(dir))? {
        let path = entry.map_err(StoreError::io(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(|name| name.parse::<Version>().ok()) {
            Some(version) if path.is_dir() => versions.push((version, path)),
            _ => is_version |= name.is_some_and(|name| name == MANIFEST || name_is_model(name)),
        }
    }
    if is_version || versions.is_empty() {
        return Ok(vec![dir.to_owned()]);
    }
    versions.sort_unstable();
    Ok(versions.into_iter().map(|(_, path)| path).collect())
}

fn name_is_model(name: &str) -> bool {
    name.ends_with(".onnx")
}

/// Returns the folder of the model that a folder is a version of, by its name.
fn model_dir(dir: &Path) -> Option<&Path> {
    let name = dir.file_name()?.to_str()?;
    name.parse::<Version>().ok()?;
    dir.parent()
}

fn count(n_entries: &mut usize) -> Result<(), StoreError> {
    *n_entries += 1;
    if *n_entries > MAX_ENTRIES {
        return Err(StoreError::TooLarge(format!(
            "a version has at most {MAX_ENTRIES} files and folders, this one has more"
        )));
    }
    Ok(())
}

/// Collects the files below `dir`, whose own relative path is `prefix`.
fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    n_entries: &mut usize,
    files: &mut Vec<Entry>,
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
        count(n_entries)?;
        let name = format!("{prefix}{name}");
        let is_symlink = entry
            .file_type()
            .map_err(StoreError::io(&path))?
            .is_symlink();
        let metadata = fs::metadata(&path).map_err(StoreError::io(&path))?;
        if metadata.is_file() {
            files.push((name, path, metadata));
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
