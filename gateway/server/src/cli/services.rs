//! `hearth get` of a service, `list` and `delete`.

use clap::Args;
use gateway_oscar::{Kind, Model, Service};
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::client::{Client, path};
use super::failure::Failure;
use super::gateway::GatewayOptions;
use super::output::OutputOptions;
use crate::terminal::{Table, plain, print};

/// Most names that an error lists.
const MAX_NAMES: usize = 20;

#[derive(Args)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

#[derive(Args)]
pub(crate) struct DeleteOptions {
    /// Names of the services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    gateway: GatewayOptions,
}

/// A service as a gateway shows it.
pub(super) struct Shown {
    pub(super) definition: Service,
    deployment: Deployment,
}

/// How a service is doing; nothing where the gateway does not say.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Deployment {
    state: String,
    reason: String,
    active_instances: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Doing {
    deployment: Option<Deployment>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

pub(super) fn show(client: &Client, name: &str, output: &OutputOptions) -> anyhow::Result<()> {
    let value = fetch(client, name).map_err(|error| missing(client, name, error))?;
    let shown = Shown::read(&value)?;
    output.show(&value, || {
        for (key, value) in shown.properties(client) {
            print(&format!("{key:10} {}", plain(&value)))?;
        }
        Ok(())
    })
}

pub(super) fn list(options: &ListOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let values: Vec<Value> = client.get("/system/services?include=deployment")?;
    let mut table = Table::new(["NAME", "IMAGE", "STATE", "WORKERS", "SCALE"]);
    for value in &values {
        let shown = Shown::read(value)?;
        let active = shown.deployment.active_instances.to_string();
        let (scale, state) = (shown.scale(), shown.state());
        let service = shown.definition;
        table.row([service.name, service.image, state, active, scale]);
    }
    let n_services = values.len();
    options.output.show(&values.into(), || match n_services {
        0 => print("no services yet; `hearth apply FILE` creates those of a file"),
        _ => table.print(),
    })
}

pub(super) fn delete(options: &DeleteOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let mut failures = Vec::new();
    for name in &options.services {
        let request = client.request(Method::DELETE, &service(name));
        match client.ask(request, ()) {
            Ok(_) => print(&format!("deleted {name}"))?,
            Err(failure) if failure.is_unanswered() => return Err(failure.into()),
            // The others are deleted all the same.
            Err(failure) => failures.push(with_services(&client, name, failure)),
        }
    }
    Failure::several(&failures).map_or(Ok(()), |failure| Err(failure.into()))
}

/// Asks for a service.
///
/// # Errors
/// Those of [`Client::get`].
pub(super) fn fetch(client: &Client, name: &str) -> anyhow::Result<Value> {
    client.get(&format!("{}?include=deployment", service(name)))
}

/// Returns the path of a service.
fn service(name: &str) -> String {
    path(&["system", "services", name])
}

/// Says which services there are, where the one that was asked for is not.
pub(super) fn missing(client: &Client, name: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast() {
        Ok(failure) => with_services(client, name, failure).into(),
        Err(error) => error,
    }
}

fn with_services(client: &Client, name: &str, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    match services(client) {
        Some(names) if names.is_empty() => {
            failure.and("; there are no services yet, `hearth apply FILE` creates some")
        }
        // It is another thing that is not there.
        Some(names) if names.iter().any(|known| known == name) => failure,
        Some(names) => failure.and(&format!("; services: {}", listed(&names))),
        None => failure,
    }
}

/// Returns the names of the services, where the caller may see them.
fn services(client: &Client) -> Option<Vec<String>> {
    let named: Vec<Named> = client.get("/system/services").ok()?;
    Some(named.into_iter().map(|named| named.name).collect())
}

/// Returns what holds for calls that do not say otherwise.
fn options(model: &Model) -> impl Iterator<Item = String> + use<> {
    let fields = serde_json::to_value(model).unwrap_or_default();
    let fields = fields.as_object().cloned().unwrap_or_default().into_iter();
    let options = fields.filter(|(name, _)| !matches!(name.as_str(), "name" | "version"));
    options.map(|(name, value)| format!("{name} {value}"))
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(MAX_NAMES);
    let shown: Vec<String> = shown.map(|name| format!("`{}`", plain(name))).collect();
    let n_more = names.len() - shown.len();
    let shown = shown.join(", ");
    match n_more {
        0 => shown,
        n_more => format!("{shown} and {n_more} more (`hearth list`)"),
    }
}

// === impl Shown ===

impl Shown {
    /// Reads what a gateway says of a service.
    ///
    /// # Errors
    /// When it says what no gateway does.
    pub(super) fn read(value: &Value) -> anyhow::Result<Self> {
        let doing = Doing::deserialize(value)?;
        Ok(Self {
            definition: Service::from_json(&serde_json::to_vec(value)?)?,
            deployment: doing.deployment.unwrap_or_default(),
        })
    }

    fn state(&self) -> String {
        match self.deployment.state.as_str() {
            "" => "-".to_owned(),
            state => state.to_owned(),
        }
    }

    fn scale(&self) -> String {
        let scale = self.definition.synchronous;
        match scale.max_scale {
            0 => format!("{}..", scale.min_scale),
            max => format!("{}..{max}", scale.min_scale),
        }
    }

    /// What a person wants to know of it, in order.
    fn properties(&self, client: &Client) -> Vec<(&'static str, String)> {
        let service = &self.definition;
        let mut properties = vec![("name", service.name.clone())];
        let is_model = service.kind() == Kind::Model;
        match service.model() {
            Some(model) => {
                let version = match model.version.as_str() {
                    "" => "the latest version".to_owned(),
                    version => format!("version {version}"),
                };
                properties.push(("model", format!("{}, {version}", model.name)));
                properties.extend(options(&model).map(|option| ("option", option)));
            }
            None => properties.push(("image", service.image.clone())),
        }
        let state = match self.deployment.reason.as_str() {
            "" => self.state(),
            reason => format!("{}: {reason}", self.state()),
        };
        properties.push(("state", state));
        let n_workers = self.deployment.active_instances;
        properties.push(("workers", format!("{n_workers}, scale {}", self.scale())));
        if !is_model {
            let needs = format!("cpu {}, memory {}", service.cpu, service.memory);
            properties.push(("needs", needs));
        }
        let variables = service.environment.variables.iter();
        properties.extend(variables.map(|(name, value)| ("variable", format!("{name}={value}"))));
        let secrets = service.environment.secrets.keys();
        properties.extend(secrets.map(|name| ("secret", name.clone())));
        let storage = |io: &gateway_oscar::StorageIo| format!("{} {}", io.provider, io.path);
        properties.extend(service.input.iter().map(|input| ("input", storage(input))));
        properties.extend(
            service
                .output
                .iter()
                .map(|output| ("output", storage(output))),
        );
        if !service.token.is_empty() {
            properties.push(("token", "not shown here, --output json does".to_owned()));
        }
        let call = format!(
            "POST {}{}",
            client.endpoint(),
            path(&["run", &service.name])
        );
        properties.push(("call", call));
        properties
    }
}
