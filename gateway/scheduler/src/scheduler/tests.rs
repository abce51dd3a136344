mod policies;

use super::*;
use crate::{BatchLimit, Cost, Death, FailReason, RevisionSnapshot, Snapshot, Staging};

const PICTURE: Staging = Staging::Reported;
const CREDITS: ReplicaCredits = ReplicaCredits {
    slots: 1,
    cores: 1,
    stage_entries: 4,
    stage_bytes: 1000,
    stage_pixels: 1000,
};

/// A scheduler with one revision, whose entries are letters. As many replicas of it are launched as
/// a test asks for.
struct Fixture {
    scheduler: Scheduler<char>,
    revision: RevisionId,
    /// Launched and not yet given to the test.
    starting: Vec<ReplicaId>,
    /// Drained and not yet looked at by the test.
    seen: Vec<Action<char>>,
    /// Runs not ended, by their names.
    runs: Vec<(ReplicaId, Key)>,
}

fn ms(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn tensor(bucket: u64) -> Staging {
    Staging::Inline(Bucket(bucket))
}

fn with_limits(limits: RevisionLimits) -> Fixture {
    let mut scheduler = Scheduler::new();
    let revision = scheduler.add_revision(ms(0), limits);
    let mut f = Fixture {
        scheduler,
        revision,
        starting: Vec::new(),
        seen: Vec::new(),
        runs: Vec::new(),
    };
    f.starting = f.launched();
    f
}

/// A revision that keeps so many replicas, and is known to take 1 ms for a batch of any size. Of one
/// without batches nothing is known.
fn with_replicas(n: usize, max_batch: u32) -> Fixture {
    let mut f = with_limits(RevisionLimits {
        max_batch,
        min_scale: n,
        max_scale: n,
        ..RevisionLimits::default()
    });
    if max_batch > 1 {
        f.seed(&[(1, 1), (max_batch, 1)]);
    }
    f
}

fn with_max_batch(max_batch: u32) -> Fixture {
    with_replicas(1, max_batch)
}

/// A revision with no replica before one is asked for.
fn cold() -> Fixture {
    with_limits(RevisionLimits::default())
}

impl Fixture {
    /// Returns a replica that is up.
    fn replica(&mut self, credits: ReplicaCredits) -> ReplicaId {
        let replica = self.starting.remove(0);
        self.scheduler.replica_up(ms(0), replica, credits);
        replica
    }

    /// Has a replica die, and the one that is launched for it come up.
    fn replaced(&mut self, replica: ReplicaId, death: Death) -> ReplicaId {
        self.scheduler.replica_down(ms(1), replica, death);
        let next = self.launched()[0];
        self.scheduler.replica_up(ms(1), next, CREDITS);
        next
    }

    /// Tells how many milliseconds batches of some sizes take, of buckets 0 to 2.
    fn seed(&mut self, points: &[(u32, u64)]) {
        let points: Vec<_> = points
            .iter()
            .map(|(items, ms)| (*items, Duration::from_millis(*ms)))
            .collect();
        for bucket in 0..3 {
            self.scheduler
                .seed_curve(self.revision, Bucket(bucket), &points);
        }
    }

    fn try_offer(
        &mut self,
        now: Time,
        deadline: Time,
        cost: Cost,
        staging: Staging,
        entry: char,
    ) -> Result<Key, Refused<char>> {
        let offer = Offer {
            deadline,
            cost,
            staging,
            class: Class::Interactive,
        };
        self.scheduler.offer(now, self.revision, offer, entry)
    }

    fn offer(&mut self, deadline_ms: u64, staging: Staging, entry: char) -> Key {
        self.try_offer(ms(0), ms(deadline_ms), Cost::default(), staging, entry)
            .unwrap()
    }

    /// Takes what there is to do, and notes the runs.
    fn look(&mut self) {
        let mut actions = Vec::new();
        self.scheduler.drain_actions(&mut actions);
        for action in actions {
            if let Action::Run { replica, batch, .. } = &action {
                self.runs.push((*replica, batch[0]));
            }
            self.seen.push(action);
        }
    }

    /// What was to be done since the last look. Why a batch was no larger is left to `choices`.
    fn actions(&mut self) -> Vec<Action<char>> {
        self.look();
        for action in &mut self.seen {
            if let Action::Run { why, .. } = action {
                *why = BatchLimit::Ready;
            }
        }
        std::mem::take(&mut self.seen)
    }

    /// The batches run since the last look.
    fn batches(&mut self) -> Vec<(ReplicaId, Vec<Key>)> {
        let run = |action| match action {
            Action::Run { replica, batch, .. } => Some((replica, batch)),
            _ => None,
        };
        self.actions().into_iter().filter_map(run).collect()
    }

    /// The sizes of the batches run since the last look, and why they were no larger.
    fn choices(&mut self) -> Vec<(usize, BatchLimit)> {
        self.look();
        let run = |action| match action {
            Action::Run { batch, why, .. } => Some((batch.len(), why)),
            _ => None,
        };
        std::mem::take(&mut self.seen)
            .into_iter()
            .filter_map(run)
            .collect()
    }

    /// The oldest run of a replica ends.
    fn freed(&mut self, now: Time, replica: ReplicaId) {
        let run = self.oldest_run(replica);
        self.runs.retain(|(_, other)| *other != run);
        self.scheduler.slot_freed(now, replica, run);
    }

    fn oldest_run(&mut self, replica: ReplicaId) -> Key {
        self.look();
        let oldest = self.runs.iter().find(|(at, _)| *at == replica);
        oldest.expect("something runs").1
    }

    fn answered(&mut self, now: Time, replica: ReplicaId, key: Key) -> Option<char> {
        let answered = self.scheduler.answered(now, replica, key);
        answered.map(|answered| answered.entry)
    }

    fn launched(&mut self) -> Vec<ReplicaId> {
        let launch = |action| match action {
            Action::Launch { replica, .. } => Some(replica),
            _ => None,
        };
        self.actions().into_iter().filter_map(launch).collect()
    }

    fn state(&self) -> RevisionSnapshot {
        self.scheduler.revision(self.revision).unwrap()
    }
}

fn stage(replica: ReplicaId, key: Key, entry: char) -> Action<char> {
    Action::Stage {
        replica,
        key,
        class: Class::Interactive,
        entry,
    }
}

fn run(replica: ReplicaId, batch: &[Key]) -> Action<char> {
    Action::Run {
        replica,
        batch: batch.to_vec(),
        why: BatchLimit::Ready,
    }
}

// === Dispatch ===

#[test]
fn an_inline_entry_is_staged_and_run_in_the_turn_it_is_offered() {
    let mut f = with_max_batch(8);
    let replica = f.replica(CREDITS);
    let a = f.offer(10, tensor(0), 'a');
    assert_eq!(f.actions(), [stage(replica, a, 'a'), run(replica, &[a])]);
}

#[test]
fn a_reported_entry_runs_when_it_is_staged_and_not_before() {
    let mut f = with_max_batch(8);
    let replica = f.replica(CREDITS);
    let a = f.offer(10, PICTURE, 'a');
    assert_eq!(f.actions(), [stage(replica, a, 'a')]);
    f.scheduler.staged(ms(1), replica, a, Bucket(0));
    assert_eq!(f.actions(), [run(replica, &[a])]);
}

#[test]
fn a_batch_forms_while_the_slot_is_busy_and_runs_the_moment_it_is_free() {
    let mut f = with_max_batch(8);
    let replica = f.replica(CREDITS);
    let a = f.offer(10, tensor(0), 'a');
    let b = f.offer(10, tensor(0), 'b');
    let c = f.offer(9, tensor(0), 'c');
    assert_eq!(f.batches(), [(replica, vec![a])]);
    f.freed(ms(1), replica);
    assert_eq!(f.batches(), [(replica, vec![c, b])]);
}

#[test]
fn the_most_urgent_entry_decides_the_bucket_and_the_next_slot_takes_another() {
    let mut f = with_limits(RevisionLimits {
        max_batch: 8,
        min_scale: 1,
        ..RevisionLimits::default()
    });
    f.seed(&[(1, 50), (8, 50)]);
    let replica = f.replica(ReplicaCredits {
        slots: 2,
        stage_entries: 8,
        ..CREDITS
    });
    f.offer(1000, tensor(0), 'x');
    f.offer(1000, tensor(0), 'y');
    let a = f.offer(1000, tensor(1), 'a');
    let b = f.offer(800, tensor(2), 'b');
    let c = f.offer(1100, tensor(2), 'c');
    f.actions();
    f.freed(ms(1), replica);
    assert_eq!(f.batches(), [(replica, vec![b, c])]);
    f.freed(ms(1), replica);
    assert_eq!(f.batches(), [(replica, vec![a])]);
}

#[test]
fn a_batch_holds_no_more_items_than_the_limit_and_a_larger_entry_runs_alone() {
    let mut f = with_max_batch(4);
    let replica = f.replica(CREDITS);
    f.offer(1000, tensor(0), 'x');
    let mut offer = |deadline, items| {
        let cost = Cost {
            items,
            ..Cost::default()
        };
        f.try_offer(ms(0), ms(deadline), cost, tensor(0), 'a')
            .unwrap()
    };
    let (a, b, c, large) = (offer(10, 2), offer(11, 2), offer(12, 1), offer(13, 9));
    let mut batches = f.batches();
    for _ in 0..3 {
        f.freed(ms(1), replica);
        batches.extend(f.batches());
    }
    batches.remove(0);
    let expected = [vec![a, b], vec![c], vec![large]];
    assert_eq!(batches, expected.map(|batch| (replica, batch)));
}

#[test]
fn what_waited_for_a_cold_replica_makes_one_batch() {
    let mut f = with_max_batch(3);
    let keys: Vec<Key> = (0..4).map(|n| f.offer(10 + n, tensor(0), 'a')).collect();
    let replica = f.replica(CREDITS);
    assert_eq!(f.batches(), [(replica, keys[..3].to_vec())]);
}

#[test]
fn the_idle_replica_used_last_comes_first_and_then_the_one_with_most_room() {
    let mut f = with_replicas(2, 8);
    let cold = f.replica(CREDITS);
    let warm = f.replica(CREDITS);
    f.offer(10, tensor(0), 'x');
    f.offer(10, tensor(0), 'y');
    f.freed(ms(1), cold);
    f.freed(ms(2), warm);
    f.actions();
    let a = f.offer(10, tensor(0), 'a');
    let b = f.offer(10, tensor(0), 'b');
    assert_eq!(f.batches(), [(warm, vec![a]), (cold, vec![b])]);
    f.offer(10, tensor(0), 'c');
    f.offer(10, tensor(0), 'd');
    let staged = f.state().replicas.into_iter().map(|replica| replica.staged);
    assert_eq!(staged.collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn an_idle_replica_takes_over_half_of_what_is_staged_at_a_busy_one() {
    let mut f = with_replicas(2, 8);
    let busy = f.replica(CREDITS);
    let running = f.offer(10, tensor(0), 'x');
    let a = f.offer(11, tensor(0), 'a');
    let b = f.offer(12, tensor(0), 'b');
    let c = f.offer(13, tensor(0), 'c');
    f.actions();
    let idle = f.replica(CREDITS);
    let (replica, key) = (busy, a);
    assert_eq!(
        f.actions(),
        [
            Action::Forget { replica, key },
            stage(idle, a, 'a'),
            Action::Forget { replica, key: b },
            stage(idle, b, 'b'),
            run(idle, &[a, b]),
        ]
    );
    f.freed(ms(2), busy);
    assert_eq!(f.batches(), [(busy, vec![c])]);
    assert_eq!(f.answered(ms(2), busy, running), Some('x'));
}

#[test]
fn an_entry_changes_its_replica_only_once() {
    let mut f = with_replicas(2, 1);
    let first = f.replica(ReplicaCredits {
        stage_entries: 2,
        ..CREDITS
    });
    f.offer(10, tensor(0), 'x');
    let a = f.offer(11, PICTURE, 'a');
    f.scheduler.staged(ms(1), first, a, Bucket(0));
    let second = f.replica(CREDITS);
    assert_eq!(f.state().counters.taken_back, 1);
    // The second is busy by the time it has prepared `a`, and now the first is idle.
    let y = f.offer(5, tensor(0), 'y');
    f.actions();
    f.freed(ms(2), first);
    f.scheduler.staged(ms(2), second, a, Bucket(0));
    assert_eq!(f.state().counters.taken_back, 1);
    assert_eq!(f.actions(), []);
    f.answered(ms(3), second, y);
    f.freed(ms(3), second);
    assert_eq!(f.batches(), [(second, vec![a])]);
}

#[test]
fn an_inline_entry_takes_a_free_slot_before_an_entry_still_being_prepared() {
    let mut f = with_max_batch(1);
    let replica = f.replica(CREDITS);
    f.offer(10, PICTURE, 'a');
    f.actions();
    let b = f.offer(20, tensor(0), 'b');
    assert_eq!(f.batches(), [(replica, vec![b])]);
}

// === Stage credits ===

#[test]
fn no_more_is_staged_than_the_credits_allow() {
    let mut f = with_max_batch(1);
    f.replica(CREDITS);
    let mut offer = |bytes, pixels| {
        let cost = Cost {
            bytes,
            pixels,
            items: 1,
        };
        f.try_offer(ms(0), ms(10), cost, PICTURE, 'a').unwrap();
        f.state().sent
    };
    assert_eq!(offer(900, 0), 1);
    assert_eq!(offer(101, 0), 1);
    assert_eq!(f.state().waiting, 1);

    let mut f = with_max_batch(1);
    f.replica(CREDITS);
    for _ in 0..9 {
        f.offer(10, PICTURE, 'a');
    }
    assert_eq!((f.state().sent, f.state().waiting), (4, 5));
}

#[test]
fn an_entry_larger_than_all_credits_is_staged_when_nothing_else_is() {
    let mut f = with_max_batch(1);
    let replica = f.replica(CREDITS);
    let small = f.offer(9, PICTURE, 's');
    let cost = Cost {
        pixels: 1001,
        ..Cost::default()
    };
    let large = f.try_offer(ms(0), ms(10), cost, PICTURE, 'l').unwrap();
    assert_eq!((f.state().sent, f.state().waiting), (1, 1));
    f.actions();
    f.scheduler.staged(ms(1), replica, small, Bucket(0));
    assert_eq!(
        f.actions(),
        [run(replica, &[small]), stage(replica, large, 'l')]
    );
}

#[test]
fn a_more_urgent_entry_takes_the_room_of_the_least_urgent_staged_one_once() {
    let mut f = with_max_batch(1);
    let replica = f.replica(ReplicaCredits {
        stage_entries: 2,
        ..CREDITS
    });
    f.offer(1, tensor(0), 'x');
    f.offer(20, tensor(0), 'a');
    let late = f.offer(30, tensor(0), 'b');
    f.offer(30, tensor(0), 'c');
    assert_eq!(f.state().counters.taken_back, 0, "as urgent is not more");
    f.actions();

    let urgent = f.offer(10, tensor(0), 'u');
    let key = late;
    assert_eq!(
        f.actions(),
        [Action::Forget { replica, key }, stage(replica, urgent, 'u')]
    );
    f.freed(ms(1), replica);
    assert_eq!(f.batches(), [(replica, vec![urgent])]);
    // `b` is staged again, and stays although `v` is more urgent; `a` gives way.
    f.offer(11, tensor(0), 'v');
    assert_eq!(f.state().counters.taken_back, 2);
    f.offer(12, tensor(0), 'w');
    assert_eq!(f.state().counters.taken_back, 2);
}

#[test]
fn deadlines_that_are_centuries_away_are_alike_wherever_they_are_compared() {
    let mut f = with_max_batch(1);
    f.replica(ReplicaCredits {
        stage_entries: 1,
        ..CREDITS
    });
    f.offer(1, tensor(0), 'x');
    // 298 and 295 years.
    f.offer(9_400_000_000_000, tensor(0), 'a');
    f.actions();
    f.offer(9_300_000_000_000, tensor(0), 'b');
    assert_eq!(f.actions(), [], "`a` came first");
}

#[test]
fn an_entry_still_being_prepared_is_not_taken_back() {
    let mut f = with_max_batch(1);
    f.replica(ReplicaCredits {
        stage_entries: 1,
        ..CREDITS
    });
    f.offer(20, PICTURE, 'a');
    f.actions();
    f.offer(10, PICTURE, 'b');
    assert_eq!(f.actions(), []);
}

// === Deadlines and callers ===

#[test]
fn an_entry_expires_where_it_waits_and_where_it_is_staged() {
    let mut f = with_max_batch(1);
    let replica = f.replica(ReplicaCredits {
        stage_entries: 1,
        ..CREDITS
    });
    f.offer(100, tensor(0), 'x');
    let staged = f.offer(10, tensor(0), 'a');
    let waiting = f.offer(20, tensor(0), 'b');
    f.actions();
    assert_eq!(f.scheduler.next_wake(), Some(ms(10)));
    f.scheduler.advance(ms(20));
    assert_eq!(
        f.actions(),
        [
            Action::Forget {
                replica,
                key: staged
            },
            Action::Expire {
                entry: 'a',
                key: staged,
                is_hopeless: false,
            },
            Action::Expire {
                entry: 'b',
                key: waiting,
                is_hopeless: false,
            },
        ]
    );
    assert_eq!(f.scheduler.next_wake(), Some(ms(100)));
}

#[test]
fn an_entry_that_expires_while_it_runs_keeps_its_slot_and_loses_its_answer() {
    let mut f = with_max_batch(1);
    let replica = f.replica(CREDITS);
    let a = f.offer(10, tensor(0), 'a');
    let b = f.offer(100, tensor(0), 'b');
    f.actions();
    f.scheduler.advance(ms(10));
    assert_eq!(
        f.actions(),
        [Action::Expire {
            entry: 'a',
            key: a,
            is_hopeless: false,
        }]
    );
    assert_eq!(f.answered(ms(11), replica, a), None);
    assert_eq!(f.actions(), []);
    f.freed(ms(12), replica);
    assert_eq!(f.batches(), [(replica, vec![b])]);
}

#[test]
fn an_expired_entry_does_not_get_into_a_batch_although_nobody_advanced_the_time() {
    let mut f = with_max_batch(8);
    let replica = f.replica(CREDITS);
    f.offer(100, tensor(0), 'x');
    f.offer(10, tensor(0), 'a');
    let b = f.offer(100, tensor(0), 'b');
    f.actions();
    f.freed(ms(10), replica);
    assert_eq!(f.batches(), [(replica, vec![b])]);
}

#[test]
fn an_answer_in_hand_counts_although_the_deadline_has_just_passed() {
    let mut f = with_max_batch(1);
    let replica = f.replica(CREDITS);
    let a = f.offer(10, tensor(0), 'a');
    assert_eq!(f.answered(ms(11), replica, a), Some('a'));
    assert_eq!(f.answered(ms(11), replica, a), None);
}

#[test]
fn a_cancelled_entry_frees_its_place_at_once() {
    let mut f = with_max_batch(1);
    let replica = f.replica(ReplicaCredits {
        stage_entries: 1,
        ..CREDITS
    });
    let running = f.offer(10, tensor(0), 'r');
    let staged = f.offer(11, tensor(0), 's');
    let waiting = f.offer(12, tensor(0), 'w');
    let last = f.offer(13, tensor(0), 'l');
    f.actions();
    assert_eq!(f.scheduler.cancel(ms(1), waiting), Some('w'));
    assert_eq!(f.actions(), []);
    assert_eq!(f.scheduler.cancel(ms(1), staged), Some('s'));
    let key = staged;
    assert_eq!(
        f.actions(),
        [Action::Forget { replica, key }, stage(replica, last, 'l')]
    );
    assert_eq!(f.scheduler.cancel(ms(1), running), Some('r'));
    assert_eq!(f.actions(), []);
    assert_eq!(f.scheduler.cancel(ms(1), running), None);
}

#[test]
fn an_error_for_an_entry_that_never_ran_frees_its_room() {
    let mut f = with_max_batch(1);
    let replica = f.replica(ReplicaCredits {
        stage_entries: 1,
        ..CREDITS
    });
    let corrupt = f.offer(10, PICTURE, 'a');
    let next = f.offer(11, PICTURE, 'b');
    f.actions();
    assert_eq!(f.answered(ms(1), replica, corrupt), Some('a'));
    assert_eq!(f.actions(), [stage(replica, next, 'b')]);
}

// === Admission ===

#[test]
fn the_queue_is_bounded_in_entries_and_in_bytes_and_running_ones_do_not_count() {
    let mut f = with_limits(RevisionLimits {
        queue_entries: 2,
        queue_bytes: 100,
        min_scale: 1,
        ..RevisionLimits::default()
    });
    f.replica(CREDITS);
    let offer = |f: &mut Fixture, bytes| {
        let cost = Cost {
            bytes,
            ..Cost::default()
        };
        f.try_offer(ms(0), ms(10), cost, tensor(0), 'a')
            .map_err(|refused| refused.reason)
    };
    assert!(offer(&mut f, 60).is_ok());
    assert!(offer(&mut f, 60).is_ok());
    assert_eq!(offer(&mut f, 41), Err(RefusedReason::QueueFull));
    assert!(offer(&mut f, 40).is_ok());
    assert_eq!(offer(&mut f, 0), Err(RefusedReason::QueueFull));
}

#[test]
fn a_full_queue_says_when_it_will_have_run() {
    let mut f = with_limits(RevisionLimits {
        queue_entries: 3,
        min_scale: 1,
        ..RevisionLimits::default()
    });
    let replica = f.replica(CREDITS);
    let refuse = |f: &mut Fixture, now| {
        f.try_offer(now, ms(1000), Cost::default(), tensor(0), 'a')
            .unwrap_err()
            .retry_after
    };
    for _ in 0..4 {
        f.offer(1000, tensor(0), 'a');
    }
    assert_eq!(refuse(&mut f, ms(0)), Duration::from_secs(1), "unmeasured");
    f.freed(ms(10), replica);
    f.offer(1000, tensor(0), 'a');
    // One run and three that wait, 10 ms each: half of it is done in 20 ms.
    assert_eq!(refuse(&mut f, ms(10)), Duration::from_millis(20));
    // A run of 50 ms: what waited already was promised 10 ms each, the last one the mean of 30 ms.
    f.freed(ms(60), replica);
    f.offer(1000, tensor(0), 'a');
    assert_eq!(refuse(&mut f, ms(60)), Duration::from_millis(40));
}

#[test]
fn the_slots_of_all_replicas_that_live_empty_the_queue() {
    let mut f = with_limits(RevisionLimits {
        queue_entries: 2,
        min_scale: 2,
        max_scale: 2,
        ..RevisionLimits::default()
    });
    let (first, second) = (f.replica(CREDITS), f.replica(CREDITS));
    for _ in 0..4 {
        f.offer(1000, tensor(0), 'a');
    }
    f.freed(ms(10), first);
    f.freed(ms(10), second);
    for _ in 0..2 {
        f.offer(1000, tensor(0), 'a');
    }
    let refuse = |f: &mut Fixture| {
        f.try_offer(ms(10), ms(1000), Cost::default(), tensor(0), 'a')
            .unwrap_err()
            .retry_after
    };
    assert_eq!(refuse(&mut f), Duration::from_millis(10));
    f.scheduler.replica_down(ms(10), second, Death::Unexplained);
    // The two that ran at the second wait again.
    let waiting = f.state().waiting + f.state().staged;
    assert_eq!(waiting, 4);
    assert_eq!(refuse(&mut f), Duration::from_millis(25));
}

#[test]
fn an_offer_whose_deadline_has_passed_is_refused() {
    let mut f = with_max_batch(1);
    let refused = f
        .try_offer(ms(5), ms(5), Cost::default(), tensor(0), 'a')
        .unwrap_err();
    assert_eq!(
        (refused.entry, refused.reason),
        ('a', RefusedReason::DeadlinePassed)
    );
    assert_eq!(f.actions(), []);
}

#[test]
fn a_retired_revision_serves_what_it_has_and_then_stops_its_replicas() {
    let mut f = with_max_batch(1);
    let replica = f.replica(CREDITS);
    let a = f.offer(10, tensor(0), 'a');
    f.actions();
    f.scheduler.retire_revision(ms(1), f.revision);
    let refused = f
        .try_offer(ms(1), ms(5), Cost::default(), tensor(0), 'b')
        .unwrap_err();
    assert_eq!(refused.reason, RefusedReason::Retired);
    assert_eq!(f.actions(), []);
    f.answered(ms(2), replica, a);
    assert_eq!(f.actions(), [], "its slot is not free");
    f.freed(ms(2), replica);
    assert_eq!(f.actions(), [Action::Stop { replica }]);
    let refused = f
        .try_offer(ms(3), ms(5), Cost::default(), tensor(0), 'b')
        .unwrap_err();
    assert_eq!(refused.reason, RefusedReason::Retired);
    assert_eq!(f.scheduler.snapshot(), Snapshot::default());
}

// === Launching and faults ===

#[test]
fn the_first_entry_launches_a_replica_and_the_second_none() {
    let mut f = cold();
    f.offer(10, tensor(0), 'a');
    assert_eq!(f.launched().len(), 1);
    f.offer(10, tensor(0), 'b');
    assert_eq!(f.launched(), []);
}

#[test]
fn a_replica_that_had_work_and_dies_is_replaced_at_once() {
    let mut f = with_max_batch(1);
    let replica = f.replica(CREDITS);
    let a = f.offer(10, tensor(0), 'a');
    f.freed(ms(1), replica);
    f.answered(ms(1), replica, a);
    f.actions();
    f.scheduler.replica_down(ms(2), replica, Death::Unexplained);
    assert_eq!(f.launched().len(), 1);
    f.scheduler.replica_down(ms(2), replica, Death::Unexplained);
    assert_eq!(f.launched(), [], "a stale id names nothing");
}

#[test]
fn failed_starts_wait_twice_as_long_each_time_and_then_fail_what_waits() {
    let mut f = cold();
    let key = f.offer(100_000, tensor(0), 'a');
    for (dies, restarts) in [(0, 100), (100, 300)] {
        let [replica] = f.launched()[..] else {
            panic!("expected one launch");
        };
        f.scheduler
            .replica_down(ms(dies), replica, Death::Unexplained);
        assert_eq!(f.scheduler.next_wake(), Some(ms(restarts)));
        f.scheduler.advance(ms(restarts - 1));
        assert_eq!(f.actions(), []);
        f.scheduler.advance(ms(restarts));
    }
    let [replica] = f.launched()[..] else {
        panic!("expected one launch");
    };
    f.scheduler
        .replica_down(ms(300), replica, Death::Unexplained);
    let why = FailReason::StartFailed;
    let entry = 'a';
    assert_eq!(f.actions(), [Action::Fail { entry, key, why }]);

    let refused = f
        .try_offer(ms(400), ms(9000), Cost::default(), tensor(0), 'b')
        .unwrap_err();
    assert_eq!(refused.reason, RefusedReason::Unavailable);
    assert_eq!(refused.retry_after, Duration::from_millis(300));
    f.scheduler.advance(ms(700));
    assert_eq!(f.actions(), [], "nobody waits");
    f.try_offer(ms(700), ms(9000), Cost::default(), tensor(0), 'b')
        .unwrap();
    assert_eq!(f.launched().len(), 1);
}

#[test]
fn replicas_that_come_up_and_die_idle_are_replaced_at_once_until_it_is_a_series() {
    let mut f = with_max_batch(1);
    let mut replica = f.replica(CREDITS);
    for _ in 0..5 {
        replica = f.replaced(replica, Death::Unexplained);
    }
    f.scheduler.replica_down(ms(1), replica, Death::Unexplained);
    assert_eq!(f.launched(), []);
    assert_eq!(f.state().start_after, ms(101));
}

#[test]
fn a_replica_that_lived_long_is_replaced_at_once_although_it_had_no_work() {
    let mut f = with_max_batch(1);
    let replica = f.starting.remove(0);
    f.scheduler.replica_down(ms(0), replica, Death::Unexplained);
    f.actions();
    f.scheduler.advance(ms(100));
    let [replica] = f.launched()[..] else {
        panic!("expected one launch");
    };
    f.scheduler.replica_up(ms(100), replica, CREDITS);
    assert_eq!(f.state().failed_starts, 1, "being up proves nothing yet");
    f.scheduler
        .replica_down(ms(30_100), replica, Death::Unexplained);
    assert_eq!(f.launched().len(), 1);
    assert_eq!(f.state().failed_starts, 0);
}

#[test]
fn an_answer_makes_up_for_the_starts_that_failed() {
    let mut f = cold();
    let key = f.offer(1000, tensor(0), 'a');
    let failed = f.launched()[0];
    f.scheduler.replica_down(ms(0), failed, Death::Unexplained);
    f.scheduler.advance(ms(100));
    let replica = f.launched()[0];
    f.scheduler.replica_up(ms(100), replica, CREDITS);
    f.answered(ms(101), replica, key);
    assert_eq!(f.state().failed_starts, 0);
}

#[test]
fn after_a_failed_start_replicas_are_launched_one_at_a_time() {
    let mut f = with_replicas(2, 1);
    for replica in std::mem::take(&mut f.starting) {
        f.scheduler.replica_down(ms(0), replica, Death::Unexplained);
    }
    f.scheduler.advance(ms(200));
    let [first] = f.launched()[..] else {
        panic!("expected one launch");
    };
    f.scheduler.replica_up(ms(300), first, CREDITS);
    assert_eq!(f.launched().len(), 1);
}

#[test]
fn after_a_death_what_ran_is_retried_alone_and_the_rest_goes_on_unharmed() {
    let mut f = with_max_batch(8);
    let first = f.replica(CREDITS);
    let a = f.offer(100, tensor(0), 'a');
    let b = f.offer(350, PICTURE, 'b');
    let c = f.offer(300, tensor(0), 'c');
    f.freed(ms(1), first);
    // Now `a` is being post-processed, `b` prepared, and `c` runs; `d` is staged.
    let d = f.offer(400, tensor(0), 'd');
    f.actions();
    f.scheduler.replica_down(ms(2), first, Death::Unexplained);
    assert_eq!(f.state().counters.retries, 2);
    let [second] = f.launched()[..] else {
        panic!("expected one launch");
    };
    f.scheduler.replica_up(ms(3), second, CREDITS);
    assert_eq!(f.actions(), [stage(second, a, 'a'), run(second, &[a])]);
    f.answered(ms(4), second, a);
    assert_eq!(f.actions(), [], "its slot is not free");
    f.freed(ms(4), second);
    assert_eq!(f.actions(), [stage(second, c, 'c'), run(second, &[c])]);

    f.scheduler.replica_down(ms(6), second, Death::Unexplained);
    let (key, why) = (c, FailReason::Poisoned);
    let actions = f.actions();
    let entry = 'c';
    assert_eq!(actions[0], Action::Fail { entry, key, why });
    let [Action::Launch { replica: third, .. }] = actions[1..] else {
        panic!("expected one launch");
    };
    f.scheduler.replica_up(ms(7), third, CREDITS);
    assert_eq!(
        f.actions(),
        [stage(third, b, 'b'), stage(third, d, 'd'), run(third, &[d])]
    );

    // `b` is in preparation where a replica dies for the second time.
    f.scheduler.replica_down(ms(8), third, Death::Unexplained);
    let [fourth] = f.launched()[..] else {
        panic!("expected one launch");
    };
    f.scheduler.replica_up(ms(9), fourth, CREDITS);
    assert_eq!(f.actions(), [stage(fourth, b, 'b')], "alone");
    f.scheduler.staged(ms(10), fourth, b, Bucket(0));
    f.freed(ms(11), fourth);
    f.answered(ms(11), fourth, b);
    assert_eq!(f.batches().last(), Some(&(fourth, vec![d])));
}

#[test]
fn a_suspect_waits_for_a_replica_to_run_dry_and_is_not_overtaken_by_less_urgent_ones() {
    let mut f = with_replicas(2, 1);
    f.replica(CREDITS);
    f.replica(CREDITS);
    let a = f.offer(100, tensor(0), 'a');
    let b = f.offer(100, tensor(0), 'b');
    let [(died, _), (lives, _)] = f.batches()[..] else {
        panic!("expected two batches");
    };
    f.scheduler.replica_down(ms(1), died, Death::Unexplained);
    f.actions();
    let c = f.offer(200, tensor(0), 'c');
    assert_eq!(f.actions(), [], "`c` waits behind `a`, and `a` for `b`");
    f.freed(ms(2), lives);
    assert_eq!(f.actions(), []);
    f.answered(ms(2), lives, b);
    assert_eq!(f.batches(), [(lives, vec![a])]);
    f.answered(ms(3), lives, a);
    f.freed(ms(3), lives);
    assert_eq!(f.batches(), [(lives, vec![c])]);
}

#[test]
fn what_ran_where_somebody_killed_the_worker_is_retried_beside_others_and_twice_at_most() {
    let mut f = with_max_batch(1);
    let credits = ReplicaCredits {
        slots: 2,
        ..CREDITS
    };
    let mut replica = f.replica(credits);
    let a = f.offer(100_000, tensor(0), 'a');
    let b = f.offer(200_000, tensor(0), 'b');
    assert_eq!(f.batches(), [(replica, vec![a]), (replica, vec![b])]);
    let mut killed = |f: &mut Fixture| {
        f.scheduler.replica_down(ms(1), replica, Death::FromOutside);
        let actions = f.actions();
        let [Action::Launch { replica: next, .. }] = actions[actions.len() - 1..] else {
            panic!("expected one launch");
        };
        replica = next;
        f.scheduler.replica_up(ms(1), replica, credits);
        (actions, replica)
    };
    let (_, second) = killed(&mut f);
    assert_eq!(f.batches(), [(second, vec![a]), (second, vec![b])]);
    f.answered(ms(1), second, a);
    let (actions, _) = killed(&mut f);
    let (key, why) = (b, FailReason::Killed);
    let entry = 'b';
    assert_eq!(actions[0], Action::Fail { entry, key, why });
    // To be killed while starting is no start that failed.
    for _ in 0..4 {
        f.scheduler.replica_down(ms(1), replica, Death::FromOutside);
        replica = f.launched()[0];
    }
    // Of a series each waits as long.
    for n in 0..10 {
        f.scheduler
            .replica_down(ms(1 + 100 * n), replica, Death::FromOutside);
        assert_eq!(f.launched(), []);
        f.scheduler.advance(ms(101 + 100 * n));
        replica = f.launched()[0];
    }
    assert_eq!(f.state().failed_starts, 0);
}

#[test]
fn a_suspect_whose_workers_are_killed_one_after_another_has_them_wait() {
    let mut f = with_max_batch(1);
    let mut replica = f.replica(CREDITS);
    let key = f.offer(100_000, PICTURE, 'a');
    f.actions();
    let deaths = [Death::Unexplained; 2]
        .into_iter()
        .chain([Death::FromOutside; 3]);
    for death in deaths {
        replica = f.replaced(replica, death);
        assert_eq!(f.actions(), [stage(replica, key, 'a')]);
    }
    f.scheduler.replica_down(ms(1), replica, Death::FromOutside);
    assert_eq!(f.launched(), []);
    assert_eq!(f.state().start_after, ms(101));
}

#[test]
fn what_a_crash_ends_beside_others_after_a_kill_is_not_held_against_it() {
    let mut f = with_max_batch(1);
    let first = f.replica(CREDITS);
    let key = f.offer(100_000, tensor(0), 'a');
    f.actions();
    let second = f.replaced(first, Death::FromOutside);
    f.actions();
    f.scheduler.replica_down(ms(1), second, Death::Unexplained);
    let (entry, why) = ('a', FailReason::Killed);
    assert_eq!(f.actions()[0], Action::Fail { entry, key, why });
}

#[test]
fn killed_before_any_was_ever_up_is_a_start_that_failed() {
    let mut f = with_max_batch(1);
    let replica = f.starting.remove(0);
    f.scheduler.replica_down(ms(1), replica, Death::FromOutside);
    assert_eq!(f.launched(), []);
    assert_eq!(f.state().failed_starts, 1);
}

// === Events that do not fit ===

#[test]
fn events_of_a_replica_that_does_not_hold_the_entry_are_ignored() {
    let mut f = with_replicas(2, 1);
    let holder = f.replica(CREDITS);
    let key = f.offer(10, PICTURE, 'a');
    let other = f.replica(CREDITS);
    f.actions();
    f.scheduler.staged(ms(1), other, key, Bucket(0));
    f.scheduler.slot_freed(ms(1), other, key);
    f.scheduler.replica_up(ms(1), other, CREDITS);
    assert_eq!(f.answered(ms(1), other, key), None);
    f.scheduler
        .staged(ms(1), holder, Key::from_bits(77), Bucket(0));
    assert_eq!(f.actions(), []);
    f.scheduler.staged(ms(1), holder, key, Bucket(0));
    f.scheduler.staged(ms(1), holder, key, Bucket(1));
    assert_eq!(f.batches(), [(holder, vec![key])]);
    assert_eq!(f.state().replicas[1].busy_slots, 0);
}

#[test]
fn time_does_not_go_backwards() {
    let mut f = with_max_batch(1);
    f.scheduler.advance(ms(10));
    let refused = f
        .try_offer(ms(0), ms(5), Cost::default(), tensor(0), 'a')
        .unwrap_err();
    assert_eq!(refused.reason, RefusedReason::DeadlinePassed);
}
