//! `hearth run` and `job`: calling a service.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use http::{Method, Response, header};
use serde_json::json;
use tempfile::Builder;
use ureq::Body;

use super::client::{Client, encode, path, read};
use super::gateway::GatewayOptions;
use super::output::OutputOptions;
use super::services::missing;
use crate::terminal;

/// Largest input, in bytes: more than any gateway takes.
const MAX_INPUT: u64 = 256 << 20;

#[derive(Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    call: CallOptions,

    /// File for the answer. Its name may end in .png, .jpg or .json to say what is wanted: the picture
    /// with what was found drawn into it, or what was found
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// An option of the call: score=0.5, iou=0.45, top_k=10 or labels=person,bus. Can be given several
    /// times
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = parse_option)]
    options: Vec<(String, String)>,

    /// Time that the answer may take, in milliseconds. Default: the gateway's, or the service's
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,

    #[command(flatten)]
    gateway: GatewayOptions,
}

#[derive(Args)]
pub(crate) struct JobOptions {
    #[command(flatten)]
    call: CallOptions,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

#[derive(Args)]
struct CallOptions {
    /// Name of the service; `run` takes a model's as well
    service: String,

    #[command(flatten)]
    input: InputOptions,

    /// Send the file in base64, and take base64 for an answer: what scripts at an OSCAR cluster expect
    #[arg(long)]
    base64: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct InputOptions {
    /// File to send; `-` is standard input
    #[arg(long, short = 'i', visible_alias = "file-input", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Text to send. It goes in base64, since text may look like it
    #[arg(long, short = 't', value_name = "TEXT")]
    text_input: Option<String>,
}

/// A body that is ready to be sent.
struct Input {
    body: Vec<u8>,
    is_base64: bool,
}

pub(super) fn run(options: &RunOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let call = &options.call;
    let input = call.read()?;
    let pairs = options.options.iter();
    let pairs = pairs.map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    let pairs = pairs.collect::<Vec<_>>().join("&");
    let path = path(&["run", &call.service]);
    let mut request = client.request(Method::POST, &format!("{path}?{pairs}"));
    if let Some(wanted) = options.output.as_deref().and_then(wanted) {
        request = request.header(header::ACCEPT, wanted);
    }
    if let Some(timeout_ms) = options.timeout_ms {
        request = request.header("x-request-timeout-ms", timeout_ms);
    }
    let response = client
        .call(request, &input.body[..])
        .map_err(|failure| missing(&client, &call.service, failure.into()))?;
    Answer::new(response, input.is_base64)?.put(options.output.as_deref())
}

pub(super) fn job(options: &JobOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let call = &options.call;
    let job = begin(&client, call).map_err(|error| missing(&client, &call.service, error))?;
    let value = json!({"service": call.service, "job": job});
    options.output.show(&value, || match &job {
        Some(job) => terminal::print(job),
        // OSCAR's clusters do not say.
        None => terminal::print(&format!(
            "begun; `hearth logs list {}` lists the jobs",
            call.service
        )),
    })
}

/// Begins a job, and returns its name where the gateway says it.
fn begin(client: &Client, call: &CallOptions) -> anyhow::Result<Option<String>> {
    let input = call.read()?;
    let request = client.request(Method::POST, &path(&["job", &call.service]));
    let response = client.call(request, &input.body[..])?;
    let job = response.headers().get("x-job-name");
    let job = job.and_then(|job| job.to_str().ok());
    Ok(job.map(terminal::plain))
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("expected NAME=VALUE, score=0.5 for example")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Returns the media type that the name of a file asks for.
fn wanted(file: &Path) -> Option<&'static str> {
    let extension = file.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "json" => Some("application/json"),
        _ => None,
    }
}

// === impl CallOptions ===

impl CallOptions {
    fn read(&self) -> anyhow::Result<Input> {
        let bytes = match (&self.input.file, &self.input.text_input) {
            (_, Some(text)) => text.clone().into_bytes(),
            (Some(file), None) if file.as_os_str() == "-" => {
                read_input(std::io::stdin()).context("standard input")?
            }
            (Some(file), None) => File::open(file)
                .map_err(anyhow::Error::from)
                .and_then(read_input)
                .with_context(|| file.display().to_string())?,
            // Not reached: one of the two is asked for.
            (None, None) => Vec::new(),
        };
        let is_base64 = self.base64 || self.input.text_input.is_some();
        Ok(Input {
            body: match is_base64 {
                true => BASE64_STANDARD.encode(bytes).into_bytes(),
                false => bytes,
            },
            is_base64,
        })
    }
}

fn read_input(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_INPUT,
        "it has more than {MAX_INPUT} bytes"
    );
    Ok(bytes)
}

/// What a service answered.
struct Answer {
    body: Vec<u8>,
    media: String,
}

impl Answer {
    /// Reads an answer; one in base64 is decoded, as oscar-cli does, if it is what it looks like.
    fn new(response: Response<Body>, may_be_base64: bool) -> anyhow::Result<Self> {
        let media = response.headers().get(header::CONTENT_TYPE);
        let media = media.and_then(|media| media.to_str().ok());
        let media = terminal::plain(media.unwrap_or("no media type"));
        let body = read(response)?;
        let decoded = may_be_base64.then(|| BASE64_STANDARD.decode(body.trim_ascii()).ok());
        match decoded.flatten() {
            Some(body) => Ok(Self {
                media: "decoded from base64".to_owned(),
                body,
            }),
            None => Ok(Self { media, body }),
        }
    }

    /// Writes it where it is wanted. A file is there whole or not at all.
    fn put(&self, file: Option<&Path>) -> anyhow::Result<()> {
        let Some(file) = file.filter(|file| file.as_os_str() != "-") else {
            return self.print();
        };
        self.save(file)
            .with_context(|| file.display().to_string())?;
        terminal::print(&format!(
            "wrote {}: {}, {} bytes",
            file.display(),
            self.media,
            self.body.len()
        ))?;
        Ok(())
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let is_special = path.metadata().is_ok_and(|metadata| !metadata.is_file());
        if is_special {
            File::options()
                .write(true)
                .open(path)?
                .write_all(&self.body)?;
            return Ok(());
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        // As files are made, whose mode is for the umask to say.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let mut file = Builder::new()
            .permissions(mode)
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        file.write_all(&self.body)?;
        file.persist(path)?;
        Ok(())
    }

    fn print(&self) -> anyhow::Result<()> {
        let is_text = std::str::from_utf8(&self.body).is_ok();
        let has_reader = terminal::is_read_by_a_person();
        anyhow::ensure!(
            is_text || !has_reader,
            "the answer is no text ({}, {} bytes): name a file for it with --output FILE",
            self.media,
            self.body.len()
        );
        terminal::write(&self.body)?;
        if has_reader && !self.body.ends_with(b"\n") {
            terminal::write(b"\n")?;
        }
        Ok(())
    }
}
