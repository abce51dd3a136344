//! When requests arrive: scheduled in advance, whatever becomes of those before.

use std::time::Duration;

use crate::random::Random;

/// How arrivals are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    /// Independent of each other, as those of many callers are.
    Poisson,
    /// Evenly.
    Uniform,
    /// Poisson in the first quarter of each second, nothing in the rest.
    Bursty,
    /// Poisson with a rate that swings between nothing and twice the mean, once in ten seconds: a
    /// day in short.
    Diurnal,
}

/// Length of a period of [`Pattern::Bursty`], and the share of it in which requests arrive.
const BURST_SECONDS: f64 = 1.0;
const BURST_SHARE: f64 = 0.25;
/// Length of the day of [`Pattern::Diurnal`].
const DAY_SECONDS: f64 = 10.0;

/// The moments of arrivals since the start, without end.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    pattern: Pattern,
    per_second: f64,
    at_seconds: f64,
    random: Random,
}

impl Arrivals {
    pub(crate) const fn new(pattern: Pattern, per_second: f64, seed: u64) -> Self {
        Self {
            pattern,
            per_second,
            at_seconds: 0.0,
            random: Random::new(seed),
        }
    }

    /// Returns the greatest rate, and the share of it that is reached now.
    fn intensity(&self) -> (f64, f64) {
        match self.pattern {
            Pattern::Poisson | Pattern::Uniform => (self.per_second, 1.0),
            Pattern::Bursty => {
                let phase = (self.at_seconds / BURST_SECONDS).fract();
                let is_on = phase < BURST_SHARE;
                (self.per_second / BURST_SHARE, f64::from(u8::from(is_on)))
            }
            Pattern::Diurnal => {
                let phase = std::f64::consts::TAU * self.at_seconds / DAY_SECONDS;
                (2.0 * self.per_second, f64::midpoint(1.0, -phase.cos()))
            }
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    /// Rates that vary are thinned out of the greatest one (Lewis and Shedler, 1979).
    fn next(&mut self) -> Option<Duration> {
        loop {
            let step = match self.pattern {
                Pattern::Uniform => 1.0,
                _ => self.random.exponential(),
            };
            let (most_per_second, _) = self.intensity();
            self.at_seconds += step / most_per_second;
            let (_, share) = self.intensity();
            if share >= 1.0 || self.random.unit() <= share {
                // `None` at rates so low that the next arrival is beyond what a `Duration` holds.
                return Duration::try_from_secs_f64(self.at_seconds).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: f64 = 100.0;
    const PER_SECOND: f64 = 500.0;

    fn arrivals(pattern: Pattern) -> Vec<f64> {
        Arrivals::new(pattern, PER_SECOND, 7)
            .map(|at| at.as_secs_f64())
            .take_while(|at| *at < SECONDS)
            .collect()
    }

    #[test]
    fn every_pattern_has_the_mean_rate() {
        for pattern in [
            Pattern::Poisson,
            Pattern::Uniform,
            Pattern::Bursty,
            Pattern::Diurnal,
        ] {
            let per_second = arrivals(pattern).len() as f64 / SECONDS;
            let error = (per_second / PER_SECOND - 1.0).abs();
            assert!(error < 0.03, "{pattern:?}: {per_second}");
        }
    }

    #[test]
    fn bursts_leave_the_rest_of_each_second_empty() {
        let arrivals = arrivals(Pattern::Bursty);
        assert!(arrivals.iter().all(|at| at.fract() < BURST_SHARE));
    }

    #[test]
    fn a_seed_gives_the_same_arrivals() {
        assert_eq!(arrivals(Pattern::Poisson), arrivals(Pattern::Poisson));
    }
}
