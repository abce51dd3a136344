//! A Triton repository of ONNX models, served as it is.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::hearth::{Hearth, Store, command, eventually, finish, tiny};
use crate::infer::tensor_request;

/// Writes a version of a model in Triton's layout, and the model's configuration where there is one.
fn put(store: &Path, name: &str, version: u32, config: Option<&str>) {
    let model = store.join(name);
    let folder = model.join(version.to_string());
    fs::create_dir_all(&folder).unwrap();
    if let Some(config) = config {
        fs::write(model.join("config.pbtxt"), config).unwrap();
    }
    fs::copy(tiny("add_one"), folder.join("model.onnx")).unwrap();
}

const CONFIG: &str = r#"
name: "add"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
optimization { cuda { graphs: true } }
version_policy { specific { versions: [ 1, 2 ] } }
"#;

fn infer(hearth: &Hearth, model: &str, items: i64) -> serde_json::Value {
    let data = vec![1; 4 * items as usize];
    let body = tensor_request("x", "FP32", &[items, 4], &data);
    let path = format!("/v2/models/{model}/infer");
    hearth.post(&path, body.as_bytes()).ok()
}

#[test]
fn a_repository_is_served_as_it_is() {
    let store = Store::new();
    for version in 1..=3 {
        put(store.path(), "add", version, Some(CONFIG));
    }
    put(store.path(), "plain", 1, None);
    let stateful = "sequence_batching { max_sequence_idle_microseconds: 1 }";
    put(store.path(), "stateful", 1, Some(stateful));
    let hearth = Hearth::start(store, &[]);

    let metadata = hearth.get("/v2/models/add").ok();
    assert_eq!(metadata["versions"], json!(["1", "2"]));
    let tensor = |name| json!([{"name": name, "datatype": "FP32", "shape": [-1, 4]}]);
    assert_eq!(metadata["inputs"], tensor("x"));
    assert_eq!(metadata["max_batch"], 8);
    let notes = metadata["notes"].to_string();
    let ignored = "without effect here: `optimization` (line 8)";
    assert!(notes.contains(ignored), "{notes}");
    let warned = |line: &str| line.contains("WARN") && line.contains(ignored);
    assert!(hearth.log().lines().any(warned));
    assert!(notes.contains("version 3 can't be served"), "{notes}");
    assert!(
        notes.contains("`version_policy` serves only 1, 2"),
        "{notes}"
    );
    let answer = infer(&hearth, "add", 2);
    assert_eq!(answer["model_version"], "2");
    assert_eq!(answer["outputs"][0]["data"], json!([2.0].repeat(8)));

    // An ONNX model says enough of itself.
    assert_eq!(
        infer(&hearth, "plain", 1)["outputs"][0]["data"],
        json!([2.0].repeat(4))
    );
    let body = tensor_request("x", "FP32", &[1, 4], &[1; 4]);
    let sentence = hearth
        .post("/v2/models/stateful/infer", body.as_bytes())
        .refusal(503);
    assert!(
        sentence.contains("`config.pbtxt`, line 1: `sequence_batching`"),
        "{sentence}"
    );

    // A configuration that changes under a served version is reported as any file is.
    let config = CONFIG.replace("max_batch_size: 8", "max_batch_size: 4");
    fs::write(hearth.store().path().join("add/config.pbtxt"), config).unwrap();
    eventually("the change is noticed", || {
        let notes = hearth.get("/v2/models/add").ok()["notes"].to_string();
        notes
            .contains("the files of version 1 changed")
            .then_some(())
    });
    assert_eq!(hearth.get("/v2/models/add").ok()["max_batch"], 8);
    hearth.stop();
}

#[test]
fn a_model_without_a_batch_is_given_its_tensors_as_they_are() {
    let store = Store::new();
    let config = "input { name: 'x' dims: [-1, 4] } output { name: 'y' dims: [-1, 4] }";
    put(store.path(), "add", 1, Some(config));
    let hearth = Hearth::start(store, &[]);
    assert_eq!(hearth.get("/v2/models/add").ok()["max_batch"], 1);
    let answer = infer(&hearth, "add", 3);
    assert_eq!(answer["outputs"][0]["shape"], json!([3, 4]));
    assert_eq!(hearth.metric("entries_answered_total", "add"), 1.0);
    hearth.stop();
}

#[test]
fn a_model_of_a_repository_is_added_with_its_configuration() {
    let repository = tempfile::tempdir().unwrap();
    for version in [1, 3] {
        put(repository.path(), "add", version, Some(CONFIG));
    }
    let store = tempfile::tempdir().unwrap();
    let add = |more: &[&str]| {
        let mut command = command();
        command.args(["model", "add", "--store"]).arg(store.path());
        let output = finish(command.args(more).arg(repository.path().join("add")));
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8(text).unwrap()
    };
    let other = add(&["--name", "other"]);
    assert!(
        other.contains("`name` is \"add\", expected the model's, other"),
        "{other}"
    );
    let said = add(&[]);
    assert!(
        said.contains("note: `config.pbtxt`: without effect here"),
        "{said}"
    );
    assert!(said.contains("added add:1 at"), "{said}");
    assert!(
        said.contains("add:3 can't be served: `config.pbtxt`: `version_policy`"),
        "{said}"
    );
    assert!(store.path().join("add/1/config.pbtxt").is_file());
    assert!(!store.path().join("add/3").exists());
    let again = add(&["--version", "1"]);
    assert_eq!(again, "add:1 is there already, with the same files\n");
}
