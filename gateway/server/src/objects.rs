//! The object storage of this gateway: its own, in the data folder, or another one.

mod keys;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gateway_objects::{Counts, Keys, Service, Store, Watcher};
use gateway_oscar::Minio;
use http::uri::Authority;
use http::{HeaderMap, header};
use time::OffsetDateTime;
use workers_protocol::InferError;

/// Name of the folder in the data directory.
const FOLDER: &str = "objects";
/// How long an upload in parts may wait for its next one.
const UPLOAD_IDLE: time::Duration = time::Duration::days(1);
/// How often those that waited too long are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Where objects are, and what clients are told of it.
#[derive(Debug)]
pub(crate) enum Objects {
    /// In the data folder.
    Own {
        store: Arc<Store>,
        keys: Keys,
        region: String,
        endpoint: Endpoint,
    },
    /// At a MinIO, which clients reach as the gateway does.
    External(Minio),
}

/// Where clients find the S3 endpoint.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    /// It does not listen.
    Off,
    /// Under the name that they call the gateway by.
    Port { scheme: &'static str, port: u16 },
    /// Where the operator says.
    Url(String),
}

impl Objects {
    /// Opens the store in the data folder. Blocks.
    ///
    /// # Errors
    /// A sentence, of what can't be opened or can't be the keys.
    pub(crate) fn open_own(
        data: &Path,
        keys: (Option<&crate::auth::Secret>, Option<&crate::auth::Secret>),
        region: String,
        endpoint: Endpoint,
    ) -> anyhow::Result<Self> {
        let folder = data.join(FOLDER);
        let store = Store::open(&folder)
            .with_context(|| format!("the objects in {} can't be opened", folder.display()))?;
        Ok(Self::Own {
            store,
            keys: keys::open(data, keys)?,
            region,
            endpoint,
        })
    }

    /// Returns how much there is; of what is at another's nothing is known.
    ///
    /// # Errors
    /// `Internal` where it can't be read.
    pub(crate) async fn counts(&self) -> Result<Counts, InferError> {
        match self {
            Self::Own { store, .. } => store
                .counts()
                .await
                .map_err(|error| InferError::internal(error.to_string())),
            Self::External(_) => Ok(Counts::default()),
        }
    }

    /// Returns what a client needs to reach the objects, who sent these headers.
    pub(crate) fn provider(&self, headers: &HeaderMap) -> Minio {
        match self {
            Self::External(minio) => minio.clone(),
            Self::Own {
                keys,
                region,
                endpoint,
                ..
            } => Minio {
                endpoint: endpoint.for_client(headers),
                verify: true,
                access_key: keys.access_key.as_str().into(),
                secret_key: keys.secret_key.as_str().into(),
                region: region.clone(),
            },
        }
    }

    /// Returns what speaks S3, and tells somebody of what comes, if these are our own.
    pub(crate) fn service(&self, watcher: Arc<dyn Watcher>) -> Option<Service> {
        let Self::Own {
            store,
            keys,
            region,
            ..
        } = self
        else {
            return None;
        };
        Some(gateway_objects::service(
            Arc::clone(store),
            keys.clone(),
            region.clone(),
            watcher,
        ))
    }

    /// Removes uploads that nobody goes on with, for ever.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let Self::Own { store, .. } = &*self else {
            return;
        };
        loop {
            let since = OffsetDateTime::now_utc() - UPLOAD_IDLE;
            match store.remove_stale_uploads(since).await {
                Ok(0) => {}
                Ok(n) => tracing::info!(uploads = n, "removed: nobody went on with them for a day"),
                Err(error) => tracing::error!(%error, "stale uploads can't be removed"),
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
    }
}

impl Endpoint {
    /// Returns where it is that listens there.
    pub(crate) fn at(address: SocketAddr, is_tls: bool) -> Self {
        Self::Port {
            scheme: if is_tls { "https" } else { "http" },
            port: address.port(),
        }
    }

    fn for_client(&self, headers: &HeaderMap) -> String {
        match self {
            Self::Off => String::new(),
            Self::Url(url) => url.clone(),
            Self::Port { scheme, port } => {
                let host = headers.get(header::HOST).map(|host| host.as_bytes());
                let host = host.and_then(|host| Authority::try_from(host).ok());
                let host = host.as_ref().map_or("localhost", Authority::host);
                format!("{scheme}://{host}:{port}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_endpoint_under_the_name_they_call() {
        let endpoint = Endpoint::at("127.0.0.1:9000".parse().unwrap(), false);
        for (host, expected) in [
            ("localhost:8080", "http://localhost:9000"),
            ("hearth.example.org", "http://hearth.example.org:9000"),
            ("[::1]:8080", "http://[::1]:9000"),
            ("what is this?", "http://localhost:9000"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            assert_eq!(endpoint.for_client(&headers), expected);
        }
        assert_eq!(Endpoint::Off.for_client(&HeaderMap::new()), "");
    }
}
