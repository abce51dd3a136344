//! `hearth put`: files become objects.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap::builder::ValueHint;
use walkdir::WalkDir;

use super::client::Client;
use super::etag;
use super::failure::Failure;
use super::gateway::GatewayOptions;
use super::interrupt::Interrupt;
use super::output::OutputOptions;
use super::place::Place;
use super::services::{Shown, fetch, missing};
use super::storage::Storage;
use super::transfer::{File, MAX_FILES, Meter, Outcome, Transfer, TransferOptions};
use crate::terminal::plain;

/// Longest key, in bytes.
const MAX_KEY: usize = 1024;

#[derive(Args)]
pub(crate) struct PutOptions {
    /// Files, and folders: what is in them, and in theirs, keeps its path below the folder
    #[arg(required = true, value_name = "FILE|FOLDER", value_hint = ValueHint::AnyPath)]
    sources: Vec<PathBuf>,
    /// `BUCKET/FOLDER` or `BUCKET/`, or the name of a service: where its first input comes from
    target: String,
    #[command(flatten)]
    transfer: TransferOptions,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

/// A file, and what it becomes.
struct Upload {
    /// As it is said.
    name: String,
    path: PathBuf,
    key: String,
    size: u64,
}

/// What is to be sent, and what can't be.
#[derive(Default)]
struct Found {
    uploads: Vec<Upload>,
    failed: Vec<(String, anyhow::Error)>,
}

pub(super) fn put(options: &PutOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    let target = match options.target.contains('/') {
        true => options.target.parse().map_err(anyhow::Error::msg)?,
        false => input_of(&client, &options.target)?,
    };
    let interrupt = Interrupt::catch()?;
    let n_connections = options.transfer.parallel();
    let storage = options
        .gateway
        .storage(&client, n_connections, interrupt.clone())?;
    storage.find(&target.bucket)?;
    let found = Found::below(&options.sources, &target.folder())?;
    let transfer = Transfer {
        options: &options.transfer,
        output: &options.output,
        done: "uploaded",
        interrupt,
    };
    let is_skipping = options.transfer.skip_existing;
    transfer.run(found.uploads, found.failed, |upload, meter| {
        upload.send(&storage, &target.bucket, is_skipping, meter)
    })
}

/// Returns where the first input of a service comes from.
fn input_of(client: &Client, name: &str) -> anyhow::Result<Place> {
    let value = fetch(client, name).map_err(|error| {
        match missing(client, name, error).downcast::<Failure>() {
            Ok(failure) if failure.is_not_found() => failure
                .and(&format!("; a bucket is written `{name}/`"))
                .into(),
            Ok(failure) => failure.into(),
            Err(error) => error,
        }
    })?;
    let service = Shown::read(&value)?.definition;
    let input = service.input.first().with_context(|| {
        format!("service `{name}` has no `input`: say where to with BUCKET/FOLDER")
    })?;
    let reference = input.reference();
    anyhow::ensure!(
        (reference.provider, reference.id) == ("minio", "default"),
        "the input of service `{name}` is at `{}`, which is not the gateway's own storage: use a client \
         of that",
        plain(&input.provider)
    );
    let path = input.bucket_path(name)?;
    Ok(Place {
        bucket: path.bucket,
        key: path.folder,
    })
}

// === impl Found ===

impl Found {
    /// Looks for files, in their order: of each source its own, and what is below it.
    ///
    /// # Errors
    /// Where there are none, too many, or two that would be one object.
    fn below(sources: &[PathBuf], folder: &str) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for source in sources {
            found
                .add(source, folder)
                .with_context(|| plain(&source.to_string_lossy()))?;
        }
        let mut taken: HashMap<&str, &Path> = HashMap::new();
        for upload in &found.uploads {
            if let Some(other) = taken.insert(&upload.key, &upload.path) {
                anyhow::bail!(
                    "{} and {} would both be `{}`: put them into different folders",
                    plain(&other.to_string_lossy()),
                    upload.name,
                    plain(&upload.key)
                );
            }
        }
        anyhow::ensure!(
            !found.uploads.is_empty() || !found.failed.is_empty(),
            "there is no file in what is to be uploaded"
        );
        Ok(found)
    }

    fn add(&mut self, source: &Path, folder: &str) -> anyhow::Result<()> {
        // What is named is there, or nothing is begun.
        let is_folder = fs::metadata(source)?.is_dir();
        let top = match is_folder {
            true => source,
            false => source.parent().unwrap_or(source),
        };
        for entry in WalkDir::new(source).follow_links(true).sort_by_file_name() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error
                        .path()
                        .unwrap_or(source)
                        .to_string_lossy()
                        .into_owned();
                    let error = match error.io_error() {
                        Some(error) => anyhow::anyhow!("{error}"),
                        None => anyhow::anyhow!("a link that leads to what it is in"),
                    };
                    self.failed.push((path, error));
                    continue;
                }
            };
            if entry.file_type().is_dir() {
                continue;
            }
            anyhow::ensure!(
                self.uploads.len() + self.failed.len() < MAX_FILES,
                "there are more than {MAX_FILES} files: put its folders one by one"
            );
            match Upload::new(entry.path(), top, folder) {
                Ok(upload) => self.uploads.push(upload),
                Err(error) => {
                    let name = entry.path().to_string_lossy().into_owned();
                    self.failed.push((name, error));
                }
            }
        }
        Ok(())
    }
}

// === impl Upload ===

impl Upload {
    fn new(path: &Path, top: &Path, folder: &str) -> anyhow::Result<Self> {
        let metadata = fs::metadata(path)?;
        anyhow::ensure!(metadata.is_file(), "it is neither file nor folder");
        let below = path.strip_prefix(top)?;
        let below = below.to_str().context("its name is not UTF-8")?;
        let key = format!("{folder}{below}");
        anyhow::ensure!(
            key.len() <= MAX_KEY,
            "its key has {} bytes, expected {MAX_KEY} at most",
            key.len()
        );
        Ok(Self {
            name: plain(&path.to_string_lossy()),
            path: path.to_owned(),
            key,
            size: metadata.len(),
        })
    }

    fn send(
        &self,
        storage: &Storage,
        bucket: &str,
        is_skipping: bool,
        meter: &Meter<'_>,
    ) -> anyhow::Result<Outcome> {
        let mut file = fs::File::open(&self.path)?;
        if is_skipping && let Some(object) = storage.head(bucket, &self.key)? {
            if object.size == self.size && etag::is_of(&file, self.size, &object.etag)? {
                return Ok(Outcome::Same);
            }
            file.rewind()?;
        }
        let Some(part) = etag::part_of(self.size) else {
            let bytes = self.read(&mut file, self.size)?;
            self.check_end(&mut file)?;
            storage.put(bucket, &self.key, &bytes)?;
            meter.moved(self.size);
            return Ok(Outcome::Moved);
        };
        let upload = storage.begin(bucket, &self.key)?;
        let sent = self.send_parts(storage, bucket, (&upload, part), (&mut file, meter));
        if sent.is_err() {
            // The storage does so itself after a while.
            let _ = storage.abort(bucket, &self.key, &upload);
        }
        sent.map(|()| Outcome::Moved)
    }

    fn send_parts(
        &self,
        storage: &Storage,
        bucket: &str,
        (upload, part): (&str, u64),
        (file, meter): (&mut fs::File, &Meter<'_>),
    ) -> anyhow::Result<()> {
        let at = (bucket, self.key.as_str());
        let (mut sums, mut sent) = (Vec::new(), 0);
        while sent < self.size {
            meter.check()?;
            let n_bytes = part.min(self.size - sent);
            let bytes = self.read(file, n_bytes)?;
            let sum = etag::sum(&bytes);
            sums.push(sum);
            storage.put_part(at, upload, sums.len(), (&bytes, sum))?;
            meter.moved(n_bytes);
            sent += n_bytes;
        }
        self.check_end(file)?;
        storage.complete(at, upload, &sums)?;
        Ok(())
    }

    fn read(&self, file: &mut fs::File, n_bytes: u64) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(n_bytes)?);
        file.take(n_bytes).read_to_end(&mut bytes)?;
        anyhow::ensure!(bytes.len() as u64 == n_bytes, "it became shorter meanwhile");
        Ok(bytes)
    }

    fn check_end(&self, file: &mut fs::File) -> anyhow::Result<()> {
        anyhow::ensure!(file.read(&mut [0])? == 0, "it became longer meanwhile");
        Ok(())
    }
}

impl File for Upload {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }
}
