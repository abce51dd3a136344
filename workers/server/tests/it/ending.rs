//! A worker's life ends with its wire, whatever it is doing.

use std::fs;

use workers_protocol::wire::Event;

use crate::worker::{Worker, eventually, floats, next, version};

/// Returns the processor time that a process has used, in ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn a_worker_ends_when_its_wire_is_closed() {
    let mut worker = Worker::start(version("engine: onnx\n", "add_one"));
    let mut client = worker.client().await;
    let mut events = client
        .model_stream_infer(tokio_stream::pending())
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut events).await;
    assert!(matches!(Event::from_message(first), Ok(Event::Ready(_))));
    let status = worker.close().await;
    assert!(status.success(), "{status}");
}

/// Returns the graph `slow` with so many more steps that it would run for minutes.
fn endless() -> Vec<u8> {
    let mut graph = fs::read(crate::worker::tiny("slow")).unwrap();
    let steps = 40_000_i64.to_le_bytes();
    let at = graph.windows(8).position(|bytes| bytes == steps).unwrap();
    graph[at..at + 8].copy_from_slice(&1_000_000_000_i64.to_le_bytes());
    graph
}

#[tokio::test]
async fn a_worker_ends_in_the_middle_of_a_run() {
    let folder = version("engine: onnx\n", "slow");
    fs::write(folder.path().join("model.onnx"), endless()).unwrap();
    let mut worker = Worker::start(folder);
    let mut client = worker.connect().await;
    let request = floats("", "x", &[1, 8], &[1.0; 8]);
    let running = tokio::spawn(async move { client.model_infer(request).await });
    // It runs once it keeps a core busy: loading takes far less than a quarter of a second.
    let pid = worker.pid();
    eventually("the run", || (ticks(pid) >= 100).then_some(())).await;
    assert!(!running.is_finished());
    let status = worker.close().await;
    assert!(status.success(), "{status}");
    running.await.unwrap().unwrap_err();
}
