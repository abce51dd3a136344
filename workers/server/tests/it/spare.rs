//! A worker that is started without a model, and told later what to serve.

use std::io::Write as _;

use workers_protocol::Assignment;
use workers_protocol::wire::{Credits, Event};

use crate::worker::{Worker, floats, next, read_floats, version};

const PLAIN: &str = "engine: onnx\n";

fn assign(worker: &mut Worker, assignment: &Assignment) {
    let line = assignment.to_line().unwrap();
    worker.wire.write_all(&line).unwrap();
}

/// Waits until it is ready, and returns what it takes.
async fn ready(worker: &Worker) -> Credits {
    let mut client = worker.client().await;
    let stream = client.model_stream_infer(tokio_stream::pending()).await;
    let first = next(&mut stream.unwrap().into_inner()).await;
    match Event::from_message(first).unwrap() {
        Event::Ready(credits) => credits,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_spare_serves_what_it_is_assigned() {
    let mut worker = Worker::spare(version(PLAIN, "add_one"), &[]);
    let assignment = worker.assignment();
    assign(&mut worker, &assignment);
    // HTTP/2 begins right behind the line.
    let mut client = worker.client().await;
    let request = floats("", "x", &[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let answer = client.model_infer(request.clone()).await.unwrap();
    let expected = [2.0, 3.0, 4.0, 5.0];
    assert_eq!(
        read_floats(&answer.into_inner().raw_output_contents[0]),
        expected
    );
    let mut debugging = worker.connect().await;
    debugging.model_infer(request).await.unwrap();
    let status = worker.close().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_spare_that_is_not_assigned_ends_with_its_wire() {
    let mut worker = Worker::spare(version(PLAIN, "add_one"), &[]);
    let status = worker.close().await;
    assert!(status.success(), "{status}");
    assert_eq!(worker.log(), "");
}

#[tokio::test]
async fn a_line_that_is_no_assignment_ends_a_spare() {
    let mut worker = Worker::spare(version(PLAIN, "add_one"), &[]);
    worker.wire.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let status = worker.end().await;
    assert_eq!(status.code(), Some(1));
    assert!(worker.log().contains("no assignment"), "{}", worker.log());
}

#[tokio::test]
async fn a_spare_without_onnx_runtime_says_so_when_it_is_assigned() {
    let missing = ["--onnxruntime", "/nonexistent/libonnxruntime.so"];
    let mut worker = Worker::spare(version(PLAIN, "add_one"), &missing);
    let assignment = worker.assignment();
    assign(&mut worker, &assignment);
    let mut client = worker.client().await;
    let refused = client.model_stream_infer(tokio_stream::pending()).await;
    let status = refused.err().unwrap();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let library = "ONNX Runtime is not at /nonexistent/libonnxruntime.so";
    assert!(status.message().starts_with(library), "{status}");
}

#[tokio::test]
async fn instances_are_as_assigned_where_the_manifest_does_not_say() {
    for (manifest, expected) in [
        (PLAIN, 3),
        ("engine: onnx\ninstances: { count: 2 }\n", 2),
        ("engine: onnx\ninstances: { threads: 1 }\n", 1),
    ] {
        let mut worker = Worker::spare(version(manifest, "add_one"), &[]);
        let assignment = Assignment {
            instances: Some(3),
            ..worker.assignment()
        };
        assign(&mut worker, &assignment);
        assert_eq!(ready(&worker).await.slots, expected, "{manifest}");
    }
}
