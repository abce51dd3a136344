//! `/system/buckets`: buckets as OSCAR's clients see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use workers_protocol::{Code, InferError};

use super::services::to_its_end;
use super::{Text, query_value, rfc3339};
use crate::rest::Front;
use crate::storage::buckets::{Bucket, FROM_SERVICE_TAG, SERVICE_TAG, Selection, Tags};
use crate::storage::{Account, Presign};

/// Largest body, in bytes.
const MAX_BODY: u64 = 64 << 10;
/// Objects of a page, if the caller does not say.
const PAGE: usize = 1000;
/// How long a URL is good for, if the caller does not say, and at most; in seconds.
const EXPIRES_S: u32 = 900;
const MAX_EXPIRES_S: u32 = 604_800;
/// Headers that a URL may ask for beside `Content-Type`.
const MAX_EXTRA_HEADERS: usize = 32;
/// Longest media type that is signed, in bytes.
const MAX_CONTENT_TYPE: usize = 256;
/// Whom everything belongs to.
const OWNER: &str = "cluster_admin";
/// What names a bucket's owner, visibility and users in its tags; what else is there is its metadata.
const OWNER_TAG: &str = "owner";
const VISIBILITY_TAG: &str = "visibility";
const USERS_TAG: &str = "allowed_users";

/// Who sees a bucket. There is one user yet, so it is kept and shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    #[default]
    Private,
    Restricted,
    Public,
}

/// A bucket as clients describe it.
#[derive(Debug, Deserialize)]
struct Described {
    /// The second name is that of OSCAR before 3.6.
    #[serde(alias = "bucket_path")]
    bucket_name: String,
    #[serde(default)]
    visibility: Option<Visibility>,
    #[serde(default)]
    allowed_users: Option<Vec<String>>,
}

/// A bucket as it is answered.
#[derive(Debug, Serialize)]
struct Shown {
    bucket_name: String,
    visibility: Visibility,
    allowed_users: Vec<String>,
    owner: String,
    metadata: BTreeMap<String, String>,
}

/// A bucket, and a page of what is in it.
#[derive(Debug, Serialize)]
struct Contents {
    #[serde(flatten)]
    bucket: Shown,
    objects: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page: Option<String>,
    is_truncated: bool,
    returned_items: usize,
}

#[derive(Debug, Serialize)]
struct Entry {
    object_name: String,
    size_bytes: u64,
    last_modified: String,
}

#[derive(Debug, Deserialize)]
struct Asked {
    object_key: String,
    operation: String,
    /// The second name is that of OSCAR's Python client; 0 is nothing.
    #[serde(default, alias = "expires")]
    expires_in: Option<u32>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    extra_headers: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Serialize)]
struct Signed {
    object_key: String,
    operation: &'static str,
    method: String,
    url: String,
    expires_at: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

pub(super) async fn create(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Text> {
    let described: Described = read(&front, &headers, body).await?;
    let tags = described.tags(Tags::from([(SERVICE_TAG.to_owned(), "false".to_owned())]))?;
    let storage = front.providers.default()?.clone();
    let bucket = described.bucket_name.clone();
    let is_tagged = to_its_end(async move { storage.create_bucket(&bucket, tags).await }).await?;
    tracing::info!(bucket = described.bucket_name, "bucket created");
    Ok(described.answer(StatusCode::CREATED, is_tagged))
}

pub(super) async fn list(State(front): State<Arc<Front>>) -> Result<Response, Text> {
    let buckets = front.providers.default()?.buckets().await?;
    let shown: Vec<_> = buckets.into_iter().map(Shown::from).collect();
    Ok(Json(shown).into_response())
}

pub(super) async fn update(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Text> {
    let described: Described = read(&front, &headers, body).await?;
    let storage = front.providers.default()?;
    let bucket = storage.bucket(&described.bucket_name).await?;
    let tag = |name| bucket.tags.get(name).map(String::as_str);
    // One that outlives its service is as any other.
    let is_there = |service| front.services.get(service).is_some();
    if tag(SERVICE_TAG) == Some("true") && tag(FROM_SERVICE_TAG).is_none_or(is_there) {
        let message = "a bucket that a service made can't be changed";
        return Err(InferError::new(Code::PermissionDenied, message).into());
    }
    let tags = described.tags(bucket.tags)?;
    storage.set_tags(&bucket.name, tags).await?;
    Ok(described.answer(StatusCode::NO_CONTENT, true))
}

pub(super) async fn get(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Text> {
    let storage = front.providers.default()?;
    let value = |name| query_value(query.as_deref(), name).filter(|value| !value.is_empty());
    let selection = Selection {
        prefix: value("prefix").unwrap_or_default(),
        after: value("page").map(|page| of_page(&page)).transpose()?,
        max: value("limit").map_or(Ok(PAGE), |limit| of_limit(&limit))?,
    };
    let bucket = storage.bucket(&name).await?;
    let page = storage.select(&name, selection).await?;
    let objects = page.objects.into_iter().map(|object| Entry {
        object_name: object.key,
        size_bytes: object.size,
        last_modified: rfc3339(object.modified),
    });
    let objects: Vec<_> = objects.collect();
    Ok(Json(Contents {
        bucket: bucket.into(),
        returned_items: objects.len(),
        objects,
        is_truncated: page.next.is_some(),
        next_page: page.next.map(|next| URL_SAFE_NO_PAD.encode(next)),
    })
    .into_response())
}

/// Deletes a bucket with what is in it, as OSCAR does.
pub(super) async fn delete(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Text> {
    let storage = front.providers.default()?.clone();
    let bucket = name.clone();
    to_its_end(async move { storage.delete_bucket(&bucket).await }).await?;
    tracing::info!(bucket = name, "bucket deleted");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn presign(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Text> {
    let asked: Asked = read(&front, &headers, body).await?;
    match front.providers.default()?.bucket(&name).await {
        Err(error) if error.code == Code::NotFound => return Err(error.into()),
        // What is kept from us, or away, is known to whoever comes with the link.
        _ => {}
    }
    let key = asked.object_key.trim().trim_matches('/');
    if !(1..=gateway_objects::MAX_KEY_BYTES).contains(&key.len()) {
        return Err(InferError::invalid("`object_key`: expected 1 to 1024 bytes").into());
    }
    let (operation, method) = match asked.operation.trim().to_ascii_lowercase().as_str() {
        "upload" => ("upload", Method::PUT),
        "download" => ("download", Method::GET),
        _ => {
            let message = "`operation`: expected `upload` or `download`";
            return Err(InferError::invalid(message).into());
        }
    };
    let expires_s = match asked.expires_in.unwrap_or(0) {
        0 => EXPIRES_S,
        asked @ 1..=MAX_EXPIRES_S => asked,
        _ => {
            let message = format!("`expires_in`: expected 1 to {MAX_EXPIRES_S} seconds");
            return Err(InferError::invalid(message).into());
        }
    };
    let (mut parameters, mut signed) = (Vec::new(), BTreeMap::new());
    if let Some(content_type) = asked.content_type.filter(|media| !media.is_empty()) {
        let is_written = |byte: u8| matches!(byte, b' '..=b'~');
        if content_type.len() > MAX_CONTENT_TYPE || !content_type.bytes().all(is_written) {
            return Err(InferError::invalid(format!(
                "`content_type`: expected at most {MAX_CONTENT_TYPE} characters of ASCII that can be printed"
            ))
            .into());
        }
        match operation {
            "upload" => drop(signed.insert("content-type".to_owned(), content_type)),
            _ => parameters.push(("response-content-type", content_type)),
        }
    }
    signed.extend(
        asked
            .extra_headers
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value)),
    );
    check_headers(&signed)?;
    let presign = Presign {
        method: method.clone(),
        bucket: &name,
        key,
        parameters,
        headers: signed,
        expires_s,
    };
    let provider = front.objects.provider(&headers);
    if provider.endpoint.is_empty() {
        let message = "there is no S3 endpoint that listens: see --s3-listen";
        return Err(InferError::new(Code::Unimplemented, message).into());
    }
    let now = OffsetDateTime::now_utc();
    let account = Account::minio(&provider);
    let url = account.and_then(|account| presign.url(&account, now));
    let url = url.map_err(InferError::from)?;
    let expires_at = now + time::Duration::seconds(expires_s.into());
    Ok(Json(Signed {
        object_key: key.to_owned(),
        operation,
        method: method.to_string(),
        url,
        expires_at: rfc3339(expires_at.replace_nanosecond(0).unwrap_or(expires_at)),
        headers: presign.headers,
    })
    .into_response())
}

/// Checks that headers can be sent, and are none that clients send on their own.
fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), InferError> {
    if headers.len() > MAX_EXTRA_HEADERS {
        return Err(InferError::invalid(format!(
            "`extra_headers`: expected at most {MAX_EXTRA_HEADERS}, got {}",
            headers.len()
        )));
    }
    let is_good = |(name, value): (&String, &String)| {
        HeaderName::from_bytes(name.as_bytes()).is_ok()
            && HeaderValue::from_str(value).is_ok()
            && !["host", "authorization"].contains(&name.as_str())
    };
    match headers.iter().find(|&header| !is_good(header)) {
        None => Ok(()),
        Some((name, _)) => Err(InferError::invalid(format!(
            "`extra_headers`: {name:?} can't be sent so"
        ))),
    }
}

/// Reads a body that is JSON, whatever its `Content-Type` says.
async fn read<T: serde::de::DeserializeOwned>(
    front: &Front,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Text> {
    let deadline = front.deadline();
    let (body, _reservation) = front
        .read_at_most(MAX_BODY, headers, body, deadline)
        .await?;
    serde_json::from_slice(&body).map_err(|error| {
        InferError::invalid(format!("The Bucket specification is not valid: {error}")).into()
    })
}

/// Reads the end of a page.
fn of_page(page: &str) -> Result<String, InferError> {
    let bytes = URL_SAFE_NO_PAD.decode(page).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| InferError::invalid("`page`: expected what an answer gave as `next_page`"))
}

fn of_limit(limit: &str) -> Result<usize, InferError> {
    let limit = limit
        .parse()
        .ok()
        .filter(|limit| (1..=PAGE).contains(limit));
    limit.ok_or_else(|| InferError::invalid(format!("`limit`: expected 1 to {PAGE}")))
}

// === impl Described ===

impl Described {
    /// Returns a bucket's tags, changed to what it is described as.
    fn tags(&self, mut tags: Tags) -> Result<Tags, InferError> {
        let visibility = self.visibility.unwrap_or_default();
        let users = self.allowed_users.as_deref().unwrap_or_default();
        if let Some(user) = users
            .iter()
            .find(|user| user.contains(' ') || user.is_empty())
        {
            return Err(InferError::invalid(format!(
                "`allowed_users`: expected ids without blanks, got {user:?}"
            )));
        }
        tags.entry(OWNER_TAG.to_owned())
            .or_insert_with(|| OWNER.to_owned());
        tags.insert(VISIBILITY_TAG.to_owned(), visibility.name().to_owned());
        match users.is_empty() {
            true => tags.remove(USERS_TAG),
            false => tags.insert(USERS_TAG.to_owned(), users.join(" ")),
        };
        Ok(tags)
    }

    /// Answers a change as OSCAR does, with nothing, and says in a header what has no effect.
    fn answer(&self, status: StatusCode, is_kept: bool) -> Response {
        let mut idle = Vec::new();
        if self.visibility.unwrap_or_default() != Visibility::Private {
            idle.push("visibility");
        }
        if self
            .allowed_users
            .as_ref()
            .is_some_and(|users| !users.is_empty())
        {
            idle.push("allowed_users");
        }
        let mut response = status.into_response();
        if !idle.is_empty() {
            let idle = idle.join(", ");
            let warning = match is_kept {
                true => format!("kept without effect: {idle}"),
                false => format!("not kept, since buckets have no tags where they are: {idle}"),
            };
            if let Ok(value) = HeaderValue::from_str(&warning) {
                response.headers_mut().insert("x-hearth-warning", value);
            }
        }
        response
    }
}

// === impl Visibility ===

impl Visibility {
    const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Restricted => "restricted",
            Self::Public => "public",
        }
    }

    fn of_name(name: &str) -> Self {
        [Self::Restricted, Self::Public]
            .into_iter()
            .find(|visibility| visibility.name() == name)
            .unwrap_or_default()
    }
}

impl From<Bucket> for Shown {
    fn from(bucket: Bucket) -> Self {
        let mut metadata = bucket.tags;
        let mut take = |tag: &str| metadata.remove(tag).unwrap_or_default();
        let (owner, visibility, users) = (take(OWNER_TAG), take(VISIBILITY_TAG), take(USERS_TAG));
        Self {
            bucket_name: bucket.name,
            visibility: Visibility::of_name(&visibility),
            allowed_users: users
                .split(' ')
                .filter(|user| !user.is_empty())
                .map(str::to_owned)
                .collect(),
            owner: if owner.is_empty() {
                OWNER.to_owned()
            } else {
                owner
            },
            metadata,
        }
    }
}
