//! Bodies that come compressed, and answers that go out so.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::Value;

use crate::add_one::{ADD_ONE, add_one, post, sum};
use crate::hearth::{Answer, Hearth, Store};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn send(hearth: &Hearth, coding: &str, body: &[u8]) -> Answer {
    let request = hearth.request("POST", ADD_ONE);
    hearth.send(request.header("content-encoding", coding), body)
}

#[test]
fn a_compressed_body_is_unwrapped() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let body = add_one(1);
    assert_eq!(sum(&send(&hearth, "gzip", &gzip(body.as_bytes()))), 2.0);
    assert_eq!(
        sum(&send(&hearth, "deflate", &deflate(body.as_bytes()))),
        2.0
    );
    assert_eq!(sum(&send(&hearth, "identity", body.as_bytes())), 2.0);
    for (coding, body, status, words) in [
        ("gzip", body.as_bytes(), 400, "not \"gzip\" throughout"),
        (
            "deflate",
            &gzip(body.as_bytes()),
            400,
            "not \"deflate\" throughout",
        ),
        (
            "br",
            body.as_bytes(),
            415,
            "expected gzip, deflate or identity",
        ),
        (
            "gzip, deflate",
            body.as_bytes(),
            415,
            "expected gzip, deflate or identity",
        ),
    ] {
        let sentence = send(&hearth, coding, body).refusal(status);
        assert!(sentence.contains(words), "{sentence}");
    }
    hearth.stop();
}

#[test]
fn a_small_body_that_becomes_a_large_one_is_refused_and_leaves_no_trace() {
    let args = ["--max-body", "1MiB", "--max-bytes-in-flight", "3MiB"];
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &args);
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let sentence = send(&hearth, "gzip", &bomb).refusal(413);
    assert!(
        sentence.contains("1048576 bytes once it is decoded"),
        "{sentence}"
    );
    let metrics = hearth.get("/metrics").text();
    assert!(
        metrics.contains("\nhearth_bytes_in_flight 0\n"),
        "{metrics}"
    );
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    hearth.stop();
}

#[test]
fn answers_that_may_be_large_are_wrapped_and_no_others() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let ask = |method, path, body: &str| {
        let request = hearth.request(method, path);
        let answer = hearth.send(
            request.header("accept-encoding", "deflate"),
            body.as_bytes(),
        );
        let is_wrapped = answer.header("content-encoding").is_some();
        (answer.status.as_u16(), is_wrapped)
    };
    let tensors = add_one(1);
    let instances = r#"{"instances": [[1, 1, 1, 1]]}"#;
    let slash = format!("{ADD_ONE}/");
    for (method, path, body, is_wrapped) in [
        (
            "POST",
            "/v2/models/add_one/versions/1/infer",
            &*tensors,
            true,
        ),
        ("POST", &*slash, &*tensors, true),
        ("POST", "/v1/models/add_one:predict", instances, true),
        ("GET", "/v1/models/add_one", "", true),
        ("GET", "/v2/models/add_one/stats", "", false),
        ("GET", "/v2/models/add_one", "", false),
    ] {
        assert_eq!(
            ask(method, path, body),
            (200, is_wrapped),
            "{method} {path}"
        );
    }
    let (status, is_wrapped) = ask("POST", ADD_ONE, "{}");
    assert_eq!((status, is_wrapped), (400, false), "no answer");
    hearth.stop();
}

#[test]
fn an_answer_is_wrapped_for_who_asks_for_it() {
    let hearth = Hearth::start(Store::new().with_tiny("add_one"), &[]);
    let body = add_one(1);
    let ask = |accepted: &str| {
        let request = hearth.request("POST", ADD_ONE);
        let answer = hearth.send(request.header("accept-encoding", accepted), body.as_bytes());
        assert_eq!(answer.status, 200);
        answer
    };
    let plain = ask("identity");
    assert_eq!(plain.header("content-encoding"), None);
    let deflated = ask("deflate");
    assert_eq!(deflated.header("content-encoding"), Some("deflate"));
    assert_eq!(deflated.header("vary"), Some("accept-encoding"));
    let mut text = Vec::new();
    ZlibDecoder::new(&deflated.body[..])
        .read_to_end(&mut text)
        .unwrap();
    assert_eq!(text, plain.body);
    // The client of these tests unwraps gzip by itself, so this one speaks HTTP by hand.
    let mut socket = hearth.connect();
    let head = format!(
        "POST {ADD_ONE} HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut text = Vec::new();
    GzDecoder::new(&answer[end + 4..])
        .read_to_end(&mut text)
        .unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["outputs"][0]["data"][0], 2.0);
    hearth.stop();
}
