//! Exports spans with OTLP over HTTP, in the background and in batches. What there is no room for is
//! dropped, never waited for.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::trace::{
    Link, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Config, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks,
    SpanProcessor as _,
};
use workers_protocol::{SpanId, TraceContext, TraceId};

use super::{Process, Span, Value};

/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Samples spans and sends them. What is not said here is configured by OpenTelemetry's own
/// variables, which its libraries read: headers, sampler, batches, resource.
#[derive(Debug)]
pub(super) struct Exporter {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    gateway: InstrumentationScope,
    worker: InstrumentationScope,
}

/// The HTTP client that the gateway has anyway.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Exporter {
    /// Starts the thread that exports to this collector.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub(super) fn start(endpoint: &str) -> anyhow::Result<Option<Self>> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Client(agent.into()))
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .build()
            .with_context(|| format!("can't export traces to {endpoint:?}"))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource());
        tracing::info!(endpoint, "traces are exported");
        Ok(Some(Self {
            processor,
            sampler: Config::default().sampler,
            gateway: InstrumentationScope::builder("hearth").build(),
            worker: InstrumentationScope::builder("hearth-worker").build(),
        }))
    }

    /// Whether a request's trace is recorded.
    pub(super) fn samples(&self, parent: Option<TraceContext>, trace_id: TraceId) -> bool {
        let parent = parent.map(|parent| Context::new().with_remote_span_context(remote(parent)));
        let trace_id = trace_id.get().into();
        let kind = SpanKind::Server;
        let sampled = self
            .sampler
            .should_sample(parent.as_ref(), trace_id, "", &kind, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    /// Hands a span to the thread that exports.
    pub(super) fn export(&self, span: Span) {
        let state = span
            .state
            .and_then(|state| state.to_str().ok()?.parse().ok())
            .unwrap_or_default();
        let mut links = SpanLinks::default();
        links.links = span
            .links
            .into_iter()
            .map(|to| Link::with_context(remote(to)))
            .collect();
        self.processor.on_end(SpanData {
            span_context: span_context(span.context, false, state),
            parent_span_id: span
                .parent
                .map_or(opentelemetry::SpanId::INVALID, |parent: SpanId| {
                    parent.get().into()
                }),
            parent_span_is_remote: span.is_server && span.parent.is_some(),
            span_kind: if span.is_server {
                SpanKind::Server
            } else {
                SpanKind::Internal
            },
            name: Cow::Owned(span.name),
            start_time: span.began,
            end_time: span.ended,
            attributes: span
                .attributes
                .into_iter()
                .map(|(key, value)| match value {
                    Value::Text(text) => KeyValue::new(key, text),
                    Value::Number(number) => KeyValue::new(key, number),
                })
                .collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: match span.process {
                Process::Gateway => self.gateway.clone(),
                Process::Worker => self.worker.clone(),
            },
        });
    }

    /// Sends what is left.
    pub(super) fn close(&self) {
        if let Err(error) = self.processor.shutdown() {
            tracing::warn!(%error, "the last spans are lost");
        }
    }
}

fn remote(context: TraceContext) -> SpanContext {
    span_context(context, true, TraceState::default())
}

fn span_context(context: TraceContext, is_remote: bool, state: TraceState) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(context.is_sampled);
    let (trace_id, span_id) = (context.trace_id.get().into(), context.span_id.get().into());
    SpanContext::new(trace_id, span_id, flags, is_remote, state)
}

/// Returns who we are: what the environment says, and our name where it does not say that.
fn resource() -> Resource {
    let resource = Resource::builder().build();
    let name = resource.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    if is_named {
        return resource;
    }
    Resource::builder().with_service_name("hearth").build()
}

// === impl Client ===

#[tonic::async_trait]
impl HttpClient for Client {
    /// Blocks: it is only called on the exporter's own thread.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let response = self.0.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = response.into_parts();
        let bytes = body.read_to_vec()?;
        Ok(Response::from_parts(head, bytes.into()))
    }
}
