//! What of the store is loaded: `/v2/repository`, and the same over gRPC.

use serde_json::json;
use tonic::Code;
use workers_protocol::oip::model_repository_parameter::ParameterChoice;
use workers_protocol::oip::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
};

use crate::add_one::{ADD_ONE, Halted, add_one, await_running, post, sum, warm, worker};
use crate::grpc;
use crate::hearth::{Hearth, PLAIN, Store, eventually, is_alive, tiny};

const LOAD: &str = "/v2/repository/models/add_one/load";
const UNLOAD: &str = "/v2/repository/models/add_one/unload";

fn index(hearth: &Hearth, body: &str) -> serde_json::Value {
    hearth.post("/v2/repository/index", body.as_bytes()).ok()
}

fn ready() -> serde_json::Value {
    json!([{"name": "add_one", "version": "1", "state": "READY"}])
}

#[test]
fn an_unloaded_model_gives_its_memory_back_and_is_served_again_once_it_is_loaded() {
    let hearth = warm(&[]);
    let pid = worker(&hearth);
    assert_eq!(index(&hearth, ""), ready());
    assert_eq!(hearth.post(UNLOAD, b"").status, 200);
    // A process that has ended holds no memory.
    eventually("the worker ends", || (!is_alive(pid)).then_some(()));
    let unloaded =
        json!([{"name": "add_one", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]);
    assert_eq!(index(&hearth, "{}"), unloaded);
    assert_eq!(index(&hearth, "{\"ready\": true}"), json!([]));
    assert_eq!(hearth.get("/v2/models").ok(), json!({"models": []}));
    let sentence = post(&hearth, 1).refusal(503);
    assert!(sentence.contains("has no available versions"), "{sentence}");
    assert_eq!(hearth.get("/v2/models/add_one/ready").status, 400);

    // A version that is added meanwhile does not bring it back.
    hearth.store().put("add_one", 2, PLAIN, &[tiny("add_one")]);
    eventually("the second version is noticed", || {
        (index(&hearth, "").as_array().unwrap().len() == 2).then_some(())
    });
    post(&hearth, 1).refusal(503);

    assert_eq!(hearth.post(LOAD, b"").status, 200);
    // It is started ahead of the first request.
    eventually("a worker starts", || {
        (!hearth.workers().is_empty()).then_some(())
    });
    let answer = post(&hearth, 1);
    assert_eq!(
        (sum(&answer), &answer.ok()["model_version"]),
        (2.0, &json!("2"))
    );
    assert_eq!(
        hearth.get("/v2/models/add_one/versions/1/ready").status,
        200
    );
    let workers = hearth.workers();
    assert_eq!(hearth.post(LOAD, b"{}").status, 200);
    assert_eq!(hearth.workers(), workers);
    hearth.stop();
}

#[test]
fn what_was_admitted_before_an_unload_is_answered() {
    let hearth = warm(&[]);
    let halted = Halted::new(worker(&hearth));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| post(&hearth, 5));
        await_running(&hearth);
        assert_eq!(hearth.post(UNLOAD, b"").status, 200);
        post(&hearth, 6).refusal(503);
        drop(halted);
        assert_eq!(sum(&asked.join().unwrap()), 6.0);
    });
    eventually("the worker ends", || {
        hearth.workers().is_empty().then_some(())
    });
    hearth.stop();
}

#[test]
fn a_model_that_has_just_come_is_there_once_it_is_loaded() {
    let hearth = Hearth::start(Store::new(), &[]);
    let sentence = hearth.post(LOAD, b"").refusal(404);
    assert!(
        sentence.starts_with("failed to load 'add_one'"),
        "{sentence}"
    );
    hearth.store().put("add_one", 1, PLAIN, &[tiny("add_one")]);
    assert_eq!(hearth.post(LOAD, b"").status, 200);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);

    hearth
        .store()
        .put("broken", 1, PLAIN, &[tiny("sequence_output")]);
    let sentence = hearth
        .post("/v2/repository/models/broken/load", b"")
        .refusal(503);
    assert!(sentence.contains("output `y` is no tensor"), "{sentence}");
    hearth.stop();
}

#[test]
fn what_is_not_done_is_refused_and_named() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    for (path, body, status, words) in [
        (LOAD, r#"{"parameters": {"config": "{}"}}"#, 501, "`config`"),
        (
            LOAD,
            r#"{"parameters": {"file:1/model.onnx": "AA=="}}"#,
            501,
            "`file:1/model.onnx`",
        ),
        (LOAD, r#"{"parameters": {"cnofig": "{}"}}"#, 400, "`cnofig`"),
        (LOAD, "{", 400, "JSON"),
        (
            UNLOAD,
            r#"{"parameters": {"unload_dependents": true}}"#,
            501,
            "`unload_dependents`",
        ),
        (
            UNLOAD,
            r#"{"parameters": {"unload_dependents": 1}}"#,
            400,
            "`unload_dependents`",
        ),
        ("/v2/repository/other/index", "", 501, "one repository"),
        ("/v2/models/add_one/generate", "{}", 501, "/infer"),
        ("/v2/logging", "{}", 501, "RUST_LOG"),
    ] {
        let sentence = hearth.post(path, body.as_bytes()).refusal(status);
        assert!(sentence.contains(words), "{sentence}");
    }
    assert_eq!(index(&hearth, ""), ready());
    // A name that is not there needs no unloading.
    let unknown = "/v2/repository/models/nope/unload";
    assert_eq!(hearth.post(unknown, b"").status, 200);
    let no_change = br#"{"parameters": {"unload_dependents": false}}"#;
    assert_eq!(hearth.post(unknown, no_change).status, 200);
    hearth.stop();
}

#[test]
fn names_in_paths_are_decoded() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    assert_eq!(hearth.get("/v2/models/%61dd%5Fone").ok()["name"], "add_one");
    let answer = hearth.post("/v2/models/add%5fone/infer", add_one(1).as_bytes());
    assert_eq!(sum(&answer), 2.0);
    assert_eq!(
        hearth
            .post(&ADD_ONE.replace("add_one", "add%2Fone"), b"")
            .status,
        404
    );
    hearth.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_loaded_and_unloaded_over_grpc() {
    let hearth = warm(&[]);
    let (mut client, _) = grpc::connect(&hearth).await;
    let unload = || RepositoryModelUnloadRequest {
        model_name: "add_one".to_owned(),
        ..RepositoryModelUnloadRequest::default()
    };
    let load = || RepositoryModelLoadRequest {
        model_name: "add_one".to_owned(),
        ..RepositoryModelLoadRequest::default()
    };
    client.repository_model_unload(unload()).await.unwrap();
    eventually("the worker ends", || {
        hearth.workers().is_empty().then_some(())
    });
    let status = client.model_infer(grpc::add_one(1.0)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let index = client
        .repository_index(RepositoryIndexRequest::default())
        .await
        .unwrap();
    assert_eq!(index.into_inner().models[0].reason, "unloaded");
    client.repository_model_load(load()).await.unwrap();
    client.model_infer(grpc::add_one(1.0)).await.unwrap();

    let mut config = load();
    let choice = Some(ParameterChoice::StringParam("{}".to_owned()));
    let parameter = ModelRepositoryParameter {
        parameter_choice: choice,
    };
    config.parameters.insert("config".to_owned(), parameter);
    let status = client.repository_model_load(config).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let named = RepositoryModelLoadRequest {
        repository_name: "other".to_owned(),
        ..load()
    };
    let status = client.repository_model_load(named).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let unknown = RepositoryModelLoadRequest {
        model_name: "nope".to_owned(),
        ..load()
    };
    let status = client.repository_model_load(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    hearth.stop();
}
