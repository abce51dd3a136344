//! Models with a task over the Open Inference Protocol: pictures as BYTES in, tensors out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::ImageFormat;
use serde_json::{Value, json};
use workers_protocol::oip::infer_parameter::ParameterChoice;
use workers_protocol::oip::model_infer_request::InferInputTensor;
use workers_protocol::oip::{
    InferParameter, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest,
};

use crate::grpc::connect;
use crate::hearth::{Hearth, Store, shared};
use crate::pictures::{BLUE, GREEN, RED, encode, picture_models, plain, png};

/// Returns the elements of a BYTES tensor.
fn bytes(elements: &[&[u8]]) -> Vec<u8> {
    let element = |element: &&[u8]| {
        let length = u32::try_from(element.len()).unwrap().to_le_bytes();
        [&length, *element].concat()
    };
    elements.iter().flat_map(element).collect()
}

/// Returns a request of one input in base64.
fn request(pictures: &[&[u8]], shape: &[i64], parameters: &Value) -> String {
    let data: Vec<_> = pictures
        .iter()
        .map(|one| BASE64_STANDARD.encode(one))
        .collect();
    let input = json!({"name": "image", "datatype": "BYTES", "shape": shape, "data": data});
    json!({"parameters": parameters, "inputs": [input]}).to_string()
}

/// Returns the shape and the elements of an output.
fn output(answer: &Value, name: &str) -> (Value, Value) {
    let mut outputs = answer["outputs"].as_array().unwrap().iter();
    let output = outputs.find(|output| output["name"] == name).unwrap();
    (output["shape"].clone(), output["data"].clone())
}

#[test]
fn pictures_in_base64_are_answered_side_by_side_and_a_bad_one_fails_alone() {
    let hearth = Hearth::start(picture_models(), &[]);
    let red = encode(&plain(160, 96, RED), ImageFormat::Png);
    let pictures: [&[u8]; 3] = [&red, b"no picture", &png(GREEN)];
    let body = request(&pictures, &[3, 1], &json!({}));
    let answer = hearth.post("/v2/models/detector/infer", body.as_bytes());
    assert!(answer.header("server-timing").is_some());
    let answer = answer.ok();
    assert_eq!(output(&answer, "counts"), (json!([3, 1]), json!([2, 0, 0])));
    let boxes = output(&answer, "boxes");
    assert_eq!(boxes.0, json!([3, 2, 4]));
    let first: Vec<_> = boxes.1.as_array().unwrap().iter().take(8).collect();
    let near = |at: usize| first[at].as_f64().unwrap().round();
    assert_eq!([0, 1, 2, 3].map(near), [20.0, 12.0, 60.0, 36.0]);
    assert_eq!([4, 5, 6, 7].map(near), [100.0, 54.0, 140.0, 90.0]);
    let labels = json!(["red", "red", "", "", "", ""]);
    assert_eq!(output(&answer, "labels"), (json!([3, 2]), labels));
    assert_eq!(output(&answer, "scores").0, json!([3, 2]));
    let size = json!([160, 96, 0, 0, 8, 8]);
    assert_eq!(output(&answer, "size"), (json!([3, 2]), size));
    let (shape, errors) = output(&answer, "errors");
    assert_eq!(shape, json!([3, 1]));
    assert_eq!((&errors[0], &errors[2]), (&json!(""), &json!("")));
    let error = errors[1].as_str().unwrap();
    assert!(
        error.starts_with("element 1 is no picture: expected JPEG"),
        "{error}"
    );

    // The same as the other route says, with its options, and of several only what was asked for.
    let parameters = json!({"top_k": 1, "score": 0.1, "labels": "blue,green"});
    let mut body: Value = serde_json::from_str(&request(&[&png(BLUE)], &[1], &parameters)).unwrap();
    body["outputs"] = json!([{"name": "labels"}, {"name": "scores"}]);
    let answer = hearth
        .post("/v2/models/mean/infer", body.to_string().as_bytes())
        .ok();
    let outputs = json!([
        {"name": "labels", "datatype": "BYTES", "shape": [1, 1], "data": ["blue"]},
        {"name": "scores", "datatype": "FP32", "shape": [1, 1], "data": [1.0]},
    ]);
    assert_eq!(answer["outputs"], outputs);
    hearth.stop();
}

#[test]
fn pictures_are_taken_as_binary_tensors() {
    let hearth = Hearth::start(picture_models(), &[]);
    let data = bytes(&[&png(RED), &png(BLUE)]);
    let input = json!({
        "name": "image", "datatype": "BYTES", "shape": [2],
        "parameters": {"binary_data_size": data.len()},
    });
    let json = json!({"inputs": [input]}).to_string();
    let request = hearth
        .request("POST", "/v2/models/mean/infer")
        .header("inference-header-content-length", json.len());
    let answer = hearth
        .send(request, &[json.as_bytes(), &data].concat()[..])
        .ok();
    let labels = output(&answer, "labels").1;
    assert_eq!((&labels[0], &labels[3]), (&json!("red"), &json!("blue")));
    hearth.stop();
}

#[test]
fn what_is_no_batch_of_pictures_is_refused() {
    let hearth = Hearth::start(picture_models(), &["--max-pixels", "5000"]);
    let path = "/v2/models/mean/infer";
    let good = png(RED);
    let large = encode(&plain(80, 80, RED), ImageFormat::Png);
    let many: Vec<&[u8]> = std::iter::repeat_n(b"x".as_slice(), 257).collect();
    let named = |name: &str| request(&[&good], &[1], &json!({})).replace("image", name);
    let cases = [
        (
            request(&[b"x"], &[1], &json!({})),
            400,
            "element 0 is no picture",
        ),
        (request(&[&large], &[1], &json!({})), 413, "80 × 80 pixels"),
        (
            request(&[&large, b"x"], &[2], &json!({})),
            413,
            "80 × 80 pixels",
        ),
        (
            request(&many, &[257], &json!({})),
            413,
            "at most 256 pictures in a request, got 257",
        ),
        (
            request(&[], &[0, 1], &json!({})),
            400,
            "Expected [n,1] or [n]",
        ),
        (
            request(&[&good, &good], &[1, 2], &json!({})),
            400,
            "got [1, 2]",
        ),
        (
            named("picture"),
            400,
            "unexpected inference input 'picture' for model 'mean': it takes 'image'",
        ),
        (
            json!({"inputs": []}).to_string(),
            400,
            "expected 1 inputs but got 0 inputs for model 'mean'",
        ),
        (
            json!({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1], "data": [1]}]})
                .to_string(),
            400,
            "data-type is 'UINT8', but model 'mean' expects 'BYTES'",
        ),
        (
            request(&[&good], &[1], &json!({"score": 2})),
            400,
            "`score`: expected a number from 0 to 1",
        ),
        (
            request(&[&good], &[1], &json!({"top_k": []})),
            400,
            "`top_k`: expected a boolean, a number or a string, got a list",
        ),
        (
            request(&[&good], &[1], &json!({})).replace(
                "\"inputs\"",
                "\"outputs\":[{\"name\":\"boxes\"}],\"inputs\"",
            ),
            400,
            "unexpected inference output 'boxes' for model 'mean'",
        ),
    ];
    for (body, status, words) in cases {
        let sentence = hearth.post(path, body.as_bytes()).refusal(status);
        assert!(sentence.contains(words), "{sentence}");
    }
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_with_a_task_says_what_it_takes_and_takes_it_over_grpc() {
    let hearth = Hearth::start(picture_models(), &[]);
    let (mut client, _) = connect(&hearth).await;
    let request = ModelMetadataRequest {
        name: "detector".to_owned(),
        ..ModelMetadataRequest::default()
    };
    let metadata = client.model_metadata(request).await.unwrap().into_inner();
    let tensors = metadata.inputs.iter().chain(&metadata.outputs);
    let tensors: Vec<_> = tensors
        .map(|tensor| {
            (
                tensor.name.as_str(),
                tensor.datatype.as_str(),
                &tensor.shape[..],
            )
        })
        .collect();
    let expected = [
        ("image", "BYTES", &[-1, 1][..]),
        ("counts", "INT32", &[-1, 1]),
        ("boxes", "FP32", &[-1, -1, 4]),
        ("scores", "FP32", &[-1, -1]),
        ("labels", "BYTES", &[-1, -1]),
        ("size", "INT64", &[-1, 2]),
        ("errors", "BYTES", &[-1, 1]),
    ];
    assert_eq!(tensors, expected);
    let request = ModelConfigRequest {
        name: "detector".to_owned(),
        ..ModelConfigRequest::default()
    };
    let config = client.model_config(request).await.unwrap().into_inner();
    let config = config.config.unwrap();
    assert_eq!(config.max_batch_size, 16);
    assert_eq!(config.input[0].name, "image");
    assert_eq!(config.input[0].dims, [1]);
    let dims = |name: &str| {
        let mut outputs = config.output.iter();
        outputs
            .find(|output| output.name == name)
            .unwrap()
            .dims
            .clone()
    };
    assert_eq!(dims("boxes"), [-1, 4]);

    let double = ParameterChoice::DoubleParam(0.6);
    let parameter = InferParameter {
        parameter_choice: Some(double),
    };
    let request = ModelInferRequest {
        model_name: "detector".to_owned(),
        parameters: BTreeMap::from([("score".to_owned(), parameter)]),
        inputs: vec![InferInputTensor {
            name: "image".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![2, 1],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![bytes(&[&png(RED), b"x"]).into()],
        ..ModelInferRequest::default()
    };
    let answer = client.model_infer(request).await.unwrap().into_inner();
    let names: Vec<_> = answer
        .outputs
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    assert_eq!(names, expected.map(|(name, ..)| name)[1..]);
    let at = |name: &str| names.iter().position(|&one| one == name).unwrap();
    assert_eq!(answer.outputs[at("boxes")].shape, [2, 1, 4]);
    let counts = [1_i32.to_le_bytes(), 0_i32.to_le_bytes()].concat();
    assert_eq!(answer.raw_output_contents[at("counts")], counts);
    assert_eq!(
        answer.raw_output_contents[at("labels")],
        bytes(&[b"red", b""])
    );
    hearth.stop();
}

#[test]
fn the_faces_of_a_photo_are_the_same_on_both_routes() {
    let Some(shared) = shared() else {
        return;
    };
    let store = ["centerface", "mask-classifier", "face-mask"]
        .into_iter()
        .fold(Store::new(), |store, model| {
            store.with_example(model, &shared)
        });
    let hearth = Hearth::start(store, &[]);
    let photo = std::fs::read(shared.join("media/masked_face_imgs_img2.jpeg")).unwrap();
    let found = hearth.post("/run/face-mask", &photo).ok();
    let body = request(&[&photo], &[1, 1], &json!({}));
    let answer = hearth
        .post("/v2/models/face-mask/infer", body.as_bytes())
        .ok();
    let predictions = found["predictions"].as_array().unwrap();
    let n = predictions.len();
    assert!(n > 3, "{n} faces");
    assert_eq!(output(&answer, "counts").1, json!([n]));
    let column = |field: &str| Value::from_iter(predictions.iter().map(|one| one[field].clone()));
    assert_eq!(output(&answer, "labels"), (json!([1, n]), column("label")));
    assert_eq!(
        output(&answer, "label_scores"),
        (json!([1, n]), column("label_score"))
    );
    assert_eq!(output(&answer, "boxes").0, json!([1, n, 4]));
    assert_eq!(output(&answer, "landmarks").0, json!([1, n, 5, 2]));
    assert_eq!(
        output(&answer, "truncated"),
        (json!([1, 1]), json!([false]))
    );
    hearth.stop();
}
