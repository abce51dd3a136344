//! Many uploads to a real MinIO, which announces them: each is one job with one result, whoever is ended
//! meanwhile.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::ImageFormat;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bucket::Bucket;
use crate::events::{PASSWORD, basic};
use crate::hearth::{Hearth, eventually, kill};
use crate::minio::{KEYS, Minio};
use crate::pictures::{BLUE, GREEN, RED, encode, picture_models, plain};

/// Objects that are uploaded.
const OBJECTS: usize = 60;
/// Who upload them.
const CLIENTS: usize = 3;

/// Nobody finds what was not announced.
const BY_WEBHOOK_ALONE: [&str; 2] = ["--listing-interval-s", "0"];

/// What is uploaded as which number, and what a model says of it.
fn picture(number: usize) -> (Vec<u8>, &'static str) {
    let [red, green, blue] = [(RED, "red"), (GREEN, "green"), (BLUE, "blue")];
    let (color, label) = [red, green, blue][number % 3];
    // Large enough that what is drawn in it changes little.
    (encode(&plain(64, 64, color), ImageFormat::Png), label)
}

fn start(minio: &Minio, data: &Arc<TempDir>, args: &[&str]) -> Hearth {
    let variables = minio.variables();
    let variables = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    // Of who announces objects a token is asked where everybody is asked who they are.
    let env: Vec<_> = variables.chain(PASSWORD).collect();
    let hearth = Hearth::start_on(picture_models(), Arc::clone(data), args, &env);
    hearth.authorized(basic())
}

/// Starts a gateway and a MinIO that know of each other, or says that the test is skipped.
fn both(args: &[&str]) -> Option<(Minio, Hearth)> {
    let mut minio = Minio::find()?;
    let hearth = start(&minio, &Arc::new(TempDir::new().unwrap()), args);
    minio.start(Some(hearth.address()));
    Some((minio, hearth))
}

/// Returns the bucket of this name once MinIO knows whom it can announce to.
fn bucket(minio: &Minio, name: &str) -> Bucket {
    const NOBODY: &str = "<NotificationConfiguration><QueueConfiguration>\
        <Event>s3:ObjectRemoved:*</Event><Queue>arn:minio:sqs:us-east-1:HEARTH:webhook</Queue>\
        </QueueConfiguration></NotificationConfiguration>";
    let bucket = Bucket::new(&minio.endpoint(), name, KEYS);
    bucket.make();
    bucket.set_notifications(NOBODY);
    bucket.set_notifications("<NotificationConfiguration/>");
    bucket
}

/// Makes a service of a model that looks at each object of one folder, and puts what it says into another.
#[track_caller]
fn create(hearth: &Hearth, name: &str, model: &Value, [input, output]: [&str; 2]) {
    let definition = json!({
        "name": name, "image": "model:mean", "model": {},
        "input": [{"storage_provider": "minio", "path": input}],
        "output": [{"storage_provider": "minio", "path": output}],
    });
    let definition = [&definition, model]
        .into_iter()
        .flat_map(|fields| fields.as_object().unwrap().clone())
        .collect::<serde_json::Map<_, _>>();
    let body = Value::from(definition).to_string();
    let answer = hearth.post("/system/services", body.as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("x-hearth-warning"), None);
}

/// Uploads all objects to `in/`, beside what is done meanwhile, which hears how many are there.
fn upload(bucket: &Bucket, meanwhile: impl FnOnce(&AtomicUsize)) {
    let (next, there) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= OBJECTS {
                        return;
                    }
                    bucket.put_in_the_end(&format!("in/{number}.png"), &picture(number).0);
                    there.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        meanwhile(&there);
    });
}

fn wait_for(there: &AtomicUsize, n: usize) {
    eventually("some are uploaded", || {
        (there.load(Ordering::Relaxed) >= n).then_some(())
    });
}

/// Waits until a service has had a job of each object, which all have succeeded, and returns their names.
fn all_succeeded(hearth: &Hearth, service: &str) -> BTreeSet<String> {
    let jobs = eventually("each object has had its job", || {
        let jobs = hearth.ended(service);
        (jobs.len() >= OBJECTS).then_some(jobs)
    });
    for (job, status) in &jobs {
        let log = || hearth.get(&format!("/system/logs/{service}/{job}")).text();
        assert_eq!(status, "Succeeded", "{}", log());
    }
    assert_eq!(jobs.len(), OBJECTS);
    jobs.into_keys().collect()
}

/// Checks that each object has the result of one of these jobs, each of which has made one.
fn check_results(bucket: &Bucket, of: impl Fn(usize) -> String, mut jobs: BTreeSet<String>) {
    for number in 0..OBJECTS {
        let key = of(number);
        let (headers, found) = bucket.get(&key).unwrap_or_else(|| panic!("no {key}"));
        let found: Value = serde_json::from_slice(&found).unwrap();
        let (_, label) = picture(number);
        assert_eq!(found["predictions"][0]["label"], label, "{key}: {found}");
        let job = headers["x-amz-meta-hearth-job"].to_str().unwrap();
        assert!(jobs.remove(job), "{key} is of {job}");
    }
    assert!(jobs.is_empty(), "{jobs:?}");
}

#[test]
fn what_is_uploaded_to_minio_is_one_job_by_its_webhook_alone() {
    let Some((minio, hearth)) = both(&BY_WEBHOOK_ALONE) else {
        return;
    };
    let photos = bucket(&minio, "photos");
    let results = bucket(&minio, "results");
    results.keep_versions();
    create(&hearth, "one", &json!({}), ["photos/in", "results/out"]);
    upload(&photos, |_| {});
    let jobs = all_succeeded(&hearth, "one");
    check_results(&results, |n| format!("out/{n}.png.json"), jobs);
    // And that of the folder.
    assert_eq!(results.n_versions("out/"), OBJECTS + 1);
    hearth.stop();
}

#[test]
fn a_minio_that_is_ended_while_it_is_uploaded_to_loses_nothing() {
    let Some((mut minio, hearth)) = both(&["--listing-interval-s", "1"]) else {
        return;
    };
    let photos = bucket(&minio, "photos");
    let results = bucket(&minio, "results");
    results.keep_versions();
    create(&hearth, "one", &json!({}), ["photos/in", "results/out"]);
    upload(&photos, |there| {
        for (part, end) in [Minio::kill, Minio::stop, Minio::kill].iter().enumerate() {
            wait_for(there, (part + 1) * OBJECTS / 4);
            end(&mut minio);
            minio.start(Some(hearth.address()));
        }
    });
    let jobs = all_succeeded(&hearth, "one");
    check_results(&results, |n| format!("out/{n}.png.json"), jobs);
    assert_eq!(results.n_versions("out/"), OBJECTS + 1);
    hearth.stop();
}

#[test]
fn a_service_is_deleted_with_its_jobs_also_where_minio_hangs() {
    let Some((minio, hearth)) = both(&[]) else {
        return;
    };
    bucket(&minio, "results");
    create(&hearth, "one", &json!({}), ["photos/in", "results/out"]);
    hearth.post("/job/one", &picture(0).0);
    eventually("its job ends", || {
        let jobs = hearth.jobs("one");
        jobs.values().all(|job| job == "Succeeded").then_some(())
    });
    let counts = || hearth.get("/metrics").text().contains("service=\"one\"");
    assert!(counts());

    minio.pause();
    let mut caller = hearth.connect();
    let head = "DELETE /system/services/one HTTP/1.1\r\nHost: hearth\r\nAuthorization";
    write!(caller, "{head}: {}\r\n\r\n", basic()).unwrap();
    eventually("the service is gone", || {
        let answer = hearth.get("/system/services/one");
        (answer.status == 404).then_some(())
    });
    eventually("its jobs are gone", || (!counts()).then_some(()));
    minio.resume();
    hearth.stop();
}

/// A chain of two: pictures with what was found in them drawn, and what is in those.
fn create_chain(hearth: &Hearth) {
    let drawing = json!({
        "image": "model:detector", "model": {"draw": "png"},
        "output": [{"storage_provider": "minio", "path": "chain/drawn", "suffix": [".png"]}],
    });
    create(hearth, "first", &drawing, ["photos/in", "chain/drawn"]);
    create(hearth, "second", &json!({}), ["chain/drawn", "results/out"]);
}

fn check_chain(hearth: &Hearth, minio: &Minio) {
    let of = |name: &str| Bucket::new(&minio.endpoint(), name, KEYS);
    let mut first = all_succeeded(hearth, "first");
    for number in 0..OBJECTS {
        let key = format!("drawn/{number}.png.png");
        let (headers, drawn) = of("chain").get(&key).unwrap_or_else(|| panic!("no {key}"));
        assert!(drawn.starts_with(b"\x89PNG"));
        let job = headers["x-amz-meta-hearth-job"].to_str().unwrap();
        assert!(first.remove(job), "{key} is of {job}");
    }
    let jobs = all_succeeded(hearth, "second");
    check_results(&of("results"), |n| format!("out/{n}.png.png.json"), jobs);
    assert_eq!(of("results").n_versions("out/"), OBJECTS + 1);
}

#[test]
fn services_are_chained_by_what_minio_announces() {
    let Some((minio, hearth)) = both(&BY_WEBHOOK_ALONE) else {
        return;
    };
    let photos = bucket(&minio, "photos");
    bucket(&minio, "results").keep_versions();
    create_chain(&hearth);
    upload(&photos, |_| {});
    check_chain(&hearth, &minio);
    hearth.stop();
}

#[test]
fn what_minio_could_not_announce_to_a_gateway_that_was_ended_it_announces_to_the_next() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    // Free now; whoever takes it meanwhile fails the test.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let listen = address.to_string();
    let args = [&BY_WEBHOOK_ALONE[..], &["--listen", &listen]].concat();
    let data = Arc::new(TempDir::new().unwrap());
    let mut hearth = start(&minio, &data, &args);
    minio.start(Some(address));
    let photos = bucket(&minio, "photos");
    bucket(&minio, "results").keep_versions();
    create_chain(&hearth);
    upload(&photos, |there| {
        for quarter in [1, 2] {
            wait_for(there, quarter * OBJECTS / 4);
            kill(hearth.pid(), Signal::KILL);
            hearth.wait();
            // Some come while nobody hears of it.
            wait_for(there, quarter * OBJECTS / 4 + OBJECTS / 8);
            hearth = start(&minio, &data, &args);
        }
    });
    check_chain(&hearth, &minio);
    hearth.stop();
}

#[test]
fn a_result_whose_job_was_not_known_to_have_ended_is_not_written_again() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    let data = Arc::new(TempDir::new().unwrap());
    let mut hearth = start(&minio, &data, &["--listing-interval-s", "1"]);
    minio.start(Some(hearth.address()));
    let photos = bucket(&minio, "photos");
    let results = bucket(&minio, "results");
    results.keep_versions();
    create(&hearth, "one", &json!({}), ["photos/in", "results/out"]);
    assert_eq!(hearth.post("/run/mean", &picture(0).0).status, 200);
    for worker in hearth.workers() {
        kill(worker, Signal::STOP);
    }
    upload(&photos, |_| {});
    eventually("all are in work", || {
        let jobs = hearth.jobs("one");
        let is_running = jobs.values().all(|status| status == "Running");
        (jobs.len() == OBJECTS && is_running).then_some(())
    });
    // Nothing can be written down any more.
    let ledger = rusqlite::Connection::open(data.path().join("jobs.db")).unwrap();
    ledger.execute_batch("begin immediate").unwrap();
    for worker in hearth.workers() {
        kill(worker, Signal::CONT);
    }
    eventually("all results are there", || {
        (results.keys("out/").len() > OBJECTS).then_some(())
    });
    kill(hearth.pid(), Signal::KILL);
    hearth.wait();
    drop(ledger);
    let hearth = start(&minio, &data, &BY_WEBHOOK_ALONE);
    let jobs = all_succeeded(&hearth, "one");
    check_results(&results, |n| format!("out/{n}.png.json"), jobs);
    assert_eq!(results.n_versions("out/"), OBJECTS + 1);
    hearth.stop();
}

#[test]
fn a_version_is_one_job_of_who_is_told_of_it_and_of_who_lists() {
    let Some(mut minio) = Minio::find() else {
        return;
    };
    let data = Arc::new(TempDir::new().unwrap());
    let folder = TempDir::new().unwrap();
    let looked_at = folder.path().join("photos/in");
    std::fs::create_dir_all(&looked_at).unwrap();
    let named = format!("beside={}", folder.path().display());
    let args = ["--listing-interval-s", "1", "--folder", &named];
    let hearth = start(&minio, &data, &args);
    minio.start(Some(hearth.address()));
    let photos = bucket(&minio, "photos");
    photos.keep_versions();
    let definition = json!({
        "name": "one", "image": "model:mean",
        "input": [
            {"storage_provider": "minio", "path": "photos/in"},
            {"storage_provider": "folder.beside", "path": "photos/in"},
        ],
    });
    let body = definition.to_string();
    assert_eq!(hearth.post("/system/services", body.as_bytes()).status, 201);
    let wait_for = |n: usize| {
        eventually("they end", || {
            let jobs = hearth.ended("one");
            assert!(jobs.len() <= n, "{jobs:?}");
            (jobs.len() == n).then(|| {
                assert!(
                    jobs.values().all(|status| status == "Succeeded"),
                    "{jobs:?}"
                );
            })
        });
    };
    photos.put("in/a.png", &picture(0).0);
    wait_for(1);
    photos.put("in/a.png", &picture(1).0);
    wait_for(2);
    // Who finds what is in the folder has looked through the bucket before.
    for n in 0..3 {
        let name = looked_at.join(n.to_string());
        let whole = folder.path().join("whole");
        std::fs::write(&whole, picture(0).0).unwrap();
        std::fs::rename(whole, name).unwrap();
        wait_for(3 + n);
    }
    hearth.stop();
}
