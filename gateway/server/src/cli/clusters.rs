//! The clusters that the configuration of oscar-cli names, for those who have one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

use anyhow::Context as _;
use gateway_oscar::Cluster;
use serde::Deserialize;

/// Largest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// `~/.oscar-cli/config.yaml`: of each cluster what is needed to call it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Clusters {
    oscar: BTreeMap<String, Cluster>,
}

impl Clusters {
    /// Reads those of the person who runs this; without a file there are none.
    ///
    /// # Errors
    /// Of a file that can't be read.
    pub(super) fn read() -> anyhow::Result<Self> {
        let Some(path) = Self::path() else {
            return Ok(Self::default());
        };
        let mut text = String::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        let clusters = match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => Err(error.into()),
            Ok(_) => serde_saphyr::from_str(&text).map_err(anyhow::Error::from),
        };
        clusters.with_context(|| path.display().to_string())
    }

    fn path() -> Option<PathBuf> {
        Some(std::env::home_dir()?.join(".oscar-cli/config.yaml"))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Cluster> {
        self.oscar.get(id)
    }

    /// Returns a cluster that is asked for by name.
    ///
    /// # Errors
    /// When there is none, naming those that there are.
    pub(super) fn find(&self, id: &str) -> anyhow::Result<&Cluster> {
        self.get(id).with_context(|| {
            let known: Vec<String> = self.oscar.keys().map(|id| format!("`{id}`")).collect();
            let known = match &known[..] {
                [] => "there is none".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            format!("no cluster `{id}` in ~/.oscar-cli/config.yaml: {known}")
        })
    }
}
