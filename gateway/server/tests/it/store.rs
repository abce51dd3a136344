//! The folder of models, watched: what appears, changes and goes while a gateway serves it, and what
//! can't be served.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::hearth::{Answer, Hearth, PLAIN, Store, eventually, shared, tiny};
use crate::infer::tensor_request;
use crate::pictures::{DETECTOR, MEAN, RED, png};

/// Waits until the metadata of a model, or the refusal of it, is as wanted.
fn await_model(
    hearth: &Hearth,
    name: &str,
    what: &str,
    wanted: impl Fn(&Answer, &Value) -> bool,
) -> Value {
    eventually(&format!("`{name}` {what}"), || {
        let answer = hearth.get(&format!("/v2/models/{name}"));
        let json = answer.json();
        wanted(&answer, &json).then_some(json)
    })
}

fn is_served(answer: &Answer, _: &Value) -> bool {
    answer.status == 200
}

/// Returns why a model can't be served.
#[track_caller]
fn reason(hearth: &Hearth, name: &str) -> String {
    let sentence = hearth.get(&format!("/v2/models/{name}")).refusal(503);
    let start = format!("model `{name}` can't be served: ");
    sentence.strip_prefix(&start).unwrap().to_owned()
}

#[test]
fn a_folder_that_is_dropped_into_the_store_is_served() {
    let hearth = Hearth::start(Store::new(), &[]);
    let body = tensor_request("x", "FP32", &[1, 4], &[1; 4]);
    let sentence = hearth
        .post("/v2/models/new/infer", body.as_bytes())
        .refusal(404);
    assert_eq!(
        sentence,
        "Request for unknown model: 'new' is not found: the store is empty"
    );
    hearth.store().put("new", 1, PLAIN, &[tiny("add_one")]);
    await_model(&hearth, "new", "is served", is_served);
    let found = hearth.post("/v2/models/new/infer", body.as_bytes()).ok();
    assert_eq!(found["outputs"][0]["data"][0], 2.0);
    assert_eq!(found["model_version"], "1");
    hearth.stop();
}

#[test]
fn a_new_version_takes_over_and_the_one_before_stays() {
    let hearth = Hearth::start(Store::new().with("model", PLAIN, "add_one"), &[]);
    let body = tensor_request("x", "FP32", &[1, 4], &[1; 4]);
    let data = |path: &str| {
        let found = hearth.post(path, body.as_bytes()).ok();
        (
            found["model_version"].clone(),
            found["outputs"][0]["data"][0].clone(),
        )
    };
    assert_eq!(data("/v2/models/model/infer"), (json!("1"), json!(2.0)));
    hearth
        .store()
        .put("model", 10, PLAIN, &[tiny("identity_fp32")]);
    let found = await_model(&hearth, "model", "has two versions", |_, model| {
        model["versions"] == json!(["1", "10"])
    });
    assert_eq!(found["inputs"][0]["shape"], json!([-1, -1]));
    assert_eq!(data("/v2/models/model/infer"), (json!("10"), json!(1.0)));
    assert_eq!(
        data("/v2/models/model/versions/1/infer"),
        (json!("1"), json!(2.0))
    );
    assert_eq!(
        data("/v2/models/model/versions/10/infer"),
        (json!("10"), json!(1.0))
    );

    fs::remove_dir_all(hearth.store().version("model", 10)).unwrap();
    await_model(&hearth, "model", "has one version", |_, model| {
        model["versions"] == json!(["1"])
    });
    assert_eq!(data("/v2/models/model/infer"), (json!("1"), json!(2.0)));
    fs::remove_dir_all(hearth.store().path().join("model")).unwrap();
    await_model(&hearth, "model", "is gone", |answer, _| {
        answer.status == 404
    });
    hearth
        .post("/v2/models/model/infer", body.as_bytes())
        .refusal(404);
    eventually("its workers end", || {
        hearth.workers().is_empty().then_some(())
    });
    hearth.stop();
}

#[test]
fn a_new_version_that_cannot_be_served_does_not_take_over() {
    let hearth = Hearth::start(Store::new().with("model", PLAIN, "add_one"), &[]);
    hearth
        .store()
        .put("model", 2, PLAIN, &[tiny("sequence_output")]);
    let found = await_model(&hearth, "model", "has a note", |_, model| {
        !model["notes"].is_null()
    });
    let note = found["notes"][0].as_str().unwrap();
    assert!(
        note.starts_with("version 2 can't be served: output `y` is no tensor"),
        "{note}"
    );
    assert_eq!(found["versions"], json!(["1"]));
    let body = tensor_request("x", "FP32", &[1, 4], &[1; 4]);
    let found = hearth.post("/v2/models/model/infer", body.as_bytes()).ok();
    assert_eq!(found["model_version"], "1");
    let sentence = hearth
        .post("/v2/models/model/versions/2/infer", body.as_bytes())
        .refusal(503);
    assert!(sentence.contains("is no tensor"), "{sentence}");
    hearth.stop();
}

#[test]
fn a_file_that_changes_under_a_served_version_is_noticed_and_hurts_nobody() {
    let hearth = Hearth::start(Store::new().with("model", PLAIN, "add_one"), &[]);
    let body = tensor_request("x", "FP32", &[1, 4], &[1; 4]);
    hearth.post("/v2/models/model/infer", body.as_bytes()).ok();
    let workers = hearth.workers();
    let file = hearth.store().version("model", 1).join("add_one.onnx");
    let whole = fs::read(&file).unwrap();
    // Under a worker that maps it, this would be its end.
    fs::write(&file, b"").unwrap();
    let found = await_model(&hearth, "model", "has a note", |_, model| {
        !model["notes"].is_null()
    });
    assert_eq!(
        found["notes"],
        json!(["the files of version 1 changed in the store; it is served as it was added"])
    );
    let served = hearth.post("/v2/models/model/infer", body.as_bytes()).ok();
    assert_eq!(served["outputs"][0]["data"][0], 2.0);
    assert_eq!(hearth.workers(), workers);
    assert!(
        hearth
            .log()
            .contains("the files changed under a served version")
    );

    fs::write(&file, whole).unwrap();
    await_model(&hearth, "model", "has no note any more", |_, model| {
        model["notes"].is_null()
    });
    hearth.stop();
}

#[test]
fn a_version_is_checked_once_and_served_again_after_a_restart() {
    let hearth = Hearth::start(Store::new().with("model", PLAIN, "add_one"), &[]);
    let first = hearth.get("/v2/models/model").ok();
    let data = hearth.data();
    let store = Store::new().with("model", PLAIN, "add_one");
    hearth.stop();
    // Were it checked again, it would be refused.
    let args = ["--onnxruntime", "/nonexistent/libonnxruntime.so"];
    let hearth = Hearth::start_on(store, Arc::clone(&data), &args, &[]);
    assert_eq!(hearth.get("/v2/models/model").ok(), first);
    hearth.stop();
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let truncated = tempfile::tempdir().unwrap();
    let truncated = truncated.path().join("model.onnx");
    let whole = fs::read(tiny("two_inputs")).unwrap();
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let digest = "0".repeat(64);
    let store = Store::new()
        .with("sequence", PLAIN, "sequence_output")
        .with("engine", "engine: caffe\n", "add_one")
        .with("typo", "engine: onnx\ntaks: object-detection\n", "add_one")
        .with(
            "digest",
            &format!("{PLAIN}digests: {{ add_one.onnx: \"{digest}\" }}\n"),
            "add_one",
        )
        .with(
            "labels",
            &MEAN.replace("[red, green, blue]", "[red, green]"),
            "picture_mean",
        )
        .with(
            "head",
            &DETECTOR.replace("yolov8", "centerface"),
            "tiny_detector",
        )
        .with(
            "shape",
            "engine: onnx\ninputs: [{ name: x, shape: [-1, 5] }]\n",
            "add_one",
        )
        .with(
            "input",
            "engine: onnx\ninputs: [{ name: pixels }]\n",
            "add_one",
        )
        .with(
            "datatype",
            "engine: onnx\ninputs: [{ name: x, datatype: INT8 }]\n",
            "add_one",
        )
        .with("file", "engine: onnx\nfile: other.onnx\n", "add_one")
        .with("gpu", "engine: onnx\ndevice: \"cuda:0\"\n", "add_one")
        .with(
            "size",
            &MEAN.replace("resize: stretch", "resize: stretch, size: [9, 9]"),
            "picture_mean",
        )
        .with("batch", "engine: onnx\nbatch: { max: 0 }\n", "add_one")
        .with(
            "stage",
            "task: face-mask-detection\nstages: [{ model: a }, { model: b }]\n",
            "add_one",
        );
    store.put("truncated", 1, PLAIN, &[truncated]);
    store.put("nothing", 1, PLAIN, &[]);
    store.put("two", 1, PLAIN, &[tiny("add_one"), tiny("slow")]);
    let hearth = Hearth::start(store, &[]);
    for (name, words) in [
        (
            "sequence",
            &[
                "output `y` is no tensor",
                "only models whose inputs and outputs are tensors",
            ][..],
        ),
        ("engine", &["model.yaml", "line 1", "caffe", "onnx"]),
        ("typo", &["model.yaml", "line 2", "taks"]),
        ("digest", &["add_one.onnx", &digest]),
        ("labels", &["2", "3"]),
        ("head", &["heat map", "`output0` FP32 [-1, 6, 4]"]),
        ("shape", &["input `x`", "[-1, 5]", "[-1, 4]"]),
        ("input", &["the input `pixels`", "the graph has `x`"]),
        ("datatype", &["input `x`", "INT8", "FP32"]),
        ("file", &["other.onnx"]),
        ("gpu", &["cuda:0"]),
        ("size", &["9", "8"]),
        ("batch", &["`batch.max`", "got 0"]),
        ("stage", &["stage `a` is not there", "unknown model: 'a'"]),
        ("truncated", &["ONNX Runtime can't load the model"]),
        ("nothing", &["onnx"]),
        ("two", &["add_one.onnx", "slow.onnx"]),
    ] {
        let reason = reason(&hearth, name);
        for words in words {
            assert!(
                reason.contains(words),
                "{name}: {words:?} is not in {reason:?}"
            );
        }
    }
    // Nobody is harmed by its neighbours.
    hearth.store().put("good", 1, PLAIN, &[tiny("add_one")]);
    await_model(&hearth, "good", "is served", is_served);
    assert!(hearth.workers().is_empty());
    hearth.stop();
}

#[test]
fn shapes_that_are_declared_too_narrowly_are_rewritten_when_the_manifest_says_so() {
    const FREED: &str = "
engine: onnx
inputs: [{ name: x, shape: [-1, 3, -1, -1] }]
outputs: [{ name: y, shape: [-1, 1, -1, -1] }]
";
    let store =
        Store::new()
            .with("narrow", PLAIN, "wrong_shape")
            .with("freed", FREED, "wrong_shape");
    let hearth = Hearth::start(store, &[]);
    let ones = vec![1; 3 * 8 * 12];
    let body = tensor_request("x", "FP32", &[1, 3, 8, 12], &ones);
    let sentence = hearth
        .post("/v2/models/narrow/infer", body.as_bytes())
        .refusal(400);
    assert!(sentence.contains("Expected [10,3,32,32]"), "{sentence}");

    let model = hearth.get("/v2/models/freed").ok();
    assert_eq!(model["inputs"][0]["shape"], json!([-1, 3, -1, -1]));
    let notes = model["notes"].to_string();
    assert!(notes.contains("`x`") && notes.contains("`y`"), "{notes}");
    let found = hearth.post("/v2/models/freed/infer", body.as_bytes()).ok();
    assert_eq!(found["outputs"][0]["shape"], json!([1, 1, 2, 3]));
    let data = found["outputs"][0]["data"].as_array().unwrap().iter();
    for mean in data.map(|value| value.as_f64().unwrap()) {
        assert!((mean - 1.0).abs() < 1e-5, "{mean}");
    }
    // The store's own file is as it was.
    let stored = hearth.store().version("freed", 1).join("wrong_shape.onnx");
    assert_eq!(
        fs::read(stored).unwrap(),
        fs::read(tiny("wrong_shape")).unwrap()
    );
    hearth.stop();
}

#[test]
fn a_task_of_stages_waits_for_its_stages() {
    const FACES: &str = "
task: face-mask-detection
stages: [{ model: detector }, { model: mean }]
";
    let hearth = Hearth::start(Store::new().with("mean", MEAN, "picture_mean"), &[]);
    hearth.store().put("faces", 1, FACES, &[]);
    let refused = |answer: &Answer, _: &Value| answer.status == 503;
    await_model(&hearth, "faces", "is refused", refused);
    assert!(reason(&hearth, "faces").contains("stage `detector` is not there"));
    hearth
        .store()
        .put("detector", 1, DETECTOR, &[tiny("tiny_detector")]);
    await_model(&hearth, "faces", "is served", is_served);
    let found = hearth.post("/run/faces", &png(RED)).ok();
    let best = &found["predictions"][0];
    assert_eq!(
        (&best["label"], &best["score"]),
        (&json!("red"), &json!(1.0))
    );
    assert_eq!(best["label_score"], 1.0);
    hearth.stop();
}

#[test]
fn a_model_with_an_output_that_is_no_tensor_is_refused() {
    let Some(shared) = shared() else { return };
    let store = Store::new();
    store.put("iris", 1, PLAIN, &[shared.join("models/logreg_iris.onnx")]);
    let hearth = Hearth::start(store, &[]);
    let reason = reason(&hearth, "iris");
    assert!(reason.contains("is no tensor"), "{reason}");
    hearth.stop();
}
