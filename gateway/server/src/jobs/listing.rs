//! The listing: finds objects whose event was lost, and forgets what was seen of those that are gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gateway_oscar::StorageReference;
use workers_protocol::InferError;

use super::NewJob;
use super::events::is_marker;
use super::ledger::Stretch;
use crate::oscar::{Folder, Service};
use crate::rest::Front;
use crate::storage::{Page, Storage};
use crate::work::Identity;

/// Looks through the inputs of all services, at the start and every so often.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) front: Arc<Front>,
    /// From the end of a look to the next.
    pub(crate) interval: Duration,
    /// Whether objects that are older than their service count as well.
    pub(crate) is_backfill: bool,
}

impl Listing {
    pub(crate) async fn run(self) {
        // What can't be looked through is said once, until it can be.
        let mut failing = BTreeSet::new();
        loop {
            for service in self.front.services.all() {
                for folder in &service.inputs {
                    let place = (folder.provider.clone(), folder.bucket.clone());
                    match self.look_through(&service, folder).await {
                        Ok(()) => {
                            failing.remove(&place);
                            self.announce_again(&service, folder).await;
                        }
                        Err(error) => {
                            let (provider, bucket) = (&folder.provider, &folder.bucket);
                            if failing.insert(place) {
                                tracing::warn!(service = service.name(), %provider, %bucket, %error, "an input can't be listed");
                            }
                        }
                    }
                }
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Has an input announced that is not, or not any more: its store may know only now whom to tell.
    async fn announce_again(&self, service: &Arc<Service>, folder: &Folder) {
        let services = &self.front.services;
        // One that went meanwhile has said that nothing is to be announced to it.
        let now = services.get(service.name());
        if !now.is_some_and(|now| Arc::ptr_eq(&now, service)) {
            return;
        }
        let reference = StorageReference::parse(&folder.provider);
        if let Ok(Some(storage)) = self.front.providers.of(&service.definition, reference) {
            let path = folder.prefix.trim_end_matches('/');
            if let Err(error) = storage.announce(&folder.bucket, path).await {
                tracing::debug!(service = service.name(), %error, "it can't be announced");
            }
        }
    }

    async fn look_through(&self, service: &Service, folder: &Folder) -> Result<(), InferError> {
        let front = &self.front;
        let reference = StorageReference::parse(&folder.provider);
        let Some(storage) = front.providers.of(&service.definition, reference)? else {
            return Ok(());
        };
        let until = front.jobs.latest().await?;
        let mut after: Option<String> = None;
        loop {
            let (bucket, prefix) = (&folder.bucket, &folder.prefix);
            let page = storage.list(bucket, prefix, after.as_deref()).await?;
            let stretch = Stretch {
                service: service.name().to_owned(),
                provider: folder.provider.clone(),
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                after: after.take().unwrap_or_default(),
                last: page.next.clone(),
                there: page
                    .objects
                    .iter()
                    .map(|head| (head.key.clone(), Identity::of(head)))
                    .collect(),
                until,
            };
            let unseen = front.jobs.compare(stretch).await?;
            self.announce(service, (folder, &storage), &page, unseen)
                .await?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Makes jobs of what was not seen of a page.
    async fn announce(
        &self,
        service: &Service,
        (folder, storage): (&Folder, &Storage),
        page: &Page,
        unseen: Vec<usize>,
    ) -> Result<(), InferError> {
        let unseen = unseen
            .into_iter()
            .filter_map(|index| page.objects.get(index));
        let is_event = |head: &&_| {
            let head: &crate::storage::Head = head;
            (self.is_backfill || head.modified >= service.created)
                && folder.takes(&head.key)
                && !is_marker(&head.key, head.size)
        };
        let (provider, bucket) = (&folder.provider, &folder.bucket);
        let mut jobs = Vec::new();
        // A listing does not tell. Where the first that is asked about has no version, none is taken to.
        let mut keeps_versions = matches!(storage, Storage::S3(_));
        for head in unseen.filter(is_event) {
            let asked = match keeps_versions {
                true => storage.head(bucket, &head.key).await,
                false => Ok(None),
            };
            let now = match asked {
                Err(error) if error.is_transient() => return Err(error.into()),
                // Its job says what is wrong with it.
                now => now.ok().flatten(),
            };
            if let Some(now) = &now {
                keeps_versions = now.version.is_some();
            }
            let now = now.filter(|now| keeps_versions && Identity::of(head).is_of(now));
            let head = now.as_ref().unwrap_or(head);
            jobs.push(NewJob::of(service.name(), provider, bucket, head)?);
        }
        if !jobs.is_empty() {
            let n_new = self.front.announce(jobs).await?.iter().flatten().count();
            tracing::info!(
                service = service.name(),
                jobs = n_new,
                "objects were found whose event had not come"
            );
        }
        Ok(())
    }
}
