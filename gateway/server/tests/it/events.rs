//! Objects that are announced, or found: one job of each service for each state of one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bucket::Bucket;
use crate::hearth::{Hearth, Store, command, eventually, finish, kill};
use crate::objects::{external, provider};
use crate::pictures::{RED, picture_models, png};

pub(crate) const PASSWORD: [(&str, &str); 2] =
    [("OSCAR_USERNAME", "oscar"), ("OSCAR_PASSWORD", "secret")];

pub(crate) fn basic() -> String {
    format!("Basic {}", BASE64_STANDARD.encode("oscar:secret"))
}

/// What is announced but not there is forgotten by who looks.
const NOBODY_LOOKS: [&str; 2] = ["--listing-interval-s", "0"];

fn start(data: &Arc<TempDir>, args: &[&str], env: &[(&str, &str)]) -> Hearth {
    Hearth::start_on(picture_models(), Arc::clone(data), args, env)
}

/// A record of an object in a bucket that keeps versions, so that nobody has to be asked about it.
fn record(name: &str, key: &str, version: &str, size: u64) -> Value {
    json!({
        "eventVersion": "2.0", "eventSource": "minio:s3", "eventName": name,
        "s3": {"bucket": {"name": "photos"}, "object": {"key": key.replace('/', "%2F"), "size": size, "versionId": version}},
    })
}

fn event(records: &[Value]) -> String {
    json!({"EventName": "s3:ObjectCreated:Put", "Key": "photos/key", "Records": records})
        .to_string()
}

fn put(key: &str, version: &str) -> String {
    event(&[record("s3:ObjectCreated:Put", key, version, 7)])
}

fn service(name: &str, input: &Value) -> Value {
    json!({"name": name, "image": "model:mean", "input": [input]})
}

#[track_caller]
fn send(
    hearth: &Hearth,
    method: &str,
    path: &str,
    authorization: &str,
    body: &str,
) -> (u16, String) {
    let request = hearth.request(method, path);
    let answer = hearth.send(request.header("authorization", authorization), body);
    (answer.status.as_u16(), answer.text())
}

#[track_caller]
fn create(hearth: &Hearth, definition: &Value) {
    let (status, text) = send(
        hearth,
        "POST",
        "/system/services",
        &basic(),
        &definition.to_string(),
    );
    assert_eq!(status, 201, "{text}");
}

fn n_jobs(hearth: &Hearth, service: &str) -> usize {
    let (status, text) = send(
        hearth,
        "GET",
        &format!("/system/logs/{service}"),
        &basic(),
        "",
    );
    assert_eq!(status, 200, "{text}");
    let listed: Value = serde_json::from_str(&text).unwrap();
    listed["jobs"].as_object().unwrap().len()
}

/// Returns the token that MinIO is to come with.
fn events_token(data: &TempDir) -> String {
    let settings = finish(
        command()
            .args(["minio-settings", "--data"])
            .arg(data.path()),
    );
    assert!(settings.status.success(), "{settings:?}");
    let text = String::from_utf8(settings.stdout).unwrap();
    assert!(
        text.starts_with("MINIO_NOTIFY_WEBHOOK_ENABLE_HEARTH=on\n"),
        "{text}"
    );
    let endpoint = "MINIO_NOTIFY_WEBHOOK_ENDPOINT_HEARTH=http://127.0.0.1:8080/events/minio\n";
    assert!(text.contains(endpoint), "{text}");
    let name = "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_HEARTH=";
    let token = text.lines().find_map(|line| line.strip_prefix(name));
    token.unwrap().to_owned()
}

#[test]
fn what_minio_announces_becomes_one_job_of_each_service_that_it_is_for() {
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = start(&data, &NOBODY_LOOKS, &PASSWORD);
    let minio = |path: &str| json!({"storage_provider": "minio", "path": path});
    let mut jpg = minio("photos/in");
    jpg["suffix"] = json!([".jpg"]);
    create(&hearth, &service("jpg", &jpg));
    create(
        &hearth,
        &service(
            "any",
            &json!({"storage_provider": "minio.default", "path": "/photos/in/"}),
        ),
    );
    create(&hearth, &service("else", &minio("photos/other")));
    let token = format!("Bearer {}", events_token(&data));
    let announce = |body: &str| send(&hearth, "POST", "/events/minio", &token, body);
    let n_all = || ["jpg", "any", "else"].map(|service| n_jobs(&hearth, service));

    for _ in 0..3 {
        assert_eq!(announce(&put("in/a b.jpg", "v1")).0, 200);
        assert_eq!(n_all(), [1, 1, 0]);
    }
    assert_eq!(announce(&put("in/a b.jpg", "v2")).0, 200);
    assert_eq!(announce(&put("in/c.png", "v1")).0, 200);
    assert_eq!(n_all(), [2, 3, 0]);
    // Folders, what is elsewhere, and what went is nobody's.
    let created = "s3:ObjectCreated:Put";
    let nobodys = event(&[
        record(created, "in/", "v1", 0),
        record(created, "in", "v1", 7),
        record(created, "inside/a.jpg", "v1", 7),
        record("s3:ObjectRemoved:Delete", "in/c.jpg", "v1", 0),
    ]);
    assert_eq!(announce(&nobodys).0, 200);
    assert_eq!(n_all(), [2, 3, 0]);
    let several = event(&[
        record(created, "in/d.jpg", "v1", 7),
        record(created, "other/e", "v1", 7),
        record("s3:ObjectCreated:CompleteMultipartUpload", "in/f", "v1", 7),
    ]);
    for _ in 0..2 {
        assert_eq!(announce(&several).0, 200);
        assert_eq!(n_all(), [3, 5, 1]);
    }
    // As MinIO does when it tries whether somebody is there.
    assert_eq!(announce("{}").0, 200);
    for bad in ["", "no event", r#"{"Records": 1}"#] {
        let (status, text) = announce(bad);
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("the event can't be read"), "{text}");
    }

    // Who may.
    let (_, shown) = send(&hearth, "GET", "/system/services/any", &basic(), "");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let own = format!("Bearer {}", shown["token"].as_str().unwrap());
    for (authorization, status) in [
        (basic().as_str(), 200),
        (own.as_str(), 401),
        ("Bearer x", 401),
        ("", 401),
    ] {
        let (answered, text) = send(&hearth, "POST", "/events/minio", authorization, "{}");
        assert_eq!(answered, status, "{text}");
        assert!(
            status == 200 || text.contains("hearth minio-settings"),
            "{text}"
        );
    }
    assert_eq!(send(&hearth, "POST", "/job/any", &token, "x").0, 401);
    let log = hearth.log();
    assert!(!log.contains(&token[7..]), "{log}");
    hearth.stop();

    // A token of the operator's own.
    let env = [PASSWORD[0], PASSWORD[1], ("HEARTH_EVENTS_TOKEN", "chosen")];
    let hearth = start(&data, &NOBODY_LOOKS, &env);
    assert_eq!(send(&hearth, "POST", "/events/minio", &token, "{}").0, 401);
    assert_eq!(
        send(&hearth, "POST", "/events/minio", "Bearer chosen", &several).0,
        200
    );
    assert_eq!(n_jobs(&hearth, "any"), 5);
}

#[test]
fn what_oscar_made_announces_as_well_and_what_a_user_posts_is_a_new_job() {
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = start(&data, &[], &PASSWORD);
    let input = json!({"storage_provider": "minio", "path": "photos/in", "suffix": [".jpg"]});
    create(&hearth, &service("one", &input));
    let (_, shown) = send(&hearth, "GET", "/system/services/one", &basic(), "");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let token = format!("Bearer {}", shown["token"].as_str().unwrap());
    let post = |authorization: &str, body: &str| {
        let (status, text) = send(&hearth, "POST", "/job/one", authorization, body);
        assert_eq!(status, 201, "{text}");
        n_jobs(&hearth, "one")
    };
    assert_eq!(post(&token, &put("in/a.jpg", "v1")), 1);
    assert_eq!(post(&token, &put("in/a.jpg", "v1")), 1);
    assert_eq!(post(&token, &put("in/a.png", "v1")), 1);
    assert_eq!(post(&token, &put("in/a.jpg", "v2")), 2);
    // The administrator has it run again; the event of another folder is no announcement.
    assert_eq!(post(&basic(), &put("in/a.jpg", "v1")), 3);
    assert_eq!(post(&token, &put("elsewhere/a.jpg", "v1")), 4);
    assert_eq!(post(&token, "{}"), 5);
    assert_eq!(post(&token, "{}"), 6);
}

/// Announces objects until the connection breaks, each twice, and returns those that were acknowledged.
fn announce_until_it_breaks(address: SocketAddr, next: &AtomicUsize) -> Vec<usize> {
    let mut acknowledged = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let body = put(&format!("in/{number}"), "v1");
        for _ in 0..2 {
            let Ok(mut socket) = TcpStream::connect(address) else {
                return acknowledged;
            };
            let head = format!(
                "POST /events/minio HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let sent = socket.write_all(format!("{head}{body}").as_bytes());
            let mut answer = String::new();
            if sent.is_err() || socket.read_to_string(&mut answer).is_err() || answer.is_empty() {
                return acknowledged;
            }
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            acknowledged.push(number);
        }
    }
}

#[test]
fn an_announcement_that_was_acknowledged_is_one_job_though_the_gateway_is_killed() {
    let data = Arc::new(TempDir::new().unwrap());
    let next = AtomicUsize::new(0);
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..3 {
        let mut hearth = start(&data, &NOBODY_LOOKS, &[]);
        if round == 0 {
            let input = json!({"storage_provider": "minio", "path": "photos/in"});
            let body = service("one", &input).to_string();
            assert_eq!(hearth.post("/system/services", body.as_bytes()).status, 201);
        }
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (address, next, acknowledged) = (hearth.address(), &next, &acknowledged);
                scope.spawn(move || {
                    let heard = announce_until_it_breaks(address, next);
                    acknowledged.lock().unwrap().extend(heard);
                });
            }
            eventually("some are announced", || {
                (next.load(Ordering::Relaxed) >= 60 * (round + 1)).then_some(())
            });
            kill(hearth.pid(), Signal::KILL);
        });
        hearth.wait();
    }
    let hearth = start(&data, &NOBODY_LOOKS, &[]);
    // Once more, all of them.
    let n_objects = next.load(Ordering::Relaxed);
    for number in 0..n_objects {
        let body = put(&format!("in/{number}"), "v1");
        assert_eq!(hearth.post("/events/minio", body.as_bytes()).status, 200);
    }
    let metrics = hearth.get("/metrics").text();
    let key = "hearth_jobs_announced_again_total{service=\"one\"} ";
    let n_known = metrics
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    let mut acknowledged = acknowledged.into_inner().unwrap();
    acknowledged.sort_unstable();
    acknowledged.dedup();
    // What was acknowledged was there already; of the others some may have been.
    assert!(
        n_known.parse::<usize>().unwrap() >= acknowledged.len(),
        "{n_known}"
    );
    assert_eq!(hearth.jobs("one").len(), n_objects);
}

#[test]
fn a_listing_finds_what_was_not_announced_once() {
    let data = Arc::new(TempDir::new().unwrap());
    let root = TempDir::new().unwrap();
    let input = root.path().join("b/in");
    fs::create_dir_all(&input).unwrap();
    let write = |name: &str| fs::write(input.join(name), png(RED)).unwrap();
    write("before.png");
    let old = fs::File::open(input.join("before.png")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let folder = format!("pics={}", root.path().display());
    let args = ["--folder", &folder, "--listing-interval-s", "1"];
    let hearth = start(&data, &args, &[]);
    let definition = json!({
        "name": "one", "image": "model:mean",
        "input": [{"storage_provider": "folder.pics", "path": "b/in", "suffix": [".png"]}],
    });
    let answer = hearth.post("/system/services", definition.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let wait_for = |hearth: &Hearth, n: usize| -> BTreeMap<String, String> {
        eventually("it is found", || {
            let jobs = hearth.ended("one");
            assert!(jobs.len() <= n, "{jobs:?}");
            (jobs.len() == n).then_some(jobs)
        })
    };
    write("a.png");
    write("a.txt");
    wait_for(&hearth, 1);
    // What is written over is another.
    let a = fs::OpenOptions::new()
        .write(true)
        .open(input.join("a.png"))
        .unwrap();
    a.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5))
        .unwrap();
    wait_for(&hearth, 2);
    // Deleting their jobs makes none again: the looks that find the next have found none of these.
    let delete = |path: &str| hearth.send(hearth.request("DELETE", path), ()).status;
    assert_eq!(delete("/system/logs/one?all=true"), 204);
    for n in 1..3 {
        write(&format!("next-{n}.png"));
        wait_for(&hearth, n);
    }
    hearth.stop();
    let hearth = start(&data, &args, &[]);
    write("later.png");
    wait_for(&hearth, 3);
    hearth.stop();
    // What is older than its service is found where that is asked for.
    let args = [&args[..], &["--backfill"]].concat();
    let hearth = start(&data, &args, &[]);
    wait_for(&hearth, 4);
}

#[test]
fn a_service_that_would_call_itself_for_ever_is_refused() {
    let hearth = start(&Arc::new(TempDir::new().unwrap()), &[], &[]);
    let chained = |name: &str, input: &str, output: &str| {
        json!({
            "name": name, "image": "model:mean",
            "input": [{"storage_provider": "minio", "path": input}],
            "output": [{"storage_provider": "minio", "path": output}],
        })
    };
    let send = |method: &str, definition: &Value| {
        let request = hearth.request(method, "/system/services");
        let answer = hearth.send(request, definition.to_string().as_bytes());
        (answer.status.as_u16(), answer.text())
    };
    assert_eq!(send("POST", &chained("one", "photos/x", "photos/y")).0, 201);
    assert_eq!(send("POST", &chained("two", "photos/y", "photos/z")).0, 201);
    let (status, text) = send("POST", &chained("three", "photos/z", "photos/x/deep"));
    assert_eq!(status, 400, "{text}");
    assert_eq!(
        text,
        "`three` would be called by its own results, for ever: `three` writes to photos/x/deep/ at minio.default, \
         which is read by the next: `one` writes to photos/y/ at minio.default, which is read by the next: `two` \
         writes to photos/z/ at minio.default, which `three` reads"
    );
    assert_eq!(send("PUT", &chained("two", "photos/y", "photos/x")).0, 400);
    assert_eq!(
        hearth.get("/system/services/two").ok()["output"][0]["path"],
        "photos/z"
    );
    assert_eq!(
        send("POST", &chained("three", "photos/z", "photos/end")).0,
        201
    );
}

/// Returns the bucket of this name at the store that a gateway has itself.
pub(crate) fn own_bucket(hearth: &Hearth, name: &str) -> Bucket {
    let (endpoint, access_key, secret_key) = provider(hearth);
    Bucket::new(&endpoint, name, [&access_key, &secret_key])
}

/// A service that reads `photos/in`, and writes what it finds to `results/out`.
fn finder() -> Vec<u8> {
    json!({
        "name": "one", "image": "model:mean",
        "input": [{"storage_provider": "minio", "path": "photos/in"}],
        "output": [{"storage_provider": "minio", "path": "results/out"}],
    })
    .to_string()
    .into_bytes()
}

#[test]
fn an_object_that_comes_to_the_own_store_is_a_job_before_its_client_hears_of_it() {
    let data = Arc::new(TempDir::new().unwrap());
    let mut hearth = start(&data, &[], &[]);
    assert_eq!(hearth.post("/system/services", &finder()).status, 201);
    let photos = own_bucket(&hearth, "photos");
    for n in 1..=3 {
        photos.put(&format!("in/{n}.png"), &png(RED));
        assert_eq!(hearth.jobs("one").len(), n);
    }
    photos.put("elsewhere/4.png", &png(RED));
    photos.put("in/folder/", b"");
    kill(hearth.pid(), Signal::KILL);
    hearth.wait();
    let hearth = start(&data, &["--listing-interval-s", "1"], &[]);
    let jobs = hearth.ended("one");
    assert_eq!(jobs.values().collect::<Vec<_>>(), ["Succeeded"; 3]);
    let keys = own_bucket(&hearth, "results").keys("out/");
    let results = [1, 2, 3].map(|n| format!("out/{n}.png.json"));
    assert!(results.iter().all(|key| keys.contains(key)), "{keys:?}");
    // Nothing of that is found again by the look that finds nothing else.
    own_bucket(&hearth, "photos").put("in/5.png", &png(RED));
    assert_eq!(hearth.ended("one").len(), 4);
    hearth.stop();
}

#[test]
fn objects_at_another_store_whose_events_are_lost_are_found() {
    const OBJECTS: usize = 50;
    let store = Hearth::start(Store::new(), &[]);
    let (endpoint, access_key, secret_key) = provider(&store);
    let env = external([&endpoint, &access_key, &secret_key]);
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = start(&data, &["--listing-interval-s", "1"], &env);
    let answer = hearth.post("/system/services", &finder());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let photos = own_bucket(&store, "photos");
    for n in 0..OBJECTS {
        let key = format!("in/{n}.png");
        photos.put(&key, &png(RED));
        let record = json!({
            "eventName": "s3:ObjectCreated:Put",
            "s3": {"bucket": {"name": "photos"}, "object": {"key": key, "size": 1}},
        });
        // Every tenth event is lost, and every third comes twice.
        let n_times = match n {
            _ if n % 10 == 0 => 0,
            _ if n % 3 == 0 => 2,
            _ => 1,
        };
        for _ in 0..n_times {
            let announced = hearth.post(
                "/events/minio",
                event(std::slice::from_ref(&record)).as_bytes(),
            );
            assert_eq!(announced.status, 200, "{}", announced.text());
        }
    }
    let jobs = eventually("all are found", || {
        let jobs = hearth.ended("one");
        (jobs.len() >= OBJECTS).then_some(jobs)
    });
    assert_eq!(
        jobs.values().collect::<Vec<_>>(),
        [&"Succeeded".to_owned(); OBJECTS]
    );
    let n_results = own_bucket(&store, "results")
        .keys("out/")
        .iter()
        .filter(|key| key.ends_with(".png.json"))
        .count();
    assert_eq!(n_results, OBJECTS);
    // Of an object that is gone nothing is made.
    let gone = json!({
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": "photos"}, "object": {"key": "in/gone.png", "size": 1}},
    });
    let announced = hearth.post("/events/minio", event(&[gone]).as_bytes());
    assert_eq!(announced.status, 200, "{}", announced.text());
    assert_eq!(hearth.jobs("one").len(), OBJECTS);
    hearth.stop();
}

#[test]
fn what_a_service_keeps_elsewhere_calls_the_next_without_a_listing() {
    let store = Hearth::start(Store::new(), &[]);
    let (endpoint, access_key, secret_key) = provider(&store);
    let root = TempDir::new().unwrap();
    let folder = format!("pics={}", root.path().display());
    let args = [&NOBODY_LOOKS[..], &["--folder", &folder]].concat();
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = start(&data, &args, &[]);
    let account = json!({
        "endpoint": endpoint, "access_key": access_key, "secret_key": secret_key, "region": "us-east-1", "verify": true,
    });
    let create = |name: &str, model: &Value, input: [&str; 2], outputs: &[[&str; 2]]| {
        let io = |[provider, path]: [&str; 2]| json!({"storage_provider": provider, "path": path});
        let definition = json!({
            "name": name, "image": "model:detector", "model": model, "input": [io(input)],
            "output": outputs.iter().copied().map(io).collect::<Vec<_>>(),
            "storage_providers": {"minio": {"other": account}},
        });
        let answer = hearth.post("/system/services", definition.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
    };
    let (in_folder, in_other) = (["folder.pics", "handed/in"], ["minio.other", "handed/in"]);
    let drawing = json!({"draw": "png"});
    create(
        "first",
        &drawing,
        ["minio", "photos/in"],
        &[in_folder, in_other],
    );
    for (name, input) in [("folder", in_folder), ("other", in_other)] {
        create(name, &json!({}), input, &[["minio", "results/out"]]);
    }
    own_bucket(&hearth, "photos").put("in/a.png", &png(RED));
    assert_eq!(hearth.ended("first").len(), 1);
    for name in ["folder", "other"] {
        // JSON is no picture.
        let mut ended: Vec<_> = hearth.ended(name).into_values().collect();
        ended.sort_unstable();
        assert_eq!(ended, ["Failed", "Succeeded"], "{name}");
    }
    hearth.stop();
    // Who looks afterwards finds nothing new.
    let args = ["--listing-interval-s", "1", "--folder", &folder];
    let hearth = start(&data, &args, &[]);
    let others = Bucket::new(&endpoint, "handed", [&access_key, &secret_key]);
    others.put("in/new.png", &png(RED));
    fs::write(root.path().join("handed/in/new.png"), png(RED)).unwrap();
    for name in ["folder", "other"] {
        let jobs = eventually("the new one is found", || {
            let jobs = hearth.ended(name);
            (jobs.len() > 2).then_some(jobs)
        });
        assert_eq!(jobs.len(), 3, "{name}");
    }
    hearth.stop();
}
