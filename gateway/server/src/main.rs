//! `hearth`: the gateway, and the command line.

mod auth;
mod budget;
mod catalog;
mod cli;
mod config;
mod data;
mod describe;
mod dispatcher;
mod entry;
mod grpc;
mod jobs;
mod launcher;
mod measurements;
mod memory;
mod metrics;
mod minio;
mod model;
mod objects;
mod oscar;
mod poison;
mod replica;
mod rest;
mod revision;
mod routes;
mod serve;
mod server;
mod shared_memory;
mod storage;
mod terminal;
mod timeline;
mod tls;
mod trace;
mod work;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Requests come and go in many small pieces, which the system's allocator merges and splits anew each
/// time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps models warm: an inference serving gateway
#[derive(Parser)]
#[command(version, after_help = cli::EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the models of a store
    Serve(Box<config::ServeOptions>),
    /// Add models to a store on this machine, and list them; no gateway is asked
    #[command(subcommand)]
    Model(model::ModelCommand),
    #[command(flatten)]
    Client(cli::ClientCommand),
    /// Print what an external MinIO is to have in its environment, to announce objects to Hearth
    MinioSettings(minio::SettingsOptions),
    /// Print what completes these commands in a shell
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// What the gateway starts for each script
    #[command(name = config::SUPERVISE, hide = true)]
    SuperviseScript,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = match command {
        Command::Serve(options) => {
            log(options.log_format);
            run(serve::serve(*options))
        }
        Command::Model(command) => {
            log(LogFormat::Text);
            run(model::run(command))
        }
        Command::Client(command) => cli::run(command),
        Command::MinioSettings(options) => minio::settings(&options),
        Command::Completions { shell } => complete(shell),
        Command::SuperviseScript => return gateway_script::supervise(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            cli::exit_code(&error)
        }
    }
}

fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // One thread for four cores: the others are the models', and one more is woken for many a request
    // that is not for it. But two at least: a single one that has twenty thousand callers a second to
    // refuse keeps those waiting whom it serves, and the workers idle (loadtests/README.md, `overload`).
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.div_ceil(4).max(cores.min(2)))
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // A copy or a scan that is under way is not waited for; what it leaves is swept at the next start.
    runtime.shutdown_background();
    result
}

fn complete(shell: Shell) -> anyhow::Result<()> {
    // Into memory first: the library panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hearth", &mut script);
    Ok(terminal::write(&script)?)
}

#[expect(clippy::print_stderr, reason = "the command line's own errors")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// Logs to standard error; `RUST_LOG` chooses what.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // The library of the S3 wire logs clients' mistakes as errors, and signatures that would be right.
    let filter = match "s3s=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
