use super::*;

use std::os::unix::fs::symlink;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use tempfile::TempDir;

const LIMITS: Limits = Limits {
    time: Duration::from_secs(1),
    memory_bytes: 1 << 20,
    processes: 1,
    scratch_bytes: 1 << 20,
    scratch_entries: 5000,
    log_bytes: 1 << 10,
    output_bytes: 10,
};

fn scratch() -> (TempDir, Scratch) {
    let parent = TempDir::new().unwrap();
    let scratch = Scratch::create(&parent.path().join("run"), None).unwrap();
    (parent, scratch)
}

#[test]
fn results_are_files_and_not_links() {
    let (parent, scratch) = scratch();
    fs::write(parent.path().join("secret"), "x").unwrap();
    let output = scratch.path().join(Scratch::OUTPUT);
    fs::create_dir(output.join("sub")).unwrap();
    fs::write(output.join("sub/b"), "two").unwrap();
    fs::write(output.join("a"), "one").unwrap();
    symlink(parent.path().join("secret"), output.join("link")).unwrap();
    symlink(parent.path(), output.join("folder")).unwrap();
    rustix::fs::mknodat(
        CWD,
        output.join("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    let results = scratch.results(&LIMITS).unwrap();
    let found: Vec<_> = results
        .iter()
        .map(|file| (file.name.as_str(), &file.content[..]))
        .collect();
    assert_eq!(found, [("a", &b"one"[..]), ("sub/b", b"two")]);
    fs::write(output.join("c"), "12345").unwrap();
    assert_eq!(scratch.results(&LIMITS).unwrap_err(), Breach::Output);

    // The folder itself, too.
    fs::remove_dir_all(&output).unwrap();
    symlink(parent.path(), &output).unwrap();
    assert_eq!(scratch.results(&LIMITS).unwrap(), []);
    remove(scratch.path()).unwrap();
    assert!(parent.path().join("secret").exists());
}

#[test]
fn what_is_on_the_disk_is_counted() {
    let (_parent, scratch) = scratch();
    let empty = scratch.size(&LIMITS);
    fs::write(scratch.path().join("file"), vec![1; 300_000]).unwrap();
    let hole = File::create(scratch.path().join("hole")).unwrap();
    hole.set_len(1 << 30).unwrap();
    let size = scratch.size(&LIMITS);
    assert_eq!(size.entries, empty.entries + 2);
    assert!(
        (300_000..400_000).contains(&(size.bytes - empty.bytes)),
        "{size:?}"
    );
}

#[test]
fn folders_in_folders_without_end_are_removed() {
    let (parent, scratch) = scratch();
    let mut folder = openat(CWD, scratch.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..3000 {
        mkdirat(&folder, "d", Mode::RWXU).unwrap();
        folder = openat(&folder, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    assert!(scratch.size(&LIMITS).is_unreadable);
    remove(scratch.path()).unwrap();
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn closed_folders_are_removed() {
    let (parent, scratch) = scratch();
    let closed = scratch.path().join("closed");
    fs::create_dir_all(closed.join("inner")).unwrap();
    for folder in [closed.join("inner"), closed] {
        fs::set_permissions(folder, Permissions::from_mode(0o0)).unwrap();
    }
    remove(scratch.path()).unwrap();
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}
