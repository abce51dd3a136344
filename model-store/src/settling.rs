//! When a version that is being copied into a store counts as whole.

use std::collections::BTreeMap;

use crate::{Fingerprint, ModelName, StoredVersion, Version};

/// Something that happened in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// A version is there that was not.
    Added(StoredVersion),
    /// The files of a version are not those announced before.
    Changed(StoredVersion),
    /// A version announced before is there no longer.
    Removed(ModelName, Version),
}

/// Turns successive scans into events.
///
/// What is seen of a version counts when two successive scans agree on it, be it a fingerprint or
/// its absence, so neither a half-copied folder nor one that is just replaced makes an event.
/// Feeding the first scan twice takes everything as settled that is there at the start.
#[derive(Debug, Default)]
pub struct Settling {
    versions: BTreeMap<(ModelName, Version), Sightings>,
}

/// What is known of a version; `None` stands for its absence.
#[derive(Debug, Default)]
struct Sightings {
    last: Option<Fingerprint>,
    announced: Option<Fingerprint>,
}

// === impl Settling ===

impl Settling {
    /// Takes the versions that the next scan saw, and returns what has settled, by name and
    /// version.
    pub fn observe(&mut self, versions: &[StoredVersion]) -> Vec<StoreEvent> {
        let key = |version: &StoredVersion| (version.name.clone(), version.version);
        let seen: BTreeMap<_, _> = versions
            .iter()
            .map(|version| (key(version), version))
            .collect();
        for key in seen.keys() {
            self.versions.entry(key.clone()).or_default();
        }
        let mut events = Vec::new();
        self.versions.retain(|key, sightings| {
            let version = seen.get(key).copied();
            let now = version.map(|version| version.fingerprint);
            if now == sightings.last && now != sightings.announced {
                events.push(match (version, sightings.announced) {
                    (Some(version), None) => StoreEvent::Added(version.clone()),
                    (Some(version), Some(_)) => StoreEvent::Changed(version.clone()),
                    (None, _) => StoreEvent::Removed(key.0.clone(), key.1),
                });
                sightings.announced = now;
            }
            sightings.last = now;
            now.is_some() || sightings.announced.is_some()
        });
        events
    }
}

#[cfg(test)]
mod tests;
