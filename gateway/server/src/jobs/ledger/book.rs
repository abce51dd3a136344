//! The tables of the ledger, and what is known of them in memory. Blocks, and knows no thread.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rusqlite::{Connection, Error, OptionalExtension as _, Result, Row, ffi, params};
use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::{Count, Listed, NewJob, Page, Selection, Status, Stretch, Which};
use crate::work::{Identity, Job, ObjectRef, Verdict};

/// Name of the file in the data directory.
const FILE: &str = "jobs.db";

/// Version of its tables. A newer one is not touched.
const SCHEMA: i64 = 1;

/// Attempts of a job; the last failure is final.
const ATTEMPTS: u32 = 5;

/// How long a job rests after its first failure; four times as long after each other.
const REST: Duration = Duration::from_secs(2);

/// How long after each other jobs are begun that the gateway ended with more than once: what one of them
/// does to it, it then does alone.
const APART: Duration = Duration::from_millis(100);

/// Rows that one request deletes because they are of no use any more.
const SWEPT: usize = 10_000;

// `state` of a job.
const PENDING: i64 = 0;
const SUCCEEDED: i64 = 1;
const FAILED: i64 = 2;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Jobs that have not ended.
    pub(crate) pending: u64,
    /// Bytes of their events.
    pub(crate) event_bytes: u64,
    /// Jobs that have ended; the oldest are forgotten.
    pub(crate) ended: u64,
    /// Bytes of their logs; so here.
    pub(crate) log_bytes: u64,
    /// Bytes of one log; what is more is cut.
    pub(crate) log: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            pending: 1_000_000,
            event_bytes: 16 << 30,
            ended: 1_000_000,
            log_bytes: 1 << 30,
            log: 1 << 20,
        }
    }
}

/// Jobs that were handed out.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) jobs: Vec<Handed>,
    /// There may be more that are due.
    pub(crate) has_more: bool,
    /// When the next will be, in milliseconds since 1970.
    pub(crate) next_due: Option<i64>,
}

/// A job that was handed out.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) job: Job,
    /// Bytes of its event, and of its object as far as is known.
    pub(crate) bytes: u64,
    /// Ends when the job is deleted.
    pub(crate) deleted: oneshot::Receiver<()>,
}

/// The database, which no other process has (`--data` is locked).
#[derive(Debug)]
pub(super) struct Book {
    connection: Connection,
    bounds: Bounds,
    running: HashMap<i64, Running>,
    counts: BTreeMap<String, Count>,
    sums: Sums,
    /// Services of which something was counted since it was told.
    changed: BTreeSet<String>,
    /// Services that have new jobs since it was told.
    fresh: BTreeSet<String>,
    /// What the transaction will have done when it is on the disk.
    notes: Vec<Note>,
    /// The transaction has not done all that was counted.
    is_miscounted: bool,
}

/// A job that is handed out.
#[derive(Debug)]
struct Running {
    service: String,
    started: i64,
    _deleted: oneshot::Sender<()>,
}

/// Over all services.
#[derive(Debug, Default)]
struct Sums {
    pending: u64,
    event_bytes: u64,
    ended: u64,
    log_bytes: u64,
}

#[derive(Debug)]
enum Note {
    Taken(i64),
    /// It runs no more: it ended, or is gone.
    Left(i64),
    Known(String),
    Succeeded(String),
    Failed(String),
    Retried(String),
    Forgotten(String),
}

// === opening ===

impl Book {
    /// Opens it, and makes its tables if they are not there.
    ///
    /// # Errors
    /// A sentence, of what can't be opened or is of a newer schema.
    pub(super) fn open(data: &Path, bounds: Bounds) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        let connection = Connection::open(&path)
            .with_context(|| format!("{} can't be opened", path.display()))?;
        // What is called with may be anybody's.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // A write is on the disk when it has returned (sqlite.org/pragma.html#pragma_synchronous).
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        let schema: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
        anyhow::ensure!(
            schema <= SCHEMA,
            "{} is of schema {schema}, this hearth knows {SCHEMA}: use the hearth that wrote it",
            path.display()
        );
        // Names are never used again, so that a page goes on where it ended and a mark is never
        // another's: `autoincrement`.
        connection.execute_batch(&format!(
            "begin;
             create table if not exists jobs (
                 id integer primary key autoincrement,
                 name text not null unique,
                 service text not null,
                 event blob not null,
                 provider text,
                 bucket text,
                 key text,
                 identity text,
                 size integer not null,
                 state integer not null,
                 attempt integer not null,
                 due integer not null,
                 created integer not null,
                 started integer,
                 finished integer,
                 log text not null
             ) strict;
             create index if not exists jobs_due on jobs (service, due, id) where state = {PENDING};
             create index if not exists jobs_of_object on jobs (service, provider, bucket, key, id)
                 where state = {PENDING};
             create index if not exists jobs_listed on jobs (service, id);
             create index if not exists jobs_failed on jobs (service, id) where state = {FAILED};
             create index if not exists jobs_finished on jobs (finished) where state <> {PENDING};
             create table if not exists seen (
                 service text not null,
                 provider text not null,
                 bucket text not null,
                 key text not null,
                 identity text not null,
                 job integer not null,
                 primary key (service, provider, bucket, key, identity)
             ) strict, without rowid;
             create table if not exists begun (id integer primary key) strict;
             pragma user_version = {SCHEMA};
             commit;"
        ))?;
        let mut book = Self {
            connection,
            bounds,
            running: HashMap::new(),
            counts: BTreeMap::new(),
            sums: Sums::default(),
            changed: BTreeSet::new(),
            fresh: BTreeSet::new(),
            notes: Vec::new(),
            is_miscounted: false,
        };
        book.recount()?;
        let pending = book.counts.iter().filter(|(_, count)| count.pending > 0);
        book.fresh = pending.map(|(service, _)| service.clone()).collect();
        Ok(book)
    }

    /// Counts an attempt of each job that was in work when the gateway was ended: it may have been what
    /// ended it.
    pub(super) fn mourn(&mut self, now: i64) -> Result<()> {
        let mut select = self.connection.prepare(
            "select id, attempt from jobs join begun using (id) where state = 0 order by id",
        )?;
        let begun = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let begun: Vec<(i64, u32)> = begun.collect::<Result<_>>()?;
        drop(select);
        let mut turn = 0;
        for (id, attempt) in begun {
            let verdict = Verdict::Failed {
                log: "the gateway was ended while this was in work".to_owned(),
                may_retry: true,
            };
            self.finish(now, id, &verdict, Duration::ZERO)?;
            if attempt > 0 {
                let sql = "update jobs set due = due + ?2 where id = ?1 and state = 0";
                self.connection.execute(sql, params![id, turn])?;
                turn += APART.as_millis() as i64;
            }
        }
        self.clear()
    }

    /// Forgets what is in work: it is given up, through no fault of its own.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.connection.execute("delete from begun", [])?;
        Ok(())
    }

    /// Counts what is there.
    fn recount(&mut self) -> Result<()> {
        self.sums = Sums::default();
        for count in self.counts.values_mut() {
            (count.pending, count.succeeded, count.failed) = (0, 0, 0);
        }
        let mut select = self.connection.prepare(
            "select service, state, count(*), sum(length(event)), sum(octet_length(log))
             from jobs group by service, state",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (n, state): (u64, i64) = (row.get(2)?, row.get(1)?);
            let count = self.counts.entry(row.get(0)?).or_default();
            match state {
                PENDING => {
                    count.pending = n;
                    self.sums.pending += n;
                    self.sums.event_bytes += row.get::<_, u64>(3)?;
                }
                state => {
                    *(if state == SUCCEEDED {
                        &mut count.succeeded
                    } else {
                        &mut count.failed
                    }) = n;
                    self.sums.ended += n;
                    self.sums.log_bytes += row.get::<_, u64>(4)?;
                }
            }
        }
        self.changed.extend(self.counts.keys().cloned());
        Ok(())
    }
}

// === transactions ===

impl Book {
    /// Does work whose changes are on the disk when this has returned, or not there at all.
    ///
    /// # Errors
    /// When they are not.
    pub(super) fn transaction(&mut self, work: impl FnOnce(&mut Self)) -> Result<()> {
        self.connection.execute_batch("begin")?;
        work(self);
        let committed = match self.connection.is_autocommit() {
            true => Err(rolled_back()),
            false => self.connection.execute_batch("commit"),
        };
        if committed.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("rollback");
        }
        let mut forgotten = Vec::new();
        for note in std::mem::take(&mut self.notes) {
            match (note, &committed) {
                (Note::Taken(id), Err(_)) | (Note::Left(id), Ok(())) => self.leave(id),
                (Note::Taken(_) | Note::Left(_), _) | (_, Err(_)) => {}
                (Note::Known(service), _) => self.count(service).n_known += 1,
                (Note::Succeeded(service), _) => self.count(service).ended.succeeded += 1,
                (Note::Failed(service), _) => self.count(service).ended.failed += 1,
                (Note::Retried(service), _) => self.count(service).ended.retried += 1,
                (Note::Forgotten(service), _) => forgotten.push(service),
            }
        }
        for service in forgotten {
            // There may be another of its name by now.
            if self.count(service.clone()).total() == 0 {
                self.counts.remove(&service);
            }
        }
        if committed.is_err() || self.is_miscounted {
            self.is_miscounted = self.recount().is_err();
        }
        committed
    }

    /// Does work in a transaction by itself.
    ///
    /// # Errors
    /// When it is not done.
    pub(super) fn alone(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut done = Ok(());
        self.transaction(|book| done = book.apart(work))?;
        done
    }

    /// Does one part of a transaction, all or nothing of it.
    ///
    /// # Errors
    /// When nothing was done.
    pub(super) fn apart<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        // SQLite gives a transaction up by itself where the disk is full or broken.
        if self.connection.is_autocommit() {
            return Err(rolled_back());
        }
        self.connection.execute_batch("savepoint part")?;
        let n_notes = self.notes.len();
        let done = work(self).and_then(|done| {
            self.connection.execute_batch("release part")?;
            Ok(done)
        });
        if done.is_err() {
            self.is_miscounted = true;
            for note in self.notes.drain(n_notes..).collect::<Vec<_>>() {
                if let Note::Taken(id) = note {
                    self.leave(id);
                }
            }
            let _ = self
                .connection
                .execute_batch("rollback to part; release part");
        }
        done
    }

    /// Returns what was counted since the last time, where anything was: of services that are gone none.
    pub(super) fn changed_counts(&mut self) -> Vec<(String, Option<Count>)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed
            .map(|service| {
                let count = self.counts.get(&service).copied();
                (service, count)
            })
            .collect()
    }

    /// Returns the services that have new jobs since the last time.
    pub(super) fn fresh(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.fresh)
    }

    fn leave(&mut self, id: i64) {
        if let Some(left) = self.running.remove(&id) {
            self.count(left.service).running -= 1;
        }
    }

    fn count(&mut self, service: String) -> &mut Count {
        self.changed.insert(service.clone());
        self.counts.entry(service).or_default()
    }
}

fn rolled_back() -> Error {
    let message = "the transaction was rolled back".to_owned();
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ABORT), Some(message))
}

// === jobs ===

impl Book {
    /// Writes jobs down, and returns their names: of what is there already, none. Or the sentence that
    /// there is no room.
    pub(super) fn announce(
        &mut self,
        now: i64,
        jobs: &[NewJob],
    ) -> Result<std::result::Result<Vec<Option<String>>, String>> {
        let bytes: u64 = jobs.iter().map(|job| job.event.len() as u64).sum();
        let n_jobs = self.sums.pending + jobs.len() as u64;
        if n_jobs > self.bounds.pending || self.sums.event_bytes + bytes > self.bounds.event_bytes {
            return Ok(Err(format!(
                "{} jobs of {} bytes wait, no room for {} more of {bytes}",
                self.sums.pending,
                self.sums.event_bytes,
                jobs.len()
            )));
        }
        let names = jobs.iter().map(|job| self.announce_one(now, job));
        names.collect::<Result<_>>().map(Ok)
    }

    fn announce_one(&mut self, now: i64, job: &NewJob) -> Result<Option<String>> {
        if let Some(first) = self.seen(job)? {
            self.mark(job, first)?;
            self.notes.push(Note::Known(job.service.clone()));
            return Ok(None);
        }
        let object = job.object.as_ref();
        let mut insert = self.connection.prepare_cached(
            "insert into jobs (name, service, event, provider, bucket, key, identity, size, state,
                 attempt, due, created, log)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, ?9, '')
             on conflict (name) do nothing",
        )?;
        let n_inserted = insert.execute(params![
            job.name,
            job.service,
            &job.event[..],
            object.map(|object| &object.provider),
            object.map(|object| &object.bucket),
            object.map(|object| &object.key),
            object.map(|object| object.identity.as_str()),
            object.map_or(0, |object| i64::try_from(object.size).unwrap_or(i64::MAX)),
            now,
        ])?;
        drop(insert);
        if n_inserted == 0 {
            self.notes.push(Note::Known(job.service.clone()));
            return Ok(None);
        }
        self.mark(job, self.connection.last_insert_rowid())?;
        self.sums.pending += 1;
        self.sums.event_bytes += job.event.len() as u64;
        self.count(job.service.clone()).pending += 1;
        self.fresh.insert(job.service.clone());
        Ok(Some(job.name.clone()))
    }

    /// Returns the job that there was already of the state of an object, in whichever way it is told.
    fn seen(&self, job: &NewJob) -> Result<Option<i64>> {
        let sql = "select job from seen
                   where service = ?1 and provider = ?2 and bucket = ?3 and key = ?4 and identity = ?5";
        let mut select = self.connection.prepare_cached(sql)?;
        for (object, identity) in identities(job) {
            let mark = params![
                job.service,
                object.provider,
                object.bucket,
                object.key,
                identity.as_str()
            ];
            let first = select.query_row(mark, |row| row.get(0)).optional()?;
            if first.is_some() {
                return Ok(first);
            }
        }
        Ok(None)
    }

    fn mark(&self, job: &NewJob, id: i64) -> Result<()> {
        let sql = "insert or ignore into seen values (?1, ?2, ?3, ?4, ?5, ?6)";
        let mut insert = self.connection.prepare_cached(sql)?;
        for (object, identity) in identities(job) {
            insert.execute(params![
                job.service,
                object.provider,
                object.bucket,
                object.key,
                identity.as_str(),
                id
            ])?;
        }
        Ok(())
    }

    /// Hands out jobs of a service that are due: so many, and as many bytes; one of more bytes by
    /// itself. Of the states of an object the one that came first goes first, and the next when that
    /// has ended: the results of a later one are not followed by those of an earlier.
    pub(super) fn take(
        &mut self,
        now: i64,
        service: &str,
        n: usize,
        mut bytes: u64,
    ) -> Result<Taken> {
        let mut taken = Taken {
            jobs: Vec::new(),
            has_more: false,
            next_due: None,
        };
        let mut begin = self
            .connection
            .prepare_cached("insert or ignore into begun values (?1)")?;
        // Those that run are in the way: no more than a bounded number.
        let mut select = self.connection.prepare_cached(
            "select id, name, event, provider, bucket, key, identity, size, attempt from jobs
             where service = ?1 and state = 0 and due <= ?2 and (key is null or not exists
                 (select 1 from jobs as first where first.service = jobs.service
                      and first.provider = jobs.provider and first.bucket = jobs.bucket
                      and first.key = jobs.key and first.id < jobs.id and first.state = 0))
             order by due, id",
        )?;
        let mut rows = select.query(params![service, now])?;
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            if self.running.contains_key(&id) {
                // One that was put back in this transaction, and is due already, is for the next.
                let is_it = |note: &Note| matches!(note, Note::Left(left) if *left == id);
                taken.has_more |= self.notes.iter().any(is_it);
                continue;
            }
            if taken.jobs.len() >= n {
                taken.has_more = true;
                break;
            }
            let (handed, deleted) = handed(row)?;
            if handed.bytes > bytes && !taken.jobs.is_empty() {
                taken.has_more = true;
                break;
            }
            begin.execute([id])?;
            bytes = bytes.saturating_sub(handed.bytes);
            taken.jobs.push(handed);
            let running = Running {
                service: service.to_owned(),
                started: now,
                _deleted: deleted,
            };
            self.running.insert(id, running);
            self.notes.push(Note::Taken(id));
            self.changed.insert(service.to_owned());
            self.counts.entry(service.to_owned()).or_default().running += 1;
        }
        drop(rows);
        drop(select);
        drop(begin);
        let sql = "select min(due) from jobs where service = ?1 and state = 0 and due > ?2";
        let mut next = self.connection.prepare_cached(sql)?;
        taken.next_due = next.query_row(params![service, now], |row| row.get(0))?;
        drop(next);
        Ok(taken)
    }

    /// Writes down what became of a job that was handed out.
    pub(super) fn finish(
        &mut self,
        now: i64,
        id: i64,
        verdict: &Verdict,
        pause: Duration,
    ) -> Result<()> {
        let sql =
            "select service, attempt, log, length(event) from jobs where id = ?1 and state = 0";
        let mut select = self.connection.prepare_cached(sql)?;
        let found = select.query_row([id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        let found: Option<(String, u32, String, u64)> = found.optional()?;
        drop(select);
        self.notes.push(Note::Left(id));
        let sql = "delete from begun where id = ?1";
        self.connection.prepare_cached(sql)?.execute([id])?;
        // It was deleted.
        let Some((service, attempt, mut log, event_bytes)) = found else {
            return Ok(());
        };
        let due = |pause: Duration| {
            now.saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX))
        };
        let (state, said) = match verdict {
            Verdict::Postponed { .. } => {
                let sql = "update jobs set due = ?2 where id = ?1";
                self.connection
                    .prepare_cached(sql)?
                    .execute(params![id, due(pause)])?;
                self.fresh.insert(service);
                return Ok(());
            }
            Verdict::Failed {
                log: said,
                may_retry: true,
            } if attempt + 1 < ATTEMPTS => {
                let rest = REST * 4_u32.pow(attempt);
                log.push_str(said.trim_end());
                let sentence = format!(
                    "\n(attempt {} of {ATTEMPTS}; the next in {} s)\n",
                    attempt + 1,
                    rest.as_secs()
                );
                log.push_str(&sentence);
                let sql = "update jobs set attempt = ?2, due = ?3, log = ?4 where id = ?1";
                let log = cut(log, self.bounds.log);
                self.connection.prepare_cached(sql)?.execute(params![
                    id,
                    attempt + 1,
                    due(rest),
                    log
                ])?;
                self.notes.push(Note::Retried(service.clone()));
                self.fresh.insert(service);
                return Ok(());
            }
            Verdict::Succeeded { log: said } => {
                // It is the answer, of a model JSON: what was tried before is no part of it.
                log.clear();
                (SUCCEEDED, said)
            }
            Verdict::Failed { log, .. } => (FAILED, log),
        };
        log.push_str(said);
        let log = cut(log, self.bounds.log);
        let started = self.running.get(&id).map_or(now, |running| running.started);
        let sql = "update jobs set state = ?2, started = ?3, finished = ?4, log = ?5, event = x''
                   where id = ?1";
        self.connection
            .prepare_cached(sql)?
            .execute(params![id, state, started, now, log])?;
        let sql = "select exists (select 1 from jobs as this join jobs as next on
                       next.service = this.service and next.provider = this.provider
                       and next.bucket = this.bucket and next.key = this.key
                   where this.id = ?1 and next.state = 0)";
        let mut select = self.connection.prepare_cached(sql)?;
        if select.query_row([id], |row| row.get(0))? {
            self.fresh.insert(service.clone());
        }
        drop(select);
        self.sums.pending -= 1;
        self.sums.event_bytes -= event_bytes;
        self.sums.ended += 1;
        self.sums.log_bytes += log.len() as u64;
        let count = self.count(service.clone());
        count.pending -= 1;
        if state == SUCCEEDED {
            count.succeeded += 1;
            self.notes.push(Note::Succeeded(service));
        } else {
            count.failed += 1;
            self.notes.push(Note::Failed(service));
        }
        self.forget_old()
    }

    /// Forgets those that ended first, where there are too many.
    fn forget_old(&mut self) -> Result<()> {
        while self.sums.ended > self.bounds.ended || self.sums.log_bytes > self.bounds.log_bytes {
            let sql = "delete from jobs where id =
                           (select id from jobs where state <> 0 order by finished, id limit 1)
                       returning id, service, state, length(event), octet_length(log)";
            if self.forget_rows(sql, params![])? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Forgets what ended before. Returns how many.
    pub(super) fn sweep(&mut self, before: i64) -> Result<usize> {
        let sql = "delete from jobs where id in
                       (select id from jobs where state <> 0 and finished < ?1 limit ?2)
                   returning id, service, state, length(event), octet_length(log)";
        self.forget_rows(sql, params![before, SWEPT as i64])
    }

    /// Forgets jobs, and ends those that run. Returns how many.
    pub(super) fn delete(&mut self, service: &str, selection: &Selection) -> Result<usize> {
        let which = match selection {
            Selection::Named(_) => "name = ?2",
            Selection::Succeeded => "state = ?2",
            Selection::All => "?2",
        };
        let sql = format!(
            "delete from jobs where service = ?1 and {which}
             returning id, service, state, length(event), octet_length(log)"
        );
        let n_deleted = match selection {
            Selection::Named(name) => self.forget_rows(&sql, params![service, name]),
            Selection::Succeeded => self.forget_rows(&sql, params![service, SUCCEEDED]),
            Selection::All => self.forget_rows(&sql, params![service, true]),
        }?;
        // What has waited for one of them may be taken.
        self.fresh.insert(service.to_owned());
        Ok(n_deleted)
    }

    /// Forgets a service, with what was seen.
    pub(super) fn forget(&mut self, service: &str) -> Result<()> {
        self.delete(service, &Selection::All)?;
        let sql = "delete from seen where service = ?1";
        self.connection.prepare_cached(sql)?.execute([service])?;
        self.notes.push(Note::Forgotten(service.to_owned()));
        Ok(())
    }

    fn forget_rows(&mut self, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
        let mut delete = self.connection.prepare_cached(sql)?;
        let rows = delete.query_map(params, |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        })?;
        let gone: Vec<(i64, String, i64, u64, u64)> = rows.collect::<Result<_>>()?;
        drop(delete);
        let n_gone = gone.len();
        for (id, service, state, event_bytes, log_bytes) in gone {
            self.notes.push(Note::Left(id));
            let count = self.count(service);
            match state {
                PENDING => count.pending -= 1,
                SUCCEEDED => count.succeeded -= 1,
                _ => count.failed -= 1,
            }
            if state == PENDING {
                self.sums.pending -= 1;
                self.sums.event_bytes -= event_bytes;
            } else {
                self.sums.ended -= 1;
                self.sums.log_bytes -= log_bytes;
            }
        }
        Ok(n_gone)
    }

    // === looking ===

    /// Returns jobs of a service, the latest first, from where a page before ended.
    pub(super) fn page(
        &self,
        service: &str,
        which: Which,
        from: Option<i64>,
        n: usize,
    ) -> Result<Page> {
        let from = from.unwrap_or(i64::MAX);
        let which = match which {
            Which::All => String::new(),
            // Not by a parameter: there is an index of these.
            Which::Failed => format!("and state = {FAILED}"),
        };
        let mut select = self.connection.prepare_cached(&format!(
            "select id, name, state, created, started, finished from jobs
             where service = ?1 and id < ?2 {which} order by id desc limit ?3"
        ))?;
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        let rows = select.query_map(params![service, from, n], |row| {
            let id: i64 = row.get(0)?;
            let running = self.running.get(&id);
            let status = match row.get(2)? {
                SUCCEEDED => Status::Succeeded,
                FAILED => Status::Failed,
                _ if running.is_some() => Status::Running,
                _ => Status::Pending,
            };
            let started = running.map_or_else(|| row.get(4), |running| Ok(Some(running.started)));
            let job = Listed {
                name: row.get(1)?,
                status,
                created: time(row.get(3)?),
                started: started?.map(time),
                finished: row.get::<_, Option<i64>>(5)?.map(time),
            };
            Ok((id, job))
        })?;
        let rows: Vec<(i64, Listed)> = rows.collect::<Result<_>>()?;
        let last = rows.last().map_or(from, |(id, _)| *id);
        let sql = format!("select count(*) from jobs where service = ?1 and id < ?2 {which}");
        let mut rest = self.connection.prepare_cached(&sql)?;
        let n_remaining = rest.query_row(params![service, last], |row| row.get(0))?;
        Ok(Page {
            jobs: rows.into_iter().map(|(_, job)| job).collect(),
            next: (n_remaining > 0).then_some(last),
            n_remaining,
        })
    }

    /// Returns the log of a job.
    pub(super) fn log(&self, service: &str, name: &str) -> Result<Option<String>> {
        let sql = "select log from jobs where name = ?1 and service = ?2";
        let mut select = self.connection.prepare_cached(sql)?;
        let log = select.query_row(params![name, service], |row| row.get(0));
        log.optional()
    }

    /// Returns the last job that was ever announced.
    pub(super) fn latest(&self) -> Result<i64> {
        let sql = "select coalesce(max(seq), 0) from sqlite_sequence where name = 'jobs'";
        self.connection.query_row(sql, [], |row| row.get(0))
    }

    // === what was seen ===

    /// Forgets marks of what is not there any more, and returns which of those there have none.
    pub(super) fn compare(&mut self, stretch: &Stretch) -> Result<Vec<usize>> {
        let there = stretch.there.iter().enumerate();
        let mut unseen: HashMap<(String, String), usize> = there
            .map(|(index, (key, identity))| ((key.clone(), identity.as_str().to_owned()), index))
            .collect();
        let Stretch {
            service,
            provider,
            bucket,
            ..
        } = stretch;
        let keys: HashSet<_> = stretch.there.iter().map(|(key, _)| key.as_str()).collect();
        let from = stretch.prefix.as_str().max(&stretch.after);
        let sql = "select key, identity, job from seen
                   where service = ?1 and provider = ?2 and bucket = ?3 and key >= ?4
                   order by key";
        let mut select = self.connection.prepare_cached(sql)?;
        let mut rows = select.query(params![service, provider, bucket, from])?;
        let mut gone: Vec<(String, String)> = Vec::new();
        while let Some(row) = rows.next()? {
            let mark: (String, String) = (row.get(0)?, row.get(1)?);
            let key = &mark.0;
            let is_beyond = stretch.last.as_ref().is_some_and(|last| key > last);
            if is_beyond || !key.starts_with(&stretch.prefix) {
                break;
            }
            let is_before = !stretch.after.is_empty() && *key <= stretch.after;
            // Versions are not listed.
            let is_version = Identity::from(mark.1.clone()).version().is_some();
            let is_there =
                unseen.remove(&mark).is_some() || (is_version && keys.contains(key.as_str()));
            let is_old = row.get::<_, i64>(2)? <= stretch.until;
            if !is_before && !is_there && is_old && gone.len() < SWEPT {
                gone.push(mark);
            }
        }
        drop(rows);
        drop(select);
        let sql = "delete from seen
                   where service = ?1 and provider = ?2 and bucket = ?3 and key = ?4 and identity = ?5";
        let mut delete = self.connection.prepare_cached(sql)?;
        for (key, identity) in gone {
            delete.execute(params![service, provider, bucket, key, identity])?;
        }
        let mut unseen: Vec<usize> = unseen.into_values().collect();
        unseen.sort_unstable();
        Ok(unseen)
    }
}

/// Returns the ways in which the state of an object is told that a job is about.
fn identities(job: &NewJob) -> impl Iterator<Item = (&ObjectRef, &Identity)> {
    let object = job.object.iter();
    object.flat_map(|object| {
        let identities = std::iter::once(&object.identity).chain(&job.also);
        identities.map(move |identity| (object, identity))
    })
}

/// Reads a job, and makes the end by which it hears that it was deleted.
fn handed(row: &Row<'_>) -> Result<(Handed, oneshot::Sender<()>)> {
    let size = u64::try_from(row.get::<_, i64>(7)?).unwrap_or(0);
    let provider: Option<String> = row.get(3)?;
    let object = match provider {
        Some(provider) => Some(ObjectRef {
            provider,
            bucket: row.get(4)?,
            key: row.get(5)?,
            identity: row.get::<_, String>(6)?.into(),
            size,
        }),
        None => None,
    };
    let job = Job {
        id: row.get(0)?,
        name: row.get(1)?,
        event: Bytes::from(row.get::<_, Vec<u8>>(2)?),
        object,
        attempt: row.get(8)?,
    };
    let (sender, deleted) = oneshot::channel();
    let of_object = job.object.as_ref().map_or(0, ObjectRef::bytes_in_memory);
    let bytes = of_object.saturating_add(job.event.len() as u64);
    let handed = Handed {
        job,
        bytes,
        deleted,
    };
    Ok((handed, sender))
}

fn cut(mut log: String, most: usize) -> String {
    if log.len() > most {
        log.truncate(log.floor_char_boundary(most));
        log.push_str("\n… (cut)");
    }
    log
}

fn time(ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
