//! What a decision of the scheduler costs, by the number of replicas and of models, and what an
//! entry that waits takes in memory.

use std::time::Duration;

use anyhow::Context as _;
use gateway_scheduler::{Class, Cost, Offer, RevisionLimits, Scheduler, Staging, Time};

use super::ours::Ours;
use super::world::Case;
use super::{PER_CALL, PLAIN};
use crate::say;

/// Requests for each cell of the table.
const N_REQUESTS: f64 = 300_000.0;
const N_WAITING: u64 = 1_000_000;

/// Prints both.
///
/// # Errors
/// When the system does not say how much memory there is in use.
pub(super) fn run(seed: u64) -> anyhow::Result<()> {
    let bytes = bytes_per_entry()?;
    say(format_args!(
        "\nan entry that waits takes {bytes:.0} bytes, beside what it is to send ({N_WAITING} of them)"
    ));
    say(format_args!(
        "{:>8} {:>32} {:>32}",
        "n", "ns a call, one model, n replicas", "ns a call, n models, one each"
    ));
    for n in [1, 100, 1_000, 10_000] {
        let [replicas, models] = [(1, n), (n, 1)]
            .map(|(n_models, n_replicas)| nanos_per_call(n_models, n_replicas, seed));
        say(format_args!("{n:>8} {replicas:>32.0} {models:>32.0}"));
    }
    Ok(())
}

fn nanos_per_call(n_models: u32, n_replicas: u32, seed: u64) -> f64 {
    let mut case = Case {
        curve: PER_CALL,
        load: 0.9,
        n_models,
        n_replicas,
        ..PLAIN
    };
    case.duration = Duration::from_secs_f64(N_REQUESTS / (case.load * case.capacity()));
    let mut policy = Ours::new(&case);
    case.run(&mut policy, seed);
    policy.nanos_per_call()
}

/// Fills the queue of a model that has no replica yet.
fn bytes_per_entry() -> anyhow::Result<f64> {
    let mut scheduler = Scheduler::new();
    let now = Time::default();
    let revision = scheduler.add_revision(
        now,
        RevisionLimits {
            queue_entries: usize::MAX,
            queue_bytes: u64::MAX,
            ..RevisionLimits::default()
        },
    );
    let before = resident_bytes()?;
    for at in 0..N_WAITING {
        let offer = Offer {
            deadline: now.saturating_add(Duration::from_secs(60) + Duration::from_micros(at)),
            cost: Cost::default(),
            staging: Staging::Reported,
            class: Class::Interactive,
        };
        let offered = scheduler.offer(now, revision, offer, ());
        anyhow::ensure!(offered.is_ok(), "not admitted: {offered:?}");
    }
    Ok((resident_bytes()? - before) / N_WAITING as f64)
}

fn resident_bytes() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(1024.0 * kib.context("/proc/self/status has no VmRSS")?)
}
