//! What callers see of the scheduler: what it learned, whom it refuses, and who goes first.

use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::add_one::{
    ADD_ONE, Halted, add_one, await_metric, await_running, post, sum, warm, worker,
};
use crate::hearth::{Answer, Hearth, Store, eventually};

fn bulk(hearth: &Hearth, value: i64) -> Answer {
    let request = hearth.request("POST", ADD_ONE);
    let request = request.header("x-hearth-class", "bulk");
    hearth.send(request, add_one(value).as_bytes())
}

fn stats(hearth: &Hearth) -> Value {
    hearth.get("/v2/models/add_one/stats").ok()["model_stats"][0].take()
}

#[test]
fn statistics_tell_what_was_learned_and_a_restart_does_not_forget_it() {
    let store = || Store::new().with_tiny("add_one");
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(store(), Arc::clone(&data), &[], &[]);
    for value in 0..5 {
        assert_eq!(sum(&post(&hearth, value)), value as f64 + 1.0);
    }
    let first = stats(&hearth);
    assert_eq!(first["inference_count"], 5);
    assert_eq!(first["execution_count"], 5);
    let of_one = |stats: &Value| {
        let point = &stats["scheduler"]["curves"][0]["points"][0];
        assert_eq!(point["items"], 1);
        point["slot_ms"].as_f64().unwrap()
    };
    let learned = of_one(&first);
    assert!(learned > 0.0);
    let gauge = "hearth_curve_seconds{model=\"add_one\",version=\"1\",bucket=";
    assert!(hearth.get("/metrics").text().contains(gauge));
    hearth.stop();

    let hearth = Hearth::start_on(store(), data, &[], &[]);
    let again = stats(&hearth);
    assert_eq!(again["inference_count"], 0);
    assert!((of_one(&again) - learned).abs() < 1e-3, "{again}");
    hearth.stop();
}

#[test]
fn the_whole_state_tells_what_each_model_waits_for() {
    let hearth = warm(&[]);
    let model = || hearth.get("/system/scheduler").ok()["revisions"][0].clone();
    assert_eq!(model()["model"], "add_one");
    assert_eq!(model()["waits_for"], Value::Null);
    std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let first = scope.spawn(|| post(&hearth, 1));
        await_running(&hearth);
        let second = scope.spawn(|| post(&hearth, 2));
        await_metric(&hearth, "staged_entries", "add_one", 1.0);
        assert_eq!(model()["waits_for"], "a slot");
        assert_eq!(model()["replicas"][0]["busy_slots"], 1);
        drop(halted);
        assert_eq!(sum(&first.join().unwrap()), 2.0);
        assert_eq!(sum(&second.join().unwrap()), 3.0);
    });
    let devices = hearth.get("/system/scheduler").ok()["devices"].clone();
    assert_eq!(devices[0]["busy_cores"], 0);
    assert!(devices[0]["reserved_bytes"].as_u64().unwrap() > 0);
    hearth.stop();
}

#[test]
fn bulk_waits_behind_interactive_requests_and_is_not_refused() {
    // Room for one entry of each class.
    let hearth = warm(&["--max-queue", "1"]);
    std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let running = scope.spawn(|| post(&hearth, 0));
        await_running(&hearth);
        let all: Vec<_> = (1..=6)
            .map(|value| {
                let hearth = &hearth;
                scope.spawn(move || bulk(hearth, value))
            })
            .collect();
        eventually("all bulk waits", || {
            let model = hearth.get("/system/scheduler").ok()["revisions"][0].clone();
            let n = |field: &str| model[field].as_u64().unwrap();
            (n("bulk_waiting") + n("bulk_parked") == 6).then_some(())
        });
        let interactive = scope.spawn(|| post(&hearth, 10));
        eventually("an interactive one waits beside one of bulk", || {
            let staged = hearth.metric("staged_entries", "add_one");
            let waiting = hearth.metric("queue_entries", "add_one");
            (staged + waiting == 2.0).then_some(())
        });
        assert_eq!(post(&hearth, 11).status, 429);
        drop(halted);
        assert_eq!(sum(&running.join().unwrap()), 1.0);
        assert_eq!(sum(&interactive.join().unwrap()), 11.0);
        for (answer, value) in all.into_iter().zip(1..) {
            assert_eq!(sum(&answer.join().unwrap()), f64::from(value) + 1.0);
        }
    });
    hearth.stop();
}

#[test]
fn a_class_that_does_not_exist_is_refused() {
    let hearth = warm(&[]);
    let request = hearth.request("POST", ADD_ONE);
    let request = request.header("x-hearth-class", "express");
    let sentence = hearth.send(request, add_one(1).as_bytes()).refusal(400);
    assert_eq!(
        sentence,
        "X-Hearth-Class: expected interactive or bulk, got \"express\""
    );
    hearth.stop();
}

#[test]
fn a_deadline_that_a_start_cannot_meet_is_refused_at_once_and_the_start_happens() {
    let hearth = warm(&["--idle-window-s", "1"]);
    let ended = || {
        eventually("the worker ends", || {
            hearth.workers().is_empty().then_some(())
        });
    };
    ended();
    // No process starts within 20 ms; a request that is itself later than that on a busy
    // machine is asked again.
    let answer = eventually("a request is in time", || {
        let request = hearth.request("POST", ADD_ONE);
        let request = request.header("x-request-timeout-ms", "20");
        let answer = hearth.send(request, add_one(1).as_bytes());
        (answer.status != 504).then_some(answer)
    });
    let sentence = answer.refusal(503);
    assert!(sentence.contains("is being started"), "{sentence}");
    let after: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
    assert!(after >= 1);
    eventually("it was started all the same", || {
        (hearth.metric("worker_launches_total", "add_one") == 2.0).then_some(())
    });
    hearth.stop();
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_numbers_and_evicts_an_idle_one_where_that_helps() {
    let store = Store::new()
        .with_tiny("add_one")
        .with("other", "engine: onnx\n", "add_one");
    // One of the two fits at a time: an unmeasured model is taken for 64 MiB and its files.
    let hearth = Hearth::start(store, &["--memory", "100MiB"]);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    let first = worker(&hearth);
    let answer = hearth.post("/v2/models/other/infer", add_one(2).as_bytes());
    assert_eq!(sum(&answer), 3.0);
    eventually("the first worker has ended", || {
        (!hearth.workers().contains(&first)).then_some(())
    });
    assert_eq!(hearth.metric("worker_stops_total", "add_one"), 1.0);
    hearth.stop();

    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &["--memory", "1MiB"]);
    let sentence = post(&hearth, 1).refusal(503);
    assert!(
        sentence.contains("MiB") && sentence.contains("--memory"),
        "{sentence}"
    );
    hearth.stop();
}
