//! What S3 answers, read.

use percent_encoding::percent_decode_str;
use roxmltree::{Document, Node, ParsingOptions};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Elements of an answer: a page of keys has some ten for each.
const MAX_NODES: u32 = 100_000;

/// A bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) created: OffsetDateTime,
}

/// An object, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) modified: OffsetDateTime,
}

/// Some of the keys of a bucket.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Object>,
    /// What keys begin with that are not among the objects, up to a slash.
    pub(crate) folders: Vec<String>,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
}

/// Reads a `ListAllMyBucketsResult`.
pub(super) fn buckets(body: &str) -> Result<Vec<Bucket>, String> {
    let document = parse(body, "ListAllMyBucketsResult")?;
    let Some(buckets) = child(document.root_element(), "Buckets") else {
        return Ok(Vec::new());
    };
    let buckets = buckets.children().filter(|node| is(node, "Bucket"));
    buckets
        .map(|bucket| {
            Ok(Bucket {
                name: text(bucket, "Name").to_owned(),
                created: time(bucket, "CreationDate")?,
            })
        })
        .collect()
}

/// Reads a `ListBucketResult` whose keys are encoded as URLs are.
pub(super) fn page(body: &str) -> Result<Page, String> {
    let document = parse(body, "ListBucketResult")?;
    let mut page = Page::default();
    for node in document.root_element().children() {
        match node.tag_name().name() {
            "Contents" => page.objects.push(Object {
                key: decoded(text(node, "Key"))?,
                size: text(node, "Size").parse().map_err(|_| "an object has no Size")?,
                etag: text(node, "ETag").trim_matches('"').to_owned(),
                modified: time(node, "LastModified")?,
            }),
            "CommonPrefixes" => page.folders.push(decoded(text(node, "Prefix"))?),
            "NextContinuationToken" => page.next = node.text().map(str::to_owned),
            _ => {}
        }
    }
    if text(document.root_element(), "IsTruncated") != "true" {
        page.next = None;
    }
    Ok(page)
}

/// Reads an `InitiateMultipartUploadResult`.
pub(super) fn upload(body: &str) -> Result<String, String> {
    let document = parse(body, "InitiateMultipartUploadResult")?;
    match text(document.root_element(), "UploadId") {
        "" => Err("an upload has no UploadId".to_owned()),
        upload => Ok(upload.to_owned()),
    }
}

/// Reads code and message of an error, if it is one.
pub(super) fn error(body: &str) -> Option<(String, String)> {
    let document = parse(body, "Error").ok()?;
    let said = |name| text(document.root_element(), name).to_owned();
    Some((said("Code"), said("Message")))
}

/// Writes of which parts an object is made, by their ETags.
pub(super) fn parts(etags: impl Iterator<Item = String>) -> String {
    let mut body = "<CompleteMultipartUpload>".to_owned();
    for (index, etag) in etags.enumerate() {
        let number = index + 1;
        body.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>"
        ));
    }
    body + "</CompleteMultipartUpload>"
}

/// Parses an answer of this name; one with definitions of its own is none.
fn parse<'a>(body: &'a str, name: &str) -> Result<Document<'a>, String> {
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(body, options).map_err(|error| error.to_string())?;
    match document.root_element().tag_name().name() {
        root if root == name => Ok(document),
        root => Err(format!("expected {name}, got {root}")),
    }
}

fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.tag_name().name() == name
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| is(child, name))
}

/// Returns the text of the first child of this name; empty where there is none.
fn text<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    let text = child(node, name).and_then(|node| node.text());
    text.unwrap_or_default()
}

fn time(node: Node<'_, '_>, name: &str) -> Result<OffsetDateTime, String> {
    let time = OffsetDateTime::parse(text(node, name), &Rfc3339);
    time.map_err(|_| format!("something has no {name}"))
}

/// Reads a key as it stands in an answer: as in a form, blanks may be plus signs.
fn decoded(key: &str) -> Result<String, String> {
    let key = key.replace('+', " ");
    let key = percent_decode_str(&key).decode_utf8();
    Ok(key.map_err(|_| "a key is not UTF-8")?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = "<Contents><Key>in/a+b%2B%C3%A4.jpg</Key><LastModified>2026-11-26T13:30:27.123Z\
        </LastModified><ETag>&quot;abc&quot;</ETag><Size>7</Size></Contents>";

    fn listed(inner: &str) -> String {
        let space = "http://s3.amazonaws.com/doc/2006-03-01/";
        format!("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"{space}\">{inner}</ListBucketResult>")
    }

    #[test]
    fn a_page_is_read_with_its_keys_decoded() {
        let folder = "<CommonPrefixes><Prefix>in/c%26d/</Prefix></CommonPrefixes>";
        let next = "<NextContinuationToken>t</NextContinuationToken>";
        let truncated = |is: bool| format!("<IsTruncated>{is}</IsTruncated>{next}{OBJECT}{folder}");
        let page = |is| super::page(&listed(&truncated(is))).unwrap();
        assert_eq!(page(true).next.as_deref(), Some("t"));
        assert_eq!(page(false).next, None);
        assert_eq!(page(false).folders, ["in/c&d/"]);
        let object = &page(false).objects[0];
        assert_eq!(object.key, "in/a b+ä.jpg");
        assert_eq!((object.size, object.etag.as_str()), (7, "abc"));
        assert_eq!(object.modified.unix_timestamp(), 1_795_699_827);
    }

    #[test]
    fn what_is_no_page_is_said() {
        for (body, reason) in [
            (String::new(), "the document does not have a root node"),
            ("<!DOCTYPE x [<!ENTITY a \"b\">]><x/>".to_owned(), "DTD"),
            ("<html/>".to_owned(), "expected ListBucketResult, got html"),
            (listed(&OBJECT.replace("7", "x")), "an object has no Size"),
            (listed(&OBJECT.replace("%C3", "%FF")), "a key is not UTF-8"),
        ] {
            let error = page(&body).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_error_is_told_from_a_success() {
        let body = "<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>";
        assert_eq!(error(body), Some(("NoSuchKey".to_owned(), "gone".to_owned())));
        assert_eq!(error(&listed("")), None);
        assert_eq!(error(""), None);
    }
}
