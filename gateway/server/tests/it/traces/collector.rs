//! A collector: takes spans with OTLP over HTTP, and keeps them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A collector on a port of its own. Its thread ends with the test's process.
#[derive(Debug)]
pub(super) struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
}

/// A span, and who sent it.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) service: String,
    pub(super) scope: String,
    /// The value of the header `x-token`.
    pub(super) token: Option<String>,
    pub(super) span: Span,
}

impl Collector {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&taken);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let spans = take(&socket.unwrap());
                kept.lock().unwrap().extend(spans);
            }
        });
        Self { address, taken }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all spans so far.
    pub(super) fn spans(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

impl Taken {
    /// Returns an attribute, as text.
    pub(super) fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }

    pub(super) fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub(super) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub(super) fn links(&self) -> Vec<&[u8]> {
        let links = self.span.links.iter();
        links.map(|link| &link.span_id[..]).collect()
    }
}

/// Takes what one connection brings, and closes it.
fn take(socket: &TcpStream) -> Vec<Taken> {
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    let header = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    assert_eq!(header("content-type").unwrap(), "application/x-protobuf");
    let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let mut socket = socket;
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .unwrap();
    let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    let mut taken = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.unwrap();
        let service = attribute(&resource.attributes, "service.name").unwrap();
        for of_scope in of_resource.scope_spans {
            let scope = of_scope.scope.unwrap().name;
            taken.extend(of_scope.spans.into_iter().map(|span| Taken {
                service: service.clone(),
                scope: scope.clone(),
                token: header("x-token"),
                span,
            }));
        }
    }
    taken
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()? {
        AnyValue {
            value: Some(Value::StringValue(text)),
        } => Some(text.clone()),
        AnyValue {
            value: Some(Value::IntValue(number)),
        } => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
