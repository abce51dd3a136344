//! Uploads and their parts, as rows.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{ChecksumKind, Part, Upload};
use crate::Error;
use crate::blob::BlobName;
use crate::checksum::Checksum;
use crate::index::Garbage;
use crate::rows::{bucket_id, checksum, json, now_ms, text, time_of};

const COLUMNS: &str = "id, key, initiated, attributes, checksum";

fn upload(row: &Row<'_>) -> rusqlite::Result<Upload> {
    let kind: Option<String> = row.get(4)?;
    Ok(Upload {
        id: row.get(0)?,
        key: text(row, 1)?,
        initiated: time_of(row.get(2)?),
        attributes: json(row, 3)?,
        checksum: kind.as_deref().and_then(ChecksumKind::of_text),
    })
}

/// # Errors
/// [`Error::NoSuchBucket`], [`Error::TooMany`].
pub(super) fn create(
    index: &Connection,
    bucket: &str,
    upload: &Upload,
    limit: usize,
) -> Result<(), Error> {
    let bucket = bucket_id(index, bucket)?;
    let count: i64 = index.query_row("select count(*) from uploads", [], |row| row.get(0))?;
    if usize::try_from(count).is_ok_and(|count| count >= limit) {
        let what = "uploads in parts that are not completed";
        return Err(Error::TooMany { what, limit });
    }
    index.execute(
        "insert into uploads (id, bucket, key, initiated, attributes, checksum)
         values (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            upload.id,
            bucket,
            upload.key.as_bytes(),
            now_ms(),
            upload.attributes_text()?,
            upload.checksum.map(ChecksumKind::to_text),
        ],
    )?;
    Ok(())
}

/// # Errors
/// [`Error::NoSuchBucket`], [`Error::NoSuchUpload`].
pub(super) fn find(index: &Connection, bucket: &str, key: &str, id: &str) -> Result<Upload, Error> {
    let bucket = bucket_id(index, bucket)?;
    let sql = format!("select {COLUMNS} from uploads where id = ?1 and bucket = ?2 and key = ?3");
    index
        .prepare_cached(&sql)?
        .query_row(params![id, bucket, key.as_bytes()], upload)
        .optional()?
        .ok_or_else(|| Error::NoSuchUpload(id.chars().take(64).collect()))
}

/// # Errors
/// [`Error::NoSuchBucket`].
pub(super) fn of_bucket(index: &Connection, bucket: &str) -> Result<Vec<Upload>, Error> {
    let bucket = bucket_id(index, bucket)?;
    let sql = format!("select {COLUMNS} from uploads where bucket = ?1 order by key, id");
    let mut select = index.prepare_cached(&sql)?;
    let uploads = select.query_map([bucket], upload)?;
    Ok(uploads.collect::<Result<_, _>>()?)
}

pub(super) fn put_part(
    index: &Connection,
    upload: &str,
    part: &Part,
    modified: i64,
    garbage: &mut Garbage,
) -> Result<(), Error> {
    let replaced: Option<BlobName> = index
        .prepare_cached("select blob from parts where upload = ?1 and number = ?2")?
        .query_row(params![upload, part.number], |row| row.get(0))
        .optional()?;
    garbage.extend(replaced);
    index
        .prepare_cached(
            "insert or replace into parts (upload, number, blob, size, etag, modified, checksum)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            upload,
            part.number,
            part.blob,
            part.size,
            part.etag,
            modified,
            part.checksum.as_ref().map(Checksum::to_text),
        ])?;
    Ok(())
}

pub(super) fn parts(index: &Connection, upload: &str) -> Result<Vec<Part>, Error> {
    let sql = "select number, size, etag, modified, checksum, blob from parts
               where upload = ?1 order by number";
    let mut select = index.prepare_cached(sql)?;
    let parts = select.query_map([upload], |row| {
        Ok(Part {
            number: row.get(0)?,
            size: row.get(1)?,
            etag: row.get(2)?,
            modified: time_of(row.get(3)?),
            checksum: checksum(row, 4)?,
            blob: row.get(5)?,
        })
    })?;
    Ok(parts.collect::<Result<_, _>>()?)
}

/// Removes an upload and its parts.
pub(super) fn remove(index: &Connection, upload: &str, garbage: &mut Garbage) -> Result<(), Error> {
    index.execute("delete from uploads where id = ?1", [upload])?;
    let mut delete = index.prepare_cached("delete from parts where upload = ?1 returning blob")?;
    for blob in delete.query_map([upload], |row| row.get(0))? {
        garbage.push(blob?);
    }
    Ok(())
}

/// Removes the uploads that were begun, and got their last part, before then.
pub(super) fn remove_stale(
    index: &Connection,
    since: i64,
    garbage: &mut Garbage,
) -> Result<usize, Error> {
    let sql = "select id from uploads where initiated < ?1
               and not exists (select 1 from parts where upload = id and modified >= ?1)";
    let mut select = index.prepare(sql)?;
    let stale: Vec<String> = select
        .query_map([since], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for upload in &stale {
        remove(index, upload, garbage)?;
    }
    Ok(stale.len())
}
