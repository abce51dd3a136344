//! The store: a directory of models in Triton's layout, which others write to.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;

use crate::folder::Folder;
use crate::manifest::CONFIG;
use crate::{Fingerprint, Manifest, ModelName, StoreError, Version};

/// Most names that a scan looks at, those of models and of versions together.
const MAX_NAMES: usize = 100_000;

/// A directory with a folder per model and in it a folder per version.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) dir: PathBuf,
}

/// A version in a store, as a scan saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVersion {
    /// The model's name.
    pub name: ModelName,
    /// Which version of it.
    pub version: Version,
    /// The folder with its files.
    pub path: PathBuf,
    /// What the folder looked like.
    pub fingerprint: Fingerprint,
}

/// What is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// By name, then by version.
    pub versions: Vec<StoredVersion>,
    /// By path.
    pub skipped: Vec<Skipped>,
}

/// Something in a store that is no version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// The file or folder.
    pub path: PathBuf,
    /// Why it was passed over, in words.
    pub reason: String,
}

// === impl Store ===

impl Store {
    /// Opens a directory as a store.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if it is no directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = path.into();
        if dir.is_dir() {
            Ok(Self { dir })
        } else {
            Err(StoreError::NotFound(format!(
                "the model store {} is not there or no directory",
                dir.display()
            )))
        }
    }

    /// Looks at every `<name>/<version>/`, without reading a file.
    ///
    /// Folders of models and versions may be symlinks.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file system is in trouble: nothing follows from such a scan,
    /// least of all that versions were removed. [`StoreError::TooLarge`] over 100,000 names.
    pub fn scan(&self) -> Result<Scan, StoreError> {
        let mut scan = Scan::default();
        let mut n_names = 0;
        for path in names(&self.dir, &mut n_names)? {
            match scan.add_model(&path, &mut n_names) {
                Ok(()) => (),
                Err(error @ StoreError::TooLarge(_)) => return Err(error),
                Err(error) => scan.skip(path, error)?,
            }
        }
        let key = |version: &StoredVersion| (version.name.clone(), version.version);
        scan.versions.sort_by_cached_key(key);
        scan.skipped.sort_unstable();
        Ok(scan)
    }
}

// === impl Scan ===

impl Scan {
    fn add_model(&mut self, path: &Path, n_names: &mut usize) -> Result<(), StoreError> {
        let name = folder_name(path)?;
        let paths = names(path, n_names)?;
        // In Triton's layout a model has files for all its versions.
        let has_config = paths.iter().any(|path| path.ends_with(CONFIG));
        for path in paths {
            if has_config && path.is_file() {
                continue;
            }
            match folder_name(&path).and_then(|version| StoredVersion::look(&name, version, &path))
            {
                Ok(version) => self.versions.push(version),
                Err(error) => self.skip(path, error)?,
            }
        }
        Ok(())
    }

    /// Notes why something is no version, unless it may be one that cannot be seen just now.
    fn skip(&mut self, path: PathBuf, error: StoreError) -> Result<(), StoreError> {
        if let StoreError::Io { source, .. } = &error {
            let is_lasting = matches!(
                Errno::from_io_error(source),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::PERM)
            );
            if !is_lasting {
                return Err(error);
            }
        }
        let reason = error.to_string();
        self.skipped.push(Skipped { path, reason });
        Ok(())
    }
}

// === impl StoredVersion ===

impl StoredVersion {
    /// Returns its manifest, parsed and checked, wherever it is.
    ///
    /// # Errors
    /// Those of a scan and of [`Manifest::read`].
    pub fn manifest(&self) -> Result<Manifest, StoreError> {
        Folder::list(&self.path)?.manifest()
    }

    /// Returns the version that this folder of a model is.
    pub(crate) fn look(
        name: &ModelName,
        version: Version,
        path: &Path,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            name: name.clone(),
            version,
            fingerprint: Folder::list(path)?.fingerprint,
            path: path.to_owned(),
        })
    }
}

/// Returns the paths in a directory, counting them.
fn names(dir: &Path, n_names: &mut usize) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io(dir))? {
        *n_names += 1;
        if *n_names > MAX_NAMES {
            return Err(StoreError::TooLarge(format!(
                "a store has at most {MAX_NAMES} names of models and versions, this one has more"
            )));
        }
        paths.push(entry.map_err(StoreError::io(dir))?.path());
    }
    Ok(paths)
}

/// Returns the name of a folder as what it should be.
fn folder_name<T: FromStr<Err: Display>>(path: &Path) -> Result<T, StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !fs::metadata(path).map_err(StoreError::io(path))?.is_dir() {
        return Err(StoreError::Invalid(format!("{name:?} is no folder")));
    }
    name.parse()
        .map_err(|error: T::Err| StoreError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests;
