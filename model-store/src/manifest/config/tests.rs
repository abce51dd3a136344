use proptest::prelude::*;

use super::*;

fn parse(config: &str) -> Manifest {
    let manifest = Manifest::parse_config(config).unwrap_or_else(|error| panic!("{error}"));
    manifest.check().unwrap();
    manifest
}

fn refusal(config: &str) -> String {
    Manifest::parse_config(config).unwrap_err().to_string()
}

fn notes(config: &str) -> Vec<String> {
    parse(config).config.unwrap().notes
}

const WHOLE: &str = r#"
# As `perf_analyzer`'s documentation has them.
name: "densenet"
platform: "onnxruntime_onnx"
max_batch_size : 8
input [
  {
    name: "data_0"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, -1 ]
  },
  { name: 'ids' data_type: TYPE_STRING dims: 1 }
]
output: <
  name: "fc6" "_1";
  data_type: TYPE_INT64
  dims: [ 1000 ],
>
version_policy: { specific { versions: [1, 3] } }
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 1 ] } ]
default_model_filename: "densenet.onnx"
dynamic_batching {
  default_queue_policy { default_timeout_microseconds: 1500000 }
}
parameters { key: "intra_op_thread_count" value: { string_value: "4" } }
model_transaction_policy { decoupled: false }
"#;

#[test]
fn every_field_that_applies_is_taken_from_a_configuration() {
    let manifest = parse(WHOLE);
    assert_eq!(manifest.engine, Some(EngineKind::Onnx));
    assert_eq!(manifest.file.as_deref(), Some("densenet.onnx"));
    assert_eq!(manifest.batch.max, Some(8));
    assert_eq!(manifest.device, Device::Cuda(1));
    assert_eq!(manifest.instances.count, Some(2));
    assert_eq!(manifest.instances.threads, Some(4));
    assert_eq!(manifest.timeout_ms, Some(1500));
    let tensor = |name: &str, datatype, shape: &[i64]| TensorDeclaration {
        name: name.to_owned(),
        datatype: Some(datatype),
        shape: Some(shape.to_vec()),
        batch_axis: Some(0),
        example: None,
    };
    let inputs = [
        tensor("data_0", DataType::Fp32, &[-1, 3, 224, -1]),
        tensor("ids", DataType::Bytes, &[-1, 1]),
    ];
    assert_eq!(manifest.inputs, inputs);
    assert_eq!(
        manifest.outputs,
        [tensor("fc6_1", DataType::Int64, &[-1, 1000])]
    );
    let terms = manifest.config.as_ref().unwrap();
    assert_eq!(terms.notes, [""; 0]);

    let place = |name: &str, version: &str| {
        let place = manifest.check_place(&name.parse().unwrap(), version.parse().unwrap());
        place.map_err(|error| error.to_string())
    };
    assert_eq!(place("densenet", "3"), Ok(()));
    assert_eq!(
        place("densenet", "2"),
        Err("`config.pbtxt`: `version_policy` serves only 1, 3".to_owned())
    );
    assert_eq!(
        place("other", "1"),
        Err("`config.pbtxt`: `name` is \"densenet\", expected the model's, other".to_owned())
    );
}

#[test]
fn without_a_batch_size_no_dimension_is_a_batch() {
    let manifest = parse("max_batch_size: 0 input { name: 'x' dims: [-1, 4] }");
    assert_eq!(manifest.batch.max, None);
    assert_eq!(manifest.inputs[0].shape, Some(vec![-1, 4]));
    assert_eq!(manifest.inputs[0].batch_axis, Some(-1));
    assert_eq!(manifest.inputs[0].datatype, None);
}

#[test]
fn an_empty_configuration_leaves_all_to_the_graph() {
    let manifest = parse(" # nothing\n");
    assert_eq!(manifest.inputs, []);
    assert_eq!(manifest.batch.max, None);
    assert_eq!(manifest.config, Some(ConfigTerms::default()));
}

#[test]
fn the_only_output_has_its_file_of_labels() {
    let labels = |config: &str| {
        let manifest = parse(config);
        let notes = manifest.config.unwrap().notes;
        (manifest.output.labels, notes)
    };
    let file = Labels::File("labels.txt".to_owned());
    let of_one = "output { name: 'y' dims: 2 label_filename: 'labels.txt' }";
    assert_eq!(labels(of_one), (Some(file), Vec::new()));
    let none = "output { name: 'y' dims: 2 label_filename: '' }";
    assert_eq!(labels(none), (None, Vec::new()));
    let (none, notes) = labels(&format!("{of_one} output {{ name: 'z' dims: 1 }}"));
    assert_eq!(none, None);
    assert!(
        notes[0].contains("`output[0].label_filename` (line 1)"),
        "{notes:?}"
    );
    let outside = of_one.replace("labels.txt", "../labels.txt");
    let refused = Manifest::parse_config(&outside).unwrap().check();
    assert!(refused.is_err());
}

#[test]
fn what_has_no_effect_is_named_with_its_line() {
    let config = "
max_batch_size: 70000
optimization { graph { level: 1 } }
input { name: 'x' dims: 4 allow_ragged_batch: true }
dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100 }
instance_group { count: 2 gpus: [0, 1] rate_limiter {} }
parameters { key: 'enable_mem_arena' value { string_value: '1' } }
max_bach_size: 1
";
    assert_eq!(
        notes(config),
        [
            "`config.pbtxt`: `max_batch_size` is 70000, batches have at most 4096 items",
            "`config.pbtxt`: without effect here: `input[0].allow_ragged_batch` (line 4), \
             `instance_group.gpus[1]` (line 6), `instance_group.rate_limiter` (line 6), \
             `parameters` (line 7) \"enable_mem_arena\", \
             `dynamic_batching.preferred_batch_size` (line 5), \
             `dynamic_batching.max_queue_delay_microseconds` (line 5), `optimization` (line 3), \
             `max_bach_size` (line 8)",
        ]
    );
}

#[test]
fn what_is_wrong_is_refused_with_line_and_field() {
    for (config, expected) in [
        (
            "\nplatform: 'tensorrt_plan'",
            "line 2: `platform`: expected \"onnxruntime_onnx\", got \"tensorrt_plan\"",
        ),
        ("backend: 'python'", "`backend`: expected \"onnxruntime\""),
        (
            "name: mnist",
            "line 1: `name`: expected text in quotes, got \"mnist\"",
        ),
        ("name: 'a'\nname: 'b'", "line 2: `name[1]`: expected once"),
        (
            "max_batch_size: -1",
            "`max_batch_size`: expected a whole number from 0, got \"-1\"",
        ),
        (
            "max_batch_size: '8'",
            "`max_batch_size`: expected no quotes, got \"8\"",
        ),
        ("input { dims: 1 }", "line 1: `input[0].name`: required"),
        ("input: 'x'", "`input[0]`: expected a message in braces"),
        (
            "input {} \n input { name: 'x' dims: [1, 0] }",
            "line 1: `input[0].name`: required",
        ),
        (
            "input { name: 'x' dims: [1, 0] }",
            "`input[0].dims[1]`: expected a whole number greater than 0, or -1",
        ),
        (
            "input { name: 'x' data_type: FP32 }",
            "`input[0].data_type`: expected a type, TYPE_FP32 for example, got \"FP32\"",
        ),
        (
            "input { name: 'x' reshape { shape: [] } }",
            "`input[0].reshape`: expected none",
        ),
        (
            "instance_group { kind: KIND_TPU }",
            "`instance_group.kind`: expected KIND_CPU,",
        ),
        (
            "sequence_batching {}",
            "`sequence_batching`: models that keep a state between requests are not served",
        ),
        (
            "model_transaction_policy { decoupled: true }",
            "`model_transaction_policy.decoupled`: models that answer more than once",
        ),
        (
            "version_policy { specific { versions: [0] } }",
            "`version_policy.specific.versions`: expected a version, got \"0\"",
        ),
        (
            "parameters { key: 'intra_op_thread_count' value { string_value: 'all' } }",
            "`parameters.value.string_value`: expected a number of threads",
        ),
    ] {
        let refusal = refusal(config);
        assert!(refusal.starts_with("`config.pbtxt`, line "), "{refusal}");
        assert!(refusal.contains(expected), "{config}: {refusal}");
    }
}

#[test]
fn text_that_is_none_is_refused_with_its_line() {
    for (config, expected) in [
        (
            "name 'x'",
            "line 1: expected `:` or `{` after `name`, got \"'x'\"",
        ),
        (
            "input {\n dims: [1 2]",
            "line 2: expected `,` or `]` in the list of `dims`, got \"2]\"",
        ),
        (
            "input {\n",
            "line 2: expected a field's name or `}`, got the end",
        ),
        ("}", "line 1: expected a field's name, got \"}\""),
        (
            "name: 'x\n",
            "expected ' at the end of a string, got the end of the line",
        ),
        ("name: \"\\q\"", "`\\q` is no escape"),
        ("name: \"\\777\"", "expected `\\377` at most"),
        ("name: \"\\xff\"", "expected a string in UTF-8"),
        (
            "name: \"\\ud800\"",
            "expected a character's number after `\\u`",
        ),
        ("name:", "expected a value, got the end"),
        ("[a.b/c]: 1", "expected a field's name, got \"[a.b/c]: 1\""),
    ] {
        let refusal = refusal(config);
        assert!(refusal.contains(expected), "{config}: {refusal}");
    }
    let deep = "a{".repeat(100_000);
    assert!(
        refusal(&deep).contains("at most 16 messages"),
        "{}",
        refusal(&deep)
    );
    let many = format!("dims: [{}1]", "1,".repeat(20_000));
    let error = Manifest::parse_config(&many).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge(_)), "{error}");
}

#[test]
fn strings_are_unescaped_and_joined() {
    let fields = text::parse(
        r#"a: "\x41\102\u0043\n\"" # joined
        'ü\'' "#,
    );
    assert_eq!(
        fields.unwrap()[0].value,
        Value::Text("ABC\n\"ü'".to_owned())
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(config in any::<String>()) {
        let _ = Manifest::parse_config(&config);
    }

    #[test]
    fn any_change_of_a_configuration_is_read_or_refused(
        at in 0..WHOLE.len(), length in 0_usize..20, piece in r#"[a-z{}<>\[\]:,;"'\\#0-9 \n-]{0,6}"#,
    ) {
        let mut config = WHOLE.to_owned();
        let end = (at + length).min(config.len());
        config.replace_range(at..end, &piece);
        if let Ok(manifest) = Manifest::parse_config(&config) {
            let _ = manifest.check();
        }
    }
}
