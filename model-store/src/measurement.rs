//! What a version can do on this machine: measured once in the background, learned while serving, and
//! kept in the data directory.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::folder::{INCOMING, read_bounded};
use crate::{Digest, StoreError};

/// Largest file: a few dozen curves of some dozen points.
const MAX_BYTES: u64 = 1 << 20;

/// What a version can do on this machine: one line of JSON on the standard output of the worker
/// that measured it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Where it was measured; it says nothing about any other.
    pub host: Host,
    /// Loaded copies with which the version has the highest throughput, at whichever size of a batch
    /// that is.
    pub instances: u32,
    /// Threads of each.
    pub threads: u32,
    /// The bucket that `curve` belongs to: of the inputs that the version is checked with.
    pub bucket: u64,
    /// Items of a batch, and how long its run takes while every instance runs one, in nanoseconds
    /// (the median of some runs); ascending from 1, as far as the time for measuring reached. Empty
    /// for a version with stages, whose runs take longer the more the first one finds.
    pub curve: Vec<(u32, u64)>,
    /// Loading the first instance, in nanoseconds, by a process that has the engine's library
    /// loaded.
    pub load_ns: u64,
    /// The most memory that was resident, in bytes, with all instances loaded and having run every
    /// size of `curve`.
    pub memory_bytes: u64,
}

/// What a measurement holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The engine's build, in its own words.
    pub engine: String,
    /// The processor, and how many of its cores a worker may use.
    pub hardware: String,
}

/// How long batches of a version were seen to occupy a slot while it was served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Where; it says nothing about any other machine.
    pub host: Host,
    /// By shape class of the inputs, the one seen last at the end.
    pub curves: Vec<LearnedCurve>,
}

/// What was learned of one shape class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedCurve {
    /// The shape class.
    pub bucket: u64,
    /// Items of a batch and its mean time in a slot, in nanoseconds; ascending.
    pub points: Vec<(u32, u64)>,
}

/// What is kept by the digest of a version, in one folder of a data directory.
#[derive(Debug)]
pub struct Kept<T> {
    dir: PathBuf,
    values: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Kept<T> {
    /// Opens the folder of this name in a data directory, and makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(data_dir: &Path, name: &str) -> Result<Self, StoreError> {
        let dir = data_dir.join(name);
        fs::create_dir_all(&dir).map_err(StoreError::io(&dir))?;
        Ok(Self {
            dir,
            values: PhantomData,
        })
    }

    /// Returns what is kept under a digest; `None` where there is nothing, or nothing that can be
    /// read.
    pub fn get(&self, digest: &Digest) -> Option<T> {
        let json = read_bounded(&self.file(digest), MAX_BYTES).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Keeps a value under a digest, in place of what was there.
    ///
    /// It is not synced: one that a crash of the machine cuts short is made again.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then what was there is there still.
    pub fn put(&self, digest: &Digest, value: &T) -> Result<(), StoreError> {
        let path = self.file(digest);
        // Nobody else writes to a data directory that is locked.
        let incoming = self.dir.join(format!("{INCOMING}{digest}"));
        serde_json::to_vec(value)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&incoming, json))
            .and_then(|()| fs::rename(&incoming, &path))
            .map_err(StoreError::io(&path))
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement() -> Measurement {
        Measurement {
            host: Host {
                engine: "engine 1".to_owned(),
                hardware: "processor, 2 cores".to_owned(),
            },
            instances: 2,
            threads: 1,
            bucket: u64::MAX,
            curve: vec![(1, 10_000_000), (2, 19_000_000)],
            load_ns: 30_000_000,
            memory_bytes: 100 << 20,
        }
    }

    #[test]
    fn a_measurement_is_kept_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let measurements = Kept::open(folder.path(), "measurements").unwrap();
        let digest = Digest::of_version([]);
        assert_eq!(measurements.get(&digest), None);
        measurements.put(&digest, &measurement()).unwrap();
        let again = Measurement {
            curve: Vec::new(),
            ..measurement()
        };
        measurements.put(&digest, &again).unwrap();
        assert_eq!(measurements.get(&digest), Some(again));
        let names = fs::read_dir(folder.path().join("measurements")).unwrap();
        assert_eq!(names.count(), 1);
    }

    #[test]
    fn one_that_cannot_be_read_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let measurements = Kept::open(folder.path(), "measurements").unwrap();
        let digest = Digest::of_version([]);
        let file = Kept::<Measurement>::file(&measurements, &digest);
        let whole = serde_json::to_vec(&measurement()).unwrap();
        let too_large = vec![b' '; 2 << 20];
        for bytes in [&whole[..whole.len() / 2], b"", &too_large] {
            fs::write(&file, bytes).unwrap();
            assert_eq!(measurements.get(&digest), None);
        }
    }
}
