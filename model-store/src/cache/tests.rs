use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::Store;
use crate::fixtures::{MANIFEST, only_version, spec, store_with_yolo, write};

fn cache() -> (TempDir, Cache) {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    (dir, cache)
}

fn take_in(cache: &Cache, store: &Store) -> Result<Taken, StoreError> {
    cache.take_in(&only_version(store), &mut |_, _| ())
}

/// The names in the cache.
fn names(cache: &Cache) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(&cache.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_sealed_version_is_the_stored_one_read_only_and_found_by_its_digest() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let sealed = take_in(&cache, &store).unwrap().seal(&spec()).unwrap();
    assert_eq!(sealed.dir, cache.dir.join(sealed.digest.to_string()));
    assert_eq!(
        fs::read_to_string(sealed.dir.join("model.onnx")).unwrap(),
        "weights"
    );
    for name in ["model.yaml", "model.onnx", "coco.names", "spec.json"] {
        let mode = fs::metadata(sealed.dir.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o444, "{name}");
    }
    assert_eq!(cache.get(&sealed.digest), Some(sealed.clone()));
    assert_eq!(
        names(&cache),
        [sealed.digest.to_string(), "known.jsonl".to_owned()]
    );
}

#[test]
fn progress_ends_at_the_bytes_of_all_files() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let mut calls = Vec::new();
    let version = only_version(&store);
    cache
        .take_in(&version, &mut |done, total| calls.push((done, total)))
        .unwrap();
    let n_bytes = ("engine: onnx\n".len() + "weights".len() + "cat\n".len()) as u64;
    assert_eq!(calls.last(), Some(&(n_bytes, n_bytes)));
    assert!(calls.is_sorted());
}

#[test]
fn the_configuration_that_applies_is_part_of_a_version() {
    let (_data, cache) = cache();
    let dir = TempDir::new().unwrap();
    let files = [
        ("mlp/config.pbtxt", "max_batch_size: 4"),
        ("mlp/1/model.onnx", "weights"),
    ];
    write(dir.path(), &files);
    let store = Store::open(dir.path()).unwrap();
    let first = take_in(&cache, &store).unwrap().seal(&spec()).unwrap();
    assert_eq!(first.manifest.batch.max, Some(4));
    // As it was, whatever becomes of the store's.
    assert_eq!(cache.get(&first.digest), Some(first.clone()));
    write(dir.path(), &[("mlp/config.pbtxt", "max_batch_size: 8")]);
    let second = take_in(&cache, &store).unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(second.manifest.batch.max, Some(8));
    assert_eq!(cache.get(&first.digest), Some(first));
}

#[test]
fn a_version_taken_in_and_dropped_leaves_nothing() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let taken = take_in(&cache, &store).unwrap();
    assert!(taken.dir().join("model.onnx").exists());
    drop(taken);
    assert_eq!(names(&cache), ["known.jsonl"]);
}

#[test]
fn sealing_the_same_content_again_keeps_the_first() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let first = take_in(&cache, &store).unwrap().seal(&spec()).unwrap();
    let other_spec = ModelSpec {
        max_batch: 99,
        ..spec()
    };
    let second = take_in(&cache, &store).unwrap().seal(&other_spec).unwrap();
    assert_eq!(second, first);
    assert_eq!(cache.get(&first.digest), Some(first));
    assert_eq!(names(&cache).len(), 2);
}

#[test]
fn a_version_of_the_cache_that_cannot_be_read_is_none_and_is_replaced() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let first = take_in(&cache, &store).unwrap().seal(&spec()).unwrap();
    fs::remove_file(first.dir.join(SPEC)).unwrap();
    fs::write(first.dir.join(SPEC), "{}").unwrap();
    assert_eq!(cache.get(&first.digest), None);
    let second = take_in(&cache, &store).unwrap().seal(&spec()).unwrap();
    assert_eq!(cache.get(&first.digest), Some(second));
    assert_eq!(names(&cache).len(), 2);
}

#[test]
fn preparing_a_file_changes_what_is_sealed_and_not_the_digest() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let taken = take_in(&cache, &store).unwrap();
    fs::write(taken.dir().join("model.onnx"), "declared shapes").unwrap();
    let sealed = taken.seal(&spec()).unwrap();
    assert_eq!(
        fs::read_to_string(sealed.dir.join("model.onnx")).unwrap(),
        "declared shapes"
    );
    assert_eq!(
        cache.digest_of(&only_version(&store)).unwrap(),
        sealed.digest
    );
}

#[test]
fn a_digest_is_that_of_the_content_wherever_it_is_computed() {
    let ((_one, one), (_two, two)) = (store_with_yolo(), store_with_yolo());
    let ((_data, cache), (_other_data, other_cache)) = (cache(), self::cache());
    let digest = take_in(&cache, &one).unwrap().digest;
    assert_eq!(other_cache.digest_of(&only_version(&two)).unwrap(), digest);
    write(&only_version(&two).path, &[("coco.names", "horse\n")]);
    assert_ne!(other_cache.digest_of(&only_version(&two)).unwrap(), digest);
}

#[test]
fn a_digest_that_differs_is_refused_and_one_that_fits_is_not() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let path = only_version(&store).path;
    let digest = Digest::of_file(&path.join("model.onnx"))
        .unwrap()
        .to_string();
    let manifest = |digest: &str| format!("engine: onnx\ndigests: {{ model.onnx: {digest} }}\n");
    write(&path, &[("model.yaml", &manifest(&digest.to_uppercase()))]);
    take_in(&cache, &store).unwrap();
    write(&path, &[("model.onnx", "weighty")]);
    let error = take_in(&cache, &store).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("`digests`: expected {}", digest.to_uppercase())),
        "{error}"
    );
    assert_eq!(names(&cache), ["known.jsonl"]);
}

#[test]
fn a_digest_of_a_file_that_is_not_there_is_refused() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let yaml = format!(
        "engine: onnx\ndigests: {{ model.bin: {} }}\n",
        "0".repeat(64)
    );
    write(&only_version(&store).path, &[("model.yaml", &yaml)]);
    let error = take_in(&cache, &store).unwrap_err().to_string();
    assert_eq!(error, "`digests`: there is no `model.bin` in the folder");
}

#[test]
fn a_manifest_that_is_not_right_is_refused_before_anything_is_copied() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let version = only_version(&store).path;
    for yaml in ["engine: onnx\nfile: ../../secret\n", "engine: [", ""] {
        write(&version, &[("model.yaml", yaml)]);
        let taken = cache.take_in(&only_version(&store), &mut |_, _| panic!("copied"));
        assert!(matches!(taken, Err(StoreError::Invalid(_))), "{yaml:?}");
    }
    assert!(names(&cache).is_empty());
}

/// Takes a version in while `disturb` is done to its folder after the first piece.
fn disturbed(disturb: impl Fn(&Path)) -> Result<(), StoreError> {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let version = only_version(&store);
    let mut is_disturbed = false;
    let taken = cache.take_in(&version, &mut |_, _| {
        if !std::mem::replace(&mut is_disturbed, true) {
            disturb(&version.path);
        }
    });
    let result = taken.map(drop);
    assert!(names(&cache).iter().all(|name| name == "known.jsonl"));
    assert_eq!(cache.known_digest(&version).is_some(), result.is_ok());
    result
}

#[test]
fn files_that_change_while_they_are_copied_are_refused_for_now() {
    disturbed(|_| ()).unwrap();
    let is_changed =
        |disturb: &dyn Fn(&Path)| matches!(disturbed(disturb), Err(StoreError::Changed(_)));
    assert!(
        is_changed(&|dir| write(dir, &[("model.onnx", "")])),
        "truncated"
    );
    assert!(
        is_changed(&|dir| write(dir, &[("model.onnx", "weights and more")])),
        "grown"
    );
    assert!(is_changed(&|dir| write(dir, &[("extra.bin", "")])), "added");
    assert!(
        is_changed(&|dir| fs::remove_file(dir.join("model.onnx")).unwrap()),
        "removed"
    );
    assert!(
        is_changed(&|dir| fs::remove_dir_all(dir).unwrap()),
        "all removed"
    );
}

#[test]
fn files_that_changed_since_the_scan_are_refused_for_now() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let version = only_version(&store);
    write(&version.path, &[("model.onnx", "weights and more")]);
    assert!(matches!(
        cache.digest_of(&version),
        Err(StoreError::Changed(_))
    ));
    let taken = cache.take_in(&version, &mut |_, _| ());
    assert!(matches!(taken, Err(StoreError::Changed(_))));
}

#[test]
fn files_that_change_while_they_are_hashed_are_refused_for_now() {
    let (_store, store) = store_with_yolo();
    let path = only_version(&store).path;
    let folder = Folder::list(&path).unwrap();
    content::hash(&path, &folder).unwrap();
    write(&path, &[("model.onnx", "weights and more")]);
    let hashed = content::hash(&path, &folder);
    assert!(matches!(hashed, Err(StoreError::Changed(_))));
}

/// Whether a cache opened anew can tell the digest of the version without hashing.
fn is_remembered(data: &Path, store: &Store) -> bool {
    Cache::open(data)
        .unwrap()
        .known_digest(&only_version(store))
        .is_some()
}

#[test]
fn a_digest_is_remembered_over_a_restart_until_a_file_changes() {
    let ((_store, store), (data, cache)) = (store_with_yolo(), cache());
    let version = only_version(&store);
    let digest = cache.digest_of(&version).unwrap();
    drop(cache);
    let cache = Cache::open(data.path()).unwrap();
    assert_eq!(cache.known_digest(&version), Some(digest));
    write(&version.path, &[("model.onnx", "weights and more")]);
    assert_eq!(cache.known_digest(&only_version(&store)), None);
    assert_ne!(cache.digest_of(&only_version(&store)).unwrap(), digest);
    assert!(is_remembered(data.path(), &store));
}

#[test]
fn lines_of_the_memo_that_cannot_be_read_are_ignored() {
    let ((_store, store), (data, cache)) = (store_with_yolo(), cache());
    cache.digest_of(&only_version(&store)).unwrap();
    let file = cache.dir.join("known.jsonl");
    let line = fs::read(&file).unwrap();
    let torn = &line[..line.len() / 2];
    for wrong in [torn, b"", b"[]", b"{\"a\": 1}", b"\xff"] {
        fs::write(&file, wrong).unwrap();
        assert!(!is_remembered(data.path(), &store));
        fs::write(&file, [wrong, b"\n", &line, torn].concat()).unwrap();
        assert!(is_remembered(data.path(), &store));
    }
}

#[test]
fn a_sweep_leaves_one_line_of_each_version_in_the_memo() {
    let ((_store, store), (data, cache)) = (store_with_yolo(), cache());
    for weights in ["a", "ab", "abc"] {
        write(&only_version(&store).path, &[("model.onnx", weights)]);
        cache.digest_of(&only_version(&store)).unwrap();
    }
    let n_lines = || {
        fs::read_to_string(cache.dir.join("known.jsonl"))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(n_lines(), 3);
    cache.sweep().unwrap();
    assert_eq!(n_lines(), 1);
    assert!(is_remembered(data.path(), &store));
}

#[test]
fn a_sweep_removes_what_was_left_half_done_and_keeps_the_rest() {
    let ((store_dir, store), (data, cache)) = (store_with_yolo(), cache());
    let sealed = take_in(&cache, &store).unwrap().seal(&spec()).unwrap();
    write(
        &cache.dir,
        &[(".incoming-a/sub/model.onnx", ""), (".incoming-b", "")],
    );
    let left = cache.dir.join(".incoming-a/sub/model.onnx");
    fs::set_permissions(left, Permissions::from_mode(0o444)).unwrap();
    cache.sweep().unwrap();
    assert_eq!(
        names(&cache),
        [sealed.digest.to_string(), "known.jsonl".to_owned()]
    );
    assert!(is_remembered(data.path(), &store));

    let version = only_version(&store);
    fs::remove_dir_all(store_dir.path().join("yolo/1")).unwrap();
    cache.sweep().unwrap();
    assert_eq!(
        Cache::open(data.path()).unwrap().known_digest(&version),
        None
    );
}

#[test]
fn files_in_folders_are_taken_in_and_hidden_ones_are_not() {
    let ((_store, store), (_data, cache)) = (store_with_yolo(), cache());
    let path = only_version(&store).path;
    write(
        &path,
        &[MANIFEST, ("weights/a.bin", "a"), (".git/config", "")],
    );
    let sealed = take_in(&cache, &store).unwrap().seal(&spec()).unwrap();
    assert_eq!(
        fs::read_to_string(sealed.dir.join("weights/a.bin")).unwrap(),
        "a"
    );
    assert!(!sealed.dir.join(".git").exists());
}
