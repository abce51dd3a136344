//! `POST /v2/models/{name}/infer`: the Open Inference Protocol over HTTP.

use serde_json::{Value, json};

use crate::hearth::{Answer, Hearth, PLAIN, Store};

/// Returns a request of one input, in JSON.
pub(crate) fn tensor_request(name: &str, datatype: &str, shape: &[i64], data: &[i64]) -> String {
    json!({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]})
        .to_string()
}

/// Returns a request of one binary input and all outputs binary, and the length of its JSON.
fn binary_request(name: &str, datatype: &str, shape: &[i64], data: &[u8]) -> (Vec<u8>, usize) {
    let parameters = json!({"binary_data_size": data.len()});
    let json = json!({
        "id": "seven",
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}],
    })
    .to_string();
    ([json.as_bytes(), data].concat(), json.len())
}

pub(crate) fn send_binary(hearth: &Hearth, model: &str, body: &[u8], json_bytes: usize) -> Answer {
    let request = hearth
        .request("POST", &format!("/v2/models/{model}/infer"))
        .header("inference-header-content-length", json_bytes)
        .header("content-type", "application/octet-stream");
    hearth.send(request, body)
}

/// Splits a binary answer into its JSON and the bytes after.
pub(crate) fn split(answer: &Answer) -> (Value, &[u8]) {
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let length = answer.header("inference-header-content-length").unwrap();
    let (json, data) = answer.body.split_at(length.parse().unwrap());
    (serde_json::from_slice(json).unwrap(), data)
}

#[test]
fn tensors_go_in_and_out_as_json() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let body = r#"{"id": "seven", "inputs":
        [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8.5]]}]}"#;
    for path in [
        "/v2/models/add_one/infer",
        "/v2/models/add_one/versions/1/infer",
    ] {
        let answer = hearth.post(path, body.as_bytes());
        assert_eq!(
            answer.ok(),
            json!({
                "id": "seven",
                "model_name": "add_one",
                "model_version": "1",
                "outputs": [{
                    "name": "y",
                    "datatype": "FP32",
                    "shape": [2, 4],
                    "data": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.5],
                }],
            })
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        // Two items of one request.
        let timing = answer.header("server-timing").unwrap();
        assert!(timing.contains("batch;desc=\"2: "), "{timing}");
    }
    hearth.stop();
}

#[test]
fn tensors_go_in_and_out_as_bytes() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let floats: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let (body, json_bytes) = binary_request("x", "FP32", &[1, 4], &floats);
    let answer = send_binary(&hearth, "add_one", &body, json_bytes);
    let (json, data) = split(&answer);
    assert_eq!(json["id"], "seven");
    assert_eq!(
        json["outputs"],
        json!([{"name": "y", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}])
    );
    let floats: Vec<f32> = data
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect();
    assert_eq!(floats, [2.0, 3.0, 4.0, 5.0]);

    let cut = send_binary(&hearth, "add_one", &body[..body.len() - 1], json_bytes).refusal(400);
    assert!(
        cut.starts_with("unexpected size for input 'x', expecting 1 additional bytes"),
        "{cut}"
    );
    let beyond = send_binary(&hearth, "add_one", &body, body.len() + 1).refusal(400);
    assert!(beyond.contains("header size"), "{beyond}");
    hearth.stop();
}

#[test]
fn a_request_larger_than_a_message_comes_through_whole() {
    let hearth = Hearth::start(Store::new().with_tiny("identity_uint8"), &[]);
    // Some parts on the wire, and a last one that is not full.
    let data: Vec<u8> = (0..1_000_003_u32).map(|at| (at % 251) as u8).collect();
    let shape = [1, i64::try_from(data.len()).unwrap()];
    let (body, json_bytes) = binary_request("x", "UINT8", &shape, &data);
    let answer = send_binary(&hearth, "identity_uint8", &body, json_bytes);
    let (json, echoed) = split(&answer);
    assert_eq!(json["outputs"][0]["shape"], json!(shape));
    assert!(echoed == data, "the bytes are not those that were sent");
    hearth.stop();
}

#[test]
fn what_json_cannot_say_is_refused_and_sent_as_bytes() {
    let store = Store::new()
        .with_tiny("identity_fp16")
        .with_tiny("identity_bytes");
    let hearth = Hearth::start(store, &[]);
    let (body, json_bytes) = binary_request("x", "FP16", &[1, 2], &[0, 0x3c, 0, 0xc0]);
    let answer = send_binary(&hearth, "identity_fp16", &body, json_bytes);
    assert_eq!(split(&answer).1, [0, 0x3c, 0, 0xc0]);
    let json = String::from_utf8(body[..json_bytes].to_vec()).unwrap();
    let as_json = json.replace("true", "false");
    let body = [as_json.as_bytes(), &body[json_bytes..]].concat();
    let sentence = send_binary(&hearth, "identity_fp16", &body, as_json.len()).refusal(400);
    assert!(sentence.contains("no JSON form"), "{sentence}");

    let body = r#"{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["grüß", ""]}]}"#;
    let answer = hearth.post("/v2/models/identity_bytes/infer", body.as_bytes());
    assert_eq!(answer.ok()["outputs"][0]["data"], json!(["grüß", ""]));
    hearth.stop();
}

#[test]
fn a_model_says_what_it_takes() {
    let store = Store::new().with("add", "engine: onnx\nbatch: { max: 4 }\n", "add_one");
    let hearth = Hearth::start(store, &[]);
    let metadata = hearth.get("/v2/models/add").ok();
    assert_eq!(metadata["name"], "add");
    assert_eq!(metadata["versions"], json!(["1"]));
    assert_eq!(metadata["platform"], "onnxruntime_onnx");
    let tensor = |name| json!([{"name": name, "datatype": "FP32", "shape": [-1, 4]}]);
    assert_eq!(metadata["inputs"], tensor("x"));
    assert_eq!(metadata["outputs"], tensor("y"));
    assert_eq!(metadata["max_batch"], 4);
    assert_eq!(hearth.get("/v2/models/add/versions/1").ok(), metadata);
    assert_eq!(hearth.get("/health").text(), "Ok");
    assert_eq!(hearth.get("/v2/health/live").status, 200);
    hearth.stop();
}

#[test]
fn a_state_that_is_batched_along_its_second_axis_comes_back_to_its_caller() {
    let declared = "
engine: onnx
inputs:
  - { name: state, batch_axis: 1 }
outputs:
  - { name: stateN, batch_axis: 1 }
";
    let hearth = Hearth::start(Store::new().with("sum_state", declared, "sum_state"), &[]);
    let body = json!({"inputs": [
        {"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]},
        {"name": "state", "datatype": "FP32", "shape": [2, 1, 3], "data": [10, 20, 30, 100, 200, 300]},
    ]});
    let answer = hearth
        .post("/v2/models/sum_state/infer", body.to_string().as_bytes())
        .ok();
    assert_eq!(answer["outputs"][0]["data"], json!([111.0, 222.0, 333.0]));
    assert_eq!(
        answer["outputs"][1]["data"],
        json!([11.0, 22.0, 33.0, 101.0, 202.0, 303.0])
    );
    hearth.stop();
}

#[test]
fn a_graph_that_fixes_its_batch_takes_only_that() {
    let hearth = Hearth::start(Store::new().with("fixed", PLAIN, "fixed_batch"), &[]);
    let metadata = hearth.get("/v2/models/fixed").ok();
    assert_eq!(metadata["max_batch"], 1);
    let good = tensor_request("x", "FP32", &[2, 3], &[1, 2, 3, 4, 5, 6]);
    let answer = hearth.post("/v2/models/fixed/infer", good.as_bytes()).ok();
    assert_eq!(
        answer["outputs"][0]["data"],
        json!([2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    );
    let bad = tensor_request("x", "FP32", &[1, 3], &[1, 2, 3]);
    let sentence = hearth
        .post("/v2/models/fixed/infer", bad.as_bytes())
        .refusal(400);
    assert!(sentence.contains("Expected [2,3]"), "{sentence}");
    hearth.stop();
}
