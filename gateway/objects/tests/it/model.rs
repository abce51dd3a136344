//! The store against a model of it in memory, under any operations.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use gateway_objects::{Error, ListQuery, Listing, NewObject, Store};
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;

use crate::{body, get, n_blobs};

const BUCKETS: [&str; 2] = ["one", "two"];

#[derive(Clone, Debug)]
enum Operation {
    CreateBucket(usize),
    DeleteBucket(usize),
    Put(usize, String, usize),
    Delete(usize, String),
    DeleteAll(usize, Vec<String>),
    Copy((usize, String), (usize, String)),
    Get(usize, String),
    List(usize, ListQuery),
    Reopen,
}

/// By bucket and key, what bytes there are.
type Model = BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>;

fn key() -> impl Strategy<Value = String> {
    let parts = select(vec!["a", "b", "/", "..", "é", "\0", "-", "\u{10ffff}"]);
    prop::collection::vec(parts, 1..5).prop_map(|parts| parts.concat())
}

fn bucket() -> impl Strategy<Value = usize> {
    0..BUCKETS.len()
}

fn query() -> impl Strategy<Value = ListQuery> {
    let prefix = prop_oneof![Just(String::new()), key()];
    let delimiter = prop::option::of(select(vec!["/", "..", "é"]).prop_map(str::to_owned));
    (prefix, delimiter, prop::option::of(key()), 0_usize..5).prop_map(
        |(prefix, delimiter, after, max)| ListQuery {
            prefix,
            delimiter,
            after,
            max,
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        1 => bucket().prop_map(CreateBucket),
        1 => bucket().prop_map(DeleteBucket),
        8 => (bucket(), key(), 0_usize..3000).prop_map(|(bucket, key, size)| Put(bucket, key, size)),
        2 => (bucket(), key()).prop_map(|(bucket, key)| Delete(bucket, key)),
        1 => (bucket(), prop::collection::vec(key(), 0..4))
            .prop_map(|(bucket, keys)| DeleteAll(bucket, keys)),
        3 => ((bucket(), key()), (bucket(), key())).prop_map(|(from, to)| Copy(from, to)),
        4 => (bucket(), key()).prop_map(|(bucket, key)| Get(bucket, key)),
        6 => (bucket(), query()).prop_map(|(bucket, query)| List(bucket, query)),
        1 => Just(Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_store_does_what_its_model_does(operations in prop::collection::vec(operation(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(operations));
    }
}

async fn run(operations: Vec<Operation>) {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let mut model = Model::new();
    // Both are there, for most of the time.
    for bucket in BUCKETS {
        store.create_bucket(bucket).await.unwrap();
        model.insert(bucket, BTreeMap::new());
    }
    for operation in operations {
        step(&mut store, &mut model, &folder, operation).await;
        let n_objects: usize = model.values().map(BTreeMap::len).sum();
        let counts = store.counts().await.unwrap();
        assert_eq!(counts.objects, n_objects as u64);
    }
    drop(store);
    let n_objects: usize = model.values().map(BTreeMap::len).sum();
    // Each object has its own, and nothing else has one.
    assert_eq!(n_blobs(folder.path()), n_objects);
    let store = Store::open(folder.path()).unwrap();
    for (bucket, objects) in &model {
        for (key, bytes) in objects {
            assert_eq!(get(&store, bucket, key).await.1, *bytes);
        }
    }
}

async fn step(store: &mut Arc<Store>, model: &mut Model, folder: &TempDir, operation: Operation) {
    match operation {
        Operation::CreateBucket(at) => {
            let created = store.create_bucket(BUCKETS[at]).await;
            let expected = !model.contains_key(BUCKETS[at]);
            assert_eq!(created.is_ok(), expected, "{created:?}");
            model.entry(BUCKETS[at]).or_default();
        }
        Operation::DeleteBucket(at) => {
            let deleted = store.delete_bucket(BUCKETS[at]).await;
            let expected = model.get(BUCKETS[at]).is_some_and(BTreeMap::is_empty);
            assert_eq!(deleted.is_ok(), expected, "{deleted:?}");
            if expected {
                model.remove(BUCKETS[at]);
            }
        }
        Operation::Put(at, key, size) => {
            let bytes: Vec<u8> = (0..size).map(|byte| (byte * size) as u8).collect();
            let put = store
                .put(BUCKETS[at], &key, NewObject::default(), body(&bytes, 700))
                .await;
            match model.get_mut(BUCKETS[at]) {
                Some(objects) => {
                    assert_eq!(put.unwrap().size, size as u64);
                    objects.insert(key, bytes);
                }
                None => assert!(matches!(put, Err(Error::NoSuchBucket(_)))),
            }
        }
        Operation::Delete(at, key) => {
            let deleted = store.delete(BUCKETS[at], &key).await;
            match model.get_mut(BUCKETS[at]) {
                Some(objects) => {
                    assert_eq!(deleted.unwrap(), objects.remove(&key).is_some());
                }
                None => assert!(matches!(deleted, Err(Error::NoSuchBucket(_)))),
            }
        }
        Operation::DeleteAll(at, keys) => {
            let deleted = store.delete_all(BUCKETS[at], keys.clone()).await;
            match model.get_mut(BUCKETS[at]) {
                Some(objects) => {
                    deleted.unwrap();
                    objects.retain(|key, _| !keys.contains(key));
                }
                None => assert!(matches!(deleted, Err(Error::NoSuchBucket(_)))),
            }
        }
        Operation::Copy((from, from_key), (to, key)) => {
            let copied = store
                .copy((BUCKETS[from], &from_key), (BUCKETS[to], &key), |object| {
                    Ok(object.clone().into())
                })
                .await;
            let bytes = model
                .get(BUCKETS[from])
                .and_then(|objects| objects.get(&from_key));
            match (bytes.cloned(), model.get_mut(BUCKETS[to])) {
                (Some(bytes), Some(objects)) => {
                    assert_eq!(copied.unwrap().size, bytes.len() as u64);
                    objects.insert(key, bytes);
                }
                _ => assert!(copied.is_err()),
            }
        }
        Operation::Get(at, key) => {
            match model.get(BUCKETS[at]).and_then(|objects| objects.get(&key)) {
                Some(expected) => assert_eq!(get(store, BUCKETS[at], &key).await.1, *expected),
                None => assert!(store.get(BUCKETS[at], &key).await.is_err()),
            }
        }
        Operation::List(at, query) => {
            let listing = store.list(BUCKETS[at], &query).await;
            match model.get(BUCKETS[at]) {
                Some(objects) => assert_eq!(
                    said(&listing.unwrap()),
                    list(objects, &query),
                    "{query:?} of {:?}",
                    objects.keys()
                ),
                None => assert!(matches!(listing, Err(Error::NoSuchBucket(_)))),
            }
        }
        Operation::Reopen => {
            // The one before has to end before the next begins.
            let before =
                std::mem::replace(store, Store::open(TempDir::new().unwrap().path()).unwrap());
            drop(before);
            *store = Store::open(folder.path()).unwrap();
        }
    }
}

type Said = (Vec<String>, Vec<String>, Option<String>);

fn said(listing: &Listing) -> Said {
    let keys = listing.objects.iter().map(|object| object.key.clone());
    (
        keys.collect(),
        listing.prefixes.clone(),
        listing.next.clone(),
    )
}

/// Lists as S3 describes it, slowly.
fn list(objects: &BTreeMap<String, Vec<u8>>, query: &ListQuery) -> Said {
    let folder = |key: &str| {
        let rest = key.strip_prefix(&*query.prefix)?;
        let (name, _) = rest.split_once(query.delimiter.as_deref()?)?;
        Some(format!(
            "{}{name}{}",
            query.prefix,
            query.delimiter.as_deref()?
        ))
    };
    let after = query.after.as_deref().unwrap_or_default();
    let passed = folder(after).filter(|folder| folder == after);
    let begin = match after {
        "" => Bound::Unbounded,
        after => Bound::Excluded(after.to_owned()),
    };
    let mut entries: Vec<(String, bool)> = Vec::new();
    for key in objects.range((begin, Bound::Unbounded)).map(|(key, _)| key) {
        if !key.starts_with(&query.prefix)
            || passed
                .as_ref()
                .is_some_and(|folder| key.starts_with(folder))
        {
            continue;
        }
        let entry = folder(key).map_or_else(|| (key.clone(), false), |folder| (folder, true));
        if entries.last() != Some(&entry) {
            entries.push(entry);
        }
    }
    let is_more = query.max > 0 && entries.len() > query.max;
    entries.truncate(query.max);
    let next = entries
        .last()
        .filter(|_| is_more)
        .map(|(name, _)| name.clone());
    let of = |wanted| {
        let entries = entries
            .iter()
            .filter(move |(_, is_folder)| *is_folder == wanted);
        entries.map(|(name, _)| name.clone()).collect()
    };
    (of(false), of(true), next)
}
