//! A service that is there, ready to be called.

use std::sync::Arc;
use std::time::Duration;

use gateway_oscar::{Draw, Kind, Secret, Service as Definition, TIMEOUT, Video};
use gateway_scheduler::Class;
use model_store::{ModelName, ModelReference};
use time::OffsetDateTime;
use workers_protocol::{DrawFormat, InferError, PictureOptions};

use super::folder::Folder;
use super::script::ScriptService;
use super::usage::{Call, Usage};

/// A service that is there.
#[derive(Debug)]
pub(crate) struct Service {
    /// As it is kept: with defaults, token and secrets.
    pub(crate) definition: Definition,
    pub(crate) backend: Backend,
    /// When, in whole seconds: what is older is no event of it.
    pub(crate) created: OffsetDateTime,
    /// Where new objects are events.
    pub(crate) inputs: Vec<Folder>,
    pub(crate) usage: Arc<Usage>,
}

/// What answers a service's calls.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    /// A model of the catalog.
    Model(ModelService),
    Script(ScriptService),
}

/// A model, and what holds where a request does not say otherwise.
#[derive(Clone, Debug)]
pub(crate) struct ModelService {
    pub(crate) model: ModelReference,
    pub(crate) options: PictureOptions,
    pub(crate) timeout: Option<Duration>,
    pub(crate) class: Option<Class>,
    pub(crate) video: Video,
}

// === impl Backend ===

impl Backend {
    /// Returns what answers a service that is defined so.
    ///
    /// # Errors
    /// `InvalidArgument` of a model that can't be named so, or a script that can't be read.
    pub(crate) fn of(definition: &Definition) -> Result<Self, InferError> {
        if definition.kind() == Kind::Script {
            return ScriptService::of(definition).map(Self::Script);
        }
        let block = definition.model().unwrap_or_default();
        let reference = |text: &str| {
            let invalid = |error: model_store::ParseNameError| {
                InferError::invalid(format!("`image`: {error}"))
            };
            let name: ModelName = text.parse().map_err(invalid)?;
            let version = match block.version.as_str() {
                "" => None,
                version => Some(version.parse().map_err(invalid)?),
            };
            Ok::<_, InferError>(ModelReference { name, version })
        };
        Ok(Self::Model(ModelService {
            model: reference(&block.name)?,
            options: PictureOptions {
                score: block.score,
                iou: block.iou,
                top_k: block.top_k,
                labels: (!block.labels.is_empty()).then_some(block.labels),
                draw: block.draw.map(|draw| match draw {
                    Draw::Jpeg => DrawFormat::Jpeg,
                    Draw::Png => DrawFormat::Png,
                }),
                crop: block.crop.map(|crop| crop.margin),
            },
            timeout: block.timeout_ms.map(Duration::from_millis),
            class: block.class.map(|class| match class {
                gateway_oscar::Class::Interactive => Class::Interactive,
                gateway_oscar::Class::Bulk => Class::Bulk,
            }),
            video: block.video.unwrap_or_default(),
        }))
    }
}

// === impl Service ===

impl Service {
    /// Makes a service of a definition, ready to be called.
    ///
    /// # Errors
    /// `InvalidArgument` of what can't be read.
    pub(crate) fn new(
        definition: Definition,
        created: OffsetDateTime,
        usage: Arc<Usage>,
    ) -> Result<Self, InferError> {
        let inputs = definition.input.iter();
        let inputs = inputs.map(|io| Folder::of(io, &definition.name));
        Ok(Self {
            backend: Backend::of(&definition)?,
            inputs: inputs.collect::<Result<_, _>>()?,
            definition,
            created,
            usage,
        })
    }

    /// Whether an object is in one of the folders that it reads, whatever its name.
    pub(crate) fn reads(&self, provider: &str, bucket: &str, key: &str) -> bool {
        let mut inputs = self.inputs.iter();
        inputs.any(|folder| {
            folder.provider == provider && folder.bucket == bucket && folder.relative(key).is_some()
        })
    }

    /// Whether an object is an event of it.
    pub(crate) fn is_called_by(&self, provider: &str, bucket: &str, key: &str) -> bool {
        let takes = |folder: &Folder| {
            folder.provider == provider && folder.bucket == bucket && folder.takes(key)
        };
        self.inputs.iter().any(takes)
    }

    /// Counts a call. Who has its token calls for its owner.
    pub(crate) fn count(&self, call: Call) {
        self.usage.count(call, &self.definition.owner);
    }

    pub(crate) fn name(&self) -> &str {
        &self.definition.name
    }

    /// Returns the service as its callers may see it: without secrets; with ports as numbers for
    /// clients of before OSCAR 4.1.
    pub(crate) fn shown(&self, has_scalar_ports: bool) -> Definition {
        let mut shown = self.definition.clone().without_secrets();
        if has_scalar_ports {
            shown.expose.write_scalars();
        }
        let default = shown
            .storage_providers
            .minio
            .entry("default".to_owned())
            .or_default();
        default.access_key = Secret::from("hidden");
        default.secret_key = Secret::from("hidden");
        shown
    }

    /// Returns how many replicas it asks for at least and at most; a most of 0 is left to the model.
    pub(crate) fn scale(&self) -> (usize, usize) {
        let synchronous = self.definition.synchronous;
        let scale = |scale: i64| usize::try_from(scale).unwrap_or(0);
        (scale(synchronous.min_scale), scale(synchronous.max_scale))
    }

    /// Returns the fields that are kept and have no effect yet; those of scripts depend on whether they
    /// run in containers.
    pub(crate) fn without_effect(definition: &Definition, has_containers: bool) -> Vec<String> {
        // The last ones are the server's, not the author's.
        const HEEDED: [&str; 6] = [
            "cluster_id",
            "token",
            "owner",
            "namespace",
            "bucket_list",
            "volume_status",
        ];
        const OF_MODELS: [&str; 8] = [
            "image",
            "model",
            "synchronous.min_scale",
            "synchronous.max_scale",
            "input",
            "output",
            "storage_providers.minio",
            "storage_providers.s3",
        ];
        const OF_SCRIPTS: [&str; 11] = [
            "script",
            "memory",
            "ephemeral_storage_request",
            "environment.variables",
            "environment.secrets",
            "log_level",
            "file_stage_in",
            "input",
            "output",
            "storage_providers.minio",
            "storage_providers.s3",
        ];
        let is_only_timeout = definition.annotations.keys().all(|key| key == TIMEOUT);
        let mut said = definition.said();
        said.retain(|field| {
            let field = field.as_str();
            let is_heeded = match definition.kind() {
                Kind::Model => OF_MODELS.contains(&field),
                Kind::Script if has_containers && ["image", "cpu"].contains(&field) => true,
                Kind::Script if is_only_timeout && field == "annotations" => true,
                Kind::Script => OF_SCRIPTS.contains(&field),
            };
            !is_heeded && !HEEDED.contains(&field)
        });
        said
    }
}
