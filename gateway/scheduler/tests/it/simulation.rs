//! Four replicas in virtual time, with Poisson arrivals: does the work get done at the rate at
//! which it can be done?
//!
//! A batch of n holds its slot for 2 ms + n × 0.5 ms, so in batches of 16 the replicas together
//! serve 4 × 16 / 10 ms = 6400 entries a second.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use gateway_scheduler::{
    Action, Bucket, Cost, Key, Offer, ReplicaCredits, ReplicaId, RevisionId, RevisionLimits,
    RevisionSnapshot, Scheduler, Staging, Time,
};

const N_REPLICAS: usize = 4;
const MAX_BATCH: u32 = 16;
const CAPACITY_PER_SECOND: f64 = 6400.0;
const SIMULATED: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_millis(100);
/// Until a picture is decoded; any number at once.
const PREPARE: Duration = Duration::from_millis(1);

fn slot_time(batch: usize) -> Duration {
    Duration::from_micros(2000 + 500 * batch as u64)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Staged(ReplicaId, Key),
    RunEnds(ReplicaId, Vec<Key>),
}

struct Simulation {
    scheduler: Scheduler<()>,
    revision: RevisionId,
    staging: Staging,
    arrivals_per_second: f64,
    /// State of a xorshift generator, the same in every run.
    random: u64,
    events: BinaryHeap<Reverse<(Time, Event)>>,
    busy: Duration,
    actions: Vec<Action<()>>,
}

impl Simulation {
    fn new(staging: Staging, load: f64) -> Self {
        let mut scheduler = Scheduler::new();
        let start = Time::default();
        let revision = scheduler.add_revision(RevisionLimits {
            max_batch: MAX_BATCH,
            queue_entries: 320,
            ..RevisionLimits::default()
        });
        for _ in 0..N_REPLICAS {
            let replica = scheduler
                .add_replica(start, revision)
                .expect("the revision is there");
            let credits = ReplicaCredits {
                slots: 1,
                stage_entries: 2 * MAX_BATCH,
                stage_bytes: 1 << 20,
                stage_pixels: 1 << 20,
            };
            scheduler.replica_up(start, replica, credits);
        }
        Self {
            scheduler,
            revision,
            staging,
            arrivals_per_second: load * CAPACITY_PER_SECOND,
            random: 0x9E37_79B9_7F4A_7C15,
            events: BinaryHeap::from([Reverse((start, Event::Arrival))]),
            busy: Duration::ZERO,
            actions: Vec::new(),
        }
    }

    fn until_next_arrival(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let uniform = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - uniform).ln() / self.arrivals_per_second)
    }

    fn run(mut self) -> (RevisionSnapshot, Duration) {
        let end = Time::default().saturating_add(SIMULATED);
        while let Some(Reverse((now, event))) = self.events.pop()
            && now < end
        {
            match event {
                Event::Arrival => {
                    let next = now.saturating_add(self.until_next_arrival());
                    self.events.push(Reverse((next, Event::Arrival)));
                    let offer = Offer {
                        deadline: now.saturating_add(TIMEOUT),
                        cost: Cost::default(),
                        staging: self.staging,
                    };
                    // What is refused is counted by the scheduler.
                    let _ = self.scheduler.offer(now, self.revision, offer, ());
                }
                Event::Staged(replica, key) => {
                    self.scheduler.staged(now, replica, key, Bucket(0));
                }
                Event::RunEnds(replica, batch) => {
                    self.scheduler.slot_freed(now, replica);
                    for key in batch {
                        self.scheduler.answered(now, replica, key);
                    }
                }
            }
            self.carry_out(now);
            let state = self.state();
            let idle = state.replicas.iter().filter(|r| r.busy_slots == 0);
            assert!(
                state.staged + state.waiting == 0 || idle.count() == 0 || state.sent > 0,
                "a replica is idle while something waits: {state:?}"
            );
        }
        (self.state(), self.busy)
    }

    fn carry_out(&mut self, now: Time) {
        self.scheduler.drain_actions(&mut self.actions);
        for action in self.actions.drain(..) {
            let event = match action {
                Action::Run { replica, batch } => {
                    let slot_time = slot_time(batch.len());
                    self.busy += slot_time;
                    let end = now.saturating_add(slot_time);
                    (end, Event::RunEnds(replica, batch))
                }
                Action::Stage { replica, key, .. } if self.staging == Staging::Reported => {
                    let end = now.saturating_add(PREPARE);
                    (end, Event::Staged(replica, key))
                }
                _ => continue,
            };
            self.events.push(Reverse(event));
        }
    }

    fn state(&self) -> RevisionSnapshot {
        self.scheduler.snapshot().revisions.remove(0)
    }
}

#[test]
fn at_twice_the_capacity_the_goodput_is_the_capacity() {
    for staging in [Staging::Inline(Bucket(0)), Staging::Reported] {
        let (state, busy) = Simulation::new(staging, 2.0).run();
        let goodput = state.counters.answered as f64 / SIMULATED.as_secs_f64();
        assert!(
            goodput > 0.98 * CAPACITY_PER_SECOND,
            "{staging:?}: {goodput} entries a second"
        );
        let utilisation = busy.as_secs_f64() / SIMULATED.as_secs_f64() / N_REPLICAS as f64;
        assert!(utilisation > 0.99, "{staging:?}: slots busy {utilisation}");
        assert_eq!(state.counters.expired, 0, "what is admitted is in time");
    }
}

#[test]
fn at_half_the_capacity_nothing_is_refused_or_late_and_batches_are_small() {
    for staging in [Staging::Inline(Bucket(0)), Staging::Reported] {
        let (state, _) = Simulation::new(staging, 0.5).run();
        let counters = state.counters;
        let n_left = (state.waiting + state.sent + state.staged + state.running) as u64;
        assert_eq!(counters.answered + n_left, counters.offered);
        let mean_batch = counters.answered as f64 / counters.runs as f64;
        assert!(
            (1.5..6.0).contains(&mean_batch),
            "{staging:?}: {mean_batch}"
        );
    }
}
