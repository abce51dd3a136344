//! Instants as plain numbers, so that tests and simulations own the clock.

use std::time::Duration;

/// An instant: nanoseconds since an epoch of the caller's choice, the same for all calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

// === impl Time ===

impl Time {
    /// The instant that never comes (584 years after the epoch).
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the instant this many nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the instant this much later, or `None` after [`Time::MAX`].
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let nanos = u64::try_from(duration.as_nanos()).ok()?;
        self.0.checked_add(nanos).map(Self)
    }

    /// Returns the instant this much later, at most [`Time::MAX`].
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::MAX)
    }

    /// Returns the time from `earlier` to this instant, zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let time = Time::from_nanos(10);
        assert_eq!(
            time.checked_add(Duration::from_nanos(5)),
            Some(Time::from_nanos(15))
        );
        assert_eq!(Time::MAX.checked_add(Duration::from_nanos(1)), None);
        assert_eq!(time.saturating_add(Duration::MAX), Time::MAX);
        assert_eq!(time.saturating_since(Time::from_nanos(20)), Duration::ZERO);
    }
}
