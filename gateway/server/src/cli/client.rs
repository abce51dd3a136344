//! The one way to a gateway.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::request::Builder;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use ureq::tls::TlsConfig;
use ureq::{AsSendBody, Body};

use super::failure::Failure;
use crate::auth::Secret;

/// How long reaching the gateway may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long anything but a call of a service may take: OSCAR fetches an image before it answers.
const TIMEOUT: Duration = Duration::from_secs(400);
/// Largest answer that is read into memory, in bytes.
const MAX_ANSWER: u64 = 256 << 20;
/// What a segment of a path needs no escape for.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// The URL of a gateway, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    url: String,
    is_local: bool,
}

/// What goes into `Authorization`.
#[derive(Debug)]
pub(super) struct Authorization {
    value: HeaderValue,
    whose: String,
}

/// A gateway, and who calls it.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    authorization: Option<Authorization>,
    agent: ureq::Agent,
}

// === impl Endpoint ===

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected http://HOST:PORT or https://HOST:PORT";
        let uri: Uri = text.parse().map_err(|_| expected.to_owned())?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().filter(|host| is_http && !host.is_empty());
        let host = host.ok_or_else(|| expected.to_owned())?;
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(format!(
                "{expected}; name and password are OSCAR_USERNAME's and OSCAR_PASSWORD's"
            ));
        }
        if uri.query().is_some() {
            return Err(format!("{expected}, without a query"));
        }
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        Ok(Self {
            url: text.trim_end_matches('/').to_owned(),
            is_local: host == "localhost" || address.is_some_and(|address| address.is_loopback()),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Endpoint {
    pub(super) fn is_tls(&self) -> bool {
        self.url.starts_with("https:")
    }

    /// Whether it is on this machine, where no proxy stands before it.
    pub(super) const fn is_local(&self) -> bool {
        self.is_local
    }
}

// === impl Authorization ===

impl Authorization {
    /// Basic (RFC 7617).
    pub(super) fn basic(name: &str, password: &str) -> anyhow::Result<Self> {
        let pair = BASE64_STANDARD.encode(format!("{name}:{password}"));
        Self::new(
            &format!("Basic {pair}"),
            format!("the credentials of `{name}`"),
        )
    }

    /// Bearer (RFC 6750).
    pub(super) fn bearer(token: &Secret) -> anyhow::Result<Self> {
        Self::new(
            &format!("Bearer {}", token.expose()),
            "this token".to_owned(),
        )
    }

    fn new(value: &str, whose: String) -> anyhow::Result<Self> {
        let mut value = HeaderValue::from_str(value)
            .ok()
            .with_context(|| format!("{whose} can't be sent: it has a control character in it"))?;
        value.set_sensitive(true);
        Ok(Self { value, whose })
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(
        endpoint: Endpoint,
        authorization: Option<Authorization>,
        tls: TlsConfig,
    ) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Credentials are for the place that was named.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls);
        let config = match endpoint.is_local {
            true => config.proxy(None),
            false => config,
        };
        Self {
            endpoint,
            authorization,
            agent: config.build().into(),
        }
    }

    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns in words whose credentials are sent, if any are.
    pub(super) fn whose(&self) -> Option<&str> {
        let authorization = self.authorization.as_ref()?;
        Some(&authorization.whose)
    }

    /// Begins a request of a path that is [`path()`]'s.
    pub(super) fn request(&self, method: Method, path: &str) -> Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint));
        match &self.authorization {
            Some(authorization) => {
                request.header(header::AUTHORIZATION, authorization.value.clone())
            }
            None => request,
        }
    }

    /// Asks for what takes no longer than a moment.
    ///
    /// # Errors
    /// Of no answer, and of one that is no success.
    pub(super) fn ask(
        &self,
        request: Builder,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Failure> {
        self.send(request, body, Some(TIMEOUT))
    }

    /// Calls a service, and waits for as long as the gateway does.
    ///
    /// # Errors
    /// Of no answer, and of one that is no success.
    pub(super) fn call(
        &self,
        request: Builder,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Failure> {
        self.send(request, body, None)
    }

    fn send(
        &self,
        request: Builder,
        body: impl AsSendBody,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Failure> {
        let unanswered = |error: &ureq::Error| Failure::unanswered(self, error);
        let request = request
            .body(body)
            .map_err(|error| unanswered(&error.into()))?;
        let url = request.uri().to_string();
        let request = self.agent.configure_request(request);
        let request = request.timeout_global(timeout).build();
        let response = self
            .agent
            .run(request)
            .map_err(|error| unanswered(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        Err(Failure::refused(self, &url, &head, body))
    }

    /// Asks for the JSON of a path.
    ///
    /// # Errors
    /// Those of [`Client::ask`], and of an answer that is none.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.ask(self.request(Method::GET, path), ())?;
        let json = read(response)?;
        serde_json::from_slice(&json).with_context(|| {
            format!(
                "{}{path} answers what no gateway does: is it one?",
                self.endpoint
            )
        })
    }
}

/// Returns a path of segments, whatever they are made of.
pub(super) fn path(segments: &[&str]) -> String {
    let segments = segments.iter().map(|segment| encode(segment));
    segments.fold(String::new(), |path, segment| path + "/" + &segment)
}

/// Escapes what may not stand in a part of a URL.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Reads the whole of an answer.
///
/// # Errors
/// When it breaks off, or is too large.
pub(super) fn read(response: Response<Body>) -> anyhow::Result<Vec<u8>> {
    let body = response.into_body();
    let read = body.into_with_config().limit(MAX_ANSWER).read_to_vec();
    read.context("the answer broke off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_secrets() {
        let read = |text: &str| text.parse::<Endpoint>();
        assert_eq!(
            read("http://127.0.0.1:8080/").unwrap().url,
            "http://127.0.0.1:8080"
        );
        assert!(read("http://[::1]:8080").unwrap().is_local);
        assert!(read("https://localhost").unwrap().is_local);
        let prefixed = read("https://example.org/oscar/").unwrap();
        assert_eq!(prefixed.url, "https://example.org/oscar");
        assert!(!prefixed.is_local);
        for bad in [
            "",
            "127.0.0.1:8080",
            "ftp://example.org",
            "http://",
            "http://a:hunter2@example.org",
            "http://example.org?a=b",
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.starts_with("expected http://HOST:PORT"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn names_stay_within_their_segment() {
        assert_eq!(
            path(&["run", "../a?b#c/d e", "x-1.y"]),
            "/run/..%2Fa%3Fb%23c%2Fd%20e/x-1.y"
        );
    }
}
