//! Finding the pictures in a body: raw, multipart or base64, by content, whatever it is called.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures_util::FutureExt as _;
use workers_protocol::{InferError, PictureFormat};

use super::for_bytes;
use crate::budget::Reservation;

/// Pictures of one request at most: each is an entry in the queue.
pub(super) const MAX_PICTURES: usize = 256;

/// Parts of a multipart body at most, pictures or not.
const MAX_FIELDS: usize = 1024;

/// What clients send as base64: padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The pictures of a body.
#[derive(Debug)]
pub(super) struct Pictures {
    pub(super) pictures: Vec<Bytes>,
    /// The body is one picture as base64 text.
    pub(super) is_base64: bool,
}

/// Returns the encoded pictures of a body. A raw one shares its memory; of the others the copies are
/// reserved before they are made.
///
/// # Errors
/// `InvalidArgument`, saying what the body looks like; `Overloaded` without room to decode base64.
pub(super) async fn pictures(
    body: Bytes,
    reservation: &mut Reservation,
) -> Result<Pictures, InferError> {
    let several = |pictures| Pictures {
        pictures,
        is_base64: false,
    };
    if body.is_empty() {
        return Err(InferError::invalid(
            "the body is empty: expected a picture (JPEG, PNG, WebP, GIF or BMP)",
        ));
    }
    if PictureFormat::sniff(&body).is_some() {
        return Ok(several(vec![body]));
    }
    if let Some(boundary) = boundary(&body) {
        // multer gathers parts into a buffer of its own, and copies them out of it.
        reservation.grow(2 * body.len() as u64)?;
        // The body is there, so nothing is waited for.
        let parsed = for_bytes(body.len(), || {
            multipart(body, boundary, reservation).now_or_never()
        });
        let pictures = parsed
            .unwrap_or_else(|| Err(InferError::internal("the multipart body was not whole")))?;
        reservation.shrink_to(pictures.iter().map(|picture| picture.len() as u64).sum());
        return Ok(several(pictures));
    }
    let picture = one("the body", &body, reservation)?;
    Ok(Pictures {
        pictures: vec![picture],
        is_base64: true,
    })
}

/// Returns the boundary of a multipart body: it begins with it.
fn boundary(body: &[u8]) -> Option<String> {
    let body = body
        .strip_prefix(b"\r\n")
        .unwrap_or(body)
        .strip_prefix(b"--")?;
    // RFC 2046 § 5.1.1: at most 70 characters.
    let end = body
        .iter()
        .take(72)
        .position(|&byte| byte == b'\r' || byte == b'\n')?;
    let boundary = std::str::from_utf8(body.get(..end)?).ok()?;
    (!boundary.is_empty()).then(|| boundary.to_owned())
}

async fn multipart(
    body: Bytes,
    boundary: String,
    reservation: &mut Reservation,
) -> Result<Vec<Bytes>, InferError> {
    let stream =
        futures_util::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>(body)));
    let mut parts = multer::Multipart::new(stream, boundary);
    let broken = |error: multer::Error| {
        InferError::invalid(format!("the multipart body can't be read: {error}"))
    };
    let mut pictures = Vec::new();
    let mut n_fields = 0;
    while let Some(field) = parts.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some() || field.content_type().is_some();
        let data = field.bytes().await.map_err(broken)?;
        match one(&format!("part `{name}`"), &data, reservation) {
            Ok(picture) => pictures.push(picture),
            // Forms carry other fields too; a file that is no picture is a mistake.
            Err(_) if !is_file => {}
            Err(error) => return Err(error),
        }
        n_fields += 1;
        if n_fields > MAX_FIELDS {
            return Err(InferError::too_large(format!(
                "expected at most {MAX_FIELDS} parts in a multipart body"
            )));
        }
        if pictures.len() > MAX_PICTURES {
            return Err(InferError::too_large(format!(
                "expected at most {MAX_PICTURES} pictures in a request"
            )));
        }
    }
    if pictures.is_empty() {
        return Err(InferError::invalid(
            "no part of the multipart body is a picture (JPEG, PNG, WebP, GIF or BMP)",
        ));
    }
    Ok(pictures)
}

/// Returns a picture that is raw or base64; `what` names the data.
///
/// # Errors
/// `InvalidArgument`, saying what they look like; `Overloaded` without room to decode base64.
pub(super) fn one(
    what: &str,
    data: &Bytes,
    reservation: &mut Reservation,
) -> Result<Bytes, InferError> {
    if PictureFormat::sniff(data).is_some() {
        return Ok(data.clone());
    }
    // What base64 of a picture begins with can be told from its first bytes, before all is decoded.
    let text = unwrapped(data);
    let head: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .take(48)
        .collect();
    let head_bytes = BASE64
        .decode(head.get(..head.len() / 4 * 4).unwrap_or_default())
        .unwrap_or_default();
    if PictureFormat::sniff(&head_bytes).is_none() {
        return Err(InferError::invalid(format!(
            "{what} is no picture: expected JPEG, PNG, WebP, GIF or BMP, raw or as base64, got {}",
            describe(data)
        )));
    }
    // What it is decoded to, and a copy without line breaks where there are any.
    reservation.grow(2 * text.len() as u64)?;
    let decode = || {
        let has_spaces = text.iter().any(u8::is_ascii_whitespace);
        if has_spaces {
            let packed: Vec<u8> = text
                .iter()
                .copied()
                .filter(|byte| !byte.is_ascii_whitespace())
                .collect();
            BASE64.decode(packed)
        } else {
            BASE64.decode(text)
        }
    };
    for_bytes(text.len(), decode)
        .map(Bytes::from)
        .map_err(|error| InferError::invalid(format!("{what} is not base64 throughout: {error}")))
}

/// Strips what wraps base64 text: white space, a JSON string's quotes, a data URI's head.
fn unwrapped(data: &[u8]) -> &[u8] {
    let text = data.trim_ascii();
    let text = text
        .strip_prefix(b"\"")
        .and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or(text);
    match text.strip_prefix(b"data:") {
        Some(uri) => {
            let comma = uri.iter().take(128).position(|&byte| byte == b',');
            comma.and_then(|comma| uri.get(comma + 1..)).unwrap_or(text)
        }
        None => text,
    }
}

fn describe(data: &[u8]) -> String {
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    let head = data.get(..data.len().min(24)).unwrap_or_default();
    if head.iter().all(is_text) {
        format!("text beginning {:?}", String::from_utf8_lossy(head))
    } else {
        format!("{} bytes beginning {head:02x?}", data.len())
    }
}

#[cfg(test)]
mod tests;
