//! A bucket as its users reach it: by links that somebody else's library signs.

use std::io::Read as _;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Credentials, S3Action as _, UrlStyle};

use crate::hearth::{agent, eventually};

/// How long a link may be used.
const LINK: Duration = Duration::from_secs(600);

/// A bucket, and who calls.
#[derive(Debug)]
pub(crate) struct Bucket {
    bucket: rusty_s3::Bucket,
    credentials: Credentials,
    agent: ureq::Agent,
}

impl Bucket {
    pub(crate) fn new(endpoint: &str, name: &str, keys: [&str; 2]) -> Self {
        Self::trusting(endpoint, name, keys, None)
    }

    /// The same over TLS, with certificates of this root.
    pub(crate) fn trusting(
        endpoint: &str,
        name: &str,
        [access, secret]: [&str; 2],
        root: Option<&str>,
    ) -> Self {
        let endpoint = endpoint.parse().unwrap();
        let name = name.to_owned();
        Self {
            bucket: rusty_s3::Bucket::new(endpoint, UrlStyle::Path, name, "us-east-1").unwrap(),
            credentials: Credentials::new(access, secret),
            agent: agent(root),
        }
    }

    #[track_caller]
    pub(crate) fn make(&self) {
        let link = self.bucket.create_bucket(&self.credentials).sign(LINK);
        let answer = self.agent.put(link.as_str()).send("").unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Says what the bucket announces, and to whom.
    #[track_caller]
    pub(crate) fn set_notifications(&self, configuration: &str) {
        let mut link = self.bucket.create_bucket(&self.credentials);
        link.query_mut().insert("notification", "");
        // MinIO is ready before it knows its targets.
        eventually("MinIO takes the notifications", || {
            let answer = self.agent.put(link.sign(LINK).as_str()).send(configuration);
            (answer.ok()?.status() == 200).then_some(())
        });
    }

    /// Has the bucket keep what is written over, so that it can be counted.
    #[track_caller]
    pub(crate) fn keep_versions(&self) {
        let mut link = self.bucket.create_bucket(&self.credentials);
        link.query_mut().insert("versioning", "");
        let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let answer = self.agent.put(link.sign(LINK).as_str()).send(enabled);
        assert_eq!(answer.unwrap().status(), 200);
    }

    /// Returns how many versions there are of all objects whose keys begin so, 1,000 at most.
    pub(crate) fn n_versions(&self, prefix: &str) -> usize {
        let mut link = self.bucket.get_object(Some(&self.credentials), "");
        link.query_mut().insert("versions", "");
        link.query_mut().insert("prefix", prefix.to_owned());
        let answer = self.agent.get(link.sign(LINK).as_str()).call().unwrap();
        let text = answer.into_body().read_to_string().unwrap();
        text.matches("<VersionId>").count()
    }

    pub(crate) fn notifications(&self) -> String {
        let mut link = self.bucket.get_object(Some(&self.credentials), "");
        link.query_mut().insert("notification", "");
        let answer = self.agent.get(link.sign(LINK).as_str()).call().unwrap();
        answer.into_body().read_to_string().unwrap()
    }

    pub(crate) fn try_put(&self, key: &str, body: &[u8]) -> StatusCode {
        let link = self
            .bucket
            .put_object(Some(&self.credentials), key)
            .sign(LINK);
        let answer = self.agent.put(link.as_str()).send(body);
        answer.map_or(StatusCode::SERVICE_UNAVAILABLE, |answer| answer.status())
    }

    #[track_caller]
    pub(crate) fn put(&self, key: &str, body: &[u8]) {
        assert_eq!(self.try_put(key, body), 200, "{key}");
    }

    /// Uploads as who was told to: again until it is known to be there.
    pub(crate) fn put_in_the_end(&self, key: &str, body: &[u8]) {
        let head = self
            .bucket
            .head_object(Some(&self.credentials), key)
            .sign(LINK);
        eventually("it is uploaded", || {
            // What was put without an answer is not put again: that would be another version.
            let there = self.agent.head(head.as_str()).call().ok()?;
            match there.status() {
                StatusCode::OK => Some(()),
                StatusCode::NOT_FOUND => (self.try_put(key, body) == 200).then_some(()),
                _ => None,
            }
        });
    }

    #[track_caller]
    pub(crate) fn delete(&self, key: &str) {
        let link = self.bucket.delete_object(Some(&self.credentials), key);
        let answer = self.agent.delete(link.sign(LINK).as_str()).call().unwrap();
        assert_eq!(answer.status(), 204, "{key}");
    }

    /// Returns an object with its headers, if it is there.
    pub(crate) fn get(&self, key: &str) -> Option<(HeaderMap, Vec<u8>)> {
        let link = self
            .bucket
            .get_object(Some(&self.credentials), key)
            .sign(LINK);
        let answer = self.agent.get(link.as_str()).call().ok()?;
        let (head, body) = answer.into_parts();
        let mut bytes = Vec::new();
        body.into_reader().read_to_end(&mut bytes).ok()?;
        (head.status == 200).then_some((head.headers, bytes))
    }

    /// Returns the keys that begin so, 1,000 at most; none of a bucket that is not there.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut list = self.bucket.list_objects_v2(Some(&self.credentials));
        list.with_prefix(prefix);
        let answer = self.agent.get(list.sign(LINK).as_str()).call().unwrap();
        let text = answer.into_body().read_to_string().unwrap();
        let listed = ListObjectsV2::parse_response(&text);
        let contents = listed.map(|listed| listed.contents).unwrap_or_default();
        contents.into_iter().map(|object| object.key).collect()
    }
}
