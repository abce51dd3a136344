//! One policy at a time, with numbers that can be checked in the head.

use super::*;
use crate::{Counters, Death};

const INLINE: Staging = Staging::Inline(Bucket(0));
const ONE: Cost = Cost {
    bytes: 0,
    pixels: 0,
    items: 1,
};
const ROOMY: ReplicaCredits = ReplicaCredits {
    slots: 1,
    cores: 1,
    stage_entries: 64,
    stage_bytes: u64::MAX,
    stage_pixels: u64::MAX,
};

fn us(us: u64) -> Time {
    Time::from_nanos(us * 1000)
}

fn s(s: u64) -> Time {
    ms(s * 1000)
}

/// A revision with one replica that is up, about whose batches so much is known.
fn seeded(max_batch: u32, points: &[(u32, u64)]) -> (Fixture, ReplicaId) {
    let mut f = with_limits(RevisionLimits {
        max_batch,
        min_scale: 1,
        ..RevisionLimits::default()
    });
    f.seed(points);
    let replica = f.replica(ROOMY);
    (f, replica)
}

fn late(predicted_ms: u64) -> RefusedReason {
    RefusedReason::Late {
        predicted: Duration::from_millis(predicted_ms),
    }
}

impl Fixture {
    fn offer_at(&mut self, now: Time, deadline: Time) -> Result<Key, RefusedReason> {
        self.try_offer(now, deadline, ONE, INLINE, 'e')
            .map_err(|refused| refused.reason)
    }

    fn offer_bulk(&mut self, now: Time) -> Result<Key, RefusedReason> {
        self.offer_bulk_of(now, Time::MAX, ONE)
    }

    fn offer_bulk_of(
        &mut self,
        now: Time,
        deadline: Time,
        cost: Cost,
    ) -> Result<Key, RefusedReason> {
        let offer = Offer {
            deadline,
            cost,
            staging: INLINE,
            class: Class::Bulk,
        };
        let offered = self.scheduler.offer(now, self.revision, offer, 'b');
        offered.map_err(|refused| refused.reason)
    }

    /// Items of bulk asked for since the last look.
    fn pulled(&mut self) -> u32 {
        let items = |action: Action<char>| match action {
            Action::Pull { items, .. } => Some(items),
            _ => None,
        };
        self.actions().into_iter().filter_map(items).sum()
    }

    /// Lets time pass as its caller would: whenever the scheduler wants to be woken.
    fn pass(&mut self, to: Time) {
        while let Some(wake) = self.scheduler.next_wake().filter(|wake| *wake <= to) {
            self.scheduler.advance(wake);
        }
        self.scheduler.advance(to);
    }

    fn counters(&self) -> Counters {
        self.state().counters
    }
}

// === The size of a batch ===

#[test]
fn without_anything_known_sizes_climb_by_doubling_while_that_pays() {
    let (mut f, replica) = seeded(8, &[]);
    for _ in 0..60 {
        f.offer_at(ms(0), s(100)).unwrap();
    }
    let mut sizes = Vec::new();
    for run in 1..9 {
        sizes.extend(f.choices());
        f.freed(ms(10 * run), replica);
    }
    let (items, whys): (Vec<usize>, Vec<BatchLimit>) = sizes.into_iter().unzip();
    assert_eq!(items, [1, 1, 2, 2, 4, 4, 8, 8]);
    assert!(whys.iter().all(|why| *why == BatchLimit::Probe));
    assert_eq!(f.choices(), [(8, BatchLimit::Max)]);
}

#[test]
fn a_batch_is_no_larger_than_pays() {
    let (mut f, replica) = seeded(8, &[(1, 10), (2, 10), (4, 40)]);
    for _ in 0..6 {
        f.offer_at(ms(0), s(10)).unwrap();
    }
    assert_eq!(f.choices(), [(1, BatchLimit::Ready)]);
    f.freed(ms(10), replica);
    assert_eq!(f.choices(), [(2, BatchLimit::Cost)]);
}

#[test]
fn a_batch_is_no_larger_than_its_most_urgent_entry_has_time_for() {
    // 5 ms more for each.
    let (mut f, replica) = seeded(8, &[(1, 10), (8, 45)]);
    f.offer_at(ms(0), s(10)).unwrap();
    f.choices();
    for _ in 0..7 {
        f.offer_at(ms(0), s(10)).unwrap();
    }
    f.offer_at(ms(0), ms(40)).unwrap();
    f.freed(ms(10), replica);
    assert_eq!(f.choices(), [(4, BatchLimit::Deadline)], "30 ms are left");
}

#[test]
fn what_is_ready_is_split_over_the_slots_that_are_free() {
    let mut f = with_limits(RevisionLimits {
        max_batch: 8,
        min_scale: 1,
        ..RevisionLimits::default()
    });
    f.seed(&[(1, 10), (8, 10)]);
    for _ in 0..5 {
        f.offer_at(ms(0), s(10)).unwrap();
    }
    f.replica(ReplicaCredits { slots: 2, ..ROOMY });
    assert_eq!(
        f.choices(),
        [(3, BatchLimit::Split), (2, BatchLimit::Ready)]
    );
}

// === Naming ahead ===

#[test]
fn the_next_run_is_named_a_message_s_way_before_the_slot_is_free_and_not_earlier() {
    let (mut f, replica) = seeded(1, &[(1, 10)]);
    f.offer_at(ms(0), s(10)).unwrap();
    f.offer_at(us(9_840), s(10)).unwrap();
    assert_eq!(f.batches().len(), 1);
    f.offer_at(us(9_860), s(10)).unwrap();
    assert_eq!(f.batches().len(), 1);
    f.offer_at(us(9_990), s(10)).unwrap();
    assert_eq!(f.batches(), [], "one at most");
    let snapshot = f.state().replicas.remove(0);
    assert_eq!((snapshot.busy_slots, snapshot.named_ahead), (1, 1));

    // It begins when the one before it ends, and is measured from there.
    f.freed(ms(12), replica);
    f.freed(ms(22), replica);
    let point = f.state().curves[0].points[0];
    assert_eq!(point.runs, 4, "two were seeded");
    assert_eq!(point.slot_time, Duration::from_micros(10_500));
}

#[test]
fn of_short_runs_several_are_named_ahead_as_far_as_they_end_soon() {
    let (mut f, replica) = seeded(1, &[(1, 2)]);
    for _ in 0..6 {
        f.offer_at(ms(0), s(10)).unwrap();
    }
    assert_eq!(f.batches().len(), 3, "those named before take 6 ms");
    f.freed(ms(2), replica);
    assert_eq!(f.batches().len(), 1);

    // Two ends that are heard of together are not two runs of which one took no time.
    let run = f.oldest_run(replica);
    f.scheduler
        .engine_took(ms(6), replica, run, Duration::from_millis(2));
    f.freed(ms(6), replica);
    let run = f.oldest_run(replica);
    f.scheduler
        .engine_took(ms(6), replica, run, Duration::from_millis(2));
    let before = f.state().curves[0].points[0].slot_time;
    f.freed(ms(6), replica);
    let after = f.state().curves[0].points[0].slot_time;
    assert!(after >= Duration::from_millis(2), "{before:?} {after:?}");
}

#[test]
fn nothing_is_named_ahead_while_others_wait_for_the_cores() {
    let mut two = Shared::new(1, u64::MAX, &[RevisionLimits::default(); 2]);
    let [a, b] = two.up(&[ROOMY; 2])[..] else {
        panic!("there are two");
    };
    two.offer(us(0), 0, s(10));
    two.offer(us(0), 0, s(20));
    two.offer(us(0), 1, s(30));
    assert_eq!(two.ran(), [a]);
    two.offer(us(9_900), 0, s(15));
    assert_eq!(two.ran(), [], "it would take the core past the other");
    two.freed(ms(10), a);
    assert_eq!(two.ran(), [a], "it is more urgent");
    two.freed(ms(20), a);
    two.freed(ms(30), a);
    assert_eq!(two.ran(), [a, b]);
}

// === Admission ===

#[test]
fn what_would_be_late_is_refused_with_when_it_would_be_done() {
    let (mut f, _) = seeded(1, &[(1, 10)]);
    f.offer_at(ms(0), ms(100)).unwrap();
    f.offer_at(ms(0), ms(100)).unwrap();
    let predicted = Duration::from_millis(30);
    assert_eq!(
        f.offer_at(ms(0), ms(110)),
        Ok(Key::from_bits(2)),
        "there is time"
    );
    let refused = f.try_offer(ms(0), ms(15), ONE, INLINE, 'e').unwrap_err();
    let at_once = Duration::from_millis(20);
    assert_eq!(
        refused.reason,
        RefusedReason::Late { predicted: at_once },
        "it would go before those with more time, and after the one that runs"
    );
    // One runs and two wait: half of it is done in 15 ms.
    assert_eq!(refused.retry_after, predicted / 2);
}

#[test]
fn a_free_slot_takes_what_one_of_a_long_run_beside_it_would_make_late() {
    let mut f = with_limits(RevisionLimits {
        min_scale: 1,
        ..RevisionLimits::default()
    });
    f.seed(&[(1, 1000)]);
    f.replica(ReplicaCredits { slots: 2, ..ROOMY });
    f.offer_at(ms(0), s(10)).unwrap();
    f.offer_at(ms(0), ms(1100)).unwrap();
    assert_eq!(f.batches().len(), 2);
}

#[test]
fn what_would_break_a_promise_is_refused() {
    let (mut f, _) = seeded(1, &[(1, 10)]);
    f.offer_at(ms(0), ms(100)).unwrap();
    f.offer_at(ms(0), ms(25)).unwrap();
    let predicted = Duration::from_millis(20);
    assert_eq!(
        f.offer_at(ms(0), ms(22)),
        Err(RefusedReason::Crowded { predicted })
    );
    assert!(f.offer_at(ms(0), ms(50)).is_ok(), "behind it is room");
}

#[test]
fn for_a_second_after_a_refusal_only_what_begins_within_half_its_time_is_admitted() {
    let crowded = |offered| matches!(offered, Err(RefusedReason::Crowded { .. }));
    for is_refused in [false, true] {
        let (mut f, _) = seeded(1, &[(1, 1000)]);
        for _ in 0..6 {
            f.offer_at(ms(0), s(10)).unwrap();
        }
        if is_refused {
            assert!(f.offer_at(ms(0), ms(500)).is_err());
        }
        // It would begin after 6 s, and end after 7.
        let patient = f.offer_at(ms(0), s(13)).unwrap();
        f.scheduler.cancel(ms(0), patient);
        assert_eq!(crowded(f.offer_at(ms(0), s(10))), is_refused);
        if is_refused {
            assert!(crowded(f.offer_at(ms(1), s(10))));
            assert!(f.offer_at(ms(1002), s(11)).is_ok());
        }
    }
}

#[test]
fn an_entry_too_slow_for_an_idle_machine_is_tried_every_ten_seconds() {
    let (mut f, replica) = seeded(1, &[(1, 10_000)]);
    let is_late = |offered| matches!(offered, Err(RefusedReason::Late { .. }));
    let tried = f.offer_at(ms(0), s(1)).unwrap();
    assert_eq!(f.batches(), [(replica, vec![tried])], "it is not hopeless");
    assert!(is_late(f.offer_at(ms(0), s(1))));
    f.freed(ms(10), replica);
    f.answered(ms(10), replica, tried);
    assert!(is_late(f.offer_at(ms(20), ms(1020))));
    assert!(f.offer_at(s(11), s(12)).is_ok());
}

#[test]
fn an_offer_that_a_cold_start_makes_late_is_refused_and_starts_it_all_the_same() {
    let mut f = cold();
    let key = f.offer_at(ms(0), s(100)).unwrap();
    let replica = f.launched()[0];
    f.scheduler.replica_up(s(2), replica, ROOMY);
    f.freed(s(2), replica);
    f.answered(s(2), replica, key);
    f.pass(s(100));
    assert_eq!(f.state().replicas.len(), 0);
    f.actions();

    let refused = f.try_offer(s(100), s(101), ONE, INLINE, 'e').unwrap_err();
    let predicted = Duration::from_secs(2);
    assert_eq!(refused.reason, RefusedReason::Starting { predicted });
    assert_eq!(refused.retry_after, predicted);
    assert_eq!(f.launched().len(), 1);
    // It is not ended before the caller had a chance to come back.
    f.pass(s(130));
    assert_eq!(f.state().replicas.len(), 1);
    assert!(f.offer_at(s(130), s(133)).is_ok());
}

#[test]
fn a_start_that_takes_longer_than_the_idle_window_is_waited_for() {
    let mut f = cold();
    let key = f.offer_at(ms(0), s(1000)).unwrap();
    f.scheduler.cancel(ms(0), key);
    f.pass(s(100));
    assert_eq!(f.state().replicas.len(), 1, "it starts");
    let replica = f.launched()[0];
    f.scheduler.replica_up(s(100), replica, ROOMY);
    f.pass(s(150));
    assert_eq!(f.state().replicas.len(), 1, "it had no chance yet");
    f.pass(s(170));
    assert_eq!(f.state().replicas.len(), 0);
}

#[test]
fn what_waits_through_a_cold_start_is_counted_once_a_run_is_measured() {
    let mut f = cold();
    for _ in 0..10 {
        f.offer_at(ms(0), s(10)).unwrap();
    }
    let replica = f.launched()[0];
    f.scheduler.replica_up(s(1), replica, ROOMY);
    f.freed(s(2), replica);
    // One runs and eight wait; the first took a second, and so will they.
    assert_eq!(f.state().drain_time, Duration::from_millis(4500));
    let predicted = Duration::from_secs(10);
    assert_eq!(
        f.offer_at(s(2), s(11)),
        Err(RefusedReason::Late { predicted })
    );
}

#[test]
fn under_overload_a_request_is_turned_away_unread_exactly_where_the_least_would_be_refused() {
    let (mut f, replica) = seeded(1, &[(1, 10)]);
    f.offer_at(ms(0), ms(100)).unwrap();
    f.offer_at(ms(0), ms(100)).unwrap();
    let turn_away =
        |f: &mut Fixture, now, deadline| f.scheduler.turn_away(now, f.revision, deadline);
    assert_eq!(
        turn_away(&mut f, ms(0), ms(15)),
        None,
        "nobody was refused: it is worth reading"
    );
    assert!(f.offer_at(ms(0), ms(15)).is_err());
    assert_eq!(f.counters().offered, 3);

    let turned_away = turn_away(&mut f, ms(0), ms(15));
    assert_eq!(turned_away, Some((late(20), Duration::from_millis(10))));
    let refused = f.offer_at(ms(0), ms(15)).unwrap_err();
    assert_eq!(refused, late(20), "it is the same");
    assert_eq!(turn_away(&mut f, ms(0), ms(100)), None);
    let counters = f.counters();
    assert_eq!(
        (counters.offered, counters.refused.late),
        (5, 3),
        "counted once"
    );

    f.freed(ms(10), replica);
    f.freed(ms(20), replica);
    assert_eq!(
        turn_away(&mut f, ms(2000), ms(2001)),
        None,
        "that is long ago"
    );
}

#[test]
fn a_full_queue_turns_away_unread() {
    let mut f = with_limits(RevisionLimits {
        min_scale: 1,
        queue_entries: 1,
        ..RevisionLimits::default()
    });
    f.seed(&[(1, 10)]);
    f.offer_at(ms(0), s(10)).unwrap();
    let turned_away = f.scheduler.turn_away(ms(0), f.revision, s(10));
    assert_eq!(turned_away.unwrap().0, RefusedReason::QueueFull);
}

// === The hopeless ===

#[test]
fn what_has_become_hopeless_is_neither_sent_nor_run() {
    let mut f = with_limits(RevisionLimits {
        min_scale: 1,
        ..RevisionLimits::default()
    });
    f.seed(&[(1, 10)]);
    let replica = f.replica(ReplicaCredits {
        stage_entries: 1,
        ..ROOMY
    });
    f.offer(1000, INLINE, 'x');
    f.offer(50, PICTURE, 'a');
    let b = f.offer(60, INLINE, 'b');
    f.actions();
    // The run takes longer than it was predicted to.
    f.scheduler
        .staged(ms(5), replica, Key::from_bits(1), Bucket(0));
    f.actions();
    f.freed(ms(55), replica);
    let expire = |entry, key, is_hopeless| Action::Expire {
        entry,
        key,
        is_hopeless,
    };
    let a = Key::from_bits(1);
    assert_eq!(
        f.actions(),
        [
            Action::Forget { replica, key: a },
            expire('a', a, false),
            expire('b', b, true)
        ]
    );
    assert_eq!(f.counters().hopeless, 1);

    f.offer_at(ms(55), s(10)).unwrap();
    let staged = f.try_offer(ms(55), ms(110), ONE, INLINE, 's').unwrap();
    f.actions();
    f.freed(ms(100), replica);
    assert_eq!(
        f.actions(),
        [
            Action::Forget {
                replica,
                key: staged
            },
            expire('s', staged, true)
        ]
    );
}

// === Classes ===

#[test]
fn interactive_entries_go_before_bulk() {
    let (mut f, replica) = seeded(1, &[(1, 10)]);
    f.scheduler.bulk_waits(ms(0), f.revision, true);
    assert_eq!(f.pulled(), 2);
    let b = f.offer_bulk(ms(0)).unwrap();
    let c = f.offer_bulk(ms(0)).unwrap();
    let a = f.offer_at(ms(0), s(10)).unwrap();
    assert_eq!(f.batches(), [(replica, vec![b])], "it was alone");
    f.freed(ms(10), replica);
    assert_eq!(f.batches(), [(replica, vec![a])]);
    f.freed(ms(20), replica);
    assert_eq!(f.batches(), [(replica, vec![c])]);
}

#[test]
fn bulk_leaves_a_free_slot_to_what_is_being_prepared_if_that_is_ready_sooner() {
    for (staging, gives_way) in [(5, true), (30, false)] {
        let (mut f, replica) = seeded(1, &[(1, 20)]);
        let picture = |f: &mut Fixture, now| f.try_offer(now, s(10), ONE, PICTURE, 'a').unwrap();
        let first = picture(&mut f, ms(0));
        f.scheduler.staged(ms(staging), replica, first, Bucket(0));
        f.freed(ms(staging + 20), replica);
        f.answered(ms(staging + 20), replica, first);

        f.scheduler.bulk_waits(ms(100), f.revision, true);
        let b = f.offer_bulk(ms(100)).unwrap();
        let c = f.offer_bulk(ms(100)).unwrap();
        let a = picture(&mut f, ms(110));
        assert_eq!(f.batches()[1..], [(replica, vec![b])]);
        f.freed(ms(120), replica);
        let while_it_is_prepared = if gives_way {
            vec![]
        } else {
            vec![(replica, vec![c])]
        };
        assert_eq!(f.batches(), while_it_is_prepared);
        f.scheduler.staged(ms(125), replica, a, Bucket(0));
        if !gives_way {
            f.freed(ms(140), replica);
        }
        assert_eq!(f.batches(), [(replica, vec![a])]);
    }
}

#[test]
fn a_slot_that_was_kept_for_an_entry_that_leaves_is_given_to_bulk() {
    let (mut f, replica) = seeded(1, &[(1, 20)]);
    let picture = |f: &mut Fixture, now| f.try_offer(now, s(10), ONE, PICTURE, 'a').unwrap();
    let first = picture(&mut f, ms(0));
    f.scheduler.staged(ms(5), replica, first, Bucket(0));
    f.freed(ms(100), replica);
    f.answered(ms(100), replica, first);
    let a = picture(&mut f, ms(100));
    f.scheduler.bulk_waits(ms(100), f.revision, true);
    let b = f.offer_bulk(ms(100)).unwrap();
    assert_eq!(f.batches()[1..], [], "the slot is kept");
    f.scheduler.cancel(ms(101), a);
    assert_eq!(f.batches(), [(replica, vec![b])]);
}

#[test]
fn bulk_is_asked_for_as_much_as_two_batches_and_no_more_is_taken() {
    let (mut f, replica) = seeded(4, &[(1, 10), (4, 10)]);
    f.scheduler.bulk_waits(ms(0), f.revision, true);
    assert_eq!(f.pulled(), 8);
    for _ in 0..8 {
        f.offer_bulk(ms(0)).unwrap();
    }
    assert_eq!(f.offer_bulk(ms(0)), Err(RefusedReason::QueueFull));
    assert_eq!(f.pulled(), 0, "the answer has not ended");
    let answer = |f: &mut Fixture, now| {
        f.scheduler.bulk_waits(now, f.revision, true);
        let n_pulled = f.pulled();
        for _ in 0..n_pulled {
            f.offer_bulk(now).unwrap();
        }
        n_pulled
    };
    while answer(&mut f, ms(0)) > 0 {}
    assert_eq!(f.offer_bulk(ms(0)), Err(RefusedReason::QueueFull));
    assert!(f.state().bulk_waiting <= 8, "the queue does not grow");
    f.freed(ms(10), replica);
    assert!(f.pulled() > 0, "a run makes room");
    f.scheduler.bulk_waits(ms(10), f.revision, false);
    f.freed(ms(20), replica);
    assert_eq!(f.pulled(), 0);
    assert_eq!(f.offer_bulk(ms(20)), Err(RefusedReason::QueueFull));
}

#[test]
fn bulk_that_was_asked_for_and_refused_is_asked_for_again() {
    let (mut f, replica) = seeded(1, &[(1, 10)]);
    f.scheduler.bulk_waits(ms(0), f.revision, true);
    for _ in 0..f.pulled() {
        let late = f.offer_bulk_of(ms(20), ms(10), ONE);
        assert_eq!(late, Err(RefusedReason::DeadlinePassed));
    }
    f.scheduler.bulk_waits(ms(20), f.revision, true);
    assert_eq!(f.pulled(), 2);
    let b = f.offer_bulk(ms(20)).unwrap();
    assert_eq!(f.batches(), [(replica, vec![b])]);
}

#[test]
fn bulk_is_counted_by_its_items() {
    let (mut f, replica) = seeded(8, &[(1, 10), (8, 10)]);
    f.scheduler.bulk_waits(ms(0), f.revision, true);
    assert_eq!(f.pulled(), 16);
    let four = Cost { items: 4, ..ONE };
    for _ in 0..4 {
        f.offer_bulk_of(ms(0), Time::MAX, four).unwrap();
    }
    // One of them runs, then two.
    f.look();
    f.scheduler.bulk_waits(ms(0), f.revision, true);
    assert_eq!(f.pulled(), 0);
    f.freed(ms(10), replica);
    assert_eq!(f.pulled(), 12);
}

#[test]
fn bulk_of_a_revision_that_goes_away_is_asked_for_to_be_refused() {
    let (mut f, replica) = seeded(1, &[(1, 10)]);
    f.scheduler.bulk_waits(ms(0), f.revision, true);
    assert_eq!(f.pulled(), 2);
    let b = f.offer_bulk(ms(0)).unwrap();
    f.scheduler.retire_revision(ms(5), f.revision);
    assert_eq!(f.pulled(), 0, "the answer has not ended");
    f.scheduler.bulk_waits(ms(5), f.revision, true);
    assert_eq!(f.pulled(), u32::MAX);
    assert_eq!(f.offer_bulk(ms(5)), Err(RefusedReason::Retired));
    f.scheduler.bulk_waits(ms(5), f.revision, false);
    f.freed(ms(10), replica);
    f.answered(ms(10), replica, b);
    // It is gone, and whoever comes now has not heard.
    f.scheduler.bulk_waits(ms(20), f.revision, true);
    assert_eq!(f.pulled(), u32::MAX);
    assert_eq!(f.offer_bulk(ms(20)), Err(RefusedReason::Retired));
}

#[test]
fn batches_of_bulk_are_short_while_there_is_interactive_work() {
    // 10 ms more for each.
    let (mut f, replica) = seeded(8, &[(1, 20), (8, 90)]);
    f.scheduler.bulk_waits(ms(0), f.revision, true);
    let a = f.offer_at(ms(0), s(10)).unwrap();
    for _ in 0..16 {
        f.offer_bulk(ms(0)).unwrap();
    }
    assert_eq!(f.batches(), [(replica, vec![a])]);
    f.freed(ms(20), replica);
    assert_eq!(f.choices(), [(4, BatchLimit::Bulk)]);
    f.freed(ms(1020), replica);
    assert_eq!(f.choices(), [(8, BatchLimit::Max)]);
}

#[test]
fn under_endless_interactive_work_bulk_gets_a_twentieth() {
    for credits in [ROOMY, CREDITS] {
        let (mut f, _) = seeded(4, &[(1, 7), (4, 10)]);
        let replica = f.state().replicas[0].id;
        // The room on the stage is always taken: bulk has to be let in.
        f.scheduler.replica_down(ms(0), replica, Death::Unexplained);
        let replica = f.launched()[0];
        f.scheduler.replica_up(ms(0), replica, credits);
        f.scheduler.bulk_waits(ms(0), f.revision, true);
        let mut n_bulk = 0;
        for run in 0..2000 {
            let now = ms(10 * run);
            while f.state().waiting + f.state().staged < 100 {
                f.offer_at(now, s(1_000_000)).unwrap();
            }
            n_bulk += f.pulled();
            while n_bulk > 0 {
                f.offer_bulk(now).unwrap();
                n_bulk -= 1;
                if n_bulk == 0 {
                    f.scheduler.bulk_waits(now, f.revision, true);
                    n_bulk += f.pulled();
                }
            }
            f.look();
            f.freed(ms(10 * (run + 1)), replica);
            n_bulk += f.pulled();
        }
        let counters = f.counters();
        let share = counters.bulk_slot_nanos as f64 / counters.slot_nanos as f64;
        assert!((0.03..0.08).contains(&share), "bulk had {share}");
    }
}

// === Devices ===

/// Several revisions on one device.
struct Shared {
    scheduler: Scheduler<char>,
    revisions: Vec<RevisionId>,
    runs: Vec<(ReplicaId, Key)>,
    actions: Vec<Action<char>>,
}

impl Shared {
    fn new(cores: u32, memory_bytes: u64, limits: &[RevisionLimits]) -> Self {
        let mut scheduler = Scheduler::new();
        let device = scheduler.add_device(DeviceLimits {
            cores,
            memory_bytes,
        });
        let mut revisions = Vec::new();
        for limits in limits {
            let limits = RevisionLimits {
                device: Some(device),
                ..*limits
            };
            let revision = scheduler.add_revision(ms(0), limits);
            let curve = [(1, Duration::from_millis(10))];
            scheduler.seed_curve(revision, Bucket(0), &curve);
            revisions.push(revision);
        }
        Self {
            scheduler,
            revisions,
            runs: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Brings up a replica of each revision, by an offer that is cancelled.
    fn up(&mut self, credits: &[ReplicaCredits]) -> Vec<ReplicaId> {
        let mut replicas = Vec::new();
        for (place, credits) in credits.iter().enumerate() {
            let key = self.offer(ms(0), place, s(1000));
            self.look();
            let launch = |action: &Action<char>| match action {
                Action::Launch { replica, .. } => Some(*replica),
                _ => None,
            };
            let replica = self.actions.iter().find_map(launch).expect("it is cold");
            self.scheduler.cancel(ms(0), key);
            self.scheduler.replica_up(ms(0), replica, *credits);
            self.actions.clear();
            replicas.push(replica);
        }
        replicas
    }

    fn offer(&mut self, now: Time, revision: usize, deadline: Time) -> Key {
        let offer = Offer {
            deadline,
            cost: ONE,
            staging: INLINE,
            class: Class::Interactive,
        };
        let revision = self.revisions[revision];
        self.scheduler.offer(now, revision, offer, 'e').unwrap()
    }

    fn look(&mut self) {
        let from = self.actions.len();
        self.scheduler.drain_actions(&mut self.actions);
        for action in &self.actions[from..] {
            if let Action::Run { replica, batch, .. } = action {
                self.runs.push((*replica, batch[0]));
            }
        }
    }

    fn taken(&mut self) -> Vec<Action<char>> {
        self.look();
        std::mem::take(&mut self.actions)
    }

    /// Where something was run since the last look.
    fn ran(&mut self) -> Vec<ReplicaId> {
        let run = |action| match action {
            Action::Run { replica, .. } => Some(replica),
            _ => None,
        };
        self.taken().into_iter().filter_map(run).collect()
    }

    fn freed(&mut self, now: Time, replica: ReplicaId) {
        self.look();
        let oldest = self.runs.iter().position(|(at, _)| *at == replica);
        let (_, run) = self.runs.remove(oldest.expect("something runs"));
        self.scheduler.slot_freed(now, replica, run);
        self.scheduler.answered(now, replica, run);
    }
}

#[test]
fn cores_go_to_the_earliest_deadline_of_all_revisions() {
    let mut three = Shared::new(1, u64::MAX, &[RevisionLimits::default(); 3]);
    let [a, b, c] = three.up(&[ROOMY; 3])[..] else {
        panic!("there are three");
    };
    three.offer(ms(0), 0, s(30));
    three.offer(ms(0), 0, s(40));
    three.offer(ms(0), 1, s(20));
    three.offer(ms(0), 2, s(10));
    assert_eq!(three.ran(), [a]);
    let snapshot = three.scheduler.snapshot();
    assert_eq!(snapshot.devices[0].busy_cores, 1);
    assert_eq!(snapshot.devices[0].blocked_revisions, 2);
    three.freed(ms(10), a);
    assert_eq!(three.ran(), [c]);
    three.freed(ms(20), c);
    assert_eq!(three.ran(), [b]);
    three.freed(ms(30), b);
    assert_eq!(three.ran(), [a]);
}

#[test]
fn a_run_of_many_cores_is_not_overtaken_by_less_urgent_ones_of_few() {
    let mut two = Shared::new(2, u64::MAX, &[RevisionLimits::default(); 2]);
    let narrow = ReplicaCredits { slots: 2, ..ROOMY };
    let wide = ReplicaCredits { cores: 2, ..ROOMY };
    let [narrow, wide] = two.up(&[narrow, wide])[..] else {
        panic!("there are two");
    };
    two.offer(ms(0), 0, s(10));
    let waits = two.offer(ms(0), 1, s(20));
    two.offer(ms(0), 0, s(30));
    assert_eq!(two.ran(), [narrow], "a core is kept free for the wide one");
    two.freed(ms(10), narrow);
    assert_eq!(two.ran(), [wide]);
    two.freed(ms(20), wide);
    assert_eq!(two.ran(), [narrow]);

    // When what waited has left, its claim has, too.
    let waits_too = two.offer(ms(20), 1, s(40));
    two.offer(ms(20), 0, s(50));
    assert_eq!(two.ran(), []);
    assert_eq!(two.scheduler.cancel(ms(20), waits), None);
    assert_eq!(two.scheduler.cancel(ms(20), waits_too), Some('e'));
    assert_eq!(two.ran(), [narrow]);
}

#[test]
fn a_run_that_takes_more_cores_than_there_are_goes_alone() {
    let mut two = Shared::new(2, u64::MAX, &[RevisionLimits::default(); 2]);
    let huge = ReplicaCredits { cores: 5, ..ROOMY };
    let [small, huge] = two.up(&[ROOMY, huge])[..] else {
        panic!("there are two");
    };
    two.offer(ms(0), 0, s(10));
    two.offer(ms(0), 1, s(20));
    assert_eq!(two.ran(), [small]);
    two.freed(ms(10), small);
    assert_eq!(two.ran(), [huge]);
    two.offer(ms(10), 0, s(10));
    assert_eq!(two.ran(), []);
    two.freed(ms(20), huge);
    assert_eq!(two.ran(), [small]);
}

fn of_bytes(memory_bytes: u64) -> RevisionLimits {
    RevisionLimits {
        memory_bytes,
        max_starts_before_failing: 1,
        ..RevisionLimits::default()
    }
}

/// Lets the replica of a revision come up some seconds after it was asked for.
fn start(shared: &mut Shared, revision: usize, from: u64, to: u64) -> ReplicaId {
    let key = shared.offer(s(from), revision, s(1000));
    let launched = |action| match action {
        Action::Launch { replica, .. } => Some(replica),
        _ => None,
    };
    let replica = shared
        .taken()
        .into_iter()
        .find_map(launched)
        .expect("it is cold");
    shared.scheduler.replica_up(s(to), replica, ROOMY);
    shared.freed(s(to), replica);
    shared.taken();
    assert_eq!(shared.scheduler.cancel(s(to), key), None);
    replica
}

#[test]
fn the_idle_revision_that_is_cheapest_to_load_again_per_byte_makes_room() {
    let limits = [of_bytes(30), of_bytes(20), of_bytes(40), of_bytes(40)];
    let mut four = Shared::new(8, 100, &limits);
    // 300, 150 and 175 ms a byte.
    start(&mut four, 0, 0, 9);
    let cheap = start(&mut four, 1, 9, 12);
    let dearer = start(&mut four, 2, 12, 19);
    four.offer(s(19), 3, s(1000));
    let launch = |action: &Action<char>| matches!(action, Action::Launch { .. });
    let actions = four.taken();
    assert_eq!(
        actions[..2],
        [
            Action::Stop { replica: cheap },
            Action::Stop { replica: dearer }
        ]
    );
    assert!(actions[2..].iter().any(launch));
    assert_eq!(four.scheduler.snapshot().devices[0].reserved_bytes, 70);
    // What was evicted does not come back by itself.
    four.scheduler.advance(s(21));
    assert!(!four.taken().iter().any(launch));
}

#[test]
fn what_is_at_work_or_to_be_kept_is_not_evicted_and_the_numbers_are_told() {
    let kept = RevisionLimits {
        min_scale: 1,
        ..of_bytes(30)
    };
    let mut three = Shared::new(8, 100, &[kept, of_bytes(50), of_bytes(21)]);
    let Some(Action::Launch { replica, .. }) = three.taken().pop() else {
        panic!("one is kept");
    };
    three.scheduler.replica_up(ms(0), replica, ROOMY);
    let busy = start(&mut three, 1, 0, 1);
    three.offer(s(1), 1, s(1000));
    let key = three.offer(s(1), 2, s(1000));
    let (needed, free) = (21, 20);
    let entry = 'e';
    let why = FailReason::NoMemory { needed, free };
    let actions = three.taken();
    assert_eq!(actions.last(), Some(&Action::Fail { entry, key, why }));
    assert!(!actions.iter().any(|a| matches!(a, Action::Stop { .. })));

    // It says that it takes less: now there is room.
    three.scheduler.replica_memory(s(1), busy, 49);
    three.offer(s(2), 2, s(1000));
    let launch = |action: &Action<char>| matches!(action, Action::Launch { .. });
    assert!(three.taken().iter().any(launch));
}

// === Hanging ===

fn is_kill(action: &Action<char>) -> bool {
    matches!(action, Action::Kill { .. })
}

#[test]
fn a_run_may_take_the_limit_or_ten_times_what_was_predicted() {
    for (predicted_ms, limit_ms) in [(10, 5_000), (1_000, 10_000)] {
        let (mut f, replica) = seeded(1, &[(1, predicted_ms)]);
        let a = f.offer_at(ms(0), s(1000)).unwrap();
        f.pass(ms(limit_ms - 1));
        assert!(!f.actions().iter().any(is_kill));
        f.pass(ms(limit_ms));
        assert_eq!(f.actions(), [Action::Kill { replica }]);
        assert_eq!(f.counters().hangs, 1);
        // It gets nothing more, and what it had is retried elsewhere.
        f.offer_at(ms(limit_ms), s(1000)).unwrap();
        f.scheduler.slot_freed(ms(limit_ms), replica, a);
        assert_eq!(f.actions(), []);
        f.scheduler
            .replica_down(ms(limit_ms), replica, Death::Unexplained);
        assert_eq!(f.launched().len(), 1);
    }
}

#[test]
fn a_replica_that_prepares_may_be_silent_for_the_limit_and_longer_by_the_pixels() {
    let (mut f, replica) = seeded(1, &[]);
    let cost = Cost {
        pixels: 5_000_000,
        ..ONE
    };
    let picture = |f: &mut Fixture, now| f.try_offer(now, s(1000), cost, PICTURE, 'p').unwrap();
    let a = picture(&mut f, ms(0));
    f.pass(ms(4_000));
    f.scheduler.staged(ms(4_000), replica, a, Bucket(0));
    f.freed(ms(4_001), replica);
    f.answered(ms(4_001), replica, a);
    picture(&mut f, ms(10_000));
    f.actions();
    f.pass(ms(15_999));
    assert_eq!(f.actions(), []);
    f.pass(ms(16_000));
    assert_eq!(f.actions(), [Action::Kill { replica }]);
}

#[test]
fn a_replica_whose_staged_entries_wait_for_long_does_not_hang() {
    // A run of 100 s may take 1000 s.
    let (mut f, replica) = seeded(1, &[(1, 100_000)]);
    f.offer_at(ms(0), s(5000)).unwrap();
    f.offer_at(ms(0), s(5000)).unwrap();
    f.pass(s(900));
    f.try_offer(s(900), s(5000), ONE, PICTURE, 'p').unwrap();
    f.pass(s(904));
    assert!(!f.actions().iter().any(is_kill), "it was sent 4 s ago");
    // It is looked at every 5 s.
    f.pass(s(910));
    assert_eq!(f.actions(), [Action::Kill { replica }]);
}

#[test]
fn a_replica_that_waited_for_cores_is_given_time_for_what_it_is_sent() {
    let patient = RevisionLimits {
        run_limit: Duration::from_secs(100),
        ..RevisionLimits::default()
    };
    let mut two = Shared::new(1, u64::MAX, &[patient, RevisionLimits::default()]);
    let [a, b] = two.up(&[ROOMY; 2])[..] else {
        panic!("there are two");
    };
    two.offer(ms(0), 0, s(1000));
    two.offer(ms(0), 1, s(1000));
    assert_eq!(two.ran(), [a]);
    let picture = Offer {
        deadline: s(1000),
        cost: ONE,
        staging: PICTURE,
        class: Class::Interactive,
    };
    two.scheduler.advance(s(49));
    let revision = two.revisions[1];
    two.scheduler.offer(s(50), revision, picture, 'p').unwrap();
    two.scheduler.advance(s(54));
    assert!(!two.taken().iter().any(is_kill));
    two.scheduler.advance(s(60));
    assert_eq!(two.taken(), [Action::Kill { replica: b }]);
}

// === How many replicas ===

#[test]
fn when_nothing_is_asked_for_replicas_end_after_the_idle_window_but_those_to_be_kept() {
    for min_scale in [0, 1] {
        let mut f = with_limits(RevisionLimits {
            min_scale,
            max_scale: 2,
            ..RevisionLimits::default()
        });
        f.seed(&[(1, 100)]);
        let key = f.offer_at(ms(0), s(1000)).unwrap();
        let replica = f.starting.pop().unwrap_or_else(|| f.launched()[0]);
        f.scheduler.replica_up(ms(0), replica, ROOMY);
        f.freed(s(1), replica);
        f.answered(s(1), replica, key);
        f.pass(s(60));
        assert_eq!(f.state().replicas.len(), 1);
        f.pass(s(64));
        assert_eq!(f.state().replicas.len(), min_scale);
        assert_eq!(f.scheduler.next_wake(), None, "it sleeps");
    }
}

#[test]
fn work_for_more_replicas_launches_them_up_to_the_most_and_they_drain_when_it_is_over() {
    let mut f = with_limits(RevisionLimits {
        min_scale: 1,
        max_scale: 3,
        queue_entries: 10_000,
        ..RevisionLimits::default()
    });
    f.seed(&[(1, 100)]);
    let first = f.replica(ROOMY);
    // It has idled for long before the work comes, 100 ms each 10 ms: that of ten slots.
    f.pass(s(100));
    for n in 0..1000 {
        f.pass(ms(100_000 + 10 * n));
        f.offer_at(ms(100_000 + 10 * n), s(10_000)).unwrap();
    }
    let launched = f.launched();
    assert_eq!(launched.len(), 2, "three are the most");
    for replica in &launched {
        f.scheduler.replica_up(s(110), *replica, ROOMY);
    }
    // All is done in one go, and half a minute later the work is a tenth of what it was.
    f.look();
    while let Some((replica, run)) = f.runs.pop() {
        f.scheduler.slot_freed(s(110), replica, run);
        f.scheduler.answered(s(110), replica, run);
        f.look();
    }
    f.pass(s(260));
    let state = f.state();
    assert_eq!(state.replicas.len(), 1);
    assert_eq!(state.counters.stops, 2);
    assert!(state.replicas[0].id == first || launched.contains(&state.replicas[0].id));
}

#[test]
fn a_draining_replica_gets_nothing_more_and_ends_when_it_holds_nothing() {
    let mut f = with_limits(RevisionLimits {
        max_scale: 2,
        run_limit: Duration::from_secs(1000),
        ..RevisionLimits::default()
    });
    f.seed(&[(1, 100)]);
    // Work for two.
    for n in 0..200 {
        f.pass(ms(50 * n));
        f.offer_at(ms(50 * n), s(10_000)).unwrap();
    }
    for replica in f.launched() {
        f.scheduler.replica_up(s(10), replica, ROOMY);
    }
    f.look();
    while let Some((replica, run)) = f.runs.pop() {
        f.scheduler.slot_freed(s(10), replica, run);
        f.scheduler.answered(s(10), replica, run);
        f.look();
    }
    // Two runs go on for long, while there is work for one at most.
    for _ in 0..2 {
        f.offer_at(s(10), s(10_000)).unwrap();
    }
    f.look();
    f.pass(s(100));
    let drains = f.state().replicas.into_iter().find(|r| r.is_draining);
    let drains = drains.expect("one is too many").id;
    f.actions();
    f.offer_at(s(100), s(10_000)).unwrap();
    let staged_at = |action| match action {
        Action::Stage { replica, .. } => Some(replica),
        _ => None,
    };
    let staged_at: Vec<_> = f.actions().into_iter().filter_map(staged_at).collect();
    assert_eq!(staged_at.len(), 1);
    assert_ne!(staged_at[0], drains);

    let (_, run) = f
        .runs
        .iter()
        .find(|(at, _)| *at == drains)
        .copied()
        .unwrap();
    f.scheduler.slot_freed(s(100), drains, run);
    assert_eq!(f.actions(), [], "it post-processes");
    f.answered(s(100), drains, run);
    assert_eq!(f.actions(), [Action::Stop { replica: drains }]);
}

// === Crashes ===

#[test]
fn a_retired_revision_whose_last_run_dies_is_gone_and_launches_nothing() {
    let (mut f, replica) = seeded(1, &[]);
    let a = f.offer_at(ms(0), s(10)).unwrap();
    f.scheduler.retire_revision(ms(0), f.revision);
    f.scheduler.cancel(ms(0), a);
    f.actions();
    f.scheduler.replica_down(ms(1), replica, Death::Unexplained);
    assert_eq!(f.actions(), []);
    assert_eq!(f.scheduler.snapshot(), Snapshot::default());
}

#[test]
fn crashes_on_different_entries_without_an_answer_between_them_put_the_model_off() {
    let mut f = cold();
    for n in 0..6 {
        f.offer_at(ms(n), s(1000)).unwrap();
        let launched = f.launched();
        assert_eq!(launched.len(), 1, "after {n} crashes");
        f.scheduler.replica_up(ms(n), launched[0], ROOMY);
        // Suspects are tried alone, one after another; a fresh one makes each death another's.
        let alone = f.batches();
        let key = alone[0].1[0];
        f.scheduler.cancel(ms(n), key);
        f.scheduler
            .replica_down(ms(n), launched[0], Death::Unexplained);
        f.look();
        f.runs.clear();
    }
    let state = f.state();
    assert_eq!(state.counters.crashes, 6);
    assert_eq!((state.failed_starts, state.start_after), (1, ms(105)));
}

#[test]
fn one_poisonous_entry_after_another_with_answers_between_them_stops_nothing() {
    let mut f = cold();
    let mut now = 0;
    for _ in 0..10 {
        // A poisonous one brings down two replicas, and is answered.
        f.offer_at(ms(now), s(1000)).unwrap();
        for _ in 0..2 {
            f.look();
            let state = f.state();
            let replica = state.replicas[0].id;
            f.scheduler.replica_up(ms(now), replica, ROOMY);
            f.look();
            f.scheduler
                .replica_down(ms(now), replica, Death::Unexplained);
            now += 1;
        }
        // A good one is served.
        let good = f.offer_at(ms(now), s(1000)).unwrap();
        let replica = f.state().replicas[0].id;
        f.scheduler.replica_up(ms(now), replica, ROOMY);
        f.answered(ms(now), replica, good).unwrap();
        f.scheduler.slot_freed(ms(now), replica, good);
    }
    let state = f.state();
    assert_eq!(state.counters.poisoned, 10);
    assert_eq!((state.counters.crashes, state.failed_starts), (20, 0));
}
