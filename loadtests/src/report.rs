//! What became of the requests of one load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Above this the 99th percentile of its own lateness says that the generator can't keep up, and
/// that latencies are partly its own.
const LATE_GENERATOR: Duration = Duration::from_millis(10);

/// The longest deadline that Hearth takes.
const A_DAY_MICROS: u64 = 24 * 60 * 60 * 1_000_000;

/// Durations of up to a day, to a thousandth of their length.
#[derive(Clone, Debug)]
pub(crate) struct Durations(Histogram<u64>);

/// What became of the requests that were scheduled within the measured time.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The measured time.
    pub(crate) window: Duration,
    /// After this the callers wait no longer.
    pub(crate) deadline: Option<Duration>,
    /// Requests scheduled.
    pub(crate) offered: u64,
    /// Of those, written to a connection.
    pub(crate) sent: u64,
    /// Answered 200 within the deadline.
    pub(crate) good: u64,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by what happened.
    pub(crate) errors: BTreeMap<String, u64>,
    /// From the scheduled time to the whole answer, of 200s.
    pub(crate) served: Durations,
    /// The same of refusals: 429 and 503.
    pub(crate) refused: Durations,
    /// Of what was not refused, the latest answer: milliseconds after its deadline, or before it
    /// where negative.
    pub(crate) latest_ms: Option<f64>,
    /// How much later than scheduled requests were sent.
    pub(crate) lateness: Durations,
}

/// One request, over.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From its scheduled time until it was written to a connection, if it was.
    pub(crate) lateness: Option<Duration>,
    /// From its scheduled time until now.
    pub(crate) latency: Duration,
    /// Its status, or why there is none.
    pub(crate) result: std::io::Result<u16>,
}

// === impl Durations ===

impl Durations {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(A_DAY_MICROS, 3).expect("within the library's limits"))
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns the duration in milliseconds that this share is not longer than, 0 if there are none.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// Returns p50, p90, p99, p99.9 and the longest, in milliseconds.
    pub(crate) fn percentiles_ms(&self) -> [f64; 5] {
        [0.5, 0.9, 0.99, 0.999, 1.0].map(|share| self.quantile_ms(share))
    }

    fn to_json(&self) -> Value {
        let [p50, p90, p99, p999, max] = self.percentiles_ms();
        json!({ "n": self.len(), "p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": max })
    }
}

// === impl Report ===

impl Report {
    pub(crate) fn new(window: Duration, deadline: Option<Duration>) -> Self {
        Self {
            window,
            deadline,
            offered: 0,
            sent: 0,
            good: 0,
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            served: Durations::new(),
            refused: Durations::new(),
            latest_ms: None,
            lateness: Durations::new(),
        }
    }

    pub(crate) fn record(&mut self, outcome: &Outcome) {
        self.offered += 1;
        if let Some(lateness) = outcome.lateness {
            self.sent += 1;
            self.lateness.record(lateness);
        }
        match &outcome.result {
            Ok(status) => self.record_answer(*status, outcome.latency),
            Err(error) => {
                let error = error.kind().to_string();
                *self.errors.entry(error).or_default() += 1;
            }
        }
    }

    fn record_answer(&mut self, status: u16, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        let limit = self.deadline.unwrap_or(Duration::MAX);
        match status {
            200 => {
                self.served.record(latency);
                self.good += u64::from(latency <= limit);
            }
            429 | 503 => return self.refused.record(latency),
            _ => {}
        }
        if let Some(deadline) = self.deadline {
            let beyond_ms = (latency.as_secs_f64() - deadline.as_secs_f64()) * 1e3;
            self.latest_ms = Some(self.latest_ms.map_or(beyond_ms, |ms| ms.max(beyond_ms)));
        }
    }

    /// Takes another round of the same load in.
    pub(crate) fn add(&mut self, other: &Self) {
        self.window += other.window;
        self.offered += other.offered;
        self.sent += other.sent;
        self.good += other.good;
        for (status, n) in &other.statuses {
            *self.statuses.entry(*status).or_default() += n;
        }
        for (error, n) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += n;
        }
        for (ours, theirs) in [
            (&mut self.served, &other.served),
            (&mut self.refused, &other.refused),
            (&mut self.lateness, &other.lateness),
        ] {
            ours.0 += &theirs.0;
        }
        self.latest_ms = match (self.latest_ms, other.latest_ms) {
            (Some(ours), Some(theirs)) => Some(ours.max(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
    }

    /// Returns answers of 200 a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.served.len() as f64 / self.window.as_secs_f64()
    }

    /// Returns answers of 200 within the deadline, a second.
    pub(crate) fn goodput(&self) -> f64 {
        self.good as f64 / self.window.as_secs_f64()
    }

    /// Says so if the generator was the bottleneck, because then the rest means little.
    pub(crate) fn warning(&self) -> Option<String> {
        let late_ms = self.lateness.quantile_ms(0.99);
        let limit_ms = LATE_GENERATOR.as_secs_f64() * 1e3;
        (late_ms > limit_ms).then(|| {
            format!(
                "THE GENERATOR DID NOT KEEP UP: one request in a hundred left {late_ms:.1} ms or more after its \
                 time; give it more connections or a processor of its own, or ask for less"
            )
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "seconds": self.window.as_secs_f64(),
            "deadline_ms": self.deadline.map(|deadline| deadline.as_secs_f64() * 1e3),
            "offered": self.offered,
            "sent": self.sent,
            "good": self.good,
            "goodput_per_second": self.goodput(),
            "statuses": self.statuses,
            "errors": self.errors,
            "served_ms": self.served.to_json(),
            "refused_ms": self.refused.to_json(),
            "latest_beyond_deadline_ms": self.latest_ms,
            "generator_lateness_ms": self.lateness.to_json(),
            "warning": self.warning(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.window.as_secs_f64();
        let line = |f: &mut fmt::Formatter<'_>, name: &str, n: u64| {
            writeln!(f, "{name:<22} {n:>9} {:>10.1}/s", n as f64 / seconds)
        };
        line(f, "offered", self.offered)?;
        line(f, "sent", self.sent)?;
        match self.deadline {
            Some(deadline) => line(f, &format!("200 within {deadline:?}"), self.good)?,
            None => line(f, "200", self.good)?,
        }
        for (status, n) in &self.statuses {
            line(f, &format!("status {status}"), *n)?;
        }
        for (error, n) in &self.errors {
            line(f, error, *n)?;
        }
        writeln!(
            f,
            "{:<22} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "ms", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, durations) in [
            ("200s", &self.served),
            ("refusals", &self.refused),
            ("generator late by", &self.lateness),
        ] {
            let [p50, p90, p99, p999, max] = durations.percentiles_ms();
            writeln!(
                f,
                "{name:<22} {p50:>9.2} {p90:>9.2} {p99:>9.2} {p999:>9.2} {max:>9.2}"
            )?;
        }
        if let Some(ms) = self.latest_ms {
            writeln!(
                f,
                "latest answer, but for refusals: {:.1} ms {} its deadline",
                ms.abs(),
                if ms > 0.0 { "after" } else { "before" }
            )?;
        }
        self.warning()
            .map_or(Ok(()), |warning| writeln!(f, "{warning}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(result: std::io::Result<u16>, ms: u64) -> Outcome {
        Outcome {
            lateness: Some(Duration::ZERO),
            latency: Duration::from_millis(ms),
            result,
        }
    }

    #[test]
    fn only_answers_within_the_deadline_are_good_and_refusals_are_never_late() {
        let mut report = Report::new(Duration::from_secs(1), Some(Duration::from_millis(100)));
        report.record(&outcome(Ok(200), 90));
        report.record(&outcome(Ok(200), 110));
        report.record(&outcome(Ok(504), 105));
        report.record(&outcome(Ok(429), 500));
        report.record(&outcome(Err(std::io::ErrorKind::TimedOut.into()), 900));
        assert_eq!((report.offered, report.good), (5, 1));
        assert_eq!(report.statuses[&200], 2);
        assert_eq!(report.errors["timed out"], 1);
        assert!((report.latest_ms.unwrap() - 10.0).abs() < 1e-9);

        let once = report.clone();
        report.add(&once);
        assert_eq!((report.offered, report.served.len()), (10, 4));
        assert!((report.throughput() - 2.0).abs() < 1e-9);
    }
}
