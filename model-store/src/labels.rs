//! Class names.

use std::path::Path;

use crate::folder::read_bounded;
use crate::manifest::check_path;
use crate::{Labels, Manifest, StoreError};

/// Largest file of labels, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Most labels; ImageNet's largest set has 22 thousand.
const MAX_LABELS: usize = 100_000;

impl Manifest {
    /// Returns the class names, by class number, or `None` where the manifest gives none.
    ///
    /// `dir` is the version's folder.
    /// A file has one name per line, in UTF-8; white space around it, a byte order mark and empty
    /// lines at the end do not count.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if there are none or it is no text, [`StoreError::TooLarge`] over
    /// 1 MiB or 100,000 labels, [`StoreError::Io`] if the file cannot be read.
    pub fn read_labels(&self, dir: &Path) -> Result<Option<Vec<String>>, StoreError> {
        let labels = match &self.output.labels {
            None => return Ok(None),
            Some(Labels::List(labels)) => labels.clone(),
            Some(Labels::File(name)) => {
                check_path("output.labels", name)?;
                let bytes = read_bounded(&dir.join(name), MAX_BYTES)?;
                let text = str::from_utf8(&bytes).map_err(|error| {
                    StoreError::Invalid(format!("`output.labels`: `{name}` is not UTF-8: {error}"))
                })?;
                let text = text.trim_start_matches('\u{feff}').trim_end();
                text.lines().map(|line| line.trim().to_owned()).collect()
            }
        };
        check_labels(&labels)?;
        Ok(Some(labels))
    }
}

/// Checks how many there are.
pub(crate) fn check_labels(labels: &[String]) -> Result<(), StoreError> {
    match labels.len() {
        0 => Err(StoreError::Invalid(
            "`output.labels`: expected one label per class, got none".to_owned(),
        )),
        n if n > MAX_LABELS => Err(StoreError::TooLarge(format!(
            "`output.labels`: expected at most {MAX_LABELS} labels, got {n}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
