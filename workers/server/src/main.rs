//! `hearth-worker`: holds one model in memory and runs batches.
//!
//! Started by `hearth` with its wire as standard input. It knows nothing of services, users or
//! buckets, and ends when its wire is closed.

mod example;
mod instance;
mod measure;
mod model;
mod prepare;
mod priority;
mod reply;
mod service;
mod session;

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use workers_ort::Runtime;
use workers_protocol::transport::{self, Socket};
use workers_protocol::{Assignment, InferError};

use crate::model::{Loaded, Model};
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
    /// Get ready without a model, then serve the one that a line of JSON on standard input assigns
    Spare {
        #[command(flatten)]
        library: Library,
    },
    /// Check a version and make it ready to be loaded; the verdict is JSON on standard output
    Prepare {
        #[command(flatten)]
        options: Options,
    },
    /// Measure what a version can do here, at low priority; JSON on standard output
    Measure {
        #[command(flatten)]
        options: Options,
    },
    /// Say what a measurement here holds for: JSON on standard output
    Host {
        /// Cores to use. Default: those this process may use
        #[arg(long, value_name = "N")]
        threads: Option<u32>,
        #[command(flatten)]
        library: Library,
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
    threads: Option<u32>,
    /// Largest picture, in pixels
    #[arg(long, default_value_t = 100_000_000, value_name = "PIXELS")]
    max_pixels: u64,
    #[command(flatten)]
    library: Library,
}

#[derive(Args)]
struct Library {
    /// ONNX Runtime's library
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

impl Options {
    /// Returns them as the assignment that they are, and where ONNX Runtime is.
    fn split(self, debug_socket: Option<PathBuf>) -> (Assignment, Library) {
        let assignment = Assignment {
            model: self.model,
            stages: self.stages,
            threads: self.threads,
            instances: None,
            max_pixels: self.max_pixels,
            debug_socket,
        };
        (assignment, self.library)
    }
}

impl Library {
    fn load(&self) -> Result<Runtime, InferError> {
        Runtime::load(self.onnxruntime.as_deref())
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
        Verb::Serve {
            options,
            debug_socket,
        } => {
            let (assignment, library) = options.split(debug_socket);
            serve(library.load(), assignment, wire()?)
        }
        Verb::Spare { library } => {
            let wire = wire()?;
            // What is wrong with the runtime is told where it is missed, on the wire.
            let runtime = library
                .load()
                .and_then(|runtime| runtime.warm().map(|()| runtime));
            let assignment = Assignment::receive(&wire).context("no assignment")?;
            match assignment {
                Some(assignment) => serve(runtime, assignment, wire),
                None => end(),
            }
        }
        Verb::Prepare { options } => {
            let (assignment, library) = options.split(None);
            say(&prepare::prepare(
                &assignment,
                library.onnxruntime.as_deref(),
            ))
        }
        Verb::Measure { options } => {
            // What somebody waits for goes first.
            priority::give_way(10);
            let (assignment, library) = options.split(None);
            say(&measure::measure(&library.load()?, &assignment)?)
        }
        Verb::Host { threads, library } => say(&measure::host(&library.load()?, threads)),
    }
}

/// Prints the answer of a verb that has one.
fn say(answer: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, answer)?;
    writeln!(stdout)?;
    Ok(())
}

/// Returns standard input, as the socket that it is.
fn wire() -> anyhow::Result<UnixStream> {
    let wire = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("no standard input")?;
    Ok(UnixStream::from(wire))
}

/// Ends the process as it is: an instance may be in the middle of a run, and neither it nor a load
/// that is under way is to be waited for. Exit handlers are skipped, because those of native
/// libraries pull memory away from under threads that still run.
#[expect(unsafe_code, reason = "the standard library's exit runs exit handlers")]
fn end() -> ! {
    // SAFETY: `_exit` takes no pointers, and does not return.
    unsafe { libc::_exit(0) }
}

/// Serves an assignment until the wire is closed, which is the end of the process.
fn serve(
    runtime: Result<Runtime, InferError>,
    assignment: Assignment,
    wire: UnixStream,
) -> anyhow::Result<()> {
    // One thread for the wire; the blocking pool decodes, one thread a core; instances have their own.
    priority::runtime(model::cores(assignment.threads) + 1)?
        .block_on(serve_wire(runtime, assignment, wire))?;
    end()
}

async fn serve_wire(
    runtime: Result<Runtime, InferError>,
    assignment: Assignment,
    wire: UnixStream,
) -> anyhow::Result<()> {
    let wire = Socket::new(wire)
        .context("standard input is no socket: hearth-worker is started by hearth")?;

    // The wire is served while the model loads, so that its end is heard and a failure can be told.
    let start = Start::new();
    let service = Service::new(start.clone());
    if let Some(path) = assignment.debug_socket.clone() {
        let service = service.clone();
        tokio::spawn(async move {
            if let Err(error) = service::listen(&path, service).await {
                tracing::error!(error = format!("{error:#}"), "no debug socket");
            }
        });
    }
    tokio::spawn(load(runtime, assignment, start));
    // However the wire ends, the worker's life ends with it.
    let _ = transport::serve(wire, service.into_grpc()).await;
    Ok(())
}

async fn load(runtime: Result<Runtime, InferError>, assignment: Assignment, start: Start) {
    let to_load = assignment.clone();
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let thread = priority::spawn_run("load".to_owned(), move || {
        let _ = loaded.send(instance::caught("loading", || {
            Loaded::load(&runtime?, &to_load)
        }));
    });
    let loaded = match thread {
        Ok(()) => loading
            .await
            .unwrap_or_else(|error| Err(InferError::internal(error.to_string()))),
        Err(error) => Err(InferError::internal(error.to_string())),
    };
    let model = loaded.and_then(|loaded| Model::start(loaded, &assignment));
    if let Err(error) = &model {
        tracing::error!(%error, "the model can't be loaded");
    }
    start.finish(model);
}
