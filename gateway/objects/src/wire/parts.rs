//! Uploads in parts.

use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, ChecksumAlgorithm, ChecksumType, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CopyPartResult, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListPartsInput, ListPartsOutput, MultipartUpload, Part as ListedPart, StorageClass,
    UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Result, s3_error};

use super::Wire;
use super::body::{Expected, header_of};
use super::conditions::{Conditions, etag, of_put, range};
use super::listing::{Encoding, max_of, owner};
use super::objects::{Sums, described, source};
use crate::Error;
use crate::blob::bytes_of;
use crate::checksum::{Algorithm, Checksum};
use crate::object::Object;
use crate::store::MAX_PUT_BYTES;
use crate::upload::{ChecksumKind, NamedPart, Part, Upload};

/// Objects from this size on, in bytes, are answered for before they are joined, with spaces until
/// they are, as S3 does: clients wait a minute for a byte.
const SLOW_BYTES: u64 = 256 << 20;

impl Wire {
    pub(super) async fn create_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let input = request.input;
        let new = described(&request.headers, input.content_type, input.metadata);
        let kind = kind(
            input.checksum_algorithm.as_ref(),
            input.checksum_type.as_ref(),
        )?;
        let id = self
            .store
            .create_upload(&input.bucket, &input.key, &new, kind)
            .await?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: kind.map(algorithm_of),
            checksum_type: kind.map(type_of),
            ..CreateMultipartUploadOutput::default()
        })
    }

    pub(super) async fn put_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<UploadPartOutput> {
        let input = request.input;
        let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
        let number = number(input.part_number)?;
        let upload = self.store.upload(&bucket, &key, &id).await?;
        let mut expected = Expected::read(&request.headers, input.content_length)?;
        expected.algorithm = algorithm(&upload, expected.algorithm)?;
        let trailing = request.trailing_headers.as_ref();
        let received = expected
            .receive(&self.store, input.body, &request.extensions, trailing)
            .await?;
        let part = self
            .store
            .commit_part(&bucket, &key, &id, number, received)
            .await?;
        let sums = Sums::of(part.checksum);
        Ok(UploadPartOutput {
            e_tag: Some(etag(&part.etag)),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            ..UploadPartOutput::default()
        })
    }

    pub(super) async fn copy_part(
        &self,
        input: UploadPartCopyInput,
    ) -> S3Result<UploadPartCopyOutput> {
        let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
        let number = number(input.part_number)?;
        let upload = self.store.upload(&bucket, &key, &id).await?;
        let (from_bucket, from_key) = source(input.copy_source)?;
        let (object, file) = self.store.get(&from_bucket, &from_key).await?;
        let conditions = Conditions {
            matches: input.copy_source_if_match,
            none_match: input.copy_source_if_none_match,
            modified_since: input.copy_source_if_modified_since,
            unmodified_since: input.copy_source_if_unmodified_since,
        };
        conditions.check_source(&object)?;
        let asked = input.copy_source_range.as_deref();
        let asked = asked.map(s3s::dto::Range::parse).transpose();
        let asked = asked.map_err(|_| {
            s3_error!(
                InvalidArgument,
                "x-amz-copy-source-range: expected bytes=FIRST-LAST"
            )
        })?;
        let (range, _) = range(asked, object.size)?;
        if range.end - range.start > MAX_PUT_BYTES {
            let limit = MAX_PUT_BYTES;
            return Err(Error::TooLarge { limit }.into());
        }
        let algorithm = algorithm(&upload, None)?;
        let staged = self.store.stage(bytes_of(file, range), algorithm).await?;
        let part = self
            .store
            .commit_part(&bucket, &key, &id, number, staged)
            .await?;
        let sums = Sums::of(part.checksum);
        let result = CopyPartResult {
            e_tag: Some(etag(&part.etag)),
            last_modified: Some(part.modified.into()),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
        };
        Ok(UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..UploadPartCopyOutput::default()
        })
    }

    pub(super) async fn complete(
        self: Arc<Self>,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let input = request.input;
        let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
        let condition = of_put(input.if_match, input.if_none_match)?;
        let parts = input.multipart_upload.and_then(|named| named.parts);
        let parts: Vec<_> = parts
            .unwrap_or_default()
            .into_iter()
            .map(named)
            .collect::<S3Result<_>>()?;
        let headers = &request.headers;
        let mut sums = Algorithm::all().filter_map(|algorithm| {
            let value = headers.get(header_of(algorithm))?.to_str().ok()?.to_owned();
            Some(Checksum { algorithm, value })
        });
        let expected = sums.next();
        let prepared = self.store.prepare_completion(&bucket, &key, &id, &parts);
        let completion = match prepared.await {
            Ok(completion) => completion,
            // Answered as it was, and told to the watcher again, who may have had no room.
            Err(gone @ Error::NoSuchUpload(_)) => {
                let object = self.store.completed(&bucket, &key, &parts).await?;
                let object = self.create(async move { object.ok_or(gone) }).await?;
                return Ok(completed(object));
            }
            Err(error) => return Err(error.into()),
        };
        let size = completion.size;
        if let Some(announced) = input.mpu_object_size
            && u64::try_from(announced) != Ok(size)
        {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-mp-object-size says {announced} bytes, the parts have {size}"
            ));
        }
        let finish = async move {
            let store = Arc::clone(&self.store);
            let object = self
                .create(async move {
                    let done = store.complete_upload(&bucket, completion, condition, expected);
                    match done.await {
                        // By another call of this client, who did not wait for its answer.
                        Err(gone @ Error::NoSuchUpload(_)) => {
                            let object = store.completed(&bucket, &key, &parts).await?;
                            object.ok_or(gone)
                        }
                        done => done,
                    }
                })
                .await?;
            Ok(completed(object))
        };
        if size < SLOW_BYTES {
            return finish.await;
        }
        Ok(CompleteMultipartUploadOutput {
            future: Some(Box::pin(finish)),
            ..CompleteMultipartUploadOutput::default()
        })
    }

    pub(super) async fn abort(&self, input: AbortMultipartUploadInput) -> S3Result<()> {
        let AbortMultipartUploadInput {
            bucket,
            key,
            upload_id,
            ..
        } = input;
        Ok(self.store.abort_upload(&bucket, &key, &upload_id).await?)
    }

    pub(super) async fn list_parts(&self, input: ListPartsInput) -> S3Result<ListPartsOutput> {
        let (upload, parts) = self
            .store
            .parts(&input.bucket, &input.key, &input.upload_id)
            .await?;
        let max = max_of(input.max_parts)?;
        let after = input.part_number_marker.unwrap_or(0);
        let mut parts: Vec<Part> = parts
            .into_iter()
            .filter(|part| i32::from(part.number) > after)
            .collect();
        let is_truncated = parts.len() > max;
        parts.truncate(max);
        let last = parts.last().map(|part| i32::from(part.number));
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: i32::try_from(max).ok(),
            part_number_marker: Some(after),
            next_part_number_marker: last.filter(|_| is_truncated),
            is_truncated: Some(is_truncated),
            parts: Some(parts.into_iter().map(listed).collect()),
            owner: Some(owner()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            checksum_algorithm: upload.checksum.map(algorithm_of),
            checksum_type: upload.checksum.map(type_of),
            ..ListPartsOutput::default()
        })
    }

    pub(super) async fn list_uploads(
        &self,
        input: ListMultipartUploadsInput,
    ) -> S3Result<ListMultipartUploadsOutput> {
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let max = max_of(input.max_uploads)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().unwrap_or_default();
        let after_key = input.key_marker.clone().unwrap_or_default();
        let after_id = input.upload_id_marker.clone().unwrap_or_default();
        let mut uploads = Vec::new();
        let mut prefixes: Vec<String> = Vec::new();
        let mut last = None;
        let mut is_truncated = false;
        // There are never more than a thousand.
        for upload in self.store.uploads(&input.bucket).await? {
            let Some(rest) = upload.key.strip_prefix(&prefix) else {
                continue;
            };
            let folder = rest
                .split_once(&delimiter)
                .filter(|_| !delimiter.is_empty());
            let folder = folder.map(|(name, _)| format!("{prefix}{name}{delimiter}"));
            let is_behind = match (&folder, after_id.is_empty()) {
                (Some(folder), _) => *folder > after_key,
                (None, true) => upload.key > after_key,
                (None, false) => (&upload.key, &upload.id) > (&after_key, &after_id),
            };
            if !is_behind
                || folder
                    .as_ref()
                    .is_some_and(|folder| prefixes.last() == Some(folder))
            {
                continue;
            }
            if uploads.len() + prefixes.len() == max {
                is_truncated = true;
                break;
            }
            match folder {
                Some(folder) => {
                    last = Some((folder.clone(), String::new()));
                    prefixes.push(folder);
                }
                None => {
                    last = Some((upload.key.clone(), upload.id.clone()));
                    uploads.push(listed_upload(upload, encoding));
                }
            }
        }
        let (next_key, next_id) = last.filter(|_| is_truncated).unzip();
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(encoding.write(&prefix)),
            delimiter: input.delimiter.map(|delimiter| encoding.write(&delimiter)),
            key_marker: Some(encoding.write(&after_key)),
            upload_id_marker: Some(after_id),
            next_key_marker: next_key.map(|key| encoding.write(&key)),
            next_upload_id_marker: next_id,
            max_uploads: i32::try_from(max).ok(),
            is_truncated: Some(is_truncated),
            uploads: Some(uploads),
            common_prefixes: Some(encoding.prefixes(&prefixes)),
            encoding_type: input.encoding_type,
            ..ListMultipartUploadsOutput::default()
        })
    }
}

/// Returns which checksum an upload is to have, if one.
fn kind(
    algorithm: Option<&ChecksumAlgorithm>,
    kind: Option<&ChecksumType>,
) -> S3Result<Option<ChecksumKind>> {
    let Some(name) = algorithm.map(ChecksumAlgorithm::as_str) else {
        return Ok(None);
    };
    let unknown = || s3_error!(InvalidRequest, "{name:?} is no checksum that is known");
    let algorithm = Algorithm::of_name(name).ok_or_else(unknown)?;
    // A CRC of the whole can be had of its parts' alone, and a SHA can't: S3 offers each what it can.
    let is_crc64 = algorithm == Algorithm::Crc64Nvme;
    let is_sha = matches!(algorithm, Algorithm::Sha1 | Algorithm::Sha256);
    let is_of_whole = match kind.map(ChecksumType::as_str) {
        None => is_crc64,
        Some(ChecksumType::FULL_OBJECT) if !is_sha => true,
        Some(ChecksumType::COMPOSITE) if !is_crc64 => false,
        Some(other) => {
            return Err(s3_error!(
                InvalidRequest,
                "{name} is not offered as {other}"
            ));
        }
    };
    Ok(Some(ChecksumKind {
        algorithm,
        is_of_whole,
    }))
}

/// Returns the checksum to take of a part.
fn algorithm(upload: &Upload, sent: Option<Algorithm>) -> S3Result<Option<Algorithm>> {
    match (upload.checksum, sent) {
        (Some(kind), Some(sent)) if kind.algorithm != sent => Err(s3_error!(
            InvalidRequest,
            "the upload was begun with {}, got a part with {}",
            kind.algorithm.name(),
            sent.name()
        )),
        (Some(kind), _) => Ok(Some(kind.algorithm)),
        (None, sent) => Ok(sent),
    }
}

fn number(number: i32) -> S3Result<u16> {
    u16::try_from(number)
        .map_err(|_| s3_error!(InvalidArgument, "expected a part number of 1 to 10000"))
}

fn named(part: CompletedPart) -> S3Result<NamedPart> {
    let incomplete = || s3_error!(MalformedXML, "expected a number and an ETag of each part");
    let sums = [
        (Algorithm::Crc32, part.checksum_crc32),
        (Algorithm::Crc32c, part.checksum_crc32c),
        (Algorithm::Crc64Nvme, part.checksum_crc64nvme),
        (Algorithm::Sha1, part.checksum_sha1),
        (Algorithm::Sha256, part.checksum_sha256),
    ];
    let mut sums = sums.into_iter().filter_map(|(algorithm, value)| {
        Some(Checksum {
            algorithm,
            value: value?,
        })
    });
    Ok(NamedPart {
        number: number(part.part_number.ok_or_else(incomplete)?)?,
        etag: part.e_tag.ok_or_else(incomplete)?.into_value(),
        checksum: sums.next(),
    })
}

fn completed(object: Object) -> CompleteMultipartUploadOutput {
    let sums = Sums::of(object.checksum);
    CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", object.bucket, object.key)),
        bucket: Some(object.bucket),
        key: Some(object.key),
        e_tag: Some(etag(&object.etag)),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.kind,
        ..CompleteMultipartUploadOutput::default()
    }
}

fn listed(part: Part) -> ListedPart {
    let sums = Sums::of(part.checksum);
    ListedPart {
        part_number: Some(part.number.into()),
        size: i64::try_from(part.size).ok(),
        e_tag: Some(etag(&part.etag)),
        last_modified: Some(part.modified.into()),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
    }
}

fn listed_upload(upload: Upload, encoding: Encoding) -> MultipartUpload {
    MultipartUpload {
        key: Some(encoding.write(&upload.key)),
        upload_id: Some(upload.id),
        initiated: Some(upload.initiated.into()),
        owner: Some(owner()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        checksum_algorithm: upload.checksum.map(algorithm_of),
        checksum_type: upload.checksum.map(type_of),
        ..MultipartUpload::default()
    }
}

fn algorithm_of(kind: ChecksumKind) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from_static(kind.algorithm.name())
}

fn type_of(kind: ChecksumKind) -> ChecksumType {
    ChecksumType::from_static(match kind.is_of_whole {
        true => ChecksumType::FULL_OBJECT,
        false => ChecksumType::COMPOSITE,
    })
}
