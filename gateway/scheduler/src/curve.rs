//! l(b): how long a batch of b items occupies a slot, learned from the runs themselves.
//!
//! - **What is measured** is the time from when a run could begin (it was named, or the run before
//!   it ended, whichever is later) to its slot being free, as the gateway sees it: the engine, the
//!   wire and whatever else shares the cores.
//! - **Robust and slow to forget**: a mean per size over the latest 16 runs, or over as many as take
//!   50 ms, in which a run counts for at most a quarter of them all. Of runs that are short beside the
//!   way to a busy gateway many are heard of at once, and the first is charged with what the others
//!   are spared: only the sum is right.
//! - **The batch chosen** is the one of the lowest cost per item, and of those within 3 % (of short ones
//!   1 %) the smallest. Where batches cost more than their parts (convolutions on a CPU) that is 1, so
//!   batching is never worse than none. Clipper (NSDI 2017, § 4.3) climbs by additive steps and backs
//!   off; sizes that double find the same knee in log₂ steps, and what was measured once is kept.
//! - **Exploring** is a climb by doubling while it lowers the cost per item, in two runs of each size,
//!   and later now and then a comparison of the chosen size with another one, in turns
//!   (`curve/comparison.rs`), its neighbours first and ever more rarely; a larger one where a line waits,
//!   a smaller one where there is a batch, and either only where there is time for many of its runs;
//!   nothing beyond a neighbour that cost far more. Nothing but a comparison changes the choice: means of
//!   different times and loads do not say which size is cheaper, and a size that is not chosen is not
//!   measured.

mod comparison;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Bucket;
use comparison::{Comparison, Verdict};

/// The latest run's weight in the mean of its size is one in this many,
const MEMORY: u32 = 16;

/// or in as many as take this long, in nanoseconds, up to [`MOST_MEMORY`].
const SPAN: f64 = 50e6;
const MOST_MEMORY: u32 = 1024;

/// A run counts for at most this part of all that the mean is made of, once that is [`MEMORY`] runs.
const OUTLIER: f64 = 0.25;

/// Runs shorter than this, in nanoseconds, are all alike: less is noise, and of nothing no multiple
/// is an outlier.
const RESOLUTION: f64 = 10_000.0;

/// The longest run that is believed without having been seen.
const MOST_SEEDED: Duration = Duration::from_secs(3600);

/// Runs after which a size may be chosen, and after which outliers are cut.
const TRUSTED: u32 = 2;

/// Time after which what is known of a size is old, in nanoseconds of each slot.
const STALE: f64 = 5e9;

/// A larger batch has to cost this part less per item: all in it wait for its end, and two sizes that
/// cost the same are told apart by chance.
const MARGIN: f64 = 0.03;

/// The same of a run of less than so many nanoseconds, for which nobody waits long.
const BRIEF_MARGIN: f64 = 0.01;
const BRIEF: f64 = 5e6;

/// How many times over the most urgent entry must have the time that a trial takes: the line behind
/// pays for several.
const PATIENCE: f64 = 20.0;

/// What another size may cost per item, in parts of what the chosen one does, to be tried while callers
/// are refused, or without a line.
const AFFORDABLE: f64 = 1.1;

/// Slot time before the first comparison, in nanoseconds.
const SETTLING: f64 = 200e6;

/// After a comparison there is none for so many times the slot time that it took, at first and at most;
/// it doubles with every one that changed nothing. Where the other size costs a fifth more, half of the
/// time of a comparison costs that: one part in a hundred of all.
const REST: f64 = 10.0;
const MAX_REST: f64 = 160.0;

/// The longest rest, in nanoseconds of each slot: a machine may have changed.
const MAX_PAUSE: f64 = 600e9;

/// Shapes of inputs told apart per revision; of more, the one not used for longest is forgotten.
const MAX_BUCKETS: usize = 32;

/// The learned curve of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    max_batch: u32,
    /// By [`place_of`].
    points: Vec<Point>,
    /// The size to choose when there is enough to choose from.
    best: u32,
    /// The size to be tried next, while climbing; 0 afterwards.
    climb: u32,
    comparison: Option<Comparison>,
    /// Slot time so far, in nanoseconds; that at which the latest comparison began and the next one will;
    /// and [`REST`].
    spent: f64,
    compared_from: f64,
    compare_at: f64,
    rest: f64,
    /// Comparisons since the choice was last changed.
    n_compared: usize,
    /// The nearest sizes below and above the chosen one that cost far more when they were last compared.
    walls: [Option<u32>; 2],
}

/// The mean of one size, in nanoseconds, and the runs in it, up to [`MEMORY`] or those of [`SPAN`].
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    nanos: f64,
    weight: u32,
    /// Slot time of the curve up to its latest, in nanoseconds.
    seen: f64,
}

/// The curves of a revision.
#[derive(Clone, Debug)]
pub(crate) struct Curves {
    max_batch: u32,
    by_bucket: BTreeMap<Bucket, (u64, Curve)>,
    /// The bucket of the latest run: what an entry is taken for until its own is known.
    latest: Option<Bucket>,
    n_runs: u64,
}

/// Sizes up to 16 have a point each, further ones eight an octave, so no size is more than an
/// eighth above the one it is counted as.
fn place_of(items: u32) -> usize {
    if items < 16 {
        return items.max(1) as usize - 1;
    }
    let octave = items.ilog2();
    let step = (items >> (octave - 3)) & 7;
    15 + (octave as usize - 4) * 8 + step as usize
}

/// Returns the smallest size at a place.
fn size_at(place: usize) -> u32 {
    if place < 15 {
        return place as u32 + 1;
    }
    let octave = 4 + (place - 15) as u32 / 8;
    let step = (place - 15) as u32 % 8;
    (8 + step) << (octave - 3)
}

/// Returns what a run of so many nanoseconds has to be cheaper by than a smaller one.
fn margin(nanos: f64) -> f64 {
    match nanos < BRIEF {
        true => BRIEF_MARGIN,
        false => MARGIN,
    }
}

// === impl Curve ===

impl Curve {
    pub(crate) fn new(max_batch: u32) -> Self {
        let max_batch = max_batch.max(1);
        Self {
            max_batch,
            points: vec![Point::default(); place_of(max_batch) + 1],
            best: 1,
            climb: 1,
            comparison: None,
            spent: 0.0,
            compared_from: 0.0,
            compare_at: SETTLING,
            rest: REST,
            n_compared: 0,
            walls: [None; 2],
        }
    }

    /// Takes in what was measured elsewhere; runs soon outweigh it. No time at all and more than
    /// [`MOST_SEEDED`] are no measurements.
    fn seed(&mut self, points: &[(u32, Duration)]) {
        for &(items, duration) in points {
            let Some(point) = self.points.get_mut(place_of(items)) else {
                continue;
            };
            let is_measured = !duration.is_zero() && duration <= MOST_SEEDED;
            if point.weight < TRUSTED && items > 0 && is_measured {
                *point = Point {
                    nanos: duration.as_nanos() as f64,
                    weight: TRUSTED,
                    seen: self.spent,
                };
                self.climb = 0;
            }
        }
        self.choose_best();
    }

    /// Takes in a run in one of so many slots, at least one.
    fn observe(&mut self, items: u32, duration: Duration, n_slots: u32) {
        let items = items.max(1);
        let expected = self.nanos(items);
        let Some(point) = self.points.get_mut(place_of(items)) else {
            // An entry of more items than a batch runs alone, and says nothing of batches.
            return;
        };
        let was_trusted = point.weight >= TRUSTED;
        // What was learned long ago was learned under another load: half of it is kept.
        if self.spent - point.seen > STALE * f64::from(n_slots) {
            point.weight = point.weight.min(1);
        }
        let mut nanos = duration.as_nanos() as f64;
        if was_trusted && let Some(expected) = expected {
            let most = OUTLIER * f64::from(point.weight.max(MEMORY));
            nanos = nanos.min((expected * most).max(RESOLUTION));
        }
        point.seen = self.spent;
        let memory = ((SPAN / point.nanos) as u32).clamp(MEMORY, MOST_MEMORY);
        point.weight = (point.weight + 1).min(memory);
        point.nanos += (nanos - point.nanos) / f64::from(point.weight);
        self.spent += nanos;
        if self.climb > 0 {
            self.choose_best();
            self.climb_on();
        } else {
            self.compare(items, duration, n_slots);
        }
    }

    fn choose_best(&mut self) {
        let cost = |place: usize, point: &Point| point.nanos / f64::from(size_at(place));
        let trusted = || {
            let points = self.points.iter().enumerate();
            points.filter(|(_, point)| point.weight >= TRUSTED)
        };
        let least =
            trusted().min_by(|&(one, a), &(other, b)| cost(one, a).total_cmp(&cost(other, b)));
        let best = least.and_then(|(place, point)| {
            let enough = cost(place, point) / (1.0 - margin(point.nanos));
            trusted().find(|&(place, point)| cost(place, point) <= enough)
        });
        self.best = best
            .map_or(1, |(place, _)| size_at(place))
            .min(self.max_batch);
    }

    /// Climbs past the sizes that are known; the climb ends at one that did not become the best.
    fn climb_on(&mut self) {
        let is_known = |size| {
            self.points
                .get(place_of(size))
                .is_some_and(|point: &Point| point.weight >= TRUSTED)
        };
        while self.climb > 0 && is_known(self.climb) {
            let goes_on = self.best >= self.climb && self.climb < self.max_batch;
            self.climb = match goes_on {
                true => (self.climb * 2).min(self.max_batch),
                false => 0,
            };
        }
        self.compare_at = self.spent + SETTLING;
    }

    /// Goes on comparing, or begins to where it is time for it.
    fn compare(&mut self, items: u32, duration: Duration, n_slots: u32) {
        let max_pause = MAX_PAUSE * f64::from(n_slots);
        if self.comparison.is_none() && self.spent >= self.compare_at {
            let Some(size) = self.challenger() else {
                self.compare_at = self.spent + max_pause;
                return;
            };
            let larger = self.nanos(size.max(self.best)).unwrap_or_default();
            let longest = self.duration(size).max(self.duration(self.best));
            let round = longest.unwrap_or_default().saturating_mul(n_slots);
            self.comparison = Some(Comparison::new(self.best, size, margin(larger), round));
            self.compared_from = self.spent;
        }
        let Some(comparison) = &mut self.comparison else {
            return;
        };
        let challenger = comparison.challenger();
        let is_its_turn = place_of(comparison.turn()) == place_of(items);
        let verdict = is_its_turn
            .then(|| comparison.observe(items, duration))
            .flatten();
        let took = self.spent - self.compared_from;
        // Where its turns do not come, others are tried before it is again.
        if verdict.is_none() && took <= comparison.patience() {
            return;
        }
        self.comparison = None;
        self.compare_at = self.spent + (self.rest * took).min(max_pause);
        if verdict == Some(Verdict::Won) {
            (self.best, self.rest, self.n_compared) = (challenger, REST, 0);
            self.walls = [None; 2];
            return;
        }
        self.rest = (self.rest * 2.0).min(MAX_REST);
        self.n_compared += 1;
        // Nothing beyond a wall is compared, so it can only come nearer, or go where it stands.
        let wall = &mut self.walls[usize::from(challenger > self.best)];
        if verdict == Some(Verdict::LostByFar) {
            *wall = Some(challenger);
        } else if verdict.is_some() && *wall == Some(challenger) {
            *wall = None;
        }
    }

    /// Returns the size to compare the chosen one with next: those of the climb in turns, the nearest
    /// first. Beyond one that cost far more none is tried: it would take long, and much memory, for what
    /// a climb would not have found either.
    fn challenger(&self) -> Option<u32> {
        let [below, above] = self.walls;
        let (least, most) = (below.unwrap_or(1), above.unwrap_or(self.max_batch));
        let mut sizes: Vec<u32> = std::iter::successors(Some(1_u32), |size| size.checked_mul(2))
            .take_while(|size| *size < self.max_batch)
            .chain([self.max_batch])
            .filter(|size| *size != self.best && (least..=most).contains(size))
            .collect();
        let best = f64::from(self.best);
        sizes.sort_by(|one, other| {
            let distance = |size: u32| (f64::from(size) / best).log2().abs();
            distance(*one).total_cmp(&distance(*other))
        });
        let next = self.n_compared.checked_rem(sizes.len())?;
        sizes.get(next).copied()
    }

    /// Returns how large a batch may be where so many items are ready for so many slots, so many others
    /// are named ahead and the most urgent has so much time left, and whether to learn more. While it
    /// climbs, what lies between two sizes is worth a try as well; later only the very size, and only of
    /// a line that every slot has its part of besides: in a short one each would wait for the trial and
    /// no one for less. What is named ahead waits in that line as well: of short runs nearly all of it
    /// is. A smaller size that costs little more needs no line, but what the chosen one would take.
    pub(crate) fn limit(
        &self,
        n_ready: u32,
        n_ahead: u32,
        slots: u32,
        time: Duration,
        is_crowded: bool,
    ) -> (u32, bool) {
        let n_waiting = n_ready.saturating_add(n_ahead);
        let line = n_waiting.saturating_sub(self.best.saturating_mul(slots));
        let has_line =
            |size| size <= line || size < self.best && n_ready >= self.best && self.is_cheap(size);
        match self.probe() {
            Some(size) if self.climb > 0 => (size, true),
            Some(size) if has_line(size) && self.may_try(size, time, is_crowded) => (size, true),
            _ => (self.best, false),
        }
    }

    /// Whether trying a size makes hardly anybody late who was promised an answer: all that wait have
    /// time for many runs of it, and where that is scarce it is not known to cost much more than the
    /// chosen one.
    fn may_try(&self, size: u32, time: Duration, is_crowded: bool) -> bool {
        let nanos = self.nanos(size);
        let has_time = nanos.is_none_or(|nanos| nanos * PATIENCE <= time.as_nanos() as f64);
        has_time && (!is_crowded || self.is_cheap(size))
    }

    /// Whether a size is not known to cost much more than the chosen one.
    fn is_cheap(&self, size: u32) -> bool {
        let costs = self.nanos(size).zip(self.item_nanos());
        costs.is_none_or(|(nanos, chosen)| nanos / f64::from(size) <= chosen * AFFORDABLE)
    }

    /// Whether larger sizes are still to be tried for the first time.
    pub(crate) fn is_climbing(&self) -> bool {
        self.climb > 0
    }

    /// Returns the size worth trying now, if one is.
    pub(crate) fn probe(&self) -> Option<u32> {
        if self.climb > 0 {
            return Some(self.climb);
        }
        let turn = self.comparison.as_ref().map(Comparison::turn);
        turn.filter(|size| *size != self.best)
    }

    /// Returns the size to choose when there is enough to choose from.
    pub(crate) fn best(&self) -> u32 {
        self.best
    }

    /// Predicts how long a run of so many items takes, in nanoseconds. Between sizes that were
    /// measured the curve is a line; beyond the largest, no gain is assumed.
    pub(crate) fn nanos(&self, items: u32) -> Option<f64> {
        let items = items.max(1);
        let at = place_of(items).min(self.points.len() - 1);
        let (below, above) = self.points.split_at(at + 1);
        let is_known = |point: &Point| point.weight > 0;
        let below = below.iter().rposition(is_known);
        let above = above.iter().position(is_known).map(|past| at + 1 + past);
        let nanos_at = |place: usize| self.points.get(place).map_or(0.0, |point| point.nanos);
        match (below, above) {
            (Some(below), _) if below == at && items <= self.max_batch => Some(nanos_at(below)),
            (Some(below), None) => {
                Some(nanos_at(below) * f64::from(items) / f64::from(size_at(below)))
            }
            (Some(below), Some(above)) => {
                let (from, to) = (f64::from(size_at(below)), f64::from(size_at(above)));
                let share = (f64::from(items) - from) / (to - from);
                Some(nanos_at(below) + share * (nanos_at(above) - nanos_at(below)))
            }
            (None, Some(above)) => Some(nanos_at(above)),
            (None, None) => None,
        }
    }

    pub(crate) fn duration(&self, items: u32) -> Option<Duration> {
        self.nanos(items)
            .map(|nanos| Duration::from_nanos(nanos as u64))
    }

    /// Returns what an item costs in slot time where there are enough for the best batch, in
    /// nanoseconds.
    fn item_nanos(&self) -> Option<f64> {
        Some(self.nanos(self.best)? / f64::from(self.best))
    }

    /// Returns the sizes that were measured, how long they take, and by how many runs it is known.
    pub(crate) fn points(&self) -> impl Iterator<Item = (u32, Duration, u32)> {
        let points = self.points.iter().enumerate();
        points
            .filter(|(_, point)| point.weight > 0)
            .map(|(place, point)| {
                let nanos = point.nanos as u64;
                (size_at(place), Duration::from_nanos(nanos), point.weight)
            })
    }
}

// === impl Curves ===

impl Curves {
    pub(crate) fn new(max_batch: u32) -> Self {
        Self {
            max_batch,
            by_bucket: BTreeMap::new(),
            latest: None,
            n_runs: 0,
        }
    }

    pub(crate) fn of(&self, bucket: Bucket) -> Option<&Curve> {
        self.by_bucket.get(&bucket).map(|(_, curve)| curve)
    }

    /// Returns the curve of the bucket that ran last.
    pub(crate) fn latest(&self) -> Option<&Curve> {
        self.of(self.latest?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Bucket, &Curve)> {
        self.by_bucket
            .iter()
            .map(|(bucket, (_, curve))| (*bucket, curve))
    }

    pub(crate) fn seed(&mut self, bucket: Bucket, points: &[(u32, Duration)]) {
        self.entry(bucket).seed(points);
        self.latest.get_or_insert(bucket);
    }

    /// Takes in a run in one of so many slots.
    pub(crate) fn observe(
        &mut self,
        bucket: Bucket,
        items: u32,
        duration: Duration,
        n_slots: usize,
    ) {
        self.n_runs += 1;
        let n_slots = u32::try_from(n_slots).unwrap_or(u32::MAX).max(1);
        self.entry(bucket).observe(items, duration, n_slots);
        self.latest = Some(bucket);
    }

    /// Predicts the slot time of an entry of so many items while there is a backlog, in nanoseconds.
    pub(crate) fn work(&self, bucket: Option<Bucket>, items: u32) -> Option<u64> {
        let curve = bucket
            .and_then(|bucket| self.of(bucket))
            .or_else(|| self.latest())?;
        Some((curve.item_nanos()? * f64::from(items)) as u64)
    }

    /// Returns how long a run of so many items takes, where the bucket is not known in the quickest:
    /// what would be late even so is late.
    pub(crate) fn quickest(&self, bucket: Option<Bucket>, items: u32) -> Option<Duration> {
        match bucket {
            Some(bucket) => self.of(bucket)?.duration(items),
            None => {
                let curves = self.by_bucket.values();
                curves.filter_map(|(_, curve)| curve.duration(items)).min()
            }
        }
    }

    fn entry(&mut self, bucket: Bucket) -> &mut Curve {
        if self.by_bucket.len() >= MAX_BUCKETS && !self.by_bucket.contains_key(&bucket) {
            let stale = self.by_bucket.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(stale) = stale.map(|(bucket, _)| *bucket) {
                self.by_bucket.remove(&stale);
            }
        }
        let (used, curve) = self
            .by_bucket
            .entry(bucket)
            .or_insert_with(|| (0, Curve::new(self.max_batch)));
        *used = self.n_runs;
        curve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    /// Runs what the curve wants where there is always enough, and returns the sizes that it ran.
    fn saturate(curve: &mut Curve, n_runs: usize, cost: impl Fn(u32) -> Duration) -> Vec<u32> {
        let run = |_| {
            let size = curve.probe().unwrap_or(curve.best());
            curve.observe(size, cost(size), 1);
            size
        };
        (0..n_runs).map(run).collect()
    }

    #[test]
    fn every_size_is_counted_at_most_an_eighth_below_itself() {
        for items in 1..=5000_u32 {
            let size = size_at(place_of(items));
            assert!(
                size <= items && items - size <= items / 8,
                "{items} as {size}"
            );
            assert_eq!(place_of(size), place_of(items));
        }
    }

    #[test]
    fn where_a_call_has_a_price_the_largest_batch_is_found_in_a_few_runs() {
        let mut curve = Curve::new(16);
        let sizes = saturate(&mut curve, 20, |b| us(100 + u64::from(b)));
        assert_eq!(curve.best(), 16);
        assert_eq!(sizes[..10], [1, 1, 2, 2, 4, 4, 8, 8, 16, 16]);
    }

    #[test]
    fn where_batches_cost_more_than_their_parts_it_stays_at_one_and_rarely_looks() {
        let mut curve = Curve::new(16);
        let per_item = |b: u32| 1000 * u64::from(20 + b) / 21;
        let sizes = saturate(&mut curve, 100_000, |b| us(u64::from(b) * per_item(b)));
        assert_eq!(curve.best(), 1);
        let spent: u64 = sizes.iter().map(|b| u64::from(*b) * per_item(*b)).sum();
        let n_items: u64 = sizes.iter().map(|b| u64::from(*b)).sum();
        let wasted = spent as f64 / (n_items * per_item(1)) as f64 - 1.0;
        assert!(wasted < 0.01, "{wasted} of the time");
        assert!(sizes.contains(&4), "what costs a tenth more is looked at");
        assert!(!sizes.contains(&8), "and nothing beyond");
    }

    #[test]
    fn what_lies_beyond_a_size_that_cost_far_more_is_tried_again_once_that_does_not() {
        let mut curve = Curve::new(16);
        saturate(&mut curve, 3000, |b| us(1000 * u64::from(b * (9 + b)) / 10));
        assert_eq!(curve.best(), 1);
        let sizes = saturate(&mut curve, 1_000_000, |b| {
            us(1000 * u64::from(b * (99 + b)) / 100)
        });
        assert_eq!(curve.best(), 1);
        assert!(sizes.contains(&8) && sizes.contains(&16));
    }

    #[test]
    fn a_size_is_tried_where_nobody_is_made_late_and_a_line_waits_besides() {
        let mut curve = Curve::new(2);
        curve.seed(&[(1, us(5000)), (2, us(14_000))]);
        while curve.probe().is_none() {
            curve.observe(1, us(5000), 1);
        }
        let limit = |n_ready, slots, ms: u64, is_crowded| {
            curve.limit(n_ready, 0, slots, us(1000 * ms), is_crowded)
        };
        assert_eq!(limit(3, 1, 1000, false), (2, true));
        assert_eq!(limit(2, 1, 1000, false), (1, false), "no line");
        assert_eq!(
            limit(3, 2, 1000, false),
            (1, false),
            "none for the other slot"
        );
        assert_eq!(limit(4, 2, 1000, false), (2, true));
        assert_eq!(
            curve.limit(1, 3, 2, us(1_000_000), false),
            (2, true),
            "three of the line are named ahead"
        );
        assert_eq!(limit(4, 2, 100, false), (1, false), "too little time");
        assert_eq!(
            limit(4, 2, 1000, true),
            (1, false),
            "too dear while refusing"
        );
    }

    #[test]
    fn a_smaller_size_that_costs_little_more_is_tried_without_a_line() {
        let mut curve = Curve::new(2);
        curve.seed(&[(1, us(5000)), (2, us(9_000))]);
        assert_eq!(curve.best(), 2);
        while curve.probe().is_none() {
            curve.observe(2, us(9000), 1);
        }
        let limit = |n_ready| curve.limit(n_ready, 0, 2, us(1_000_000), false);
        assert_eq!(limit(2), (2, false), "too dear without a line");
        assert_eq!(limit(5), (1, true));
        let mut curve = Curve::new(2);
        curve.seed(&[(1, us(4800)), (2, us(9_000))]);
        while curve.probe().is_none() {
            curve.observe(2, us(9000), 1);
        }
        let limit = |n_ready| curve.limit(n_ready, 0, 2, us(1_000_000), false);
        assert_eq!(limit(2), (1, true));
        assert_eq!(limit(1), (2, false), "nothing to compare with");
    }

    #[test]
    fn an_outlier_moves_little_and_a_lasting_change_is_followed() {
        let mut curve = Curve::new(1);
        saturate(&mut curve, 50, |_| us(100));
        curve.observe(1, us(1_000_000), 1);
        assert!(curve.duration(1).unwrap() < us(130));
        saturate(&mut curve, 1000, |_| us(300));
        assert!(curve.duration(1).unwrap() > us(290));
    }

    #[test]
    fn an_outlier_moves_little_of_what_was_not_run_for_a_while() {
        let mut curve = Curve::new(2);
        curve.seed(&[(1, us(70)), (2, us(150))]);
        (0..1000).for_each(|_| curve.observe(1, us(70), 1));
        (0..200).for_each(|_| curve.observe(2, us(150), 1));
        curve.observe(1, us(8000), 1);
        assert!(curve.duration(1).unwrap() < us(150));
        (0..40_000).for_each(|_| curve.observe(2, us(150), 1));
        curve.observe(1, us(8000), 1);
        assert!(curve.duration(1).unwrap() < us(300));
    }

    #[test]
    fn a_size_whose_turn_never_comes_keeps_no_other_from_being_tried() {
        let mut curve = Curve::new(4);
        curve.seed(&[(1, us(10_000)), (2, us(18_000)), (4, us(39_000))]);
        assert_eq!(curve.best(), 2);
        let mut tried = Vec::new();
        for _ in 0..100_000 {
            tried.extend(curve.probe());
            curve.observe(2, us(18_000), 1);
        }
        tried.dedup();
        assert!(tried.starts_with(&[1, 4]), "{tried:?}");
    }

    #[test]
    fn short_runs_that_are_heard_of_many_at_once_take_what_their_sum_says() {
        let mut curve = Curve::new(1);
        let took = |run: u64| match run % 18 {
            0 => us(8000),
            _ => us(70),
        };
        (0..1800).for_each(|run| curve.observe(1, took(run), 1));
        let mean = us((8000 + 17 * 70) / 18);
        let learned = curve.duration(1).unwrap();
        assert!(learned > mean * 8 / 10 && learned < mean * 12 / 10);
    }

    #[test]
    fn a_size_that_seemed_to_take_nothing_is_learned_anew() {
        let mut curve = Curve::new(1);
        saturate(&mut curve, 20, |_| Duration::ZERO);
        saturate(&mut curve, 200, |_| us(10_000));
        assert!(curve.duration(1).unwrap() > us(9_000));
    }

    #[test]
    fn seeds_of_no_time_or_of_hours_are_not_believed() {
        let mut curve = Curve::new(4);
        curve.seed(&[(1, Duration::ZERO), (2, Duration::MAX)]);
        assert_eq!(curve.duration(1), None);
        assert_eq!(curve.probe(), Some(1), "it still climbs");
    }

    #[test]
    fn between_measured_sizes_it_is_a_line_and_beyond_them_no_gain_is_assumed() {
        let mut curve = Curve::new(64);
        assert_eq!(curve.duration(3), None);
        curve.seed(&[(2, us(200)), (10, us(280))]);
        assert_eq!(curve.duration(1), Some(us(200)));
        assert_eq!(curve.duration(2), Some(us(200)));
        assert_eq!(curve.duration(6), Some(us(240)));
        assert_eq!(curve.duration(10), Some(us(280)));
        assert_eq!(curve.duration(40), Some(us(1120)));
        assert_eq!(curve.best(), 10);
    }

    #[test]
    fn a_changed_machine_changes_the_choice() {
        let mut curve = Curve::new(8);
        saturate(&mut curve, 1_000_000, |b| us(1000 * u64::from(b)));
        assert_eq!(curve.best(), 1);
        saturate(&mut curve, 1_000_000, |b| us(900 + 100 * u64::from(b)));
        assert_eq!(curve.best(), 8);
    }

    #[test]
    fn buckets_are_bounded_and_the_oldest_is_forgotten() {
        let mut curves = Curves::new(4);
        for bucket in 0..1000 {
            curves.observe(Bucket(bucket), 1, us(10), 1);
        }
        assert_eq!(curves.iter().count(), MAX_BUCKETS);
        assert!(curves.of(Bucket(999)).is_some());
        assert_eq!(curves.work(Some(Bucket(0)), 3), Some(30_000));
    }
}
