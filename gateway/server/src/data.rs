//! The data directory: one process at a time, of one schema.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

/// Version of what is in the directory. A newer one is not touched.
const SCHEMA: u32 = 1;

/// The exclusive lock of a data directory; the system gives it up when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: File,
}

/// Makes the directory if it is not there, and locks it.
///
/// # Errors
/// When another process has it, or a newer Hearth wrote it; a sentence each.
pub(crate) fn lock(directory: &Path) -> anyhow::Result<DataLock> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("--data {} can't be made", directory.display()))?;
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("{} can't be opened", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("--data {} is in use by another hearth", directory.display()))?;
    // The lock's own file holds the schema: what is read under the lock is whole.
    let mut schema = String::new();
    file.read_to_string(&mut schema)?;
    match schema.trim() {
        "" => write!(file, "{SCHEMA}")?,
        written => anyhow::ensure!(
            written.parse() == Ok(SCHEMA),
            "--data {} is of schema {written}, this hearth knows {SCHEMA}: use the hearth that wrote it, or another folder",
            directory.display()
        ),
    }
    Ok(DataLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err();
        assert!(
            error.to_string().contains("in use by another hearth"),
            "{error}"
        );
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn a_newer_schema_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lock"), "99").unwrap();
        let error = lock(folder.path()).unwrap_err();
        assert!(error.to_string().contains("schema 99"), "{error}");
    }
}
