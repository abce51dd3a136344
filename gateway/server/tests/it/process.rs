//! Processes: what starts and refuses to, what dies, and how all ends.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Output;
use std::sync::Arc;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::add_one::{ADD_ONE, Halted, add_one, await_running, post, sum, warm, worker};
use crate::hearth::{Hearth, Store, command, eventually, finish, is_alive, kill, tiny};
use crate::infer::tensor_request;
use crate::pictures::{RED, picture_models, png};
use crate::traces::{TRACE, traceparent};

/// Returns what a command complains of that has to fail.
#[track_caller]
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap();
    last.strip_prefix("error: ").unwrap().to_owned()
}

// === how urgent threads are ===

/// Returns the threads of a process: their names, and how nice they are.
fn niceness(pid: u32) -> Vec<(String, i32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.filter_map(|task| {
        // One may end while the list is read.
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        // The nineteenth field, of which the name is the second (`proc(5)`).
        let nice = fields.split_whitespace().nth(16)?;
        Some((name.to_owned(), nice.parse().unwrap()))
    });
    threads.collect()
}

#[test]
fn what_runs_batches_gives_way_to_what_decodes_and_draws() {
    let hearth = Hearth::start(picture_models(), &[]);
    let photo = png(RED);
    for _ in 0..4 {
        let request = hearth.request("POST", "/run/detector");
        let answer = hearth.send(request.header("accept", "image/png"), &photo[..]);
        assert_eq!(answer.status, 200);
    }
    let threads = niceness(worker(&hearth));
    let of = |name: &str| -> Vec<i32> {
        let named = threads
            .iter()
            .filter(|(thread, _)| thread.starts_with(name));
        named.map(|(_, nice)| *nice).collect()
    };
    // The process's first thread, which carries messages, is named as it.
    let messages = of("hearth-worker")[0];
    let decode = of("tokio-rt-worker");
    assert!(decode.len() > 1, "{threads:?}");
    assert!(decode.iter().all(|nice| *nice == messages), "{threads:?}");
    let runs = of("instance-");
    assert!(!runs.is_empty(), "{threads:?}");
    assert!(runs.iter().all(|nice| *nice == messages + 6), "{threads:?}");
    hearth.stop();
}

// === what refuses to start ===

#[test]
fn a_data_folder_in_use_is_refused() {
    let hearth = Hearth::start(Store::new(), &[]);
    let second = finish(
        command()
            .args(["serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(hearth.store().path())
            .arg("--data")
            .arg(hearth.data().path()),
    );
    let complaint = complaint(&second);
    assert!(
        complaint.contains("is in use by another hearth"),
        "{complaint}"
    );
    assert_eq!(hearth.get("/health").text(), "Ok");
    hearth.stop();
}

#[test]
fn an_address_that_others_reach_is_refused_without_credentials() {
    let folder = TempDir::new().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        // Each option is also an environment variable.
        let output = finish(
            command()
                .arg("serve")
                .env("HEARTH_LISTEN", listen)
                .env("HEARTH_STORE", folder.path())
                .env("HEARTH_DATA", folder.path().join("data")),
        );
        let complaint = complaint(&output);
        let expected = format!("refusing to listen on {listen} without credentials");
        assert!(complaint.starts_with(&expected), "{complaint}");
    }
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_store_that_is_not_there_is_refused() {
    let folder = TempDir::new().unwrap();
    let output = finish(
        command()
            .args(["serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(folder.path().join("nowhere"))
            .arg("--data")
            .arg(folder.path().join("data")),
    );
    let complaint = complaint(&output);
    assert!(complaint.contains("nowhere"), "{complaint}");
}

#[test]
fn without_onnx_runtime_a_model_is_refused_with_the_command_that_mends_it() {
    let store = Store::new().with_tiny("add_one");
    let hearth = Hearth::start(store, &["--onnxruntime", "/nonexistent/libonnxruntime.so"]);
    let sentence = post(&hearth, 0).refusal(503);
    for words in [
        "model `add_one` can't be served: ONNX Runtime is not at /nonexistent/libonnxruntime.so",
        "run `make runtime`",
        "pip download --no-deps onnxruntime",
    ] {
        assert!(sentence.contains(words), "{sentence}");
    }
    hearth.stop();
}

// === what workers know, and when they end ===

#[test]
fn a_worker_knows_nothing_of_the_gateways_secrets() {
    let store = Store::new().with_tiny("add_one");
    let env = [
        ("AWS_SECRET_ACCESS_KEY", "a secret of the bucket"),
        ("HEARTH_TOKEN", "a secret of the gateway"),
        ("TZ", "UTC"),
    ];
    let hearth = Hearth::start_on(store, Arc::new(TempDir::new().unwrap()), &[], &env);
    post(&hearth, 0).ok();
    let worker = worker(&hearth);
    let environ = fs::read_to_string(format!("/proc/{worker}/environ")).unwrap();
    let gateway = fs::read_to_string(format!("/proc/{}/environ", hearth.pid())).unwrap();
    assert!(gateway.contains("a secret of"), "{gateway}");
    assert!(!environ.contains("a secret of"), "{environ}");
    assert!(environ.contains("TZ=UTC\0"), "{environ}");

    // Nor does it hold what the gateway has open: the lock, the listener.
    let open: Vec<String> = fs::read_dir(format!("/proc/{worker}/fd"))
        .unwrap()
        .map(|fd| {
            fs::read_link(fd.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    let lock = hearth.data().path().join("lock").display().to_string();
    assert!(!open.contains(&lock), "{open:?}");
    let listener = fs::read_dir(format!("/proc/{}/fd", hearth.pid()))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .map(|link| link.display().to_string())
        .filter(|link| link.starts_with("socket:"))
        .find(|link| open.contains(link));
    assert_eq!(listener, None, "{open:?}");
    hearth.stop();
}

#[test]
fn what_a_terminal_interrupts_does_not_hit_workers() {
    let hearth = warm(&[]);
    let worker = worker(&hearth);
    let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let mut fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    // State, parent, process group (proc(5)).
    assert_eq!(fields.nth(2), Some(worker.to_string().as_str()));
    hearth.stop();
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_the_next_request_answered() {
    let hearth = warm(&[]);
    let worker = worker(&hearth);
    kill(worker, Signal::KILL);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    assert_eq!(hearth.metric("worker_crashes_total", "add_one"), 1.0);
    assert_eq!(hearth.metric("worker_launches_total", "add_one"), 2.0);
    assert!(!is_alive(worker));
    eventually("the log says it", || {
        hearth.log().contains("worker died").then_some(())
    });
    hearth.stop();
}

#[test]
fn a_request_whose_worker_is_killed_is_run_once_more() {
    let hearth = warm(&[]);
    let worker = worker(&hearth);
    let answer = std::thread::scope(|scope| {
        let _halted = Halted::new(worker);
        let answer = scope.spawn(|| post(&hearth, 1));
        await_running(&hearth);
        kill(worker, Signal::KILL);
        answer.join().unwrap()
    });
    assert_eq!(sum(&answer), 2.0);
    assert_eq!(hearth.metric("entries_retried_total", "add_one"), 1.0);
    assert_eq!(hearth.metric("entry_runs_most", "add_one"), 2.0);
    hearth.stop();
}

/// Returns the graph `slow` with ten times its steps, so half a second.
fn slower() -> Vec<u8> {
    let mut graph = fs::read(tiny("slow")).unwrap();
    let (steps, more) = (40_000_i64.to_le_bytes(), 400_000_i64.to_le_bytes());
    let mut found = graph
        .windows(8)
        .enumerate()
        .filter(|(_, bytes)| *bytes == steps);
    let (at, _) = found.next().unwrap();
    assert!(found.next().is_none());
    graph[at..at + 8].copy_from_slice(&more);
    graph
}

/// How many processes were killed because memory ran out, where the system tells.
fn n_oom_kills() -> Option<String> {
    let text = fs::read_to_string("/proc/vmstat").unwrap();
    let count = text.lines().find(|line| line.starts_with("oom_kill "))?;
    Some(count.to_owned())
}

#[test]
fn a_request_that_two_workers_die_with_is_given_up() {
    let folder = TempDir::new().unwrap();
    let graph = folder.path().join("slower.onnx");
    fs::write(&graph, slower()).unwrap();
    let store = Store::new();
    store.put("slower", 1, "engine: onnx\nbatch: { max: 1 }\n", &[graph]);
    let hearth = Hearth::start(store, &[]);
    let body = tensor_request("x", "FP32", &[1, 8], &[7; 8]);
    let post = || {
        let request = hearth.request("POST", "/v2/models/slower/infer");
        hearth.send(
            request.header("traceparent", traceparent()),
            body.as_bytes(),
        )
    };
    let mut killed = Vec::new();
    // Whoever kills a worker says nothing of its input, as far as the system tells who it was.
    let n_oom_kills = n_oom_kills();
    let n_killed = if n_oom_kills.is_some() { 2 } else { 0 };
    // Of a crash it may have been bad luck; the second time, it is the input.
    let signals = std::iter::repeat_n(Signal::KILL, n_killed).chain([Signal::USR1; 2]);
    for (index, signal) in signals.enumerate() {
        let answer = std::thread::scope(|scope| {
            let answer = scope.spawn(post);
            for _ in 0..2 {
                let worker = eventually("the request runs", || {
                    // In this order: what runs once there is another worker runs at that.
                    let worker = *hearth.workers().first()?;
                    let is_running = hearth.metric("running_entries", "slower") == 1.0;
                    (is_running && !killed.contains(&worker)).then_some(worker)
                });
                kill(worker, signal);
                killed.push(worker);
            }
            answer.join().unwrap()
        });
        let sentence = answer.refusal(500);
        assert_eq!(
            sentence,
            "the worker died twice with this request; it is not tried again"
        );
        assert_eq!(
            hearth.metric("entries_poisoned_total", "slower"),
            index as f64 + 1.0
        );
        if index + 1 == n_killed {
            // Ends the series of crashes, and shows that nothing is held against others.
            let other = tensor_request("x", "FP32", &[1, 8], &[9; 8]);
            let answer = hearth.post("/v2/models/slower/infer", other.as_bytes());
            assert_eq!(sum(&answer), 9.0);
            assert_eq!(self::n_oom_kills(), n_oom_kills, "memory ran out");
        }
    }
    let sentence = post().refusal(500);
    assert!(
        sentence.starts_with("this input ended 4 workers"),
        "{sentence}"
    );
    // A person who looks at it finds whose it was.
    let named = format!("trace_id={TRACE}");
    eventually("all failures are logged with their trace", || {
        let log = hearth.log();
        let is_named = |line: &&str| line.contains("ERROR") && line.contains(&named);
        (log.lines().filter(is_named).count() == n_killed + 3).then_some(())
    });
    // Everyone else is served.
    let other = tensor_request("x", "FP32", &[1, 8], &[8; 8]);
    let answer = hearth.post("/v2/models/slower/infer", other.as_bytes());
    assert_eq!(sum(&answer), 8.0);
    assert_eq!(hearth.metric("entry_runs_most", "slower"), 2.0);
    hearth.stop();
}

#[test]
fn a_worker_that_hangs_is_noticed_and_its_requests_are_answered_by_another() {
    let hearth = warm(&["--run-limit-s", "1"]);
    let hung = worker(&hearth);
    kill(hung, Signal::STOP);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    assert!(!is_alive(hung));
    assert_eq!(hearth.metric("worker_hangs_total", "add_one"), 1.0);
    hearth.stop();
}

#[test]
fn a_worker_that_nobody_calls_ends_and_the_next_request_starts_another() {
    let hearth = warm(&["--idle-window-s", "1"]);
    let first = worker(&hearth);
    eventually("the worker ends", || {
        hearth.workers().is_empty().then_some(())
    });
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    assert_ne!(worker(&hearth), first);
    assert_eq!(hearth.metric("worker_crashes_total", "add_one"), 0.0);
    hearth.stop();
}

#[test]
fn workers_end_with_a_gateway_that_is_killed() {
    let mut hearth = warm(&[]);
    let worker = worker(&hearth);
    kill(hearth.pid(), Signal::KILL);
    let status = hearth.wait();
    assert!(!status.success());
    assert!(!is_alive(worker));
}

// === how all ends ===

#[test]
fn what_is_in_flight_is_answered_before_the_end() {
    let mut hearth = warm(&[]);
    let worker = worker(&hearth);
    let answer = std::thread::scope(|scope| {
        let halted = Halted::new(worker);
        let (pid, address) = (hearth.pid(), hearth.address());
        let answer = scope.spawn(|| post(&hearth, 1));
        await_running(&hearth);
        kill(pid, Signal::TERM);
        eventually("nothing is accepted any more", || {
            TcpStream::connect(address).err()
        });
        drop(halted);
        answer.join().unwrap()
    });
    assert_eq!(sum(&answer), 2.0);
    let status = hearth.wait();
    assert_eq!(status.code(), Some(0));
    assert!(!is_alive(worker));
    assert!(hearth.log().contains("stopped"), "{}", hearth.log());
    let of_itself = "status=exit status: 0";
    assert!(hearth.log().contains(of_itself), "{}", hearth.log());
}

#[test]
fn what_does_not_finish_in_time_is_given_up() {
    let mut hearth = warm(&["--drain-timeout-s", "0"]);
    let worker = worker(&hearth);
    kill(worker, Signal::STOP);
    let body = add_one(1);
    let mut socket = hearth.connect();
    write!(
        socket,
        "POST {ADD_ONE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    await_running(&hearth);
    kill(hearth.pid(), Signal::TERM);
    let status = hearth.wait();
    assert_eq!(status.code(), Some(0));
    assert!(hearth.log().contains("were given up"), "{}", hearth.log());
    assert!(!is_alive(worker), "a halted worker is killed");
}
