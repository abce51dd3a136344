//! Jobs: calls that nobody waits for, and that nothing loses.
//!
//! What comes is written down before it is acknowledged ([`Ledger`]), and taken from there as there is
//! room for it ([`pump`]).

pub(crate) mod events;
mod ledger;
mod listing;
mod pump;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use workers_protocol::InferError;

use crate::oscar::{Services, random};
use crate::rest::Front;
pub(crate) use ledger::{Count, Ledger, NewJob, Selection, Status, Which};
pub(crate) use listing::Listing;
pub(crate) use pump::Pump;

/// Returns a name for a new job, as OSCAR would: those are names of pods.
///
/// # Errors
/// `Internal` where the system has no randomness.
pub(crate) fn made_up_name(service: &str) -> Result<String, InferError> {
    let stem = match service.len() {
        25.. => service.get(..16).unwrap_or(service),
        _ => service,
    };
    Ok(format!("{stem}-{}", random::uuid()?))
}

impl Front {
    /// Writes jobs down, all or none, and returns their names: of what was announced before, none.
    ///
    /// # Errors
    /// `Overloaded` where there are too many; `Unavailable` when they can't be written.
    pub(crate) async fn announce(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Option<String>>, InferError> {
        announce(&self.services, &self.jobs, jobs).await
    }
}

async fn announce(
    services: &Services,
    ledger: &Ledger,
    jobs: Vec<NewJob>,
) -> Result<Vec<Option<String>>, InferError> {
    let of: BTreeSet<_> = jobs.iter().map(|job| job.service.clone()).collect();
    let names = ledger.announce(jobs).await?;
    // Those of a service that was deleted meanwhile may have come after its others were forgotten.
    for service in of {
        if services.get(&service).is_none() {
            ledger.forget(&service).await?;
        }
    }
    Ok(names)
}

/// Returns what is counted of jobs, as Prometheus reads it.
pub(crate) fn exposition(counts: &BTreeMap<String, Count>) -> String {
    type Pick = fn(&Count) -> Vec<(&'static str, u64)>;
    const METRICS: [(&str, &str, &str, Pick); 4] = [
        (
            "hearth_jobs",
            "gauge",
            "Jobs that are kept, by what became of them",
            |count| {
                vec![
                    ("pending", count.pending.saturating_sub(count.running)),
                    ("running", count.running),
                    ("succeeded", count.succeeded),
                    ("failed", count.failed),
                ]
            },
        ),
        (
            "hearth_jobs_ended",
            "counter",
            "Jobs that have ended",
            |count| {
                vec![
                    ("succeeded", count.ended.succeeded),
                    ("failed", count.ended.failed),
                ]
            },
        ),
        (
            "hearth_jobs_retried",
            "counter",
            "Attempts that failed and were not the last",
            |count| vec![("", count.ended.retried)],
        ),
        (
            "hearth_jobs_announced_again",
            "counter",
            "Announcements of what was announced before",
            |count| vec![("", count.n_known)],
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, pick) in METRICS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let total = if kind == "counter" { "_total" } else { "" };
        for (service, count) in counts {
            for (status, n) in pick(count) {
                let status = match status {
                    "" => String::new(),
                    status => format!(",status=\"{status}\""),
                };
                let _ = writeln!(text, "{name}{total}{{service=\"{service}\"{status}}} {n}");
            }
        }
    }
    text
}

/// Forgets jobs when they have been over for so long.
pub(crate) async fn sweep(ledger: Arc<Ledger>, ttl: Duration) {
    let mut looks = tokio::time::interval((ttl / 2).clamp(SOON, LATE));
    loop {
        looks.tick().await;
        // As much as is forgotten at a time, until nothing is left to be.
        while let Ok(1..) = ledger.sweep(ttl).await {}
    }
}

/// How often is looked for jobs that ended long ago: at most, and at least.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(60);
