//! Tensors of every datatype and in every form: as JSON, as bytes, raw, as classes, in shared memory;
//! and every way to say them wrongly.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use tonic::Code;
use workers_protocol::oip::infer_parameter::ParameterChoice;
use workers_protocol::oip::model_infer_request::InferRequestedOutputTensor;
use workers_protocol::oip::{
    InferParameter, ServerMetadataRequest, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusRequest, SystemSharedMemoryUnregisterRequest,
};

use crate::grpc::{connect, floats, identity, raw};
use crate::hearth::{Answer, Hearth, Store};
use crate::infer::{send_binary, split};

/// Each datatype with two elements of it: as JSON, where it can say them, and as bytes.
fn elements() -> [(&'static str, Option<Value>, Vec<u8>); 14] {
    [
        ("BOOL", Some(json!([true, false])), vec![1, 0]),
        ("UINT8", Some(json!([0, 255])), vec![0, 255]),
        ("UINT16", Some(json!([1, 65_535])), vec![1, 0, 255, 255]),
        (
            "UINT32",
            Some(json!([1, u32::MAX])),
            [1, u32::MAX].map(u32::to_le_bytes).concat(),
        ),
        (
            "UINT64",
            Some(json!([1, u64::MAX])),
            [1, u64::MAX].map(u64::to_le_bytes).concat(),
        ),
        ("INT8", Some(json!([-128, 127])), vec![128, 127]),
        ("INT16", Some(json!([-2, 3])), vec![254, 255, 3, 0]),
        (
            "INT32",
            Some(json!([i32::MIN, 3])),
            [i32::MIN, 3].map(i32::to_le_bytes).concat(),
        ),
        (
            "INT64",
            Some(json!([i64::MIN, 3])),
            [i64::MIN, 3].map(i64::to_le_bytes).concat(),
        ),
        ("FP16", None, vec![0, 0x3c, 0, 0xfc]),
        ("BF16", None, vec![0x80, 0x3f, 0x80, 0xff]),
        ("FP32", Some(json!([0.1, -2.5])), floats(&[0.1, -2.5])),
        (
            "FP64",
            Some(json!([0.1, -2.5])),
            [0.1_f64, -2.5].map(f64::to_le_bytes).concat(),
        ),
        (
            "BYTES",
            Some(json!(["grüß\"", ""])),
            b"\x07\0\0\0gr\xc3\xbc\xc3\x9f\"\0\0\0\0".to_vec(),
        ),
    ]
}

/// Posts a request of JSON, and of bytes after it, whose length is said.
fn send(hearth: &Hearth, model: &str, request: &Value, bytes: &[u8]) -> Answer {
    let json = request.to_string();
    let body = [json.as_bytes(), bytes].concat();
    send_binary(hearth, model, &body, json.len())
}

#[test]
fn every_datatype_goes_in_and_out_over_http() {
    let elements = elements();
    let store = elements.iter().fold(Store::new(), |store, (datatype, ..)| {
        store.with_tiny(&identity(datatype))
    });
    let hearth = Hearth::start(store, &[]);
    for (datatype, json, bytes) in elements {
        let (model, is_binary) = (identity(datatype), json.is_none());
        let input = |data: Value| {
            let mut input = json!({"name": "x", "datatype": datatype, "shape": [1, 2]});
            let (name, data) = data.as_object().unwrap().iter().next().unwrap();
            input[name] = data.clone();
            json!({"inputs": [input], "parameters": {"binary_data_output": is_binary}})
        };
        let binary = input(json!({"parameters": {"binary_data_size": bytes.len()}}));
        let answer = send(&hearth, &model, &binary, &bytes);
        match json {
            Some(json) => {
                assert_eq!(answer.ok()["outputs"][0]["data"], json, "{datatype}");
                for data in [json.clone(), json!([json])] {
                    let request = input(json!({"data": data})).to_string();
                    let path = format!("/v2/models/{model}/infer");
                    let answer = hearth.post(&path, request.as_bytes()).ok();
                    assert_eq!(answer["outputs"][0]["data"], json, "{datatype}");
                }
            }
            None => {
                assert_eq!(split(&answer).1, bytes, "{datatype}");
                let request = input(json!({"data": [1, 2]}));
                let sentence = send(&hearth, &model, &request, &[]).refusal(400);
                assert!(sentence.contains("input `x`"), "{sentence}");
                let mut as_json = binary;
                as_json["parameters"] = json!({});
                let sentence = send(&hearth, &model, &as_json, &bytes).refusal(400);
                assert!(sentence.contains("output `y`"), "{sentence}");
            }
        }
    }
    hearth.stop();
}

#[test]
fn a_body_without_json_is_the_input() {
    let store = Store::new().with_tiny("add_one").with_tiny("two_inputs");
    let hearth = Hearth::start(store.with_tiny("identity_bytes"), &[]);
    let answer = send_binary(&hearth, "add_one", &floats(&[1.0; 4]), 0);
    let (json, data) = split(&answer);
    assert_eq!(json["outputs"][0]["shape"], json!([1, 4]));
    assert_eq!(data, floats(&[2.0; 4]));
    let short = send_binary(&hearth, "add_one", &[0; 7], 0).refusal(400);
    let begin = "input byte size mismatch for input 'x' for model 'add_one'. Expected 16, got 7";
    assert_eq!(short, begin);
    let two = send_binary(&hearth, "two_inputs", &[0; 8], 0).refusal(400);
    assert!(two.contains("takes 2"), "{two}");
    // One element, whatever is in it.
    let answer = send_binary(&hearth, "identity_bytes", b"{}", 0);
    assert_eq!(split(&answer).1, b"\x02\0\0\0{}");
    hearth.stop();
}

/// A model that gives what it takes, and has names for two of its classes.
fn labelled() -> Store {
    let manifest = "engine: onnx\noutput: { labels: [cat, dog] }\n";
    Store::new().with("pets", manifest, "identity_fp32")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_come_with_values_indices_and_labels() {
    let hearth = Hearth::start(labelled(), &[]);
    let values = [0.5, 53.432_88, -1.0, 1.0, 3.0, 2.0];
    let data = json!(values.map(f64::from));
    let request = json!({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": data}],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    });
    let answer = send(&hearth, "pets", &request, &[]).ok();
    let classes = [
        "53.432880:1:dog",
        "0.500000:0:cat",
        "3.000000:1:dog",
        "2.000000:2",
    ];
    assert_eq!(
        answer["outputs"],
        json!([{"name": "y", "datatype": "BYTES", "shape": [2, 2], "data": classes}])
    );

    let (mut client, _) = connect(&hearth).await;
    let mut message = raw("pets", "FP32", &[2, 3], floats(&values));
    message.outputs = vec![output(
        "y",
        [("classification", ParameterChoice::Int64Param(2))],
    )];
    let answer = client
        .model_infer(message.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.outputs[0].datatype, "BYTES");
    assert_eq!(answer.outputs[0].shape, [2, 2]);
    let elements =
        classes.map(|class| [&(class.len() as u32).to_le_bytes()[..], class.as_bytes()].concat());
    assert_eq!(answer.raw_output_contents, [elements.concat()]);
    hearth.stop();
}

fn output<const N: usize>(
    name: &str,
    parameters: [(&str, ParameterChoice); N],
) -> InferRequestedOutputTensor {
    InferRequestedOutputTensor {
        name: name.to_owned(),
        parameters: parameters
            .into_iter()
            .map(|(name, choice)| (name.to_owned(), parameter(choice)))
            .collect(),
    }
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

// === shared memory ===

/// A shared memory object, removed when it is dropped.
struct Object {
    path: PathBuf,
    file: File,
}

impl Object {
    fn new(name: &str, bytes: u64) -> Self {
        let path = PathBuf::from(format!(
            "/dev/shm/hearth-test-{}-{name}",
            std::process::id()
        ));
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(bytes).unwrap();
        Self { path, file }
    }

    fn key(&self) -> String {
        format!("/{}", self.path.file_name().unwrap().to_str().unwrap())
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn register(hearth: &Hearth, name: &str, registration: &Value) -> Answer {
    let path = format!("/v2/systemsharedmemory/region/{name}/register");
    hearth.post(&path, registration.to_string().as_bytes())
}

fn range(region: &str, offset: u64, byte_size: u64) -> Value {
    json!({
        "shared_memory_region": region,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": byte_size,
    })
}

fn of_regions(input: &Value, output: &Value) -> Value {
    json!({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": input}],
        "outputs": [{"name": "y", "parameters": output}],
    })
}

#[test]
fn tensors_go_in_and_out_through_shared_memory() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let object = Object::new("http", 4096);
    object
        .file
        .write_all_at(&floats(&[1.0; 4]), 256 + 8)
        .unwrap();
    let registration = json!({"key": object.key(), "offset": 256, "byte_size": 1024});
    assert_eq!(register(&hearth, "mine", &registration).status, 200);
    let listed = json!([{"name": "mine", "key": object.key(), "offset": 256, "byte_size": 1024}]);
    for path in [
        "/v2/systemsharedmemory/status",
        "/v2/systemsharedmemory/region/mine/status",
    ] {
        assert_eq!(hearth.get(path).ok(), listed);
    }

    let request = of_regions(&range("mine", 8, 16), &range("mine", 512, 64));
    let answer = send(&hearth, "add_one", &request, &[]).ok();
    let named = json!([{"name": "y", "datatype": "FP32", "shape": [1, 4]}]);
    assert_eq!(answer["outputs"], named);
    assert_eq!(object.read(256 + 512, 16), floats(&[2.0; 4]));

    // Truncated meanwhile: nobody dies, and nothing is made longer.
    object.file.set_len(300).unwrap();
    let sentence = send(&hearth, "add_one", &request, &[]).refusal(400);
    assert!(
        sentence.contains("was truncated to 300 bytes"),
        "{sentence}"
    );
    assert_eq!(object.file.metadata().unwrap().len(), 300);

    assert_eq!(
        hearth
            .post("/v2/systemsharedmemory/region/mine/unregister", b"")
            .status,
        200
    );
    let sentence = send(&hearth, "add_one", &request, &[]).refusal(404);
    assert!(
        sentence.contains("Unable to find shared memory region: 'mine'"),
        "{sentence}"
    );
    assert_eq!(
        hearth.post("/v2/systemsharedmemory/unregister", b"").status,
        200
    );
    hearth.stop();
}

#[test]
fn what_is_no_part_of_a_region_is_refused() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let object = Object::new("bounds", 64);
    let key = object.key();
    let good = json!({"key": key, "offset": 0, "byte_size": 64});
    register(&hearth, "r", &good);
    assert!(
        register(&hearth, "r", &good)
            .refusal(409)
            .contains("already in manager")
    );
    for (registration, words) in [
        (json!({"key": key, "byte_size": 65}), "within the 64 bytes"),
        (
            json!({"key": key, "offset": 1, "byte_size": 64}),
            "within the 64 bytes",
        ),
        (
            json!({"key": key, "offset": u64::MAX, "byte_size": 2}),
            "within the 64 bytes",
        ),
        (json!({"key": key, "byte_size": 0}), "within the 64 bytes"),
        (
            json!({"key": key, "byte_size": -1}),
            "invalid value: integer `-1`",
        ),
        (json!({"key": key}), "missing field `byte_size`"),
        (
            json!({"key": 1, "byte_size": 1}),
            "invalid type: integer `1`",
        ),
        (
            json!({"key": "/nobody-has-this", "byte_size": 1}),
            "Unable to open",
        ),
        (
            json!({"key": "/..", "byte_size": 1}),
            "`key`: expected the name",
        ),
        (
            json!({"key": "../etc/passwd", "byte_size": 1}),
            "`key`: expected the name",
        ),
        (
            json!({"key": "//etc/passwd", "byte_size": 1}),
            "`key`: expected the name",
        ),
        (
            json!({"key": "a\0b", "byte_size": 1}),
            "`key`: expected the name",
        ),
        (
            json!({"key": "/", "byte_size": 1}),
            "`key`: expected the name",
        ),
    ] {
        let sentence = register(&hearth, "other", &registration).refusal(400);
        assert!(sentence.contains(words), "{registration}: {sentence}");
    }
    let unknown = hearth
        .get("/v2/systemsharedmemory/region/other/status")
        .refusal(404);
    assert!(unknown.contains("'other'"), "{unknown}");
    let whole = range("r", 0, 16);
    for (input, output, words) in [
        (
            range("r", 60, 16),
            whole.clone(),
            "input `x`: Invalid offset + byte size",
        ),
        (
            range("r", u64::MAX, 16),
            whole.clone(),
            "input `x`: Invalid offset + byte size",
        ),
        (
            range("r", 0, 8),
            whole.clone(),
            "input byte size mismatch for input 'x'",
        ),
        (
            whole.clone(),
            range("r", 60, 16),
            "output `y`: Invalid offset + byte size",
        ),
        (
            whole.clone(),
            range("r", 0, 15),
            "output `y`: `shared_memory_byte_size`: expected at least 16",
        ),
    ] {
        let request = of_regions(&input, &output);
        let sentence = send(&hearth, "add_one", &request, &[]).refusal(400);
        assert!(sentence.contains(words), "{request}: {sentence}");
    }
    for at in 0..255 {
        assert_eq!(register(&hearth, &format!("r{at}"), &good).status, 200);
    }
    let sentence = register(&hearth, "one-more", &good).refusal(429);
    assert!(sentence.contains("256 shared memory regions"), "{sentence}");
    hearth.stop();

    let hearth = Hearth::start(
        Store::new().with_tiny("add_one"),
        &["--shared-memory", "false"],
    );
    register(&hearth, "r", &good).refusal(501);
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_memory_is_offered_over_grpc_too() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let (mut client, _) = connect(&hearth).await;
    let metadata = client.server_metadata(ServerMetadataRequest {}).await;
    let extensions = metadata.unwrap().into_inner().extensions;
    assert!(extensions.contains(&"system_shared_memory".to_owned()));

    let object = Object::new("grpc", 64);
    object.file.write_all_at(&floats(&[1.0; 4]), 0).unwrap();
    let registration = SystemSharedMemoryRegisterRequest {
        name: "r".to_owned(),
        key: object.key(),
        offset: 0,
        byte_size: 64,
    };
    client
        .system_shared_memory_register(registration.clone())
        .await
        .unwrap();
    let twice = client.system_shared_memory_register(registration).await;
    assert_eq!(twice.unwrap_err().code(), Code::AlreadyExists);
    let all = SystemSharedMemoryStatusRequest::default();
    let regions = client
        .system_shared_memory_status(all)
        .await
        .unwrap()
        .into_inner()
        .regions;
    assert_eq!(regions["r"].byte_size, 64);

    let range = |offset| {
        [
            (
                "shared_memory_region",
                ParameterChoice::StringParam("r".to_owned()),
            ),
            ("shared_memory_offset", ParameterChoice::Int64Param(offset)),
            ("shared_memory_byte_size", ParameterChoice::Int64Param(16)),
        ]
    };
    let mut message = raw("add_one", "FP32", &[1, 4], Vec::new());
    message.raw_input_contents.clear();
    message.inputs[0].parameters = output("", range(0)).parameters;
    message.outputs = vec![output("y", range(32))];
    let answer = client
        .model_infer(message.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.outputs[0].shape, [1, 4]);
    assert_eq!(answer.raw_output_contents, [Vec::new()]);
    assert_eq!(object.read(32, 16), floats(&[2.0; 4]));

    message.inputs[0].parameters = output("", range(60)).parameters;
    let status = client.model_infer(message.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let all = SystemSharedMemoryUnregisterRequest::default();
    client.system_shared_memory_unregister(all).await.unwrap();
    let status = client.model_infer(message).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    hearth.stop();
}

// === mistakes ===

/// An input's name, datatype, shape and bytes, the output asked for, and how the refusal begins.
type Mistake<'a> = (&'a str, &'a str, &'a [i64], &'a [u8], &'a str, &'a str);

/// The same mistake over both protocols, and the words of both answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_field_is_named_whatever_protocol_it_comes_by() {
    let store = Store::new().with_tiny("add_one").with_tiny("two_inputs");
    let hearth = Hearth::start(store, &[]);
    let (mut client, _) = connect(&hearth).await;
    let data = floats(&[1.0; 4]);
    let shape = &[1, 4][..];
    let cases: [Mistake<'_>; 17] = [
        (
            "bad",
            "FP32",
            shape,
            &data,
            "y",
            "unexpected inference input 'bad' for model 'add_one'",
        ),
        (
            "x",
            "INT32",
            shape,
            &data,
            "y",
            "inference input 'x' data-type is 'INT32', but model 'add_one' expects 'FP32'",
        ),
        (
            "x",
            "FP31",
            shape,
            &data,
            "y",
            "invalid datatype for input x",
        ),
        ("x", "", shape, &data, "y", "invalid datatype for input x"),
        (
            "x",
            "FP32",
            &[1, 3],
            &data[..12],
            "y",
            "unexpected shape for input 'x' for model 'add_one'. Expected [-1,4], got [1,3]",
        ),
        (
            "x",
            "FP32",
            &[4],
            &data,
            "y",
            "unexpected shape for input 'x' for model 'add_one'. Expected [-1,4], got [4]",
        ),
        (
            "x",
            "FP32",
            &[],
            &data[..4],
            "y",
            "unexpected shape for input 'x' for model 'add_one'. Expected [-1,4], got []",
        ),
        (
            "x",
            "FP32",
            &[-1, 4],
            &data,
            "y",
            "input `x`: shape [-1, 4] has a negative dimension",
        ),
        ("x", "FP32", &[i64::MAX, 4], &data, "y", "input `x`: shape"),
        (
            "x",
            "FP32",
            &[1_i64 << 61, 4],
            &data,
            "y",
            "input `x`: shape",
        ),
        (
            "x",
            "FP32",
            &[1; 17],
            &data[..4],
            "y",
            "input `x`: expected at most 16 dimensions, got 17",
        ),
        (
            "x",
            "FP32",
            &[0, 4],
            &[],
            "y",
            "inference request batch-size must be <= 4096 for 'add_one'",
        ),
        (
            "x",
            "FP32",
            shape,
            &data[..15],
            "y",
            "input byte size mismatch for input 'x' for model 'add_one'. Expected 16, got 15",
        ),
        (
            "x",
            "FP32",
            shape,
            &[],
            "y",
            "input byte size mismatch for input 'x' for model 'add_one'. Expected 16, got 0",
        ),
        (
            "x",
            "FP32",
            &[2, 4],
            &data,
            "y",
            "input byte size mismatch for input 'x' for model 'add_one'. Expected 32, got 16",
        ),
        (
            "x",
            "FP32",
            shape,
            &data,
            "nope",
            "unexpected inference output 'nope' for model 'add_one'",
        ),
        (
            "x",
            "FP32",
            shape,
            &data,
            "",
            "unexpected inference output '' for model 'add_one'",
        ),
    ];
    for (name, datatype, shape, bytes, wanted, words) in cases {
        let request = json!({
            "inputs": [{"name": name, "datatype": datatype, "shape": shape,
                "parameters": {"binary_data_size": bytes.len()}}],
            "outputs": [{"name": wanted}],
        });
        let sentence = send(&hearth, "add_one", &request, bytes).refusal(400);
        assert!(sentence.starts_with(words), "{request}: {sentence}");

        let mut message = raw("add_one", datatype, shape, bytes.to_vec());
        message.inputs[0].name = name.to_owned();
        message.outputs = vec![output(wanted, [])];
        let status = client.model_infer(message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(words), "{request}: {status}");
    }

    // Parameters, of the request, the input and the output.
    let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
    let parameters: [(&str, &str, Value, ParameterChoice); 10] = [
        ("request", "timeout", json!("soon"), text("soon")),
        (
            "request",
            "timeout",
            json!(-1),
            ParameterChoice::Int64Param(-1),
        ),
        (
            "request",
            "priority",
            json!(0.5),
            ParameterChoice::DoubleParam(0.5),
        ),
        (
            "request",
            "sequence_id",
            json!(7),
            ParameterChoice::Uint64Param(7),
        ),
        (
            "request",
            "triton_x",
            json!(1),
            ParameterChoice::Int64Param(1),
        ),
        (
            "request",
            "binary_data_output",
            json!(1),
            ParameterChoice::Int64Param(1),
        ),
        (
            "input",
            "shared_memory_region",
            json!(1),
            ParameterChoice::Int64Param(1),
        ),
        (
            "input",
            "shared_memory_offset",
            json!(-1),
            ParameterChoice::Int64Param(-1),
        ),
        ("output", "classification", json!("two"), text("two")),
        (
            "output",
            "shared_memory_byte_size",
            json!(true),
            ParameterChoice::BoolParam(true),
        ),
    ];
    for (whose, name, value, choice) in parameters {
        let mut request = json!({
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
            "outputs": [{"name": "y"}],
        });
        let mut message = raw("add_one", "FP32", shape, data.clone());
        message.outputs = vec![output("y", [])];
        let (json, of_message) = match whose {
            "request" => (&mut request, &mut message.parameters),
            "input" => (&mut request["inputs"][0], &mut message.inputs[0].parameters),
            _ => (
                &mut request["outputs"][0],
                &mut message.outputs[0].parameters,
            ),
        };
        json["parameters"] = json!({name: value});
        of_message.insert(name.to_owned(), parameter(choice));
        let sentence = send(&hearth, "add_one", &request, &[]).refusal(400);
        assert!(sentence.contains(name), "{request}: {sentence}");
        let status = client.model_infer(message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(name), "{request}: {status}");
    }

    // Raw contents in the wrong order: `a` has 8 bytes, `b` one element of 8.
    let a = json!({"name": "a", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": 24}});
    let b = json!({"name": "b", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}});
    let bytes = [&[0; 8][..], &[0; 24]].concat();
    let mut swapped = json!({"inputs": [a, b]});
    swapped["inputs"][0]["parameters"]["binary_data_size"] = json!(8);
    swapped["inputs"][1]["parameters"]["binary_data_size"] = json!(24);
    let sentence = send(&hearth, "two_inputs", &swapped, &bytes).refusal(400);
    assert!(
        sentence.starts_with("input byte size mismatch for input 'a'"),
        "{sentence}"
    );
    let mut message = raw("two_inputs", "FP32", &[3, 2], vec![0; 8]);
    message.inputs[0].name = "a".to_owned();
    let other = raw("two_inputs", "INT64", &[1], vec![0; 24]);
    message.inputs.extend(other.inputs);
    message.inputs[1].name = "b".to_owned();
    message.raw_input_contents.extend(other.raw_input_contents);
    let status = client.model_infer(message).await.unwrap_err();
    let words = "input byte size mismatch for input 'a'";
    assert!(status.message().starts_with(words), "{status}");

    let left = send(&hearth, "add_one", &json!({"inputs": []}), b"left");
    let words = "unexpected additional input data for model 'add_one'";
    assert!(left.refusal(400).starts_with(words));
    let range = send_binary(&hearth, "add_one", b"{}", 99_999).refusal(400);
    assert_eq!(
        range,
        "inference header size should be in range (0, 2), got: 99999"
    );
    let missing = send(&hearth, "two_inputs", &json!({"inputs": []}), &[]).refusal(400);
    let words = "expected 2 inputs but got 0 inputs for model 'two_inputs'. Got input(s) [], but \
                 missing required input(s) ['a', 'b']";
    assert!(missing.starts_with(words), "{missing}");
    hearth.stop();
}
