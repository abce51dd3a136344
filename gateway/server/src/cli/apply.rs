//! `hearth apply`: the services of a document become those of gateways.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use gateway_oscar::{Fdl, Service};
use http::Method;
use serde::Serialize;
use serde_json::json;

use super::client::{Client, Endpoint};
use super::failure::Failure;
use super::gateway::GatewayOptions;
use super::output::OutputOptions;
use super::services::{Shown, fetch};
use crate::terminal::{plain, print};

/// Largest document or script, in bytes: no gateway takes more.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Args)]
pub(crate) struct ApplyOptions {
    /// A function definition file, in YAML; `-` is standard input. What it names as `script` is
    /// looked for beside it
    file: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

/// A service, ready to be sent.
struct Ready {
    client: Client,
    service: Service,
}

/// What became of a service.
struct Applied {
    service: String,
    endpoint: Endpoint,
    outcome: Outcome,
    /// What the gateway says that has no effect there.
    warning: Option<String>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Created,
    Updated,
    Unchanged,
}

/// Applies all services of a document, in their order, once each of them can be one. The first that
/// is refused ends it; what was applied before stays, and is said.
pub(super) fn apply(options: &ApplyOptions) -> anyhow::Result<()> {
    let ready = read(options)?;
    let mut all = Vec::new();
    let mut result = Ok(());
    for Ready { client, service } in &ready {
        match apply_one(client, service) {
            Ok(applied) => {
                if options.output.is_for_people() {
                    applied.say()?;
                }
                all.push(applied);
            }
            Err(error) => {
                result = Err(error.context(format!("service `{}`", service.name)));
                break;
            }
        }
    }
    let value = all.iter().map(Applied::json).collect();
    options.output.show(&value, || Ok(()))?;
    result
}

/// Reads the document and its scripts, and checks each service as its gateway will.
fn read(options: &ApplyOptions) -> anyhow::Result<Vec<Ready>> {
    let path = &options.file;
    let is_stdin = path.as_os_str() == "-";
    let yaml = match is_stdin {
        true => read_text(std::io::stdin()).context("standard input"),
        false => read_file(path),
    }?;
    let said = || match is_stdin {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let fdl = Fdl::parse(&yaml).with_context(said)?;
    anyhow::ensure!(
        !fdl.functions.oscar.is_empty(),
        "{}: expected services under `functions.oscar`, found none{}",
        said(),
        match fdl.functions.aws.len() {
            0 => "",
            _ => "; those under `functions.aws` are for SCAR",
        }
    );
    let folder = match is_stdin {
        true => Path::new("."),
        false => path.parent().unwrap_or(Path::new(".")),
    };
    let ready = fdl.services().into_iter().map(|of| {
        let mut service = of.service;
        let name = service.name.clone();
        let cluster = fdl.clusters.get(&of.cluster);
        let (client, is_documents_choice) = options.gateway.client_for(&of.cluster, cluster)?;
        if !service.script.is_empty() {
            let script = folder.join(&service.script);
            let read = match is_documents_choice {
                true => is_below(folder, &script).and_then(|()| read_file(&script)),
                false => read_file(&script),
            };
            service.script = read.with_context(|| format!("`script` of service `{name}`"))?;
        }
        let mut complete = service.clone();
        complete.set_defaults();
        complete
            .check()
            .with_context(|| format!("{}: service `{name}`", said()))?;
        Ok(Ready { client, service })
    });
    ready.collect()
}

/// Whoever wrote a document that says where its services go could have any file of the reader's sent
/// there.
///
/// # Errors
/// When the file is not in the folder, or only a link to it is.
fn is_below(folder: &Path, file: &Path) -> anyhow::Result<()> {
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let real = |path: &Path| {
        path.canonicalize()
            .with_context(|| path.display().to_string())
    };
    anyhow::ensure!(
        real(file)?.starts_with(real(folder)?),
        "{}: expected a file beside the document, since the document itself says which gateway gets it; name the gateway with --endpoint URL if that is meant",
        file.display()
    );
    Ok(())
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    let read = File::open(path)
        .map_err(anyhow::Error::from)
        .and_then(read_text);
    read.with_context(|| path.display().to_string())
}

fn read_text(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_BYTES,
        "it has more than {MAX_BYTES} bytes"
    );
    Ok(text)
}

fn apply_one(client: &Client, service: &Service) -> anyhow::Result<Applied> {
    let existing = match fetch(client, &service.name) {
        Ok(value) => Some(Shown::read(&value)?.definition),
        Err(error) => match error.downcast_ref() {
            Some(failure) if Failure::is_not_found(failure) => None,
            _ => return Err(error),
        },
    };
    let (method, outcome) = match existing {
        None => (Method::POST, Outcome::Created),
        Some(existing) if is_as_before(service, &existing) => {
            return Ok(Applied::new(client, service, Outcome::Unchanged));
        }
        Some(_) => (Method::PUT, Outcome::Updated),
    };
    let request = client.request(method, "/system/services");
    let request = request.header(http::header::CONTENT_TYPE, "application/json");
    let response = client.ask(request, service.to_json())?;
    let warning = response.headers().get("x-hearth-warning");
    let warning = warning.and_then(|warning| warning.to_str().ok());
    Ok(Applied {
        warning: warning.map(plain),
        ..Applied::new(client, service, outcome)
    })
}

/// Whether what a gateway shows of a service is what the document says of it, defaults and what the
/// gateway itself puts in aside. What it does not show, secrets, can't be compared: they are sent again.
fn is_as_before(service: &Service, existing: &Service) -> bool {
    let mut service = service.clone();
    service.set_defaults();
    if let Some(default) = existing.storage_providers.minio.get("default") {
        let providers = &mut service.storage_providers.minio;
        providers
            .entry("default".to_owned())
            .or_insert_with(|| default.clone());
    }
    service.token.clone_from(&existing.token);
    service.owner.clone_from(&existing.owner);
    service.namespace.clone_from(&existing.namespace);
    service.bucket_list.clone_from(&existing.bucket_list);
    service.volume_status.clone_from(&existing.volume_status);
    service == *existing
}

// === impl Applied ===

impl Applied {
    fn new(client: &Client, service: &Service, outcome: Outcome) -> Self {
        Self {
            service: service.name.clone(),
            endpoint: client.endpoint().clone(),
            outcome,
            warning: None,
        }
    }

    fn say(&self) -> std::io::Result<()> {
        let outcome = match self.outcome {
            Outcome::Created => "created",
            Outcome::Updated => "updated",
            Outcome::Unchanged => "unchanged",
        };
        print(&format!("{outcome} {} on {}", self.service, self.endpoint))?;
        match &self.warning {
            Some(warning) => print(&format!("  {warning}")),
            None => Ok(()),
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "service": self.service,
            "endpoint": self.endpoint.to_string(),
            "outcome": self.outcome,
            "warning": self.warning,
        })
    }
}
