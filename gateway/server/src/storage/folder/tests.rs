use super::*;

use tempfile::TempDir;

/// A folder with a secret beside it.
struct Place {
    outer: TempDir,
    folder: Folder,
}

impl Place {
    fn new() -> Self {
        let outer = TempDir::new().unwrap();
        std::fs::create_dir(outer.path().join("root")).unwrap();
        std::fs::write(outer.path().join("secret"), "x").unwrap();
        let named = format!("photos={}/root", outer.path().display());
        Self {
            folder: Folder::new(named.parse().unwrap(), Calls::new()),
            outer,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.outer.path().join("root").join(path)
    }

    async fn put(&self, key: &str, content: &'static [u8]) -> Result<(), StorageError> {
        let new = NewObject {
            bucket: "b",
            key,
            content: Content::Bytes(Bytes::from_static(content)),
            media: "text/plain",
            metadata: &[("hearth-job", "j-1")],
        };
        self.folder.write(new).await
    }

    async fn read(&self, key: &str) -> Result<(Head, Bytes), StorageError> {
        let wanted = Wanted {
            bucket: "b".to_owned(),
            key: key.to_owned(),
            version: None,
        };
        self.folder.read(wanted, 10).await
    }
}

#[tokio::test]
async fn what_is_written_is_read_with_its_metadata() {
    let place = Place::new();
    place.put("in/ä/a.txt", b"hello").await.unwrap();
    let (head, bytes) = place.read("in/ä/a.txt").await.unwrap();
    assert_eq!(&bytes[..], b"hello");
    assert_eq!(head.metadata["hearth-job"], "j-1");
    let again = place.folder.head("b", "in/ä/a.txt").await.unwrap();
    assert_eq!(again, Some(head.clone()));

    place.put("in/ä/a.txt", b"hell0").await.unwrap();
    let (changed, _) = place.read("in/ä/a.txt").await.unwrap();
    assert_ne!(changed.etag, head.etag);
    // Nothing that is not whole is left.
    let names = std::fs::read_dir(place.path("b/in/ä")).unwrap();
    assert_eq!(names.count(), 1);
}

#[tokio::test]
async fn nothing_leads_out_of_the_folder() {
    let place = Place::new();
    place.put("a", b"a").await.unwrap();
    std::os::unix::fs::symlink("../../secret", place.path("b/link")).unwrap();
    std::os::unix::fs::symlink("../..", place.path("b/up")).unwrap();
    for key in [
        "../secret",
        "x/../../../secret",
        "/etc/passwd",
        "a//b",
        "",
        "./a",
        ".hearth-1",
    ] {
        let error = place.read(key).await.unwrap_err();
        assert!(error.message.contains("can't be"), "{key}: {error}");
        assert!(place.put(key, b"").await.is_err(), "{key}");
    }
    for key in ["link", "up/secret"] {
        let error = place.read(key).await.unwrap_err();
        assert!(
            !error.is_transient() && !error.message.contains("any more"),
            "{error}"
        );
    }
    assert!(place.put("up/secret", b"y").await.is_err());
    let page = place.folder.list("b", "", None).await.unwrap();
    let keys: Vec<_> = page.objects.iter().map(|head| head.key.as_str()).collect();
    assert_eq!(keys, ["a"]);
    assert_eq!(
        std::fs::read(place.outer.path().join("secret")).unwrap(),
        b"x"
    );
}

#[tokio::test]
async fn what_is_gone_or_too_large_is_said() {
    let place = Place::new();
    let error = place.read("a").await.unwrap_err();
    assert_eq!(
        error,
        StorageError::definite("`a` is not in the bucket `b` any more")
    );
    place.put("a", b"more than ten").await.unwrap();
    let error = place.read("a").await.unwrap_err();
    assert_eq!(
        error,
        StorageError::definite("`a` has 13 bytes, expected at most 10")
    );
}

#[tokio::test]
async fn what_is_written_to_while_it_is_read_is_said() {
    let place = Place::new();
    place.put("a", b"hello").await.unwrap();
    let wanted = Wanted {
        bucket: "b".to_owned(),
        key: "a".to_owned(),
        version: None,
    };
    let inner = &place.folder.inner;
    let (head, file) = inner.wanted(&wanted, 10).unwrap();
    assert_eq!(inner.check_whole(&head, &file, 5), Ok(()));
    assert!(inner.check_whole(&head, &file, 4).is_err());
    // Of as many bytes, and of others.
    for content in ["hell0", "hello!"] {
        std::fs::write(place.path("b/a"), content).unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        let written = File::options().write(true).open(place.path("b/a")).unwrap();
        written.set_modified(later).unwrap();
        let error = inner.check_whole(&head, &file, 5).unwrap_err();
        assert!(
            error.message.contains("`a` changed while it was read"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn listings_are_in_the_order_of_keys() {
    let place = Place::new();
    let keys = ["a.txt", "a/b", "a/c/d", "a0", "b", "in/1", "in/2"];
    for key in keys {
        place.put(key, b"").await.unwrap();
    }
    let list = async |prefix: &str, after: Option<&str>| -> Vec<String> {
        let page = place.folder.list("b", prefix, after).await.unwrap();
        page.objects.into_iter().map(|head| head.key).collect()
    };
    assert_eq!(list("", None).await, keys);
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(list("", Some(key)).await, keys[at + 1..], "after {key}");
    }
    assert_eq!(list("a/", None).await, ["a/b", "a/c/d"]);
    assert_eq!(list("in/", Some("in/1")).await, ["in/2"]);
    assert_eq!(list("none", None).await, [""; 0]);
}

#[tokio::test]
async fn a_page_says_where_the_next_begins() {
    let place = Place::new();
    std::fs::create_dir(place.path("b")).unwrap();
    for at in 0..PAGE + 5 {
        std::fs::write(place.path(&format!("b/{at:05}")), "").unwrap();
    }
    let page = place.folder.list("b", "", None).await.unwrap();
    assert_eq!(
        (page.objects.len(), page.next.as_deref()),
        (PAGE, Some("00999"))
    );
    let page = place
        .folder
        .list("b", "", page.next.as_deref())
        .await
        .unwrap();
    assert_eq!((page.objects.len(), page.next), (5, None));
}

#[tokio::test]
async fn only_what_is_empty_is_released() {
    let place = Place::new();
    place.folder.prepare("b", "in/deep").await.unwrap();
    assert!(place.path("b/in/deep").is_dir());
    place.put("in/a", b"").await.unwrap();
    place.folder.release("b", "in/deep").await.unwrap();
    assert!(!place.path("b/in/deep").exists());
    assert!(place.path("b/in/a").exists());
}
