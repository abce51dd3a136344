//! OSCAR's services, as its clients create, read, call and delete them.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::add_one::Halted;
use crate::hearth::{Answer, Hearth, Store, eventually, kill};
use crate::pictures::{BLUE, RED, picture_models, png};

const SERVICES: &str = "/system/services";

impl Hearth {
    fn create(&self, definition: &Value) -> Answer {
        self.post(SERVICES, definition.to_string().as_bytes())
    }

    fn created(&self, definition: &Value) {
        let answer = self.create(definition);
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.text(), "");
    }

    fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("PUT", path), body.to_string().as_bytes())
    }

    fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path), ())
    }

    fn service(&self, name: &str) -> Value {
        self.get(&format!("{SERVICES}/{name}")).ok()
    }
}

/// Returns the sentence of an answer that is refused as OSCAR refuses.
#[track_caller]
fn refusal(answer: &Answer, status: u16) -> String {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    let media = answer.header("content-type");
    assert_eq!(media, Some("text/plain; charset=utf-8"), "{text}");
    text
}

fn model_service(name: &str) -> Value {
    json!({"name": name, "image": "model:mean"})
}

// === services ===

#[test]
fn a_service_is_created_read_changed_and_deleted() {
    let hearth = Hearth::start(picture_models(), &[]);
    assert_eq!(hearth.get(SERVICES).text(), "[]");
    let definition = json!({
        "name": "colors", "Image": "model:mean:1", "cpu": "1.0", "script": "x\r\n",
        "environment": {"Variables": {"A": "b"}, "secrets": {"KEY": "hunter2"}},
        "endpoint": "what SCAR sends beside",
    });
    let answer = hearth.create(&definition);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let warning = answer.header("x-hearth-warning").unwrap();
    assert_eq!(
        warning,
        "kept without effect: cpu, environment.secrets, environment.variables, script"
    );

    let service = hearth.service("colors");
    let token = service["token"].as_str().unwrap();
    assert_eq!(token.len(), 64);
    assert!(token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(service["owner"], "cluster_admin");
    assert_eq!(service["cpu"], "1.0");
    assert_eq!(service["memory"], "256Mi");
    assert_eq!(service["script"], "x\n");
    assert_eq!(service["environment"]["variables"]["A"], "b");
    assert_eq!(service["environment"]["secrets"]["KEY"], "");
    assert_eq!(service["labels"]["oscar_service"], "colors");
    let minio = &service["storage_providers"]["minio"]["default"];
    assert_eq!(minio["secret_key"], "hidden");
    let text = hearth.get("/system/services/colors").text();
    assert!(
        text.starts_with(r#"{"name":"colors","cluster_id":"","memory":"256Mi","#),
        "{text}"
    );
    let listed = hearth.get(SERVICES).ok();
    assert_eq!(listed[0], service);
    assert!(service.get("deployment").is_none());
    let with_deployment = hearth.get("/system/services?include=deployment").ok();
    assert_eq!(with_deployment[0]["deployment"]["state"], "ready");

    // What is said again is changed; token and owner are kept.
    let mut changed = service.clone();
    changed["log_level"] = json!("critical");
    changed["token"] = json!("mine");
    let answer = hearth.put(SERVICES, &changed);
    assert_eq!(answer.status, 204, "{}", answer.text());
    let again = hearth.service("colors");
    assert_eq!(again["log_level"], "CRITICAL");
    assert_eq!(again["token"], service["token"]);

    assert_eq!(hearth.delete("/system/services/colors").status, 204);
    refusal(&hearth.get("/system/services/colors"), 404);
    refusal(&hearth.delete("/system/services/colors"), 404);
    refusal(&hearth.put(SERVICES, &service), 404);
    assert_eq!(hearth.get(SERVICES).text(), "[]");
    let log = hearth.log();
    assert!(!log.contains("hunter2") && !log.contains(token), "{log}");
}

#[test]
fn a_definition_that_can_not_be_is_refused_with_the_reason() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.created(&model_service("there"));
    let huge = "x".repeat(10 << 20);
    for (definition, status, says) in [
        (json!({"image": "model:mean"}), 400, "`name`"),
        (
            json!({"name": "../etc", "image": "model:mean"}),
            400,
            "`name`",
        ),
        (
            json!({"name": "a", "script": "x"}),
            400,
            "`image` is missing",
        ),
        (
            json!({"name": "a", "image": "cowsay"}),
            400,
            "`script` is missing",
        ),
        (
            json!({"name": "a", "image": "model:none"}),
            400,
            "Request for unknown model: 'none' is not found: there are `detector`, `mean`",
        ),
        (
            json!({"name": "a", "image": "model:mean:7"}),
            400,
            "version 7 is not found",
        ),
        (
            json!({"name": "a", "image": "model:../x"}),
            400,
            "is no model name",
        ),
        (
            json!({"name": "a", "image": ["hunter2"]}),
            400,
            "`image`: expected a string, got sequence",
        ),
        (
            json!({"name": "a", "image": "cowsay", "script": "x"}),
            400,
            "--allow-host-scripts",
        ),
        (
            model_service("there"),
            409,
            "A service with the provided name already exists",
        ),
        (
            json!({"name": "a", "image": "model:mean", "environment": {"variables": {"A": huge}}}),
            413,
            "expected at most 1048576",
        ),
    ] {
        let answer = hearth.create(&definition);
        let sentence = refusal(&answer, status);
        assert!(sentence.contains(says), "{sentence}");
        assert!(
            sentence.len() < 400 && !sentence.contains("hunter2"),
            "{sentence}"
        );
    }
    let sentence = refusal(&hearth.post(SERVICES, b"{"), 400);
    assert!(
        sentence.starts_with("The service specification is not valid: "),
        "{sentence}"
    );
    refusal(&hearth.get("/system/services/..%2F..%2Fetc"), 404);
    assert_eq!(hearth.get(SERVICES).ok().as_array().unwrap().len(), 1);
}

#[test]
fn services_survive_a_kill_at_any_moment() {
    let data = Arc::new(TempDir::new().unwrap());
    let store = || Store::new().with("mean", "engine: onnx\n", "picture_mean");
    let mut token = Value::Null;
    for round in 0..3 {
        let mut hearth = Hearth::start_on(store(), Arc::clone(&data), &[], &[]);
        if round > 0 {
            // What was answered is there, and whole.
            assert_eq!(hearth.service("first")["token"], token);
            refusal(&hearth.get("/system/services/gone"), 404);
        } else {
            hearth.created(&model_service("first"));
            token = hearth.service("first")["token"].clone();
        }
        hearth.created(&model_service("gone"));
        assert_eq!(hearth.delete("/system/services/gone").status, 204);
        // Writers are at work when it is killed.
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let address = hearth.address();
                scope.spawn(move || {
                    for number in 0.. {
                        let body = model_service(&format!("w{round}-{writer}-{number}")).to_string();
                        let head = format!(
                            "POST {SERVICES} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        let Ok(mut socket) = std::net::TcpStream::connect(address) else {
                            return;
                        };
                        let _ = socket.write_all(format!("{head}{body}").as_bytes());
                        let mut answer = String::new();
                        if socket.read_to_string(&mut answer).is_err() || answer.is_empty() {
                            return;
                        }
                    }
                });
            }
            eventually("some are written", || {
                let services = hearth.get(SERVICES).ok();
                (services.as_array().unwrap().len() > 20 * (round + 1)).then_some(())
            });
            kill(hearth.pid(), Signal::KILL);
        });
        hearth.wait();
    }
}

// === calling a service ===

#[test]
fn a_service_answers_base64_with_base64_and_everything_else_as_its_model() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.created(&model_service("colors"));
    let picture = png(RED);
    let text = BASE64_STANDARD.encode(&picture);
    let plain = hearth.post("/run/mean", &picture).ok();
    assert_eq!(plain["predictions"][0]["label"], "red");

    let send = |path: &str, accept: &str, body: &[u8]| {
        let request = hearth.request("POST", path).header("accept", accept);
        hearth.send(request, body)
    };
    let decoded = |answer: &Answer| -> Value {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        serde_json::from_slice(&BASE64_STANDARD.decode(&answer.body).unwrap()).unwrap()
    };
    assert_eq!(decoded(&send("/run/colors", "*/*", text.as_bytes())), plain);
    let answer = send("/run/colors", "*/*", text.as_bytes());
    assert!(answer.header("server-timing").is_some());
    assert_eq!(
        decoded(&send("/run/colors/", "*/*;q=0.8", text.as_bytes())),
        plain
    );
    assert_eq!(
        send("/run/colors", "application/json", text.as_bytes()).ok(),
        plain
    );
    assert_eq!(
        send("/run/colors", "text/html, */*", text.as_bytes()).ok(),
        plain
    );
    assert_eq!(send("/run/colors", "*/*", &picture).ok(), plain);
    // A model by itself does not.
    assert_eq!(send("/run/mean", "*/*", text.as_bytes()).ok(), plain);
    let drawn = |path: &str| {
        let answer = send(path, "image/png", text.as_bytes());
        assert_eq!(answer.header("content-type"), Some("image/png"));
        answer.body
    };
    assert_eq!(drawn("/run/colors"), drawn("/run/mean"));
    // As OSCAR's clients do with a form.
    let answer = send("/run/colors", "*/*", b"a=b");
    assert!(answer.refusal(400).contains("the body is no picture"));
}

#[test]
fn a_service_says_how_its_model_is_asked_and_a_request_may_say_otherwise() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.created(
        &json!({"name": "drawn", "model": {"name": "detector", "draw": "png", "score": 0.0}}),
    );
    hearth.created(&json!({"name": "one", "model": {"name": "mean", "top_k": 1}}));
    hearth.created(
        &json!({"name": "late", "model": {"name": "mean", "timeout_ms": 300, "class": "bulk"}}),
    );
    let picture = png(BLUE);
    let answer = hearth.post("/run/drawn", &picture);
    assert_eq!(answer.header("content-type"), Some("image/png"));
    let request = hearth.request("POST", "/run/drawn");
    let json = hearth.send(request.header("accept", "application/json"), &picture[..]);
    assert!(json.ok()["predictions"].is_array());
    let found = hearth.post("/run/one", &picture).ok();
    assert_eq!(found["predictions"].as_array().unwrap().len(), 1);
    let found = hearth.post("/run/one?top_k=2", &picture).ok();
    assert_eq!(found["predictions"].as_array().unwrap().len(), 2);
    let halted: Vec<_> = hearth.workers().into_iter().map(Halted::new).collect();
    let sentence = hearth.post("/run/late", &picture).refusal(504);
    assert!(sentence.contains("300 ms"), "{sentence}");
    drop(halted);
    hearth.created(&json!({"name": "detector", "image": "model:mean"}));
    assert_eq!(hearth.post("/run/detector", &picture).ok()["model"], "mean");
}

#[test]
fn services_scale_their_model_and_share_its_workers() {
    let hearth = Hearth::start(picture_models(), &[]);
    assert_eq!(hearth.workers().len(), 0);
    let warm = |name: &str, min: u32| json!({"name": name, "image": "model:mean", "synchronous": {"min_scale": min, "max_scale": min}});
    hearth.created(&warm("a", 1));
    let n_workers = |n: usize| {
        eventually("workers start and end", || {
            (hearth.workers().len() == n).then_some(())
        });
    };
    n_workers(1);
    hearth.created(&warm("b", 2));
    n_workers(2);
    eventually("both are up", || {
        let deployment = hearth.get("/system/services/a/deployment").ok();
        assert_eq!(deployment["service_name"], "a");
        (deployment["active_instances"] == 2 && deployment["state"] == "ready").then_some(())
    });
    hearth.post("/run/a", &png(RED)).ok();
    hearth.post("/run/b", &png(RED)).ok();
    assert_eq!(hearth.workers().len(), 2);
    // The greatest least of those that are there.
    assert_eq!(hearth.delete("/system/services/b").status, 204);
    n_workers(1);
}

#[test]
fn a_service_without_its_model_says_so() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.created(&model_service("colors"));
    std::fs::remove_dir_all(hearth.store().path().join("mean")).unwrap();
    let answer = eventually("the model is gone", || {
        let answer = hearth.post("/run/colors", &png(RED));
        let is_going = answer.text().contains("is going away");
        (answer.status != 200 && !is_going).then_some(answer)
    });
    let sentence = answer.refusal(503);
    assert!(
        sentence.starts_with("service `colors`: Request for unknown model: 'mean' is not found"),
        "{sentence}"
    );
    let deployment = hearth.get("/system/services/colors/deployment").ok();
    assert_eq!(deployment["state"], "unavailable");
}

#[test]
fn the_token_of_a_service_opens_its_calls_alone() {
    let password = [("OSCAR_USERNAME", "oscar"), ("OSCAR_PASSWORD", "secret")];
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(picture_models(), data, &[], &password);
    let basic = format!("Basic {}", BASE64_STANDARD.encode("oscar:secret"));
    let send = |method: &str, path: &str, authorization: &str, body: &[u8]| {
        let request = hearth.request(method, path);
        hearth.send(request.header("authorization", authorization), body)
    };
    let tokens = ["a", "b"].map(|name| {
        let body = model_service(name).to_string();
        let answer = send("POST", SERVICES, &basic, body.as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        let path = format!("{SERVICES}/{name}");
        let token = send("GET", &path, &basic, b"").ok()["token"].take();
        format!("Bearer {}", token.as_str().unwrap())
    });
    let picture = png(RED);
    let status = |method: &str, path: &str, authorization: &str| {
        send(method, path, authorization, &picture).status.as_u16()
    };
    assert_eq!(status("POST", "/run/a", &tokens[0]), 200);
    assert_eq!(status("POST", "/run/a/", &tokens[0]), 200);
    assert_eq!(status("POST", "/job/a", &tokens[0]), 201);
    // OSCAR's own command line sends this.
    assert_eq!(status("POST", "/run/a", &basic), 200);
    assert_eq!(status("POST", "/job/a", &basic), 201);
    for (method, path) in [
        ("POST", "/run/a"),
        ("POST", "/job/a"),
        ("POST", "/run/mean"),
        ("GET", "/system/services/a"),
        ("GET", "/system/logs/a"),
    ] {
        assert_eq!(status(method, path, &tokens[1]), 401, "{method} {path}");
    }
}

// === jobs ===

#[test]
fn a_job_runs_and_its_answer_is_its_log() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.created(&model_service("colors"));
    assert_eq!(
        hearth.get("/system/logs/colors?page=").text(),
        r#"{"jobs":{}}"#
    );
    let answer = hearth.post("/job/colors", BASE64_STANDARD.encode(png(RED)).as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.text(), "");
    let good = answer.header("x-job-name").unwrap().to_owned();
    assert!(good.starts_with("colors-"), "{good}");
    let bad = hearth.post("/job/colors", b"no picture");
    let bad = bad.header("x-job-name").unwrap().to_owned();
    let jobs = eventually("both have ended", || {
        let jobs = hearth.get("/system/logs/colors").ok()["jobs"].take();
        let has_ended = |name: &str| jobs[name]["finish_time"].is_string();
        (has_ended(&good) && has_ended(&bad)).then_some(jobs)
    });
    assert_eq!(jobs[&good]["status"], "Succeeded");
    assert_eq!(jobs[&bad]["status"], "Failed");
    let log = |job: &str| hearth.get(&format!("/system/logs/colors/{job}"));
    let answer = log(&good);
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    // For people, also where what came was base64.
    assert_eq!(answer.ok()["predictions"][0]["label"], "red");
    assert!(log(&bad).text().contains("the body is no picture"));

    assert_eq!(hearth.delete("/system/logs/colors").status, 204);
    refusal(&log(&good), 404);
    assert_eq!(log(&bad).status, 200);
    assert_eq!(
        hearth.delete(&format!("/system/logs/colors/{bad}")).status,
        204
    );
    refusal(&hearth.delete(&format!("/system/logs/colors/{bad}")), 404);
    refusal(&hearth.post("/job/none", &png(RED)), 404);
    refusal(&hearth.get("/system/logs/none"), 404);
    refusal(&hearth.get("/system/logs/colors?page=x"), 400);
    // A model by itself takes no jobs: nobody could find them.
    refusal(&hearth.post("/job/mean", &png(RED)), 404);
}

// === the cluster ===

#[test]
fn clients_find_the_cluster_that_they_expect() {
    let hearth = Hearth::start(picture_models(), &[]);
    assert_eq!(hearth.get("/health").text(), "Ok");
    for path in ["/system/info", "/system/info/"] {
        let info = hearth.get(path).ok();
        assert_eq!(info["version"], "v4.1.2");
        assert_eq!(info["serverless_backend"]["name"], "Hearth");
    }
    let text = hearth.get("/system/config/?x=/").text();
    assert!(text.contains(r#""name":"oscar""#), "{text}");
    let config = hearth.get("/system/config").ok();
    assert_eq!(config["config"]["oidc_groups"], json!([]));
    assert_eq!(config["allowed_image_repositories"], json!([]));
    let images = json!({"allowed_image_repositories": ["ghcr.io/grycap"]});
    assert_eq!(hearth.put("/system/config", &images).ok(), images);
    let config = hearth.get("/system/config").ok();
    assert_eq!(
        config["allowed_image_repositories"],
        json!(["ghcr.io/grycap"])
    );
    refusal(
        &hearth.put("/system/config", &json!({"allowed_image_repositories": 5})),
        400,
    );
    let script = json!({"name": "a", "image": "docker.io/x", "script": "x"});
    let sentence = refusal(&hearth.create(&script), 400);
    assert!(sentence.contains("ghcr.io/grycap"), "{sentence}");
    let status = hearth.get("/system/status").ok();
    assert_eq!(status["cluster"]["nodes_count"], 1);
    assert_eq!(
        status["cluster"]["metrics"]["cpu"]["total_schedulable_cores"],
        1000
    );
    assert_eq!(status["oscar"]["ready"], true);
    for path in [
        "/system/volumes",
        "/system/quotas/user",
        "/system/federation/x",
        "/system/services/x/exposed/y",
    ] {
        let sentence = refusal(&hearth.get(path), 501);
        assert!(sentence.contains("not there yet"), "{sentence}");
    }
    hearth.get("/system//").refusal(404);
    hearth.get("//").refusal(404);
}

#[test]
fn calls_are_counted_by_service_and_user() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.created(&model_service("a"));
    hearth.created(&model_service("b"));
    for _ in 0..2 {
        hearth.post("/run/a", &png(RED)).ok();
    }
    assert_eq!(hearth.post("/job/a", &png(RED)).status, 201);
    let summary = hearth.get("/system/metrics").ok();
    let totals = &summary["totals"];
    assert_eq!(totals["services_count_total"], 2);
    assert_eq!(totals["services_count_active"], 1);
    assert_eq!(totals["requests_count_sync"], 2);
    assert_eq!(totals["requests_count_async"], 1);
    assert_eq!(totals["users"], json!(["cluster_admin"]));
    assert!(totals["cpu_hours_total"].as_f64().unwrap() > 0.0);
    let items = hearth
        .get("/system/metrics/breakdown?group_by=service&include_users=true")
        .ok();
    assert_eq!(items["items"][0]["key"], "a");
    assert_eq!(items["items"][0]["requests_count_total"], 3);
    assert_eq!(items["items"][0]["users"], json!(["cluster_admin"]));
    let users = hearth.get("/system/metrics/breakdown?group_by=user").ok();
    assert_eq!(users["items"][0]["executions_count"], 3);
    let csv = hearth.get("/system/metrics/breakdown?format=csv").text();
    assert!(csv.contains("\"a\",0,3,2,1,0,1\n"), "{csv}");
    let own = hearth.get("/system/metrics/a").ok();
    assert_eq!(own["service_name"], "a");
    let one = hearth
        .get("/system/metrics/a?metric=requests-sync-per-service")
        .ok();
    assert_eq!(one["value"], 2.0);
    let old = hearth.get("/system/metrics/a?metric=requests-sync-per-service&start=2020-01-01T00:00:00Z&end=2020-01-02T00:00:00%2B01:00");
    assert_eq!(old.ok()["value"], 0.0);
    for path in [
        "/system/metrics/a?metric=x",
        "/system/metrics?start=yesterday",
        "/system/metrics?start=2030-01-01T00:00:00Z",
        "/system/metrics/breakdown?group_by=x",
        "/system/metrics/breakdown?format=x",
    ] {
        hearth.get(path).refusal(400);
    }
    hearth.get("/system/metrics/none").refusal(404);
}

// === oscar-cli, byte for byte ===

/// Sends bytes as they are, and returns status, head and body of the answer.
fn replay(hearth: &Hearth, request: &str) -> (u16, String, Vec<u8>) {
    let mut socket = hearth.connect();
    let host = hearth.address().to_string();
    let request = request.replace('\n', "\r\n").replace("HOST", &host);
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

#[test]
fn requests_of_the_command_line_of_oscar_are_answered_as_it_expects() {
    let hearth = Hearth::start(picture_models(), &[]);
    let get = |path: &str| {
        replay(
            &hearth,
            &format!(
                "GET {path} HTTP/1.1\nHost: HOST\nUser-Agent: Go-http-client/1.1\n\
                 Authorization: Basic b3NjYXI6c2VjcmV0\nConnection: close\nAccept-Encoding: gzip\n\n"
            ),
        )
    };
    // `apply`: the configuration, whether it is there, and the definition as that version's types have it.
    assert_eq!(get("/system/config").0, 200);
    assert_eq!(get("/system/services/cowsay").0, 404);
    let body = r##"{"name":"cowsay","cluster_id":"oscar-cluster","memory":"1Gi","cpu":"1.0","total_memory":"","total_cpu":"","enable_gpu":false,"enable_sgx":false,"image_prefetch":false,"synchronous":{"min_scale":0,"max_scale":0},"expose":{"min_scale":0,"max_scale":0,"api_port":8080,"cpu_threshold":0,"rewrite_target":false,"nodePort":0,"default_command":false,"set_auth":false},"replicas":null,"delegation":"","rescheduler_threshold":0,"log_level":"CRITICAL","image":"model:mean","alpine":false,"token":"","file_stage_in":false,"input":[],"output":[],"script":"#!/bin/sh\n","environment":{"Variables":{"INPUT_TYPE":"json"}},"annotations":null,"labels":null,"storage_providers":{"s3":null,"minio":null,"onedata":null,"webdav":null},"clusters":{"oscar-cluster":{"endpoint":"http://localhost:8080","auth_user":"oscar","auth_password":"hunter2","ssl_verify":false}},"vo":"","allowed_users":null,"mount":{"storage_provider":"","path":""},"owner":"","interlink_node_name":""}"##;
    let apply = |method: &str| {
        replay(
            &hearth,
            &format!(
                "{method} /system/services HTTP/1.1\nHost: HOST\nUser-Agent: Go-http-client/1.1\n\
                 Content-Length: {}\nAuthorization: Basic b3NjYXI6c2VjcmV0\nConnection: close\n\
                 Accept-Encoding: gzip\n\n{body}",
                body.len()
            ),
        )
    };
    let (status, _, answer) = apply("POST");
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
    assert_eq!(apply("PUT").0, 204);
    assert_eq!(apply("POST").0, 409);
    let (_, _, answer) = get("/system/services/cowsay");
    let text = String::from_utf8(answer).unwrap();
    // A list would break it, and so would a list that is null.
    assert!(text.contains(r#""api_port":8080,"#), "{text}");
    assert!(!text.contains("nodePort"), "{text}");
    let whole = hearth.get("/system/services/cowsay").text();
    assert!(whole.contains(r#""api_port":[8080],"#), "{whole}");

    // `service run`: base64 in chunks, without a length; and what it decodes to.
    let picture = BASE64_STANDARD.encode(png(RED));
    let (one, two) = picture.split_at(picture.len() / 2);
    let run = |route: &str| {
        replay(
            &hearth,
            &format!(
                "POST /{route}/cowsay HTTP/1.1\nHost: HOST\nUser-Agent: Go-http-client/1.1\n\
                 Transfer-Encoding: chunked\nAuthorization: Bearer 0123\nConnection: close\nAccept-Encoding: gzip\n\n\
                 {:x}\n{one}\n{:x}\n{two}\n0\n\n",
                one.len(),
                two.len()
            ),
        )
    };
    let (status, head, answer) = run("run");
    assert_eq!(status, 200, "{head}");
    let found: Value = serde_json::from_slice(&BASE64_STANDARD.decode(answer).unwrap()).unwrap();
    assert_eq!(found["predictions"][0]["label"], "red");
    assert_eq!(run("job").0, 201);
    assert_eq!(get("/system/logs/cowsay").0, 200);
    let delete = "DELETE /system/services/cowsay HTTP/1.1\nHost: HOST\nUser-Agent: Go-http-client/1.1\n\
                  Authorization: Basic b3NjYXI6c2VjcmV0\nConnection: close\nAccept-Encoding: gzip\n\n";
    assert_eq!(replay(&hearth, delete).0, 204);
}
