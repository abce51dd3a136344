//! What S3 answers, read.

use percent_encoding::percent_decode_str;
use roxmltree::{Document, Node, ParsingOptions};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::storage::{Head, Page};

/// Elements of an answer: a page of keys has some seven for each.
const MAX_NODES: u32 = 100_000;

/// Parses an answer; one with definitions of its own is none.
pub(crate) fn parse(text: &str) -> Result<Document<'_>, String> {
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options).map_err(|error| error.to_string())
}

/// Returns the first child of this name, whatever its namespace.
pub(crate) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children()
        .find(|child| child.tag_name().name() == name)
}

/// Returns the text of the first child of this name; empty where there is none.
pub(crate) fn text<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    child(node, name)
        .and_then(|node| node.text())
        .unwrap_or_default()
}

/// Reads code and message of an error, if it is one.
pub(crate) fn error(body: &str) -> Option<(String, String)> {
    let document = parse(body).ok()?;
    let error = document.root_element();
    let said = |name| text(error, name).to_owned();
    (error.tag_name().name() == "Error").then(|| (said("Code"), said("Message")))
}

/// Reads a `ListBucketResult` whose keys are encoded as URLs are.
pub(super) fn page(body: &str) -> Result<Page, String> {
    let document = parse(body)?;
    let result = document.root_element();
    let is_object = |node: &Node<'_, '_>| node.tag_name().name() == "Contents";
    let objects: Vec<Head> = result
        .children()
        .filter(is_object)
        .map(object)
        .collect::<Result<_, _>>()?;
    let has_more = text(result, "IsTruncated") == "true";
    let last = objects.last().map(|object| object.key.clone());
    Ok(Page {
        next: last.filter(|_| has_more),
        objects,
    })
}

/// Reads an object of a `ListBucketResult` whose keys are encoded as URLs are.
pub(crate) fn object(node: Node<'_, '_>) -> Result<Head, String> {
    let key = key(node, "Key")?;
    let wrong = |what: &str| format!("`{key}` has no {what}");
    Ok(Head {
        size: text(node, "Size").parse().map_err(|_| wrong("Size"))?,
        etag: text(node, "ETag").trim_matches('"').to_owned(),
        modified: OffsetDateTime::parse(text(node, "LastModified"), &Rfc3339)
            .map_err(|_| wrong("LastModified"))?,
        version: None,
        metadata: std::collections::BTreeMap::new(),
        key,
    })
}

/// Reads a key, or what one begins with, that is encoded as URLs are.
pub(crate) fn key(node: Node<'_, '_>, name: &str) -> Result<String, String> {
    // As in a form: blanks are plus signs.
    let key = text(node, name).replace('+', " ");
    let key = percent_decode_str(&key).decode_utf8();
    Ok(key.map_err(|_| "a key is not UTF-8")?.into_owned())
}

/// Writes where a bucket is to be.
pub(super) fn location(region: &str) -> String {
    format!(
        "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
    )
}

/// Writes text so that it is read as such.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_its_keys_decoded() {
        let body = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Name>b</Name><IsTruncated>true</IsTruncated>\
            <Contents><Key>in/a+b%2B%C3%A4.jpg</Key><LastModified>2026-11-26T13:30:27.123Z</LastModified>\
            <ETag>&quot;abc&quot;</ETag><Size>7</Size></Contents></ListBucketResult>";
        let page = page(body).unwrap();
        assert_eq!(page.next.as_deref(), Some("in/a b+ä.jpg"));
        let object = &page.objects[0];
        assert_eq!((object.size, object.etag.as_str()), (7, "abc"));
        assert_eq!(object.modified.unix_timestamp(), 1_795_699_827);
    }

    #[test]
    fn what_is_no_page_is_said() {
        for (body, reason) in [
            ("", "the document does not have a root node"),
            ("<!DOCTYPE x [<!ENTITY a \"b\">]><x/>", "DTD"),
            (
                "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
                "`a` has no Size",
            ),
        ] {
            let error = page(body).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
