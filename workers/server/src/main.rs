//! `hearth-worker`: holds one model in memory and runs batches.
//!
//! Started by `hearth` with its wire as standard input. It knows nothing of services, users or
//! buckets, and ends when its wire is closed.

mod instance;
mod model;
mod prepare;
mod reply;
mod service;
mod session;

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use workers_ort::Runtime;
use workers_protocol::InferError;
use workers_protocol::transport::{self, Socket};
use workers_vision::Limits;

use crate::model::{Loaded, Model, Source};
use crate::service::{Service, Start};

/// Holds one model in memory and runs batches
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Load a version and serve it on standard input, a connected socket, until that is closed
    Serve {
        #[command(flatten)]
        options: Options,
        /// Also serve plain Open Inference Protocol on this Unix socket, in a folder made with mode 0700
        #[arg(long, value_name = "FILE")]
        debug_socket: Option<PathBuf>,
    },
    /// Check a version and make it ready to be loaded; the verdict is JSON on standard output
    Prepare {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Args)]
struct Options {
    /// The version's folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The folder of a stage, in order
    #[arg(long = "stage", value_name = "DIR")]
    stages: Vec<PathBuf>,
    /// Cores to use. Default: those this process may use
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Largest picture, in pixels
    #[arg(long, default_value_t = 100_000_000, value_name = "PIXELS")]
    max_pixels: u64,
    /// ONNX Runtime's library
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

impl Options {
    fn source(&self) -> Source {
        let cores = || available_parallelism().map_or(1, std::num::NonZero::get);
        Source {
            model: self.model.clone(),
            stages: self.stages.clone(),
            threads: self.threads.unwrap_or_else(cores).max(1),
            limits: Limits {
                max_pixels: self.max_pixels,
            },
        }
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            // ONNX Runtime warns of harmless things at every load, dozens of lines for some models.
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
                .parse_lossy(
                    std::env::var("RUST_LOG").unwrap_or_else(|_| "info,ort=error".to_owned()),
                ),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Prepare { options } => {
            let verdict = prepare::prepare(&options.source(), options.onnxruntime.as_deref());
            let mut stdout = std::io::stdout().lock();
            serde_json::to_writer(&mut stdout, &verdict)?;
            writeln!(stdout)?;
            Ok(())
        }
        Verb::Serve {
            options,
            debug_socket,
        } => {
            // One thread for the wire; the blocking pool decodes, one thread a core; instances have their own.
            let source = options.source();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(source.threads + 1)
                .build()?;
            runtime.block_on(serve(source, options.onnxruntime, debug_socket))?;
            end()
        }
    }
}

/// Ends the process as it is: an instance may be in the middle of a run, and neither it nor a load
/// that is under way is to be waited for. Exit handlers are skipped, because those of native
/// libraries pull memory away from under threads that still run.
#[expect(unsafe_code, reason = "the standard library's exit runs exit handlers")]
fn end() -> ! {
    // SAFETY: `_exit` takes no pointers, and does not return.
    unsafe { libc::_exit(0) }
}

async fn serve(
    source: Source,
    onnxruntime: Option<PathBuf>,
    debug_socket: Option<PathBuf>,
) -> anyhow::Result<()> {
    let wire = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("no standard input")?;
    let wire = std::os::unix::net::UnixStream::from(wire);
    let wire = Socket::new(wire)
        .context("standard input is no socket: hearth-worker is started by hearth")?;

    // The wire is served while the model loads, so that its end is heard and a failure can be told.
    let start = Start::new();
    let service = Service::new(start.clone());
    tokio::spawn(load(source, onnxruntime, start));
    if let Some(path) = debug_socket {
        let service = service.clone();
        tokio::spawn(async move {
            if let Err(error) = service::listen(&path, service).await {
                tracing::error!(error = format!("{error:#}"), "no debug socket");
            }
        });
    }
    // However the wire ends, the worker's life ends with it.
    let _ = transport::serve(wire, service.into_grpc()).await;
    Ok(())
}

async fn load(source: Source, onnxruntime: Option<PathBuf>, start: Start) {
    let (threads, limits) = (source.threads, source.limits);
    let loading = tokio::task::spawn_blocking(move || {
        let runtime = Runtime::load(onnxruntime.as_deref())?;
        instance::caught("loading", || Loaded::load(&runtime, &source))
    });
    let loaded = loading
        .await
        .unwrap_or_else(|error| Err(InferError::internal(error.to_string())));
    let model = loaded.and_then(|loaded| Model::start(loaded, threads, limits));
    if let Err(error) = &model {
        tracing::error!(%error, "the model can't be loaded");
    }
    start.finish(model);
}
