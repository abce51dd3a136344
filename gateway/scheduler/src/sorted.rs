//! A short list in order.

use std::collections::VecDeque;

/// Different values in order, in one piece of memory that is kept. What is taken from the front or put
/// at the back, as entries mostly are, moves no others; anything else moves half of them at most, which
/// are as many as a replica's credits for staging.
#[derive(Debug)]
pub(crate) struct Sorted<T>(VecDeque<T>);

impl<T: Copy + Ord> Sorted<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn insert(&mut self, value: T) {
        if let Err(place) = self.0.binary_search(&value) {
            self.0.insert(place, value);
        }
    }

    pub(crate) fn remove(&mut self, value: T) {
        if let Ok(place) = self.0.binary_search(&value) {
            self.0.remove(place);
        }
    }

    pub(crate) fn first(&self) -> Option<T> {
        self.0.front().copied()
    }

    pub(crate) fn last(&self) -> Option<T> {
        self.0.back().copied()
    }

    /// Returns all from a value on, which need not be there.
    pub(crate) fn from(&self, value: T) -> impl Iterator<Item = T> {
        let begin = self.0.partition_point(|other| *other < value);
        self.0.range(begin..).copied()
    }
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}
