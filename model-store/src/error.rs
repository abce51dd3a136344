//! The one error of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be read, taken in or added; a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A folder or file that has to be there is not.
    #[error("{0}")]
    NotFound(String),
    /// A manifest, or a file it speaks of, is not what it should be.
    #[error("{0}")]
    Invalid(String),
    /// Over a limit.
    #[error("{0}")]
    TooLarge(String),
    /// The version is there already, with other content.
    #[error("{0}")]
    AlreadyExists(String),
    /// Somebody writes to the folder just now; later it may be whole.
    #[error("the files of {} changed while they were read", .0.display())]
    Changed(PathBuf),
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

// === impl StoreError ===

impl StoreError {
    /// Returns what makes an I/O error of this path ours, for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
