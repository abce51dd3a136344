use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tempfile::TempDir;
use time::Duration;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::blob::{Digest, Staged};

async fn open() -> (TempDir, Arc<Store>) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.create_bucket("bucket").await.unwrap();
    (folder, store)
}

async fn stage(store: &Store, bytes: Vec<u8>) -> (Staged, Digest) {
    let bytes = stream::iter([Ok::<_, std::io::Error>(Bytes::from(bytes))]);
    store.stage(bytes, None).await.unwrap()
}

/// Begins an upload and puts parts of these bytes; returns its id, and the parts as they are named.
async fn begin(store: &Store, parts: &[Vec<u8>]) -> (String, Vec<NamedPart>) {
    let new = NewObject::default();
    let id = store
        .create_upload("bucket", "key", &new, None)
        .await
        .unwrap();
    let mut named = Vec::new();
    for (number, bytes) in (1..).zip(parts) {
        let staged = stage(store, bytes.clone()).await;
        let part = store
            .commit_part("bucket", "key", &id, number, staged)
            .await
            .unwrap();
        named.push(NamedPart {
            number,
            etag: part.etag,
            checksum: None,
        });
    }
    (id, named)
}

/// Returns how many files of blobs there are, once all is removed that is to be.
fn n_blobs(folder: &TempDir, store: Arc<Store>) -> usize {
    drop(store);
    let folders = std::fs::read_dir(folder.path().join("blobs")).unwrap();
    folders
        .map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum()
}

#[tokio::test]
async fn an_object_is_its_parts_and_those_are_gone() {
    let (folder, store) = open().await;
    let parts = [vec![1; 5 << 20], vec![2; 6 << 20], vec![3; 10]];
    let (id, named) = begin(&store, &parts).await;
    // One more, which is not named.
    let unnamed = stage(&store, vec![4]).await;
    store
        .commit_part("bucket", "key", &id, 9, unnamed)
        .await
        .unwrap();
    let completion = store
        .prepare_completion("bucket", "key", &id, &named)
        .await
        .unwrap();
    store
        .complete_upload("bucket", completion, Condition::None, None)
        .await
        .unwrap();
    let (object, mut file) = store.get("bucket", "key").await.unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes == parts.concat());
    assert_eq!(object.size, bytes.len() as u64);
    assert!(object.etag.ends_with("-3"), "{}", object.etag);
    let gone = store.upload("bucket", "key", &id).await;
    assert!(matches!(gone, Err(Error::NoSuchUpload(_))));
    let again = store.completed("bucket", "key", &named).await.unwrap();
    assert_eq!(again.map(|object| object.etag), Some(object.etag));
    let others = store.completed("bucket", "key", &named[1..]).await.unwrap();
    assert!(others.is_none(), "{others:?}");
    let nothing = store.completed("bucket", "other", &named).await.unwrap();
    assert!(nothing.is_none(), "{nothing:?}");
    assert_eq!(n_blobs(&folder, store), 1);
}

#[tokio::test]
async fn of_two_that_complete_one_upload_one_does() {
    let (folder, store) = open().await;
    let (id, named) = begin(&store, &[vec![1; 5 << 20], vec![2]]).await;
    let complete = async || {
        let completion = store
            .prepare_completion("bucket", "key", &id, &named)
            .await?;
        store
            .complete_upload("bucket", completion, Condition::None, None)
            .await
    };
    let (one, other) = tokio::join!(complete(), complete());
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    assert_eq!(n_blobs(&folder, store), 1);
}

#[tokio::test]
async fn a_part_that_is_sent_again_meanwhile_is_not_joined() {
    let (folder, store) = open().await;
    let (id, named) = begin(&store, &[vec![1; 100]]).await;
    let completion = store
        .prepare_completion("bucket", "key", &id, &named)
        .await
        .unwrap();
    let again = stage(&store, vec![2; 100]).await;
    store
        .commit_part("bucket", "key", &id, 1, again)
        .await
        .unwrap();
    let completed = store
        .complete_upload("bucket", completion, Condition::None, None)
        .await;
    assert!(completed.is_err(), "{completed:?}");
    assert!(store.head("bucket", "key").await.is_err());
    assert_eq!(n_blobs(&folder, store), 1);
}

#[tokio::test]
async fn uploads_that_nobody_goes_on_with_are_removed() {
    let (folder, store) = open().await;
    let (id, _) = begin(&store, &[vec![1]]).await;
    let now = OffsetDateTime::now_utc();
    assert_eq!(
        store
            .remove_stale_uploads(now - Duration::HOUR)
            .await
            .unwrap(),
        0
    );
    store.upload("bucket", "key", &id).await.unwrap();
    assert_eq!(
        store
            .remove_stale_uploads(now + Duration::HOUR)
            .await
            .unwrap(),
        1
    );
    assert!(store.upload("bucket", "key", &id).await.is_err());
    // They go with their bucket, which they do not keep.
    begin(&store, &[vec![1]]).await;
    store.delete_bucket("bucket").await.unwrap();
    assert_eq!(n_blobs(&folder, store), 0);
}

#[tokio::test]
async fn there_are_at_most_so_many_uploads() {
    let (_folder, store) = open().await;
    let new = NewObject::default();
    for _ in 0..MAX_UPLOADS {
        store
            .create_upload("bucket", "key", &new, None)
            .await
            .unwrap();
    }
    let refused = store.create_upload("bucket", "key", &new, None).await;
    assert!(matches!(refused, Err(Error::TooMany { .. })), "{refused:?}");
}
