//! What digest a stored version had when it looked like this, so that a restart hashes nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::folder::{INCOMING, read_bounded};
use crate::store::StoredVersion;
use crate::{Digest, Fingerprint};

/// Largest memo that is read, in bytes: some two hundred thousand lines.
const MAX_BYTES: u64 = 64 << 20;

/// A memo of digests by path, kept in a file of JSON lines of which the last of a path counts.
///
/// Lines are only appended, or each of thousands of versions would rewrite those of all others.
/// Losing some costs time, never correctness: lines that cannot be read are ignored, and failing
/// to write is only logged.
#[derive(Debug)]
pub(super) struct Known {
    file: PathBuf,
    entries: Mutex<BTreeMap<PathBuf, Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    fingerprint: Fingerprint,
    digest: Digest,
}

// === impl Known ===

impl Known {
    pub(super) fn open(file: PathBuf) -> Self {
        let lines = read_bounded(&file, MAX_BYTES).unwrap_or_default();
        let entries = lines
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        Self {
            file,
            entries: Mutex::new(entries),
        }
    }

    pub(super) fn get(&self, version: &StoredVersion) -> Option<Digest> {
        let entry = self.lock().get(&version.path).copied()?;
        (entry.fingerprint == version.fingerprint).then_some(entry.digest)
    }

    pub(super) fn insert(&self, version: &StoredVersion, digest: Digest) {
        let entry = Entry {
            fingerprint: version.fingerprint,
            digest,
        };
        let mut entries = self.lock();
        if entries.insert(version.path.clone(), entry) != Some(entry) {
            // Under the lock, so that the last line is the last entry.
            warn_if_failed(self.append(&version.path, &entry));
        }
    }

    /// Forgets the versions whose folders are gone, and the lines that no longer count.
    pub(super) fn sweep(&self) {
        let mut entries = self.lock();
        entries.retain(|path, _| path.is_dir());
        warn_if_failed(self.rewrite(&entries));
    }

    /// Takes the lock; the entries are whole whenever it is free, whoever panicked.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, path: &Path, entry: &Entry) -> io::Result<()> {
        let line = line(path, entry)?;
        let mut file = File::options().append(true).create(true).open(&self.file)?;
        file.write_all(&line)
    }

    fn rewrite(&self, entries: &BTreeMap<PathBuf, Entry>) -> io::Result<()> {
        let dir = self.file.parent().unwrap_or(Path::new("."));
        let mut incoming = NamedTempFile::with_prefix_in(INCOMING, dir)?;
        // A path that is not UTF-8 has no line.
        let lines: Vec<_> = entries
            .iter()
            .filter_map(|(path, entry)| line(path, entry).ok())
            .collect();
        incoming.write_all(&lines.concat())?;
        incoming.persist(&self.file)?;
        Ok(())
    }
}

fn line(path: &Path, entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&(path, entry))?;
    line.push(b'\n');
    Ok(line)
}

fn warn_if_failed(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(%error, "digests of models are not remembered over a restart");
    }
}
