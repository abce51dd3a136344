//! The V1 protocol: `POST /v1/models/{name}:predict`.

use serde_json::json;

use crate::hearth::{Hearth, Store};

#[test]
fn instances_go_in_and_predictions_come_out() {
    let store = Store::new()
        .with_tiny("add_one")
        .with_tiny("identity_bytes")
        .with_tiny("sum_and_difference")
        .with_tiny("two_inputs");
    let hearth = Hearth::start(store, &[]);
    let models = [
        "add_one",
        "identity_bytes",
        "sum_and_difference",
        "two_inputs",
    ];
    let models = json!({"models": models});
    assert_eq!(hearth.get("/v1/models").ok(), models);
    let ready = json!({"name": "add_one", "ready": true});
    assert_eq!(hearth.get("/v1/models/add_one").ok(), ready);

    let predict = |name: &str, body: serde_json::Value| {
        let path = format!("/v1/models/{name}:predict");
        hearth.post(&path, body.to_string().as_bytes())
    };
    let answer = predict(
        "add_one",
        json!({"instances": [[1, 2, 3, 4], [5, 6, 7, 8.5]]}),
    );
    let rows = json!({"predictions": [[2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.5]]});
    assert_eq!(answer.ok(), rows);
    assert!(answer.header("server-timing").is_some());
    let named = predict("add_one", json!({"instances": [{"x": [1, 2, 3, 4]}]}));
    assert_eq!(named.ok(), json!({"predictions": [[2.0, 3.0, 4.0, 5.0]]}));
    let strings = predict(
        "identity_bytes",
        json!({"instances": [["a", "ß"], ["", "c"]]}),
    );
    assert_eq!(
        strings.ok(),
        json!({"predictions": [["a", "ß"], ["", "c"]]})
    );

    for (name, body, status, words) in [
        ("add_one", json!({"instances": []}), 400, "`instances`"),
        ("add_one", json!({}), 400, "instances"),
        ("add_one", json!({"instances": [[1, 2, 3]]}), 400, "[-1,4]"),
        (
            "add_one",
            json!({"instances": [[1, 2, 3, 4], [1, 2]]}),
            400,
            "Shape does not match",
        ),
        (
            "add_one",
            json!({"instances": [{"y": [1, 2, 3, 4]}]}),
            400,
            "'y'",
        ),
        ("add_one", json!({"instances": [{}]}), 400, "`x`"),
        (
            "add_one",
            json!({"instances": [{"x": {"a": 1}}]}),
            400,
            "numbers",
        ),
        (
            "sum_and_difference",
            json!({"instances": [[1, 2]]}),
            400,
            "objects with `a`, `b`",
        ),
        (
            "sum_and_difference",
            json!({"instances": [{"a": [1, 2]}]}),
            400,
            "`a`, `b` in every",
        ),
        (
            "two_inputs",
            json!({"instances": [{"a": [1, 2], "b": 3}]}),
            400,
            "`b` [1]",
        ),
        ("nope", json!({"instances": [[1]]}), 404, "unknown model"),
    ] {
        let sentence = predict(name, body.clone()).refusal(status);
        assert!(sentence.contains(words), "{body}: {sentence}");
    }
    let list = predict("add_one", json!([[[1, 2, 3, 4]]])).refusal(400);
    assert!(list.contains("expected an object"), "{list}");
    let broken = br#"{"instances": [{"x": [1, 2, 3, 4], "x": [1, 2, 3, 4]}]}"#;
    let sentence = hearth
        .post("/v1/models/add_one:predict", broken)
        .refusal(400);
    assert!(sentence.contains("`x` is given twice"), "{sentence}");
    hearth
        .post("/v1/models/add_one:explain", b"{}")
        .refusal(501);
    hearth.post("/v1/models/add_one", b"{}").refusal(404);
    hearth.stop();
}

#[test]
fn rows_of_several_outputs_are_objects() {
    let hearth = Hearth::start(Store::new().with_tiny("sum_and_difference"), &[]);
    let instances = json!({"instances": [{"a": [1, 2], "b": [3, 4]}, {"b": [1, 1], "a": [5, 6]}]});
    let path = "/v1/models/sum_and_difference:predict";
    let answer = hearth.post(path, instances.to_string().as_bytes());
    let rows = json!({"predictions": [
        {"sum": [4.0, 6.0], "difference": [-2.0, -2.0]},
        {"sum": [6.0, 7.0], "difference": [4.0, 5.0]},
    ]});
    assert_eq!(answer.ok(), rows);
    hearth.stop();
}
