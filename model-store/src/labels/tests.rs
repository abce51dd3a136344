use std::path::Path;

use crate::fixtures::write;
use crate::{Manifest, StoreError};

fn labels(file: &[u8]) -> Result<Vec<String>, StoreError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("names"), file).unwrap();
    let manifest = Manifest::parse("output: { labels: names }").unwrap();
    manifest.read_labels(dir.path()).map(Option::unwrap)
}

#[test]
fn a_file_has_one_label_per_line() {
    for text in [
        "cat\ndog",
        "cat\ndog\n",
        "cat\r\ndog\r\n",
        "\u{feff}cat\n dog \n\n\n",
    ] {
        assert_eq!(labels(text.as_bytes()).unwrap(), ["cat", "dog"], "{text:?}");
    }
}

#[test]
fn an_empty_line_in_between_keeps_the_numbers_of_the_classes_after_it() {
    assert_eq!(labels(b"cat\n\ndog\n").unwrap(), ["cat", "", "dog"]);
}

#[test]
fn an_empty_file_is_refused() {
    assert!(matches!(labels(b"\n\n"), Err(StoreError::Invalid(_))));
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let error = labels(b"cat\n\xff\xfe").unwrap_err().to_string();
    assert!(error.contains("`names` is not UTF-8"), "{error}");
}

#[test]
fn too_many_labels_and_too_large_files_are_refused() {
    assert_eq!(
        labels("a\n".repeat(100_000).as_bytes()).unwrap().len(),
        100_000
    );
    for text in ["a\n".repeat(100_001), "a".repeat((1 << 20) + 1)] {
        assert!(matches!(
            labels(text.as_bytes()),
            Err(StoreError::TooLarge(_))
        ));
    }
}

#[test]
fn a_list_and_none_need_no_file() {
    let read = |yaml| {
        Manifest::parse(yaml)
            .unwrap()
            .read_labels(Path::new("nowhere"))
            .unwrap()
    };
    assert_eq!(
        read("output: { labels: [cat, no, 5] }").unwrap(),
        ["cat", "no", "5"]
    );
    assert_eq!(read("engine: onnx"), None);
}

#[test]
fn a_path_out_of_the_folder_is_refused_even_unchecked() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[("outside", "cat\n"), ("version/model.yaml", "")],
    );
    let manifest = Manifest::parse("output: { labels: ../outside }").unwrap();
    let error = manifest
        .read_labels(&dir.path().join("version"))
        .unwrap_err();
    assert!(error.to_string().contains("`output.labels`"), "{error}");
}
