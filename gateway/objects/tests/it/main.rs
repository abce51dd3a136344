//! The store as those see it who put objects there: against a model of it, and with its process killed.

#![expect(
    clippy::unwrap_used,
    reason = "what the helpers of a test do not expect fails the test"
)]

mod crash;
mod model;
mod store;

use bytes::Bytes;
use futures_util::{Stream, stream};
use gateway_objects::{NewObject, Object, Store};
use tokio::io::AsyncReadExt as _;

/// Returns a body of these bytes, in pieces of this length.
fn body(bytes: &[u8], piece: usize) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    let pieces: Vec<_> = bytes
        .chunks(piece)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    stream::iter(pieces)
}

async fn put(store: &Store, bucket: &str, key: &str, bytes: &[u8]) -> Object {
    let new = NewObject::default();
    store
        .put(bucket, key, new, body(bytes, 64 << 10))
        .await
        .unwrap()
}

async fn get(store: &Store, bucket: &str, key: &str) -> (Object, Vec<u8>) {
    let (object, mut file) = store.get(bucket, key).await.unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await.unwrap();
    (object, bytes)
}

/// Returns how many files of blobs there are.
fn n_blobs(folder: &std::path::Path) -> usize {
    let folders = std::fs::read_dir(folder.join("blobs")).unwrap();
    folders
        .map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum()
}
