//! What is promised to whom: the work that waits, in the order in which it will be done.
//!
//! Earliest deadline first is optimal on one machine (Jackson 1955; Liu and Layland 1973): if any
//! order keeps all deadlines, it does. So whether one more entry can be promised its deadline, and
//! every promise made so far kept, is read off the sums of work in that order.
//!
//! A sorted list of blocks; each knows its sum of work and its least slack, so that an offer, an
//! admission and a departure cost O(√n) on contiguous memory: at a thousand entries some 100 ns.

use crate::Time;

/// Entries of a block before it is split; the square root of their number where that is more.
const BLOCK: usize = 48;

/// A place in the order: deadline, then arrival.
pub(crate) type Due = (Time, u64);

/// Entries waiting with their deadlines and their work in slot time.
#[derive(Debug)]
pub(crate) struct Timetable {
    blocks: Vec<Block>,
    n_entries: usize,
    /// A sum of entries' work, which are a `u64` each, can't overflow.
    work: u128,
    /// Slots that the work is shared by; at least 1.
    slots: u64,
}

#[derive(Debug, Default)]
struct Block {
    entries: Vec<(Due, u64)>,
    /// Nanoseconds.
    work: u128,
    /// The least of deadline × slots − the work in this block up to and with the entry.
    slack: i128,
}

/// What an offer would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Slot time of what would be done before it, in nanoseconds, shared by the slots already.
    pub(crate) wait: u64,
    /// Whether everything after it would still be done in time.
    pub(crate) keeps_promises: bool,
}

// === impl Timetable ===

impl Timetable {
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            n_entries: 0,
            work: 0,
            slots: 1,
        }
    }

    pub(crate) fn set_slots(&mut self, slots: usize) {
        let slots = slots.max(1) as u64;
        if slots != self.slots {
            self.slots = slots;
            for block in &mut self.blocks {
                block.add_up(slots);
            }
        }
    }

    /// Returns the slot time of all that waits, in nanoseconds.
    pub(crate) fn work(&self) -> u128 {
        self.work
    }

    pub(crate) fn insert(&mut self, due: Due, work: u64) {
        self.n_entries += 1;
        self.work += u128::from(work);
        let at = self.block_of(due);
        let Some(block) = self.blocks.get_mut(at) else {
            let mut block = Block::default();
            block.entries.push((due, work));
            block.add_up(self.slots);
            self.blocks.push(block);
            return;
        };
        let within = block.entries.partition_point(|(other, _)| *other < due);
        block.entries.insert(within, (due, work));
        if block.entries.len() > BLOCK.max(self.n_entries.isqrt()) {
            let mut second = Block {
                entries: block.entries.split_off(block.entries.len() / 2),
                ..Block::default()
            };
            second.add_up(self.slots);
            block.add_up(self.slots);
            self.blocks.insert(at + 1, second);
        } else {
            block.add_up(self.slots);
        }
    }

    /// Takes an entry out, if it is there.
    pub(crate) fn remove(&mut self, due: Due) {
        let at = self.block_of(due);
        let Some(block) = self.blocks.get_mut(at) else {
            return;
        };
        let within = block.entries.partition_point(|(other, _)| *other < due);
        if block
            .entries
            .get(within)
            .is_none_or(|(other, _)| *other != due)
        {
            return;
        }
        let (_, work) = block.entries.remove(within);
        self.n_entries -= 1;
        self.work -= u128::from(work);
        if block.entries.is_empty() {
            self.blocks.remove(at);
        } else {
            block.add_up(self.slots);
        }
    }

    /// Returns the block that an entry is in or belongs in.
    fn block_of(&self, due: Due) -> usize {
        let is_before = |block: &Block| block.entries.last().is_some_and(|(last, _)| *last < due);
        self.blocks
            .partition_point(is_before)
            .min(self.blocks.len().saturating_sub(1))
    }

    /// Looks at what an entry of so much work would meet and do. `free_at` is when a slot is
    /// predicted to be free for the first of all that waits. Entries that are late already are no
    /// reason to refuse another.
    pub(crate) fn outlook(&self, due: Due, work: u64, free_at: Time) -> Outlook {
        let slots = i128::from(self.slots);
        let begin = i128::from(free_at.as_nanos()) * slots;
        let end = begin + i128::from(work);
        // Late with the newcomer, and not without it.
        let is_broken = |slack: i128| (begin..end).contains(&slack);

        let at = self.block_of(due);
        let mut sum: u128 = self.blocks.iter().take(at).map(|block| block.work).sum();
        let mut wait = sum;
        let mut keeps_promises = true;
        for (place, block) in self.blocks.iter().enumerate().skip(at) {
            if place == at || block.slack < end + sum as i128 {
                for &(other, own) in &block.entries {
                    sum += u128::from(own);
                    if other < due {
                        wait = sum;
                    } else {
                        let slack = i128::from(other.0.as_nanos()) * slots - sum as i128;
                        keeps_promises &= !is_broken(slack);
                    }
                }
            } else {
                sum += block.work;
            }
        }
        Outlook {
            wait: u64::try_from(wait / u128::from(self.slots)).unwrap_or(u64::MAX),
            keeps_promises,
        }
    }
}

// === impl Block ===

impl Block {
    fn add_up(&mut self, slots: u64) {
        self.work = 0;
        self.slack = i128::MAX;
        for &((deadline, _), work) in &self.entries {
            self.work += u128::from(work);
            let slack = i128::from(deadline.as_nanos()) * i128::from(slots) - self.work as i128;
            self.slack = self.slack.min(slack);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, from the definition.
    fn expected(all: &[(Due, u64)], slots: u64, due: Due, work: u64, free_at: u64) -> Outlook {
        let mut all = all.to_vec();
        all.sort_unstable();
        let wait: u64 = all
            .iter()
            .filter(|(other, _)| *other < due)
            .map(|(_, work)| work)
            .sum();
        let mut sum = 0_i128;
        let mut keeps_promises = true;
        for ((deadline, arrival), own) in all {
            sum += i128::from(own);
            let ends = i128::from(free_at) * i128::from(slots) + sum;
            let limit = i128::from(deadline.as_nanos()) * i128::from(slots);
            if (deadline, arrival) >= due {
                keeps_promises &= ends > limit || ends + i128::from(work) <= limit;
            }
        }
        Outlook {
            wait: wait / slots,
            keeps_promises,
        }
    }

    proptest! {
        #[test]
        fn it_is_the_sums_of_the_sorted_list(
            entries in proptest::collection::vec((0..5000_u64, 0..50_u64), 0..400),
            gone in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
            slots in 1..5_usize,
            (deadline, work, free_at) in (0..5000_u64, 0..50_u64, 0..3000_u64),
        ) {
            let mut table = Timetable::new();
            let mut all = Vec::new();
            for (arrival, (deadline, work)) in entries.iter().enumerate() {
                let due = (Time::from_nanos(*deadline), arrival as u64);
                table.insert(due, *work);
                all.push((due, *work));
            }
            table.set_slots(slots);
            for index in gone {
                if !all.is_empty() {
                    let (due, _) = all.swap_remove(index.index(all.len()));
                    table.remove(due);
                    table.remove(due);
                }
            }
            let due = (Time::from_nanos(deadline), 1000);
            prop_assert_eq!(table.work(), all.iter().map(|(_, work)| u128::from(*work)).sum());
            prop_assert_eq!(
                table.outlook(due, work, Time::from_nanos(free_at)),
                expected(&all, slots as u64, due, work, free_at)
            );
        }
    }
}
