//! `hearth serve`: puts the parts together, and takes them apart in order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gateway_objects::Watcher;
use gateway_scheduler::RevisionLimits;
use gateway_script::{Runner, RunnerOptions};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::auth::{Auth, Tokens};
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::{SUPERVISE, ServeOptions};
use crate::dispatcher::Dispatcher;
use crate::jobs::events::Announcer;
use crate::jobs::{Ledger, Listing, Pump, sweep};
use crate::launcher::Pool;
use crate::measurements::Measurements;
use crate::metrics::Metrics;
use crate::objects::{Endpoint, Objects};
use crate::oscar::{Services, keep_places};
use crate::replica::ProcessLauncher;
use crate::rest::{self, Front, Guard, Limits};
use crate::server::Protocol;
use crate::shared_memory::SharedMemory;
use crate::storage::{Account, Calls, Own, Providers, S3, Storage};
use crate::tls::Certificate;
use crate::trace::Tracer;
use crate::work::Videos;
use crate::{data, grpc, server};

/// Serves until SIGTERM or SIGINT, then answers what is in flight and ends the workers. A second
/// signal ends at once.
///
/// # Errors
/// What keeps it from starting; a sentence.
pub(crate) async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    options.check()?;
    let administrator = options.credentials.administrator()?;
    let certificate = options.tls.files().map(Certificate::open).transpose()?;
    let worker = Arc::new(options.worker.clone());
    worker.program()?;
    let _lock = data::lock(&options.data)?;
    let listener = server::listen(options.listen)
        .with_context(|| format!("can't listen on {}", options.listen))?;
    let address = listener.local_addr()?;
    let grpc_listener = match options.grpc_listen.0 {
        Some(address) => Some(
            server::listen(address)
                .with_context(|| format!("can't listen on {address} for gRPC"))?,
        ),
        None => None,
    };
    let s3_listener = match options.storage.listen() {
        Some(address) => Some(server::listen(address).with_context(|| {
            format!("can't listen on {address} for S3: --s3-listen takes another address, or `off`")
        })?),
        None => None,
    };
    let tracer = Arc::new(Tracer::start(options.otlp_endpoint.as_deref())?);

    let pool = Pool::new(Arc::clone(&worker), usize::try_from(options.spare_workers)?);
    let launcher = Box::new(ProcessLauncher::new(Arc::clone(&pool)));
    let device = options.device();
    let dispatcher = Dispatcher::start(launcher, Arc::new(Metrics::new()), device);
    let limits = RevisionLimits {
        queue_entries: usize::try_from(options.max_queue)?,
        queue_bytes: options.max_bytes_in_flight,
        run_limit: Duration::from_secs(options.run_limit_s),
        idle_window: Duration::from_secs(options.idle_window_s),
        ..RevisionLimits::default()
    };
    let measurements = Measurements::open(&options.data, Arc::clone(&worker))?;
    let catalog = Catalog::open(
        options.store.clone(),
        &options.data,
        Arc::clone(&worker),
        Arc::clone(&dispatcher),
        Arc::clone(&measurements),
        limits,
    )?;
    let budget = Budget::new(options.max_bytes_in_flight);
    let services = Services::open(&options.data, Arc::clone(&catalog), Arc::clone(&dispatcher))?;
    let s3_address = s3_listener
        .as_ref()
        .map(TcpListener::local_addr)
        .transpose()?;
    let objects = Arc::new(objects(&options, s3_address)?);
    let jobs = Ledger::open(&options.data)?;
    let watcher: Arc<dyn Watcher> = Arc::new(Announcer {
        services: Arc::clone(&services),
        jobs: Arc::clone(&jobs),
    });
    let providers = Arc::new(providers(&options, &objects, &watcher)?);
    let runner = Runner::open(RunnerOptions {
        argument: SUPERVISE,
        is_host_allowed: options.scripts.allow_host_scripts,
        is_open: administrator.is_none(),
        slots: options.scripts.slots(),
        max_waiting: usize::try_from(options.max_queue)?,
        data: options.data.clone(),
        secrets: options.secrets(),
    })
    .with_context(|| format!("{} can't take scripts", options.data.display()))?;
    if options.scripts.allow_host_scripts {
        // Whether it can is better known now than when somebody needs it.
        if let Err(error) = runner.check().await {
            tracing::warn!("{error}");
        }
    }
    let acceptor = |protocol: Protocol| {
        let accept = |certificate: &Arc<Certificate>| certificate.acceptor(protocol.name());
        certificate.as_ref().map(accept).transpose()
    };
    let (http_tls, grpc_tls) = (acceptor(Protocol::Http)?, acceptor(Protocol::Grpc)?);
    let s3_tls = http_tls.clone();
    let mut background = JoinSet::new();
    if let Some(certificate) = certificate.clone() {
        background.spawn(certificate.watch());
    }
    background.spawn(Arc::clone(&services).follow_models());
    background.spawn(Arc::clone(&objects).sweep());
    background.spawn(Arc::clone(&catalog).watch());
    if options.spare_workers > 0 {
        let (catalog, pool) = (Arc::clone(&catalog), Arc::clone(&pool));
        background.spawn(async move {
            // What is checked at the start is in a hurry too.
            catalog.ready().await;
            if let Err(error) = pool.keep().await {
                tracing::error!(%error, "no spare workers are kept");
            }
        });
    }
    background.spawn(
        Arc::clone(&measurements).keep_learned(Arc::clone(&catalog), Arc::clone(&dispatcher)),
    );
    if options.measure_models {
        background.spawn(Arc::clone(&measurements).fill(Arc::clone(&catalog), Arc::clone(&budget)));
    }

    let tokens = Arc::clone(&services) as Arc<dyn Tokens>;
    let events = options.jobs.events_token(&options.data)?;
    let auth = Auth::new(administrator, tokens, events);
    let videos = Videos::open(
        &options.data,
        options.videos.ffmpeg.clone(),
        options.videos.slots(),
        options.videos.max_video,
    )
    .with_context(|| format!("{} can't take videos", options.data.display()))?;
    let front = Front {
        catalog: Arc::clone(&catalog),
        dispatcher: Arc::clone(&dispatcher),
        budget,
        tracer: Arc::clone(&tracer),
        guard: Guard::new(auth.is_open(), options.cors_origins.clone()),
        auth,
        shared_memory: SharedMemory::new(options.offers_shared_memory()),
        limits: Limits {
            max_body: options.max_body,
            max_bytes: options.max_bytes_in_flight,
            listing: options.jobs.listing(),
            max_pixels: worker.max_pixels,
            timeout: options.request_timeout(),
            script_timeout: options.scripts.timeout(),
        },
        services,
        providers,
        objects: Arc::clone(&objects),
        jobs: Arc::clone(&jobs),
        runner: Arc::clone(&runner),
        videos,
        started: OffsetDateTime::now_utc(),
    };
    let (drain, draining) = watch::channel(false);
    let front = Arc::new(front);
    let listing = Listing {
        front: Arc::clone(&front),
        interval: options.jobs.listing_interval(),
        is_backfill: options.jobs.backfill,
    };
    if !listing.interval.is_zero() {
        background.spawn(listing.run());
    }
    background.spawn(sweep(Arc::clone(&jobs), options.jobs.ttl()));
    // The other half is for those who wait.
    let pump = Pump::new(Arc::clone(&front), options.max_bytes_in_flight / 2);
    let pump = tokio::spawn(pump.run(draining.clone()));
    let room = Arc::new(Semaphore::new(options.max_connections as usize));
    background.spawn(keep_places(Arc::clone(&front)));
    // Before anybody can be answered, and know that it runs.
    let mut stopping = Stopping::new()?;
    let mut serving = JoinSet::new();
    if let Some(listener) = grpc_listener {
        let limit = usize::try_from(options.grpc_max_message)?;
        tracing::info!("gRPC on {}", listener.local_addr()?);
        serving.spawn(server::serve(
            listener,
            Protocol::Grpc,
            grpc_tls,
            grpc::router(Arc::clone(&front), limit, &draining),
            Arc::clone(&room),
            draining.clone(),
        ));
    }
    if let (Some(listener), Some(service)) = (s3_listener, objects.service(watcher)) {
        let scheme = if s3_tls.is_some() { "https" } else { "http" };
        tracing::info!("S3 on {scheme}://{}", listener.local_addr()?);
        serving.spawn(server::serve(
            listener,
            Protocol::Http,
            s3_tls,
            rest::s3::router(Arc::clone(&front), service),
            Arc::clone(&room),
            draining.clone(),
        ));
    }
    let (scheme, who) = (
        if certificate.is_some() {
            "https"
        } else {
            "http"
        },
        match front.auth.is_open() {
            true => "open to this machine: no credentials are asked for",
            false => "credentials are asked for",
        },
    );
    tracing::info!("listening on {scheme}://{address} , {who}");
    if let (Some(exposed), None) = (options.exposed(), &certificate) {
        tracing::warn!(
            "credentials reach {exposed} unencrypted: use --tls-cert and --tls-key, or a proxy that speaks TLS"
        );
    }
    serving.spawn(server::serve(
        listener,
        Protocol::Http,
        http_tls,
        rest::router(front),
        room,
        draining,
    ));

    stopping.asked().await;
    tracing::info!("stopping: requests in flight are answered, new ones are not accepted");
    let stop = async {
        drain.send_replace(true);
        let timeout = Duration::from_secs(options.drain_timeout_s);
        let stop_pump = pump.abort_handle();
        let drained = async { tokio::join!(serving.join_all(), pump) };
        if tokio::time::timeout(timeout, drained).await.is_err() {
            tracing::warn!(
                seconds = timeout.as_secs(),
                "requests in flight were given up, and jobs stopped: those begin again at the next start"
            );
            stop_pump.abort();
        }
        background.shutdown().await;
        measurements
            .keep(&catalog, &dispatcher, &mut HashMap::new())
            .await;
        tokio::join!(dispatcher.close(), pool.close(), runner.close());
        // What runs no more has nothing to write.
        let _ = tokio::task::spawn_blocking(move || jobs.close()).await;
        // Waits for the collector. What of it panics has said so.
        let _ = tokio::task::spawn_blocking(move || tracer.close()).await;
    };
    tokio::select! {
        () = stop => tracing::info!("stopped"),
        () = stopping.asked() => tracing::warn!("stopping at once"),
    }
    Ok(())
}

/// Returns the storage providers that the operator names; `minio.default` is where the objects are.
fn providers(
    options: &ServeOptions,
    objects: &Objects,
    watcher: &Arc<dyn Watcher>,
) -> anyhow::Result<Providers> {
    let calls = Calls::new();
    let default = match objects {
        Objects::Own { store, .. } => Storage::Own(Own {
            store: Arc::clone(store),
            watcher: Arc::clone(watcher),
        }),
        Objects::External(minio) => {
            let account = Account::minio(minio).context("MINIO_ENDPOINT")?;
            let s3 = S3::new("minio.default".to_owned(), account.own(), calls.clone());
            Storage::S3(Arc::new(s3))
        }
    };
    let folders = options.storage.folders.clone();
    Ok(Providers::new(Some(default), folders, calls))
}

/// Opens the store in the data folder, or says where another one is.
fn objects(options: &ServeOptions, address: Option<SocketAddr>) -> anyhow::Result<Objects> {
    let storage = &options.storage;
    if let Some(minio) = storage.minio() {
        return Ok(Objects::External(minio));
    }
    let is_tls = options.tls.files().is_some();
    let endpoint = match (&storage.s3_endpoint, address) {
        (_, None) => Endpoint::Off,
        (Some(url), _) => Endpoint::Url(url.clone()),
        (None, Some(address)) => Endpoint::at(address, is_tls),
    };
    let region = storage.minio_region.clone();
    Objects::open_own(&options.data, storage.keys(), region, endpoint)
}

/// The signals that ask to stop; while this is there they do nothing else.
struct Stopping {
    terminate: Signal,
    interrupt: Signal,
}

impl Stopping {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until somebody asks.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
