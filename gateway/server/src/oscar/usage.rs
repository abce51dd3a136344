//! How often a service was called, and by whom: what OSCAR's metrics are made of.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

/// Hours that are remembered: 31 days.
const HOURS: usize = 31 * 24;

/// Users of an hour that are told apart.
const MAX_USERS: usize = 1000;

/// How a service was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// By `/run`.
    Sync,
    /// By `/job`.
    Async,
}

/// The calls of a service, by the hour. In memory: a restart begins anew.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    hours: Mutex<BTreeMap<i64, Hour>>,
}

#[derive(Clone, Debug, Default)]
struct Hour {
    n_sync: u64,
    n_async: u64,
    busy: Duration,
    users: BTreeMap<String, u64>,
}

/// The calls of some hours.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Calls {
    pub(crate) n_sync: u64,
    pub(crate) n_async: u64,
    /// Time that processors or a GPU worked for them.
    pub(crate) busy: Duration,
    /// Calls of each user.
    pub(crate) users: BTreeMap<String, u64>,
}

impl Usage {
    /// Counts a call.
    pub(crate) fn count(&self, call: Call, user: &str) {
        let mut hours = self.lock();
        let hour = hours.entry(this_hour()).or_default();
        match call {
            Call::Sync => hour.n_sync += 1,
            Call::Async => hour.n_async += 1,
        }
        if let Some(n_calls) = hour.users.get_mut(user) {
            *n_calls += 1;
        } else if hour.users.len() < MAX_USERS {
            hour.users.insert(user.to_owned(), 1);
        }
        while hours.len() > HOURS {
            hours.pop_first();
        }
    }

    /// Adds time that was worked for a call.
    pub(crate) fn worked(&self, busy: Duration) {
        self.lock().entry(this_hour()).or_default().busy += busy;
    }

    /// Returns the calls of the hours that these times are in and those between.
    pub(crate) fn between(&self, start: OffsetDateTime, end: OffsetDateTime) -> Calls {
        let (start, end) = (hour_of(start), hour_of(end));
        let mut calls = Calls::default();
        if start > end {
            return calls;
        }
        for hour in self.lock().range(start..=end).map(|(_, hour)| hour) {
            calls.n_sync += hour.n_sync;
            calls.n_async += hour.n_async;
            calls.busy += hour.busy;
            for (user, n_calls) in &hour.users {
                *calls.users.entry(user.clone()).or_default() += n_calls;
            }
        }
        calls
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Hour>> {
        self.hours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// Adds the calls of another service.
    pub(crate) fn add(&mut self, other: &Self) {
        self.n_sync += other.n_sync;
        self.n_async += other.n_async;
        self.busy += other.busy;
        for (user, n_calls) in &other.users {
            *self.users.entry(user.clone()).or_default() += n_calls;
        }
    }

    pub(crate) const fn total(&self) -> u64 {
        self.n_sync + self.n_async
    }
}

fn this_hour() -> i64 {
    hour_of(OffsetDateTime::now_utc())
}

fn hour_of(time: OffsetDateTime) -> i64 {
    time.unix_timestamp().div_euclid(3600)
}

#[cfg(test)]
mod tests {
    use time::Duration as Span;

    use super::*;

    #[test]
    fn calls_are_counted_by_the_hour_and_by_user() {
        let usage = Usage::default();
        usage.count(Call::Sync, "ada");
        usage.count(Call::Sync, "bob");
        usage.count(Call::Async, "ada");
        usage.worked(Duration::from_millis(20));
        let now = OffsetDateTime::now_utc();
        let calls = usage.between(now - Span::days(1), now + Span::hours(1));
        assert_eq!((calls.n_sync, calls.n_async, calls.total()), (2, 1, 3));
        assert_eq!(calls.busy, Duration::from_millis(20));
        assert_eq!(calls.users["ada"], 2);
        let before = usage.between(now - Span::days(3), now - Span::days(2));
        assert_eq!(before, Calls::default());
        assert_eq!(usage.between(now, now - Span::days(2)), Calls::default());
    }

    #[test]
    fn users_of_an_hour_are_bounded() {
        let usage = Usage::default();
        for user in 0..MAX_USERS + 10 {
            usage.count(Call::Sync, &user.to_string());
        }
        let now = OffsetDateTime::now_utc();
        let calls = usage.between(now - Span::hours(1), now);
        assert_eq!(calls.users.len(), MAX_USERS);
        assert_eq!(calls.n_sync, (MAX_USERS + 10) as u64);
    }
}
