//! `hearth serve`: puts the parts together, and takes them apart in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gateway_scheduler::RevisionLimits;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::ServeOptions;
use crate::dispatcher::Dispatcher;
use crate::metrics::Metrics;
use crate::replica::ProcessLauncher;
use crate::rest::{self, Front, Limits};
use crate::{data, server};

/// Serves until SIGTERM or SIGINT, then answers what is in flight and ends the workers. A second
/// signal ends at once.
///
/// # Errors
/// What keeps it from starting; a sentence.
pub(crate) async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    options.check()?;
    let worker = Arc::new(options.worker.clone());
    worker.program()?;
    let _lock = data::lock(&options.data)?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("can't listen on {}", options.listen))?;
    let address = listener.local_addr()?;

    let launcher = Box::new(ProcessLauncher::new(Arc::clone(&worker)));
    let dispatcher = Dispatcher::start(launcher, Arc::new(Metrics::new()));
    let limits = RevisionLimits {
        queue_entries: usize::try_from(options.max_queue)?,
        queue_bytes: options.max_bytes_in_flight,
        ..RevisionLimits::default()
    };
    let catalog = Catalog::open(
        options.store.clone(),
        &options.data,
        Arc::clone(&worker),
        Arc::clone(&dispatcher),
        limits,
    )?;
    let watching = tokio::spawn(Arc::clone(&catalog).watch());

    let front = Front {
        catalog,
        dispatcher: Arc::clone(&dispatcher),
        budget: Budget::new(options.max_bytes_in_flight),
        limits: Limits {
            max_body: options.max_body,
            max_pixels: worker.max_pixels,
            timeout: options.request_timeout(),
        },
    };
    tracing::info!(
        "listening on http://{address} , open to this machine: no credentials are asked for"
    );
    let (drain, draining) = watch::channel(false);
    let router = rest::router(Arc::new(front));
    let serving = tokio::spawn(server::serve(
        listener,
        router,
        options.max_connections,
        draining,
    ));

    asked_to_stop().await?;
    tracing::info!("stopping: requests in flight are answered, new ones are not accepted");
    let stop = async {
        drain.send_replace(true);
        let timeout = Duration::from_secs(options.drain_timeout_s);
        if tokio::time::timeout(timeout, serving).await.is_err() {
            tracing::warn!(
                seconds = timeout.as_secs(),
                "requests in flight were given up"
            );
        }
        watching.abort();
        dispatcher.close().await;
    };
    tokio::select! {
        () = stop => tracing::info!("stopped"),
        stopped = asked_to_stop() => {
            stopped?;
            tracing::warn!("stopping at once");
        }
    }
    Ok(())
}

async fn asked_to_stop() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
