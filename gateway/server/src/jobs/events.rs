//! Storage events: which objects they are about, and whose jobs those become.
//!
//! Events come from our own store, from MinIO's webhook, and from the periodic listing. Each is written
//! in MinIO's form, which is what scripts read.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use gateway_objects::Watcher;
use gateway_oscar::StorageReference;
use http::{HeaderMap, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use workers_protocol::InferError;

use super::{Ledger, NewJob, announce, made_up_name};
use crate::oscar::{Service, Services};
use crate::rest::{ApiError, Front};
use crate::storage::Head;
use crate::work::{Identity, ObjectRef};

/// Largest event, in bytes: a record has a few thousand.
pub(crate) const MAX_EVENT: u64 = 1 << 20;

/// Records of an event.
const MAX_RECORDS: usize = 1000;

/// Whose events come here: what is at other providers is listed.
pub(crate) const OWN: &str = "minio.default";

/// What Go's `url.QueryEscape` leaves as it is, beside letters and digits.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// What MinIO posts.
#[derive(Deserialize)]
struct Posted<'a> {
    #[serde(rename = "Records", borrow, default)]
    records: Vec<&'a RawValue>,
}

/// What is read of a record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_name: String,
    s3: S3,
}

#[derive(Deserialize)]
struct S3 {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    key: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    version_id: String,
}

/// An object that was there when MinIO posted this.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) bucket: String,
    pub(crate) key: String,
    size: u64,
    /// Where the bucket keeps versions.
    version: Option<String>,
    /// The event, of this object alone.
    event: Bytes,
}

/// `POST /events/minio`: what MinIO announces becomes jobs, which are on the disk before it is answered.
///
/// # Errors
/// 400 of what is no event; 429 and 503 where it can't be kept, and MinIO tries again.
pub(crate) async fn announced(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let (body, _reservation) = front
        .read_at_most(MAX_EVENT, &headers, body, front.deadline())
        .await?;
    let mut jobs = Vec::new();
    for object in read(&body)? {
        let services = front.services.called_by(OWN, &object.bucket, &object.key);
        jobs.extend(front.jobs_of(&object, &services).await?);
    }
    front.announce(jobs).await?;
    Ok(StatusCode::OK)
}

/// Reads what MinIO posts: the objects that came. Of what else happened there is nothing.
///
/// # Errors
/// `InvalidArgument` of what is none of MinIO's.
pub(crate) fn read(body: &Bytes) -> Result<Vec<Announced>, InferError> {
    let invalid = |error: &serde_json::Error| {
        InferError::invalid(format!("the event can't be read: {error}"))
    };
    // A list would be read as one without fields.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(InferError::invalid(
            "the event can't be read: expected an object of JSON",
        ));
    }
    let posted: Posted<'_> = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
    let n_records = posted.records.len();
    if n_records > MAX_RECORDS {
        return Err(InferError::invalid(format!(
            "the event has {n_records} records, expected at most {MAX_RECORDS}"
        )));
    }
    let mut announced = Vec::new();
    for raw in posted.records {
        let record: Record = serde_json::from_str(raw.get()).map_err(|error| invalid(&error))?;
        if !record.event_name.starts_with("s3:ObjectCreated:") {
            continue;
        }
        let object = record.s3.object;
        // As in a form: blanks are plus signs.
        let key = percent_decode_str(&object.key.replace('+', " "))
            .decode_utf8()
            .map_err(|_| InferError::invalid("the key of the event's object is not UTF-8"))?
            .into_owned();
        let bucket = record.s3.bucket.name;
        let event = match n_records {
            1 => body.clone(),
            _ => json!({
                "EventName": record.event_name,
                "Key": format!("{bucket}/{key}"),
                "Records": [raw],
            })
            .to_string()
            .into(),
        };
        announced.push(Announced {
            bucket,
            key,
            size: object.size,
            version: Some(object.version_id).filter(|id| !id.is_empty() && id != "null"),
            event,
        });
    }
    Ok(announced)
}

/// Whether this is what stands for a folder.
pub(crate) fn is_marker(key: &str, size: u64) -> bool {
    size == 0 && key.ends_with('/')
}

impl Front {
    /// Returns the jobs of services that an object at `minio.default` is an event of. What it is now is
    /// asked there, where the event does not say it: of one that is gone there are none.
    ///
    /// # Errors
    /// `Unavailable` where it can't be found out now.
    pub(crate) async fn jobs_of(
        &self,
        announced: &Announced,
        services: &[Arc<Service>],
    ) -> Result<Vec<NewJob>, InferError> {
        let Announced {
            bucket,
            key,
            version,
            event,
            ..
        } = announced;
        let Some(first) = services.first() else {
            return Ok(Vec::new());
        };
        if is_marker(key, announced.size) {
            return Ok(Vec::new());
        }
        let reference = StorageReference::parse(OWN);
        let storage = self.providers.of(&first.definition, reference)?;
        let storage = storage.ok_or_else(|| {
            InferError::invalid(
                "there is no MinIO here whose events could be taken: see MINIO_ENDPOINT",
            )
        })?;
        let (identity, also, size) = if let Some(version) = version {
            let head = match storage.head_version(bucket, key, version).await {
                Err(error) if error.is_transient() => return Err(error.into()),
                head => head.ok().flatten(),
            };
            let also = head.map(|head| Identity::of_content(&head.etag, head.modified));
            (Identity::of_version(version), also, announced.size)
        } else {
            let Some(head) = storage.head(bucket, key).await? else {
                return Ok(Vec::new());
            };
            (Identity::of(&head), None, head.size)
        };
        let job = |service: &Arc<Service>| {
            Ok(NewJob {
                service: service.name().to_owned(),
                name: made_up_name(service.name())?,
                event: event.clone(),
                object: Some(ObjectRef {
                    provider: OWN.to_owned(),
                    bucket: bucket.clone(),
                    key: key.clone(),
                    identity: identity.clone(),
                    size,
                }),
                also: also.clone(),
            })
        };
        services.iter().map(job).collect()
    }
}

/// Hears of objects that come to our own store, by whichever way.
#[derive(Debug)]
pub(crate) struct Announcer {
    pub(crate) services: Arc<Services>,
    pub(crate) jobs: Arc<Ledger>,
}

#[async_trait::async_trait]
impl Watcher for Announcer {
    async fn created(&self, object: &gateway_objects::Object) -> Result<(), String> {
        let services = self.services.called_by(OWN, &object.bucket, &object.key);
        if services.is_empty() || is_marker(&object.key, object.size) {
            return Ok(());
        }
        let head = Head::from(object.clone());
        let jobs = services
            .iter()
            .map(|service| NewJob::of(service.name(), OWN, &object.bucket, &head));
        let announced = match jobs.collect() {
            Ok(jobs) => announce(&self.services, &self.jobs, jobs).await.map(drop),
            Err(error) => Err(error),
        };
        announced.map_err(|error| error.to_string())
    }
}

impl NewJob {
    /// Returns a service's job of an object that a storage provider describes.
    ///
    /// # Errors
    /// `Internal` where the system has no randomness.
    pub(crate) fn of(
        service: &str,
        provider: &str,
        bucket: &str,
        head: &Head,
    ) -> Result<Self, InferError> {
        Ok(Self {
            service: service.to_owned(),
            name: made_up_name(service)?,
            event: event(bucket, head),
            object: Some(ObjectRef {
                provider: provider.to_owned(),
                bucket: bucket.to_owned(),
                key: head.key.clone(),
                identity: Identity::of(head),
                size: head.size,
            }),
            also: head
                .version
                .as_ref()
                .map(|_| Identity::of_content(&head.etag, head.modified)),
        })
    }
}

/// Returns the event that MinIO would make of an object that came.
fn event(bucket: &str, head: &Head) -> Bytes {
    const NAME: &str = "s3:ObjectCreated:Put";
    let key = utf8_percent_encode(&head.key, ESCAPED).to_string();
    let time = head.modified.format(&Rfc3339).unwrap_or_default();
    // Of two events of a key the later one has the greater.
    let sequencer = format!("{:016X}", head.modified.unix_timestamp_nanos());
    let nobody = json!({ "principalId": "" });
    let mut object = json!({
        "key": key.replace("%20", "+"),
        "size": head.size,
        "eTag": head.etag,
        "userMetadata": head.metadata,
        "sequencer": sequencer,
    });
    if let (Some(version), Some(object)) = (&head.version, object.as_object_mut()) {
        object.insert("versionId".to_owned(), version.as_str().into());
    }
    json!({
        "EventName": NAME,
        "Key": format!("{bucket}/{}", head.key),
        "Records": [{
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": time,
            "eventName": NAME,
            "userIdentity": nobody,
            "requestParameters": { "principalId": "", "region": "", "sourceIPAddress": "" },
            "responseElements": {},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {
                    "name": bucket,
                    "ownerIdentity": nobody,
                    "arn": format!("arn:aws:s3:::{bucket}"),
                },
                "object": object,
            },
            "source": { "host": "", "port": "", "userAgent": "" },
        }],
    })
    .to_string()
    .into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gateway_script::{Event, Input};
    use time::OffsetDateTime;

    use super::*;

    fn record(name: &str, key: &str, rest: &str) -> String {
        format!(
            r#"{{"eventName": "{name}", "s3": {{"bucket": {{"name": "b"}}, "object": {{"key": "{key}"{rest}}}}}}}"#
        )
    }

    fn records(records: &[String]) -> Bytes {
        format!(
            r#"{{"EventName": "x", "Records": [{}]}}"#,
            records.join(",")
        )
        .into()
    }

    #[test]
    fn each_object_that_came_is_read_with_an_event_of_its_own() {
        let put = "s3:ObjectCreated:Put";
        let one = records(&[record(put, "in%2Fa+b%C3%A4%2B.jpg", r#", "size": 7"#)]);
        let read_one = read(&one).unwrap();
        assert_eq!(read_one[0].event, one);
        assert_eq!(read_one[0].key, "in/a bä+.jpg");
        assert_eq!((read_one[0].size, &read_one[0].version), (7, &None));

        let several = records(&[
            record(put, "in%2Fa", r#", "versionId": "v1""#),
            record("s3:ObjectRemoved:Delete", "in%2Fb", ""),
            record(
                "s3:ObjectCreated:CompleteMultipartUpload",
                "in%2F",
                r#", "versionId": "null""#,
            ),
        ]);
        let several = read(&several).unwrap();
        let keys: Vec<_> = several.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(keys, ["in/a", "in/"]);
        let versions = several.iter().map(|one| one.version.as_deref());
        assert_eq!(versions.collect::<Vec<_>>(), [Some("v1"), None]);
        assert!(is_marker(&several[1].key, several[1].size));
        // The event of one is about it alone.
        let again = read(&several[0].event).unwrap();
        assert_eq!((again.len(), &again[0].key), (1, &several[0].key));

        assert_eq!(read(&Bytes::from_static(b"{}")), Ok(Vec::new()));
        for bad in ["", "[]", "{", r#"{"Records": [{}]}"#, r#"{"Records": 5}"#] {
            let error = read(&Bytes::from_static(bad.as_bytes())).unwrap_err();
            assert!(error.message.contains("can't be read"), "{bad}: {error}");
        }
        let bad = read(&records(&[record(put, "%ff", "")])).unwrap_err();
        assert!(bad.message.contains("not UTF-8"), "{bad}");
        let many = vec![record(put, "a", ""); MAX_RECORDS + 1];
        let error = read(&records(&many)).unwrap_err();
        assert!(error.message.contains("expected at most 1000"), "{error}");
    }

    #[test]
    fn an_event_that_is_made_here_is_read_as_one_of_minios() {
        let head = Head {
            key: "in/a b/ä+%.jpg".to_owned(),
            size: 7,
            etag: "abc".to_owned(),
            modified: OffsetDateTime::UNIX_EPOCH,
            version: Some("v1".to_owned()),
            metadata: BTreeMap::new(),
        };
        let event = event("b", &head);
        let read = read(&event).unwrap();
        assert_eq!((&read[0].key, read[0].size), (&head.key, 7));
        assert_eq!(read[0].version.as_deref(), Some("v1"));
        let script = Event::parse(&event, &[]);
        assert_eq!(script.time.as_deref(), Some("1970-01-01T00:00:00Z"));
        let Input::Object(object) = script.input else {
            panic!("{event:?}");
        };
        assert_eq!((object.bucket.as_str(), &object.key), ("b", &head.key));
    }
}
