//! The index: which object has which bytes. SQLite; one thread writes, several read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Error;
use crate::blob::{BlobName, Blobs, blocking};

/// Version of the tables. A newer one is not touched.
const SCHEMA: i64 = 1;
/// Changes that wait for the writer; who has one more waits to hand it over.
const MAX_WAITING: usize = 1024;
/// Changes of one transaction, and so one wait for the disk.
const MAX_TOGETHER: usize = 256;
/// Reads at a time; more wait.
const MAX_READERS: usize = 4;

/// Keys are bytes: SQLite compares those as S3 orders keys, and zeros in them mean nothing to it.
const TABLES: &str = "
    create table if not exists buckets (
        id integer primary key,
        name text not null unique,
        created integer not null,
        tags text not null
    ) strict;
    create table if not exists objects (
        bucket integer not null,
        key blob not null,
        blob blob not null,
        size integer not null,
        etag text not null,
        modified integer not null,
        attributes text not null,
        checksum text,
        primary key (bucket, key)
    ) strict, without rowid;
    create table if not exists uploads (
        id text primary key,
        bucket integer not null,
        key blob not null,
        initiated integer not null,
        attributes text not null,
        checksum text
    ) strict, without rowid;
    create table if not exists parts (
        upload text not null,
        number integer not null,
        blob blob not null,
        size integer not null,
        etag text not null,
        modified integer not null,
        checksum text,
        primary key (upload, number)
    ) strict, without rowid;
";

/// The database of a store.
pub(crate) struct Index {
    path: PathBuf,
    /// None once it is dropped.
    changes: Option<mpsc::Sender<Change>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    turns: Semaphore,
}

/// A change, which is made in a transaction with others that wait; each in a savepoint of its own.
type Change = Box<dyn FnOnce(&mut rusqlite::Transaction<'_>) -> Made + Send>;

/// What was made: what to tell, once it is durable or was not to be made so.
struct Made {
    tell: Box<dyn FnOnce(Result<(), Error>) + Send>,
    /// What no row names any more, once it is durable.
    garbage: Garbage,
}

/// Blobs that a change leaves without a row.
pub(crate) type Garbage = Vec<BlobName>;

// === impl Index ===

impl Index {
    /// Opens it, makes its tables if they are not there, and starts the writer. Blocks.
    pub(crate) fn open(path: &Path, blobs: Blobs) -> Result<Self, Error> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // What is committed is on the disk (sqlite.org/pragma.html#pragma_synchronous).
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        let schema: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
        if schema > SCHEMA {
            return Err(Error::Io(std::io::Error::other(format!(
                "{} is of schema {schema}, this hearth knows {SCHEMA}: use the hearth that wrote it",
                path.display()
            ))));
        }
        connection.execute_batch(&format!(
            "begin; {TABLES} pragma user_version = {SCHEMA}; commit;"
        ))?;
        let (changes, waiting) = mpsc::channel(MAX_WAITING);
        let writer = std::thread::Builder::new()
            .name("objects".to_owned())
            .spawn(move || write(connection, waiting, &blobs))?;
        Ok(Self {
            path: path.to_owned(),
            changes: Some(changes),
            writer: Some(writer),
            readers: Arc::default(),
            turns: Semaphore::new(MAX_READERS),
        })
    }

    /// Makes a change, and returns when it is durable; of a change that fails nothing is. Once it is
    /// handed over it is made, also where the caller leaves.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection, &mut Garbage) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (tell, told) = oneshot::channel();
        let change: Change = Box::new(move |transaction| {
            let mut garbage = Garbage::new();
            let result = (|| {
                // Rolled back where it is not committed.
                let savepoint = transaction.savepoint()?;
                let value = change(&savepoint, &mut garbage)?;
                savepoint.commit()?;
                Ok(value)
            })();
            if result.is_err() {
                garbage.clear();
            }
            Made {
                tell: Box::new(move |committed| {
                    // The caller may have left.
                    let _ = tell.send(committed.and(result));
                }),
                garbage,
            }
        });
        let changes = self.changes.as_ref().ok_or(Error::Closed)?;
        changes.send(change).await.map_err(|_| Error::Closed)?;
        told.await
            .map_err(|_| Error::Commit("it can't be changed now".to_owned()))?
    }

    /// Reads what is durable.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _turn = self.turns.acquire().await.map_err(|_| Error::Closed)?;
        let (path, readers) = (self.path.clone(), Arc::clone(&self.readers));
        blocking(move || {
            let lock = || readers.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = lock().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
            };
            // One view, also of several queries.
            let view = connection.transaction()?;
            let result = read(&view);
            drop(view);
            lock().push(connection);
            result
        })
        .await
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // The writer makes what waits, and ends.
        self.changes = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Makes changes until nobody can ask for one: all that wait together, in one transaction.
fn write(mut connection: Connection, mut waiting: mpsc::Receiver<Change>, blobs: &Blobs) {
    let mut together = Vec::with_capacity(MAX_TOGETHER);
    while waiting.blocking_recv_many(&mut together, MAX_TOGETHER) > 0 {
        let mut made = Vec::with_capacity(together.len());
        let committed = commit(&mut connection, &mut together, &mut made);
        // Those that were not even made are dropped, and their callers hear that.
        together.clear();
        let mut garbage = Garbage::new();
        for Made {
            tell,
            garbage: left,
        } in made
        {
            match &committed {
                Ok(()) => {
                    garbage.extend(left);
                    tell(Ok(()));
                }
                Err(error) => tell(Err(Error::Commit(error.to_string()))),
            }
        }
        for name in garbage {
            blobs.remove(name);
        }
    }
}

fn commit(
    connection: &mut Connection,
    together: &mut Vec<Change>,
    made: &mut Vec<Made>,
) -> rusqlite::Result<()> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for change in together.drain(..) {
        made.push(change(&mut transaction));
    }
    transaction.commit()
}
