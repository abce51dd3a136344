//! `POST /v2/models/{name}/infer`: tensors in, tensors out.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::try_join_all;
use gateway_scheduler::{Bucket, Cost, Staging};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use model_store::TensorSpec;
use workers_protocol::codec::{EncodedAnswer, Given, InferRequest, Place};
use workers_protocol::wire::PART_BYTES;
use workers_protocol::{CheckedInputs, InferError, PictureOptions, Tensor};

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
        let terms = self.terms(headers, revision, trace.map(|Extension(trace)| trace));
        let (terms, json_bytes) = match terms.and_then(|terms| Ok((terms, json_bytes(headers)?))) {
            Ok(said) => said,
            Err(error) => return Err(refuse(body, error)),
        };
        let body = self.turn_away(revision, &terms, body)?;
        let (body, mut reservation) = self.read(headers, body, terms.deadline).await?;

        let mut request = for_bytes(json_bytes.unwrap_or(body.len()), || {
            let reserve = |bytes| reservation.grow(bytes);
            InferRequest::parse(&body, json_bytes, revision.target(), reserve)
        })?;
        if json_bytes.is_none_or(|json_bytes| json_bytes == body.len()) {
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
            let given = self.give(revision, &request, outputs)?;
            EncodedAnswer::encode(request.id.as_deref(), name.as_str(), &version, &given)
        })?;
        Ok(with_timing(&answered, response(encoded)))
    }

    /// Sends a request's inputs, which it takes, through the scheduler, as one entry or, where they
    /// are more than a batch may have, as several; whatever protocol it came by.
    pub(crate) async fn answer_tensors(
        &self,
        revision: &Arc<Revision>,
        request: &mut InferRequest,
        mut terms: Terms,
        mut reservation: Reservation,
    ) -> Result<Answered, ApiError> {
        self.read_shared(request, &mut reservation)?;
        // The protocol's own parameter may only shorten what holds.
        let own = request.timeout.map(Deadline::after);
        if let Some(own) = own.filter(|own| own.at < terms.deadline.at) {
            terms.deadline = own;
        }
        if revision.model.spec.task.is_some() {
            return self
                .answer_pictures(revision, request, terms, reservation)
                .await;
        }
        let bytes = request.input_bytes();
        let inputs = std::mem::take(&mut request.inputs);
        let parts = for_bytes(bytes, || {
            CheckedInputs::check_split(revision.target(), inputs, |bytes| reservation.grow(bytes))
        })?;
        let reservation = Arc::new(reservation);
        let answers = parts.into_iter().map(|part| {
            let bytes: usize = part.inputs.iter().map(|input| input.data.len()).sum();
            let cost = Cost {
                bytes: bytes as u64,
                pixels: 0,
                items: part.items,
            };
            let staging = if bytes <= PART_BYTES {
                Staging::Inline(Bucket(part.bucket))
            } else {
                Staging::Reported
            };
            let admission = Admission {
                terms,
                cost,
                staging,
                reservation: Arc::clone(&reservation),
            };
            self.answer(revision, part.inputs, PictureOptions::default(), admission)
        });
        // All are offered before the first is waited for; where one is refused, or fails, the others
        // are dropped with it.
        let answers = try_join_all(answers).await?;
        Ok(joined(&revision.model.spec.outputs, answers)?)
    }
}

impl Front {
    /// Reads the inputs that lie in shared memory, and checks where outputs are to go, before the
    /// model runs.
    fn read_shared(
        &self,
        request: &mut InferRequest,
        reservation: &mut Reservation,
    ) -> Result<(), InferError> {
        for output in request.outputs.iter().flatten() {
            if let Some(range) = &output.shared {
                self.shared_memory.check(range, &output.name)?;
            }
        }
        let ranges = request.shared_inputs.iter();
        let bytes = ranges.fold(0_u64, |bytes, (_, range)| {
            bytes.saturating_add(range.byte_size)
        });
        for_bytes(usize::try_from(bytes).unwrap_or(usize::MAX), || {
            self.shared_memory.read_inputs(request, reservation)
        })
    }

    /// Returns the outputs that a request asked for, and writes those that go to shared memory.
    pub(crate) fn give<'a>(
        &self,
        revision: &Revision,
        request: &'a InferRequest,
        outputs: &'a [Tensor],
    ) -> Result<Vec<Given<'a>>, InferError> {
        let mut wanted = request.outputs.iter().flatten();
        let is_copied = wanted.any(|output| output.classes.is_some() || output.shared.is_some());
        let bytes = outputs.iter().map(|output| output.data.len()).sum();
        for_bytes(if is_copied { bytes } else { 0 }, || {
            let given = request.choose(revision.target(), outputs, &revision.labels)?;
            for Given { tensor, place } in &given {
                if let Place::Shared(range) = place {
                    self.shared_memory
                        .write_output(range, &tensor.name, &tensor.data)?;
                }
            }
            Ok(given)
        })
    }
}

/// Joins the answers of a request's parts; the slowest says where the time went.
fn joined(outputs: &[TensorSpec], mut answers: Vec<Answered>) -> Result<Answered, InferError> {
    let slowest = answers
        .iter()
        .enumerate()
        .max_by_key(|(_, answered)| answered.timeline.total)
        .map(|(index, _)| index)
        .ok_or_else(|| InferError::internal("a request without parts"))?;
    if answers.len() == 1 {
        return Ok(answers.swap_remove(slowest));
    }
    let bytes = answers
        .iter()
        .flat_map(|answered| &answered.answer.outputs)
        .map(|output| output.data.len())
        .sum();
    let join = |(index, output): (usize, &TensorSpec)| {
        let parts = answers
            .iter()
            .map(|answered| answered.answer.outputs.get(index));
        let parts: Option<Vec<_>> = parts.collect();
        match (parts, output.batch_axis) {
            (Some(parts), Some(axis)) => Tensor::join(&parts, axis),
            _ => Err(InferError::internal(
                "the parts of an answer can't be joined",
            )),
        }
    };
    let whole = for_bytes(bytes, || {
        outputs
            .iter()
            .enumerate()
            .map(join)
            .collect::<Result<_, _>>()
    })?;
    let mut answered = answers.swap_remove(slowest);
    answered.answer.outputs = whole;
    Ok(answered)
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
