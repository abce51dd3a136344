//! `hearth-loadtests`: how Hearth holds up under load.
//!
//! `load` puts a load on any HTTP server; `run` measures what Hearth promises on a gateway that it
//! starts. README.md says how to read what they print.

mod alarm;
mod arrivals;
mod client;
mod gateway;
mod load;
mod random;
mod report;
mod scenarios;
mod simulate;
mod subject;
mod worker;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, ValueEnum as _};

use crate::arrivals::Pattern;
use crate::client::Target;
use crate::load::{Load, Pace};
use crate::scenarios::{Scenario, Setting};

/// How Hearth holds up under load
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// Put a load on an HTTP server, and say what became of the requests
    Load(LoadOptions),
    /// Start Hearth, measure what it promises, and say what was reached
    Run(RunOptions),
    /// Compare the scheduler with what most servers do, in virtual time
    Simulate {
        /// The same seed gives the same requests and the same results
        #[arg(long, default_value_t = 1, value_name = "N")]
        seed: u64,
    },
}

#[derive(Args)]
struct LoadOptions {
    /// Where to, `http://HOST:PORT/PATH`
    #[arg(long)]
    url: http::Uri,
    /// What to send
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    #[arg(long, default_value = "application/octet-stream")]
    content_type: String,
    /// Another header, `NAME: VALUE`; may be repeated
    #[arg(long = "header", value_parser = parse_header, value_name = "HEADER")]
    headers: Vec<(String, String)>,
    /// Deadline of each request, sent as `X-Request-Timeout-Ms`; later answers are not good
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Requests a second, whether or not those before were answered
    #[arg(long, value_parser = parse_rate, required_unless_present = "concurrency", value_name = "N")]
    rate: Option<f64>,
    /// How arrivals are spread
    #[arg(long, default_value = "poisson")]
    arrivals: Pattern,
    /// Instead of a rate: so many callers, each of which sends the next when it has its answer
    #[arg(long, conflicts_with_all = ["rate", "arrivals"], value_name = "N")]
    concurrency: Option<usize>,
    /// Measured time, in seconds
    #[arg(long, default_value_t = 30.0, value_parser = parse_seconds, value_name = "S")]
    duration: f64,
    /// Load before it that is not counted, in seconds
    #[arg(long, default_value_t = 2.0, value_parser = parse_seconds, value_name = "S")]
    warmup: f64,
    /// Connections at most; what finds none free waits, and its time counts
    #[arg(long, default_value_t = 1024, value_name = "N")]
    connections: usize,
    /// The same seed gives the same arrivals
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RunOptions {
    /// Which. Default: all
    scenarios: Vec<Scenario>,
    /// Take a tenth of the time
    #[arg(long)]
    short: bool,
    /// Only what is measured with this model; may be repeated. Default: all
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Folder with `models` and `media`. Default: ../shared beside the sources
    #[arg(long, value_name = "DIR")]
    shared: Option<PathBuf>,
}

#[expect(clippy::print_stderr, reason = "says why there is no result")]
fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearth-loadtests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli {
        Cli::Load(options) => runtime()?.block_on(load(options)),
        Cli::Run(options) => runtime()?.block_on(run(options)),
        Cli::Simulate { seed } => simulate::run(seed),
    }
}

/// One thread: what it does not use is left to what it measures.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn load(options: LoadOptions) -> anyhow::Result<()> {
    let body = std::fs::read(&options.body)
        .with_context(|| format!("{} can't be read", options.body.display()))?;
    let mut headers = options.headers;
    headers.push(("content-type".to_owned(), options.content_type));
    if let Some(ms) = options.timeout_ms {
        headers.push(("x-request-timeout-ms".to_owned(), ms.to_string()));
    }
    let target = Target::post(&options.url, &headers, &body).await?;
    let pace = match (options.rate, options.concurrency) {
        (Some(per_second), _) => Pace::Open {
            pattern: options.arrivals,
            per_second,
        },
        (None, n_callers) => Pace::Closed {
            n_callers: n_callers.unwrap_or(1),
        },
    };
    let load = Load {
        pace,
        warm_up: Duration::from_secs_f64(options.warmup),
        duration: Duration::from_secs_f64(options.duration),
        deadline: options.timeout_ms.map(Duration::from_millis),
        max_connections: options.connections,
        seed: options.seed,
    };
    let report = load.run(&target).await?;
    if options.json {
        say(format_args!("{:#}", report.to_json()));
    } else {
        say(format_args!("{report}"));
    }
    Ok(())
}

async fn run(options: RunOptions) -> anyhow::Result<()> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let setting = Setting {
        is_short: options.short,
        models: options.models,
        shared: options.shared.unwrap_or(beside),
    };
    let mut scenarios = options.scenarios;
    if scenarios.is_empty() {
        scenarios = Scenario::value_variants().to_vec();
    }
    scenarios::run(&setting, &scenarios).await
}

/// Prints a line, or a table.
fn say(text: std::fmt::Arguments<'_>) {
    // Nobody reads it any more, if it fails.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    text.split_once(':')
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .filter(|(name, value)| !name.is_empty() && !(name.clone() + value).contains(['\r', '\n']))
        .ok_or_else(|| format!("{text:?}: expected `NAME: VALUE`"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate| (1e-3..=1e6).contains(rate))
        .ok_or_else(|| format!("{text:?}: expected 0.001 to 1000000 requests a second"))
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    seconds
        .filter(|seconds| (0.0..=86_400.0).contains(seconds))
        .ok_or_else(|| format!("{text:?}: expected 0 to 86400 seconds"))
}
