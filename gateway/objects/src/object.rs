//! Buckets, objects, and what is said of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::Error;
use crate::checksum::Checksum;

/// Longest key, in bytes; S3's.
pub const MAX_KEY_BYTES: usize = 1024;
/// Most bytes of an object's own metadata, names and values together; S3's.
pub const MAX_METADATA_BYTES: usize = 2 << 10;
/// Most bytes of the headers that are kept with an object, and of a bucket's tags.
const MAX_HEADERS_BYTES: usize = 4 << 10;
/// Most objects and prefixes of one page of a listing; S3's.
pub const MAX_LISTED: usize = 1000;

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: OffsetDateTime,
    /// What its owner says of it.
    pub tags: BTreeMap<String, String>,
}

/// An object, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bucket that it is in.
    pub bucket: String,
    /// Any text; `..` and `//` mean nothing.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// Without quotes: the MD5 of its bytes, or of its parts' MD5s and their number.
    pub etag: String,
    /// When it was put, in whole milliseconds.
    pub modified: OffsetDateTime,
    /// Its media type, as who put it says.
    pub content_type: String,
    /// Of who put it, names in lower case.
    pub metadata: BTreeMap<String, String>,
    /// What is sent along with its bytes: `cache-control`, `content-disposition` and such.
    pub headers: BTreeMap<String, String>,
    /// If it was put with one.
    pub checksum: Option<Checksum>,
}

/// What is said of an object that is put.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// Its media type.
    pub content_type: String,
    /// As of an [`Object`].
    pub metadata: BTreeMap<String, String>,
    /// As of an [`Object`].
    pub headers: BTreeMap<String, String>,
    /// What has to hold when it takes its place.
    pub condition: Condition,
}

/// What has to hold of the object that another one replaces, or that is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// That there is none.
    Absent,
    /// That there is one.
    Present,
    /// That there is one with this `ETag`, without quotes.
    Etag(String),
}

/// What of a bucket is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// What keys begin with.
    pub prefix: String,
    /// What ends a folder's name: keys that have it after the prefix are listed as one, up to it.
    pub delimiter: Option<String>,
    /// Begin behind this key, or this folder; what [`Listing::next`] said.
    pub after: Option<String>,
    /// Most objects and folders, at most [`MAX_LISTED`].
    pub max: usize,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// By key, as bytes.
    pub objects: Vec<Object>,
    /// Folders, where a delimiter was given; each with it at its end.
    pub prefixes: Vec<String>,
    /// The last that is on this page, if there are more.
    pub next: Option<String>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Buckets.
    pub buckets: u64,
    /// Objects in all of them.
    pub objects: u64,
}

/// What is kept of an object beside what it can be found by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub(crate) content_type: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
}

// === impl NewObject ===

impl NewObject {
    /// # Errors
    /// [`Error::AttributesTooLarge`].
    pub(crate) fn attributes(&self) -> Result<Attributes, Error> {
        check_size("the metadata", MAX_METADATA_BYTES, &self.metadata)?;
        check_size("the headers", MAX_HEADERS_BYTES, &self.headers)?;
        check_length("the media type", MAX_HEADERS_BYTES, self.content_type.len())?;
        Ok(Attributes {
            content_type: self.content_type.clone(),
            metadata: self.metadata.clone(),
            headers: self.headers.clone(),
        })
    }
}

impl Default for NewObject {
    fn default() -> Self {
        Self {
            // S3's.
            content_type: "binary/octet-stream".to_owned(),
            metadata: BTreeMap::new(),
            headers: BTreeMap::new(),
            condition: Condition::None,
        }
    }
}

impl From<Object> for NewObject {
    /// What a copy of it says.
    fn from(object: Object) -> Self {
        Self {
            content_type: object.content_type,
            metadata: object.metadata,
            headers: object.headers,
            condition: Condition::None,
        }
    }
}

// === impl Condition ===

impl Condition {
    /// # Errors
    /// [`Error::PreconditionFailed`].
    pub(crate) fn check(&self, etag: Option<&str>) -> Result<(), Error> {
        let holds = match self {
            Self::None => true,
            Self::Absent => etag.is_none(),
            Self::Present => etag.is_some(),
            Self::Etag(expected) => etag == Some(expected),
        };
        holds.then_some(()).ok_or(Error::PreconditionFailed)
    }
}

/// # Errors
/// [`Error::InvalidBucketName`].
pub(crate) fn check_bucket(name: &str) -> Result<(), Error> {
    match s3s::path::check_bucket_name(name) {
        true => Ok(()),
        false => Err(Error::InvalidBucketName(name.chars().take(64).collect())),
    }
}

/// # Errors
/// [`Error::InvalidKey`].
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    match key.len() {
        1..=MAX_KEY_BYTES => Ok(()),
        n_bytes => Err(Error::InvalidKey(n_bytes)),
    }
}

/// # Errors
/// [`Error::AttributesTooLarge`].
pub(crate) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Error> {
    check_size("the tags", MAX_HEADERS_BYTES, tags)
}

fn check_size(
    what: &'static str,
    limit: usize,
    pairs: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let pairs = pairs.iter().map(|(name, value)| name.len() + value.len());
    check_length(what, limit, pairs.sum())
}

const fn check_length(what: &'static str, limit: usize, got: usize) -> Result<(), Error> {
    match got <= limit {
        true => Ok(()),
        false => Err(Error::AttributesTooLarge { what, got, limit }),
    }
}
