//! What is checked of every request whose signature is right.

use std::sync::Arc;

use http::{HeaderMap, Method};
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};
use tokio::sync::Semaphore;

use super::not_offered;

/// Whom buckets and objects belong to.
pub(super) const OWNER: &str = "cluster_admin";

/// Headers that change what an object is, or who may read it, and how they begin: to ignore them
/// would be to promise what is not kept.
const NOT_OFFERED: [&str; 7] = [
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-object-lock",
    "x-amz-bucket-object-lock-enabled",
    "x-amz-website-redirect-location",
    "x-amz-grant-",
    "x-amz-write-offset-bytes",
];

/// Lets callers in who signed, with the body of one request for each permit.
pub(super) struct Access {
    bodies: Arc<Semaphore>,
}

impl Access {
    pub(super) fn new(bodies: Arc<Semaphore>) -> Self {
        Self { bodies }
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "expected a signed request"));
        }
        check_headers(context.headers())?;
        let query = context.uri().query().unwrap_or_default();
        let mut versions = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("versionId="));
        if versions.any(|version| version != "null") {
            return Err(not_offered("versions of objects"));
        }
        if matches!(*context.method(), Method::PUT | Method::POST) {
            let permit = Arc::clone(&self.bodies).acquire_owned().await;
            let permit = permit.map_err(|_| s3_error!(ServiceUnavailable))?;
            // Given back with the request.
            context.extensions_mut().insert(Arc::new(permit));
        }
        Ok(())
    }
}

fn check_headers(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let (name, value) = (name.as_str(), value.to_str().unwrap_or_default());
        if NOT_OFFERED.iter().any(|begin| name.starts_with(begin)) {
            return Err(not_offered(name));
        }
        let is_fine = match name {
            "x-amz-expected-bucket-owner" | "x-amz-source-expected-bucket-owner" => {
                if value != OWNER {
                    return Err(s3_error!(AccessDenied, "all buckets are {OWNER}'s"));
                }
                true
            }
            "x-amz-acl" => ["private", "bucket-owner-full-control"].contains(&value),
            "x-amz-storage-class" => value == "STANDARD",
            "x-amz-tagging" => value.is_empty(),
            _ => true,
        };
        if !is_fine {
            return Err(not_offered(&format!("{name}: {value}")));
        }
    }
    Ok(())
}
