//! The buckets and folders of services: made when a service is, told to announce what comes to its
//! inputs, and given up when it is deleted.

use std::collections::BTreeSet;

use gateway_oscar::{Service as Definition, StorageIo, StorageReference};

use super::{Announcing, Providers, StorageError};

/// A folder that a service reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// `TYPE.ID`.
    provider: String,
    bucket: String,
    folder: String,
    /// New objects in it are jobs.
    is_input: bool,
}

impl Providers {
    /// Makes what a service reads and writes, where it is not there yet, and has its inputs announced.
    /// Returns what is not as it might be, a sentence each.
    ///
    /// # Errors
    /// Where a place can't be made.
    pub(crate) async fn make_places(
        &self,
        definition: &Definition,
    ) -> Result<Vec<String>, StorageError> {
        let mut warnings = Vec::new();
        for io in definition.input.iter().chain(&definition.output) {
            let provider = io.reference().provider;
            if self.of(definition, io.reference())?.is_none() {
                warnings.push(format!(
                    "{}: storage providers of type `{provider}` can't be used yet",
                    io.provider
                ));
            }
        }
        for place in places(definition)? {
            let Some(storage) = self.of(definition, StorageReference::parse(&place.provider))?
            else {
                continue;
            };
            let name = &definition.name;
            storage.prepare(&place.bucket, &place.folder, name).await?;
            if !place.is_input {
                continue;
            }
            if let Announcing::No(why) = storage.announce(&place.bucket, &place.folder).await? {
                warnings.push(format!(
                    "objects in {} {}/{} are found by listing it alone: {why}",
                    place.provider, place.bucket, place.folder
                ));
            }
        }
        Ok(warnings)
    }

    /// Gives up what only this definition of a service reads and writes: what is announced, and what
    /// is empty. Nobody's objects are deleted.
    ///
    /// # Errors
    /// The first failure; what it is about stays.
    pub(crate) async fn give_up_places(
        &self,
        definition: &Definition,
        others: impl IntoIterator<Item = &Definition>,
    ) -> Result<(), StorageError> {
        let mut kept = BTreeSet::new();
        for other in others {
            kept.extend(places(other)?);
        }
        let kept_at = |place: &Place, is_input| {
            kept.contains(&Place {
                is_input,
                ..place.clone()
            })
        };
        let mut result = Ok(());
        for place in places(definition)? {
            let Some(storage) = self.of(definition, StorageReference::parse(&place.provider))?
            else {
                continue;
            };
            if place.is_input && !kept_at(&place, true) {
                let forgotten = storage.forget(&place.bucket, &place.folder).await;
                result = result.and(forgotten);
            }
            if !kept_at(&place, true) && !kept_at(&place, false) {
                let released = storage.release(&place.bucket, &place.folder).await;
                result = result.and(released);
            }
        }
        result
    }
}

fn places(definition: &Definition) -> Result<BTreeSet<Place>, StorageError> {
    let place = |io: &StorageIo, is_input| {
        let path = io.bucket_path(&definition.name);
        let path = path.map_err(|error| StorageError::definite(error.to_string()))?;
        Ok(Place {
            provider: io.reference().to_string(),
            bucket: path.bucket,
            folder: path.folder,
            is_input,
        })
    };
    let inputs = definition.input.iter().map(|io| place(io, true));
    let outputs = definition.output.iter().map(|io| place(io, false));
    inputs.chain(outputs).collect()
}
