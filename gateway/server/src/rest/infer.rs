//! `POST /v2/models/{name}/infer`: tensors in, tensors out.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use gateway_scheduler::{Bucket, Cost, Staging};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use workers_protocol::codec::{EncodedAnswer, InferRequest};
use workers_protocol::wire::PART_BYTES;
use workers_protocol::{CheckedInputs, InferError, PictureOptions};

use super::body::refuse;
use super::{Admission, Answered, ApiError, Front, Terms, for_bytes, with_timing};
use crate::budget::Reservation;
use crate::entry::Deadline;
use crate::revision::Revision;
use crate::trace::Trace;

const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(super) async fn infer(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    trace: Option<Extension<Trace>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let revision = match front.catalog.find(&name, None) {
        Ok(revision) => revision,
        Err(error) => return Err(refuse(body, error)),
    };
    front.infer(&revision, trace, &headers, body).await
}

pub(super) async fn infer_version(
    State(front): State<Arc<Front>>,
    Path((name, version)): Path<(String, String)>,
    trace: Option<Extension<Trace>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let revision = match front.catalog.find(&name, Some(&version)) {
        Ok(revision) => revision,
        Err(error) => return Err(refuse(body, error)),
    };
    front.infer(&revision, trace, &headers, body).await
}

impl Front {
    async fn infer(
        &self,
        revision: &Arc<Revision>,
        trace: Option<Extension<Trace>>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        revision.takes_tensors()?;
        let terms = self.terms(headers, revision, trace.map(|Extension(trace)| trace))?;
        let json_bytes = json_bytes(headers)?;
        let (body, mut reservation) = self.read(headers, body, terms.deadline).await?;

        let mut request = for_bytes(json_bytes.unwrap_or(body.len()), || {
            InferRequest::parse(&body, json_bytes, |bytes| reservation.grow(bytes))
        })?;
        if json_bytes.is_none() {
            // The text is not needed any more; binary tensors share the body's memory.
            drop(body);
            reservation.shrink_to(request.input_bytes() as u64);
        }
        let answered = self
            .answer_tensors(revision, &mut request, terms, reservation)
            .await?;

        let name = &revision.name;
        let version = revision.version.to_string();
        let outputs = &answered.answer.outputs;
        let bytes = outputs.iter().map(|output| output.data.len()).sum();
        let encoded = for_bytes(bytes, || {
            EncodedAnswer::encode(&request, name.as_str(), &version, outputs)
        })?;
        Ok(with_timing(&answered, response(encoded)))
    }

    /// Sends a request's inputs, which it takes, through the scheduler; whatever protocol it came by.
    pub(crate) async fn answer_tensors(
        &self,
        revision: &Arc<Revision>,
        request: &mut InferRequest,
        mut terms: Terms,
        reservation: Reservation,
    ) -> Result<Answered, ApiError> {
        // The protocol's own parameter may only shorten what holds.
        let own = request.timeout.map(Deadline::after);
        if let Some(own) = own.filter(|own| own.at < terms.deadline.at) {
            terms.deadline = own;
        }
        let bytes = request.input_bytes();
        let inputs = std::mem::take(&mut request.inputs);
        let checked = CheckedInputs::check(&revision.model.spec, inputs)?;
        let cost = Cost {
            bytes: bytes as u64,
            pixels: 0,
            items: checked.items,
        };
        let staging = if bytes <= PART_BYTES {
            Staging::Inline(Bucket(checked.bucket))
        } else {
            Staging::Reported
        };
        let admission = Admission {
            terms,
            cost,
            staging,
            reservation: Arc::new(reservation),
        };
        let options = PictureOptions::default();
        self.answer(revision, checked.inputs, options, admission)
            .await
    }
}

fn json_bytes(headers: &HeaderMap) -> Result<Option<usize>, InferError> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok(None);
    };
    let length = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        InferError::invalid(format!(
            "Inference-Header-Content-Length: expected a number of bytes, got {value:?}"
        ))
    })
}

fn response(encoded: EncodedAnswer) -> Response {
    let media = |media: &'static str| (header::CONTENT_TYPE, HeaderValue::from_static(media));
    match encoded.json_bytes {
        Some(json_bytes) => {
            let length = (JSON_LENGTH, HeaderValue::from(json_bytes as u64));
            ([media("application/octet-stream"), length], encoded.body).into_response()
        }
        None => ([media("application/json")], encoded.body).into_response(),
    }
}
