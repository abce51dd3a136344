//! Folders and specs for the tests of this crate.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::{ModelSpec, Store, StoredVersion};

pub(crate) const MANIFEST: (&str, &str) = ("model.yaml", "engine: onnx\n");

/// Writes these files into a folder, making what is not there.
pub(crate) fn write(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).unwrap();
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A store that holds version 1 of `yolo` with a manifest, `model.onnx` and `coco.names`.
pub(crate) fn store_with_yolo() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let files = [MANIFEST, ("model.onnx", "weights"), ("coco.names", "cat\n")];
    write(&dir.path().join("yolo/1"), &files);
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

/// The only version of a store, as a scan sees it now.
pub(crate) fn only_version(store: &Store) -> StoredVersion {
    let mut versions = store.scan().unwrap().versions;
    assert_eq!(versions.len(), 1);
    versions.remove(0)
}

pub(crate) fn spec() -> ModelSpec {
    ModelSpec {
        platform: "onnxruntime_onnx".to_owned(),
        task: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        max_batch: 16,
        instances: 1,
        notes: Vec::new(),
    }
}
