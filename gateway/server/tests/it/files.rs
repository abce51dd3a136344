//! Files to buckets and back by the command line.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::command::serve;
use crate::hearth::{Hearth, Store, eventually, kill};
use crate::pictures::picture_models;
use crate::shell::Shell;

/// Names that files have, and keys.
const NAMES: [&str; 6] = [
    "plain.txt",
    "with blanks & 100% + more?.txt",
    "ünï/côdé/図.txt",
    "deep/er/..hidden",
    "deep/.x",
    "quote\"'<>.txt",
];
const MIB: usize = 1 << 20;

fn make_bucket(hearth: &Hearth, name: &str) {
    let body = json!({"bucket_name": name}).to_string();
    let answer = hearth.post("/system/buckets", body.as_bytes());
    assert_eq!(answer.status, 201);
}

/// Returns bytes that no two places of have the same.
fn content(n_bytes: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(u32::to_le_bytes);
    words.take(n_bytes).collect()
}

/// Returns all files of a folder, by their paths below it.
pub(crate) fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
            files.insert(name.to_owned(), fs::read(&path).unwrap());
        }
    }
    files
}

fn keys(listed: &Value) -> Vec<&str> {
    let objects = listed["objects"].as_array().unwrap().iter();
    objects
        .map(|object| object["key"].as_str().unwrap())
        .collect()
}

/// Returns a shell with files to upload in `in`, and all that is in there.
fn with_files(hearth: &Hearth) -> (Shell, BTreeMap<String, Vec<u8>>) {
    let shell = Shell::at(hearth);
    for name in NAMES {
        shell.write(&format!("in/{name}"), name);
    }
    shell.write("in/empty", "");
    for n in 0..100 {
        shell.write(&format!("in/many/{n}"), &n.to_string());
    }
    // What is sent as a whole, and what in parts: the last of them whole or not.
    for (name, n_bytes) in [
        ("small", 8 * MIB - 1),
        ("one", 8 * MIB),
        ("three", 20 * MIB + 1),
    ] {
        fs::write(shell.path(&format!("in/{name}")), content(n_bytes)).unwrap();
    }
    let files = tree(&shell.path("in"));
    (shell, files)
}

#[test]
fn files_become_objects_and_objects_files() {
    let hearth = Hearth::start(Store::new(), &[]);
    let (shell, files) = with_files(&hearth);
    assert!(shell.says(&["ls"]).starts_with("no buckets yet"));
    make_bucket(&hearth, "photos");
    let table = shell.says(&["ls"]);
    assert!(table.contains("BUCKET  CREATED\nphotos  20"), "{table}");
    assert!(
        shell
            .says(&["ls", "photos"])
            .starts_with("nothing in `photos/` yet")
    );

    let said = shell.says(&["put", "in", "photos/new"]);
    assert!(
        said.starts_with("uploaded 110 files, 36.0 MiB, in "),
        "{said}"
    );
    let listed = shell.json(&["ls", "photos", "--recursive"]);
    let expected: Vec<String> = files.keys().map(|name| format!("new/{name}")).collect();
    assert_eq!(keys(&listed), expected);
    let etag = |name: &str| {
        let objects = listed["objects"].as_array().unwrap().iter();
        let key = format!("new/{name}");
        let mut objects = objects.filter(|object| object["key"] == key.as_str());
        objects.next().unwrap()["etag"].as_str().unwrap().to_owned()
    };
    // Of nothing; and of `0`, by md5sum.
    assert_eq!(etag("empty"), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(etag("many/0"), "cfcd208495d565ef66e7dff9f98764da");
    assert!(!etag("small").contains('-'));
    assert!(etag("one").ends_with("-1") && etag("three").ends_with("-3"));

    let said = shell.says(&["get", "photos/new/", "back"]);
    assert!(
        said.starts_with("downloaded 110 files, 36.0 MiB, in "),
        "{said}"
    );
    assert!(tree(&shell.path("back")) == files);

    // What is there stays, either way; what only looks like it does not.
    let there = |args: &[&str]| {
        let value = shell.json(&[args, &["--skip-existing"]].concat());
        assert_eq!(value["failed"], 0);
        (
            value["files"].as_u64().unwrap(),
            value["there"].as_u64().unwrap(),
        )
    };
    let (put, get) = (["put", "in", "photos/new/"], ["get", "photos/new", "back"]);
    assert_eq!(there(&put), (0, 110));
    assert_eq!(there(&get), (0, 110));
    let mut three = content(20 * MIB + 1);
    three[9 * MIB] ^= 1;
    fs::write(shell.path("in/three"), &three).unwrap();
    fs::write(shell.path("in/many/7"), "8").unwrap();
    fs::remove_file(shell.path("back/many/9")).unwrap();
    assert_eq!(there(&put), (2, 108));
    assert_eq!(there(&get), (3, 107));
    assert!(tree(&shell.path("back")) == tree(&shell.path("in")));
    hearth.stop();
}

#[test]
fn a_place_is_an_object_or_a_folder() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    make_bucket(&hearth, "bkt");
    for name in ["x", "x.d/y", "xy", "z"] {
        shell.write(&format!("in/{name}"), name);
    }
    shell.says(&["put", "in", "bkt/"]);
    // Files are put into folders: there are no others for them.
    shell.says(&["put", "in/z", "in/xy", "bkt/x"]);
    for (place, expected) in [
        ("bkt/x", vec!["x"]),
        ("bkt/x/", vec!["xy", "z"]),
        ("bkt/x.d", vec!["y"]),
        ("bkt/x.d/y", vec!["y"]),
        ("bkt/", vec!["x", "x.d/y", "x/xy", "x/z", "xy", "z"]),
    ] {
        let _ = fs::remove_dir_all(shell.path("out"));
        let output = shell.run(&["get", place, "out/deep"]);
        let files = tree(&shell.path("out/deep"));
        let mut expected: Vec<&str> = expected;
        if place == "bkt/" {
            // No folder has a file and a folder of one name.
            assert_eq!(output.status.code(), Some(1));
            let complaint = String::from_utf8(output.stderr).unwrap();
            assert!(
                complaint.contains("files are not downloaded"),
                "{complaint}"
            );
            expected.retain(|name| !name.starts_with('x') || files.contains_key(*name));
        } else {
            assert!(output.status.success());
        }
        assert_eq!(files.keys().collect::<Vec<_>>(), expected, "{place}");
    }
    // A name without a slash is a service's.
    let complaint = shell.complains(1, &["get", "bkt", "out"]);
    assert!(
        complaint.ends_with("a bucket is written `bkt/`"),
        "{complaint}"
    );
    let complaint = shell.complains(5, &["get", "bkt"]);
    assert!(complaint.starts_with("no service `bkt`"), "{complaint}");
    assert_eq!(
        shell.complains(5, &["get", "bkt/nope"]),
        "there is no object `bkt/nope`, and none in a folder of this name"
    );
    assert_eq!(
        shell.complains(5, &["get", "bkt/nope/"]),
        "there are no objects in `bkt/nope/`"
    );
    for args in [
        &["get", "nope/x"][..],
        &["ls", "nope"],
        &["put", "in", "nope/x"],
    ] {
        let complaint = shell.complains(5, args);
        assert_eq!(complaint, "no bucket `nope`; buckets: `bkt`");
    }
    shell.complains(2, &["ls", "/x"]);
    shell.complains(1, &["get", "/x"]);

    let names = |args: &[&str]| {
        let listed = shell.json(&[&["ls"], args].concat());
        let folders = listed["folders"].as_array().unwrap().iter();
        let folders = folders.map(|folder| folder.as_str().unwrap());
        let names: Vec<_> = folders.chain(keys(&listed)).map(str::to_owned).collect();
        names.join(" ")
    };
    assert_eq!(names(&["bkt"]), "x.d/ x/ x xy z");
    assert_eq!(names(&["bkt/x"]), "x.d/ x/ x xy");
    assert_eq!(names(&["bkt/x/"]), "x/xy x/z");
    // There is nothing else that begins so.
    assert_eq!(names(&["bkt/x.d"]), "x.d/y");
    assert_eq!(names(&["bkt/x.", "-r"]), "x.d/y");
    assert_eq!(names(&["bkt", "--recursive"]), "x x.d/y x/xy x/z xy z");
    assert_eq!(
        shell.complains(5, &["ls", "bkt/nope"]),
        "nothing in bucket `bkt` begins with `nope`"
    );
    let table = shell.says(&["ls", "bkt"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "SIZE  MODIFIED              KEY");
    assert_eq!(lines[1], "-     -                     x.d/");
    assert!(
        lines[3].starts_with("1 B   20") && lines[3].ends_with("Z  x"),
        "{table}"
    );
    hearth.stop();
}

#[test]
fn keys_that_no_file_can_have_fail_alone() {
    let hearth = Hearth::start(Store::new(), &[]);
    let shell = Shell::at(&hearth);
    make_bucket(&hearth, "bkt");
    let long = format!("in/{}", "x".repeat(300));
    for key in ["in/good", "in/a//b", "in/a/", &long] {
        let body = json!({"object_key": key, "operation": "upload"}).to_string();
        let link = hearth
            .post("/system/buckets/bkt/presign", body.as_bytes())
            .ok();
        let put = ureq::put(link["url"].as_str().unwrap());
        assert_eq!(put.send("content").unwrap().status(), 200, "{key}");
    }
    let output = shell.run(&["get", "bkt/in", "out", "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failures = value["failures"].as_array().unwrap();
    let mut failed: Vec<&str> = failures
        .iter()
        .map(|failure| failure["file"].as_str().unwrap())
        .collect();
    failed.sort_unstable();
    assert_eq!(failed, ["in/a//b", long.as_str()]);
    let files = tree(&shell.path("out"));
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "good"]);
    hearth.stop();
}

#[test]
fn what_can_not_be_uploaded_is_said_and_the_rest_is() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    make_bucket(&hearth, "bkt");
    shell.write("in/good", "good");
    shell.write("other/good", "other");
    // Nothing is begun where something is written wrongly.
    let complaint = shell.complains(1, &["put", "in", "nowhere", "bkt/"]);
    assert!(
        complaint.starts_with("nowhere: No such file"),
        "{complaint}"
    );
    let complaint = shell.complains(1, &["put", "in", "other", "bkt/"]);
    assert!(complaint.contains("would both be `good`"), "{complaint}");
    fs::create_dir(shell.path("nothing")).unwrap();
    let complaint = shell.complains(1, &["put", "nothing", "bkt/"]);
    assert!(complaint.starts_with("there is no file"), "{complaint}");
    let complaint = shell.complains(5, &["put", "in", "nope"]);
    assert!(
        complaint.starts_with("no service `nope`")
            && complaint.ends_with("a bucket is written `nope/`"),
        "{complaint}"
    );
    shell.write(
        "fdl.yaml",
        "functions: { oscar: [{ a: { name: deaf, image: 'model:mean' } }] }",
    );
    shell.says(&["apply", "fdl.yaml"]);
    let complaint = shell.complains(1, &["put", "in", "deaf"]);
    assert!(
        complaint.contains("service `deaf` has no `input`"),
        "{complaint}"
    );
    assert_eq!(keys(&shell.json(&["ls", "bkt", "-r"])), Vec::<&str>::new());

    let bad = std::ffi::OsStr::from_bytes(b"in/b\xffd");
    fs::write(shell.folder.path().join(bad), "bad").unwrap();
    std::os::unix::fs::symlink("gone", shell.path("in/broken")).unwrap();
    std::os::unix::fs::symlink("..", shell.path("in/loop")).unwrap();
    let long = format!("in/{0}/{0}/{0}/{0}/{0}", "x".repeat(210));
    shell.write(&long, "long");
    drop(std::os::unix::net::UnixListener::bind(shell.path("in/socket")).unwrap());
    let output = shell.run(&["put", "in", "bkt/"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    for says in [
        "d: its name is not UTF-8",
        "broken: No such file",
        "in/loop: a link that leads to what it is in",
        ": its key has 1054 bytes, expected 1024 at most",
        "in/socket: it is neither file nor folder",
        "error: 5 of 6 files are not uploaded\n",
    ] {
        assert!(complaint.contains(says), "{says}: {complaint}");
    }
    assert_eq!(keys(&shell.json(&["ls", "bkt", "-r"])), ["good"]);
    hearth.stop();
}

#[test]
fn a_storage_that_does_not_answer_or_refuses_ends_it_at_once() {
    let hearth = Hearth::start(Store::new(), &[]);
    make_bucket(&hearth, "bkt");
    let shell = Shell::at(&hearth);
    shell.write("in/a", "a");
    let mut config = hearth.get("/system/config").ok();
    let minio = &mut config["minio_provider"];
    let endpoint = minio["endpoint"].clone();
    let secret = minio["secret_key"].as_str().unwrap().to_owned();
    let told = |provider: Value| {
        let body = json!({"minio_provider": provider}).to_string();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
        // For as long as the test runs.
        let answer = format!("{head} {}\r\n\r\n{body}", body.len()).leak();
        format!("http://{}", serve(answer))
    };
    for (field, value, status, says) in [
        (
            "secret_key",
            json!("wrong"),
            4,
            "does not take the keys that the gateway names",
        ),
        (
            "access_key",
            json!("wrong"),
            4,
            "does not take the keys that the gateway names",
        ),
        ("endpoint", json!(""), 1, "names no storage"),
        (
            "endpoint",
            json!("localhost"),
            1,
            "expected http://HOST:PORT",
        ),
        (
            "endpoint",
            json!(format!("{}/x", endpoint.as_str().unwrap())),
            1,
            "expected http://",
        ),
        (
            "endpoint",
            json!("http://127.0.0.1:1"),
            3,
            "does not answer: connection refused",
        ),
    ] {
        let mut provider = config["minio_provider"].clone();
        provider[field] = value;
        let at = told(provider);
        for args in [
            &["put", "in", "bkt/"][..],
            &["get", "bkt/", "out"],
            &["ls", "bkt"],
        ] {
            let complaint = shell.complains(status, &[args, &["--endpoint", &at]].concat());
            assert!(complaint.contains(says), "{complaint}");
            assert!(!complaint.contains(&secret), "{complaint}");
        }
    }
    let off = Hearth::start(Store::new(), &["--s3-listen", "off"]);
    let complaint = Shell::at(&off).complains(1, &["ls"]);
    assert!(complaint.contains("(--s3-listen off)"), "{complaint}");
    off.stop();
    hearth.stop();
}

#[test]
fn what_is_interrupted_goes_on_where_it_ended() {
    let hearth = Hearth::start(Store::new(), &[]);
    let shell = Shell::at(&hearth);
    make_bucket(&hearth, "bkt");
    for n in 0..1100 {
        shell.write(&format!("in/{n:04}"), &n.to_string());
    }
    let mut command = shell.command(&["put", "in", "bkt/", "--parallel", "1", "--output", "json"]);
    let put = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the first is there", || {
        (!keys(&shell.json(&["ls", "bkt"])).is_empty()).then_some(())
    });
    kill(put.id(), Signal::INT);
    let output = put.wait_with_output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{complaint}");
    assert!(complaint.starts_with("error: interrupted: "), "{complaint}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["interrupted"], true);
    assert_eq!(value["failed"], 0);
    let n_put = value["files"].as_u64().unwrap();
    assert!((1..1100).contains(&n_put), "{n_put}");

    let value = shell.json(&["put", "in", "bkt/", "--skip-existing"]);
    assert_eq!(value["there"], n_put);
    assert_eq!(value["files"], 1100 - n_put);
    let listed = shell.json(&["ls", "bkt"]);
    assert_eq!(
        (keys(&listed).len(), &listed["has_more"]),
        (1000, &json!(true))
    );
    assert!(
        shell
            .says(&["ls", "bkt"])
            .ends_with("\nand more, with --all\n")
    );
    assert_eq!(keys(&shell.json(&["ls", "bkt", "--all"])).len(), 1100);
    hearth.stop();
}

#[test]
fn a_folder_goes_through_a_service() {
    let hearth = Hearth::start(picture_models(), &[]);
    let shell = Shell::at(&hearth);
    shell.write(
        "fdl.yaml",
        "functions: { oscar: [{ a: { name: colors, image: 'model:mean', \
         input: [{ storage_provider: minio, path: photos/in }], \
         output: [{ storage_provider: minio, path: photos/out }] } }] }",
    );
    shell.says(&["apply", "fdl.yaml"]);
    for n in 0..50 {
        shell.write(&format!("in/{n}/a b.png"), "");
        fs::copy(
            shell.path("red.png"),
            shell.path(&format!("in/{n}/a b.png")),
        )
        .unwrap();
    }
    shell.write("in/broken.png", "no picture");
    let said = shell.says(&["put", "in", "colors"]);
    assert!(said.starts_with("uploaded 51 files, "), "{said}");
    // An upload is a job before it is said to be done.
    let output = shell.run(&["watch", "colors", "--until-done", "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let watched: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(watched["counts"]["failed"], 1);
    assert_eq!(watched["counts"]["succeeded"], 50);
    let reason = watched["failures"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("picture"), "{reason}");

    let said = shell.says(&["get", "photos/out/", "out"]);
    assert!(said.starts_with("downloaded 50 files, "), "{said}");
    for (name, found) in tree(&shell.path("out")) {
        let found: Value = serde_json::from_slice(&found).unwrap();
        assert_eq!(found["predictions"][0]["label"], "red", "{name}");
    }
    hearth.stop();
}
