//! `hearth logs`: the jobs of a service, and what they said.

use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Client, encode, path, read};
use super::failure::Failure;
use super::gateway::GatewayOptions;
use super::output::OutputOptions;
use super::services::missing;
use crate::terminal::{self, Table, print};

/// Pages that are asked for at most: far more jobs than a gateway remembers.
const MAX_PAGES: usize = 1000;

#[derive(Subcommand)]
pub(crate) enum LogsCommand {
    /// List the jobs of a service, the latest first
    List(ListOptions),
    /// Print the log of a job
    Get(GetOptions),
    /// Forget jobs and their logs; those that have not ended are ended
    Remove(RemoveOptions),
}

#[derive(Args)]
pub(crate) struct ListOptions {
    /// Name of the service
    service: String,
    /// List all jobs, not only the latest
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

#[derive(Args)]
pub(crate) struct GetOptions {
    /// Name of the service
    service: String,
    /// Name of the job. Default: the latest
    job: Option<String>,
    #[command(flatten)]
    gateway: GatewayOptions,
}

#[derive(Args)]
pub(crate) struct RemoveOptions {
    /// Name of the service
    service: String,
    #[command(flatten)]
    which: WhichOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WhichOptions {
    /// Names of jobs
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// All jobs that succeeded
    #[arg(long)]
    succeeded: bool,
    /// All jobs
    #[arg(long)]
    all: bool,
}

/// Some jobs, as OSCAR lists them.
#[derive(Deserialize)]
struct Page {
    jobs: Map<String, Value>,
    next_page: Option<String>,
    remaining_jobs: Option<u64>,
}

/// What is known of a job; times as RFC 3339.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Job {
    pub(super) status: String,
    creation_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finish_time: Option<String>,
}

pub(super) fn run(command: &LogsCommand) -> anyhow::Result<()> {
    match command {
        LogsCommand::List(options) => list(options),
        LogsCommand::Get(options) => get(options),
        LogsCommand::Remove(options) => remove(options),
    }
}

fn list(options: &ListOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let service = &options.service;
    let (jobs, n_remaining) =
        jobs(&client, service, options.all).map_err(|error| missing(&client, service, error))?;
    let mut table = Table::new(["JOB", "STATUS", "CREATED", "TOOK"]);
    for (name, job) in &jobs {
        let created = parse(&job.creation_time).map(moment).unwrap_or_default();
        let cells = [name.clone(), job.status.clone(), created, took(job)];
        table.row(cells);
    }
    let value = json!({
        "jobs": jobs.iter().map(|(name, job)| (name.clone(), json!(job))).collect::<Map<_, _>>(),
        "remaining_jobs": n_remaining,
    });
    options.output.show(&value, || {
        if jobs.is_empty() {
            return print(&format!(
                "no jobs of {service}; `hearth job {service} --file FILE` begins one"
            ));
        }
        table.print()?;
        match n_remaining {
            0 => Ok(()),
            n => print(&format!("and {n} more, with --all")),
        }
    })
}

fn get(options: &GetOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let service = &options.service;
    let log = || {
        let job = match &options.job {
            Some(job) => job.clone(),
            None => latest(&client, service)?,
        };
        let request = client.request(Method::GET, &path(&["system", "logs", service, &job]));
        let response = client
            .ask(request, ())
            .map_err(|failure| or_list(service, failure))?;
        read(response)
    };
    let log = log().map_err(|error| missing(&client, service, error))?;
    terminal::write(&log)?;
    if terminal::is_read_by_a_person() && !log.ends_with(b"\n") {
        terminal::write(b"\n")?;
    }
    Ok(())
}

fn remove(options: &RemoveOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let (service, which) = (&options.service, &options.which);
    let delete = |path: &str| {
        let request = client.request(Method::DELETE, path);
        client.ask(request, ())
    };
    let all = path(&["system", "logs", service]);
    if which.jobs.is_empty() {
        let (query, what) = match which.all {
            true => ("?all=true", "all jobs"),
            false => ("", "the jobs that succeeded"),
        };
        delete(&format!("{all}{query}"))
            .map_err(|failure| missing(&client, service, failure.into()))?;
        print(&format!("removed {what} of {service}"))?;
        return Ok(());
    }
    let mut failures = Vec::new();
    for job in &which.jobs {
        match delete(&format!("{all}{}", path(&[job]))) {
            Ok(_) => print(&format!("removed {job}"))?,
            Err(failure) if failure.is_unanswered() => return Err(failure.into()),
            // The others are removed all the same.
            Err(failure) => failures.push(or_list(service, failure)),
        }
    }
    match Failure::several(&failures) {
        Some(failure) => Err(missing(&client, service, failure.into())),
        None => Ok(()),
    }
}

/// Says how to find out which jobs there are, where the one that was asked for is not.
fn or_list(service: &str, failure: Failure) -> Failure {
    match failure.is_not_found() {
        true => failure.and(&format!(
            "; `hearth logs list {service}` lists what there is"
        )),
        false => failure,
    }
}

/// Returns jobs of a service, the latest first, and how many there are beside.
pub(super) fn jobs(
    client: &Client,
    service: &str,
    all: bool,
) -> anyhow::Result<(Vec<(String, Job)>, u64)> {
    let path = path(&["system", "logs", service]);
    let mut jobs = Vec::new();
    let mut page: Page = client.get(&path)?;
    for _ in 0..MAX_PAGES {
        for (name, job) in page.jobs {
            jobs.push((name, Job::deserialize(job)?));
        }
        match &page.next_page {
            Some(next) if all && !next.is_empty() => {
                page = client.get(&format!("{path}?page={}", encode(next)))?;
            }
            _ => break,
        }
    }
    jobs.sort_by_key(|(_, job)| std::cmp::Reverse(parse(&job.creation_time)));
    Ok((jobs, page.remaining_jobs.unwrap_or(0)))
}

fn latest(client: &Client, service: &str) -> anyhow::Result<String> {
    let (jobs, _) = jobs(client, service, false)?;
    let latest = jobs.into_iter().next().map(|(name, _)| name);
    latest.ok_or_else(|| anyhow::anyhow!("service `{service}` has no jobs"))
}

fn parse(time: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(time, &Rfc3339).ok()
}

/// Returns a time as people read it, to the second.
pub(super) fn moment(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let (date, hour, minute, second) = (time.date(), time.hour(), time.minute(), time.second());
    format!("{date} {hour:02}:{minute:02}:{second:02}Z")
}

/// Returns how long a job ran, if it has.
fn took(job: &Job) -> String {
    let times = job.start_time.as_deref().zip(job.finish_time.as_deref());
    let times = times.and_then(|(start, finish)| Some((parse(start)?, parse(finish)?)));
    times.map_or_else(
        || "-".to_owned(),
        |(start, finish)| format!("{:.3} s", (finish - start).as_seconds_f64()),
    )
}
