//! The debug socket speaks plain Open Inference Protocol, so that any client of it can look into a
//! running worker; the wire understands it too.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use workers_protocol::oip::infer_parameter::ParameterChoice;
use workers_protocol::oip::{
    InferParameter, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest,
};

use crate::worker::{Worker, floats, next, read_floats, version};

const PLAIN: &str = "engine: onnx\n";

#[tokio::test]
async fn unary_calls_are_answered() {
    let worker = Worker::start(version(PLAIN, "add_one"));
    let mut client = worker.connect().await;
    let request = floats("seven", "x", &[1, 4], &[1.0, 2.0, 3.0, 4.5]);
    let answer = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.id, "seven");
    assert_eq!(answer.outputs[0].name, "y");
    assert_eq!(answer.outputs[0].datatype, "FP32");
    assert_eq!(answer.outputs[0].shape, [1, 4]);
    assert_eq!(
        read_floats(&answer.raw_output_contents[0]),
        [2.0, 3.0, 4.0, 5.5]
    );

    let live = client.server_live(ServerLiveRequest {}).await.unwrap();
    assert!(live.into_inner().live);
    let ready = client.server_ready(ServerReadyRequest {}).await.unwrap();
    assert!(ready.into_inner().ready);
    let ready = client
        .model_ready(ModelReadyRequest::default())
        .await
        .unwrap();
    assert!(ready.into_inner().ready);
    let server = client
        .server_metadata(ServerMetadataRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(server.name, "hearth-worker");
    let request = ModelMetadataRequest {
        name: "mine".to_owned(),
        version: "1".to_owned(),
    };
    let model = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!(
        (model.name.as_str(), model.platform.as_str()),
        ("mine", "onnxruntime_onnx")
    );
    assert_eq!(
        (model.inputs[0].name.as_str(), &model.inputs[0].shape[..]),
        ("x", &[-1, 4][..])
    );
}

#[tokio::test]
async fn only_its_owner_may_use_the_debug_socket() {
    let worker = Worker::start(version(PLAIN, "add_one"));
    worker.connect().await;
    let socket = worker.socket();
    let folder = std::fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_bad_unary_call_has_its_code_and_sentence() {
    let worker = Worker::start(version(PLAIN, "add_one"));
    let mut client = worker.connect().await;
    for (request, words) in [
        (floats("", "z", &[1, 4], &[0.0; 4]), "'x'"),
        (floats("", "x", &[1, 5], &[0.0; 5]), "[-1,4]"),
        (floats("", "x", &[1, 4], &[0.0; 3]), "`x`"),
        (floats("", "x", &[99, 4], &[0.0; 396]), "<= 16"),
        (ModelInferRequest::default(), "'x'"),
        (control("hearth_run", "1 2"), "control"),
    ] {
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
    let request = floats("", "x", &[1, 4], &[0.0; 4]);
    client.model_infer(request).await.unwrap();
}

fn control(name: &str, text: &str) -> ModelInferRequest {
    let choice = ParameterChoice::StringParam(text.to_owned());
    let parameter = InferParameter {
        parameter_choice: Some(choice),
    };
    ModelInferRequest {
        parameters: BTreeMap::from([(name.to_owned(), parameter)]),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_plain_stream_is_answered_without_being_told_what_to_run() {
    let worker = Worker::start(version(PLAIN, "add_one"));
    for mut client in [worker.connect().await, worker.client().await] {
        let (requests, outgoing) = mpsc::channel(1);
        let outgoing = ReceiverStream::new(outgoing);
        let mut events = client
            .model_stream_infer(outgoing)
            .await
            .unwrap()
            .into_inner();
        for (id, name, value) in [("a", "x", 1.0), ("b", "z", 2.0), ("c", "x", 3.0)] {
            requests
                .send(floats(id, name, &[1, 4], &[value; 4]))
                .await
                .unwrap();
            // What else is said is for gateways, and names no request.
            let (response, error) = loop {
                let message = next(&mut events).await;
                let response = message.infer_response.unwrap();
                if !response.id.is_empty() {
                    break (response, message.error_message);
                }
            };
            assert_eq!(response.id, id);
            if name == "x" {
                assert_eq!(error, "");
                assert_eq!(
                    read_floats(&response.raw_output_contents[0]),
                    [value + 1.0; 4]
                );
            } else {
                assert!(error.contains("'x'"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_worker_whose_model_cannot_be_loaded_says_why() {
    let worker = Worker::start(version(PLAIN, "sequence_output"));
    let mut client = worker.connect().await;
    let request = floats("", "x", &[1, 4], &[0.0; 4]);
    let status = client.model_infer(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("output `y` is no tensor"),
        "{status}"
    );
    let ready = client.server_ready(ServerReadyRequest {}).await.unwrap();
    assert!(!ready.into_inner().ready);
    // A gateway hears it on its wire.
    let status = worker
        .client()
        .await
        .model_stream_infer(tokio_stream::pending())
        .await
        .unwrap_err();
    assert!(
        status.message().contains("output `y` is no tensor"),
        "{status}"
    );
}
