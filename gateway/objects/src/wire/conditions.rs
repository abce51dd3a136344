//! What a request makes a condition of an object (RFC 9110 § 13), and which part of it it asks for.

use std::ops::Range;

use http::{HeaderMap, HeaderValue, header};
use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use time::OffsetDateTime;

use super::not_offered;
use crate::object::{Condition, Object};

/// The conditions of one request.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) matches: Option<ETagCondition>,
    pub(super) none_match: Option<ETagCondition>,
    pub(super) modified_since: Option<Timestamp>,
    pub(super) unmodified_since: Option<Timestamp>,
}

impl Conditions {
    /// Checks them, in the order that RFC 9110 § 13.2.2 has.
    ///
    /// # Errors
    /// `PreconditionFailed`, or `NotModified`, which is no failure.
    pub(super) fn check(&self, object: &Object) -> S3Result<()> {
        // Times of HTTP have whole seconds.
        let modified = object.modified.unix_timestamp();
        let seconds = |time: &Timestamp| OffsetDateTime::from(time.clone()).unix_timestamp();
        let failed = || {
            s3_error!(
                PreconditionFailed,
                "the object is not as the request expects it"
            )
        };
        match (&self.matches, &self.unmodified_since) {
            (Some(matches), _) if !holds(matches, object) => return Err(failed()),
            (None, Some(since)) if modified > seconds(since) => return Err(failed()),
            _ => {}
        }
        match (&self.none_match, &self.modified_since) {
            (Some(matches), _) if holds(matches, object) => Err(not_modified(object)),
            (None, Some(since)) if modified <= seconds(since) => Err(not_modified(object)),
            _ => Ok(()),
        }
    }

    /// As [`Conditions::check`], of an object that is copied: that it did not change is a failure.
    pub(super) fn check_source(&self, object: &Object) -> S3Result<()> {
        self.check(object).map_err(|_| {
            s3_error!(
                PreconditionFailed,
                "the source is not as the request expects it"
            )
        })
    }
}

/// Returns what has to hold of the object that one that is put replaces.
pub(super) fn of_put(
    matches: Option<ETagCondition>,
    none_match: Option<ETagCondition>,
) -> S3Result<Condition> {
    match (matches, none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(none)) if none.is_any() => Ok(Condition::Absent),
        (Some(matches), None) => Ok(of_match(&matches)),
        _ => Err(not_offered(
            "If-None-Match with an ETag, of an object that is put",
        )),
    }
}

/// Returns the condition that there is an object, with an `ETag` if one is named.
pub(super) fn of_match(matches: &ETagCondition) -> Condition {
    match matches.as_etag() {
        Some(etag) => Condition::Etag(etag.value().to_owned()),
        None => Condition::Present,
    }
}

fn holds(condition: &ETagCondition, object: &Object) -> bool {
    condition
        .as_etag()
        .is_none_or(|etag| etag.value() == object.etag)
}

fn not_modified(object: &Object) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    let mut headers = HeaderMap::new();
    let etag = HeaderValue::try_from(format!("\"{}\"", object.etag));
    headers.extend(etag.ok().map(|etag| (header::ETAG, etag)));
    error.set_headers(headers);
    error
}

/// Returns the `ETag` of an object, or a part.
pub(super) fn etag(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

/// Returns which bytes of an object are asked for, and how that is said, if it is not all.
///
/// # Errors
/// `InvalidRange`.
pub(super) fn range(
    asked: Option<s3s::dto::Range>,
    size: u64,
) -> S3Result<(Range<u64>, Option<String>)> {
    let Some(asked) = asked else {
        return Ok((0..size, None));
    };
    let range = asked.check(size)?;
    let said = format!(
        "bytes {}-{}/{size}",
        range.start,
        range.end.saturating_sub(1)
    );
    Ok((range, Some(said)))
}
