//! `POST /run/{name}`: pictures in, predictions or drawn pictures out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::future::join_all;
use gateway_scheduler::{Cost, Staging};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use model_store::DataType;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use workers_protocol::wire::PICTURE_INPUT;
use workers_protocol::{DrawFormat, InferError, PictureHeader, PictureOptions, Tensor};

use super::body::refuse;
use super::picture::pictures;
use super::{Admission, Answered, ApiError, Front, Terms, with_timing};
use crate::revision::Revision;
use crate::trace::Trace;

/// What is found in one picture.
#[derive(Serialize)]
struct Found<'a> {
    model: &'a str,
    version: String,
    predictions: Vec<Prediction>,
    image: Size,
    /// There were more faces than the second stage takes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Serialize)]
struct Prediction {
    label: String,
    score: f32,
    /// How sure the second stage is of the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    label_score: Option<f32>,
    /// x1, y1, x2, y2 in pixels of the upright picture.
    #[serde(rename = "box", skip_serializing_if = "Option::is_none")]
    rect: Option<[f32; 4]>,
    /// Of a face, x and y in the same pixels: eyes, nose, corners of the mouth.
    #[serde(skip_serializing_if = "Option::is_none")]
    landmarks: Option<[[f32; 2]; 5]>,
}

#[derive(Serialize)]
struct Size {
    width: i64,
    height: i64,
}

/// Of several pictures, one that failed does not take the others with it.
#[derive(Serialize)]
#[serde(untagged)]
enum OneOfSeveral<'a> {
    Found(Found<'a>),
    Failed { error: String, status: u16 },
}

pub(super) async fn run(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    trace: Option<Extension<Trace>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let trace = trace.map(|Extension(trace)| trace);
    let (revision, options, terms) = match asked(&front, &name, query.as_deref(), &headers, trace) {
        Ok(terms) => terms,
        Err(error) => return Err(refuse(body, error)),
    };

    let (body, mut reservation) = front.read(&headers, body, terms.deadline).await?;
    let pictures = pictures(body, &mut reservation).await?;
    let reservation = Arc::new(reservation);
    let admission = |picture: &Bytes| {
        let header = PictureHeader::read(picture)?;
        let limit = front.limits.max_pixels;
        if header.pixels() > limit {
            return Err(InferError::too_large(format!(
                "the picture has {} × {} pixels, expected at most {limit} in all",
                header.width, header.height
            )));
        }
        let cost = Cost {
            bytes: picture.len() as u64,
            pixels: header.pixels(),
            items: 1,
        };
        Ok(Admission {
            terms,
            cost,
            staging: Staging::Reported,
            reservation: Arc::clone(&reservation),
        })
    };

    if let [picture] = &pictures[..] {
        let admission = admission(picture)?;
        let answered = front
            .answer(
                &revision,
                vec![input(picture.clone())],
                options.clone(),
                admission,
            )
            .await?;
        let response = match options.draw {
            Some(format) => drawn(&answered, format)?,
            None => Json(found(&revision, &answered)?).into_response(),
        };
        return Ok(with_timing(&answered, response));
    }
    if options.draw.is_some() {
        return Err(InferError::invalid(format!(
            "one picture at a time can be drawn into, got {}: ask for application/json, or send them one by one",
            pictures.len()
        ))
        .into());
    }
    let answers = pictures.into_iter().map(|picture| async {
        let admission = admission(&picture)?;
        front
            .answer(&revision, vec![input(picture)], options.clone(), admission)
            .await
    });
    several(&revision, &join_all(answers).await)
}

/// Checks everything that can be checked before the body is read.
fn asked(
    front: &Front,
    name: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    trace: Option<Trace>,
) -> Result<(Arc<Revision>, PictureOptions, Terms), InferError> {
    let revision = front.catalog.find(name, None)?;
    if revision.model.spec.task.is_none() {
        return Err(InferError::invalid(format!(
            "model `{name}` takes tensors, not pictures: POST them to /v2/models/{name}/infer"
        )));
    }
    let mut options = options(query)?;
    options.draw = drawing(headers);
    let terms = front.terms(headers, &revision, trace)?;
    Ok((revision, options, terms))
}

/// Answers for several pictures, in their order: 200 where any was read, else the first one's error.
fn several(
    revision: &Revision,
    answers: &[Result<Answered, ApiError>],
) -> Result<Response, ApiError> {
    let results: Vec<_> = answers
        .iter()
        .map(|answered| match answered {
            Ok(answered) => Ok(OneOfSeveral::Found(found(revision, answered)?)),
            Err(error) => Ok(OneOfSeveral::Failed {
                error: error.message().to_owned(),
                status: error.status().as_u16(),
            }),
        })
        .collect::<Result<_, InferError>>()?;
    let slowest = answers
        .iter()
        .flatten()
        .max_by_key(|answered| answered.timeline.total);
    match (slowest, answers.first()) {
        (Some(slowest), _) => Ok(with_timing(slowest, Json(results))),
        (None, Some(Err(first))) => Ok((first.status(), Json(results)).into_response()),
        (None, _) => Err(InferError::internal("no picture was answered").into()),
    }
}

/// Reads `?score=`, `?iou=`, `?top_k=`, `?labels=`.
fn options(query: Option<&str>) -> Result<PictureOptions, InferError> {
    let mut options = PictureOptions::default();
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value)
            .decode_utf8()
            .map_err(|_| InferError::invalid(format!("`{name}`: the value is not UTF-8")))?;
        if name == "draw" {
            return Err(InferError::invalid(
                "`draw` is no option: ask for a drawn picture with `Accept: image/jpeg`",
            ));
        }
        options.set(name, &value)?;
    }
    Ok(options)
}

/// Returns the format of the drawn picture that `Accept` asks for: the most wanted media type that
/// there is decides, of equals the first. Wildcards ask for JSON, since every client sends them.
fn drawing(headers: &HeaderMap) -> Option<DrawFormat> {
    let mut best = (0.0, None);
    for range in headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let format = match media {
            _ if media.eq_ignore_ascii_case("image/jpeg") => Some(DrawFormat::Jpeg),
            _ if media.eq_ignore_ascii_case("image/png") => Some(DrawFormat::Png),
            _ if media.eq_ignore_ascii_case("application/json") => None,
            _ => continue,
        };
        // RFC 9110 § 12.4.2: 1 where there is none, and 0 is unwanted.
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if weight > best.0 {
            best = (weight, format);
        }
    }
    best.1
}

fn input(picture: Bytes) -> Tensor {
    let length = i64::try_from(picture.len()).unwrap_or(i64::MAX);
    Tensor {
        name: PICTURE_INPUT.to_owned(),
        datatype: DataType::Uint8,
        shape: vec![length],
        data: picture,
    }
}

fn output<'a>(answered: &'a Answered, name: &str) -> Option<&'a Tensor> {
    answered
        .answer
        .outputs
        .iter()
        .find(|output| output.name == name)
}

fn found<'a>(revision: &'a Revision, answered: &Answered) -> Result<Found<'a>, InferError> {
    let floats = |name: &str| output(answered, name).map(|output| output.data.as_chunks::<4>().0);
    let float = |chunks: Option<&[[u8; 4]]>, at: usize| {
        chunks?.get(at).map(|bytes| f32::from_le_bytes(*bytes))
    };
    let (scores, label_scores, boxes) = (floats("scores"), floats("label_scores"), floats("boxes"));
    let landmarks = floats("landmarks");
    let labels = output(answered, "labels")
        .ok_or_else(|| InferError::internal("the answer has no labels"))?;
    let predictions = labels
        .bytes_elements()
        .enumerate()
        .map(|(at, label)| Prediction {
            label: String::from_utf8_lossy(&label).into_owned(),
            score: float(scores, at).unwrap_or_default(),
            label_score: float(label_scores, at),
            rect: boxes
                .and_then(|boxes| boxes.get(4 * at..4 * at + 4))
                .map(|sides| [0, 1, 2, 3].map(|side| f32::from_le_bytes(sides[side]))),
            landmarks: landmarks
                .and_then(|all| all.get(10 * at..10 * at + 10))
                .map(|sides| {
                    let number = |index: usize| f32::from_le_bytes(sides[index]);
                    [0, 1, 2, 3, 4].map(|point| [number(2 * point), number(2 * point + 1)])
                }),
        })
        .collect();
    let size = output(answered, "size").map(|size| size.data.as_chunks::<8>().0);
    let side = |at: usize| {
        size.and_then(|size| size.get(at))
            .map_or(0, |bytes| i64::from_le_bytes(*bytes))
    };
    Ok(Found {
        model: revision.name.as_str(),
        version: revision.version.to_string(),
        predictions,
        image: Size {
            width: side(0),
            height: side(1),
        },
        truncated: output(answered, "truncated").is_some_and(|flag| flag.data.first() == Some(&1)),
    })
}

fn drawn(answered: &Answered, format: DrawFormat) -> Result<Response, InferError> {
    let picture = output(answered, "drawing")
        .and_then(|drawing| drawing.bytes_elements().next())
        .ok_or_else(|| InferError::internal("the answer has no drawing"))?;
    let media = match format {
        DrawFormat::Jpeg => "image/jpeg",
        DrawFormat::Png => "image/png",
    };
    Ok((
        StatusCode::OK,
        [(header::CONTENT_TYPE, HeaderValue::from_static(media))],
        picture,
    )
        .into_response())
}
