//! Uploads in parts: what was sent waits beside the objects until it is joined to one, or given up.

use time::OffsetDateTime;

use crate::Error;
use crate::blob::{BlobName, Digest, Staged, blocking};
use crate::checksum::{Algorithm, Checksum, etag_of_parts, hex, unhex};
use crate::object::{Attributes, Condition, NewObject, Object, check_key};
use crate::rows::{self, NewRow, now_ms, time_of, to_json};
use crate::store::Store;

mod tables;

/// Largest number of a part; S3's.
pub const MAX_PARTS: u16 = 10_000;
/// Smallest part but the last, in bytes; S3's.
pub(crate) const MIN_PART_BYTES: u64 = 5 << 20;
/// Largest object that is joined of parts, in bytes: what they can be of the smallest size. Joining
/// copies bytes where the file system can't share them.
pub const MAX_OBJECT_BYTES: u64 = 50 << 30;
/// Most uploads that are neither completed nor given up.
const MAX_UPLOADS: usize = 1000;

/// An upload in parts that is not completed.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) initiated: OffsetDateTime,
    pub(crate) attributes: Attributes,
    pub(crate) checksum: Option<ChecksumKind>,
}

/// Which checksum an object is to have that is joined of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChecksumKind {
    pub(crate) algorithm: Algorithm,
    /// Of all its bytes, not of its parts' checksums.
    pub(crate) is_of_whole: bool,
}

/// A part that is on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) number: u16,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) modified: OffsetDateTime,
    pub(crate) checksum: Option<Checksum>,
    pub(crate) blob: BlobName,
}

/// A part as who completes an upload names it.
#[derive(Clone, Debug)]
pub(crate) struct NamedPart {
    pub(crate) number: u16,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) checksum: Option<Checksum>,
}

/// An upload that can be completed: its parts are those that were named.
#[derive(Debug)]
pub(crate) struct Completion {
    upload: Upload,
    parts: Vec<Part>,
    etag: String,
    pub(crate) size: u64,
}

impl Store {
    /// Begins an upload, and returns its id.
    pub(crate) async fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        new: &NewObject,
        checksum: Option<ChecksumKind>,
    ) -> Result<String, Error> {
        check_key(key)?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| Error::Io(std::io::Error::other(error)))?;
        let upload = Upload {
            id: hex(&id),
            key: key.to_owned(),
            initiated: OffsetDateTime::now_utc(),
            attributes: new.attributes()?,
            checksum,
        };
        let (bucket, id) = (bucket.to_owned(), upload.id.clone());
        self.index
            .change(move |index, _| tables::create(index, &bucket, &upload, MAX_UPLOADS))
            .await?;
        Ok(id)
    }

    /// Returns an upload.
    pub(crate) async fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Upload, Error> {
        let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
        self.index
            .read(move |index| tables::find(index, &bucket, &key, &id))
            .await
    }

    /// Keeps a part, in the place of one of its number.
    pub(crate) async fn commit_part(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        number: u16,
        (staged, digest): (Staged, Digest),
    ) -> Result<Part, Error> {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(Error::InvalidPart(number));
        }
        let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
        let modified = now_ms();
        let part = Part {
            number,
            size: staged.size,
            etag: hex(&digest.md5),
            modified: time_of(modified),
            checksum: digest.checksum,
            blob: staged.name(),
        };
        self.index
            .change(move |index, garbage| {
                tables::find(index, &bucket, &key, &id)?;
                tables::put_part(index, &id, &part, modified, garbage)?;
                staged.keep();
                Ok(part)
            })
            .await
    }

    /// Returns the parts of an upload that are there, by number.
    pub(crate) async fn parts(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
    ) -> Result<(Upload, Vec<Part>), Error> {
        let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
        self.index
            .read(move |index| {
                let upload = tables::find(index, &bucket, &key, &id)?;
                Ok((upload, tables::parts(index, &id)?))
            })
            .await
    }

    /// Returns the uploads to a bucket, by key and then by id.
    pub(crate) async fn uploads(&self, bucket: &str) -> Result<Vec<Upload>, Error> {
        let bucket = bucket.to_owned();
        self.index
            .read(move |index| tables::of_bucket(index, &bucket))
            .await
    }

    /// Gives an upload up.
    pub(crate) async fn abort_upload(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
    ) -> Result<(), Error> {
        let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
        self.index
            .change(move |index, garbage| {
                tables::find(index, &bucket, &key, &id)?;
                tables::remove(index, &id, garbage)
            })
            .await
    }

    /// Checks that these parts are there, and that an object can be made of them.
    pub(crate) async fn prepare_completion(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        named: &[NamedPart],
    ) -> Result<Completion, Error> {
        let (upload, there) = self.parts(bucket, key, id).await?;
        if named.is_empty() || !named.is_sorted_by(|one, next| one.number < next.number) {
            return Err(Error::InvalidPartOrder);
        }
        let mut parts = Vec::with_capacity(named.len());
        let mut md5s = Vec::with_capacity(named.len());
        for named in named {
            let missing = || Error::InvalidPart(named.number);
            let at = there.binary_search_by_key(&named.number, |part| part.number);
            let part = at.ok().and_then(|at| there.get(at)).ok_or_else(missing)?;
            let is_it = part.etag == named.etag
                && named
                    .checksum
                    .as_ref()
                    .is_none_or(|checksum| part.checksum.as_ref() == Some(checksum));
            md5s.push(unhex(&part.etag).filter(|_| is_it).ok_or_else(missing)?);
            parts.push(part.clone());
        }
        let all_but_last = parts.split_last().map_or(&[][..], |(_, parts)| parts);
        if let Some(part) = all_but_last.iter().find(|part| part.size < MIN_PART_BYTES) {
            return Err(Error::PartTooSmall {
                number: part.number,
                size: part.size,
                limit: MIN_PART_BYTES,
            });
        }
        let size = parts.iter().map(|part| part.size).sum();
        if size > MAX_OBJECT_BYTES {
            let limit = MAX_OBJECT_BYTES;
            return Err(Error::TooLarge { limit });
        }
        Ok(Completion {
            upload,
            parts,
            etag: etag_of_parts(&md5s),
            size,
        })
    }

    /// Returns the object that was made of these parts, where it is there still: who asks for that again
    /// has not heard the answer.
    pub(crate) async fn completed(
        &self,
        bucket: &str,
        key: &str,
        named: &[NamedPart],
    ) -> Result<Option<Object>, Error> {
        let Some(md5s) = named
            .iter()
            .map(|part| unhex(&part.etag))
            .collect::<Option<Vec<_>>>()
        else {
            return Ok(None);
        };
        match self.head(bucket, key).await {
            Ok(object) => Ok(Some(object).filter(|object| object.etag == etag_of_parts(&md5s))),
            Err(Error::NoSuchKey { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Joins the parts to the object, in the place of one that was there; those that were not named go.
    pub(crate) async fn complete_upload(
        &self,
        bucket: &str,
        completion: Completion,
        condition: Condition,
        expected: Option<Checksum>,
    ) -> Result<Object, Error> {
        let Completion {
            upload,
            parts,
            etag,
            ..
        } = completion;
        let names: Vec<_> = parts.iter().map(|part| part.blob).collect();
        let of_whole = upload.checksum.filter(|kind| kind.is_of_whole);
        let of_whole = of_whole.map(|kind| kind.algorithm);
        let blobs = self.blobs.clone();
        let joined = blocking(move || blobs.join(&names, of_whole)).await;
        let gone = || Error::NoSuchUpload(upload.id.clone());
        let (staged, checksum) = joined.map_err(|error| match error {
            // Completed, aborted or sent again meanwhile.
            Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => gone(),
            error => error,
        })?;
        let checksum = match upload.checksum {
            Some(kind) if !kind.is_of_whole => {
                let checksums = parts.iter().map(|part| part.checksum.as_ref());
                let all: Option<Vec<_>> = checksums.collect();
                all.and_then(|all| Checksum::of_parts(kind.algorithm, all.into_iter()))
            }
            _ => checksum,
        };
        let is_said = |said| checksum.as_ref().is_some_and(|sum| sum.is(said));
        if !expected.as_ref().is_none_or(is_said) {
            let what = "checksum";
            return Err(Error::BadDigest { what });
        }
        let bucket = bucket.to_owned();
        self.index
            .change(move |index, garbage| {
                let Upload {
                    id,
                    key,
                    attributes,
                    ..
                } = upload;
                tables::find(index, &bucket, &key, &id)?;
                let now = tables::parts(index, &id)?;
                for part in &parts {
                    if !now.iter().any(|now| now.blob == part.blob) {
                        return Err(Error::InvalidPart(part.number));
                    }
                }
                tables::remove(index, &id, garbage)?;
                let row = NewRow {
                    blob: staged.name(),
                    size: staged.size,
                    etag,
                    attributes,
                    checksum,
                };
                let object = rows::put(index, &bucket, &key, &condition, row, garbage)?;
                staged.keep();
                Ok(object)
            })
            .await
    }

    /// Removes the uploads that nobody went on with since then; returns how many.
    ///
    /// # Errors
    /// When the index can't be written.
    pub async fn remove_stale_uploads(&self, since: OffsetDateTime) -> Result<usize, Error> {
        let since = i64::try_from(since.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MIN);
        self.index
            .change(move |index, garbage| tables::remove_stale(index, since, garbage))
            .await
    }
}

// === impl ChecksumKind ===

impl ChecksumKind {
    /// As it is kept.
    fn to_text(self) -> String {
        let of = if self.is_of_whole { "whole" } else { "parts" };
        format!("{}:{of}", self.algorithm.name())
    }

    fn of_text(text: &str) -> Option<Self> {
        let (name, of) = text.split_once(':')?;
        Some(Self {
            algorithm: Algorithm::of_name(name)?,
            is_of_whole: of == "whole",
        })
    }
}

impl Upload {
    fn attributes_text(&self) -> Result<String, Error> {
        to_json(&self.attributes)
    }
}

#[cfg(test)]
mod tests;
