//! The one counter of bytes in flight: request bodies, from before they are read until the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use workers_protocol::{Code, InferError};

/// How many bytes of request bodies may be in memory at a time.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    /// How many reservations there ever were.
    n_reservations: AtomicU64,
}

/// Room in a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            n_reservations: AtomicU64::new(0),
        })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns how many reservations there ever were: where it stays the same, nobody called.
    pub(crate) fn n_reservations(&self) -> u64 {
        self.n_reservations.load(Ordering::Relaxed)
    }

    /// Returns an empty reservation, to be grown.
    pub(crate) fn reservation(self: &Arc<Self>) -> Reservation {
        self.n_reservations.fetch_add(1, Ordering::Relaxed);
        Reservation {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }
}

impl Reservation {
    /// Takes room for this many bytes more. Never waits: a body that is parked half-read holds the
    /// room that another needs to finish.
    ///
    /// # Errors
    /// `Overloaded` when there is no room.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), InferError> {
        let budget = &self.budget;
        // Relaxed: the counter orders nothing but itself.
        budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&used| used <= budget.limit)
            })
            .map_err(|used| {
                InferError::new(
                    Code::Overloaded,
                    format!("{used} of {} bytes for request bodies are in use, no room for {bytes} more", budget.limit),
                )
            })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives room back that turned out not to be needed.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.budget.used.fetch_sub(surplus, Ordering::Relaxed);
        self.bytes -= surplus;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_when_a_reservation_is_dropped() {
        let budget = Budget::new(10);
        let mut first = budget.reservation();
        first.grow(6).unwrap();
        let mut second = budget.reservation();
        assert_eq!(second.grow(5).unwrap_err().code, Code::Overloaded);
        second.grow(4).unwrap();
        drop(first);
        assert_eq!(budget.used(), 4);
        second.grow(6).unwrap();
        second.shrink_to(1);
        assert_eq!(budget.used(), 1);
    }

    #[test]
    fn a_size_that_overflows_is_refused() {
        let mut reservation = Budget::new(u64::MAX).reservation();
        reservation.grow(1).unwrap();
        assert!(reservation.grow(u64::MAX).is_err());
    }
}
