//! The ledger: which jobs there are, and which objects have had theirs, on the disk.
//!
//! One thread owns the database. What is asked of it comes through a bounded channel; all that waits
//! there together is one transaction, and answered when that is on the disk. A job is written when it is
//! announced and when it has ended; that it was begun is noted for all that are taken together. At the
//! next start everything that has not ended is pending again, and what a gateway that was killed had in
//! work has lost an attempt, so that nothing kills it for ever.

mod book;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc, oneshot};
use workers_protocol::{Code, InferError};

use crate::work::{Identity, ObjectRef, Verdict};
use book::Book;
use book::Bounds;
pub(crate) use book::{Handed, Taken};

/// Requests that wait for the thread; who brings more waits.
const CHANNEL: usize = 256;

/// Requests of one transaction: none waits for more than these.
const GROUP: usize = 256;

/// What a group asks for, besides: bytes of events.
const GROUP_BYTES: usize = 64 << 20;

/// The ledger of a gateway.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// None once it is closed.
    requests: Mutex<Option<mpsc::Sender<Box<dyn Request>>>>,
    news: Arc<News>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What others are told without asking the thread.
#[derive(Debug, Default)]
struct News {
    counts: Mutex<BTreeMap<String, Count>>,
    /// Services that have new jobs.
    fresh: Mutex<BTreeSet<String>>,
    announced: Notify,
}

/// A job to be written down.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    pub(crate) service: String,
    /// Made up where there is none; one that is there already makes no second job.
    pub(crate) name: String,
    pub(crate) event: Bytes,
    /// The object that it is about. Each state of one makes one job of a service.
    pub(crate) object: Option<ObjectRef>,
    /// How else that state of it is told, by who lists a bucket that keeps versions.
    pub(crate) also: Option<Identity>,
}

/// What became of a job, in the words of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Status {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// Jobs of a service by what became of them, and what was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Those that run among them.
    pub(crate) pending: u64,
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Since the start.
    pub(crate) ended: Ended,
    /// Announcements of what was announced before, since the start.
    pub(crate) n_known: u64,
}

/// Ends since the start: whatever the ledger has forgotten since is in here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
}

/// A job as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) created: OffsetDateTime,
    pub(crate) started: Option<OffsetDateTime>,
    pub(crate) finished: Option<OffsetDateTime>,
}

/// Some jobs of a service, the latest first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) jobs: Vec<Listed>,
    /// Where the next page begins.
    pub(crate) next: Option<i64>,
    /// Jobs of the pages that follow.
    pub(crate) n_remaining: u64,
}

/// Jobs to be listed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    All,
    Failed,
}

/// Jobs to be forgotten.
#[derive(Clone, Debug)]
pub(crate) enum Selection {
    /// The one of this name.
    Named(String),
    Succeeded,
    All,
}

/// A stretch of a folder, in the order of keys: what a storage provider says is in it.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) service: String,
    /// `TYPE.ID`.
    pub(crate) provider: String,
    pub(crate) bucket: String,
    /// What all its keys begin with.
    pub(crate) prefix: String,
    /// It begins after this key.
    pub(crate) after: String,
    /// It ends with this key; none for the end of the folder.
    pub(crate) last: Option<String>,
    /// What is there.
    pub(crate) there: Vec<(String, Identity)>,
    /// Marks of jobs after this one are left alone: they are of objects that came meanwhile.
    pub(crate) until: i64,
}

/// Something that is asked of the thread.
trait Request: Send {
    fn bytes(&self) -> usize;
    /// Is done within the transaction.
    fn run(&mut self, book: &mut Book);
    /// Is answered when it is over.
    fn answer(self: Box<Self>, committed: Result<(), &rusqlite::Error>);
}

struct Asked<T, W> {
    bytes: usize,
    work: Option<W>,
    result: Option<rusqlite::Result<T>>,
    reply: oneshot::Sender<Result<T, InferError>>,
}

// === impl Ledger ===

impl Ledger {
    /// Opens the one of a data directory, and starts its thread. Blocks.
    ///
    /// # Errors
    /// A sentence, of what can't be opened or is of a newer schema.
    pub(crate) fn open(data: &Path) -> anyhow::Result<Arc<Self>> {
        let news = Arc::new(News::default());
        let mut book = Book::open(data, Bounds::default())?;
        // What can't be written now is counted at the next start.
        if let Err(error) = book.alone(|book| book.mourn(now_ms())) {
            tracing::error!(%error, "the jobs that were in work can't be counted");
        }
        news.tell(&mut book);
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let told = Arc::clone(&news);
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || keep(book, receiver, &told))?;
        Ok(Arc::new(Self {
            requests: Mutex::new(Some(sender)),
            news,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Writes jobs down, all or none, and returns their names: of what was announced before, none.
    ///
    /// # Errors
    /// `Overloaded` where there are too many; `Unavailable` when they can't be written.
    pub(crate) async fn announce(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Option<String>>, InferError> {
        let bytes = jobs.iter().map(|job| job.event.len()).sum();
        self.ask(bytes, move |book| book.announce(now_ms(), &jobs))
            .await?
            .map_err(|full| InferError::new(Code::Overloaded, full))
    }

    /// Hands out jobs of a service that are due: so many, and as many bytes; one of more bytes by
    /// itself. Each is handed out once, until it is finished.
    ///
    /// # Errors
    /// `Unavailable` when they can't be read.
    pub(crate) async fn take(
        &self,
        service: &str,
        n: usize,
        bytes: u64,
    ) -> Result<Taken, InferError> {
        let service = service.to_owned();
        self.ask(0, move |book| book.take(now_ms(), &service, n, bytes))
            .await
    }

    /// Writes down what became of a job that was handed out, or when it is due again.
    ///
    /// # Errors
    /// `Unavailable` when it can't be written: it is handed out still.
    pub(crate) async fn finish(
        &self,
        id: i64,
        verdict: Verdict,
        pause: Duration,
    ) -> Result<(), InferError> {
        self.ask(0, move |book| book.finish(now_ms(), id, &verdict, pause))
            .await
    }

    /// Returns jobs of a service, the latest first, from where a page before ended.
    ///
    /// # Errors
    /// `Unavailable` when they can't be read; so below.
    pub(crate) async fn page(
        &self,
        service: &str,
        which: Which,
        from: Option<i64>,
        n: usize,
    ) -> Result<Page, InferError> {
        let service = service.to_owned();
        self.ask(0, move |book| book.page(&service, which, from, n))
            .await
    }

    /// Returns the log of a job, if there is one of this name.
    pub(crate) async fn log(
        &self,
        service: &str,
        name: &str,
    ) -> Result<Option<String>, InferError> {
        let (service, name) = (service.to_owned(), name.to_owned());
        self.ask(0, move |book| book.log(&service, &name)).await
    }

    /// Forgets jobs of a service, and ends those that run; what was seen stays. Returns how many.
    pub(crate) async fn delete(
        &self,
        service: &str,
        selection: Selection,
    ) -> Result<usize, InferError> {
        let service = service.to_owned();
        self.ask(0, move |book| book.delete(&service, &selection))
            .await
    }

    /// Forgets a service, with what was seen.
    pub(crate) async fn forget(&self, service: &str) -> Result<(), InferError> {
        let service = service.to_owned();
        self.ask(0, move |book| book.forget(&service)).await
    }

    /// Forgets what ended longer ago than this.
    pub(crate) async fn sweep(&self, ttl: Duration) -> Result<usize, InferError> {
        self.ask(0, move |book| {
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
            book.sweep(now_ms().saturating_sub(ttl))
        })
        .await
    }

    /// Returns the last job that was ever announced, for [`Stretch::until`].
    pub(crate) async fn latest(&self) -> Result<i64, InferError> {
        self.ask(0, |book| book.latest()).await
    }

    /// Gives up what is in work: whatever ends it, it has lost no attempt.
    pub(crate) async fn give_up(&self) -> Result<(), InferError> {
        self.ask(0, Book::clear).await
    }

    /// Forgets the marks of objects in a stretch that are not there any more, and returns which of
    /// those there have none.
    pub(crate) async fn compare(&self, stretch: Stretch) -> Result<Vec<usize>, InferError> {
        self.ask(0, move |book| book.compare(&stretch)).await
    }

    /// Returns the jobs of a service, counted.
    pub(crate) fn count(&self, service: &str) -> Count {
        self.news.counts().get(service).copied().unwrap_or_default()
    }

    /// Returns the jobs of each service, counted.
    pub(crate) fn counts(&self) -> BTreeMap<String, Count> {
        self.news.counts().clone()
    }

    /// Waits until there are new jobs. One waits at a time.
    pub(crate) async fn announced(&self) {
        self.news.announced.notified().await;
    }

    /// Returns the services that have new jobs, once.
    pub(crate) fn fresh(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.news.fresh))
    }

    /// Answers what was asked, writes all of it to the one file and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        drop(lock(&self.requests).take());
        if let Some(thread) = lock(&self.thread).take() {
            // A panic in there has said so.
            let _ = thread.join();
        }
    }

    async fn ask<T, W>(&self, bytes: usize, work: W) -> Result<T, InferError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Book) -> rusqlite::Result<T> + Send + 'static,
    {
        let closed = || InferError::new(Code::Unavailable, "the gateway stops");
        let requests = lock(&self.requests).clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            bytes,
            work: Some(work),
            result: None,
            reply,
        };
        let sent = requests.send(Box::new(asked)).await;
        drop(requests);
        sent.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// Keeps the book until nobody can ask any more.
fn keep(mut book: Book, mut requests: mpsc::Receiver<Box<dyn Request>>, news: &News) {
    while let Some(first) = requests.blocking_recv() {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        while group.len() < GROUP
            && bytes < GROUP_BYTES
            && let Ok(another) = requests.try_recv()
        {
            bytes += another.bytes();
            group.push(another);
        }
        let committed = book.transaction(|book| {
            for request in &mut group {
                request.run(book);
            }
        });
        if let Err(error) = &committed {
            tracing::error!(%error, "the ledger of jobs can't be written");
        }
        // Whoever has an answer finds the counts that go with it.
        news.tell(&mut book);
        for request in group {
            request.answer(committed.as_ref().copied());
        }
    }
}

impl<T, W> Request for Asked<T, W>
where
    T: Send,
    W: FnOnce(&mut Book) -> rusqlite::Result<T> + Send,
{
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn run(&mut self, book: &mut Book) {
        if let Some(work) = self.work.take() {
            self.result = Some(book.apart(work));
        }
    }

    fn answer(self: Box<Self>, committed: Result<(), &rusqlite::Error>) {
        let lost = |error: &rusqlite::Error| {
            let message = format!("the ledger of jobs can't be used: {error}");
            InferError::new(Code::Unavailable, message)
        };
        let result = match (committed, self.result) {
            (Err(error), _) => Err(lost(error)),
            (Ok(()), Some(result)) => result.map_err(|error| lost(&error)),
            (Ok(()), None) => Err(InferError::internal("it was asked nothing")),
        };
        // Who asked may have left.
        let _ = self.reply.send(result);
    }
}

// === impl News ===

impl News {
    fn tell(&self, book: &mut Book) {
        let changed = book.changed_counts();
        if !changed.is_empty() {
            let mut counts = self.counts();
            for (service, count) in changed {
                match count {
                    Some(count) => counts.insert(service, count),
                    None => counts.remove(&service),
                };
            }
        }
        let fresh = book.fresh();
        if !fresh.is_empty() {
            lock(&self.fresh).extend(fresh);
            self.announced.notify_one();
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Count>> {
        lock(&self.counts)
    }
}

impl Count {
    pub(crate) fn total(&self) -> u64 {
        self.pending + self.succeeded + self.failed
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
