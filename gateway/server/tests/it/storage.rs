//! Services with inputs and outputs: what is made for them, and what comes from there and goes there.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bucket::Bucket;
use crate::hearth::{Answer, Hearth, eventually};
use crate::minio::{KEYS, Minio};
use crate::pictures::{RED, picture_models, png};

/// Others that hear of the bucket already.
const OTHERS: &str = "<NotificationConfiguration><QueueConfiguration><Id>others</Id>\
    <Event>s3:ObjectRemoved:*</Event><Queue>arn:minio:sqs:us-east-1:OTHERS:webhook</Queue>\
    </QueueConfiguration></NotificationConfiguration>";

fn start(minio: &Minio, folders: &TempDir) -> Hearth {
    start_with(minio, folders, &[])
}

fn start_with(minio: &Minio, folders: &TempDir, args: &[&str]) -> Hearth {
    let variables = minio.variables();
    let env: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let folder = format!("results={}", folders.path().display());
    let args = [&["--allow-host-scripts", "--folder", &folder], args].concat();
    Hearth::start_on(
        picture_models(),
        Arc::new(TempDir::new().unwrap()),
        &args,
        &env,
    )
}

fn io(provider: &str, path: &str) -> Value {
    json!({"storage_provider": provider, "path": path})
}

#[track_caller]
fn create(hearth: &Hearth, definition: &Value) -> Answer {
    let answer = hearth.post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer
}

#[track_caller]
fn delete(hearth: &Hearth, name: &str) {
    let path = format!("/system/services/{name}");
    let answer = hearth.send(hearth.request("DELETE", &path), ());
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// What MinIO says of a new object.
fn event(bucket: &str, key: &str) -> Vec<u8> {
    let s3 = json!({"bucket": {"name": bucket}, "object": {"key": key}});
    json!({"Records": [{"eventSource": "minio:s3", "eventTime": "2026-11-26T15:00:00Z", "s3": s3}]})
        .to_string()
        .into_bytes()
}

#[test]
fn buckets_folders_and_notifications_come_and_go_with_services() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    let folders = TempDir::new().unwrap();
    let hearth = start(&minio, &folders);
    minio.start(Some(hearth.address()));
    let bucket = Bucket::new(&minio.endpoint(), "photos", KEYS);
    bucket.make();
    bucket.set_notifications(OTHERS);

    let service = |name: &str| {
        json!({"name": name, "image": "model:mean",
            "input": [io("minio", "photos/in")], "output": [io("minio.default", "results/out")]})
    };
    let answer = create(&hearth, &service("one"));
    assert_eq!(answer.header("x-hearth-warning"), None);
    create(&hearth, &service("two"));
    let results = Bucket::new(&minio.endpoint(), "results", KEYS);
    assert_eq!(
        (bucket.keys(""), results.keys("")),
        (vec!["in/".to_owned()], vec!["out/".to_owned()])
    );
    let both = bucket.notifications();
    assert_eq!(
        both.matches("arn:minio:sqs::HEARTH:webhook").count(),
        1,
        "{both}"
    );
    assert!(
        both.contains("<Value>in/</Value>") && both.contains("s3:ObjectCreated:*"),
        "{both}"
    );
    assert!(both.contains("arn:minio:sqs::OTHERS:webhook"), "{both}");

    // What another service needs stays.
    delete(&hearth, "one");
    assert_eq!(bucket.notifications(), both);
    results.put("out/kept", b"mine");
    delete(&hearth, "two");
    let left = bucket.notifications();
    assert!(
        !left.contains("HEARTH") && left.contains("OTHERS"),
        "{left}"
    );
    // Nobody's objects are deleted; what is empty is.
    assert_eq!(results.keys(""), ["out/kept"]);
    assert_eq!(bucket.keys(""), [""; 0]);
    hearth.stop();
}

#[test]
fn a_minio_that_knows_nothing_of_hearth_is_said_with_what_to_do() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    minio.start(None);
    let folders = TempDir::new().unwrap();
    let hearth = start_with(&minio, &folders, &["--listing-interval-s", "1"]);
    let definition =
        json!({"name": "one", "image": "model:mean", "input": [io("minio", "photos/in")]});
    let answer = create(&hearth, &definition);
    let warning = answer.header("x-hearth-warning").unwrap();
    assert!(
        warning.contains("MINIO_NOTIFY_WEBHOOK_ENABLE_HEARTH=on"),
        "{warning}"
    );
    let bucket = Bucket::new(&minio.endpoint(), "photos", KEYS);
    assert!(!bucket.notifications().contains("HEARTH"));
    // Once it does, nobody has to tell Hearth.
    minio.kill();
    minio.start(Some(hearth.address()));
    let announced = || bucket.notifications().contains("<Value>in/</Value>");
    eventually("it announces", || announced().then_some(()));

    // One that does not answer at all makes no service.
    minio.kill();
    let definition =
        json!({"name": "two", "image": "model:mean", "input": [io("minio", "photos/in")]});
    let answer = hearth.post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(hearth.get("/system/services/two").status, 404);
    hearth.stop();
}

#[test]
fn a_script_is_given_the_object_of_its_event_and_its_results_are_kept() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    minio.start(None);
    let folders = TempDir::new().unwrap();
    let hearth = start(&minio, &folders);
    let script = "tr a-z A-Z < \"$INPUT_FILE_PATH\" > \"$TMP_OUTPUT_DIR/$(basename \"$INPUT_FILE_PATH\").up\"; \
                  echo $STORAGE_OBJECT_KEY > $TMP_OUTPUT_DIR/key.txt";
    let mut definition = json!({
        "name": "shout", "image": "none", "script": script,
        "input": [io("minio", "words/in")],
        "output": [
            io("minio", "words/out"),
            {"storage_provider": "minio.default", "path": "words/ups", "suffix": [".up"]},
            io("folder.results", "shout/all"),
            io("onedata.far", "space/out"),
        ],
        "storage_providers": {"onedata": {"far": {"oneprovider_host": "none.example.org"}}},
    });
    let answer = create(&hearth, &definition);
    let warning = answer.header("x-hearth-warning").unwrap();
    assert!(warning.contains("`onedata` can't be used yet"), "{warning}");
    let bucket = Bucket::new(&minio.endpoint(), "words", KEYS);
    bucket.put("in/sub/a b+ä.txt", b"hello");
    bucket.put("secret", b"others");

    let answer = hearth.post("/run/shout", &event("words", "in%2Fsub%2Fa+b%2B%C3%A4.txt"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (headers, kept) = bucket.get("out/a b+ä.txt.up").unwrap();
    assert_eq!(kept, b"HELLO");
    assert!(headers.contains_key("x-amz-meta-hearth-job"), "{headers:?}");
    let (_, key) = bucket.get("out/key.txt").unwrap();
    assert_eq!(String::from_utf8(key).unwrap(), "in/sub/a b+ä.txt\n");
    assert_eq!(bucket.keys("ups/a"), ["ups/a b+ä.txt.up"]);
    let copy = folders.path().join("shout/all/a b+ä.txt.up");
    assert_eq!(std::fs::read(copy).unwrap(), b"HELLO");

    // Nobody reaches through it what it does not read itself.
    let answer = hearth.post("/run/shout", &event("words", "secret"));
    assert!(
        answer
            .refusal(400)
            .contains("is in no input of the service `shout`")
    );
    let answer = hearth.post("/run/shout", &event("words", "in/none"));
    assert!(answer.refusal(400).contains("is not in the bucket"));

    // With the reference alone it fetches nothing.
    definition["name"] = json!("told");
    definition["file_stage_in"] = json!(true);
    definition["script"] = json!("test -z \"$INPUT_FILE_PATH\"; echo $STORAGE_OBJECT_KEY");
    create(&hearth, &definition);
    let answer = hearth.post("/run/told", &event("words", "in/none"));
    assert_eq!(answer.text().trim(), "in/none");

    // While nobody answers there, nothing can be fetched.
    minio.kill();
    let answer = hearth.post("/run/shout", &event("words", "in/a"));
    assert_eq!(answer.status, 503, "{}", answer.text());
    hearth.stop();
}

#[test]
fn what_a_model_finds_is_kept_where_its_service_says() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    minio.start(None);
    let folders = TempDir::new().unwrap();
    let hearth = start(&minio, &folders);
    create(
        &hearth,
        &json!({
            "name": "boxes", "image": "model:detector", "model": {"draw": "png"},
            "output": [
                {"storage_provider": "minio", "path": "found/json", "suffix": [".json"]},
                {"storage_provider": "folder.results", "path": "found/drawn", "suffix": [".png"]},
            ],
        }),
    );
    let answer = hearth.post("/job/boxes", BASE64_STANDARD.encode(png(RED)).as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let job = answer.header("x-job-name").unwrap().to_owned();
    let jobs = hearth.ended("boxes");
    assert_eq!(jobs[&job], "Succeeded");
    let bucket = Bucket::new(&minio.endpoint(), "found", KEYS);
    let (headers, found) = bucket.get(&format!("json/{job}.json")).unwrap();
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["x-amz-meta-hearth-job"], job.as_str());
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["predictions"][0]["label"], "red");
    let drawn = std::fs::read(folders.path().join(format!("found/drawn/{job}.png"))).unwrap();
    assert!(drawn.starts_with(b"\x89PNG"));

    // A job waits for a store that is away.
    minio.kill();
    let answer = hearth.post("/job/boxes", &png(RED));
    let job = answer.header("x-job-name").unwrap().to_owned();
    eventually("the job waits", || {
        hearth.log().contains("jobs wait").then_some(())
    });
    minio.start(None);
    assert_eq!(hearth.ended("boxes")[&job], "Succeeded");
    assert!(bucket.get(&format!("json/{job}.json")).is_some());
    hearth.stop();
}

#[test]
fn chained_services_hand_on_what_they_keep() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    minio.start(None);
    let folders = TempDir::new().unwrap();
    let hearth = start(&minio, &folders);
    let folder = |name: &str| json!([io("minio", &format!("chain/{name}"))]);
    // A script that hands pictures on, and models that draw and find.
    create(
        &hearth,
        &json!({
            "name": "first", "image": "none", "input": folder("in"), "output": folder("handed"),
            "script": "cp $INPUT_FILE_PATH $TMP_OUTPUT_DIR/",
        }),
    );
    create(
        &hearth,
        &json!({
            "name": "second", "image": "model:detector", "model": {"draw": "png"},
            "input": folder("handed"), "output": folder("drawn"),
        }),
    );
    create(
        &hearth,
        &json!({
            "name": "third", "image": "model:mean", "input": folder("drawn"), "output": folder("found"),
        }),
    );
    let bucket = Bucket::new(&minio.endpoint(), "chain", KEYS);
    bucket.put("in/a.png", &png(RED));
    bucket.put("in/b.png", b"no picture");
    for (service, key, status) in [
        ("first", "in/a.png", "Succeeded"),
        ("first", "in/b.png", "Succeeded"),
        ("second", "handed/a.png", "Succeeded"),
        ("second", "handed/b.png", "Failed"),
        ("third", "drawn/a.png.png", "Succeeded"),
    ] {
        let answer = hearth.post(&format!("/job/{service}"), &event("chain", key));
        let job = answer.header("x-job-name").unwrap().to_owned();
        let ended = hearth.ended(service)[&job].clone();
        let log = hearth.get(&format!("/system/logs/{service}/{job}")).text();
        assert_eq!(ended, status, "{key}: {log}");
    }
    let kept = [
        "drawn/",
        "drawn/a.png.json",
        "drawn/a.png.png",
        "found/",
        "found/a.png.png.json",
        "handed/",
        "handed/a.png",
        "handed/b.png",
        "in/",
        "in/a.png",
        "in/b.png",
    ];
    assert_eq!(bucket.keys(""), kept);
    let (_, found) = bucket.get("found/a.png.png.json").unwrap();
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["predictions"][0]["label"], "red", "{found}");
    hearth.stop();
}
