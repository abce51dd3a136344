//! Events: what a service is called with, and what its script's input is.
//!
//! The order in which forms are tried is the faas-supervisor's: API Gateway, dCache, Rucio, delegated,
//! storage, and then anything at all.

mod members;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use members::{Members, pairs};

/// Some clients leave the padding away.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Envelopes within envelopes that are opened: an API gateway's around a delegated one's.
const MAX_ENVELOPES: usize = 3;

/// The provider whose path dCache's events are relative to.
const DCACHE: &str = "webdav.dcache";

/// An input of the service: provider and path, as its definition says.
pub type InputPath<'a> = (&'a str, &'a str);

/// An event, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the script is to work on.
    pub input: Input,
    /// When it happened, as the event says.
    pub time: Option<String>,
    /// Parameters of the query that an API gateway has passed on.
    pub query: Vec<(String, String)>,
    /// Where the cluster that delegated it wants results, as `TYPE.ID` of a provider.
    pub storage_provider: Option<String>,
}

/// What a script is to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes that came with the call.
    Bytes(Vec<u8>),
    /// An object that has to be fetched.
    Object(Object),
}

/// A file at a storage provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Who says that it is there.
    pub source: Source,
    /// Its bucket; of Rucio the scope; empty where the key says it all.
    pub bucket: String,
    /// Its key or path, decoded.
    pub key: String,
}

/// What kind of storage an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// MinIO.
    Minio,
    /// Amazon S3.
    S3,
    /// Onedata, by OneTrigger.
    Onedata,
    /// dCache, by its server-sent events.
    Dcache,
    /// Rucio.
    Rucio,
}

// === impl Event ===

impl Event {
    /// Reads the body of a call, of which any bytes are an event.
    pub fn parse(body: &[u8], inputs: &[InputPath<'_>]) -> Self {
        let mut event = Self {
            input: Input::Bytes(Vec::new()),
            time: None,
            query: Vec::new(),
            storage_provider: None,
        };
        event.input = event.read(body, inputs, MAX_ENVELOPES);
        event
    }

    /// Returns the key of the object that it is about.
    pub fn object_key(&self) -> Option<&str> {
        match &self.input {
            Input::Object(object) => Some(&object.key),
            Input::Bytes(_) => None,
        }
    }

    fn read(&mut self, body: &[u8], inputs: &[InputPath<'_>], n_envelopes: usize) -> Input {
        let Ok(members) = Members::read(body) else {
            return Input::Bytes(decoded(body).unwrap_or_else(|| body.to_vec()));
        };
        let Some(event) = members else {
            return Input::Bytes(body.to_vec());
        };
        if let Some(n_envelopes) = n_envelopes.checked_sub(1) {
            if event.raw("httpMethod").is_some() {
                self.query = query(&event);
                return self.read(&gateway_body(&event), inputs, n_envelopes);
            }
            if let (None, Some(inner)) = (dcache(&event, inputs), event.text("event")) {
                self.storage_provider = event.text("storage_provider");
                return self.read(inner.as_bytes(), inputs, n_envelopes);
            }
        }
        let object = dcache(&event, inputs)
            .or_else(|| rucio(&event))
            .or_else(|| {
                let records = event.value("Records")?;
                let record = records.get(0)?.as_object()?;
                self.time = text(record, "eventTime").map(str::to_owned);
                storage(&event, record)
            });
        match object {
            Some(object) => Input::Object(object),
            None => Input::Bytes(body.to_vec()),
        }
    }
}

// === API Gateway ===

/// Returns the body that an API gateway has passed on: as JSON, in base64, or as it is.
fn gateway_body(event: &Members<'_>) -> Vec<u8> {
    let is_base64 = event.value("isBase64Encoded") == Some(Value::Bool(true));
    let body = match event.raw("body") {
        None | Some("null") => return Vec::new(),
        // Whether it is JSON or base64 is seen when it is read.
        Some(other) => event.text("body").unwrap_or_else(|| other.to_owned()),
    };
    let body = body.into_bytes();
    match is_base64 {
        true => decoded(&body).unwrap_or(body),
        false => body,
    }
}

fn query(event: &Members<'_>) -> Vec<(String, String)> {
    event
        .raw("queryStringParameters")
        .map_or_else(Vec::new, pairs)
}

// === storage ===

/// An event of dCache is about a file in the folder of the input whose provider is exactly
/// `webdav.dcache`.
fn dcache(event: &Members<'_>, inputs: &[InputPath<'_>]) -> Option<Object> {
    let (_, folder) = inputs.iter().find(|(provider, _)| *provider == DCACHE)?;
    let inner = event.value("event")?;
    let inner = inner.as_object()?;
    inner.get("mask")?.as_array()?;
    let name = text(inner, "name")?;
    Some(Object {
        source: Source::Dcache,
        bucket: String::new(),
        key: format!("{}/{name}", folder.trim_matches([' ', '/'])),
    })
}

fn rucio(event: &Members<'_>) -> Option<Object> {
    event.text("event_type")?;
    let payload = event.value("payload")?;
    let payload = payload.as_object()?;
    Some(Object {
        source: Source::Rucio,
        bucket: text(payload, "scope")?.to_owned(),
        key: text(payload, "name")?.to_owned(),
    })
}

fn storage(event: &Members<'_>, record: &Map<String, Value>) -> Option<Object> {
    let source = match text(record, "eventSource")? {
        "minio:s3" => Source::Minio,
        "aws:s3" => Source::S3,
        "OneTrigger" => {
            let of_record = || text(record, "objectKey").map(str::to_owned);
            return Some(Object {
                source: Source::Onedata,
                bucket: String::new(),
                key: event.text("Key").or_else(of_record)?,
            });
        }
        "rucio" => Source::Rucio,
        _ => return None,
    };
    let s3 = record.get("s3")?;
    let key = s3.get("object")?.get("key")?.as_str()?;
    Some(Object {
        source,
        bucket: s3.get("bucket")?.get("name")?.as_str()?.to_owned(),
        // As in a form: S3 writes blanks as plus signs.
        key: percent_decode_str(&key.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned(),
    })
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key)?.as_str()
}

/// Decodes base64, with the line ends that `base64` writes; nothing where it is none.
fn decoded(body: &[u8]) -> Option<Vec<u8>> {
    let is_blank = u8::is_ascii_whitespace;
    if body.iter().all(is_blank) {
        return None;
    }
    if body.iter().any(is_blank) {
        let packed: Vec<u8> = body
            .iter()
            .copied()
            .filter(|byte| !is_blank(byte))
            .collect();
        return BASE64.decode(packed).ok();
    }
    BASE64.decode(body).ok()
}

#[cfg(test)]
mod tests;
