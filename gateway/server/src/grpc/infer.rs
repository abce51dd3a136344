//! `ModelInfer`, once and in streams: messages in, messages out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use workers_protocol::codec::{ENABLE_FINAL, Given, InferRequest, Place};
use workers_protocol::oip::infer_parameter::ParameterChoice;
use workers_protocol::oip::model_infer_response::InferOutputTensor;
use workers_protocol::oip::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};

use super::find;
use super::room::Room;
use crate::budget::Reservation;
use crate::entry::Deadline;
use crate::rest::{ApiError, Front, for_bytes};
use crate::trace::Trace;

/// What holds for every message of a call.
pub(super) struct Call {
    front: Arc<Front>,
    metadata: HeaderMap,
    /// When the caller stops waiting, as `grpc-timeout` says.
    deadline: Option<Deadline>,
    trace: Option<Trace>,
    room: Room,
}

impl Call {
    pub(super) fn begin<T>(front: &Arc<Front>, request: tonic::Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        let metadata = metadata.into_headers();
        let call = Self {
            front: Arc::clone(front),
            deadline: timeout(&metadata).map(Deadline::after),
            trace: extensions.get::<Trace>().copied(),
            room: extensions
                .get::<Room>()
                .cloned()
                .unwrap_or_else(|| Room::new(Arc::clone(&front.budget))),
            metadata,
        };
        (call, message)
    }

    /// Returns the room of the message that was read next.
    pub(super) fn room(&self) -> Reservation {
        self.room.take()
    }

    /// Answers one message. Cancel-safe: dropping the future frees its place at once.
    pub(super) async fn answer(
        &self,
        message: ModelInferRequest,
        mut reservation: Reservation,
    ) -> Result<ModelInferResponse, ApiError> {
        let front = &self.front;
        let revision = find(&front.catalog, &message.model_name, &message.model_version)?;
        let mut terms = front.terms(&self.metadata, &revision, self.trace)?;
        if let Some(deadline) = self.deadline.filter(|own| own.at < terms.deadline.at) {
            terms.deadline = deadline;
        }
        let mut request = for_bytes(typed_bytes(&message), || {
            let reserve = |bytes| reservation.grow(bytes);
            InferRequest::from_message(message, revision.target(), reserve)
        })?;
        reservation.shrink_to(request.input_bytes() as u64);
        let answered = front
            .answer_tensors(&revision, &mut request, terms, reservation)
            .await?;

        let mut response = ModelInferResponse {
            model_name: revision.name.to_string(),
            model_version: revision.version.to_string(),
            id: request.id.clone().unwrap_or_default(),
            ..ModelInferResponse::default()
        };
        let outputs = &answered.answer.outputs;
        for Given { tensor, place } in front.give(&revision, &request, outputs)? {
            response.outputs.push(InferOutputTensor {
                name: tensor.name.clone(),
                datatype: tensor.datatype.as_str().to_owned(),
                shape: tensor.shape.clone(),
                ..InferOutputTensor::default()
            });
            // What lies in shared memory keeps its place, since contents are found by counting.
            response.raw_output_contents.push(match place {
                Place::Shared(_) => Bytes::new(),
                Place::Json | Place::Binary => tensor.data.clone(),
            });
        }
        Ok(response)
    }

    /// Answers one message of a stream, with what went wrong where something did.
    pub(super) async fn answer_in_stream(
        &self,
        message: ModelInferRequest,
        room: Reservation,
    ) -> ModelStreamInferResponse {
        let id = message.id.clone();
        let asks_for_final = message.parameters.get(ENABLE_FINAL);
        let asks_for_final = asks_for_final.and_then(|asked| asked.parameter_choice.as_ref());
        let asks_for_final = matches!(asks_for_final, Some(ParameterChoice::BoolParam(true)));
        let (error_message, mut response) = match self.answer(message, room).await {
            Ok(response) => (String::new(), response),
            // Whose error it is, is said by the id.
            Err(error) => {
                let response = ModelInferResponse {
                    id,
                    ..ModelInferResponse::default()
                };
                (error.message().to_owned(), response)
            }
        };
        if asks_for_final {
            // Of models that answer each request once, every answer is the last.
            let parameter_choice = Some(ParameterChoice::BoolParam(true));
            let is_final = InferParameter { parameter_choice };
            let name = "triton_final_response".to_owned();
            response.parameters.insert(name, is_final);
        }
        ModelStreamInferResponse {
            error_message,
            infer_response: Some(response),
        }
    }
}

/// Reads `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2). What is no such thing is
/// ignored, as gRPC's own servers do.
fn timeout(metadata: &HeaderMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Returns how many bytes of a message have to be looked at one by one: raw contents are taken as
/// they are.
fn typed_bytes(message: &ModelInferRequest) -> usize {
    let contents = message
        .inputs
        .iter()
        .filter_map(|input| input.contents.as_ref());
    let bytes = contents.map(|contents| {
        let four = contents.int_contents.len()
            + contents.uint_contents.len()
            + contents.fp32_contents.len();
        let eight = contents.int64_contents.len()
            + contents.uint64_contents.len()
            + contents.fp64_contents.len();
        let strings: usize = contents.bytes_contents.iter().map(Bytes::len).sum();
        contents.bool_contents.len() + 4 * four + 8 * eight + strings
    });
    bytes.sum()
}
