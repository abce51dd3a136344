//! MinIO and Amazon S3: the calls that services need, one request each.
//!
//! Paths are written and signed here, not by a library: the clients that there are make URLs of keys by
//! way of a parser that resolves `..`, and so read another object than was asked for.

mod buckets;
mod notification;
mod presign;
pub(crate) mod sign;
pub(crate) mod xml;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gateway_oscar::{Minio, S3 as Amazon, Secret};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::config::AutoHeaderValue;
use ureq::tls::TlsConfig;
use ureq::{Body, SendBody};
use workers_protocol::Code;

use super::buckets::{Selection, tags_of};
use super::{
    Announcing, Calls, Content, Head, MAX_KEY_BYTES, NewObject, Page, StorageError, Trouble,
    Wanted, excerpt, not_kept,
};
use notification::Configuration;
pub(crate) use presign::Presign;
use sign::Signed;

/// How long it may take to be connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may take without an object of some size.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an object may be on its way: 5 GiB at 1.5 MB/s.
const OBJECT_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Connections that are kept for the next call to the same host.
const IDLE_CONNECTIONS: usize = 64;
/// Largest answer that is not an object: a page of keys.
const MAX_ANSWER: u64 = 8 << 20;
/// Largest object that S3 takes in one request.
const MAX_OBJECT: u64 = 5 << 30;
/// What Amazon calls the region where a bucket lies that says none.
const FIRST_REGION: &str = "us-east-1";
/// The target that MinIO needs to have for us, in capital letters as in its variables.
pub(crate) const TARGET: &str = "HEARTH";

/// Where S3 is spoken, and who calls.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// `http` or `https`.
    scheme: String,
    /// Host, and port where it is not the scheme's.
    pub(crate) authority: String,
    region: String,
    access_key: Secret,
    secret_key: Secret,
    is_verified: bool,
    /// Whether buckets can announce objects to us: it is the gateway's own MinIO.
    is_own: bool,
}

/// A client of one account.
#[derive(Debug)]
pub(crate) struct S3 {
    /// As services name it.
    name: String,
    account: Account,
    calls: Calls,
}

/// A request.
#[derive(Debug, Default)]
struct Call<'a> {
    method: Method,
    bucket: &'a str,
    key: &'a str,
    query: Vec<(&'static str, String)>,
    headers: Vec<(String, String)>,
    payload: Payload,
}

/// Why a request was refused.
#[derive(Debug)]
struct Said {
    status: StatusCode,
    /// S3's word for it; empty where nothing is said.
    code: String,
    message: String,
}

/// What a request carries.
#[derive(Debug, Default)]
enum Payload {
    #[default]
    Nothing,
    Bytes(Bytes),
    File {
        file: File,
        bytes: u64,
        digest: [u8; 32],
    },
}

/// Returns a client for storage: what it is told is what it reaches, and nothing else.
pub(super) fn agent(is_verifying: bool) -> ureq::Agent {
    let tls = TlsConfig::builder().disable_verification(!is_verifying);
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .accept_encoding(AutoHeaderValue::None)
        .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .max_idle_connections(2 * IDLE_CONNECTIONS)
        .max_idle_connections_per_host(IDLE_CONNECTIONS)
        .tls_config(tls.build())
        .build()
        .into()
}

// === impl Account ===

impl Account {
    /// Reads an account of a service at some MinIO.
    ///
    /// # Errors
    /// Of an endpoint that is no URL of a server.
    pub(crate) fn minio(minio: &Minio) -> Result<Self, StorageError> {
        let (scheme, authority) = endpoint(&minio.endpoint)?;
        let region = match minio.region.as_str() {
            "" => FIRST_REGION,
            region => region,
        };
        Ok(Self {
            scheme,
            authority,
            region: checked_region(region)?,
            access_key: minio.access_key.clone(),
            secret_key: minio.secret_key.clone(),
            is_verified: minio.verify,
            is_own: false,
        })
    }

    /// Reads an account of a service at Amazon.
    ///
    /// # Errors
    /// Of a region that can't be one.
    pub(crate) fn amazon(amazon: &Amazon) -> Result<Self, StorageError> {
        let region = match amazon.region.as_str() {
            "" => FIRST_REGION,
            region => region,
        };
        let region = checked_region(region)?;
        Ok(Self {
            scheme: "https".to_owned(),
            authority: format!("s3.{region}.amazonaws.com"),
            region,
            access_key: amazon.access_key.clone(),
            secret_key: amazon.secret_key.clone(),
            is_verified: true,
            is_own: false,
        })
    }

    /// Returns the same as the gateway's own, whose buckets announce objects to it.
    pub(crate) fn own(self) -> Self {
        Self {
            is_own: true,
            ..self
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// It becomes part of a host's name.
fn checked_region(region: &str) -> Result<String, StorageError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if region.len() > 64 || !region.bytes().all(is_plain) {
        return Err(StorageError::definite(format!(
            "`region`: expected lower-case letters, digits and `-`, got {:?}",
            excerpt(region)
        )));
    }
    Ok(region.to_owned())
}

/// Reads `http://HOST:PORT`.
fn endpoint(text: &str) -> Result<(String, String), StorageError> {
    let wrong = || {
        StorageError::definite(format!(
            "`endpoint`: expected http://HOST:PORT or https://HOST:PORT, got {:?}",
            // Somebody may have put a password into it.
            excerpt(text.rsplit('@').next().unwrap_or_default())
        ))
    };
    let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
    let scheme = uri
        .scheme_str()
        .filter(|scheme| ["http", "https"].contains(scheme));
    let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
        return Err(wrong());
    };
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if !is_bare || authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(wrong());
    }
    // As clients send it: without the port that is the scheme's own.
    let is_default = matches!(
        (scheme, authority.port_u16()),
        ("http", Some(80)) | ("https", Some(443))
    );
    let authority = if is_default {
        authority.host()
    } else {
        authority.as_str()
    };
    Ok((scheme.to_owned(), authority.to_owned()))
}

// === impl S3 ===

impl S3 {
    pub(crate) const fn new(name: String, account: Account, calls: Calls) -> Self {
        Self {
            name,
            account,
            calls,
        }
    }

    /// Returns what MinIO's notifications name as their target.
    fn target(&self) -> String {
        format!("arn:minio:sqs:{}:{TARGET}:webhook", self.account.region)
    }

    async fn block<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let this = Arc::clone(self);
        self.calls.block(move || work(&this)).await
    }

    pub(super) async fn head(
        self: &Arc<Self>,
        bucket: &str,
        key: &str,
    ) -> Result<Option<Head>, StorageError> {
        self.head_version(bucket, key, None).await
    }

    pub(super) async fn head_version(
        self: &Arc<Self>,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> Result<Option<Head>, StorageError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let version = version.map(str::to_owned);
        self.block(move |this| this.head_now(&bucket, &key, version))
            .await
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        wanted: Wanted,
        limit: u64,
    ) -> Result<(Head, Bytes), StorageError> {
        self.block(move |this| {
            let (head, body) = this.get(&wanted, limit)?;
            let read = body.into_with_config().limit(limit + 1).read_to_vec();
            let bytes = read.map_err(|error| this.broken(&wanted, &error))?;
            this.check_size(&wanted, &head, bytes.len() as u64, limit)?;
            Ok((head, bytes.into()))
        })
        .await
    }

    pub(super) async fn download(
        self: &Arc<Self>,
        wanted: Wanted,
        limit: u64,
        to: &Path,
    ) -> Result<Head, StorageError> {
        let to = to.to_owned();
        self.block(move |this| {
            let (head, body) = this.get(&wanted, limit)?;
            let mut from = body.into_with_config().limit(limit + 1).reader();
            let mut file = File::create_new(&to).map_err(|error| not_kept(&to, &error))?;
            let mut buffer = vec![0; 256 << 10];
            let mut bytes = 0;
            loop {
                let n_read = from.read(&mut buffer);
                let n_read = n_read.map_err(|error| this.broken(&wanted, &error))?;
                if n_read == 0 {
                    break;
                }
                let part = buffer.get(..n_read).unwrap_or_default();
                file.write_all(part)
                    .map_err(|error| not_kept(&to, &error))?;
                bytes += n_read as u64;
            }
            this.check_size(&wanted, &head, bytes, limit)?;
            Ok(head)
        })
        .await
    }

    pub(super) async fn write(self: &Arc<Self>, new: NewObject<'_>) -> Result<(), StorageError> {
        check_key(new.key)?;
        let (bucket, key) = (new.bucket.to_owned(), new.key.to_owned());
        let content_type = (
            header::CONTENT_TYPE.as_str().to_owned(),
            new.media.to_owned(),
        );
        let metadata = new.metadata.iter();
        let metadata =
            metadata.map(|(name, value)| (format!("x-amz-meta-{name}"), (*value).to_owned()));
        let headers = metadata.chain([content_type]).collect();
        let content = new.content;
        self.block(move |this| {
            let call = Call {
                method: Method::PUT,
                bucket: &bucket,
                key: &key,
                headers,
                payload: Payload::of(content)?,
                ..Call::default()
            };
            match this.send(call)? {
                response if response.status().is_success() => Ok(()),
                response => Err(this.refusal("writing", &bucket, &key, response)),
            }
        })
        .await
    }

    pub(super) async fn select(
        self: &Arc<Self>,
        bucket: &str,
        selection: Selection,
    ) -> Result<Page, StorageError> {
        let mut query = vec![
            ("encoding-type", "url".to_owned()),
            ("list-type", "2".to_owned()),
            ("max-keys", selection.max.to_string()),
            ("prefix", selection.prefix),
        ];
        query.extend(selection.after.map(|after| ("start-after", after)));
        let bucket = bucket.to_owned();
        self.block(move |this| {
            let call = Call {
                bucket: &bucket,
                query,
                ..Call::default()
            };
            let response = this.send(call)?;
            if !response.status().is_success() {
                return Err(this.refusal("listing", &bucket, "", response));
            }
            let text = this.text(response)?;
            xml::page(&text).map_err(|reason| this.nonsense(&reason))
        })
        .await
    }

    pub(super) async fn prepare(
        self: &Arc<Self>,
        bucket: &str,
        folder: &str,
        service: &str,
    ) -> Result<(), StorageError> {
        let (bucket, folder) = (bucket.to_owned(), folder.to_owned());
        let tags = tags_of(service);
        self.block(move |this| {
            if this.make_bucket(&bucket)?
                && let Err(error) = this.put_tags(&bucket, &tags)
                && error.code != Code::Unimplemented
            {
                tracing::warn!(bucket, %error, "it is not marked as made by a service");
            }
            // As OSCAR makes folders, which so can be seen in its clients.
            let marker = format!("{folder}/");
            if folder.is_empty() || this.head_now(&bucket, &marker, None)?.is_some() {
                return Ok(());
            }
            let call = Call {
                method: Method::PUT,
                bucket: &bucket,
                key: &marker,
                payload: Payload::Bytes(Bytes::new()),
                ..Call::default()
            };
            match this.send(call)? {
                response if response.status().is_success() => Ok(()),
                response => Err(this.refusal("making", &bucket, &marker, response)),
            }
        })
        .await
    }

    pub(super) async fn announce(
        self: &Arc<Self>,
        bucket: &str,
        folder: &str,
    ) -> Result<Announcing, StorageError> {
        if !self.account.is_own {
            return Ok(Announcing::No(format!(
                "{} is not the gateway's own and knows nothing of it",
                self.name
            )));
        }
        let (bucket, folder) = (bucket.to_owned(), folder.to_owned());
        self.block(move |this| {
            let target = this.target();
            let changed = this.change_announced(&bucket, |configuration| {
                configuration.add(&target, &folder)
            });
            match changed {
                Err(error) if error.message.contains("ARN") => Ok(Announcing::No(format!(
                    "MinIO has no notification target {target}: set MINIO_NOTIFY_WEBHOOK_ENABLE_{TARGET}=on, \
                     MINIO_NOTIFY_WEBHOOK_ENDPOINT_{TARGET}=http://HEARTH:8080/events/minio and \
                     MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_{TARGET} in its environment, and restart it once ({error})"
                ))),
                Err(error) if is_not_offered(&error) => Ok(Announcing::No(format!(
                    "it tells nobody of new objects ({error})"
                ))),
                changed => changed.map(|()| Announcing::Yes),
            }
        })
        .await
    }

    pub(super) async fn forget(
        self: &Arc<Self>,
        bucket: &str,
        folder: &str,
    ) -> Result<(), StorageError> {
        if !self.account.is_own {
            return Ok(());
        }
        let (bucket, folder) = (bucket.to_owned(), folder.to_owned());
        self.block(move |this| {
            let target = this.target();
            let changed = this.change_announced(&bucket, |configuration| {
                configuration.remove(&target, &folder)
            });
            match changed {
                Err(error) if is_not_offered(&error) => Ok(()),
                changed => changed,
            }
        })
        .await
    }

    pub(super) async fn release(
        self: &Arc<Self>,
        bucket: &str,
        folder: &str,
    ) -> Result<(), StorageError> {
        let (bucket, folder) = (bucket.to_owned(), folder.to_owned());
        self.block(move |this| {
            let marker = format!("{folder}/");
            for key in [marker.as_str(), ""] {
                if folder.is_empty() && !key.is_empty() {
                    continue;
                }
                if key.is_empty() && this.is_of_others(&bucket) {
                    continue;
                }
                let call = Call {
                    method: Method::DELETE,
                    bucket: &bucket,
                    key,
                    ..Call::default()
                };
                let response = this.send(call)?;
                let is_left = matches!(
                    response.status(),
                    StatusCode::NOT_FOUND | StatusCode::CONFLICT
                );
                if !is_left && !response.status().is_success() {
                    return Err(this.refusal("deleting", &bucket, key, response));
                }
            }
            Ok(())
        })
        .await
    }

    // === blocking ===

    fn head_now(
        &self,
        bucket: &str,
        key: &str,
        version: Option<String>,
    ) -> Result<Option<Head>, StorageError> {
        check_key(key)?;
        let version = version.map(|version| ("versionId", version));
        let call = Call {
            method: Method::HEAD,
            bucket,
            key,
            query: version.into_iter().collect(),
            ..Call::default()
        };
        let response = self.send(call)?;
        match response.status() {
            StatusCode::OK => self.head_of(key, response.headers()).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refusal("looking at", bucket, key, response)),
        }
    }

    /// Begins to read an object.
    fn get(&self, wanted: &Wanted, limit: u64) -> Result<(Head, Body), StorageError> {
        check_key(&wanted.key)?;
        let version = wanted.version.clone();
        let call = Call {
            bucket: &wanted.bucket,
            key: &wanted.key,
            query: version
                .map(|version| ("versionId", version))
                .into_iter()
                .collect(),
            ..Call::default()
        };
        let response = self.send(call)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(StorageError::gone(wanted)),
            _ => return Err(self.refusal("reading", &wanted.bucket, &wanted.key, response)),
        }
        let head = self.head_of(&wanted.key, response.headers())?;
        if head.size > limit {
            return Err(StorageError::too_large(wanted, Some(head.size), limit));
        }
        Ok((head, response.into_body()))
    }

    fn check_size(
        &self,
        wanted: &Wanted,
        head: &Head,
        bytes: u64,
        limit: u64,
    ) -> Result<(), StorageError> {
        if bytes > limit {
            return Err(StorageError::too_large(wanted, None, limit));
        }
        if bytes != head.size {
            let key = excerpt(&wanted.key);
            let what = format_args!("{bytes} of the {} bytes of `{key}` came", head.size);
            return Err(self.trouble(Trouble::Passing, what));
        }
        Ok(())
    }

    fn has_bucket(&self, bucket: &str) -> Result<bool, StorageError> {
        let call = Call {
            method: Method::HEAD,
            bucket,
            ..Call::default()
        };
        let response = self.send(call)?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal("looking at", bucket, "", response)),
        }
    }

    /// Makes a bucket, unless it is there; returns whether it was not.
    fn make_bucket(&self, bucket: &str) -> Result<bool, StorageError> {
        if self.has_bucket(bucket)? {
            return Ok(false);
        }
        // Of a body without a length MinIO expects XML.
        let location = match self.account.region.as_str() {
            FIRST_REGION => Bytes::new(),
            region => xml::location(region).into(),
        };
        let call = Call {
            method: Method::PUT,
            bucket,
            payload: Payload::Bytes(location),
            ..Call::default()
        };
        let response = self.send(call)?;
        match response.status() {
            // Somebody was faster.
            StatusCode::CONFLICT => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.refusal("making", bucket, "", response)),
        }
    }

    /// Whether a bucket announces anything to anybody, so that somebody else misses it; if that can't be
    /// known, it stays as well.
    fn is_of_others(&self, bucket: &str) -> bool {
        match self.announced(bucket) {
            Ok(configuration) => !configuration.is_empty(),
            Err(error) => !is_not_offered(&error),
        }
    }

    /// Returns what a bucket announces, and to whom.
    fn announced(&self, bucket: &str) -> Result<Configuration, StorageError> {
        let call = Call {
            bucket,
            query: notification(),
            ..Call::default()
        };
        let response = self.send(call)?;
        if !response.status().is_success() {
            return Err(self.refusal("asking for the notifications of", bucket, "", response));
        }
        let text = self.text(response)?;
        Configuration::parse(&text).map_err(|reason| self.nonsense(&reason))
    }

    /// Changes what a bucket announces, unless there is nothing to change.
    fn change_announced(
        &self,
        bucket: &str,
        change: impl FnOnce(&mut Configuration) -> bool,
    ) -> Result<(), StorageError> {
        let _changing = self
            .calls
            .announcing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut configuration = self.announced(bucket)?;
        if !change(&mut configuration) {
            return Ok(());
        }
        let call = Call {
            method: Method::PUT,
            bucket,
            query: notification(),
            payload: Payload::Bytes(configuration.to_xml().into()),
            ..Call::default()
        };
        match self.send(call)? {
            response if response.status().is_success() => {
                tracing::info!(bucket, "what it announces is changed");
                Ok(())
            }
            response => Err(self.refusal("changing the notifications of", bucket, "", response)),
        }
    }

    fn send(&self, call: Call<'_>) -> Result<Response<Body>, StorageError> {
        check_bucket(&call)?;
        let account = &self.account;
        let digest = call.payload.digest();
        let signed = Signed {
            method: &call.method,
            authority: &account.authority,
            path: &sign::path(call.bucket, call.key),
            query: &sign::query(call.query),
            headers: call.headers,
            digest: Some(&digest),
        };
        let now = OffsetDateTime::now_utc();
        let headers = signed.headers(account, now);
        let uri = signed.uri(account);
        let mut request = Request::builder().method(&call.method).uri(uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let agent = match account.is_verified {
            true => &self.calls.verifying,
            false => &self.calls.trusting,
        };
        let timeout = match (&call.payload, call.key, &call.method) {
            (Payload::File { .. }, ..) => OBJECT_TIMEOUT,
            (_, key, &Method::GET) if !key.is_empty() => OBJECT_TIMEOUT,
            _ => CALL_TIMEOUT,
        };
        let invalid = |error: http::Error| StorageError::definite(error.to_string());
        let result = match call.payload {
            Payload::Nothing => run(agent, timeout, request.body(()).map_err(invalid)?),
            Payload::Bytes(bytes) => {
                run(agent, timeout, request.body(&bytes[..]).map_err(invalid)?)
            }
            Payload::File {
                mut file, bytes, ..
            } => {
                let request = request.header(header::CONTENT_LENGTH, bytes);
                let body = SendBody::from_reader(&mut file);
                run(agent, timeout, request.body(body).map_err(invalid)?)
            }
        };
        result.map_err(|error| self.lost(&error))
    }

    fn head_of(&self, key: &str, headers: &HeaderMap) -> Result<Head, StorageError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let modified =
            text("last-modified").and_then(|text| OffsetDateTime::parse(text, &Rfc2822).ok());
        let size = text("content-length").and_then(|text| text.parse().ok());
        let (Some(etag), Some(modified), Some(size)) = (text("etag"), modified, size) else {
            return Err(
                self.nonsense("expected ETag, Last-Modified and Content-Length of an object")
            );
        };
        let metadata = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-amz-meta-")?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        });
        Ok(Head {
            key: key.to_owned(),
            size,
            etag: etag.trim_matches('"').to_owned(),
            modified,
            version: text("x-amz-version-id")
                .filter(|version| *version != "null")
                .map(str::to_owned),
            metadata: metadata.collect(),
        })
    }

    fn text(&self, response: Response<Body>) -> Result<String, StorageError> {
        let body = response.into_body().into_with_config().limit(MAX_ANSWER);
        body.read_to_string().map_err(|error| self.lost(&error))
    }

    // === errors ===

    fn trouble(&self, kind: Trouble, what: impl fmt::Display) -> StorageError {
        StorageError::new(kind, format!("{}: {what}", self.name))
    }

    /// An object began to come and did not end: it may be that object's fault, so it is not waited for as
    /// for a store that is away.
    fn broken(&self, wanted: &Wanted, error: &dyn std::error::Error) -> StorageError {
        let key = excerpt(&wanted.key);
        let what = format_args!("`{key}` did not come to its end: {error}");
        self.trouble(Trouble::Passing, what)
    }

    /// Nothing was answered, or not all of it.
    fn lost(&self, error: &dyn std::error::Error) -> StorageError {
        self.trouble(Trouble::Away, format_args!("{}: {error}", self.account))
    }

    fn nonsense(&self, reason: &str) -> StorageError {
        self.trouble(
            Trouble::Lasting,
            format_args!("what it answers is no S3: {reason}"),
        )
    }

    fn refusal(
        &self,
        doing: &str,
        bucket: &str,
        key: &str,
        response: Response<Body>,
    ) -> StorageError {
        self.said(doing, bucket, key, &Said::of(response))
    }

    /// Returns the error that an answer says.
    fn said(&self, doing: &str, bucket: &str, key: &str, said: &Said) -> StorageError {
        let mut text = format!("{doing} `{}", excerpt(bucket));
        if !key.is_empty() {
            text = format!("{text}/{}", excerpt(key));
        }
        text = format!("{text}`: {}", said.status);
        for said in [&said.code, &said.message] {
            if !said.is_empty() {
                text = format!("{text}, {}", excerpt(said));
            }
        }
        self.trouble(kind_of(said.status, &said.code), text)
    }
}

// === impl Said ===

impl Said {
    /// Reads a refusal. Of the body only what an error of S3 has is repeated.
    fn of(response: Response<Body>) -> Self {
        let status = response.status();
        // MinIO says it there as well, where an answer has no body.
        let code = response.headers().get("x-minio-error-code");
        let code = code.and_then(|code| code.to_str().ok()).map(str::to_owned);
        let body = response.into_body().into_with_config().limit(64 << 10);
        let said = body.read_to_string().ok();
        let (code, message) = said
            .and_then(|body| xml::error(&body))
            .unwrap_or_else(|| (code.unwrap_or_default(), String::new()));
        Self {
            status,
            code,
            message,
        }
    }
}

/// Returns what can be expected after an answer of this status and code.
fn kind_of(status: StatusCode, code: &str) -> Trouble {
    match code {
        // MinIO begins, or ends: it takes its own end for that of its client.
        "ClientDisconnected" => return Trouble::Away,
        code if code.ends_with("NotInitialized") => return Trouble::Away,
        "SlowDown" | "RequestTimeout" | "OperationAborted" => return Trouble::Passing,
        // A disk that is full does not empty itself.
        code if code.contains("StorageFull") => return Trouble::Lasting,
        _ => {}
    }
    match status {
        StatusCode::INSUFFICIENT_STORAGE => Trouble::Lasting,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Trouble::Passing,
        status if status.is_server_error() => Trouble::Passing,
        _ => Trouble::Lasting,
    }
}

fn run(
    agent: &ureq::Agent,
    timeout: Duration,
    request: Request<impl ureq::AsSendBody>,
) -> Result<Response<Body>, ureq::Error> {
    let request = agent.configure_request(request);
    let request = request.timeout_global(Some(timeout)).build();
    agent.run(request)
}

/// What is asked about.
fn notification() -> Vec<(&'static str, String)> {
    vec![("notification", String::new())]
}

/// Whether S3 says that it has no such thing as this, as stores do that announce nothing.
fn is_not_offered(error: &StorageError) -> bool {
    error.message.contains("NotImplemented")
}

/// Checks that a bucket's name leads to no object, and to none but it. Only who lists buckets names none.
fn check_bucket(call: &Call<'_>) -> Result<(), StorageError> {
    let is_name = !call.bucket.contains('/') && !["", ".", ".."].contains(&call.bucket);
    let is_list = call.bucket.is_empty() && call.key.is_empty() && call.method == Method::GET;
    match is_name || is_list {
        true => Ok(()),
        false => Err(StorageError::definite(format!(
            "{:?} can't name a bucket",
            excerpt(call.bucket)
        ))),
    }
}

fn check_key(key: &str) -> Result<(), StorageError> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    Err(StorageError::definite(format!(
        "`{}` has {} bytes, a key has 1 to {MAX_KEY_BYTES}",
        excerpt(key),
        key.len()
    )))
}

// === impl Payload ===

impl Payload {
    fn of(content: Content) -> Result<Self, StorageError> {
        let mut file = match content {
            Content::Bytes(bytes) => return Ok(Self::Bytes(bytes)),
            Content::File(file) => file,
        };
        let broken = |error: io::Error| {
            StorageError::definite(format!("what is to be written can't be read: {error}"))
        };
        let mut digest = Sha256::new();
        file.rewind().map_err(broken)?;
        let bytes = io::copy(&mut file, &mut digest).map_err(broken)?;
        file.rewind().map_err(broken)?;
        if bytes > MAX_OBJECT {
            return Err(StorageError::definite(format!(
                "an object of {bytes} bytes, expected at most {MAX_OBJECT}"
            )));
        }
        Ok(Self::File {
            file,
            bytes,
            digest: digest.finalize().into(),
        })
    }

    fn digest(&self) -> [u8; 32] {
        match self {
            Self::Nothing => Sha256::digest([]).into(),
            Self::Bytes(bytes) => Sha256::digest(bytes).into(),
            Self::File { digest, .. } => *digest,
        }
    }
}

#[cfg(test)]
mod tests;
