//! What S3 answers, read.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use roxmltree::{Document, Node, ParsingOptions};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::storage::{Head, Page};

/// Elements of an answer: a page of keys has some seven for each.
const MAX_NODES: u32 = 100_000;

/// Of all that S3 reads and writes.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

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

/// A bucket of a list.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) created: OffsetDateTime,
}

/// A version of an object, or what says that it was deleted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) key: String,
    /// Where versions are listed.
    pub(super) id: Option<String>,
}

/// Parses an answer that has to be this one.
pub(crate) fn parse_as<'a>(body: &'a str, name: &str) -> Result<Document<'a>, String> {
    let document = parse(body)?;
    match document.root_element().tag_name().name() {
        root if root == name => Ok(document),
        root => Err(format!("expected {name}, got {root}")),
    }
}

/// Reads a `ListAllMyBucketsResult`.
pub(crate) fn buckets(body: &str) -> Result<Vec<Bucket>, String> {
    let document = parse_as(body, "ListAllMyBucketsResult")?;
    let buckets = child(document.root_element(), "Buckets");
    let buckets = buckets.into_iter().flat_map(|buckets| buckets.children());
    buckets
        .filter(|node| node.tag_name().name() == "Bucket")
        .map(|bucket| {
            let name = text(bucket, "Name").to_owned();
            let created = OffsetDateTime::parse(text(bucket, "CreationDate"), &Rfc3339)
                .map_err(|_| format!("`{name}` has no CreationDate"))?;
            Ok(Bucket { name, created })
        })
        .collect()
}

/// Reads the `Tagging` of a bucket.
pub(super) fn tags(body: &str) -> Result<BTreeMap<String, String>, String> {
    let document = parse_as(body, "Tagging")?;
    let set = child(document.root_element(), "TagSet");
    let tags = set.into_iter().flat_map(|set| set.children());
    Ok(tags
        .filter(|node| node.tag_name().name() == "Tag")
        .map(|tag| (text(tag, "Key").to_owned(), text(tag, "Value").to_owned()))
        .collect())
}

/// Writes the `Tagging` of a bucket.
pub(super) fn tagging<'a>(tags: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let tags: String = tags
        .map(|(name, value)| {
            let (name, value) = (escape(name), escape(value));
            format!("<Tag><Key>{name}</Key><Value>{value}</Value></Tag>")
        })
        .collect();
    format!("<Tagging xmlns=\"{NAMESPACE}\"><TagSet>{tags}</TagSet></Tagging>")
}

/// Reads a `ListVersionsResult`, or a `ListBucketResult`, whose keys are encoded as URLs are.
pub(super) fn versions(body: &str) -> Result<Vec<Version>, String> {
    let document = parse(body)?;
    let result = document.root_element();
    let name = result.tag_name().name();
    if !["ListVersionsResult", "ListBucketResult"].contains(&name) {
        return Err(format!("expected ListVersionsResult, got {name}"));
    }
    let is_version = |node: &Node<'_, '_>| {
        ["Version", "DeleteMarker", "Contents"].contains(&node.tag_name().name())
    };
    let versions = result.children().filter(is_version);
    versions
        .map(|node| {
            let id = child(node, "VersionId").and_then(|id| id.text());
            Ok(Version {
                key: key(node, "Key")?,
                id: id.map(str::to_owned),
            })
        })
        .collect()
}

/// Writes which versions are to be deleted; of what can't be, the answer says so.
pub(super) fn deletion(versions: &[&Version]) -> String {
    let objects: String = versions
        .iter()
        .map(|Version { key, id }| {
            let id = id.as_deref().map(escape);
            let id = id.map(|id| format!("<VersionId>{id}</VersionId>"));
            let (key, id) = (escape(key), id.unwrap_or_default());
            format!("<Object><Key>{key}</Key>{id}</Object>")
        })
        .collect();
    format!("<Delete xmlns=\"{NAMESPACE}\"><Quiet>true</Quiet>{objects}</Delete>")
}

/// Reads of a `DeleteResult` what could not be deleted first, and why.
pub(super) fn undeleted(body: &str) -> Result<Option<String>, String> {
    let document = parse_as(body, "DeleteResult")?;
    let error = child(document.root_element(), "Error");
    Ok(error.map(|error| {
        let said = ["Key", "Code", "Message"].map(|name| text(error, name));
        said.join(", ")
    }))
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
        metadata: BTreeMap::new(),
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
        "<CreateBucketConfiguration xmlns=\"{NAMESPACE}\">\
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
    fn tags_are_read_as_they_are_written() {
        let tags = BTreeMap::from([("a&b".to_owned(), "<c d>".to_owned())]);
        assert_eq!(super::tags(&tagging(tags.iter())), Ok(tags));
        assert!(super::tags("<x/>").is_err());
    }

    #[test]
    fn all_versions_are_read_and_named_to_be_deleted() {
        let listed = "<ListVersionsResult><Version><Key>a+b%26</Key><VersionId>null</VersionId></Version>\
            <DeleteMarker><Key>c</Key><VersionId>v1</VersionId></DeleteMarker></ListVersionsResult>";
        let listed = versions(listed).unwrap();
        assert_eq!(
            deletion(&listed.iter().collect::<Vec<_>>()),
            format!(
                "<Delete xmlns=\"{NAMESPACE}\"><Quiet>true</Quiet>\
                 <Object><Key>a b&amp;</Key><VersionId>null</VersionId></Object>\
                 <Object><Key>c</Key><VersionId>v1</VersionId></Object></Delete>"
            )
        );
        let without = "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>";
        let key = "a".to_owned();
        assert_eq!(versions(without), Ok(vec![Version { key, id: None }]));
        assert_eq!(undeleted("<DeleteResult/>"), Ok(None));
        let refused = "<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code><Message>locked\
            </Message></Error></DeleteResult>";
        assert_eq!(
            undeleted(refused),
            Ok(Some("a, AccessDenied, locked".to_owned()))
        );
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
