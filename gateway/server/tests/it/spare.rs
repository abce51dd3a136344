//! Workers that are started ahead.

use rustix::process::Signal;

use crate::add_one::{post, sum};
use crate::hearth::{Hearth, Store, eventually, is_alive, kill};

fn start() -> Hearth {
    let store = Store::new().with_tiny("add_one");
    Hearth::start(store, &["--spare-workers", "1"])
}

/// Waits until there are so many workers besides these, and returns them.
fn await_others(hearth: &Hearth, known: &[u32], n_others: usize) -> Vec<u32> {
    eventually(&format!("{n_others} workers besides {known:?}"), || {
        let mut workers = hearth.workers();
        workers.retain(|worker| !known.contains(worker));
        (workers.len() == n_others).then_some(workers)
    })
}

#[test]
fn a_start_takes_a_spare_worker_and_another_takes_its_place() {
    let hearth = start();
    let spare = await_others(&hearth, &[], 1)[0];
    assert_eq!(hearth.metric("worker_launches_total", "add_one"), 0.0);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    assert!(is_alive(spare));
    await_others(&hearth, &[spare], 1);
    assert_eq!(hearth.metric("worker_launches_total", "add_one"), 1.0);
    let log = hearth.log();
    let taken = format!("pid={spare} is_spare=true");
    assert!(log.contains(&taken), "{log}");

    // The one that was taken serves, and the other does not.
    kill(spare, Signal::KILL);
    assert_eq!(sum(&post(&hearth, 2)), 3.0);
    assert_eq!(hearth.metric("worker_crashes_total", "add_one"), 1.0);
    hearth.stop();
}

#[test]
fn a_spare_worker_that_dies_is_replaced_and_counts_as_nothing() {
    let hearth = start();
    let spare = await_others(&hearth, &[], 1)[0];
    kill(spare, Signal::KILL);
    eventually("it is dead", || (!is_alive(spare)).then_some(()));
    // With the next one there or not.
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    await_others(&hearth, &[spare], 2);
    for metric in ["worker_crashes_total", "worker_failed_starts_total"] {
        assert_eq!(hearth.metric(metric, "add_one"), 0.0);
    }
    hearth.stop();
}

#[test]
fn spare_workers_end_with_a_gateway_that_is_killed() {
    let mut hearth = start();
    let spare = await_others(&hearth, &[], 1)[0];
    kill(hearth.pid(), Signal::KILL);
    hearth.wait();
    assert!(!is_alive(spare));
}
