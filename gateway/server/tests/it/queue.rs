//! Requests that wait: for how long, how many, and with whom they run.

use std::io::Write as _;
use std::thread::{Scope, ScopedJoinHandle};

use image::ImageFormat;

use crate::add_one::{
    ADD_ONE, Halted, add_one, await_metric, await_running, post, sum, warm, worker,
};
use crate::hearth::{Answer, Hearth, Store, eventually};
use crate::infer::tensor_request;
use crate::pictures::{BLUE, RED, encode, noise, picture_models, png};

/// Sends a body beside what else is done; the answer is joined.
fn send<'scope>(
    scope: &'scope Scope<'scope, '_>,
    hearth: &'scope Hearth,
    path: &'scope str,
    body: impl AsRef<[u8]> + Send + 'scope,
) -> ScopedJoinHandle<'scope, Answer> {
    scope.spawn(move || hearth.post(path, body.as_ref()))
}

fn joined(answers: Vec<ScopedJoinHandle<'_, Answer>>) -> Vec<Answer> {
    let answers = answers.into_iter();
    answers.map(|answer| answer.join().unwrap()).collect()
}

fn batch_size(answer: &Answer) -> u32 {
    let timing = answer.header("server-timing").unwrap();
    let (_, size) = timing.split_once("batch;desc=\"").unwrap();
    let (size, _why) = size.split_once(": ").unwrap();
    size.parse().unwrap()
}

#[test]
fn a_request_is_given_up_at_its_deadline_and_the_worker_lives_on() {
    let hearth = warm(&[]);
    let workers = hearth.workers();
    let halted = Halted::new(worker(&hearth));
    let late = |class: &str, timeout: &str| {
        let request = hearth.request("POST", ADD_ONE);
        let request = request.header("x-request-timeout-ms", timeout);
        let request = request.header("x-hearth-class", class);
        hearth.send(request, add_one(1).as_bytes()).refusal(504)
    };
    // The first runs, the others wait for it.
    let sentence = late("interactive", "30");
    assert_eq!(sentence, "the deadline of 30 ms passed");
    let sentence = late("interactive", "40");
    assert_eq!(sentence, "the deadline of 40 ms passed");
    let sentence = late("bulk", "45");
    assert_eq!(sentence, "the deadline of 45 ms passed");
    // The protocol's own parameter, in microseconds.
    let parameter = r#"{"parameters": {"timeout": 50000}, "inputs""#;
    let body = add_one(3).replace(r#"{"inputs""#, parameter);
    let sentence = hearth.post(ADD_ONE, body.as_bytes()).refusal(504);
    assert_eq!(sentence, "the deadline of 50 ms passed");
    drop(halted);
    assert_eq!(sum(&post(&hearth, 4)), 5.0);
    assert_eq!(hearth.metric("entries_expired_total", "add_one"), 4.0);
    // Those that waited were not run: only what warmed the worker up, the first late one, the last.
    assert_eq!(hearth.metric("batches_total", "add_one"), 3.0);
    let rejected =
        "nv_inference_request_failure{model=\"add_one\",reason=\"REJECTED\",version=\"1\"} 4\n";
    let metrics = hearth.get("/metrics").text();
    assert!(metrics.contains(rejected), "{metrics}");
    assert_eq!(hearth.workers(), workers);
    hearth.stop();
}

#[test]
fn requests_without_a_deadline_have_the_one_of_the_model_or_of_the_gateway() {
    let store = Store::new().with_tiny("add_one").with(
        "hasty",
        "engine: onnx\ntimeout_ms: 35\n",
        "add_one",
    );
    let hearth = Hearth::start(store, &["--request-timeout-ms", "45"]);
    let patient = |path: &str| {
        let request = hearth.request("POST", path);
        let request = request.header("x-request-timeout-ms", "60000");
        hearth.send(request, add_one(0).as_bytes()).ok();
    };
    for (path, sentence) in [
        (ADD_ONE, "the deadline of 45 ms passed"),
        ("/v2/models/hasty/infer", "the deadline of 35 ms passed"),
    ] {
        let before = hearth.workers();
        patient(path);
        let mut workers = hearth.workers();
        workers.retain(|worker| !before.contains(worker));
        let halted = Halted::new(workers[0]);
        let answer = hearth.post(path, add_one(1).as_bytes());
        assert_eq!(answer.refusal(504), sentence);
        drop(halted);
        patient(path);
    }
    hearth.stop();
}

#[test]
fn a_full_queue_refuses_and_says_when_to_try_again() {
    let hearth = warm(&["--max-queue", "1"]);
    std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let running = send(scope, &hearth, ADD_ONE, add_one(1));
        await_running(&hearth);
        let waiting = send(scope, &hearth, ADD_ONE, add_one(2));
        await_metric(&hearth, "staged_entries", "add_one", 1.0);
        let refused = post(&hearth, 3);
        assert_eq!(refused.refusal(429), "the queue of model `add_one` is full");
        for (name, least) in [("retry-after", 1), ("retry-after-ms", 1)] {
            let after: u64 = refused.header(name).unwrap().parse().unwrap();
            assert!(after >= least, "{name}: {after}");
        }
        drop(halted);
        assert_eq!(sum(&running.join().unwrap()), 2.0);
        assert_eq!(sum(&waiting.join().unwrap()), 3.0);
    });
    assert_eq!(sum(&post(&hearth, 4)), 5.0);
    assert_eq!(hearth.metric("entries_refused_total", "add_one"), 1.0);
    hearth.stop();
}

#[test]
fn a_caller_who_leaves_frees_its_place() {
    let hearth = warm(&["--max-queue", "1"]);
    let body = add_one(1);
    let leave = |place: &str, n_cancelled: f64| {
        let mut socket = hearth.connect();
        write!(
            socket,
            "POST {ADD_ONE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        await_metric(&hearth, place, "add_one", 1.0);
        drop(socket);
        await_metric(&hearth, "entries_cancelled_total", "add_one", n_cancelled);
        await_metric(&hearth, place, "add_one", 0.0);
    };
    let halted = Halted::new(worker(&hearth));
    leave("running_entries", 1.0);
    // The slot is busy until the run is over; the queue has room for one, again and again.
    leave("staged_entries", 2.0);
    leave("staged_entries", 3.0);
    drop(halted);
    assert_eq!(sum(&post(&hearth, 4)), 5.0);
    eventually("no request is in memory", || {
        let metrics = hearth.get("/metrics").text();
        metrics.contains("hearth_bytes_in_flight 0\n").then_some(())
    });
    hearth.stop();
}

#[test]
fn requests_that_wait_run_together_and_each_gets_its_own_answer() {
    let hearth = warm(&[]);
    let answers = std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let mut answers = vec![send(scope, &hearth, ADD_ONE, add_one(0))];
        await_running(&hearth);
        answers.extend((1..=8).map(|value| send(scope, &hearth, ADD_ONE, add_one(value))));
        await_metric(&hearth, "staged_entries", "add_one", 8.0);
        drop(halted);
        joined(answers)
    });
    for (answer, value) in answers.iter().zip(0_u32..) {
        assert_eq!(sum(answer), f64::from(value) + 1.0);
        assert!(batch_size(answer) == 1 || value > 0);
    }
    // One run warmed the worker and one was the first; sizes double from there, each tried twice.
    assert_eq!(hearth.metric("batches_total", "add_one"), 5.0);
    // As each of the ten saw it.
    assert_eq!(hearth.metric("batch_size_sum", "add_one"), 26.0);
    hearth.stop();
}

#[test]
fn a_batch_has_no_more_items_than_the_model_takes() {
    let store = Store::new().with("add_one", "engine: onnx\nbatch: { max: 3 }\n", "add_one");
    let hearth = Hearth::start(store, &[]);
    post(&hearth, 0).ok();
    let answers = std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let answers = (0..8).map(|value| send(scope, &hearth, ADD_ONE, add_one(value)));
        let answers = answers.collect();
        await_metric(&hearth, "entries_offered_total", "add_one", 9.0);
        drop(halted);
        joined(answers)
    });
    let mut sizes: Vec<u32> = answers.iter().map(batch_size).collect();
    sizes.sort_unstable();
    // One at once; of the seven that wait, twice two, since sizes double, and then three.
    assert_eq!(sizes, [1, 2, 2, 2, 2, 3, 3, 3]);
    hearth.stop();
}

#[test]
fn an_entry_that_the_model_cannot_take_fails_alone_in_its_batch() {
    let hearth = Hearth::start(Store::new().with_tiny("fails_at_run"), &[]);
    let path = "/v2/models/fails_at_run/infer";
    let index = |index: i64| tensor_request("index", "INT64", &[1], &[index]);
    hearth.post(path, index(0).as_bytes()).ok();
    let workers = hearth.workers();
    let answers = std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let mut answers = vec![send(scope, &hearth, path, index(0))];
        await_metric(&hearth, "running_entries", "fails_at_run", 1.0);
        answers.extend([1, 2, 99, 3].map(|at| send(scope, &hearth, path, index(at))));
        await_metric(&hearth, "staged_entries", "fails_at_run", 4.0);
        drop(halted);
        joined(answers)
    });
    let values = [Some(10.0), Some(20.0), Some(30.0), None, Some(40.0)];
    for (answer, value) in answers.iter().zip(values) {
        match value {
            Some(value) => {
                assert_eq!(sum(answer), value);
                assert_eq!(batch_size(answer), if value == 10.0 { 1 } else { 2 });
            }
            None => {
                let sentence = answer.refusal(400);
                assert!(sentence.starts_with("the model failed: "), "{sentence}");
                assert!(sentence.contains("99"), "{sentence}");
            }
        }
    }
    assert_eq!(hearth.workers(), workers);
    hearth.stop();
}

#[test]
fn a_bad_picture_among_many_fails_alone() {
    let hearth = Hearth::start(picture_models(), &[]);
    hearth.post("/run/mean", &png(RED)).ok();
    let jpeg = encode(&noise(64, 64), ImageFormat::Jpeg);
    let answers = std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let pictures = (0..8).map(|at| match at {
            5 => jpeg[..jpeg.len() / 2].to_vec(),
            _ if at % 2 == 0 => png(RED),
            _ => png(BLUE),
        });
        let answers = pictures
            .map(|picture| send(scope, &hearth, "/run/mean", picture))
            .collect();
        await_metric(&hearth, "staged_entries", "mean", 8.0);
        drop(halted);
        joined(answers)
    });
    for (at, answer) in answers.iter().enumerate() {
        if at == 5 {
            let sentence = answer.refusal(400);
            assert!(sentence.contains("can't be decoded"), "{sentence}");
        } else {
            let label = &answer.ok()["predictions"][0]["label"];
            assert_eq!(label, ["red", "blue"][at % 2], "picture {at}");
        }
    }
    hearth.stop();
}
