use super::*;

fn read(json: &str) -> Service {
    Service::from_json(json.as_bytes()).unwrap()
}

#[test]
fn keys_are_read_in_any_case_and_null_is_nothing() {
    let service = read(
        r#"{"NAME":"s","Image":null,"script":"x","Synchronous":{"MIN_SCALE":1},"input":null,
            "labels":{"Kept":"A"},"environment":{"Variables":{"Path":"/b","none":null}},
            "expose":{"nodeport":0,"API_PORT":[80,443]},"alpine":null,"volume":null,
            "endpoint":"https://scar","auth_user":"x","ssl_verify":true}"#,
    );
    assert_eq!(service.name, "s");
    assert_eq!(service.image, "");
    assert_eq!(service.synchronous.min_scale, 1);
    assert_eq!(service.labels["Kept"], "A");
    assert_eq!(service.environment.variables["Path"], "/b");
    assert_eq!(service.environment.variables["none"], "");
    assert_eq!(service.expose.api_port.list, [80, 443]);
    assert!(service.expose.node_port.is_empty());
    assert!(!service.alpine);
}

#[test]
fn what_is_wrong_is_named_and_what_came_is_not_repeated() {
    for (json, expected) in [
        (
            r#"{"alpine":"hunter2"}"#,
            "`alpine`: expected a boolean, got string",
        ),
        (
            r#"{"synchronous":{"min_scale":"hunter2"}}"#,
            "`synchronous.min_scale`: expected i64, got string",
        ),
        (
            r#"{"environment":{"secrets":"hunter2"}}"#,
            "`environment.secrets`: expected a map, got string",
        ),
        (
            r#"{"input":[{"path":["hunter2"]}]}"#,
            "`input.0.path`: expected a string, got sequence",
        ),
        (
            r#"{"model":{"name":"m","hunter3":1}}"#,
            "`model`: unknown field `hunter3`",
        ),
        (
            r#"{"model":{"name":"m","draw":"tiff"}}"#,
            "`model.draw`: unknown variant `tiff`",
        ),
        (
            r#"{"model":{"name":"m","video":{"rate":5}}}"#,
            "`model.video`: unknown field `rate`",
        ),
        (r#"{"name":1}"#, "`name`: expected a string, got integer"),
        (r#"{"name":"a","NAME":"b"}"#, "duplicate field `name`"),
        ("[]", "invalid type: sequence"),
        ("null", "invalid type: null"),
        ("{", "EOF"),
        (r#"{} {}"#, "trailing characters"),
    ] {
        let error = Service::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{json}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn old_spellings_are_folded_into_new_ones() {
    let service = read(
        r#"{"replicas":[{"type":"oscar","cluster_id":"c","priority":1}],"delegation":"random",
            "rescheduler_threshold":20,"expose":{"port":8080}}"#,
    );
    let federation = service.federation.as_ref().unwrap();
    assert_eq!(federation.delegation, "random");
    assert_eq!(federation.rescheduler_threshold, 20);
    assert_eq!(federation.members[0].cluster_id, "c");
    assert!(federation.members[0].ssl_verify);
    assert_eq!(service.expose.api_port.list, [8080]);
    let json = service.to_json();
    assert!(!json.contains("replicas"), "{json}");
    // Old clients send these empty.
    assert!(
        read(r#"{"replicas":null,"delegation":"","rescheduler_threshold":0}"#)
            .federation
            .is_none()
    );
}

#[test]
fn it_is_written_compact_and_in_the_order_of_oscar() {
    let mut service = read(r#"{"script":"a\r\nb\r\n","image":"i","name":"cowsay","cpu":"1"}"#);
    service.set_defaults();
    let json = service.to_json();
    assert!(
        json.starts_with(
            r#"{"name":"cowsay","cluster_id":"","memory":"256Mi","cpu":"1","total_memory":"","total_cpu":"","#
        ),
        "{json}"
    );
    assert!(json.contains(r#""script":"a\nb\n""#), "{json}");
    assert!(json.contains(r#""oscar_service":"cowsay""#), "{json}");
    assert!(json.contains(r#""log_level":"INFO""#), "{json}");
    assert!(
        json.contains(r#""max_scale":10,"cpu_threshold":80"#),
        "{json}"
    );
    for list in ["input", "output", "allowed_users", "bucket_list"] {
        assert!(json.contains(&format!(r#""{list}":[]"#)), "{json}");
    }
}

#[test]
fn a_single_port_is_a_number_for_old_clients() {
    let mut service = read(r#"{"expose":{"api_port":80,"nodePort":[1,2]}}"#);
    assert!(service.to_json().contains(r#""api_port":[80]"#));
    service.expose.write_scalars();
    let json = service.to_json();
    assert!(json.contains(r#""api_port":80,"#), "{json}");
    assert!(json.contains(r#""nodePort":[1,2]"#), "{json}");
}

#[test]
fn secrets_are_neither_shown_nor_debugged() {
    let service = read(
        r#"{"token":"hunter2","environment":{"secrets":{"KEY":"hunter2"}},
            "storage_providers":{"s3":{"a":{"access_key":"hunter2"}}}}"#,
    );
    let debugged = format!("{service:?}");
    assert!(!debugged.contains("hunter2"), "{debugged}");
    let shown = service.without_secrets().to_json();
    assert!(shown.contains(r#""secrets":{"KEY":""}"#), "{shown}");
}

#[test]
fn what_is_said_is_told_from_what_is_not() {
    let mut service = read(
        r#"{"name":"s","image":"model:m","cpu":"1","memory":"256Mi","labels":{"a":"b"},
            "synchronous":{"max_scale":2},"expose":{"min_scale":1},"environment":{"variables":{"A":"b"}}}"#,
    );
    service.set_defaults();
    let said = service.said();
    assert_eq!(
        said,
        [
            "cpu",
            "environment.variables",
            "image",
            "labels",
            "synchronous.max_scale"
        ]
    );
}

#[test]
fn a_model_is_named_by_image_or_block() {
    let model = read(r#"{"image":"model:yolox:2"}"#).model().unwrap();
    assert_eq!(
        (model.name.as_str(), model.version.as_str()),
        ("yolox", "2")
    );
    let mut service = read(r#"{"name":"s","model":{"name":"yolox","version":3}}"#);
    service.set_defaults();
    assert_eq!(service.image, "model:yolox:3");
    assert_eq!(read(r#"{"image":"cowsay"}"#).model(), None);
}
