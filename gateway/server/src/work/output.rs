//! Results on their way to the outputs of a service.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use gateway_oscar::{Service as Definition, StorageIo};
use gateway_script::Filter;

use crate::rest::Front;
use crate::storage::{Content, NewObject, StorageError, Trouble};

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
            kept.push(Kept::At(at));
        }
    }
    Ok(kept)
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
