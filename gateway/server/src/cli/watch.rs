//! `hearth watch`: the jobs of a service while they are done.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::client::{Client, path, read};
use super::failure::{Cause, Failure};
use super::gateway::GatewayOptions;
use super::interrupt::Interrupt;
use super::logs::{self, Job, moment};
use super::output::OutputOptions;
use super::services::missing;
use crate::terminal::{self, Live, bar, duration, plain, print};

/// How often the gateway is asked.
const LOOK: Duration = Duration::from_secs(1);
/// How long it may be away: it is started again meanwhile.
const AWAY: Duration = Duration::from_secs(60);
/// Over how long the rate is taken.
const WINDOW: Duration = Duration::from_secs(30);
/// Looks that have to find nothing to be done: what is uploaded is announced a moment later by some
/// storage providers.
const IDLE: usize = 2;
/// Failures that are shown, and how much of their reasons, in characters.
const FAILURES: usize = 5;
const REASON: usize = 200;

#[derive(Args)]
pub(crate) struct WatchOptions {
    /// Name of the service
    service: String,
    /// End when nothing is to be done any more; with status 1 if jobs have failed
    #[arg(long)]
    until_done: bool,
    /// Where it is not shown in place: a line each so many seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600), value_name = "S")]
    interval: u64,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

/// What a gateway says of a service's jobs.
#[derive(Deserialize)]
struct Answer {
    /// Those that failed, where the gateway picks them out.
    jobs: Map<String, Value>,
    /// OSCAR's clusters do not count.
    counts: Option<Counts>,
}

/// Jobs by what became of them.
#[derive(Clone, Copy, Default, Deserialize, Serialize)]
struct Counts {
    pending: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
}

/// How things are at a moment.
struct Look {
    counts: Counts,
    /// Some that failed, by when, the latest first.
    failed: Vec<String>,
}

/// What is known so far.
struct View<'a> {
    client: &'a Client,
    service: &'a str,
    live: Option<Live>,
    interval: Duration,
    began: Instant,
    counts: Counts,
    /// Those that had ended at the first look.
    ended_before: Option<u64>,
    /// When how many had ended.
    history: VecDeque<(Instant, u64)>,
    /// The latest failures, with their reasons.
    failures: VecDeque<(String, String)>,
    /// Those among them that were not said yet.
    n_unsaid: usize,
    /// Since when nobody answers.
    away: Option<Instant>,
    said: Option<Instant>,
}

pub(super) fn watch(options: &WatchOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let service = options.service.as_str();
    let interrupt = Interrupt::catch()?;
    let mut view = View::new(&client, service, options);
    let mut n_idle = 0;
    let is_interrupted = loop {
        match look(&client, service).map_err(|error| missing(&client, service, error)) {
            Ok(look) => {
                n_idle = match look.counts.open() {
                    0 => n_idle + 1,
                    _ => 0,
                };
                view.see(look);
            }
            Err(error) if !view.may_return(&error) => return Err(error),
            Err(_) => {}
        }
        view.say(options.output.is_for_people())?;
        if options.until_done && n_idle >= IDLE {
            break false;
        }
        if interrupt.wait(LOOK) {
            break true;
        }
    };
    if let Some(live) = &mut view.live {
        live.clear()?;
    }
    options.output.show(&view.json(), || print(&view.line()))?;
    let Counts { failed, .. } = view.counts;
    let failure = match (options.until_done, is_interrupted) {
        (true, true) => Failure::new(Cause::Interrupted, "interrupted".to_owned()),
        (true, false) if failed > 0 => {
            let message = format!("{failed} failed; `hearth logs get {service} JOB` says why");
            Failure::new(Cause::Other, message)
        }
        _ => return Ok(()),
    };
    Err(failure.into())
}

fn look(client: &Client, service: &str) -> anyhow::Result<Look> {
    let path = path(&["system", "logs", service]);
    let answer: Answer = client.get(&format!("{path}?counts=true&failed=true"))?;
    let (counts, jobs) = match answer.counts {
        Some(counts) => {
            let jobs = answer.jobs.into_iter();
            let jobs = jobs.map(|(name, job)| Ok((name, Job::deserialize(job)?)));
            (counts, jobs.collect::<anyhow::Result<Vec<_>>>()?)
        }
        None => {
            let (jobs, _) = logs::jobs(client, service, true)?;
            (Counts::of(&jobs), jobs)
        }
    };
    let mut failed: Vec<_> = jobs
        .into_iter()
        .filter(|(_, job)| job.status == "Failed")
        .map(|(name, job)| (job.finish_time, name))
        .collect();
    failed.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Look {
        counts,
        failed: failed.into_iter().map(|(_, name)| name).collect(),
    })
}

/// Returns why a job failed: the last that its log says.
fn reason(client: &Client, service: &str, job: &str) -> String {
    let request = client.request(Method::GET, &path(&["system", "logs", service, job]));
    let log = client.ask(request, ()).map_err(anyhow::Error::from);
    // It may be gone by now.
    let log = log.and_then(read).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let last = log.lines().rfind(|line| !line.trim().is_empty());
    plain(last.unwrap_or_default().trim())
        .chars()
        .take(REASON)
        .collect()
}

// === impl Counts ===

impl Counts {
    fn of(jobs: &[(String, Job)]) -> Self {
        let mut counts = Self::default();
        for (_, job) in jobs {
            *match job.status.as_str() {
                "Running" => &mut counts.running,
                "Succeeded" => &mut counts.succeeded,
                "Failed" => &mut counts.failed,
                _ => &mut counts.pending,
            } += 1;
        }
        counts
    }

    /// Those that are to be done.
    const fn open(&self) -> u64 {
        self.pending + self.running
    }

    const fn ended(&self) -> u64 {
        self.succeeded + self.failed
    }
}

// === impl View ===

impl<'a> View<'a> {
    fn new(client: &'a Client, service: &'a str, options: &WatchOptions) -> Self {
        let is_seen = terminal::is_read_by_a_person();
        Self {
            client,
            service,
            live: is_seen.then(Live::start).flatten(),
            interval: Duration::from_secs(options.interval),
            began: Instant::now(),
            counts: Counts::default(),
            ended_before: None,
            history: VecDeque::new(),
            failures: VecDeque::new(),
            n_unsaid: 0,
            away: None,
            said: None,
        }
    }

    fn see(&mut self, look: Look) {
        let (now, ended) = (Instant::now(), look.counts.ended());
        self.away = None;
        self.counts = look.counts;
        self.ended_before.get_or_insert(ended);
        // Some were forgotten: what was counted before says nothing any more.
        if self
            .history
            .back()
            .is_some_and(|(_, before)| *before > ended)
        {
            self.history.clear();
            self.ended_before = Some(ended);
        }
        self.history.push_back((now, ended));
        while self.history.len() > 2 && self.history[1].0 + WINDOW < now {
            self.history.pop_front();
        }
        let latest: Vec<String> = look.failed.into_iter().take(FAILURES).collect();
        self.failures.retain(|(job, _)| latest.contains(job));
        for job in latest.into_iter().rev() {
            if self.failures.iter().any(|(known, _)| *known == job) {
                continue;
            }
            let reason = reason(self.client, self.service, &job);
            self.failures.push_front((job, reason));
            self.n_unsaid += 1;
        }
    }

    /// Whether what went wrong may be right again soon: it was there before.
    fn may_return(&mut self, error: &anyhow::Error) -> bool {
        let failure: Option<&Failure> = error.downcast_ref();
        let is_passing = failure.is_some_and(Failure::is_passing);
        let since = *self.away.get_or_insert_with(Instant::now);
        self.ended_before.is_some() && is_passing && since.elapsed() < AWAY
    }

    fn say(&mut self, is_for_people: bool) -> std::io::Result<()> {
        if self.live.is_some() {
            let lines = self.lines();
            return self.live.as_mut().map_or(Ok(()), |live| live.draw(&lines));
        }
        let is_due = self.said.is_none_or(|said| said.elapsed() >= self.interval);
        if !is_for_people || !is_due {
            return Ok(());
        }
        let unsaid = self.failures.iter().take(self.n_unsaid).rev();
        for (job, reason) in unsaid {
            print(&format!("{} failed: {reason}", plain(job)))?;
        }
        self.n_unsaid = 0;
        self.said = Some(Instant::now());
        let now = moment(OffsetDateTime::now_utc());
        print(&format!("{now} {}", self.line()))
    }

    /// What is seen in place.
    fn lines(&self) -> Vec<String> {
        let counts = self.counts;
        let done = counts.ended() - self.ended_before.unwrap_or_default();
        let of = done + counts.open();
        let mut lines = vec![
            format!("{} on {}", self.service, self.client.endpoint()),
            format!("{} {done} of {of}", bar(done, of)),
            self.line(),
        ];
        if !self.failures.is_empty() {
            lines.push("the latest that failed:".to_owned());
        }
        let failures = self.failures.iter();
        lines.extend(failures.map(|(job, reason)| format!("  {}  {reason}", plain(job))));
        lines
    }

    fn line(&self) -> String {
        let Counts {
            pending,
            running,
            succeeded,
            failed,
        } = self.counts;
        let line =
            format!("{succeeded} done, {failed} failed, {running} running, {pending} pending");
        if let Some(away) = self.away {
            let since = duration(away.elapsed());
            return format!("{line}; the gateway has not answered for {since}");
        }
        let open = self.counts.open();
        let per_second = self.per_second();
        match per_second {
            0.0 => line,
            _ if open == 0 => line,
            _ => {
                let left = Duration::from_secs_f64((open as f64 / per_second).min(1e9));
                format!(
                    "{line}; {per_second:.1} per second, {} left",
                    duration(left)
                )
            }
        }
    }

    fn per_second(&self) -> f64 {
        let ends = self.history.front().zip(self.history.back());
        ends.map_or(0.0, |((from, before), (to, after))| {
            (after - before) as f64 / (*to - *from).as_secs_f64().max(0.001)
        })
    }

    fn json(&self) -> Value {
        let failures = self.failures.iter();
        let failures = failures.map(|(job, reason)| json!({"job": job, "reason": reason}));
        json!({
            "service": self.service,
            "counts": self.counts,
            "seconds": self.began.elapsed().as_secs_f64(),
            "failures": failures.collect::<Vec<_>>(),
        })
    }
}
