//! Failures as S3 clients read them.

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};

use super::body::Stopped;
use crate::Error;

impl From<Error> for S3Error {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
            Error::NoSuchKey { .. } => S3ErrorCode::NoSuchKey,
            Error::NoSuchUpload(_) => S3ErrorCode::NoSuchUpload,
            Error::BucketExists(_) => S3ErrorCode::BucketAlreadyOwnedByYou,
            Error::BucketNotEmpty(_) => S3ErrorCode::BucketNotEmpty,
            Error::InvalidBucketName(_) => S3ErrorCode::InvalidBucketName,
            Error::InvalidKey(0) => S3ErrorCode::InvalidArgument,
            Error::InvalidKey(_) => S3ErrorCode::KeyTooLongError,
            Error::AttributesTooLarge { .. } => S3ErrorCode::MetadataTooLarge,
            Error::TooLarge { .. } => S3ErrorCode::EntityTooLarge,
            Error::Incomplete { .. } => S3ErrorCode::IncompleteBody,
            Error::BadDigest { .. } => S3ErrorCode::BadDigest,
            Error::PreconditionFailed => S3ErrorCode::PreconditionFailed,
            Error::InvalidPart(_) => S3ErrorCode::InvalidPart,
            Error::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
            Error::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
            Error::TooMany {
                what: "buckets", ..
            } => S3ErrorCode::TooManyBuckets,
            Error::TooMany { .. } => S3ErrorCode::SlowDown,
            Error::Body(error) => of_body(error.as_ref()),
            Error::Closed => S3ErrorCode::ServiceUnavailable,
            Error::Full => {
                tracing::error!("the disk of the objects is full");
                let mut full = Self::with_message(
                    S3ErrorCode::Custom("StorageFull".into()),
                    error.to_string(),
                );
                full.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
                return full;
            }
            Error::Io(_) | Error::Index(_) | Error::Commit(_) => {
                tracing::error!(%error, "objects can't be read or written");
                return Self::new(S3ErrorCode::InternalError);
            }
        };
        Self::with_message(code, error.to_string())
    }
}

/// Returns why a body could not be read. The library's own errors have no public type.
fn of_body(error: &(dyn std::error::Error + Send + Sync + 'static)) -> S3ErrorCode {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(Stopped::Silent) => return S3ErrorCode::RequestTimeout,
            Some(Stopped::Chunk) => return S3ErrorCode::InvalidRequest,
            Some(Stopped::Client(_)) => return S3ErrorCode::IncompleteBody,
            None => cause = error.source(),
        }
    }
    let text = error.to_string();
    let says = |what: &str| text.contains(what);
    if says("Sha256Mismatch") {
        S3ErrorCode::BadDigest
    } else if says("SignatureMismatch") {
        S3ErrorCode::SignatureDoesNotMatch
    } else if says(&Stopped::Silent.to_string()) {
        S3ErrorCode::RequestTimeout
    } else if says(&Stopped::Chunk.to_string()) {
        S3ErrorCode::InvalidRequest
    } else {
        S3ErrorCode::IncompleteBody
    }
}
