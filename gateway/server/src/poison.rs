//! Inputs that have ended two workers, and are not given to a third for a while.
//!
//! Only while something is noted are inputs hashed, so in ordinary life this costs a load per entry.

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

type Fingerprint = [u8; 32];

/// The noted inputs of one revision.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    n_noted: AtomicUsize,
    /// The oldest first.
    noted: Mutex<VecDeque<(Instant, Fingerprint)>>,
}

// === impl Poison ===

impl Poison {
    /// Notes the input of an entry that two workers died with.
    pub(crate) fn note(&self, inputs: &[Tensor], options: &PictureOptions) {
        let fingerprint = fingerprint(inputs, options);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push_back((Instant::now(), fingerprint));
        if noted.len() > MAX_NOTED {
            noted.pop_front();
        }
        self.n_noted.store(noted.len(), Ordering::Relaxed);
    }

    /// Refuses an input that was noted not long ago.
    ///
    /// # Errors
    /// `Internal`, as the entry was answered that it is noted for.
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
            .is_some_and(|(since, _)| since.elapsed() >= REFUSED_FOR)
        {
            noted.pop_front();
        }
        self.n_noted.store(noted.len(), Ordering::Relaxed);
        let since = noted
            .iter()
            .find(|(_, other)| *other == fingerprint)
            .map(|(since, _)| since.elapsed());
        match since {
            Some(since) => Err(InferError::new(
                Code::Internal,
                format!(
                    "this input ended two workers; it is not tried again for another {} s",
                    REFUSED_FOR.saturating_sub(since).as_secs()
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
    fn only_what_was_noted_is_refused_and_the_oldest_is_forgotten() {
        let poison = Poison::default();
        let options = PictureOptions::default();
        assert!(poison.check(&input(b"a"), &options).is_ok());
        poison.note(&input(b"a"), &options);
        let error = poison.check(&input(b"a"), &options).unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert!(poison.check(&input(b"b"), &options).is_ok());
        for _ in 0..MAX_NOTED {
            poison.note(&input(b"c"), &options);
        }
        assert!(poison.check(&input(b"a"), &options).is_ok());
        assert!(poison.check(&input(b"c"), &options).is_err());
    }
}
