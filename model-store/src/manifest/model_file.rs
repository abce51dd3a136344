//! Which file of the folder is the model.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Manifest, check_path};
use crate::StoreError;

/// The file taken where the manifest names none.
const DEFAULT: &str = "model.onnx";

/// Most file names that an error repeats.
const MAX_LISTED: usize = 8;

impl Manifest {
    /// Returns the path of the model in a version's folder: `file` where it is given, else
    /// `model.onnx`, else the only `*.onnx`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such file, [`StoreError::Invalid`] if there are
    /// several, both saying what there is; [`StoreError::Io`] if the folder cannot be read.
    pub fn model_file(&self, dir: &Path) -> Result<PathBuf, StoreError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(StoreError::io(dir))? {
            let entry = entry.map_err(StoreError::io(dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.path().is_file() {
                names.push(name);
            }
        }
        names.sort_unstable();
        let not_found = |expected: &str| {
            StoreError::NotFound(format!(
                "expected {expected} in the folder, which holds {}",
                list(&names)
            ))
        };
        if let Some(file) = &self.file {
            check_path("file", file)?;
            let path = dir.join(file);
            return if path.is_file() {
                Ok(path)
            } else {
                Err(not_found(&format!("`{file}`, which `file` names,")))
            };
        }
        let onnx: Vec<_> = names
            .iter()
            .filter(|name| name.ends_with(".onnx"))
            .collect();
        match *onnx {
            _ if names.iter().any(|name| name == DEFAULT) => Ok(dir.join(DEFAULT)),
            [only] => Ok(dir.join(only)),
            [] => Err(not_found("a `*.onnx`")),
            _ => Err(StoreError::Invalid(format!(
                "`file`: required where there are several `*.onnx`, which are {}",
                list(onnx)
            ))),
        }
    }
}

/// Returns the first of these names as a list in prose.
fn list<'a>(names: impl IntoIterator<Item = &'a String, IntoIter: ExactSizeIterator>) -> String {
    let names = names.into_iter();
    let n_names = names.len();
    let mut text = names
        .take(MAX_LISTED)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if n_names == 0 {
        text.push_str("no files");
    } else if n_names > MAX_LISTED {
        text.push_str(&format!(" and {} more", n_names - MAX_LISTED));
    }
    text
}
