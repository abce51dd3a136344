//! A worker and its stream, with no gateway before it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use hearth_benches::hearth::program;
use model_store::{Measurement, ModelSpec, Preparation};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use workers_protocol::oip::{ModelInferRequest, ModelStreamInferResponse};
use workers_protocol::transport::{self, Socket};
use workers_protocol::wire::{Credits, Entry, Event};

use crate::subject::Subject;

/// Messages on their way out; more than a worker's credits allow to be under way.
const OUTBOX: usize = 4096;

/// A version's folder, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Version {
    folder: TempDir,
    pub(crate) spec: ModelSpec,
}

/// A running `hearth-worker`; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    _process: Child,
    outbox: mpsc::Sender<ModelInferRequest>,
    events: Streaming<ModelStreamInferResponse>,
    pub(crate) credits: Credits,
}

impl Version {
    /// Writes a subject's version and has a worker check it.
    ///
    /// # Errors
    /// When it can't be served.
    pub(crate) async fn prepare(subject: &Subject) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        for file in &subject.files {
            let name = file.file_name().context("a file without a name")?;
            std::fs::copy(file, folder.path().join(name))
                .with_context(|| format!("{} can't be copied", file.display()))?;
        }
        std::fs::write(folder.path().join("model.yaml"), &subject.manifest)?;
        match ask("prepare", folder.path()).await? {
            Preparation::Accepted(spec) => Ok(Self { folder, spec }),
            Preparation::Refused(reason) | Preparation::Unavailable(reason) => {
                anyhow::bail!("{}: {reason}", subject.name)
            }
        }
    }

    /// Has a worker measure what it can do here.
    ///
    /// # Errors
    /// When it can't be run.
    pub(crate) async fn measure(&self) -> anyhow::Result<Measurement> {
        ask("measure", self.folder.path()).await
    }
}

impl Worker {
    /// Starts a worker for a version, and waits until it has loaded.
    ///
    /// # Errors
    /// When it does not start, or ends instead.
    pub(crate) async fn start(version: &Version) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let process = command("serve", version.folder.path())?
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let (mut client, connection) = transport::connect(Socket::new(ours)?).await?;
        tokio::spawn(async move {
            // How it ends is told by the stream.
            let _ = connection.await;
        });
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let events = client
            .model_stream_infer(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let mut worker = Self {
            _process: process,
            outbox,
            events,
            credits: Credits {
                slots: 0,
                stage_entries: 0,
                stage_bytes: 0,
                stage_pixels: 0,
            },
        };
        match worker.event().await? {
            Event::Ready(credits) => worker.credits = credits,
            other => anyhow::bail!("expected readiness as the first message, got {other:?}"),
        }
        Ok(worker)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the worker has ended, or reads nothing.
    pub(crate) fn send(&self, message: ModelInferRequest) -> anyhow::Result<()> {
        self.outbox
            .try_send(message)
            .context("the worker does not read")
    }

    /// Sends a subject's request as an entry to be prepared; it waits to be named.
    ///
    /// # Errors
    /// When the worker has ended, or reads nothing.
    pub(crate) fn stage(&self, subject: &Subject, id: u64) -> anyhow::Result<()> {
        let entry = Entry {
            id: id.to_string(),
            inputs: vec![subject.input().clone()],
            options: workers_protocol::PictureOptions::default(),
            timeout: None,
            stage_only: true,
            is_bulk: false,
            parts_bytes: None,
            trace: None,
        };
        entry
            .into_messages()
            .try_for_each(|message| self.send(message))
    }

    /// Waits for what the worker says next.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) async fn event(&mut self) -> anyhow::Result<Event> {
        let message = self.events.message().await?;
        Ok(Event::from_message(message.context("the worker ended")?)?)
    }
}

/// Runs a worker to its end, and returns what it says.
async fn ask<T: DeserializeOwned>(verb: &str, model: &Path) -> anyhow::Result<T> {
    let output = command(verb, model)?.output().await?;
    anyhow::ensure!(
        output.status.success(),
        "hearth-worker {verb}: {}",
        output.status
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn command(verb: &str, model: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(program("hearth-worker")?);
    command
        .arg(verb)
        .arg("--model")
        .arg(model)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}
