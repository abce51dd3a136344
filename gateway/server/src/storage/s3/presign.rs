//! URLs that carry their signature (AWS Signature Version 4).
//!
//! Source: Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters".

use std::collections::BTreeMap;

use http::Method;
use time::OffsetDateTime;

use super::Account;
use super::sign::{Moment, path, query};
use crate::storage::StorageError;

/// A request that somebody without keys is to be able to send.
#[derive(Debug)]
pub(crate) struct Presign<'a> {
    pub(crate) method: Method,
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    /// Of the query.
    pub(crate) parameters: Vec<(&'static str, String)>,
    /// That have to be sent so; names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) expires_s: u32,
}

impl Presign<'_> {
    /// Returns the URL at which that is done, from now on.
    ///
    /// # Errors
    /// Of a key that clients would change on the way.
    pub(crate) fn url(
        &self,
        account: &Account,
        now: OffsetDateTime,
    ) -> Result<String, StorageError> {
        let mut parts = self.key.split('/');
        if parts.any(|part| part == "." || part == "..") {
            return Err(StorageError::definite(
                "`object_key`: expected no part that is `.` or `..`: browsers and others leave those out of URLs",
            ));
        }
        let moment = Moment::of(now);
        let mut headers = self.headers.clone();
        headers.insert("host".to_owned(), account.authority.clone());
        let names: Vec<_> = headers.keys().map(String::as_str).collect();
        let names = names.join(";");
        let mut parameters = self.parameters.clone();
        let credential = format!("{}/{}", account.access_key.reveal(), moment.scope(account));
        parameters.extend([
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", credential),
            ("X-Amz-Date", moment.stamp.clone()),
            ("X-Amz-Expires", self.expires_s.to_string()),
            ("X-Amz-SignedHeaders", names.clone()),
        ]);
        let (path, query) = (path(self.bucket, self.key), query(parameters));
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.trim()))
            .collect();
        let canonical = format!(
            "{}\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD",
            self.method
        );
        let signature = moment.sign(account, &canonical);
        let Account {
            scheme, authority, ..
        } = account;
        Ok(format!(
            "{scheme}://{authority}{path}?{query}&X-Amz-Signature={signature}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use gateway_oscar::Minio;
    use time::format_description::well_known::Rfc3339;

    #[test]
    fn what_is_signed_can_be_read_in_the_url() {
        let minio = Minio {
            endpoint: "http://localhost:9000".to_owned(),
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            region: "us-east-1".to_owned(),
            ..Minio::default()
        };
        let account = Account::minio(&minio).unwrap();
        let now = OffsetDateTime::parse("2013-05-24T00:00:00Z", &Rfc3339).unwrap();
        let presign = Presign {
            method: Method::GET,
            bucket: "photos",
            key: "é/a b.jpg",
            parameters: vec![("response-content-type", "image/png".to_owned())],
            headers: BTreeMap::from([("x-amz-meta-a".to_owned(), "1".to_owned())]),
            expires_s: 900,
        };
        let url = presign.url(&account, now).unwrap();
        let (url, signature) = url.split_once("&X-Amz-Signature=").unwrap();
        assert_eq!(
            url,
            "http://localhost:9000/photos/%C3%A9/a%20b.jpg\
             ?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=900\
             &X-Amz-SignedHeaders=host%3Bx-amz-meta-a&response-content-type=image%2Fpng"
        );
        assert_eq!(signature.len(), 64);
        let dotted = Presign {
            key: "a/../b",
            ..presign
        };
        dotted.url(&account, now).unwrap_err();
    }
}
