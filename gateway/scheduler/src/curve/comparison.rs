//! Which of two sizes costs less per item: runs of both, in turns.
//!
//! One run varies by more than two sizes differ, and the machine drifts by more than that. So what is
//! compared are neighbours in time, pair by pair, until their mean difference is certain (a
//! sequential test: Wald, "Sequential Tests of Statistical Hypotheses", 1945) or was looked for
//! long enough.
//!
//! A turn is a block of runs and not one of them, and begins with a round of all slots that does not
//! count: beside it the other size's last runs end, and the callers whom those answered come back at
//! once, with pictures to be decoded. Where runs are shorter than the way to the gateway, many are heard
//! of together, and what the first is charged with the next are spared. Only the sum of a block is
//! right, if it is one of several such ways: those of a gateway that refuses twenty thousand callers a
//! second take milliseconds each.

use std::time::Duration;

/// Slot time of a block at least: many messages' way.
const BLOCK: Duration = Duration::from_millis(100);

/// And in rounds of all slots.
const ROUNDS: u32 = 2;

/// Pairs before a verdict, and after which there is one in any case.
const FEWEST: u32 = 3;
const MOST: u32 = 32;

/// What is believed of the variance before there are pairs, in the weight of so many: blocks differ by
/// some 15 %.
const PRIOR_VARIANCE: f64 = 0.02;
const PRIOR_WEIGHT: f64 = 4.0;

/// The mean has to be so many standard errors from the margin.
const CERTAIN: f64 = 2.0;

/// The logarithm of two costs' ratio counts for no more than a factor of two: a block that the
/// machine stood still in is no news of its size.
const MOST_DIFFERENCE: f64 = std::f64::consts::LN_2;

/// The logarithm of how many times as much an item costs of what is far from being cheaper.
const FAR: f64 = 0.1;

/// A comparison under way.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    champion: u32,
    challenger: u32,
    /// What the challenger has to be cheaper by, as a logarithm.
    margin: f64,
    /// Slot time of a round: the longer of the two sizes, in every slot.
    round: Duration,
    /// What has not counted of this block.
    skipped: Duration,
    /// Nanoseconds per item of the champion's block; none while that is under way.
    champion_cost: Option<f64>,
    block: Duration,
    block_items: f64,
    /// Pairs so far, the mean of their differences, and the sum of squares about it (Welford 1962).
    n_pairs: u32,
    mean: f64,
    squares: f64,
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Won,
    Lost,
    /// By [`FAR`] or more.
    LostByFar,
}

impl Comparison {
    /// Begins one of a size that is chosen now with another. `margin` is the part of its cost by which
    /// the larger of the two has to be cheaper, and `round` the slot time of a round.
    pub(super) fn new(champion: u32, challenger: u32, margin: f64, round: Duration) -> Self {
        Self {
            champion,
            challenger,
            margin: if challenger > champion {
                -margin
            } else {
                margin
            },
            round,
            skipped: Duration::ZERO,
            champion_cost: None,
            block: Duration::ZERO,
            block_items: 0.0,
            n_pairs: 0,
            mean: 0.0,
            squares: 0.0,
        }
    }

    /// Returns the size whose turn it is.
    pub(super) fn turn(&self) -> u32 {
        match self.champion_cost {
            None => self.champion,
            Some(_) => self.challenger,
        }
    }

    pub(super) const fn challenger(&self) -> u32 {
        self.challenger
    }

    /// Returns the slot time after which it is given up, in nanoseconds: four times what it takes at most
    /// where nothing else runs.
    pub(super) fn patience(&self) -> f64 {
        let turn = self.block_time().saturating_add(self.round);
        4.0 * f64::from(2 * MOST) * turn.as_nanos() as f64
    }

    fn block_time(&self) -> Duration {
        BLOCK.max(self.round.saturating_mul(ROUNDS))
    }

    /// Takes in a run of the size whose turn it is; returns the verdict once there is one.
    pub(super) fn observe(&mut self, items: u32, duration: Duration) -> Option<Verdict> {
        if self.skipped < self.round {
            self.skipped = self.skipped.saturating_add(duration);
            return None;
        }
        self.block = self.block.saturating_add(duration);
        self.block_items += f64::from(items);
        if self.block < self.block_time() {
            return None;
        }
        let cost = self.block.as_nanos() as f64 / self.block_items;
        (self.block, self.block_items) = (Duration::ZERO, 0.0);
        self.skipped = Duration::ZERO;
        let Some(champion_cost) = self.champion_cost.take() else {
            self.champion_cost = Some(cost);
            return None;
        };
        let difference = (cost / champion_cost).ln();
        self.add(difference.clamp(-MOST_DIFFERENCE, MOST_DIFFERENCE));
        self.verdict()
    }

    fn add(&mut self, difference: f64) {
        self.n_pairs += 1;
        let from_mean = difference - self.mean;
        self.mean += from_mean / f64::from(self.n_pairs);
        self.squares += from_mean * (difference - self.mean);
    }

    fn verdict(&self) -> Option<Verdict> {
        if self.n_pairs < FEWEST {
            return None;
        }
        let n_pairs = f64::from(self.n_pairs);
        let variance =
            (self.squares + PRIOR_WEIGHT * PRIOR_VARIANCE) / (n_pairs - 1.0 + PRIOR_WEIGHT);
        let error = CERTAIN * (variance / n_pairs).sqrt();
        let verdict = match self.mean {
            mean if mean < self.margin => Verdict::Won,
            mean if mean < FAR => Verdict::Lost,
            _ => Verdict::LostByFar,
        };
        let is_certain = (self.mean - self.margin).abs() > error;
        (is_certain || self.n_pairs >= MOST).then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs both in turns with costs per item that vary by a factor of up to 1.5 and drift, and
    /// returns the verdict and how many pairs it took.
    fn compare(champion: (u32, f64), challenger: (u32, f64)) -> (Verdict, u32) {
        let mut comparison = Comparison::new(champion.0, challenger.0, 0.03, Duration::ZERO);
        let mut noise = 1_u64;
        for run in 0_u32.. {
            let size = comparison.turn();
            let cost = if size == champion.0 {
                champion.1
            } else {
                challenger.1
            };
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let varied = 1.0 + 0.5 * (noise >> 40) as f64 / f64::from(1 << 24);
            let drifted = 1.0 + f64::from(run) / 1000.0;
            let nanos = cost * f64::from(size) * varied * drifted;
            let duration = Duration::from_nanos(nanos as u64);
            if let Some(verdict) = comparison.observe(size, duration) {
                return (verdict, comparison.n_pairs);
            }
        }
        unreachable!("MOST pairs are enough")
    }

    #[test]
    fn a_clear_difference_is_seen_in_a_few_pairs() {
        let (verdict, n_pairs) = compare((1, 2e7), (16, 4e7));
        assert_eq!((verdict, n_pairs), (Verdict::LostByFar, FEWEST));
        let (verdict, n_pairs) = compare((16, 4e7), (1, 2e7));
        assert_eq!((verdict, n_pairs), (Verdict::Won, FEWEST));
    }

    #[test]
    fn a_small_difference_takes_longer_and_is_seen_through_noise_and_drift() {
        for (one, other, expected) in [(1.0, 1.08, Verdict::Lost), (1.08, 1.0, Verdict::Won)] {
            let (verdict, n_pairs) = compare((8, one * 2e7), (16, other * 2e7));
            assert_eq!(verdict, expected);
            assert!(n_pairs > FEWEST);
        }
    }

    #[test]
    fn of_two_that_cost_the_same_the_smaller_is_kept_or_taken() {
        assert_eq!(compare((8, 2e7), (16, 2e7)).0, Verdict::Lost);
        assert_eq!(compare((16, 2e7), (8, 2e7)).0, Verdict::Won);
    }

    #[test]
    fn what_the_other_size_leaves_behind_is_not_charged() {
        let compare = |round| {
            let mut comparison = Comparison::new(8, 1, 0.03, round);
            let mut n_after = 0;
            // Beside the first runs of one are decoded the pictures of those whom eight had answered.
            (0..).find_map(|_| {
                let size = comparison.turn();
                n_after = if size == 1 { n_after + 1 } else { 0 };
                let disturbed = if (1..=10).contains(&n_after) { 2 } else { 1 };
                let nanos = 20_000_000 * u64::from(size) * disturbed;
                comparison.observe(size, Duration::from_nanos(nanos))
            })
        };
        assert_eq!(compare(Duration::from_millis(400)), Some(Verdict::Won));
        assert_eq!(compare(Duration::ZERO), Some(Verdict::LostByFar));
    }

    #[test]
    fn runs_that_are_heard_of_two_at_a_time_are_told_apart_by_their_sums() {
        let mut comparison = Comparison::new(8, 16, 0.03, Duration::ZERO);
        // Of two that end together the second seems to have taken nothing.
        let verdict = (0..).find_map(|run| {
            let size = comparison.turn();
            let nanos = match run % 2 {
                0 => 2 * u64::from(size) * 10_000,
                _ => 0,
            };
            comparison.observe(size, Duration::from_nanos(nanos))
        });
        assert_eq!(verdict, Some(Verdict::Lost));
    }
}
