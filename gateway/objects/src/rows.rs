//! What the index keeps, as rows: queries within a transaction or a view of it.

use std::collections::{BTreeMap, HashSet};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use time::OffsetDateTime;

use crate::Error;
use crate::blob::BlobName;
use crate::checksum::Checksum;
use crate::index::Garbage;
use crate::object::{
    Attributes, Bucket, Condition, Counts, ListQuery, Listing, MAX_LISTED, Object,
};

/// An object, and where its bytes are.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) object: Object,
    pub(crate) blob: BlobName,
}

/// A row of an object that is put.
pub(crate) struct NewRow {
    pub(crate) blob: BlobName,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) attributes: Attributes,
    pub(crate) checksum: Option<Checksum>,
}

/// Now, as it is kept: in whole milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let ms = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Returns a time that was kept.
pub(crate) fn time_of(ms: i64) -> OffsetDateTime {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    time.unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Reads a column that holds JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}

/// Writes what [`json`] reads.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Io(error.into()))
}

/// Reads a column that holds text as bytes.
pub(crate) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(column)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
    })
}

/// Reads a column that may hold a checksum.
pub(crate) fn checksum(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Checksum>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.as_deref().and_then(Checksum::of_text))
}

// === buckets ===

/// # Errors
/// [`Error::NoSuchBucket`].
pub(crate) fn bucket_id(index: &Connection, name: &str) -> Result<i64, Error> {
    index
        .prepare_cached("select id from buckets where name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?
        .ok_or_else(|| Error::NoSuchBucket(name.to_owned()))
}

fn to_bucket(row: &Row<'_>) -> rusqlite::Result<Bucket> {
    Ok(Bucket {
        name: row.get(0)?,
        created: time_of(row.get(1)?),
        tags: json(row, 2)?,
    })
}

pub(crate) fn buckets(index: &Connection) -> Result<Vec<Bucket>, Error> {
    let mut select =
        index.prepare_cached("select name, created, tags from buckets order by name")?;
    let rows = select.query_map([], to_bucket)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`Error::NoSuchBucket`].
pub(crate) fn bucket(index: &Connection, name: &str) -> Result<Bucket, Error> {
    index
        .prepare_cached("select name, created, tags from buckets where name = ?1")?
        .query_row([name], to_bucket)
        .optional()?
        .ok_or_else(|| Error::NoSuchBucket(name.to_owned()))
}

/// # Errors
/// [`Error::BucketExists`], [`Error::TooMany`].
pub(crate) fn create_bucket(
    index: &Connection,
    name: &str,
    tags: &BTreeMap<String, String>,
    limit: usize,
) -> Result<(), Error> {
    let count: i64 = index.query_row("select count(*) from buckets", [], |row| row.get(0))?;
    match bucket_id(index, name) {
        Ok(_) => return Err(Error::BucketExists(name.to_owned())),
        Err(Error::NoSuchBucket(_)) => {}
        Err(error) => return Err(error),
    }
    if usize::try_from(count).is_ok_and(|count| count >= limit) {
        let what = "buckets";
        return Err(Error::TooMany { what, limit });
    }
    index.execute(
        "insert into buckets (name, created, tags) values (?1, ?2, ?3)",
        params![name, now_ms(), to_json(tags)?],
    )?;
    Ok(())
}

/// # Errors
/// [`Error::NoSuchBucket`].
pub(crate) fn set_tags(
    index: &Connection,
    name: &str,
    tags: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let id = bucket_id(index, name)?;
    let sql = "update buckets set tags = ?2 where id = ?1";
    index.execute(sql, params![id, to_json(tags)?])?;
    Ok(())
}

/// Removes a bucket without objects, and the uploads to it that were not completed.
///
/// # Errors
/// [`Error::NoSuchBucket`], [`Error::BucketNotEmpty`].
pub(crate) fn delete_bucket(
    index: &Connection,
    name: &str,
    garbage: &mut Garbage,
) -> Result<(), Error> {
    let id = bucket_id(index, name)?;
    let sql = "select 1 from objects where bucket = ?1 limit 1";
    let object: Option<i64> = index.query_row(sql, [id], |row| row.get(0)).optional()?;
    if object.is_some() {
        return Err(Error::BucketNotEmpty(name.to_owned()));
    }
    let of_bucket = "upload in (select id from uploads where bucket = ?1)";
    let mut delete = index.prepare(&format!(
        "delete from parts where {of_bucket} returning blob"
    ))?;
    for blob in delete.query_map([id], |row| row.get(0))? {
        garbage.push(blob?);
    }
    index.execute("delete from uploads where bucket = ?1", [id])?;
    index.execute("delete from buckets where id = ?1", [id])?;
    Ok(())
}

pub(crate) fn counts(index: &Connection) -> Result<Counts, Error> {
    let sql = "select (select count(*) from buckets), (select count(*) from objects)";
    Ok(index.query_row(sql, [], |row| {
        Ok(Counts {
            buckets: row.get(0)?,
            objects: row.get(1)?,
        })
    })?)
}

/// Returns the names of all blobs that belong to something.
pub(crate) fn blobs(index: &Connection) -> Result<HashSet<BlobName>, Error> {
    let mut select = index.prepare("select blob from objects union all select blob from parts")?;
    let names = select.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

// === objects ===

const COLUMNS: &str = "key, blob, size, etag, modified, attributes, checksum";

fn found(bucket: &str, row: &Row<'_>) -> rusqlite::Result<Found> {
    let Attributes {
        content_type,
        metadata,
        headers,
    } = json(row, 5)?;
    Ok(Found {
        object: Object {
            bucket: bucket.to_owned(),
            key: text(row, 0)?,
            size: row.get(2)?,
            etag: row.get(3)?,
            modified: time_of(row.get(4)?),
            content_type,
            metadata,
            headers,
            checksum: checksum(row, 6)?,
        },
        blob: row.get(1)?,
    })
}

/// # Errors
/// [`Error::NoSuchBucket`], [`Error::NoSuchKey`].
pub(crate) fn find(index: &Connection, bucket: &str, key: &str) -> Result<Found, Error> {
    let id = bucket_id(index, bucket)?;
    let sql = format!("select {COLUMNS} from objects where bucket = ?1 and key = ?2");
    index
        .prepare_cached(&sql)?
        .query_row(params![id, key.as_bytes()], |row| found(bucket, row))
        .optional()?
        .ok_or_else(|| Error::NoSuchKey {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
}

/// Puts an object, in the place of one that was there.
///
/// # Errors
/// [`Error::NoSuchBucket`], [`Error::PreconditionFailed`].
pub(crate) fn put(
    index: &Connection,
    bucket: &str,
    key: &str,
    condition: &Condition,
    row: NewRow,
    garbage: &mut Garbage,
) -> Result<Object, Error> {
    let id = bucket_id(index, bucket)?;
    let replaced: Option<(BlobName, String)> = index
        .prepare_cached("select blob, etag from objects where bucket = ?1 and key = ?2")?
        .query_row(params![id, key.as_bytes()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    condition.check(replaced.as_ref().map(|(_, etag)| etag.as_str()))?;
    let modified = now_ms();
    let NewRow {
        blob,
        size,
        etag,
        attributes,
        checksum,
    } = row;
    index
        .prepare_cached(
            "insert or replace into objects
             (bucket, key, blob, size, etag, modified, attributes, checksum)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            id,
            key.as_bytes(),
            blob,
            size,
            etag,
            modified,
            to_json(&attributes)?,
            checksum.as_ref().map(Checksum::to_text),
        ])?;
    garbage.extend(replaced.map(|(blob, _)| blob));
    Ok(Object {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        size,
        etag,
        modified: time_of(modified),
        content_type: attributes.content_type,
        metadata: attributes.metadata,
        headers: attributes.headers,
        checksum,
    })
}

/// Removes an object; says whether there was one.
///
/// # Errors
/// [`Error::NoSuchBucket`], [`Error::PreconditionFailed`].
pub(crate) fn delete(
    index: &Connection,
    bucket: &str,
    key: &str,
    condition: &Condition,
    garbage: &mut Garbage,
) -> Result<bool, Error> {
    let id = bucket_id(index, bucket)?;
    let deleted: Option<(BlobName, String)> = index
        .prepare_cached("delete from objects where bucket = ?1 and key = ?2 returning blob, etag")?
        .query_row(params![id, key.as_bytes()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    // Undone where it fails.
    condition.check(deleted.as_ref().map(|(_, etag)| etag.as_str()))?;
    let was_there = deleted.is_some();
    garbage.extend(deleted.map(|(blob, _)| blob));
    Ok(was_there)
}

/// Lists a page; as many seeks as it has entries, however many keys are in a folder.
///
/// # Errors
/// [`Error::NoSuchBucket`].
pub(crate) fn list(index: &Connection, bucket: &str, query: &ListQuery) -> Result<Listing, Error> {
    let id = bucket_id(index, bucket)?;
    let max = query.max.min(MAX_LISTED);
    let mut listing = Listing::default();
    if max == 0 {
        return Ok(listing);
    }
    let sql = format!("select {COLUMNS} from objects where bucket = ?1 and key >= ?2 order by key");
    let mut select = index.prepare_cached(&sql)?;
    let mut last = String::new();
    let mut from = Some(first_key(query));
    while let Some(first) = from.take() {
        let mut rows = select.query(params![id, first])?;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            if !key.starts_with(query.prefix.as_bytes()) {
                return Ok(listing);
            }
            if listing.objects.len() + listing.prefixes.len() == max {
                listing.next = Some(last);
                return Ok(listing);
            }
            let Some(folder) = folder(key, query) else {
                let Found { object, .. } = found(bucket, row)?;
                last.clone_from(&object.key);
                listing.objects.push(object);
                continue;
            };
            from = behind(folder);
            // Cut where the delimiter ends, so it is whole.
            last = String::from_utf8_lossy(folder).into_owned();
            listing.prefixes.push(last.clone());
            break;
        }
    }
    Ok(listing)
}

/// Returns where a listing begins.
fn first_key(query: &ListQuery) -> Vec<u8> {
    let prefix = query.prefix.as_bytes().to_vec();
    let Some(after) = &query.after else {
        return prefix;
    };
    let after = after.as_bytes();
    let behind_folder = match after.starts_with(&prefix) && folder(after, query) == Some(after) {
        true => behind(after),
        false => None,
    };
    // The least key that is greater.
    let next = behind_folder.unwrap_or_else(|| [after, &[0]].concat());
    next.max(prefix)
}

/// Returns a key up to the delimiter behind the prefix, which it begins with.
fn folder<'a>(key: &'a [u8], query: &ListQuery) -> Option<&'a [u8]> {
    let delimiter = query.delimiter.as_deref().unwrap_or_default().as_bytes();
    let rest = key.get(query.prefix.len()..)?;
    if delimiter.is_empty() {
        return None;
    }
    let at = rest
        .windows(delimiter.len())
        .position(|part| part == delimiter)?;
    key.get(..query.prefix.len() + at + delimiter.len())
}

/// Returns the least key behind all that begin so.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(greater) = last.checked_add(1) {
            next.push(greater);
            return Some(next);
        }
    }
    None
}
