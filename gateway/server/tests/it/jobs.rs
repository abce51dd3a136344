//! Jobs: what was acknowledged runs to its end, once, whatever ends before.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::hearth::{Answer, Hearth, eventually, kill};
use crate::pictures::{RED, picture_models, png};

const COLORS: &str = "/system/logs/colors";

impl Hearth {
    /// Returns the jobs of a service and what became of them, all pages of it.
    pub(crate) fn jobs(&self, service: &str) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut page = String::new();
        loop {
            let listed = self
                .get(&format!("/system/logs/{service}?page={page}"))
                .ok();
            for (name, job) in listed["jobs"].as_object().unwrap() {
                let status = job["status"].as_str().unwrap().to_owned();
                assert_eq!(
                    all.insert(name.clone(), status),
                    None,
                    "{name} is listed once"
                );
            }
            match &listed["next_page"] {
                Value::String(next) => page.clone_from(next),
                _ => return all,
            }
        }
    }

    /// Waits until all jobs of a service have ended, and returns what became of them.
    pub(crate) fn ended(&self, service: &str) -> BTreeMap<String, String> {
        eventually("the jobs end", || {
            let jobs = self.jobs(service);
            let has_ended = |status: &String| status == "Succeeded" || status == "Failed";
            jobs.values().all(has_ended).then_some(jobs)
        })
    }

    /// Returns how many jobs of a service have succeeded since the gateway began.
    pub(crate) fn n_succeeded(&self, service: &str) -> u64 {
        let key = format!("hearth_jobs_ended_total{{service=\"{service}\",status=\"succeeded\"}} ");
        let metrics = self.get("/metrics").text();
        let value = metrics.lines().find_map(|line| line.strip_prefix(&key));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn begin(&self, service: &str, body: &[u8]) -> String {
        let answer = self.post(&format!("/job/{service}"), body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.header("x-job-name").unwrap().to_owned()
    }
}

fn start(data: &Arc<TempDir>, args: &[&str], env: &[(&str, &str)]) -> Hearth {
    Hearth::start_on(picture_models(), Arc::clone(data), args, env)
}

fn colors(hearth: &Hearth) {
    let definition = json!({"name": "colors", "image": "model:mean"}).to_string();
    let answer = hearth.post("/system/services", definition.as_bytes());
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Begins a job over a connection that may break at any moment, and returns its name if that was heard.
fn try_to_begin(address: SocketAddr, body: &[u8]) -> Option<String> {
    let mut socket = TcpStream::connect(address).ok()?;
    let head = format!(
        "POST /job/colors HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).ok()?;
    socket.write_all(body).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    // It was killed before it said anything.
    if answer.is_empty() {
        return None;
    }
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let (_, rest) = answer.split_once("x-job-name: ")?;
    Some(rest.split_once("\r\n")?.0.to_owned())
}

#[test]
fn what_was_acknowledged_runs_to_its_end_though_the_gateway_is_killed() {
    const WRITERS: usize = 3;
    const ROUNDS: usize = 3;
    let data = Arc::new(TempDir::new().unwrap());
    let picture = png(RED);
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..ROUNDS {
        let mut hearth = start(&data, &[], &[]);
        if round == 0 {
            colors(&hearth);
        }
        let before = acknowledged.lock().unwrap().len();
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                let (address, picture, acknowledged) = (hearth.address(), &picture, &acknowledged);
                scope.spawn(move || {
                    while let Some(job) = try_to_begin(address, picture) {
                        acknowledged.lock().unwrap().push(job);
                    }
                });
            }
            eventually("jobs are begun, and some have run", || {
                let n_begun = acknowledged.lock().unwrap().len() - before;
                (n_begun >= 40 && hearth.n_succeeded("colors") >= 10).then_some(())
            });
            kill(hearth.pid(), Signal::KILL);
        });
        hearth.wait();
    }
    let hearth = start(&data, &[], &[]);
    let jobs = hearth.ended("colors");
    let acknowledged = acknowledged.into_inner().unwrap();
    for job in &acknowledged {
        assert_eq!(jobs[job], "Succeeded");
        let log = hearth.get(&format!("{COLORS}/{job}")).ok();
        assert_eq!(log["predictions"][0]["label"], "red");
    }
    // Those whose acknowledgement was cut off may be there as well, and nothing else.
    let n_unheard = jobs.len() - acknowledged.len();
    assert!(n_unheard <= WRITERS * ROUNDS, "{n_unheard}");
    hearth.stop();
}

#[test]
fn a_job_waits_for_its_model_and_a_stop_loses_none() {
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = start(&data, &[], &[]);
    colors(&hearth);
    std::fs::remove_dir_all(hearth.store().path().join("mean")).unwrap();
    eventually("the model is gone", || {
        (hearth.post("/run/colors", &png(RED)).status == 503).then_some(())
    });
    let job = hearth.begin("colors", &png(RED));
    hearth.stop();
    let hearth = start(&data, &[], &[]);
    assert_eq!(
        hearth.ended("colors"),
        BTreeMap::from([(job, "Succeeded".to_owned())])
    );
}

#[test]
fn jobs_that_have_ended_are_forgotten_after_their_time_and_listed_by_pages() {
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = start(&data, &[], &[("JOB_LISTING_LIMIT", "2")]);
    colors(&hearth);
    let mut begun: Vec<_> = (0..5).map(|_| hearth.begin("colors", &png(RED))).collect();
    let page = hearth.get(COLORS).ok();
    assert_eq!(page["remaining_jobs"], 3);
    let names: Vec<_> = page["jobs"].as_object().unwrap().keys().collect();
    begun[3..].sort_unstable();
    assert_eq!(names, begun[3..].iter().collect::<Vec<_>>());
    assert_eq!(hearth.ended("colors").len(), 5);
    let status = hearth.get("/system/status").ok();
    assert_eq!(status["oscar"]["jobs_count"], 5);
    let metrics = hearth.get("/metrics").text();
    let counted = r#"hearth_jobs{service="colors",status="succeeded"} 5"#;
    assert!(metrics.contains(counted), "{metrics}");
    hearth.stop();

    let hearth = start(&data, &[], &[("TTL_JOB", "1")]);
    eventually("all are forgotten", || {
        hearth.jobs("colors").is_empty().then_some(())
    });
}

#[test]
fn a_job_of_a_given_name_is_one_and_a_deleted_service_leaves_none() {
    let hearth = start(&Arc::new(TempDir::new().unwrap()), &[], &[]);
    colors(&hearth);
    let begin = |name: &str| {
        let request = hearth.request("POST", "/job/colors");
        hearth.send(request.header("x-delegated-job-id", name), &png(RED)[..])
    };
    for _ in 0..2 {
        let answer: Answer = begin("from-elsewhere.7");
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.header("x-job-name"), Some("from-elsewhere.7"));
    }
    assert_eq!(hearth.ended("colors").len(), 1);
    for bad in ["", "../x", "ä", &"x".repeat(254)] {
        let answer = begin(bad);
        assert_eq!(answer.status, 400, "{bad}");
        assert!(
            answer.text().contains("X-Delegated-Job-ID"),
            "{}",
            answer.text()
        );
    }
    let delete = |path: &str| hearth.send(hearth.request("DELETE", path), ()).status;
    assert_eq!(delete("/system/services/colors"), 204);
    colors(&hearth);
    assert_eq!(hearth.jobs("colors").len(), 0);
}
