//! `hearth-worker prepare`: the verdict on a version, as JSON.

use model_store::{ModelSpec, Preparation};

use crate::worker::{command, version};

fn verdict(manifest: &str, graph: &str) -> Preparation {
    let folder = version(manifest, graph);
    let output = command("prepare", folder.path(), 1).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn accepted(manifest: &str, graph: &str) -> ModelSpec {
    match verdict(manifest, graph) {
        Preparation::Accepted(spec) => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_version_that_can_be_served_is_described() {
    let spec = accepted("engine: onnx\ninstances: { count: 2 }\n", "two_inputs");
    assert_eq!(spec.platform, "onnxruntime_onnx");
    assert_eq!((spec.max_batch, spec.instances), (16, 2));
    let axes: Vec<_> = spec
        .inputs
        .iter()
        .map(|input| (&*input.name, input.batch_axis))
        .collect();
    assert_eq!(axes, [("a", Some(0)), ("b", None)]);
    assert_eq!(spec.notes, Vec::<String>::new());
}

#[test]
fn a_batch_that_the_graph_fixes_is_noted() {
    let spec = accepted("engine: onnx\nbatch: { max: 8 }\n", "fixed_batch");
    assert_eq!(spec.max_batch, 1);
    let [note] = &spec.notes[..] else {
        panic!("{:?}", spec.notes);
    };
    assert_eq!(
        note,
        "`batch.max` is 8, but the graph fixes the batch: one at a time"
    );
}

#[test]
fn a_model_that_takes_certain_values_only_is_tried_with_its_example() {
    let refused = "engine: onnx\ninputs: [{ name: index, example: 9 }]\n";
    match verdict(refused, "fails_at_run") {
        Preparation::Refused(reason) => {
            assert!(
                reason.starts_with("the model does not run on zeros"),
                "{reason}"
            );
            assert!(reason.contains("say so in model.yaml"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    accepted(
        "engine: onnx\ninputs: [{ name: index, example: 3 }]\n",
        "fails_at_run",
    );
}
