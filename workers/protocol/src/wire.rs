//! The dialect of the Open Inference Protocol that gateway and worker speak over one long-lived
//! `ModelStreamInfer` stream.
//!
//! A plain OIP client is understood too: a request without any `hearth_…` parameter is staged and
//! run at once. With them, staging and running come apart:
//!
//! | gateway → worker | is |
//! |---|---|
//! | `id`, inputs, `hearth_stage: true` | an [`Entry`]: prepare it, report `staged`, wait to be named |
//! | the same with `hearth_bulk: true` | nobody waits for it |
//! | `id`, one raw content, `hearth_input: n` | the next part of input `n` of an entry sent in parts |
//! | `hearth_run: "id id …"` | run these as one batch |
//! | `hearth_forget: "id id …"` | their callers are gone |
//!
//! | worker → gateway | is |
//! |---|---|
//! | `hearth_wire: "1"` and [`Credits`] | loaded and ready; the first message |
//! | `id`, `hearth_staged: bucket` | prepared |
//! | `hearth_free: id`, `infer_us` | the slot of the run whose first id was this is free (post-processing may still be under way) |
//! | `id`, outputs, [`Timing`] | the answer |
//! | `id`, `error_message`, `hearth_code` | the answer, an error |
//!
//! An entry larger than [`PART_BYTES`] goes in parts, each a message of its own, so that a run
//! message never waits behind a photo: the first carries the inputs' names and shapes and the
//! total in `hearth_bytes`, the last lacks `hearth_more`.
//!
//! An entry that belongs to a trace says so in `traceparent`; where that is sampled, its answer
//! brings a [`Trail`], of which the gateway makes spans: a worker knows nobody to send them to.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use model_store::DataType;

use crate::oip::infer_parameter::ParameterChoice;
use crate::oip::model_infer_request::InferInputTensor;
use crate::oip::model_infer_response::InferOutputTensor;
use crate::oip::{InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use crate::{Code, DrawFormat, InferError, PictureOptions, Tensor, TraceContext};

/// The wire's version, sent with readiness.
pub const VERSION: &str = "1";

/// Batches that may be named beyond the slots of a worker: what it works on while a message goes to
/// the gateway and back.
pub const MAX_NAMED_AHEAD: usize = 16;

/// Largest part of an entry in one message. At this size copying a part takes some tens of
/// microseconds, which bounds what a run message can wait behind.
pub const PART_BYTES: usize = 256 * 1024;

/// Largest entry: what a worker makes room for. A gateway takes no larger bodies.
pub const MAX_ENTRY_BYTES: u64 = 128 << 20;

/// Most entries that one run is linked with: what OpenTelemetry keeps of a span's links by default.
pub const MAX_LINKS: usize = 128;

/// Name of the `BYTES` input that carries an encoded picture to a model with a task.
pub const PICTURE_INPUT: &str = "image";

/// Name of the `BYTES` output that says what went wrong with each picture, of those that a gateway
/// was sent at once.
pub const PICTURE_ERRORS: &str = "errors";

/// A message to a worker.
#[derive(Debug)]
pub enum Command {
    /// One request.
    Entry(Entry),
    /// More of an entry's bytes.
    Part(Part),
    /// Run these staged entries as one batch.
    Run(Vec<String>),
    /// The callers of these are gone.
    Forget(Vec<String>),
}

/// One request on its way to a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Chosen by the sender, unique on its stream while in flight.
    pub id: String,
    /// Inputs; where `more` follows, their data are yet to come.
    pub inputs: Vec<Tensor>,
    /// What the caller chose, for a model with a task.
    pub options: PictureOptions,
    /// Time left when it was sent.
    pub timeout: Option<Duration>,
    /// Wait to be named by a run message.
    pub stage_only: bool,
    /// Nobody waits for it: it is prepared when nothing else wants the processor.
    pub is_bulk: bool,
    /// Bytes that follow in parts; none: the inputs are complete.
    pub parts_bytes: Option<u64>,
    /// The span that it belongs to.
    pub trace: Option<TraceContext>,
}

/// A part of an entry.
#[derive(Debug)]
pub struct Part {
    /// The entry.
    pub id: String,
    /// Index of the input that it continues.
    pub input_index: usize,
    /// The bytes.
    pub data: Bytes,
    /// Whether another part follows.
    pub has_more: bool,
}

/// A message from a worker.
#[derive(Debug)]
pub enum Event {
    /// Loaded, and ready for entries.
    Ready(Credits),
    /// The entry is prepared and may be named.
    Staged {
        /// The entry.
        id: String,
        /// Entries share a batch only within one bucket.
        bucket: u64,
    },
    /// The slot of a run is free again.
    Free {
        /// The first id that the run named, whatever has become of that entry.
        run: String,
        /// How long the engine took for it.
        infer: Duration,
    },
    /// The entry's answer; nothing follows for it.
    Answer {
        /// The entry.
        id: String,
        /// Its outputs, or why there are none.
        result: Result<Answer, InferError>,
    },
}

/// What a worker takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credits {
    /// Batches run at a time.
    pub slots: u32,
    /// Entries held that are not running.
    pub stage_entries: u32,
    /// Their bytes.
    pub stage_bytes: u64,
    /// Their pixels.
    pub stage_pixels: u64,
}

/// A worker's answer to one entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Output tensors.
    pub outputs: Vec<Tensor>,
    /// Where its time went.
    pub timing: Timing,
    /// When that was, of an entry that is traced.
    pub trail: Option<Box<Trail>>,
}

/// When a traced entry was worked on and in which run, to make spans of with its [`Timing`]. Times
/// are those of the worker's clock, to the nanosecond.
#[derive(Clone, Debug, PartialEq)]
pub struct Trail {
    /// When it began to be decoded.
    pub decode: SystemTime,
    /// When its batch began to run.
    pub infer: SystemTime,
    /// When it began to be post-processed.
    pub post: SystemTime,
    /// The span of the run. It is of the trace of one of the batch's entries.
    pub run: TraceContext,
    /// On that entry alone: the traced entries of the batch, [`MAX_LINKS`] at most.
    pub links: Vec<TraceContext>,
}

/// Where an entry's time went in the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Decoding, resizing, normalising.
    pub decode: Duration,
    /// The engine's run of its batch.
    pub infer: Duration,
    /// Heads, NMS, drawing, encoding.
    pub post: Duration,
    /// Items of its batch.
    pub batch_size: u32,
}

// === to a worker ===

impl Entry {
    /// Returns the message, or messages where the entry is larger than [`PART_BYTES`], in order.
    ///
    /// Lazy: a part's message is made when it is asked for, so a large entry is never copied whole.
    pub fn into_messages(mut self) -> impl Iterator<Item = ModelInferRequest> + Send {
        let total: usize = self.inputs.iter().map(|input| input.data.len()).sum();
        let mut parts = Vec::new();
        if total > PART_BYTES {
            self.parts_bytes = Some(total as u64);
            for (input_index, input) in self.inputs.iter_mut().enumerate() {
                let mut data = std::mem::take(&mut input.data);
                while !data.is_empty() {
                    let part = data.split_to(data.len().min(PART_BYTES));
                    parts.push((input_index, part));
                }
            }
        }
        let id = self.id.clone();
        let n_parts = parts.len();
        let parts = parts
            .into_iter()
            .enumerate()
            .map(move |(at, (input_index, data))| {
                let has_more = at + 1 < n_parts;
                Part {
                    id: id.clone(),
                    input_index,
                    data,
                    has_more,
                }
                .into_message()
            });
        std::iter::once(self.into_message()).chain(parts)
    }

    fn into_message(self) -> ModelInferRequest {
        let mut parameters = BTreeMap::new();
        self.options.write(&mut parameters);
        if let Some(timeout) = self.timeout {
            let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
            set(
                &mut parameters,
                "timeout",
                ParameterChoice::Int64Param(micros),
            );
        }
        if self.stage_only {
            set(
                &mut parameters,
                "hearth_stage",
                ParameterChoice::BoolParam(true),
            );
        }
        if self.is_bulk {
            set(
                &mut parameters,
                "hearth_bulk",
                ParameterChoice::BoolParam(true),
            );
        }
        if let Some(bytes) = self.parts_bytes {
            set(
                &mut parameters,
                "hearth_bytes",
                ParameterChoice::Uint64Param(bytes),
            );
        }
        if let Some(trace) = self.trace {
            set(
                &mut parameters,
                "traceparent",
                ParameterChoice::StringParam(trace.to_string()),
            );
        }
        let (inputs, raw_input_contents) = self
            .inputs
            .into_iter()
            .map(|input| {
                let header = InferInputTensor {
                    name: input.name,
                    datatype: input.datatype.as_str().to_owned(),
                    shape: input.shape,
                    parameters: BTreeMap::new(),
                    contents: None,
                };
                (header, input.data)
            })
            .unzip();
        ModelInferRequest {
            id: self.id,
            parameters,
            inputs,
            raw_input_contents,
            ..Default::default()
        }
    }
}

impl Part {
    fn into_message(self) -> ModelInferRequest {
        let mut parameters = BTreeMap::new();
        set(
            &mut parameters,
            "hearth_input",
            ParameterChoice::Uint64Param(self.input_index as u64),
        );
        if self.has_more {
            set(
                &mut parameters,
                "hearth_more",
                ParameterChoice::BoolParam(true),
            );
        }
        ModelInferRequest {
            id: self.id,
            parameters,
            raw_input_contents: vec![self.data],
            ..Default::default()
        }
    }
}

/// Returns the message that names a batch.
pub fn run_message(ids: impl Iterator<Item = u64>) -> ModelInferRequest {
    ids_message("hearth_run", ids)
}

/// Returns the message that cancels entries.
pub fn forget_message(ids: impl Iterator<Item = u64>) -> ModelInferRequest {
    ids_message("hearth_forget", ids)
}

fn ids_message(key: &str, ids: impl Iterator<Item = u64>) -> ModelInferRequest {
    use std::fmt::Write as _;
    let mut text = String::new();
    for id in ids {
        // Writing to a String can't fail.
        let _ = write!(text, "{}{id}", if text.is_empty() { "" } else { " " });
    }
    let mut parameters = BTreeMap::new();
    set(&mut parameters, key, ParameterChoice::StringParam(text));
    ModelInferRequest {
        parameters,
        ..Default::default()
    }
}

impl Command {
    /// Reads a message from a gateway, or from any OIP client.
    ///
    /// # Errors
    /// The id to answer to (empty where there is none) and `InvalidArgument`.
    pub fn from_message(message: ModelInferRequest) -> Result<Self, (String, InferError)> {
        let ids = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect();
        if let Some(text) = text_of(&message.parameters, "hearth_run") {
            return Ok(Self::Run(ids(text)));
        }
        if let Some(text) = text_of(&message.parameters, "hearth_forget") {
            return Ok(Self::Forget(ids(text)));
        }
        if let Some(index) = number_of(&message.parameters, "hearth_input") {
            return Part::from_message(message, index).map(Self::Part);
        }
        Entry::from_message(message).map(Self::Entry)
    }
}

impl Part {
    fn from_message(message: ModelInferRequest, index: i64) -> Result<Self, (String, InferError)> {
        let has_more = flag_of(&message.parameters, "hearth_more");
        let part = usize::try_from(index)
            .ok()
            .zip(message.raw_input_contents.into_iter().next());
        match part {
            Some((input_index, data)) => Ok(Self {
                id: message.id,
                input_index,
                data,
                has_more,
            }),
            None => Err((
                message.id,
                InferError::invalid("a part needs an input's index and its bytes"),
            )),
        }
    }
}

impl Entry {
    fn from_message(message: ModelInferRequest) -> Result<Self, (String, InferError)> {
        let parameters = &message.parameters;
        let options = match PictureOptions::read(parameters) {
            Ok(options) => options,
            Err(error) => return Err((message.id, error)),
        };
        let timeout = number_of(parameters, "timeout")
            .and_then(|micros| u64::try_from(micros).ok())
            .filter(|&micros| micros > 0)
            .map(Duration::from_micros);
        let stage_only = flag_of(parameters, "hearth_stage");
        let is_bulk = flag_of(parameters, "hearth_bulk");
        let parts_bytes =
            number_of(parameters, "hearth_bytes").and_then(|bytes| u64::try_from(bytes).ok());
        let trace = text_of(parameters, "traceparent").and_then(TraceContext::parse);
        match tensors(
            message.inputs,
            message.raw_input_contents,
            parts_bytes.is_some(),
        ) {
            Ok(inputs) => Ok(Self {
                id: message.id,
                inputs,
                options,
                timeout,
                stage_only,
                is_bulk,
                parts_bytes,
                trace,
            }),
            Err(error) => Err((message.id, error)),
        }
    }
}

/// Joins the headers of inputs with their raw contents.
fn tensors(
    headers: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
    follows_in_parts: bool,
) -> Result<Vec<Tensor>, InferError> {
    let n_headers = headers.len();
    if raw.len() != n_headers {
        return Err(InferError::invalid(format!(
            "expected the raw contents of {n_headers} inputs, got {}: typed contents are not read here",
            raw.len()
        )));
    }
    headers
        .into_iter()
        .zip(raw)
        .map(|(header, data)| {
            let datatype: DataType = header.datatype.parse().map_err(|()| {
                InferError::invalid(format!(
                    "input `{}`: {:?} is no datatype of the protocol",
                    header.name, header.datatype
                ))
            })?;
            let tensor = Tensor {
                name: header.name,
                datatype,
                shape: header.shape,
                data,
            };
            if !follows_in_parts {
                tensor.check_length()?;
            }
            Ok(tensor)
        })
        .collect()
}

// === from a worker ===

impl Event {
    /// Returns the message.
    pub fn into_message(self) -> ModelStreamInferResponse {
        let mut parameters = BTreeMap::new();
        let mut response = ModelInferResponse::default();
        let mut error_message = String::new();
        match self {
            Self::Ready(credits) => {
                set(
                    &mut parameters,
                    "hearth_wire",
                    ParameterChoice::StringParam(VERSION.to_owned()),
                );
                for (key, value) in [
                    ("slots", u64::from(credits.slots)),
                    ("stage_entries", u64::from(credits.stage_entries)),
                    ("stage_bytes", credits.stage_bytes),
                    ("stage_pixels", credits.stage_pixels),
                ] {
                    set(&mut parameters, key, ParameterChoice::Uint64Param(value));
                }
            }
            Self::Staged { id, bucket } => {
                response.id = id;
                set(
                    &mut parameters,
                    "hearth_staged",
                    ParameterChoice::Uint64Param(bucket),
                );
            }
            Self::Free { run, infer } => {
                set(
                    &mut parameters,
                    "infer_us",
                    ParameterChoice::Uint64Param(
                        u64::try_from(infer.as_micros()).unwrap_or(u64::MAX),
                    ),
                );
                set(
                    &mut parameters,
                    "hearth_free",
                    ParameterChoice::StringParam(run),
                );
            }
            Self::Answer {
                id,
                result: Ok(answer),
            } => {
                response.id = id;
                answer.timing.write(&mut parameters);
                if let Some(trail) = answer.trail {
                    trail.write(&mut parameters);
                }
                (response.outputs, response.raw_output_contents) = headers(answer.outputs);
            }
            Self::Answer {
                id,
                result: Err(error),
            } => {
                response.id = id;
                let code = i64::from(error.code.grpc_code());
                set(
                    &mut parameters,
                    "hearth_code",
                    ParameterChoice::Int64Param(code),
                );
                error_message = error.message;
            }
        }
        response.parameters = parameters;
        ModelStreamInferResponse {
            error_message,
            infer_response: Some(response),
        }
    }

    /// Reads a message from a worker.
    ///
    /// # Errors
    /// `Internal` when it is none of the dialect: the worker is not ours, or not of this version.
    pub fn from_message(message: ModelStreamInferResponse) -> Result<Self, InferError> {
        let response = message.infer_response.ok_or_else(|| {
            InferError::internal(format!("the worker failed: {}", message.error_message))
        })?;
        let parameters = &response.parameters;
        let code = number_of(parameters, "hearth_code");
        if code.is_some() || !message.error_message.is_empty() {
            let code = code.map_or(Code::Internal, Code::from_grpc_code);
            let result = Err(InferError::new(code, message.error_message));
            return Ok(Self::Answer {
                id: response.id,
                result,
            });
        }
        if let Some(version) = text_of(parameters, "hearth_wire") {
            return Self::ready(version, parameters);
        }
        if let Some(run) = text_of(parameters, "hearth_free") {
            return Ok(Self::Free {
                run: run.to_owned(),
                infer: Timing::read(parameters).infer,
            });
        }
        if let Some(bucket) = unsigned_of(parameters, "hearth_staged") {
            return Ok(Self::Staged {
                id: response.id,
                bucket,
            });
        }
        let timing = Timing::read(parameters);
        let trail = Trail::read(parameters).map(Box::new);
        let outputs = outputs(response.outputs, response.raw_output_contents)?;
        Ok(Self::Answer {
            id: response.id,
            result: Ok(Answer {
                outputs,
                timing,
                trail,
            }),
        })
    }

    fn ready(
        version: &str,
        parameters: &BTreeMap<String, InferParameter>,
    ) -> Result<Self, InferError> {
        if version != VERSION {
            return Err(InferError::internal(format!(
                "the worker speaks version {version:?} of the wire, this gateway speaks {VERSION:?}"
            )));
        }
        let number = |key: &str| unsigned_of(parameters, key).unwrap_or(0);
        Ok(Self::Ready(Credits {
            slots: u32::try_from(number("slots")).unwrap_or(u32::MAX),
            stage_entries: u32::try_from(number("stage_entries")).unwrap_or(u32::MAX),
            stage_bytes: number("stage_bytes"),
            stage_pixels: number("stage_pixels"),
        }))
    }
}

fn headers(outputs: Vec<Tensor>) -> (Vec<InferOutputTensor>, Vec<Bytes>) {
    outputs
        .into_iter()
        .map(|output| {
            let header = InferOutputTensor {
                name: output.name,
                datatype: output.datatype.as_str().to_owned(),
                shape: output.shape,
                parameters: BTreeMap::new(),
                contents: None,
            };
            (header, output.data)
        })
        .unzip()
}

fn outputs(headers: Vec<InferOutputTensor>, raw: Vec<Bytes>) -> Result<Vec<Tensor>, InferError> {
    if headers.len() != raw.len() {
        return Err(InferError::internal(format!(
            "the worker's answer has {} outputs and the contents of {}",
            headers.len(),
            raw.len()
        )));
    }
    headers
        .into_iter()
        .zip(raw)
        .map(|(header, data)| {
            let datatype = header.datatype.parse().map_err(|()| {
                InferError::internal(format!(
                    "output `{}`: {:?} is no datatype",
                    header.name, header.datatype
                ))
            })?;
            Ok(Tensor {
                name: header.name,
                datatype,
                shape: header.shape,
                data,
            })
        })
        .collect()
}

impl Answer {
    /// Returns the plain OIP response, for a unary call.
    pub fn into_response(self, id: String) -> ModelInferResponse {
        let mut parameters = BTreeMap::new();
        self.timing.write(&mut parameters);
        let (outputs, raw_output_contents) = headers(self.outputs);
        ModelInferResponse {
            id,
            parameters,
            outputs,
            raw_output_contents,
            ..Default::default()
        }
    }
}

impl Timing {
    fn write(self, parameters: &mut BTreeMap<String, InferParameter>) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        for (key, value) in [
            ("decode_us", micros(self.decode)),
            ("infer_us", micros(self.infer)),
            ("post_us", micros(self.post)),
            ("batch_size", u64::from(self.batch_size)),
        ] {
            set(parameters, key, ParameterChoice::Uint64Param(value));
        }
    }

    fn read(parameters: &BTreeMap<String, InferParameter>) -> Self {
        let number = |key: &str| unsigned_of(parameters, key).unwrap_or(0);
        Self {
            decode: Duration::from_micros(number("decode_us")),
            infer: Duration::from_micros(number("infer_us")),
            post: Duration::from_micros(number("post_us")),
            batch_size: u32::try_from(number("batch_size")).unwrap_or(u32::MAX),
        }
    }
}

impl Trail {
    fn write(self, parameters: &mut BTreeMap<String, InferParameter>) {
        for (key, at) in [
            ("hearth_decode_at", self.decode),
            ("hearth_infer_at", self.infer),
            ("hearth_post_at", self.post),
        ] {
            // Zero for a clock that is before 1970.
            let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            set(parameters, key, ParameterChoice::Uint64Param(nanos));
        }
        let links: Vec<_> = self.links.iter().map(ToString::to_string).collect();
        for (key, text) in [
            ("hearth_run_span", self.run.to_string()),
            ("hearth_links", links.join(" ")),
        ] {
            set(parameters, key, ParameterChoice::StringParam(text));
        }
    }

    fn read(parameters: &BTreeMap<String, InferParameter>) -> Option<Self> {
        let run = TraceContext::parse(text_of(parameters, "hearth_run_span")?)?;
        let time = |key: &str| {
            let since = Duration::from_nanos(unsigned_of(parameters, key).unwrap_or(0));
            UNIX_EPOCH + since
        };
        let links = text_of(parameters, "hearth_links").unwrap_or_default();
        Some(Self {
            decode: time("hearth_decode_at"),
            infer: time("hearth_infer_at"),
            post: time("hearth_post_at"),
            run,
            links: links
                .split_ascii_whitespace()
                .filter_map(TraceContext::parse)
                .take(MAX_LINKS)
                .collect(),
        })
    }
}

// === options as parameters ===

impl PictureOptions {
    fn write(&self, parameters: &mut BTreeMap<String, InferParameter>) {
        for (key, value) in [
            ("score", self.score),
            ("iou", self.iou),
            ("crop", self.crop),
        ] {
            if let Some(value) = value {
                set(
                    parameters,
                    key,
                    ParameterChoice::DoubleParam(f64::from(value)),
                );
            }
        }
        if let Some(top_k) = self.top_k {
            set(
                parameters,
                "top_k",
                ParameterChoice::Int64Param(i64::from(top_k)),
            );
        }
        if let Some(labels) = &self.labels {
            set(
                parameters,
                "labels",
                ParameterChoice::StringParam(labels.join(",")),
            );
        }
        if let Some(format) = self.draw {
            set(
                parameters,
                "draw",
                ParameterChoice::StringParam(format.as_str().to_owned()),
            );
        }
    }

    fn read(parameters: &BTreeMap<String, InferParameter>) -> Result<Self, InferError> {
        let mut options = Self::default();
        for key in ["score", "iou", "top_k", "labels", "draw", "crop"] {
            if let Some(text) = parameters.get(key).and_then(as_text) {
                options.set(key, &text)?;
            }
        }
        Ok(options)
    }
}

fn as_text(parameter: &InferParameter) -> Option<String> {
    Some(match parameter.parameter_choice.as_ref()? {
        ParameterChoice::BoolParam(value) => value.to_string(),
        ParameterChoice::Int64Param(value) => value.to_string(),
        ParameterChoice::StringParam(value) => value.clone(),
        ParameterChoice::DoubleParam(value) => value.to_string(),
        ParameterChoice::Uint64Param(value) => value.to_string(),
    })
}

fn set(parameters: &mut BTreeMap<String, InferParameter>, key: &str, choice: ParameterChoice) {
    parameters.insert(
        key.to_owned(),
        InferParameter {
            parameter_choice: Some(choice),
        },
    );
}

fn text_of<'a>(parameters: &'a BTreeMap<String, InferParameter>, key: &str) -> Option<&'a str> {
    match parameters.get(key)?.parameter_choice.as_ref()? {
        ParameterChoice::StringParam(text) => Some(text),
        _ => None,
    }
}

fn flag_of(parameters: &BTreeMap<String, InferParameter>, key: &str) -> bool {
    let choice = parameters
        .get(key)
        .and_then(|parameter| parameter.parameter_choice.as_ref());
    matches!(choice, Some(ParameterChoice::BoolParam(true)))
}

fn number_of(parameters: &BTreeMap<String, InferParameter>, key: &str) -> Option<i64> {
    match *parameters.get(key)?.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(number) => Some(number),
        ParameterChoice::Uint64Param(number) => i64::try_from(number).ok(),
        _ => None,
    }
}

fn unsigned_of(parameters: &BTreeMap<String, InferParameter>, key: &str) -> Option<u64> {
    match *parameters.get(key)?.parameter_choice.as_ref()? {
        ParameterChoice::Uint64Param(number) => Some(number),
        _ => None,
    }
}

impl DrawFormat {
    /// Returns the word for it on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
        }
    }
}

#[cfg(test)]
mod tests;
