//! The definition of a service, in OSCAR's order of keys.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::folded::Folded;
use crate::{Invalid, Secret, StorageIo, StorageProviders};

/// What an image begins with that is a model of Hearth.
const MODEL_SCHEME: &str = "model:";

/// A service, as its author and the server have written it. What is not said has OSCAR's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// A DNS label of at most 39 characters, which is unique.
    pub name: String,
    /// Which of `clusters` this is.
    pub cluster_id: String,
    /// Memory of a job, as Kubernetes writes quantities.
    pub memory: String,
    /// Cores of a job, as Kubernetes writes quantities.
    pub cpu: String,
    /// Scratch space of a job, as Kubernetes writes quantities.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ephemeral_storage_request: String,
    /// Memory of all jobs at a time.
    pub total_memory: String,
    /// Cores of all jobs at a time.
    pub total_cpu: String,
    /// Whether a job has a GPU.
    pub enable_gpu: bool,
    /// Whether a job has an enclave.
    pub enable_sgx: bool,
    /// Whether the image is fetched when the service is created.
    pub image_prefetch: bool,
    /// How many replicas answer `/run`.
    pub synchronous: Synchronous,
    /// The other clusters that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub federation: Option<Federation>,
    /// How much the supervisor says.
    pub log_level: String,
    /// A container's image, or `model:NAME[:VERSION]`.
    pub image: String,
    /// Hearth's own: the model that it is, and how it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// Whether the image is built on musl.
    pub alpine: bool,
    /// Made by the server: who has it may call the service.
    pub token: Secret,
    /// Whether the input is *not* fetched for the script.
    pub file_stage_in: bool,
    /// Where new objects are events.
    pub input: Vec<StorageIo>,
    /// Where results go.
    pub output: Vec<StorageIo>,
    /// The script's text; in an FDL document its file's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub script: String,
    /// Names of secrets for private registries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// How the container is reached itself.
    pub expose: Expose,
    /// The model server that it is, on Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kserve: Option<Kserve>,
    /// Variables of the script.
    pub environment: Environment,
    /// Annotations of pods.
    pub annotations: BTreeMap<String, String>,
    /// The virtual organisation that it belongs to.
    pub vo: String,
    /// Labels of pods.
    pub labels: BTreeMap<String, String>,
    /// Credentials for `input`, `output` and `mount`.
    pub storage_providers: StorageProviders,
    /// Credentials for members of the federation.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, Cluster>,
    /// Made by the server: who created it.
    pub owner: String,
    /// Made by the server: where it runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The virtual node that its jobs run on.
    pub interlink_node_name: String,
    /// `private`, `restricted` or `public`.
    pub visibility: String,
    /// Who sees a restricted one.
    pub allowed_users: Vec<String>,
    /// `SERVICE` or `USER`.
    pub isolation_level: String,
    /// Made by the server: the buckets of isolated users.
    pub bucket_list: Vec<String>,
    /// Storage that the script sees as a folder.
    pub mount: StorageIo,
    /// A volume that the script sees as a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// Made by the server.
    pub volume_status: VolumeStatus,

    // Up to OSCAR 4.0 `federation` was at the top. Read, folded in, never written.
    #[serde(alias = "replica", skip_serializing)]
    replicas: Vec<Member>,
    #[serde(skip_serializing)]
    delegation: String,
    #[serde(skip_serializing)]
    rescheduler_threshold: i64,
}

/// What a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model, asked by `/run`.
    Model,
    /// A script in a container.
    Script,
}

/// How many replicas answer synchronous calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Synchronous {
    /// Replicas that are kept without work.
    pub min_scale: i64,
    /// Most replicas; 0 for as many as there is room for.
    pub max_scale: i64,
}

/// The model of a model service, and what holds for requests that do not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// The model's name.
    pub name: String,
    /// Its version; the latest where there is none.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "text_or_number"
    )]
    pub version: String,
    /// Least score of a prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Greatest overlap of two boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iou: Option<f32>,
    /// Most predictions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The only labels that are wanted; all where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The answer is the picture with boxes drawn, in this format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draw: Option<Draw>,
    /// What jobs keep of each box that is found in a picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// Time that an answer may take, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether anybody waits for answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// What holds for videos among the new objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
}

/// How boxes are cut out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Crop {
    /// What is left around a box on each side, as a part of its width or height.
    pub margin: f32,
}

/// How a model is asked of videos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Video {
    /// Frames a second that are looked at; all where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f32>,
    /// Whether there is a video with boxes drawn as well.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draw: bool,
}

/// Format of a drawn picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Draw {
    /// `image/jpeg`.
    #[serde(alias = "jpg")]
    Jpeg,
    /// `image/png`.
    Png,
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Somebody waits for the answer.
    Interactive,
    /// Nobody does.
    Bulk,
}

/// How a container is reached by `/system/services/NAME/exposed/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expose {
    /// Least containers.
    pub min_scale: i64,
    /// Most containers.
    pub max_scale: i64,
    /// Ports in the container; with none it is not exposed.
    #[serde(alias = "port", skip_serializing_if = "Ports::is_empty")]
    pub api_port: Ports,
    /// Load of a processor, in percent, beyond which there are more containers.
    pub cpu_threshold: i64,
    /// Whether the container sees the whole path.
    pub rewrite_target: bool,
    /// Ports of the node, instead of the path.
    #[serde(rename = "nodePort", skip_serializing_if = "Ports::is_empty")]
    pub node_port: Ports,
    /// Whether the image's own program runs instead of the script.
    pub default_command: bool,
    /// Whether callers have to give name and token.
    pub set_auth: bool,
    /// How: `basic` or `forward`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_type: String,
    /// Path that is asked whether it lives.
    pub health_path: String,
    /// How it is asked: `legacy` or `direct`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub probe_mode: String,
}

/// Ports: a number up to OSCAR 4.0, a list since. 0 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The ports.
    pub list: Vec<i64>,
    /// Whether a single one is written as a number.
    pub is_scalar: bool,
}

/// Variables of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Those that anybody may see.
    pub variables: BTreeMap<String, String>,
    /// Those that nobody gets to see again.
    pub secrets: BTreeMap<String, Secret>,
}

/// The clusters that have a service together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Federation {
    /// Name of the group.
    pub group_id: String,
    /// `none`, `star` or `mesh`.
    pub topology: String,
    /// Who is asked first: `static`, `random`, `load-based` or `topsis`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub delegation: String,
    /// Seconds that a job may wait before another cluster is asked.
    pub rescheduler_threshold: i64,
    /// The clusters.
    pub members: Vec<Member>,
}

/// A cluster or URL that takes jobs; OSCAR's replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// `oscar` or `endpoint`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `oscar`: which of `clusters`.
    pub cluster_id: String,
    /// Of `oscar`: the service there.
    pub service_name: String,
    /// Of `endpoint`: where events are posted.
    pub url: String,
    /// Whether its certificate is verified.
    pub ssl_verify: bool,
    /// 0 is asked first.
    pub priority: i64,
    /// Headers that go with each event.
    pub headers: BTreeMap<String, Secret>,
}

/// Credentials of another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Its URL.
    pub endpoint: String,
    /// Who calls.
    pub auth_user: String,
    /// The caller's password.
    pub auth_password: Secret,
    /// Whether its certificate is verified.
    pub ssl_verify: bool,
}

/// A persistent volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Its name; that of the service where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its size, as Kubernetes writes quantities; with none it has to be there.
    pub size: String,
    /// The folder that it is in the container.
    pub mount_path: String,
    /// `delete` or `retain`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lifecycle_policy: String,
}

/// What became of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// Whether there is one.
    pub enabled: bool,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its phase.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// A model server of KServe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kserve {
    /// `inference` or `llm_inference`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `inference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference: Option<KserveInference>,
    /// Of `llm_inference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm_inference: Option<KserveLlmInference>,
    /// Where the model is.
    pub storage_uri: String,
    /// Least pods.
    pub min_scale: i64,
    /// Most pods.
    pub max_scale: i64,
    /// Cores of a pod.
    pub cpu: String,
    /// Memory of a pod.
    pub memory: String,
    /// Arguments of its program.
    pub args: Vec<String>,
    /// Its variables.
    pub env: BTreeMap<String, String>,
    /// Whether it has a GPU.
    pub enable_gpu: bool,
    /// Whether callers need the token.
    pub set_auth: bool,
}

/// How KServe serves a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KserveInference {
    /// `onnx`, `sklearn` and so on.
    pub model_format: String,
    /// The serving runtime.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    /// `v1` or `v2`.
    pub api_version: String,
}

/// How KServe serves a language model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KserveLlmInference {
    /// The image that runs it.
    pub runtime_image: String,
}

// === impl Service ===

impl Service {
    /// Reads a definition from JSON, not yet checked: keys in any case, `null` for nothing, unknown
    /// keys ignored, old spellings taken.
    ///
    /// # Errors
    /// Of what is no JSON, or of the wrong type, naming the field.
    pub fn from_json(json: &[u8]) -> Result<Self, Invalid> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let read = Self::deserialize(Folded(&mut reader));
        let read = read.and_then(|service| reader.end().map(|()| service));
        let mut service = read.map_err(|error| Invalid::new(error.to_string()))?;
        service.fold_federation();
        Ok(service)
    }

    /// Returns it as compact JSON, in OSCAR's order of keys. This is what the server keeps: with
    /// secrets, which [`Service::without_secrets`] takes out.
    pub fn to_json(&self) -> String {
        // Keys are text and numbers are finite: this can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns it as it may be shown: values of `environment.secrets` are empty.
    pub fn without_secrets(mut self) -> Self {
        for secret in self.environment.secrets.values_mut() {
            *secret = Secret::default();
        }
        self
    }

    /// Returns what it is.
    pub fn kind(&self) -> Kind {
        if self.model.is_some() || self.image.starts_with(MODEL_SCHEME) {
            Kind::Model
        } else {
            Kind::Script
        }
    }

    /// Returns the model that it is, however that is written; of a script service none.
    pub fn model(&self) -> Option<Model> {
        let mut model = self.model.clone().unwrap_or_default();
        match self.image.strip_prefix(MODEL_SCHEME) {
            Some(reference) => {
                let (name, version) = reference.split_once(':').unwrap_or((reference, ""));
                name.clone_into(&mut model.name);
                version.clone_into(&mut model.version);
            }
            None if self.model.is_none() => return None,
            None => {}
        }
        Some(model)
    }

    /// Returns the names of fields that say something else than what holds without them, those within
    /// structures with a dot. A server that knows which of them it heeds can say which it does not.
    pub fn said(&self) -> Vec<String> {
        const STRUCTURES: [&str; 5] = [
            "synchronous",
            "expose",
            "environment",
            "storage_providers",
            "mount",
        ];
        let mut plain = Self {
            name: self.name.clone(),
            ..Self::default()
        };
        plain.set_defaults();
        let (Ok(own), Ok(plain)) = (serde_json::to_value(self), serde_json::to_value(&plain))
        else {
            return Vec::new();
        };
        let mut said = Vec::new();
        for (key, value) in own.as_object().into_iter().flatten() {
            let other = &plain[key];
            if value == other {
                continue;
            }
            match (value.as_object(), other.as_object()) {
                (Some(fields), Some(others)) if STRUCTURES.contains(&key.as_str()) => {
                    let differing = fields
                        .iter()
                        .filter(|(name, field)| others.get(*name) != Some(field));
                    said.extend(differing.map(|(name, _)| format!("{key}.{name}")));
                }
                _ => said.push(key.clone()),
            }
        }
        said
    }

    /// Only where nothing is said in the new way.
    pub(crate) fn fold_federation(&mut self) {
        let members = std::mem::take(&mut self.replicas);
        let delegation = std::mem::take(&mut self.delegation);
        let threshold = std::mem::take(&mut self.rescheduler_threshold);
        if self.federation.is_none() && !members.is_empty() {
            self.federation = Some(Federation {
                delegation,
                rescheduler_threshold: threshold,
                members,
                ..Federation::default()
            });
        }
    }

    /// Puts in what holds where nothing is said, as OSCAR does when it takes in a service.
    pub fn set_defaults(&mut self) {
        fn default(field: &mut String, value: &str) {
            if field.is_empty() {
                value.clone_into(field);
            }
        }
        default(&mut self.memory, "256Mi");
        default(&mut self.cpu, "0.2");
        default(&mut self.visibility, "private");
        default(&mut self.isolation_level, "SERVICE");
        self.isolation_level.make_ascii_uppercase();
        self.log_level.make_ascii_uppercase();
        let levels = ["NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
        if !levels.contains(&self.log_level.as_str()) {
            "INFO".clone_into(&mut self.log_level);
        }
        if self.script.contains('\r') {
            self.script = self.script.replace("\r\n", "\n");
        }
        let expose = &mut self.expose;
        // Old clients send zeros for what they do not say.
        if expose.max_scale == 0 {
            expose.max_scale = 10;
        }
        if expose.cpu_threshold == 0 {
            expose.cpu_threshold = 80;
        }
        default(&mut expose.health_path, "/");
        if let (Some(model), true) = (&self.model, self.image.is_empty()) {
            self.image = match model.version.as_str() {
                "" => format!("{MODEL_SCHEME}{}", model.name),
                version => format!("{MODEL_SCHEME}{}:{version}", model.name),
            };
        }
        let name = &self.name;
        let labels = [
            ("oscar_service", name.clone()),
            ("applicationId", name.clone()),
            ("queue", format!("root.oscar-queue.{name}")),
            ("oscar.grycap/user-service", "true".to_owned()),
        ];
        self.labels
            .extend(labels.map(|(label, value)| (label.to_owned(), value)));
    }
}

// === impl Expose, Ports ===

impl Default for Expose {
    fn default() -> Self {
        Self {
            min_scale: 1,
            max_scale: 0,
            api_port: Ports::default(),
            cpu_threshold: 0,
            rewrite_target: false,
            node_port: Ports::default(),
            default_command: false,
            set_auth: false,
            auth_type: String::new(),
            health_path: String::new(),
            probe_mode: String::new(),
        }
    }
}

impl Expose {
    /// Has single ports written as numbers, for clients of before OSCAR 4.1.
    pub fn write_scalars(&mut self) {
        self.api_port.is_scalar = true;
        self.node_port.is_scalar = true;
    }
}

impl Ports {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.list[..] {
            [port] if self.is_scalar => port.serialize(serializer),
            _ => self.list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or a list of ports")
            }

            fn visit_i64<E>(self, port: i64) -> Result<Ports, E> {
                Ok(Ports::of([port]))
            }

            fn visit_u64<E>(self, port: u64) -> Result<Ports, E> {
                Ok(Ports::of([i64::try_from(port).unwrap_or(i64::MAX)]))
            }

            fn visit_unit<E>(self) -> Result<Ports, E> {
                Ok(Ports::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ports, A::Error> {
                let mut ports = Vec::new();
                while let Some(port) = list.next_element()? {
                    ports.push(port);
                }
                Ok(Ports::of(ports))
            }
        }

        deserializer.deserialize_any(OneOrSeveral)
    }
}

impl Ports {
    fn of(ports: impl IntoIterator<Item = i64>) -> Self {
        Self {
            list: ports.into_iter().filter(|&port| port != 0).collect(),
            is_scalar: false,
        }
    }
}

// === what is true or 1 where nothing is said ===

impl Default for Member {
    fn default() -> Self {
        Self {
            kind: String::new(),
            cluster_id: String::new(),
            service_name: String::new(),
            url: String::new(),
            ssl_verify: true,
            priority: 0,
            headers: BTreeMap::new(),
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            auth_user: String::new(),
            auth_password: Secret::default(),
            ssl_verify: true,
        }
    }
}

impl Default for Kserve {
    fn default() -> Self {
        Self {
            kind: "inference".to_owned(),
            inference: None,
            llm_inference: None,
            storage_uri: String::new(),
            min_scale: 0,
            max_scale: 1,
            cpu: "0.2".to_owned(),
            memory: "256Mi".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            enable_gpu: false,
            set_auth: true,
        }
    }
}

impl Default for KserveInference {
    fn default() -> Self {
        Self {
            model_format: String::new(),
            runtime: String::new(),
            api_version: "v1".to_owned(),
        }
    }
}

/// `version: 2` is as good as `version: "2"`.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct TextOrNumber;

    impl Visitor<'_> for TextOrNumber {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a version, as 2")
        }

        fn visit_str<E>(self, version: &str) -> Result<String, E> {
            Ok(version.to_owned())
        }

        fn visit_u64<E>(self, version: u64) -> Result<String, E> {
            Ok(version.to_string())
        }

        fn visit_unit<E>(self) -> Result<String, E> {
            Ok(String::new())
        }
    }

    deserializer.deserialize_any(TextOrNumber)
}

#[cfg(test)]
mod tests;
