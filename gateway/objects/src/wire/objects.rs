//! Objects: putting, getting, copying and deleting them.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use s3s::dto::{
    ChecksumType, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, Delete,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Metadata,
    MetadataDirective, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp, TimestampFormat,
};
use s3s::{S3Request, S3Result, s3_error};

use super::body::Expected;
use super::conditions::{Conditions, etag, of_match, of_put, range};
use super::{Wire, not_offered};
use crate::Error;
use crate::blob::bytes_of;
use crate::checksum::{Algorithm, Checksum};
use crate::object::{MAX_LISTED, NewObject, Object, check_key};

/// Headers that are kept with an object and sent along with it.
const KEPT: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

impl Wire {
    pub(super) async fn put(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<PutObjectOutput> {
        let input = request.input;
        let (bucket, key) = (input.bucket, input.key);
        let mut new = described(&request.headers, input.content_type, input.metadata);
        new.condition = of_put(input.if_match, input.if_none_match)?;
        let expected = Expected::read(&request.headers, input.content_length)?;
        // Before the body is read for nothing.
        check_key(&key)?;
        new.attributes()?;
        self.store.bucket(&bucket).await?;
        let trailing = request.trailing_headers.as_ref();
        let (staged, digest) = expected
            .receive(&self.store, input.body, &request.extensions, trailing)
            .await?;
        let store = Arc::clone(&self.store);
        let object = self
            .create(async move { store.commit(&bucket, &key, new, staged, digest).await })
            .await?;
        let sums = Sums::of(object.checksum);
        Ok(PutObjectOutput {
            e_tag: Some(etag(&object.etag)),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            ..PutObjectOutput::default()
        })
    }

    pub(super) async fn get(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<GetObjectOutput> {
        let input = request.input;
        let (object, file) = self.store.get(&input.bucket, &input.key).await?;
        let conditions = Conditions {
            matches: input.if_match,
            none_match: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        conditions.check(&object)?;
        check_part(input.part_number, &object)?;
        let (range, said) = range(input.range, object.size)?;
        // A checksum is of all of it.
        let is_asked = input.checksum_mode.is_some() && said.is_none();
        let sums = Sums::of(object.checksum.filter(|_| is_asked));
        let mut headers = object.headers;
        Ok(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(range.end - range.start).ok(),
            content_range: said,
            body: Some(StreamingBlob::wrap(bytes_of(file, range))),
            content_type: Some(object.content_type),
            cache_control: headers.remove("cache-control"),
            content_disposition: headers.remove("content-disposition"),
            content_encoding: headers.remove("content-encoding"),
            content_language: headers.remove("content-language"),
            expires: headers.remove("expires").and_then(|time| of_http(&time)),
            e_tag: Some(etag(&object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: to_metadata(object.metadata),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            ..GetObjectOutput::default()
        })
    }

    pub(super) async fn head(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<HeadObjectOutput> {
        let input = request.input;
        let object = self.store.head(&input.bucket, &input.key).await?;
        let conditions = Conditions {
            matches: input.if_match,
            none_match: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        conditions.check(&object)?;
        check_part(input.part_number, &object)?;
        let (range, said) = range(input.range, object.size)?;
        let is_asked = input.checksum_mode.is_some() && said.is_none();
        let sums = Sums::of(object.checksum.filter(|_| is_asked));
        let mut headers = object.headers;
        Ok(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(range.end - range.start).ok(),
            content_range: said,
            content_type: Some(object.content_type),
            cache_control: headers.remove("cache-control"),
            content_disposition: headers.remove("content-disposition"),
            content_encoding: headers.remove("content-encoding"),
            content_language: headers.remove("content-language"),
            expires: headers.remove("expires").and_then(|time| of_http(&time)),
            e_tag: Some(etag(&object.etag)),
            last_modified: Some(object.modified.into()),
            metadata: to_metadata(object.metadata),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            ..HeadObjectOutput::default()
        })
    }

    pub(super) async fn copy(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<CopyObjectOutput> {
        let input = request.input;
        let (from_bucket, from_key) = source(input.copy_source)?;
        let is_replaced = input
            .metadata_directive
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let (bucket, key) = (input.bucket, input.key);
        if !is_replaced && (&from_bucket, &from_key) == (&bucket, &key) {
            return Err(s3_error!(
                InvalidRequest,
                "an object is copied to itself only with other metadata: x-amz-metadata-directive: REPLACE"
            ));
        }
        let new = described(&request.headers, input.content_type, input.metadata);
        let mut conditions = Some(Conditions {
            matches: input.copy_source_if_match,
            none_match: input.copy_source_if_none_match,
            modified_since: input.copy_source_if_modified_since,
            unmodified_since: input.copy_source_if_unmodified_since,
        });
        // Of the object that is there now; one that replaces it meanwhile is another version of it.
        let object = self.store.head(&from_bucket, &from_key).await?;
        conditions
            .take()
            .unwrap_or_default()
            .check_source(&object)?;
        let asked = input.checksum_algorithm.as_ref();
        let asked = asked.and_then(|algorithm| Algorithm::of_name(algorithm.as_str()));
        let there = object.checksum.as_ref().map(|checksum| checksum.algorithm);
        if asked.is_some() && asked != there {
            return Err(not_offered("a copy with another checksum"));
        }
        let expected = object.etag;
        let store = Arc::clone(&self.store);
        let object = self
            .create(async move {
                let describe = |object: &Object| match (object.etag == expected, is_replaced) {
                    (false, _) => Err(Error::PreconditionFailed),
                    (true, true) => Ok(new.clone()),
                    (true, false) => Ok(object.clone().into()),
                };
                let (from, to) = ((&*from_bucket, &*from_key), (&*bucket, &*key));
                store.copy(from, to, describe).await
            })
            .await?;
        let sums = Sums::of(object.checksum);
        let result = CopyObjectResult {
            e_tag: Some(etag(&object.etag)),
            last_modified: Some(object.modified.into()),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
        };
        Ok(CopyObjectOutput {
            copy_object_result: Some(result),
            ..CopyObjectOutput::default()
        })
    }

    pub(super) async fn delete(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<DeleteObjectOutput> {
        let input = request.input;
        if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
            return Err(not_offered("to delete an object by its time or size"));
        }
        let condition = input.if_match.as_ref().map(of_match).unwrap_or_default();
        self.store
            .delete_if(&input.bucket, &input.key, condition)
            .await?;
        Ok(DeleteObjectOutput::default())
    }

    pub(super) async fn delete_many(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<DeleteObjectsOutput> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        let Delete { objects, quiet } = delete;
        if !(1..=MAX_LISTED).contains(&objects.len()) {
            return Err(s3_error!(MalformedXML, "expected 1 to {MAX_LISTED} keys"));
        }
        let is_plain = objects.iter().all(|object| {
            let version = object.version_id.as_deref();
            version.is_none_or(|version| version == "null")
                && object.e_tag.is_none()
                && object.last_modified_time.is_none()
                && object.size.is_none()
        });
        if !is_plain {
            return Err(not_offered(
                "to delete objects by version, ETag, time or size",
            ));
        }
        let keys: Vec<_> = objects.into_iter().map(|object| object.key).collect();
        self.store.delete_all(&bucket, keys.clone()).await?;
        let deleted = keys.into_iter().map(|key| DeletedObject {
            key: Some(key),
            ..DeletedObject::default()
        });
        Ok(DeleteObjectsOutput {
            deleted: (quiet != Some(true)).then(|| deleted.collect()),
            ..DeleteObjectsOutput::default()
        })
    }
}

/// A checksum, in the field of its algorithm.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) crc32: Option<String>,
    pub(super) crc32c: Option<String>,
    pub(super) crc64nvme: Option<String>,
    pub(super) sha1: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) kind: Option<ChecksumType>,
}

impl Sums {
    pub(super) fn of(checksum: Option<Checksum>) -> Self {
        let mut sums = Self::default();
        let Some(checksum) = checksum else {
            return sums;
        };
        let kind = match checksum.is_composite() {
            true => ChecksumType::COMPOSITE,
            false => ChecksumType::FULL_OBJECT,
        };
        sums.kind = Some(ChecksumType::from_static(kind));
        let field = match checksum.algorithm {
            Algorithm::Crc32 => &mut sums.crc32,
            Algorithm::Crc32c => &mut sums.crc32c,
            Algorithm::Crc64Nvme => &mut sums.crc64nvme,
            Algorithm::Sha1 => &mut sums.sha1,
            Algorithm::Sha256 => &mut sums.sha256,
        };
        *field = Some(checksum.value);
        sums
    }
}

/// Returns what a request says of the object that it puts.
pub(super) fn described(
    headers: &HeaderMap,
    content_type: Option<String>,
    metadata: Option<Metadata>,
) -> NewObject {
    let mut new = NewObject::default();
    if let Some(content_type) = content_type {
        new.content_type = content_type;
    }
    new.metadata = metadata.unwrap_or_default().into_iter().collect();
    for name in KEPT {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        let value = match (name, value) {
            (_, None) => continue,
            ("content-encoding", Some(value)) => without_chunks(value),
            (_, Some(value)) => value.to_owned(),
        };
        if !value.is_empty() {
            new.headers.insert(name.to_owned(), value);
        }
    }
    new
}

/// Returns a `Content-Encoding` without what is only how the body was sent.
fn without_chunks(encoding: &str) -> String {
    let parts = encoding.split(',').map(str::trim);
    let parts: Vec<_> = parts.filter(|part| *part != "aws-chunked").collect();
    parts.join(",")
}

/// Returns bucket and key of what is copied.
pub(super) fn source(source: CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } if version_id
            .as_deref()
            .is_none_or(|version| version == "null") =>
        {
            Ok((bucket.into(), key.into()))
        }
        _ => Err(not_offered(
            "to copy versions of objects, and from access points",
        )),
    }
}

/// Of an object that was not uploaded in parts, the first part is all of it; others are not known by
/// their parts any more.
fn check_part(number: Option<i32>, object: &Object) -> S3Result<()> {
    match number {
        None => Ok(()),
        Some(1) if !object.etag.contains('-') => Ok(()),
        Some(_) => Err(not_offered("to get one part of an object")),
    }
}

fn to_metadata(metadata: BTreeMap<String, String>) -> Option<Metadata> {
    (!metadata.is_empty()).then(|| metadata.into_iter().collect())
}

/// Reads a time as HTTP writes it.
fn of_http(time: &str) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, time).ok()
}
