use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::*;
use crate::fixtures::{MANIFEST, only_version, store_with_yolo, write};

fn skipped(store: &Store) -> Vec<String> {
    let scan = store.scan().unwrap();
    assert_eq!(scan.versions, []);
    scan.skipped
        .into_iter()
        .map(|skipped| skipped.reason)
        .collect()
}

#[test]
fn a_scan_finds_every_version_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["b/10", "b/9", "a/1"] {
        write(&dir.path().join(version), &[MANIFEST]);
    }
    let scan = Store::open(dir.path()).unwrap().scan().unwrap();
    let found: Vec<_> = scan
        .versions
        .iter()
        .map(|version| format!("{}:{}", version.name, version.version))
        .collect();
    assert_eq!(found, ["a:1", "b:9", "b:10"]);
    assert_eq!(scan.versions[0].path, dir.path().join("a/1"));
    assert_eq!(scan.skipped, []);
}

#[test]
fn what_is_no_version_is_skipped_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            (".incoming-x/model.yaml", ""),
            ("README.md", ""),
            ("my model/1/model.yaml", ""),
            ("yolo/1/weights.bin", ""),
            ("yolo/latest/model.yaml", ""),
            ("yolo/notes.txt", ""),
        ],
    );
    let reasons = skipped(&Store::open(dir.path()).unwrap());
    let expected = [
        "\".incoming-x\" is no model name",
        "\"README.md\" is no folder",
        "\"my model\" is no model name",
        "no `model.yaml`, `config.pbtxt` or `*.onnx` in ",
        "\"latest\" is no version",
        "\"notes.txt\" is no folder",
    ];
    assert_eq!(reasons.len(), expected.len());
    for (reason, expected) in reasons.iter().zip(expected) {
        assert!(reason.starts_with(expected), "{reason}");
    }
}

#[test]
fn in_the_layout_of_triton_the_files_of_a_model_are_those_of_each_version() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("mlp/config.pbtxt", "max_batch_size: 4"),
        ("mlp/labels.txt", "a"),
        ("mlp/1/model.onnx", ""),
        ("mlp/2/model.onnx", ""),
        ("mlp/2/config.pbtxt", "max_batch_size: 8"),
        ("mlp/3/model.onnx", ""),
        ("mlp/3/model.yaml", "engine: onnx"),
        ("plain/1/net.onnx", ""),
    ];
    write(dir.path(), &files);
    let store = Store::open(dir.path()).unwrap();
    let scan = store.scan().unwrap();
    assert_eq!(scan.skipped, []);
    let max = |version: &StoredVersion| version.manifest().unwrap().batch.max;
    let found: Vec<_> = scan.versions.iter().map(max).collect();
    assert_eq!(found, [Some(4), Some(8), None, None]);
    let names = |version: &StoredVersion| {
        let files = Folder::list(&version.path).unwrap().files;
        let names: Vec<_> = files.into_iter().map(|file| file.name).collect();
        names.join(" ")
    };
    assert_eq!(
        names(&scan.versions[1]),
        "config.pbtxt labels.txt model.onnx"
    );
    assert_eq!(names(&scan.versions[2]), "model.onnx model.yaml");

    // Of a version that has a manifest of its own, nothing has changed.
    write(dir.path(), &[("mlp/config.pbtxt", "max_batch_size: 16")]);
    let now = store.scan().unwrap().versions;
    assert_ne!(now[0].fingerprint, scan.versions[0].fingerprint);
    assert_eq!(now[2], scan.versions[2]);
}

#[test]
fn a_store_that_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("nowhere"));
    assert!(matches!(store, Err(StoreError::NotFound(_))));
}

#[test]
fn symlinks_to_files_and_to_whole_versions_are_followed() {
    let (dir, store) = store_with_yolo();
    let version = dir.path().join("yolo/1");
    let blob = dir.path().join(".blob");
    fs::rename(version.join("model.onnx"), &blob).unwrap();
    symlink(&blob, version.join("model.onnx")).unwrap();
    symlink(&version, dir.path().join("yolo/2")).unwrap();
    let before = store.scan().unwrap().versions;
    assert_eq!(before.len(), 2);
    fs::write(&blob, "other weights").unwrap();
    let after = store.scan().unwrap().versions;
    assert_ne!(before[0].fingerprint, after[0].fingerprint);
}

#[test]
fn symlinks_to_folders_and_nowhere_are_not_part_of_a_version() {
    for (target, expected) in [
        (".", "`link` is a symlink to a folder"),
        ("nowhere", "/link: No"),
    ] {
        let (dir, store) = store_with_yolo();
        symlink(target, dir.path().join("yolo/1/link")).unwrap();
        let reasons = skipped(&store);
        assert!(reasons[0].contains(expected), "{reasons:?}");
    }
}

#[test]
fn files_are_listed_by_name_whatever_their_order_on_the_disk() {
    let (dir, _) = store_with_yolo();
    let version = dir.path().join("yolo/1");
    for number in [7, 3, 9, 1, 8, 2, 6, 4, 5, 0] {
        write(
            &version,
            &[(&format!("{number}/x"), ""), (&format!("{number}.bin"), "")],
        );
    }
    let names = Folder::list(&version)
        .unwrap()
        .files
        .into_iter()
        .map(|file| file.name);
    assert!(names.is_sorted());
}

#[test]
fn hidden_files_are_no_part_of_a_version() {
    let (dir, store) = store_with_yolo();
    let before = only_version(&store);
    write(
        &dir.path().join("yolo/1"),
        &[(".git/a/b/c/d/e", ""), (".nfs01", "")],
    );
    assert_eq!(only_version(&store), before);
}

#[test]
fn folders_too_deep_or_too_full_are_skipped() {
    let (dir, store) = store_with_yolo();
    let version = dir.path().join("yolo/1");
    write(&version, &[("a/b/c/d", "")]);
    only_version(&store);
    write(&version, &[("e/f/g/h/i", "")]);
    assert!(skipped(&store)[0].starts_with("`e/f/g/h` is a folder too deep"));
    fs::remove_dir_all(version.join("e")).unwrap();
    for number in 0..1024 {
        File::create(version.join(number.to_string())).unwrap();
    }
    assert!(skipped(&store)[0].contains("at most 1024"));
}

#[test]
fn a_version_with_the_name_that_the_cache_needs_is_skipped() {
    let (dir, store) = store_with_yolo();
    write(&dir.path().join("yolo/1"), &[("spec.json", "{}")]);
    assert!(skipped(&store)[0].contains("`spec.json`"));
}

#[test]
fn a_fingerprint_changes_with_names_sizes_times_and_inodes() {
    let (dir, store) = store_with_yolo();
    let version = dir.path().join("yolo/1");
    let model = version.join("model.onnx");
    let mut last = only_version(&store).fingerprint;
    let mut assert_changed = |why: &str| {
        let now = only_version(&store).fingerprint;
        assert_ne!(now, last, "{why}");
        last = now;
    };
    fs::rename(version.join("coco.names"), version.join("voc.names")).unwrap();
    assert_changed("name");
    fs::write(&model, "more weights").unwrap();
    assert_changed("size");
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1);
    File::options()
        .write(true)
        .open(&model)
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert_changed("time");
    fs::copy(&model, version.join(".copy")).unwrap();
    File::options()
        .write(true)
        .open(version.join(".copy"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::rename(version.join(".copy"), &model).unwrap();
    assert_changed("inode");
}

#[test]
fn trouble_with_the_file_system_fails_the_scan_and_a_locked_folder_is_skipped() {
    let error = |errno: Errno| StoreError::io(Path::new("yolo"))(errno.into());
    let mut scan = Scan::default();
    for errno in [Errno::MFILE, Errno::IO, Errno::STALE, Errno::TIMEDOUT] {
        assert!(scan.skip("yolo".into(), error(errno)).is_err(), "{errno}");
    }
    for errno in [Errno::ACCESS, Errno::NOENT, Errno::LOOP] {
        assert!(scan.skip("yolo".into(), error(errno)).is_ok(), "{errno}");
    }
    assert_eq!(scan.skipped.len(), 3);
}
