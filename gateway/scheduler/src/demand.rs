//! How much work is asked for, over two windows, and how many replicas that takes.
//!
//! The windows and the panic rule are Knative's (KPA: stable 60 s, panic 6 s, panic at twice what
//! there is, no scaling down while in panic); what is averaged is predicted slot time, offered or
//! refused, instead of requests in flight, so it needs no target to be tuned, and refused demand
//! counts.

use std::time::Duration;

use crate::Time;

const STEP: Duration = Duration::from_secs(2);
const N_STABLE: u64 = 30;
const N_PANIC: u64 = 3;

/// The share of its slots' time that a replica is planned to work; the rest absorbs bursts.
const UTILISATION: f64 = 0.7;

/// Offered work by steps of two seconds.
#[derive(Debug)]
pub(crate) struct Demand {
    /// Nanoseconds of slot time; step `n` is at `n % N_STABLE`.
    steps: [u64; N_STABLE as usize],
    /// The latest step and the first.
    latest: u64,
    first: Option<u64>,
    panic_until: Time,
    /// The most wanted since panic began.
    panic_peak: usize,
}

fn step_of(now: Time) -> u64 {
    now.as_nanos() / STEP.as_nanos() as u64
}

// === impl Demand ===

impl Demand {
    pub(crate) const INTERVAL: Duration = STEP;

    pub(crate) fn new() -> Self {
        Self {
            steps: [0; N_STABLE as usize],
            latest: 0,
            first: None,
            panic_until: Time::default(),
            panic_peak: 0,
        }
    }

    pub(crate) fn add(&mut self, now: Time, work: u64) {
        self.roll(now);
        self.first.get_or_insert(self.latest);
        let step = &mut self.steps[(self.latest % N_STABLE) as usize];
        *step = step.saturating_add(work);
    }

    fn roll(&mut self, now: Time) {
        let now = step_of(now).max(self.latest);
        for step in (self.latest + 1..=now).take(N_STABLE as usize) {
            self.steps[(step % N_STABLE) as usize] = 0;
        }
        self.latest = now;
    }

    /// Returns the mean number of slots at work over the latest `n` whole steps, or since the first.
    fn slots(&self, n: u64) -> f64 {
        let Some(first) = self.first else { return 0.0 };
        let n = n.min(self.latest - first);
        if n == 0 {
            return 0.0;
        }
        let steps = self.latest - n..self.latest;
        let work: f64 = steps
            .map(|step| self.steps[(step % N_STABLE) as usize] as f64)
            .sum();
        work / (n as f64 * STEP.as_nanos() as f64)
    }

    /// Returns how many replicas of so many slots the demand takes, where there are `n_now`.
    pub(crate) fn replicas(&mut self, now: Time, slots_each: usize, n_now: usize) -> usize {
        self.roll(now);
        let capacity = slots_each.max(1) as f64 * UTILISATION;
        let wanted = |n| (self.slots(n) / capacity).ceil() as usize;
        let (stable, panic) = (wanted(N_STABLE), wanted(N_PANIC));
        if n_now > 0 && panic >= 2 * n_now {
            self.panic_until = now.saturating_add(STEP * N_STABLE as u32);
        }
        if now < self.panic_until {
            self.panic_peak = self.panic_peak.max(panic).max(n_now);
            return self.panic_peak;
        }
        self.panic_peak = 0;
        stable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(s: u64) -> Time {
        Time::from_nanos(s * 1_000_000_000)
    }

    /// Offers `slots` slots' worth of work in each second of a span.
    fn offer(demand: &mut Demand, from: u64, to: u64, slots: f64) {
        for second in from..to {
            demand.add(s(second), (slots * 1e9) as u64);
        }
    }

    #[test]
    fn steady_work_takes_what_it_takes_at_seven_tenths() {
        let mut demand = Demand::new();
        offer(&mut demand, 0, 120, 2.0);
        assert_eq!(demand.replicas(s(120), 1, 3), 3);
        assert_eq!(demand.replicas(s(120), 2, 2), 2);
    }

    #[test]
    fn a_burst_is_answered_in_seconds_and_held_for_a_minute() {
        let mut demand = Demand::new();
        offer(&mut demand, 0, 60, 0.5);
        assert_eq!(demand.replicas(s(60), 1, 1), 1);
        offer(&mut demand, 60, 66, 7.0);
        assert_eq!(demand.replicas(s(66), 1, 1), 10);
        offer(&mut demand, 66, 120, 0.1);
        assert_eq!(demand.replicas(s(120), 1, 10), 10);
        assert_eq!(demand.replicas(s(190), 1, 10), 0);
    }

    #[test]
    fn a_long_silence_is_no_work() {
        let mut demand = Demand::new();
        offer(&mut demand, 0, 10, 5.0);
        assert_eq!(demand.replicas(s(100_000), 1, 0), 0);
    }
}
