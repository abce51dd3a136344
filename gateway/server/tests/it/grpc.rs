//! The Open Inference Protocol over gRPC, with tonic's client.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt as _;
use workers_protocol::health::HealthCheckRequest;
use workers_protocol::health::health_check_response::ServingStatus;
use workers_protocol::health::health_client::HealthClient;
use workers_protocol::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use workers_protocol::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use workers_protocol::oip::{
    InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest,
    ModelReadyRequest, ModelStatisticsRequest, RepositoryIndexRequest, ServerMetadataRequest,
};
use workers_protocol::transport::{self, Connection};

use crate::add_one::{Halted, await_metric, await_running, warm, worker};
use crate::hearth::{Hearth, Store, command, finish};

pub(crate) type Client = GrpcInferenceServiceClient<Connection>;

/// Connects to where the log says that gRPC is spoken.
pub(crate) async fn connect(hearth: &Hearth) -> (Client, HealthClient<Connection>) {
    let address = hearth.grpc_address();
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, driver) = transport::connect(socket).await.unwrap();
    tokio::spawn(driver);
    let socket = TcpStream::connect(address).await.unwrap();
    let (connection, driver) = transport::connection(socket).await.unwrap();
    tokio::spawn(driver);
    (client, HealthClient::new(connection))
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Returns a request of one input with raw contents.
pub(crate) fn raw(model: &str, datatype: &str, shape: &[i64], data: Vec<u8>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        id: "seven".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![data.into()],
        ..ModelInferRequest::default()
    }
}

/// Returns the same with typed contents.
fn typed(model: &str, datatype: &str, contents: InferTensorContents) -> ModelInferRequest {
    let mut request = raw(model, datatype, &[1, 2], Vec::new());
    request.raw_input_contents.clear();
    request.inputs[0].contents = Some(contents);
    request
}

pub(crate) fn add_one(value: f32) -> ModelInferRequest {
    raw("add_one", "FP32", &[1, 4], floats(&[value; 4]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_go_in_and_out_as_bytes() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let (mut client, _) = connect(&hearth).await;
    let answer = client.model_infer(add_one(1.0)).await.unwrap().into_inner();
    assert_eq!((&*answer.id, &*answer.model_name), ("seven", "add_one"));
    assert_eq!(answer.model_version, "1");
    assert_eq!(answer.outputs[0].name, "y");
    assert_eq!(answer.outputs[0].shape, [1, 4]);
    assert_eq!(answer.raw_output_contents, [floats(&[2.0; 4])]);
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_datatype_goes_in_and_out() {
    let contents = InferTensorContents::default;
    let cases = [
        (
            "BOOL",
            InferTensorContents {
                bool_contents: vec![true, false],
                ..contents()
            },
            vec![1, 0],
        ),
        (
            "INT8",
            InferTensorContents {
                int_contents: vec![-1, 2],
                ..contents()
            },
            vec![255, 2],
        ),
        (
            "INT16",
            InferTensorContents {
                int_contents: vec![-1, 2],
                ..contents()
            },
            vec![255, 255, 2, 0],
        ),
        (
            "INT32",
            InferTensorContents {
                int_contents: vec![1, 2],
                ..contents()
            },
            vec![1, 0, 0, 0, 2, 0, 0, 0],
        ),
        (
            "INT64",
            InferTensorContents {
                int64_contents: vec![1, -1],
                ..contents()
            },
            [1_i64, -1].map(i64::to_le_bytes).concat(),
        ),
        (
            "UINT8",
            InferTensorContents {
                uint_contents: vec![1, 255],
                ..contents()
            },
            vec![1, 255],
        ),
        (
            "UINT16",
            InferTensorContents {
                uint_contents: vec![1, 65535],
                ..contents()
            },
            vec![1, 0, 255, 255],
        ),
        (
            "UINT32",
            InferTensorContents {
                uint_contents: vec![1, u32::MAX],
                ..contents()
            },
            [1, u32::MAX].map(u32::to_le_bytes).concat(),
        ),
        (
            "UINT64",
            InferTensorContents {
                uint64_contents: vec![1, u64::MAX],
                ..contents()
            },
            [1, u64::MAX].map(u64::to_le_bytes).concat(),
        ),
        (
            "FP32",
            InferTensorContents {
                fp32_contents: vec![1.5, -2.0],
                ..contents()
            },
            floats(&[1.5, -2.0]),
        ),
        (
            "FP64",
            InferTensorContents {
                fp64_contents: vec![1.5, -2.0],
                ..contents()
            },
            [1.5_f64, -2.0].map(f64::to_le_bytes).concat(),
        ),
        (
            "BYTES",
            InferTensorContents {
                bytes_contents: vec!["ab".into(), "".into()],
                ..contents()
            },
            b"\x02\0\0\0ab\0\0\0\0".to_vec(),
        ),
    ];
    let names = cases.each_ref().map(|(datatype, ..)| identity(datatype));
    let store = names
        .iter()
        .fold(Store::new(), |store, name| store.with_tiny(name));
    let store = store.with_tiny("identity_fp16").with_tiny("identity_bf16");
    let hearth = Hearth::start(store, &[]);
    let (mut client, _) = connect(&hearth).await;
    for (datatype, contents, bytes) in cases {
        let name = identity(datatype);
        for request in [
            typed(&name, datatype, contents),
            raw(&name, datatype, &[1, 2], bytes.clone()),
        ] {
            let answer = client.model_infer(request).await.unwrap().into_inner();
            assert_eq!(answer.raw_output_contents, [&*bytes], "{datatype}");
        }
    }
    for datatype in ["FP16", "BF16"] {
        let name = identity(datatype);
        let request = raw(&name, datatype, &[1, 2], vec![0, 0x3c, 0, 0xc0]);
        let answer = client.model_infer(request).await.unwrap().into_inner();
        assert_eq!(answer.raw_output_contents[0], [0, 0x3c, 0, 0xc0][..]);
        let refused = client.model_infer(typed(&name, datatype, contents())).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
    hearth.stop();
}

pub(crate) fn identity(datatype: &str) -> String {
    format!("identity_{}", datatype.to_lowercase())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_named() {
    let store = Store::new().with_tiny("add_one").with_tiny("identity_int8");
    let hearth = Hearth::start(store, &["--grpc-max-message", "1MiB"]);
    let (mut client, _) = connect(&hearth).await;
    let good = || add_one(1.0);
    let mut cases = Vec::new();
    let unknown = ModelInferRequest {
        model_name: "nope".to_owned(),
        ..good()
    };
    cases.push((unknown, Code::NotFound, "'nope' is not found"));
    let version = ModelInferRequest {
        model_version: "9".to_owned(),
        ..good()
    };
    cases.push((version, Code::NotFound, "version 9 is not found"));
    let mut both = good();
    both.inputs[0].contents = Some(InferTensorContents::default());
    cases.push((
        both,
        Code::InvalidArgument,
        "contents field must not be specified",
    ));
    let mut more = good();
    more.raw_input_contents.push("x".into());
    cases.push((more, Code::InvalidArgument, "`raw_input_contents`"));
    let mut datatype = good();
    datatype.inputs[0].datatype = "FP31".to_owned();
    cases.push((datatype, Code::InvalidArgument, "`datatype` \"FP31\""));
    let shape = raw("add_one", "FP32", &[i64::MAX, i64::MAX], Vec::new());
    cases.push((shape, Code::InvalidArgument, "input `x`: shape"));
    let range = InferTensorContents {
        int_contents: vec![1, 300],
        ..InferTensorContents::default()
    };
    let range = typed("identity_int8", "INT8", range);
    cases.push((range, Code::InvalidArgument, "input `x`: 300 is no INT8"));
    let mut output = good();
    output.outputs.push(InferRequestedOutputTensor {
        name: "z".to_owned(),
        ..InferRequestedOutputTensor::default()
    });
    cases.push((
        output,
        Code::InvalidArgument,
        "unexpected inference output 'z'",
    ));
    let large = raw("add_one", "FP32", &[1, 4], vec![0; 2 << 20]);
    cases.push((large, Code::OutOfRange, "too large"));
    for (request, code, words) in cases {
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
    client.model_infer(good()).await.unwrap();
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_each_message_in_order_and_goes_on_after_an_error() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let (mut client, _) = connect(&hearth).await;
    let unknown = ModelInferRequest {
        model_name: "nope".to_owned(),
        ..add_one(0.0)
    };
    let messages = stream::iter([add_one(1.0), unknown, add_one(2.0)]);
    let answers = client.model_stream_infer(messages).await.unwrap();
    let answers: Vec<_> = answers.into_inner().map(Result::unwrap).collect().await;
    let said = answers
        .iter()
        .map(|answer| answer.error_message.contains("unknown model"));
    assert_eq!(said.collect::<Vec<_>>(), [false, true, false]);
    let last = answers[2].infer_response.as_ref().unwrap();
    assert_eq!(last.raw_output_contents, [floats(&[3.0; 4])]);
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_kept() {
    let hearth = warm(&[]);
    let halted = Halted::new(worker(&hearth));
    let (mut client, _) = connect(&hearth).await;
    let mut request = tonic::Request::new(add_one(1.0));
    request.set_timeout(Duration::from_millis(200));
    let late = client.model_infer(request).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    drop(halted);
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_when_to_try_again() {
    let hearth = warm(&["--max-queue", "1"]);
    let halted = Halted::new(worker(&hearth));
    let (client, _) = connect(&hearth).await;
    let ask = |value| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(add_one(value)).await })
    };
    let running = ask(1.0);
    await_running(&hearth);
    let waiting = ask(2.0);
    await_metric(&hearth, "entries_offered_total", "add_one", 3.0);
    let refused = ask(3.0).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let delay = refused.get_details_retry_info().unwrap().retry_delay;
    let ms = refused.metadata().get("retry-after-ms").unwrap();
    let ms: u128 = ms.to_str().unwrap().parse().unwrap();
    assert_eq!(delay.unwrap().as_millis().max(1), ms);
    drop(halted);
    running.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_message_that_decodes_to_a_large_one_is_refused() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let (mut client, _) = connect(&hearth).await;
    // Two bytes each on the wire, hundreds in memory.
    let bomb = ModelInferRequest {
        inputs: vec![InferInputTensor::default(); 1_000_000],
        ..add_one(1.0)
    };
    let refused = client.model_infer(bomb).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("no room for"), "{refused}");
    client.model_infer(add_one(1.0)).await.unwrap();
    let metrics = hearth.get("/metrics").text();
    assert!(
        metrics.contains("\nhearth_bytes_in_flight 0\n"),
        "{metrics}"
    );
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_frees_the_place() {
    let hearth = warm(&[]);
    let halted = Halted::new(worker(&hearth));
    let (mut client, _) = connect(&hearth).await;
    let call = tokio::spawn(async move { client.model_infer(add_one(2.0)).await });
    await_running(&hearth);
    call.abort();
    await_metric(&hearth, "entries_cancelled_total", "add_one", 1.0);
    drop(halted);
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_and_its_models_are_described() {
    let hearth = warm(&[]);
    let (mut client, mut health) = connect(&hearth).await;
    let server = client
        .server_metadata(ServerMetadataRequest {})
        .await
        .unwrap();
    assert_eq!(server.into_inner().name, "hearth");
    let name = || "add_one".to_owned();
    let version = String::new;
    let ready = |name: &str| ModelReadyRequest {
        name: name.to_owned(),
        version: version(),
    };
    assert!(
        client
            .model_ready(ready("add_one"))
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    assert!(
        !client
            .model_ready(ready("nope"))
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    let request = ModelMetadataRequest {
        name: name(),
        version: version(),
    };
    let metadata = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!(metadata.versions, ["1"]);
    assert_eq!(metadata.inputs[0].shape, [-1, 4]);
    let request = ModelConfigRequest {
        name: name(),
        version: version(),
    };
    let config = client
        .model_config(request)
        .await
        .unwrap()
        .into_inner()
        .config
        .unwrap();
    assert!(config.max_batch_size > 0);
    assert_eq!(config.input[0].dims, [4]);
    let request = ModelStatisticsRequest {
        name: name(),
        version: version(),
    };
    let stats = client.model_statistics(request).await.unwrap().into_inner();
    let stats = stats.model_stats[0].inference_stats.unwrap();
    assert_eq!(stats.success.unwrap().count, 1);
    assert_eq!(
        stats.queue.unwrap().count,
        stats.compute_infer.unwrap().count
    );
    let index = client
        .repository_index(RepositoryIndexRequest::default())
        .await
        .unwrap();
    assert_eq!(index.into_inner().models[0].state, "READY");

    let check = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for service in ["", "add_one"] {
        let status = health
            .check(check(service))
            .await
            .unwrap()
            .into_inner()
            .status;
        assert_eq!(status, i32::from(ServingStatus::Serving), "{service}");
    }
    let unknown = health.check(check("nope")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    // A watch does not hold up the end.
    let mut watch = health.watch(check("")).await.unwrap().into_inner();
    assert!(watch.next().await.unwrap().is_ok());
    hearth.stop();
}

#[test]
fn an_address_that_others_reach_is_refused_without_credentials() {
    let folder = tempfile::TempDir::new().unwrap();
    let output = finish(
        command()
            .args(["serve", "--grpc-listen", "0.0.0.0:0", "--store"])
            .arg(folder.path())
            .arg("--data")
            .arg(folder.path().join("data")),
    );
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("refusing to listen on 0.0.0.0:0 without credentials"),
        "{text}"
    );
}
