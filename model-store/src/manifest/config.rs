//! From Triton's `config.pbtxt` to a [`Manifest`].
//!
//! Source: Triton Inference Server, "Model Configuration", and its `model_config.proto`.

mod text;

use std::str::FromStr;

use self::text::{Field, Value};
use super::check::MAX_BATCH;
use super::{BatchLimits, Device, EngineKind, Instances, Labels, Manifest, TensorDeclaration};
use crate::{DataType, ModelName, StoreError, Version};

/// Name of Triton's configuration, in a model's folder or a version's.
pub(crate) const CONFIG: &str = "config.pbtxt";

/// Most fields that a note names.
const MAX_NAMED: usize = 20;

/// What `config.pbtxt` says and a manifest has no field for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigTerms {
    /// The name that the model has to have.
    pub name: Option<String>,
    /// The versions that are served of those that are there; all where there are none.
    pub versions: Option<Vec<Version>>,
    /// What has no effect here, in sentences.
    pub notes: Vec<String>,
}

/// A message being read: what is taken is understood, and what is left has no effect.
struct Scope {
    /// Of its fields, with a dot at the end where there is one.
    path: String,
    fields: Vec<Field>,
}

/// A field that was taken.
struct Given {
    path: String,
    line: usize,
    value: Value,
}

/// Fields without which a model would do something else than it says; what they would need.
const NOT_SERVED: [(&str, &str); 4] = [
    (
        "sequence_batching",
        "models that keep a state between requests",
    ),
    ("ensemble_scheduling", "models made of other models"),
    ("batch_input", "inputs that the server makes"),
    ("batch_output", "outputs that the server cuts"),
];

impl Manifest {
    /// Returns the manifest that a `config.pbtxt` amounts to, not yet checked.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with line and field, what was expected and what came, also for what
    /// asks for something that can't be done; [`StoreError::TooLarge`].
    pub(super) fn parse_config(text: &str) -> Result<Self, StoreError> {
        text::parse(text)
            .and_then(|fields| {
                read(Scope {
                    path: String::new(),
                    fields,
                })
            })
            .map_err(|error| match error {
                StoreError::Invalid(message) => {
                    StoreError::Invalid(format!("`{CONFIG}`, {message}"))
                }
                other => other,
            })
    }

    /// Checks that a model may have this name and version as far as `config.pbtxt` is concerned.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub fn check_place(&self, name: &ModelName, version: Version) -> Result<(), StoreError> {
        let Some(terms) = &self.config else {
            return Ok(());
        };
        if let Some(expected) = terms.name.as_deref().filter(|&own| own != name.as_str()) {
            return Err(StoreError::Invalid(format!(
                "`{CONFIG}`: `name` is {expected:?}, expected the model's, {name}"
            )));
        }
        match &terms.versions {
            Some(versions) if !versions.contains(&version) => {
                let named: Vec<_> = versions.iter().map(ToString::to_string).collect();
                Err(StoreError::Invalid(format!(
                    "`{CONFIG}`: `version_policy` serves only {}",
                    named.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }
}

fn read(mut config: Scope) -> Result<Manifest, StoreError> {
    for (name, what) in NOT_SERVED {
        if let Some(given) = config.take(name).first() {
            return given.invalid(&format!("{what} are not served"));
        }
    }
    let mut ignored = Vec::new();
    let mut notes = Vec::new();
    let mut manifest = Manifest {
        engine: Some(engine(&mut config)?),
        ..Manifest::default()
    };
    let mut terms = ConfigTerms {
        name: text(&mut config, "name")?,
        ..ConfigTerms::default()
    };
    manifest.file = text(&mut config, "default_model_filename")?;

    let max_batch = max_batch(&mut config, &mut notes)?;
    manifest.batch = BatchLimits { max: max_batch };
    let is_batched = max_batch.is_some();
    manifest.inputs = tensors(config.take("input"), is_batched, &mut ignored, None)?;
    let mut labels = Vec::new();
    let outputs = config.take("output");
    manifest.outputs = tensors(outputs, is_batched, &mut ignored, Some(&mut labels))?;
    // A manifest has labels for all outputs.
    let is_only = manifest.outputs.len() == 1;
    for given in labels {
        match given.text()? {
            file if is_only && !file.is_empty() => {
                manifest.output.labels = Some(Labels::File(file));
            }
            file if file.is_empty() => {}
            _ => ignored.push(given.place()),
        }
    }

    (manifest.instances, manifest.device) = instances(&mut config, &mut ignored)?;
    manifest.instances.threads = threads(&mut config, &mut ignored)?;
    manifest.timeout_ms = timeout_ms(&mut config, &mut ignored)?;
    terms.versions = versions(&mut config, &mut ignored)?;
    if let Some(policy) = config.only("model_transaction_policy")? {
        let mut policy = policy.scope()?;
        if let Some(decoupled) = policy.only("decoupled")?
            && decoupled.flag()?
        {
            return decoupled.invalid("models that answer more than once are not served");
        }
        policy.end(&mut ignored);
    }
    config.end(&mut ignored);

    if !ignored.is_empty() {
        notes.push(no_effect(&ignored));
    }
    terms.notes = notes;
    manifest.config = Some(terms);
    Ok(manifest)
}

fn no_effect(ignored: &[String]) -> String {
    let named = ignored.len().min(MAX_NAMED);
    let mut note = format!(
        "`{CONFIG}`: without effect here: {}",
        ignored[..named].join(", ")
    );
    if ignored.len() > named {
        note.push_str(&format!(" and {} more", ignored.len() - named));
    }
    note
}

fn text(config: &mut Scope, name: &str) -> Result<Option<String>, StoreError> {
    let given = config.only(name)?.map(|given| given.text()).transpose()?;
    Ok(given.filter(|text| !text.is_empty()))
}

/// Where nothing is said, Triton tells by the model's file, and only one kind of it is served here.
fn engine(config: &mut Scope) -> Result<EngineKind, StoreError> {
    for (name, expected) in [("platform", "onnxruntime_onnx"), ("backend", "onnxruntime")] {
        if let Some(given) = config.only(name)? {
            let text = given.text()?;
            if !text.is_empty() && text != expected {
                return given.invalid(&format!("expected {expected:?}, got {text:?}"));
            }
        }
    }
    Ok(EngineKind::Onnx)
}

fn max_batch(config: &mut Scope, notes: &mut Vec<String>) -> Result<Option<u32>, StoreError> {
    let Some(given) = config.only("max_batch_size")? else {
        return Ok(None);
    };
    let max: u32 = given.number("a whole number from 0")?;
    if max > MAX_BATCH {
        notes.push(format!(
            "`{CONFIG}`: `max_batch_size` is {max}, batches have at most {MAX_BATCH} items"
        ));
    }
    Ok(Some(max.min(MAX_BATCH)).filter(|&max| max > 0))
}

/// Where requests are joined, the batch is a dimension before those given; where they are not, no
/// dimension is one. Of outputs, files of labels are gathered.
fn tensors(
    all: Vec<Given>,
    is_batched: bool,
    ignored: &mut Vec<String>,
    mut labels: Option<&mut Vec<Given>>,
) -> Result<Vec<TensorDeclaration>, StoreError> {
    let mut declarations = Vec::new();
    for given in all {
        let unnamed = given.missing("name");
        let mut tensor = given.scope()?;
        if let Some(reshape) = tensor.take("reshape").first() {
            return reshape.invalid("expected none: tensors are sent in the shape of the graph");
        }
        let datatype = match tensor.only("data_type")? {
            Some(given) => datatype(&given)?,
            None => None,
        };
        let dims = tensor.take("dims");
        let dims: Vec<i64> = dims
            .iter()
            .map(
                |given| match given.number("a whole number greater than 0, or -1")? {
                    dimension @ (-1 | 1..) => Ok(dimension),
                    _ => given.invalid("expected a whole number greater than 0, or -1"),
                },
            )
            .collect::<Result<_, StoreError>>()?;
        let batch = is_batched.then_some(-1);
        // Says nothing of how the tensor is sent.
        drop(tensor.take("format"));
        if let Some(labels) = &mut labels {
            labels.extend(tensor.only("label_filename")?);
        }
        declarations.push(TensorDeclaration {
            name: text(&mut tensor, "name")?.ok_or(unnamed)?,
            datatype,
            shape: (!dims.is_empty()).then(|| batch.into_iter().chain(dims).collect()),
            batch_axis: Some(if is_batched { 0 } else { -1 }),
            example: None,
        });
        tensor.end(ignored);
    }
    Ok(declarations)
}

fn datatype(given: &Given) -> Result<Option<DataType>, StoreError> {
    let word = given.word()?;
    let name = word.strip_prefix("TYPE_").unwrap_or_default();
    if name == "INVALID" {
        return Ok(None);
    }
    let name = if name == "STRING" { "BYTES" } else { name };
    match name.parse() {
        Ok(datatype) => Ok(Some(datatype)),
        Err(()) => given.invalid(&format!(
            "expected a type, TYPE_FP32 for example, got {word:?}"
        )),
    }
}

/// The copies of all groups; where one is for a GPU, all are on the first that is named.
fn instances(
    config: &mut Scope,
    ignored: &mut Vec<String>,
) -> Result<(Instances, Device), StoreError> {
    let mut count = None::<u32>;
    let mut device = Device::Cpu;
    for given in config.take("instance_group") {
        let mut group = given.scope()?;
        let copies = match group.only("count")? {
            Some(given) => given.number("a whole number from 1")?,
            None => 1,
        };
        count = Some(count.unwrap_or(0).saturating_add(copies));
        let kind = group.only("kind")?;
        let gpus = group.take("gpus");
        if let Some(kind) = kind {
            match kind.word()? {
                "KIND_GPU" => {
                    let first = gpus.first().map(|gpu| gpu.number("a GPU's number"));
                    device = Device::Cuda(first.transpose()?.unwrap_or(0));
                }
                "KIND_CPU" | "KIND_AUTO" | "KIND_MODEL" => {}
                other => {
                    return kind.invalid(&format!(
                        "expected KIND_CPU, KIND_GPU, KIND_AUTO or KIND_MODEL, got {other:?}"
                    ));
                }
            }
        }
        ignored.extend(gpus.iter().skip(1).map(Given::place));
        drop(group.take("name"));
        group.end(ignored);
    }
    let instances = Instances {
        count,
        ..Instances::default()
    };
    Ok((instances, device))
}

/// Reads the one parameter of Triton's ONNX Runtime backend that there is a field for.
fn threads(config: &mut Scope, ignored: &mut Vec<String>) -> Result<Option<u32>, StoreError> {
    let mut threads = None;
    for given in config.take("parameters") {
        let place = given.place();
        let mut parameter = given.scope()?;
        let key = text(&mut parameter, "key")?.unwrap_or_default();
        if key != "intra_op_thread_count" {
            ignored.push(format!("{place} {key:?}"));
            continue;
        }
        if let Some(value) = parameter.only("value")? {
            let mut value = value.scope()?;
            if let Some(given) = value.only("string_value")? {
                let count = given.text()?.parse::<u32>();
                let Ok(count) = count else {
                    return given.invalid("expected a number of threads");
                };
                threads = Some(count).filter(|&count| count > 0);
            }
            value.end(ignored);
        }
        parameter.end(ignored);
    }
    Ok(threads)
}

/// That requests are joined, and how, is learned; what a queue does with a late one is not.
fn timeout_ms(config: &mut Scope, ignored: &mut Vec<String>) -> Result<Option<u64>, StoreError> {
    let mut timeout_ms = None;
    if let Some(batching) = config.only("dynamic_batching")? {
        let mut batching = batching.scope()?;
        if let Some(policy) = batching.only("default_queue_policy")? {
            let mut policy = policy.scope()?;
            if let Some(given) = policy.only("default_timeout_microseconds")? {
                let micros: u64 = given.number("a whole number of microseconds")?;
                timeout_ms = Some(micros.div_ceil(1000)).filter(|&ms| ms > 0);
            }
            policy.end(ignored);
        }
        batching.end(ignored);
    }
    Ok(timeout_ms)
}

/// A version that nobody calls costs nothing, so `latest` and `all` are the same here.
fn versions(
    config: &mut Scope,
    ignored: &mut Vec<String>,
) -> Result<Option<Vec<Version>>, StoreError> {
    let Some(policy) = config.only("version_policy")? else {
        return Ok(None);
    };
    let mut policy = policy.scope()?;
    drop((policy.take("latest"), policy.take("all")));
    let mut versions = None;
    if let Some(specific) = policy.only("specific")? {
        let mut specific = specific.scope()?;
        let named = specific.take("versions");
        let named = named.iter().map(|given| given.number("a version"));
        versions = Some(named.collect::<Result<_, _>>()?);
        specific.end(ignored);
    }
    policy.end(ignored);
    Ok(versions)
}

// === impl Scope ===

impl Scope {
    /// Takes every field of this name.
    fn take(&mut self, name: &str) -> Vec<Given> {
        let fields = std::mem::take(&mut self.fields);
        let (taken, left): (Vec<_>, _) = fields.into_iter().partition(|field| field.name == name);
        self.fields = left;
        let is_list = taken.len() > 1 || matches!(name, "input" | "output");
        let path = |index: usize| match is_list {
            true => format!("{}{name}[{index}]", self.path),
            false => format!("{}{name}", self.path),
        };
        let given = |(index, field): (usize, Field)| Given {
            path: path(index),
            line: field.line,
            value: field.value,
        };
        taken.into_iter().enumerate().map(given).collect()
    }

    /// Takes a field that may be given once.
    fn only(&mut self, name: &str) -> Result<Option<Given>, StoreError> {
        let mut given = self.take(name).into_iter();
        match (given.next(), given.next()) {
            (_, Some(second)) => second.invalid("expected once"),
            (first, None) => Ok(first),
        }
    }

    /// Notes what was not taken.
    fn end(self, ignored: &mut Vec<String>) {
        let mut last = "";
        for field in &self.fields {
            // Elements of a list are named once.
            if field.name != last {
                ignored.push(format!(
                    "`{}{}` (line {})",
                    self.path, field.name, field.line
                ));
            }
            last = &field.name;
        }
    }
}

// === impl Given ===

impl Given {
    fn place(&self) -> String {
        format!("`{}` (line {})", self.path, self.line)
    }

    fn invalid<T>(&self, problem: &str) -> Result<T, StoreError> {
        let (path, line) = (&self.path, self.line);
        Err(StoreError::Invalid(format!(
            "line {line}: `{path}`: {problem}"
        )))
    }

    fn missing(&self, field: &str) -> StoreError {
        let (path, line) = (&self.path, self.line);
        StoreError::Invalid(format!("line {line}: `{path}.{field}`: required"))
    }

    fn word(&self) -> Result<&str, StoreError> {
        match &self.value {
            Value::Word(word) => Ok(word),
            Value::Text(text) => self.invalid(&format!("expected no quotes, got {text:?}")),
            Value::Message(_) => self.invalid("expected a word or a number, got a message"),
        }
    }

    fn number<T: FromStr>(&self, expected: &str) -> Result<T, StoreError> {
        let word = self.word()?;
        match word.parse() {
            Ok(number) => Ok(number),
            Err(_) => self.invalid(&format!("expected {expected}, got {word:?}")),
        }
    }

    fn flag(&self) -> Result<bool, StoreError> {
        match self.word()? {
            "true" | "True" | "t" | "1" => Ok(true),
            "false" | "False" | "f" | "0" => Ok(false),
            other => self.invalid(&format!("expected true or false, got {other:?}")),
        }
    }

    fn text(&self) -> Result<String, StoreError> {
        match &self.value {
            Value::Text(text) => Ok(text.clone()),
            Value::Word(word) => self.invalid(&format!("expected text in quotes, got {word:?}")),
            Value::Message(_) => self.invalid("expected text in quotes, got a message"),
        }
    }

    fn scope(self) -> Result<Scope, StoreError> {
        match self.value {
            Value::Message(fields) => Ok(Scope {
                path: format!("{}.", self.path),
                fields,
            }),
            _ => self.invalid("expected a message in braces"),
        }
    }
}

#[cfg(test)]
mod tests;
