//! `hearth get`: a service is shown, objects become files.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap::builder::ValueHint;
use http::StatusCode;

use super::etag::{self, PART};
use super::failure::{Cause, Failure};
use super::gateway::GatewayOptions;
use super::interrupt::Interrupt;
use super::output::OutputOptions;
use super::place::{Place, file_of};
use super::services;
use super::storage::{Head, Storage};
use super::transfer::{File, MAX_FILES, Meter, Outcome, Transfer, TransferOptions};
use crate::terminal::plain;

#[derive(Args)]
pub(crate) struct GetOptions {
    /// Name of the service; or `BUCKET/KEY`, `BUCKET/FOLDER/` or `BUCKET/`
    what: String,
    /// Of objects: the folder for them, which is made if it is not there. Default: the one you are in
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: Option<PathBuf>,
    #[command(flatten)]
    transfer: TransferOptions,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

/// An object, and the file that it becomes.
struct Download {
    object: Head,
    path: PathBuf,
}

pub(super) fn get(options: &GetOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    if !options.what.contains('/') {
        anyhow::ensure!(
            options.folder.is_none(),
            "`{0}` is a service, which is shown and takes no folder; a bucket is written `{0}/`",
            options.what
        );
        return services::show(&client, &options.what, &options.output);
    }
    let place: Place = options.what.parse().map_err(anyhow::Error::msg)?;
    let interrupt = Interrupt::catch()?;
    let n_connections = options.transfer.parallel();
    let storage = options
        .gateway
        .storage(&client, n_connections, interrupt.clone())?;
    let (objects, above) = find(&storage, &place)?;
    let folder = options.folder.as_deref().unwrap_or(Path::new("."));
    let (mut downloads, mut failed) = (Vec::new(), Vec::new());
    for object in objects {
        let below = object.key.get(above..).unwrap_or_default();
        match file_of(below) {
            Ok(file) => downloads.push(Download {
                path: folder.join(file),
                object,
            }),
            Err(reason) => failed.push((object.key, anyhow::anyhow!(reason))),
        }
    }
    let transfer = Transfer {
        options: &options.transfer,
        output: &options.output,
        done: "downloaded",
        interrupt,
    };
    let is_skipping = options.transfer.skip_existing;
    transfer.run(downloads, failed, |download, meter| {
        download.fetch(&storage, &place.bucket, is_skipping, meter)
    })
}

/// Looks for the object of a place, or else for those in the folder of this name; returns them, and how
/// long the part of their keys is that stays behind.
fn find(storage: &Storage, place: &Place) -> anyhow::Result<(Vec<Head>, usize)> {
    let (bucket, key) = (place.bucket.as_str(), place.key.as_str());
    let is_folder = key.is_empty() || key.ends_with('/');
    if !is_folder && let Some(object) = storage.head(bucket, key)? {
        let above = key.rfind('/').map_or(0, |slash| slash + 1);
        return Ok((vec![object], above));
    }
    let folder = place.folder();
    let (mut objects, mut from) = (Vec::new(), None);
    loop {
        let page = storage.page(bucket, &folder, true, from)?;
        // Clients mark folders by objects without content.
        let is_file = |object: &Head| object.size > 0 || !object.key.ends_with('/');
        objects.extend(page.objects.into_iter().filter(is_file));
        anyhow::ensure!(
            objects.len() <= MAX_FILES,
            "there are more than {MAX_FILES} objects: get its folders one by one"
        );
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    if objects.is_empty() {
        let (bucket, key) = (plain(bucket), plain(key));
        let message = match is_folder {
            true => format!("there are no objects in `{bucket}/{key}`"),
            false => {
                format!("there is no object `{bucket}/{key}`, and none in a folder of this name")
            }
        };
        return Err(Failure::new(Cause::Refused(StatusCode::NOT_FOUND), message).into());
    }
    Ok((objects, folder.len()))
}

// === impl Download ===

impl Download {
    fn fetch(
        &self,
        storage: &Storage,
        bucket: &str,
        is_skipping: bool,
        meter: &Meter<'_>,
    ) -> anyhow::Result<Outcome> {
        if is_skipping && self.is_there()? {
            return Ok(Outcome::Same);
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let of_file = || plain(&self.path.to_string_lossy());
        fs::create_dir_all(folder).with_context(of_file)?;
        anyhow::ensure!(!self.path.is_dir(), "{}: there is a folder", of_file());
        let mut file = tempfile::Builder::new()
            .prefix(".hearth-")
            // As files are made, whose mode is for the umask to say.
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .with_context(of_file)?;
        let mut came = 0;
        while came < self.object.size {
            meter.check()?;
            let n_bytes = PART.min(self.object.size - came);
            let bytes = storage.get(bucket, &self.object, came, n_bytes)?;
            file.write_all(&bytes).with_context(of_file)?;
            meter.moved(n_bytes);
            came += n_bytes;
        }
        let kept = file.persist(&self.path).map_err(|error| error.error);
        kept.with_context(of_file)?;
        Ok(Outcome::Moved)
    }

    /// Whether the file has the object's content already.
    fn is_there(&self) -> anyhow::Result<bool> {
        let Ok(file) = fs::File::open(&self.path) else {
            return Ok(false);
        };
        let metadata = file.metadata()?;
        let Head { size, etag, .. } = &self.object;
        Ok(metadata.is_file() && metadata.len() == *size && etag::is_of(&file, *size, etag)?)
    }
}

impl File for Download {
    fn name(&self) -> &str {
        &self.object.key
    }

    fn size(&self) -> u64 {
        self.object.size
    }
}
