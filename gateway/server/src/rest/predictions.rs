//! Pictures as tensors: a model with a task over the Open Inference Protocol, whatever it came by.
//!
//! The input is `image`, BYTES `[n]` or `[n, 1]`, each element an encoded picture, or one in base64,
//! since JSON carries no bytes.
//! The outputs are those of one picture (`workers/server/src/model/predictions.rs`), one after
//! another along the first dimension, where the second is free with zeros and empty strings after
//! the `counts` that were found; and `errors`, what went wrong with each, empty where nothing did.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::join_all;
use gateway_scheduler::{Cost, Staging};
use model_store::DataType;
use workers_protocol::codec::InferRequest;
use workers_protocol::wire::{PICTURE_ERRORS, PICTURE_INPUT};
use workers_protocol::{InferError, PictureHeader, PictureOptions, Tensor};

use super::picture::{self, MAX_PICTURES};
use super::{Admission, Answered, ApiError, Front, Terms, for_bytes};
use crate::budget::Reservation;
use crate::revision::Revision;

/// Most predictions of an answer, those that fill it up included: some tens of megabytes.
const MAX_PREDICTIONS: usize = 1_000_000;

impl Front {
    /// Sends one encoded picture through the scheduler.
    pub(super) async fn answer_picture(
        &self,
        revision: &Arc<Revision>,
        picture: Bytes,
        options: &PictureOptions,
        terms: Terms,
        reservation: &Arc<Reservation>,
    ) -> Result<Answered, ApiError> {
        let header = PictureHeader::read(&picture)?;
        let limit = self.limits.max_pixels;
        if header.pixels() > limit {
            return Err(InferError::too_large(format!(
                "the picture has {} × {} pixels, expected at most {limit} in all",
                header.width, header.height
            ))
            .into());
        }
        let admission = Admission {
            terms,
            cost: Cost {
                bytes: picture.len() as u64,
                pixels: header.pixels(),
                items: 1,
            },
            staging: Staging::Reported,
            reservation: Arc::clone(reservation),
        };
        let input = Tensor {
            name: PICTURE_INPUT.to_owned(),
            datatype: DataType::Uint8,
            shape: vec![i64::try_from(picture.len()).unwrap_or(i64::MAX)],
            data: picture,
        };
        self.answer(revision, vec![input], options.clone(), admission)
            .await
    }

    /// Sends the pictures of a request, which it takes, through the scheduler, each as an entry that
    /// fails alone. Where all do, the first one's error is the request's.
    pub(super) async fn answer_pictures(
        &self,
        revision: &Arc<Revision>,
        request: &mut InferRequest,
        terms: Terms,
        mut reservation: Reservation,
    ) -> Result<Answered, ApiError> {
        let mut options = PictureOptions::default();
        for (name, text) in &request.options {
            options.set(name, text)?;
        }
        let elements = pictures(revision.name.as_str(), &std::mem::take(&mut request.inputs))?;
        let read = |(index, element): (usize, &Bytes)| {
            picture::one(&format!("element {index}"), element, &mut reservation)
        };
        let pictures: Vec<_> = elements.iter().enumerate().map(read).collect();
        let reservation = Arc::new(reservation);
        let answers = pictures.into_iter().map(|picture| async {
            let picture = picture?;
            self.answer_picture(revision, picture, &options, terms, &reservation)
                .await
        });
        gathered(join_all(answers).await)
    }
}

/// Returns the elements of the one input.
fn pictures(model: &str, inputs: &[Tensor]) -> Result<Vec<Bytes>, InferError> {
    let is_other = |input: &&Tensor| input.name != PICTURE_INPUT;
    if let Some(other) = inputs.iter().find(is_other) {
        return Err(InferError::invalid(format!(
            "unexpected inference input '{}' for model '{model}': it takes '{PICTURE_INPUT}'",
            other.name
        )));
    }
    let [input] = inputs else {
        return Err(InferError::invalid(format!(
            "expected 1 inputs but got {} inputs for model '{model}': it takes '{PICTURE_INPUT}'",
            inputs.len()
        )));
    };
    if input.datatype != DataType::Bytes {
        return Err(InferError::invalid(format!(
            "inference input '{PICTURE_INPUT}' data-type is '{}', but model '{model}' expects 'BYTES'",
            input.datatype
        )));
    }
    input.check_length()?;
    match input.shape[..] {
        [n] | [n, 1] if n > 0 => {
            if usize::try_from(n).is_ok_and(|n| n <= MAX_PICTURES) {
                return Ok(input.bytes_elements().collect());
            }
            Err(InferError::too_large(format!(
                "input `{PICTURE_INPUT}`: expected at most {MAX_PICTURES} pictures in a request, got {n}"
            )))
        }
        _ => Err(InferError::invalid(format!(
            "unexpected shape for input '{PICTURE_INPUT}' for model '{model}'. Expected [n,1] or [n] \
             of n pictures, got {:?}",
            input.shape
        ))),
    }
}

/// Puts the answers for several pictures into one, in their order; the slowest says where the time
/// went.
fn gathered(answers: Vec<Result<Answered, ApiError>>) -> Result<Answered, ApiError> {
    let outputs =
        |answer: &Result<Answered, ApiError>| Some(answer.as_ref().ok()?.answer.outputs.len());
    let Some(n_outputs) = answers.iter().find_map(outputs) else {
        let first = answers.into_iter().find_map(Result::err);
        return Err(first.unwrap_or_else(|| InferError::internal("no picture was answered").into()));
    };
    let answered = answers.iter().flatten();
    let outputs = answered.flat_map(|answered| &answered.answer.outputs);
    let bytes = outputs.map(|output| output.data.len()).sum();
    let mut whole: Vec<Tensor> = for_bytes(bytes, || {
        let of_each = |index: usize| {
            let outputs = answers.iter().map(|answer| match answer {
                Ok(answered) => {
                    let output = answered.answer.outputs.get(index);
                    output.map(Some).ok_or_else(broken)
                }
                Err(_) => Ok(None),
            });
            stacked(&outputs.collect::<Result<Vec<_>, InferError>>()?)
        };
        (0..n_outputs)
            .map(of_each)
            .collect::<Result<_, InferError>>()
    })?;
    whole.push(errors(&answers));
    let slowest = answers
        .into_iter()
        .flatten()
        .max_by_key(|answered| answered.timeline.total);
    let mut answered = slowest.ok_or_else(broken)?;
    answered.answer.outputs = whole;
    Ok(answered)
}

fn broken() -> InferError {
    InferError::internal("an answer is not that of its task")
}

/// Puts one output of each picture after another, filled up to the longest; `None` is one that failed.
///
/// # Errors
/// `TooLarge` where that would be more than there may be; `Internal` where a worker sent no such
/// output.
fn stacked(pictures: &[Option<&Tensor>]) -> Result<Tensor, InferError> {
    let length = |tensor: &Tensor| {
        let length = tensor.shape.get(1).copied();
        length.and_then(|length| usize::try_from(length).ok())
    };
    let first = pictures.iter().flatten().next().ok_or_else(broken)?;
    let mut longest = 0;
    for tensor in pictures.iter().flatten() {
        let is_alike = tensor.name == first.name && tensor.shape.get(2..) == first.shape.get(2..);
        if !is_alike || tensor.check_length().is_err() {
            return Err(broken());
        }
        longest = longest.max(length(tensor).ok_or_else(broken)?);
    }
    if longest.saturating_mul(pictures.len()) > MAX_PREDICTIONS {
        return Err(InferError::too_large(format!(
            "{} pictures with up to {longest} predictions each are more than {MAX_PREDICTIONS}: \
             ask for fewer, by `top_k` for example",
            pictures.len()
        )));
    }
    let mut inner = first.shape.iter().skip(2);
    let elements = inner.try_fold(1_usize, |product, &side| {
        product.checked_mul(usize::try_from(side).ok()?)
    });
    // Of an empty string there is its length.
    let element_bytes = first.datatype.element_bytes().unwrap_or(size_of::<u32>());
    let row_bytes = elements.and_then(|elements| elements.checked_mul(element_bytes));
    let row_bytes = row_bytes.ok_or_else(broken)?;
    let mut data = BytesMut::new();
    for tensor in pictures {
        let found = tensor.and_then(length).unwrap_or(0);
        data.put_slice(tensor.map_or(&[], |tensor| &tensor.data));
        data.put_bytes(0, (longest - found) * row_bytes);
    }
    let mut shape = first.shape.clone();
    let side = |side: usize| i64::try_from(side).unwrap_or(i64::MAX);
    shape.splice(..2, [side(pictures.len()), side(longest)]);
    Ok(Tensor {
        name: first.name.clone(),
        datatype: first.datatype,
        shape,
        data: data.freeze(),
    })
}

fn errors(answers: &[Result<Answered, ApiError>]) -> Tensor {
    let mut data = BytesMut::new();
    for answer in answers {
        let message = answer.as_ref().err().map_or("", ApiError::message);
        data.put_u32_le(u32::try_from(message.len()).unwrap_or(u32::MAX));
        data.put_slice(message.as_bytes());
    }
    Tensor {
        name: PICTURE_ERRORS.to_owned(),
        datatype: DataType::Bytes,
        shape: vec![i64::try_from(answers.len()).unwrap_or(i64::MAX), 1],
        data: data.freeze(),
    }
}
