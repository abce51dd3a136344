//! Adding a version to a store: staged beside it, checked by who wants to, published by a rename.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::folder::{Folder, INCOMING, is_taken, sync_folder, sync_tree};
use crate::{ModelName, Store, StoreError, StoredVersion, Version, content};

/// A version on its way into a store, or found there; dropping it removes what was copied.
#[derive(Debug)]
pub struct Staged {
    /// The model's name.
    pub name: ModelName,
    /// The version that it will be, or is.
    pub version: Version,
    /// The copy; none where the store has this content already.
    incoming: Option<TempDir>,
    /// `<store>/<name>/<version>`.
    path: PathBuf,
}

// === impl Store ===

impl Store {
    /// Adds the version folder `source`: [`Store::stage`] and [`Staged::publish`] in one.
    ///
    /// # Errors
    /// Those of the two.
    pub fn add(
        &self,
        source: &Path,
        name: Option<ModelName>,
        version: Option<Version>,
    ) -> Result<StoredVersion, StoreError> {
        self.stage(source, name, version)?.publish()
    }

    /// Copies the version folder `source` beside the store's models, hidden from scans.
    ///
    /// Default of `name`: the folder's name, or its parent's if it is a number.
    /// Default of `version`: that number; else the latest version if it has the same content;
    /// else the one after it.
    /// A process that is killed leaves a `.incoming-…` folder behind, which may be deleted.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if the version is there with other content;
    /// [`StoreError::Invalid`], [`StoreError::NotFound`] and [`StoreError::TooLarge`] if the
    /// folder is no version; [`StoreError::Changed`] if somebody writes to it;
    /// [`StoreError::Io`].
    pub fn stage(
        &self,
        source: &Path,
        name: Option<ModelName>,
        version: Option<Version>,
    ) -> Result<Staged, StoreError> {
        let source = &fs::canonicalize(source).map_err(StoreError::io(source))?;
        let folder = Folder::list(source)?;
        let number = file_name(source).parse().ok();
        let name = match name {
            Some(name) => name,
            None => default_name(source, number.is_some())?,
        };
        let wanted = version.or(number);
        let model_dir = self.dir.join(name.as_str());
        let latest = latest(&model_dir)?;
        let at = |version: Version| model_dir.join(version.to_string());

        let candidate = wanted.or(latest).filter(|&version| at(version).exists());
        if let Some(version) = candidate
            && is_same(source, &folder, &at(version))?
        {
            return Ok(Staged {
                path: at(version),
                name,
                version,
                incoming: None,
            });
        }
        let version = match (wanted, latest) {
            (Some(version), _) if candidate.is_some() => {
                return Err(already_exists(&name, version));
            }
            (Some(version), _) => version,
            (None, None) => Version::FIRST,
            (None, Some(latest)) => latest.next().ok_or_else(|| {
                StoreError::Invalid(format!("there is no version after {latest}"))
            })?,
        };
        let incoming =
            TempDir::with_prefix_in(INCOMING, &self.dir).map_err(StoreError::io(&self.dir))?;
        content::copy(source, &folder, incoming.path(), &mut |_, _| ())?;
        sync_tree(incoming.path(), None)?;
        Ok(Staged {
            path: at(version),
            name,
            version,
            incoming: Some(incoming),
        })
    }
}

// === impl Staged ===

impl Staged {
    /// Whether the store has this content as this version already, so there is nothing to check.
    pub fn is_present(&self) -> bool {
        self.incoming.is_none()
    }

    /// Returns the folder with the version's files: the copy, or the version that is there.
    pub fn dir(&self) -> &Path {
        self.incoming.as_ref().map_or(&self.path, TempDir::path)
    }

    /// Returns the copy as a version of its own, for a cache to take in and a worker to check.
    ///
    /// # Errors
    /// Those of a scan.
    pub fn stored(&self) -> Result<StoredVersion, StoreError> {
        StoredVersion::look(&self.name, self.version, self.dir())
    }

    /// Makes it a version of the store, durable; returns the one that is there if it is present.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if somebody else added this version since;
    /// [`StoreError::Io`].
    pub fn publish(self) -> Result<StoredVersion, StoreError> {
        if let (Some(incoming), Some(model_dir)) = (&self.incoming, self.path.parent()) {
            fs::create_dir_all(model_dir).map_err(StoreError::io(model_dir))?;
            // A folder is renamed only onto nothing or an empty folder.
            fs::rename(incoming.path(), &self.path).map_err(|error| {
                if is_taken(&error) {
                    already_exists(&self.name, self.version)
                } else {
                    StoreError::io(&self.path)(error)
                }
            })?;
            sync_folder(model_dir)?;
            sync_folder(model_dir.parent().unwrap_or(model_dir))?;
        }
        StoredVersion::look(&self.name, self.version, &self.path)
    }
}

/// Whether the version at `path` has the content of `source`; one that cannot be one has not.
fn is_same(source: &Path, folder: &Folder, path: &Path) -> Result<bool, StoreError> {
    match Folder::list(path) {
        // Files of other sizes need not be read.
        Ok(present) if present.outline().eq(folder.outline()) => {
            Ok(content::hash(source, folder)? == content::hash(path, &present)?)
        }
        Ok(_) | Err(StoreError::NotFound(_) | StoreError::Invalid(_) | StoreError::TooLarge(_)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Returns the greatest number that a folder of a model has, whatever is in it.
fn latest(model_dir: &Path) -> Result<Option<Version>, StoreError> {
    if !model_dir.exists() {
        return Ok(None);
    }
    let mut latest = None;
    for entry in fs::read_dir(model_dir).map_err(StoreError::io(model_dir))? {
        let entry = entry.map_err(StoreError::io(model_dir))?;
        latest = latest.max(entry.file_name().to_string_lossy().parse().ok());
    }
    Ok(latest)
}

fn default_name(source: &Path, is_number: bool) -> Result<ModelName, StoreError> {
    let named = if is_number {
        source.parent()
    } else {
        Some(source)
    };
    file_name(named.unwrap_or(source)).parse().map_err(|error| {
        StoreError::Invalid(format!(
            "the folder's name cannot be the model's, so one has to be given: {error}"
        ))
    })
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn already_exists(name: &ModelName, version: Version) -> StoreError {
    StoreError::AlreadyExists(format!(
        "`{name}` has a version {version} already, with other content; versions do not change, \
         so give this one a new number"
    ))
}

#[cfg(test)]
mod tests;
