//! Services that are scripts: what a call becomes on its way to one, and what its output becomes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gateway_oscar::Service as Definition;
use gateway_script::environment::variables;
use gateway_script::{
    Answer, Breach, Call as Run, End, Event, Failure, Input, Limits, Object, Output,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use workers_protocol::{Code, InferError};

use super::random;
use super::service::Service;
use super::usage::Call;
use crate::entry::Deadline;
use crate::rest::{ApiError, Front, for_bytes, refuse, timeout_ms};
use crate::storage::StorageError;
use crate::work::{Fetched, Job, Kept, Made, NewResult, Source, Unfetched, Verdict, keep};

/// Processes and threads of a script: what Python and ImageMagick start on many cores, and no bomb.
const PROCESSES: u64 = 256;
/// Scratch space of a script whose service does not say.
const SCRATCH_BYTES: u64 = 1 << 30;
/// Files and folders there: they are looked through ten times a second.
const SCRATCH_ENTRIES: u64 = 10_000;
/// What a script may say, in bytes: an answer, or a log of which the end is kept.
const LOG_BYTES: u64 = 8 << 20;
/// What of it an error repeats, in bytes.
const SAID: usize = 4 << 10;
/// Characters of a UUID, in which a job's name ends.
const UUID: usize = 36;
/// How long `/run` may take where nothing else is said: OSCAR's own read and write timeouts.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);

/// A script, and what its runs have in common.
#[derive(Clone, Debug)]
pub(crate) struct ScriptService {
    script: String,
    memory_bytes: u64,
    scratch_bytes: u64,
    timeout: Option<Duration>,
}

/// A run of a script, and what its supervisor has to say of it.
struct Ran {
    output: Output,
    limits: Limits,
    lines: String,
}

// === impl ScriptService ===

impl ScriptService {
    /// Reads what a definition says of its script. A variable `SCRIPT`, in base64, goes over it.
    ///
    /// # Errors
    /// `InvalidArgument` of such a variable that is no base64 of text.
    pub(super) fn of(definition: &Definition) -> Result<Self, InferError> {
        let script = match definition.environment.variables.get("SCRIPT") {
            Some(encoded) => {
                let bytes = BASE64_STANDARD.decode(encoded.trim()).ok();
                let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
                text.ok_or_else(|| {
                    InferError::invalid(
                        "`environment`: SCRIPT is expected to be a script in base64",
                    )
                })?
            }
            None => definition.script.clone(),
        };
        Ok(Self {
            script,
            memory_bytes: definition.memory_bytes().unwrap_or(u64::MAX),
            scratch_bytes: definition.scratch_bytes().unwrap_or(SCRATCH_BYTES),
            timeout: definition.timeout(),
        })
    }

    fn limits(&self, front: &Front) -> Limits {
        Limits {
            time: self.timeout.unwrap_or(front.limits.script_timeout),
            memory_bytes: self.memory_bytes,
            processes: PROCESSES,
            scratch_bytes: self.scratch_bytes,
            scratch_entries: SCRATCH_ENTRIES,
            log_bytes: LOG_BYTES,
            output_bytes: front.limits.max_body,
        }
    }
}

/// `POST /run/{service}`: runs the script, and answers with what it left.
///
/// # Errors
/// 502 where the script failed or went beyond a limit, 504 beyond its time; 429 and 503 without room
/// or a place to run it.
pub(crate) async fn run(
    front: &Arc<Front>,
    service: &Arc<Service>,
    script: &ScriptService,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let limits = script.limits(front);
    let time = match timeout_ms(headers) {
        Ok(asked) => asked
            .map_or(RUN_TIMEOUT, Duration::from_millis)
            .min(limits.time),
        Err(error) => return Err(refuse(body, error)),
    };
    let limits = Limits { time, ..limits };
    let deadline = Deadline::after(time);
    service.count(Call::Sync);
    let (body, _reservation) = front.read(headers, body, deadline).await?;
    let late = || {
        let message = format!("the script {}", Breach::Time.sentence(&limits));
        InferError::new(Code::DeadlineExceeded, message)
    };
    let ran = perform(front, service, script, (&body, None), limits);
    let Ran { output, .. } = match tokio::time::timeout_at(deadline.at.into(), ran).await {
        Ok(ran) => ran?,
        Err(_) => return Err(late().into()),
    };
    let code = match output.end {
        End::Exited(0) => 0,
        End::Breached(Breach::Time) => return Err(late().into()),
        ref end => return Ok(failed(end, &output.log, &limits)),
    };
    let bytes = output.files.iter().map(|file| file.content.len()).sum();
    let answer = for_bytes(bytes, || Answer::new(&output.files, &output.log));
    let answer = answer.map_err(|error| InferError::internal(format!("the results: {error}")))?;
    let text = match answer {
        Answer::Base64(text) | Answer::Text(text) => text,
    };
    let media = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut response = ([(header::CONTENT_TYPE, media)], text).into_response();
    response.headers_mut().insert("x-exit-code", code.into());
    Ok(response)
}

/// Runs the script for a job, and returns its log: what the script says.
///
/// # Errors
/// Where it failed, or could not be run.
pub(crate) async fn perform_job(
    front: &Arc<Front>,
    service: &Arc<Service>,
    script: &ScriptService,
    job: &Job,
) -> Result<String, Verdict> {
    let mut reservation = front.budget.reservation();
    let grown = reservation.grow(job.event.len() as u64);
    grown.map_err(|error| Verdict::of_error(&error.into(), false))?;
    let limits = script.limits(front);
    let ran = perform(front, service, script, (&job.event, Some(job)), limits).await;
    ran.map_err(Verdict::from)?
        .into_log()
        .map_err(|log| Verdict::Failed {
            log,
            may_retry: false,
        })
}

/// Why a script was not run, or its results are not kept.
enum Undone {
    Refused(ApiError),
    Storage(StorageError),
}

/// Runs the script on an event; that of a job may be about an object whose state is known. What it
/// leaves is kept where the service's outputs say, unless it fails.
async fn perform(
    front: &Front,
    service: &Service,
    script: &ScriptService,
    (body, job): (&Bytes, Option<&Job>),
    limits: Limits,
) -> Result<Ran, Undone> {
    let definition = &service.definition;
    let inputs = definition.input.iter();
    let inputs: Vec<_> = inputs
        .map(|input| (input.provider.as_str(), input.path.as_str()))
        .collect();
    let event = for_bytes(body.len(), || Event::parse(body, &inputs));
    let secrets = definition.environment.secrets.iter();
    let secrets = secrets.map(|(name, value)| (name.clone(), value.reveal().to_owned()));
    let plain = definition.environment.variables.clone();
    let id = match job {
        Some(job) => job.name.clone(),
        None => random::uuid()?,
    };
    // The same for each attempt: a job's name ends in it.
    let uuid = id.get(id.len().saturating_sub(UUID)..).unwrap_or(&id);
    let contract = [
        ("OSCAR_SERVICE_NAME", service.name().to_owned()),
        ("OSCAR_SERVICE_TOKEN", definition.token.reveal().to_owned()),
        ("JOB_UUID", uuid.to_owned()),
    ];
    let variables = variables(plain.into_iter().chain(secrets), contract, &event, body)
        .map_err(|error| InferError::invalid(error.to_string()))?;
    let mut lines = String::new();
    // Room for it, until the script has ended.
    let mut held = None;
    let input = match event.input {
        Input::Bytes(bytes) => {
            let name = format!("event-file-{}", random::uuid()?);
            let text = format!("{} bytes came, as {name}", bytes.len());
            line(&mut lines, definition, "INFO", &text);
            Some((name, bytes.into()))
        }
        // Told by reference only.
        Input::Object(_) if definition.file_stage_in => None,
        Input::Object(ref object) => {
            let announced = job.and_then(|job| job.object.as_ref());
            let source = match announced {
                Some(announced) => Source::of_job(definition, announced)?,
                None => Source::posted(definition, object)?.ok_or_else(|| unfetchable(object))?,
            };
            let Fetched { bytes, reservation } = source.fetch(front, definition).await?;
            held = Some(reservation);
            let (reference, bucket, key) = (source.reference, source.bucket, source.key);
            let text = format!("{} bytes of {reference} {bucket}/{key} came", bytes.len());
            line(&mut lines, definition, "INFO", &text);
            Some((file_name(key)?, bytes))
        }
    };
    let run = Run {
        script: script.script.clone(),
        variables,
        input,
        limits,
        image: definition.image.clone(),
        cores: definition.cores(),
    };
    let began = Instant::now();
    let output = front
        .runner
        .run(run)
        .await
        .map_err(|error| failure(&error))?;
    drop(held);
    service.usage.worked(began.elapsed());
    let mut ran = Ran {
        output,
        limits,
        lines,
    };
    ran.keep_results(front, definition, &id).await?;
    Ok(ran)
}

fn unfetchable(object: &Object) -> InferError {
    let message = format!(
        "the event is about `{}` at a storage provider whose files can't be fetched yet: with \
         `file_stage_in` the script gets its name alone",
        object.key.chars().take(200).collect::<String>()
    );
    InferError::new(Code::Unimplemented, message)
}

/// Returns what the file of an object is called: as the key ends, where that can be a name.
fn file_name(key: &str) -> Result<String, InferError> {
    let name = key.rsplit('/').find(|part| !part.is_empty());
    let name = name
        .filter(|name| ![".", ".."].contains(name) && !name.contains('\0') && name.len() <= 255);
    match name {
        Some(name) => Ok(name.to_owned()),
        None => Ok(format!("event-file-{}", random::uuid()?)),
    }
}

// === impl Ran ===

impl Ran {
    /// Keeps the results where the service's outputs say, and says so. Those of a script that failed
    /// are not kept: nothing is to go on from them.
    async fn keep_results(
        &mut self,
        front: &Front,
        definition: &Definition,
        job: &str,
    ) -> Result<(), StorageError> {
        let files = self.output.files.iter();
        let results: Vec<_> = files
            .map(|file| NewResult {
                name: file.name.clone(),
                media: "application/octet-stream",
                content: Made::Bytes(file.content.clone()),
            })
            .collect();
        for file in &self.output.files {
            let text = format!("result {}, {} bytes", file.name, file.content.len());
            line(&mut self.lines, definition, "INFO", &text);
        }
        if !matches!(self.output.end, End::Exited(0)) {
            return Ok(());
        }
        for kept in keep(front, definition, job, &results).await? {
            let level = match kept {
                Kept::At(_) => "INFO",
                Kept::Not { .. } => "WARNING",
            };
            line(&mut self.lines, definition, level, &kept.to_string());
        }
        Ok(())
    }

    /// Returns the log of a job, and whether it succeeded: the supervisor's lines, and what the script
    /// said.
    fn into_log(self) -> Result<String, String> {
        let mut log = self.lines;
        log.push_str(&gateway_script::text(&self.output.log));
        match self.output.end {
            End::Exited(0) => Ok(log),
            end => {
                if !log.is_empty() && !log.ends_with('\n') {
                    log.push('\n');
                }
                let _ = writeln!(log, "ERROR: the script {}", sentence(&end, &self.limits));
                Err(log)
            }
        }
    }
}

/// Adds a line to a log, if the service wants to hear of that.
fn line(log: &mut String, definition: &Definition, level: &str, text: &str) {
    const LEVELS: [&str; 6] = ["NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
    let rank = |level: &str| LEVELS.iter().position(|one| *one == level);
    if rank(level) >= rank(&definition.log_level) {
        // Writing to a string does not fail.
        let _ = writeln!(log, "{level}: {text}");
    }
}

fn sentence(end: &End, limits: &Limits) -> String {
    match end {
        End::Breached(breach) => format!("{}, and was ended", breach.sentence(limits)),
        other => other.to_string(),
    }
}

/// Answers that a script failed, with the end of what it said.
fn failed(end: &End, log: &[u8], limits: &Limits) -> Response {
    let is_shown = |character: &char| !character.is_control() || *character == '\n';
    let said: String = gateway_script::text(log).chars().filter(is_shown).collect();
    let said = said.trim_end();
    let from = said.ceil_char_boundary(said.len().saturating_sub(SAID));
    let said = said.get(from..).unwrap_or_default();
    let mut message = format!("the script {}", sentence(end, limits));
    if !said.is_empty() {
        message = format!("{message}; it said: {said}");
    }
    let mut response = ApiError::with_status(StatusCode::BAD_GATEWAY, message).into_response();
    if let End::Exited(code) = end {
        response.headers_mut().insert("x-exit-code", (*code).into());
    }
    response
}

fn failure(failure: &Failure) -> InferError {
    let code = match failure {
        Failure::Unavailable(_) => Code::Unavailable,
        Failure::Busy(_) => Code::Overloaded,
        Failure::Broken(_) => Code::Internal,
    };
    InferError::new(code, failure.to_string())
}

// === impl Undone ===

impl From<ApiError> for Undone {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<InferError> for Undone {
    fn from(error: InferError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<StorageError> for Undone {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<Unfetched> for Undone {
    fn from(error: Unfetched) -> Self {
        match error {
            Unfetched::NoRoom(error) => error.into(),
            Unfetched::Storage(error) => error.into(),
        }
    }
}

impl From<Undone> for ApiError {
    fn from(error: Undone) -> Self {
        match error {
            Undone::Refused(error) => error,
            Undone::Storage(error) => InferError::from(error).into(),
        }
    }
}

impl From<Undone> for Verdict {
    fn from(error: Undone) -> Self {
        match error {
            // What it has done already, nobody knows.
            Undone::Refused(error) => Self::of_error(&error, false),
            Undone::Storage(error) => error.into(),
        }
    }
}
