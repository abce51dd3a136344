//! What a store promises, one sentence a test.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gateway_objects::{Condition, Error, ListQuery, NewObject, Store};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;

use crate::{body, get, n_blobs, put};

fn open() -> (TempDir, Arc<Store>) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

#[tokio::test]
async fn keys_are_any_text_and_never_paths() {
    let (folder, store) = open();
    store.create_bucket("hostile").await.unwrap();
    let long = "ä".repeat(512);
    let keys = [
        "..",
        "../../../../etc/passwd",
        "/",
        "//",
        "a//b",
        "a/../b",
        "./a",
        "\0",
        "a\nb",
        "%2e%2e%2f",
        "日本/語.jpg",
        "\u{10ffff}",
        &long,
    ];
    for key in keys {
        put(&store, "hostile", key, key.as_bytes()).await;
    }
    for key in keys {
        let (object, bytes) = get(&store, "hostile", key).await;
        assert_eq!((&*object.key, &*bytes), (key, key.as_bytes()));
    }
    let listing = store.list("hostile", &all()).await.unwrap();
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    let listed: Vec<_> = listing.objects.iter().map(|object| &*object.key).collect();
    assert_eq!(listed, sorted);
    for key in ["", &format!("{long}x")] {
        let refused = store
            .put("hostile", key, NewObject::default(), body(b"", 1))
            .await;
        assert!(matches!(refused, Err(Error::InvalidKey(_))), "{refused:?}");
    }
    // Nothing beside the index and the blobs.
    let mut there: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("objects.db"))
        .collect();
    there.sort_unstable();
    assert_eq!(there, ["blobs"]);
    assert_eq!(n_blobs(folder.path()), keys.len());
}

fn all() -> ListQuery {
    ListQuery {
        max: 1000,
        ..ListQuery::default()
    }
}

#[tokio::test]
async fn who_reads_is_not_disturbed_by_a_put() {
    let (_folder, store) = open();
    store.create_bucket("bucket").await.unwrap();
    let old = vec![1; 3 << 20];
    put(&store, "bucket", "key", &old).await;
    let (_, mut file) = store.get("bucket", "key").await.unwrap();
    let mut head = vec![0; 10];
    file.read_exact(&mut head).await.unwrap();
    put(&store, "bucket", "key", b"new").await;
    assert!(store.delete("bucket", "key").await.unwrap());
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).await.unwrap();
    assert_eq!([head, rest].concat(), old);
}

#[tokio::test]
async fn a_body_that_fails_leaves_nothing() {
    let (folder, store) = open();
    store.create_bucket("bucket").await.unwrap();
    put(&store, "bucket", "key", b"before").await;
    let many = stream::repeat_with(|| Ok(Bytes::from(vec![0; 1 << 20]))).take(3);
    let failing = many.chain(stream::once(async { Err(std::io::Error::other("gone")) }));
    let failed = store
        .put("bucket", "key", NewObject::default(), failing)
        .await;
    assert!(matches!(failed, Err(Error::Body(_))), "{failed:?}");
    assert_eq!(get(&store, "bucket", "key").await.1, b"before");
    assert_eq!(n_blobs(folder.path()), 1);
}

#[tokio::test]
async fn conditions_are_checked_where_the_object_takes_its_place() {
    let (_folder, store) = open();
    store.create_bucket("bucket").await.unwrap();
    let attempt = async |condition: Condition| {
        let new = NewObject {
            condition,
            ..NewObject::default()
        };
        store.put("bucket", "key", new, body(b"1", 1)).await
    };
    let failed = |result| matches!(result, Err(Error::PreconditionFailed));
    assert!(failed(attempt(Condition::Present).await));
    // Of many that want to be the first, one is.
    let attempts = (0..16).map(|_| attempt(Condition::Absent));
    let results = futures_util::future::join_all(attempts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let etag = store.head("bucket", "key").await.unwrap().etag;
    assert!(failed(attempt(Condition::Etag("other".to_owned())).await));
    attempt(Condition::Etag(etag)).await.unwrap();
    let refused = store
        .delete_if("bucket", "key", Condition::Etag("other".to_owned()))
        .await;
    assert!(matches!(refused, Err(Error::PreconditionFailed)));
    store.head("bucket", "key").await.unwrap();
}

#[tokio::test]
async fn a_copy_is_another_name_of_the_same_bytes() {
    let (folder, store) = open();
    store.create_bucket("one").await.unwrap();
    store.create_bucket("two").await.unwrap();
    let first = put(&store, "one", "a", b"bytes").await;
    let describe = |object: &gateway_objects::Object| Ok(object.clone().into());
    let copy = store
        .copy(("one", "a"), ("two", "b"), describe)
        .await
        .unwrap();
    assert_eq!((copy.etag, copy.size), (first.etag, first.size));
    assert!(store.delete("one", "a").await.unwrap());
    assert_eq!(get(&store, "two", "b").await.1, b"bytes");
    // Onto itself.
    store
        .copy(("two", "b"), ("two", "b"), describe)
        .await
        .unwrap();
    assert_eq!(get(&store, "two", "b").await.1, b"bytes");
    let missing = store.copy(("one", "a"), ("two", "c"), describe).await;
    assert!(matches!(missing, Err(Error::NoSuchKey { .. })));
    // What was replaced is removed by the time it is closed.
    drop(store);
    assert_eq!(n_blobs(folder.path()), 1);
}

#[tokio::test]
async fn a_bucket_with_objects_stays() {
    let (_folder, store) = open();
    for bad in [
        "",
        "ab",
        "Upper",
        "under_score",
        "a..b",
        "192.168.0.1",
        "../x",
    ] {
        let refused = store.create_bucket(bad).await;
        assert!(matches!(refused, Err(Error::InvalidBucketName(_))), "{bad}");
    }
    store.create_bucket("bucket").await.unwrap();
    let again = store.create_bucket("bucket").await;
    assert!(matches!(again, Err(Error::BucketExists(_))));
    put(&store, "bucket", "key", b"").await;
    let refused = store.delete_bucket("bucket").await;
    assert!(matches!(refused, Err(Error::BucketNotEmpty(_))));
    store
        .delete_all("bucket", vec!["key".to_owned(), "none".to_owned()])
        .await
        .unwrap();
    store.delete_bucket("bucket").await.unwrap();
    let gone = store.head("bucket", "key").await;
    assert!(matches!(gone, Err(Error::NoSuchBucket(_))));
    assert_eq!(
        store.counts().await.unwrap(),
        gateway_objects::Counts::default()
    );
}

#[tokio::test]
async fn more_metadata_than_s3_takes_is_refused() {
    let (_folder, store) = open();
    store.create_bucket("bucket").await.unwrap();
    for (n_bytes, is_taken) in [(2048, true), (2049, false)] {
        let new = NewObject {
            metadata: [("k".to_owned(), "v".repeat(n_bytes - 1))].into(),
            ..NewObject::default()
        };
        let put = store.put("bucket", "key", new, body(b"", 1)).await;
        assert_eq!(put.is_ok(), is_taken, "{put:?}");
    }
}

#[tokio::test]
async fn what_was_put_is_there_when_it_is_opened_again_and_what_was_left_is_not() {
    let (folder, store) = open();
    store.create_bucket("bucket").await.unwrap();
    put(&store, "bucket", "key", b"bytes").await;
    drop(store);
    let left = folder
        .path()
        .join("blobs/ab/ab000000000000000000000000000000");
    std::fs::write(&left, "left").unwrap();
    let foreign = folder.path().join("blobs/ab/notes.txt");
    std::fs::write(&foreign, "somebody's").unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(get(&store, "bucket", "key").await.1, b"bytes");
    assert!(!left.exists());
    assert!(foreign.exists());
}

#[tokio::test]
async fn a_newer_schema_is_not_touched() {
    let (folder, store) = open();
    drop(store);
    let index = rusqlite::Connection::open(folder.path().join("objects.db")).unwrap();
    index.pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("schema 99"), "{error}");
}

#[tokio::test]
async fn removing_stale_uploads_takes_no_objects() {
    let (_folder, store) = open();
    store.create_bucket("bucket").await.unwrap();
    put(&store, "bucket", "key", b"bytes").await;
    let now = OffsetDateTime::now_utc() + time::Duration::MINUTE;
    assert_eq!(store.remove_stale_uploads(now).await.unwrap(), 0);
    store.head("bucket", "key").await.unwrap();
}
