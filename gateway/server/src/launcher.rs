//! Workers as child processes.
//!
//! The wire is the child's standard input: a socket made before it starts, so there is nothing to
//! connect to, and its end of file is death both ways. The environment is cleared but for what the
//! dynamic linker, the GPU's driver and the log need; no other descriptor is inherited.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use model_store::{CachedVersion, ModelSpec, Preparation};
use tokio::process::{Child, Command};
use workers_protocol::transport::Socket;

use crate::config::WorkerOptions;

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

/// A started worker and the gateway's end of its wire.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) wire: Socket,
    /// The same, to shut it down.
    pub(crate) wire_handle: std::os::unix::net::UnixStream,
}

/// A worker's verdict that a version can't be served, which is final for these files.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(String);

/// Starts a worker for a version; it answers on its wire once it has loaded.
///
/// # Errors
/// When the process can't be started.
pub(crate) fn start(
    options: &WorkerOptions,
    model: &Path,
    stages: &[&Path],
    name: &str,
) -> anyhow::Result<Started> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("no socket pair")?;
    let mut command = command(options, "serve", model, stages)?;
    if let Some(folder) = &options.worker_debug_dir {
        command
            .arg("--debug-socket")
            .arg(folder.join(format!("{name}.sock")));
    }
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
    let wire = Socket::new(ours)?;
    Ok(Started {
        child,
        wire_handle: wire.handle()?,
        wire,
    })
}

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
    let mut command = command(options, "prepare", model, &stages)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let timeout = std::time::Duration::from_secs(options.start_timeout_s);
    let output = tokio::time::timeout(timeout, child.wait_with_output())
        .await
        .with_context(|| {
            format!(
                "the worker did not finish its check in {} s",
                timeout.as_secs()
            )
        })??;
    match serde_json::from_slice(&output.stdout) {
        Ok(Preparation::Accepted(spec)) => Ok(spec),
        Ok(Preparation::Refused(reason)) => Err(Refusal(reason).into()),
        Ok(Preparation::Unavailable(reason)) => Err(anyhow::anyhow!(reason)),
        // The process died before it could say why: its log has what it said.
        Err(_) => Err(anyhow::anyhow!(
            "the worker that checked it ended with {}",
            output.status
        )),
    }
}

fn command(
    options: &WorkerOptions,
    verb: &str,
    model: &Path,
    stages: &[&Path],
) -> anyhow::Result<Command> {
    let mut command = Command::new(options.program()?);
    command
        .arg(verb)
        .arg("--model")
        .arg(model)
        .arg("--max-pixels")
        .arg(options.max_pixels.to_string());
    for stage in stages {
        command.arg("--stage").arg(stage);
    }
    if let Some(library) = &options.onnxruntime {
        command.arg("--onnxruntime").arg(library);
    }
    if let Some(threads) = options.worker_threads {
        command.arg("--threads").arg(threads.to_string());
    }
    command.env_clear();
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.kill_on_drop(true);
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
