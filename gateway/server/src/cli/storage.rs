//! The object storage of a gateway: the S3 that `/system/config` names, with the keys from there. So it
//! is Hearth's own, the MinIO beside it, or that of one of OSCAR's clusters.
//!
//! What goes in one request is in memory while it is on its way, so that it can be sent again: no more
//! than a part of an object.

mod answers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gateway_oscar::Minio;
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::config::AutoHeaderValue;
use ureq::tls::TlsConfig;

use super::client::{Client, Endpoint};
use super::etag::{self, Sum};
use super::failure::{Cause, Failure, reason};
use super::interrupt::Interrupt;
pub(super) use crate::storage::Head;
use crate::storage::s3::Account;
use crate::storage::s3::sign::{self, Signed};
use crate::storage::s3::xml;
use crate::terminal::plain;
pub(super) use answers::{Bucket, Page};

/// How long it may take to be connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take: a part at 30 kB/s.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How often a request is sent before it is given up, and how long is waited before the second time;
/// twice as long before each that follows.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);
/// Most of an answer that is read, in bytes: it is a part of an object, or a page of keys.
const MAX_ANSWER: u64 = 32 << 20;
/// Most that an answer says in words, in bytes.
const MAX_SENTENCE: u64 = 64 << 10;
/// Keys of a page.
const PAGE: usize = 1000;
/// Buckets that an error names.
const MAX_NAMES: usize = 20;

/// What of `/system/config` is needed.
#[derive(Deserialize)]
struct Config {
    minio_provider: Option<Minio>,
}

/// Where objects are, and how it is asked.
pub(super) struct Storage {
    account: Account,
    agent: ureq::Agent,
    interrupt: Arc<Interrupt>,
}

/// A request.
#[derive(Default)]
struct Call<'a> {
    method: Method,
    /// Empty for all buckets.
    bucket: &'a str,
    /// Empty for the bucket.
    key: &'a str,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: &'a [u8],
    /// Of the body, which is not signed otherwise then.
    sum: Option<Sum>,
}

/// An answer that is a success.
struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
}

// === impl Storage ===

impl Storage {
    /// Asks a gateway where its objects are.
    ///
    /// # Errors
    /// Of a gateway that does not say, or says it has none.
    pub(super) fn of(
        client: &Client,
        tls: impl FnOnce(bool) -> anyhow::Result<TlsConfig>,
        n_connections: usize,
        interrupt: Arc<Interrupt>,
    ) -> anyhow::Result<Self> {
        let config: Config = client.get("/system/config")?;
        let minio = config.minio_provider.unwrap_or_default();
        let gateway = client.endpoint();
        anyhow::ensure!(
            !minio.endpoint.is_empty(),
            "the gateway at {gateway} names no storage: it has none, or none that is reached from \
             elsewhere (--s3-listen off)"
        );
        let account = Account::minio(&minio)
            .map_err(|error| anyhow::anyhow!("`minio_provider` of {gateway}: {error}"))?;
        let endpoint: Endpoint = account.to_string().parse().map_err(anyhow::Error::msg)?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // What is fetched is kept as it is.
            .accept_encoding(AutoHeaderValue::None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(TIMEOUT))
            .max_idle_connections(n_connections)
            .max_idle_connections_per_host(n_connections)
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls(minio.verify)?);
        let agent = match endpoint.is_local() {
            true => agent.proxy(None),
            false => agent,
        };
        Ok(Self {
            account,
            agent: agent.build().into(),
            interrupt,
        })
    }

    /// Returns all buckets, by name.
    pub(super) fn buckets(&self) -> Result<Vec<Bucket>, Failure> {
        let answer = self.ask(&Call::default())?;
        answers::buckets(&answer.text()).map_err(|reason| self.nonsense(&reason))
    }

    /// Looks whether a bucket is there.
    ///
    /// # Errors
    /// Where it is not; those of every request.
    pub(super) fn find(&self, bucket: &str) -> Result<(), Failure> {
        let call = Call {
            method: Method::HEAD,
            bucket,
            ..Call::default()
        };
        self.ask(&call)
            .map(drop)
            .map_err(|failure| match failure.is_not_found() {
                true => self.missing(bucket, failure),
                false => failure,
            })
    }

    /// Returns keys that begin so, in their order, from where a page before ended; with `is_flat` what
    /// is in folders as well, else the folders.
    pub(super) fn page(
        &self,
        bucket: &str,
        prefix: &str,
        is_flat: bool,
        from: Option<String>,
    ) -> Result<Page, Failure> {
        let mut query = vec![
            ("encoding-type", "url".to_owned()),
            ("list-type", "2".to_owned()),
            ("max-keys", PAGE.to_string()),
            ("prefix", prefix.to_owned()),
        ];
        query.extend(from.map(|from| ("continuation-token", from)));
        if !is_flat {
            query.push(("delimiter", "/".to_owned()));
        }
        let call = Call {
            bucket,
            query,
            ..Call::default()
        };
        let answer = self
            .ask(&call)
            .map_err(|failure| self.missing(bucket, failure))?;
        answers::page(&answer.text()).map_err(|reason| self.nonsense(&reason))
    }

    /// Returns an object, without its content, if it is there.
    pub(super) fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, Failure> {
        let call = Call {
            method: Method::HEAD,
            bucket,
            key,
            ..Call::default()
        };
        match self.ask(&call) {
            Ok(answer) => {
                let object = answer.object(key);
                let nonsense = || self.nonsense("expected size, time and ETag of an object");
                object.map(Some).ok_or_else(nonsense)
            }
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Returns so many bytes of an object, which has to be the same still.
    pub(super) fn get(
        &self,
        bucket: &str,
        object: &Head,
        from: u64,
        n_bytes: u64,
    ) -> Result<Vec<u8>, Failure> {
        let last = (from + n_bytes).saturating_sub(1);
        let call = Call {
            bucket,
            key: &object.key,
            headers: vec![
                ("if-match", format!("\"{}\"", object.etag)),
                ("range", format!("bytes={from}-{last}")),
            ],
            ..Call::default()
        };
        let bytes = self.ask(&call)?.body;
        if bytes.len() as u64 != n_bytes {
            let n_came = bytes.len();
            return Err(self.nonsense(&format!("expected {n_bytes} bytes, {n_came} came")));
        }
        Ok(bytes)
    }

    /// Writes an object of these bytes.
    pub(super) fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> Result<(), Failure> {
        let call = Call {
            method: Method::PUT,
            bucket,
            key,
            body: bytes,
            sum: Some(etag::sum(bytes)),
            ..Call::default()
        };
        self.ask(&call)
            .map(drop)
            .map_err(|failure| self.missing(bucket, failure))
    }

    /// Begins an object in parts, and returns by what name it goes meanwhile.
    pub(super) fn begin(&self, bucket: &str, key: &str) -> Result<String, Failure> {
        let call = Call {
            method: Method::POST,
            bucket,
            key,
            query: vec![("uploads", String::new())],
            ..Call::default()
        };
        let answer = self
            .ask(&call)
            .map_err(|failure| self.missing(bucket, failure))?;
        answers::upload(&answer.text()).map_err(|reason| self.nonsense(&reason))
    }

    /// Writes a part, the first of which is number 1.
    pub(super) fn put_part(
        &self,
        (bucket, key): (&str, &str),
        upload: &str,
        number: usize,
        (bytes, sum): (&[u8], Sum),
    ) -> Result<(), Failure> {
        let call = Call {
            method: Method::PUT,
            bucket,
            key,
            query: vec![
                ("partNumber", number.to_string()),
                ("uploadId", upload.to_owned()),
            ],
            body: bytes,
            sum: Some(sum),
            ..Call::default()
        };
        self.ask(&call).map(drop)
    }

    /// Makes an object of its parts, of these sums.
    pub(super) fn complete(
        &self,
        (bucket, key): (&str, &str),
        upload: &str,
        sums: &[Sum],
    ) -> Result<(), Failure> {
        let body = answers::parts(sums.iter().map(etag::of_whole));
        let call = Call {
            method: Method::POST,
            bucket,
            key,
            query: vec![("uploadId", upload.to_owned())],
            body: body.as_bytes(),
            ..Call::default()
        };
        match self.ask(&call) {
            // It may be an error all the same: the status is sent before it is known.
            Ok(answer) => match xml::error(&answer.text()) {
                Some((code, message)) => {
                    let message = format!("{}: {}", plain(&code), plain(&message));
                    let cause = Cause::Refused(StatusCode::SERVICE_UNAVAILABLE);
                    Err(Failure::new(cause, message))
                }
                None => Ok(()),
            },
            // The answer to the attempt before was lost.
            Err(failure) if failure.is_not_found() => match self.head(bucket, key)? {
                Some(object) if object.etag == etag::of_parts(sums) => Ok(()),
                _ => Err(failure),
            },
            Err(failure) => Err(failure),
        }
    }

    /// Gives parts up.
    pub(super) fn abort(&self, bucket: &str, key: &str, upload: &str) -> Result<(), Failure> {
        let call = Call {
            method: Method::DELETE,
            bucket,
            key,
            query: vec![("uploadId", upload.to_owned())],
            ..Call::default()
        };
        self.ask(&call).map(drop)
    }

    // === asking ===

    /// Asks, and again where that may help. All calls may be made twice.
    fn ask(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.ask_once(call) {
                Err(failure) if failure.is_passing() && !self.interrupt.wait(pause) => pause *= 2,
                result => return result,
            }
        }
        self.ask_once(call)
    }

    fn ask_once(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let account = &self.account;
        let headers = call.headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), value.clone()));
        // The MD5 of content is worked out at either end in any case, as its name: a SHA-256 more would
        // cost each of them more than all else of an upload.
        let digest = call.sum.is_none().then(|| Sha256::digest(call.body).into());
        let sum = call.sum.map(|sum| BASE64_STANDARD.encode(sum));
        let sum = sum.map(|sum| ("content-md5".to_owned(), sum));
        let signed = Signed {
            method: &call.method,
            authority: &account.authority,
            path: &sign::path(call.bucket, call.key),
            query: &sign::query(call.query.clone()),
            headers: headers.chain(sum).collect(),
            digest: digest.as_ref(),
        };
        let uri = signed.uri(account);
        let mut request = Request::builder().method(&call.method).uri(uri);
        for (name, value) in signed.headers(account, OffsetDateTime::now_utc()) {
            request = request.header(name, value);
        }
        let takes_body = matches!(call.method, Method::PUT | Method::POST);
        let sent = match takes_body {
            true => request
                .body(call.body)
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
            false => request
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
        };
        let response = sent.map_err(|error| self.unanswered(&error))?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            let body = body.into_with_config().limit(MAX_ANSWER).read_to_vec();
            return Ok(Answer {
                headers: head.headers,
                body: body.map_err(|error| self.unanswered(&error))?,
            });
        }
        let body = body.into_with_config().limit(MAX_SENTENCE).read_to_vec();
        let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
        Err(self.refused(call, head.status, &body))
    }

    // === failures ===

    fn unanswered(&self, error: &ureq::Error) -> Failure {
        let reason = reason(error);
        let message = format!(
            "the gateway's storage at {} does not answer: {reason}",
            self.account
        );
        Failure::new(Cause::Unanswered, message)
    }

    fn refused(&self, call: &Call<'_>, status: StatusCode, body: &str) -> Failure {
        let (code, said) = xml::error(body).unwrap_or_default();
        let (code, said) = (plain(&code), plain(&said));
        let cause = Cause::Refused(match code.as_str() {
            // The last is what a MinIO says that is stopped.
            "RequestTimeout" | "SlowDown" | "ClientDisconnected" => StatusCode::SERVICE_UNAVAILABLE,
            _ if status.is_server_error() => StatusCode::SERVICE_UNAVAILABLE,
            _ => status,
        });
        let at = &self.account;
        let message = match (code.as_str(), status) {
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch", _) => {
                format!("the storage at {at} does not take the keys that the gateway names: {code}")
            }
            ("NoSuchBucket", _) => format!("no bucket `{}`", plain(call.bucket)),
            // An answer to HEAD says no more.
            ("", StatusCode::NOT_FOUND) if call.key.is_empty() => {
                format!("no bucket `{}`", plain(call.bucket))
            }
            ("", StatusCode::FORBIDDEN) => {
                format!(
                    "the storage at {at} does not take the keys that the gateway names, or not for this"
                )
            }
            (_, StatusCode::PRECONDITION_FAILED) => "it was changed meanwhile".to_owned(),
            ("", _) => format!("the storage at {at} answers {status}"),
            _ => format!("the storage at {at} answers {status}, {code}: {said}"),
        };
        Failure::new(cause, message)
    }

    fn nonsense(&self, reason: &str) -> Failure {
        let message = format!("{} answers what no S3 does: {reason}", self.account);
        Failure::new(Cause::Other, message)
    }

    /// Says which buckets there are, where the one that was asked for is not.
    fn missing(&self, bucket: &str, failure: Failure) -> Failure {
        if !failure.is_not_found() {
            return failure;
        }
        let Ok(buckets) = self.buckets() else {
            return failure;
        };
        let names = buckets.iter().map(|bucket| bucket.name.as_str());
        let names: Vec<&str> = names.collect();
        if names.contains(&bucket) {
            return failure;
        }
        let shown = names.iter().take(MAX_NAMES);
        let shown: Vec<String> = shown.map(|name| format!("`{}`", plain(name))).collect();
        failure.and(&match names.len() {
            0 => "; there are no buckets yet, services make theirs".to_owned(),
            n if n > MAX_NAMES => {
                let n_more = n - MAX_NAMES;
                format!("; buckets: {} and {n_more} more", shown.join(", "))
            }
            _ => format!("; buckets: {}", shown.join(", ")),
        })
    }
}

impl Failure {
    /// Whether what fails for one object fails for all: nobody answers, or the keys are not enough.
    pub(super) fn is_of_all(&self) -> bool {
        self.is_unanswered() || self.exit_code() == 4
    }
}

// === impl Answer ===

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads what headers say of an object.
    fn object(&self, key: &str) -> Option<Head> {
        let text = |name| self.headers.get(name)?.to_str().ok();
        let modified = OffsetDateTime::parse(text(header::LAST_MODIFIED)?, &Rfc2822);
        Some(Head {
            key: key.to_owned(),
            size: text(header::CONTENT_LENGTH)?.parse().ok()?,
            etag: text(header::ETAG)?.trim_matches('"').to_owned(),
            modified: modified.ok()?,
            version: None,
            metadata: BTreeMap::new(),
        })
    }
}
