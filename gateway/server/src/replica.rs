//! One worker process, from its start to its end: what the dispatcher wants goes out, what the
//! worker says comes in.

mod outbox;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use gateway_scheduler::{Bucket, Death, Key, ReplicaId};
use tonic::Streaming;
use workers_protocol::Assignment;
use workers_protocol::oip::ModelStreamInferResponse;
use workers_protocol::transport;
use workers_protocol::wire::Event;

use crate::config::WorkerOptions;
use crate::dispatcher::{Dispatcher, Launcher, Orders};
use crate::launcher::{Pool, Start, Starting, Worker};
use crate::memory;
use crate::revision::Revision;
use outbox::Outbox;

/// How often a worker's memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

/// Starts workers as child processes.
#[derive(Debug)]
pub(crate) struct ProcessLauncher {
    pool: Arc<Pool>,
    n_launched: AtomicU64,
}

impl ProcessLauncher {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
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
        let pool = Arc::clone(&self.pool);
        tokio::spawn(async move { replica.live(&pool, orders).await });
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
    async fn live(self, pool: &Arc<Pool>, orders: Orders) {
        let model = format!("{}:{}", self.revision.name, self.revision.version);
        let mut death = Death::Unexplained;
        match pool.start(&self.assignment(pool.options())) {
            Ok(Start {
                mut worker,
                is_spare,
                starting,
            }) => {
                let pid = worker.pid();
                tracing::info!(%model, pid, is_spare, "worker starting");
                let timeout = Duration::from_secs(pool.options().start_timeout_s);
                let hung = Arc::clone(&orders.stop);
                let end = self.serve(&worker, starting, timeout, orders).await;
                if hung.is_hung() {
                    worker.kill();
                }
                let ended = worker.end().await;
                death = ended.death;
                let status = ended.status;
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
        self.dispatcher.replica_down(self.id, death);
    }

    fn assignment(&self, options: &WorkerOptions) -> Assignment {
        let Revision { name, version, .. } = &*self.revision;
        let stages = self.revision.stages.iter();
        Assignment {
            model: self.revision.model.dir.clone(),
            stages: stages.map(|(_, folder)| folder.clone()).collect(),
            threads: options.worker_threads,
            instances: self.revision.measurement().map(|found| found.instances),
            max_pixels: options.max_pixels,
            debug_socket: options
                .worker_debug_dir
                .as_ref()
                .map(|folder| folder.join(format!("{name}-{version}-{}.sock", self.number))),
        }
    }

    /// Speaks with the worker until either side ends.
    async fn serve(
        &self,
        worker: &Worker,
        starting: Starting,
        start_timeout: Duration,
        orders: Orders,
    ) -> anyhow::Result<End> {
        let Orders { outgoing, stop } = orders;
        let outbox = Outbox::new(outgoing);
        let (mut client, driver) = transport::connect(worker.socket()?)
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
            () = stop.asked() => return Ok(End::Stopped),
        };
        let (events, first) =
            started.with_context(|| format!("not ready after {} s", start_timeout.as_secs()))??;
        let Event::Ready(credits) = first else {
            anyhow::bail!("expected readiness as the first message, got {first:?}");
        };
        tracing::info!(model = %self.revision.name, version = %self.revision.version, "worker ready");
        self.dispatcher.replica_up(self.id, credits);
        drop(starting);
        tokio::select! {
            end = self.listen(events) => end,
            () = stop.asked() => Ok(End::Stopped),
            // It never ends by itself.
            () = self.report_memory(worker.pid()) => Ok(End::Stopped),
        }
    }

    /// Reports what the worker's memory came to at most, again and again.
    async fn report_memory(&self, pid: Option<u32>) {
        let mut ticks = tokio::time::interval(MEMORY_INTERVAL);
        let mut reported = 0;
        loop {
            ticks.tick().await;
            let Some(bytes) = pid.and_then(memory::peak_of) else {
                continue;
            };
            // It only grows; a little more is no news.
            if bytes > reported + reported / 16 {
                reported = bytes;
                self.dispatcher.replica_memory(self.id, bytes);
            }
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
                Event::Free { run, infer } => {
                    self.dispatcher.slot_freed(self.id, key(&run)?, infer);
                }
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
