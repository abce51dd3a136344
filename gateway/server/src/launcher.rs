//! Workers as child processes.
//!
//! The wire is the child's standard input: a socket made before it starts, so there is nothing to
//! connect to, and its end of file is death both ways. What to serve is the first that is said on
//! it, so a worker can be started before anybody knows ([`Pool`]). The environment is cleared but for what the
//! dynamic linker, the GPU's driver and the log need; no other descriptor is inherited.

mod pool;

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use gateway_scheduler::Death;
use model_store::{CachedVersion, Host, Measurement, ModelSpec, Preparation};
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};
use workers_protocol::transport::Socket;

use crate::config::WorkerOptions;
use crate::memory;
pub(crate) use pool::{Pool, Start, Starting};

/// What a worker may know of the gateway's environment. Credentials are not among it.
const PASSED_ON: [&str; 9] = [
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_MODULE_LOADING",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "TMPDIR",
    "TZ",
];

/// How long a worker whose wire was closed may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker that was started, and the gateway's end of its wire. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    wire: UnixStream,
    /// By this gateway.
    is_killed: bool,
    /// [`memory::n_oom_kills`] when it was started.
    n_oom_kills: Option<u64>,
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status, in words.
    pub(crate) status: String,
    pub(crate) death: Death,
}

/// A worker's verdict that a version can't be served, which is final for these files.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(String);

// === impl Worker ===

impl Worker {
    /// Starts a worker without a model.
    ///
    /// # Errors
    /// When the process can't be started.
    fn start(options: &WorkerOptions) -> anyhow::Result<Self> {
        let (wire, theirs) = UnixStream::pair().context("no socket pair")?;
        let n_oom_kills = memory::n_oom_kills();
        let mut command = command(options, "spare")?;
        let child = command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| {
                format!(
                    "{} does not start",
                    command.as_std().get_program().display()
                )
            })?;
        Ok(Self {
            child,
            wire,
            is_killed: false,
            n_oom_kills,
        })
    }

    /// Says what it is to serve, in a line of `Assignment`.
    ///
    /// # Errors
    /// When it has ended.
    fn assign(&self, line: &[u8]) -> io::Result<()> {
        // Never waits: nothing was written before, and a line is shorter than what the system buffers.
        (&self.wire).write_all(line)
    }

    /// Whether it has not ended yet.
    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Returns the wire, which [`Worker::end`] shuts down under whoever uses it.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn socket(&self) -> io::Result<Socket> {
        Socket::new(self.wire.try_clone()?)
    }

    /// Ends it at once, without waiting.
    pub(crate) fn kill(&mut self) {
        // Fails only where it has ended already.
        self.is_killed |= self.child.start_kill().is_ok();
    }

    /// Closes the wire and waits for the end, killing the worker when it takes too long.
    pub(crate) async fn end(mut self) -> Ended {
        // Whoever uses the wire would keep it open, and the worker alive. It fails only where the
        // other end is closed already.
        let _ = self.wire.shutdown(Shutdown::Both);
        let status = match tokio::time::timeout(END_TIMEOUT, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.kill();
                self.child.wait().await
            }
        };
        // No input has a process end so, but by eating the memory up.
        let signal = status.as_ref().ok().and_then(ExitStatus::signal);
        let is_out_of_memory =
            self.n_oom_kills.is_none() || memory::n_oom_kills() != self.n_oom_kills;
        let is_from_outside = signal == Some(libc::SIGKILL) && !self.is_killed && !is_out_of_memory;
        Ended {
            status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            death: match is_from_outside {
                true => Death::FromOutside,
                false => Death::Unexplained,
            },
        }
    }
}

// === asking ===

/// Has a worker check a version and make it ready to be loaded: rewrite declared shapes, load it,
/// run it on zeros.
///
/// # Errors
/// The reason why the version can't be served, in a sentence.
pub(crate) async fn prepare(
    options: &WorkerOptions,
    model: &Path,
    stages: &[CachedVersion],
) -> anyhow::Result<ModelSpec> {
    let stages: Vec<&Path> = stages.iter().map(|stage| stage.dir.as_path()).collect();
    let command = command_on(options, "prepare", model, &stages)?;
    match ask(options, command).await? {
        Preparation::Accepted(spec) => Ok(spec),
        Preparation::Refused(reason) => Err(Refusal(reason).into()),
        Preparation::Unavailable(reason) => Err(anyhow::anyhow!(reason)),
    }
}

/// Has a worker measure what a version can do here, which takes seconds.
///
/// # Errors
/// When it can't; the worker's log has the reason.
pub(crate) async fn measure(
    options: &WorkerOptions,
    model: &Path,
    stages: &[&Path],
) -> anyhow::Result<Measurement> {
    ask(options, command_on(options, "measure", model, stages)?).await
}

/// Asks a worker what a measurement here holds for.
///
/// # Errors
/// When it can't say; its log has the reason.
pub(crate) async fn host(options: &WorkerOptions) -> anyhow::Result<Host> {
    let mut command = command(options, "host")?;
    add_threads(&mut command, options);
    ask(options, command).await
}

/// Runs a worker that answers with a line of JSON, as long as a start may take.
async fn ask<T: DeserializeOwned>(
    options: &WorkerOptions,
    mut command: Command,
) -> anyhow::Result<T> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let timeout = Duration::from_secs(options.start_timeout_s);
    let output = tokio::time::timeout(timeout, child.wait_with_output())
        .await
        .with_context(|| {
            format!(
                "the worker did not finish its check in {} s",
                timeout.as_secs()
            )
        })??;
    // A process that died before it could say why has said it in its log.
    serde_json::from_slice(&output.stdout)
        .map_err(|_| anyhow::anyhow!("the worker that checked it ended with {}", output.status))
}

fn command_on(
    options: &WorkerOptions,
    verb: &str,
    model: &Path,
    stages: &[&Path],
) -> anyhow::Result<Command> {
    let mut command = command(options, verb)?;
    command
        .arg("--model")
        .arg(model)
        .arg("--max-pixels")
        .arg(options.max_pixels.to_string());
    for stage in stages {
        command.arg("--stage").arg(stage);
    }
    add_threads(&mut command, options);
    Ok(command)
}

fn add_threads(command: &mut Command, options: &WorkerOptions) {
    if let Some(threads) = options.worker_threads {
        command.arg("--threads").arg(threads.to_string());
    }
}

fn command(options: &WorkerOptions, verb: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(options.program()?);
    command.arg(verb);
    if let Some(library) = &options.onnxruntime {
        command.arg("--onnxruntime").arg(library);
    }
    command.env_clear();
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.kill_on_drop(true);
    // Ctrl-C in a terminal is for the gateway, whose workers have something to finish first.
    command.process_group(0);
    close_other_descriptors(&mut command);
    Ok(command)
}

/// Everything that this process opened is close-on-exec already; what it was started with may not be.
#[expect(
    unsafe_code,
    reason = "what runs between fork and exec is unsafe by its nature, and close_range has no safe form"
)]
fn close_other_descriptors(command: &mut Command) {
    let close = || {
        // SAFETY: a system call without pointers, allowed between fork and exec (it neither
        // allocates nor locks). Failure (a kernel before 5.11) leaves the descriptors as they were.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3_u32,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        Ok(())
    };
    // SAFETY: the closure only makes the system call above.
    unsafe {
        command.pre_exec(close);
    }
}
