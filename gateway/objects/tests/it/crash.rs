//! A process that puts objects is killed, again and again, and what it had acknowledged is there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use gateway_objects::{ListQuery, NewObject, Store};
use tempfile::TempDir;

use crate::{body, get, n_blobs};

/// Says to the test below that it is to be the process that is killed, and where.
const FOLDER: &str = "HEARTH_TEST_CRASH_FOLDER";
const ROUND: &str = "HEARTH_TEST_CRASH_ROUND";
const N_WRITERS: usize = 8;
const BUCKET: &str = "bucket";

/// What there is: by key, the bytes.
type Objects = BTreeMap<String, Vec<u8>>;

/// Returns what a writer does at a turn of a round: the key, and what it puts there, or nothing where it
/// deletes it. What is put tells round and turn, and needs several writes now and then.
fn deed(round: usize, writer: usize, turn: usize) -> (String, Option<Vec<u8>>) {
    let key = format!("{writer}/{}", turn % 5);
    if turn % 11 == 10 {
        return (key, None);
    }
    let size = if turn.is_multiple_of(7) {
        3 << 20
    } else {
        turn * 97
    };
    let bytes = format!("{round}-{turn} ").into_bytes();
    (key, Some(bytes.into_iter().cycle().take(size).collect()))
}

fn apply(objects: &mut Objects, (key, bytes): (String, Option<Vec<u8>>)) {
    match bytes {
        Some(bytes) => objects.insert(key, bytes),
        None => objects.remove(&key),
    };
}

/// Is not a test but the process that is killed, where the variables say so: each writer does its deeds
/// in order, and says each once it is done.
#[test]
fn the_one_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let round: usize = std::env::var(ROUND).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(folder.as_ref()).unwrap();
        let writers: Vec<_> = (0..N_WRITERS)
            .map(|writer| tokio::spawn(write(Arc::clone(&store), round, writer)))
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn write(store: Arc<Store>, round: usize, writer: usize) {
    for turn in 0.. {
        match deed(round, writer, turn) {
            (key, Some(bytes)) => {
                let bytes = body(&bytes, 100_000);
                store
                    .put(BUCKET, &key, NewObject::default(), bytes)
                    .await
                    .unwrap();
            }
            (key, None) => {
                store.delete(BUCKET, &key).await.unwrap();
            }
        }
        let line = format!("done {writer} {turn}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn killed_at_any_moment_it_has_lost_nothing_that_it_acknowledged() {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    runtime.block_on(store.create_bucket(BUCKET)).unwrap();
    drop(store);
    let mut objects = Objects::new();
    for round in 0..5 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::the_one_that_is_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut n_done = [0; N_WRITERS];
        // After another number each time, in the middle of what the others are doing.
        while n_done.iter().sum::<usize>() < 20 + 11 * round {
            let line = lines
                .next()
                .expect("it goes on until it is killed")
                .unwrap();
            hear(&mut n_done, &line);
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What it had still said.
        for line in lines.map_while(Result::ok) {
            hear(&mut n_done, &line);
        }
        for (writer, &n_done) in n_done.iter().enumerate() {
            for turn in 0..n_done {
                apply(&mut objects, deed(round, writer, turn));
            }
        }
        let store = Store::open(folder.path()).unwrap();
        let there = runtime.block_on(read(&store));
        for (writer, &n_done) in n_done.iter().enumerate() {
            // What it was doing is done, or it is not.
            let (key, bytes) = deed(round, writer, n_done);
            if there.get(&key) == bytes.as_ref() {
                apply(&mut objects, (key, bytes));
            }
        }
        assert!(
            there == objects,
            "round {round}: {:?}, expected {:?}",
            sizes(&there),
            sizes(&objects)
        );
        assert_eq!(n_blobs(folder.path()), objects.len());
    }
}

/// Counts a deed that is said to be done. The test harness says things as well, in the same line even.
fn hear(n_done: &mut [usize; N_WRITERS], line: &str) {
    if let Some((_, said)) = line.split_once("done ") {
        let (writer, turn) = said.split_once(' ').unwrap();
        n_done[writer.parse::<usize>().unwrap()] = turn.parse::<usize>().unwrap() + 1;
    }
}

async fn read(store: &Store) -> Objects {
    let query = ListQuery {
        max: 1000,
        ..ListQuery::default()
    };
    let mut objects = Objects::new();
    for object in store.list(BUCKET, &query).await.unwrap().objects {
        let (_, bytes) = get(store, BUCKET, &object.key).await;
        assert_eq!(bytes.len() as u64, object.size);
        objects.insert(object.key, bytes);
    }
    objects
}

fn sizes(objects: &Objects) -> Vec<(&str, usize)> {
    objects
        .iter()
        .map(|(key, bytes)| (&**key, bytes.len()))
        .collect()
}
