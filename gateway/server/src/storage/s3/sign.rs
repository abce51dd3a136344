//! AWS Signature Version 4, in the header `Authorization`, with the payload's digest.
//!
//! Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header".

use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::Account;

/// What needs no escape; in paths slashes do not either.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
const PATH: &AsciiSet = &PLAIN.remove(b'/');

/// What of a request is signed.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a Method,
    pub(crate) authority: &'a str,
    /// As [`path`] writes it.
    pub(crate) path: &'a str,
    /// As [`query`] writes it.
    pub(crate) query: &'a str,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Of the payload; without, it is not signed but by what headers say of it.
    pub(crate) digest: Option<&'a [u8; 32]>,
}

/// When a request is signed.
pub(super) struct Moment {
    date: String,
    /// As `x-amz-date` has it.
    pub(super) stamp: String,
}

/// Writes the path of an object, or of a bucket where the key is empty. `..` and `//` stay.
pub(crate) fn path(bucket: &str, key: &str) -> String {
    let mut path = format!("/{}", utf8_percent_encode(bucket, PATH));
    if !key.is_empty() {
        let _ = write!(path, "/{}", utf8_percent_encode(key, PATH));
    }
    path
}

/// Writes a query in the order in which it is signed.
pub(crate) fn query(mut parameters: Vec<(&'static str, String)>) -> String {
    parameters.sort();
    let pairs = parameters.iter();
    let pairs = pairs.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, PLAIN)));
    pairs.collect::<Vec<_>>().join("&")
}

impl Signed<'_> {
    /// Returns where it is sent.
    pub(crate) fn uri(&self, account: &Account) -> String {
        match self.query {
            "" => format!("{account}{}", self.path),
            query => format!("{account}{}?{query}", self.path),
        }
    }

    /// Returns the headers to send, the signature among them; `Host` is the client's to send.
    pub(crate) fn headers(&self, account: &Account, now: OffsetDateTime) -> Vec<(String, String)> {
        let moment = Moment::of(now);
        let digest = self
            .digest
            .map_or_else(|| "UNSIGNED-PAYLOAD".to_owned(), |digest| hex(digest));
        let mut headers = self.headers.clone();
        headers.push(("x-amz-content-sha256".to_owned(), digest.clone()));
        headers.push(("x-amz-date".to_owned(), moment.stamp.clone()));

        let mut signed = headers.clone();
        signed.push(("host".to_owned(), self.authority.to_owned()));
        signed.sort();
        let names: Vec<_> = signed.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let lines = signed
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.trim()));
        let canonical = format!(
            "{}\n{}\n{}\n{}\n{names}\n{digest}",
            self.method,
            self.path,
            self.query,
            lines.collect::<String>(),
        );
        let scope = moment.scope(account);
        let signature = moment.sign(account, &canonical);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            account.access_key.reveal()
        );
        headers.push(("authorization".to_owned(), authorization));
        headers
    }
}

impl Moment {
    pub(super) fn of(now: OffsetDateTime) -> Self {
        let (date, time) = (now.date(), now.time());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        let date = format!("{year:04}{month:02}{day:02}");
        Self {
            stamp: format!("{date}T{hour:02}{minute:02}{second:02}Z"),
            date,
        }
    }

    /// Returns what a signature of this day is good for.
    pub(super) fn scope(&self, account: &Account) -> String {
        format!("{}/{}/s3/aws4_request", self.date, account.region)
    }

    /// Signs a request in its canonical form.
    pub(super) fn sign(&self, account: &Account, canonical: &str) -> String {
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            self.stamp,
            self.scope(account),
            hex(&Sha256::digest(canonical))
        );
        let secret = format!("AWS4{}", account.secret_key.reveal());
        let key = [self.date.as_str(), &account.region, "s3", "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
        hex(&mac(&key, to_sign.as_bytes()))
    }
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use gateway_oscar::Secret;
    use time::format_description::well_known::Rfc3339;

    /// The examples of the reference: the signatures are Amazon's.
    #[test]
    fn signatures_are_those_of_the_reference() {
        let account = Account {
            scheme: "https".to_owned(),
            authority: "examplebucket.s3.amazonaws.com".to_owned(),
            region: "us-east-1".to_owned(),
            access_key: Secret::from("AKIAIOSFODNN7EXAMPLE"),
            secret_key: Secret::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            is_verified: true,
            is_own: false,
        };
        let now = OffsetDateTime::parse("2013-05-24T00:00:00Z", &Rfc3339).unwrap();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let date = header("date", "Fri, 24 May 2013 00:00:00 GMT");
        let class = header("x-amz-storage-class", "REDUCED_REDUNDANCY");
        for (method, path, parameters, headers, payload, expected) in [
            (
                Method::GET,
                "/test.txt".to_owned(),
                vec![],
                vec![header("range", "bytes=0-9")],
                "",
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                Method::PUT,
                // The bucket of the example is in the host's name.
                path("test$file.text", ""),
                vec![],
                vec![date, class],
                "Welcome to Amazon S3.",
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                Method::GET,
                "/".to_owned(),
                vec![("lifecycle", String::new())],
                vec![],
                "",
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                Method::GET,
                "/".to_owned(),
                vec![("prefix", "J".to_owned()), ("max-keys", "2".to_owned())],
                vec![],
                "",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let signed = Signed {
                method: &method,
                authority: &account.authority,
                path: &path,
                query: &query(parameters),
                headers,
                digest: Some(&Sha256::digest(payload).into()),
            };
            let headers = signed.headers(&account, now);
            let (_, authorization) = headers.last().unwrap();
            let (_, signature) = authorization.split_once("Signature=").unwrap();
            assert_eq!(signature, expected, "{path}");
        }
    }

    #[test]
    fn keys_stay_as_they_are() {
        for (key, expected) in [
            ("a/b.jpg", "/bucket/a/b.jpg"),
            ("../a//b", "/bucket/../a//b"),
            ("ä b+c%?#&=", "/bucket/%C3%A4%20b%2Bc%25%3F%23%26%3D"),
            ("", "/bucket"),
        ] {
            assert_eq!(path("bucket", key), expected);
        }
    }
}
