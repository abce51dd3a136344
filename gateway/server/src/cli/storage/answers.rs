//! What S3 answers, read.

use std::fmt::Write as _;

use crate::storage::Head;
pub(crate) use crate::storage::s3::xml::{Bucket, buckets};
use crate::storage::s3::xml::{key, object, parse_as, text};

/// Some of the keys of a bucket.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Head>,
    /// What keys begin with that are not among the objects, up to a slash.
    pub(crate) folders: Vec<String>,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
}

/// Reads a `ListBucketResult` whose keys are encoded as URLs are.
pub(super) fn page(body: &str) -> Result<Page, String> {
    let document = parse_as(body, "ListBucketResult")?;
    let result = document.root_element();
    let mut page = Page::default();
    for node in result.children() {
        match node.tag_name().name() {
            "Contents" => page.objects.push(object(node)?),
            "CommonPrefixes" => page.folders.push(key(node, "Prefix")?),
            _ => {}
        }
    }
    if text(result, "IsTruncated") == "true" {
        page.next = Some(text(result, "NextContinuationToken").to_owned());
    }
    Ok(page)
}

/// Reads an `InitiateMultipartUploadResult`.
pub(super) fn upload(body: &str) -> Result<String, String> {
    let document = parse_as(body, "InitiateMultipartUploadResult")?;
    match text(document.root_element(), "UploadId") {
        "" => Err("an upload has no UploadId".to_owned()),
        upload => Ok(upload.to_owned()),
    }
}

/// Writes of which parts an object is made, by their ETags.
pub(super) fn parts(etags: impl Iterator<Item = String>) -> String {
    let mut body = "<CompleteMultipartUpload>".to_owned();
    for (index, etag) in etags.enumerate() {
        let number = index + 1;
        let _ = write!(
            body,
            "<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>"
        );
    }
    body + "</CompleteMultipartUpload>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_objects_and_folders_and_an_end() {
        let page = |is_truncated: bool| {
            let body = format!(
                "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <IsTruncated>{is_truncated}</IsTruncated>\
                 <NextContinuationToken>t</NextContinuationToken>\
                 <Contents><Key>in/a+b%2B.jpg</Key><LastModified>2026-11-26T13:30:27.123Z</LastModified>\
                 <ETag>&quot;abc&quot;</ETag><Size>7</Size></Contents>\
                 <CommonPrefixes><Prefix>in/c%26d/</Prefix></CommonPrefixes></ListBucketResult>"
            );
            super::page(&body).unwrap()
        };
        assert_eq!(page(true).next.as_deref(), Some("t"));
        assert_eq!(page(false).next, None);
        assert_eq!(page(false).objects[0].key, "in/a b+.jpg");
        assert_eq!(page(false).folders, ["in/c&d/"]);
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let html = page("<html/>").unwrap_err();
        assert_eq!(html, "expected ListBucketResult, got html");
        let bucket = "<ListAllMyBucketsResult><Buckets><Bucket><Name>b</Name></Bucket></Buckets>\
                      </ListAllMyBucketsResult>";
        assert_eq!(buckets(bucket).unwrap_err(), "`b` has no CreationDate");
        let none = upload("<InitiateMultipartUploadResult/>").unwrap_err();
        assert_eq!(none, "an upload has no UploadId");
        assert!(page("").is_err());
    }
}
