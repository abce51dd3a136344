//! Function definition files, which clients read: YAML with services of several clusters.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_saphyr::{MessageFormatter as _, UserMessageFormatter};

use crate::folded::Folded;
use crate::{Cluster, Invalid, Service, StorageProviders};

/// Largest document, in bytes: OSCAR keeps a definition where no more than that fits.
const MAX_BYTES: usize = 1 << 20;

/// Deepest nesting; `functions.aws[0].lambda.container.environment.Variables.NAME` is at 8.
const MAX_DEPTH: usize = 24;

/// Most nodes that aliases may add: what anybody repeats by hand, far from what a bomb is made of.
const MAX_REPEATED: usize = 10_000;

/// A function definition file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fdl {
    /// The services.
    pub functions: Functions,
    /// Credentials that all of them have.
    pub storage_providers: StorageProviders,
    /// Clusters that all of them know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, Cluster>,
}

/// The services of a document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Functions {
    /// Services, each with the cluster that it is for.
    pub oscar: Vec<OfCluster>,
    /// Functions on AWS, which are SCAR's: kept as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aws: Vec<Value>,
}

/// A map of one key, the cluster, to its service.
#[derive(Clone, Debug, PartialEq)]
pub struct OfCluster {
    /// The cluster's id.
    pub cluster: String,
    /// The service on it.
    pub service: Service,
}

// === impl Fdl ===

impl Fdl {
    /// Reads a document, its services not yet checked. Plain scalars are taken as text where text is
    /// expected, as they are written: `TAG: 1.10` is `1.10`.
    ///
    /// # Errors
    /// Of what is no YAML or no such document, with line and column; of more than 1 MiB; of aliases
    /// that repeat more than anybody writes.
    pub fn parse(yaml: &str) -> Result<Self, Invalid> {
        if yaml.len() > MAX_BYTES {
            return Err(Invalid::new(format!(
                "the document has {} bytes, expected at most {MAX_BYTES}",
                yaml.len()
            )));
        }
        let options = serde_saphyr::options! {
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_depth: MAX_DEPTH,
                flow_nesting_limit: MAX_DEPTH,
            },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: MAX_REPEATED,
                max_replay_stack_depth: MAX_DEPTH,
            },
        };
        serde_saphyr::with_deserializer_from_str_with_options(yaml, options, |reader| {
            Self::deserialize(Folded(reader))
        })
        .map_err(|error| {
            let problem = UserMessageFormatter.format_message(&error);
            Invalid::new(match error.location() {
                Some(at) if !problem.contains(" at line ") => {
                    format!("{problem} at line {}, column {}", at.line(), at.column())
                }
                _ => problem.into_owned(),
            })
        })
    }

    /// Returns each service as its cluster gets it: with what the document says for all of them,
    /// where it does not say so itself.
    pub fn services(&self) -> Vec<OfCluster> {
        let with_common = |of: &OfCluster| {
            let mut of = of.clone();
            of.service.cluster_id.clone_from(&of.cluster);
            of.service.storage_providers.merge(&self.storage_providers);
            for (id, cluster) in &self.clusters {
                let clusters = &mut of.service.clusters;
                clusters
                    .entry(id.clone())
                    .or_insert_with(|| cluster.clone());
            }
            of
        };
        self.functions.oscar.iter().map(with_common).collect()
    }
}

// === impl OfCluster ===

impl Serialize for OfCluster {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.cluster, &self.service)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for OfCluster {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneKey;

        impl<'de> Visitor<'de> for OneKey {
            type Value = OfCluster;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a cluster's id and the service on it")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OfCluster, A::Error> {
                let entry = map.next_entry::<String, ReadService>()?;
                let more = map.next_key::<String>()?;
                match (entry, more) {
                    (Some((cluster, ReadService(service))), None) => {
                        Ok(OfCluster { cluster, service })
                    }
                    _ => Err(serde::de::Error::custom(
                        "expected one cluster's id and the service on it",
                    )),
                }
            }
        }

        deserializer.deserialize_map(OneKey)
    }
}

/// A service read with its old spellings.
struct ReadService(Service);

impl<'de> Deserialize<'de> for ReadService {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut service = Service::deserialize(deserializer)?;
        service.fold_federation();
        Ok(Self(service))
    }
}

#[cfg(test)]
mod tests;
