//! A slab whose indices know which occupant of a place they mean.

use serde::{Serialize, Serializer};

/// A place in a [`Slab`] and which of its successive occupants is meant.
///
/// An index outlives what it names without ever naming something else, until a place has been
/// refilled 2³² times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Index {
    place: u32,
    generation: u32,
}

/// Values in places that are used again, found by [`Index`] in constant time.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

// === impl Index ===

impl Index {
    pub(crate) const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.place as u64
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self {
            place: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// As its number.
impl Serialize for Index {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.to_bits())
    }
}

// === impl Slab ===

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self, value: T) -> Index {
        if let Some(place) = self.free.pop() {
            let free = &mut self.places[place as usize];
            free.value = Some(value);
            return Index {
                place,
                generation: free.generation,
            };
        }
        // 2³² values at once are beyond any memory: the bounded queues hold far fewer.
        let place = self.places.len() as u32;
        self.places.push(Place {
            generation: 0,
            value: Some(value),
        });
        Index {
            place,
            generation: 0,
        }
    }

    pub(crate) fn get(&self, index: Index) -> Option<&T> {
        let place = self.places.get(index.place as usize)?;
        (place.generation == index.generation)
            .then_some(place.value.as_ref())
            .flatten()
    }

    pub(crate) fn get_mut(&mut self, index: Index) -> Option<&mut T> {
        let place = self.places.get_mut(index.place as usize)?;
        (place.generation == index.generation)
            .then_some(place.value.as_mut())
            .flatten()
    }

    pub(crate) fn remove(&mut self, index: Index) -> Option<T> {
        let place = self.places.get_mut(index.place as usize)?;
        if place.generation != index.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index.place);
        Some(value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places
            .iter_mut()
            .filter_map(|held| held.value.as_mut())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Index, &T)> {
        self.places.iter().enumerate().filter_map(|(place, held)| {
            let index = Index {
                place: place as u32,
                generation: held.generation,
            };
            held.value.as_ref().map(|value| (index, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_index_names_nothing_although_its_place_is_taken_again() {
        let mut slab = Slab::new();
        let old = slab.insert('a');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('b');
        assert_eq!(new.place, old.place);
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&'b'));
    }

    #[test]
    fn an_index_survives_the_way_through_bits() {
        let mut slab = Slab::new();
        let first = slab.insert(());
        slab.remove(first);
        let index = slab.insert(());
        assert_eq!(Index::from_bits(index.to_bits()), index);
        assert_eq!(slab.get(Index::from_bits(u64::MAX)), None);
    }
}
