//! Inputs that end every worker they are given to, and are refused for a while.
//!
//! An input that two workers died with, that nobody is known to have killed, may be innocent. So it is
//! refused only after that has happened to it twice, with no success between. Only while something is
//! noted are inputs hashed, so in ordinary life this costs a load per entry.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use workers_protocol::{Code, InferError, PictureOptions, Tensor};

/// How long an input is refused.
const REFUSED_FOR: Duration = Duration::from_secs(10 * 60);

/// Inputs noted at a time; of more, the oldest is forgotten.
const MAX_NOTED: usize = 256;

/// How often an input may cost two workers before it is refused.
const TIMES: u32 = 2;

/// Names an input, and how it is to be treated.
type Fingerprint = [u8; 32];

/// The noted inputs of one revision.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    n_noted: AtomicUsize,
    /// The oldest first.
    noted: Mutex<VecDeque<Noted>>,
}

#[derive(Debug)]
struct Noted {
    since: Instant,
    fingerprint: Fingerprint,
    times: u32,
}

// === impl Poison ===

impl Poison {
    /// Notes the input of an entry that two workers died with.
    pub(crate) fn note(&self, inputs: &[Tensor], options: &PictureOptions) {
        let fingerprint = fingerprint(inputs, options);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = noted
            .iter()
            .position(|noted| noted.fingerprint == fingerprint)
            .and_then(|place| noted.remove(place));
        noted.push_back(Noted {
            since: Instant::now(),
            fingerprint,
            times: before.map_or(0, |before| before.times) + 1,
        });
        if noted.len() > MAX_NOTED {
            noted.pop_front();
        }
        self.n_noted.store(noted.len(), Ordering::Relaxed);
    }

    /// Forgets an input that was answered with a result.
    pub(crate) fn clear(&self, inputs: &[Tensor], options: &PictureOptions) {
        if self.n_noted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let fingerprint = fingerprint(inputs, options);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|noted| noted.fingerprint != fingerprint);
        self.n_noted.store(noted.len(), Ordering::Relaxed);
    }

    /// Refuses an input that was noted often enough, not long ago.
    ///
    /// # Errors
    /// `Internal`, as the entries were answered that it is noted for.
    pub(crate) fn check(
        &self,
        inputs: &[Tensor],
        options: &PictureOptions,
    ) -> Result<(), InferError> {
        if self.n_noted.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let fingerprint = fingerprint(inputs, options);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        while noted
            .front()
            .is_some_and(|noted| noted.since.elapsed() >= REFUSED_FOR)
        {
            noted.pop_front();
        }
        self.n_noted.store(noted.len(), Ordering::Relaxed);
        let found = noted
            .iter()
            .find(|noted| noted.fingerprint == fingerprint && noted.times >= TIMES);
        match found {
            Some(noted) => Err(InferError::new(
                Code::Internal,
                format!(
                    "this input ended {} workers; it is not tried again for another {} s",
                    2 * noted.times,
                    REFUSED_FOR.saturating_sub(noted.since.elapsed()).as_secs()
                ),
            )),
            None => Ok(()),
        }
    }
}

fn fingerprint(inputs: &[Tensor], options: &PictureOptions) -> Fingerprint {
    let mut hasher = Sha256::new();
    // What differs in how an input is treated may decide whether it does harm.
    hasher.update(format!("{options:?}"));
    for input in inputs {
        hasher.update(format!(
            "{}\0{:?}{:?}{}\0",
            input.name,
            input.datatype,
            input.shape,
            input.data.len()
        ));
        hasher.update(&input.data);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model_store::DataType;

    use super::*;

    fn input(data: &'static [u8]) -> [Tensor; 1] {
        [Tensor {
            name: "x".to_owned(),
            datatype: DataType::Uint8,
            shape: vec![1],
            data: Bytes::from_static(data),
        }]
    }

    #[test]
    fn only_what_was_noted_twice_without_a_success_is_refused_and_the_oldest_is_forgotten() {
        let poison = Poison::default();
        let options = PictureOptions::default();
        poison.note(&input(b"a"), &options);
        assert!(poison.check(&input(b"a"), &options).is_ok());
        poison.clear(&input(b"a"), &options);
        poison.note(&input(b"a"), &options);
        assert!(poison.check(&input(b"a"), &options).is_ok());
        poison.note(&input(b"a"), &options);
        let error = poison.check(&input(b"a"), &options).unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert!(poison.check(&input(b"b"), &options).is_ok());
        for other in 0..MAX_NOTED {
            let options = PictureOptions {
                top_k: u32::try_from(other).ok(),
                ..options.clone()
            };
            poison.note(&input(b"c"), &options);
        }
        assert!(poison.check(&input(b"a"), &options).is_ok());
    }
}
