//! What a collector gets of requests.

use std::net::TcpListener;
use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tempfile::TempDir;

use super::collector::{Collector, Taken};
use super::{CALLER, TRACE, fail, traceparent};
use crate::add_one::{ADD_ONE, Halted, add_one, await_metric, await_running, post, sum, worker};
use crate::hearth::{Answer, Hearth, Store};
use crate::pictures::{RED, encode, picture_models, plain};

/// Starts a gateway that exports to this collector.
fn traced(store: Store, endpoint: &str, env: &[(&str, &str)]) -> Hearth {
    let data = Arc::new(TempDir::new().unwrap());
    Hearth::start_on(store, data, &["--otlp-endpoint", endpoint], env)
}

fn post_as(hearth: &Hearth, headers: &[(&str, &str)]) -> Answer {
    let mut request = hearth.request("POST", ADD_ONE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    hearth.send(request, add_one(1).as_bytes())
}

/// Stops the gateway, which sends what is left, and returns the spans of inferences by their name.
fn spans_of(hearth: Hearth, collector: &Collector) -> Vec<Taken> {
    hearth.stop();
    let mut spans = collector.spans();
    let is_look = |span: &Taken| span.span.name.starts_with("GET ");
    let looks: Vec<_> = spans.iter().filter(|span| is_look(span)).collect();
    assert!(looks.iter().all(|look| look.parent().is_empty()));
    spans.retain(|span| !is_look(span));
    spans
}

#[track_caller]
fn only<'a>(spans: &'a [Taken], name: &str) -> &'a Taken {
    let mut named = spans.iter().filter(|span| span.span.name == name);
    let names: Vec<_> = spans.iter().map(|span| &span.span.name).collect();
    let found = named.next().unwrap_or_else(|| panic!("{name}: {names:?}"));
    assert!(named.next().is_none(), "{name}: {names:?}");
    found
}

/// Checks that a span lies within another, as a child.
#[track_caller]
fn assert_within(child: &Taken, parent: &Taken) {
    let (child, parent) = (&child.span, &parent.span);
    assert_eq!(child.trace_id, parent.trace_id);
    assert_eq!(child.parent_span_id, parent.span_id, "{}", child.name);
    // Each process takes the time by itself.
    const SLACK: u64 = 1_000_000;
    let is_within = parent.start_time_unix_nano <= child.start_time_unix_nano + SLACK
        && child.start_time_unix_nano <= child.end_time_unix_nano
        && child.end_time_unix_nano <= parent.end_time_unix_nano + SLACK;
    assert!(is_within, "{child:?}\nis not within\n{parent:?}");
}

#[test]
fn a_request_is_one_trace_of_both_processes() {
    let collector = Collector::start();
    let env = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret"),
        ("OTEL_SERVICE_NAME", "faces"),
    ];
    let hearth = traced(picture_models(), &collector.endpoint(), &env);
    let request = hearth
        .request("POST", "/run/mean?top_k=1")
        .header("traceparent", traceparent())
        .header("tracestate", "vendor=opaque");
    let picture = encode(&plain(640, 480, RED), image::ImageFormat::Png);
    hearth.send(request, &picture[..]).ok();
    let spans = spans_of(hearth, &collector);

    let request = only(&spans, "POST /run/{name}");
    assert_eq!(
        (request.trace_id(), request.parent()),
        (TRACE.to_owned(), CALLER.to_owned())
    );
    assert_eq!(request.span.trace_state, "vendor=opaque");
    assert_eq!(request.span.kind(), SpanKind::Server);
    assert_eq!(request.service, "faces");
    assert_eq!(request.token.as_deref(), Some("secret"));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/run/{name}"),
        ("url.path", "/run/mean"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(request.attribute(key).as_deref(), Some(value));
    }
    assert_within(only(&spans, "admission"), request);
    let entry = only(&spans, "entry");
    assert_within(entry, request);
    for (name, scope) in [
        ("cold start", "hearth"),
        ("stage", "hearth"),
        ("decode", "hearth-worker"),
        ("infer", "hearth-worker"),
        ("post", "hearth-worker"),
    ] {
        let phase = only(&spans, name);
        assert_eq!(phase.scope, scope, "{name}");
        assert_within(phase, entry);
    }
    let infer = only(&spans, "infer");
    assert_eq!(infer.links(), [&entry.span.span_id]);
    assert_eq!(entry.links(), [&infer.span.span_id]);
    for span in [entry, infer] {
        for (key, value) in [
            ("hearth.model.name", "mean"),
            ("hearth.model.version", "1"),
            ("hearth.batch.size", "1"),
        ] {
            assert_eq!(span.attribute(key).as_deref(), Some(value));
        }
        assert!(span.attribute("hearth.batch.limit").is_some());
    }
}

#[test]
fn a_batch_is_one_span_linked_with_its_entries() {
    let collector = Collector::start();
    let store = Store::new().with_tiny("add_one");
    let hearth = traced(store, &collector.endpoint(), &[]);
    post_as(&hearth, &[]).ok();
    std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let mut answers = vec![scope.spawn(|| post_as(&hearth, &[]))];
        await_running(&hearth);
        answers.extend((0..2).map(|_| scope.spawn(|| post_as(&hearth, &[]))));
        await_metric(&hearth, "staged_entries", "add_one", 2.0);
        drop(halted);
        for answer in answers {
            assert_eq!(sum(&answer.join().unwrap()), 2.0);
        }
    });
    let spans = spans_of(hearth, &collector);
    // Nobody named a trace: each request is one of its own.
    let requests: Vec<_> = spans
        .iter()
        .filter(|span| span.span.name.starts_with("POST "))
        .collect();
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().all(|request| request.parent().is_empty()));

    let of_batch = |name: &str| -> Vec<&Taken> {
        let named = spans.iter().filter(|span| span.span.name == name);
        named
            .filter(|span| span.attribute("hearth.batch.size").as_deref() == Some("2"))
            .collect()
    };
    let (entries, runs) = (of_batch("entry"), of_batch("infer"));
    let &[run] = &runs[..] else {
        panic!("one run is expected: {runs:?}");
    };
    assert_eq!(entries.len(), 2);
    let mut linked = run.links();
    let mut ids: Vec<_> = entries
        .iter()
        .map(|entry| &entry.span.span_id[..])
        .collect();
    linked.sort_unstable();
    ids.sort_unstable();
    assert_eq!(linked, ids);
    for entry in &entries {
        assert_eq!(entry.links(), [&run.span.span_id]);
        assert_eq!(entry.span.links[0].trace_id, run.span.trace_id);
    }
    // It is of the trace of one of them.
    assert!(ids.contains(&&run.span.parent_span_id[..]));
    // They waited for their slot while the first ran.
    let slots = spans.iter().filter(|span| span.span.name == "slot");
    assert_eq!(slots.count(), 2);
}

#[test]
fn what_fails_says_why() {
    let collector = Collector::start();
    let store = Store::new().with_tiny("fails_at_run");
    let hearth = traced(store, &collector.endpoint(), &[]);
    let sentence = fail(&hearth, &[]);
    let spans = spans_of(hearth, &collector);
    let request = only(&spans, "POST /v2/models/{name}/infer");
    let status = request.attribute("http.response.status_code");
    assert_eq!(status.as_deref(), Some("400"));
    // Of a server's span an error is its own (semantic conventions for HTTP).
    let status = request.span.status.clone().unwrap_or_default();
    assert_eq!(status.code(), StatusCode::Unset);
    let status = only(&spans, "entry").span.status.clone().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(status.message.contains(&sentence), "{}", status.message);
}

#[test]
fn only_what_is_sampled_is_sent() {
    let collector = Collector::start();
    let store = || Store::new().with_tiny("add_one");
    let unsampled = traceparent().replace("-01", "-00");
    // By default the caller decides, where there is one.
    let hearth = traced(store(), &collector.endpoint(), &[]);
    post_as(&hearth, &[("traceparent", &unsampled)]).ok();
    assert!(spans_of(hearth, &collector).is_empty());

    let env = [("OTEL_TRACES_SAMPLER", "always_off")];
    let hearth = traced(store(), &collector.endpoint(), &env);
    post_as(&hearth, &[("traceparent", &traceparent())]).ok();
    assert!(spans_of(hearth, &collector).is_empty());
}

#[test]
fn without_its_collector_a_gateway_serves_and_stops() {
    // Nobody listens there any more.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let store = Store::new().with_tiny("add_one");
    let hearth = traced(store, &format!("http://{address}"), &[]);
    assert_eq!(sum(&post(&hearth, 1)), 2.0);
    hearth.stop();
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    let folder = TempDir::new().unwrap();
    let output = crate::hearth::finish(
        crate::hearth::command()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--otlp-endpoint",
                "no url",
                "--store",
            ])
            .arg(folder.path())
            .arg("--data")
            .arg(folder.path().join("data")),
    );
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("error: can't export traces to \"no url\""),
        "{text}"
    );
}
