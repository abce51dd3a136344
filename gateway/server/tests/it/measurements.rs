//! What is measured while nobody calls, and what it is for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::add_one::{post, sum, worker};
use crate::hearth::{Hearth, PLAIN, Store, command, eventually};

/// Measured as if there were two cores, whether or not there are.
const MEASURED: [&str; 4] = ["--measure-models", "true", "--worker-threads", "2"];

fn store() -> Store {
    Store::new().with_tiny("add_one")
}

/// Returns where the measurement of the only model is kept, once it is there.
fn kept(data: &TempDir) -> PathBuf {
    eventually("a measurement is kept", || {
        let mut files = fs::read_dir(data.path().join("measurements")).unwrap();
        files.find_map(|file| {
            let path = file.unwrap().path();
            path.extension()?.eq("json").then_some(path)
        })
    })
}

fn read(path: &PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Returns how many threads of instances a worker has.
fn n_instances(worker: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    names.filter(|name| name.starts_with("instance-")).count()
}

#[test]
fn a_model_is_measured_once_and_started_accordingly() {
    let data = Arc::new(TempDir::new().unwrap());
    let hearth = Hearth::start_on(store(), Arc::clone(&data), &MEASURED, &[]);
    let path = kept(&data);
    let mut measured = read(&path);
    let count = |field: &str| measured[field].as_u64().unwrap();
    assert_eq!(count("instances") * count("threads"), 2);
    assert_eq!(measured["curve"][0][0], 1);
    hearth.stop();

    // What is kept is believed, as long as it was measured here with this engine.
    measured["instances"] = json!(3);
    fs::write(&path, measured.to_string()).unwrap();
    let hearth = Hearth::start_on(store(), Arc::clone(&data), &MEASURED, &[]);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    let worker = worker(&hearth);
    eventually("three instances", || {
        (n_instances(worker) == 3).then_some(())
    });
    assert_eq!(read(&path), measured);
    hearth.stop();
}

#[test]
fn what_was_measured_elsewhere_or_is_broken_is_measured_again() {
    let data = Arc::new(TempDir::new().unwrap());
    let start = || Hearth::start_on(store(), Arc::clone(&data), &MEASURED, &[]);
    let hearth = start();
    let path = kept(&data);
    hearth.stop();
    let first = read(&path);
    let mut elsewhere = first.clone();
    elsewhere["host"]["hardware"] = json!("another processor, 2 cores");
    for replaced in [elsewhere.to_string(), "{".to_owned()] {
        fs::write(&path, &replaced).unwrap();
        let hearth = start();
        eventually("it is measured again", || {
            (fs::read_to_string(&path).unwrap() != replaced).then_some(())
        });
        assert_eq!(read(&path)["host"], first["host"]);
        hearth.stop();
    }
}

#[test]
fn a_measurement_that_fails_is_said_once_and_the_model_is_served() {
    let folder = TempDir::new().unwrap();
    let worker = folder.path().join("worker");
    let real = PathBuf::from(command().get_program()).with_file_name("hearth-worker");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = measure ] && exit 3\nexec '{}' \"$@\"\n",
        real.display()
    );
    fs::write(&worker, script).unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    let store = store().with("other", PLAIN, "two_inputs");
    let args = ["--worker", worker.to_str().unwrap()];
    let hearth = Hearth::start(store, &[&MEASURED[..], &args].concat());
    // The second is tried when the first is not any more.
    for model in ["add_one:1", "other:1"] {
        let line = format!(
            "not measured model=\"{model}\" error=\"the worker that checked it ended with exit status: 3\""
        );
        eventually(&line, || hearth.log().contains(&line).then_some(()));
    }
    assert_eq!(hearth.log().matches("not measured").count(), 2);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    hearth.stop();
}
