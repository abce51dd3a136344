//! `hearth model`: adding to a store and looking into it. Needs no running gateway: one that
//! watches the store notices.

use std::io::{IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use model_store::{Cache, CachedVersion, ModelName, ModelReference, Store, StoredVersion, Version};

use crate::config::WorkerOptions;
use crate::launcher;
use crate::terminal::{Table, print};

#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// Check a model's folder and copy it into the store
    Add(AddOptions),
    /// Fetch a model's file into a folder, to be added then
    Import(ImportOptions),
    /// List the versions of a store
    List(ListOptions),
}

#[derive(Args)]
pub(crate) struct AddOptions {
    /// A folder with model.yaml and the files that it speaks of, or a model of a Triton repository
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Folder of models
    #[arg(long, env = "HEARTH_STORE", value_name = "DIR")]
    store: PathBuf,
    /// The model's name. Default: the folder's
    #[arg(long, value_name = "NAME")]
    name: Option<ModelName>,
    /// The version. Default: the one after the latest, or the latest if it has the same files
    #[arg(long, value_name = "N")]
    version: Option<Version>,
    #[command(flatten)]
    worker: WorkerOptions,
}

#[derive(Args)]
pub(crate) struct ImportOptions {
    /// An http or https URL, or a file
    #[arg(value_name = "URL")]
    source: String,
    /// Folder to put it in, made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// SHA-256 that the file must have, 64 hex digits
    #[arg(long, value_name = "HEX")]
    sha256: Option<model_store::Digest>,
    /// Largest file, in bytes
    #[arg(long, default_value_t = 4 << 30, value_name = "BYTES")]
    max_bytes: u64,
}

#[derive(Args)]
pub(crate) struct ListOptions {
    /// Folder of models
    #[arg(long, env = "HEARTH_STORE", value_name = "DIR")]
    store: PathBuf,
}

pub(crate) async fn run(command: ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::Add(options) => add(options).await,
        ModelCommand::Import(options) => {
            tokio::task::spawn_blocking(move || import(&options)).await?
        }
        ModelCommand::List(options) => list(&options),
    }
}

// === add ===

/// Checks the folder as a gateway would, in a cache that is thrown away, and copies it into the
/// store if it can be served.
async fn add(options: AddOptions) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.store)?;
    let store = Store::open(&options.store)?;
    let mut folders = model_store::version_folders(&options.folder)?;
    if folders.len() > 1
        && let Some(version) = options.version
    {
        folders.retain(|folder| folder.ends_with(version.to_string()));
        anyhow::ensure!(
            !folders.is_empty(),
            "{} has no version {version}",
            options.folder.display()
        );
    }
    for folder in folders {
        add_version(&store, &folder, &options).await?;
    }
    Ok(())
}

async fn add_version(store: &Store, folder: &Path, options: &AddOptions) -> anyhow::Result<()> {
    let staged = store.stage(folder, options.name.clone(), options.version)?;
    let reference = format!("{}:{}", staged.name, staged.version);
    if staged.is_present() {
        print(&format!(
            "{reference} is there already, with the same files"
        ))?;
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let cache = Cache::open(scratch.path())?;
    let checked = staged.stored()?;
    let model = check(store, &cache, &checked, &options.worker)
        .await
        .with_context(|| format!("{reference} can't be served"))?;
    let published = staged.publish()?;
    for note in &model.spec.notes {
        print(&format!("note: {note}"))?;
    }
    print(&format!(
        "added {reference} at {}",
        published.path.display()
    ))?;
    Ok(())
}

async fn check(
    store: &Store,
    cache: &Cache,
    version: &StoredVersion,
    worker: &WorkerOptions,
) -> anyhow::Result<CachedVersion> {
    let taken = cache.take_in(version, &mut |_, _| {})?;
    taken.manifest.check_place(&version.name, version.version)?;
    let mut stages = Vec::new();
    for stage in &taken.manifest.stages {
        let stage = find(store, &stage.model)?;
        anyhow::ensure!(
            stage.manifest()?.stages.is_empty(),
            "stage `{}` has stages itself",
            stage.name
        );
        let taken = cache.take_in(&stage, &mut |_, _| {})?;
        let spec = launcher::prepare(worker, taken.dir(), &[])
            .await
            .with_context(|| format!("stage `{}:{}`", stage.name, stage.version))?;
        stages.push(taken.seal(&spec)?);
    }
    let spec = launcher::prepare(worker, taken.dir(), &stages).await?;
    Ok(taken.seal(&spec)?)
}

fn find(store: &Store, reference: &ModelReference) -> anyhow::Result<StoredVersion> {
    let versions = store.scan()?.versions;
    let is_meant = |version: &StoredVersion| {
        version.name == reference.name
            && reference
                .version
                .is_none_or(|wanted| version.version == wanted)
    };
    versions
        .into_iter()
        .filter(is_meant)
        .max_by_key(|version| version.version)
        .with_context(|| format!("stage `{reference}` is not in the store: add it first"))
}

// === list ===

fn list(options: &ListOptions) -> anyhow::Result<()> {
    let scan = Store::open(&options.store)?.scan()?;
    let rows: Vec<[String; 4]> = scan
        .versions
        .iter()
        .map(|version| {
            let (task, engine) = match version.manifest() {
                Ok(manifest) => {
                    let word = |value: Result<String, _>| {
                        value.map_or_else(
                            |_| String::new(),
                            |json: String| json.trim_matches('"').to_owned(),
                        )
                    };
                    let task = manifest.task.map_or_else(
                        || "tensors".to_owned(),
                        |task| word(serde_json::to_string(&task)),
                    );
                    let engine = manifest.engine.map_or_else(
                        || "stages".to_owned(),
                        |engine| word(serde_json::to_string(&engine)),
                    );
                    (task, engine)
                }
                Err(error) => (format!("refused: {error}"), String::new()),
            };
            [
                version.name.to_string(),
                version.version.to_string(),
                engine,
                task,
            ]
        })
        .collect();
    let mut table = Table::new(["NAME", "VERSION", "ENGINE", "TASK"]);
    for row in rows {
        table.row(row);
    }
    table.print()?;
    for skipped in scan.skipped {
        print(&format!(
            "skipped {}: {}",
            skipped.path.display(),
            skipped.reason
        ))?;
    }
    Ok(())
}

// === import ===

/// How long a server may take to be reached, and to begin its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Fetches a file to a temporary name beside its place, checks it, and moves it there.
fn import(options: &ImportOptions) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.folder)?;
    let name = options
        .source
        .split(['?', '#'])
        .next()
        .and_then(|path| path.rsplit('/').next())
        .unwrap_or_default();
    anyhow::ensure!(
        !name.is_empty() && !name.starts_with('.'),
        "{:?} names no file: expected a URL that ends in one, model.onnx for example",
        options.source
    );
    let (mut body, length) = open(&options.source)?;
    let mut file = tempfile::NamedTempFile::new_in(&options.folder)?;
    let mut progress = Progress::new(name, length);
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0_u64;
    loop {
        let n = body
            .read(&mut buffer)
            .with_context(|| format!("{name} broke off after {bytes} bytes"))?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        anyhow::ensure!(
            bytes <= options.max_bytes,
            "{name} has more than {} bytes (--max-bytes)",
            options.max_bytes
        );
        file.write_all(&buffer[..n])?;
        progress.show(bytes);
    }
    progress.end();
    anyhow::ensure!(
        length.is_none_or(|length| length == bytes),
        "{name} broke off: {bytes} bytes came of {}",
        length.unwrap_or_default()
    );
    file.as_file().sync_all()?;
    let digest = model_store::Digest::of_file(file.path())?;
    if let Some(expected) = options.sha256 {
        anyhow::ensure!(
            digest == expected,
            "{name} has the SHA-256 {digest}, expected {expected}: it was not kept"
        );
    }
    let place = options.folder.join(name);
    file.persist(&place)?;
    print(&format!(
        "fetched {} ({bytes} bytes, sha256 {digest})",
        place.display()
    ))?;
    if !options.folder.join("model.yaml").exists() {
        print(&format!(
            "next: write {}/model.yaml (`engine: onnx` is enough for tensors), then `hearth model add {}`",
            options.folder.display(),
            options.folder.display()
        ))?;
    }
    Ok(())
}

fn open(source: &str) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if source.starts_with("http://") || source.starts_with("https://") {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(CONNECT_TIMEOUT))
            .build()
            .into();
        let response = agent
            .get(source)
            .call()
            .with_context(|| format!("{source} can't be fetched"))?;
        let length = response.body().content_length();
        return Ok((Box::new(response.into_body().into_reader()), length));
    }
    anyhow::ensure!(
        !source.contains("://"),
        "{source}: expected an http or https URL, or a file"
    );
    let file = std::fs::File::open(Path::new(source)).with_context(|| source.to_owned())?;
    let length = file.metadata()?.len();
    Ok((Box::new(file), Some(length)))
}

/// A progress bar on a terminal, nothing elsewhere.
struct Progress<'a> {
    name: &'a str,
    length: Option<u64>,
    percent: u64,
    is_shown: bool,
}

impl<'a> Progress<'a> {
    fn new(name: &'a str, length: Option<u64>) -> Self {
        Self {
            name,
            length,
            percent: u64::MAX,
            is_shown: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, bytes: u64) {
        let length = self.length.unwrap_or(0).max(1);
        let percent = (bytes.saturating_mul(100) / length).min(100);
        if self.is_shown && percent != self.percent {
            self.percent = percent;
            let filled = "#".repeat((percent / 4) as usize);
            // A terminal that can't be written to shows nothing.
            let _ = write!(
                std::io::stderr(),
                "\r{} [{filled:25}] {percent:3} %",
                self.name
            );
        }
    }

    fn end(&self) {
        if self.is_shown {
            let _ = writeln!(std::io::stderr());
        }
    }
}
