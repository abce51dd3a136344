//! Results on their way to the outputs of a service.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use gateway_oscar::{Service as Definition, StorageIo, StorageReference};
use gateway_script::Filter;
use workers_protocol::InferError;

use crate::jobs::NewJob;
use crate::jobs::events::is_marker;
use crate::rest::Front;
use crate::storage::{Content, NewObject, Storage, StorageError, Trouble};

/// The metadata of an object that says which job made it.
const PARENT: &str = "hearth-job";

/// A result.
#[derive(Debug)]
pub(crate) struct NewResult {
    /// Relative to the folder of an output.
    pub(crate) name: String,
    pub(crate) media: &'static str,
    pub(crate) content: Made,
}

/// What a result holds.
#[derive(Debug)]
pub(crate) enum Made {
    Bytes(Bytes),
    /// A file that stays until the results are kept.
    File(PathBuf),
}

/// What became of a result at an output: what a log says of it.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It is there.
    At(String),
    /// It is not.
    Not { at: String, why: String },
}

/// Whether an output takes a result of this name.
pub(crate) fn is_wanted(definition: &Definition, name: &str) -> bool {
    let mut outputs = definition.output.iter();
    outputs.any(|output| filter(output).takes(name))
}

fn filter(output: &StorageIo) -> Filter<'_> {
    Filter {
        prefix: &output.prefix,
        suffix: &output.suffix,
    }
}

/// Puts results where the outputs of a service say, as what this job has made. What is there of the
/// same job already is not written again, so an attempt after another one changes nothing that
/// others could have seen.
///
/// # Errors
/// The first failure; what was written before is there.
pub(crate) async fn keep(
    front: &Front,
    definition: &Definition,
    job: &str,
    results: &[NewResult],
) -> Result<Vec<Kept>, StorageError> {
    let mut kept = Vec::new();
    for output in &definition.output {
        let filter = filter(output);
        let taken = results.iter().filter(|result| filter.takes(&result.name));
        let taken: Vec<_> = taken.collect();
        if taken.is_empty() {
            continue;
        }
        let path = output.bucket_path(&definition.name);
        let path = path.map_err(|error| StorageError::definite(error.to_string()))?;
        let reference = output.reference();
        let storage = front.providers.of(definition, reference)?;
        for result in taken {
            let key = match path.folder.as_str() {
                "" => result.name.clone(),
                folder => format!("{folder}/{}", result.name),
            };
            let at = format!("{reference} {}/{key}", path.bucket);
            let Some(storage) = &storage else {
                let provider = reference.provider;
                let why = format!("storage providers of type `{provider}` can't be used yet");
                kept.push(Kept::Not { at, why });
                continue;
            };
            let new = NewObject {
                bucket: &path.bucket,
                key: &key,
                content: result.content.again().map_err(|error| {
                    StorageError::new(Trouble::Passing, format!("a result is lost: {error}"))
                })?,
                media: result.media,
                metadata: &[(PARENT, job)],
            };
            storage.write_once(new).await?;
            if !matches!(storage, Storage::Own(_)) {
                tell(front, reference, &path.bucket, &key).await;
            }
            kept.push(Kept::At(at));
        }
    }
    Ok(kept)
}

/// Tells the services that read there of a result at a provider that tells nobody, or later, as the
/// listing would, which finds what is missed here. An account of the same name may be another one's, so
/// each service looks for itself.
async fn tell(front: &Front, reference: StorageReference<'_>, bucket: &str, key: &str) {
    let provider = reference.to_string();
    for service in front.services.called_by(&provider, bucket, key) {
        let told = async {
            let Some(storage) = front.providers.of(&service.definition, reference)? else {
                return Ok(());
            };
            let Some(head) = storage.head(bucket, key).await? else {
                return Ok(());
            };
            if head.modified < service.created || is_marker(&head.key, head.size) {
                return Ok(());
            }
            let job = NewJob::of(service.name(), &provider, bucket, &head)?;
            front.announce(vec![job]).await.map(drop)
        };
        let told: Result<(), InferError> = told.await;
        if let Err(error) = told {
            tracing::debug!(service = service.name(), %provider, bucket, %error, "a result is not announced: a listing finds it");
        }
    }
}

impl Made {
    /// Returns it for one more output.
    fn again(&self) -> io::Result<Content> {
        Ok(match self {
            Self::Bytes(bytes) => Content::Bytes(bytes.clone()),
            Self::File(path) => Content::File(File::open(path)?),
        })
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => write!(f, "kept at {at}"),
            Self::Not { at, why } => write!(f, "not kept at {at}: {why}"),
        }
    }
}
