//! Buckets, and listings of what is in them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    Bucket, BucketLocationConstraint, CommonPrefix, CreateBucketInput, CreateBucketOutput,
    EncodingType, GetBucketLocationOutput, ListBucketsInput, ListBucketsOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object as Listed,
    ObjectStorageClass, Owner,
};
use s3s::{S3Result, s3_error};

use super::access::OWNER;
use super::conditions::etag;
use super::{Wire, not_offered};
use crate::object::{ListQuery, Listing, MAX_LISTED, Object};

/// The region whose name `GetBucketLocation` leaves out, as S3 does.
const FIRST_REGION: &str = "us-east-1";
/// What is not encoded in keys: what needs no encoding in URLs (RFC 3986 § 2.3), and slashes.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// How keys are written in an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoding {
    is_url: bool,
}

impl Wire {
    pub(super) async fn create_bucket(
        &self,
        input: CreateBucketInput,
    ) -> S3Result<CreateBucketOutput> {
        let configuration = input.create_bucket_configuration.unwrap_or_default();
        if let Some(region) = configuration.location_constraint
            && region.as_str() != self.region
        {
            return Err(s3_error!(
                IllegalLocationConstraintException,
                "expected region {}, got {}",
                self.region,
                region.as_str()
            ));
        }
        if configuration.bucket.is_some() || configuration.location.is_some() {
            return Err(not_offered("directory buckets"));
        }
        self.store.create_bucket(&input.bucket).await?;
        Ok(CreateBucketOutput {
            location: Some(format!("/{}", input.bucket)),
        })
    }

    pub(super) async fn list_buckets(
        &self,
        input: ListBucketsInput,
    ) -> S3Result<ListBucketsOutput> {
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.unwrap_or_default();
        let max = input.max_buckets.and_then(|max| usize::try_from(max).ok());
        let max = max.unwrap_or(usize::MAX).max(1);
        let buckets = self.store.buckets().await?;
        let mut buckets: Vec<_> = buckets
            .into_iter()
            .filter(|bucket| bucket.name.starts_with(&prefix) && bucket.name > after)
            .collect();
        let is_truncated = buckets.len() > max;
        buckets.truncate(max);
        let last = buckets.last().map(|bucket| bucket.name.clone());
        let buckets = buckets.into_iter().map(|bucket| Bucket {
            creation_date: Some(bucket.created.into()),
            name: Some(bucket.name),
            ..Bucket::default()
        });
        Ok(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            owner: Some(owner()),
            continuation_token: last.filter(|_| is_truncated),
            prefix: input.prefix,
        })
    }

    pub(super) async fn location(&self, bucket: &str) -> S3Result<GetBucketLocationOutput> {
        self.store.bucket(bucket).await?;
        let region = (self.region != FIRST_REGION)
            .then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(GetBucketLocationOutput {
            location_constraint: region,
        })
    }

    pub(super) async fn list(&self, input: ListObjectsInput) -> S3Result<ListObjectsOutput> {
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.marker.clone(),
            max: max_of(input.max_keys)?,
        };
        let listing = self.store.list(&input.bucket, &query).await?;
        let Listing {
            objects,
            prefixes,
            next,
        } = listing;
        Ok(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encoding.write(&query.prefix)),
            marker: Some(encoding.write(input.marker.as_deref().unwrap_or_default())),
            max_keys: i32::try_from(query.max).ok(),
            is_truncated: Some(next.is_some()),
            contents: Some(
                objects
                    .iter()
                    .map(|object| listed(object, encoding, true))
                    .collect(),
            ),
            common_prefixes: Some(encoding.prefixes(&prefixes)),
            delimiter: input.delimiter.map(|delimiter| encoding.write(&delimiter)),
            next_marker: next.map(|next| encoding.write(&next)),
            encoding_type: input.encoding_type,
            ..ListObjectsOutput::default()
        })
    }

    pub(super) async fn list_v2(&self, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let token = input
            .continuation_token
            .as_deref()
            .map(of_token)
            .transpose()?;
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: token.or_else(|| input.start_after.clone()),
            max: max_of(input.max_keys)?,
        };
        let with_owner = input.fetch_owner == Some(true);
        let Listing {
            objects,
            prefixes,
            next,
        } = self.store.list(&input.bucket, &query).await?;
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encoding.write(&query.prefix)),
            max_keys: i32::try_from(query.max).ok(),
            key_count: i32::try_from(objects.len() + prefixes.len()).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(next.is_some()),
            next_continuation_token: next.map(|next| URL_SAFE_NO_PAD.encode(next)),
            contents: Some(
                objects
                    .iter()
                    .map(|object| listed(object, encoding, with_owner))
                    .collect(),
            ),
            common_prefixes: Some(encoding.prefixes(&prefixes)),
            delimiter: input.delimiter.map(|delimiter| encoding.write(&delimiter)),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(|after| encoding.write(&after)),
            ..ListObjectsV2Output::default()
        })
    }
}

// === impl Encoding ===

impl Encoding {
    pub(super) fn of(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked.map(EncodingType::as_str) {
            None | Some("") => Ok(Self { is_url: false }),
            Some("url") => Ok(Self { is_url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "encoding-type: expected url")),
        }
    }

    pub(super) fn write(self, text: &str) -> String {
        match self.is_url {
            true => utf8_percent_encode(text, ENCODED).to_string(),
            false => text.to_owned(),
        }
    }

    pub(super) fn prefixes(self, prefixes: &[String]) -> Vec<CommonPrefix> {
        let prefixes = prefixes.iter().map(|prefix| CommonPrefix {
            prefix: Some(self.write(prefix)),
        });
        prefixes.collect()
    }
}

fn listed(object: &Object, encoding: Encoding, with_owner: bool) -> Listed {
    Listed {
        key: Some(encoding.write(&object.key)),
        size: i64::try_from(object.size).ok(),
        e_tag: Some(etag(&object.etag)),
        last_modified: Some(object.modified.into()),
        owner: with_owner.then(owner),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
        ..Listed::default()
    }
}

pub(super) fn owner() -> Owner {
    Owner {
        display_name: Some(OWNER.to_owned()),
        id: Some(OWNER.to_owned()),
    }
}

/// Returns how many entries of a page are asked for.
pub(super) fn max_of(asked: Option<i32>) -> S3Result<usize> {
    let Some(asked) = asked else {
        return Ok(MAX_LISTED);
    };
    let asked = usize::try_from(asked);
    let asked = asked.map_err(|_| s3_error!(InvalidArgument, "expected a page of 0 or more"))?;
    Ok(asked.min(MAX_LISTED))
}

/// Reads what a page before this one said.
fn of_token(token: &str) -> S3Result<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "continuation-token: expected one that a listing gave"
            )
        })
}
