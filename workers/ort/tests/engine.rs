//! ONNX Runtime as an engine: tiny graphs, loaded and run without a worker.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use model_store::{DataType, Device, TensorDeclaration};
use workers_engine::Engine as _;
use workers_ort::{LoadOptions, OrtEngine, Runtime};
use workers_protocol::{AlignedBytes, Code, InferError, Tensor};

/// Each datatype, two elements of it, and the graph that gives back what it takes.
const ELEMENTS: [(DataType, &str, &[u8]); 14] = [
    (DataType::Bool, "bool", &[1, 0]),
    (DataType::Uint8, "uint8", &[0, 255]),
    (DataType::Uint16, "uint16", &[1, 2, 0xff, 0xff]),
    (
        DataType::Uint32,
        "uint32",
        &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff],
    ),
    (
        DataType::Uint64,
        "uint64",
        &[0, 0, 0, 0, 0, 0, 0, 0x80, 1, 2, 3, 4, 5, 6, 7, 8],
    ),
    (DataType::Int8, "int8", &[0x80, 127]),
    (DataType::Int16, "int16", &[0, 0x80, 1, 2]),
    (DataType::Int32, "int32", &[0, 0, 0, 0x80, 1, 2, 3, 4]),
    (
        DataType::Int64,
        "int64",
        &[0, 0, 0, 0, 0, 0, 0, 0x80, 1, 2, 3, 4, 5, 6, 7, 8],
    ),
    // One and minus infinity.
    (DataType::Fp16, "fp16", &[0x00, 0x3c, 0x00, 0xfc]),
    (DataType::Bf16, "bf16", &[0x80, 0x3f, 0x80, 0xff]),
    // One, and a NaN whose bits have to come back as they are.
    (
        DataType::Fp32,
        "fp32",
        &[0, 0, 0x80, 0x3f, 1, 2, 0xc0, 0x7f],
    ),
    (
        DataType::Fp64,
        "fp64",
        &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0xf0, 0xff],
    ),
    // An empty string and one of three bytes, two of them one letter.
    (
        DataType::Bytes,
        "bytes",
        &[0, 0, 0, 0, 3, 0, 0, 0, 0xc3, 0xbc, b'x'],
    ),
];

/// Loads ONNX Runtime from where `make runtime` puts it: beside the folder of this program's.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let program = std::env::current_exe().expect("this program has a path");
        let target = program
            .ancestors()
            .nth(3)
            .expect("target/debug/deps/engine");
        let beside = target.join("lib/libonnxruntime.so");
        let library = std::env::var_os("ORT_DYLIB_PATH").map_or(beside, PathBuf::from);
        Runtime::load(Some(&library)).unwrap_or_else(|error| panic!("{error}"))
    })
}

fn graph(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/models/{name}.onnx"))
}

fn load_as(
    name: &str,
    inputs: &[TensorDeclaration],
    device: Device,
) -> Result<OrtEngine, InferError> {
    let options = LoadOptions {
        device,
        threads: 1,
        inputs,
        outputs: &[],
    };
    OrtEngine::load(runtime(), &graph(name), &options)
}

fn load(name: &str) -> Result<OrtEngine, InferError> {
    load_as(name, &[], Device::Cpu)
}

fn tensor(name: &str, datatype: DataType, shape: &[i64], data: Bytes) -> Tensor {
    Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        data,
    }
}

fn floats(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tensor(name, DataType::Fp32, shape, bytes.into())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let chunks = tensor.data.as_chunks::<4>().0;
    chunks
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

/// Returns the bytes at an address that is `offset` beyond one that suits every element.
fn placed(bytes: &[u8], offset: usize) -> Bytes {
    let mut aligned = AlignedBytes::zeroed(bytes.len() + offset);
    aligned.as_mut_slice()[offset..].copy_from_slice(bytes);
    Bytes::from_owner(aligned).slice(offset..)
}

#[test]
fn every_datatype_comes_back_as_it_went_in_aligned_or_not() {
    for (datatype, name, bytes) in ELEMENTS {
        let mut engine = load(&format!("identity_{name}")).unwrap();
        assert_eq!(engine.inputs()[0].datatype, datatype);
        assert_eq!(engine.outputs()[0].datatype, datatype);
        assert_eq!(engine.inputs()[0].shape, [-1, -1]);
        for offset in [0, 1, 3] {
            let input = tensor("x", datatype, &[1, 2], placed(bytes, offset));
            let [output] = &engine.run(&[input]).unwrap()[..] else {
                panic!("one output is expected");
            };
            assert_eq!(output.name, "y");
            assert_eq!(
                (output.datatype, &output.shape[..]),
                (datatype, &[1, 2][..])
            );
            assert_eq!(output.data, bytes, "{datatype} at {offset}");
        }
    }
}

#[test]
fn an_empty_tensor_goes_through() {
    for (datatype, name, _) in ELEMENTS {
        let mut engine = load(&format!("identity_{name}")).unwrap();
        let input = tensor("x", datatype, &[0, 2], Bytes::new());
        let outputs = engine.run(&[input]).unwrap();
        assert_eq!(outputs[0].shape, [0, 2], "{datatype}");
        assert_eq!(outputs[0].data, Bytes::new(), "{datatype}");
    }
}

#[test]
fn a_byte_that_is_no_bool_is_refused() {
    let mut engine = load("identity_bool").unwrap();
    for offset in [0, 1] {
        let input = tensor("x", DataType::Bool, &[1, 2], placed(&[1, 2], offset));
        let error = engine.run(&[input]).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(
            error.message.starts_with("input `x`: not BOOL elements"),
            "{error}"
        );
    }
}

#[test]
fn a_string_that_is_not_utf8_is_refused() {
    let mut engine = load("identity_bytes").unwrap();
    let bytes = [&[2, 0, 0, 0, 0xff, 0xfe][..], &[1, 0, 0, 0, b'a']].concat();
    let input = tensor("x", DataType::Bytes, &[1, 2], bytes.into());
    let error = engine.run(&[input]).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.starts_with("input `x`: not UTF-8"), "{error}");
}

#[test]
fn outputs_outlive_the_next_run_and_the_engine() {
    let mut engine = load("add_one").unwrap();
    let run = |engine: &mut OrtEngine, value: f32| {
        let outputs = engine.run(&[floats("x", &[1, 4], &[value; 4])]).unwrap();
        outputs.into_iter().next().unwrap()
    };
    let first = run(&mut engine, 1.0);
    let second = run(&mut engine, 5.0);
    drop(engine);
    assert_eq!(values(&first), [2.0; 4]);
    assert_eq!(values(&second), [6.0; 4]);
}

#[test]
fn inputs_and_outputs_are_in_the_order_of_the_graph() {
    let mut engine = load("sum_state").unwrap();
    let names = |specs: &[model_store::TensorSpec]| -> Vec<String> {
        specs.iter().map(|spec| spec.name.clone()).collect()
    };
    assert_eq!(names(engine.inputs()), ["input", "state"]);
    assert_eq!(names(engine.outputs()), ["output", "stateN"]);
    let inputs = [
        floats("input", &[1, 3], &[1.0, 2.0, 3.0]),
        floats(
            "state",
            &[2, 1, 3],
            &[10.0, 20.0, 30.0, 100.0, 200.0, 300.0],
        ),
    ];
    let outputs = engine.run(&inputs).unwrap();
    assert_eq!(values(&outputs[0]), [111.0, 222.0, 333.0]);
    assert_eq!(values(&outputs[1]), [11.0, 22.0, 33.0, 101.0, 202.0, 303.0]);
    assert_eq!(outputs[1].shape, [2, 1, 3]);
}

#[test]
fn the_batch_axis_is_the_first_unless_that_is_fixed_or_the_manifest_says_otherwise() {
    let axes = |engine: &OrtEngine| -> Vec<Option<usize>> {
        engine
            .inputs()
            .iter()
            .map(|input| input.batch_axis)
            .collect()
    };
    assert_eq!(axes(&load("add_one").unwrap()), [Some(0)]);
    assert_eq!(axes(&load("fixed_batch").unwrap()), [None]);
    assert_eq!(axes(&load("two_inputs").unwrap()), [Some(0), None]);
    let declared = |batch_axis: i64| {
        [TensorDeclaration {
            name: "state".to_owned(),
            datatype: None,
            shape: None,
            batch_axis: Some(batch_axis),
            example: None,
        }]
    };
    let engine = load_as("sum_state", &declared(1), Device::Cpu).unwrap();
    assert_eq!(axes(&engine), [Some(0), Some(1)]);
    let engine = load_as("sum_state", &declared(-1), Device::Cpu).unwrap();
    assert_eq!(axes(&engine), [Some(0), None]);
    let error = load_as("sum_state", &declared(3), Device::Cpu).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("`batch_axis` is 3"), "{error}");
}

#[test]
fn a_failure_that_the_inputs_cause_is_the_callers_and_the_next_run_works() {
    let mut engine = load("fails_at_run").unwrap();
    let index = |index: i64| {
        tensor(
            "index",
            DataType::Int64,
            &[1],
            index.to_le_bytes().to_vec().into(),
        )
    };
    let error = engine.run(&[index(4)]).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    assert!(error.message.starts_with("the model failed: "), "{error}");
    assert!(!error.message.contains('\n'), "{error}");
    assert_eq!(values(&engine.run(&[index(-1)]).unwrap()[0]), [40.0]);

    let mut engine = load("fixed_batch").unwrap();
    let error = engine.run(&[floats("x", &[1, 3], &[0.0; 3])]).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
}

#[test]
fn what_is_no_model_that_can_be_served_is_refused() {
    let refused = |error: InferError, words: &str| {
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.message.contains(words), "{error}");
    };
    refused(
        load("sequence_output").unwrap_err(),
        "output `y` is no tensor but Sequence",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    let whole = std::fs::read(graph("two_inputs")).unwrap();
    let options = LoadOptions {
        device: Device::Cpu,
        threads: 1,
        inputs: &[],
        outputs: &[],
    };
    for bytes in [&b""[..], b"no model at all", &whole[..whole.len() / 2]] {
        std::fs::write(&file, bytes).unwrap();
        let error = OrtEngine::load(runtime(), &file, &options).unwrap_err();
        refused(error, "ONNX Runtime can't load the model");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_is_refused_where_it_is_not_built_in() {
    let error = load_as("add_one", &[], Device::Cuda(0)).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(
        error.message,
        "`device: cuda:0`: this hearth-worker is built without the cargo feature `cuda`"
    );
}

#[cfg(feature = "cuda")]
#[test]
fn a_gpu_that_is_not_there_is_refused_rather_than_replaced_by_a_cpu() {
    // More than any machine has.
    let error = load_as("add_one", &[], Device::Cuda(999)).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error
            .message
            .starts_with("`device: cuda:999` can't be used: "),
        "{error}"
    );
}

#[test]
fn a_library_that_is_not_there_is_refused_with_the_command_that_mends_it() {
    let error = Runtime::load(Some(Path::new("/nonexistent/libonnxruntime.so"))).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error.message.contains("/nonexistent/libonnxruntime.so"),
        "{error}"
    );
    assert!(error.message.contains("run `make runtime`"), "{error}");
}

#[test]
fn what_a_large_batch_took_is_given_back() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if !models.is_dir() {
        let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(
            !is_ci,
            "there is no ../shared with models beside the sources"
        );
        eprintln!("skipped: there is no ../shared with models beside the sources");
        return;
    }
    let options = LoadOptions {
        device: Device::Cpu,
        threads: 1,
        inputs: &[],
        outputs: &[],
    };
    let file = models.join("fastestdet_352_dyn.onnx");
    let mut engine = OrtEngine::load(runtime(), &file, &options).unwrap();
    let mut run = |items: usize| {
        let shape = [items as i64, 3, 352, 352];
        let data = vec![0; items * 3 * 352 * 352 * 4];
        let name = engine.inputs()[0].name.clone();
        let input = tensor(&name, DataType::Fp32, &shape, data.into());
        engine.run(&[input]).unwrap();
        resident_mb()
    };
    let small = run(1);
    let large = run(32);
    assert!(large > small + 100, "{small} MB, then {large} MB");
    let kept = run(1);
    assert!(kept > small + 100, "{small} MB, then {kept} MB");
    let last = (0..40).map(|_| run(1)).last().unwrap();
    assert!(last < small + 60, "{small} MB, then {last} MB");
}

/// Returns what this process has in memory, in MB.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let mut words = status.split_whitespace();
    words.find(|word| *word == "VmRSS:");
    let kib = words.next().and_then(|word| word.parse::<u64>().ok());
    kib.expect("what is resident, in kB") / 1000
}
