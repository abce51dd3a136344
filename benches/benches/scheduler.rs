//! What the scheduler costs per entry, through its whole life: offer, stage, staged, run, slot
//! freed, answered; at different numbers of entries waiting, in batches of up to 16 and one by one.
//!
//! `cargo bench -p hearth-benches --bench scheduler`. Medians over rounds; compare ratios within
//! one run only.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_scheduler::{
    Action, Bucket, Cost, Key, Offer, ReplicaCredits, ReplicaId, RevisionId, RevisionLimits,
    Scheduler, Staging, Time,
};

const N_ROUNDS: usize = 21;
const ENTRIES_PER_ROUND: usize = 20_000;
const BUCKET: Bucket = Bucket(0);

/// One revision with one replica of one slot, and so many entries waiting or staged.
struct Cycle {
    scheduler: Scheduler<Arc<()>>,
    revision: RevisionId,
    replica: ReplicaId,
    staging: Staging,
    entry: Arc<()>,
    actions: Vec<Action<Arc<()>>>,
    running: Vec<Key>,
    now: Time,
    /// State of a xorshift generator.
    random: u64,
}

impl Cycle {
    fn new(n_waiting: usize, max_batch: u32, staging: Staging) -> Option<Self> {
        let now = Time::default();
        let mut scheduler = Scheduler::new();
        let revision = scheduler.add_revision(RevisionLimits {
            max_batch,
            queue_entries: usize::MAX,
            queue_bytes: u64::MAX,
            ..RevisionLimits::default()
        });
        let replica = scheduler.add_replica(now, revision)?;
        let credits = ReplicaCredits {
            slots: 1,
            stage_entries: 64,
            stage_bytes: u64::MAX,
            stage_pixels: u64::MAX,
        };
        scheduler.replica_up(now, replica, credits);
        let mut cycle = Self {
            scheduler,
            revision,
            replica,
            staging,
            entry: Arc::new(()),
            actions: Vec::new(),
            running: Vec::new(),
            now,
            random: 0x9E37_79B9_7F4A_7C15,
        };
        for _ in 0..n_waiting {
            cycle.offer();
        }
        cycle.work();
        Some(cycle)
    }

    /// Offers an entry due in one to ten seconds, so that it goes anywhere in the order.
    fn offer(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.now = self.now.saturating_add(Duration::from_micros(1));
        let timeout = Duration::from_micros(1_000_000 + self.random % 9_000_000);
        let offer = Offer {
            deadline: self.now.saturating_add(timeout),
            cost: Cost {
                bytes: 4096,
                pixels: 0,
                items: 1,
            },
            staging: self.staging,
        };
        let entry = Arc::clone(&self.entry);
        black_box(self.scheduler.offer(self.now, self.revision, offer, entry)).ok();
    }

    /// Does what a worker would, except ending the run.
    fn work(&mut self) {
        loop {
            let mut actions = std::mem::take(&mut self.actions);
            self.scheduler.drain_actions(&mut actions);
            if actions.is_empty() {
                self.actions = actions;
                return;
            }
            for action in actions.drain(..) {
                match action {
                    Action::Stage { replica, key, .. } if self.staging == Staging::Reported => {
                        self.scheduler.staged(self.now, replica, key, BUCKET);
                    }
                    Action::Run { batch, .. } => self.running = batch,
                    _ => {}
                }
            }
            self.actions = actions;
        }
    }

    /// Ends a run, answers its entries and offers as many; returns how many.
    fn turn(&mut self) -> usize {
        let batch = std::mem::take(&mut self.running);
        self.scheduler.slot_freed(self.now, self.replica);
        for key in &batch {
            black_box(self.scheduler.answered(self.now, self.replica, *key));
        }
        for _ in 0..batch.len() {
            self.offer();
        }
        self.work();
        batch.len()
    }

    fn nanos_per_entry(&mut self) -> f64 {
        let start = Instant::now();
        let mut n_entries = 0;
        while n_entries < ENTRIES_PER_ROUND {
            n_entries += self.turn();
        }
        start.elapsed().as_nanos() as f64 / n_entries as f64
    }
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn main() {
    println!(
        "{:>8} {:>9} {:>9} {:>12}",
        "waiting", "max batch", "staging", "ns per entry"
    );
    for n_waiting in [1, 1_000, 100_000] {
        for max_batch in [1, 16] {
            for (name, staging) in [
                ("inline", Staging::Inline(BUCKET)),
                ("reported", Staging::Reported),
            ] {
                let Some(mut cycle) = Cycle::new(n_waiting, max_batch, staging) else {
                    continue;
                };
                let mut rounds: Vec<f64> = (0..N_ROUNDS).map(|_| cycle.nanos_per_entry()).collect();
                rounds.sort_by(f64::total_cmp);
                let median = rounds[N_ROUNDS / 2];
                println!("{n_waiting:>8} {max_batch:>9} {name:>9} {median:>12.0}");
            }
        }
    }
}
