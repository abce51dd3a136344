//! Files on their way, many at a time, and how far they are.

use std::cell::Cell;
use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::etag::PART;
use super::failure::{Cause, Failure};
use super::interrupt::Interrupt;
use super::output::OutputOptions;
use crate::terminal::{Live, bar, bytes, complain, duration, plain, print};

/// Files of one command.
pub(super) const MAX_FILES: usize = 1_000_000;
/// News that wait to be counted; who brings more waits.
const NEWS: usize = 256;
/// How often what is seen is drawn, and how often a line is written where nobody sees it.
const TICK: Duration = Duration::from_millis(100);
const LINES: Duration = Duration::from_secs(5);
/// Failures that are written; the others are counted.
const MAX_SAID: usize = 20;
/// Failures that are told to programs.
const MAX_FAILURES: usize = 1000;
/// What a file costs beside its bytes, in bytes: what a small one takes a request for.
const COST: u64 = 64 << 10;

#[derive(Args)]
pub(super) struct TransferOptions {
    /// Files on their way at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    parallel: u16,
    /// Leave alone what is there already, with the same size and MD5: so what was interrupted goes on
    #[arg(long)]
    pub(super) skip_existing: bool,
}

/// What is to be on its way.
pub(super) trait File: Sync {
    fn name(&self) -> &str;
    fn size(&self) -> u64;
}

/// What became of a file that did not fail.
pub(super) enum Outcome {
    Moved,
    /// It was there.
    Same,
}

/// Where a file tells how far it is.
pub(super) struct Meter<'a> {
    news: SyncSender<News>,
    moved: Cell<u64>,
    interrupt: &'a Interrupt,
}

/// Of which end of the way this is.
pub(super) struct Transfer<'a> {
    pub(super) options: &'a TransferOptions,
    pub(super) output: &'a OutputOptions,
    /// `uploaded` or `downloaded`.
    pub(super) done: &'static str,
    pub(super) interrupt: Arc<Interrupt>,
}

enum News {
    Moved(u64),
    Ended {
        index: usize,
        moved: u64,
        result: anyhow::Result<Outcome>,
    },
}

/// What has become of the files so far.
struct Progress {
    done: &'static str,
    began: Instant,
    n_files: usize,
    /// Bytes of the files that are not there already.
    bytes: u64,
    n_moved: usize,
    n_same: usize,
    /// Bytes that went.
    moved: u64,
    /// Bytes of files that ended, and of others that went.
    ended_bytes: u64,
    under_way: u64,
    n_failed: usize,
    failures: Vec<(String, String)>,
    first: Option<anyhow::Error>,
    live: Option<Live>,
    /// When a line was written last, or lines drawn.
    said: Instant,
}

impl TransferOptions {
    pub(super) fn parallel(&self) -> usize {
        self.parallel.into()
    }
}

impl Meter<'_> {
    /// Counts bytes that went.
    pub(super) fn moved(&self, bytes: u64) {
        self.moved.set(self.moved.get() + bytes);
        // Who counted them has ended.
        let _ = self.news.send(News::Moved(bytes));
    }

    /// # Errors
    /// When somebody wants this to end.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.interrupt.is_asked() {
            true => Err(Failure::new(Cause::Interrupted, "interrupted".to_owned())),
            false => Ok(()),
        }
    }
}

// === impl Transfer ===

impl Transfer<'_> {
    /// Sets all files on their way, and says what became of them. What failed before is among them.
    ///
    /// # Errors
    /// Where some have not arrived, as the first of them.
    pub(super) fn run<F: File>(
        &self,
        mut files: Vec<F>,
        failed: Vec<(String, anyhow::Error)>,
        work: impl Fn(&F, &Meter<'_>) -> anyhow::Result<Outcome> + Sync,
    ) -> anyhow::Result<()> {
        // None is alone on its way at the end, as long as that takes.
        files.sort_by_key(|file| Reverse(file.size() / PART));
        let mut progress = Progress::new(self.done, &files, failed.len());
        for (name, error) in failed {
            progress.failed(&name, error);
        }
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (news, heard) = sync_channel(NEWS);
        let one_by_one = |news: SyncSender<News>| {
            while !is_over.load(Ordering::Relaxed) && !self.interrupt.is_asked() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(index) else { return };
                let meter = Meter {
                    news: news.clone(),
                    moved: Cell::new(0),
                    interrupt: &self.interrupt,
                };
                let result = work(file, &meter);
                let moved = meter.moved.get();
                let ended = News::Ended {
                    index,
                    moved,
                    result,
                };
                if news.send(ended).is_err() {
                    return;
                }
            }
        };
        std::thread::scope(|scope| -> std::io::Result<()> {
            for n_begun in 0..self.options.parallel().min(files.len()) {
                let (news, one_by_one) = (news.clone(), &one_by_one);
                let thread = std::thread::Builder::new();
                match thread.spawn_scoped(scope, move || one_by_one(news)) {
                    Ok(_) => {}
                    Err(error) if n_begun == 0 => return Err(error),
                    // Those that there are do the work of all.
                    Err(_) => break,
                }
            }
            drop(news);
            loop {
                match heard.recv_timeout(TICK) {
                    Ok(News::Moved(bytes)) => progress.moved(bytes),
                    Ok(News::Ended {
                        index,
                        moved,
                        result,
                    }) => {
                        let Some(file) = files.get(index) else {
                            continue;
                        };
                        if progress.ended(file, moved, result) {
                            is_over.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                progress.say();
            }
        })?;
        let is_interrupted = self.interrupt.is_asked();
        if let Some(live) = &mut progress.live {
            live.clear()?;
        }
        self.output
            .show(&progress.json(is_interrupted), || progress.sum_up())?;
        progress.verdict(is_interrupted)
    }
}

// === impl Progress ===

impl Progress {
    fn new(done: &'static str, files: &[impl File], n_failed: usize) -> Self {
        let now = Instant::now();
        Self {
            done,
            began: now,
            n_files: files.len() + n_failed,
            bytes: files.iter().map(File::size).sum(),
            n_moved: 0,
            n_same: 0,
            moved: 0,
            ended_bytes: 0,
            under_way: 0,
            n_failed: 0,
            failures: Vec::new(),
            first: None,
            live: Live::start(),
            said: now,
        }
    }

    fn moved(&mut self, bytes: u64) {
        self.moved += bytes;
        self.under_way += bytes;
    }

    /// Counts a file, and returns whether the others will end as it did.
    fn ended(&mut self, file: &impl File, moved: u64, result: anyhow::Result<Outcome>) -> bool {
        self.under_way -= moved;
        match result {
            Ok(Outcome::Moved) => {
                self.n_moved += 1;
                self.ended_bytes += file.size();
            }
            Ok(Outcome::Same) => {
                self.n_same += 1;
                self.bytes -= file.size();
            }
            Err(error) => {
                self.ended_bytes += file.size();
                return self.failed(file.name(), error);
            }
        }
        false
    }

    fn failed(&mut self, name: &str, error: anyhow::Error) -> bool {
        let failure: Option<&Failure> = error.downcast_ref();
        let is_of_all = failure.is_some_and(Failure::is_of_all);
        if failure.is_some_and(Failure::is_interrupt) {
            return true;
        }
        let (name, reason) = (plain(name), format!("{error:#}"));
        // What is wrong with all is said once, at the end.
        if !is_of_all && self.n_failed < MAX_SAID {
            let line = format!("error: {name}: {reason}");
            // Who can't be told now is told at the end.
            let _ = match &mut self.live {
                Some(live) => live.leave(&line),
                None => complain(&format!("{line}\n")),
            };
        }
        self.n_failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push((name, reason));
        }
        let was_of_all = self.first.as_ref().and_then(|first| first.downcast_ref());
        if self.first.is_none() || (is_of_all && !was_of_all.is_some_and(Failure::is_of_all)) {
            self.first = Some(error);
        }
        is_of_all
    }

    /// Says how far it is, from time to time.
    fn say(&mut self) {
        let every = if self.live.is_some() { TICK } else { LINES };
        if self.said.elapsed() < every {
            return;
        }
        self.said = Instant::now();
        let line = self.line();
        let bar = bar(self.weight(), self.whole());
        // It goes on where nobody can be told.
        let _ = match &mut self.live {
            Some(live) => live.draw(&[format!("{bar} {line}")]),
            None => complain(&format!("{line}\n")),
        };
    }

    fn line(&self) -> String {
        let took = self.began.elapsed();
        let n_ended = self.n_moved + self.n_same + self.n_failed;
        let per_second = self.moved as f64 / took.as_secs_f64().max(0.001);
        let (done, whole) = (self.weight(), self.whole());
        let line = format!(
            "{n_ended} of {} files, {} of {}, {}/s",
            self.n_files,
            bytes(self.ended_bytes + self.under_way),
            bytes(self.bytes),
            bytes(per_second as u64),
        );
        if done == 0 {
            return line;
        }
        let left = took.as_secs_f64() * whole.saturating_sub(done) as f64 / done as f64;
        let left = duration(Duration::from_secs_f64(left.min(1e9)));
        format!("{line}, {left} left")
    }

    /// What is done and what there is to do, in bytes and what files cost beside.
    fn weight(&self) -> u64 {
        let n_ended = (self.n_moved + self.n_failed) as u64;
        self.ended_bytes + self.under_way + n_ended * COST
    }

    fn whole(&self) -> u64 {
        self.bytes + (self.n_files - self.n_same) as u64 * COST
    }

    fn json(&self, is_interrupted: bool) -> Value {
        let failures = self.failures.iter();
        let failures = failures.map(|(file, reason)| json!({"file": file, "reason": reason}));
        json!({
            "files": self.n_moved,
            "there": self.n_same,
            "bytes": self.moved,
            "seconds": self.began.elapsed().as_secs_f64(),
            "failed": self.n_failed,
            "failures": failures.collect::<Vec<_>>(),
            "interrupted": is_interrupted,
        })
    }

    fn sum_up(&self) -> std::io::Result<()> {
        let s = self.began.elapsed().as_secs_f64().max(0.001);
        let files = |n: usize| match n {
            1 => "1 file".to_owned(),
            n => format!("{n} files"),
        };
        let mut line = format!(
            "{} {}, {}",
            self.done,
            files(self.n_moved),
            bytes(self.moved)
        );
        if self.n_moved > 0 {
            let (n, per_second) = (
                self.n_moved as f64 / s,
                bytes((self.moved as f64 / s) as u64),
            );
            line = format!("{line}, in {s:.1} s ({n:.0} files/s, {per_second}/s)");
        }
        if self.n_same > 0 {
            line = format!("{line}; {} there already", files(self.n_same));
        }
        print(&line)
    }

    /// Returns how the command ends.
    fn verdict(self, is_interrupted: bool) -> anyhow::Result<()> {
        let n_missing = self.n_files - self.n_moved - self.n_same;
        let missing = format!(
            "{n_missing} of {} files are not {}",
            self.n_files, self.done
        );
        let again = "the same with --skip-existing goes on from here";
        if is_interrupted {
            let message = format!("interrupted: {missing}; {again}");
            return Err(Failure::new(Cause::Interrupted, message).into());
        }
        let Some(first) = self.first else {
            return Ok(());
        };
        let failure: Option<&Failure> = first.downcast_ref();
        let message = match failure.is_some_and(Failure::is_of_all) {
            true => format!("{first:#}\n  {missing}; {again}"),
            false if self.n_failed > MAX_SAID => {
                format!("{missing}; of {MAX_SAID} the reason is above")
            }
            false => missing,
        };
        Err(Failure::after(&first, message).into())
    }
}
