//! `POST /run/{name}`: pictures in, predictions or drawn pictures out.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use workers_protocol::{DrawFormat, InferError, PictureOptions, Tensor};

use super::body::refuse;
use super::picture::{Pictures, pictures};
use super::{Answered, ApiError, Defaults, Front, Terms, for_bytes, with_timing};
use crate::budget::Reservation;
use crate::oscar::{Backend, Call, ModelService, Service, script};
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

/// What a request says before its body.
#[derive(Clone, Copy)]
struct Said<'a> {
    query: Option<&'a str>,
    headers: &'a HeaderMap,
    trace: Option<Trace>,
}

/// What a request asks for, checked as far as can be without its body.
#[derive(Debug)]
struct Asked {
    revision: Arc<Revision>,
    options: PictureOptions,
    terms: Terms,
    /// A service that is called takes and gives base64, as OSCAR's clients do, unless they say what
    /// they accept.
    service: Option<Arc<Service>>,
    is_base64_wanted: bool,
}

/// What is answered, before it is known how it goes over the wire.
struct Reply {
    status: StatusCode,
    media: &'static str,
    body: Bytes,
}

pub(super) async fn run(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    trace: Option<Extension<Trace>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let said = Said {
        query: query.as_deref(),
        headers: &headers,
        trace: trace.map(|Extension(trace)| trace),
    };
    let service = front.services.get(&name);
    let asked = match service.as_ref().map(|service| (service, &service.backend)) {
        Some((service, Backend::Script(script))) => {
            return script::run(&front, service, script, &headers, body).await;
        }
        Some((service, Backend::Model(model))) => front.asked_of_service(service, model, said),
        None => front.asked_of_model(&name, said),
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(error) => return Err(refuse(body, error)),
    };
    if let Some(service) = &asked.service {
        service.count(Call::Sync);
    }
    let body = front.turn_away(&asked.revision, &asked.terms, body)?;
    let (body, reservation) = front.read(&headers, body, asked.terms.deadline).await?;
    front.run(asked, body, reservation).await
}

/// What is found in what nobody waits for.
#[derive(Debug)]
pub(crate) struct FoundInBulk {
    pub(crate) json: Bytes,
    /// The picture with it, where it is wanted.
    pub(crate) drawing: Option<Bytes>,
    /// The first of it, cut out, where that is wanted.
    pub(crate) crops: Vec<Bytes>,
}

/// Answers a call of a service that nobody waits for, with all that its options ask for.
///
/// # Errors
/// Those of `/run`.
pub(crate) async fn bulk(
    front: &Front,
    service: &Arc<Service>,
    model: &ModelService,
    (body, mut reservation): (Bytes, Reservation),
) -> Result<FoundInBulk, ApiError> {
    let headers = HeaderMap::new();
    let said = Said {
        query: None,
        headers: &headers,
        trace: None,
    };
    let mut asked = front.asked_of_service(service, model, said)?;
    asked.options.crop = model.options.crop;
    // Everyone goes first, for as long as there is something more urgent.
    asked.terms = front.bulk();
    let Pictures { mut pictures, .. } = pictures(body, &mut reservation).await?;
    let reservation = Arc::new(reservation);
    let (revision, terms) = (&asked.revision, asked.terms);
    if pictures.len() == 1
        && let Some(picture) = pictures.pop()
    {
        let options = &asked.options;
        let answered = front.answer_picture(revision, picture, options, terms, &reservation);
        let answered = answered.await?;
        asked.count(&answered);
        let drawing = options.draw.map(|format| drawn(&answered, format));
        let crops = output(&answered, "crops").map(|crops| crops.bytes_elements().collect());
        return Ok(FoundInBulk {
            json: Reply::json(StatusCode::OK, &found(revision, &answered)?)?.body,
            drawing: drawing.transpose()?.map(|reply| reply.body),
            crops: crops.unwrap_or_default(),
        });
    }
    (asked.options.draw, asked.options.crop) = (None, None);
    let options = &asked.options;
    let answer = |picture| front.answer_picture(revision, picture, options, terms, &reservation);
    let answers = join_all(pictures.into_iter().map(answer)).await;
    for answered in answers.iter().flatten() {
        asked.count(answered);
    }
    let reply = several(revision, &answers)?;
    match reply.status.is_success() {
        true => Ok(FoundInBulk {
            json: reply.body,
            drawing: None,
            crops: Vec::new(),
        }),
        false => {
            let said = String::from_utf8_lossy(&reply.body).into_owned();
            Err(ApiError::with_status(reply.status, said))
        }
    }
}

impl Front {
    /// Checks what is asked of a service before its body is read.
    fn asked_of_service(
        &self,
        service: &Arc<Service>,
        model: &ModelService,
        said: Said<'_>,
    ) -> Result<Asked, InferError> {
        let defaults = Defaults {
            timeout: model.timeout,
            class: model.class,
        };
        let revision = self.services.revision(service, model)?;
        let mut asked = self.asked(revision, &model.options, said, defaults)?;
        asked.service = Some(Arc::clone(service));
        asked.is_base64_wanted = !is_accept_explicit(said.headers);
        Ok(asked)
    }

    /// Checks what is asked of a model before its body is read.
    fn asked_of_model(&self, name: &str, said: Said<'_>) -> Result<Asked, InferError> {
        let revision = self.catalog.find(name, None)?;
        let (options, defaults) = (PictureOptions::default(), Defaults::default());
        self.asked(revision, &options, said, defaults)
    }

    fn asked(
        &self,
        revision: Arc<Revision>,
        options: &PictureOptions,
        said: Said<'_>,
        defaults: Defaults,
    ) -> Result<Asked, InferError> {
        if revision.model.spec.task.is_none() {
            let name = &revision.name;
            return Err(InferError::invalid(format!(
                "model `{name}` takes tensors, not pictures: POST them to /v2/models/{name}/infer"
            )));
        }
        let mut options = read_options(options.clone(), said.query)?;
        if let Some(wanted) = wanted_answer(said.headers) {
            options.draw = wanted;
        }
        // Only jobs have where to keep them.
        options.crop = None;
        let terms = self.terms_or(said.headers, &revision, said.trace, defaults)?;
        Ok(Asked {
            revision,
            options,
            terms,
            service: None,
            is_base64_wanted: false,
        })
    }

    /// Finds what is asked for in the pictures of a body.
    async fn run(
        &self,
        asked: Asked,
        body: Bytes,
        mut reservation: Reservation,
    ) -> Result<Response, ApiError> {
        let Pictures {
            pictures,
            is_base64,
        } = pictures(body, &mut reservation).await?;
        let reservation = Arc::new(reservation);
        let (revision, options) = (&asked.revision, &asked.options);
        let answer =
            |picture| self.answer_picture(revision, picture, options, asked.terms, &reservation);

        if let [picture] = &pictures[..] {
            let answered = answer(picture.clone()).await?;
            asked.count(&answered);
            let reply = match options.draw {
                Some(format) => drawn(&answered, format)?,
                None => Reply::json(StatusCode::OK, &found(revision, &answered)?)?,
            };
            let as_base64 = is_base64 && asked.is_base64_wanted;
            return Ok(with_timing(&answered, reply.response(as_base64)));
        }
        if options.draw.is_some() {
            return Err(InferError::invalid(format!(
                "one picture at a time can be drawn into, got {}: ask for application/json, or send them one by one",
                pictures.len()
            ))
            .into());
        }
        let answers = join_all(pictures.into_iter().map(answer)).await;
        for answered in answers.iter().flatten() {
            asked.count(answered);
        }
        let response = several(revision, &answers)?.response(false);
        let all = answers.iter().flatten();
        let slowest = all.max_by_key(|answered| answered.timeline.total);
        Ok(match slowest {
            Some(slowest) => with_timing(slowest, response),
            None => response,
        })
    }
}

impl Asked {
    /// Counts the time that a service's model ran.
    fn count(&self, answered: &Answered) {
        if let Some(service) = &self.service {
            let timing = &answered.answer.timing;
            service
                .usage
                .worked(timing.infer / timing.batch_size.max(1));
        }
    }
}

impl Reply {
    fn json(status: StatusCode, value: &impl Serialize) -> Result<Self, InferError> {
        let body = serde_json::to_vec(value).map_err(|error| {
            InferError::internal(format!("the answer can't be written: {error}"))
        })?;
        Ok(Self {
            status,
            media: "application/json",
            body: body.into(),
        })
    }

    fn response(self, as_base64: bool) -> Response {
        let (media, body) = match as_base64 {
            true => {
                let text = for_bytes(self.body.len(), || BASE64_STANDARD.encode(&self.body));
                ("text/plain; charset=utf-8", text.into())
            }
            false => (self.media, self.body),
        };
        let media = HeaderValue::from_static(media);
        (self.status, [(header::CONTENT_TYPE, media)], body).into_response()
    }
}

/// Answers for several pictures, in their order: 200 where any was read, else the first one's error.
fn several(
    revision: &Revision,
    answers: &[Result<Answered, ApiError>],
) -> Result<Reply, InferError> {
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
    let is_any_read = answers.iter().any(Result::is_ok);
    let first = answers.first().and_then(|answered| answered.as_ref().err());
    match (is_any_read, first) {
        (true, _) => Reply::json(StatusCode::OK, &results),
        (false, Some(first)) => Reply::json(first.status(), &results),
        (false, None) => Err(InferError::internal("no picture was answered")),
    }
}

/// Reads `?score=`, `?iou=`, `?top_k=`, `?labels=` over what holds otherwise.
fn read_options(
    mut options: PictureOptions,
    query: Option<&str>,
) -> Result<PictureOptions, InferError> {
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
        let instead = match name {
            "draw" => Some("ask for a drawn picture with `Accept: image/jpeg`"),
            "crop" => Some("the jobs of a service with `crop` keep what is cut out"),
            _ => None,
        };
        if let Some(instead) = instead {
            return Err(InferError::invalid(format!(
                "`{name}` is no option: {instead}"
            )));
        }
        options.set(name, &value)?;
    }
    Ok(options)
}

/// Returns what `Accept` asks for, a drawn picture or none: the most wanted media type that there is
/// decides, of equals the first. Wildcards ask for nothing, since every client sends them.
fn wanted_answer(headers: &HeaderMap) -> Option<Option<DrawFormat>> {
    let mut best = (0.0, None);
    for range in accepted(headers) {
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
            best = (weight, Some(format));
        }
    }
    best.1
}

/// Whether `Accept` says anything but that everything is welcome.
fn is_accept_explicit(headers: &HeaderMap) -> bool {
    let media = |range: &str| {
        range
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    accepted(headers).any(|range| !matches!(media(range).as_str(), "" | "*/*"))
}

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::ACCEPT).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|value| value.split(','))
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

fn drawn(answered: &Answered, format: DrawFormat) -> Result<Reply, InferError> {
    let picture = output(answered, "drawing")
        .and_then(|drawing| drawing.bytes_elements().next())
        .ok_or_else(|| InferError::internal("the answer has no drawing"))?;
    let media = match format {
        DrawFormat::Jpeg => "image/jpeg",
        DrawFormat::Png => "image/png",
    };
    Ok(Reply {
        status: StatusCode::OK,
        media,
        body: picture,
    })
}
