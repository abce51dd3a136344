use super::*;

use proptest::prelude::*;
use serde_json::json;

const INPUTS: [InputPath<'static>; 2] = [
    ("minio.default", "cow/in"),
    ("webdav.dcache", " /pool/new/ "),
];

fn parse(event: &Value) -> Event {
    Event::parse(event.to_string().as_bytes(), &INPUTS)
}

fn object(event: &Value) -> Object {
    match parse(event).input {
        Input::Object(object) => object,
        Input::Bytes(bytes) => panic!("not an object: {}", String::from_utf8_lossy(&bytes)),
    }
}

fn bytes(body: &[u8]) -> Vec<u8> {
    match Event::parse(body, &INPUTS).input {
        Input::Bytes(bytes) => bytes,
        Input::Object(object) => panic!("{object:?}"),
    }
}

fn minio(key: &str) -> Value {
    json!({"EventName": "s3:ObjectCreated:Put", "Key": format!("cow/{key}"), "Records": [{
        "eventSource": "minio:s3", "eventTime": "2026-01-02T03:04:05Z",
        "s3": {"bucket": {"name": "cow"}, "object": {"key": key, "size": 3}},
    }]})
}

#[test]
fn a_body_is_json_or_base64_or_itself() {
    assert_eq!(bytes(b"{\"message\": \"hi\"}"), b"{\"message\": \"hi\"}");
    assert_eq!(bytes(b"[1, 2]"), b"[1, 2]");
    assert_eq!(bytes(b"aGVsbG8="), b"hello");
    assert_eq!(bytes(b"aGVs\nbG8\n"), b"hello");
    assert_eq!(bytes(b"hello, world"), b"hello, world");
    assert_eq!(bytes(b"\x89PNG\0"), b"\x89PNG\0");
    assert_eq!(bytes(b""), b"");
    assert_eq!(bytes(b" \n"), b" \n");
    // Base64 of JSON is that JSON, and not opened further: it came as a file.
    assert_eq!(
        bytes(b"eyJodHRwTWV0aG9kIjoiR0VUIn0="),
        b"{\"httpMethod\":\"GET\"}"
    );
}

#[test]
fn what_an_api_gateway_passes_on_is_its_body() {
    let gateway = |body: Value| json!({"httpMethod": "POST", "body": body, "queryStringParameters": {"a": "b", "n": 1}});
    let event = parse(&gateway(json!("aGVsbG8=")));
    assert_eq!(event.input, Input::Bytes(b"hello".to_vec()));
    assert_eq!(
        event.query,
        [
            ("a".to_owned(), "b".to_owned()),
            ("n".to_owned(), "1".to_owned())
        ]
    );
    let event = parse(&gateway(json!({"message": "hi"})));
    assert_eq!(event.input, Input::Bytes(b"{\"message\":\"hi\"}".to_vec()));
    let event = parse(&json!({"httpMethod": "POST", "isBase64Encoded": true, "body": "MTIz"}));
    assert_eq!(event.input, Input::Bytes(b"123".to_vec()));
    let event = parse(&json!({"httpMethod": "GET", "body": null, "queryStringParameters": null}));
    assert_eq!(event.input, Input::Bytes(Vec::new()));
    // A storage event in it is one.
    let event = parse(&gateway(json!(minio("in/a.png").to_string())));
    assert_eq!(event.object_key(), Some("in/a.png"));
}

#[test]
fn storage_events_name_an_object() {
    let event = parse(&minio("in/a+photo%281%29.png"));
    assert_eq!(event.time.as_deref(), Some("2026-01-02T03:04:05Z"));
    let Input::Object(found) = event.input else {
        panic!("no object");
    };
    assert_eq!(
        found,
        Object {
            source: Source::Minio,
            bucket: "cow".to_owned(),
            key: "in/a photo(1).png".to_owned()
        }
    );
    for (name, source) in [("aws:s3", Source::S3), ("rucio", Source::Rucio)] {
        let mut event = minio("k");
        event["Records"][0]["eventSource"] = json!(name);
        assert_eq!(object(&event).source, source);
    }
    let onedata = json!({"Key": "/space/in/a.png", "Records": [
        {"objectKey": "a.png", "objectId": "1", "eventTime": "t", "eventSource": "OneTrigger"}]});
    let found = object(&onedata);
    assert_eq!(
        (found.source, found.key.as_str()),
        (Source::Onedata, "/space/in/a.png")
    );
    let unknown = json!({"Records": [{"eventSource": "aws:sqs"}]});
    assert!(matches!(parse(&unknown).input, Input::Bytes(_)));
}

#[test]
fn an_event_that_says_more_than_any_does_is_a_file() {
    let mut event = minio("in/a.png");
    event["Records"][0]["more"] = json!("x".repeat(1 << 20));
    assert!(matches!(parse(&event).input, Input::Bytes(_)));
    // What it only carries may be as long as it likes.
    let long = json!({"event": minio("in/a.png").to_string() + &" ".repeat(2 << 20)});
    assert_eq!(parse(&long).object_key(), Some("in/a.png"));
}

#[test]
fn events_of_dcache_are_relative_to_its_input() {
    let event =
        json!({"event": {"name": "a.dat", "mask": ["IN_CREATE"]}, "subscription": "https://x"});
    let found = object(&event);
    assert_eq!(
        (found.source, found.key.as_str()),
        (Source::Dcache, "pool/new/a.dat")
    );
    // A service without such an input takes it as it is.
    let other = Event::parse(event.to_string().as_bytes(), &[("webdav.other", "x")]);
    assert!(matches!(other.input, Input::Bytes(_)));
}

#[test]
fn events_of_rucio_have_scope_and_name() {
    let event = json!({"event_type": "create_did", "payload": {"scope": "user.a", "name": "file"}});
    let found = object(&event);
    assert_eq!(
        (found.source, found.bucket.as_str(), found.key.as_str()),
        (Source::Rucio, "user.a", "file")
    );
}

#[test]
fn a_delegated_event_is_opened() {
    let event = json!({"storage_provider": "minio.other", "event": minio("in/a").to_string()});
    let event = parse(&event);
    assert_eq!(event.storage_provider.as_deref(), Some("minio.other"));
    assert_eq!(event.object_key(), Some("in/a"));
    let event = parse(&json!({"event": "aGVsbG8="}));
    assert_eq!(event.input, Input::Bytes(b"hello".to_vec()));
}

#[test]
fn envelopes_without_end_are_not_opened_without_end() {
    let mut event = json!({"message": "hi"}).to_string();
    for _ in 0..10 {
        event = json!({"event": event}).to_string();
    }
    let Input::Bytes(left) = Event::parse(event.as_bytes(), &[]).input else {
        panic!("an object");
    };
    let left = String::from_utf8(left).unwrap();
    assert!(left.starts_with("{\"event\":"), "{left}");
}

proptest! {
    #[test]
    fn any_bytes_are_an_event(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        Event::parse(&body, &INPUTS);
    }

    #[test]
    fn any_json_of_known_words_is_an_event(
        words in proptest::collection::vec(
            proptest::sample::select(vec!["{\"Records\":[", "{\"eventSource\":\"minio:s3\",", "\"s3\":", "{\"event\":", "{\"httpMethod\":1,", "\"body\":", "null", "]", "}", ",", "\"x\"", "{}"]),
            0..12,
        )
    ) {
        Event::parse(words.concat().as_bytes(), &INPUTS);
    }
}
