//! Traces: whose request a line of the log is about, and, with the feature `otlp`, what a collector
//! gets: `cargo test -p gateway-server --features otlp traces`.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod spans;

use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::hearth::{Hearth, Store, eventually};
use crate::infer::tensor_request;

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Returns the `traceparent` of a caller who records.
pub(crate) fn traceparent() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}

/// As the route is called in logs and spans.
const INFER: &str = "/v2/models/{name}/infer";

const FAILS: &str = "/v2/models/fails_at_run/infer";

/// Sends what the model can't take, and returns why.
#[track_caller]
fn fail(hearth: &Hearth, headers: &[(&str, &[u8])]) -> String {
    let mut request = hearth.request("POST", FAILS);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tensor_request("index", "INT64", &[1], &[99]);
    hearth.send(request, body.as_bytes()).refusal(400)
}

/// Starts a gateway that logs also what is its callers' fault.
fn talkative(args: &[&str]) -> Hearth {
    let store = Store::new().with_tiny("fails_at_run");
    let data = Arc::new(TempDir::new().unwrap());
    Hearth::start_on(store, data, args, &[("RUST_LOG", "hearth=debug")])
}

/// Waits for so many lines about failed requests, and returns their fields.
fn failures(hearth: &Hearth, n_failures: usize) -> Vec<Value> {
    eventually("the failures are logged", || {
        let log = hearth.log();
        let lines = log.lines();
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let fields = lines.map(|line| line["fields"].clone());
        let failures: Vec<_> = fields.filter(|of| of["route"] == INFER).collect();
        (failures.len() == n_failures).then_some(failures)
    })
}

#[test]
fn the_log_of_a_failure_names_its_trace() {
    let hearth = talkative(&["--log-format", "json"]);
    let sentence = fail(&hearth, &[("traceparent", traceparent().as_bytes())]);
    let failure = &failures(&hearth, 1)[0];
    assert_eq!(failure["trace_id"], TRACE);
    assert_eq!(failure["span_id"], CALLER);
    assert!(failure["error"].as_str().unwrap().contains(&sentence));
    hearth.stop();
}

#[test]
fn the_log_for_people_names_the_trace_of_a_failure_and_of_an_answer() {
    let hearth = talkative(&[]);
    fail(&hearth, &[("traceparent", traceparent().as_bytes())]);
    let request = hearth
        .request("POST", FAILS)
        .header("traceparent", traceparent());
    let body = tensor_request("index", "INT64", &[1], &[0]);
    hearth.send(request, body.as_bytes()).ok();
    let named = format!("trace_id={TRACE}");
    for what in ["refused", "answered"] {
        eventually("the line is logged", || {
            let log = hearth.log();
            let mut lines = log.lines();
            lines.find(|line| line.contains(what) && line.contains(&named))?;
            Some(())
        });
    }
    hearth.stop();
}

#[test]
fn what_is_no_traceparent_is_ignored() {
    let hearth = talkative(&["--log-format", "json"]);
    let good = traceparent();
    let twice = [("traceparent", good.as_bytes()); 2];
    fail(&hearth, &twice);
    let long = format!("{good}-{}", "a".repeat(10_000));
    let hostile: [&[u8]; 8] = [
        b"",
        b"00",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e47\xff\xfe-00f067aa0ba902b7-01",
        long.as_bytes(),
    ];
    for value in hostile {
        fail(&hearth, &[("traceparent", value)]);
    }
    for failure in failures(&hearth, 1 + hostile.len()) {
        assert_eq!(failure.get("trace_id"), None, "{failure}");
    }
    hearth.stop();
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_an_exporter_says_so_and_serves() {
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")];
    let data = Arc::new(TempDir::new().unwrap());
    let store = Store::new().with_tiny("add_one");
    let hearth = Hearth::start_on(store, data, &[], &env);
    let log = hearth.log();
    assert!(
        log.contains("no traces are exported: this build can't"),
        "{log}"
    );
    assert!(log.contains("--features otlp"), "{log}");
    crate::add_one::post(&hearth, 1).ok();
    hearth.stop();
}
