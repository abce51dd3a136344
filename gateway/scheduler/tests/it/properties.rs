//! Random events, also stale, repeated and invented ones, against the account of `world`.

use std::time::Duration;

use gateway_scheduler::{Bucket, Cost, Offer, ReplicaCredits, RevisionLimits, Staging, Time};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::{At, World};

/// Something that happens. An index chooses among all that was ever there, so that much is stale.
#[derive(Clone, Debug)]
enum Event {
    Offer(Index, OfferTerms),
    Cancel(Index),
    AddReplica(Index),
    Retire(Index),
    Up(Index, ReplicaCredits),
    Down(Index),
    Advance(u64),
    /// A worker prepares an entry that it was sent.
    Prepare(Index, Bucket),
    /// A worker answers an entry that it runs.
    Answer(Index),
    Freed(Index),
    /// A worker says something about an entry that may not be its own.
    StrayStaged(Index, Index, Bucket),
    StrayAnswer(Index, Index),
}

#[derive(Clone, Debug)]
struct OfferTerms {
    timeout_ms: u64,
    cost: Cost,
    staging: Staging,
}

fn limits() -> impl Strategy<Value = RevisionLimits> {
    (0..6_u32, 0..16_usize, 0..3000_u64).prop_map(|(max_batch, queue_entries, queue_bytes)| {
        RevisionLimits {
            max_batch,
            queue_entries,
            queue_bytes,
            ..RevisionLimits::default()
        }
    })
}

fn credits() -> impl Strategy<Value = ReplicaCredits> {
    (0..3_u32, 0..6_u32, 0..1500_u64, 0..1500_u64).prop_map(
        |(slots, stage_entries, stage_bytes, stage_pixels)| ReplicaCredits {
            slots,
            stage_entries,
            stage_bytes,
            stage_pixels,
        },
    )
}

fn bucket() -> impl Strategy<Value = Bucket> {
    (0..3_u64).prop_map(Bucket)
}

fn offer_terms() -> impl Strategy<Value = OfferTerms> {
    let staging = prop_oneof![bucket().prop_map(Staging::Inline), Just(Staging::Reported)];
    (0..400_u64, 0..600_u64, 0..600_u64, 0..7_u32, staging).prop_map(
        |(timeout_ms, bytes, pixels, items, staging)| OfferTerms {
            timeout_ms,
            cost: Cost {
                bytes,
                pixels,
                items,
            },
            staging,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<Index>;
    prop_oneof![
        12 => (index(), offer_terms()).prop_map(|(at, terms)| Event::Offer(at, terms)),
        1 => index().prop_map(Event::Cancel),
        1 => index().prop_map(Event::AddReplica),
        1 => index().prop_map(Event::Retire),
        4 => (index(), credits()).prop_map(|(at, credits)| Event::Up(at, credits)),
        2 => index().prop_map(Event::Down),
        2 => (0..150_u64).prop_map(Event::Advance),
        8 => (index(), bucket()).prop_map(|(at, bucket)| Event::Prepare(at, bucket)),
        6 => index().prop_map(Event::Answer),
        6 => index().prop_map(Event::Freed),
        1 => (index(), index(), bucket())
            .prop_map(|(replica, key, bucket)| Event::StrayStaged(replica, key, bucket)),
        1 => (index(), index()).prop_map(|(replica, key)| Event::StrayAnswer(replica, key)),
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
                deadline: world
                    .now
                    .saturating_add(Duration::from_millis(terms.timeout_ms)),
                cost: terms.cost,
                staging: terms.staging,
            };
            world.offer(revision, offer);
        }
        Event::Cancel(at) => world.cancel(pick(at, &world.known_keys)?),
        Event::AddReplica(at) => world.add_replica(pick(at, &world.known_revisions)?),
        // Rarely: most of what there is to see happens before.
        Event::Retire(at) => {
            let revision = pick(at, &world.known_revisions)?;
            if at.index(8) == 0 {
                world.retire(revision);
            }
        }
        Event::Up(at, credits) => world.replica_up(pick(at, &world.known_replicas)?, *credits),
        Event::Down(at) => world.replica_down(pick(at, &world.known_replicas)?),
        Event::Advance(ms) => {
            let to = world.now.saturating_add(Duration::from_millis(*ms));
            world.advance(to);
        }
        Event::Prepare(at, bucket) => {
            let sent: Vec<_> = world
                .entries
                .iter()
                .filter_map(|(key, entry)| match entry.at {
                    At::Sent(replica) => Some((replica, *key)),
                    _ => None,
                })
                .collect();
            let (replica, key) = pick(at, &sent)?;
            world.staged(replica, key, *bucket);
        }
        Event::Answer(at) => {
            let (replica, key) = pick(at, &running(world))?;
            world.answered(replica, key);
        }
        Event::Freed(at) => world.slot_freed(pick(at, &world.known_replicas)?),
        Event::StrayStaged(replica, key, bucket) => world.staged(
            pick(replica, &world.known_replicas)?,
            pick(key, &world.known_keys)?,
            *bucket,
        ),
        Event::StrayAnswer(replica, key) => world.answered(
            pick(replica, &world.known_replicas)?,
            pick(key, &world.known_keys)?,
        ),
    }
    Some(())
}

fn running(world: &World) -> Vec<(gateway_scheduler::ReplicaId, gateway_scheduler::Key)> {
    let entries = world.entries.iter();
    entries
        .filter_map(|(key, entry)| match entry.at {
            At::Running(replica) => Some((replica, *key)),
            _ => None,
        })
        .collect()
}

/// Lets all workers do their work, until nothing changes.
fn finish(world: &mut World) {
    let credits = ReplicaCredits {
        slots: 1,
        stage_entries: 2,
        stage_bytes: 1000,
        stage_pixels: 1000,
    };
    for _ in 0..10_000 {
        if world.entries.is_empty() {
            return;
        }
        let replicas: Vec<_> = world
            .replicas
            .iter()
            .map(|(id, replica)| (*id, replica.credits.is_some(), replica.n_busy))
            .collect();
        let sent: Vec<_> = world
            .entries
            .iter()
            .filter_map(|(key, entry)| match entry.at {
                At::Sent(replica) => Some((replica, *key)),
                _ => None,
            })
            .collect();
        let mut is_stuck = sent.is_empty() && running(world).is_empty();
        for (replica, key) in sent {
            world.staged(replica, key, Bucket(0));
        }
        for (replica, key) in running(world) {
            world.answered(replica, key);
        }
        for (replica, is_up, n_busy) in replicas {
            is_stuck &= is_up && n_busy == 0;
            if !is_up {
                world.replica_up(replica, credits);
            }
            for _ in 0..n_busy {
                world.slot_freed(replica);
            }
        }
        if is_stuck {
            // Only a start that is put off may be missing; then it is the next thing to happen.
            let wake = world.next_wake();
            world.advance(wake.unwrap_or(Time::MAX));
        }
    }
    panic!("entries are left over: {world:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_admitted_entry_leaves_once_and_no_rule_is_broken_on_the_way(
        limits in prop::collection::vec(limits(), 1..3),
        events in prop::collection::vec(event(), 0..250),
    ) {
        let mut world = World::default();
        for limits in limits {
            world.add_revision(limits);
        }
        for event in &events {
            happen(&mut world, event);
        }
        finish(&mut world);
    }
}
