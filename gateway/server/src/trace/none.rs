//! Nobody to export spans to: this build has no exporter, and there is never one.

use workers_protocol::{TraceContext, TraceId};

use super::Span;

/// There is none.
#[derive(Debug)]
pub(super) enum Exporter {}

impl Exporter {
    #[expect(clippy::unnecessary_wraps, reason = "as the other build has it")]
    pub(super) fn start(endpoint: &str) -> anyhow::Result<Option<Self>> {
        tracing::warn!(
            endpoint,
            "no traces are exported: this build can't; take the release image, or build with \
             `cargo build --release -p gateway-server --features otlp`"
        );
        Ok(None)
    }

    pub(super) const fn samples(&self, _: Option<TraceContext>, _: TraceId) -> bool {
        match *self {}
    }

    pub(super) fn export(&self, _: Span) {
        match *self {}
    }

    pub(super) const fn close(&self) {
        match *self {}
    }
}
