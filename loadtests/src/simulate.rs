//! The scheduler in virtual time, beside what most servers do.

mod ours;
mod policy;
mod reference;
mod scaling;
mod world;

use std::time::Duration;

use crate::arrivals::Pattern;
use crate::say;
use ours::Ours;
use reference::Reference;
use world::{Case, Curve, Outcome};

/// As of a convolutional network on a processor: batches cost more than their parts.
const CONVOLUTION: Curve = Curve {
    per_call: Duration::ZERO,
    per_item: Duration::from_millis(20),
    growth: 0.02,
};
/// As of a small network on a GPU: most of a run is overhead.
const PER_CALL: Curve = Curve {
    per_call: Duration::from_millis(5),
    per_item: Duration::from_micros(200),
    growth: 0.0,
};
/// What servers wait for a batch to fill up where they wait.
const WINDOW: Duration = Duration::from_millis(5);

const PLAIN: Case = Case {
    name: "",
    pattern: Pattern::Poisson,
    load: 0.7,
    curve: CONVOLUTION,
    max_batch: 16,
    n_models: 1,
    n_replicas: 4,
    staging: Duration::from_millis(3),
    deadlines: &[Duration::from_secs(1)],
    mean_life: None,
    start: Duration::from_millis(500),
    duration: Duration::from_secs(60),
};

const CASES: &[Case] = &[
    Case {
        name: "convolution at 0.7",
        ..PLAIN
    },
    Case {
        name: "convolution at 2.0",
        load: 2.0,
        ..PLAIN
    },
    Case {
        name: "convolution at 0.7, 100 ms to answer",
        deadlines: &[Duration::from_millis(100)],
        ..PLAIN
    },
    Case {
        name: "convolution at 1.5, 0.2 s or 5 s to answer",
        load: 1.5,
        deadlines: &[Duration::from_millis(200), Duration::from_secs(5)],
        ..PLAIN
    },
    Case {
        name: "per call at 0.2",
        curve: PER_CALL,
        load: 0.2,
        ..PLAIN
    },
    Case {
        name: "per call at 0.8",
        curve: PER_CALL,
        load: 0.8,
        ..PLAIN
    },
    Case {
        name: "per call at 2.0, 50 ms to answer",
        curve: PER_CALL,
        load: 2.0,
        deadlines: &[Duration::from_millis(50)],
        ..PLAIN
    },
    Case {
        name: "bursts of 2.8, convolution at 0.7",
        pattern: Pattern::Bursty,
        ..PLAIN
    },
    Case {
        name: "days from 0 to 2.0, convolution at 1.0",
        pattern: Pattern::Diurnal,
        load: 1.0,
        ..PLAIN
    },
    Case {
        name: "replicas live 20 s, convolution at 0.7",
        mean_life: Some(Duration::from_secs(20)),
        ..PLAIN
    },
    Case {
        name: "100 models of 2 replicas, per call at 0.5",
        curve: PER_CALL,
        load: 0.5,
        n_models: 100,
        n_replicas: 2,
        duration: Duration::from_secs(10),
        ..PLAIN
    },
    Case {
        name: "1,000 replicas, convolution at 1.5",
        load: 1.5,
        n_replicas: 1000,
        duration: Duration::from_secs(10),
        ..PLAIN
    },
];

/// Prints what becomes of the same requests under each policy, and what a decision costs.
///
/// # Errors
/// When the system does not say how much memory there is in use.
pub(crate) fn run(seed: u64) -> anyhow::Result<()> {
    say(format_args!(
        "{:<44} {:<12} {:>8} {:>9} {:>9} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "case",
        "policy",
        "in time",
        "p50 ms",
        "p99 ms",
        "batch",
        "refused",
        "given up",
        "late",
        "busy",
        "wasted"
    ));
    for case in CASES {
        for (name, wait) in [("window 5 ms", WINDOW), ("greedy", Duration::ZERO)] {
            let mut policy = Reference::new(case, wait);
            line(case, name, &case.run(&mut policy, seed));
        }
        let mut policy = Ours::new(case);
        line(case, "hearth", &case.run(&mut policy, seed));
    }
    scaling::run(seed)
}

fn line(case: &Case, policy: &str, outcome: &Outcome) {
    let share = |n: u64| 100.0 * n as f64 / outcome.offered.max(1) as f64;
    let [p50, _, p99, ..] = outcome.latencies.percentiles_ms();
    say(format_args!(
        "{:<44} {policy:<12} {:>7.2}% {p50:>9.1} {p99:>9.1} {:>6.1} {:>7.2}% {:>7.2}% {:>7.2}% {:>7.2}% {:>7.2}%",
        case.name,
        share(outcome.good),
        outcome.n_run_entries as f64 / outcome.n_runs.max(1) as f64,
        share(outcome.refused),
        share(outcome.given_up),
        share(outcome.late),
        100.0 * outcome.slot_seconds / (outcome.seconds * case.n_slots()),
        100.0 * outcome.wasted_seconds / outcome.slot_seconds.max(1e-9),
    ));
}

#[cfg(test)]
mod tests {
    use super::policy::Policy;
    use super::*;

    fn outcome(case: &Case, policy: &mut dyn Policy) -> [u64; 6] {
        let outcome = case.run(policy, 3);
        let accounted = outcome.refused + outcome.good + outcome.late + outcome.given_up;
        assert_eq!(outcome.offered, accounted, "{}: {outcome:?}", case.name);
        [
            outcome.offered,
            outcome.refused,
            outcome.good,
            outcome.late,
            outcome.given_up,
            outcome.n_runs,
        ]
    }

    #[test]
    fn every_request_is_accounted_for_and_a_seed_gives_the_same_outcome() {
        for case in CASES {
            let case = Case {
                n_replicas: case.n_replicas.min(20),
                n_models: case.n_models.min(5),
                duration: Duration::from_secs(3),
                ..*case
            };
            let greedy = || outcome(&case, &mut Reference::new(&case, Duration::ZERO));
            let window = || outcome(&case, &mut Reference::new(&case, WINDOW));
            let ours = || outcome(&case, &mut Ours::new(&case));
            assert_eq!([greedy(), window(), ours()], [greedy(), window(), ours()]);
            assert_eq!(greedy()[0], ours()[0], "not the same requests");
        }
    }

    #[test]
    fn what_is_alone_waits_for_the_window_where_there_is_one() {
        let case = Case {
            load: 0.01,
            duration: Duration::from_secs(3),
            ..PLAIN
        };
        let p50 = |wait| {
            let outcome = case.run(&mut Reference::new(&case, wait), 1);
            outcome.latencies.quantile_ms(0.5)
        };
        let waited = p50(WINDOW) - p50(Duration::ZERO);
        assert!((3.0..=7.0).contains(&waited), "{waited} ms");
    }
}
