//! One worker process, from its start to its end: what the dispatcher wants goes out, what the
//! worker says comes in.

mod outbox;

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use gateway_scheduler::{Bucket, Key, ReplicaId};
use tokio::process::Child;
use tonic::Streaming;
use workers_protocol::oip::ModelStreamInferResponse;
use workers_protocol::transport::{self, Socket};
use workers_protocol::wire::Event;

use crate::config::WorkerOptions;
use crate::dispatcher::{Dispatcher, Launcher, Orders};
use crate::launcher;
use crate::revision::Revision;
use outbox::Outbox;

/// How long a worker whose wire was closed may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts workers as child processes.
#[derive(Debug)]
pub(crate) struct ProcessLauncher {
    options: Arc<WorkerOptions>,
    n_launched: AtomicU64,
}

impl ProcessLauncher {
    pub(crate) fn new(options: Arc<WorkerOptions>) -> Self {
        Self {
            options,
            n_launched: AtomicU64::new(0),
        }
    }
}

impl Launcher for ProcessLauncher {
    fn launch(
        &self,
        dispatcher: &Arc<Dispatcher>,
        revision: Arc<Revision>,
        replica: ReplicaId,
        orders: Orders,
    ) {
        let number = self.n_launched.fetch_add(1, Ordering::Relaxed);
        let replica = Replica {
            id: replica,
            number,
            revision,
            dispatcher: Arc::clone(dispatcher),
        };
        let options = Arc::clone(&self.options);
        tokio::spawn(async move { replica.live(&options, orders).await });
    }
}

struct Replica {
    id: ReplicaId,
    /// Counts replicas since the start, to tell their debug sockets apart.
    number: u64,
    revision: Arc<Revision>,
    dispatcher: Arc<Dispatcher>,
}

/// How a replica ended.
enum End {
    /// It was told to.
    Stopped,
    /// The worker closed the wire, or was killed.
    Died,
}

impl Replica {
    async fn live(self, options: &WorkerOptions, orders: Orders) {
        let model = format!("{}:{}", self.revision.name, self.revision.version);
        let stages: Vec<_> = self
            .revision
            .stages
            .iter()
            .map(|(_, folder)| folder.as_path())
            .collect();
        let name = format!(
            "{}-{}-{}",
            self.revision.name, self.revision.version, self.number
        );
        match launcher::start(options, &self.revision.model.dir, &stages, &name) {
            Ok(mut started) => {
                let pid = started.child.id();
                tracing::info!(%model, pid, "worker starting");
                let timeout = Duration::from_secs(options.start_timeout_s);
                let end = self.serve(started.wire, timeout, orders).await;
                // The connection's own tasks would keep it open, and the worker alive. It fails only
                // where the other end is closed already.
                let _ = started.wire_handle.shutdown(Shutdown::Both);
                let status = end_child(&mut started.child).await;
                match end {
                    Ok(End::Stopped) => tracing::info!(%model, pid, %status, "worker stopped"),
                    Ok(End::Died) => tracing::warn!(%model, pid, %status, "worker died"),
                    Err(error) => {
                        tracing::error!(%model, pid, %status, error = format!("{error:#}"), "worker failed");
                    }
                }
            }
            Err(error) => {
                tracing::error!(%model, error = format!("{error:#}"), "worker does not start");
            }
        }
        self.dispatcher.replica_down(self.id);
    }

    /// Speaks with the worker until either side ends.
    async fn serve(
        &self,
        wire: Socket,
        start_timeout: Duration,
        orders: Orders,
    ) -> anyhow::Result<End> {
        let Orders { outgoing, stop } = orders;
        let outbox = Outbox::new(outgoing);
        let (mut client, driver) = transport::connect(wire)
            .await
            .context("no HTTP/2 on the wire")?;
        // Ends when the wire is shut down.
        tokio::spawn(async move {
            // How the connection ended is told by the stream.
            let _ = driver.await;
        });
        let start = async {
            let mut events = client.model_stream_infer(outbox).await?.into_inner();
            let first = events
                .message()
                .await?
                .context("the worker ended before it was ready")?;
            anyhow::Ok((events, Event::from_message(first)?))
        };
        let started = tokio::select! {
            started = tokio::time::timeout(start_timeout, start) => started,
            () = stop.notified() => return Ok(End::Stopped),
        };
        let (events, first) =
            started.with_context(|| format!("not ready after {} s", start_timeout.as_secs()))??;
        let Event::Ready(credits) = first else {
            anyhow::bail!("expected readiness as the first message, got {first:?}");
        };
        tracing::info!(model = %self.revision.name, version = %self.revision.version, "worker ready");
        self.dispatcher.replica_up(self.id, credits);
        tokio::select! {
            end = self.listen(events) => end,
            () = stop.notified() => Ok(End::Stopped),
        }
    }

    async fn listen(&self, mut events: Streaming<ModelStreamInferResponse>) -> anyhow::Result<End> {
        loop {
            let message = match events.message().await {
                Ok(Some(message)) => message,
                // A broken stream is what a killed worker leaves.
                Ok(None) | Err(_) => return Ok(End::Died),
            };
            match Event::from_message(message)? {
                Event::Staged { id, bucket } => {
                    self.dispatcher.staged(self.id, key(&id)?, Bucket(bucket));
                }
                Event::Free(slots) => self.dispatcher.slots_freed(self.id, slots),
                Event::Answer { id, result } => {
                    self.dispatcher.answered(self.id, key(&id)?, result);
                }
                Event::Ready(_) => anyhow::bail!("the worker said twice that it is ready"),
            }
        }
    }
}

/// Ids on the wire are keys in decimal.
fn key(id: &str) -> anyhow::Result<Key> {
    let bits = id
        .parse()
        .with_context(|| format!("the worker named {id:?}, which is no id of ours"))?;
    Ok(Key::from_bits(bits))
}

/// Waits for the end of a worker whose wire is closed, killing it when it takes too long.
async fn end_child(child: &mut Child) -> String {
    let status = match tokio::time::timeout(END_TIMEOUT, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            // Fails only where it has ended meanwhile.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}
