//! The cache: copies of versions that nobody else writes to, each under the digest of its content.
//!
//! Workers map files only from here, so that truncating a file of the store hurts no one.

mod known;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use tempfile::TempDir;

use self::known::Known;
use crate::folder::{Folder, INCOMING, SPEC, is_taken, read_bounded, sync_folder, sync_tree};
use crate::store::StoredVersion;
use crate::{Digest, Manifest, ModelSpec, StoreError, content};

/// Mode of the files of a version that is whole.
const READ_ONLY: u32 = 0o444;

/// Largest `spec.json`, in bytes; the sentences of a graph with thousands of inputs fit.
const MAX_SPEC_BYTES: u64 = 16 << 20;

/// The cache of one data directory, which has an exclusive lock: no other process writes here.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    known: Known,
}

/// A version in the cache, checked and ready to be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedVersion {
    /// Of the files as they were in the store.
    pub digest: Digest,
    /// The folder with its files, read-only.
    pub dir: PathBuf,
    /// Checked.
    pub manifest: Manifest,
    /// As a worker found it.
    pub spec: ModelSpec,
}

/// A version copied into the cache and not yet sealed; dropping it removes the copy.
///
/// Until then its files may be prepared, which does not change its digest.
#[derive(Debug)]
pub struct Taken {
    /// Of the files as they were in the store.
    pub digest: Digest,
    /// Checked.
    pub manifest: Manifest,
    incoming: TempDir,
    cache_dir: PathBuf,
}

// === impl Cache ===

impl Cache {
    /// Opens the cache of a data directory, at `models` in it, and makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let dir = data_dir.join("models");
        fs::create_dir_all(&dir).map_err(StoreError::io(&dir))?;
        let known = Known::open(dir.join("known.jsonl"));
        Ok(Self { dir, known })
    }

    /// Removes what a process that was killed left half taken in. To be called before the first
    /// [`Cache::take_in`].
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sweep(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.dir).map_err(StoreError::io(&self.dir))? {
            let entry = entry.map_err(StoreError::io(&self.dir))?;
            let path = entry.path();
            if !entry.file_name().to_string_lossy().starts_with(INCOMING) {
                continue;
            }
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.map_err(StoreError::io(&path))?;
        }
        self.known.sweep();
        Ok(())
    }

    /// Returns the digest that a stored version has if nobody touched it since it was hashed,
    /// without reading its files.
    pub fn known_digest(&self, version: &StoredVersion) -> Option<Digest> {
        self.known.get(version)
    }

    /// Returns the digest of a stored version, from its files where it is not known.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if it is no longer what the scan saw; those of a scan;
    /// [`StoreError::Io`].
    pub fn digest_of(&self, version: &StoredVersion) -> Result<Digest, StoreError> {
        if let Some(digest) = self.known.get(version) {
            return Ok(digest);
        }
        let folder = version.list()?;
        let digest = content::hash(&version.path, &folder)?;
        self.known.insert(version, digest);
        Ok(digest)
    }

    /// Returns a version that was taken in and sealed before, or `None`.
    ///
    /// One that cannot be read, because an older Hearth wrote it for example, counts as none:
    /// taking it in again replaces it.
    pub fn get(&self, digest: &Digest) -> Option<CachedVersion> {
        let dir = self.dir.join(digest.to_string());
        if !dir.is_dir() {
            return None;
        }
        CachedVersion::read(*digest, dir)
            .inspect_err(|error| tracing::warn!(%digest, %error, "cached model is not usable"))
            .ok()
    }

    /// Copies a stored version into the cache and checks it, leaving it open for preparation.
    ///
    /// `progress` is called with bytes done and bytes in all, after every piece.
    /// Blocks for as long as the copy takes; nothing is durable before [`Taken::seal`].
    ///
    /// # Errors
    /// [`StoreError::Changed`] if the files are not or did not stay what the scan saw: try again
    /// when a scan sees them settled. [`StoreError::Invalid`] and [`StoreError::TooLarge`] if the
    /// manifest is not right or a digest differs; [`StoreError::NotFound`]; [`StoreError::Io`].
    pub fn take_in(
        &self,
        version: &StoredVersion,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Taken, StoreError> {
        let folder = version.list()?;
        let incoming =
            TempDir::with_prefix_in(INCOMING, &self.dir).map_err(StoreError::io(&self.dir))?;
        let copied = content::copy(&version.path, &folder, incoming.path(), progress)?;
        self.known.insert(version, copied.digest);
        Ok(Taken {
            digest: copied.digest,
            manifest: copied.manifest,
            incoming,
            cache_dir: self.dir.clone(),
        })
    }
}

impl StoredVersion {
    /// Lists the files, which have to be those that the scan saw.
    fn list(&self) -> Result<Folder, StoreError> {
        let folder = Folder::list(&self.path)?;
        if folder.fingerprint == self.fingerprint {
            Ok(folder)
        } else {
            Err(StoreError::Changed(self.path.clone()))
        }
    }
}

// === impl Taken ===

impl Taken {
    /// Returns the folder with the copied files, which are writable.
    pub fn dir(&self) -> &Path {
        self.incoming.path()
    }

    /// Makes it a version of the cache, durable and read-only, described by this spec.
    ///
    /// Where the cache has one of this digest already, that one stays and is returned.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then the cache is as before.
    pub fn seal(self, spec: &ModelSpec) -> Result<CachedVersion, StoreError> {
        let spec_file = self.dir().join(SPEC);
        serde_json::to_vec(spec)
            .map_err(io::Error::from)
            .and_then(|json| File::create(&spec_file)?.write_all(&json))
            .map_err(StoreError::io(&spec_file))?;
        sync_tree(self.dir(), Some(READ_ONLY))?;

        let dir = self.cache_dir.join(self.digest.to_string());
        if let Err(error) = fs::rename(self.dir(), &dir) {
            if !is_taken(&error) {
                return Err(StoreError::io(&dir)(error));
            }
            if let Ok(present) = CachedVersion::read(self.digest, dir.clone()) {
                return Ok(present);
            }
            // What is there is of no use; it leaves with the incoming folder.
            rustix::fs::renameat_with(CWD, self.dir(), CWD, &dir, RenameFlags::EXCHANGE)
                .map_err(|error| StoreError::io(&dir)(error.into()))?;
        }
        sync_folder(&self.cache_dir)?;
        Ok(CachedVersion {
            digest: self.digest,
            dir,
            manifest: self.manifest,
            spec: spec.clone(),
        })
    }
}

// === impl CachedVersion ===

impl CachedVersion {
    fn read(digest: Digest, dir: PathBuf) -> Result<Self, StoreError> {
        let spec_file = dir.join(SPEC);
        let json = read_bounded(&spec_file, MAX_SPEC_BYTES)?;
        Ok(Self {
            digest,
            manifest: Manifest::read(&dir)?,
            spec: serde_json::from_slice(&json)
                .map_err(|error| StoreError::Invalid(format!("`{SPEC}`: {error}")))?,
            dir,
        })
    }
}

#[cfg(test)]
mod tests;
