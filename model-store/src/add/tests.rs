use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::fixtures::{MANIFEST, write};

/// An empty store, and a folder beside it for sources.
fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

/// Writes a version folder with these weights.
fn source(dir: &TempDir, name: &str, weights: &str) -> PathBuf {
    let path = dir.path().join(name);
    write(&path, &[MANIFEST, ("model.onnx", weights)]);
    path
}

fn text(version: &StoredVersion) -> String {
    format!("{}:{}", version.name, version.version)
}

/// Whether nothing of a copy that was not published is left.
fn is_clean(store: &Store) -> bool {
    let names = fs::read_dir(&store.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    !names
        .into_iter()
        .any(|name| name.to_string_lossy().starts_with(INCOMING))
}

#[test]
fn a_folder_becomes_the_first_version_of_a_model_of_its_name() {
    let (dir, store) = store();
    let added = store
        .add(&source(&dir, "yolo", "weights"), None, None)
        .unwrap();
    assert_eq!(text(&added), "yolo:1");
    assert_eq!(
        fs::read_to_string(store.dir.join("yolo/1/model.onnx")).unwrap(),
        "weights"
    );
    assert_eq!(store.scan().unwrap().versions, [added]);
    assert!(is_clean(&store));
}

#[test]
fn a_folder_named_by_a_number_is_that_version_of_its_parent() {
    let (dir, store) = store();
    let source = source(&dir, "yolo/7", "weights");
    assert_eq!(text(&store.add(&source, None, None).unwrap()), "yolo:7");
    let name = Some("other".parse().unwrap());
    assert_eq!(text(&store.add(&source, name, None).unwrap()), "other:7");
}

#[test]
fn a_model_of_a_triton_repository_is_added_version_by_version() {
    let (dir, store) = store();
    let files = [
        ("mlp/config.pbtxt", "max_batch_size: 4"),
        ("mlp/1/model.onnx", "one"),
        ("mlp/10/model.onnx", "ten"),
        ("mlp/9/model.onnx", "nine"),
    ];
    write(dir.path(), &files);
    let folders = crate::version_folders(&dir.path().join("mlp")).unwrap();
    let names: Vec<_> = folders.iter().map(|folder| file_name(folder)).collect();
    assert_eq!(names, ["1", "9", "10"]);
    for folder in &folders {
        let added = store.add(folder, None, None).unwrap();
        assert_eq!(added.manifest().unwrap().batch.max, Some(4));
        assert!(store.stage(folder, None, None).unwrap().is_present());
    }
    assert_eq!(store.scan().unwrap().versions.len(), 3);
    let version = [folders[0].clone()];
    assert_eq!(crate::version_folders(&version[0]).unwrap(), version);
}

#[test]
fn a_name_and_a_version_that_are_given_are_taken() {
    let (dir, store) = store();
    let source = source(&dir, "my model", "weights");
    let refused = store.add(&source, None, None).unwrap_err().to_string();
    assert!(refused.contains("so one has to be given"), "{refused}");
    let (name, version) = ("yolo".parse().unwrap(), "3".parse().unwrap());
    assert_eq!(
        text(&store.add(&source, Some(name), Some(version)).unwrap()),
        "yolo:3"
    );
}

#[test]
fn other_content_becomes_the_next_version_and_the_same_content_stays() {
    let (dir, store) = store();
    let source = source(&dir, "yolo", "weights");
    store.add(&source, None, None).unwrap();
    let again = store.stage(&source, None, None).unwrap();
    assert!(again.is_present());
    assert_eq!(again.dir(), store.dir.join("yolo/1"));
    assert_eq!(text(&again.publish().unwrap()), "yolo:1");

    // As many bytes as before, so that only the content differs.
    write(&source, &[("model.onnx", "WEIGHTS")]);
    assert_eq!(text(&store.add(&source, None, None).unwrap()), "yolo:2");
    assert_eq!(store.scan().unwrap().versions.len(), 2);
}

#[test]
fn a_number_whose_folder_is_no_version_is_not_given_again() {
    let (dir, store) = store();
    write(&store.dir.join("yolo/4"), &[("model.onnx", "")]);
    let added = store
        .add(&source(&dir, "yolo", "weights"), None, None)
        .unwrap();
    assert_eq!(text(&added), "yolo:5");
}

#[test]
fn a_version_that_is_there_with_other_content_is_not_replaced() {
    let (dir, store) = store();
    let source = source(&dir, "yolo/1", "weights");
    store.add(&source, None, None).unwrap();
    assert!(store.stage(&source, None, None).unwrap().is_present());
    write(&source, &[("model.onnx", "other weights")]);
    let error = store.add(&source, None, None).unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists(_)));
    assert!(
        error.to_string().contains("give this one a new number"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(store.dir.join("yolo/1/model.onnx")).unwrap(),
        "weights"
    );
}

#[test]
fn a_version_is_not_seen_before_it_is_published_and_dropping_it_removes_the_copy() {
    let (dir, store) = store();
    let staged = store
        .stage(&source(&dir, "yolo", "weights"), None, None)
        .unwrap();
    assert!(!staged.is_present());
    assert_eq!(
        fs::read_to_string(staged.dir().join("model.onnx")).unwrap(),
        "weights"
    );
    assert_eq!(store.scan().unwrap().versions, []);
    assert!(!is_clean(&store));
    drop(staged);
    assert!(is_clean(&store));
}

#[test]
fn of_two_that_race_for_a_version_the_second_is_refused() {
    let (dir, store) = store();
    let first = store
        .stage(&source(&dir, "a/yolo", "weights"), None, None)
        .unwrap();
    let second = store
        .stage(&source(&dir, "b/yolo", "others"), None, None)
        .unwrap();
    first.publish().unwrap();
    assert!(matches!(
        second.publish(),
        Err(StoreError::AlreadyExists(_))
    ));
    assert_eq!(
        fs::read_to_string(store.dir.join("yolo/1/model.onnx")).unwrap(),
        "weights"
    );
    assert!(is_clean(&store));
}

#[test]
fn a_folder_that_is_no_version_is_refused() {
    let (dir, store) = store();
    let add = |files: &[(&str, &str)], name: &str| {
        write(&dir.path().join(name), files);
        store.add(&dir.path().join(name), None, None)
    };
    let none = add(&[("weights.bin", "")], "none");
    assert!(matches!(none, Err(StoreError::NotFound(_))));
    let escaping = add(
        &[("model.yaml", "engine: onnx\nfile: ../x.onnx")],
        "escaping",
    );
    assert!(matches!(escaping, Err(StoreError::Invalid(_))));
    assert!(matches!(
        store.add(Path::new("nowhere"), None, None),
        Err(StoreError::Io { .. })
    ));
    assert!(is_clean(&store));
    assert!(!store.dir.join("escaping").exists());
}

#[test]
fn others_may_read_what_was_added_as_the_umask_allows() {
    let (dir, store) = store();
    let added = store
        .add(&source(&dir, "yolo", "weights"), None, None)
        .unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&added.path), mode(&store.dir));
}
