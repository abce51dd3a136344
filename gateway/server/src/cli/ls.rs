//! `hearth ls`: buckets, and what is in them.

use std::sync::Arc;

use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::failure::{Cause, Failure};
use super::gateway::GatewayOptions;
use super::interrupt::Interrupt;
use super::logs::moment;
use super::output::OutputOptions;
use super::place::Place;
use super::storage::{Page, Storage};
use super::transfer::MAX_FILES;
use crate::terminal::{Table, bytes, plain, print};

#[derive(Args)]
pub(crate) struct LsOptions {
    /// `BUCKET`, `BUCKET/FOLDER`, or what keys begin with. Default: all buckets
    place: Option<Place>,
    /// List what is in folders as well
    #[arg(long, short)]
    recursive: bool,
    /// List all, not only the first thousand
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    gateway: GatewayOptions,
}

pub(super) fn ls(options: &LsOptions) -> anyhow::Result<()> {
    let client = options.gateway.client()?;
    // Nothing is left behind: it may end where it is.
    let storage = options
        .gateway
        .storage(&client, 1, Arc::new(Interrupt::default()))?;
    match &options.place {
        Some(place) => objects(options, &storage, place),
        None => buckets(options, &storage),
    }
}

fn buckets(options: &LsOptions, storage: &Storage) -> anyhow::Result<()> {
    let buckets = storage.buckets()?;
    let mut table = Table::new(["BUCKET", "CREATED"]);
    let mut values = Vec::new();
    for bucket in &buckets {
        table.row([bucket.name.clone(), moment(bucket.created)]);
        values.push(json!({"bucket": bucket.name, "created": rfc3339(bucket.created)}));
    }
    options.output.show(&values.into(), || match buckets.len() {
        0 => print("no buckets yet; services make those of their inputs and outputs"),
        _ => table.print(),
    })
}

fn objects(options: &LsOptions, storage: &Storage, place: &Place) -> anyhow::Result<()> {
    let bucket = place.bucket.as_str();
    let mut prefix = place.key.clone();
    let list = |prefix: &str, from| storage.page(bucket, prefix, options.recursive, from);
    let mut page = list(&prefix, None)?;
    // What is written without its slash is meant with it, where nothing else begins so.
    let folder = place.folder();
    let is_folder = match options.recursive {
        true => page
            .objects
            .iter()
            .all(|object| object.key.starts_with(&folder)),
        false => page.objects.is_empty() && page.folders == [folder.as_str()],
    };
    if prefix != folder && is_folder && !page.is_empty() {
        prefix = folder;
        page = list(&prefix, None)?;
    }
    while let Some(from) = page.next.take_if(|_| options.all) {
        let more = list(&prefix, Some(from))?;
        page.objects.extend(more.objects);
        page.folders.extend(more.folders);
        page.next = more.next;
        anyhow::ensure!(
            page.objects.len() + page.folders.len() <= MAX_FILES,
            "there are more than {MAX_FILES}: list its folders one by one"
        );
    }
    if page.is_empty() && !place.key.is_empty() {
        let (bucket, key) = (plain(bucket), plain(&place.key));
        let message = format!("nothing in bucket `{bucket}` begins with `{key}`");
        return Err(Failure::new(Cause::Refused(StatusCode::NOT_FOUND), message).into());
    }
    // The folder itself, as clients mark it.
    page.objects
        .retain(|object| object.key != prefix || object.size > 0);
    let mut table = Table::new(["SIZE", "MODIFIED", "KEY"]);
    for folder in &page.folders {
        table.row(["-".to_owned(), "-".to_owned(), folder.clone()]);
    }
    for object in &page.objects {
        let modified = moment(object.modified);
        table.row([bytes(object.size), modified, object.key.clone()]);
    }
    options.output.show(&value(bucket, &page), || {
        if page.is_empty() {
            return print(&format!(
                "nothing in `{}/{}` yet",
                plain(bucket),
                plain(&prefix)
            ));
        }
        table.print()?;
        match page.next {
            None => Ok(()),
            Some(_) => print("and more, with --all"),
        }
    })
}

fn value(bucket: &str, page: &Page) -> Value {
    let objects = page.objects.iter().map(|object| {
        json!({
            "key": object.key,
            "size": object.size,
            "etag": object.etag,
            "modified": rfc3339(object.modified),
        })
    });
    json!({
        "bucket": bucket,
        "folders": page.folders,
        "objects": objects.collect::<Vec<_>>(),
        "has_more": page.next.is_some(),
    })
}

fn rfc3339(time: OffsetDateTime) -> Option<String> {
    time.format(&Rfc3339).ok()
}

impl Page {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.folders.is_empty()
    }
}
