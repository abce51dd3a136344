//! Hashing and copying of what is in a version's folder.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::digest::Digest;
use crate::folder::{Folder, FolderFile, open_regular};
use crate::{Manifest, StoreError};

/// A version, copied.
pub(crate) struct Copied {
    /// Checked.
    pub(crate) manifest: Manifest,
    /// Of the version.
    pub(crate) digest: Digest,
}

/// Returns the digest of a version whose files are these.
///
/// # Errors
/// [`StoreError::Changed`] if they are not any more; [`StoreError::Io`].
pub(crate) fn hash(dir: &Path, folder: &Folder) -> Result<Digest, StoreError> {
    let files: Result<Vec<_>, StoreError> = folder
        .files
        .iter()
        .map(|file| Ok((file.name.as_str(), Digest::of_file(&file.path)?)))
        .collect();
    check_unchanged(dir, folder)?;
    Ok(Digest::of_version(files?))
}

/// Copies a version whose files are these into an empty folder of ours, and checks its manifest
/// and the digests that are given there.
///
/// # Errors
/// Those of [`Manifest::read`]; [`StoreError::Invalid`] if a digest differs;
/// [`StoreError::Changed`] if the files did while they were copied; [`StoreError::Io`].
pub(crate) fn copy(
    from: &Path,
    folder: &Folder,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, StoreError> {
    let manifest = folder.manifest()?;
    let missing = |name: &&String| !folder.files.iter().any(|file| file.name == **name);
    if let Some(name) = manifest.digests.keys().find(missing) {
        return Err(StoreError::Invalid(format!(
            "`digests`: there is no `{name}` in the folder"
        )));
    }
    let n_bytes_total = folder.files.iter().map(|file| file.n_bytes).sum();
    let mut n_bytes_done = 0;
    let mut copy_one = |file: &FolderFile| {
        copy_file(&file.path, &to.join(&file.name), &mut |n_bytes| {
            n_bytes_done += n_bytes;
            progress(n_bytes_done, n_bytes_total);
        })
    };
    let files: Result<Vec<_>, StoreError> = folder
        .files
        .iter()
        .map(|file| Ok((file.name.as_str(), copy_one(file)?)))
        .collect();
    // First: a file that changed can fail in any way, and that it changed is the reason.
    check_unchanged(from, folder)?;
    let files = files?;
    for (name, digest) in &files {
        let expected = manifest.digests.get(*name);
        if let Some(expected) = expected.filter(|expected| expected.parse() != Ok(*digest)) {
            return Err(StoreError::Invalid(format!(
                "`digests`: expected {expected} for `{name}`, got {digest}"
            )));
        }
    }
    Ok(Copied {
        manifest,
        digest: Digest::of_version(files),
    })
}

fn copy_file(from: &Path, to: &Path, progress: &mut dyn FnMut(u64)) -> Result<Digest, StoreError> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(StoreError::io(parent))?;
    }
    let (source, metadata) = open_regular(from)?;
    let mut copy = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(StoreError::io(to))?;
    let digest = if rustix::fs::ioctl_ficlone(&copy, &source).is_ok() {
        Digest::of_reader(&mut copy, &mut io::sink(), progress)
    } else {
        // No more than there was: the copy of a file that grows would not end.
        Digest::of_reader(&mut source.take(metadata.len()), &mut copy, progress)
    };
    // The likely failure is a full disk, which is the copy's.
    digest.map_err(StoreError::io(to))
}

fn check_unchanged(dir: &Path, folder: &Folder) -> Result<(), StoreError> {
    match Folder::list(dir) {
        Ok(now) if now.fingerprint == folder.fingerprint => Ok(()),
        _ => Err(StoreError::Changed(dir.to_owned())),
    }
}
