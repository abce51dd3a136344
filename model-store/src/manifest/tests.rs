use proptest::prelude::*;

use super::*;
use crate::StoreError;
use crate::fixtures::write;

fn parse_error(yaml: &str) -> String {
    Manifest::parse(yaml).unwrap_err().to_string()
}

fn check(yaml: &str) -> Result<(), StoreError> {
    Manifest::parse(yaml).unwrap().check()
}

// === parse ===

#[test]
fn the_manifest_of_a_detector_reads_as_written() {
    let yaml = "
engine: onnx
device: cuda:1
task: object-detection
input:  { resize: letterbox, size: [416, 320], layout: nhwc, color: bgr, mean: 127, std: [1, 2, 3] }
output: { head: yolox, labels: coco.names, score: 0.3, iou: 0.45 }
batch:  { max: 16 }
inputs: [{ name: images, datatype: FP32, shape: [-1, 3, 416, 416], batch_axis: 0 }]
";
    let manifest = Manifest::parse(yaml).unwrap();
    manifest.check().unwrap();
    assert_eq!(manifest.device, Device::Cuda(1));
    assert_eq!(manifest.input.size, Some([416, 320]));
    assert_eq!(manifest.input.mean, [127.0; 3]);
    assert_eq!(manifest.input.std, [1.0, 2.0, 3.0]);
    assert_eq!(manifest.input.pad, 114);
    assert_eq!(manifest.output.head, Some(Head::Yolox));
    assert_eq!(
        manifest.output.labels,
        Some(Labels::File("coco.names".to_owned()))
    );
    assert_eq!(manifest.batch.max, Some(16));
    assert_eq!(manifest.inputs[0].datatype, Some(DataType::Fp32));
}

#[test]
fn labels_that_look_like_numbers_or_booleans_stay_text() {
    let manifest = Manifest::parse("output: { labels: [no, 5, 1.0, person] }").unwrap();
    let expected = ["no", "5", "1.0", "person"].map(str::to_owned).to_vec();
    assert_eq!(manifest.output.labels, Some(Labels::List(expected)));
}

#[test]
fn an_unknown_field_is_refused_with_its_line_and_what_is_allowed() {
    assert_eq!(
        parse_error("engine: onnx\nbatch: { max: 1, min: 2 }"),
        "`model.yaml`, line 2, column 18 (\"batch: { max: 1, min: 2 }\"): unknown field `min`, \
         expected one of max"
    );
}

#[test]
fn a_wrong_type_is_refused_with_its_line_and_what_is_expected() {
    for (yaml, expected) in [
        (
            "engine: onnx\nbatch: { max: many }",
            "line 2, column 15 (\"batch: { max: many }\"): expected u32",
        ),
        (
            "timeout_ms: -1",
            "line 1, column 13 (\"timeout_ms: -1\"): expected u64",
        ),
        (
            "batch: 3",
            "line 1, column 8 (\"batch: 3\"): expected mapping start",
        ),
        (
            "engine: tensorrt",
            "unknown variant `tensorrt`, expected one of onnx",
        ),
        (
            "device: gpu",
            "\"gpu\" is no device: expected `cpu` or `cuda:N`",
        ),
        (
            "input: { mean: [1, 2] }",
            "expected one number or a list of three",
        ),
        ("input: { size: [1, 2, 3] }", "invalid length 3"),
        (
            "output: { labels: 4 }",
            "expected the name of a file or a list of labels",
        ),
        ("stages: [{ model: a b }]", "\"a b\" is no model name"),
        (
            "engine: onnx\nengine: onnx",
            "duplicate mapping key `engine`",
        ),
        (
            "engine: onnx\n---\nengine: onnx",
            "only single YAML document expected",
        ),
        ("- onnx", "expected mapping start"),
    ] {
        let error = parse_error(yaml);
        assert!(error.starts_with("`model.yaml`, line "), "{error}");
        assert!(error.contains(expected), "{yaml:?} gave {error}");
    }
}

#[test]
fn an_error_repeats_no_more_of_a_line_than_fits_one() {
    let error = parse_error(&format!("nothing: {}", "x".repeat(100_000)));
    assert!(error.len() < 500, "{error}");
}

#[test]
fn yaml_that_grows_or_nests_is_refused() {
    let alias = "file: &a model.onnx\noutput: { labels: *a }";
    let merge = "<<: { engine: onnx }";
    let deep = "[".repeat(500_000);
    let deep_block = format!("file:\n  {}", "- ".repeat(400_000));
    let deep_digests = format!("digests: {}", "{a: ".repeat(200_000));
    for yaml in [alias, merge, &deep, &deep_block, &deep_digests] {
        assert!(matches!(Manifest::parse(yaml), Err(StoreError::Invalid(_))));
    }
}

#[test]
fn a_manifest_over_a_mebibyte_is_refused_before_it_is_parsed() {
    let yaml = format!("engine: onnx\n#{}", " ".repeat(1 << 20));
    assert!(matches!(
        Manifest::parse(&yaml),
        Err(StoreError::TooLarge(_))
    ));
}

#[test]
fn a_hundred_thousand_labels_fit_a_manifest() {
    let yaml = format!(
        "engine: onnx\ntask: image-classification\noutput: {{ labels: [{}] }}",
        "abcdef, ".repeat(100_000)
    );
    Manifest::parse(&yaml).unwrap().check().unwrap();
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(yaml in any::<String>()) {
        let _ = Manifest::parse(&yaml).map(|manifest| manifest.check());
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in any::<Vec<u8>>()) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.yaml"), bytes).unwrap();
        let _ = Manifest::read(dir.path());
    }

    #[test]
    fn no_value_of_a_known_field_makes_the_parser_panic(
        field in "engine|file|device|task|input|output|inputs|batch|stages|digests|timeout_ms",
        value in r#"[-\[\]{}:,&*!|>'"%@`#?~.0-9a-z \n]{0,40}"#,
    ) {
        let _ = Manifest::parse(&format!("{field}: {value}")).map(|manifest| manifest.check());
    }

    #[test]
    fn a_path_that_passes_stays_in_the_folder(path in "[a-z./\\\\\0]{0,12}") {
        if check_path("file", &path).is_ok() {
            let is_name = |part| matches!(part, std::path::Component::Normal(_));
            prop_assert!(std::path::Path::new(&path).components().all(is_name));
            prop_assert!(!path.is_empty());
        }
    }
}

// === check ===

#[test]
fn manifests_that_are_right_pass() {
    for yaml in [
        "engine: onnx",
        "engine: onnx\ntask: image-classification",
        "engine: onnx\ntask: object-detection\noutput: { head: yolov8 }",
        "engine: onnx\noutput: { labels: [cat, dog] }",
        "task: face-mask-detection\nstages: [{ model: centerface }, { model: mask:2 }]",
        "engine: onnx\nfile: sub/model.onnx\ntimeout_ms: 1",
        "engine: onnx\ninputs: [{ name: a, shape: [], batch_axis: -1 }, { name: b }]",
    ] {
        check(yaml).unwrap_or_else(|error| panic!("{yaml:?} gave {error}"));
    }
}

#[test]
fn the_manifests_of_the_examples_pass() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models");
    let mut n_models = 0;
    for entry in std::fs::read_dir(models).unwrap() {
        let dir = entry.unwrap().path();
        if dir.is_dir() {
            Manifest::read(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
            n_models += 1;
        }
    }
    assert!(n_models > 0);
}

#[test]
fn every_wrong_value_is_refused_by_the_name_of_its_field() {
    let digest = "a".repeat(64);
    for (field, yaml) in [
        ("engine", ""),
        ("engine", "task: image-classification"),
        ("task", "engine: onnx\noutput: { score: 0.5 }"),
        ("stages", "task: face-mask-detection"),
        (
            "stages",
            "task: face-mask-detection\nstages: [{ model: a }]",
        ),
        (
            "stages",
            "task: object-detection\nstages: [{ model: a }, { model: b }]",
        ),
        ("stages", "stages: [{ model: a }, { model: b }]"),
        ("output.head", "engine: onnx\ntask: object-detection"),
        (
            "output.head",
            "engine: onnx\ntask: image-classification\noutput: { head: yolox }",
        ),
        ("file", "engine: onnx\nfile: ../model.onnx"),
        ("input.size", "I { size: [0, 1] }"),
        ("input.size", "I { size: [1, 16385] }"),
        ("input.max", "I { max: 0 }"),
        ("input.max", "I { max: 16385 }"),
        ("input.multiple", "I { multiple: 0 }"),
        (
            "input.multiple",
            "I { resize: native, multiple: 64, max: 32 }",
        ),
        ("input.std", "I { std: 0 }"),
        ("input.std", "I { std: [1, 1, 1.0e-40] }"),
        ("input.std", "I { std: 1.0e300 }"),
        ("input.mean", "I { mean: 1.0e300 }"),
        ("output.score", "O { score: 1.1 }"),
        ("output.score", "O { score: -0.1 }"),
        ("output.score", "O { score: .nan }"),
        ("output.iou", "O { iou: .inf }"),
        ("output.top_k", "O { top_k: 0 }"),
        ("output.labels", "O { labels: /etc/passwd }"),
        ("output.labels", "O { labels: [] }"),
        ("inputs[0].name", "engine: onnx\ninputs: [{ name: '' }]"),
        (
            "outputs[1].name",
            "engine: onnx\noutputs: [{ name: a }, { name: a }]",
        ),
        (
            "inputs[0].shape",
            "engine: onnx\ninputs: [{ name: a, shape: [-1, 0] }]",
        ),
        (
            "inputs[0].shape",
            "engine: onnx\ninputs: [{ name: a, shape: [-2] }]",
        ),
        (
            "inputs[0].batch_axis",
            "engine: onnx\ninputs: [{ name: a, batch_axis: -2 }]",
        ),
        (
            "inputs[0].batch_axis",
            "engine: onnx\ninputs: [{ name: a, shape: [1], batch_axis: 1 }]",
        ),
        (
            "inputs[0].example",
            "engine: onnx\ninputs: [{ name: a, example: .inf }]",
        ),
        ("batch.max", "engine: onnx\nbatch: { max: 0 }"),
        ("batch.max", "engine: onnx\nbatch: { max: 4097 }"),
        ("instances.count", "engine: onnx\ninstances: { count: 0 }"),
        (
            "instances.threads",
            "engine: onnx\ninstances: { threads: 1025 }",
        ),
        ("stages[1].score", "S { model: b, score: 2 }"),
        ("stages[1].iou", "S { model: b, iou: -1 }"),
        (
            "stages[1].crop.margin",
            "S { model: b, crop: { margin: 2.1 } }",
        ),
        (
            "stages[1].crop.margin",
            "S { model: b, crop: { margin: .nan } }",
        ),
        ("stages[1].crop.max", "S { model: b, crop: { max: 0 } }"),
        ("stages[1].batch.max", "S { model: b, batch: { max: 0 } }"),
        ("digests", "engine: onnx\ndigests: { model.onnx: abc }"),
        (
            "digests",
            &format!("engine: onnx\ndigests: {{ ../model.onnx: {digest} }}"),
        ),
        ("timeout_ms", "engine: onnx\ntimeout_ms: 0"),
        (
            "timeout_ms",
            "engine: onnx\ntimeout_ms: 18446744073709551615",
        ),
    ] {
        let classifier = "engine: onnx\ntask: image-classification\n";
        let yaml = match yaml.split_at_checked(2) {
            Some(("I ", input)) => format!("{classifier}input: {input}"),
            Some(("O ", output)) => format!("{classifier}output: {output}"),
            Some(("S ", stage)) => {
                format!("task: face-mask-detection\nstages: [{{ model: a }}, {stage}]")
            }
            _ => yaml.to_owned(),
        };
        let error = check(&yaml).expect_err(&yaml).to_string();
        assert!(
            error.starts_with(&format!("`{field}`")),
            "{yaml:?} gave {error}"
        );
    }
}

#[test]
fn paths_that_leave_the_folder_or_hide_are_refused() {
    for path in [
        "",
        "/",
        "/model.onnx",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "./a",
        "a//b",
        "a/",
        ".hidden",
        "a\\b",
        "a\0b",
        "a\nb",
        "a/b/c/d/e",
    ] {
        assert!(check_path("file", path).is_err(), "{path:?}");
    }
    for path in [
        "model.onnx",
        "a/b/c/d",
        "my model.onnx",
        "a..b",
        "modèle.onnx",
    ] {
        assert!(check_path("file", path).is_ok(), "{path:?}");
    }
}

// === model_file ===

fn model_file(yaml: &str, names: &[&str]) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = names.iter().map(|&name| (name, "")).collect();
    write(dir.path(), &files);
    let path = Manifest::parse(yaml).unwrap().model_file(dir.path());
    let relative = |path: std::path::PathBuf| {
        path.strip_prefix(dir.path())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    path.map(relative).map_err(|error| error.to_string())
}

#[test]
fn the_model_is_the_named_file_else_the_usual_one_else_the_only_one() {
    let check = |yaml, names: &[&str], expected: &str| {
        assert_eq!(model_file(yaml, names).as_deref(), Ok(expected));
    };
    check(
        "file: sub/b.onnx",
        &["model.onnx", "sub/b.onnx"],
        "sub/b.onnx",
    );
    check("", &["a.onnx", "model.onnx"], "model.onnx");
    check("", &["labels.txt", "a.onnx", ".b.onnx"], "a.onnx");
}

#[test]
fn a_model_that_is_not_found_says_what_is_there() {
    let error = |yaml, names: &[&str]| model_file(yaml, names).unwrap_err();
    assert_eq!(
        error("", &["model.yaml", "weights.pt"]),
        "expected a `*.onnx` in the folder, which holds `model.yaml`, `weights.pt`"
    );
    assert_eq!(
        error("file: b.onnx", &["a.onnx"]),
        "expected `b.onnx`, which `file` names, in the folder, which holds `a.onnx`"
    );
    assert_eq!(
        error("", &["a.onnx", "b.onnx"]),
        "`file`: required where there are several `*.onnx`, which are `a.onnx`, `b.onnx`"
    );
    let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    assert!(error("", &names).ends_with("`7` and 2 more"));
}

#[test]
fn a_model_file_out_of_the_folder_is_refused_even_unchecked() {
    assert!(
        model_file("file: ../model.onnx", &[])
            .unwrap_err()
            .starts_with("`file`")
    );
}
