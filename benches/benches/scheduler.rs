//! What the scheduler costs per entry, through its whole life: offer, stage, staged, run, slot
//! freed, answered; at different numbers of entries waiting, in batches of up to 16 and one by one,
//! with many replicas, and with many revisions on one device.
//!
//! An entry is three events (offer, slot freed, answered), and a fourth if its staging is reported;
//! a batch shares the one of its slot.
//!
//! `cargo bench -p hearth-benches --bench scheduler`. Medians over rounds; compare ratios within
//! one run only.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway_scheduler::{
    Action, Bucket, Class, Cost, DeviceLimits, Key, Offer, ReplicaCredits, ReplicaId, RevisionId,
    RevisionLimits, Scheduler, Staging, Time,
};

const N_ROUNDS: usize = 21;
const ENTRIES_PER_ROUND: usize = 20_000;
const BUCKET: Bucket = Bucket(0);
const SLOT_TIME: Duration = Duration::from_millis(1);

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Counts the bytes that are in use.
struct Counting;

#[expect(unsafe_code, reason = "counting allocations takes an allocator")]
// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns how long this thread has been on a core, as Linux counts it: other work on the machine is
/// none of ours.
fn time_at_work() -> Duration {
    let nanos = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|stat| stat.split(' ').next()?.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// What is measured.
#[derive(Clone, Copy)]
struct Case {
    revisions: usize,
    /// In each revision.
    replicas: usize,
    /// In all.
    waiting: usize,
    max_batch: u32,
    staging: Staging,
    /// All revisions are on one device, with a core for every second one of them.
    is_shared: bool,
}

/// A scheduler at work, and what its workers run.
struct Cycle {
    case: Case,
    scheduler: Scheduler<Arc<()>>,
    revisions: Vec<RevisionId>,
    next_revision: usize,
    entry: Arc<()>,
    actions: Vec<Action<Arc<()>>>,
    running: VecDeque<(ReplicaId, Vec<Key>)>,
    n_up: usize,
    n_offered: usize,
    now: Time,
    /// State of a xorshift generator.
    random: u64,
}

impl Cycle {
    fn new(case: Case) -> Self {
        let now = Time::default();
        let mut scheduler = Scheduler::new();
        let device = case.is_shared.then(|| {
            scheduler.add_device(DeviceLimits {
                cores: (case.revisions as u32 / 2).max(1),
                memory_bytes: u64::MAX,
            })
        });
        let mut revisions = Vec::new();
        for _ in 0..case.revisions {
            let revision = scheduler.add_revision(
                now,
                RevisionLimits {
                    max_batch: case.max_batch,
                    queue_entries: usize::MAX,
                    queue_bytes: u64::MAX,
                    min_scale: case.replicas,
                    max_scale: case.replicas,
                    run_limit: Duration::from_secs(1 << 30),
                    device,
                    ..RevisionLimits::default()
                },
            );
            let curve = [(1, SLOT_TIME), (case.max_batch, SLOT_TIME)];
            scheduler.seed_curve(revision, BUCKET, &curve);
            revisions.push(revision);
        }
        let mut cycle = Self {
            case,
            scheduler,
            revisions,
            next_revision: 0,
            entry: Arc::new(()),
            actions: Vec::new(),
            running: VecDeque::new(),
            n_up: 0,
            n_offered: 0,
            now,
            random: 0x9E37_79B9_7F4A_7C15,
        };
        cycle.work();
        for _ in 0..case.waiting {
            cycle.offer();
        }
        cycle.work();
        cycle
    }

    /// Offers an entry due in one to ten weeks, so that it goes anywhere in the order and is never
    /// refused.
    fn offer(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let timeout = Duration::from_micros((1_000_000 + self.random % 9_000_000) * 600_000);
        let offer = Offer {
            deadline: self.now.saturating_add(timeout),
            cost: Cost {
                bytes: 4096,
                pixels: 0,
                items: 1,
            },
            staging: self.case.staging,
            class: Class::Interactive,
        };
        let revision = self.revisions[self.next_revision];
        self.next_revision = (self.next_revision + 1) % self.revisions.len();
        let entry = Arc::clone(&self.entry);
        let offered = self.scheduler.offer(self.now, revision, offer, entry);
        self.n_offered += usize::from(black_box(offered).is_ok());
    }

    /// Does what workers would, except ending runs.
    fn work(&mut self) {
        let credits = ReplicaCredits {
            slots: 1,
            cores: 1,
            stage_entries: 64,
            stage_bytes: u64::MAX,
            stage_pixels: u64::MAX,
        };
        loop {
            let mut actions = std::mem::take(&mut self.actions);
            self.scheduler.drain_actions(&mut actions);
            if actions.is_empty() {
                self.actions = actions;
                return;
            }
            for action in actions.drain(..) {
                match action {
                    Action::Launch { replica, .. } => {
                        self.n_up += 1;
                        self.scheduler.replica_up(self.now, replica, credits);
                    }
                    Action::Stage { replica, key, .. }
                        if self.case.staging == Staging::Reported =>
                    {
                        self.scheduler.staged(self.now, replica, key, BUCKET);
                    }
                    Action::Run { replica, batch, .. } => self.running.push_back((replica, batch)),
                    _ => {}
                }
            }
            self.actions = actions;
        }
    }

    /// Ends the oldest run, answers its entries and offers as many; returns how many.
    fn turn(&mut self) -> usize {
        let Some((replica, batch)) = self.running.pop_front() else {
            return 0;
        };
        let Some(run) = batch.first().copied() else {
            return 0;
        };
        // Each run takes the time that it is predicted to, however many there are at once.
        let n_running = self.running.len() as u32 + 1;
        self.now = self.now.saturating_add(SLOT_TIME / n_running);
        self.scheduler.slot_freed(self.now, replica, run);
        for key in &batch {
            black_box(self.scheduler.answered(self.now, replica, *key));
        }
        for _ in 0..batch.len() {
            self.offer();
        }
        self.work();
        batch.len()
    }

    fn nanos_per_entry(&mut self) -> f64 {
        let start = time_at_work();
        let mut n_entries = 0;
        while n_entries < ENTRIES_PER_ROUND {
            match self.turn() {
                0 => return f64::NAN,
                n => n_entries += n,
            }
        }
        let took = time_at_work().saturating_sub(start);
        took.as_nanos() as f64 / n_entries as f64
    }
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn measure(case: Case) {
    let mut cycle = Cycle::new(case);
    let mut rounds: Vec<f64> = (0..N_ROUNDS).map(|_| cycle.nanos_per_entry()).collect();
    rounds.sort_by(f64::total_cmp);
    let median = rounds[N_ROUNDS / 2];
    let n_events = match case.staging {
        Staging::Inline(_) => 2.0,
        Staging::Reported => 3.0,
    } + 1.0 / cycle.mean_batch();
    let staging = match case.staging {
        Staging::Inline(_) => "inline",
        Staging::Reported => "reported",
    };
    println!(
        "{:>9} {:>8} {:>8} {:>9} {staging:>9} {:>6} {median:>12.0} {:>12.0}",
        case.revisions,
        case.replicas,
        case.waiting,
        case.max_batch,
        if case.is_shared { "shared" } else { "own" },
        median / n_events,
    );
}

impl Cycle {
    /// Entries per run, so far.
    fn mean_batch(&self) -> f64 {
        let counters = self
            .scheduler
            .revision(self.revisions[0])
            .map(|revision| revision.counters)
            .unwrap_or_default();
        counters.answered as f64 / (counters.runs as f64).max(1.0)
    }
}

/// Measures what an entry that waits takes.
#[expect(clippy::print_stdout, reason = "the numbers are the result")]
fn measure_memory() {
    for n in [1_000, 100_000] {
        let mut cycle = Cycle::new(Case {
            revisions: 1,
            replicas: 1,
            waiting: 1_000,
            max_batch: 16,
            staging: Staging::Inline(BUCKET),
            is_shared: false,
        });
        let before = ALLOCATED.load(Ordering::Relaxed);
        for _ in 0..n {
            cycle.offer();
        }
        let bytes = ALLOCATED.load(Ordering::Relaxed).saturating_sub(before);
        println!("{} bytes per entry that waits, of {n}", bytes / n);
    }
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
fn main() {
    measure_memory();
    println!(
        "{:>9} {:>8} {:>8} {:>9} {:>9} {:>6} {:>12} {:>12}",
        "revisions",
        "replicas",
        "waiting",
        "max batch",
        "staging",
        "device",
        "ns per entry",
        "per event"
    );
    let inline = Staging::Inline(BUCKET);
    let one = Case {
        revisions: 1,
        replicas: 1,
        waiting: 1_000,
        max_batch: 16,
        staging: inline,
        is_shared: false,
    };
    for waiting in [1, 1_000, 100_000] {
        for max_batch in [1, 16] {
            for staging in [inline, Staging::Reported] {
                measure(Case {
                    waiting,
                    max_batch,
                    staging,
                    ..one
                });
            }
        }
    }
    for replicas in [1, 100, 1_000, 10_000] {
        for (per_replica, max_batch) in [(2, 1), (32, 16)] {
            measure(Case {
                replicas,
                waiting: per_replica * replicas,
                max_batch,
                ..one
            });
        }
    }
    for is_shared in [false, true] {
        measure(Case {
            revisions: 1_000,
            waiting: 4_000,
            max_batch: 1,
            is_shared,
            ..one
        });
    }
}
