//! Random events, also stale, repeated, invented and absurd ones, against the account of `world`.

use std::time::Duration;

use gateway_scheduler::{
    Bucket, Class, Cost, Death, DeviceLimits, Key, Offer, ReplicaCredits, ReplicaId,
    RevisionLimits, Staging, Time,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::{At, World};

/// Something that happens. An index chooses among all that was ever there, so that much is stale.
#[derive(Clone, Debug)]
enum Event {
    Offer(Index, OfferTerms),
    Cancel(Index),
    Retire(Index),
    BulkWaits(Index, bool),
    Seed(Index, Bucket, Vec<(u32, Duration)>),
    Up(Index, ReplicaCredits),
    Memory(Index, u64),
    Down(Index, Death),
    /// The processes that were ended are gone.
    Reap,
    Advance(Duration),
    /// A worker prepares an entry that it was sent.
    Prepare(Index, Bucket),
    /// A worker answers an entry that it runs.
    Answer(Index),
    /// A run ends.
    Freed(Index),
    /// A worker says something about an entry that may not be its own.
    StrayStaged(Index, Index, Bucket),
    StrayAnswer(Index, Index),
    StrayFreed(Index, Index),
}

#[derive(Clone, Debug)]
struct OfferTerms {
    timeout: Timeout,
    cost: Cost,
    staging: Staging,
    class: Class,
}

#[derive(Clone, Debug)]
enum Timeout {
    After(Duration),
    At(Time),
}

/// Mostly small, rarely the largest there is.
fn small_or_max(most: u64) -> impl Strategy<Value = u64> {
    prop_oneof![40 => 0..most, 1 => Just(u64::MAX)]
}

fn device() -> impl Strategy<Value = DeviceLimits> {
    (0..5_u32, small_or_max(400)).prop_map(|(cores, memory_bytes)| DeviceLimits {
        cores,
        memory_bytes,
    })
}

/// Limits, and on which of two devices; on one of its own if neither.
fn limits() -> impl Strategy<Value = (RevisionLimits, usize)> {
    let bounds = (0..6_u32, 0..16_usize, small_or_max(3000));
    let scale = (0..3_usize, 0..4_usize, 0..20_u64);
    let rest = (small_or_max(200), 0..3000_u64, 0..4_usize);
    (bounds, scale, rest).prop_map(|(bounds, scale, rest)| {
        let (max_batch, queue_entries, queue_bytes) = bounds;
        let (min_scale, max_scale, idle_s) = scale;
        let (memory_bytes, run_limit_ms, device) = rest;
        let limits = RevisionLimits {
            max_batch,
            queue_entries,
            queue_bytes,
            // Mostly to zero.
            min_scale: min_scale.saturating_sub(1),
            max_scale,
            idle_window: Duration::from_secs(idle_s),
            memory_bytes,
            run_limit: Duration::from_millis(run_limit_ms),
            ..RevisionLimits::default()
        };
        (limits, device)
    })
}

fn credits() -> impl Strategy<Value = ReplicaCredits> {
    let stage = (0..6_u32, small_or_max(1500), small_or_max(1500));
    let cores = prop_oneof![20 => 0..4_u32, 1 => Just(u32::MAX)];
    (0..3_u32, cores, stage).prop_map(|(slots, cores, stage)| {
        let (stage_entries, stage_bytes, stage_pixels) = stage;
        ReplicaCredits {
            slots,
            cores,
            stage_entries,
            stage_bytes,
            stage_pixels,
        }
    })
}

fn bucket() -> impl Strategy<Value = Bucket> {
    (0..3_u64).prop_map(Bucket)
}

fn offer_terms() -> impl Strategy<Value = OfferTerms> {
    let timeout = prop_oneof![
        40 => (0..400_000_u64).prop_map(|us| Timeout::After(Duration::from_micros(us))),
        4 => (0..100_u64).prop_map(|s| Timeout::After(Duration::from_secs(s))),
        1 => Just(Timeout::At(Time::MAX)),
        1 => Just(Timeout::At(Time::default())),
    ];
    let items = prop_oneof![40 => 0..7_u32, 1 => Just(u32::MAX)];
    let cost = (small_or_max(600), small_or_max(600), items);
    let staging = prop_oneof![bucket().prop_map(Staging::Inline), Just(Staging::Reported)];
    let class = prop_oneof![3 => Just(Class::Interactive), 1 => Just(Class::Bulk)];
    (timeout, cost, staging, class).prop_map(|(timeout, (bytes, pixels, items), staging, class)| {
        OfferTerms {
            timeout,
            cost: Cost {
                bytes,
                pixels,
                items,
            },
            staging,
            class,
        }
    })
}

fn seeds() -> impl Strategy<Value = Vec<(u32, Duration)>> {
    let items = prop_oneof![8 => 0..8_u32, 1 => Just(u32::MAX)];
    let duration = prop_oneof![
        8 => (0..50_000_u64).prop_map(Duration::from_micros),
        1 => Just(Duration::ZERO),
        1 => Just(Duration::MAX),
    ];
    prop::collection::vec((items, duration), 0..5)
}

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![
        8 => (0..300_u64).prop_map(Duration::from_micros),
        8 => (0..150_u64).prop_map(Duration::from_millis),
        4 => (0..100_u64).prop_map(Duration::from_secs),
        1 => (0..100_u64).prop_map(|years| Duration::from_secs(years * 31_557_600)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<Index>;
    prop_oneof![
        24 => (index(), offer_terms()).prop_map(|(at, terms)| Event::Offer(at, terms)),
        2 => index().prop_map(Event::Cancel),
        1 => index().prop_map(Event::Retire),
        3 => (index(), prop::bool::weighted(0.8)).prop_map(|(at, is)| Event::BulkWaits(at, is)),
        1 => (index(), bucket(), seeds()).prop_map(|(at, of, seeds)| Event::Seed(at, of, seeds)),
        8 => (index(), credits()).prop_map(|(at, credits)| Event::Up(at, credits)),
        2 => (index(), small_or_max(300)).prop_map(|(at, bytes)| Event::Memory(at, bytes)),
        3 => (index(), prop_oneof![Just(Death::Unexplained), Just(Death::FromOutside)])
            .prop_map(|(at, death)| Event::Down(at, death)),
        2 => Just(Event::Reap),
        6 => span().prop_map(Event::Advance),
        16 => (index(), bucket()).prop_map(|(at, bucket)| Event::Prepare(at, bucket)),
        12 => index().prop_map(Event::Answer),
        16 => index().prop_map(Event::Freed),
        1 => (index(), index(), bucket())
            .prop_map(|(replica, key, bucket)| Event::StrayStaged(replica, key, bucket)),
        1 => (index(), index()).prop_map(|(replica, key)| Event::StrayAnswer(replica, key)),
        1 => (index(), index()).prop_map(|(replica, key)| Event::StrayFreed(replica, key)),
    ]
}

/// Returns one of the values, or `None` of none.
fn pick<T: Copy>(index: &Index, values: &[T]) -> Option<T> {
    (!values.is_empty()).then(|| values[index.index(values.len())])
}

fn happen(world: &mut World, event: &Event) -> Option<()> {
    match event {
        Event::Offer(at, terms) => {
            let revision = pick(at, &world.known_revisions)?;
            let offer = Offer {
                deadline: match terms.timeout {
                    Timeout::After(timeout) => world.now.saturating_add(timeout),
                    Timeout::At(deadline) => deadline,
                },
                cost: terms.cost,
                staging: terms.staging,
                class: terms.class,
            };
            world.offer(revision, offer);
        }
        Event::Cancel(at) => world.cancel(pick(at, &world.known_keys)?),
        // Rarely: most of what there is to see happens before.
        Event::Retire(at) => {
            let revision = pick(at, &world.known_revisions)?;
            if at.index(8) == 0 {
                world.retire(revision);
            }
        }
        Event::BulkWaits(at, waits) => world.bulk_waits(pick(at, &world.known_revisions)?, *waits),
        Event::Seed(at, bucket, points) => {
            world.seed(pick(at, &world.known_revisions)?, *bucket, points);
        }
        Event::Up(at, credits) => world.replica_up(pick(at, &world.known_replicas)?, *credits),
        Event::Memory(at, bytes) => {
            world.replica_memory(pick(at, &world.known_replicas)?, *bytes);
        }
        Event::Down(at, death) => world.replica_down(pick(at, &world.known_replicas)?, *death),
        Event::Reap => reap(world),
        Event::Advance(span) => {
            let to = world.now.saturating_add(*span);
            world.advance(to);
        }
        Event::Prepare(at, bucket) => {
            let (replica, key) = pick(at, &sent(world))?;
            world.staged(replica, key, *bucket);
        }
        Event::Answer(at) => {
            let (replica, key) = pick(at, &running(world))?;
            world.answered(replica, key);
        }
        Event::Freed(at) => {
            let (replica, run) = pick(at, &runs(world))?;
            world.slot_freed(replica, run);
        }
        Event::StrayStaged(replica, key, bucket) => world.staged(
            pick(replica, &world.known_replicas)?,
            pick(key, &world.known_keys)?,
            *bucket,
        ),
        Event::StrayAnswer(replica, key) => world.answered(
            pick(replica, &world.known_replicas)?,
            pick(key, &world.known_keys)?,
        ),
        Event::StrayFreed(replica, key) => world.slot_freed(
            pick(replica, &world.known_replicas)?,
            pick(key, &world.known_keys)?,
        ),
    }
    Some(())
}

fn sent(world: &World) -> Vec<(ReplicaId, Key)> {
    let entries = world.entries.iter();
    entries
        .filter_map(|(key, entry)| match entry.at {
            At::Sent(replica) => Some((replica, *key)),
            _ => None,
        })
        .collect()
}

fn running(world: &World) -> Vec<(ReplicaId, Key)> {
    let entries = world.entries.iter();
    entries
        .filter_map(|(key, entry)| match entry.at {
            At::Running(replica) => Some((replica, *key)),
            _ => None,
        })
        .collect()
}

fn runs(world: &World) -> Vec<(ReplicaId, Key)> {
    let replicas = world.replicas.iter();
    replicas
        .flat_map(|(id, replica)| replica.runs.iter().map(|(name, _)| (*id, *name)))
        .collect()
}

fn reap(world: &mut World) {
    let killed = world
        .replicas
        .iter()
        .filter(|(_, replica)| replica.is_killed);
    let killed: Vec<ReplicaId> = killed.map(|(id, _)| *id).collect();
    for replica in killed {
        world.replica_down(replica, Death::Unexplained);
    }
}

/// Lets all workers do their work, until nothing changes.
fn finish(world: &mut World) {
    let credits = ReplicaCredits {
        slots: 1,
        cores: 1,
        stage_entries: 2,
        stage_bytes: 1000,
        stage_pixels: 1000,
    };
    for revision in world.known_revisions.clone() {
        world.bulk_waits(revision, false);
    }
    let mut n_idle = 0;
    for _ in 0..10_000 {
        reap(world);
        let is_stuck =
            sent(world).is_empty() && running(world).is_empty() && runs(world).is_empty();
        for (replica, key) in sent(world) {
            world.staged(replica, key, Bucket(0));
        }
        for (replica, key) in running(world) {
            world.answered(replica, key);
        }
        for (replica, run) in runs(world) {
            world.slot_freed(replica, run);
        }
        let starting = world.replicas.iter().filter(|(_, r)| r.credits.is_none());
        let starting: Vec<ReplicaId> = starting.map(|(id, _)| *id).collect();
        for replica in &starting {
            world.replica_up(*replica, credits);
        }
        if is_stuck && starting.is_empty() {
            // Only a start that is put off may be missing, or the end of what is idle; then it is
            // the next thing to happen.
            match world.next_wake() {
                Some(wake) if n_idle < 200 => world.advance(wake),
                _ if world.entries.is_empty() => return world.check_idle(),
                _ => panic!("entries are left over: {world:?}"),
            }
            n_idle += usize::from(world.entries.is_empty());
        }
    }
    panic!("it never ends: {world:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_admitted_entry_leaves_once_and_no_rule_is_broken_on_the_way(
        devices in prop::collection::vec(device(), 2),
        limits in prop::collection::vec(limits(), 1..4),
        events in prop::collection::vec(event(), 0..300),
    ) {
        let mut world = World::default();
        let devices: Vec<_> = devices.iter().map(|device| world.add_device(*device)).collect();
        for (limits, device) in limits {
            let device = devices.get(device).copied();
            world.add_revision(RevisionLimits { device, ..limits });
        }
        for event in &events {
            happen(&mut world, event);
        }
        finish(&mut world);
    }
}
