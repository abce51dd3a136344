//! The S3 wire: who may speak it, and what is handed to which operation.
//!
//! The crate `s3s` reads requests and checks their signatures (AWS Signature Version 4, in headers or
//! in the query). What S3 has and is not here answers `NotImplemented`.

mod access;
mod body;
mod conditions;
mod error;
mod listing;
mod objects;
mod parts;
mod s3;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Error, S3Result, s3_error};
use tokio::sync::Semaphore;

use crate::Error;
use crate::object::Object;
use crate::store::Store;
use access::Access;
use body::Inflow;
use s3::Operations;

/// Requests whose bodies are read at a time, each with some mebibytes in memory; more wait, unread.
const MAX_BODIES: usize = 64;
/// Largest body that is XML: it completes 10,000 parts with their checksums.
const MAX_XML_BYTES: usize = 8 << 20;

/// Who may call: one pair of keys.
#[derive(Clone)]
pub struct Keys {
    /// Who it is.
    pub access_key: String,
    /// What requests are signed with.
    pub secret_key: String,
}

/// Hears of objects.
#[async_trait::async_trait]
pub trait Watcher: fmt::Debug + Send + Sync + 'static {
    /// Called when an object is durable, before its client is told.
    ///
    /// # Errors
    /// A sentence; the client is told to try again.
    async fn created(&self, object: &Object) -> Result<(), String>;
}

/// Answers requests of S3 clients.
#[derive(Clone, Debug)]
pub struct Service {
    inner: S3Service,
}

/// What the operations need.
struct Wire {
    store: Arc<Store>,
    region: String,
    watcher: Arc<dyn Watcher>,
}

/// Returns what speaks S3 for a store, to those with these keys; buckets say that they are in this
/// region.
pub fn service(
    store: Arc<Store>,
    keys: Keys,
    region: String,
    watcher: Arc<dyn Watcher>,
) -> Service {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML_BYTES;
    let wire = Wire {
        store,
        region,
        watcher,
    };
    let mut builder = S3ServiceBuilder::new(Operations(Arc::new(wire)));
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_access(Access::new(Arc::new(Semaphore::new(MAX_BODIES))));
    builder.set_auth(keys);
    Service {
        inner: builder.build(),
    }
}

// === impl Service ===

impl Service {
    /// Answers a request.
    pub async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answered = match check(request.method(), request.uri().query(), request.headers()) {
            Ok(()) => self.inner.call(Inflow::watch(request)).await.ok(),
            Err(error) => error.to_http_response().ok(),
        };
        // The library fails where it can't write an answer; then there is none.
        answered.unwrap_or_else(|| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// Refuses what the library would take: the signatures before version 4, which say nothing of the
/// body and are compared in a time that tells how much of them is right, and uploads by forms.
fn check(method: &Method, query: Option<&str>, headers: &HeaderMap) -> S3Result<()> {
    let mut pairs = query.unwrap_or_default().split('&');
    let by_query = pairs.any(|pair| pair == "Signature" || pair.starts_with("Signature="));
    let authorization = headers.get(header::AUTHORIZATION);
    let by_header = authorization.is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    if by_query || by_header {
        return Err(s3_error!(
            NotImplemented,
            "expected AWS Signature Version 4, got version 2"
        ));
    }
    let media = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.as_bytes());
    if method == Method::POST
        && media.is_some_and(|media| {
            media
                .to_ascii_lowercase()
                .starts_with(b"multipart/form-data")
        })
    {
        return Err(s3_error!(
            NotImplemented,
            "uploads by forms are not offered: PUT the object, with a presigned URL for example"
        ));
    }
    Ok(())
}

// === impl Wire ===

impl Wire {
    /// Does what ends in an object, and tells the watcher of it: to its end, also where the client
    /// leaves.
    async fn create(
        &self,
        create: impl Future<Output = Result<Object, Error>> + Send + 'static,
    ) -> S3Result<Object> {
        let watcher = Arc::clone(&self.watcher);
        let created = tokio::spawn(async move {
            let object = create.await?;
            if let Err(why) = watcher.created(&object).await {
                let Object { bucket, key, .. } = &object;
                tracing::warn!(%bucket, %key, %why, "an object is there, and its event is not");
                return Err(s3_error!(
                    ServiceUnavailable,
                    "the object is there, and its event could not be taken in: put it again"
                ));
            }
            Ok(object)
        });
        created
            .await
            .unwrap_or_else(|_| Err(s3_error!(InternalError)))
    }
}

// === impl Keys ===

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl s3s::auth::S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<s3s::auth::SecretKey> {
        if access_key == self.access_key {
            return Ok(self.secret_key.clone().into());
        }
        Err(s3_error!(InvalidAccessKeyId, "there is no such access key"))
    }
}

/// What was asked for, and is not here.
fn not_offered(what: &str) -> S3Error {
    s3_error!(NotImplemented, "{what}: not offered")
}
