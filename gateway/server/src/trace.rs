//! Distributed traces (OpenTelemetry): what of a request becomes spans.
//!
//! Nothing is recorded while a request is on its way. The times that are taken anyway become spans
//! when it is answered, those of the worker too: it says them with its answer
//! ([`Trail`](workers_protocol::wire::Trail)), because it knows no network and no credentials. Who
//! exports spans is chosen when Hearth is built; without the feature `otlp` nobody does, and traces
//! are only named in the log.

#[cfg(not(feature = "otlp"))]
#[path = "trace/none.rs"]
mod exporter;
#[cfg(feature = "otlp")]
#[path = "trace/otlp.rs"]
mod exporter;

use std::time::{Instant, SystemTime};

use gateway_scheduler::Time;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use workers_protocol::{SpanId, TraceContext};

use crate::entry::Outcome;
use crate::revision::Revision;
use crate::timeline;
use exporter::Exporter;

/// Makes spans, where somebody is to get them.
#[derive(Debug)]
pub(crate) struct Tracer(Option<Exporter>);

/// A request's place in a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    /// Its span; the caller's where it has none of its own.
    pub(crate) context: TraceContext,
    began: SystemTime,
}

/// An entry's place in a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryTrace {
    /// Its span.
    pub(crate) context: TraceContext,
    request: Trace,
}

/// A request that belongs to a trace. Its span is as long as this lives.
#[derive(Debug)]
pub(crate) struct Followed<'a> {
    tracer: &'a Tracer,
    trace: Trace,
    parent: Option<TraceContext>,
    state: Option<HeaderValue>,
    method: Method,
    uri: Uri,
    route: &'static str,
    /// `None` until it is answered.
    status: Option<StatusCode>,
}

/// A part of a request's time, in terms of OpenTelemetry.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "otlp"),
    expect(dead_code, reason = "read by those who export it")
)]
struct Span {
    context: TraceContext,
    parent: Option<SpanId>,
    process: Process,
    /// Of a request: the answer to somebody else's span.
    is_server: bool,
    /// What the caller's `tracestate` said.
    state: Option<HeaderValue>,
    name: String,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<(&'static str, Value)>,
    links: Vec<TraceContext>,
    error: Option<String>,
}

/// Where the time was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Gateway,
    Worker,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "otlp"),
    expect(dead_code, reason = "read by those who export it")
)]
enum Value {
    Text(String),
    Number(i64),
}

// === impl Tracer ===

impl Tracer {
    /// Begins to export to this endpoint, if there is one.
    ///
    /// # Errors
    /// A sentence about an endpoint or a variable that is wrong.
    pub(crate) fn start(endpoint: Option<&str>) -> anyhow::Result<Self> {
        let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty());
        let exporter = endpoint.map(Exporter::start).transpose()?;
        Ok(Self(exporter.flatten()))
    }

    /// Sends what was recorded and not sent yet. Blocks for seconds at most.
    pub(crate) fn close(&self) {
        if let Some(exporter) = &self.0 {
            exporter.close();
        }
    }

    /// Follows a request that its caller names a trace for, and where spans are exported every one.
    pub(crate) fn follow<B>(
        &self,
        request: &Request<B>,
        route: &'static str,
    ) -> Option<Followed<'_>> {
        let parent = parent(request.headers());
        let context = match &self.0 {
            Some(exporter) => {
                let own = parent.map_or_else(TraceContext::root, TraceContext::child);
                TraceContext {
                    is_sampled: exporter.samples(parent, own.trace_id),
                    ..own
                }
            }
            // Named in the log, and nothing is recorded of it.
            None => TraceContext {
                is_sampled: false,
                ..parent?
            },
        };
        Some(Followed {
            tracer: self,
            trace: Trace {
                context,
                began: SystemTime::now(),
            },
            parent,
            state: state(request.headers()),
            method: request.method().clone(),
            uri: request.uri().clone(),
            route,
            status: None,
        })
    }

    /// Records an entry that was answered; the scheduler's times are given meaning by `instant`.
    pub(crate) fn entry(
        &self,
        trace: EntryTrace,
        revision: &Revision,
        offered: Instant,
        outcome: &Outcome,
        instant: impl Fn(Time) -> Instant,
    ) {
        let EntryTrace { context, request } = trace;
        let Some(exporter) = self.0.as_ref().filter(|_| context.is_sampled) else {
            return;
        };
        let (now, ended) = (Instant::now(), SystemTime::now());
        // Clocks that people see may be set; between two instants there is the time that it took.
        let wall = |at: Instant| {
            let since = now.saturating_duration_since(at);
            ended.checked_sub(since).unwrap_or(ended)
        };
        let began = wall(offered);
        let answer = outcome.result.as_ref();
        let of_model = vec![
            ("hearth.model.name", Value::text(&revision.name)),
            ("hearth.model.version", Value::text(&revision.version)),
        ];
        let mut of_batch = of_model.clone();
        if let Ok(answer) = answer {
            let size = Value::Number(i64::from(answer.timing.batch_size));
            of_batch.push(("hearth.batch.size", size));
        }
        if let Some(why) = outcome.course.and_then(|course| course.why) {
            of_batch.push(("hearth.batch.limit", Value::text(timeline::reason(why))));
        }
        let parent = Some(context.span_id);
        let record = |process, name: &str, began, ended| {
            // What took no time did not happen.
            if began < ended {
                let context = context.child();
                let span = Span::new(context, parent, process, name, began, ended);
                exporter.export(span);
            }
        };

        let up = began + outcome.cold;
        record(Process::Gateway, "cold start", began, up);
        if let Some(course) = outcome.course {
            let [sent, staged, named] =
                [course.sent, course.staged, course.named].map(|time| wall(instant(time)));
            record(Process::Gateway, "queue", up, sent);
            record(Process::Gateway, "stage", sent, staged);
            record(Process::Gateway, "slot", staged, named);
        }
        let mut links = Vec::new();
        if let Ok(answer) = answer
            && let Some(trail) = &answer.trail
        {
            let timing = answer.timing;
            let work = |name, began, took| record(Process::Worker, name, began, began + took);
            work("decode", trail.decode, timing.decode);
            work("post", trail.post, timing.post);
            links.push(trail.run);
            if !trail.links.is_empty() {
                let ended = trail.infer + timing.infer;
                exporter.export(Span {
                    attributes: of_batch.clone(),
                    links: trail.links.clone(),
                    ..Span::new(
                        trail.run,
                        parent,
                        Process::Worker,
                        "infer",
                        trail.infer,
                        ended,
                    )
                });
            }
        }

        let span_of_request = Some(request.context.span_id);
        let entry = |context, name, began, ended| {
            Span::new(
                context,
                span_of_request,
                Process::Gateway,
                name,
                began,
                ended,
            )
        };
        exporter.export(Span {
            attributes: of_model,
            ..entry(context.child(), "admission", request.began, began)
        });
        exporter.export(Span {
            attributes: of_batch,
            links,
            error: answer.err().map(ToString::to_string),
            ..entry(context, "entry", began, ended)
        });
    }
}

/// Returns the caller's span. Several are none (W3C Trace Context, § 3.2).
fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all("traceparent").iter();
    let parent = TraceContext::parse(values.next()?.to_str().ok()?)?;
    values.next().is_none().then_some(parent)
}

/// Returns the caller's `tracestate`, of the length that the standard asks to pass on.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    const LONGEST: usize = 512;
    let state = headers.get("tracestate")?;
    (state.len() <= LONGEST).then(|| state.clone())
}

// === impl Trace ===

impl Trace {
    /// Returns a place for an entry of the request.
    pub(crate) fn entry(self) -> EntryTrace {
        EntryTrace {
            context: self.context.child(),
            request: self,
        }
    }
}

// === impl Followed ===

impl Followed<'_> {
    pub(crate) const fn trace(&self) -> Trace {
        self.trace
    }

    /// Ends the request's span.
    pub(crate) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Followed<'_> {
    /// Records the request, also one whose caller left.
    fn drop(&mut self) {
        let Trace { context, began } = self.trace;
        let Some(exporter) = self.tracer.0.as_ref().filter(|_| context.is_sampled) else {
            return;
        };
        let method = match &self.method {
            &(Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD)
            | &(Method::OPTIONS | Method::PATCH | Method::TRACE | Method::CONNECT) => {
                self.method.as_str()
            }
            // Callers may make methods up, and names have to be few.
            _ => "_OTHER",
        };
        // As OpenTelemetry's semantic conventions call it for servers of HTTP.
        let mut attributes = vec![
            ("http.request.method", Value::text(method)),
            ("http.route", Value::text(self.route)),
            ("url.path", Value::text(self.uri.path())),
            ("url.scheme", Value::text("http")),
        ];
        let mut error = None;
        match self.status {
            Some(status) => {
                let number = Value::Number(i64::from(status.as_u16()));
                attributes.push(("http.response.status_code", number));
                if status.is_server_error() {
                    attributes.push(("error.type", Value::text(status.as_str())));
                    error = Some(String::new());
                }
            }
            None => {
                attributes.push(("error.type", Value::text("cancelled")));
                error = Some("the caller left".to_owned());
            }
        }
        let name = format!("{method} {}", self.route);
        let parent = self.parent.map(|parent| parent.span_id);
        let ended = SystemTime::now();
        exporter.export(Span {
            is_server: true,
            state: self.state.take(),
            attributes,
            error,
            ..Span::new(context, parent, Process::Gateway, &name, began, ended)
        });
    }
}

// === impl Span, Value ===

impl Span {
    fn new(
        context: TraceContext,
        parent: Option<SpanId>,
        process: Process,
        name: &str,
        began: SystemTime,
        ended: SystemTime,
    ) -> Self {
        Self {
            context,
            parent,
            process,
            is_server: false,
            state: None,
            name: name.to_owned(),
            began,
            ended,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }
}

impl Value {
    fn text(text: &(impl ToString + ?Sized)) -> Self {
        Self::Text(text.to_string())
    }
}
