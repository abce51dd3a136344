//! `hearth-worker measure`: what a version can do here, as JSON.

use std::path::Path;
use std::process::Output;

use model_store::{Host, Measurement};

use crate::worker::{command, version};

fn measure(version: &Path) -> Output {
    command("measure", version, 2).output().unwrap()
}

#[track_caller]
fn measured(manifest: &str, graph: &str) -> Measurement {
    let output = measure(version(manifest, graph).path());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_model_is_measured_at_every_size_of_a_batch() {
    let measurement = measured("engine: onnx\nbatch: { max: 12 }\n", "add_one");
    let sizes: Vec<u32> = measurement.curve.iter().map(|(items, _)| *items).collect();
    assert_eq!(sizes, [1, 2, 4, 8, 12]);
    assert!(measurement.curve.iter().all(|(_, time)| *time > 0));
    assert_eq!(measurement.instances * measurement.threads, 2);
    assert!(measurement.load_ns > 0);
    // The library alone takes more than a megabyte.
    assert!(measurement.memory_bytes > 1 << 20);
    assert!(measurement.host.hardware.contains(", 2 cores"));
}

#[test]
fn what_the_manifest_says_of_instances_is_measured() {
    let manifest = "engine: onnx\ninstances: { count: 3, threads: 2 }\nbatch: { max: 2 }\n";
    let measurement = measured(manifest, "add_one");
    assert_eq!((measurement.instances, measurement.threads), (3, 2));
}

#[test]
fn a_graph_that_fixes_its_batch_has_a_curve_of_one_point() {
    let measurement = measured("engine: onnx\n", "fixed_batch");
    assert_eq!(measurement.curve.len(), 1);
}

#[test]
fn a_version_that_does_not_run_is_not_measured() {
    let folder = version(
        "engine: onnx\ninputs: [{ name: index, example: 9 }]\n",
        "fails_at_run",
    );
    let output = measure(folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("does not run on zeros"), "{text}");
}

#[test]
fn a_measurement_holds_for_the_host_that_the_worker_names() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
        .args(["host", "--threads", "2"])
        .output()
        .unwrap();
    let host: Host = serde_json::from_slice(&output.stdout).unwrap();
    let manifest = "engine: onnx\nbatch: { max: 1 }\n";
    assert_eq!(measured(manifest, "add_one").host, host);
}
